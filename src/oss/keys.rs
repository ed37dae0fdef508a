//! The callback's public keys, by version. The key URL of a request is compared with the documented
//! shape and never visited: keys come from our own origin, in the background, or from a file.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::oss::callback::PublicKey;
use crate::oss::outbound::{Request, agent, call};
use crate::reject::Reject;
use crate::sys::background::Task;
use crate::sys::metrics::{KEY_FETCHES, result};

/// Where OSS publishes its keys.
pub const ORIGIN: &str = "https://gosspublic.alicdn.com";
const HOST_AND_PATH: &str = "gosspublic.alicdn.com/callback_pub_key_v";

/// Version 1, unchanged since at least 2015: what we use when it cannot be fetched.
const BUILT_IN: &str = "-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKs/JBGzwUB2aVht4crBx3oIPBLNsjGs
C0fTXv+nvlmklvkcolvpvXLTjaxUHR3W9LXxQ2EHXAJfCB+6H2YF1k8CAwEAAQ==
-----END PUBLIC KEY-----";

const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
const REFRESH_SECONDS: u64 = 86_400;
const SECONDS_BETWEEN_FETCHES: u64 = 10;
/// Anybody may name any version; later ones are never fetched. OSS has published one in ten years.
const MAX_VERSION: u32 = 16;

/// Where the callback's public keys come from.
pub enum KeySource {
    /// The PEM text of the only key; nothing is ever fetched.
    Pinned(String),
    /// `https://HOST`, or `http://` on loopback.
    Origin(String),
}

pub struct Keys {
    /// Absent: the key is pinned, and stands for every version.
    origin: Option<String>,
    keys: BTreeMap<u32, PublicKey>,
    /// Versions to fetch, each once and until its fetch has ended: a flood of names delays none by
    /// more than three minutes.
    queue: VecDeque<u32>,
    /// Unix seconds, compared by distance, so that a clock that steps back stops nothing.
    last_fetch: u64,
    last_refresh: u64,
    task: Task<(u32, Result<String, String>)>,
}

impl Keys {
    /// Holds the pinned key, or the built-in one until `upkeep` has fetched it.
    pub fn new(source: &KeySource) -> Keys {
        let (origin, pem) = match source {
            KeySource::Pinned(pem) => (None, pem.as_str()),
            KeySource::Origin(origin) => (Some(origin.clone()), BUILT_IN),
        };
        let keys = PublicKey::from_pem(pem).map(|key| (1, key)).into_iter().collect();
        let queue = VecDeque::new();
        Keys { origin, keys, queue, last_fetch: 0, last_refresh: 0, task: Task::IDLE }
    }

    /// The key for a decoded `x-oss-pub-key-url`. No request waits for one that is not held.
    pub fn find(&mut self, url: &str) -> Result<&PublicKey, Reject> {
        let named = version(url).ok_or(Reject::BAD_KEY_URL)?;
        let version = if self.origin.is_some() { named } else { 1 };
        let is_known = self.keys.contains_key(&version) || self.queue.contains(&version);
        if !is_known && version <= MAX_VERSION {
            self.queue.push_back(version);
        }
        self.keys.get(&version).ok_or(Reject::KEY_UNAVAILABLE)
    }

    /// Begins the fetch that is due, `wait`s for the one that runs, and says what came of it. A
    /// failure leaves the keys as they are.
    pub fn upkeep(
        &mut self,
        now: u64,
        wait: Duration,
        fetch: impl FnOnce(&str) -> Result<String, String> + Send + 'static,
    ) -> Option<String> {
        let origin = self.origin.as_ref()?;
        if now.abs_diff(self.last_refresh) >= REFRESH_SECONDS {
            self.last_refresh = now;
            self.queue.push_front(1);
        }
        let is_time = now.abs_diff(self.last_fetch) >= SECONDS_BETWEEN_FETCHES;
        if let (Some(&version), true, true) = (self.queue.front(), is_time, self.task.is_idle()) {
            if version != 1 {
                self.last_fetch = now; // the daily refresh delays no other
            }
            let url = address(origin, version);
            self.task.start(move || (version, fetch(&url)));
        }
        let (version, pem) = self.task.result(wait)?;
        self.queue.retain(|queued| *queued != version);
        KEY_FETCHES.add_for(result(&pem));
        let key = pem.and_then(|pem| PublicKey::from_pem(&pem).ok_or("not a public key".into()));
        let outcome = match key {
            Err(error) => format!("not fetched ({error}), using those in hand"),
            Ok(key) => {
                self.keys.insert(version, key);
                "fetched".to_owned()
            }
        };
        Some(format!("callback key v{version}: {outcome}"))
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

pub fn fetch(url: &str) -> Result<String, String> {
    let response = call(&agent(url, FETCH_TIMEOUT), Request::get(url).body(()))?;
    match response.status().as_u16() {
        200 => Ok(response.into_body()),
        status => Err(format!("status {status}")),
    }
}
