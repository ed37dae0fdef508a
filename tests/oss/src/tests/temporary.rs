//! Temporary credentials: how STS and the metadata service issue them, and what the bucket makes of
//! them.

use serde_json::Value;

use super::*;

const STAMP: &str = "2023-12-03T12:12:12Z";
pub(super) const PUT_ONE: &str = "{\"Version\":\"1\",\"Statement\":[{\"Effect\":\"Allow\",\
     \"Action\":[\"oss:PutObject\"],\"Resource\":[\"acs:oss:*:*:examplebucket/dir/*\"]}]}";

/// A request to STS, by default a good one; `Signature` is added when it is sent.
#[derive(Clone)]
pub(super) struct Assume {
    params: Vec<(String, String)>,
    secret: String,
}

pub(super) fn assume(nonce: &str) -> Assume {
    let assume = Assume { params: Vec::new(), secret: Options::default().access_key_secret };
    assume
        .with("Action", "AssumeRole")
        .with("Version", "2015-04-01")
        .with("Format", "JSON")
        .with("AccessKeyId", "LTAI5tExampleKeyId")
        .with("SignatureMethod", "HMAC-SHA1")
        .with("SignatureVersion", "1.0")
        .with("SignatureNonce", nonce)
        .with("Timestamp", STAMP)
        .with("RoleArn", "acs:ram::1234567890123456:role/uploader")
        .with("RoleSessionName", "alice@example.com")
}

impl Assume {
    pub(super) fn with(mut self, name: &str, value: &str) -> Assume {
        set(&mut self.params, name, Some(value));
        self
    }

    fn without(mut self, name: &str) -> Assume {
        set(&mut self.params, name, None);
        self
    }

    /// By the holder of another credential.
    fn by(mut self, issued: &Issued) -> Assume {
        self.secret = issued.access_key_secret.clone();
        self.with("AccessKeyId", &issued.access_key_id)
            .with("SecurityToken", &issued.security_token)
    }

    fn query(&self, method: &str) -> String {
        let mut params = self.params.clone();
        if !params.iter().any(|(name, _)| name == "Signature") {
            let text = sign::rpc_string_to_sign(method, &params);
            params.push(("Signature".to_string(), sign::rpc(&self.secret, &text)));
        }
        form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish()
    }

    pub(super) fn post(&self, standin: &Standin) -> Got {
        ask(&standin.sts_url(), form("/", KIND, &self.query("POST")))
    }

    /// A credential that must be issued.
    pub(super) fn issued(&self, standin: &Standin) -> Issued {
        let got = self.post(standin);
        assert_eq!(got.status, 200, "{}", got.text());
        standin.issued().pop().unwrap()
    }

    fn refused(&self, standin: &Standin) -> (u16, String) {
        refusal(&self.post(standin))
    }
}

const KIND: &str = "application/x-www-form-urlencoded; charset=utf-8";

fn form(target: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

fn json(got: &Got) -> Value {
    serde_json::from_slice(&got.body).unwrap()
}

/// status and code of a refusal by STS
fn refusal(got: &Got) -> (u16, String) {
    let json = json(got);
    let mut names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["Code", "HostId", "Message", "Recommend", "RequestId"]);
    assert_eq!(json["HostId"], "sts.cn-hangzhou.aliyuncs.com");
    (got.status, json["Code"].as_str().unwrap().to_string())
}

fn code(status: u16, code: &str) -> (u16, String) {
    (status, code.to_string())
}

fn get(standin: &Standin, method: &str, path: &str, header: &str) -> Got {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n");
    ask(&standin.metadata_url(), request)
}

fn metadata_token(standin: &Standin) -> String {
    let got = get(standin, "PUT", TOKEN, TTL);
    assert_eq!(got.status, 200);
    format!("X-aliyun-ecs-metadata-token: {}\r\n", got.text())
}

const TOKEN: &str = "/latest/api/token";
const TTL: &str = "X-aliyun-ecs-metadata-token-ttl-seconds: 60\r\n";
const ROLES: &str = "/latest/meta-data/ram/security-credentials/";
const ROLE: &str = "/latest/meta-data/ram/security-credentials/appserver";

fn ecs(standin: &Standin) -> Issued {
    assert_eq!(get(standin, "GET", ROLE, &metadata_token(standin)).status, 200);
    standin.issued().pop().unwrap()
}

fn read(standin: &Standin, key: &str, issued: &Issued) -> Got {
    ask(&standin.url(), signed_read("GET", key, key, issued))
}

fn head(standin: &Standin, key: &str, issued: &Issued) -> u16 {
    ask(&standin.url(), signed_read("HEAD", key, key, issued)).status
}

#[test]
fn a_role_is_assumed() {
    let standin = start(|_| {});
    let request = assume("1").with("Policy", PUT_ONE).with("DurationSeconds", "900");
    let got = request.post(&standin);
    assert_eq!((got.status, got.header("content-type")), (200, "application/json;charset=utf-8"));
    let answer = json(&got);
    let issued = &standin.issued()[0];
    assert_eq!(
        answer["Credentials"],
        json!({"AccessKeyId": issued.access_key_id, "AccessKeySecret": issued.access_key_secret,
               "SecurityToken": issued.security_token, "Expiration": "2023-12-03T12:27:12Z"})
    );
    assert_eq!(
        answer["AssumedRoleUser"]["Arn"],
        "acs:ram::1234567890123456:role/uploader/alice@example.com"
    );
    assert_eq!(answer["RequestId"].as_str().unwrap().len(), 36);
    assert!(issued.access_key_id.starts_with("STS.") && issued.security_token.ends_with('='));
    assert_eq!((issued.source, issued.expire), (Source::Sts, NOW + 900));
    assert_eq!(issued.policy.as_deref(), Some(PUT_ONE));
    assert_eq!(issued.params[..10], request.params[..10]);
    assert_eq!(issued.params.last().unwrap().0, "Signature");

    // The same as a query, and with some of the parameters in each.
    let query = assume("2").query("GET");
    assert_eq!(ask(&standin.sts_url(), format!("GET /?{query} HTTP/1.1\r\n\r\n")).status, 200);
    let query = assume("3").query("POST");
    let (first, rest) = query.split_once('&').unwrap();
    let mixed = form(&format!("/?{first}"), KIND, rest);
    assert_eq!(ask(&standin.sts_url(), mixed).status, 200);
    let issued = standin.issued();
    assert_eq!((issued.len(), issued[1].policy.as_ref()), (3, None));
    assert_ne!(issued[1].access_key_id, issued[2].access_key_id);
    assert_eq!(standin.credential_requests(), 3);
    assert_eq!(standin.wait_for_credential_requests(3, LONG), 3);
}

#[test]
fn requests_that_sts_refuses() {
    let standin = start(|_| {});
    assert_eq!(assume("used").post(&standin).status, 200);
    let long = format!("{{\"Version\":\"1\",\"Statement\":[]}}{}", " ".repeat(2048));
    let (empty, long_name) = ("{\"Version\":\"1\",\"Statement\":[]}", "a".repeat(65));
    let account = "acs:ram::6543210987654321:role/uploader";
    let other = "acs:ram::1234567890123456:role/other";
    let mut cases = vec![(assume("used"), 400, "SignatureNonceUsed".to_string())];
    for (name, value, status, code) in [
        ("Signature", "bm9uZQ==", 400, "SignatureDoesNotMatch"),
        ("AccessKeyId", "other", 404, "InvalidAccessKeyId.NotFound"),
        ("SecurityToken", "t", 400, "InvalidSecurityToken.MismatchWithAccessKey"),
        ("Timestamp", "2023-12-03T11:57:11Z", 400, "InvalidTimeStamp.Expired"),
        ("Timestamp", "2023-12-03T12:27:13Z", 400, "InvalidTimeStamp.Expired"),
        ("Timestamp", "20231203T121212Z", 400, "InvalidTimeStamp.Format"),
        ("Timestamp", "2023-12-03T12:12:12.0Z", 400, "InvalidTimeStamp.Format"),
        ("Action", "GetCallerIdentity", 404, "InvalidAction.NotFound"),
        ("Version", "2014-05-26", 400, "InvalidVersion"),
        ("SignatureMethod", "HMAC-SHA256", 400, "InvalidSignatureMethod"),
        ("SignatureVersion", "2.0", 400, "InvalidSignatureVersion"),
        ("Format", "XML", 400, "InvalidParameter.Format"),
        ("Signature", "", 400, "MissingSignature"),
        // Each of these is signed well and new: it uses up its nonce.
        ("RoleArn", "", 400, "InvalidParameter.RoleArn"),
        ("RoleArn", "uploader", 400, "InvalidParameter.RoleArn"),
        ("RoleArn", "acs:ram::x:role/uploader", 400, "InvalidParameter.RoleArn"),
        ("RoleArn", other, 404, "EntityNotExist.Role"),
        ("RoleArn", account, 403, "NoPermission"),
        ("RoleSessionName", "", 400, "InvalidParameter.RoleSessionName"),
        ("RoleSessionName", "a", 400, "InvalidParameter.RoleSessionName"),
        ("RoleSessionName", "a b", 400, "InvalidParameter.RoleSessionName"),
        ("RoleSessionName", &long_name, 400, "InvalidParameter.RoleSessionName"),
        ("DurationSeconds", "899", 400, "InvalidParameter.DurationSeconds"),
        ("DurationSeconds", "3601", 400, "InvalidParameter.DurationSeconds"),
        ("DurationSeconds", "1h", 400, "InvalidParameter.DurationSeconds"),
        ("Policy", "", 400, "InvalidParameter.PolicyGrammar"),
        ("Policy", empty, 400, "InvalidParameter.PolicyGrammar"),
        ("Policy", &long, 400, "InvalidParameter.PolicySize"),
    ] {
        let signed = ["RoleArn", "RoleSessionName", "DurationSeconds", "Policy"].contains(&name);
        let nonce = if signed { format!("n{}", cases.len()) } else { "a".to_string() };
        cases.push((assume(&nonce).with(name, value), status, code.to_string()));
    }
    cases.push((assume("a").without("Format"), 400, "InvalidParameter.Format".to_string()));
    let common = "Action Version AccessKeyId SignatureMethod SignatureVersion SignatureNonce";
    for name in common.split(' ').chain(["Timestamp"]) {
        cases.push((assume("a").without(name), 400, format!("Missing{name}")));
    }
    let count = cases.len();
    for (at, (request, status, code)) in cases.into_iter().enumerate() {
        let got = request.post(&standin);
        assert_eq!(refusal(&got), (status, code), "case {at}: {}", got.text());
    }
    assert_eq!((standin.issued().len(), standin.credential_requests()), (1, count + 1));
    // A request that is refused before its signature counts leaves its nonce alone.
    assert_eq!(assume("a").post(&standin).status, 200);
}

#[test]
fn a_wrong_signature_names_the_string_that_was_signed() {
    let standin = start(|_| {});
    let mut request = assume("1").with("Policy", "a b*~");
    request.secret = "other".to_string();
    let got = request.post(&standin);
    assert_eq!(refusal(&got), code(400, "SignatureDoesNotMatch"));
    let message = json(&got)["Message"].as_str().unwrap().to_string();
    let text = "server string to sign is:POST&%2F&AccessKeyId%3DLTAI5tExampleKeyId%26Action";
    assert!(message.contains(text), "{message}");
    assert!(message.contains("%26Policy%3Da%2520b%252A~%26"), "{message}");
    // The method is part of it.
    let query = assume("1").query("POST");
    let got = ask(&standin.sts_url(), format!("GET /?{query} HTTP/1.1\r\n\r\n"));
    assert_eq!(refusal(&got), code(400, "SignatureDoesNotMatch"));
}

#[test]
fn requests_that_are_no_calls_of_sts() {
    let standin = start(|_| {});
    let query = assume("1").query("POST");
    let post = |header: &str| format!("POST / HTTP/1.1\r\n{header}\r\n\r\n");
    let cases = [
        (form("/sts", KIND, &query), 404, "InvalidAction.NotFound"),
        (form("/", "text/plain", &query), 400, "InvalidParameter.ContentType"),
        (form("/?Action=AssumeRole", KIND, &query), 400, "InvalidParameter"),
        (format!("PUT /?{query} HTTP/1.1\r\n\r\n"), 400, "UnsupportedHTTPMethod"),
        (post("Transfer-Encoding: chunked"), 411, "MissingContentLength"),
        (post("Content-Length: 70000"), 411, "MissingContentLength"),
        (post("Content-Length: 0"), 400, "InvalidParameter.Format"),
    ];
    for (request, status, expected) in cases {
        let got = ask(&standin.sts_url(), &request);
        assert_eq!(refusal(&got), code(status, expected), "{request}");
    }
}

#[test]
fn temporary_callers_of_sts() {
    let standin = start(|options| options.security_token = Some("token".to_string()));
    assert_eq!(assume("1").refused(&standin), code(400, "MissingSecurityToken"));
    let other = assume("1").with("SecurityToken", "other").refused(&standin);
    assert_eq!(other, code(400, "InvalidSecurityToken.MismatchWithAccessKey"));
    assert_eq!(assume("1").with("SecurityToken", "token").post(&standin).status, 200);
    // The role of an instance may assume another; a session may if its policy says so.
    let role = ecs(&standin);
    let session = assume("2").by(&role).with("Policy", PUT_ONE).issued(&standin);
    assert_eq!(assume("3").by(&session).refused(&standin), code(403, "NoPermission"));
    standin.set_clock(Some(NOW + 6 * 3600));
    let late = assume("4").by(&role).with("Timestamp", "2023-12-03T18:12:12Z").refused(&standin);
    assert_eq!(late, code(400, "InvalidSecurityToken.Expired"));
}

#[test]
fn the_metadata_service_wants_its_token() {
    let standin = start(|_| {});
    let known = metadata_token(&standin);
    let lifetime = |ttl: &str| format!("X-aliyun-ecs-metadata-token-ttl-seconds: {ttl}\r\n");
    let guessed = "X-aliyun-ecs-metadata-token: guessed\r\n";
    let other = format!("{ROLES}other");
    for (method, path, header, status) in [
        ("GET", ROLE, "", 403),
        ("GET", ROLES, "", 403),
        ("GET", ROLE, guessed, 403),
        ("GET", ROLES, guessed, 403),
        ("PUT", TOKEN, &lifetime("0"), 400),
        ("PUT", TOKEN, &lifetime("21601"), 400),
        ("PUT", TOKEN, &lifetime("-1"), 400),
        ("PUT", TOKEN, &lifetime(""), 400),
        ("PUT", TOKEN, &lifetime("soon"), 400),
        ("PUT", TOKEN, "", 400),
        ("GET", TOKEN, "", 405),
        ("GET", &other, &known, 404),
        ("GET", "/latest/meta-data/instance-id", &known, 404),
        ("POST", ROLE, &known, 405),
    ] {
        let got = get(&standin, method, path, header);
        assert_eq!(got.status, status, "{method} {path} {header}");
    }
    assert_eq!(standin.issued(), []);
    let got = get(&standin, "GET", ROLES, &known);
    assert_eq!((got.status, got.text()), (200, "appserver"));
    let got = get(&standin, "GET", ROLE, &known);
    let issued = &standin.issued()[0];
    assert_eq!(
        json(&got),
        json!({"AccessKeyId": issued.access_key_id, "AccessKeySecret": issued.access_key_secret,
               "SecurityToken": issued.security_token, "Expiration": "2023-12-03T18:12:12Z",
               "LastUpdated": STAMP, "Code": "Success"})
    );
    assert_eq!((issued.source, issued.policy.as_ref()), (Source::Ecs, None));
    assert!(issued.params.is_empty());
    assert_eq!(standin.credential_requests(), 17);
    standin.set_clock(Some(NOW + 60));
    assert_eq!(get(&standin, "GET", ROLE, &known).status, 403);
}

#[test]
fn the_bucket_takes_what_was_issued_and_the_token_of_the_start() {
    let standin = start(|options| options.security_token = Some("token".to_string()));
    let start = permanent("token");
    for issued in [assume("1").by(&start).issued(&standin), ecs(&standin), start] {
        assert_eq!(Form::v4_by(&issued).post(&standin).status, 204);
        assert_eq!(Form::v1_by(&issued).post(&standin).status, 204);
        assert_eq!(read(&standin, "dir/a.txt", &issued).text(), "hello");
        assert_eq!(head(&standin, "dir/a.txt", &issued), 200);
        let thief = Issued { access_key_secret: "other".to_string(), ..issued.clone() };
        let other = Issued { security_token: "other".to_string(), ..issued.clone() };
        for (by, code, ec, read_ec) in [
            (&thief, "SignatureDoesNotMatch", "0002-00000705", "0002-00000040"),
            (&other, "InvalidSecurityToken", "0002-00000006", "0002-00000006"),
        ] {
            assert_eq!(Form::v4_by(by).post(&standin).error(), (403, code, ec));
            assert_eq!(Form::v1_by(by).post(&standin).error(), (403, code, ec));
            assert_eq!(read(&standin, "dir/a.txt", by).error(), (403, code, read_ec));
        }
        let none = Issued { security_token: String::new(), ..issued.clone() };
        let unknown = (403, "InvalidAccessKeyId", "0002-00000902");
        assert_eq!(Form::v4_by(&none).post(&standin).error(), unknown);
        assert_eq!(Form::v1_by(&none).post(&standin).error(), unknown);
        // The token of a V4 form is a field like others: no condition, no upload.
        let form = Form::v4_by(&none).field("x-oss-security-token", &issued.security_token);
        let got = form.post(&standin);
        assert_eq!(got.error(), (403, "AccessDenied", "0006-00000228"));
        let message = "Invalid according to Policy: Extra input fields: x-oss-security-token";
        assert_eq!(got.element("Message"), message);
    }
    // Another bucket does not know the new ones.
    let issued = standin.issued().pop().unwrap();
    let got = Form::v4_by(&issued).post(&super::start(|_| {}));
    assert_eq!(got.error(), (403, "InvalidAccessKeyId", "0002-00000902"));
}

#[test]
fn what_was_issued_expires() {
    let late = "2023-12-04T12:12:12Z";
    for (seconds, asked, life) in [
        (Some(4), Some("3600"), 4),
        (None, Some("900"), 900),
        (None, Some("7200"), 7200),
        (None, None, 3600),
    ] {
        let standin = start(|options| {
            options.credential_seconds = seconds;
            options.max_session_seconds = 7200;
        });
        let longer = assume("2").with("DurationSeconds", "7201").refused(&standin);
        assert_eq!(longer, code(400, "InvalidParameter.DurationSeconds"));
        let mut request = assume("1");
        set(&mut request.params, "DurationSeconds", asked);
        let issued = request.issued(&standin);
        assert_eq!(issued.expire, NOW + life);
        standin.set_clock(Some(NOW + life - 1));
        assert_eq!(Form::v4_by(&issued).until(late).post(&standin).status, 204, "{asked:?}");
        standin.set_clock(Some(NOW + life));
        let expired = (403, "SecurityTokenExpired", "0002-00000007");
        let got = Form::v4_by(&issued).until(late).post(&standin);
        assert_eq!(got.error(), expired, "{asked:?}");
        assert_eq!(got.element("Message"), "The security token you provided has expired.");
        assert_eq!(Form::v1_by(&issued).until(late).post(&standin).error(), expired);
        if seconds.is_some() {
            assert_eq!(read(&standin, "dir/a.txt", &issued).error(), expired);
            assert_eq!(head(&standin, "dir/a.txt", &issued), 403);
        }
    }
}

#[test]
fn the_policy_of_a_session_holds() {
    let standin = start(|_| {});
    let denied = (403, "AccessDenied", "0003-00000301");
    let put = assume("1").with("Policy", PUT_ONE).issued(&standin);
    assert_eq!(Form::v4_by(&put).post(&standin).status, 204);
    assert_eq!(Form::v1_by(&put).post(&standin).status, 204);
    let got = Form::v4_by(&put).field("key", "other/a.txt").post(&standin);
    assert_eq!(got.error(), denied);
    assert_eq!(got.element("Message"), "Access denied by authorizer's policy.");
    assert_eq!(Form::v1_by(&put).field("key", "dir").post(&standin).error(), denied);
    // What counts is the key that would be stored.
    let form = Form::v4_by(&put).field("key", "${filename}").file("dir/b.txt", "text/plain", b"b");
    assert_eq!(form.post(&standin).status, 204);
    assert_eq!(read(&standin, "dir/a.txt", &put).error(), denied);
    assert_eq!(head(&standin, "dir/a.txt", &put), 403);
    assert_eq!(head(&standin, "dir/none", &put), 403);

    let policy = PUT_ONE.replace("PutObject", "GetObject").replace("dir/*", "dir/?.txt");
    let get = assume("2").with("Policy", &policy).issued(&standin);
    assert_eq!(head(&standin, "dir/a.txt", &get), 200);
    assert_eq!(head(&standin, "dir/none", &get), 403);
    assert_eq!(read(&standin, "dir/a.txt", &get).status, 200);
    assert_eq!(read(&standin, "dir/z.txt", &get).error().1, "NoSuchKey");
    assert_eq!(Form::v4_by(&get).post(&standin).error(), denied);
    assert_eq!(standin.keys(), ["dir/a.txt", "dir/b.txt"]);
    // Another bucket's resource is of no use.
    let policy = PUT_ONE.replace("examplebucket", "otherbucket");
    let other = assume("3").with("Policy", &policy).issued(&standin);
    assert_eq!(Form::v4_by(&other).post(&standin).error(), denied);
}

#[test]
fn sts_can_be_broken() {
    let standin = start(|_| {});
    standin.faults().sts = CredentialFault::Status(503, "ServiceUnavailable".to_string());
    assert_eq!(assume("1").refused(&standin), code(503, "ServiceUnavailable"));
    standin.faults().sts = CredentialFault::Body("<html>".to_string());
    let got = assume("1").post(&standin);
    assert_eq!((got.status, got.text()), (200, "<html>"));
    standin.faults().sts = CredentialFault::Expired;
    let got = assume("1").post(&standin);
    assert_eq!(json(&got)["Credentials"]["Expiration"], "2023-12-03T12:11:12Z");
    let issued = standin.issued().pop().unwrap();
    assert_eq!(Form::v4_by(&issued).post(&standin).error().1, "SecurityTokenExpired");
    standin.faults().sts = CredentialFault::Hang;
    let request = form("/", KIND, &assume("2").query("POST"));
    hangs(&standin, &standin.sts_url(), &request, || {
        // The others go on meanwhile.
        assert_eq!(ecs(&standin).source, Source::Ecs);
    });
    standin.faults().sts = CredentialFault::Serve;
    assert_eq!(assume("2").post(&standin).status, 200);
    assert_eq!(standin.credential_requests(), 7);
}

#[test]
fn the_metadata_service_can_be_broken() {
    let standin = start(|_| {});
    let token = metadata_token(&standin);
    standin.faults().metadata = CredentialFault::Status(500, "InternalError".to_string());
    assert_eq!(get(&standin, "PUT", TOKEN, TTL).status, 500);
    assert_eq!(get(&standin, "GET", ROLE, &token).status, 500);
    standin.faults().metadata = CredentialFault::Body("{\"Code\":\"Failed\"}".to_string());
    let token = metadata_token(&standin);
    assert_eq!(get(&standin, "GET", ROLE, &token).text(), "{\"Code\":\"Failed\"}");
    standin.faults().metadata = CredentialFault::Expired;
    let issued = ecs(&standin);
    assert_eq!(issued.expire, NOW - 60);
    assert_eq!(Form::v1_by(&issued).post(&standin).error().1, "SecurityTokenExpired");
    standin.faults().metadata = CredentialFault::Hang;
    let request = format!("GET {ROLE} HTTP/1.1\r\n{token}\r\n");
    hangs(&standin, &standin.metadata_url(), &request, || {});
}
