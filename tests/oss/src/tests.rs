//! The stand-in from outside: a bucket on a port, and a client that speaks HTTP to it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Deref;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::*;

mod strict;
mod temporary;

const NOW: u64 = 1_701_605_532; // 2023-12-03T12:12:12Z
const LONG: Duration = Duration::from_secs(20);
const HOST: &str = "Host: examplebucket.oss-cn-hangzhou.aliyuncs.com\r\n";
const MULTIPART: &str = "Content-Type: multipart/form-data; boundary=BOUNDARY\r\n";
const SCOPE: &str = "20231203/cn-hangzhou/oss/aliyun_v4_request";
/// `printf hello | md5sum`
const ETAG: &str = "5D41402ABC4B2A76B9719D911017C592";

fn start(change: impl FnOnce(&mut Options)) -> Standin {
    let mut options = Options::default();
    change(&mut options);
    let standin = Standin::start(options).unwrap();
    standin.set_clock(Some(NOW));
    standin
}

/// The credential of the start, as if it had been issued.
fn permanent(token: &str) -> Issued {
    Issued {
        source: Source::Sts,
        access_key_id: Options::default().access_key_id,
        access_key_secret: Options::default().access_key_secret,
        security_token: token.to_string(),
        issued_at: NOW,
        expire: u64::MAX,
        policy: None,
        params: Vec::new(),
    }
}

fn stranger() -> Issued {
    Issued { access_key_secret: "other".to_string(), ..permanent("") }
}

/// A form, by default one with a good V4 signature of the credential of the start.
#[derive(Clone)]
struct Form {
    fields: Vec<(String, String)>,
    conditions: Vec<serde_json::Value>,
    expiration: String,
    secret: String,
    file: (String, String, Vec<u8>),
    after: String,
}

impl Form {
    fn unsigned(by: &Issued) -> Form {
        Form {
            fields: vec![],
            conditions: vec![json!({"bucket": "examplebucket"})],
            expiration: "2023-12-03T13:12:12.000Z".to_string(),
            secret: by.access_key_secret.clone(),
            file: ("a.txt".to_string(), "text/plain".to_string(), b"hello".to_vec()),
            after: String::new(),
        }
    }

    fn v4() -> Form {
        Form::v4_by(&permanent(""))
    }

    fn v4_by(by: &Issued) -> Form {
        let form = Form::unsigned(by)
            .pinned("x-oss-signature-version", "OSS4-HMAC-SHA256")
            .pinned("x-oss-credential", &format!("{}/{SCOPE}", by.access_key_id))
            .pinned("x-oss-date", "20231203T121212Z")
            .field("key", "dir/a.txt");
        match by.security_token.as_str() {
            "" => form,
            token => form.pinned("x-oss-security-token", token),
        }
    }

    fn v1() -> Form {
        Form::v1_by(&permanent(""))
    }

    fn v1_by(by: &Issued) -> Form {
        let form = Form::unsigned(by).field("OSSAccessKeyId", &by.access_key_id);
        let form = form.field("key", "dir/a.txt");
        match by.security_token.as_str() {
            "" => form,
            token => form.field("x-oss-security-token", token),
        }
    }

    fn field(mut self, name: &str, value: &str) -> Form {
        set(&mut self.fields, name, Some(value));
        self
    }

    fn without(mut self, name: &str) -> Form {
        set(&mut self.fields, name, None);
        self
    }

    fn pinned(self, name: &str, value: &str) -> Form {
        self.condition(json!({ name: value })).field(name, value)
    }

    fn condition(mut self, condition: serde_json::Value) -> Form {
        self.conditions.push(condition);
        self
    }

    fn until(mut self, expiration: &str) -> Form {
        self.expiration = expiration.to_string();
        self
    }

    fn file(mut self, name: &str, content_type: &str, bytes: &[u8]) -> Form {
        self.file = (name.to_string(), content_type.to_string(), bytes.to_vec());
        self
    }

    fn field_after_the_file(mut self, name: &str, value: &str) -> Form {
        self.after = part(&format!("name=\"{name}\""), value);
        self
    }

    fn callback(self, url: &str, body: &str, json: bool) -> Form {
        let kind = if json { "application/json" } else { "application/x-www-form-urlencoded" };
        let parameter = json!({"callbackUrl": url, "callbackBody": body, "callbackBodyType": kind,
                               "callbackSNI": url.starts_with("https")});
        self.field("callback", &digest::base64(parameter.to_string().as_bytes()))
    }

    /// Signs first, unless the form carries a signature already.
    fn body(&self) -> Vec<u8> {
        let policy = json!({"expiration": self.expiration, "conditions": self.conditions});
        let policy = digest::base64(policy.to_string().as_bytes());
        let mut fields = self.fields.clone();
        let mut add = |beside: &str, name: &str, value: String| {
            let has = |name: &str| self.fields.iter().any(|(known, _)| known == name);
            if (beside.is_empty() || has(beside)) && !has(name) {
                fields.push((name.to_string(), value));
            }
        };
        let v4 = sign::v4(&self.secret, "20231203", "cn-hangzhou", &policy);
        add("OSSAccessKeyId", "Signature", sign::post_v1(&self.secret, &policy));
        add("x-oss-signature-version", "x-oss-signature", v4);
        add("", "policy", policy);
        let mut body: String =
            fields.iter().map(|(name, value)| part(&format!("name=\"{name}\""), value)).collect();
        let (name, content_type, bytes) = &self.file;
        let names = format!("name=\"file\"; filename=\"{name}\"\r\nContent-Type: {content_type}");
        body += part(&names, "").trim_end_matches("\r\n");
        let end = format!("\r\n{}--BOUNDARY--\r\n", self.after);
        [body.as_bytes(), b"\r\n\r\n", bytes, end.as_bytes()].concat()
    }

    fn post(&self, standin: &Standin) -> Got {
        post(standin, &self.body())
    }
}

fn part(names: &str, value: &str) -> String {
    format!("--BOUNDARY\r\nContent-Disposition: form-data; {names}\r\n\r\n{value}\r\n")
}

/// Replaces a value, or takes it away.
fn set(list: &mut Vec<(String, String)>, name: &str, value: Option<&str>) {
    list.retain(|(known, _)| known != name);
    list.extend(value.map(|value| (name.to_string(), value.to_string())));
}

/// A response; what it lacks is an empty text.
struct Got(support::Reply);

impl Deref for Got {
    type Target = support::Reply;

    fn deref(&self) -> &support::Reply {
        &self.0
    }
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.0.header(name).unwrap_or("")
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// status, XML code and EC of an error
    fn error(&self) -> (u16, &str, &str) {
        (self.status, self.element("Code"), self.element("EC"))
    }

    fn element(&self, name: &str) -> &str {
        let after = self.text().split_once(&format!("<{name}>")).map_or("", |(_, after)| after);
        after.split_once("</").map_or("", |(value, _)| value)
    }
}

/// Sends one request as it stands; none if the connection ends without a response.
fn try_ask(url: &str, request: impl AsRef<[u8]>) -> Option<Got> {
    let address = url.trim_start_matches("http://").parse().unwrap();
    let request = request.as_ref();
    support::send(address, request, request.starts_with(b"HEAD ")).map(Got)
}

fn ask(url: &str, request: impl AsRef<[u8]>) -> Got {
    try_ask(url, request).expect("a response")
}

fn connect(standin: &Standin) -> TcpStream {
    let stream = TcpStream::connect(standin.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

fn answer(stream: &mut TcpStream) -> Got {
    Got(support::read_reply(stream, false).expect("a response"))
}

/// The request that posts a form.
fn upload(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("POST / HTTP/1.1\r\n{headers}{MULTIPART}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn post(standin: &Standin, body: &[u8]) -> Got {
    ask(&standin.url(), upload(&format!("{HOST}Origin: http://page\r\n"), body))
}

/// A read of an object, signed in its header.
fn signed_read(method: &str, path: &str, key: &str, by: &Issued) -> String {
    let Issued { access_key_id: id, security_token: token, .. } = by;
    let canonical = format!(
        "{method}\n/examplebucket/{key}\n\nx-oss-content-sha256:UNSIGNED-PAYLOAD\n\
         x-oss-date:20231203T121212Z\nx-oss-security-token:{token}\n\n\nUNSIGNED-PAYLOAD"
    );
    let hash = sign::sha256_hex(canonical.as_bytes());
    let text = format!("OSS4-HMAC-SHA256\n20231203T121212Z\n{SCOPE}\n{hash}");
    let signature = sign::v4(&by.access_key_secret, "20231203", "cn-hangzhou", &text);
    format!(
        "{method} /{path} HTTP/1.1\r\n{HOST}Connection: close\r\nx-oss-date: 20231203T121212Z\r\n\
         x-oss-security-token: {token}\r\nx-oss-content-sha256: UNSIGNED-PAYLOAD\r\n\
         Authorization: OSS4-HMAC-SHA256 Credential={id}/{SCOPE},Signature={signature}\r\n\r\n"
    )
}

/// A callback server for one request, which it gives back.
fn app(answer: impl Into<Vec<u8>>) -> (String, JoinHandle<String>) {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        let mut length = None;
        for byte in io::BufReader::new(&stream).bytes() {
            bytes.push(byte.unwrap());
            if bytes.ends_with(b"\r\n\r\n") && length.is_none() {
                let head = String::from_utf8_lossy(&bytes).into_owned();
                let (_, rest) = head.split_once("\r\ncontent-length: ").unwrap();
                let body: usize = rest.split("\r\n").next().unwrap().parse().unwrap();
                length = Some(bytes.len() + body);
            }
            if length == Some(bytes.len()) {
                break;
            }
        }
        (&stream).write_all(&answer).unwrap();
        if answer.is_empty() {
            // Says nothing until the other side gives up.
            let _ = (&stream).read(&mut [0]);
        }
        String::from_utf8(bytes).unwrap()
    });
    (address, thread)
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=utf-8\r\n\
                    Content-Length: 9\r\n\r\n{\"a\":\"b\"}";

#[test]
fn an_upload_is_stored_and_answered_as_a_real_bucket_does() {
    let standin = start(|_| {});
    let got = Form::v4().post(&standin);
    assert_eq!((got.status, got.text()), (204, ""));
    let object = standin.object("dir/a.txt").unwrap();
    for (header, expected) in [
        ("etag", &*format!("\"{ETAG}\"")),
        ("x-oss-hash-crc64ecma", &object.crc64.to_string()),
        ("access-control-allow-origin", "*"),
        ("access-control-expose-headers", "ETag, x-oss-request-id"),
        ("date", "Sun, 03 Dec 2023 12:12:12 GMT"),
        ("x-oss-request-id", &standin.posts()[0].request_id),
    ] {
        assert_eq!(got.header(header), expected);
    }
    assert_eq!(got.header("x-oss-request-id").len(), 24);
    assert_eq!((&object.bytes[..], object.content_type.as_str()), (&b"hello"[..], "text/plain"));
    assert_eq!(object.etag, ETAG);
    assert_eq!(standin.keys(), ["dir/a.txt"]);
    let posts = standin.posts();
    assert_eq!((posts[0].status, posts[0].size, posts[0].filename.as_str()), (204, 5, "a.txt"));
    assert_eq!(posts[0].fields[0].0, "x-oss-signature-version");
}

#[test]
fn success_statuses_content_types_and_kept_headers() {
    let standin = start(|_| {});
    for (asked, status, key, etag) in [
        ("200", 200, "", ""),
        ("201", 201, "dir/a.txt", &*format!("\"{ETAG}\"")),
        ("999", 204, "", ""),
    ] {
        let got = Form::v1().field("success_action_status", asked).post(&standin);
        assert_eq!((got.status, got.element("Key"), got.element("ETag")), (status, key, etag));
    }
    let form = Form::v1().field("Content-Type", "image/png").field("x-oss-object-acl", "private");
    form.field("x-oss-meta-a", "1").field("Cache-Control", "no-cache").post(&standin);
    let object = standin.object("dir/a.txt").unwrap();
    assert_eq!((&*object.content_type, object.acl.as_deref()), ("image/png", Some("private")));
    let own = |name: &str, value: &str| (name.to_string(), value.to_string());
    assert_eq!(object.headers, [own("x-oss-meta-a", "1"), own("Cache-Control", "no-cache")]);
}

#[test]
fn forms_that_are_refused() {
    let standin = start(|_| {});
    let (v4, v1) = (Form::v4(), Form::v1());
    let (v4, v1) = (|| v4.clone(), || v1.clone());
    let argument = |form, ec| (form, 400, "InvalidArgument", ec);
    let denied = |form, ec| (form, 403, "AccessDenied", ec);
    let name = |key: &str, ec| (v4().field("key", key), 400, "InvalidObjectName", ec);
    let scope =
        |scope: &str| v4().field("x-oss-credential", &format!("LTAI5tExampleKeyId/{scope}"));
    let date = |date: &str| v4().field("x-oss-date", date);
    let version = "x-oss-signature-version";
    let cases = [
        argument(v4().without("key"), ""),
        argument(v4().without("key").field_after_the_file("key", "k"), ""),
        argument(v4().field("KEY", "b"), ""),
        name("", "0016-00000001"),
        name(&"k".repeat(1024), "0016-00000002"),
        name("/a", "0016-00000005"),
        name("\\a", "0016-00000005"),
        denied(v4().until("2023-12-03T12:12:12Z"), "0006-00000213"),
        denied(v4().field("x-oss-object-acl", "public-read"), "0006-00000228"),
        denied(v4().condition(json!({"key": "b"})), "0006-00000227"),
        denied(v4().condition(json!({"callback": "b"})), "0006-00000226"),
        (v4().condition(json!(1)), 400, "InvalidPolicyDocument", "0006-00000222"),
        (Form::v4_by(&stranger()), 403, "SignatureDoesNotMatch", "0002-00000705"),
        (Form::v1_by(&stranger()), 403, "SignatureDoesNotMatch", "0002-00000705"),
        argument(v4().without("x-oss-date"), ""),
        argument(date("2023"), ""),
        argument(date("20231204T000000Z"), "0002-00000709"),
        (date("20231203T122713Z"), 403, "RequestTimeTooSkewed", ""),
        argument(v4().field("x-oss-credential", "LTAI5tExampleKeyId"), "0002-00000710"),
        argument(scope("20231203/cn-hangzhou/oss/aws4_request"), "0002-00000710"),
        argument(scope("2023-12-03/cn-hangzhou/oss/aliyun_v4_request"), "0002-00000709"),
        argument(scope("20231203/oss-cn-hangzhou/oss/aliyun_v4_request"), ""),
        (
            v4().field("x-oss-credential", &format!("other/{SCOPE}")),
            403,
            "InvalidAccessKeyId",
            "0002-00000902",
        ),
        argument(v4().field(version, "2"), "0002-00000701"),
        argument(v4().without(version), "0002-00000703"),
        argument(v4().without(version).field("x-oss-signature", "x"), "0002-00000701"),
        argument(v4().field("x-oss-signature", ""), "0002-00000704"),
        argument(v1().field("OSSAccessKeyId", ""), "0002-00000707"),
        (v1().field("OSSAccessKeyId", "x"), 403, "InvalidAccessKeyId", "0002-00000902"),
        argument(v1().without("OSSAccessKeyId").field("Signature", "x"), "0002-00000706"),
        argument(v1().field("policy", ""), "0006-00000205"),
        (v1().field("x-oss-security-token", "t"), 403, "InvalidAccessKeyId", "0002-00000002"),
        argument(v1().field("x-oss-forbid-overwrite", "abc"), "0006-00000117"),
        argument(v1().field("x-oss-object-acl", "abc"), ""),
        argument(v1().field("callback", "x123-*&"), "0007-00000002"),
    ];
    for (at, (form, status, code, ec)) in cases.iter().enumerate() {
        let got = form.post(&standin);
        assert_eq!(got.error(), (*status, *code, *ec), "case {at}: {}", got.text());
        assert_eq!(got.header("access-control-allow-origin"), "*");
        assert_eq!(got.header("content-type"), "application/xml");
        assert_eq!(got.header("x-oss-ec"), *ec);
    }
    assert_eq!(standin.keys(), [""; 0]);
    let posts = standin.posts();
    assert_eq!(posts.len(), cases.len());
    assert_eq!((posts[0].status, posts[0].code.as_str()), (400, "InvalidArgument"));
    let anonymous = part("name=\"key\"", "a") + &part("name=\"file\"", "a") + "--BOUNDARY--\r\n";
    let got = post(&standin, anonymous.as_bytes());
    assert_eq!(got.error(), (403, "AccessDenied", "0003-00000001"));
}

#[test]
fn v1_can_be_switched_off() {
    let standin = start(|_| {});
    standin.faults().refuse_v1 = true;
    assert_eq!(Form::v1().post(&standin).error(), (403, "AccessDenied", "0002-00000080"));
    assert_eq!(Form::v4().post(&standin).status, 204);
}

#[test]
fn the_clock_decides() {
    let standin = start(|_| {});
    let form = Form::v4().until("2024-12-03T13:12:12.000Z");
    let (late, expired) = (NOW + 7 * 86_400, "Request has expired.");
    let skewed = "The difference between the request time and the current time is too large.";
    for (now, message) in [
        (Some(NOW - 901), skewed),
        (Some(NOW - 900), ""),
        (Some(late), ""),
        (Some(late + 1), expired),
        (None, expired),
    ] {
        standin.set_clock(now);
        let got = form.post(&standin);
        let status = if message.is_empty() { 204 } else { 403 };
        assert_eq!((got.status, got.element("Message")), (status, message));
    }
}

#[test]
fn sizes_and_overwriting() {
    let standin = start(|_| {});
    for (min, max, error, limit) in [
        (5, 5, (204, "", ""), ""),
        (0, 4, (400, "EntityTooLarge", "0006-00000003"), "MaxSizeAllowed>4<"),
        (6, 9, (400, "EntityTooSmall", "0006-00000004"), "MinSizeAllowed>6<"),
    ] {
        let form = Form::v4().condition(json!(["content-length-range", min, max]));
        let got = form.post(&standin);
        assert_eq!(got.error(), error);
        assert!(got.text().contains(limit), "{}", got.text());
        assert_eq!(got.element("ProposedSize"), if limit.is_empty() { "" } else { "5" });
    }
    let form = Form::v4().pinned("x-oss-forbid-overwrite", "true");
    assert_eq!(form.post(&standin).error(), (409, "FileAlreadyExists", "0026-00000002"));
    assert!(standin.remove("dir/a.txt"));
    assert_eq!(form.post(&standin).status, 204);
}

#[test]
fn filename_is_put_into_the_key_after_the_policy_check() {
    let standin = start(|_| {});
    let form = Form::v4().field("key", "u/${filename}").file("b%22.txt", "text/plain", b"x");
    let got = form.clone().condition(json!(["eq", "$key", "u/\\${filename}"])).post(&standin);
    assert_eq!(got.status, 204, "{}", got.text());
    assert_eq!(standin.keys(), ["u/b\".txt"]);
    let got = form.condition(json!(["starts-with", "$key", "u/b"])).post(&standin);
    assert_eq!(got.error().2, "0006-00000227");
}

#[test]
fn fields_behind_the_file_are_ignored() {
    let standin = start(|_| {});
    let form = Form::v4().field_after_the_file("x-oss-object-acl", "public-read");
    assert_eq!(form.post(&standin).status, 204);
    assert_eq!(standin.object("dir/a.txt").unwrap().acl, None);
}

#[test]
fn requests_that_are_no_forms() {
    let standin = start(|_| {});
    let malformed = (400, "MalformedPOSTRequest", "0006-00000104");
    let big = Form::v4().field("x-oss-meta-a", &"a".repeat(form::MAX_FIELDS_BYTES)).body();
    let multipart = "Content-Type: multipart/form-data\r\n";
    let request = |line: &str, rest: &str| format!("{line} HTTP/1.1\r\n{HOST}{rest}").into_bytes();
    for (request, error) in [
        (
            request("POST /", "Content-Length: 2\r\n\r\nhi"),
            (400, "RequestIsNotMultiPartContent", ""),
        ),
        (request("POST /", &format!("{multipart}Content-Length: 0\r\n\r\n")), malformed),
        (upload(HOST, b"--BOUNDARY--\r\n"), malformed),
        (request("POST /", &format!("{MULTIPART}\r\n")), (411, "MissingContentLength", "")),
        (request("POST /key", "Content-Length: 0\r\n\r\n"), (405, "MethodNotAllowed", "")),
        (request("GET /", "\r\n"), (405, "MethodNotAllowed", "")),
        (upload(HOST, &big), (400, "MaxPOSTPreDataLengthExceededError", "0006-00000112")),
    ] {
        let got = ask(&standin.url(), request);
        assert_eq!(got.error(), error);
        // Without a length nobody knows where the next request begins.
        let connection = if got.status == 411 { "close" } else { "keep-alive" };
        assert_eq!(got.header("connection"), connection);
    }
}

#[test]
fn a_connection_serves_more_than_one_request() {
    let standin = start(|_| {});
    let mut stream = connect(&standin);
    let body = Form::v4().body();
    for _ in 0..2 {
        stream.write_all(&upload(HOST, &body)).unwrap();
        assert_eq!(answer(&mut stream).status, 204);
    }
    let old = String::from_utf8(upload(HOST, &body)).unwrap().replace("HTTP/1.1", "HTTP/1.0");
    stream.write_all(old.as_bytes()).unwrap();
    let got = answer(&mut stream);
    assert_eq!((got.status, got.header("connection")), (204, "close"));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let mut stream = connect(&standin);
    let request = upload(&format!("{HOST}Expect: 100-continue\r\n"), &body);
    let (head, body) = request.split_at(request.len() - body.len());
    stream.write_all(head).unwrap();
    assert_eq!(answer(&mut stream).status, 100);
    stream.write_all(body).unwrap();
    assert_eq!(answer(&mut stream).status, 204);
}

#[test]
fn a_callback_is_sent_signed_and_its_answer_passed_on() {
    let standin = start(|_| {});
    let (address, app) = app(GOOD);
    let url = format!("http://{address}/call%20back?id=1&t=%41");
    let names = "bucket object etag size mimeType imageInfo.height imageInfo.width \
                 imageInfo.format crc64 contentMd5 clientIp reqId operation vpcId x:user x:none";
    let template: Vec<_> = names.split(' ').map(|name| format!("${{{name}}}")).collect();
    let template = format!("[{}]", template.join(","));
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x02\x80\0\0\x01\xe0\x08\x02\0\0\0";
    let form = Form::v4().callback(&url, &template, true).field("x:user", "\"7\"");
    let got = form.file("a.png", "image/png", png).post(&standin);
    assert_eq!((got.status, got.text()), (200, "{\"a\":\"b\"}"));
    assert_eq!(got.header("content-type"), "application/json;charset=utf-8");
    let sent = app.join().unwrap();
    let record = &standin.callbacks()[0];
    assert_eq!((&*record.raw, record.status, &record.error), (sent.as_bytes(), Some(200), &None));
    assert_eq!(record.answer, b"{\"a\":\"b\"}");
    let (head, body) = sent.split_once("\r\n\r\n").unwrap();
    let id = got.header("x-oss-request-id");
    let object = standin.object("dir/a.txt").unwrap();
    let (crc64, md5) = (object.crc64.to_string(), digest::base64(&digest::md5(png)));
    let values = json!([
        "examplebucket",
        "dir/a.txt",
        object.etag,
        29,
        "image/png",
        480,
        640,
        "png",
        crc64,
        md5,
        "127.0.0.1",
        id,
        "PostObject",
        "",
        "\"7\"",
        ""
    ]);
    assert_eq!(body, values.to_string());
    let lines: Vec<&str> = head.split("\r\n").collect();
    assert_eq!(lines[0], "POST /call%20back?id=1&t=%41 HTTP/1.1");
    let expected = [
        format!("host: {address}"),
        "connection: close".to_string(),
        format!("content-length: {}", body.len()),
        format!("authorization: {}", standin.sign("/call%20back?id=1&t=%41", body.as_bytes())),
        format!("content-md5: {}", digest::base64(&digest::md5(body.as_bytes()))),
        "content-type: application/json".to_string(),
        "date: Sun, 03 Dec 2023 12:12:12 GMT".to_string(),
        "user-agent: aliyun-oss-callback".to_string(),
        "x-oss-additional-headers: ".to_string(),
        "x-oss-bucket: examplebucket".to_string(),
        "x-oss-owner: 1234567890123456".to_string(),
        format!("x-oss-pub-key-url: {}", digest::base64(PUB_KEY_URL.as_bytes())),
        format!("x-oss-request-id: {id}"),
        "x-oss-requester: 1234567890123456".to_string(),
        "x-oss-signature-version: 1.0".to_string(),
        "x-oss-tag: CALLBACK".to_string(),
    ];
    assert_eq!(lines[1..], expected);
    let raw = standin.callback_request("/x", "host", b"body", "text/plain");
    assert!(raw.starts_with(b"POST /x HTTP/1.1\r\nhost: host\r\n"));
    assert!(raw.ends_with(b"\r\n\r\nbody"));
}

#[test]
fn callbacks_that_fail_leave_the_object() {
    let unreachable = "-1.OSS can not connect to your callbackUrl, please check it.";
    let too_long = "400.User server return too long content-length value.";
    let no_json = "Response body is not valid json format.";
    let ok = |body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    for (answer, message) in [
        (ok(b" {}\n"), ""),
        (ok(b""), no_json),
        (ok(b"ok"), no_json),
        (ok(b"\xef\xbb\xbf{}"), no_json),
        (ok(b"{\"a\":\"\xff\"}"), no_json),
        (ok(b"{} {}"), no_json),
        (ok(b"{'a':1}"), no_json),
        (b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), "204."),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n{}".to_vec(), "502."),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_vec(), "302."),
        (b"HTTP/1.1 200 OK\r\n\r\n{}".to_vec(), too_long),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n{}".to_vec(), too_long),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}".to_vec(), unreachable),
        (b"nonsense\r\n\r\n".to_vec(), unreachable),
    ] {
        let standin = start(|_| {});
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (address, app) = app(answer);
        let got = Form::v4().callback(&format!("http://{address}"), "a=b", false).post(&standin);
        let sent = app.join().unwrap();
        assert!(sent.starts_with("POST / HTTP/1.1\r\n"), "{sent}");
        assert_eq!(got.header("access-control-allow-origin"), "*");
        assert!(standin.object("dir/a.txt").is_some());
        if message.is_empty() {
            assert_eq!((got.status, &standin.callbacks()[0].error), (200, &None));
            continue;
        }
        let is_status = message != no_json;
        let message = format!("{}{message}", if is_status { "Error status : " } else { "" });
        assert_eq!((got.status, got.element("Code")), (203, "CallbackFailed"), "{text}");
        assert_eq!(got.element("Message"), message, "{text}");
        assert_eq!(standin.callbacks()[0].error, Some(message));
        assert_eq!(standin.posts()[0].code, "CallbackFailed");
    }
}

#[test]
fn a_silent_callback_server_is_given_up_once() {
    let standin = start(|_| {});
    standin.faults().callback_timeout = Duration::from_millis(100);
    let (address, app) = app("");
    let got = Form::v4().callback(&format!("http://{address}"), "a=b", false).post(&standin);
    assert_eq!(got.error(), (203, "CallbackFailed", "0007-00000202"));
    assert!(got.element("Message").contains("reply timeout"), "{}", got.text());
    app.join().unwrap();
    let callbacks = standin.callbacks();
    assert_eq!(callbacks.len(), 1);
    assert!(callbacks[0].duration >= Duration::from_millis(100));
}

#[test]
fn the_next_callback_url_is_tried() {
    let standin = start(|_| {});
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (bad, first) = app("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    let (good, second) = app(GOOD);
    let urls = format!("http://{closed};http://{bad}/x;http://{good}/y;http://192.0.2.1/z");
    let got = Form::v4().callback(&urls, "a=b", false).post(&standin);
    assert_eq!((got.status, got.text()), (200, "{\"a\":\"b\"}"));
    first.join().unwrap();
    second.join().unwrap();
    let statuses: Vec<_> = standin.callbacks().iter().map(|record| record.status).collect();
    assert_eq!(statuses, [None, Some(500), Some(200)]);
}

#[test]
fn callbacks_can_be_broken() {
    let standin = start(|_| {});
    let send = |faults: Faults| {
        let (address, app) = app(GOOD);
        *standin.faults() = faults;
        let form = Form::v4().callback(&format!("http://{address}/c"), "a=${object}", false);
        assert_eq!(form.post(&standin).status, 200);
        app.join().unwrap()
    };
    let sent = send(Faults {
        callback_http10: true,
        callback_tamper: Some(Box::new(|_| b"forged=1".to_vec())),
        pub_key_url: "http://evil.example/key.pem".to_string(),
        ..Faults::default()
    });
    let signature = standin.sign("/c", b"forged=1");
    let key_url = digest::base64(b"http://evil.example/key.pem");
    assert!(sent.starts_with("POST /c HTTP/1.0\r\nhost: "), "{sent}");
    assert!(sent.contains("\r\nuser-agent: ehttp-client/0.0.1\r\n"));
    assert!(sent.contains(&format!("\r\nauthorization: {signature}\r\n")));
    assert!(sent.contains(&format!("\r\nx-oss-pub-key-url: {key_url}\r\n")));
    assert!(sent.ends_with("\r\n\r\nforged=1"));

    let callback_corrupt: Tamper = Box::new(|body| [&body[..], b"!"].concat());
    let sent = send(Faults { callback_corrupt: Some(callback_corrupt), ..Faults::default() });
    assert!(sent.contains(&standin.sign("/c", b"a=dir%2Fa.txt")));
    assert!(sent.ends_with("a=dir%2Fa.txt!"));

    *standin.faults() = Faults::default();
    standin.faults().callback_fail = Some("Error status : 404.".to_string());
    let got = Form::v4().callback("http://127.0.0.1", "a", false).post(&standin);
    assert_eq!((got.status, got.element("Message")), (203, "Error status : 404."));
    assert_eq!(standin.callbacks().len(), 2);
}

#[test]
fn https_callbacks_go_where_a_proxy_would_pass_them() {
    let standin = start(|_| {});
    let (address, app) = app(GOOD);
    standin.faults().routes = vec![("app.example".to_string(), address.parse().unwrap())];
    let url = "https://app.example/callback";
    let parameter = json!({"callbackUrl": url, "callbackBody": "a"}).to_string();
    let got = Form::v4().field("callback", &digest::base64(parameter.as_bytes())).post(&standin);
    assert_eq!((got.status, got.element("Message")), (203, "Error status : 502."));
    assert_eq!(Form::v4().callback(url, "a", false).post(&standin).status, 200);
    assert!(app.join().unwrap().contains("\r\nhost: app.example\r\n"));
}

#[test]
fn objects_are_read_with_a_signed_header() {
    let standin = start(|options| options.security_token = Some("token".to_string()));
    standin.put("a b/ü.txt", b"hello", "text/plain");
    let (path, by) = ("a%20b/%C3%BC.txt", permanent("token"));
    let read =
        |path: &str, key: &str, by: &Issued| ask(&standin.url(), signed_read("GET", path, key, by));
    let got = read(path, path, &by);
    assert_eq!((got.status, got.text()), (200, "hello"));
    assert_eq!(got.header("etag"), format!("\"{ETAG}\""));
    assert_eq!(got.header("content-type"), "text/plain");
    // A HEAD has the length and no body.
    let mut stream = connect(&standin);
    stream.write_all(signed_read("HEAD", path, path, &by).as_bytes()).unwrap();
    let mut head = String::new();
    stream.read_to_string(&mut head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Length: 5\r\n"), "{head}");

    assert_eq!(read("none", "none", &by).error(), (404, "NoSuchKey", "0026-00000001"));
    assert_eq!(ask(&standin.url(), signed_read("HEAD", "none", "none", &by)).status, 404);
    let stranger = Issued { security_token: "token".to_string(), ..stranger() };
    assert_eq!(read("none", "none", &stranger).error().1, "SignatureDoesNotMatch");
    assert_eq!(read("b", "a", &by).status, 403);
    let anonymous = ask(&standin.url(), format!("GET /none HTTP/1.1\r\n{HOST}\r\n"));
    assert_eq!(anonymous.error(), (403, "AccessDenied", "0003-00000001"));
    let reads = standin.reads();
    assert_eq!((reads.len(), reads[0].key.as_str(), reads[2].status), (7, "a b/ü.txt", 404));
    standin.faults().reads.push_back((503, "ServiceUnavailable".to_string()));
    assert_eq!(read("none", "none", &by).error().1, "ServiceUnavailable");
    assert_eq!(read("none", "none", &by).status, 404);
}

#[test]
fn posts_can_be_broken() {
    let standin = start(|_| {});
    standin.faults().fail_posts(2, 503, "ServiceUnavailable");
    assert_eq!(Form::v4().post(&standin).error(), (503, "ServiceUnavailable", ""));
    standin.faults().posts.push_back(PostFault::NoAnswer);
    standin.faults().posts.push_back(PostFault::Reset(100_000));
    assert_eq!(Form::v4().post(&standin).status, 503);
    assert_eq!(standin.keys(), [""; 0]);

    let send = |form: &Form| {
        let mut stream = connect(&standin);
        stream.write_all(&upload(HOST, &form.body()))?;
        stream.read(&mut [0])
    };
    assert_eq!(send(&Form::v4()).expect("an end without a response"), 0);
    assert_eq!(standin.keys(), ["dir/a.txt"]);
    assert!(standin.remove("dir/a.txt"));

    let large = Form::v4().file("b.bin", "a/b", &vec![7; 8 << 20]);
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    let error = send(&large).expect_err("a reset");
    assert!(kinds.contains(&error.kind()), "{error:?}");
    assert_eq!(standin.keys(), [""; 0]);
    let statuses: Vec<_> = standin.posts().iter().map(|post| post.status).collect();
    assert_eq!(statuses, [503, 503, 0, 0]);
    assert!(standin.posts()[3].size < 100_000);
    assert_eq!(large.post(&standin).status, 204);
    assert_eq!(standin.object("dir/a.txt").unwrap().bytes.len(), 8 << 20);
}

#[test]
fn an_upload_stalls_until_it_is_released() {
    let standin = start(|_| {});
    standin.faults().posts.push_back(PostFault::Stall(70_000, None));
    let (done, finished) = mpsc::channel();
    let other = standin.clone();
    let thread = std::thread::spawn(move || {
        let got = Form::v4().file("b", "a/b", &vec![7; 200_000]).post(&other);
        done.send(got.status).unwrap();
    });
    assert!(standin.wait_for_stalls(1, LONG));
    assert!(finished.try_recv().is_err());
    assert_eq!(standin.keys(), [""; 0]);
    // Others are served meanwhile.
    assert_eq!(Form::v4().post(&standin).status, 204);
    standin.release();
    assert_eq!(finished.recv_timeout(LONG), Ok(204));
    thread.join().unwrap();
    assert_eq!(standin.posts().len(), 2);
    standin.faults().posts.push_back(PostFault::Stall(0, Some(Duration::from_millis(1))));
    assert_eq!(Form::v4().post(&standin).status, 204);
}

/// Asks for what hangs, and releases it once it does: the connection must end without a response.
fn hangs(standin: &Standin, url: &str, request: &str, meanwhile: impl FnOnce()) {
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| try_ask(url, request).is_none());
        assert!(standin.wait_for_stalls(1, LONG));
        meanwhile();
        standin.release();
        assert!(hanging.join().unwrap());
    });
}

#[test]
fn the_key_host_serves_counts_and_breaks() {
    let standin = start(|_| {});
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let get = |path: &str| ask(&standin.key_origin(), request(path));
    let got = get(KEY_PATH);
    assert_eq!((got.status, got.text()), (200, standin.public_key_pem()));
    assert_eq!(get("/other").status, 404);
    assert_eq!(standin.key_requests(), [KEY_PATH, "/other"]);
    standin.faults().key = KeyFault::Status(503);
    assert_eq!(get(KEY_PATH).status, 503);
    standin.faults().key = KeyFault::Redirect("http://evil/".to_string());
    let got = get(KEY_PATH);
    assert_eq!((got.status, got.header("location")), (302, "http://evil/"));
    standin.faults().key = KeyFault::Oversized(100_000);
    assert_eq!(get(KEY_PATH).body.len(), 100_000);
    standin.faults().key = KeyFault::Body("garbage".to_string());
    assert_eq!(get(KEY_PATH).text(), "garbage");
    assert_eq!(get("/callback_pub_key_v2.pem").text(), "garbage");
    standin.faults().key = KeyFault::Hang;
    hangs(&standin, &standin.key_origin(), &request(KEY_PATH), || {});
    assert_eq!(standin.wait_for_key_requests(8, LONG).len(), 8);
}

#[test]
fn the_last_handle_ends_it() {
    let standin = start(|_| {});
    let clone = standin.clone();
    let address = standin.url().trim_start_matches("http://").to_string();
    let mut idle = connect(&standin);
    drop(standin);
    assert_eq!(Form::v4().post(&clone).status, 204);
    drop(clone);
    assert_eq!(idle.read(&mut [0]).unwrap_or(0), 0);
    assert!(TcpStream::connect(&address).is_err());
}
