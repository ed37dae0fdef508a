//! Upload tokens (JWTs) and callback tokens, good and forged, and the verdict on each. The pure
//! functions judge all of them (tests/unit/token.rs), and a server those that a request can carry
//! (tests/server/trust.rs).

use serde_json::{Value, json};

use crate::trust::{JWT_SECRET, TOKEN_KEY, base64url, callback_token};
use crate::trust::{hmac_sha256, hmac_sha512, ticket, ticket_of};

pub const OK: &str = "200 OK";
const BAD: &str = "401 ticket is not a JWT of up to 4096 bytes";
const BAD_ALG: &str = "401 ticket's alg is not HS256, or it has crit";
const BAD_MAC: &str = "401 ticket is not signed with UPLOAD_JWT_SECRET";
const NO_EXP: &str = "401 ticket's exp is missing";
const BAD_EXP: &str = "401 ticket's exp is not a number";
const LONG_EXP: &str = "401 ticket's exp is in milliseconds, not in seconds";
const BAD_BEGIN: &str = "401 ticket's nbf or iat is not a number";
const EXPIRED: &str = "401 ticket has expired";
const EARLY: &str = "401 ticket is not valid yet";
const BAD_SUB: &str = "401 ticket has no usable sub";
const BAD_MAX: &str = "401 ticket's max is not a whole number from 1";
const BAD_TYPES: &str = "401 ticket's types is not a list of content types";
const MIXED_TYPES: &str = "401 ticket's types has image/* beside others";
pub const MISSING: &str = "400 token is missing";
pub const FORGED: &str = "400 token is not one of ours for this path";
pub const TOKEN_EXPIRED: &str = "400 token has expired";

/// What is tried, and the verdict on it.
#[derive(Clone, Debug)]
pub struct Case {
    pub what: String,
    pub text: String,
    pub verdict: &'static str,
}

impl Case {
    /// Whether a header can carry it, as it is and within the limit of a request's head.
    pub fn fits_a_header(&self) -> bool {
        let is_short = (1..7000).contains(&self.text.len());
        is_short && self.text.bytes().all(|byte| byte.is_ascii_graphic())
    }

    /// Whether it stands in a query without any escape.
    pub fn fits_a_query(&self) -> bool {
        self.fits_a_header() && !self.text.contains(['#', '%', '&', '+', '/', '?'])
    }
}

/// A case for each value of a list in JSON, which `text` makes a token of.
fn each(verdict: &'static str, values: &Value, text: impl Fn(&Value) -> String) -> Vec<Case> {
    let values = values.as_array().expect("a list");
    let what = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
    values.iter().map(|one| Case { what: what(one), text: text(one), verdict }).collect()
}

/// A case for each text.
fn these<const N: usize>(verdict: &'static str, texts: [String; N]) -> Vec<Case> {
    texts.map(|text| Case { what: text.clone(), text, verdict }).to_vec()
}

/// A ticket for alice, its end in ten minutes, with this claim in addition or in place of hers.
pub fn with(now: u64, name: &str, value: &Value) -> String {
    let mut claims = json!({ "sub": "alice", "exp": now + 600 });
    claims[name] = value.clone();
    ticket(JWT_SECRET, &claims)
}

/// One with claims that no JSON library would write.
pub fn raw(claims: &str) -> String {
    ticket_of(JWT_SECRET, r#"{"alg":"HS256","typ":"JWT"}"#, claims)
}

/// Headers, signed with the right secret every one of them: the word alone decides.
pub fn algorithms(now: u64) -> Vec<Case> {
    let claims = json!({ "sub": "alice", "exp": now + 600 }).to_string();
    let of = |header: &Value| ticket_of(JWT_SECRET, &header.to_string(), &claims);
    let good =
        json!([{"alg": "HS256"}, {"alg": "HS256", "kid": "../../dev/null", "jku": "http://x"}]);
    let algorithms = json!([
        "none", "None", "NONE", "nOnE", "hs256", "HS256 ", "HS384", "HS512", "RS256", "ES256",
        "PS256", "EdDSA", ["HS256"], {"HS256": 1}, null, 256, ""
    ]);
    let headers = json!([
        {"Alg": "HS256"}, {"typ": "JWT"}, ["HS256"], "HS256", null,
        {"alg": "dir", "enc": "A256GCM"},
        // What it asks us to understand, we do not (RFC 7515, 4.1.11).
        {"alg": "HS256", "crit": ["exp"]}, {"alg": "HS256", "crit": ["b64"], "b64": false},
        {"alg": "HS256", "crit": []}, {"alg": "HS256", "crit": null}
    ]);
    [
        each(OK, &good, of),
        each(BAD_ALG, &algorithms, |alg| of(&json!({ "alg": alg }))),
        each(BAD_ALG, &headers, of),
        these(BAD, ["HS256", "{", ""].map(|header| ticket_of(JWT_SECRET, header, &claims))),
    ]
    .concat()
}

/// Signatures that are none, or of another key, algorithm, length or spelling.
pub fn signatures(now: u64) -> Vec<Case> {
    let good = json!({ "sub": "alice", "exp": now + 600 });
    let text = ticket(JWT_SECRET, &good);
    let (signed, mac) = text.rsplit_once('.').expect("a JWT");
    let (header, body) = signed.split_once('.').expect("a JWT");
    let none = base64url(br#"{"alg":"none","typ":"JWT"}"#);
    let key = JWT_SECRET.as_bytes();
    let sha512 = hmac_sha512(key, signed.as_bytes());
    let long = "A".repeat(10_000);
    let bad_mac = [
        ticket("anotherSecretOfMoreThanThirtyTwoCharacters", &good),
        ticket("", &good),
        ticket(&JWT_SECRET[..JWT_SECRET.len() - 1], &good),
        ticket(TOKEN_KEY, &good),
        ticket("exampleAccessKeySecret", &good),
        format!("{signed}."),
        format!("{signed}.{}", base64url(&sha512)),
        format!("{signed}.{}", base64url(&sha512[..32])),
        format!("{signed}.{}", base64url(&[0; 32])),
        // Half of it: only callback tokens are shortened.
        format!("{signed}.{}", base64url(&hmac_sha256(key, signed.as_bytes())[..16])),
        format!("{signed}.{mac}A"),
        format!("{header}.{}.{mac}", base64url(br#"{"sub":"admin","exp":9999999999}"#)),
        format!("{}.{body}.{mac}", base64url(br#"{"alg":"HS256"}"#)),
        format!("{signed}.{mac}.{mac}"),
        format!("{header}.{signed}.{mac}"),
        format!("{header}.{body}.{body}.{mac}"),
        format!("{header}..{body}.{mac}"),
    ];
    let bad_alg = [
        format!("{none}.{body}."),
        format!("{none}.{body}.{mac}"),
        format!(".{signed}.{mac}"),
        format!("..{mac}"),
        "..".to_owned(),
    ];
    // Padding that its signature covers.
    let padded = format!("{}=.{}", base64url(br#"{"alg":"HS256"}"#), base64url(b"{}"));
    let padded_mac = base64url(&hmac_sha256(key, padded.as_bytes()));
    let bad = [
        format!("{none}.{body}"),
        signed.to_owned(),
        ".".to_owned(),
        String::new(),
        "\u{0}".to_owned(),
        "ticket".to_owned(),
        format!("{long}.{long}.{long}"),
        long,
        format!("{padded}.{padded_mac}"),
    ];
    let ends = ["=", "==", "\n", " ", "\u{feff}"].map(|end| format!("{text}{end}"));
    let starts = [" ", "\t"].map(|start| format!("{start}{text}"));
    let dots = ["=.", " .", "\n.", "%2e", "%2E"].map(|dot| text.replacen('.', dot, 1));
    [
        these(BAD_MAC, bad_mac),
        these(BAD_ALG, bad_alg),
        these(BAD, bad),
        these(BAD, starts),
        these(BAD, ends),
        these(BAD, dots),
        these(BAD, [text.replace('.', "%2E")]),
    ]
    .concat()
}

/// `exp`, `nbf` and `iat`, none of them near the second that decides.
pub fn times(now: u64) -> Vec<Case> {
    let exp = |value: &Value| with(now, "exp", value);
    let good = json!([now as f64 + 600.5, u64::MAX, 1e300, 99_999_999_999u64]);
    let (soon, late) = (now + 600, now - 600);
    // Milliseconds (JavaScript's `Date.now()`), microseconds, nanoseconds.
    let long = json!([
        soon * 1000,
        late * 1000,
        soon as f64 * 1000.5,
        soon * 1_000_000,
        soon * 1_000_000_000
    ]);
    let bad_exp = json!([soon.to_string(), "never", "", true, [soon], {}, null]);
    let mut cases = [
        each(OK, &good, exp),
        each(LONG_EXP, &long, exp),
        each(EXPIRED, &json!([now - 59, 0, -1, -1e300]), exp),
        each(BAD_EXP, &bad_exp, exp),
    ]
    .concat();
    for name in ["nbf", "iat"] {
        let begin = |value: &Value| with(now, name, value);
        cases.extend(each(OK, &json!([0, -5, now - 1_000_000, now]), begin));
        cases.extend(each(EARLY, &json!([now + 120, 1e300, now * 1000]), begin));
        cases.extend(each(BAD_BEGIN, &json!([now.to_string(), "yesterday", false, null]), begin));
    }
    let (early, long) = (json!(now + 120), now * 1000 + 300);
    let pairs = [
        (EARLY, json!({ "sub": "alice", "exp": soon, "nbf": now, "iat": early })),
        (EARLY, json!({ "sub": "alice", "exp": soon, "nbf": early, "iat": now })),
        (EXPIRED, json!({ "sub": "alice", "exp": now - 1, "nbf": early })),
        // Who writes `iat: Date.now()` lets a library add the life, or writes `exp` alike.
        (LONG_EXP, json!({ "sub": "alice", "exp": long, "iat": now * 1000 })),
        (LONG_EXP, json!({ "sub": "alice", "exp": long, "nbf": now * 1000 })),
        (NO_EXP, json!({ "sub": "alice" })),
        (NO_EXP, json!([{ "sub": "alice", "exp": soon }])),
        (NO_EXP, json!("alice")),
        (NO_EXP, json!(soon)),
        (NO_EXP, json!(null)),
    ];
    for (verdict, claims) in pairs {
        cases.extend(each(verdict, &json!([claims]), |claims| ticket(JWT_SECRET, claims)));
    }
    let no_json = [
        r#"{"sub":"alice","exp":1e400}"#,
        r#"{"sub":"alice","exp":NaN}"#,
        r#"{"sub":"alice","exp":Infinity}"#,
        r#"{"sub":"alice","exp":9999999999"#,
        r#"{"sub":"alice","exp":9999999999}}"#,
        "",
        "\u{feff}{\"sub\":\"alice\",\"exp\":9999999999}",
        &("[".repeat(2000) + &"]".repeat(1000)),
    ];
    [cases, these(BAD, no_json.map(raw))].concat()
}

/// To the second, which only a clock that stands still can show. Leeway is for clocks that say when
/// something begins: what has ended has ended.
pub fn seconds(now: u64) -> Vec<Case> {
    let of = |name| move |value: &Value| with(now, name, value);
    [
        each(OK, &json!([now + 1, now as f64 + 1.5]), of("exp")),
        each(EXPIRED, &json!([now, now as f64 + 0.5]), of("exp")),
        each(OK, &json!([now + 60, now as f64 + 60.9]), of("nbf")),
        each(EARLY, &json!([now + 61]), of("nbf")),
        each(OK, &json!([now + 60]), of("iat")),
        each(EARLY, &json!([now + 61]), of("iat")),
    ]
    .concat()
}

/// What a ticket lets become a folder (`what`), and what not.
pub fn subjects(now: u64) -> Vec<Case> {
    let sub = |value: &Value| with(now, "sub", value);
    let good = json!([
        "alice",
        "0",
        "A-Z_a.z",
        "alice@example.com",
        "a..b",
        "-",
        "_",
        "@",
        "a.",
        "a".repeat(128)
    ]);
    let bad = json!([
        "", " ", "~", "\0", ".", "..", "...", ".hidden", "../", "../../etc", "..\\", "/", "/a",
        "a/", "a/../b", "%2e%2e", "%2e%2e%2f", "%2E", "a%2fb", "a%00", "a\r\nX: y", "${filename}",
        "\u{ff0e}\u{ff0e}", "\u{feff}a", "a".repeat(129), null, 7, true, ["alice"], {"a": 1}
    ]);
    let inside = " \t\n\0/\\;,:*?#&=+~$|'\"<`{üé用😀\u{202e}\u{200b}\u{2215}";
    let inside: Vec<String> = inside.chars().map(|one| format!("a{one}b")).collect();
    // Escapes are read before the rules are applied.
    let escaped = |sub: &str| raw(&format!(r#"{{"sub":"{sub}","exp":{}}}"#, now + 600));
    [
        each(OK, &good, sub),
        each(BAD_SUB, &bad, sub),
        each(BAD_SUB, &json!(inside), sub),
        these(BAD_SUB, [r"\u002e\u002e", r"a\u002fb", r"a\/b"].map(escaped)),
        these(BAD_SUB, [ticket(JWT_SECRET, &json!({ "exp": now + 600 }))]),
        these(BAD, [escaped(r"\ud800")]),
        each(BAD, &json!(["a".repeat(3200)]), sub),
    ]
    .concat()
}

/// `max` and `types`.
pub fn limits(now: u64) -> Vec<Case> {
    let max = |value: &Value| with(now, "max", value);
    let types = |value: &Value| with(now, "types", value);
    let raw_max = |max: &str| raw(&format!(r#"{{"sub":"alice","exp":{},"max":{max}}}"#, now + 600));
    let claims = format!(r#"{{"sub":"alice","exp":{}}}"#, now + 600);
    let bad_types = json!([
        "image/png", 7, true, null, {"0": "image/png"}, [7], ["image/png", null], [["image/png"]],
        // Nothing that would be an escape in a policy, or a line end in a form.
        ["$content-type"], [" image/png"], ["image/png\n"], ["image/ü"], ["image/png\0"],
        // Patterns that are none.
        ["*/*"], ["*"], ["image*"], ["ima*/png"], ["a/*b"]
    ]);
    // A pattern stands alone: conditions of a policy are a conjunction.
    let mixed = json!([
        ["image/*", "text/plain"],
        ["text/plain", "image/*"],
        ["image/*", "video/*"],
        ["image/*", "image/png"]
    ]);
    [
        each(OK, &json!([1, u64::MAX]), max),
        each(BAD_MAX, &json!([0, -1, 1.5, "1000", true, [1], {}, null]), max),
        // 4096 bytes, and one more.
        these(OK, [raw(&format!("{claims:<3011}"))]),
        these(BAD, [raw(&format!("{claims:<3012}"))]),
        these(BAD_MAX, [raw_max("18446744073709551616")]),
        these(BAD, [raw_max("1e400")]), // no JSON
        each(BAD_TYPES, &bad_types, types),
        each(MIXED_TYPES, &mixed, types),
    ]
    .concat()
}

/// Queries of a callback to `/callback` about an object under `user/alice/`, in the time of a
/// policy that ends at `expire`. `old` is a time whose tokens have expired.
pub fn callbacks(expire: u64, old: u64) -> Vec<Case> {
    let token = callback_token(TOKEN_KEY, "/callback", expire, "user/alice/");
    let good = [
        format!("token={token}"),
        format!("id=1&token={token}"),
        format!("token={token}&id=1"),
        format!("&&token={token}&"),
        format!("xtoken=1&token={token}&Token=2&token2=3"),
    ];
    // Exactly one is read.
    let missing = [
        String::new(),
        "id=1".to_owned(),
        "token".to_owned(),
        format!("Token={token}"),
        format!("xtoken={token}"),
        format!("%74oken={token}"),
        format!("token%3D{token}"),
        format!("id=1;token={token}"),
        format!("token={token}&token={token}"),
        format!("token={token}&token=x"),
        format!("token=x&token={token}"),
        format!("token=&token={token}"),
        format!("token={token}&token="),
        token.clone(),
    ];
    let (signed, mac) = token.rsplit_once('.').expect("a token");
    let (end, prefix) = signed.split_once('.').expect("a token");
    // The key is derived: what else the secret signs is no token.
    let bare = hmac_sha256(TOKEN_KEY.as_bytes(), format!("{signed}\n/callback").as_bytes());
    // A longer part of the same MAC says the same, but is another spelling.
    let key = hmac_sha256(TOKEN_KEY.as_bytes(), b"appserver callback token 1 examplebucket");
    let whole = hmac_sha256(&key, format!("{signed}\n/callback").as_bytes());
    let parts = [1, 8, 15, 17, 31, 32].map(|n| format!("{signed}.{}", base64url(&whole[..n])));
    let forged = [
        format!("{}.{prefix}.{mac}", expire + 1_000_000),
        format!("+{end}.{prefix}.{mac}"),
        format!("0{end}.{prefix}.{mac}"),
        format!("{end}.{}.{mac}", base64url(b"user/bob/")),
        format!("{end}.{}.{mac}", base64url(b"user/")),
        format!("{end}..{mac}"),
        format!("{end}.{mac}"),
        format!("{signed}."),
        format!("{signed}.{}", base64url(&[0; 16])),
        format!("{signed}.{}", &mac[..2]),
        format!("{signed}.{}", &mac[..mac.len() - 1]),
        format!("{signed}.{mac}.{mac}"),
        format!("{signed}.{prefix}.{mac}"),
        token.replace('.', "%2E"),
        format!("%{token}"),
        String::new(),
        "0".to_owned(),
        "..".to_owned(),
        "1.2.3".to_owned(),
        format!("{signed}.{}", base64url(&bare[..16])),
        ticket(TOKEN_KEY, &json!({ "sub": "alice", "exp": expire })),
        callback_token(TOKEN_KEY, "/other", expire, "user/alice/"),
        // Whoever cannot make a token does not learn whether its time is over.
        callback_token(JWT_SECRET, "/callback", old, "user/alice/"),
        callback_token(JWT_SECRET, "/callback", 0, "user/alice/"),
    ];
    // The last is as long as the whole MAC.
    let ends = ["=", "==", "%3D", "#", ";", " ", "AAAAAAAAAAAAAAAAAAAAA"];
    let ends = ends.map(|end| format!("{token}{end}"));
    let expired = callback_token(TOKEN_KEY, "/callback", old, "user/alice/");
    let query = |token: String| format!("token={token}");
    [
        these(OK, good),
        these(MISSING, missing),
        these(FORGED, forged.map(query)),
        these(FORGED, parts.map(query)),
        these(FORGED, ends.map(query)),
        these(TOKEN_EXPIRED, [query(expired)]),
    ]
    .concat()
}
