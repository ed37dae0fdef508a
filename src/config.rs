//! The environment and the command line, validated into a `Config` before anything runs: every
//! mistake is one line that names its variable and what is wrong. README's table lists them all.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::oss::credentials::{Credentials, Secret, Source};
use crate::oss::keys::{self, KeySource};
use crate::oss::{callback, sts};
use crate::sys::listen::Listen;

/// Environment variables by name.
pub type Vars = BTreeMap<String, String>;

/// All that are read, systemd's own last.
const KNOWN: &str = "OSS_ACCESS_KEY_ID OSS_ACCESS_KEY_SECRET OSS_SESSION_TOKEN OSS_STS_ROLE_ARN \
    OSS_STS_ENDPOINT OSS_ECS_ROLE OSS_ECS_ENDPOINT METRICS_LISTEN OSS_HOST OSS_BUCKET OSS_REGION \
    CALLBACK_URL CALLBACK_BODY CALLBACK_BODY_TYPE CALLBACK_PUBLIC_KEY_FILE CALLBACK_KEY_ORIGIN \
    UPLOAD_DIR UPLOAD_CONTENT_TYPES MAX_UPLOAD_BYTES FORBID_OVERWRITE EXPIRE_TIME ALLOW_ORIGIN \
    CLIENT_PAGE PUBLIC_PATH_PREFIX MAX_CONNECTIONS UPLOAD_JWT_SECRET CALLBACK_TOKEN \
    CALLBACK_TOKEN_KEY CALLBACK_TOKEN_TTL CONFIRM_UPLOADS OSS_INTERNAL_HOST UPLOAD_LOG \
    CREDENTIALS_DIRECTORY";

/// Those that `Reader::secret` reads.
pub const SECRETS: [&str; 4] =
    ["OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN", "UPLOAD_JWT_SECRET", "CALLBACK_TOKEN_KEY"];

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const FORM_BODY: &str = "filename=${object}&size=${size}&mimeType=${mimeType}\
    &height=${imageInfo.height}&width=${imageInfo.width}&bucket=${bucket}&etag=${etag}";
const JSON_BODY: &str = "{\"filename\":${object},\"size\":${size},\"mimeType\":${mimeType},\
    \"height\":${imageInfo.height},\"width\":${imageInfo.width},\"bucket\":${bucket},\
    \"etag\":${etag}}";

// What `Reader::value` says that a bad value is not.
const PREFIX: &str =
    "a key prefix (512 bytes at most, no / before it, no $, \\, control characters)";
const TYPES: &str = "a comma list of content types (like image/png)";
const ORIGINS: &str = "* or a comma list of origins (like https://www.example.com)";
const CALLBACK_URLS: &str =
    "one to five http(s)://HOST[:PORT][/PATH] joined by ; (percent-encoded, no IPv6)";
const CALLBACK_BODY: &str = "name=${variable}&…, or in JSON {\"name\":${variable},…}";

/// A V4 signature lives seven days at most.
const MAX_EXPIRE_SECONDS: u64 = 7 * 86_400;
/// PostObject takes 5 GB at most.
const MAX_OBJECT_BYTES: u64 = 5 << 30;

pub struct Config {
    /// Whose signature policies carry.
    pub source: Source,
    /// `https://BUCKET.ENDPOINT`, no slash at the end.
    pub host: String,
    pub bucket: String,
    pub region: String,
    /// Prefix of every object's key; may be empty.
    pub upload_dir: String,
    pub expire_seconds: u64,
    pub max_upload_bytes: u64,
    /// Empty: any.
    pub content_types: Vec<String>,
    pub forbid_overwrite: bool,
    /// Absent: policies carry no callback.
    pub callback: Option<Callback>,
    /// Origins that may read our answers; empty: all.
    pub allow_origins: Vec<String>,
    pub client_page: bool,
    pub public_key: KeySource,
    /// Path under which the public reaches us, like `/post`; may be empty.
    pub path_prefix: String,
    /// Who uploads must show a ticket that this signs.
    pub jwt_secret: Option<Secret>,
    /// Seconds that a callback token outlives its policy; absent: no tokens.
    pub token_ttl: Option<u64>,
    /// What callback tokens are derived from: `CALLBACK_TOKEN_KEY` or the access key's secret.
    pub token_key: Option<Secret>,
    /// Where to look for uploaded objects before callbacks are believed; absent: no look.
    pub confirm_host: Option<String>,
    /// Folder of the record of uploads.
    pub upload_log: Option<PathBuf>,
    /// How many clients the front door serves at a time.
    pub max_connections: usize,
    /// Where `/metrics` is served; absent: nowhere.
    pub metrics: Option<SocketAddr>,
    /// The values in force, a line each, secrets masked.
    pub report: String,
}

/// What OSS is told to post back.
pub struct Callback {
    /// Up to five URLs joined by `;`.
    pub url: String,
    /// A template with `${variables}`.
    pub body: String,
    pub body_type: &'static str,
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Serve(Listen),
    Check { online: bool },
    Help,
    Version,
}

/// One line: the variable or argument, and what is wrong with it.
#[derive(Debug)]
pub struct ConfigError(String);

impl ConfigError {
    pub fn new(name: &str, problem: impl fmt::Display) -> ConfigError {
        ConfigError(format!("{name}: {problem}"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn wrong<T>(name: &str, problem: impl fmt::Display) -> Result<T, ConfigError> {
    Err(ConfigError::new(name, problem))
}

/// Parses what follows the program's name.
pub fn command(arguments: &[String]) -> Result<Command, ConfigError> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (ip, port) = match words.as_slice() {
        ["--check"] => return Ok(Command::Check { online: false }),
        ["--check", "--online"] => return Ok(Command::Check { online: true }),
        ["--help" | "-h"] => return Ok(Command::Help),
        ["--version" | "-V"] => return Ok(Command::Version),
        [path] if path.starts_with("unix:/") => {
            return Ok(Command::Serve(Listen::Unix(path.trim_start_matches("unix:").into())));
        }
        [port] => (Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), *port),
        [ip, port] => {
            (ip.parse().or(wrong(&format!("argument {ip:?}"), "not an IP address")), *port)
        }
        _ => return wrong("arguments", "expected [IP] PORT or unix:/PATH (try --help)"),
    };
    match port.parse() {
        Ok(port) => Ok(Command::Serve(Listen::Tcp(SocketAddr::new(ip?, port)))),
        Err(_) => ip.and(wrong(&format!("argument {port:?}"), "not a port (try --help)")),
    }
}

impl Config {
    /// The one constructor. Reads the files that variables name, and nothing else.
    pub fn from_vars(vars: &Vars) -> Result<Config, ConfigError> {
        refuse_misspelt(vars)?;
        let mut read = Reader { vars, report: String::new() };
        let key = read.access_key()?;
        let (host, bucket, region) = read.bucket_address()?;
        let upload_dir = read.value("UPLOAD_DIR", "", PREFIX, |text| {
            // Nothing that needs an escape in a policy or on a terminal.
            let plain = |c: char| !c.is_control() && !matches!(c, '$' | '\\');
            (!text.starts_with('/') && text.len() <= 512 && text.chars().all(plain))
                .then(|| text.to_owned())
        })?;
        let confirm = read.switch("CONFIRM_UPLOADS", "off")?;
        let token_key = read.long_secret("CALLBACK_TOKEN_KEY")?;
        let token_key = token_key.or(key.as_ref().map(|key| key.access_key_secret.clone()));
        let session_policy = sts::session_policy(&bucket, &upload_dir, confirm);
        let source = read.source(key, &region, session_policy)?;
        let inside = read.value("OSS_INTERNAL_HOST", &host, "https://BUCKET.ENDPOINT", |text| {
            is_origin(text).then(|| text.to_owned())
        })?;
        let token_ttl = read.number("CALLBACK_TOKEN_TTL", "86400", 30 * 86_400)?;
        let token_ttl = read.switch("CALLBACK_TOKEN", "on")?.then_some(token_ttl);
        if token_ttl.is_some() && token_key.is_none() {
            let problem = "not set, and with OSS_ECS_ROLE no secret lasts that could stand for it";
            return wrong("CALLBACK_TOKEN_KEY", problem);
        }
        Ok(Config {
            jwt_secret: read.long_secret("UPLOAD_JWT_SECRET")?,
            token_ttl,
            token_key,
            confirm_host: confirm.then_some(inside),
            upload_log: read.value("UPLOAD_LOG", "", "a folder", |text| {
                let folder = (!text.is_empty()).then(|| PathBuf::from(text));
                folder.as_ref().is_none_or(|folder| folder.is_dir()).then_some(folder)
            })?,
            source,
            host,
            bucket,
            region,
            callback: read.callback()?,
            public_key: read.public_key()?,
            upload_dir,
            content_types: read.value("UPLOAD_CONTENT_TYPES", "", TYPES, |text| {
                list(text, |item| {
                    is_token(item)
                        && item.split('/').count() == 2
                        && !item.contains(['*', '$', '"'])
                })
            })?,
            max_upload_bytes: read.number("MAX_UPLOAD_BYTES", "1048576000", MAX_OBJECT_BYTES)?,
            forbid_overwrite: read.switch("FORBID_OVERWRITE", "off")?,
            expire_seconds: read.number("EXPIRE_TIME", "30", MAX_EXPIRE_SECONDS)?,
            allow_origins: read.value("ALLOW_ORIGIN", "*", ORIGINS, |text| match text {
                "*" => Some(Vec::new()),
                _ => list(text, |item| item == "null" || is_origin(item)),
            })?,
            client_page: read.switch("CLIENT_PAGE", "on")?,
            path_prefix: read.value("PUBLIC_PATH_PREFIX", "", "a path like /post", |text| {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b);
                let path = text.starts_with('/') && !text.ends_with('/') && !text.contains("//");
                (text.is_empty() || path && text.bytes().all(plain)).then(|| text.to_owned())
            })?,
            max_connections: read.number("MAX_CONNECTIONS", "512", 65_535)? as usize,
            metrics: read.value("METRICS_LISTEN", "", "IP:PORT", |text| match text {
                "" => Some(None),
                _ => text.parse().ok().map(Some),
            })?,
            report: read.report,
        })
    }
}

/// A misspelt variable would be ignored in silence, and its default be in force.
fn refuse_misspelt(vars: &Vars) -> Result<(), ConfigError> {
    let known = || KNOWN.split_whitespace();
    for name in vars.keys().filter(|name| known().all(|known| known != *name)) {
        let upper = name.to_uppercase();
        let ours = ["OSS_", "CALLBACK_", "UPLOAD_"].iter().any(|prefix| upper.starts_with(prefix));
        let slip = if ours { 3 } else { 2 };
        if let Some(known) =
            known().find(|known| alike(&upper, known) + slip >= name.len().max(known.len()))
        {
            return wrong(name, format_args!("unknown variable; is it {known}?"));
        }
    }
    Ok(())
}

/// How many bytes two words share before and after their first and last difference.
fn alike(a: &str, b: &str) -> usize {
    let before = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let after = a.bytes().rev().zip(b.bytes().rev()).take_while(|(x, y)| x == y).count();
    before + after.min(a.len().min(b.len()) - before)
}

/// One token of printable ASCII.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The items of a comma list, none if one is not `valid`.
fn list(text: &str, valid: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let items = text.split(',').map(str::trim).filter(|_| !text.is_empty());
    items.map(|item| valid(item).then(|| item.to_owned())).collect()
}

/// The `HOST[:PORT]` of an http or https URL. No user info, no IPv6, nothing to be decoded: what
/// OSS, browsers and we read in it must be the same.
fn host_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = rest.split(['/', '?']).next()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:".contains(&b);
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    (is_token(url) && !name.is_empty() && host.bytes().all(plain) && port.parse::<u16>().is_ok())
        .then_some(host)
}

/// True for an http or https URL that is scheme and host alone.
fn is_origin(url: &str) -> bool {
    host_of(url).is_some_and(|host| url.ends_with(&format!("://{host}")))
}

/// True for one that nobody on the way can read: https, or on loopback (for tests).
fn is_private_origin(url: &str) -> bool {
    let private = ["http://127.0.0.1:", "http://localhost:", "https:"];
    is_origin(url) && private.iter().any(|prefix| url.starts_with(prefix))
}

/// Of a bucket or a region.
fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = text.starts_with('-') || text.ends_with('-');
    (3..=63).contains(&text.len()) && text.bytes().all(plain) && !edge
}

/// Reads variables and notes what is in force.
struct Reader<'a> {
    vars: &'a Vars,
    report: String,
}

impl<'a> Reader<'a> {
    /// An empty variable counts as unset: environment files often hold `NAME=`.
    fn optional(&self, name: &str) -> Option<&'a str> {
        self.vars.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The variable or its default, if `parse` accepts it as a `shape`.
    fn value<T>(
        &mut self,
        name: &str,
        default: &str,
        shape: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let text = self.optional(name).unwrap_or(default);
        self.report += &format!("{name} = {text}\n");
        match parse(text) {
            Some(value) => Ok(value),
            None if text.is_empty() => wrong(name, format_args!("not set ({shape})")),
            None => wrong(name, format_args!("{text:?} is not {shape}")),
        }
    }

    fn number(&mut self, name: &str, default: &str, max: u64) -> Result<u64, ConfigError> {
        self.value(name, default, &format!("a whole number from 1 to {max}"), |text| {
            text.parse().ok().filter(|number| (1..=max).contains(number))
        })
    }

    fn switch(&mut self, name: &str, default: &str) -> Result<bool, ConfigError> {
        let on_or_off = |text: &str| ["off", "on"].iter().position(|word| *word == text);
        Ok(self.value(name, default, "on or off", on_or_off)? == 1)
    }

    /// The variable, or the systemd credential of the same name in lower case. It is an error for
    /// it to be there and empty, and its value is never part of an error.
    fn secret(&mut self, name: &str) -> Result<Option<Secret>, ConfigError> {
        let mut text = self.vars.get(name).cloned();
        if let (None, Some(folder)) = (&text, self.vars.get("CREDENTIALS_DIRECTORY")) {
            let path = Path::new(folder).join(name.to_lowercase());
            text = match std::fs::read_to_string(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return wrong(name, format_args!("{}: {error}", path.display())),
                Ok(text) => Some(text),
            }
        }
        self.report += &format!("{name} = {}\n", if text.is_some() { "(set)" } else { "" });
        match text.as_deref().map(str::trim) {
            None => Ok(None),
            Some("") => wrong(name, "set, but empty"),
            Some(text) if is_token(text) => Ok(Some(Secret::new(text.to_owned()))),
            Some(_) => wrong(name, "contains white space or characters that are not ASCII"),
        }
    }

    /// As long as HMAC-SHA256's output (RFC 7518, 3.2): a short one could be guessed off-line.
    fn long_secret(&mut self, name: &str) -> Result<Option<Secret>, ConfigError> {
        match self.secret(name)? {
            Some(short) if short.expose().len() < 32 => wrong(name, "shorter than 32 characters"),
            secret => Ok(secret),
        }
    }

    /// The access key; none on an instance with a role of its own.
    fn access_key(&mut self) -> Result<Option<Credentials>, ConfigError> {
        let role = self.optional("OSS_ECS_ROLE");
        let access_key_id = self.value("OSS_ACCESS_KEY_ID", "", "an access key id", |text| {
            let valid = role.is_some() && text.is_empty() || is_token(text) && !text.contains('/');
            valid.then(|| text.to_owned())
        })?;
        let secret = self.secret("OSS_ACCESS_KEY_SECRET")?;
        let security_token = self.secret("OSS_SESSION_TOKEN")?;
        match (role, secret) {
            (None, Some(access_key_secret)) => {
                Ok(Some(Credentials { access_key_id, access_key_secret, security_token }))
            }
            (None, None) => {
                let problem = "not set, and no systemd credential oss_access_key_secret either";
                wrong("OSS_ACCESS_KEY_SECRET", problem)
            }
            (Some(_), None) if access_key_id.is_empty() && security_token.is_none() => Ok(None),
            (Some(_), _) => wrong("OSS_ECS_ROLE", "set, and an access key is too: which is it?"),
        }
    }

    /// The access key itself, a role that it assumes, or the role of this ECS instance.
    fn source(
        &mut self,
        key: Option<Credentials>,
        region: &str,
        policy: String,
    ) -> Result<Source, ConfigError> {
        let is_endpoint = |text: &str| is_private_origin(text).then(|| text.to_owned());
        let arn = self.value("OSS_STS_ROLE_ARN", "", "acs:ram::ACCOUNT:role/NAME", |text| {
            let role = text.strip_prefix("acs:ram::").is_some_and(|rest| rest.contains(":role/"));
            (text.is_empty() || role && is_token(text)).then(|| text.to_owned())
        })?;
        let default = format!("https://sts.{region}.aliyuncs.com");
        let shape = "https://HOST";
        let endpoint = self.value("OSS_STS_ENDPOINT", &default, shape, is_endpoint)?;
        let role = self.value("OSS_ECS_ROLE", "", "a role's name", |text| {
            (text.is_empty() || is_token(text)).then(|| text.to_owned())
        })?;
        let metadata = self.value("OSS_ECS_ENDPOINT", sts::METADATA, shape, |text| {
            if text == sts::METADATA { Some(text.to_owned()) } else { is_endpoint(text) }
        })?;
        match key {
            Some(key) if arn.is_empty() => Ok(Source::Fixed(key)),
            Some(key) => Ok(Source::Role { key, endpoint, arn, policy }),
            None if arn.is_empty() => Ok(Source::Ecs { endpoint: metadata, role }),
            None => wrong("OSS_STS_ROLE_ARN", "set, and OSS_ECS_ROLE is too: which is it?"),
        }
    }

    /// Host, bucket and region. An OSS endpoint names the other two; a custom domain does not.
    fn bucket_address(&mut self) -> Result<(String, String, String), ConfigError> {
        let host = self.value("OSS_HOST", "", "https://BUCKET.ENDPOINT", |text| {
            let host = text.trim_end_matches('/');
            is_origin(host).then(|| host.to_owned())
        })?;
        let (bucket, region) = host_of(&host)
            .and_then(|domain| domain.strip_suffix(".aliyuncs.com")?.split_once(".oss-"))
            .map(|(bucket, region)| (bucket, region.strip_suffix("-internal").unwrap_or(region)))
            .filter(|(_, region)| !region.starts_with("accelerate"))
            .unwrap_or_default();
        if [bucket, region].iter().any(|name| !name.is_empty() && !is_name(name)) {
            return wrong("OSS_HOST", format_args!("{host:?} names no valid bucket and region"));
        }
        let mut part = |name: &str, derived: &str| {
            let shape = match derived {
                "" => "a valid name (like examplebucket, cn-hangzhou), and OSS_HOST has none",
                derived => &format!("what OSS_HOST says, {derived:?}"),
            };
            self.value(name, derived, shape, |text| {
                let prefixed = name == "OSS_REGION" && text.starts_with("oss-");
                (is_name(text) && !prefixed && (derived.is_empty() || text == derived))
                    .then(|| text.to_owned())
            })
        };
        let (bucket, region) = (part("OSS_BUCKET", bucket)?, part("OSS_REGION", region)?);
        Ok((host, bucket, region))
    }

    fn callback(&mut self) -> Result<Option<Callback>, ConfigError> {
        let url = self.value("CALLBACK_URL", "", CALLBACK_URLS, |text| {
            let escapes = |url: &str| callback::percent_decode(url.as_bytes()).is_some();
            let good = |url: &str| host_of(url).is_some() && !url.contains('#') && escapes(url);
            let urls = text.split(';').filter(|_| !text.is_empty());
            (urls.clone().count() <= 5 && urls.clone().all(good)).then(|| text.to_owned())
        })?;
        let types = [FORM, JSON];
        let body_type = self.value("CALLBACK_BODY_TYPE", FORM, &types.join(" or "), |text| {
            types.into_iter().find(|known| *known == text)
        })?;
        let default = if body_type == JSON { JSON_BODY } else { FORM_BODY };
        let body = self.value("CALLBACK_BODY", default, CALLBACK_BODY, |text| {
            callback::template(text, body_type).map(|_| text.to_owned())
        })?;
        Ok(Some(Callback { url, body, body_type }).filter(|callback| !callback.url.is_empty()))
    }

    fn public_key(&mut self) -> Result<KeySource, ConfigError> {
        let name = "CALLBACK_PUBLIC_KEY_FILE";
        if let Some(path) = self.optional(name) {
            let pem = std::fs::read_to_string(path)
                .or_else(|error| wrong(name, format_args!("{path:?}: {error}")))?;
            return self.value(name, "", "a PEM file with an RSA public key", |_| {
                callback::PublicKey::from_pem(&pem).map(|_| KeySource::Pinned(pem.clone()))
            });
        }
        self.value("CALLBACK_KEY_ORIGIN", keys::ORIGIN, "https://HOST", |text| {
            is_private_origin(text).then(|| KeySource::Origin(text.to_owned()))
        })
    }
}
