//! The upload callback: reads the parameter, fills in the template, sends the request, judges the
//! answer. Document: "Callback" (parameters, signature, answer) and "HTTP 203 errors".

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::CallbackRecord;
use crate::digest::{from_base64, percent_encode};
use crate::error::OssError;
use crate::http::{header, owned};

/// "Callback": the parameter, still in base64, holds at most 5 KB.
const MAX_PARAMETER_BYTES: usize = 5 << 10;
const MAX_URLS: usize = 5;
/// "HTTP 203 errors": an answer has a `Content-Length` of at most 1 MB.
const MAX_ANSWER_BYTES: usize = 1 << 20;
const MAX_ANSWER_HEAD_BYTES: usize = 64 << 10;

/// The decoded `callback` field.
#[derive(Debug)]
pub struct Callback {
    pub urls: Vec<Url>,
    pub host: Option<String>,
    pub body: String,
    pub json: bool,
    pub sni: bool,
}

/// A callback URL, kept as it was given: OSS neither decodes nor normalises it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub text: String,
    pub https: bool,
    /// host and port as they stand in the URL
    pub authority: String,
    pub host: String,
    port: u16,
    /// path and query, at least `/`
    pub target: String,
}

impl Callback {
    pub fn parse(field: &str) -> Result<Callback, OssError> {
        let refused =
            |ec, why: String| OssError::argument(ec, why).with("ArgumentName", "callback");
        let wrong = |ec, name: &str, why: &str| {
            refused(ec, format!("The callback parameter {name} is {why}."))
        };
        if field.len() > MAX_PARAMETER_BYTES {
            let message = "The callback parameter is too long, the limit is 5120 bytes.";
            return Err(refused("", message.to_string()));
        }
        let not =
            |ec, what: &str| refused(ec, format!("The callback configuration is not {what}."));
        let bytes = from_base64(field).ok_or(not("0007-00000002", "base64 encoded"))?;
        let json: Option<Value> = serde_json::from_slice(&bytes).ok();
        let map = json.as_ref().and_then(Value::as_object);
        let map = map.ok_or(not("0007-00000003", "json format"))?;
        let string = |name: &str| match map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(wrong("", name, "no string")),
        };
        let url_list = string("callbackUrl")?.unwrap_or("");
        let body = string("callbackBody")?.unwrap_or("");
        if url_list.is_empty() {
            return Err(wrong("", "callbackUrl", "empty"));
        }
        let urls: Option<Vec<Url>> = url_list.split(';').map(Url::parse).collect();
        let urls = urls.ok_or(wrong("0007-00000004", "callbackUrl", "invalid"))?;
        if urls.len() > MAX_URLS {
            let message = "The callback parameter callbackUrl has more than five URLs.";
            return Err(refused("0007-00000005", message.to_string()));
        }
        if body.is_empty() {
            return Err(wrong("0007-00000011", "callbackBody", "empty"));
        }
        let json = match string("callbackBodyType")? {
            None | Some("application/x-www-form-urlencoded") => false,
            Some("application/json") => true,
            Some(_) => return Err(wrong("", "callbackBodyType", "invalid")),
        };
        let sni = match map.get("callbackSNI") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(sni)) => *sni,
            Some(_) => return Err(wrong("", "callbackSNI", "no boolean")),
        };
        let host = string("callbackHost")?.filter(|host| !host.is_empty());
        Ok(Callback { urls, host: host.map(str::to_string), body: body.to_string(), json, sni })
    }

    pub fn content_type(&self) -> &'static str {
        if self.json { "application/json" } else { "application/x-www-form-urlencoded" }
    }
}

impl Url {
    /// `None` for what is no http or https URL with an IPv4 host or a name. Without a scheme it is
    /// http, as in the examples of the document.
    pub fn parse(text: &str) -> Option<Url> {
        let (https, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, _)) if !scheme.contains(['/', '?']) => return None,
            _ => (false, text),
        };
        let rest = rest.split('#').next().unwrap_or(rest);
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let port = if https { "443" } else { "80" };
        let (host, port) = authority.split_once(':').unwrap_or((authority, port));
        let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let plain = path.bytes().all(|byte| byte > b' ' && byte != 0x7f);
        let port = port.parse().ok()?;
        if host.is_empty() || !host.chars().all(good) || !plain {
            return None;
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        let (text, authority, host) = (text.into(), authority.into(), host.into());
        Some(Url { text, https, authority, host, port, target: format!("{slash}{path}") })
    }

    /// Where the stand-in connects: a route of the test's, or this machine. It asks no name server
    /// and never leaves the loopback interface.
    fn address(&self, routes: &[(String, SocketAddr)]) -> Option<SocketAddr> {
        if let Some((_, address)) = routes.iter().find(|(host, _)| *host == self.host) {
            return Some(*address).filter(|address| address.ip().is_loopback());
        }
        let ip = match self.host.as_str() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().ok()?,
        };
        (ip.is_loopback() && !self.https).then(|| SocketAddr::new(ip, self.port))
    }
}

/// The template with every `${name}` replaced by the text, number or null of an object's member:
/// url-encoded in a form, a JSON value in JSON.
pub fn fill(template: &str, json: bool, space_as_plus: bool, variables: &Value) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, behind)) = after.split_once('}') else { break };
        out.push_str(before);
        // `vpcId` is empty off a VPC; what nobody defined is empty as well.
        let empty = Value::from("");
        out.push_str(&match variables.get(name).unwrap_or(&empty) {
            value if json => value.to_string(),
            Value::String(text) if space_as_plus => percent_encode(text).replace("%20", "+"),
            Value::String(text) => percent_encode(text),
            Value::Null => String::new(),
            number => number.to_string(),
        });
        rest = behind;
    }
    out + rest
}

/// Sends the request that a record holds and adds the answer, as far as it came.
pub fn send(
    url: &Url,
    sni: bool,
    timeout: Duration,
    routes: &[(String, SocketAddr)],
    record: &mut CallbackRecord,
) -> Result<(), OssError> {
    let failed = |message: &str| Err(failed("0007-00000203", message));
    if url.https && !sni {
        // A virtual host behind TLS refuses a client that does not name it.
        return failed("Error status : 502.");
    }
    let begun = Instant::now();
    let Some(address) = url.address(routes) else { return failed(UNREACHABLE) };
    let Ok(mut stream) = TcpStream::connect_timeout(&address, timeout) else {
        return failed(UNREACHABLE);
    };
    let mut exchange = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        stream.write_all(&record.raw)?;
        read_answer(&stream, begun + timeout, record)
    };
    match exchange() {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            let (took, limit) = (begun.elapsed().as_millis(), timeout.as_millis());
            let message = format!(
                "Error status : -1 {address} reply timeout, cost:{took}ms, timeout:{limit}ms \
                 (err -4, errno115)"
            );
            Err(self::failed("0007-00000202", &message))
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => failed(TOO_LONG),
        Err(_) => failed(UNREACHABLE),
        Ok(()) => judge(record),
    }
}

const UNREACHABLE: &str =
    "Error status : -1.OSS can not connect to your callbackUrl, please check it.";
const TOO_LONG: &str = "Error status : 400.User server return too long content-length value.";

/// "Callback", return: status 200 and a JSON body. A byte order mark makes it something else.
fn judge(record: &CallbackRecord) -> Result<(), OssError> {
    let status = record.status.unwrap_or(0);
    if status != 200 {
        return Err(failed("0007-00000203", &format!("Error status : {status}.")));
    }
    match serde_json::from_slice::<Value>(&record.answer) {
        Ok(_) => Ok(()),
        Err(_) => Err(failed("0007-00000205", "Response body is not valid json format.")),
    }
}

/// What the browser gets, a 203.
pub fn failed(ec: &'static str, message: &str) -> OssError {
    OssError::new(203, "CallbackFailed", message).ec(ec)
}

/// `InvalidData` for an answer without a good `Content-Length`.
fn read_answer(
    mut stream: &TcpStream,
    deadline: Instant,
    record: &mut CallbackRecord,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    let mut wanted = None;
    while wanted.is_none_or(|wanted| bytes.len() < wanted) {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.ok_or(ErrorKind::TimedOut)?))?;
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..read]);
        if wanted.is_some() {
            continue;
        }
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&bytes) {
            Ok(httparse::Status::Complete(head)) => {
                record.status = response.code;
                record.answer_headers = owned(response.headers);
                if record.status != Some(200) {
                    return Ok(());
                }
                let length = header(&record.answer_headers, "content-length");
                let length = length.and_then(|length| length.parse::<usize>().ok());
                let length = length.filter(|length| *length <= MAX_ANSWER_BYTES);
                wanted = Some(length.ok_or(ErrorKind::InvalidData)?);
                bytes.drain(..head);
            }
            Ok(httparse::Status::Partial) if bytes.len() <= MAX_ANSWER_HEAD_BYTES => {}
            _ => return Err(ErrorKind::Other.into()),
        }
    }
    bytes.truncate(wanted.unwrap_or(0));
    record.answer = bytes;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::base64;

    fn parse(json: &str) -> Result<Callback, OssError> {
        Callback::parse(&base64(json.as_bytes()))
    }

    #[test]
    fn parameters_of_the_document() {
        let callback = parse(
            r#"{"callbackUrl":"121.101.166.30/test.php",
            "callbackHost":"oss-cn-hangzhou.aliyuncs.com",
            "callbackBody":"{\"mimeType\":${mimeType},\"size\":${size}}",
            "callbackBodyType":"application/json","callbackSNI":true}"#,
        )
        .unwrap();
        assert_eq!(callback.urls[0].authority, "121.101.166.30");
        assert_eq!(callback.host.as_deref(), Some("oss-cn-hangzhou.aliyuncs.com"));
        assert_eq!(callback.body, r#"{"mimeType":${mimeType},"size":${size}}"#);
        assert!(callback.json && callback.sni);
        let urls = "http://a.example/x;https://b.example:8443";
        let callback = parse(&format!(r#"{{"callbackUrl":"{urls}","callbackBody":"a"}}"#)).unwrap();
        assert_eq!(callback.urls[1].target, "/");
        assert_eq!((callback.urls[0].port, callback.urls[1].port), (80, 8443));
        assert!(!callback.json && !callback.sni);
        assert_eq!(callback.content_type(), "application/x-www-form-urlencoded");
    }

    #[test]
    fn bad_parameters() {
        let six =
            format!(r#"{{"callbackUrl":"{}","callbackBody":"a"}}"#, ["http://a"; 6].join(";"));
        let more = |more: &str| {
            format!(r#"{{"callbackUrl":"http://a","callbackBody":"a","callback{more}}}"#)
        };
        for (json, ec) in [
            ("hello", "0007-00000003"),
            ("[]", "0007-00000003"),
            (r#"{"callbackBody":"{"a":1}"}"#, "0007-00000003"),
            (r#"{"callbackBody":"a"}"#, ""),
            (r#"{"callbackUrl":"","callbackBody":"a"}"#, ""),
            (r#"{"callbackUrl":["a"],"callbackBody":"a"}"#, ""),
            (r#"{"callbackUrl":"a:test","callbackBody":"a"}"#, "0007-00000004"),
            (&six, "0007-00000005"),
            (r#"{"callbackUrl":"http://a"}"#, "0007-00000011"),
            (r#"{"callbackUrl":"http://a","callbackBody":""}"#, "0007-00000011"),
            (r#"{"callbackUrl":"http://a","callbackBody":[1]}"#, ""),
            (&more(r#"BodyType":"text/plain""#), ""),
            (&more(r#"SNI":"true""#), ""),
        ] {
            let error = parse(json).expect_err(json);
            let code = error.code.as_str();
            assert_eq!((error.status, code, error.ec), (400, "InvalidArgument", ec), "{json}");
        }
        let long = more(&format!(r#"Host":"{}""#, "a".repeat(4000)));
        assert!(parse(&long).unwrap_err().message.contains("too long"));
    }

    #[test]
    fn urls() {
        for (text, target) in [
            ("http://a.example", "/"),
            ("http://a.example?b=/c", "/?b=/c"),
            ("http://a.example/%E4?b=%20#c", "/%E4?b=%20"),
            ("a.example/x?u=http://b", "/x?u=http://b"),
        ] {
            assert_eq!(Url::parse(text).unwrap().target, target);
        }
        for bad in
            ["", "http://", "ftp://a", "http://[::1]/", "http://a:x/", "http://a/ b", "http://u@a/"]
        {
            assert_eq!(Url::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn nothing_leaves_this_machine() {
        let routes = [
            ("app.example".to_string(), SocketAddr::from(([127, 0, 0, 1], 9))),
            ("far.example".to_string(), SocketAddr::from(([192, 0, 2, 1], 9))),
        ];
        for (text, port) in [
            ("http://127.0.0.1:80/", Some(80)),
            ("http://localhost:81/", Some(81)),
            ("http://192.0.2.1/", None),
            ("http://other.example/", None),
            ("https://127.0.0.1/", None),
            ("https://app.example/", Some(9)),
            ("https://far.example/", None),
        ] {
            let expected = port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            assert_eq!(Url::parse(text).unwrap().address(&routes), expected, "{text}");
        }
    }

    #[test]
    fn templates() {
        let variables = serde_json::json!({
            "object": "a b/\"ü\"+", "size": 5, "imageInfo.height": null, "imageInfo.width": 640,
            "x:var1": "v&1",
        });
        let fill = |template: &str, json, plus| super::fill(template, json, plus, &variables);
        let form = "o=${object}&s=${size}&h=${imageInfo.height}&w=${imageInfo.width}&v=${x:var1}\
                    &n=${x:none}&u=${unknown}&e=${";
        assert_eq!(
            fill(form, false, false),
            "o=a%20b%2F%22%C3%BC%22%2B&s=5&h=&w=640&v=v%261&n=&u=&e=${"
        );
        assert_eq!(fill("${object}", false, true), "a+b%2F%22%C3%BC%22%2B");
        assert_eq!(
            fill(
                r#"{"o":${object},"s":${size},"h":${imageInfo.height},"n":${x:none}}"#,
                true,
                false
            ),
            r#"{"o":"a b/\"ü\"+","s":5,"h":null,"n":""}"#
        );
    }
}
