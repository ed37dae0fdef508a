//! Credentials that rotate: AssumeRole and the RAM role of an ECS instance, each from the
//! stand-in's own endpoints to an upload that the bucket takes, through renewals and every fault of
//! theirs.

use std::thread;
use std::time::{Duration, Instant};

use appserver::oss::credentials::{Credentials, Issued, Secret, Signer, Source};
use appserver::oss::sts::{rpc_signature, session_policy};
use oss_standin::{CredentialFault, Options, Source as From};
use serde_json::{Value, json};
use support::world::{Site, TOKENS, V1, V4, World, borrowed};
use support::{Reply, upload};

const PATIENCE: Duration = Duration::from_secs(30);

fn set_fault(site: &Site, from: From, fault: CredentialFault) {
    match from {
        From::Sts => site.bucket.faults().sts = fault,
        From::Ecs => site.bucket.faults().metadata = fault,
    }
}

/// A bucket whose credentials live `seconds`, and a server that has asked for its own, or was
/// refused.
fn world(seconds: u64, from: From, fault: CredentialFault, changes: &[(&str, &str)]) -> World {
    let options = Options { credential_seconds: Some(seconds), ..Options::default() };
    let site = Site::of(options, &[]);
    set_fault(&site, from, fault);
    let role = site.bucket.role_vars(from);
    let mut vars = TOKENS[1..].to_vec();
    if from == From::Sts {
        vars.pop(); // tokens can hang on the key that assumes the role
    }
    vars.extend(borrowed(&role));
    let server = site.start(&[&vars[..], changes].concat());
    server.wait_log(" credentials: ");
    World { site, server }
}

fn good(seconds: u64, from: From, changes: &[(&str, &str)]) -> World {
    world(seconds, from, CredentialFault::Serve, changes)
}

/// Asks until the answer has this status.
fn wait_for_status(world: &World, status: u16) -> Reply {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = world.get(V4, &[]);
        if reply.status == status {
            return reply;
        }
        assert!(Instant::now() < deadline, "still {}: {:#?}", reply.status, world.server.log());
        thread::sleep(Duration::from_millis(50));
    }
}

/// Nothing of what was issued is in the log but the ids.
fn says_no_secret(world: &World) {
    let log = world.server.log().join("\n");
    for issued in world.bucket.issued() {
        assert!(!log.contains(&issued.access_key_secret) && !log.contains(&issued.security_token));
    }
    assert!(!log.contains(&Options::default().access_key_secret));
}

/// STS AssumeRole and the metadata service (IMDS) of ECS, in both contracts.
#[test]
fn each_source_round_trips_in_both_contracts() {
    for from in [From::Sts, From::Ecs] {
        let world = good(3600, from, &[("CONFIRM_UPLOADS", "on")]);
        let issued = world.bucket.issued();
        assert_eq!(issued.len(), 1);
        for (contract, id) in [(V1, "OSSAccessKeyId"), (V4, "x-oss-credential")] {
            let policy = world.policy(contract);
            let fields = &policy["fields"];
            assert!(fields[id].as_str().unwrap().starts_with(&issued[0].access_key_id));
            assert_eq!(fields["x-oss-security-token"], *issued[0].security_token);
            let reply = upload(&policy, "a.txt", b"hello", &[]);
            assert_eq!((reply.status, &*reply.text()), (200, r#"{"Status":"OK"}"#));
        }
        let line = world.server.wait_log("credentials: ");
        assert!(line.contains(&issued[0].access_key_id) && line.contains("valid until"), "{line}");
        says_no_secret(&world);
    }
}

/// The key that assumes the role may be temporary itself: its token goes to STS, signed in its place
/// among the parameters.
#[test]
fn a_temporary_key_assumes_the_role() {
    let options =
        Options { security_token: Some("exampleToken==".to_owned()), ..Options::default() };
    let site = Site::of(options, &[]);
    let role = site.bucket.role_vars(From::Sts);
    let server = site.start(&borrowed(&role));
    let line = server.wait_log(" credentials: ");
    assert!(line.contains("valid until"), "{line}");
}

/// The role may do more: what we hold may not (least privilege).
#[test]
fn the_session_policy_leaves_uploads_under_the_prefix() {
    let world = good(3600, From::Sts, &[]);
    let issued = world.bucket.issued();
    let policy: Value = serde_json::from_str(issued[0].policy.as_ref().unwrap()).unwrap();
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

/// Through two renewals no request is refused, and the bucket takes what each key signs.
#[test]
fn they_are_renewed_in_time_and_uploads_go_on() {
    let renew = |from| {
        let world = good(6, from, &[]);
        let mut ids = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while ids.len() < 3 {
            assert!(Instant::now() < deadline, "not renewed: {:#?}", world.server.log());
            let policy = world.policy(V4); // never a 503
            let id = policy["fields"]["x-oss-credential"].as_str().unwrap().to_owned();
            if ids.last() != Some(&id) {
                ids.push(id);
                assert_eq!(upload(&policy, "a.txt", b"hello", &[]).status, 200);
            }
            thread::sleep(Duration::from_millis(100));
        }
        says_no_secret(&world);
    };
    thread::scope(|scope| {
        scope.spawn(|| renew(From::Sts));
        renew(From::Ecs);
    });
}

/// It expires with them, however long `EXPIRE_TIME` is.
#[test]
fn a_policy_never_outlives_the_credentials_that_signed_it() {
    let world = good(20, From::Sts, &[("EXPIRE_TIME", "3600")]);
    assert_eq!(world.policy(V1)["expire"], world.bucket.issued()[0].expire);
}

/// Errors, junk, a timeout, credentials that have expired: policies are 503 with `Retry-After`, and
/// callbacks go on.
#[test]
fn faults_at_the_start_cost_policies_and_nothing_else() {
    let faults = [
        CredentialFault::Status(500, "InternalError".into()),
        CredentialFault::Status(403, "NoPermission".into()),
        CredentialFault::Body("<html>".into()),
        CredentialFault::Body("{\"Code\":\"Success\",\"Credentials\":{}}".into()),
        CredentialFault::Body("{".repeat(100_000)),
        CredentialFault::Hang,
        CredentialFault::Expired,
    ];
    let start_with = |from, fault: &CredentialFault| {
        let world = world(3600, from, fault.clone(), &[("CALLBACK_TOKEN", "off")]);
        let reply = world.get(V4, &[]);
        assert_eq!(reply.status, 503, "{fault:?}");
        let later: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!(later > 0 && reply.text().contains("no credentials to sign with now"));
        world.server.wait_log("no policy can be signed");

        let body = "bucket=examplebucket&filename=user%2Fa.txt";
        assert_eq!(world.call("/callback", body).verdict(), "200 OK");
        says_no_secret(&world);
        if matches!(fault, CredentialFault::Expired | CredentialFault::Hang) {
            set_fault(&world, from, CredentialFault::Serve);
            wait_for_status(&world, 200);
        }
    };
    // Side by side: most of it is waiting.
    thread::scope(|scope| {
        for from in [From::Sts, From::Ecs] {
            for fault in &faults {
                scope.spawn(move || start_with(from, fault));
            }
        }
    });
}

/// STS is down: those in hand sign until they expire, then 503, then it recovers.
#[test]
fn an_outage_is_sat_out_with_those_in_hand_and_said_once() {
    let world = good(8, From::Sts, &[]);
    let first = world.bucket.issued()[0].access_key_id.clone();
    set_fault(&world, From::Sts, CredentialFault::Status(503, "ServiceUnavailable".into()));
    let line = world.server.wait_log("credentials: not renewed");
    assert!(line.contains("sts: status 503 ServiceUnavailable"), "{line}");
    assert!(line.contains("in hand until"), "{line}");
    let policy = world.policy(V4);
    assert!(policy["fields"]["x-oss-credential"].as_str().unwrap().starts_with(&first));
    wait_for_status(&world, 503); // they ended
    world.server.wait_log("none in hand");
    set_fault(&world, From::Sts, CredentialFault::Serve);
    wait_for_status(&world, 200);
    let said = world.server.log().iter().filter(|line| line.contains("not renewed")).count();
    assert!(said <= 2, "{:#?}", world.server.log());
}

/// The one thread that a hanging STS holds is not the loop's: no request waits for the timeout.
#[test]
fn nobody_waits_for_a_renewal() {
    let world = good(6, From::Sts, &[]);
    set_fault(&world, From::Sts, CredentialFault::Hang);
    assert!(world.bucket.wait_for_credential_requests(2, PATIENCE) >= 2);
    assert_eq!(world.get(V4, &[]).status, 200);
    let held = world.bucket.wait_for_stalls(1, PATIENCE);
    assert!(held && world.get("/healthz", &[]).status == 200);
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
    let credentials = Credentials {
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
    type Ask = fn(&Source, u64) -> Result<Issued, String>;
    let hour: Ask = |_, now| Ok(issued("LTAI", now + 3600));
    let down: Ask = |_, _| Err("down".to_owned());
    let never: Ask = |_, _| panic!("nothing to ask for");
    let old: Ask = |_, now| Ok(issued("old", now));
    let other: Ask = |_, _| Ok(issued("STS.B", 4700));
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
    assert!(signer.renew(4610, PATIENCE, old).unwrap().contains("expired"));
    assert!(signer.renew(4615, PATIENCE, other).unwrap().contains("\"STS.B\", valid until"));
    // A clock that stepped back does not put it off for as long.
    assert!(signer.renew(100, PATIENCE, down).unwrap().contains("in hand until"));
    assert!(signer.renew(4615, PATIENCE, other).unwrap().contains("valid until"), "it is over");
    // The same again is no news, and is asked for again at half of what is left.
    assert!(signer.renew(4658, PATIENCE, other).is_none());
    assert!(signer.renew(4678, PATIENCE, never).is_none());
    assert!(signer.renew(4679, PATIENCE, hour).unwrap().contains("\"LTAI\""));
}
