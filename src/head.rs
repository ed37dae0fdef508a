//! Request heads: what is let in, and how it is written anew for the engine. Pure, and the only
//! file that names `httparse`. Implements RFC 9112; where that leaves a choice, refuses, so that
//! nothing passes that two parsers could read differently.

use std::net::IpAddr;

use crate::reject::Reject;

const MAX_HEAD_BYTES: usize = 8 * 1024;
const MAX_FIELDS: usize = 64;
/// What the door itself reads.
const OWN_FIELDS: [&str; 6] =
    ["host", "transfer-encoding", "content-length", "connection", "expect", "x-forwarded-for"];

/// What the app behind it reads.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Header fields to pass on, lower case.
    pub fields: &'static [&'static str],
    pub max_body_bytes: usize,
}

/// The head of a good request, rewritten.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// Request line and the fields that are passed on, each with its CRLF.
    pub canonical: String,
    /// Length of the body to come.
    pub length: usize,
    /// The client wants the connection closed after the answer.
    pub close: bool,
    /// The client waits for `100 Continue`.
    pub expects: bool,
    /// `X-Forwarded-For`'s last address: who the nearest proxy says it speaks for.
    pub forwarded_for: Option<IpAddr>,
}

impl Head {
    pub fn method(&self) -> &str {
        self.canonical.split(' ').next().unwrap_or_default()
    }

    /// Without the query.
    pub fn path(&self) -> &str {
        self.canonical.split([' ', '?']).nth(1).unwrap_or_default()
    }
}

/// Reads a head that `end` has delimited. Pure.
pub fn canonical(head: &[u8], limits: Limits) -> Result<Head, Reject> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Reject::MALFORMED),
        Err(httparse::Error::TooManyHeaders) => return Err(Reject::TOO_MANY_FIELDS),
        Err(httparse::Error::Version) => return Err(Reject::BAD_VERSION),
        Err(_) => return Err(Reject::MALFORMED),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(Reject::MALFORMED);
    };
    let target = origin_form(target).ok_or(Reject::BAD_REQUEST_TARGET)?;
    let mut canonical = String::with_capacity(head.len() + limits.fields.len());
    canonical.extend([method, " ", target, " HTTP/1.1\r\n"]);
    let (mut hosts, mut length, mut passed_on) = (0, None, 0u64);
    let (mut close, mut expects, mut forwarded_for) = (minor == 0, false, None);
    for field in request.headers.iter() {
        let value = std::str::from_utf8(field.value).map_err(|_| Reject::MALFORMED)?;
        let value = value.trim_matches([' ', '\t']);
        let is = |name: &str| name.eq_ignore_ascii_case(field.name);
        match OWN_FIELDS.into_iter().find(|name| is(name)).unwrap_or_default() {
            "host" => hosts += 1,
            "transfer-encoding" => return Err(Reject::TRANSFER_CODING),
            "content-length" if length.is_some() => return Err(Reject::TWO_LENGTHS),
            "content-length" => length = Some(content_length(value, limits.max_body_bytes)?),
            "connection" => close |= value.to_ascii_lowercase().contains("close"),
            "expect" if value.eq_ignore_ascii_case("100-continue") => expects = minor == 1,
            "expect" => return Err(Reject::BAD_EXPECTATION),
            "x-forwarded-for" => {
                forwarded_for = value.rsplit(',').next().and_then(|last| last.trim().parse().ok());
            }
            _ => {
                let mut fields = limits.fields.iter().enumerate();
                if let Some((index, name)) = fields.find(|(_, name)| is(name)) {
                    if passed_on & 1 << index != 0 {
                        return Err(Reject::TWICE);
                    }
                    passed_on |= 1 << index;
                    canonical.extend([name, ": ", value, "\r\n"]);
                }
            }
        }
    }
    if hosts > 1 || (hosts == 0 && minor == 1) {
        return Err(Reject::BAD_HOST);
    }
    if method == "POST" && length.is_none() {
        return Err(Reject::NO_LENGTH);
    }
    Ok(Head { canonical, length: length.unwrap_or(0), close, expects, forwarded_for })
}

/// Path and query; of `http://HOST/PATH` what follows the host. Of `*` (OPTIONS) the root.
fn origin_form(target: &str) -> Option<&str> {
    if target == "*" {
        return Some("/");
    }
    let path = match target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) {
        Some(rest) => rest.find(['/', '?']).map_or("/", |at| rest.get(at..).unwrap_or_default()),
        None => target,
    };
    (path.starts_with('/') && !path.contains('#')).then_some(path)
}

fn content_length(value: &str, max: usize) -> Result<usize, Reject> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Reject::BAD_LENGTH);
    }
    // Digits that do not fit are too many, not malformed.
    value.parse().ok().filter(|length| *length <= max).ok_or(Reject::BODY_TOO_LONG)
}

/// Finds the end of the head in what has come so far, looking at each byte once. Only printable
/// ASCII, tabs and whole CRLFs pass: what is refused here no two parsers can read differently.
pub fn end(buffer: &[u8], scanned: &mut usize) -> Result<Option<usize>, Reject> {
    while let Some(&byte) = buffer.get(*scanned) {
        let at = *scanned;
        if at >= MAX_HEAD_BYTES {
            return Err(Reject::HEAD_TOO_LONG);
        }
        let before = at.checked_sub(1).and_then(|before| buffer.get(before));
        match byte {
            b'\n' if before != Some(&b'\r') => return Err(Reject::BAD_LINE_END),
            b'\n' => {}
            _ if before == Some(&b'\r') => return Err(Reject::BAD_LINE_END),
            b'\r' | b'\t' | b' '..=b'~' => {}
            _ => return Err(Reject::BAD_BYTE),
        }
        *scanned += 1;
        if byte == b'\n' && buffer.get(..*scanned).is_some_and(|head| head.ends_with(b"\r\n\r\n")) {
            return Ok(Some(*scanned));
        }
    }
    Ok(None)
}
