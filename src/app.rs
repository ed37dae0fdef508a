//! What the server answers: routes, the GET pipeline (a signed policy) and the POST pipeline (a
//! verified callback), in reading order. Cheap checks come before dear ones, and nothing of a
//! callback's body is parsed before its signature is good.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::callback::{self, Claim, Verified};
use crate::config::Config;
use crate::credentials::Credentials;
use crate::keys::{self, Keys};
use crate::policy::{self, Terms};
use crate::reject::Reject;
use crate::{log, page, time};

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

const METHODS: &str = "GET, HEAD, POST, OPTIONS";

/// A complete request; `body` is at most `MAX_BODY_BYTES`.
pub struct Request {
    pub method: String,
    /// Origin form: path, and query if there is one, as they came.
    pub target: String,
    /// Names are those of `HEADERS`.
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Who asks, for the log, if known.
    pub peer: Option<IpAddr>,
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
    /// The value of a header field, an error if it is there twice.
    fn header(&self, name: &str) -> Result<Option<&str>, Reject> {
        let mut values = self.headers.iter().filter(|(field, _)| *field == name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Reject::TWICE),
            (first, None) => Ok(first.map(|(_, value)| value.as_str())),
        }
    }

    fn required(&self, name: &str) -> Result<&str, Reject> {
        self.header(name)?.ok_or(Reject::FIELD_MISSING)
    }

    /// The path that routes and the log go by: without the query, and without `prefix`.
    fn path(&self, prefix: &str) -> &str {
        let path = self.target.split('?').next().unwrap_or_default();
        match path.strip_prefix(prefix) {
            Some("") => "/",
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        }
    }
}

impl Response {
    fn new(status: u16, body: impl Into<Cow<'static, [u8]>>, content_type: &'static str) -> Self {
        let headers = vec![
            ("Content-Type", Cow::Borrowed(content_type)),
            ("X-Content-Type-Options", Cow::Borrowed("nosniff")),
        ];
        Response { status, headers, body: body.into(), note: String::new(), reusable: false }
    }

    fn json(status: u16, value: &Value) -> Response {
        let response = Response::new(status, value.to_string().into_bytes(), "application/json");
        response.with("Cache-Control", "no-store")
    }

    fn text(status: u16, text: &'static str) -> Response {
        Response::new(status, text.as_bytes(), "text/plain; charset=utf-8")
    }

    pub fn reject(reject: Reject) -> Response {
        let Reject(status, reason) = reject;
        let body = json!({ "Status": "verify not ok", "reason": reason });
        Response::json(status, &body).noted(format!("reason={reason:?}"))
    }

    fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    fn noted(mut self, note: String) -> Response {
        self.note = note;
        self
    }
}

pub struct App {
    config: Config,
    keys: Keys,
    /// Which body field carries which `${variable}`, from `CALLBACK_BODY`.
    names: BTreeMap<String, String>,
    page: Vec<page::File>,
}

impl App {
    pub fn new(config: Config) -> App {
        let template =
            config.callback.as_ref().and_then(|c| callback::template(&c.body, c.body_type));
        let variable = |text: String| Some(text.strip_prefix("${")?.strip_suffix('}')?.to_owned());
        let names = template.unwrap_or_default().into_iter();
        let names = names.filter_map(|(name, text)| Some((variable(text)?, name))).collect();
        let page = if config.client_page { page::files() } else { Vec::new() };
        App { keys: Keys::new(&config.public_key), names, page, config }
    }

    pub fn max_connections(&self) -> usize {
        self.config.max_connections
    }

    /// Work for when nobody waits.
    pub fn idle(&mut self, now: u64) {
        if let Some(news) = self.keys.refresh(now, keys::fetch) {
            log::line(now, &news);
        }
    }

    /// Time, peer, method, path, status, and what the answer notes. Never the query, which may
    /// hold a token. Health checks would only fill the log.
    pub fn log_line(&self, request: &Request, response: &Response, now: u64) -> String {
        let (method, status) = (&request.method, response.status);
        let path = request.path("");
        if path == "/healthz" && status == 200 {
            return String::new();
        }
        let peer = request.peer.map_or("-".to_owned(), |peer| peer.to_string());
        let line = format!("{} {peer} {method} {path:?} {status} ", time::iso8601(now));
        format!("{}\n", (line + &response.note).trim_end())
    }

    /// Answers one request.
    pub fn handle(&mut self, request: &Request, now: u64) -> Response {
        let response = match request.method.as_str() {
            "GET" | "HEAD" => self.get(request, now),
            "POST" => self.post(request, now).unwrap_or_else(Response::reject),
            "OPTIONS" => preflight(),
            _ => Response::text(405, "method not allowed\n").with("Allow", METHODS),
        };
        match self.allowed_origin(request) {
            Some(origin) if self.config.allow_origins.is_empty() => {
                response.with("Access-Control-Allow-Origin", origin)
            }
            Some(origin) => {
                response.with("Access-Control-Allow-Origin", origin).with("Vary", "Origin")
            }
            None => response.with("Vary", "Origin"),
        }
    }

    fn get(&self, request: &Request, now: u64) -> Response {
        let response = match request.path(&self.config.path_prefix) {
            "/" => self.policy(policy::answer_v1, now),
            "/get_post_signature_for_oss_upload" => self.policy(policy::answer_v4, now),
            "/healthz" => Response::text(200, "ok\n").with("Cache-Control", "no-store"),
            path => match self.page.iter().find(|file| file.path == path) {
                Some(file) => self.file(file, request),
                None => Response::text(404, "not found\n"),
            },
        };
        Response { reusable: response.status == 200, ..response }
    }

    fn file(&self, file: &page::File, request: &Request) -> Response {
        let held = request.header("if-none-match").ok().flatten().unwrap_or_default();
        let fresh = held.split(',').any(|tag| tag.trim().trim_start_matches("W/") == file.etag);
        let (status, body) = if fresh { (304, [].as_slice()) } else { (200, file.bytes) };
        Response::new(status, body, file.content_type)
            .with("ETag", file.etag.clone())
            .with("Cache-Control", "no-cache")
            .with("Content-Security-Policy", page::security_policy(&self.config.host))
            .with("Referrer-Policy", "no-referrer")
    }

    /// A signed policy. Nothing in it comes from the request.
    fn policy(&self, answer: fn(&Terms, &Credentials) -> Value, now: u64) -> Response {
        let config = &self.config;
        let callback = config.callback.as_ref();
        let callback = callback.map(|c| policy::callback_parameter(&c.url, &c.body, c.body_type));
        let terms = Terms {
            host: &config.host,
            bucket: &config.bucket,
            region: &config.region,
            prefix: &config.upload_dir,
            max_bytes: config.max_upload_bytes,
            content_types: &config.content_types,
            forbid_overwrite: config.forbid_overwrite,
            callback: callback.as_deref(),
            now,
            expire: now + config.expire_seconds,
        };
        Response::json(200, &answer(&terms, &config.credentials))
            .noted(format!("policy expire={}", time::iso8601(terms.expire)))
    }

    /// A callback: headers, key, signature, and only then the body.
    fn post(&mut self, request: &Request, now: u64) -> Result<Response, Reject> {
        let claim = Claim::new(
            request.required("authorization")?,
            request.required("x-oss-pub-key-url")?,
            &self.public_target(&request.target),
            &request.body,
        )?;
        let key = self.keys.find(&claim.key_url, now, keys::fetch)?;
        let verified = claim.verify(key)?;
        let note = self.describe(request, &verified)?;
        Ok(Response::json(200, &json!({ "Status": "OK" })).noted(note))
    }

    /// The target as OSS sent it: what a proxy took off is put back.
    fn public_target<'a>(&self, target: &'a str) -> Cow<'a, str> {
        match target.strip_prefix(&self.config.path_prefix) {
            Some(rest) if rest.is_empty() || rest.starts_with(['/', '?']) => target.into(),
            _ => format!("{}{target}", self.config.path_prefix).into(),
        }
    }

    /// What the log says of a verified callback. A body that does not parse was signed all the
    /// same, so it is accepted, and logged as it came.
    fn describe(&self, request: &Request, verified: &Verified) -> Result<String, Reject> {
        let mut note = "callback".to_owned();
        let content_type = request.header("content-type")?.unwrap_or_default();
        match callback::fields(verified, content_type) {
            Some(fields) => {
                for variable in ["bucket", "object", "size", "etag", "mimeType"] {
                    let name = self.names.get(variable).map_or(variable, String::as_str);
                    if let Some(value) = fields.get(name) {
                        note += &format!(" {variable}={value:?}");
                    }
                }
            }
            None => note += &format!(" body={:?}", String::from_utf8_lossy(&request.body)),
        }
        if let Some(id) = request.header("x-oss-request-id")? {
            note += &format!(" request={id:?}");
        }
        Ok(note)
    }

    /// What to answer in `Access-Control-Allow-Origin`, if anything.
    fn allowed_origin(&self, request: &Request) -> Option<String> {
        let allowed = &self.config.allow_origins;
        let origin = request.header("origin").ok().flatten();
        if allowed.is_empty() {
            return Some("*".to_owned());
        }
        origin.filter(|origin| allowed.iter().any(|one| one == origin)).map(str::to_owned)
    }
}

fn preflight() -> Response {
    Response::text(204, "")
        .with("Access-Control-Allow-Methods", METHODS)
        .with("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Requested-With")
        .with("Access-Control-Max-Age", "86400")
}
