//! What the server answers: routes, the GET pipeline (a signed policy) and the POST pipeline (a
//! verified callback), in reading order. Cheap checks come before dear ones, and nothing of a
//! callback's body is parsed before its signature is good.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config::{Config, ConfigError};
use crate::http::{Request, Response};
use crate::oss::bucket::Bucket;
use crate::oss::callback::{self, Claim, Verified};
use crate::oss::credentials::{Credentials, Issued, Signer};
use crate::oss::keys::{self, Keys};
use crate::oss::policy::{self, Terms};
use crate::oss::sts;
use crate::page;
use crate::reject::Reject;
use crate::sys::metrics::{CALLBACKS, POLICIES, SYNCS, result};
use crate::sys::{log, time};
use crate::trust::record::Uploads;
use crate::trust::token::{self, CallbackTokens, Ticket};

/// What of a callback the log and the top level of the record name; the rest is `custom`.
const LOGGED: [&str; 5] = ["bucket", "object", "size", "etag", "mimeType"];
const RECORDED: [&str; 3] = ["imageInfo.height", "imageInfo.width", "imageInfo.format"];
const NUMBERS: [&str; 3] = ["size", "imageInfo.height", "imageInfo.width"];

const METHODS: &str = "GET, HEAD, POST, OPTIONS";

pub struct App {
    pub config: Config,
    signer: Signer,
    keys: Keys,
    /// Which `${variable}` a field of the body carries, from `CALLBACK_BODY`.
    variables: BTreeMap<String, String>,
    /// Absent: any validly signed callback is accepted.
    tokens: Option<CallbackTokens>,
    /// Absent: callbacks are believed without a look into the bucket.
    bucket: Option<Bucket>,
    /// Absent: the log line is the only record.
    uploads: Option<Uploads>,
    complained: u64,
}

/// What became of a request before the batch's callbacks are confirmed and recorded.
enum Outcome {
    Answered(Response),
    Uploaded(Upload),
}

/// A verified callback.
struct Upload {
    /// Its line in the record.
    line: Value,
    /// For the log.
    note: String,
    object: String,
    size: String,
    etag: String,
}

impl App {
    pub fn new(config: Config, now: u64) -> Result<App, ConfigError> {
        let template =
            config.callback.as_ref().and_then(|c| callback::template(&c.body, c.body_type));
        let variable = |(name, text): (String, String)| {
            Some((name, text.strip_prefix("${")?.strip_suffix('}')?.to_owned()))
        };
        let variables = template.unwrap_or_default().into_iter().filter_map(variable).collect();
        let tokens = |ttl| {
            let key = config.token_key.as_ref()?;
            Some(CallbackTokens::new(key, &config.bucket, ttl))
        };
        let uploads = config.upload_log.clone().map(|folder| Uploads::open(folder, now));
        let uploads = uploads.transpose().map_err(|error| ConfigError::new("UPLOAD_LOG", error))?;
        let app = App {
            keys: Keys::new(&config.public_key),
            variables,
            tokens: config.token_ttl.and_then(tokens),
            signer: Signer::new(config.source.clone()),
            bucket: config
                .confirm_host
                .as_ref()
                .map(|host| Bucket::new(host, &config.bucket, &config.region)),
            uploads,
            complained: 0,
            config,
        };
        app.check_callback()?;
        Ok(app)
    }

    /// What a callback must carry to be checked, and whether OSS takes it at its longest.
    fn check_callback(&self) -> Result<(), ConfigError> {
        let needed = match (&self.tokens, &self.bucket) {
            (_, Some(_)) => ["bucket", "object", "size", "etag"].as_slice(),
            (Some(_), None) => &["bucket", "object"],
            (None, None) => &[],
        };
        let carries = |variable: &&str| self.variables.values().any(|carried| carried == variable);
        let missing = needed.iter().find(|variable| !carries(variable));
        if let (Some(missing), Some(_)) = (missing, &self.config.callback) {
            let problem = format!("lacks ${{{missing}}}, which callbacks are checked by");
            return Err(ConfigError::new("CALLBACK_BODY", problem));
        }
        let urls = self.config.callback.as_ref().map_or("", |callback| &callback.url);
        let own = |url: &str| url.split(['?', '&']).skip(1).any(|pair| pair.starts_with("token="));
        if self.tokens.is_some() && urls.split(';').any(own) {
            return Err(ConfigError::new("CALLBACK_URL", "has a token= of its own"));
        }
        let longest =
            format!("{}{}/", self.config.upload_dir, "x".repeat(token::MAX_SUBJECT_BYTES));
        if self.callback(&longest, u64::MAX).is_some_and(|parameter| parameter.len() > 5 * 1024) {
            let problem = "with CALLBACK_BODY and tokens longer than OSS takes (5 KB in all)";
            return Err(ConfigError::new("CALLBACK_URL", problem));
        }
        Ok(())
    }

    /// What the operator should know from the start.
    pub fn notice(&self) -> Option<&'static str> {
        let open = self.config.jwt_secret.is_none();
        open.then_some("UPLOAD_JWT_SECRET is not set: anybody who can reach this server may upload")
    }

    /// What has to be done now and then; at the start one may `wait` for what comes of it.
    pub fn upkeep(&mut self, now: u64, wait: Duration) {
        let credentials = self.signer.renew(now, wait, sts::ask);
        let key = self.keys.upkeep(now, wait, keys::fetch);
        for news in credentials.into_iter().chain(key) {
            log::line(now, &news);
        }
    }

    /// Time, peer, method, path, status, and what the answer notes. Never the query, which may
    /// hold a token. Health checks would only fill the log.
    pub fn log_line(&self, request: &Request, response: &Response, now: u64) -> String {
        let (method, path, status) = (&request.method, request.path(""), response.status);
        if path == "/healthz" && status == 200 {
            return String::new();
        }
        let peer = &request.peer;
        let line = format!("{} {peer} {method} {path:?} {status} ", time::iso8601(now));
        format!("{}\n", (line + &response.note).trim_end())
    }

    /// Answers requests that came together: each is decided alone, then all callbacks among them
    /// are confirmed side by side and recorded with one sync.
    pub fn handle(&mut self, requests: &[Request], now: u64) -> Vec<Response> {
        let mut outcomes: Vec<Outcome> =
            requests.iter().map(|request| self.decide(request, now)).collect();
        self.confirm(&mut outcomes, now);
        self.record(&mut outcomes, now);
        let answers = requests.iter().zip(outcomes).map(|(request, outcome)| {
            let response = match outcome {
                Outcome::Answered(response) => response,
                Outcome::Uploaded(upload) => {
                    CALLBACKS.add_for("accepted");
                    Response::json(200, &json!({ "Status": "OK" })).noted(upload.note)
                }
            };
            self.with_cors(request, response)
        });
        answers.collect()
    }

    fn decide(&mut self, request: &Request, now: u64) -> Outcome {
        Outcome::Answered(match request.method.as_str() {
            "GET" | "HEAD" => self.get(request, now),
            "POST" => match self.post(request, now) {
                Ok(upload) => return Outcome::Uploaded(upload),
                Err(reject) => refuse_callback(reject),
            },
            "OPTIONS" => Response::text(204, "")
                .with("Access-Control-Allow-Methods", METHODS)
                .with("Access-Control-Allow-Headers", "Authorization, Content-Type")
                .with("Access-Control-Max-Age", "86400"),
            _ => Response::text(405, "method not allowed\n").with("Allow", METHODS),
        })
    }

    fn get(&self, request: &Request, now: u64) -> Response {
        let response = match request.path(&self.config.path_prefix) {
            "/" => self.policy(policy::answer_v1, request, now),
            "/get_post_signature_for_oss_upload" => self.policy(policy::answer_v4, request, now),
            "/healthz" => Ok(Response::text(200, "ok\n").with("Cache-Control", "no-store")),
            path if self.config.client_page => Ok(page::response(path, request, &self.config.host)),
            _ => Ok(Response::text(404, "not found\n")),
        };
        response.unwrap_or_else(Response::reject)
    }

    /// A signed policy. Of the request only a ticket counts, and that only narrows.
    fn policy(
        &self,
        answer: fn(&Terms, &Credentials) -> Value,
        request: &Request,
        now: u64,
    ) -> Result<Response, Reject> {
        let config = &self.config;
        let ticket = self.ticket(request, now)?;
        let Issued { credentials, expire: end } =
            self.signer.issued(now).ok_or(Reject::NO_CREDENTIALS)?;
        let mut prefix = config.upload_dir.clone();
        let mut expire = (now + config.expire_seconds).min(*end);
        let (mut max_bytes, mut content_types) =
            (config.max_upload_bytes, config.content_types.clone());
        if let Some(ticket) = ticket {
            let join = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
            prefix += &format!("{join}{}/", ticket.subject);
            expire = expire.min(ticket.expire);
            max_bytes = max_bytes.min(ticket.max_bytes.unwrap_or(max_bytes));
            if let Some(mut types) = ticket.content_types {
                types.retain(|one| {
                    config.content_types.is_empty() || config.content_types.contains(one)
                });
                content_types =
                    Some(types).filter(|t| !t.is_empty()).ok_or(Reject::EMPTY_TICKET)?;
            }
        }
        let callback = self.callback(&prefix, expire);
        let terms = Terms {
            host: &config.host,
            bucket: &config.bucket,
            region: &config.region,
            prefix,
            max_bytes,
            content_types,
            forbid_overwrite: config.forbid_overwrite,
            callback,
            now,
            expire,
        };
        POLICIES.add();
        Ok(Response::json(200, &answer(&terms, credentials))
            .noted(format!("policy dir={:?} expire={}", terms.prefix, time::iso8601(expire)))
            .cacheable(config.jwt_secret.is_none()))
    }

    /// The ticket that the configuration asks for: `Authorization: Bearer`, or `?ticket=`.
    fn ticket(&self, request: &Request, now: u64) -> Result<Option<Ticket>, Reject> {
        let Some(secret) = &self.config.jwt_secret else { return Ok(None) };
        let mut texts = request.query().split('&').filter_map(|pair| pair.strip_prefix("ticket="));
        let bearer = request.header("authorization").and_then(|value| {
            let (scheme, text) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| text.trim())
        });
        let text = bearer.or_else(|| texts.next()).ok_or(Reject::NO_TICKET)?;
        token::ticket(text, secret, now).map(Some)
    }

    /// The callback parameter of a policy.
    fn callback(&self, prefix: &str, expire: u64) -> Option<String> {
        let callback = self.config.callback.as_ref()?;
        let urls = callback.url.split(';').map(|url| self.with_token(url, expire, prefix));
        let urls = urls.collect::<Vec<_>>().join(";");
        Some(policy::callback_parameter(&urls, &callback.body, callback.body_type))
    }

    /// A callback URL that carries our token, bound to its path.
    fn with_token(&self, url: &str, expire: u64, prefix: &str) -> String {
        let Some(tokens) = &self.tokens else { return url.to_owned() };
        let target = callback::target(url);
        let path = target.split('?').next().unwrap_or_default();
        let path = callback::percent_decode(path.as_bytes()).unwrap_or(b"/".to_vec());
        let join = if url.contains('?') { '&' } else { '?' };
        format!("{url}{join}token={}", tokens.issue(&path, expire, prefix))
    }

    /// A callback, cheap checks before dear ones: headers, our token, the key, the signature, and
    /// only then the body.
    fn post(&mut self, request: &Request, now: u64) -> Result<Upload, Reject> {
        let target = self.public_target(&request.target).into_owned();
        let key_url = request.header("x-oss-pub-key-url").ok_or(Reject::FIELD_MISSING)?;
        let claim = Claim::new(
            request.header("authorization").ok_or(Reject::AUTHORIZATION_GONE)?,
            key_url,
            &target,
            &request.body,
        )?;
        let prefix = match &self.tokens {
            Some(tokens) => Some(tokens.check(claim.path(), request.query(), now)?),
            None => None,
        };
        let key = self.keys.find(&claim.key_url)?;
        let verified = claim.verify(key)?;
        self.upload(request, &verified, prefix.as_deref(), now)
    }

    /// The target as OSS sent it: what a proxy took off is put back.
    fn public_target<'a>(&self, target: &'a str) -> Cow<'a, str> {
        match target.strip_prefix(&self.config.path_prefix) {
            Some(rest) if rest.is_empty() || rest.starts_with(['/', '?']) => target.into(),
            _ => format!("{}{target}", self.config.path_prefix).into(),
        }
    }

    /// Reads a verified body. If it is to be checked, it must be about our bucket, and with a token
    /// about an object under its prefix. Else even one that does not parse was signed, so it is
    /// accepted as it came.
    fn upload(
        &self,
        request: &Request,
        verified: &Verified,
        prefix: Option<&str>,
        now: u64,
    ) -> Result<Upload, Reject> {
        let content_type = request.header("content-type").unwrap_or_default();
        let id = request.header("x-oss-request-id").unwrap_or_default();
        let fields = callback::fields(verified, content_type);
        let parsed = fields.is_some();
        let by_variable = fields
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (self.variables.get(&name).cloned().unwrap_or(name), value));
        let mut values: BTreeMap<String, String> = by_variable.collect();
        let value = |variable: &str| values.get(variable).cloned().unwrap_or_default();
        let (object, size, etag) = (value("object"), value("size"), value("etag"));
        if self.tokens.is_some() || self.bucket.is_some() {
            if object.is_empty() {
                return Err(Reject::BODY_UNREADABLE);
            }
            if value("bucket") != self.config.bucket {
                return Err(Reject::OTHER_BUCKET);
            }
            if !object.starts_with(prefix.unwrap_or_default()) {
                return Err(Reject::OTHER_PREFIX);
            }
        }

        let body = String::from_utf8_lossy(&request.body);
        let (mut note, mut line) = ("callback".to_owned(), Map::new());
        line.insert("time".into(), time::iso8601(now).into());
        line.insert("request".into(), id.into());
        for variable in LOGGED.into_iter().chain(RECORDED) {
            let Some(value) = values.remove(variable) else { continue };
            if LOGGED.contains(&variable) {
                note += &format!(" {variable}={value:?}");
            }
            let number = value.parse::<u64>().ok().filter(|_| NUMBERS.contains(&variable));
            line.insert(variable.into(), number.map_or(value.into(), Value::from));
        }
        let subject = prefix.and_then(|prefix| prefix.strip_prefix(&self.config.upload_dir));
        if let Some(subject) = subject.map(|s| s.trim_matches('/')).filter(|s| !s.is_empty()) {
            line.insert("subject".into(), subject.into());
            note += &format!(" subject={subject:?}");
        }
        if !id.is_empty() {
            note += &format!(" request={id:?}");
        }
        if !parsed {
            note += &format!(" body={body:?}");
        }
        let custom = values.into_iter().map(|(name, value)| (name, Value::from(value)));
        line.insert("custom".into(), Value::Object(custom.collect()));
        line.insert("body".into(), body.into());
        Ok(Upload { line: Value::Object(line), note, object, size, etag })
    }

    /// Looks into the bucket for every callback of the batch at once, so that all together wait no
    /// longer than one.
    fn confirm(&self, outcomes: &mut [Outcome], now: u64) {
        let Some(bucket) = &self.bucket else { return };
        let issued = self.signer.issued(now);
        let look = |upload: &Upload| {
            let Upload { object, size, etag, .. } = upload;
            let credentials = &issued.ok_or(Reject::NO_CREDENTIALS)?.credentials;
            bucket.confirm(credentials, object, size, etag, now)
        };
        let verdicts: Vec<Result<(), Reject>> = thread::scope(|scope| {
            let looks = outcomes.iter().map(|outcome| match outcome {
                Outcome::Answered(_) => None,
                Outcome::Uploaded(upload) => {
                    Some(thread::Builder::new().spawn_scoped(scope, move || look(upload)))
                }
            });
            let looks: Vec<_> = looks.collect(); // all begin before the first is waited for
            let verdict = |look: io::Result<thread::ScopedJoinHandle<_>>| {
                look.map_or(Err(Reject::BUSY), |look| look.join().unwrap_or(Err(Reject::BUSY)))
            };
            looks.into_iter().map(|look| look.map_or(Ok(()), verdict)).collect()
        });
        for (outcome, verdict) in outcomes.iter_mut().zip(verdicts) {
            if let Err(reject) = verdict {
                *outcome = Outcome::Answered(refuse_callback(reject));
            }
        }
    }

    /// Puts every upload of the batch on disk. What cannot be recorded is not acknowledged.
    fn record(&mut self, outcomes: &mut [Outcome], now: u64) {
        let Some(uploads) = &mut self.uploads else { return };
        let lines: String = outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                Outcome::Uploaded(upload) => Some(format!("{}\n", upload.line)),
                Outcome::Answered(_) => None,
            })
            .collect();
        if lines.is_empty() {
            return;
        }
        let appended = uploads.append(lines.as_bytes(), now);
        SYNCS.add_for(result(&appended));
        if let Err(error) = appended {
            if self.complained != now {
                self.complained = now;
                log::line(now, &format!("upload log: {error}"));
            }
            for outcome in outcomes {
                if let Outcome::Uploaded(_) = outcome {
                    *outcome = Outcome::Answered(refuse_callback(Reject::NOT_RECORDED));
                }
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
            Some(origin) if allowed.iter().any(|one| one == origin) => {
                response.with("Access-Control-Allow-Origin", origin.to_owned())
            }
            _ => response,
        }
    }
}

fn refuse_callback(reject: Reject) -> Response {
    CALLBACKS.add_for(reject.1);
    Response::reject(reject)
}
