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
        self.params.retain(|(known, _)| known != name);
        self.params.push((name.to_string(), value.to_string()));
        self
    }

    fn without(mut self, name: &str) -> Assume {
        self.params.retain(|(known, _)| known != name);
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
        let encode = |text: &str| digest::percent_encode(text, b"").replace("%20", "+");
        let pairs: Vec<_> =
            params.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        pairs.join("&")
    }

    pub(super) fn post(&self, standin: &Standin) -> Got {
        let body = self.query("POST");
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        ask(&standin.sts_url(), &form("/", kind, &body))
    }

    /// A credential that must be issued.
    pub(super) fn issued(&self, standin: &Standin) -> Issued {
        let got = self.post(standin);
        assert_eq!(got.status, 200, "{}", got.text());
        standin.issued().pop().unwrap()
    }
}

fn form(target: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

fn try_ask(url: &str, request: &str) -> io::Result<Got> {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://"))?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(request.as_bytes())?;
    try_answer(&mut stream)
}

fn ask(url: &str, request: &str) -> Got {
    try_ask(url, request).unwrap()
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

fn get(standin: &Standin, method: &str, path: &str, header: &str) -> Got {
    ask(&standin.metadata_url(), &format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n"))
}

fn metadata_token(standin: &Standin) -> String {
    let ttl = "X-aliyun-ecs-metadata-token-ttl-seconds: 60\r\n";
    let got = get(standin, "PUT", "/latest/api/token", ttl);
    assert_eq!(got.status, 200);
    format!("X-aliyun-ecs-metadata-token: {}\r\n", got.text())
}

const ROLE: &str = "/latest/meta-data/ram/security-credentials/appserver";

fn ecs(standin: &Standin) -> Issued {
    assert_eq!(get(standin, "GET", ROLE, &metadata_token(standin)).status, 200);
    standin.issued().pop().unwrap()
}

/// The forms of `tests`, by the holder of a temporary credential.
pub(super) fn v4_form(issued: &Issued) -> Form {
    let mut form = Form::v4();
    form.conditions.retain(|condition| condition.get("x-oss-credential").is_none());
    form.secret = issued.access_key_secret.clone();
    let scope = "20231203/cn-hangzhou/oss/aliyun_v4_request";
    form.pinned("x-oss-credential", &format!("{}/{scope}", issued.access_key_id))
        .pinned("x-oss-security-token", &issued.security_token)
}

fn v1_form(issued: &Issued) -> Form {
    let mut form = Form::v1();
    form.secret = issued.access_key_secret.clone();
    form.field("OSSAccessKeyId", &issued.access_key_id)
        .field("x-oss-security-token", &issued.security_token)
}

/// A read of an object, signed in its header.
fn signed_read(method: &str, key: &str, issued: &Issued) -> String {
    let (id, token) = (&issued.access_key_id, &issued.security_token);
    let canonical = format!(
        "{method}\n/examplebucket/{key}\n\nx-oss-content-sha256:UNSIGNED-PAYLOAD\n\
         x-oss-date:20231203T121212Z\nx-oss-security-token:{token}\n\n\nUNSIGNED-PAYLOAD"
    );
    let scope = "20231203/cn-hangzhou/oss/aliyun_v4_request";
    let hash = sign::sha256_hex(canonical.as_bytes());
    let text = format!("OSS4-HMAC-SHA256\n20231203T121212Z\n{scope}\n{hash}");
    let signature = sign::v4(&issued.access_key_secret, "20231203", "cn-hangzhou", &text);
    format!(
        "{method} /{key} HTTP/1.1\r\n{HOST}Connection: close\r\nx-oss-date: 20231203T121212Z\r\n\
         x-oss-security-token: {token}\r\nx-oss-content-sha256: UNSIGNED-PAYLOAD\r\n\
         Authorization: OSS4-HMAC-SHA256 Credential={id}/{scope},Signature={signature}\r\n\r\n"
    )
}

fn read(standin: &Standin, key: &str, issued: &Issued) -> Got {
    exchange(standin, &signed_read("GET", key, issued))
}

/// The status of a HEAD, whose answer has a length and no body.
fn head(standin: &Standin, key: &str, issued: &Issued) -> u16 {
    let mut stream = connect(standin);
    stream.write_all(signed_read("HEAD", key, issued).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer[9..12].parse().unwrap()
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
    assert_eq!(ask(&standin.sts_url(), &format!("GET /?{query} HTTP/1.1\r\n\r\n")).status, 200);
    let query = assume("3").query("POST");
    let (first, rest) = query.split_once('&').unwrap();
    let kind = "application/x-www-form-urlencoded";
    let mixed = form(&format!("/?{first}"), kind, rest);
    assert_eq!(ask(&standin.sts_url(), &mixed).status, 200);
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
    let mut cases = vec![
        (assume("used"), 400, "SignatureNonceUsed"),
        (assume("a").with("Signature", "bm9uZQ=="), 400, "SignatureDoesNotMatch"),
        (assume("a").with("AccessKeyId", "other"), 404, "InvalidAccessKeyId.NotFound"),
        (assume("a").with("SecurityToken", "t"), 400, "InvalidSecurityToken.MismatchWithAccessKey"),
        (assume("a").with("Timestamp", "2023-12-03T11:57:11Z"), 400, "InvalidTimeStamp.Expired"),
        (assume("a").with("Timestamp", "2023-12-03T12:27:13Z"), 400, "InvalidTimeStamp.Expired"),
        (assume("a").with("Timestamp", "20231203T121212Z"), 400, "InvalidTimeStamp.Format"),
        (assume("a").with("Timestamp", "2023-12-03T12:12:12.0Z"), 400, "InvalidTimeStamp.Format"),
        (assume("a").with("Action", "GetCallerIdentity"), 404, "InvalidAction.NotFound"),
        (assume("a").with("Version", "2014-05-26"), 400, "InvalidVersion"),
        (assume("a").with("SignatureMethod", "HMAC-SHA256"), 400, "InvalidSignatureMethod"),
        (assume("a").with("SignatureVersion", "2.0"), 400, "InvalidSignatureVersion"),
        (assume("a").with("Format", "XML"), 400, "InvalidParameter.Format"),
        (assume("a").without("Format"), 400, "InvalidParameter.Format"),
        (assume("a").with("Signature", ""), 400, "MissingSignature"),
    ];
    let common = ["Action", "Version", "AccessKeyId", "SignatureMethod", "SignatureVersion"];
    let missing: Vec<_> = [&common[..], &["SignatureNonce", "Timestamp"]].concat();
    let codes: Vec<_> = missing.iter().map(|name| format!("Missing{name}")).collect();
    for (name, code) in missing.iter().zip(&codes) {
        cases.push((assume("a").without(name), 400, code));
    }
    // Each of these is signed well and new: it uses up its nonce.
    let mut fresh = 0;
    let mut signed = |name: &str, value: &str| {
        fresh += 1;
        assume(&format!("n{fresh}")).with(name, value)
    };
    let account = "acs:ram::6543210987654321:role/uploader";
    let other = "acs:ram::1234567890123456:role/other";
    let good = "{\"Version\":\"1\",\"Statement\":[]}";
    cases.extend([
        (signed("RoleArn", ""), 400, "InvalidParameter.RoleArn"),
        (signed("RoleArn", "uploader"), 400, "InvalidParameter.RoleArn"),
        (signed("RoleArn", "acs:ram::x:role/uploader"), 400, "InvalidParameter.RoleArn"),
        (signed("RoleArn", other), 404, "EntityNotExist.Role"),
        (signed("RoleArn", account), 403, "NoPermission"),
        (signed("RoleSessionName", ""), 400, "InvalidParameter.RoleSessionName"),
        (signed("RoleSessionName", "a"), 400, "InvalidParameter.RoleSessionName"),
        (signed("RoleSessionName", "a b"), 400, "InvalidParameter.RoleSessionName"),
        (signed("RoleSessionName", &"a".repeat(65)), 400, "InvalidParameter.RoleSessionName"),
        (signed("DurationSeconds", "899"), 400, "InvalidParameter.DurationSeconds"),
        (signed("DurationSeconds", "3601"), 400, "InvalidParameter.DurationSeconds"),
        (signed("DurationSeconds", "1h"), 400, "InvalidParameter.DurationSeconds"),
        (signed("Policy", ""), 400, "InvalidParameter.PolicyGrammar"),
        (signed("Policy", good), 400, "InvalidParameter.PolicyGrammar"),
        (signed("Policy", &long), 400, "InvalidParameter.PolicySize"),
    ]);
    let count = cases.len();
    for (at, (request, status, code)) in cases.into_iter().enumerate() {
        let got = request.post(&standin);
        assert_eq!(refusal(&got), (status, code.to_string()), "case {at}: {}", got.text());
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
    assert_eq!(refusal(&got), (400, "SignatureDoesNotMatch".to_string()));
    let message = json(&got)["Message"].as_str().unwrap().to_string();
    let text = "server string to sign is:POST&%2F&AccessKeyId%3DLTAI5tExampleKeyId%26Action";
    assert!(message.contains(text), "{message}");
    assert!(message.contains("%26Policy%3Da%2520b%252A~%26"), "{message}");
    // The method is part of it.
    let query = assume("1").query("POST");
    let got = ask(&standin.sts_url(), &format!("GET /?{query} HTTP/1.1\r\n\r\n"));
    assert_eq!(refusal(&got), (400, "SignatureDoesNotMatch".to_string()));
}

#[test]
fn requests_that_are_no_calls_of_sts() {
    let standin = start(|_| {});
    let query = assume("1").query("POST");
    let kind = "application/x-www-form-urlencoded";
    let cases = [
        (form("/sts", kind, &query), 404, "InvalidAction.NotFound"),
        (form("/", "text/plain", &query), 400, "InvalidParameter.ContentType"),
        (form("/?Action=AssumeRole", kind, &query), 400, "InvalidParameter"),
        (format!("PUT /?{query} HTTP/1.1\r\n\r\n"), 400, "UnsupportedHTTPMethod"),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            411,
            "MissingContentLength",
        ),
        ("POST / HTTP/1.1\r\nContent-Length: 70000\r\n\r\n".into(), 411, "MissingContentLength"),
        ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n".into(), 400, "InvalidParameter.Format"),
    ];
    for (request, status, code) in cases {
        let got = ask(&standin.sts_url(), &request);
        assert_eq!(refusal(&got), (status, code.to_string()), "{request}");
    }
}

#[test]
fn temporary_callers_of_sts() {
    let standin = start(|options| options.security_token = Some("token".to_string()));
    assert_eq!(refusal(&assume("1").post(&standin)), (400, "MissingSecurityToken".to_string()));
    let mismatch = (400, "InvalidSecurityToken.MismatchWithAccessKey".to_string());
    let other = assume("1").with("SecurityToken", "other").post(&standin);
    assert_eq!(refusal(&other), mismatch);
    assert_eq!(assume("1").with("SecurityToken", "token").post(&standin).status, 200);
    // The role of an instance may assume another; a session may if its policy says so.
    let role = ecs(&standin);
    let session = assume("2").by(&role).with("Policy", PUT_ONE).issued(&standin);
    let got = assume("3").by(&session).post(&standin);
    assert_eq!(refusal(&got), (403, "NoPermission".to_string()));
    standin.set_clock(Some(NOW + 6 * 3600));
    let got = assume("4").by(&role).with("Timestamp", "2023-12-03T18:12:12Z").post(&standin);
    assert_eq!(refusal(&got), (400, "InvalidSecurityToken.Expired".to_string()));
}

#[test]
fn the_metadata_service_wants_its_token() {
    let standin = start(|_| {});
    let list = "/latest/meta-data/ram/security-credentials/";
    for header in ["", "X-aliyun-ecs-metadata-token: guessed\r\n"] {
        assert_eq!(get(&standin, "GET", ROLE, header).status, 403);
        assert_eq!(get(&standin, "GET", list, header).status, 403);
    }
    for ttl in ["0", "21601", "-1", "", "soon"] {
        let header = format!("X-aliyun-ecs-metadata-token-ttl-seconds: {ttl}\r\n");
        assert_eq!(get(&standin, "PUT", "/latest/api/token", &header).status, 400, "{ttl}");
    }
    assert_eq!(get(&standin, "PUT", "/latest/api/token", "").status, 400);
    assert_eq!(get(&standin, "GET", "/latest/api/token", "").status, 405);
    assert_eq!(standin.issued(), []);
    let token = metadata_token(&standin);
    let got = get(&standin, "GET", list, &token);
    assert_eq!((got.status, got.text()), (200, "appserver"));
    assert_eq!(get(&standin, "GET", &format!("{list}other"), &token).status, 404);
    assert_eq!(get(&standin, "GET", "/latest/meta-data/instance-id", &token).status, 404);
    assert_eq!(get(&standin, "POST", ROLE, &token).status, 405);
    let got = get(&standin, "GET", ROLE, &token);
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
    assert_eq!(get(&standin, "GET", ROLE, &token).status, 403);
}

#[test]
fn the_bucket_takes_what_was_issued() {
    let standin = start(|_| {});
    for issued in [assume("1").issued(&standin), ecs(&standin)] {
        assert_eq!(v4_form(&issued).post(&standin).status, 204);
        assert_eq!(v1_form(&issued).post(&standin).status, 204);
        assert_eq!(read(&standin, "dir/a.txt", &issued).text(), "hello");
        assert_eq!(head(&standin, "dir/a.txt", &issued), 200);
        let mut other = issued.clone();
        other.access_key_secret = "other".to_string();
        let refused = (403, "SignatureDoesNotMatch", "0002-00000705");
        assert_eq!(v4_form(&other).post(&standin).error(), refused);
        assert_eq!(v1_form(&other).post(&standin).error(), refused);
        assert_eq!(read(&standin, "dir/a.txt", &other).error().1, "SignatureDoesNotMatch");
        let mut other = issued.clone();
        other.security_token = "other".to_string();
        let refused = (403, "InvalidSecurityToken", "0002-00000006");
        assert_eq!(v4_form(&other).post(&standin).error(), refused);
        assert_eq!(v1_form(&other).post(&standin).error(), refused);
        assert_eq!(read(&standin, "dir/a.txt", &other).error(), refused);
        let form = v1_form(&issued).without("x-oss-security-token");
        assert_eq!(form.post(&standin).error(), (403, "InvalidAccessKeyId", "0002-00000902"));
        // The token of a V4 form is a field like others: no condition, no upload.
        let mut form = v4_form(&issued);
        form.conditions.retain(|condition| condition.get("x-oss-security-token").is_none());
        assert_eq!(form.post(&standin).error(), (403, "AccessDenied", "0006-00000228"));
    }
    // The credential of the start still holds, and another bucket does not know the new ones.
    assert_eq!(Form::v4().post(&standin).status, 204);
    let issued = standin.issued().pop().unwrap();
    let got = v4_form(&issued).post(&start(|_| {}));
    assert_eq!(got.error(), (403, "InvalidAccessKeyId", "0002-00000902"));
}

#[test]
fn what_was_issued_expires() {
    let standin = start(|options| options.credential_seconds = Some(4));
    let issued = assume("1").with("DurationSeconds", "3600").issued(&standin);
    assert_eq!(issued.expire, NOW + 4);
    standin.set_clock(Some(NOW + 3));
    assert_eq!(v4_form(&issued).post(&standin).status, 204);
    standin.set_clock(Some(NOW + 4));
    let expired = (403, "SecurityTokenExpired", "0002-00000007");
    let got = v4_form(&issued).post(&standin);
    assert_eq!(got.error(), expired);
    assert_eq!(got.element("Message"), "The security token you provided has expired.");
    assert_eq!(v1_form(&issued).post(&standin).error(), expired);
    assert_eq!(read(&standin, "dir/a.txt", &issued).error(), expired);
    assert_eq!(head(&standin, "dir/a.txt", &issued), 403);
}

#[test]
fn the_policy_of_a_session_holds() {
    let standin = start(|_| {});
    let denied = (403, "AccessDenied", "0003-00000301");
    let put = assume("1").with("Policy", PUT_ONE).issued(&standin);
    assert_eq!(v4_form(&put).post(&standin).status, 204);
    assert_eq!(v1_form(&put).post(&standin).status, 204);
    let got = v4_form(&put).field("key", "other/a.txt").post(&standin);
    assert_eq!(got.error(), denied);
    assert_eq!(got.element("Message"), "Access denied by authorizer's policy.");
    assert_eq!(v1_form(&put).field("key", "dir").post(&standin).error(), denied);
    // What counts is the key that would be stored.
    let form = v4_form(&put).field("key", "${filename}").file("dir/b.txt", "text/plain", b"b");
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
    assert_eq!(v4_form(&get).post(&standin).error(), denied);
    assert_eq!(standin.keys(), ["dir/a.txt", "dir/b.txt"]);
    // Another bucket's resource is of no use.
    let policy = PUT_ONE.replace("examplebucket", "otherbucket");
    let other = assume("3").with("Policy", &policy).issued(&standin);
    assert_eq!(v4_form(&other).post(&standin).error(), denied);
}

#[test]
fn sts_can_be_broken() {
    let standin = start(|_| {});
    standin.faults().sts = CredentialFault::Status(503, "ServiceUnavailable".to_string());
    let got = assume("1").post(&standin);
    assert_eq!(refusal(&got), (503, "ServiceUnavailable".to_string()));
    standin.faults().sts = CredentialFault::Body("<html>".to_string());
    let got = assume("1").post(&standin);
    assert_eq!((got.status, got.text()), (200, "<html>"));
    standin.faults().sts = CredentialFault::Expired;
    let got = assume("1").post(&standin);
    assert_eq!(json(&got)["Credentials"]["Expiration"], "2023-12-03T12:11:12Z");
    let issued = standin.issued().pop().unwrap();
    assert_eq!(v4_form(&issued).post(&standin).error().1, "SecurityTokenExpired");
    standin.faults().sts = CredentialFault::Delay(Duration::from_millis(300));
    let begun = Instant::now();
    assert_eq!(assume("2").post(&standin).status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let request = form("/", "application/x-www-form-urlencoded", &assume("3").query("POST"));
    standin.faults().sts = CredentialFault::Hang;
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| try_ask(&standin.sts_url(), &request).is_err());
        assert!(standin.wait_for_stalls(2, LONG));
        // The others go on meanwhile.
        assert_eq!(ecs(&standin).source, Source::Ecs);
        standin.release();
        assert!(hanging.join().unwrap());
    });
    standin.faults().sts = CredentialFault::Serve;
    assert_eq!(assume("3").post(&standin).status, 200);
    assert_eq!(standin.credential_requests(), 8);
}

#[test]
fn the_metadata_service_can_be_broken() {
    let standin = start(|_| {});
    let token = metadata_token(&standin);
    standin.faults().metadata = CredentialFault::Status(500, "InternalError".to_string());
    let ttl = "X-aliyun-ecs-metadata-token-ttl-seconds: 60\r\n";
    assert_eq!(get(&standin, "PUT", "/latest/api/token", ttl).status, 500);
    assert_eq!(get(&standin, "GET", ROLE, &token).status, 500);
    standin.faults().metadata = CredentialFault::Body("{\"Code\":\"Failed\"}".to_string());
    let token = metadata_token(&standin);
    assert_eq!(get(&standin, "GET", ROLE, &token).text(), "{\"Code\":\"Failed\"}");
    standin.faults().metadata = CredentialFault::Expired;
    let issued = ecs(&standin);
    assert_eq!(issued.expire, NOW - 60);
    assert_eq!(v1_form(&issued).post(&standin).error().1, "SecurityTokenExpired");
    standin.faults().metadata = CredentialFault::Delay(Duration::from_secs(3600));
    std::thread::scope(|scope| {
        let late = scope.spawn(|| get(&standin, "GET", ROLE, &token).status);
        assert!(standin.wait_for_stalls(1, LONG));
        standin.release();
        assert_eq!(late.join().unwrap(), 200);
    });
    standin.faults().metadata = CredentialFault::Hang;
    let request = format!("GET {ROLE} HTTP/1.1\r\n{token}\r\n");
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| try_ask(&standin.metadata_url(), &request).is_err());
        assert!(standin.wait_for_stalls(2, LONG));
        standin.release();
        assert!(hanging.join().unwrap());
    });
}
