//! HTTP on a socket: reads request heads and bodies, writes answers. No OSS rules here.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 100;
/// How long a silent client keeps its thread.
pub const IDLE: Duration = Duration::from_secs(60);

pub type Headers = Vec<(String, String)>;

pub type Pairs<'a> = &'a [(String, String)];

/// The first value of a header, or of a form's field, its name in any case.
pub fn header<'a>(headers: Pairs<'a>, name: &str) -> Option<&'a str> {
    let mut headers = headers.iter();
    headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

#[derive(Clone, Debug)]
pub struct Head {
    pub method: String,
    pub target: String,
    pub headers: Headers,
    pub close: bool,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// `None` where there is none, or it is no number.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }
}

/// Reads one request head and not a byte more, so that what follows stays in the kernel: a socket
/// closed over unread bytes is reset, which one of the faults wants. `None`: the client left.
pub fn read_head(mut stream: &TcpStream) -> io::Result<Option<Head>> {
    let mut head = Vec::new();
    let mut peeked = [0; 4096];
    loop {
        let count = stream.peek(&mut peeked)?;
        if count == 0 {
            return Ok(None);
        }
        let before = head.len();
        head.extend_from_slice(&peeked[..count]);
        let from = before.saturating_sub(3);
        let end = memchr::memmem::find(&head[from..], b"\r\n\r\n").map(|at| from + at + 4);
        head.truncate(end.unwrap_or(head.len()));
        stream.read_exact(&mut peeked[..head.len() - before])?;
        if end.is_some() {
            return parse_head(&head).map(Some);
        }
        if head.len() > MAX_HEAD_BYTES {
            return Err(ErrorKind::InvalidData.into());
        }
    }
}

fn parse_head(bytes: &[u8]) -> io::Result<Head> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if !request.parse(bytes).is_ok_and(|status| status.is_complete()) {
        return Err(ErrorKind::InvalidData.into());
    }
    let headers = owned(request.headers);
    let connection = header(&headers, "connection").unwrap_or("").to_ascii_lowercase();
    let keep = request.version == Some(1) || connection.contains("keep-alive");
    Ok(Head {
        method: request.method.unwrap_or("").to_string(),
        target: request.path.unwrap_or("").to_string(),
        close: !keep || connection.contains("close"),
        headers,
    })
}

pub fn owned(headers: &[httparse::Header]) -> Headers {
    let value = |header: &httparse::Header| String::from_utf8_lossy(header.value).into_owned();
    headers.iter().map(|header| (header.name.to_string(), value(header))).collect()
}

/// A request's body: exactly `Content-Length` bytes of the socket.
pub struct Body<'a> {
    stream: &'a TcpStream,
    left: u64,
    seen: u64,
    /// called once, before a byte behind this many is read; an error breaks the connection
    stop: Option<(u64, Stop<'a>)>,
}

type Stop<'a> = Box<dyn FnOnce(&TcpStream) -> io::Result<()> + 'a>;

impl<'a> Body<'a> {
    /// RFC 9110, 10.1.1: a client may wait for a 100 before it sends the body.
    pub fn new(mut stream: &'a TcpStream, head: &Head) -> io::Result<Body<'a>> {
        if head.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(Body { stream, left: head.content_length().unwrap_or(0), seen: 0, stop: None })
    }

    pub fn stop_after(&mut self, bytes: u64, then: impl FnOnce(&TcpStream) -> io::Result<()> + 'a) {
        self.stop = Some((bytes, Box::new(then)));
    }

    /// Reads what is left and forgets it: a browser that is still sending would otherwise see a
    /// reset in place of the answer.
    pub fn drain(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        while self.left > 0 {
            if self.read(&mut buffer)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let mut most = self.left;
        if let Some((at, then)) = self.stop.take() {
            if self.seen >= at {
                then(self.stream)?;
            } else {
                most = most.min(at - self.seen);
                self.stop = Some((at, then));
            }
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.stream.read(&mut buffer[..most])?;
        self.left -= read as u64;
        self.seen += read as u64;
        Ok(read)
    }
}

/// An answer without the headers that its place on the wire decides.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Headers,
    /// shared with the stored object, which may be large
    pub body: Arc<Vec<u8>>,
    /// Nobody knows where the next request would begin.
    pub close: bool,
}

impl Reply {
    pub fn new(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Arc::default(), close: false }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.to_string(), value.to_string()));
        self
    }

    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        self.body = Arc::new(body.into());
        self.header("Content-Type", content_type)
    }

    /// Writes the whole answer; for a `HEAD` only its headers.
    pub fn write(&self, mut stream: &TcpStream, close: bool, head_only: bool) -> io::Result<()> {
        let mut out = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        // RFC 9110, 8.6: no length with 1xx and 204.
        if self.status != 204 && self.status >= 200 {
            out.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        let connection = if close { "close" } else { "keep-alive" };
        let mut out = format!("{out}Connection: {connection}\r\n\r\n").into_bytes();
        if head_only {
            return stream.write_all(&out);
        }
        // One segment for what is short; a large object is not copied for it.
        let (with_head, rest) = self.body.split_at(self.body.len().min(4096));
        out.extend_from_slice(with_head);
        stream.write_all(&out)?;
        stream.write_all(rest)
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        302 => "Found",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
