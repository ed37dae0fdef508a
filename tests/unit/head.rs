//! Heads of requests: where they end, what is let in, and how it goes on. At the end, what the
//! fuzz targets hold to be true (tests/fuzz), over their seeds and mutations of them.

use appserver::http::{HEADERS, MAX_BODY_BYTES};
use appserver::proxy::head::{Head, Limits, end, request};
use appserver::reject::Reject;
use support::hostile::{Random, mutate};

#[path = "../fuzz/invariants.rs"]
mod invariants;

const LIMITS: Limits = Limits { headers: &HEADERS, max_body_bytes: MAX_BODY_BYTES };

fn read(head: &str) -> Result<Head, Reject> {
    assert_eq!(end(head.as_bytes(), &mut 0), Ok(Some(head.len())), "{head:?}");
    request(head.as_bytes(), LIMITS)
}

/// What goes on of a head with this request line and these fields besides `Host`.
fn passed_on(line: &str, fields: &str) -> Result<String, Reject> {
    read(&format!("{line}\r\nHost: x\r\n{fields}\r\n")).map(|head| head.canonical)
}

/// Line ends and control characters: where a request head ends, whole or in pieces, and its limit.
#[test]
fn where_a_head_ends() {
    for (bytes, expected) in [
        ("", Ok(None)),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r", Ok(None)),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", Ok(Some(27))),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\nabc\0\n", Ok(Some(27))),
        ("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", Ok(Some(29))),
        ("\t ~", Ok(None)),
        ("a\n", Err(Reject::BAD_LINE_END)),
        ("a\n\n", Err(Reject::BAD_LINE_END)),
        ("\n", Err(Reject::BAD_LINE_END)),
        ("a\rb", Err(Reject::BAD_LINE_END)),
        ("a\r\r\n", Err(Reject::BAD_LINE_END)),
        ("a\0", Err(Reject::CONTROL_CHARACTER)),
        ("a\x0b", Err(Reject::CONTROL_CHARACTER)),
        ("a\x7f", Err(Reject::CONTROL_CHARACTER)),
        ("\u{e9}", Ok(None)),
    ] {
        assert_eq!(end(bytes.as_bytes(), &mut 0), expected, "{bytes:?}");
        let mut scanned = 0;
        let pieces = (0..=bytes.len()).map(|to| end(&bytes.as_bytes()[..to], &mut scanned));
        let in_pieces = pieces.into_iter().find(|found| *found != Ok(None));
        assert_eq!(in_pieces.unwrap_or(Ok(None)), expected, "{bytes:?} in pieces");
    }
    let longest = format!("{}\r\n\r\n", "a".repeat(8188));
    assert_eq!(end(longest.as_bytes(), &mut 0), Ok(Some(8192)));
    let longer = format!("a{longest}");
    assert_eq!(end(longer.as_bytes(), &mut 0), Err(Reject::HEAD_TOO_LONG));
}

/// Request targets: absolute form loses its host, and anything but origin form is refused.
#[test]
fn targets_go_on_in_origin_form() {
    assert!(passed_on("OPTIONS * HTTP/1.1", "").unwrap().starts_with("OPTIONS / HTTP/1.1\r\n"));
    for (target, expected) in [
        ("/", Ok("/")),
        ("/a/b?c=/d?e", Ok("/a/b?c=/d?e")),
        ("/%00%zz%", Ok("/%00%zz%")),
        ("//a/b", Ok("//a/b")),
        ("/a\\b{}|^`\"<>", Ok("/a\\b{}|^`\"<>")),
        ("http://a.example", Ok("/")),
        ("http://a.example/", Ok("/")),
        ("https://a.example:8443/b?c", Ok("/b?c")),
        ("http:///b", Ok("/b")),
        ("http://a.example/http://b.example/", Ok("/http://b.example/")),
        ("*", Err(Reject::BAD_REQUEST_TARGET)),
        ("http://a.example?b", Err(Reject::BAD_REQUEST_TARGET)),
        ("a.example:443", Err(Reject::BAD_REQUEST_TARGET)),
        ("a", Err(Reject::BAD_REQUEST_TARGET)),
        ("?", Err(Reject::BAD_REQUEST_TARGET)),
        ("/#", Err(Reject::BAD_REQUEST_TARGET)),
        ("HTTP://a/", Err(Reject::BAD_REQUEST_TARGET)),
        ("ftp://a/", Err(Reject::BAD_REQUEST_TARGET)),
    ] {
        let expected = expected.map(|target| format!("GET {target} HTTP/1.1\r\n"));
        assert_eq!(passed_on(&format!("GET {target} HTTP/1.1"), ""), expected, "{target}");
    }
}

/// Headers: only those that the program reads are passed on to the backend.
#[test]
fn only_what_is_read_goes_on() {
    let fields = "Cookie: a\r\nAUTHORIZATION:\t b c \t\r\nX-Appserver-Peer: 9.9.9.9\r\nOrigin:\r\n\
                  TE: chunked\r\nUpgrade: h2c\r\nAccept: */*\r\nauthorization-x: d\r\n";
    let expected = "PUT / HTTP/1.1\r\nauthorization: b c\r\norigin: \r\n";
    assert_eq!(passed_on("PUT / HTTP/1.0", fields), Ok(expected.to_owned()));
    for (name, _) in HEADERS {
        let fields = format!("{name}: a\r\n{}: a\r\n", name.to_uppercase());
        assert_eq!(passed_on("GET / HTTP/1.1", &fields), Err(Reject::HEADER_TWICE), "{name}");
    }
}

/// Request smuggling: Content-Length twice or odd, Transfer-Encoding, Expect, Host, versions, too
/// many headers.
#[test]
fn fields_that_decide_about_the_connection() {
    let head = |fields: &str| read(&format!("PUT / HTTP/1.1\r\nHost: x\r\n{fields}\r\n"));
    for (fields, length, close, expects) in [
        ("", None, false, false),
        ("Content-Length: 5\r\n", Some(5), false, false),
        ("Content-Length: 0005\r\n", Some(5), false, false),
        ("Content-Length: 20480\r\n", Some(20_480), false, false),
        ("Connection: keep-alive\r\n", None, false, false),
        ("Connection: CLOSE\r\n", None, true, false),
        ("Connection: close\r\nConnection: keep-alive\r\n", None, true, false),
        ("Expect: 100-CONTINUE\r\n", None, false, true),
    ] {
        let head = head(fields).unwrap();
        let found = (head.content_length, head.close, head.expects_continue);
        assert_eq!(found, (length, close, expects), "{fields}");
    }
    for (fields, expected) in [
        ("Content-Length: 20481\r\n", Reject::BODY_TOO_LONG),
        ("Content-Length: 99999999999999999999999\r\n", Reject::BODY_TOO_LONG),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Reject::TWO_LENGTHS),
        ("Content-Length: 5, 5\r\n", Reject::BAD_LENGTH),
        ("Content-Length: +5\r\n", Reject::BAD_LENGTH),
        ("Content-Length: -0\r\n", Reject::BAD_LENGTH),
        ("Content-Length: 0x5\r\n", Reject::BAD_LENGTH),
        ("Content-Length:\r\n", Reject::BAD_LENGTH),
        ("Transfer-Encoding: chunked\r\n", Reject::TRANSFER_CODING),
        ("transfer-encoding:\r\n", Reject::TRANSFER_CODING),
        ("Expect: x\r\n", Reject::BAD_EXPECTATION),
        ("Host: x\r\n", Reject::BAD_HOST),
        ("X : y\r\n", Reject::MALFORMED),
        (" X: y\r\n", Reject::MALFORMED),
        ("X\r\n", Reject::MALFORMED),
        (": y\r\n", Reject::MALFORMED),
    ] {
        assert_eq!(head(fields), Err(expected), "{fields}");
    }
    let old = read("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!((old.close, old.expects_continue), (true, false));
    assert_eq!(read("GET / HTTP/1.1\r\n\r\n"), Err(Reject::BAD_HOST));
    assert_eq!(read("POST / HTTP/1.0\r\n\r\n"), Err(Reject::NO_LENGTH));
    assert_eq!(read("GET / HTTP/2.0\r\n\r\n"), Err(Reject::BAD_VERSION));
    assert_eq!(read("\r\n\r\n"), Err(Reject::MALFORMED));
    let many = |count| "X: y\r\n".repeat(count);
    assert!(head(&many(63)).is_ok());
    assert_eq!(head(&many(64)), Err(Reject::TOO_MANY_HEADERS));
}

/// X-Forwarded-For: the last address counts, the one that the proxy itself appended.
#[test]
fn who_a_proxy_speaks_for() {
    for (fields, expected) in [
        ("X-Forwarded-For: 1.2.3.4\r\n", Some("1.2.3.4")),
        ("X-Forwarded-For: 9.9.9.9,1.2.3.4 \r\n", Some("1.2.3.4")),
        ("X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 2001:db8::1\r\n", Some("2001:db8::1")),
        ("X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: unknown\r\n", None),
        ("X-Forwarded-For: 1.2.3.4:80\r\n", None),
        ("X-Forwarded-For: 1.2.3.4,\r\n", None),
        // What the proxy appended counts, whatever its client said before it.
        ("X-Forwarded-For: \u{ff}, 1.2.3.4\r\n", Some("1.2.3.4")),
        ("X-Forwarded-For: 1.2.3.4, \u{ff}\r\n", None),
        ("X-Forwarded-For: ::ffff:1.2.3.4\r\n", Some("1.2.3.4")),
        ("", None),
    ] {
        let head = read(&format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).unwrap();
        assert_eq!(head.forwarded_for, expected.map(|ip| ip.parse().unwrap()), "{fields}");
    }
}

/// The seeds of a fuzz target, and `long` mutations of each in a long run.
fn check(target: &str, long: usize, invariant: fn(&[u8])) {
    let count = support::rounds(long, long / 10);
    let folder = format!("{}/tests/fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let seed = std::fs::read(file).unwrap();
        invariant(&seed);
        for _ in 0..count {
            invariant(&mutate(&mut random, &seed));
        }
    }
}

/// Fuzzing: mutated heads of requests mean the same to the proxy and to the backend.
#[test]
fn what_the_backend_reads_is_what_the_proxy_meant() {
    check("head", 20_000, invariants::head);
}

/// Fuzzing: mutated responses of the backend reach the client as they were meant, or not at all.
#[test]
fn what_the_client_reads_is_what_the_backend_said() {
    check("response", 5_000, invariants::response);
}

/// Fuzzing: no mutated callback has a good signature.
#[test]
fn only_the_buckets_signature_is_good() {
    check("callback", 20_000, invariants::callback);
}

/// Fuzzing: mutated bodies of callbacks, forms and JSON, have the fields that their type says.
#[test]
fn bodies_are_read_as_their_type_says() {
    check("body", 20_000, invariants::body);
}
