//! A request and an answer in our own terms, so that only `server.rs` knows tiny_http's.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::credentials::RETRY_SECONDS;
use crate::reject::Reject;

/// Bodies of real callbacks have a few hundred bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The header fields that are read here; all others end at the server's edge.
pub const HEADERS: [&str; 6] = [
    "authorization",
    "content-type",
    "if-none-match",
    "origin",
    "x-oss-pub-key-url",
    "x-oss-request-id",
];

/// A complete request; `body` is at most `MAX_BODY_BYTES`.
pub struct Request {
    pub method: String,
    /// Origin form: path, and query if there is one, as they came.
    pub target: String,
    /// Names are those of `HEADERS`.
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Who asks, for the log: an address, or `-`.
    pub peer: String,
}

pub struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    pub body: Cow<'static, [u8]>,
    /// For the log, escaped already.
    pub note: String,
    /// The same request would get the same answer for as long as the clock shows this second.
    pub reusable: bool,
}

impl Request {
    /// The value of a header field. (The door lets none in twice.)
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| *field == name).map(|(_, value)| value.as_str())
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
    pub fn new(
        status: u16,
        body: impl Into<Cow<'static, [u8]>>,
        content_type: &'static str,
    ) -> Self {
        let headers = vec![
            ("Content-Type", Cow::Borrowed(content_type)),
            ("X-Content-Type-Options", Cow::Borrowed("nosniff")),
        ];
        Response { status, headers, body: body.into(), note: String::new(), reusable: false }
    }

    pub fn json(status: u16, value: &Value) -> Response {
        // A `Value` always serializes.
        let body = serde_json::to_vec(value).unwrap_or_default();
        let response = Response::new(status, body, "application/json");
        response.with("Cache-Control", "no-store")
    }

    pub fn text(status: u16, text: &'static str) -> Response {
        Response::new(status, text.as_bytes(), "text/plain; charset=utf-8")
    }

    pub fn reject(Reject(status, reason): Reject) -> Response {
        let what = if status == 401 { "not allowed" } else { "verify not ok" };
        let body = json!({ "Status": what, "reason": reason });
        let response = Response::json(status, &body).noted(format!("reason={reason:?}"));
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

    pub fn reusable(mut self, reusable: bool) -> Response {
        self.reusable = reusable;
        self
    }

    pub fn noted(mut self, note: String) -> Response {
        self.note = note;
        self
    }
}
