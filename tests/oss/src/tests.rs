//! The stand-in from outside: a bucket on a port, and a client that speaks HTTP to it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::*;

mod strict;
mod temporary;

const NOW: u64 = 1_701_605_532; // 2023-12-03T12:12:12Z
const LONG: Duration = Duration::from_secs(20);

fn start(change: impl FnOnce(&mut Options)) -> Standin {
    let mut options = Options::default();
    change(&mut options);
    let standin = Standin::start(options).unwrap();
    standin.set_clock(Some(NOW));
    standin
}

/// A form, by default one with a good V4 signature.
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
    fn v4() -> Form {
        let date = "20231203T121212Z";
        let credential = "LTAI5tExampleKeyId/20231203/cn-hangzhou/oss/aliyun_v4_request";
        Form {
            fields: vec![],
            conditions: vec![json!({"bucket": "examplebucket"})],
            expiration: "2023-12-03T13:12:12.000Z".to_string(),
            secret: "exampleAccessKeySecret".to_string(),
            file: ("a.txt".to_string(), "text/plain".to_string(), b"hello".to_vec()),
            after: String::new(),
        }
        .pinned("x-oss-signature-version", "OSS4-HMAC-SHA256")
        .pinned("x-oss-credential", credential)
        .pinned("x-oss-date", date)
        .field("key", "dir/a.txt")
    }

    fn v1() -> Form {
        let mut form = Form::v4();
        form.fields.clear();
        form.conditions.truncate(1);
        form.field("OSSAccessKeyId", "LTAI5tExampleKeyId").field("key", "dir/a.txt")
    }

    fn field(mut self, name: &str, value: &str) -> Form {
        self.fields.retain(|(known, _)| known != name);
        self.fields.push((name.to_string(), value.to_string()));
        self
    }

    fn without(mut self, name: &str) -> Form {
        self.fields.retain(|(known, _)| known != name);
        self
    }

    fn pinned(self, name: &str, value: &str) -> Form {
        self.condition(json!({ name: value })).field(name, value)
    }

    fn condition(mut self, condition: serde_json::Value) -> Form {
        self.conditions.push(condition);
        self
    }

    fn file(mut self, name: &str, content_type: &str, bytes: &[u8]) -> Form {
        self.file = (name.to_string(), content_type.to_string(), bytes.to_vec());
        self
    }

    fn callback(self, url: &str, body: &str, json: bool) -> Form {
        let kind = if json { "application/json" } else { "application/x-www-form-urlencoded" };
        let parameter = json!({"callbackUrl": url, "callbackBody": body, "callbackBodyType": kind,
                               "callbackSNI": url.starts_with("https")});
        self.field("callback", &digest::base64(parameter.to_string().as_bytes()))
    }

    /// The body and its boundary; signs first, unless the form carries a signature already.
    fn body(&self) -> Vec<u8> {
        let policy = json!({"expiration": self.expiration, "conditions": self.conditions});
        let policy = digest::base64(policy.to_string().as_bytes());
        let mut fields = self.fields.clone();
        let has = |name: &str| self.fields.iter().any(|(known, _)| known == name);
        if !has("policy") {
            fields.push(("policy".to_string(), policy.clone()));
        }
        let own = |name: &str, value: String| (name.to_string(), value);
        if has("OSSAccessKeyId") && !has("Signature") {
            fields.push(own("Signature", sign::post_v1(&self.secret, &policy)));
        }
        if has("x-oss-signature-version") && !has("x-oss-signature") {
            let signature = sign::v4(&self.secret, "20231203", "cn-hangzhou", &policy);
            fields.push(own("x-oss-signature", signature));
        }
        let mut body = Vec::new();
        for (name, value) in fields {
            let part = format!(
                "--BOUNDARY\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
            body.extend(part.into_bytes());
        }
        let (name, content_type, bytes) = &self.file;
        let part = format!(
            "--BOUNDARY\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: {content_type}\r\n\r\n"
        );
        body.extend(part.into_bytes());
        body.extend(bytes);
        body.extend(b"\r\n");
        body.extend(self.after.as_bytes());
        body.extend(b"--BOUNDARY--\r\n");
        body
    }

    fn post(&self, standin: &Standin) -> Got {
        post(standin, &self.body())
    }
}

struct Got {
    status: u16,
    headers: http::Headers,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        http::header(&self.headers, name).unwrap_or("")
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// status, XML code and EC of an error
    fn error(&self) -> (u16, &str, &str) {
        (self.status, self.element("Code"), self.element("EC"))
    }

    fn element(&self, name: &str) -> &str {
        let text = std::str::from_utf8(&self.body).unwrap_or("");
        let after = text.split_once(&format!("<{name}>")).map_or("", |(_, after)| after);
        after.split_once("</").map_or("", |(value, _)| value)
    }
}

fn connect(standin: &Standin) -> TcpStream {
    let stream = TcpStream::connect(standin.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

const HOST: &str = "Host: examplebucket.oss-cn-hangzhou.aliyuncs.com\r\n";
const MULTIPART: &str = "Content-Type: multipart/form-data; boundary=BOUNDARY\r\n";

fn post(standin: &Standin, body: &[u8]) -> Got {
    let mut stream = connect(standin);
    let length = body.len();
    let head = format!(
        "POST / HTTP/1.1\r\n{HOST}Origin: http://page\r\n{MULTIPART}\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    answer(&mut stream)
}

fn exchange(standin: &Standin, request: &str) -> Got {
    let mut stream = connect(standin);
    stream.write_all(request.as_bytes()).unwrap();
    answer(&mut stream)
}

fn answer(stream: &mut TcpStream) -> Got {
    try_answer(stream).unwrap()
}

fn try_answer(stream: &mut TcpStream) -> io::Result<Got> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let mut headers = [httparse::EMPTY_HEADER; 50];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(&bytes).unwrap();
    let headers = http::owned(response.headers);
    let length = http::header(&headers, "content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Got { status: response.code.unwrap(), headers, body })
}

/// A callback server for one request, which it gives back.
fn app(answer: &'static str) -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
            let length = text.split_once("content-length: ").and_then(|(_, rest)| {
                rest.split_once("\r\n").and_then(|(length, _)| length.parse::<usize>().ok())
            });
            let body = text.split_once("\r\n\r\n").map(|(_, body)| body.len());
            if length.is_some() && length <= body {
                break;
            }
            let read = stream.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        if answer.is_empty() {
            // Says nothing until the other side gives up.
            let _ = stream.read(&mut buffer);
        }
        bytes
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
    // printf hello | md5sum
    assert_eq!(got.header("etag"), "\"5D41402ABC4B2A76B9719D911017C592\"");
    assert_eq!(got.header("x-oss-request-id").len(), 24);
    assert_eq!(got.header("access-control-allow-origin"), "*");
    assert_eq!(got.header("access-control-expose-headers"), "ETag, x-oss-request-id");
    assert_eq!(got.header("date"), "Sun, 03 Dec 2023 12:12:12 GMT");
    let object = standin.object("dir/a.txt").unwrap();
    assert_eq!((&object.bytes[..], object.content_type.as_str()), (&b"hello"[..], "text/plain"));
    assert_eq!(object.etag, "5D41402ABC4B2A76B9719D911017C592");
    assert_eq!(got.header("x-oss-hash-crc64ecma"), object.crc64.to_string());
    assert_eq!(standin.keys(), ["dir/a.txt"]);
    let posts = standin.posts();
    assert_eq!((posts[0].status, posts[0].size, posts[0].filename.as_str()), (204, 5, "a.txt"));
    assert_eq!(posts[0].fields[0].0, "x-oss-signature-version");
    assert_eq!(posts[0].request_id, got.header("x-oss-request-id"));
}

#[test]
fn success_statuses_content_types_and_kept_headers() {
    let standin = start(|_| {});
    assert_eq!(Form::v1().field("success_action_status", "200").post(&standin).status, 200);
    let got = Form::v1().field("success_action_status", "201").post(&standin);
    assert_eq!((got.status, got.element("Key")), (201, "dir/a.txt"));
    assert_eq!(got.element("ETag"), "\"5D41402ABC4B2A76B9719D911017C592\"");
    assert_eq!(Form::v1().field("success_action_status", "999").post(&standin).status, 204);
    let form = Form::v1().field("Content-Type", "image/png").field("x-oss-object-acl", "private");
    form.field("x-oss-meta-a", "1").field("Cache-Control", "no-cache").post(&standin);
    let object = standin.object("dir/a.txt").unwrap();
    assert_eq!(
        (object.content_type.as_str(), object.acl.as_deref()),
        ("image/png", Some("private"))
    );
    let own = |name: &str, value: &str| (name.to_string(), value.to_string());
    assert_eq!(object.headers, [own("x-oss-meta-a", "1"), own("Cache-Control", "no-cache")]);
}

#[test]
fn forms_that_are_refused() {
    let standin = start(|_| {});
    let long = "k".repeat(1024);
    let extra = Form::v4().field("x-oss-object-acl", "public-read");
    let credential = |text: &str| {
        Form::v4().field("x-oss-credential", text).condition(json!(["starts-with", "$key", ""]))
    };
    let id = "LTAI5tExampleKeyId";
    let mut expired = Form::v4();
    expired.expiration = "2023-12-03T12:12:12Z".to_string();
    let mut stranger = Form::v4();
    stranger.secret = "other".to_string();
    let mut v1_stranger = Form::v1();
    v1_stranger.secret = "other".to_string();
    let mut key_behind = Form::v4().without("key");
    key_behind.after =
        "--BOUNDARY\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n".to_string();
    let cases = [
        (Form::v4().without("key"), 400, "InvalidArgument", ""),
        (key_behind, 400, "InvalidArgument", ""),
        (Form::v4().field("key", ""), 400, "InvalidObjectName", "0016-00000001"),
        (Form::v4().field("key", &long), 400, "InvalidObjectName", "0016-00000002"),
        (Form::v4().field("key", "/a"), 400, "InvalidObjectName", "0016-00000005"),
        (Form::v4().field("KEY", "b"), 400, "InvalidArgument", ""),
        (expired, 403, "AccessDenied", "0006-00000213"),
        (stranger, 403, "SignatureDoesNotMatch", "0002-00000705"),
        (v1_stranger, 403, "SignatureDoesNotMatch", "0002-00000705"),
        (extra, 403, "AccessDenied", "0006-00000228"),
        (Form::v4().condition(json!({"key": "b"})), 403, "AccessDenied", "0006-00000227"),
        (Form::v4().condition(json!({"callback": "b"})), 403, "AccessDenied", "0006-00000226"),
        (Form::v4().condition(json!(1)), 400, "InvalidPolicyDocument", "0006-00000222"),
        (Form::v4().without("x-oss-date"), 400, "InvalidArgument", ""),
        (Form::v4().field("x-oss-date", "2023"), 400, "InvalidArgument", ""),
        (
            Form::v4().field("x-oss-date", "20231204T000000Z"),
            400,
            "InvalidArgument",
            "0002-00000709",
        ),
        (Form::v4().field("x-oss-date", "20231203T122713Z"), 403, "RequestTimeTooSkewed", ""),
        (credential(id), 400, "InvalidArgument", "0002-00000710"),
        (
            credential(&format!("{id}/20231203/cn-hangzhou/oss/aws4_request")),
            400,
            "InvalidArgument",
            "0002-00000710",
        ),
        (
            credential(&format!("{id}/2023-12-03/cn-hangzhou/oss/aliyun_v4_request")),
            400,
            "InvalidArgument",
            "0002-00000709",
        ),
        (
            credential(&format!("{id}/20231203/oss-cn-hangzhou/oss/aliyun_v4_request")),
            400,
            "InvalidArgument",
            "",
        ),
        (
            credential("other/20231203/cn-hangzhou/oss/aliyun_v4_request"),
            403,
            "InvalidAccessKeyId",
            "0002-00000902",
        ),
        (Form::v4().field("x-oss-signature-version", "2"), 400, "InvalidArgument", "0002-00000701"),
        (Form::v4().without("x-oss-signature-version"), 400, "InvalidArgument", "0002-00000703"),
        (Form::v4().field("x-oss-signature", ""), 400, "InvalidArgument", "0002-00000704"),
        (Form::v1().field("OSSAccessKeyId", ""), 400, "InvalidArgument", "0002-00000707"),
        (Form::v1().field("OSSAccessKeyId", "x"), 403, "InvalidAccessKeyId", "0002-00000902"),
        (
            Form::v1().without("OSSAccessKeyId").field("Signature", "x"),
            400,
            "InvalidArgument",
            "0002-00000706",
        ),
        (Form::v1().field("policy", ""), 400, "InvalidArgument", "0006-00000205"),
        (Form::v1().field("x-oss-security-token", "t"), 403, "InvalidAccessKeyId", "0002-00000002"),
        (
            Form::v1().field("x-oss-forbid-overwrite", "abc"),
            400,
            "InvalidArgument",
            "0006-00000117",
        ),
        (Form::v1().field("x-oss-object-acl", "abc"), 400, "InvalidArgument", ""),
        (Form::v1().field("callback", "x123-*&"), 400, "InvalidArgument", "0007-00000002"),
    ];
    let count = cases.len();
    for (at, (form, status, code, ec)) in cases.into_iter().enumerate() {
        let got = form.post(&standin);
        assert_eq!(got.error(), (status, code, ec), "case {at}: {}", got.text());
        assert_eq!(got.header("access-control-allow-origin"), "*");
        assert_eq!(got.header("content-type"), "application/xml");
        assert_eq!(got.header("x-oss-ec"), ec);
    }
    assert_eq!(standin.keys(), [""; 0]);
    let posts = standin.posts();
    assert_eq!(posts.len(), count);
    assert_eq!((posts[0].status, posts[0].code.as_str()), (400, "InvalidArgument"));
    // A V4 signature without its version, and no signature at all.
    let form = Form::v4().without("x-oss-signature-version").field("x-oss-signature", "x");
    assert_eq!(form.post(&standin).error(), (400, "InvalidArgument", "0002-00000701"));
    let part = |name: &str| {
        format!("--BOUNDARY\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\na\r\n")
    };
    let anonymous = part("key") + &part("file") + "--BOUNDARY--\r\n";
    let got = post(&standin, anonymous.as_bytes());
    assert_eq!(got.error(), (403, "AccessDenied", "0003-00000001"));
}

#[test]
fn v1_can_be_switched_off() {
    let standin = start(|_| {});
    standin.faults().refuse_v1 = true;
    assert_eq!(Form::v1().post(&standin).error(), (403, "AccessDenied", "0002-00000080"));
    assert_eq!(Form::v4().post(&standin).status, 204);
    standin.faults().refuse_v1 = false;
    assert_eq!(Form::v1().post(&standin).status, 204);
}

#[test]
fn the_clock_decides() {
    let standin = start(|_| {});
    let mut form = Form::v4();
    form.expiration = "2024-12-03T13:12:12.000Z".to_string();
    for (now, status) in [(NOW - 901, 403), (NOW - 900, 204), (NOW + 7 * 86_400, 204)] {
        standin.set_clock(Some(now));
        assert_eq!(form.post(&standin).status, status);
    }
    standin.set_clock(Some(NOW + 7 * 86_400 + 1));
    let got = form.post(&standin);
    assert_eq!((got.status, got.element("Message")), (403, "Request has expired."));
    standin.set_clock(None);
    let got = form.post(&standin);
    assert_eq!((got.status, got.element("Message")), (403, "Request has expired."));
}

#[test]
fn temporary_credentials_need_their_token() {
    let standin = start(|options| options.security_token = Some("token".to_string()));
    let with = |token: &str| Form::v4().pinned("x-oss-security-token", token).post(&standin);
    assert_eq!(with("token").status, 204);
    assert_eq!(with("other").error(), (403, "InvalidSecurityToken", "0002-00000006"));
    assert_eq!(Form::v4().post(&standin).error(), (403, "InvalidAccessKeyId", "0002-00000902"));
    let unlisted = Form::v4().field("x-oss-security-token", "token").post(&standin);
    assert_eq!(unlisted.error(), (403, "AccessDenied", "0006-00000228"));
    let message = "Invalid according to Policy: Extra input fields: x-oss-security-token";
    assert_eq!(unlisted.element("Message"), message);
    assert_eq!(Form::v1().field("x-oss-security-token", "token").post(&standin).status, 204);
}

#[test]
fn sizes_and_overwriting() {
    let standin = start(|_| {});
    let range = |min: u64, max: u64| {
        Form::v4().condition(json!(["content-length-range", min, max])).post(&standin)
    };
    assert_eq!(range(5, 5).status, 204);
    let got = range(0, 4);
    assert_eq!(got.error(), (400, "EntityTooLarge", "0006-00000003"));
    assert_eq!((got.element("MaxSizeAllowed"), got.element("ProposedSize")), ("4", "5"));
    let got = range(6, 9);
    assert_eq!(got.error(), (400, "EntityTooSmall", "0006-00000004"));
    assert_eq!((got.element("MinSizeAllowed"), got.element("ProposedSize")), ("6", "5"));
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
    let mut form = Form::v4();
    form.after = "--BOUNDARY\r\nContent-Disposition: form-data; name=\"x-oss-object-acl\"\r\n\r\n\
                  public-read\r\n"
        .to_string();
    assert_eq!(form.post(&standin).status, 204);
    assert_eq!(standin.object("dir/a.txt").unwrap().acl, None);
}

#[test]
fn requests_that_are_no_forms() {
    let standin = start(|_| {});
    let got = exchange(&standin, &format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 2\r\n\r\nhi"));
    assert_eq!(got.error(), (400, "RequestIsNotMultiPartContent", ""));
    let multipart = "Content-Type: multipart/form-data\r\nContent-Length: 0\r\n\r\n";
    let got = exchange(&standin, &format!("POST / HTTP/1.1\r\n{HOST}{multipart}"));
    assert_eq!(got.error(), (400, "MalformedPOSTRequest", "0006-00000104"));
    let got = exchange(&standin, &format!("POST / HTTP/1.1\r\n{HOST}{MULTIPART}\r\n"));
    assert_eq!(got.error(), (411, "MissingContentLength", ""));
    assert_eq!(got.header("connection"), "close");
    let got = exchange(&standin, &format!("POST /key HTTP/1.1\r\n{HOST}Content-Length: 0\r\n\r\n"));
    assert_eq!(got.error(), (405, "MethodNotAllowed", ""));
    assert_eq!(exchange(&standin, &format!("GET / HTTP/1.1\r\n{HOST}\r\n")).status, 405);
    let big = "a".repeat(form::MAX_FIELDS_BYTES);
    let got = Form::v4().field("x-oss-meta-a", &big).post(&standin);
    assert_eq!(got.error(), (400, "MaxPOSTPreDataLengthExceededError", "0006-00000112"));
    let got = post(&standin, b"--BOUNDARY--\r\n");
    assert_eq!(got.error(), (400, "MalformedPOSTRequest", "0006-00000104"));
}

#[test]
fn a_connection_serves_more_than_one_request() {
    let standin = start(|_| {});
    let mut stream = connect(&standin);
    let body = Form::v4().body();
    let head =
        format!("POST / HTTP/1.1\r\n{HOST}{MULTIPART}Content-Length: {}\r\n\r\n", body.len());
    for _ in 0..2 {
        stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        assert_eq!(answer(&mut stream).status, 204);
    }
    let head = head.replace("HTTP/1.1", "HTTP/1.0");
    stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    let got = answer(&mut stream);
    assert_eq!((got.status, got.header("connection")), (204, "close"));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let mut stream = connect(&standin);
    let head = head.replace("HTTP/1.0\r\n", "HTTP/1.1\r\nExpect: 100-continue\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(answer(&mut stream).status, 100);
    stream.write_all(&body).unwrap();
    assert_eq!(answer(&mut stream).status, 204);
}

#[test]
fn a_callback_is_sent_signed_and_its_answer_passed_on() {
    let standin = start(|_| {});
    let (address, app) = app(GOOD);
    let url = format!("http://{address}/call%20back?id=1&t=%41");
    let template = "{\"object\":${object},\"size\":${size},\"mimeType\":${mimeType},\
                    \"width\":${imageInfo.width},\"user\":${x:user},\"reqId\":${reqId}}";
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x02\x80\0\0\x01\xe0\x08\x02\0\0\0";
    let form = Form::v4().callback(&url, template, true).field("x:user", "\"7\"");
    let got = form.file("a.png", "image/png", png).post(&standin);
    assert_eq!((got.status, got.text()), (200, "{\"a\":\"b\"}"));
    assert_eq!(got.header("content-type"), "application/json;charset=utf-8");
    let sent = app.join().unwrap();
    let record = &standin.callbacks()[0];
    assert_eq!((&record.raw, record.status, &record.error), (&sent, Some(200), &None));
    assert_eq!(record.answer, b"{\"a\":\"b\"}");
    let text = String::from_utf8(sent).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let id = got.header("x-oss-request-id");
    assert_eq!(
        body,
        format!(
            "{{\"object\":\"dir/a.txt\",\"size\":29,\"mimeType\":\"image/png\",\"width\":640,\
             \"user\":\"\\\"7\\\"\",\"reqId\":\"{id}\"}}"
        )
    );
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
    assert!(
        raw.starts_with(b"POST /x HTTP/1.1\r\nhost: host\r\n") && raw.ends_with(b"\r\n\r\nbody")
    );
}

#[test]
fn callbacks_that_fail_leave_the_object() {
    let answers = [
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n{}", "Error status : 502."),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "Error status : 302."),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "Response body is not valid json format.",
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\n{}",
            "Error status : 400.User server return too long content-length value.",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n{}",
            "Error status : 400.User server return too long content-length value.",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            "Error status : -1.OSS can not connect to your callbackUrl, please check it.",
        ),
        (
            "nonsense\r\n\r\n",
            "Error status : -1.OSS can not connect to your callbackUrl, please check it.",
        ),
    ];
    for (answer, message) in answers {
        let standin = start(|_| {});
        let (address, app) = app(answer);
        let got = Form::v4().callback(&format!("http://{address}"), "a=b", false).post(&standin);
        assert_eq!((got.status, got.element("Code")), (203, "CallbackFailed"), "{answer}");
        assert_eq!(got.element("Message"), message);
        assert_eq!(got.header("access-control-allow-origin"), "*");
        assert!(standin.object("dir/a.txt").is_some());
        let sent = String::from_utf8(app.join().unwrap()).unwrap();
        assert!(sent.starts_with("POST / HTTP/1.1\r\n"), "{sent}");
        assert_eq!(standin.callbacks()[0].error.as_deref(), Some(message));
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
    let (address, server) = app(GOOD);
    {
        let mut faults = standin.faults();
        faults.callback_http10 = true;
        faults.header_case = HeaderCase::Title;
        faults.callback_tamper = Some(Box::new(|_| b"forged=1".to_vec()));
        faults.callback_headers =
            vec![("X-OSS-Tag".into(), "OTHER".into()), ("a-b".into(), "1".into())];
        faults.callback_omit = vec!["date".to_string()];
        faults.pub_key_url = "http://evil.example/key.pem".to_string();
        faults.callback_pause = Duration::from_millis(1);
    }
    let form = Form::v4().callback(&format!("http://{address}/c"), "a=${object}", false);
    assert_eq!(form.post(&standin).status, 200);
    let sent = String::from_utf8(server.join().unwrap()).unwrap();
    assert!(sent.starts_with("POST /c HTTP/1.0\r\nHost: "), "{sent}");
    assert!(sent.contains("\r\nUser-Agent: ehttp-client/0.0.1\r\n"));
    assert!(sent.contains("\r\nX-Oss-Tag: OTHER\r\n") && sent.contains("\r\nA-B: 1\r\n"));
    assert!(!sent.contains("\r\nDate: ") && sent.ends_with("\r\n\r\nforged=1"));
    let valid = format!("\r\nAuthorization: {}\r\n", standin.sign("/c", b"forged=1"));
    assert!(sent.contains(&valid));
    let key_url = digest::base64(b"http://evil.example/key.pem");
    assert!(sent.contains(&format!("\r\nX-Oss-Pub-Key-Url: {key_url}\r\n")));

    *standin.faults() = Faults::default();
    standin.faults().callback_corrupt = Some(Box::new(|body| [&body[..], b"!"].concat()));
    let (address, server) = app(GOOD);
    let form = Form::v4().callback(&format!("http://{address}/c"), "a=${object}", false);
    assert_eq!(form.post(&standin).status, 200);
    let sent = String::from_utf8(server.join().unwrap()).unwrap();
    assert!(
        sent.contains(&standin.sign("/c", b"a=dir%2Fa.txt")) && sent.ends_with("a=dir%2Fa.txt!")
    );

    *standin.faults() = Faults::default();
    standin.faults().callback_fail = Some("Error status : 404.".to_string());
    let got = form.post(&standin);
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
    let sent = String::from_utf8(app.join().unwrap()).unwrap();
    assert!(sent.contains("\r\nhost: app.example\r\n"));
}

#[test]
fn objects_are_read_with_a_signed_header() {
    let standin = start(|options| options.security_token = Some("token".to_string()));
    standin.put("a b/ü.txt", b"hello", "text/plain");
    let request = |method: &str, path: &str, key: &str, secret: &str| {
        let canonical = format!(
            "{method}\n/examplebucket/{key}\n\nx-oss-content-sha256:UNSIGNED-PAYLOAD\n\
             x-oss-date:20231203T121212Z\nx-oss-security-token:token\n\n\nUNSIGNED-PAYLOAD"
        );
        let scope = "20231203/cn-hangzhou/oss/aliyun_v4_request";
        let hash = sign::sha256_hex(canonical.as_bytes());
        let text = format!("OSS4-HMAC-SHA256\n20231203T121212Z\n{scope}\n{hash}");
        let signature = sign::v4(secret, "20231203", "cn-hangzhou", &text);
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{HOST}x-oss-date: 20231203T121212Z\r\n\
             x-oss-security-token: token\r\nx-oss-content-sha256: UNSIGNED-PAYLOAD\r\n\
             Authorization: OSS4-HMAC-SHA256 \
             Credential=LTAI5tExampleKeyId/{scope},Signature={signature}\r\n\r\n"
        );
        let mut stream = connect(&standin);
        stream.write_all(request.as_bytes()).unwrap();
        if method == "HEAD" {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert_eq!(body, "");
            let status = head[9..12].parse().unwrap();
            return Got { status, headers: vec![], body: head.as_bytes().to_vec() };
        }
        answer(&mut stream)
    };
    let (path, secret) = ("a%20b/%C3%BC.txt", "exampleAccessKeySecret");
    let got = request("GET", &format!("/{path}"), path, secret);
    assert_eq!((got.status, got.text()), (200, "hello"));
    assert_eq!(got.header("etag"), "\"5D41402ABC4B2A76B9719D911017C592\"");
    assert_eq!(got.header("content-type"), "text/plain");
    let got = request("HEAD", &format!("/{path}"), path, secret);
    assert_eq!(got.status, 200);
    assert!(got.text().contains("\r\nContent-Length: 5\r\n"), "{}", got.text());
    assert_eq!(request("GET", "/none", "none", secret).error().1, "NoSuchKey");
    assert_eq!(request("HEAD", "/none", "none", secret).status, 404);
    assert_eq!(request("GET", "/none", "none", "other").error().1, "SignatureDoesNotMatch");
    assert_eq!(request("GET", "/b", "a", secret).status, 403);
    let anonymous = exchange(&standin, &format!("GET /none HTTP/1.1\r\n{HOST}\r\n"));
    assert_eq!(anonymous.error(), (403, "AccessDenied", "0003-00000001"));
    let reads = standin.reads();
    assert_eq!((reads.len(), reads[0].key.as_str(), reads[2].status), (7, "a b/ü.txt", 404));
    standin.faults().reads.push_back((503, "ServiceUnavailable".to_string()));
    assert_eq!(request("GET", "/none", "none", secret).error().1, "ServiceUnavailable");
    assert_eq!(request("GET", "/none", "none", secret).status, 404);
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

    let send = |form: Form| {
        let mut stream = connect(&standin);
        let body = form.body();
        let head =
            format!("POST / HTTP/1.1\r\n{HOST}{MULTIPART}Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body)?;
        try_answer(&mut stream)
    };
    let error = send(Form::v4()).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(standin.keys(), ["dir/a.txt"]);
    assert!(standin.remove("dir/a.txt"));

    let large = Form::v4().file("b.bin", "a/b", &vec![7; 8 << 20]);
    let error = send(large.clone()).err().unwrap();
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
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
    assert_eq!(standin.wait_for_posts(2, LONG).len(), 2);
    standin.faults().posts.push_back(PostFault::Stall(0, Some(Duration::from_millis(1))));
    assert_eq!(Form::v4().post(&standin).status, 204);
}

#[test]
fn the_key_host_serves_counts_and_breaks() {
    let standin = start(|_| {});
    let get = |path: &str| {
        let address = standin.key_origin();
        let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        try_answer(&mut stream)
    };
    let got = get(KEY_PATH).unwrap();
    assert_eq!((got.status, got.text()), (200, standin.public_key_pem()));
    assert_eq!(get("/other").unwrap().status, 404);
    assert_eq!(standin.key_requests(), [KEY_PATH, "/other"]);
    standin.faults().key = KeyFault::Status(503);
    assert_eq!(get(KEY_PATH).unwrap().status, 503);
    standin.faults().key = KeyFault::Redirect("http://evil/".to_string());
    let got = get(KEY_PATH).unwrap();
    assert_eq!((got.status, got.header("location")), (302, "http://evil/"));
    standin.faults().key = KeyFault::Oversized(100_000);
    assert_eq!(get(KEY_PATH).unwrap().body.len(), 100_000);
    standin.faults().key = KeyFault::Body("garbage".to_string());
    assert_eq!(get(KEY_PATH).unwrap().text(), "garbage");
    assert_eq!(get("/callback_pub_key_v2.pem").unwrap().text(), "garbage");
    standin.faults().key = KeyFault::Hang;
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| get(KEY_PATH).is_err());
        assert!(standin.wait_for_stalls(1, LONG));
        standin.release();
        assert!(hanging.join().unwrap());
    });
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
