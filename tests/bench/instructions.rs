//! How many instructions each hot path takes: `cargo bench --bench instructions` (needs valgrind).
//! Unlike times they are the same on a busy machine, so a change of one in a thousand shows.
//! Valgrind knows no SHA instructions: digests count as on processors without them.

use std::hint::black_box;
use std::process::{Command, ExitCode, Stdio};

use appserver::app::App;
use appserver::config::{Config, Vars};
use appserver::http::{HEADERS, MAX_BODY_BYTES, Request};
use appserver::oss::callback::{Claim, PublicKey};
use appserver::oss::credentials::{Credentials, Secret};
use appserver::oss::policy::{self, Terms};
use appserver::proxy::head::{self, Limits};
use appserver::trust::callback_token::CallbackTokens;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use md5::{Digest, Md5};
use rsa::{BigUint, Pkcs1v15Sign, RsaPrivateKey};

/// Callgrind's totals of the two are subtracted: what is left is this many calls, without the
/// start of the program and what a path needs before its first call.
const CALLS: u64 = 200;
const TURNS: [u64; 2] = [CALLS, 2 * CALLS];

/// A time that never changes, as all that is signed here: or the figures would.
const NOW: u64 = 1_700_000_000;
const EXPIRE: u64 = NOW + 30;
const TOKEN_KEY: &str = "tokenKeyOfMoreThanThirtyTwoCharacters";
const KEY_URL: &str = "http://gosspublic.alicdn.com/callback_pub_key_v1.pem";
const FORM: &str = "application/x-www-form-urlencoded";
const BODY: &[u8] = b"filename=user%2Fphoto.jpg&size=123456&mimeType=image%2Fjpeg&height=600&\
                      width=800&bucket=examplebucket&etag=5D41402ABC4B2A76B9719D911017C592";

/// A throw-away key as long as OSS's own, made for this file, and its primes.
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBANbHQteeanSsioS/7xgo+41hpOwXvogf
7okVkWboaQ/VDhynLsEada0JxOM67SRy6M3itmh7jwtBqwCF12vv9rUCAwEAAQ==
-----END PUBLIC KEY-----
";
const PRIMES: [&[u8]; 2] = [
    b"fca8e0e45b5fa4290dd93c6c20f194e8642a035460a18342f5695b033b5d0b39",
    b"d99e2c901ab98227a24fdeaa9973dca9b09f07319ae6d76af39eb4edf032fb5d",
];

type Path = fn(u64);

const PATHS: [(&str, Path); 9] = [
    ("sign a policy, V1", |calls| sign(calls, policy::answer_v1)),
    ("sign a policy, V4", |calls| sign(calls, policy::answer_v4)),
    ("verify a callback", verify),
    ("issue a callback token", issue),
    ("check a callback token", check),
    ("rewrite a request's head", rewrite),
    ("answer GET / (V1)", |calls| answer(calls, &get("/"))),
    ("answer GET for V4", |calls| answer(calls, &get("/get_post_signature_for_oss_upload"))),
    ("answer a callback", |calls| answer(calls, &callback())),
];

fn main() -> ExitCode {
    // Called by itself under callgrind: INDEX CALLS.
    let words: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    if let [index, calls] = words[..] {
        PATHS[index as usize].1(calls);
        return ExitCode::SUCCESS;
    }
    println!("instructions per call, of {CALLS} calls");
    for (index, (name, _)) in PATHS.iter().enumerate() {
        match TURNS.map(|calls| collected(index, calls)) {
            [Ok(once), Ok(twice)] => {
                println!("{name:<26} {:>8}", twice.saturating_sub(once) / CALLS);
            }
            [Err(error), _] | [_, Err(error)] => {
                eprintln!("{name}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// All instructions of a run of this program that makes so many calls.
fn collected(index: usize, calls: u64) -> Result<u64, String> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("own path"))
        .args([index.to_string(), calls.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("this needs valgrind, which cannot be started: {error}"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    let total = report.lines().find_map(|line| line.split("Collected : ").nth(1)?.parse().ok());
    total.filter(|_| output.status.success()).ok_or(format!("valgrind ended early:\n{report}"))
}

fn sign(calls: u64, answer: fn(&Terms, &Credentials) -> serde_json::Value) {
    let credentials = Credentials {
        access_key_id: "LTAI5tExample".to_owned(),
        access_key_secret: Secret::new("s3cr3tNeverShown".to_owned()),
        security_token: None,
    };
    let callback = policy::callback_parameter("https://a.example/callback", "a=${object}", FORM);
    let terms = Terms {
        host: "https://examplebucket.oss-cn-hangzhou.aliyuncs.com",
        bucket: "examplebucket",
        region: "cn-hangzhou",
        prefix: "user/".to_owned(),
        max_bytes: 1_048_576_000,
        content_types: Vec::new(),
        forbid_overwrite: false,
        callback: Some(callback),
        now: NOW,
        expire: EXPIRE,
    };
    for _ in 0..calls {
        black_box(answer(black_box(&terms), &credentials));
    }
}

fn verify(calls: u64) {
    let Request { headers, target, body, .. } = callback();
    let key = PublicKey::from_pem(PUBLIC_KEY).expect("a key");
    let [(_, authorization), (_, key_url), ..] = &headers[..] else { panic!("no headers") };
    for _ in 0..calls {
        let claim = Claim::new(black_box(authorization), key_url, &target, &body);
        assert!(claim.expect("well-formed").verify(&key).is_ok());
    }
}

fn tokens() -> CallbackTokens {
    CallbackTokens::new(&Secret::new(TOKEN_KEY.to_owned()), "examplebucket", 86_400)
}

fn issue(calls: u64) {
    let tokens = tokens();
    for _ in 0..calls {
        black_box(tokens.issue(black_box(b"/callback"), EXPIRE, "user/"));
    }
}

fn check(calls: u64) {
    let tokens = tokens();
    let query = format!("token={}", tokens.issue(b"/callback", EXPIRE, "user/"));
    for _ in 0..calls {
        assert!(tokens.check(b"/callback", black_box(&query), NOW).is_ok());
    }
}

/// A callback as OSS sends it.
fn rewrite(calls: u64) {
    let Request { method, target, headers, body, .. } = callback();
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: upload.example.com\r\n");
    text += &format!("User-Agent: aliyun-oss-callback\r\nContent-Length: {}\r\n", body.len());
    text.extend(headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")));
    text += "x-oss-bucket: examplebucket\r\nx-oss-owner: 1234567890123456\r\n\r\n";
    let limits = Limits { headers: &HEADERS, max_body_bytes: MAX_BODY_BYTES };
    for _ in 0..calls {
        let end = head::end(black_box(text.as_bytes()), &mut 0);
        assert_eq!(end, Ok(Some(text.len())));
        assert!(black_box(head::request(text.as_bytes(), limits)).is_ok());
    }
}

/// What the loop does for a request, but for the log.
fn answer(calls: u64, request: &Request) {
    let key = std::env::temp_dir().join(format!("appserver-bench-{}.pem", std::process::id()));
    std::fs::write(&key, PUBLIC_KEY).expect("a key file");
    let vars: Vars = [
        ("OSS_ACCESS_KEY_ID", "LTAI5tExample"),
        ("OSS_ACCESS_KEY_SECRET", "s3cr3tNeverShown"),
        ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
        ("CALLBACK_URL", "https://upload.example.com/callback"),
        ("CALLBACK_TOKEN_KEY", TOKEN_KEY),
        ("CALLBACK_PUBLIC_KEY_FILE", key.to_str().expect("a plain path")),
        ("UPLOAD_DIR", "user/"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let config = Config::from_vars(&vars).unwrap_or_else(|error| panic!("{error}"));
    let mut app = App::new(config, NOW).unwrap_or_else(|error| panic!("{error}"));
    std::fs::remove_file(&key).expect("the key file goes");
    for _ in 0..calls {
        let responses = app.handle(std::slice::from_ref(black_box(request)), NOW);
        assert!(responses.iter().all(|response| response.status == 200));
        black_box(responses);
    }
}

fn get(target: &str) -> Request {
    request("GET", target.to_owned(), Vec::new(), b"")
}

/// As OSS makes it of a policy of ours.
fn callback() -> Request {
    let target = format!("/callback?token={}", tokens().issue(b"/callback", EXPIRE, "user/"));
    let prime = |hex| BigUint::parse_bytes(hex, 16).expect("hexadecimal");
    let key = RsaPrivateKey::from_p_q(prime(PRIMES[0]), prime(PRIMES[1]), 65_537u32.into());
    let signed = [target.as_bytes(), b"\n", BODY].concat();
    let padding = Pkcs1v15Sign::new::<Md5>();
    let signature = key.expect("a key").sign(padding, &Md5::digest(signed)).expect("long enough");
    let headers = vec![
        ("authorization", BASE64.encode(signature)),
        ("x-oss-pub-key-url", BASE64.encode(KEY_URL)),
        ("content-type", FORM.to_owned()),
        ("x-oss-request-id", "5F1E2D3C4B5A69788796A5B4".to_owned()),
    ];
    request("POST", target, headers, BODY)
}

fn request(
    method: &str,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: &[u8],
) -> Request {
    let (method, body) = (method.to_owned(), body.to_owned());
    Request { method, target, headers, body, peer: "203.0.113.7".to_owned() }
}
