//! The public keys: which URLs name one, and how often the network may be asked.

use std::sync::mpsc;
use std::time::Duration;

use appserver::oss::keys::{KeySource, Keys, ORIGIN};
use appserver::reject::Reject;

const V1: &str = "http://gosspublic.alicdn.com/callback_pub_key_v1.pem";
const V2: &str = "http://gosspublic.alicdn.com/callback_pub_key_v2.pem";
const V3: &str = "https://gosspublic.alicdn.com/callback_pub_key_v3.pem";
const PEM: &str = "-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKs/JBGzwUB2aVht4crBx3oIPBLNsjGs
C0fTXv+nvlmklvkcolvpvXLTjaxUHR3W9LXxQ2EHXAJfCB+6H2YF1k8CAwEAAQ==
-----END PUBLIC KEY-----";
const DAY: u64 = 86_400;
const NOW: u64 = 1_700_000_000;

fn online() -> Keys {
    Keys::new(&KeySource::Origin(ORIGIN.to_owned()))
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Where no fetch may begin: `upkeep` would say that one failed.
fn never(url: &str) -> Result<String, String> {
    Err(format!("{url} was fetched"))
}

fn good(_: &str) -> Result<String, String> {
    Ok(PEM.to_owned())
}

fn down(_: &str) -> Result<String, String> {
    Err("down".to_owned())
}

/// What `upkeep` says of the fetch that it begins now.
fn upkeep(keys: &mut Keys, now: u64, fetch: fn(&str) -> Result<String, String>) -> Option<String> {
    keys.upkeep(now, PATIENCE, fetch)
}

/// Keys whose first refresh is over.
fn refreshed(now: u64) -> Keys {
    let mut keys = online();
    assert_eq!(upkeep(&mut keys, now, good).unwrap(), "callback key v1: fetched");
    keys
}

fn is_unavailable(keys: &mut Keys, url: &str) -> bool {
    keys.find(url).err() == Some(Reject::KEY_UNAVAILABLE)
}

fn named(version: u32) -> String {
    format!("http://gosspublic.alicdn.com/callback_pub_key_v{version}.pem")
}

/// Which version `upkeep` fetches now. It is not there.
fn fetched(keys: &mut Keys, now: u64) -> Option<String> {
    let said = keys.upkeep(now, PATIENCE, |url| Err(url.to_owned()))?;
    let (_, rest) = said.split_once("not fetched (").unwrap();
    let (url, _) = rest.split_once(')').unwrap();
    let version = url.strip_prefix("https://gosspublic.alicdn.com/callback_pub_key_");
    let version = version.and_then(|rest| rest.strip_suffix(".pem"));
    Some(version.unwrap_or_else(|| panic!("{url}")).to_owned())
}

/// SSRF by `x-oss-pub-key-url`: other hosts, ports, paths, schemes and spellings name no key, and
/// none of them is ever fetched.
#[test]
fn only_the_documented_url_names_a_key() {
    for good in [V1, "https://gosspublic.alicdn.com/callback_pub_key_v1.pem"] {
        assert!(online().find(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "http://evil.example/callback_pub_key_v1.pem",
        "http://gosspublic.alicdn.com.evil.example/callback_pub_key_v1.pem",
        "http://gosspublic.alicdn.com@evil.example/callback_pub_key_v1.pem",
        "http://gosspublicXalicdn.com/callback_pub_key_v1.pem",
        "http://evil.example/?http://gosspublic.alicdn.com/callback_pub_key_v1.pem",
        "http://gosspublic.alicdn.com/evil.pem",
        "http://gosspublic.alicdn.com/../callback_pub_key_v1.pem",
        "http://gosspublic.alicdn.com/callback_pub_key_v.pem",
        "http://gosspublic.alicdn.com/callback_pub_key_v0.pem",
        "http://gosspublic.alicdn.com/callback_pub_key_v01.pem",
        "http://gosspublic.alicdn.com/callback_pub_key_v1.pem?x",
        "http://gosspublic.alicdn.com/callback_pub_key_v1.pem#x",
        "http://gosspublic.alicdn.com/callback_pub_key_v1/../x.pem",
        "http://gosspublic.alicdn.com/callback_pub_key_v99999.pem",
        "http://gosspublic.alicdn.com/callback_pub_key_v-1.pem",
        "http://gosspublic.alicdn.com:80/callback_pub_key_v1.pem",
        "HTTP://gosspublic.alicdn.com/callback_pub_key_v1.pem",
        "ftp://gosspublic.alicdn.com/callback_pub_key_v1.pem",
        "file:///callback_pub_key_v1.pem",
        " http://gosspublic.alicdn.com/callback_pub_key_v1.pem",
        "http://gosspublic.alicdn.com/callback_pub_key_v1.pem\n",
    ] {
        let mut keys = refreshed(NOW);
        assert_eq!(keys.find(bad).err(), Some(Reject::BAD_KEY_URL), "{bad}");
        assert_eq!(upkeep(&mut keys, NOW + 60, never), None, "{bad}");
    }
}

/// A request is answered at once, from what is held; the fetch is begun and taken by `upkeep`.
#[test]
fn an_unknown_version_is_fetched_in_the_background_from_our_own_https_address() {
    let mut keys = refreshed(NOW);
    assert!(is_unavailable(&mut keys, V2));
    let (asked, address) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    let slow = move |url: &str| {
        asked.send(url.to_owned()).unwrap();
        answers.recv().unwrap()
    };
    assert_eq!(keys.upkeep(NOW, Duration::ZERO, slow), None);
    let address = address.recv_timeout(PATIENCE).unwrap();
    assert_eq!(address, "https://gosspublic.alicdn.com/callback_pub_key_v2.pem");
    // While that is under way there is no other, whatever time it takes.
    for second in 0..30 {
        assert!(is_unavailable(&mut keys, V2) && is_unavailable(&mut keys, V3));
        assert!(keys.find(V1).is_ok());
        assert_eq!(keys.upkeep(NOW + second, Duration::ZERO, never), None);
    }
    answer.send(Ok(PEM.to_owned())).unwrap();
    let said = keys.upkeep(NOW + 30, PATIENCE, never).unwrap();
    assert_eq!(said, "callback key v2: fetched");
    assert!(keys.find(V2).is_ok() && keys.find(V1).is_ok());
    assert_eq!(fetched(&mut keys, NOW + 30).unwrap(), "v3");
    // What is held is not fetched again.
    assert!(keys.find(V2).is_ok());
    assert_eq!(upkeep(&mut keys, NOW + 60, never), None);
}

/// Rate limit of key fetches, failures included, also when the clock steps back.
#[test]
fn unknown_versions_cost_one_fetch_in_ten_seconds_whatever_comes_of_it() {
    let mut keys = refreshed(NOW);
    assert!(is_unavailable(&mut keys, V2));
    let said = upkeep(&mut keys, NOW, down).unwrap();
    assert_eq!(said, "callback key v2: not fetched (down), using those in hand");
    for second in 0..10 {
        for url in [V3, V2] {
            assert!(is_unavailable(&mut keys, url));
            assert_eq!(upkeep(&mut keys, NOW + second, never), None);
        }
        assert!(keys.find(V1).is_ok(), "version 1 is always at hand");
    }
    let said = upkeep(&mut keys, NOW + 10, |_| Ok("<html>".to_owned())).unwrap();
    assert_eq!(said, "callback key v3: not fetched (not a public key), using those in hand");
    assert_eq!(upkeep(&mut keys, NOW + 19, never), None);
    assert_eq!(upkeep(&mut keys, NOW + 20, good).unwrap(), "callback key v2: fetched");
    assert!(keys.find(V2).is_ok() && is_unavailable(&mut keys, V3));
    // A clock that steps back by an hour must not stop fetching for an hour.
    assert_eq!(upkeep(&mut keys, NOW - 3600, good).unwrap(), "callback key v3: fetched");
    assert!(keys.find(V3).is_ok());
}

/// Somebody names all other versions again and again, so that version 10 should wait.
#[test]
fn a_flood_of_names_delays_a_version_by_three_minutes_and_the_refresh_by_ten_seconds() {
    let mut keys = refreshed(NOW);
    let flood = |keys: &mut Keys| {
        for version in (2..=9).chain(11..=9999) {
            assert!(is_unavailable(keys, &named(version)));
        }
    };
    flood(&mut keys);
    assert!(is_unavailable(&mut keys, &named(10)));
    // The refresh falls due a second after a fetch has begun.
    let start = NOW + DAY - 51;
    let mut turns = Vec::new();
    for second in 0..155 {
        if let Some(version) = fetched(&mut keys, start + second) {
            turns.push(format!("{second} s: {version}"));
        }
        flood(&mut keys);
    }
    let expected = "0 s: v2, 10 s: v3, 20 s: v4, 30 s: v5, 40 s: v6, 50 s: v7, 60 s: v1, 61 s: v8, \
        71 s: v9, 81 s: v11, 91 s: v12, 101 s: v13, 111 s: v14, 121 s: v15, 131 s: v16, \
        141 s: v10, 151 s: v2";
    assert_eq!(turns.join(", "), expected);
}

/// Key rotation: the one in hand stays in force until another has come.
#[test]
fn version_1_is_refreshed_once_a_day_and_survives_a_failure() {
    let mut keys = online();
    let said = upkeep(&mut keys, NOW, down).unwrap();
    assert_eq!(said, "callback key v1: not fetched (down), using those in hand");
    assert_eq!(upkeep(&mut keys, NOW + DAY - 1, never), None);
    assert!(keys.find(V1).is_ok());
    let said = upkeep(&mut keys, NOW + DAY, |_| Ok("junk".to_owned())).unwrap();
    assert!(said.contains("not a public key"), "{said}");
    assert!(keys.find(V1).is_ok());
    let said = upkeep(&mut keys, NOW + 2 * DAY, good).unwrap();
    assert_eq!(said, "callback key v1: fetched");
    // Nobody waits for it once we serve.
    let (answer, answers) = mpsc::channel();
    let slow = move |_: &str| answers.recv().unwrap();
    assert_eq!(keys.upkeep(NOW + 3 * DAY, Duration::ZERO, slow), None);
    assert!(keys.find(V1).is_ok());
    answer.send(Ok(PEM.to_owned())).unwrap();
    assert!(keys.upkeep(NOW + 3 * DAY + 1, PATIENCE, never).is_some());
}

/// `CALLBACK_PUBLIC_KEY_FILE`.
#[test]
fn a_pinned_key_needs_no_network_and_stands_for_every_version() {
    let mut keys = Keys::new(&KeySource::Pinned(PEM.to_owned()));
    assert_eq!(upkeep(&mut keys, NOW, never), None);
    for version in [1, 2, 16, 17, 9999] {
        assert!(keys.find(&named(version)).is_ok(), "{version}");
    }
    assert_eq!(upkeep(&mut keys, NOW + 20, never), None);
    let bad = keys.find("http://evil.example/callback_pub_key_v1.pem");
    assert_eq!(bad.err(), Some(Reject::BAD_KEY_URL));
}
