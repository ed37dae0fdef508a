//! `appserver --check`: the configuration in force, what in it is unwise, and whether what serving
//! needs is there. Only `--online` asks others; a server that runs is left alone.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;

use crate::app::App;
use crate::config::{self, Config, ConfigError, Vars};
use crate::oss::address::{host_of, is_private};
use crate::oss::bucket::Bucket;
use crate::oss::callback::PublicKey;
use crate::oss::credentials::{Credentials, Source};
use crate::oss::keys::{self, KeySource};
use crate::oss::sts;
use crate::sys::time;

pub fn run(vars: &Vars, online: bool, now: u64) -> Result<ExitCode, ConfigError> {
    let mut config = Config::from_vars(vars)?;
    // Opening the record would mend what another process may be writing.
    let folder = config.upload_log.take();
    let mut config = App::new(config, now)?.config;
    let mut out = io::stdout(); // whoever reads it may stop, as `grep -q` does
    let _ = write!(out, "{}", config.report);
    let _ = writeln!(out, "note {}", contract(&config));
    for warning in warnings(&config, vars, online) {
        let _ = writeln!(out, "warn {warning}");
    }
    let mut tries = Vec::new();
    if let Some(folder) = folder {
        tries.push(("upload log", try_folder(&folder).map_err(|error| error.to_string())));
    }
    if let (KeySource::Origin(origin), true) = (&config.public_key, online) {
        tries.push(("public key", public_key(&keys::address(origin, 1))));
    }
    if online && !matches!(config.source, Source::Fixed(_)) {
        let issued = sts::ask(&config.source, now).map(|issued| {
            config.source = Source::Fixed(issued.credentials);
            format!("valid until {}", time::iso8601(issued.expire))
        });
        tries.push(("credentials", issued));
    }
    if let (Source::Fixed(key), true) = (&config.source, online) {
        tries.push(("bucket", bucket(&config, key, now)));
    }
    let mut code = ExitCode::SUCCESS;
    for (what, found) in tries {
        if found.is_err() {
            code = ExitCode::from(2);
        }
        let (word, text) = found.map_or_else(|text| ("FAIL", text), |text| ("ok  ", text));
        let _ = writeln!(out, "{word} {what}: {text}");
    }
    Ok(code)
}

/// Which clients, written from Alibaba's samples, this configuration serves as they are.
pub fn contract(config: &Config) -> String {
    let callback = if config.callback.url.is_empty() { "no callback" } else { "callback" };
    let clients = match &config.source {
        Source::Fixed(key) if key.security_token.is_none() => "V1, or V4 without a security token",
        _ => "V4 with the security token",
    };
    format!("serves samples' clients that post {callback}: {clients} (static/README.md)")
}

/// What works, but may not do what was meant.
pub fn warnings(config: &Config, vars: &Vars, online: bool) -> Vec<String> {
    let mut warnings = Vec::from_iter(config::bare_secrets(vars));
    let prefix = &config.upload_dir;
    let has_folders = prefix.is_empty() || prefix.ends_with('/') || config.jwt_secret.is_some();
    let lacks_id = vars.contains_key("UPLOAD_LOG") && !config.callback.body.contains("${reqId}");
    for (is_so, text) in [
        (!has_folders, format!("UPLOAD_DIR: without a slash at its end it covers {prefix}2/ too")),
        (!is_private(&config.host), "OSS_HOST: http lets others read and change uploads".into()),
        (config.expire_seconds < 30, "EXPIRE_TIME: slow phones may begin uploads later".into()),
        (lacks_id, "CALLBACK_BODY: lacks ${reqId}, by which the record tells uploads apart".into()),
    ] {
        warnings.extend(is_so.then_some(text));
    }
    // OSS calls back over IPv4.
    let is_public = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) if ip.is_private() || ip.is_loopback() || ip.is_link_local() => false,
        IpAddr::V4(ip) => !matches!(ip.octets(), [0 | 224..=255, ..] | [100, 64..=127, ..]),
        IpAddr::V6(_) => false,
    };
    for host in config.callback.url.split(';').filter_map(host_of) {
        let name = host.split(':').next().unwrap_or(host);
        // Names are looked up online only.
        if online || name == "localhost" || name.parse::<IpAddr>().is_ok() {
            let found = (name, 0).to_socket_addrs();
            if !found.is_ok_and(|mut found| found.any(is_public)) {
                warnings.push(format!("CALLBACK_URL: {name} has no public IPv4 address"));
            }
        }
    }
    warnings
}

fn try_folder(folder: &Path) -> io::Result<String> {
    let path = folder.join(format!(".check-{}", std::process::id()));
    let written = File::create_new(&path)?.write_all(b"check\n");
    fs::remove_file(&path).and(written)?;
    Ok("can be written".to_owned())
}

/// As the server will fetch it.
fn public_key(url: &str) -> Result<String, String> {
    match PublicKey::from_pem(&keys::fetch(url)?) {
        Some(_) => Ok(format!("fetched from {url}")),
        None => Err(format!("{url} is not one")),
    }
}

/// What the bucket says to our signature. (Nobody has this object.)
fn bucket(config: &Config, credentials: &Credentials, now: u64) -> Result<String, String> {
    let host = config.confirm_host.as_ref().unwrap_or(&config.host);
    let bucket = Bucket::new(host, &config.bucket, &config.region);
    let object = format!("{}.appserver-check", config.upload_dir);
    match bucket.probe(credentials, &object, now)?.as_str() {
        "NoSuchKey" => Ok("knows our signature".to_owned()),
        "AccessDenied" if config.confirm_host.is_none() => {
            Ok("knows our signature (and lets us read nothing, as should be)".to_owned())
        }
        "AccessDenied" => Err("AccessDenied (CONFIRM_UPLOADS needs oss:GetObject)".to_owned()),
        "InvalidArgument" => Err("InvalidArgument (is OSS_REGION the bucket's?)".to_owned()),
        "NoSuchBucket" => Err("NoSuchBucket (is it OSS_BUCKET, at OSS_HOST?)".to_owned()),
        code => Err(format!("{code:?} (README, Troubleshooting)")),
    }
}
