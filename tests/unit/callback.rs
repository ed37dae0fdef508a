//! Callbacks: Alibaba's own example under the real key, every byte of it changed, and tables for
//! what is signed and how bodies are read.

use appserver::oss::callback::{Claim, PublicKey, fields, template};
use appserver::reject::Reject;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use oss_standin::{Options, Standin};
use serde_json::Value;
use support::world::FORM;

struct Example {
    authorization: String,
    key_url: String,
    target: String,
    body: String,
    key: PublicKey,
}

/// tests/vectors/callback-real.json says where it comes from.
fn example() -> (Example, Value) {
    let file: Value = serde_json::from_str(include_str!("../vectors/callback-real.json")).unwrap();
    let vector = file["vectors"][0].clone();
    let field = |name: &str| vector[name].as_str().unwrap().to_owned();
    let key = PublicKey::from_pem(file["public_key_pem"].as_str().unwrap()).unwrap();
    let example = Example {
        authorization: field("authorization"),
        key_url: field("x_oss_pub_key_url"),
        target: field("request_target"),
        body: field("body"),
        key,
    };
    (example, vector)
}

fn string_to_sign(target: &str, body: &[u8]) -> Option<Vec<u8>> {
    let claim = Claim::new("", "", target, body);
    assert_eq!(claim.as_ref().err().copied(), claim.is_err().then_some(Reject::BAD_PATH));
    Some(claim.ok()?.string_to_sign())
}

fn verify(e: &Example) -> Result<(), Reject> {
    let claim = Claim::new(&e.authorization, &e.key_url, &e.target, e.body.as_bytes())?;
    claim.verify(&e.key).map(|_| ())
}

/// The RSA signature of Alibaba's example, over the string to sign that the example gives.
#[test]
fn the_documented_callback_verifies() {
    let (example, vector) = example();
    let text = string_to_sign(&example.target, example.body.as_bytes()).unwrap();
    assert_eq!(text, vector["string_to_sign"].as_str().unwrap().as_bytes());
    assert_eq!(verify(&example), Ok(()));
}

/// Tampering with a signed callback: a bit of path, query or body, a query dropped or extended.
#[test]
fn no_byte_of_path_query_or_body_may_change() {
    let (original, _) = example();
    let length = original.target.len();
    for at in 0..length + original.body.len() {
        let mut bytes = [original.target.as_bytes(), original.body.as_bytes()].concat();
        bytes[at] ^= 1;
        let body = String::from_utf8(bytes.split_off(length)).unwrap();
        let target = String::from_utf8(bytes).unwrap();
        let changed = Example { target, body, ..example().0 };
        assert_eq!(verify(&changed), Err(Reject::SIGNATURE_MISMATCH), "byte {at}");
    }
    for (target, body) in [
        ("/index.php", "bucket=yonghu-test"), // query dropped
        ("/index.php?id=1&index=2&x=3", "bucket=yonghu-test"), // query extended
        ("/index.php?id=1&index=2", "bucket=yonghu-test\n"),
        ("/index.php?id=1&index=2", ""),
    ] {
        let moved = Example { target: target.into(), body: body.into(), ..example().0 };
        assert_eq!(verify(&moved), Err(Reject::SIGNATURE_MISMATCH), "{target} {body:?}");
    }
}

/// Bit flips in the RSA signature; one too short or too long; base64 without its padding.
#[test]
fn no_bit_of_the_signature_may_change() {
    let (original, _) = example();
    let signature = BASE64.decode(&original.authorization).unwrap();
    assert_eq!(signature.len(), 64);
    for bit in 0..signature.len() * 8 {
        let mut bytes = signature.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let authorization = BASE64.encode(bytes);
        let forged = Example { authorization, ..example().0 };
        assert_eq!(verify(&forged), Err(Reject::SIGNATURE_MISMATCH), "bit {bit}");
    }
    let shapes = [
        (String::new(), Reject::BAD_AUTHORIZATION),
        (BASE64.encode(&signature[1..]), Reject::BAD_AUTHORIZATION),
        (BASE64.encode([&signature[..], &[0]].concat()), Reject::BAD_AUTHORIZATION),
        (BASE64.encode([0; 64]), Reject::SIGNATURE_MISMATCH),
        (format!("OSS {}", original.authorization), Reject::BAD_AUTHORIZATION),
        (format!("{} ", original.authorization), Reject::BAD_AUTHORIZATION),
        (original.authorization.trim_end_matches('=').to_owned(), Reject::BAD_AUTHORIZATION),
        ("A".repeat(684), Reject::BAD_AUTHORIZATION),
        ("A".repeat(685), Reject::FIELD_TOO_LONG),
    ];
    for (length, reject) in [(256, Reject::BAD_KEY_URL), (257, Reject::FIELD_TOO_LONG)] {
        let claim = Claim::new(&original.authorization, &"/".repeat(length), "/", b"");
        assert_eq!(claim.err(), Some(reject), "{length}");
    }
    for (authorization, reject) in shapes {
        let bad = Example { authorization: authorization.clone(), ..example().0 };
        assert_eq!(verify(&bad), Err(reject), "{authorization}");
    }
}

/// Percent-encoding in the string to sign: double decoding would let one signature serve two paths.
#[test]
fn the_path_is_decoded_once_and_the_query_never() {
    for (target, expected) in [
        ("/", Some("/\nB")),
        ("/a%20b", Some("/a b\nB")),
        ("/a+b", Some("/a+b\nB")),
        ("/a%2Fb", Some("/a/b\nB")),
        ("/%2541", Some("/%41\nB")),
        ("/%E4%B8%AD?q=%E4%B8%AD", Some("/中?q=%E4%B8%AD\nB")),
        ("/p?", Some("/p?\nB")),
        ("/p?a?b", Some("/p?a?b\nB")),
        ("/%3Fa?b", Some("/?a?b\nB")),
        ("/%", None),
        ("/%4", None),
        ("/%4g", None),
        ("/%+1", None),
    ] {
        let expected = expected.map(|text| text.as_bytes().to_vec());
        assert_eq!(string_to_sign(target, b"B"), expected, "{target}");
    }
    assert_eq!(string_to_sign("/%FF", b"").unwrap(), b"/\xff\n");
}

/// Form and JSON: blanks, percent-encoding, bytes that are no UTF-8, a byte order mark.
#[test]
fn bodies_are_read_as_their_type_says() {
    let (example, _) = example();
    // Only what is verified can be read, so the table's bodies are signed with a throw-away key.
    let standin = Standin::start(Options::default()).unwrap();
    let key = PublicKey::from_pem(standin.public_key_pem()).unwrap();
    let read = |body: &str, content_type| {
        let authorization = standin.sign("/", body.as_bytes());
        let claim = Claim::new(&authorization, &example.key_url, "/", body.as_bytes()).unwrap();
        let fields = fields(&claim.verify(&key).unwrap(), content_type)?;
        Some(fields.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("|"))
    };
    let (form, json) = (FORM, "application/json");
    for (content_type, body, expected) in [
        (form, "a=1&b=2", Some("a=1|b=2")),
        (form, "a=%E4%B8%AD+%2B&b=", Some("a=中 +|b=")),
        (form, "&&a=b=c&", Some("a=b=c")),
        (form, "", Some("")),
        (form, "a", Some("a=")),
        (form, "a=%ff", None),
        (form, "a=%", None),
        (json, r#"{"a":"x","b":7,"c":null,"d":true}"#, Some("a=x|b=7|c=|d=true")),
        (json, r#"{"a":"#, None),
        (json, r#"["a"]"#, None),
        (json, "\u{feff}{}", None),
    ] {
        assert_eq!(read(body, content_type).as_deref(), expected, "{body}");
    }
}

/// `CALLBACK_BODY`, form or JSON.
#[test]
fn a_template_tells_which_name_carries_which_variable() {
    let form = template("f=${object}&n=x&s=${size}", FORM).unwrap();
    assert_eq!(form["f"], "${object}");
    assert_eq!(form["n"], "x");
    let json = template(r#"{"f":${object},"s":${size}}"#, "application/json").unwrap();
    assert_eq!(json["f"], "${object}");
    for bad in [r#"{"f":"${object}"}"#, r#"{"f":${object}"#, r#"{"f":${object"#, "f=${object}", ""]
    {
        assert!(template(bad, "application/json").is_none(), "{bad}");
    }
}

/// PEM files that are none, or of a private key, or HTML of a captive portal.
#[test]
fn keys_that_are_not_keys_are_refused() {
    for bad in [
        "",
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\n!!!!\n-----END PUBLIC KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----",
        "<html>not found</html>",
    ] {
        assert!(PublicKey::from_pem(bad).is_none(), "{bad}");
    }
}
