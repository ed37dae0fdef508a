//! Just enough of an HTTP client to send what no library would.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Far longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer, header names in lower case.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// The body, which must be JSON.
    pub fn json(&self) -> Value {
        let body = serde_json::from_slice(&self.body);
        body.unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// Status and word of the response to a callback, or of a refusal: `200 OK`, `400 token is
    /// missing`.
    pub fn verdict(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let word = body["reason"].as_str().or(body["Status"].as_str());
        format!("{} {}", self.status, word.unwrap_or_default())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What the first element of this name holds, where the body is XML.
    pub fn element(&self, name: &str) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once("</")?.0.to_owned())
    }
}

/// Sends `METHOD TARGET` with headers and body on a connection of its own.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut message = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in headers {
        message += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || method == "POST" {
        message += &format!("Content-Length: {}\r\n", body.len());
    }
    message += "Connection: close\r\n\r\n";
    send(address, &[message.as_bytes(), body].concat(), method == "HEAD").expect("an answer")
}

/// Sends bytes as they are and reads one answer; none if the connection ends without one.
pub fn send(address: SocketAddr, message: &[u8], head_only: bool) -> Option<Reply> {
    let mut connection = Connection::open(address)?;
    connection.send(message);
    read_reply(&mut connection.0, head_only)
}

/// A connection for one request after the other. Both kinds of socket are read as files.
pub struct Connection(BufReader<File>);

impl Connection {
    pub fn open(address: SocketAddr) -> Option<Connection> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Connection(BufReader::new(OwnedFd::from(stream).into())))
    }

    /// To the Unix socket with this path.
    pub fn unix(path: &Path) -> Option<Connection> {
        let stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Connection(BufReader::new(OwnedFd::from(stream).into())))
    }

    /// A new one, with bytes on their way.
    pub fn begin(address: SocketAddr, message: &[u8]) -> Connection {
        let mut connection = Connection::open(address).expect("a connection");
        connection.send(message);
        connection
    }

    /// As far as the server takes them: it may answer and close before it has read all.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes);
    }

    /// None if the connection ends before the answer is whole.
    pub fn reply(&mut self) -> Option<Reply> {
        read_reply(&mut self.0, false)
    }

    /// The same after a request.
    pub fn ask(&mut self, message: &[u8]) -> Option<Reply> {
        self.0.get_mut().write_all(message).ok()?;
        self.reply()
    }

    /// Whether nothing comes before the server ends the connection.
    pub fn is_at_its_end(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }
}

/// Reads one answer (never chunked: this server always says its length).
pub fn read_reply(stream: &mut impl Read, head_only: bool) -> Option<Reply> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        // Not `read`, which a signal may interrupt.
        stream.read_exact(&mut byte).ok()?;
        if head.len() > 65_536 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; if head_only { 0 } else { length }];
    stream.read_exact(&mut body).ok()?;
    Some(Reply { status, headers, body })
}

/// Posts a form as a browser does: the fields in order, then the file.
pub fn post_form(url: &str, fields: &[(&str, &str)], file: (&str, &str, &[u8])) -> Reply {
    const BOUNDARY: &str = "----support7MA4YWxkTrZu0gW";
    let address = url.strip_prefix("http://").expect("http").trim_end_matches('/');
    let mut body = Vec::new();
    for (name, value) in fields {
        let part = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
        body.extend_from_slice(part.as_bytes());
    }
    let (filename, content_type, bytes) = file;
    let part = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\
         Content-Type: {content_type}\r\n\r\n"
    );
    body.extend_from_slice(part.as_bytes());
    body.extend_from_slice(bytes);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    let headers = [("Content-Type", content_type.as_str())];
    request(address.parse().expect("an address"), "POST", "/", &headers, &body)
}

/// Uploads with the `fields` of a policy after `change` (an empty value takes a field away).
pub fn upload(policy: &Value, name: &str, bytes: &[u8], change: &[(&str, &str)]) -> Reply {
    let fields = policy["fields"].as_object().expect("a policy");
    let mut fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (&**name, value.as_str().expect("text"))).collect();
    for (name, value) in change {
        fields.retain(|(field, _)| field != name);
        if !value.is_empty() {
            fields.push((name, value));
        }
    }
    post_form(policy["url"].as_str().expect("a url"), &fields, (name, "text/plain", bytes))
}
