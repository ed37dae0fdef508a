//! The environment, validated into a `Config` before anything runs: every mistake is one line that
//! names its variable. One table has all variables: `--help`, the words of errors, the list of
//! secrets and the refusal of unknown names come from it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::oss::OTHER_NAMES;
use crate::oss::address::{
    alike, are_callback_urls, are_origins, check_template, is_content_type, is_endpoint, is_name,
    is_origin, is_page_origin, is_path, is_prefix, is_private, is_token, is_word, named_by,
};
use crate::oss::callback::{JSON, PublicKey, template};
use crate::oss::credentials::{Credentials, Secret, Source};
use crate::oss::keys::{self, KeySource};
use crate::oss::sts;

/// Environment variables by name.
pub type Vars = BTreeMap<String, String>;
/// One line: the variable, and what is wrong with it.
pub type ConfigError = String;
type Read<T> = Result<T, ConfigError>;

/// Name, default (empty: none, or one that depends on others), what a value must be, help.
pub const VARIABLES: [[&str; 4]; 34] = [
    ["OSS_ACCESS_KEY_ID", "", "an access key id", "the access key that signs (required)"],
    ["OSS_ACCESS_KEY_SECRET", "", SECRET, "its secret (required)"],
    ["OSS_SESSION_TOKEN", "", SECRET, "its security token, if it is a temporary key"],
    ["OSS_STS_ROLE_ARN", "", "acs:ram::ACCOUNT:role/NAME", "a role that the access key assumes"],
    ["OSS_STS_ENDPOINT", "", "https://HOST", "where it does (https://sts.REGION.aliyuncs.com)"],
    ["OSS_ECS_ROLE", "", "a role's name", "the role of this ECS instance, in place of a key"],
    [
        "OSS_ECS_ENDPOINT",
        sts::METADATA,
        "http://100.100.100.200 or https://HOST",
        "its metadata service",
    ],
    ["OSS_HOST", "", HOST, "https://BUCKET.oss-REGION.aliyuncs.com, or your domain (required)"],
    ["OSS_BUCKET", "", BUCKET, "required if OSS_HOST does not name it"],
    ["OSS_REGION", "", REGION, "required if OSS_HOST does not name it"],
    ["OSS_INTERNAL_HOST", "", INNER_HOST, "where CONFIRM_UPLOADS looks (OSS_HOST)"],
    ["CALLBACK_URL", "", URLS, "where OSS reports uploads: one URL, or up to five joined by ;"],
    ["CALLBACK_BODY", "", BODY, "what it reports (filename=${object}&size=${size}&…)"],
    ["CALLBACK_BODY_TYPE", FORM, FORM_OR_JSON, "or application/json"],
    ["CALLBACK_TOKEN", "on", "on or off", "off: callbacks need no token of ours"],
    ["CALLBACK_TOKEN_KEY", "", LONG_SECRET, "signs these tokens (the access key's secret)"],
    ["CALLBACK_TOKEN_TTL", "86400", "a number from 1 to 2592000", "seconds beyond a policy's end"],
    ["CALLBACK_PUBLIC_KEY_FILE", "", PEM, "PEM file with the only public key to accept"],
    ["CALLBACK_KEY_ORIGIN", keys::ORIGIN, "https://HOST", "where public keys are fetched"],
    ["UPLOAD_DIR", "", PREFIX, "prefix of every object's key, like user-uploads/"],
    ["UPLOAD_CONTENT_TYPES", "", TYPES, "comma list, like image/png,image/jpeg (any)"],
    ["UPLOAD_JWT_SECRET", "", LONG_SECRET, "who uploads must show a token signed with this"],
    ["UPLOAD_LOG", "", "a folder", "folder of the record of uploads"],
    ["MAX_UPLOAD_BYTES", "1048576000", "a number from 1 to 5368709120", "largest object"],
    ["FORBID_OVERWRITE", "off", "on or off", "on: OSS refuses a key that exists"],
    ["EXPIRE_TIME", "30", "a number from 1 to 604800", "seconds that a policy lives"],
    ["CONFIRM_UPLOADS", "off", "on or off", "on: the bucket must confirm what a callback says"],
    ["ALLOW_ORIGIN", "*", ORIGINS, "comma list of origins whose pages may ask for policies"],
    ["CLIENT_PAGE", "on", "on or off", "off: no upload page"],
    ["FRAME_ANCESTORS", "", "a comma list of origins", "comma list of sites that may embed it"],
    ["PUBLIC_PATH_PREFIX", "", "a path like /post", "path under which the public reaches this"],
    ["MAX_CONNECTIONS", "512", "a number from 1 to 65535", "at a time, a quarter for one client"],
    ["METRICS_LISTEN", "", "IP:PORT", "where /metrics is served"],
    ["CREDENTIALS_DIRECTORY", "", "a folder", "files with secrets, as systemd hands them over"],
];

/// What `docker --env-file` keeps, and word processors make of it.
const QUOTES: [char; 7] = ['"', '\'', '`', '“', '”', '‘', '’'];
const QUOTED: &str = "begins or ends with a quote, which is no part of the value";

const SECRET: &str = "a secret";
const LONG_SECRET: &str = "a secret of 32 characters or more";
const HOST: &str = "https://BUCKET.ENDPOINT";
const INNER_HOST: &str = "https://BUCKET.ENDPOINT (http:// at -internal.aliyuncs.com alone)";
const BUCKET: &str = "a bucket's name (the same as in OSS_HOST, if it has one)";
const REGION: &str = "a region like cn-hangzhou (the same as in OSS_HOST, if it has one)";
const URLS: &str = "1 to 5 http(s)://HOST[:PORT][/PATH] joined by ; (percent-encoded, no IPv6)";
const BODY: &str = "name=${variable}&…, or in JSON {\"name\":${variable},…}";
const FORM_OR_JSON: &str = "application/x-www-form-urlencoded or application/json";
const PEM: &str = "a PEM file with an RSA public key";
const PREFIX: &str = "a key prefix (up to 512 bytes, no / before it, no $, \\, control characters)";
const TYPES: &str = "a comma list of content types as browsers spell them (like image/jpeg), or \
    image/* alone (a policy cannot say it beside others)";
const ORIGINS: &str = "* or a comma list of origins, as browsers spell them (https://a.example)";

const FORM: &str = "application/x-www-form-urlencoded";
const FORM_BODY: &str = "filename=${object}&size=${size}&mimeType=${mimeType}&height=\
    ${imageInfo.height}&width=${imageInfo.width}&bucket=${bucket}&etag=${etag}&reqId=${reqId}";
const JSON_BODY: &str = "{\"filename\":${object},\"size\":${size},\"mimeType\":${mimeType},\
    \"height\":${imageInfo.height},\"width\":${imageInfo.width},\"bucket\":${bucket},\
    \"etag\":${etag},\"reqId\":${reqId}}";

pub struct Config {
    pub source: Source,
    /// `https://BUCKET.ENDPOINT`, no slash at the end.
    pub host: String,
    pub bucket: String,
    pub region: String,
    pub upload_dir: String,
    pub expire_seconds: u64,
    pub max_upload_bytes: u64,
    /// Empty: any.
    pub content_types: Vec<String>,
    pub forbid_overwrite: bool,
    pub callback: Callback,
    /// Empty: any.
    pub allow_origins: Vec<String>,
    pub client_page: bool,
    pub frame_ancestors: String,
    pub public_key: KeySource,
    pub path_prefix: String,
    pub jwt_secret: Option<Secret>,
    /// Seconds that a callback token outlives its policy; absent: no tokens.
    pub token_ttl: Option<u64>,
    pub token_key: Option<Secret>,
    /// Where to look for uploaded objects before callbacks are believed; absent: no look.
    pub confirm_host: Option<String>,
    pub upload_log: Option<PathBuf>,
    pub max_connections: usize,
    pub metrics: Option<SocketAddr>,
    /// The values in force, a line each, secrets masked.
    pub report: String,
}

/// What OSS is told to post back: up to five URLs joined by `;`, or none; a template of its body.
pub struct Callback {
    pub url: String,
    pub body: String,
    pub body_type: &'static str,
}

impl Config {
    /// The one constructor. Reads the files that variables name, and nothing else.
    pub fn from_vars(vars: &Vars) -> Read<Config> {
        refuse_unknown(vars)?;
        let mut read = Reader { vars, in_force: BTreeMap::new() };
        let (host, bucket, region) = read.bucket_address()?;
        let upload_dir = read.text("UPLOAD_DIR", is_prefix)?;
        let confirm = read.switch("CONFIRM_UPLOADS")?;
        let is_same = |(name, _): (&str, &str)| ["", &bucket].contains(&name);
        let is_ours = |text: &str| is_origin(text) && named_by(text).is_some_and(is_same);
        // Who can write to the network could confirm what is not there.
        let is_safe = |text: &str| is_ours(text) && (is_private(text) || !confirm);
        let internal_host = read.value("OSS_INTERNAL_HOST", &host, is_safe)?;
        let session_policy = sts::session_policy(&bucket, &upload_dir, confirm);
        let source = read.source(&region, session_policy)?;
        let token_key = read.secret("CALLBACK_TOKEN_KEY")?;
        let token_key = token_key.or(read.secret("OSS_ACCESS_KEY_SECRET")?);
        let token_ttl = read.number("CALLBACK_TOKEN_TTL", 30 * 86_400)?;
        let token_ttl = read.switch("CALLBACK_TOKEN")?.then_some(token_ttl);
        if token_ttl.is_some() && token_key.is_none() {
            let problem = "not set, and with OSS_ECS_ROLE no secret lasts that could stand for it";
            return wrong("CALLBACK_TOKEN_KEY", problem);
        }
        let upload_log = read.text("UPLOAD_LOG", |text| Path::new(text).is_dir())?;
        let metrics = read.text("METRICS_LISTEN", |text| text.parse::<SocketAddr>().is_ok())?;
        Ok(Config {
            source,
            host,
            bucket,
            region,
            upload_dir,
            // A V4 signature lives seven days at most, and PostObject takes 5 GB.
            expire_seconds: read.number("EXPIRE_TIME", 7 * 86_400)?,
            max_upload_bytes: read.number("MAX_UPLOAD_BYTES", 5 << 30)?,
            content_types: read.list("UPLOAD_CONTENT_TYPES", is_content_type)?,
            forbid_overwrite: read.switch("FORBID_OVERWRITE")?,
            callback: read.callback()?,
            allow_origins: read.list("ALLOW_ORIGIN", is_page_origin)?,
            client_page: read.switch("CLIENT_PAGE")?,
            frame_ancestors: read.text("FRAME_ANCESTORS", are_origins)?,
            public_key: read.public_key()?,
            path_prefix: read.text("PUBLIC_PATH_PREFIX", is_path)?,
            jwt_secret: read.secret("UPLOAD_JWT_SECRET")?,
            token_ttl,
            token_key,
            confirm_host: confirm.then_some(internal_host),
            upload_log: (!upload_log.is_empty()).then(|| upload_log.into()),
            max_connections: read.number("MAX_CONNECTIONS", 65_535)? as usize,
            metrics: metrics.parse().ok(),
            report: read.report(),
        })
    }
}

pub fn wrong<T>(name: &str, problem: impl Display) -> Read<T> {
    Err(format!("{name}: {problem}"))
}

/// A misspelt variable would be ignored in silence, and its default be in force.
fn refuse_unknown(vars: &Vars) -> Read<()> {
    let has_key = vars.contains_key("OSS_ACCESS_KEY_ID") || vars.contains_key("OSS_ECS_ROLE");
    for (name, ours) in OTHER_NAMES {
        // Where we have a key, theirs is another program's.
        if vars.contains_key(name) && !(has_key && name.starts_with("ALIBABA_")) {
            return wrong(name, format_args!("unknown variable; is it {ours}?"));
        }
    }
    for name in vars.keys().filter(|name| VARIABLES.iter().all(|[known, ..]| known != name)) {
        if name.contains("_SERVICE_") || name.contains("_PORT") {
            continue; // Kubernetes sets them for services that are called `oss` or `upload`
        }
        let upper = name.to_uppercase();
        let ours = ["OSS_", "CALLBACK_", "UPLOAD_"].iter().any(|prefix| upper.starts_with(prefix));
        let max_edits = if ours { 3 } else { 2 };
        for [known, ..] in VARIABLES {
            if alike(&upper, known) + max_edits >= name.len().max(known.len()) {
                return wrong(name, format_args!("unknown variable; is it {known}?"));
            }
        }
        if ours {
            return wrong(name, "unknown variable (appserver --help prints all)");
        }
    }
    Ok(())
}

fn row(name: &str) -> [&'static str; 4] {
    VARIABLES.into_iter().find(|[known, ..]| *known == name).unwrap_or_default()
}

/// A line for each variable.
pub fn help() -> String {
    let line = |[name, default, _, help]: [&str; 4]| match default {
        "" => format!("  {name:<25}{help}\n"),
        _ => format!("  {name:<25}{help} ({default})\n"),
    };
    VARIABLES.map(line).concat()
}

/// What to say of secrets that come in the environment.
pub fn bare_secrets(vars: &Vars) -> Option<String> {
    let secrets = VARIABLES.iter().filter(|[_, _, shape, _]| shape.starts_with(SECRET));
    let names = secrets.map(|[name, ..]| *name).filter(|name| vars.contains_key(*name));
    let names = names.collect::<Vec<_>>().join(", ");
    let advice = "readable in /proc/PID/environ while this runs; better systemd credentials";
    (!names.is_empty()).then(|| format!("{names}: {advice}"))
}

/// Reads variables and notes what is in force.
struct Reader<'a> {
    vars: &'a Vars,
    in_force: BTreeMap<&'static str, String>,
}

impl Reader<'_> {
    /// The variable, or its default (from the table, or `derived` from others), if it `fits`.
    fn value(&mut self, name: &str, derived: &str, fits: impl Fn(&str) -> bool) -> Read<String> {
        let [name, default, shape, _] = row(name);
        // An empty variable counts as unset: environment files often hold `NAME=`.
        let set = self.vars.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
        let text = set.unwrap_or(if derived.is_empty() { default } else { derived });
        self.in_force.insert(name, text.to_owned());
        match text {
            text if text.trim_matches(QUOTES) != text => wrong(name, QUOTED),
            text if fits(text) => Ok(text.to_owned()),
            "" => wrong(name, format_args!("not set ({shape})")),
            text => wrong(name, format_args!("{text:?} is not {shape}")),
        }
    }

    fn text(&mut self, name: &str, fits: impl Fn(&str) -> bool) -> Read<String> {
        self.value(name, "", |text| text.is_empty() || fits(text))
    }

    /// A comma list; empty if it is not set, or `*`.
    fn list(&mut self, name: &str, fits: fn(&str) -> bool) -> Read<Vec<String>> {
        let is_any = |text: &str| ["", "*"].contains(&text);
        let is_alone = |text: &str| !text.contains("/*") || !text.contains(',');
        let are_items = |text: &str| is_alone(text) && text.split(',').all(|it| fits(it.trim()));
        let text = self.value(name, "", |text| is_any(text) || are_items(text))?;
        let items = text.split(',').filter(|_| !is_any(&text));
        Ok(items.map(|item| item.trim().to_owned()).collect())
    }

    fn number(&mut self, name: &str, max: u64) -> Read<u64> {
        let is_within = |text: &str| text.parse().is_ok_and(|number| (1..=max).contains(&number));
        Ok(self.value(name, "", is_within)?.parse().unwrap_or(max))
    }

    fn switch(&mut self, name: &str) -> Read<bool> {
        Ok(self.value(name, "", |text| text == "on" || text == "off")? == "on")
    }

    /// The variable, or the systemd credential of the same name in lower case. It is an error for
    /// it to be there and empty, and its value is never part of an error.
    fn secret(&mut self, name: &str) -> Read<Option<Secret>> {
        let [name, _, shape, _] = row(name);
        let folder = self.text("CREDENTIALS_DIRECTORY", |text| Path::new(text).is_dir())?;
        let mut text = self.vars.get(name).cloned();
        if text.is_none() && !folder.is_empty() {
            let path = Path::new(&folder).join(name.to_lowercase());
            match fs::read_to_string(&path) {
                Ok(found) => text = Some(found),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return wrong(name, format_args!("{}: {error}", path.display())),
            }
        }
        // A secret may begin or end with one.
        let quoted = |it: &str| QUOTES.iter().any(|q| it.starts_with(*q) && it.ends_with(*q));
        let mask = if text.is_some() { "(set)" } else { "" };
        self.in_force.insert(name, mask.to_owned());
        match text.as_deref().map(str::trim) {
            None => Ok(None),
            Some("") => wrong(name, "set, but empty"),
            Some(text) if quoted(text) => wrong(name, QUOTED),
            Some(text) if !is_token(text) => wrong(name, "contains white space or is not ASCII"),
            // HMAC-SHA256's output is as long (RFC 7518, 3.2): a shorter key could be guessed.
            Some(text) if shape == LONG_SECRET && text.len() < 32 => {
                wrong(name, "shorter than 32 characters")
            }
            Some(text) => Ok(Some(Secret::new(text.to_owned()))),
        }
    }

    /// The access key itself, a role that it assumes, or the role of this ECS instance.
    fn source(&mut self, region: &str, policy: String) -> Read<Source> {
        let role = self.text("OSS_ECS_ROLE", is_word)?;
        let is_metadata = |text: &str| text == sts::METADATA || is_endpoint(text);
        let metadata = self.text("OSS_ECS_ENDPOINT", is_metadata)?;
        let is_good = |text: &str| is_word(text) || (text.is_empty() && !role.is_empty());
        let access_key_id = self.value("OSS_ACCESS_KEY_ID", "", is_good)?;
        let secret = self.secret("OSS_ACCESS_KEY_SECRET")?;
        let security_token = self.secret("OSS_SESSION_TOKEN")?;
        if access_key_id.starts_with("STS.") && security_token.is_none() {
            let problem = "not set, and a key whose id begins with STS. is none without it";
            return wrong("OSS_SESSION_TOKEN", problem);
        }
        let is_arn = |(start, role): (&str, &str)| start.starts_with("acs:ram::") && is_word(role);
        let arn = |text: &str| text.split_once(":role/").is_some_and(is_arn);
        let arn = self.text("OSS_STS_ROLE_ARN", arn)?;
        let endpoint = format!("https://sts.{region}.aliyuncs.com");
        let endpoint = self.value("OSS_STS_ENDPOINT", &endpoint, is_endpoint)?;
        if !role.is_empty() {
            let has_key = !access_key_id.is_empty() || secret.is_some() || security_token.is_some();
            if has_key || !arn.is_empty() {
                return wrong("OSS_ECS_ROLE", "set, and another key or role is too: which is it?");
            }
            return Ok(Source::Ecs { endpoint: metadata, role });
        }
        let Some(access_key_secret) = secret else {
            let problem = "not set, and no systemd credential oss_access_key_secret either";
            return wrong("OSS_ACCESS_KEY_SECRET", problem);
        };
        let key = Credentials { access_key_id, access_key_secret, security_token };
        match arn.as_str() {
            "" => Ok(Source::Fixed(key)),
            _ => Ok(Source::Role { key, endpoint, arn, policy }),
        }
    }

    /// Host, bucket and region. OSS's own hosts name the other two.
    fn bucket_address(&mut self) -> Read<(String, String, String)> {
        let host = self.value("OSS_HOST", "", |text| is_origin(text.trim_end_matches('/')))?;
        let host = host.trim_end_matches('/');
        let Some((named, region)) = named_by(host) else {
            let problem = "names no valid bucket and region, in lower case";
            return wrong("OSS_HOST", format_args!("{host:?} {problem}"));
        };
        let same = |text: &str, named: &str| is_name(text) && (named.is_empty() || text == named);
        let bucket = self.value("OSS_BUCKET", named, |text| same(text, named))?;
        let is_region = |text: &str| same(text, region) && !text.starts_with("oss-");
        let region = self.value("OSS_REGION", region, is_region)?;
        Ok((host.to_owned(), bucket, region))
    }

    fn report(&self) -> String {
        let text = |name: &str| self.in_force.get(name).map_or("", String::as_str);
        VARIABLES.map(|[name, ..]| format!("{name} = {}\n", text(name))).concat()
    }

    fn callback(&mut self) -> Read<Callback> {
        let url = self.text("CALLBACK_URL", are_callback_urls)?;
        let is_known = |text: &str| [FORM, JSON].contains(&text);
        let is_json = self.value("CALLBACK_BODY_TYPE", "", is_known)? == JSON;
        let (body_type, body) = if is_json { (JSON, JSON_BODY) } else { (FORM, FORM_BODY) };
        let template_set = self.vars.get("CALLBACK_BODY").map_or("", String::as_str);
        check_template(template_set, is_json).or_else(|fault| wrong("CALLBACK_BODY", fault))?;
        let body = self.value("CALLBACK_BODY", body, |text| template(text, body_type).is_some())?;
        Ok(Callback { url, body, body_type })
    }

    fn public_key(&mut self) -> Read<KeySource> {
        let name = "CALLBACK_PUBLIC_KEY_FILE";
        let origin = self.text("CALLBACK_KEY_ORIGIN", is_endpoint)?;
        let path = self.text(name, |_| true)?;
        if path.is_empty() {
            return Ok(KeySource::Origin(origin));
        }
        match fs::read_to_string(&path) {
            Ok(pem) if PublicKey::from_pem(&pem).is_some() => Ok(KeySource::Pinned(pem)),
            Ok(_) => wrong(name, format_args!("{path:?} is not {PEM}")),
            Err(error) => wrong(name, format_args!("{path:?}: {error}")),
        }
    }
}
