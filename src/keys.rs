//! The callback's public keys, by version. A request names a key URL; it is compared with the one
//! documented shape and never visited: keys come from our own origin, within limits of time, size
//! and rate, or from the pinned file. `oss.rs` makes the calls.

use std::time::Duration;

use crate::background::Task;
use crate::callback::PublicKey;
use crate::config::KeySource;
use crate::metrics::{KEY_FETCHES, result};
use crate::oss::{agent, read};
use crate::reject::Reject;

/// Where OSS publishes its keys.
pub const ORIGIN: &str = "https://gosspublic.alicdn.com";
const HOST_AND_PATH: &str = "gosspublic.alicdn.com/callback_pub_key_v";

/// Version 1, unchanged since at least 2015: what we use when it cannot be fetched.
const BUILT_IN: &str = "-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKs/JBGzwUB2aVht4crBx3oIPBLNsjGs
C0fTXv+nvlmklvkcolvpvXLTjaxUHR3W9LXxQ2EHXAJfCB+6H2YF1k8CAwEAAQ==
-----END PUBLIC KEY-----";

const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// A fetch holds the loop, so forged requests must not be able to cause many.
const SECONDS_BETWEEN_FETCHES: u64 = 10;
const REFRESH_SECONDS: u64 = 86_400;
/// Verified callbacks have named one version in ten years.
const MAX_KEYS: usize = 8;

pub struct Keys {
    /// None: the key is pinned, and stands for every version.
    origin: Option<String>,
    keys: Vec<(u32, PublicKey)>,
    /// Unix seconds; compared by distance, so that a clock that steps back stops nothing.
    last_fetch: u64,
    last_refresh: u64,
    task: Task<Result<String, String>>,
}

impl Keys {
    /// Holds the pinned key, or the built-in one until `refresh` has fetched it.
    pub fn new(source: &KeySource) -> Keys {
        let (origin, pem) = match source {
            KeySource::Pinned(pem) => (None, pem.as_str()),
            KeySource::Origin(origin) => (Some(origin.clone()), BUILT_IN),
        };
        let keys = PublicKey::from_pem(pem).map(|key| (1, key)).into_iter().collect();
        Keys { origin, keys, last_fetch: 0, last_refresh: 0, task: Task::IDLE }
    }

    /// Fetches version 1 when a day has passed (at the start at once, when one may `wait` for it)
    /// and says in words what came of it. A failure keeps the key in hand for another day.
    pub fn refresh(
        &mut self,
        now: u64,
        wait: Duration,
        fetch: fn(&str) -> Result<String, String>,
    ) -> Option<String> {
        let due = now.abs_diff(self.last_refresh) >= REFRESH_SECONDS;
        if let Some(origin) = self.origin.as_ref().filter(|_| due && !self.task.is_running()) {
            self.last_refresh = now;
            let url = address(origin, 1);
            self.task.start(move || fetch(&url));
        }
        let pem = self.task.result(wait)?;
        Some(match self.take(1, pem) {
            Ok(()) => "callback key v1: fetched".to_owned(),
            Err(error) => format!("callback key v1: not fetched ({error}), using the one in hand"),
        })
    }

    /// The key for a decoded `x-oss-pub-key-url`.
    pub fn find(
        &mut self,
        url: &str,
        now: u64,
        mut fetch: impl FnMut(&str) -> Result<String, String>,
    ) -> Result<&PublicKey, Reject> {
        let named = version(url).ok_or(Reject::BAD_KEY_URL)?;
        let wanted = if self.origin.is_some() { named } else { 1 };
        if !self.keys.iter().any(|(version, _)| *version == wanted) {
            let soon = now.abs_diff(self.last_fetch) < SECONDS_BETWEEN_FETCHES;
            if soon || self.keys.len() >= MAX_KEYS {
                return Err(Reject::KEY_UNAVAILABLE);
            }
            self.last_fetch = now;
            let pem = fetch(&address(self.origin.as_deref().unwrap_or_default(), wanted));
            self.take(wanted, pem).map_err(|_| Reject::KEY_UNAVAILABLE)?;
        }
        let key = self.keys.iter().find(|(version, _)| *version == wanted);
        key.map(|(_, key)| key).ok_or(Reject::KEY_UNAVAILABLE)
    }

    fn take(&mut self, version: u32, pem: Result<String, String>) -> Result<(), String> {
        KEY_FETCHES.add_for(result(&pem));
        let key = PublicKey::from_pem(&pem?).ok_or("not a public key")?;
        self.keys.retain(|(held, _)| *held != version);
        self.keys.push((version, key));
        Ok(())
    }
}

/// Where an origin has a key.
pub fn address(origin: &str, version: u32) -> String {
    format!("{origin}/callback_pub_key_v{version}.pem")
}

/// `http(s)://gosspublic.alicdn.com/callback_pub_key_v<digits>.pem` and nothing else.
fn version(url: &str) -> Option<u32> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let digits = rest.strip_prefix(HOST_AND_PATH)?.strip_suffix(".pem")?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    if plain && digits.len() <= 4 { digits.parse().ok() } else { None }
}

/// Fetches a PEM, bounded in time and size.
pub fn fetch(url: &str) -> Result<String, String> {
    match read(agent(url, FETCH_TIMEOUT).get(url).call())? {
        (200, pem) => Ok(pem),
        (status, _) => Err(format!("status {status}")),
    }
}
