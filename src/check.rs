//! `appserver --check`: tries with this configuration what serving will need, and reports it in
//! lines that a person can act on. Only `--online` asks others; a server that runs is left alone.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;

use crate::app::App;
use crate::config::{Config, ConfigError};
use crate::http::Request;
use crate::oss::bucket::Bucket;
use crate::oss::callback::{PublicKey, target};
use crate::oss::credentials::{Credentials, Source};
use crate::oss::keys::{self, KeySource};
use crate::oss::{policy, sts};
use crate::reject::Reject;
use crate::sys::time;

/// What came of a try, in words.
type Found = Result<String, String>;

/// The report, and whether all went well.
pub fn run(mut config: Config, online: bool, now: u64) -> Result<(String, bool), ConfigError> {
    let (mut report, mut tries) = (config.report.clone(), Vec::new());
    // Opening the record would mend what another process may be writing.
    if let Some(folder) = config.upload_log.take() {
        tries.push(("upload log", try_folder(&folder).map_err(|error| error.to_string())));
    }
    if online {
        tries.extend(public_key(&config.public_key).map(|found| ("public key", found)));
    }
    if online && !matches!(config.source, Source::Fixed(_)) {
        let issued = sts::ask(&config.source, now).map(|issued| {
            config.source = Source::Fixed(issued.credentials);
            format!("valid until {}", time::iso8601(issued.expire))
        });
        tries.push(("credentials", issued));
    }
    config.jwt_secret = None; // we have no ticket
    if let Source::Fixed(credentials) = config.source.clone() {
        if online {
            tries.push(("bucket", bucket(&config, &credentials, now)));
        }
        let region = config.region.clone();
        let mut app = App::new(config, now)?;
        let answer = signed(&mut app, &credentials, &region, now);
        let parameter = answer.as_ref().map_or("", |answer| text(answer, "callback")).to_owned();
        tries.push(("policy", answer.map(|_| "its signature verifies".to_owned())));
        if !parameter.is_empty() {
            tries.push(("callback", called_back(&mut app, &parameter, now)));
        }
    }
    for (what, found) in &tries {
        report += &match found {
            Ok(text) => format!("ok   {what}: {text}\n"),
            Err(text) => format!("FAIL {what}: {text}\n"),
        };
    }
    Ok((report, tries.iter().all(|(_, found)| found.is_ok())))
}

fn try_folder(folder: &Path) -> io::Result<String> {
    let path = folder.join(format!(".check-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let written = file.write_all(b"check\n").and_then(|()| file.sync_all());
    fs::remove_file(&path).and(written)?;
    Ok("can be written".to_owned())
}

/// As the server will fetch it.
fn public_key(source: &KeySource) -> Option<Found> {
    let KeySource::Origin(origin) = source else { return None };
    let url = keys::address(origin, 1);
    Some(keys::fetch(&url).and_then(|pem| match PublicKey::from_pem(&pem) {
        Some(_) => Ok(format!("fetched from {url}")),
        None => Err(format!("{url} is not one")),
    }))
}

/// What the bucket says to our signature. (Nobody has this object.)
fn bucket(config: &Config, credentials: &Credentials, now: u64) -> Found {
    let host = config.confirm_host.as_ref().unwrap_or(&config.host);
    let bucket = Bucket::new(host, &config.bucket, &config.region);
    let object = format!("{}.appserver-check", config.upload_dir);
    match bucket.probe(credentials, &object, now)?.as_str() {
        "NoSuchKey" => Ok("knows our signature".to_owned()),
        "AccessDenied" if config.confirm_host.is_none() => {
            Ok("knows our signature (and lets us read nothing, as should be)".to_owned())
        }
        "AccessDenied" => Err("AccessDenied (CONFIRM_UPLOADS needs oss:GetObject)".to_owned()),
        code => Err(format!("{code:?} (README, Troubleshooting)")),
    }
}

/// Asks ourselves for a policy, and checks its signature.
fn signed(app: &mut App, key: &Credentials, region: &str, now: u64) -> Result<Value, String> {
    let answer = ask(app, "GET", "/get_post_signature_for_oss_upload", &[], now)?;
    let day = text(&answer, "x_oss_date").get(..8).unwrap_or_default();
    let key = policy::signing_key(key.access_key_secret.expose(), day, region);
    let signature = policy::hex(&policy::hmac_sha256(&key, text(&answer, "policy").as_bytes()));
    if signature != text(&answer, "signature") {
        return Err("its signature does not verify".to_owned());
    }
    Ok(answer)
}

/// Calls ourselves back as OSS would, but for its signature: that must be all that is missed.
fn called_back(app: &mut App, parameter: &str, now: u64) -> Found {
    let parameter = BASE64.decode(parameter).unwrap_or_default();
    let parameter: Value = serde_json::from_slice(&parameter).unwrap_or_default();
    let url = text(&parameter, "callbackUrl").split(';').next().unwrap_or_default();
    let key_url = BASE64.encode(keys::address(keys::ORIGIN, 1));
    let headers = [("authorization", "AAAA".to_owned()), ("x-oss-pub-key-url", key_url)];
    let answer = ask(app, "POST", &target(url), &headers, now)?;
    match text(&answer, "reason") {
        reason if reason == Reject::BAD_AUTHORIZATION.1 => {
            Ok("one for this policy gets as far as OSS's signature".to_owned())
        }
        reason => Err(reason.to_owned()),
    }
}

fn ask(
    app: &mut App,
    method: &str,
    target: &str,
    headers: &[(&'static str, String)],
    now: u64,
) -> Result<Value, String> {
    let request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: headers.to_vec(),
        body: Vec::new(),
        peer: String::new(),
    };
    let answers = app.handle(&[request], now);
    let body = answers.first().map(|answer| answer.body.as_ref()).unwrap_or_default();
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

/// A member of a JSON object.
fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}
