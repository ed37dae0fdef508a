//! Upload tokens (JWT) and callback tokens, with a clock of our own. The tables and the signatures
//! are the tests' own (tests/support/src/tickets.rs, trust.rs): they share no line and no crate
//! with src/.

use appserver::oss::credentials::Secret;
use appserver::reject::Reject;
use appserver::trust::callback_token::CallbackTokens;
use appserver::trust::upload_token::UploadToken;
use serde_json::json;
use support::tickets::{self, Case, OK, raw, with};
use support::trust::{JWT_SECRET, TOKEN_KEY, base64url, callback_token, hmac_sha256, ticket};

const NOW: u64 = 1_800_000_000;
const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn check(text: &str) -> Result<UploadToken, Reject> {
    UploadToken::verify(text, &Secret::new(JWT_SECRET.to_owned()), NOW)
}

/// As clients read it.
fn verdict<T>(found: &Result<T, Reject>) -> String {
    match found {
        Ok(_) => OK.to_owned(),
        Err(Reject(status, words)) => format!("{status} {words}"),
    }
}

/// The cases have the verdicts that they name.
fn hold(cases: Vec<Case>) {
    for case in cases {
        assert_eq!(verdict(&check(&case.text)), case.verdict, "{:?}", case.what);
    }
}

/// Refused before anything in it counts.
fn is_unsigned(text: &str) -> bool {
    use Reject as R;
    matches!(check(text), Err(R::BAD_TICKET | R::BAD_MAC | R::BAD_ALGORITHM))
}

/// Each text that differs from this one in a bit, and each that is cut off before its end.
fn neighbours(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            all.extend(String::from_utf8(bytes));
        }
        all.push(text[..at].to_owned());
    }
    all
}

/// The text with each character that base64url has as its last.
fn last_characters(text: &str) -> impl Iterator<Item = String> {
    ALPHABET.chars().map(|last| format!("{}{last}", &text[..text.len() - 1]))
}

/// The claims of a JWT that are read; all others are not.
#[test]
fn a_good_ticket_says_what_it_says() {
    let plain = UploadToken {
        subject: "alice".to_owned(),
        max_bytes: None,
        content_types: None,
        expire: NOW + 600,
    };
    assert_eq!(check(&with(NOW, "aud", &json!("somebody"))), Ok(plain));
    let full = json!({ "sub": "a", "exp": NOW as f64 + 0.9 + 600.0, "max": 1000,
        "types": ["image/png", "image/jpeg"], "nbf": NOW, "iat": NOW, "jti": "1", "admin": true });
    let full = check(&ticket(JWT_SECRET, &full)).unwrap();
    assert_eq!((full.max_bytes, full.expire), (Some(1000), NOW + 600));
    assert_eq!(full.content_types, Some(vec!["image/png".to_owned(), "image/jpeg".to_owned()]));
    for types in [json!([]), json!(["image/*"])] {
        let found = check(&with(NOW, "types", &types)).unwrap().content_types;
        assert_eq!(json!(found.unwrap()), types);
    }
    for max in [1, u64::MAX] {
        assert_eq!(check(&with(NOW, "max", &json!(max))).unwrap().max_bytes, Some(max));
    }
}

/// RFC 7515, appendix A.1: a JWT that others made, with the key that they give.
#[test]
fn the_example_of_the_rfc_verifies() {
    let text = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkz\
                ODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1\
                p1r_wW1gFWFOEjXk";
    // Its key is not text, and ours always is: so the same claims under our key stand for it.
    let (signed, _) = text.rsplit_once('.').unwrap();
    let ours =
        format!("{signed}.{}", base64url(&hmac_sha256(JWT_SECRET.as_bytes(), signed.as_bytes())));
    let secret = Secret::new(JWT_SECRET.to_owned());
    assert_eq!(UploadToken::verify(&ours, &secret, 1_300_819_379), Err(Reject::BAD_SUBJECT));
    assert_eq!(UploadToken::verify(&ours, &secret, 1_300_819_380), Err(Reject::EXPIRED_TICKET));
    assert_eq!(UploadToken::verify(text, &secret, 1_300_819_379), Err(Reject::BAD_MAC));
}

/// JWT algorithm confusion: `none`, RS256, another spelling of HS256, and `crit`.
#[test]
fn only_hs256_is_an_algorithm() {
    hold(tickets::algorithms(NOW));
}

/// Forged JWTs: of another secret, stripped, cut off, glued together, padded, percent-encoded.
#[test]
fn without_a_good_signature_a_ticket_is_nothing() {
    hold(tickets::signatures(NOW));
}

/// One ticket, one spelling: whoever keeps lists of tickets (for revocation, say) can rely on it.
#[test]
fn a_ticket_has_no_second_spelling() {
    let text = with(NOW, "sub", &json!("alice"));
    assert!(check(&text).is_ok());
    for changed in neighbours(&text) {
        assert!(is_unsigned(&changed), "{changed}");
    }
    let good: Vec<String> = last_characters(&text).filter(|text| check(text).is_ok()).collect();
    assert_eq!(good, [text], "bits of the last character are not looked at");
    // The other alphabet of base64, in the signature and, signed again, in the claims.
    let has_both = |text: &String| text.contains('-') && text.contains('_');
    let claims = |n| with(NOW, "c", &json!(format!("{n}\u{3fbf}\u{3fff}~~~???")));
    let urlsafe = (0..200).map(claims).find(has_both).unwrap();
    assert!(check(&urlsafe).is_ok());
    let standard = urlsafe.replace('-', "+").replace('_', "/");
    assert!(is_unsigned(&standard));
    let (signed, _) = standard.rsplit_once('.').unwrap();
    assert!(signed.contains(['+', '/']), "the claims have none of the two");
    let mac = base64url(&hmac_sha256(JWT_SECRET.as_bytes(), signed.as_bytes()));
    assert!(is_unsigned(&format!("{signed}.{mac}")));
}

/// `exp`, `nbf`, `iat` of a JWT: expired, not yet valid, in milliseconds, no number, no JSON.
#[test]
fn times() {
    hold(tickets::times(NOW));
    hold(tickets::seconds(NOW));
}

/// What a ticket's `sub` lets become a folder: no path traversal, no control character, no Unicode.
#[test]
fn subjects() {
    let cases = tickets::subjects(NOW);
    for case in cases.iter().filter(|case| case.verdict == OK) {
        assert_eq!(check(&case.text).unwrap().subject, case.what);
    }
    hold(cases);
    let escaped = raw(&format!(r#"{{"sub":"\u0061lice","exp":{}}}"#, NOW + 600));
    assert_eq!(check(&escaped).unwrap().subject, "alice");
    // 10 KB do not even get as far.
    assert_eq!(check(&with(NOW, "sub", &json!("a".repeat(10_240)))), Err(Reject::BAD_TICKET));
}

/// A JWT's `max` and `types`, where they are no number and no list of content types.
#[test]
fn limits() {
    hold(tickets::limits(NOW));
}

/// A library that mints a claim twice is broken, and which of the two counts must not be a matter
/// of taste: the last, as in every JSON parser that JWT libraries use.
#[test]
fn of_a_claim_that_is_there_twice_the_last_counts() {
    let text = raw(&format!(r#"{{"sub":"bob","sub":"alice","exp":1,"exp":{}}}"#, NOW + 600));
    assert_eq!(check(&text).unwrap().subject, "alice");
}

fn tokens(bucket: &str) -> CallbackTokens {
    CallbackTokens::new(&Secret::new(TOKEN_KEY.to_owned()), bucket, 100)
}

/// The verdict on a callback to this path.
fn check_token(path: &str, query: &str, now: u64) -> Result<String, Reject> {
    tokens("examplebucket").check(path.as_bytes(), query, now)
}

/// The MAC of the audit guide, computed by other code than the product's.
#[test]
fn a_callback_token_is_what_the_audit_guide_describes() {
    for (path, prefix) in [("/callback", "user/alice/"), ("/", ""), ("/ü", "用户/"), ("", "a")] {
        let ours = callback_token(TOKEN_KEY, path, NOW, prefix);
        assert_eq!(tokens("examplebucket").issue(path.as_bytes(), NOW, prefix), ours);
        let verdict = check_token(path, &format!("token={ours}"), NOW);
        assert_eq!(verdict.as_deref(), Ok(prefix));
    }
    // 128 bits, and nothing that a URL would have to escape.
    let token = callback_token(TOKEN_KEY, "/", NOW, "user/");
    assert_eq!(token.rsplit_once('.').unwrap().1.len(), 22);
    assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
}

/// A callback token expires `CALLBACK_TOKEN_TTL` after the policy, and without an integer overflow.
#[test]
fn a_token_ends_its_time_after_its_policy() {
    for (expire, now, verdict) in [
        (NOW, 0, Ok(())),
        (NOW, NOW, Ok(())),
        (NOW, NOW + 1, Ok(())),
        (NOW, NOW + 100, Ok(())),
        (NOW, NOW + 101, Err(Reject::TOKEN_EXPIRED)),
        (NOW, NOW + 1_000_000, Err(Reject::TOKEN_EXPIRED)),
        (NOW, u64::MAX, Err(Reject::TOKEN_EXPIRED)),
        (u64::MAX, NOW, Ok(())),
    ] {
        let query = format!("token={}", callback_token(TOKEN_KEY, "/", expire, "user/"));
        assert_eq!(check_token("/", &query, now).map(drop), verdict, "{expire} {now}");
    }
}

/// Replayed to another path, or to a server with another key, a callback token is a forged one.
#[test]
fn a_token_holds_for_one_key_and_one_path() {
    let token = callback_token(TOKEN_KEY, "/a", NOW, "user/");
    let query = format!("token={token}");
    assert!(check_token("/a", &query, NOW).is_ok());
    for path in ["/b", "/", "", "/a/", "/A", "/ab", "//a", "/a\n", "/%61", "/a?token=x", "/a\0"] {
        assert_eq!(check_token(path, &query, NOW), Err(Reject::TOKEN_FORGED), "{path:?}");
    }
    let other = CallbackTokens::new(&Secret::new(JWT_SECRET.to_owned()), "examplebucket", 100);
    assert_eq!(other.check(b"/a", &query, NOW), Err(Reject::TOKEN_FORGED));
    assert_eq!(check(&token), Err(Reject::BAD_TICKET));
}

/// Forged callback tokens and their look-alikes, queries with two tokens or none, expired ones.
#[test]
fn one_token_of_ours_is_read_and_no_other() {
    for case in tickets::callbacks(NOW, NOW - 101) {
        let found = check_token("/callback", &case.text, NOW);
        assert_eq!(verdict(&found), case.verdict, "{}", case.what);
        assert!(found.is_err() || found.as_deref() == Ok("user/alice/"));
    }
}

/// Bit flips, truncation, unused bits of base64: a callback token has one spelling.
#[test]
fn every_bit_of_a_token_counts() {
    let token = callback_token(TOKEN_KEY, "/callback", NOW, "user/alice/");
    let check = |token: &str| check_token("/callback", &format!("token={token}"), NOW);
    for changed in neighbours(&token) {
        assert_eq!(check(&changed), Err(Reject::TOKEN_FORGED), "{changed}");
    }
    assert_eq!(last_characters(&token).filter(|token| check(token).is_ok()).count(), 1);
}

/// Staging and production may share an access key: a free policy of one is nothing to the other.
#[test]
fn a_token_of_another_bucket_is_none_of_ours() {
    let token = tokens("staging").issue(b"/", NOW, "");
    assert_eq!(check_token("/", &format!("token={token}"), NOW), Err(Reject::TOKEN_FORGED));
}
