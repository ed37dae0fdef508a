//! Credentials that rotate: AssumeRole and the RAM role of an ECS instance, each from the stand-in's
//! own endpoints to an upload that the bucket takes, through renewals and every fault of theirs.

use std::time::{Duration, Instant};

use appserver::oss::credentials::{Issued, Secret, Signer, Source};
use appserver::oss::sts::{rpc_signature, session_policy};
use oss_standin::{CredentialFault, Options, Standin};
use serde_json::{Value, json};
use support::{Reply, Server, request, upload};

const V1: &str = "/";
const V4: &str = "/get_post_signature_for_oss_upload";
const TOKEN_KEY: &str = "a-key-of-thirty-two-bytes-or-more";
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the server has its credentials from.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Sts,
    Ecs,
}

/// A bucket whose credentials live `seconds`.
fn bucket(seconds: u64) -> Standin {
    Standin::start(Options { credential_seconds: Some(seconds), ..Options::default() }).unwrap()
}

fn vars(bucket: &Standin, from: From) -> Vec<(&'static str, String)> {
    let options = Options::default();
    let mut vars = vec![
        ("OSS_HOST", bucket.url()),
        ("OSS_BUCKET", options.bucket),
        ("OSS_REGION", options.region),
        ("CALLBACK_KEY_ORIGIN", bucket.key_origin()),
        ("UPLOAD_DIR", "user/".to_owned()),
        ("CALLBACK_TOKEN", "on".to_owned()),
    ];
    match from {
        From::Sts => vars.extend([
            ("OSS_ACCESS_KEY_ID", options.access_key_id),
            ("OSS_ACCESS_KEY_SECRET", options.access_key_secret),
            ("OSS_STS_ROLE_ARN", options.role_arn),
            ("OSS_STS_ENDPOINT", bucket.sts_url()),
        ]),
        From::Ecs => vars.extend([
            ("OSS_ACCESS_KEY_ID", String::new()),
            ("OSS_ACCESS_KEY_SECRET", String::new()),
            ("OSS_ECS_ROLE", options.ecs_role),
            ("OSS_ECS_ENDPOINT", bucket.metadata_url()),
            ("CALLBACK_TOKEN_KEY", TOKEN_KEY.to_owned()),
        ]),
    }
    vars
}

/// A server that has asked for its credentials, or was refused.
fn start(bucket: &Standin, from: From, more: &[(&str, &str)]) -> Server {
    let vars = vars(bucket, from);
    let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, &**value)).collect();
    let server = Server::start_called_back(&[&vars[..], more].concat());
    server.wait_log(" credentials: ");
    server
}

fn set_fault(bucket: &Standin, from: From, fault: CredentialFault) {
    match from {
        From::Sts => bucket.faults().sts = fault,
        From::Ecs => bucket.faults().metadata = fault,
    }
}

fn policy(server: &Server, contract: &str) -> Value {
    let reply = request(server.address, "GET", contract, &[], b"");
    assert_eq!(reply.status, 200, "{}", reply.text());
    serde_json::from_slice(&reply.body).unwrap()
}

fn get(server: &Server) -> Reply {
    request(server.address, "GET", V4, &[], b"")
}

/// Asks until the answer has this status.
fn wait_for_status(server: &Server, status: u16) -> Reply {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = get(server);
        if reply.status == status {
            return reply;
        }
        assert!(Instant::now() < deadline, "still {}: {:#?}", reply.status, server.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Nothing of what was issued is in the log but the ids.
fn says_no_secret(server: &Server, bucket: &Standin) {
    let log = server.log().join("\n");
    for issued in bucket.issued() {
        assert!(!log.contains(&issued.access_key_secret) && !log.contains(&issued.security_token));
    }
    assert!(!log.contains(&Options::default().access_key_secret));
}

#[test]
fn each_source_round_trips_in_both_contracts() {
    for from in [From::Sts, From::Ecs] {
        let bucket = bucket(3600);
        let server = start(&bucket, from, &[("CONFIRM_UPLOADS", "on")]);
        let issued = bucket.issued();
        assert_eq!(issued.len(), 1);
        for (contract, id) in [(V1, "OSSAccessKeyId"), (V4, "x-oss-credential")] {
            let policy = policy(&server, contract);
            let fields = &policy["fields"];
            assert!(fields[id].as_str().unwrap().starts_with(&issued[0].access_key_id));
            assert_eq!(fields["x-oss-security-token"], *issued[0].security_token);
            let reply = upload(&policy, "a.txt", b"hello", &[]);
            assert_eq!((reply.status, &*reply.text()), (200, r#"{"Status":"OK"}"#));
        }
        let line = server.wait_log("credentials: ");
        assert!(line.contains(&issued[0].access_key_id) && line.contains("valid until"), "{line}");
        says_no_secret(&server, &bucket);
    }
}

/// The role may do more: what we hold may not.
#[test]
fn the_session_policy_leaves_uploads_under_the_prefix() {
    let bucket = bucket(3600);
    let _server = start(&bucket, From::Sts, &[]);
    let policy: Value = serde_json::from_str(bucket.issued()[0].policy.as_ref().unwrap()).unwrap();
    let statement = json!({
        "Effect": "Allow",
        "Action": ["oss:PutObject"],
        "Resource": ["acs:oss:*:*:examplebucket/user/*"],
    });
    assert_eq!(policy, json!({ "Version": "1", "Statement": [statement] }));
    let confirming: Value = serde_json::from_str(&session_policy("b", "", true)).unwrap();
    assert_eq!(confirming["Statement"][0]["Action"], json!(["oss:PutObject", "oss:GetObject"]));
    assert_eq!(confirming["Statement"][0]["Resource"], json!(["acs:oss:*:*:b/*"]));
}

#[test]
fn they_are_renewed_in_time_and_uploads_go_on() {
    for from in [From::Sts, From::Ecs] {
        let bucket = bucket(6);
        let server = start(&bucket, from, &[]);
        let mut ids = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while ids.len() < 3 {
            assert!(Instant::now() < deadline, "not renewed: {:#?}", server.log());
            let policy = policy(&server, V4); // never a 503
            let id = policy["fields"]["x-oss-credential"].as_str().unwrap().to_owned();
            if ids.last() != Some(&id) {
                ids.push(id);
                assert_eq!(upload(&policy, "a.txt", b"hello", &[]).status, 200);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        says_no_secret(&server, &bucket);
    }
}

#[test]
fn a_policy_never_outlives_the_credentials_that_signed_it() {
    let bucket = bucket(20);
    let server = start(&bucket, From::Sts, &[("EXPIRE_TIME", "3600")]);
    let policy = policy(&server, V1);
    assert_eq!(policy["expire"], bucket.issued()[0].expire);
}

#[test]
fn faults_at_the_start_cost_policies_and_nothing_else() {
    for from in [From::Sts, From::Ecs] {
        for fault in [
            CredentialFault::Status(500, "InternalError".into()),
            CredentialFault::Status(403, "NoPermission".into()),
            CredentialFault::Body("<html>".into()),
            CredentialFault::Body("{\"Code\":\"Success\",\"Credentials\":{}}".into()),
            CredentialFault::Body("{".repeat(100_000)),
            CredentialFault::Hang,
            CredentialFault::Expired,
        ] {
            let bucket = bucket(3600);
            set_fault(&bucket, from, fault.clone());
            let server = start(&bucket, from, &[("CALLBACK_TOKEN", "off")]);
            let reply = get(&server);
            assert_eq!(reply.status, 503, "{fault:?}");
            let later: u64 = reply.header("retry-after").unwrap().parse().unwrap();
            assert!(later > 0 && reply.text().contains("no credentials to sign with now"));
            server.wait_log("no policy can be signed");

            let form = "application/x-www-form-urlencoded";
            let body = b"bucket=examplebucket&filename=user%2Fa.txt";
            let callback = bucket.callback_request("/callback", "x", body, form);
            let reply = support::send(server.address, &callback, false).unwrap();
            assert_eq!(reply.text(), r#"{"Status":"OK"}"#);
            says_no_secret(&server, &bucket);
            if matches!(fault, CredentialFault::Expired | CredentialFault::Hang) {
                set_fault(&bucket, from, CredentialFault::Serve);
                wait_for_status(&server, 200);
            }
        }
    }
}

#[test]
fn an_outage_is_sat_out_with_those_in_hand_and_said_once() {
    let bucket = bucket(8);
    let server = start(&bucket, From::Sts, &[]);
    let first = bucket.issued()[0].access_key_id.clone();
    set_fault(&bucket, From::Sts, CredentialFault::Status(503, "ServiceUnavailable".into()));
    let line = server.wait_log("credentials: not renewed");
    assert!(line.contains("sts: status 503 ServiceUnavailable"), "{line}");
    assert!(line.contains("in hand until"), "{line}");
    let policy = policy(&server, V4);
    assert!(policy["fields"]["x-oss-credential"].as_str().unwrap().starts_with(&first));
    wait_for_status(&server, 503); // they ended
    server.wait_log("none in hand");
    set_fault(&bucket, From::Sts, CredentialFault::Serve);
    wait_for_status(&server, 200);
    let said = server.log().iter().filter(|line| line.contains("not renewed")).count();
    assert!(said <= 2, "{:#?}", server.log());
}

/// The one thread that a hanging STS holds is not the loop's.
#[test]
fn nobody_waits_for_a_renewal() {
    let bucket = bucket(6);
    let server = start(&bucket, From::Sts, &[]);
    set_fault(&bucket, From::Sts, CredentialFault::Hang);
    assert!(bucket.wait_for_credential_requests(2, PATIENCE) >= 2);
    assert_eq!(get(&server).status, 200);
    let held = bucket.wait_for_stalls(1, PATIENCE);
    assert!(held && request(server.address, "GET", "/healthz", &[], b"").status == 200);
}

/// Alibaba Cloud, "Request syntax and signature method V2 for RPC APIs": the worked example.
#[test]
fn the_rpc_signature_is_that_of_the_documentation() {
    let parameters = [
        ("AccessKeyId", "testid"),
        ("Action", "DescribeRegions"),
        ("Format", "XML"),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureNonce", "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf"),
        ("SignatureVersion", "1.0"),
        ("Timestamp", "2016-02-23T12:46:24Z"),
        ("Version", "2014-05-26"),
    ];
    let secret = Secret::new("testsecret".to_owned());
    assert_eq!(rpc_signature("GET", &parameters, &secret), "OLeaidS1JvxuMvnyHOwuJ+uX5qY=");
}

fn issued(id: &str, expire: u64) -> Issued {
    let credentials = appserver::oss::credentials::Credentials {
        access_key_id: id.to_owned(),
        access_key_secret: Secret::new("s".to_owned()),
        security_token: None,
    };
    Issued { credentials, expire }
}

/// The clock and the network are arguments: what is asked when, without either.
#[test]
fn renewal_by_the_clock() {
    let source = Source::Ecs { endpoint: String::new(), role: String::new() };
    let mut signer = Signer::new(source);
    let hour: fn(&Source, u64) -> Result<Issued, String> = |_, now| Ok(issued("LTAI", now + 3600));
    let down: fn(&Source, u64) -> Result<Issued, String> = |_, _| Err("down".to_owned());
    let never: fn(&Source, u64) -> Result<Issued, String> = |_, _| panic!("nothing to ask for");
    let id = |signer: &Signer, now| signer.issued(now).map(|held| held.expire);

    assert!(signer.renew(1000, PATIENCE, down).unwrap().contains("none in hand"));
    assert_eq!(id(&signer, 1000), None);
    assert!(signer.renew(1004, PATIENCE, never).is_none());
    assert!(signer.renew(1005, PATIENCE, down).is_none(), "the same is said once");
    assert!(signer.renew(1010, PATIENCE, hour).unwrap().contains("valid until"));
    assert_eq!(id(&signer, 1010), Some(4610));
    assert!(signer.renew(2809, PATIENCE, never).is_none());
    assert!(signer.renew(2810, PATIENCE, down).unwrap().contains("in hand until"));
    assert_eq!(id(&signer, 4609), Some(4610));
    assert_eq!(id(&signer, 4610), None);
    assert!(
        signer.renew(4610, PATIENCE, |_, now| Ok(issued("old", now))).unwrap().contains("expired")
    );
    let other: fn(&Source, u64) -> Result<Issued, String> = |_, _| Ok(issued("STS.B", 4700));
    assert!(signer.renew(4615, PATIENCE, other).unwrap().contains("\"STS.B\", valid until"));
    // A clock that stepped back does not put it off for as long.
    assert!(signer.renew(100, PATIENCE, down).unwrap().contains("in hand until"));
    assert!(signer.renew(4615, PATIENCE, other).unwrap().contains("valid until"), "it is over");
    // The same again is no news, and is asked for again at half of what is left.
    assert!(signer.renew(4658, PATIENCE, other).is_none());
    assert!(signer.renew(4678, PATIENCE, never).is_none());
    assert!(signer.renew(4679, PATIENCE, hour).unwrap().contains("\"LTAI\""));
}
