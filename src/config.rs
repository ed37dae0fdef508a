//! The environment and the command line, validated into a `Config` before anything runs: every
//! mistake is one line that names its variable and what is wrong. README's table lists them all.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::credentials::{Credentials, Secret};

/// Environment variables by name.
pub type Vars = BTreeMap<String, String>;

const KNOWN: [&str; 20] = [
    "ALLOW_ORIGIN",
    "CALLBACK_BODY",
    "CALLBACK_BODY_TYPE",
    "CALLBACK_KEY_ORIGIN",
    "CALLBACK_PUBLIC_KEY_FILE",
    "CALLBACK_URL",
    "CLIENT_PAGE",
    "EXPIRE_TIME",
    "FORBID_OVERWRITE",
    "MAX_CONNECTIONS",
    "MAX_UPLOAD_BYTES",
    "OSS_ACCESS_KEY_ID",
    "OSS_ACCESS_KEY_SECRET",
    "OSS_BUCKET",
    "OSS_HOST",
    "OSS_REGION",
    "OSS_SESSION_TOKEN",
    "UPLOAD_CONTENT_TYPES",
    "UPLOAD_DIR",
    "CREDENTIALS_DIRECTORY", // systemd's
];

const FORM_BODY: &str = "filename=${object}&size=${size}&mimeType=${mimeType}\
    &height=${imageInfo.height}&width=${imageInfo.width}&bucket=${bucket}&etag=${etag}";
const JSON_BODY: &str = "{\"filename\":${object},\"size\":${size},\"mimeType\":${mimeType},\
    \"height\":${imageInfo.height},\"width\":${imageInfo.width},\"bucket\":${bucket},\
    \"etag\":${etag}}";

/// A V4 signature lives seven days at most.
const MAX_EXPIRE_SECONDS: u64 = 7 * 86_400;
/// PostObject takes 5 GB at most.
const MAX_OBJECT_BYTES: u64 = 5 << 30;
/// The callback parameter's limit, less room for its JSON keys; base64 takes four bytes for three.
const MAX_CALLBACK_BYTES: usize = 5 * 1024 * 3 / 4 - 512;

pub struct Config {
    pub credentials: Credentials,
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
    /// How many clients the front door serves at a time.
    pub max_connections: usize,
}

/// What OSS is told to post back.
pub struct Callback {
    /// Up to five URLs joined by `;`.
    pub url: String,
    /// A template with `${variables}`.
    pub body: String,
    pub body_type: &'static str,
}

/// Where the callback's public keys come from.
pub enum KeySource {
    /// The PEM text of the only key; nothing is ever fetched.
    Pinned(String),
    /// `https://HOST`, or `http://` on loopback.
    Origin(String),
}

/// What the command line asks for.
pub enum Command {
    Serve(SocketAddr),
    Check,
    Help,
    Version,
}

/// One line: the variable or argument, and what is wrong with it.
#[derive(Debug)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn wrong<T>(name: &str, problem: impl fmt::Display) -> Result<T, ConfigError> {
    Err(ConfigError(format!("{name}: {problem}")))
}

/// Parses what follows the program's name: `[IP] PORT`, `--check`, `--help` or `--version`.
pub fn command(arguments: &[String]) -> Result<Command, ConfigError> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (ip, port) = match words.as_slice() {
        ["--check"] => return Ok(Command::Check),
        ["--help" | "-h"] => return Ok(Command::Help),
        ["--version" | "-V"] => return Ok(Command::Version),
        [port] => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), *port),
        [ip, port] => match ip.parse() {
            Ok(ip) => (ip, *port),
            Err(_) => return wrong(&format!("argument {ip:?}"), "not an IP address"),
        },
        _ => return wrong("arguments", "expected [IP] PORT (try --help)"),
    };
    match port.parse() {
        Ok(port) => Ok(Command::Serve(SocketAddr::new(ip, port))),
        Err(_) => wrong(&format!("argument {port:?}"), "not a port (0 to 65535; try --help)"),
    }
}

impl Config {
    /// The one constructor. Reads the files that variables name, and nothing else.
    pub fn from_vars(vars: &Vars) -> Result<Config, ConfigError> {
        refuse_misspelt(vars)?;
        let (host, bucket, region) = bucket_address(vars)?;
        Ok(Config {
            credentials: credentials(vars)?,
            host,
            bucket,
            region,
            upload_dir: upload_dir(vars)?,
            expire_seconds: number(vars, "EXPIRE_TIME", 30, MAX_EXPIRE_SECONDS)?,
            max_upload_bytes: number(vars, "MAX_UPLOAD_BYTES", 1_048_576_000, MAX_OBJECT_BYTES)?,
            content_types: content_types(vars)?,
            forbid_overwrite: switch(vars, "FORBID_OVERWRITE", false)?,
            callback: callback(vars)?,
            allow_origins: allow_origins(vars)?,
            client_page: switch(vars, "CLIENT_PAGE", true)?,
            public_key: public_key(vars)?,
            max_connections: number(vars, "MAX_CONNECTIONS", 512, 65_535)? as usize,
        })
    }

    /// What `--check` prints: the values in force, secrets masked.
    pub fn report(&self) -> String {
        let mut lines = Vec::new();
        let mut line = |name: &str, value: &str| lines.push(format!("{name} = {value}\n"));
        line("OSS_ACCESS_KEY_ID", &self.credentials.access_key_id);
        line("OSS_ACCESS_KEY_SECRET", "(set)");
        let token = self.credentials.security_token.as_ref();
        line("OSS_SESSION_TOKEN", token.map_or("(none)", |_| "(set)"));
        line("OSS_HOST", &self.host);
        line("OSS_BUCKET", &self.bucket);
        line("OSS_REGION", &self.region);
        match &self.callback {
            None => line("CALLBACK_URL", "(none: uploads are not reported)"),
            Some(callback) => {
                line("CALLBACK_URL", &callback.url);
                line("CALLBACK_BODY", &callback.body);
                line("CALLBACK_BODY_TYPE", callback.body_type);
            }
        }
        line("UPLOAD_DIR", &self.upload_dir);
        line("EXPIRE_TIME", &self.expire_seconds.to_string());
        line("MAX_UPLOAD_BYTES", &self.max_upload_bytes.to_string());
        line("MAX_CONNECTIONS", &self.max_connections.to_string());
        line("UPLOAD_CONTENT_TYPES", &any_or(&self.content_types, "(any)"));
        line("FORBID_OVERWRITE", if self.forbid_overwrite { "on" } else { "off" });
        line("ALLOW_ORIGIN", &any_or(&self.allow_origins, "*"));
        line("CLIENT_PAGE", if self.client_page { "on" } else { "off" });
        match &self.public_key {
            KeySource::Pinned(_) => {
                line("CALLBACK_PUBLIC_KEY_FILE", "(pinned: nothing is fetched)")
            }
            KeySource::Origin(origin) => line("CALLBACK_KEY_ORIGIN", origin),
        }
        lines.concat()
    }
}

fn any_or(list: &[String], any: &str) -> String {
    if list.is_empty() { any.to_owned() } else { list.join(",") }
}

/// A misspelt variable would be ignored in silence, and its default be in force.
fn refuse_misspelt(vars: &Vars) -> Result<(), ConfigError> {
    for name in vars.keys().filter(|name| !KNOWN.contains(&name.as_str())) {
        let upper = name.to_uppercase();
        let close = |known: &&&str| {
            let ours = ["OSS_", "CALLBACK_", "UPLOAD_"].iter().any(|p| upper.starts_with(p));
            edit_distance(&upper, known) <= if ours { 3 } else { 2 }
        };
        if let Some(known) = KNOWN.iter().find(close) {
            return wrong(name, format_args!("unknown variable; is it {known}?"));
        }
    }
    Ok(())
}

/// Levenshtein's distance, one row at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut above_left = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, &above) in b.bytes().zip(row.iter().skip(1)) {
            left = (above_left + usize::from(x != y)).min(above + 1).min(left + 1);
            above_left = above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// An empty variable counts as unset: environment files often hold `NAME=`.
fn optional<'a>(vars: &'a Vars, name: &str) -> Option<&'a str> {
    vars.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
}

fn required<'a>(vars: &'a Vars, name: &str) -> Result<&'a str, ConfigError> {
    optional(vars, name).map_or_else(|| wrong(name, "not set"), Ok)
}

fn number(vars: &Vars, name: &str, default: u64, max: u64) -> Result<u64, ConfigError> {
    let Some(text) = optional(vars, name) else { return Ok(default) };
    match text.parse() {
        Ok(number) if (1..=max).contains(&number) => Ok(number),
        _ => wrong(name, format_args!("{text:?} is not a whole number from 1 to {max}")),
    }
}

fn switch(vars: &Vars, name: &str, default: bool) -> Result<bool, ConfigError> {
    match optional(vars, name) {
        None => Ok(default),
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(text) => wrong(name, format_args!("{text:?} is neither on nor off")),
    }
}

/// A comma-separated list of which every item passes `valid`.
fn list(
    vars: &Vars,
    name: &str,
    valid: fn(&str) -> bool,
    shape: &str,
) -> Result<Vec<String>, ConfigError> {
    let items = optional(vars, name).into_iter().flat_map(|text| text.split(','));
    items
        .map(|item| match item.trim() {
            item if valid(item) => Ok(item.to_owned()),
            item => wrong(name, format_args!("{item:?} is not {shape}")),
        })
        .collect()
}

/// A secret: the variable, or the systemd credential of the same name in lower case. It is an
/// error for it to be there and empty, and its value is never part of an error.
fn secret(vars: &Vars, name: &str) -> Result<Option<Secret>, ConfigError> {
    let text = match (vars.get(name), vars.get("CREDENTIALS_DIRECTORY")) {
        (Some(text), _) => text.clone(),
        (None, Some(directory)) => {
            let path = Path::new(directory).join(name.to_lowercase());
            match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return wrong(name, format_args!("{}: {error}", path.display())),
            }
        }
        (None, None) => return Ok(None),
    };
    match text.trim() {
        "" => wrong(name, "set, but empty"),
        text if is_token(text) => Ok(Some(Secret::new(text.to_owned()))),
        _ => wrong(name, "contains white space or characters that are not ASCII"),
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn credentials(vars: &Vars) -> Result<Credentials, ConfigError> {
    let id = required(vars, "OSS_ACCESS_KEY_ID")?;
    if !is_token(id) || id.contains('/') {
        return wrong("OSS_ACCESS_KEY_ID", "not an access key id");
    }
    let Some(access_key_secret) = secret(vars, "OSS_ACCESS_KEY_SECRET")? else {
        return wrong(
            "OSS_ACCESS_KEY_SECRET",
            "not set, and no systemd credential oss_access_key_secret either",
        );
    };
    let security_token = secret(vars, "OSS_SESSION_TOKEN")?;
    Ok(Credentials { access_key_id: id.to_owned(), access_key_secret, security_token })
}

/// Host, bucket and region. An OSS endpoint names the other two; a custom domain does not.
fn bucket_address(vars: &Vars) -> Result<(String, String, String), ConfigError> {
    let host = required(vars, "OSS_HOST")?.trim_end_matches('/');
    let Some(domain) = host_of(host).filter(|domain| host.ends_with(domain)) else {
        return wrong("OSS_HOST", format_args!("{host:?} is not https://BUCKET.ENDPOINT"));
    };
    let derived = domain
        .strip_suffix(".aliyuncs.com")
        .and_then(|name| name.split_once(".oss-"))
        .map(|(bucket, region)| (bucket, region.strip_suffix("-internal").unwrap_or(region)))
        .filter(|(_, region)| !region.starts_with("accelerate"));

    let part = |name: &str, derived: Option<&str>| match (optional(vars, name), derived) {
        (Some(set), Some(derived)) if set != derived => {
            wrong(name, format_args!("{set:?}, but OSS_HOST says {derived:?}"))
        }
        (Some(value), _) | (None, Some(value)) => Ok(value.to_owned()),
        (None, None) => wrong(name, "not set, and OSS_HOST does not name it"),
    };
    let bucket = part("OSS_BUCKET", derived.map(|(bucket, _)| bucket))?;
    let region = part("OSS_REGION", derived.map(|(_, region)| region))?;
    let name = |text: &str| {
        text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
    };
    if !name(&bucket) || !(3..=63).contains(&bucket.len()) {
        return wrong("OSS_BUCKET", format_args!("{bucket:?} is not a bucket's name"));
    }
    if !name(&region) || region.is_empty() || region.starts_with("oss-") {
        return wrong("OSS_REGION", format_args!("{region:?} is not a region (like cn-hangzhou)"));
    }
    Ok((host.to_owned(), bucket, region))
}

/// The `HOST[:PORT]` of an http or https URL. No user info, no IPv6, nothing to be decoded: what
/// OSS, browsers and we read in it must be the same.
fn host_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = rest.split(['/', '?']).next()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    (is_token(url) && !name.is_empty() && host.bytes().all(plain) && port.parse::<u16>().is_ok())
        .then_some(host)
}

/// A prefix that needs no escape in a policy (`$`, `\`), in a URL path, or on a terminal.
fn upload_dir(vars: &Vars) -> Result<String, ConfigError> {
    let dir = optional(vars, "UPLOAD_DIR").unwrap_or_default();
    let bad = |c: char| c.is_control() || matches!(c, '$' | '\\');
    if dir.starts_with('/') || dir.contains(bad) || dir.len() > 512 {
        let rule = "must not start with / nor contain $, \\ or control characters";
        return wrong("UPLOAD_DIR", format_args!("{dir:?}: {rule} (512 bytes at most)"));
    }
    Ok(dir.to_owned())
}

fn content_types(vars: &Vars) -> Result<Vec<String>, ConfigError> {
    let valid = |item: &str| {
        is_token(item) && item.split('/').count() == 2 && !item.contains(['*', '"', '\\', '$'])
    };
    list(vars, "UPLOAD_CONTENT_TYPES", valid, "a content type (like image/png)")
}

fn allow_origins(vars: &Vars) -> Result<Vec<String>, ConfigError> {
    if optional(vars, "ALLOW_ORIGIN").is_none_or(|text| text == "*") {
        return Ok(Vec::new());
    }
    let valid = |item: &str| {
        item == "null" || host_of(item).is_some_and(|host| item.ends_with(&format!("://{host}")))
    };
    list(vars, "ALLOW_ORIGIN", valid, "an origin (like https://www.example.com)")
}

fn callback(vars: &Vars) -> Result<Option<Callback>, ConfigError> {
    let body_type = match optional(vars, "CALLBACK_BODY_TYPE") {
        None | Some("application/x-www-form-urlencoded") => "application/x-www-form-urlencoded",
        Some("application/json") => "application/json",
        Some(text) => {
            let both = "neither application/x-www-form-urlencoded nor application/json";
            return wrong("CALLBACK_BODY_TYPE", format_args!("{text:?} is {both}"));
        }
    };
    let json = body_type == "application/json";
    let default = if json { JSON_BODY } else { FORM_BODY };
    let body = optional(vars, "CALLBACK_BODY").unwrap_or(default);
    if json && crate::callback::template(body, body_type).is_none() {
        return wrong("CALLBACK_BODY", "not a JSON object (write \"name\":${variable})");
    }
    let Some(url) = optional(vars, "CALLBACK_URL") else { return Ok(None) };
    if url.split(';').count() > 5 {
        return wrong("CALLBACK_URL", "more than five URLs");
    }
    if let Some(bad) = url.split(';').find(|url| host_of(url).is_none() || url.contains('#')) {
        let shape = "http(s)://HOST[:PORT][/PATH], percent-encoded, no IPv6";
        return wrong("CALLBACK_URL", format_args!("{bad:?} is not {shape}"));
    }
    if url.len() + body.len() > MAX_CALLBACK_BYTES {
        return wrong("CALLBACK_URL", "with CALLBACK_BODY longer than OSS takes (5 KB in all)");
    }
    Ok(Some(Callback { url: url.to_owned(), body: body.to_owned(), body_type }))
}

fn public_key(vars: &Vars) -> Result<KeySource, ConfigError> {
    if let Some(path) = optional(vars, "CALLBACK_PUBLIC_KEY_FILE") {
        let name = "CALLBACK_PUBLIC_KEY_FILE";
        return match std::fs::read_to_string(path) {
            Ok(pem) if crate::callback::PublicKey::from_pem(&pem).is_some() => {
                Ok(KeySource::Pinned(pem))
            }
            Ok(_) => wrong(name, format_args!("{path:?} is not a PEM with an RSA public key")),
            Err(error) => wrong(name, format_args!("{path:?}: {error}")),
        };
    }
    let origin = optional(vars, "CALLBACK_KEY_ORIGIN").unwrap_or(crate::keys::ORIGIN);
    let loopback = ["http://127.0.0.1:", "http://localhost:"].iter().any(|p| origin.starts_with(p));
    match host_of(origin) {
        Some(host) if origin.ends_with(host) && (origin.starts_with("https:") || loopback) => {
            Ok(KeySource::Origin(origin.to_owned()))
        }
        _ => wrong("CALLBACK_KEY_ORIGIN", format_args!("{origin:?} is not https://HOST")),
    }
}
