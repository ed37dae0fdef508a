//! Heads of HTTP/1.1 messages (RFC 9112): which requests are let in, how they are rewritten for the
//! backend, and what a response says. Pure, and the only file that names `httparse`. Where the RFC
//! leaves a choice this file refuses, so that nothing passes that two parsers read differently.

use std::net::IpAddr;

use httparse::{EMPTY_HEADER, Error, Header, Request, Response, Status};

use crate::reject::Reject;

const MAX_HEAD_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
/// The request headers that the proxy itself reads. None of them is passed on.
const OWN_HEADERS: [&str; 6] =
    ["host", "connection", "content-length", "transfer-encoding", "expect", "x-forwarded-for"];
/// The response headers that it reads. But for the length, none of them reaches the client.
const RESPONSE_HEADERS: [&str; 5] =
    ["content-length", "transfer-encoding", "x-accel-expires", "server", "connection"];

/// What the backend behind the proxy reads.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Names of the request headers to pass on, in lower case, and how a value is refused that is
    /// not ASCII.
    pub headers: &'static [(&'static str, Reject)],
    pub max_body_bytes: usize,
}

/// The head of a good request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The request line and the headers that are passed on, each with its CRLF.
    pub canonical: String,
    /// Length of the body to come.
    pub content_length: Option<usize>,
    pub has_host: bool,
    /// The client wants the connection closed after the response.
    pub close: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The last address of `X-Forwarded-For`: for whom the nearest proxy speaks.
    pub forwarded_for: Option<IpAddr>,
    /// The names of the headers that are passed on.
    pub passed_on: Vec<&'static str>,
}

impl Head {
    pub fn method(&self) -> &str {
        self.canonical.split(' ').next().unwrap_or_default()
    }

    /// The path of the request target, without the query: that may hold a token.
    pub fn path(&self) -> &str {
        self.canonical.split([' ', '?']).nth(1).unwrap_or_default()
    }

    fn add(&mut self, header: &Header, limits: Limits) -> Result<(), Reject> {
        let is_named = |known: &&str| known.eq_ignore_ascii_case(header.name);
        let ascii = std::str::from_utf8(header.value).ok().filter(|value| value.is_ascii());
        // What is not ASCII reads as empty, and is refused where it would be passed on.
        let value = ascii.unwrap_or_default().trim_matches([' ', '\t']);
        match OWN_HEADERS.into_iter().find(is_named).unwrap_or_default() {
            "host" if self.has_host => return Err(Reject::BAD_HOST),
            "host" => self.has_host = true,
            "transfer-encoding" => return Err(Reject::TRANSFER_CODING),
            "content-length" if self.content_length.is_some() => return Err(Reject::TWO_LENGTHS),
            "content-length" => {
                self.content_length = Some(content_length(value, limits.max_body_bytes)?)
            }
            "connection" => self.close |= value.to_ascii_lowercase().contains("close"),
            "expect" if value.eq_ignore_ascii_case("100-continue") => self.expects_continue = true,
            "expect" => return Err(Reject::BAD_EXPECTATION),
            "x-forwarded-for" => {
                // What stands before the last comma came from anybody, and may not be ASCII.
                let last = header.value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
                let last = std::str::from_utf8(last).unwrap_or_default().trim();
                self.forwarded_for = last.parse().ok().map(|client: IpAddr| client.to_canonical());
            }
            _ => {
                let known = limits.headers.iter().find(|(known, _)| is_named(known));
                let Some((name, not_ascii)) = known else { return Ok(()) };
                if self.passed_on.contains(name) {
                    return Err(Reject::HEADER_TWICE);
                }
                ascii.ok_or(*not_ascii)?;
                self.passed_on.push(name);
                self.canonical.extend([name, ": ", value, "\r\n"]);
            }
        }
        Ok(())
    }
}

/// Finds the end of the head in what has come so far, looking at each byte once: `scanned` says how
/// far it came. No control character passes but tabs and whole CRLFs.
pub fn end(input: &[u8], scanned: &mut usize) -> Result<Option<usize>, Reject> {
    while let Some(&byte) = input.get(*scanned) {
        let at = *scanned;
        if at >= MAX_HEAD_BYTES {
            return Err(Reject::HEAD_TOO_LONG);
        }
        let follows_cr = at.checked_sub(1).and_then(|before| input.get(before)) == Some(&b'\r');
        match byte {
            _ if follows_cr != (byte == b'\n') => return Err(Reject::BAD_LINE_END),
            b'\r' | b'\n' | b'\t' => {}
            0..=0x1f | 0x7f => return Err(Reject::CONTROL_CHARACTER),
            _ => {}
        }
        *scanned += 1;
        if byte == b'\n' && input.get(..*scanned).is_some_and(|head| head.ends_with(b"\r\n\r\n")) {
            return Ok(Some(*scanned));
        }
    }
    Ok(None)
}

/// Reads a request's head that `end` has delimited.
pub fn request(bytes: &[u8], limits: Limits) -> Result<Head, Reject> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Complete(_)) => {}
        Err(Error::TooManyHeaders) => return Err(Reject::TOO_MANY_HEADERS),
        Err(Error::Version) => return Err(Reject::BAD_VERSION),
        Ok(Status::Partial) | Err(_) => return Err(Reject::MALFORMED),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(Reject::MALFORMED);
    };
    let target = origin_form(method, target).ok_or(Reject::BAD_REQUEST_TARGET)?;
    let mut head = Head { close: minor == 0, ..Head::default() };
    head.canonical.reserve(bytes.len() + limits.headers.len());
    head.canonical.extend([method, " ", target, " HTTP/1.1\r\n"]);
    for header in request.headers.iter() {
        head.add(header, limits)?;
    }
    if minor == 1 && !head.has_host {
        return Err(Reject::BAD_HOST);
    }
    if method == "POST" && head.content_length.is_none() {
        return Err(Reject::NO_LENGTH);
    }
    head.expects_continue &= minor == 1;
    Ok(head)
}

/// Path and query; of `http://HOST/PATH` what follows the host; of `OPTIONS *` the root.
fn origin_form<'a>(method: &str, target: &'a str) -> Option<&'a str> {
    if (method, target) == ("OPTIONS", "*") {
        return Some("/");
    }
    let path = match target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) {
        Some(rest) => rest.find(['/', '?']).map_or("/", |at| rest.get(at..).unwrap_or_default()),
        None => target,
    };
    (path.starts_with('/') && path.is_ascii() && !path.contains('#')).then_some(path)
}

fn content_length(value: &str, max: usize) -> Result<usize, Reject> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Reject::BAD_LENGTH);
    }
    // Digits that do not fit into a number are too many, not malformed.
    value.parse().ok().filter(|length| *length <= max).ok_or(Reject::BODY_TOO_LONG)
}

/// Method and path of a request that is refused before its head is read, for the log. None before
/// the first line is whole: its end may be the query, which may hold a token.
pub fn request_line(input: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(input);
    let (line, _) = text.trim_start().split_once("\r\n")?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    let path = origin_form(method, target)?.split('?').next()?;
    is_method.then(|| (method.to_owned(), path.to_owned()))
}

/// The head of a response of the backend.
#[derive(Debug, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: u16,
    /// The status line and the headers for the client, each with its CRLF.
    pub text: String,
    /// Where the body begins and ends, counted from the start of the response.
    pub body_start: usize,
    pub body_end: usize,
    /// `X-Accel-Expires: 1`: who asks the same within a second may be given the same.
    pub is_cacheable: bool,
}

/// Reads the head of the response that `input` begins with; none while that is not whole. An error
/// if it is no response, or its end is not certain.
pub fn response(input: &[u8], is_to_head: bool) -> Result<Option<ResponseHead>, &'static str> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = Response::new(&mut headers);
    let body_start = match response.parse(input) {
        Ok(Status::Complete(bytes)) => bytes,
        Ok(Status::Partial) => return Ok(None),
        Err(_) => return Err("a malformed response"),
    };
    let status = response.code.unwrap_or(0);
    // These have no body (RFC 9112, 6.3). The backend says a length all the same.
    let has_length = !matches!(status, 100..=199 | 204 | 304);
    let mut text = String::with_capacity(body_start);
    let reason = response.reason.unwrap_or_default();
    text.extend(["HTTP/1.1 ", &format!("{status:03}"), " ", reason, "\r\n"]);
    let (mut length, mut is_cacheable) = (None, false);
    for header in response.headers.iter() {
        let is_named = |known: &&str| known.eq_ignore_ascii_case(header.name);
        let name = RESPONSE_HEADERS.into_iter().find(is_named).unwrap_or_default();
        let value = std::str::from_utf8(header.value).map_err(|_| "a header that is not ASCII")?;
        match name {
            "content-length" if length.is_some() => return Err("two content lengths"),
            "content-length" => {
                length = Some(content_length(value, usize::MAX).map_err(|reject| reject.1)?);
            }
            "transfer-encoding" => return Err("a transfer coding"),
            "x-accel-expires" => is_cacheable = value == "1",
            _ => {}
        }
        if name.is_empty() || (name == "content-length" && has_length) {
            text.extend([header.name, ": ", value, "\r\n"]);
        }
    }
    let length = length.ok_or("no content length")?;
    let body_bytes = if has_length && !is_to_head { length } else { 0 };
    let body_end = body_start.checked_add(body_bytes).ok_or("a body that no memory holds")?;
    Ok(Some(ResponseHead { status, text, body_start, body_end, is_cacheable }))
}
