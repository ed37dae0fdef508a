//! Upload tokens and callback tokens as tables, with a clock of our own. The signatures come from the
//! tests' own code (tests/support/src/trust.rs), which shares no line and no crate with src/.

use appserver::oss::credentials::Secret;
use appserver::reject::Reject;
use appserver::trust::callback_token::CallbackTokens;
use appserver::trust::upload_token::UploadToken;
use serde_json::{Value, json};
use support::trust::{base64url, callback_token, hmac_sha256, hmac_sha512, ticket, ticket_of};

const SECRET: &str = "ticketSecretOfMoreThanThirtyTwoBytes";
const OTHER: &str = "anotherSecretOfMoreThanThirtyTwoBytes";
const NOW: u64 = 1_800_000_000;
const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

fn check(text: &str) -> Result<UploadToken, Reject> {
    UploadToken::verify(text, &Secret::new(SECRET.to_owned()), NOW)
}

/// Refused before anything in it counts.
fn is_unsigned(text: &str) -> bool {
    use Reject as R;
    matches!(check(text), Err(R::BAD_TICKET | R::BAD_MAC | R::BAD_ALGORITHM))
}

/// The verdict on good claims after `change` (`null` removes).
fn claims(change: Value) -> Result<UploadToken, Reject> {
    let mut claims = json!({ "sub": "alice", "exp": NOW + 600 });
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    check(&ticket(SECRET, &claims))
}

/// The same with claims that no JSON library would write.
fn raw_claims(text: &str) -> Result<UploadToken, Reject> {
    check(&ticket_of(SECRET, HS256, text))
}

#[test]
fn a_good_ticket_says_what_it_says() {
    let plain = UploadToken {
        subject: "alice".to_owned(),
        max_bytes: None,
        content_types: None,
        expire: NOW + 600,
    };
    assert_eq!(claims(json!({})), Ok(plain));
    let full = json!({ "max": 1000, "types": ["image/png", "image/jpeg"], "nbf": NOW, "iat": NOW,
        "aud": "somebody", "jti": "1", "admin": true });
    let full = claims(full).unwrap();
    assert_eq!(full.max_bytes, Some(1000));
    assert_eq!(full.content_types, Some(vec!["image/png".to_owned(), "image/jpeg".to_owned()]));
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
        format!("{signed}.{}", base64url(&hmac_sha256(SECRET.as_bytes(), signed.as_bytes())));
    let secret = Secret::new(SECRET.to_owned());
    assert_eq!(UploadToken::verify(&ours, &secret, 1_300_819_379), Err(Reject::BAD_SUBJECT));
    assert_eq!(UploadToken::verify(&ours, &secret, 1_300_819_380), Err(Reject::EXPIRED_TICKET));
    assert_eq!(UploadToken::verify(text, &secret, 1_300_819_379), Err(Reject::BAD_MAC));
}

#[test]
fn only_hs256_is_an_algorithm() {
    let good = json!({ "sub": "alice", "exp": NOW + 600 }).to_string();
    // Signed with the right secret, every one of them: the word alone decides.
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None"}"#,
        r#"{"alg":"NONE"}"#,
        r#"{"alg":"nOnE"}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"HS256 "}"#,
        r#"{"alg":"HS384"}"#,
        r#"{"alg":"HS512"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"alg":"ES256"}"#,
        r#"{"alg":"PS256"}"#,
        r#"{"alg":"EdDSA"}"#,
        r#"{"alg":"dir","enc":"A256GCM"}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":{"HS256":1}}"#,
        r#"{"alg":null}"#,
        r#"{"alg":256}"#,
        r#"{"alg":""}"#,
        r#"{"Alg":"HS256"}"#,
        r#"{"typ":"JWT"}"#,
        r#"["HS256"]"#,
        r#""HS256""#,
        "null",
        "HS256",
        "{",
        "",
        // What it asks us to understand, we do not (RFC 7515, 4.1.11).
        r#"{"alg":"HS256","crit":["exp"]}"#,
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","crit":null}"#,
    ] {
        let verdict = check(&ticket_of(SECRET, header, &good));
        // A header that is no JSON is no algorithm's.
        let words = [Reject::BAD_ALGORITHM, Reject::BAD_TICKET];
        let is_json = serde_json::from_str::<Value>(header).is_ok();
        assert_eq!(verdict, Err(words[usize::from(!is_json)]), "{header}");
    }
    for header in
        [r#"{"alg":"HS256"}"#, r#"{"alg":"HS256","kid":"../../dev/null","jku":"http://x"}"#]
    {
        assert!(check(&ticket_of(SECRET, header, &good)).is_ok(), "{header}");
    }
}

#[test]
fn without_a_good_signature_a_ticket_is_nothing() {
    let good = json!({ "sub": "alice", "exp": NOW + 600 });
    let text = ticket(SECRET, &good);
    let (signed, mac) = text.rsplit_once('.').unwrap();
    let (header, body) = signed.split_once('.').unwrap();
    let none = base64url(br#"{"alg":"none","typ":"JWT"}"#);
    let sha512 = base64url(&hmac_sha512(SECRET.as_bytes(), signed.as_bytes()));
    let long = "A".repeat(10_000);
    for bad in [
        ticket(OTHER, &good),
        ticket("", &good),
        ticket(&SECRET[..SECRET.len() - 1], &good),
        format!("{none}.{body}."),
        format!("{none}.{body}"),
        format!("{none}.{body}.{mac}"),
        format!("{signed}."),
        signed.to_owned(),
        format!("{signed}.{sha512}"),
        format!("{signed}.{}", &sha512[..43]),
        format!("{signed}.{}", base64url(&[0; 32])),
        format!("{signed}.{}", &mac[..22]), // half of it: only callback tokens are shortened
        format!("{signed}.{mac}A"),
        format!("{header}.{}.{mac}", base64url(br#"{"sub":"admin","exp":9999999999}"#)),
        format!("{}.{body}.{mac}", base64url(br#"{"alg":"HS256"}"#)),
        format!("{signed}.{mac}.{mac}"),
        format!("{header}.{signed}.{mac}"),
        format!("{header}.{body}.{body}.{mac}"),
        format!(".{signed}.{mac}"),
        format!("{header}..{body}.{mac}"),
        format!("..{mac}"),
        "..".to_owned(),
        ".".to_owned(),
        String::new(),
        "\u{0}".to_owned(),
        "ticket".to_owned(),
        format!("{long}.{long}.{long}"),
        long,
    ] {
        assert!(is_unsigned(&bad), "{bad}");
    }
}

/// One ticket, one spelling: whoever keeps lists of tickets can rely on it.
#[test]
fn a_ticket_has_no_second_spelling() {
    let text = ticket(SECRET, &json!({ "sub": "alice", "exp": NOW + 600 }));
    assert!(check(&text).is_ok());
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            assert!(is_unsigned(&changed), "byte {at}, bit {bit}");
        }
        assert!(is_unsigned(&text[..at]), "cut at {at}");
    }
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let spellings = alphabet.chars().map(|last| format!("{}{last}", &text[..text.len() - 1]));
    let good: Vec<String> = spellings.filter(|spelling| check(spelling).is_ok()).collect();
    assert_eq!(good, std::slice::from_ref(&text), "bits of the last character are not looked at");
    for changed in [
        format!("{text}="),
        format!("{text}=="),
        format!("{text}\n"),
        format!("{text} "),
        format!(" {text}"),
        format!("\t{text}"),
        text.replacen('.', "=.", 1),
        text.replacen('.', " .", 1),
        text.replacen('.', "\n.", 1),
        text.replacen('.', "%2e", 1),
        text.replace('.', "%2E"),
        format!("{}\u{feff}", text),
    ] {
        assert!(is_unsigned(&changed), "{changed:?}");
    }
    // The other alphabet of base64, in the signature, the claims, and the header.
    let claims = json!({ "sub": "alice", "exp": NOW + 600, "n": "\u{3fbf}\u{3fff}~~~???" });
    let urlsafe = (0..200)
        .map(|n| {
            ticket(SECRET, &json!({ "sub": format!("alice{n}"), "exp": NOW + 600, "c": claims }))
        })
        .find(|text| text.contains('-') && text.contains('_'))
        .unwrap();
    assert!(check(&urlsafe).is_ok());
    let standard = urlsafe.replace('-', "+").replace('_', "/");
    assert!(is_unsigned(&standard));
    let (signed, _) = standard.rsplit_once('.').unwrap();
    if signed.contains(['+', '/']) {
        let mac = base64url(&hmac_sha256(SECRET.as_bytes(), signed.as_bytes()));
        assert!(is_unsigned(&format!("{signed}.{mac}")));
    }
    // Padding that its signature covers.
    let padded = format!("{}=.{}", base64url(br#"{"alg":"HS256"}"#), base64url(b"{}"));
    let mac = base64url(&hmac_sha256(SECRET.as_bytes(), padded.as_bytes()));
    assert!(is_unsigned(&format!("{padded}.{mac}")));
}

#[test]
fn times() {
    use Reject as R;
    for (change, verdict) in [
        (json!({ "exp": NOW + 1 }), None),
        (json!({ "exp": NOW as f64 + 1.5 }), None),
        (json!({ "exp": u64::MAX }), None),
        (json!({ "exp": 1e300 }), None),
        (json!({ "exp": 99_999_999_999u64 }), None),
        // Milliseconds (JavaScript's `Date.now()`), microseconds, nanoseconds.
        (json!({ "exp": (NOW + 600) * 1000 }), Some(R::LONG_EXP)),
        (json!({ "exp": (NOW - 600) * 1000 }), Some(R::LONG_EXP)),
        (json!({ "exp": (NOW + 600) as f64 * 1000.5 }), Some(R::LONG_EXP)),
        (json!({ "exp": (NOW + 600) * 1_000_000 }), Some(R::LONG_EXP)),
        (json!({ "exp": (NOW + 600) * 1_000_000_000 }), Some(R::LONG_EXP)),
        (json!({ "nbf": NOW * 1000 }), Some(R::EARLY_TICKET)),
        // Who writes `iat: Date.now()` lets a library add the life, or writes `exp` alike.
        (json!({ "iat": NOW * 1000, "exp": NOW * 1000 + 300 }), Some(R::LONG_EXP)),
        (json!({ "nbf": NOW * 1000, "exp": (NOW + 300) * 1000 }), Some(R::LONG_EXP)),
        // Leeway is for clocks that say when something begins: what has ended has ended.
        (json!({ "exp": NOW }), Some(R::EXPIRED_TICKET)),
        (json!({ "exp": NOW as f64 + 0.5 }), Some(R::EXPIRED_TICKET)),
        (json!({ "exp": NOW - 59 }), Some(R::EXPIRED_TICKET)),
        (json!({ "exp": 0 }), Some(R::EXPIRED_TICKET)),
        (json!({ "exp": -1 }), Some(R::EXPIRED_TICKET)),
        (json!({ "exp": -1e300 }), Some(R::EXPIRED_TICKET)),
        (json!({ "exp": null }), Some(R::NO_EXP)),
        (json!({ "exp": (NOW + 600).to_string() }), Some(R::BAD_EXP)),
        (json!({ "exp": "never" }), Some(R::BAD_EXP)),
        (json!({ "exp": "" }), Some(R::BAD_EXP)),
        (json!({ "exp": true }), Some(R::BAD_EXP)),
        (json!({ "exp": [NOW + 600] }), Some(R::BAD_EXP)),
        (json!({ "exp": {} }), Some(R::BAD_EXP)),
        (json!({ "nbf": NOW + 60 }), None),
        (json!({ "nbf": NOW + 61 }), Some(R::EARLY_TICKET)),
        (json!({ "nbf": NOW as f64 + 60.9 }), None),
        (json!({ "nbf": 0 }), None),
        (json!({ "nbf": -5 }), None),
        (json!({ "nbf": 1e300 }), Some(R::EARLY_TICKET)),
        (json!({ "nbf": NOW.to_string() }), Some(R::BAD_BEGIN)),
        (json!({ "nbf": false }), Some(R::BAD_BEGIN)),
        (json!({ "iat": NOW + 60 }), None),
        (json!({ "iat": NOW + 61 }), Some(R::EARLY_TICKET)),
        (json!({ "iat": NOW - 1_000_000 }), None),
        (json!({ "iat": "yesterday" }), Some(R::BAD_BEGIN)),
        (json!({ "nbf": NOW, "iat": NOW + 61 }), Some(R::EARLY_TICKET)),
        (json!({ "nbf": NOW + 61, "iat": NOW }), Some(R::EARLY_TICKET)),
        (json!({ "nbf": NOW + 61, "exp": NOW - 1 }), Some(R::EXPIRED_TICKET)),
    ] {
        assert_eq!(claims(change.clone()).err(), verdict, "{change}");
    }
    // A claim of null is there, and is no number.
    for (text, verdict) in [
        (r#"{"sub":"alice","exp":null}"#, R::BAD_EXP),
        (r#"{"sub":"alice","exp":9999999999,"nbf":null}"#, R::BAD_BEGIN),
        (r#"{"sub":"alice","exp":9999999999,"iat":null}"#, R::BAD_BEGIN),
        (r#"[{"sub":"alice","exp":9999999999}]"#, R::NO_EXP),
        (r#""alice""#, R::NO_EXP),
        ("9999999999", R::NO_EXP),
        ("null", R::NO_EXP),
    ] {
        assert_eq!(raw_claims(text), Err(verdict), "{text}");
    }
    for text in [
        r#"{"sub":"alice","exp":1e400}"#,
        r#"{"sub":"alice","exp":NaN}"#,
        r#"{"sub":"alice","exp":Infinity}"#,
        r#"{"sub":"alice","exp":9999999999"#,
        r#"{"sub":"alice","exp":9999999999}}"#,
        "",
        "\u{feff}{\"sub\":\"alice\",\"exp\":9999999999}",
    ] {
        assert_eq!(raw_claims(text), Err(Reject::BAD_TICKET), "{text}");
    }
    let deep = "[".repeat(2000) + &"]".repeat(1000);
    assert_eq!(raw_claims(&deep), Err(Reject::BAD_TICKET));
}

/// What a ticket lets become a folder.
#[test]
fn subjects() {
    let longest = "a".repeat(128);
    let good =
        ["alice", "0", "A-Z_a.z", "alice@example.com", "a..b", "-", "_", "@", "a.", &longest];
    for subject in good {
        assert_eq!(claims(json!({ "sub": subject })).unwrap().subject, subject);
    }
    let (long, huge) = ("a".repeat(129), "a".repeat(10_240));
    for subject in [
        "",
        " ",
        ".",
        "..",
        "...",
        ".hidden",
        "../",
        "../../etc",
        "a/b",
        "/a",
        "a/",
        "/",
        "a/../b",
        "%2e%2e",
        "%2e%2e%2f",
        "%2E",
        "a%2fb",
        "a%00",
        "a\\b",
        "..\\",
        "a b",
        "a\tb",
        "a\nb",
        "a\r\nX: y",
        "a\0b",
        "\0",
        "a;b",
        "a,b",
        "a:b",
        "a*b",
        "a?b",
        "a#b",
        "a&b",
        "a=b",
        "a+b",
        "a~b",
        "a$b",
        "${filename}",
        "a{b",
        "a|b",
        "a'b",
        "a\"b",
        "a<b",
        "a`b",
        "~",
        "üser",
        "用户",
        "😀",
        "a\u{202e}b",
        "a\u{200b}b",
        "\u{ff0e}\u{ff0e}",
        "a\u{2215}b",
        "\u{feff}a",
        &long,
    ] {
        assert_eq!(claims(json!({ "sub": subject })), Err(Reject::BAD_SUBJECT), "{subject:?}");
    }
    // 10 KB do not even get as far.
    assert_eq!(claims(json!({ "sub": huge })), Err(Reject::BAD_TICKET));
    for subject in [json!(null), json!(7), json!(true), json!(["alice"]), json!({ "a": 1 })] {
        assert_eq!(claims(json!({ "sub": subject })), Err(Reject::BAD_SUBJECT), "{subject}");
    }
    let null = format!(r#"{{"sub":null,"exp":{}}}"#, NOW + 600);
    assert_eq!(raw_claims(&null), Err(Reject::BAD_SUBJECT));
    // Escapes are read before the rules are applied.
    let escaped = |sub: &str| raw_claims(&format!(r#"{{"sub":"{sub}","exp":{}}}"#, NOW + 600));
    assert_eq!(escaped(r"\u002e\u002e").err(), Some(Reject::BAD_SUBJECT));
    assert_eq!(escaped(r"a\u002fb").err(), Some(Reject::BAD_SUBJECT));
    assert_eq!(escaped(r"a\/b").err(), Some(Reject::BAD_SUBJECT));
    assert_eq!(escaped(r"\u0061lice").unwrap().subject, "alice");
    assert_eq!(escaped(r"\ud800").err(), Some(Reject::BAD_TICKET));
}

#[test]
fn limits() {
    for max in [json!(0), json!(-1), json!(1.5), json!("1000"), json!(true), json!([1]), json!({})]
    {
        assert_eq!(claims(json!({ "max": max })), Err(Reject::BAD_MAX), "{max}");
    }
    for (text, verdict) in [
        ("null", Reject::BAD_MAX),
        ("18446744073709551616", Reject::BAD_MAX),
        ("1e400", Reject::BAD_TICKET), // no JSON
    ] {
        let text = format!(r#"{{"sub":"alice","exp":{},"max":{text}}}"#, NOW + 600);
        assert_eq!(raw_claims(&text), Err(verdict), "{text}");
    }
    assert_eq!(claims(json!({ "max": 1 })).unwrap().max_bytes, Some(1));
    assert_eq!(claims(json!({ "max": u64::MAX })).unwrap().max_bytes, Some(u64::MAX));
    for types in [
        json!("image/png"),
        json!(7),
        json!(true),
        json!({ "0": "image/png" }),
        json!([7]),
        json!(["image/png", null]),
        json!([["image/png"]]),
        // Nothing that would be an escape in a policy, or a line end in a form.
        json!(["$content-type"]),
        json!([" image/png"]),
        json!(["image/png\n"]),
        json!(["image/ü"]),
        json!(["image/png\0"]),
    ] {
        assert_eq!(claims(json!({ "types": types })), Err(Reject::BAD_TYPES), "{types}");
    }
    let null = format!(r#"{{"sub":"alice","exp":{},"types":null}}"#, NOW + 600);
    assert_eq!(raw_claims(&null), Err(Reject::BAD_TYPES));
    // A pattern stands alone: conditions of a policy are a conjunction.
    for types in [
        json!(["image/*", "text/plain"]),
        json!(["text/plain", "image/*"]),
        json!(["image/*", "video/*"]),
        json!(["image/*", "image/png"]),
    ] {
        assert_eq!(claims(json!({ "types": types })), Err(Reject::MIXED_TYPES), "{types}");
    }
    let images = Some(vec!["image/*".to_owned()]);
    assert_eq!(claims(json!({ "types": ["image/*"] })).unwrap().content_types, images);
    for types in
        [json!(["*/*"]), json!(["*"]), json!(["image*"]), json!(["ima*/png"]), json!(["a/*b"])]
    {
        assert_eq!(claims(json!({ "types": types })), Err(Reject::BAD_TYPES), "{types}");
    }
    assert_eq!(claims(json!({ "types": [] })).unwrap().content_types, Some(Vec::new()));
}

/// A library that mints a claim twice is broken, and which of the two counts must not be a matter
/// of taste: the last, as in every JSON parser that JWT libraries use.
#[test]
fn of_a_claim_that_is_there_twice_the_last_counts() {
    let text = format!(r#"{{"sub":"bob","sub":"alice","exp":1,"exp":{}}}"#, NOW + 600);
    assert_eq!(raw_claims(&text).unwrap().subject, "alice");
}

fn tokens(secret: &str) -> CallbackTokens {
    CallbackTokens::new(&Secret::new(secret.to_owned()), "examplebucket", 100)
}

#[test]
fn a_callback_token_is_what_the_audit_guide_describes() {
    for (path, prefix) in [("/callback", "user/alice/"), ("/", ""), ("/ü", "用户/"), ("", "a")] {
        let ours = callback_token(SECRET, path, NOW, prefix);
        assert_eq!(tokens(SECRET).issue(path.as_bytes(), NOW, prefix), ours);
        let query = format!("token={ours}");
        let verdict = tokens(SECRET).check(path.as_bytes(), &query, NOW);
        assert_eq!(verdict.as_deref(), Ok(prefix));
    }
    // 128 bits, and nothing that a URL would have to escape.
    let token = callback_token(SECRET, "/", NOW, "user/");
    assert_eq!(token.rsplit_once('.').unwrap().1.len(), 22);
    assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
}

#[test]
fn a_token_ends_its_time_after_its_policy() {
    let query = format!("token={}", callback_token(SECRET, "/", NOW, "user/"));
    let check = |now| tokens(SECRET).check(b"/", &query, now).map(|_| ());
    for now in [0, NOW, NOW + 1, NOW + 100] {
        assert_eq!(check(now), Ok(()), "{now}");
    }
    for now in [NOW + 101, NOW + 1_000_000, u64::MAX] {
        assert_eq!(check(now), Err(Reject::TOKEN_EXPIRED), "{now}");
    }
    // The sum must not run over.
    let eternal = format!("token={}", callback_token(SECRET, "/", u64::MAX, "user/"));
    assert!(tokens(SECRET).check(b"/", &eternal, NOW).is_ok());
}

#[test]
fn a_token_holds_for_one_key_and_one_path() {
    let query = format!("token={}", callback_token(SECRET, "/a", NOW, "user/"));
    let query = query.as_str();
    assert!(tokens(SECRET).check(b"/a", query, NOW).is_ok());
    for path in ["/b", "/", "", "/a/", "/A", "/ab", "//a", "/a\n", "/%61", "/a?token=x", "/a\0"] {
        let verdict = tokens(SECRET).check(path.as_bytes(), query, NOW);
        assert_eq!(verdict, Err(Reject::TOKEN_FORGED), "{path:?}");
    }
    assert_eq!(tokens(OTHER).check(b"/a", query, NOW), Err(Reject::TOKEN_FORGED));
    // The key is derived: what else the secret signs is no token.
    let signed = format!("{NOW}.{}", base64url(b"user/"));
    let bare = hmac_sha256(SECRET.as_bytes(), format!("{signed}\n/a").as_bytes());
    let bare = format!("token={signed}.{}", base64url(&bare[..16]));
    assert_eq!(tokens(SECRET).check(b"/a", &bare, NOW), Err(Reject::TOKEN_FORGED));
    let jwt = format!("token={}", ticket(SECRET, &json!({ "sub": "alice", "exp": NOW + 600 })));
    assert_eq!(tokens(SECRET).check(b"/a", &jwt, NOW), Err(Reject::TOKEN_FORGED));
    let token = &query["token=".len()..];
    assert_eq!(check(token), Err(Reject::BAD_TICKET));
}

#[test]
fn every_bit_of_a_token_counts() {
    let token = callback_token(SECRET, "/callback", NOW, "user/alice/");
    let check = |token: &str| {
        tokens(SECRET).check(b"/callback", &format!("token={token}"), NOW).map(|_| ())
    };
    assert_eq!(check(&token), Ok(()));
    for at in 0..token.len() {
        for bit in 0..8 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            let verdict = check(&changed);
            assert_eq!(verdict, Err(Reject::TOKEN_FORGED), "byte {at}, bit {bit}: {changed}");
        }
        assert_eq!(check(&token[..at]), Err(Reject::TOKEN_FORGED), "cut at {at}");
    }
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let spellings = alphabet.chars().map(|last| format!("{}{last}", &token[..token.len() - 1]));
    assert_eq!(spellings.filter(|spelling| check(spelling).is_ok()).count(), 1);

    let (signed, mac) = token.rsplit_once('.').unwrap();
    let (expire, prefix) = signed.split_once('.').unwrap();
    let bob = base64url(b"user/bob/");
    for forged in [
        format!("{}.{prefix}.{mac}", NOW + 1_000_000),
        format!("+{expire}.{prefix}.{mac}"),
        format!("0{expire}.{prefix}.{mac}"),
        format!("{expire}.{bob}.{mac}"),
        format!("{expire}.{}.{mac}", base64url(b"user/")),
        format!("{expire}..{mac}"),
        format!("{expire}.{mac}"),
        format!("{signed}."),
        format!("{signed}.{mac}="),
        format!("{signed}.{mac}=="),
        format!("{signed}.{mac}AAAAAAAAAAAAAAAAAAAAA"), // the whole MAC's length
        format!("{signed}.{}", base64url(&[0; 16])),
        format!("{signed}.{}", &mac[..2]),
        format!("{signed}.{mac}.{mac}"),
        format!("{signed}.{prefix}.{mac}"),
        format!("{token}%3D"),
        token.replace('.', "%2E"),
        format!("%{token}"),
        format!("{token}#"),
        format!("{token};"),
        format!("{token} "),
        String::new(),
        "0".to_owned(),
        "..".to_owned(),
    ] {
        assert_eq!(check(&forged), Err(Reject::TOKEN_FORGED), "{forged}");
    }
    // A longer part of the same MAC says the same, but is another spelling.
    let key = hmac_sha256(SECRET.as_bytes(), b"appserver callback token 1 examplebucket");
    let whole = hmac_sha256(&key, format!("{signed}\n/callback").as_bytes());
    for length in [1, 8, 15, 17, 31, 32] {
        let verdict = check(&format!("{signed}.{}", base64url(&whole[..length])));
        assert_eq!(verdict, Err(Reject::TOKEN_FORGED), "{length} bytes");
    }
}

#[test]
fn exactly_one_token_is_read() {
    let token = callback_token(SECRET, "/", NOW, "user/");
    let check = |query: &str| tokens(SECRET).check(b"/", query, NOW).map(|_| ());
    for query in [
        format!("token={token}"),
        format!("id=1&token={token}"),
        format!("token={token}&id=1"),
        format!("&&token={token}&"),
        format!("xtoken=1&token={token}&Token=2&token2=3"),
    ] {
        assert_eq!(check(&query), Ok(()), "{query}");
    }
    for query in [
        String::new(),
        "id=1".to_owned(),
        "token".to_owned(),
        format!("Token={token}"),
        format!("xtoken={token}"),
        format!("%74oken={token}"),
        format!("token%3D{token}"),
        format!("id=1;token={token}"),
        format!("token={token}&token={token}"),
        format!("token=&token={token}"),
        format!("token={token}&token="),
        token.clone(),
    ] {
        assert_eq!(check(&query), Err(Reject::TOKEN_MISSING), "{query}");
    }
}

/// The words for an expired token are kept from those who cannot make one: a forged token is
/// forged, whatever time it names.
#[test]
fn a_forged_token_is_never_called_expired() {
    for expire in [0, 1, NOW - 1000] {
        let query = format!("token={}", callback_token(OTHER, "/", expire, "user/"));
        assert_eq!(tokens(SECRET).check(b"/", &query, NOW), Err(Reject::TOKEN_FORGED));
    }
}

/// Staging and production may share an access key: a free policy of one is nothing to the other.
#[test]
fn a_token_of_another_bucket_is_none_of_ours() {
    let secret = Secret::new(SECRET.to_owned());
    let token = CallbackTokens::new(&secret, "staging", 100).issue(b"/", NOW, "");
    let ours = CallbackTokens::new(&secret, "examplebucket", 100);
    assert_eq!(ours.check(b"/", &format!("token={token}"), NOW), Err(Reject::TOKEN_FORGED));
}
