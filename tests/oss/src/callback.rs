//! The upload callback: reads the parameter, fills in the template, sends the request, judges the
//! answer. Document: "Callback" (parameters, signature, answer) and "HTTP 203 errors".

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::digest::{base64, from_base64, percent_encode};
use crate::error::OssError;
use crate::http::{Headers, header, owned};
use crate::image::ImageInfo;

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
    /// path and query, at least `/`
    pub target: String,
}

impl Callback {
    pub fn parse(field: &str) -> Result<Callback, OssError> {
        let refused = |message: &str| OssError::argument(message).with("ArgumentName", "callback");
        if field.len() > MAX_PARAMETER_BYTES {
            return Err(refused("The callback parameter is too long, the limit is 5120 bytes."));
        }
        let bytes = from_base64(field).ok_or_else(|| {
            refused("The callback configuration is not base64 encoded.").ec("0007-00000002")
        })?;
        let not_json =
            || refused("The callback configuration is not json format.").ec("0007-00000003");
        let text = String::from_utf8(bytes).map_err(|_| not_json())?;
        let json: Value = serde_json::from_str(&text).map_err(|_| not_json())?;
        let map = json.as_object().ok_or_else(not_json)?;
        let string = |name: &str| match map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(refused(&format!("The callback parameter {name} is no string."))),
        };
        let url_list = string("callbackUrl")?.filter(|urls| !urls.is_empty());
        let url_list =
            url_list.ok_or_else(|| refused("The callback parameter callbackUrl is empty."))?;
        let urls: Option<Vec<Url>> = url_list.split(';').map(Url::parse).collect();
        let urls = urls.ok_or_else(|| {
            refused("The callback parameter callbackUrl is invalid.").ec("0007-00000004")
        })?;
        if urls.len() > MAX_URLS {
            let error = refused("The callback parameter callbackUrl has more than five URLs.");
            return Err(error.ec("0007-00000005"));
        }
        let body = string("callbackBody")?.filter(|body| !body.is_empty()).ok_or_else(|| {
            refused("The callback parameter callbackBody is empty.").ec("0007-00000011")
        })?;
        let json = match string("callbackBodyType")? {
            None | Some("application/x-www-form-urlencoded") => false,
            Some("application/json") => true,
            Some(_) => return Err(refused("The callback parameter callbackBodyType is invalid.")),
        };
        let sni = match map.get("callbackSNI") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(sni)) => *sni,
            Some(_) => return Err(refused("The callback parameter callbackSNI is no boolean.")),
        };
        let host = string("callbackHost")?.filter(|host| !host.is_empty()).map(str::to_string);
        Ok(Callback { urls, host, body: body.to_string(), json, sni })
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
        let (name, port) = match authority.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (authority, None),
        };
        let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let plain = path.bytes().all(|byte| byte > b' ' && byte != 0x7f);
        if name.is_empty() || !name.chars().all(good) || !plain {
            return None;
        }
        if let Some(port) = port {
            port.parse::<u16>().ok()?;
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        let (text, authority) = (text.to_string(), authority.to_string());
        Some(Url { text, https, authority, target: format!("{slash}{path}") })
    }

    pub fn host(&self) -> &str {
        self.authority.split(':').next().unwrap_or("")
    }

    fn port(&self) -> u16 {
        let port = self.authority.split_once(':').and_then(|(_, port)| port.parse().ok());
        port.unwrap_or(if self.https { 443 } else { 80 })
    }

    /// Where the stand-in connects: a route of the test's, or this machine. It asks no name server
    /// and never leaves the loopback interface.
    fn address(&self, routes: &[(String, SocketAddr)]) -> Option<SocketAddr> {
        if let Some((_, address)) = routes.iter().find(|(host, _)| host == self.host()) {
            return Some(*address).filter(|address| address.ip().is_loopback());
        }
        let ip = match self.host() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().ok()?,
        };
        (ip.is_loopback() && !self.https).then(|| SocketAddr::new(ip, self.port()))
    }
}

/// What `${name}` in a template stands for.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    pub bucket: String,
    pub object: String,
    pub etag: String,
    pub size: u64,
    pub mime_type: String,
    pub image: Option<ImageInfo>,
    pub crc64: u64,
    pub content_md5: String,
    pub client_ip: String,
    pub request_id: String,
    /// `x:name` and value, the form fields in lower case
    pub custom: Vec<(String, String)>,
}

enum Variable<'a> {
    Text(&'a str),
    Number(u64),
    Null,
}

impl Variables {
    fn value(&self, name: &str) -> Variable<'_> {
        let number = |number: Option<u64>| number.map_or(Variable::Null, Variable::Number);
        let image = self.image.as_ref();
        match name {
            "bucket" => Variable::Text(&self.bucket),
            "object" => Variable::Text(&self.object),
            "etag" => Variable::Text(&self.etag),
            "size" => Variable::Number(self.size),
            "mimeType" => Variable::Text(&self.mime_type),
            "imageInfo.height" => number(image.map(|image| image.height.into())),
            "imageInfo.width" => number(image.map(|image| image.width.into())),
            "imageInfo.format" => {
                image.map_or(Variable::Null, |image| Variable::Text(image.format))
            }
            "contentMd5" => Variable::Text(&self.content_md5),
            "clientIp" => Variable::Text(&self.client_ip),
            "reqId" => Variable::Text(&self.request_id),
            "operation" => Variable::Text("PostObject"),
            // `vpcId` is empty off a VPC; what nobody defined is empty as well.
            _ => {
                let custom = self.custom.iter().find(|(known, _)| known == name);
                Variable::Text(custom.map_or("", |(_, value)| value))
            }
        }
    }

    /// The template with every `${name}` replaced: url-encoded in a form, a JSON value in JSON.
    pub fn fill(&self, template: &str, json: bool, space_as_plus: bool) -> String {
        let mut out = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, behind)) = after.split_once('}') else { break };
            out.push_str(before);
            let crc64 = self.crc64.to_string();
            let value = if name == "crc64" { Variable::Text(&crc64) } else { self.value(name) };
            out.push_str(&match (value, json) {
                (Variable::Text(text), true) => Value::from(text).to_string(),
                (Variable::Text(text), false) if space_as_plus => {
                    percent_encode(text, b" ").replace(' ', "+")
                }
                (Variable::Text(text), false) => percent_encode(text, b""),
                (Variable::Number(number), _) => number.to_string(),
                (Variable::Null, true) => "null".to_string(),
                (Variable::Null, false) => String::new(),
            });
            rest = behind;
        }
        out + rest
    }
}

/// How the names of the request's headers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    #[default]
    Lower,
    Title,
}

/// A request on its way to the callback server.
pub struct Outgoing {
    pub target: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub http10: bool,
    pub case: HeaderCase,
}

impl Outgoing {
    pub fn head(&self) -> Vec<u8> {
        let version = if self.http10 { "1.0" } else { "1.1" };
        let mut head = format!("POST {} HTTP/{version}\r\n", self.target);
        for (name, value) in &self.headers {
            let name = match self.case {
                HeaderCase::Lower => name.to_ascii_lowercase(),
                HeaderCase::Title => title_case(name),
            };
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

fn title_case(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + &rest.to_ascii_lowercase()
    });
    words.collect::<Vec<_>>().join("-")
}

/// How long OSS waits, and what tests change about the way there.
#[derive(Clone)]
pub struct Transport {
    pub timeout: Duration,
    pub pause: Duration,
    pub routes: Vec<(String, SocketAddr)>,
}

#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: Option<u16>,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn content_type(&self) -> &str {
        header(&self.headers, "content-type").unwrap_or("application/json")
    }
}

/// Sends one request and reads the answer as far as it came. The error is the `CallbackFailed`
/// message and EC number that OSS would give, the answer what was seen of it.
pub fn send(
    url: &Url,
    sni: bool,
    request: &Outgoing,
    transport: &Transport,
) -> (Answer, Result<(), (String, &'static str)>) {
    let mut answer = Answer::default();
    let failed = |text: &str| Err((text.to_string(), "0007-00000203"));
    if url.https && !sni {
        // A virtual host behind TLS refuses a client that does not name it.
        return (answer, failed("Error status : 502."));
    }
    let begun = Instant::now();
    let Some(address) = url.address(&transport.routes) else {
        return (answer, failed(UNREACHABLE));
    };
    let Ok(mut stream) = TcpStream::connect_timeout(&address, transport.timeout) else {
        return (answer, failed(UNREACHABLE));
    };
    let mut exchange = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(transport.timeout))?;
        if transport.pause.is_zero() {
            stream.write_all(&[request.head(), request.body.clone()].concat())?;
        } else {
            stream.write_all(&request.head())?;
            std::thread::sleep(transport.pause);
            stream.write_all(&request.body)?;
        }
        read_answer(&stream, begun + transport.timeout, &mut answer)
    };
    let result = exchange();
    let judged = match result {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            let (took, limit) = (begun.elapsed().as_millis(), transport.timeout.as_millis());
            let message = format!(
                "Error status : -1 {address} reply timeout, cost:{took}ms, timeout:{limit}ms \
                 (err -4, errno115)"
            );
            Err((message, "0007-00000202"))
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => failed(TOO_LONG),
        Err(_) => failed(UNREACHABLE),
        Ok(()) => judge(&answer),
    };
    (answer, judged)
}

const UNREACHABLE: &str =
    "Error status : -1.OSS can not connect to your callbackUrl, please check it.";
const TOO_LONG: &str = "Error status : 400.User server return too long content-length value.";

/// "Callback", return: status 200 and a JSON body. A byte order mark makes it something else.
fn judge(answer: &Answer) -> Result<(), (String, &'static str)> {
    let status = answer.status.unwrap_or(0);
    if status != 200 {
        return Err((format!("Error status : {status}."), "0007-00000203"));
    }
    let text = std::str::from_utf8(&answer.body).ok();
    match text.map(serde_json::from_str::<Value>) {
        Some(Ok(_)) => Ok(()),
        _ => Err(("Response body is not valid json format.".to_string(), "0007-00000205")),
    }
}

/// `InvalidData` for an answer without a good `Content-Length`.
fn read_answer(mut stream: &TcpStream, deadline: Instant, answer: &mut Answer) -> io::Result<()> {
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
                answer.status = response.code;
                answer.headers = owned(response.headers);
                let length = header(&answer.headers, "content-length");
                let length = length.and_then(|length| length.parse::<usize>().ok());
                let length = length.filter(|length| *length <= MAX_ANSWER_BYTES);
                if answer.status != Some(200) {
                    return Ok(());
                }
                wanted = Some(head + length.ok_or(ErrorKind::InvalidData)?);
                bytes.drain(..head);
                wanted = wanted.map(|wanted| wanted - head);
            }
            Ok(httparse::Status::Partial) if bytes.len() <= MAX_ANSWER_HEAD_BYTES => {}
            _ => return Err(ErrorKind::Other.into()),
        }
    }
    bytes.truncate(wanted.unwrap_or(0));
    answer.body = bytes;
    Ok(())
}

/// The headers of a real callback in the order of "Callback", step 3, and of captures.
pub struct Signed<'a> {
    pub host: &'a str,
    pub authorization: String,
    pub content_md5: [u8; 16],
    pub content_type: &'a str,
    pub date: String,
    pub http10: bool,
    pub bucket: &'a str,
    pub pub_key_url: &'a str,
    pub request_id: &'a str,
    pub length: usize,
}

impl Signed<'_> {
    pub fn headers(self) -> Headers {
        // The user agents of captures of 2015 and of today.
        let agent = if self.http10 { "ehttp-client/0.0.1" } else { "aliyun-oss-callback" };
        let length = self.length.to_string();
        let (md5, key_url) = (base64(&self.content_md5), base64(self.pub_key_url.as_bytes()));
        let headers = [
            ("host", self.host),
            ("connection", "close"),
            ("content-length", &length),
            ("authorization", &self.authorization),
            ("content-md5", &md5),
            ("content-type", self.content_type),
            ("date", &self.date),
            ("user-agent", agent),
            ("x-oss-additional-headers", ""),
            ("x-oss-bucket", self.bucket),
            ("x-oss-owner", "1234567890123456"),
            ("x-oss-pub-key-url", &key_url),
            ("x-oss-request-id", self.request_id),
            ("x-oss-requester", "1234567890123456"),
            ("x-oss-signature-version", "1.0"),
            ("x-oss-tag", "CALLBACK"),
        ];
        headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(callback.body, "{\"mimeType\":${mimeType},\"size\":${size}}");
        assert!(callback.json && callback.sni);
        let callback = parse(
            r#"{"callbackUrl":"http://a.example/x;https://b.example:8443","callbackBody":"a"}"#,
        )
        .unwrap();
        assert_eq!(callback.urls[1].target, "/");
        assert_eq!((callback.urls[0].port(), callback.urls[1].port()), (80, 8443));
        assert!(!callback.json && !callback.sni);
        assert_eq!(callback.content_type(), "application/x-www-form-urlencoded");
    }

    #[test]
    fn bad_parameters() {
        let six = ["http://a.example"; 6].join(";");
        let cases = [
            ("hello".to_string(), Some("0007-00000003")),
            ("[]".to_string(), Some("0007-00000003")),
            (r#"{"callbackBody":"{"a":1}"}"#.to_string(), Some("0007-00000003")),
            (r#"{"callbackBody":"a"}"#.to_string(), None),
            (r#"{"callbackUrl":"","callbackBody":"a"}"#.to_string(), None),
            (r#"{"callbackUrl":["a"],"callbackBody":"a"}"#.to_string(), None),
            (r#"{"callbackUrl":"a:test","callbackBody":"a"}"#.to_string(), Some("0007-00000004")),
            (format!(r#"{{"callbackUrl":"{six}","callbackBody":"a"}}"#), Some("0007-00000005")),
            (r#"{"callbackUrl":"http://a"}"#.to_string(), Some("0007-00000011")),
            (r#"{"callbackUrl":"http://a","callbackBody":""}"#.to_string(), Some("0007-00000011")),
            (r#"{"callbackUrl":"http://a","callbackBody":[1]}"#.to_string(), None),
            (
                r#"{"callbackUrl":"http://a","callbackBody":"a","callbackBodyType":"text/plain"}"#
                    .to_string(),
                None,
            ),
            (
                r#"{"callbackUrl":"http://a","callbackBody":"a","callbackSNI":"true"}"#.to_string(),
                None,
            ),
        ];
        for (json, ec) in cases {
            let error = parse(&json).expect_err(&json);
            let code = error.code.as_str();
            assert_eq!((error.status, code, error.ec), (400, "InvalidArgument", ec), "{json}");
        }
        assert_eq!(Callback::parse("x123-*&").unwrap_err().ec, Some("0007-00000002"));
        let long = format!(r#"{{"callbackUrl":"http://a","callbackBody":"{}"}}"#, "a".repeat(4000));
        assert!(parse(&long).unwrap_err().message.contains("too long"));
    }

    #[test]
    fn urls() {
        let target = |text: &str| Url::parse(text).map(|url| url.target);
        assert_eq!(target("http://a.example").as_deref(), Some("/"));
        assert_eq!(target("http://a.example?b=/c").as_deref(), Some("/?b=/c"));
        assert_eq!(target("http://a.example/%E4?b=%20#c").as_deref(), Some("/%E4?b=%20"));
        assert_eq!(target("a.example/x?u=http://b").as_deref(), Some("/x?u=http://b"));
        for bad in
            ["", "http://", "ftp://a", "http://[::1]/", "http://a:x/", "http://a/ b", "http://u@a/"]
        {
            assert_eq!(target(bad), None, "{bad}");
        }
    }

    #[test]
    fn nothing_leaves_this_machine() {
        let address =
            |text: &str, routes: &[(String, SocketAddr)]| Url::parse(text).unwrap().address(routes);
        assert_eq!(address("http://127.0.0.1:80/", &[]), Some(([127, 0, 0, 1], 80).into()));
        assert_eq!(address("http://localhost:81/", &[]), Some(([127, 0, 0, 1], 81).into()));
        assert_eq!(address("http://192.0.2.1/", &[]), None);
        assert_eq!(address("http://app.example/", &[]), None);
        assert_eq!(address("https://127.0.0.1/", &[]), None);
        let routes = [("app.example".to_string(), SocketAddr::from(([127, 0, 0, 1], 9)))];
        assert_eq!(address("https://app.example/", &routes), Some(routes[0].1));
        let routes = [("app.example".to_string(), SocketAddr::from(([192, 0, 2, 1], 9)))];
        assert_eq!(address("https://app.example/", &routes), None);
    }

    #[test]
    fn templates() {
        let variables = Variables {
            bucket: "b".into(),
            object: "a b/\"ü\"+".into(),
            size: 5,
            mime_type: "text/plain".into(),
            crc64: u64::MAX,
            custom: vec![("x:var1".into(), "v&1".into())],
            ..Variables::default()
        };
        let form = "bucket=${bucket}&object=${object}&size=${size}&mimeType=${mimeType}\
                    &h=${imageInfo.height}&f=${imageInfo.format}&v=${x:var1}&n=${x:none}&c=${crc64}\
                    &o=${operation}&u=${unknown}&e=${";
        assert_eq!(
            variables.fill(form, false, false),
            "bucket=b&object=a%20b%2F%22%C3%BC%22%2B&size=5&mimeType=text%2Fplain&h=&f=&v=v%261&n=\
             &c=18446744073709551615&o=PostObject&u=&e=${"
        );
        assert_eq!(variables.fill("${object}", false, true), "a+b%2F%22%C3%BC%22%2B");
        let json = "{\"object\":${object},\"size\":${size},\"h\":${imageInfo.height},\
                    \"f\":${imageInfo.format},\"v\":${x:var1},\"n\":${x:none},\"c\":${crc64}}";
        let filled = variables.fill(json, true, false);
        assert_eq!(
            filled,
            "{\"object\":\"a b/\\\"ü\\\"+\",\"size\":5,\"h\":null,\"f\":null,\"v\":\"v&1\",\
             \"n\":\"\",\
             \"c\":\"18446744073709551615\"}"
        );
        let image = Some(ImageInfo { width: 640, height: 480, format: "png" });
        let variables = Variables { image, ..variables };
        let template = "${imageInfo.width} ${imageInfo.height} ${imageInfo.format}";
        assert_eq!(variables.fill(template, false, false), "640 480 png");
        assert_eq!(variables.fill(template, true, false), "640 480 \"png\"");
    }

    #[test]
    fn answers_are_judged() {
        let judge = |status, body: &[u8]| {
            let answer = Answer { status: Some(status), body: body.to_vec(), headers: vec![] };
            super::judge(&answer).map_err(|(message, _)| message)
        };
        assert_eq!(judge(200, b"{\"a\":\"b\"}"), Ok(()));
        assert_eq!(judge(200, b" {}\n"), Ok(()));
        assert_eq!(judge(502, b"{}"), Err("Error status : 502.".to_string()));
        assert_eq!(judge(204, b""), Err("Error status : 204.".to_string()));
        let not_json = Err("Response body is not valid json format.".to_string());
        for body in [&b""[..], b"ok", b"\xef\xbb\xbf{}", b"{\"a\":\"\xff\"}", b"{} {}", b"{'a':1}"]
        {
            assert_eq!(judge(200, body), not_json, "{body:?}");
        }
    }

    #[test]
    fn names_in_title_case() {
        assert_eq!(title_case("x-oss-pub-key-url"), "X-Oss-Pub-Key-Url");
        assert_eq!(title_case("content-MD5"), "Content-Md5");
    }
}
