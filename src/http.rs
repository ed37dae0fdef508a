//! A request and a response in our own terms, so that only `server.rs` knows tiny_http's.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::oss::credentials::RETRY_SECONDS;
use crate::reject::Reject;

/// Real callbacks have a few hundred bytes. The longest that OSS documents, a key of 1,023 bytes
/// and ten variables of 512, have 18,429 percent-encoded; the rest is for their names.
pub const MAX_BODY_BYTES: usize = 20 * 1024;

/// The request headers that are read here, and what is said of one that is not ASCII. All others
/// end at the proxy.
pub const HEADERS: [(&str, Reject); 6] = [
    ("accept-encoding", Reject(400, "accept-encoding is not ASCII")),
    ("access-control-request-headers", Reject(400, "access-control-request-headers is not ASCII")),
    ("authorization", Reject(400, "authorization is not ASCII")),
    ("if-none-match", Reject(400, "if-none-match is not ASCII")),
    ("origin", Reject(400, "origin is not ASCII")),
    ("x-oss-pub-key-url", Reject(400, "x-oss-pub-key-url is not ASCII")),
];

/// A complete request; `body` is at most `MAX_BODY_BYTES`.
pub struct Request {
    pub method: String,
    /// Path, and query if there is one, as they came.
    pub target: String,
    /// Names are those of `HEADERS`; the proxy lets none in twice.
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// For the log: an address, or `-`.
    pub peer: String,
}

pub struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    pub body: Cow<'static, [u8]>,
    /// For the log, escaped already.
    pub note: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.as_str())
    }

    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The path that routes and the log go by: without the query, and without `prefix`.
    pub fn path(&self, prefix: &str) -> &str {
        let path = self.target.split('?').next().unwrap_or_default();
        match path.strip_prefix(prefix) {
            Some("") => "/",
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        }
    }
}

impl Response {
    pub fn new(status: u16, body: Cow<'static, [u8]>, content_type: &'static str) -> Response {
        let headers = vec![
            ("Content-Type", content_type.into()),
            ("X-Content-Type-Options", "nosniff".into()),
        ];
        Response { status, headers, body, note: String::new() }
    }

    pub fn json(status: u16, value: &Value) -> Response {
        // A `Value` always serializes.
        let body = serde_json::to_vec(value).unwrap_or_default();
        Response::new(status, body.into(), "application/json").with("Cache-Control", "no-store")
    }

    pub fn text(status: u16, text: &'static str) -> Response {
        Response::new(status, text.as_bytes().into(), "text/plain; charset=utf-8")
    }

    pub fn reject(Reject(status, reason): Reject) -> Response {
        let what = if status == 401 { "not allowed" } else { "verify not ok" };
        let response = Response::json(status, &json!({ "Status": what, "reason": reason }));
        let response = response.noted(format!("reason={reason:?}"));
        match status {
            401 => response.with("WWW-Authenticate", "Bearer"),
            503 => response.with("Retry-After", RETRY_SECONDS.to_string()),
            _ => response,
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// Lets the proxy give the response again to the same request within this second. The proxy
    /// takes this header off.
    pub fn cacheable(self, cacheable: bool) -> Response {
        if cacheable { self.with("X-Accel-Expires", "1") } else { self }
    }

    pub fn noted(self, note: String) -> Response {
        Response { note, ..self }
    }
}
