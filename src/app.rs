//! What the server answers, in reading order: the routes, GET (upload token, terms, signed policy),
//! POST (a callback: verified, confirmed, recorded, acknowledged), and the start. Cheap checks come
//! before dear ones, and nothing of a body is parsed before its signature is good.

use std::collections::BTreeMap;
use std::time::Duration;
use std::{mem, thread};

use serde_json::{Value, json};

use crate::config::{Config, ConfigError, wrong};
use crate::http::{Request, Response};
use crate::oss::address::is_object_key;
use crate::oss::bucket::Bucket;
use crate::oss::callback::{self, Claim};
use crate::oss::credentials::{Credentials, Signer};
use crate::oss::keys::{self, Keys};
use crate::oss::policy::{self, Terms};
use crate::oss::sts;
use crate::page;
use crate::reject::Reject;
use crate::sys::metrics::{CALLBACKS, POLICIES, SYNCS, result};
use crate::sys::{log, time};
use crate::trust::callback_token::CallbackTokens;
use crate::trust::upload_log::UploadLog;
use crate::trust::upload_token::{self, UploadToken};
use crate::upload::Upload;

const METHODS: &str = "GET, HEAD, POST, OPTIONS";

pub struct App {
    pub config: Config,
    signer: Signer,
    keys: Keys,
    /// Names and `${variable}`s of `CALLBACK_BODY`.
    template: BTreeMap<String, String>,
    /// Absent: whatever OSS has signed is accepted.
    tokens: Option<CallbackTokens>,
    /// Absent: callbacks are believed without a look into the bucket.
    bucket: Option<Bucket>,
    /// Absent: the log line is the only record.
    uploads: Option<UploadLog>,
    /// When a failure to record was last logged: once a second is enough.
    last_complaint: u64,
}

/// What has become of a request before the callbacks of its batch are confirmed and recorded.
enum Outcome<'a> {
    Response(Response),
    Callback(Result<Upload<'a>, Reject>),
}

impl App {
    /// Answers requests that came together: each is decided alone, then all callbacks among them
    /// are confirmed side by side and recorded with one sync.
    pub fn handle(&mut self, requests: &[Request], now: u64) -> Vec<Response> {
        let mut outcomes = Vec::new();
        for request in requests {
            outcomes.push(self.route(request, now));
        }
        self.confirm(&mut outcomes, now);
        self.record(&mut outcomes, now);
        let outcomes = requests.iter().zip(outcomes);
        outcomes.map(|(request, outcome)| self.with_cors(request, App::respond(outcome))).collect()
    }

    fn route<'a>(&mut self, request: &'a Request, now: u64) -> Outcome<'a> {
        Outcome::Response(match request.method.as_str() {
            "POST" => match self.callback(request, now) {
                Ok(upload) if self.uploads.as_ref().is_some_and(|log| log.has(upload.id)) => {
                    let note = upload.note() + " again";
                    App::respond(Outcome::Callback(Ok(upload))).noted(note)
                }
                callback => return Outcome::Callback(callback),
            },
            "GET" | "HEAD" => self.get(request, now).unwrap_or_else(Response::reject),
            // Libraries add headers of their own (`traceparent`, `token`), which mean nothing here.
            // With credentials `*` would be a name, and never `Authorization` (Fetch, 4.8).
            "OPTIONS" => {
                let asked = request.header("access-control-request-headers");
                Response::text(204, "")
                    .with("Access-Control-Allow-Methods", METHODS)
                    .with("Access-Control-Allow-Headers", asked.unwrap_or("*").to_owned())
                    .with("Access-Control-Max-Age", "86400")
            }
            _ => Response::text(405, "method not allowed\n").with("Allow", METHODS),
        })
    }

    fn get(&self, request: &Request, now: u64) -> Result<Response, Reject> {
        match request.path(&self.config.path_prefix) {
            "/" => self.policy(policy::answer_v1, request, now),
            "/get_post_signature_for_oss_upload" => self.policy(policy::answer_v4, request, now),
            "/healthz" => Ok(Response::text(200, "ok\n").with("Cache-Control", "no-store")),
            path if self.config.client_page => {
                Ok(page::response(path, request, &self.config.host, &self.config.frame_ancestors))
            }
            _ => Ok(Response::text(404, "not found\n")),
        }
    }

    /// A signed policy. Nothing of the request but its upload token has a say in it.
    fn policy(
        &self,
        answer: fn(&Terms, &Credentials) -> Value,
        request: &Request,
        now: u64,
    ) -> Result<Response, Reject> {
        let token = self.upload_token(request, now)?;
        let issued = self.signer.issued(now).ok_or(Reject::NO_CREDENTIALS)?;
        let terms = self.terms(token, issued.expire, now)?;
        let response = Response::json(200, &answer(&terms, &issued.credentials));
        let (dir, end) = (&terms.prefix, time::iso8601(terms.expire));
        let is_for_all = self.config.jwt_secret.is_none();
        POLICIES.add();
        Ok(response.noted(format!("policy dir={dir:?} expire={end}")).cacheable(is_for_all))
    }

    /// The upload token that the configuration asks for: `Authorization: Bearer`, or `?ticket=`.
    fn upload_token(&self, request: &Request, now: u64) -> Result<Option<UploadToken>, Reject> {
        let Some(secret) = &self.config.jwt_secret else { return Ok(None) };
        let authorization = request.header("authorization").unwrap_or_default();
        let bearer = match authorization.split_once(' ') {
            Some((scheme, text)) if scheme.eq_ignore_ascii_case("bearer") => Some(text.trim()),
            _ => None,
        };
        let ticket = request.query().split('&').find_map(|pair| pair.strip_prefix("ticket="));
        let text = bearer.or(ticket).ok_or(Reject::NO_TICKET)?;
        UploadToken::verify(text, secret, now).map(Some)
    }

    /// The terms of the configuration, which an upload token can only narrow.
    fn terms(&self, token: Option<UploadToken>, end: u64, now: u64) -> Result<Terms<'_>, Reject> {
        let config = &self.config;
        let mut terms = Terms {
            host: &config.host,
            bucket: &config.bucket,
            region: &config.region,
            prefix: config.upload_dir.clone(),
            max_bytes: config.max_upload_bytes,
            content_types: config.content_types.clone(),
            forbid_overwrite: config.forbid_overwrite,
            callback: None,
            now,
            expire: end.min(now + config.expire_seconds),
        };
        if let Some(token) = token {
            if !terms.prefix.is_empty() && !terms.prefix.ends_with('/') {
                terms.prefix.push('/');
            }
            terms.prefix += &format!("{}/", token.subject);
            terms.expire = terms.expire.min(token.expire);
            terms.max_bytes = terms.max_bytes.min(token.max_bytes.unwrap_or(u64::MAX));
            if let Some(mut types) = token.content_types {
                let mut allowed = config.content_types.clone();
                if types.iter().any(|one| one.ends_with('*')) && !allowed.is_empty() {
                    mem::swap(&mut types, &mut allowed); // what a pattern leaves of the other
                }
                types.retain(|one| allowed.is_empty() || policy::allows(&allowed, one));
                if types.is_empty() {
                    return Err(Reject::EMPTY_TICKET); // in a policy, no types would mean any
                }
                terms.content_types = types;
            }
        }
        terms.callback = self.callback_parameter(&terms.prefix, terms.expire);
        Ok(terms)
    }

    /// The callback parameter of a policy. Each of its URLs carries a token of ours.
    fn callback_parameter(&self, prefix: &str, expire: u64) -> Option<String> {
        let callback = Some(&self.config.callback).filter(|callback| !callback.url.is_empty())?;
        let mut urls = callback.url.clone();
        if let Some(tokens) = &self.tokens {
            let signed = callback.url.split(';').map(|url| tokens.sign_url(url, expire, prefix));
            urls = signed.collect::<Vec<_>>().join(";");
        }
        Some(policy::callback_parameter(&urls, &callback.body, callback.body_type))
    }

    /// A callback: headers, our token, OSS's key and signature, and only then the body.
    fn callback<'a>(&mut self, request: &'a Request, now: u64) -> Result<Upload<'a>, Reject> {
        let key_url = request.header("x-oss-pub-key-url").ok_or(Reject::KEY_URL_MISSING)?;
        let authorization = request.header("authorization").ok_or(Reject::AUTHORIZATION_GONE)?;
        let target = self.public_target(request);
        let claim = Claim::new(authorization, key_url, &target, &request.body)?;
        let prefix = match &self.tokens {
            Some(tokens) => tokens.check(&claim.path, request.query(), now)?,
            None => String::new(),
        };
        let key = self.keys.find(&claim.key_url)?;
        let verified = claim.verify(key)?;
        let body_type = self.config.callback.body_type;
        let mut upload = Upload::new(request, &verified, &self.template, body_type);
        self.check_fields(&upload, &prefix)?;
        let folder = prefix.strip_prefix(&self.config.upload_dir).unwrap_or_default();
        upload.subject = folder.trim_matches('/').to_owned();
        Ok(upload)
    }

    /// The target that OSS has signed: what a proxy took off is put back.
    fn public_target(&self, request: &Request) -> String {
        let prefix = &self.config.path_prefix;
        let is_taken_off = request.path(prefix) == request.path("");
        format!("{}{}", if is_taken_off { prefix } else { "" }, request.target)
    }

    /// No object's name may leave its folder. With callback tokens or CONFIRM_UPLOADS the body must
    /// name our bucket, and an object under the token's prefix. With neither, OSS's signature is
    /// enough, also for a body that does not parse.
    fn check_fields(&self, upload: &Upload, prefix: &str) -> Result<(), Reject> {
        let object = upload.field("object");
        if !object.is_empty() && !is_object_key(object) {
            return Err(Reject::BAD_OBJECT);
        }
        if self.tokens.is_none() && self.bucket.is_none() {
            return Ok(());
        }
        if object.is_empty() {
            let is_read = upload.body.is_empty();
            return Err(if is_read { Reject::NO_OBJECT } else { Reject::BODY_UNREADABLE });
        }
        let bucket = upload.field("bucket");
        if bucket != self.config.bucket {
            return Err(if bucket.is_empty() { Reject::NO_BUCKET } else { Reject::OTHER_BUCKET });
        }
        if !object.starts_with(prefix) {
            return Err(Reject::OTHER_PREFIX);
        }
        Ok(())
    }

    /// Looks into the bucket for every callback at once: all together wait no longer than one.
    fn confirm<'a>(&self, outcomes: &mut [Outcome<'a>], now: u64) {
        let Some(bucket) = &self.bucket else { return };
        let issued = self.signer.issued(now);
        let confirmed = |mut upload: Upload<'a>| {
            let credentials = &issued.ok_or(Reject::NO_CREDENTIALS)?.credentials;
            let [object, size, etag] = ["object", "size", "etag"].map(|name| upload.field(name));
            let content_type = bucket.confirm(credentials, object, size, etag, now)?;
            upload.variables.insert("mimeType".to_owned(), content_type);
            Ok(upload)
        };
        thread::scope(|scope| {
            for outcome in outcomes {
                let Outcome::Callback(callback @ Ok(_)) = outcome else { continue };
                // It stays BUSY if no thread can be started.
                let upload = mem::replace(callback, Err(Reject::BUSY));
                let confirm = move || *callback = upload.and_then(confirmed);
                let _ = thread::Builder::new().spawn_scoped(scope, confirm);
            }
        });
    }

    /// Puts every upload of the batch on disk. What cannot be recorded is not acknowledged.
    fn record(&mut self, outcomes: &mut [Outcome], now: u64) {
        let Some(uploads) = &mut self.uploads else { return };
        let mut lines = BTreeMap::new(); // several callbacks about one upload: one line
        for outcome in &*outcomes {
            if let Outcome::Callback(Ok(upload)) = outcome {
                lines.insert(upload.id, upload.line(now));
            }
        }
        if lines.is_empty() {
            return;
        }
        let appended = uploads.append(&lines, now);
        SYNCS.add_for(result(&appended));
        let Err(error) = appended else { return };
        if self.last_complaint != now {
            self.last_complaint = now;
            log::line(now, &format!("upload log: {error}"));
        }
        for outcome in outcomes {
            if let Outcome::Callback(callback @ Ok(_)) = outcome {
                *callback = Err(Reject::NOT_RECORDED);
            }
        }
    }

    fn respond(outcome: Outcome) -> Response {
        match outcome {
            Outcome::Response(response) => response,
            Outcome::Callback(Ok(upload)) => {
                CALLBACKS.add_for("accepted");
                Response::json(200, &json!({ "Status": "OK" })).noted(upload.note())
            }
            Outcome::Callback(Err(reject)) => {
                CALLBACKS.add_for(reject.1);
                Response::reject(reject)
            }
        }
    }

    fn with_cors(&self, request: &Request, response: Response) -> Response {
        let allowed = &self.config.allow_origins;
        if allowed.is_empty() {
            return response.with("Access-Control-Allow-Origin", "*");
        }
        let response = response.with("Vary", "Origin");
        match request.header("origin") {
            Some(origin) if allowed.iter().any(|one| one == origin) => response
                .with("Access-Control-Allow-Credentials", "true")
                .with("Access-Control-Allow-Origin", origin.to_owned()),
            _ => response,
        }
    }

    pub fn new(config: Config, now: u64) -> Result<App, ConfigError> {
        let mut app = App {
            signer: Signer::new(config.source.clone()),
            keys: Keys::new(&config.public_key),
            template: BTreeMap::new(),
            tokens: None,
            bucket: None,
            uploads: None,
            last_complaint: 0,
            config,
        };
        let config = &app.config;
        if let (Some(key), Some(ttl)) = (&config.token_key, config.token_ttl) {
            app.tokens = Some(CallbackTokens::new(key, &config.bucket, ttl));
        }
        if let Some(host) = &config.confirm_host {
            app.bucket = Some(Bucket::new(host, &config.bucket, &config.region));
        }
        if let Some(folder) = config.upload_log.clone() {
            let uploads = UploadLog::open(folder, now);
            app.uploads = Some(uploads.map_err(|error| format!("UPLOAD_LOG: {error}"))?);
        }
        let callback = &config.callback;
        let template = callback::template(&callback.body, callback.body_type);
        app.template = template.unwrap_or_default();
        app.check_callback(&app.config.callback.url)?;
        Ok(app)
    }

    /// Callbacks must carry what they are checked by, and OSS must take the longest.
    fn check_callback(&self, urls: &str) -> Result<(), ConfigError> {
        let needed: &[&str] = match (&self.tokens, &self.bucket) {
            (_, Some(_)) => &["bucket", "object", "size", "etag"],
            (Some(_), None) => &["bucket", "object"],
            (None, None) => &[],
        };
        for variable in needed {
            let variable = format!("${{{variable}}}");
            if !self.template.values().any(|text| *text == variable) {
                let problem = format!("lacks {variable}, which callbacks are checked by");
                return wrong("CALLBACK_BODY", problem);
            }
        }
        let has_token = urls.split([';', '?', '&']).any(|part| part.starts_with("token="));
        if self.tokens.is_some() && has_token {
            return wrong("CALLBACK_URL", "has a token= of its own");
        }
        let subject = "x".repeat(upload_token::MAX_SUBJECT_BYTES);
        let prefix = format!("{}{subject}/", self.config.upload_dir);
        let longest = self.callback_parameter(&prefix, u64::MAX).unwrap_or_default();
        if longest.len() > 5 * 1024 {
            let problem = "with CALLBACK_BODY and tokens longer than OSS takes (5 KB in all)";
            return wrong("CALLBACK_URL", problem);
        }
        Ok(())
    }

    /// Renews credentials and keys when it is time; at the start one may `wait` for what comes.
    pub fn upkeep(&mut self, now: u64, wait: Duration) {
        let credentials = self.signer.renew(now, wait, sts::ask);
        let key = self.keys.upkeep(now, wait, keys::fetch);
        for news in credentials.into_iter().chain(key) {
            log::line(now, &news);
        }
    }
}
