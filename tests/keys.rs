//! The public keys: which URLs name one, and how often the network may be asked.

use std::time::Duration;

use appserver::config::KeySource;
use appserver::keys::{Keys, ORIGIN};
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

fn never(url: &str) -> Result<String, String> {
    panic!("{url} was fetched")
}

#[test]
fn only_the_documented_url_names_a_key() {
    for good in [V1, "https://gosspublic.alicdn.com/callback_pub_key_v1.pem"] {
        assert!(online().find(good, NOW, never).is_ok(), "{good}");
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
        assert_eq!(online().find(bad, NOW, never).err(), Some(Reject::BAD_KEY_URL), "{bad}");
    }
}

#[test]
fn what_is_fetched_is_our_own_https_address() {
    let mut asked = Vec::new();
    let mut keys = online();
    let found = keys.find(V2, NOW, |url| {
        asked.push(url.to_owned());
        Ok(PEM.to_owned())
    });
    assert!(found.is_ok());
    assert_eq!(asked, ["https://gosspublic.alicdn.com/callback_pub_key_v2.pem"]);
    assert!(keys.find(V2, NOW + 9 * DAY, never).is_ok(), "a key that was had is kept");
}

#[test]
fn unknown_versions_cost_one_fetch_in_ten_seconds_whatever_comes_of_it() {
    let mut keys = online();
    let down = |_: &str| Err("down".to_owned());
    assert_eq!(keys.find(V2, NOW, down).err(), Some(Reject::KEY_UNAVAILABLE));
    for second in 0..10 {
        for url in [V2, V3] {
            let refused = keys.find(url, NOW + second, never).err();
            assert_eq!(refused, Some(Reject::KEY_UNAVAILABLE));
        }
        assert!(keys.find(V1, NOW + second, never).is_ok(), "version 1 is always at hand");
    }
    let garbage = |_: &str| Ok("<html>".to_owned());
    assert_eq!(keys.find(V3, NOW + 10, garbage).err(), Some(Reject::KEY_UNAVAILABLE));
    assert_eq!(keys.find(V3, NOW + 11, never).err(), Some(Reject::KEY_UNAVAILABLE));
    assert!(keys.find(V3, NOW + 20, |_| Ok(PEM.to_owned())).is_ok());
    // A clock that steps back by a year must not stop fetching for a year.
    assert!(keys.find(V2, NOW - 365 * DAY, |_| Ok(PEM.to_owned())).is_ok());
}

#[test]
fn version_1_is_refreshed_once_a_day_and_survives_a_failure() {
    let mut keys = online();
    let news = keys.refresh(NOW, PATIENCE, |_| Err("down".to_owned())).unwrap();
    assert_eq!(news, "callback key v1: not fetched (down), using the one in hand");
    assert_eq!(keys.refresh(NOW + DAY - 1, PATIENCE, never), None);
    assert!(keys.find(V1, NOW, never).is_ok());
    let news = keys.refresh(NOW + DAY, PATIENCE, |_| Ok("junk".to_owned())).unwrap();
    assert!(news.contains("not a public key"), "{news}");
    assert!(keys.find(V1, NOW + DAY, never).is_ok());
    let news = keys.refresh(NOW + 2 * DAY, PATIENCE, |_| Ok(PEM.to_owned())).unwrap();
    assert_eq!(news, "callback key v1: fetched");
    // Nobody waits for it once we serve.
    let slow: fn(&str) -> Result<String, String> = |_| {
        std::thread::sleep(Duration::from_millis(200));
        Ok(PEM.to_owned())
    };
    assert_eq!(keys.refresh(NOW + 3 * DAY, Duration::ZERO, slow), None);
    assert!(keys.find(V1, NOW + 3 * DAY, never).is_ok());
    assert!(keys.refresh(NOW + 3 * DAY + 1, PATIENCE, never).is_some());
}

#[test]
fn a_pinned_key_needs_no_network_and_stands_for_every_version() {
    let mut keys = Keys::new(&KeySource::Pinned(PEM.to_owned()));
    assert_eq!(keys.refresh(NOW, PATIENCE, never), None);
    assert!(keys.find(V1, NOW, never).is_ok());
    assert!(keys.find(V2, NOW, never).is_ok());
    let bad = keys.find("http://evil.example/callback_pub_key_v1.pem", NOW, never);
    assert_eq!(bad.err(), Some(Reject::BAD_KEY_URL));
}
