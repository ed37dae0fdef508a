//! What must be true of any bytes whatsoever. The fuzz targets call these functions, and so do
//! the tests in `tests/unit/head.rs`, with fewer bytes and any compiler.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use appserver::http::{HEADERS, MAX_BODY_BYTES};
use appserver::oss::callback::{self, Claim, PublicKey};
use appserver::oss::keys::{KeySource, Keys};
use appserver::proxy::head::{self, Head, Limits, ResponseHead};
use appserver::proxy::upstream::{Delivery, Upstream};
use appserver::reject::Reject;
use httparse::{EMPTY_HEADER, Status};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oss_standin::{Options, PathDecoding, Standin, callback_string_to_sign};

const LIMITS: Limits = Limits { headers: &HEADERS, max_body_bytes: MAX_BODY_BYTES };
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// The real way to a real tiny_http, whose loop answers with what it has read.
static UPSTREAM: LazyLock<Mutex<Upstream>> = LazyLock::new(|| {
    let name = format!("appserver-fuzz-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket");
    let stream = UnixStream::connect(&path).expect("a connection");
    std::fs::remove_file(&path).expect("nobody else comes");
    let server = tiny_http::Server::from_listener(listener, None).expect("a server");
    thread::spawn(move || {
        while let Ok(mut request) = server.recv() {
            let mut text = format!("{} {}\n", request.method(), request.url());
            for header in request.headers() {
                text += &format!("{}={}\n", header.field, header.value);
            }
            let mut echo = text.into_bytes();
            request.as_reader().read_to_end(&mut echo).expect("the body");
            let response = tiny_http::Response::from_data(echo);
            let response = response.with_chunked_threshold(usize::MAX);
            request.respond(response).expect("the test listens");
        }
    });
    Mutex::new(Upstream::new(stream).expect("an upstream"))
});

/// What the loop above reads of a request, and of one that comes right behind it.
fn read_by_backend(head: &Head, body: &[u8]) -> [Vec<u8>; 2] {
    let mut upstream = UPSTREAM.lock().unwrap_or_else(PoisonError::into_inner);
    let plain = head::request(b"GET /plain HTTP/1.0\r\n\r\n", LIMITS).expect("a head");
    upstream.push(7, head, body, Some(CLIENT), 0);
    upstream.push(8, &plain, &[], Some(CLIENT), 0);
    let mut responses = Vec::new();
    while responses.len() < 2 {
        upstream.flush().expect("the loop reads");
        let mut interest = PollFlags::POLLIN;
        interest.set(PollFlags::POLLOUT, upstream.has_output());
        let mut set = [PollFd::new(upstream.stream.as_fd(), interest)];
        assert_ne!(poll(&mut set, PollTimeout::from(30_000_u16)), Ok(0), "no response");
        responses.extend(upstream.receive(&mut [0; 4096]).expect("responses"));
    }
    let numbers: Vec<u64> = responses.iter().map(|response| response.connection).collect();
    assert_eq!(numbers, [7, 8]);
    let mut bodies = responses.into_iter().map(|response| response.body.to_vec());
    // A HEAD has a response without a body, so what the loop read of it cannot be seen.
    [bodies.next().unwrap_or_default(), bodies.next().unwrap_or_default()]
}

/// Heads: what the loop reads is what the proxy meant, and the proxy meant what was sent.
pub fn head(bytes: &[u8]) {
    let end = head::end(bytes, &mut 0);
    // However the bytes come, the end is the same.
    let mut scanned = 0;
    let pieces = (0..=bytes.len()).map(|length| head::end(&bytes[..length], &mut scanned));
    let in_pieces = pieces.into_iter().find(|found| *found != Ok(None)).unwrap_or(Ok(None));
    assert_eq!(in_pieces, end);

    let Ok(Some(end)) = end else { return };
    let (raw, rest) = bytes.split_at(end);
    let Ok(passed) = head::request(raw, LIMITS) else { return };
    let raw = String::from_utf8_lossy(raw);
    let expected = read(&raw);
    assert_eq!(passed, expected.head, "{raw}");

    // Any length that is let in has a body, whatever the bytes here have.
    let mut body = rest.to_vec();
    body.resize(passed.content_length.unwrap_or(0), b'x');
    let [read, next] = read_by_backend(&passed, &body);
    let added = |length: usize| match length {
        0 => format!("host=a\nx-forwarded-for={CLIENT}\n"),
        length => format!("host=a\nx-forwarded-for={CLIENT}\ncontent-length={length}\n"),
    };
    assert_eq!(next, format!("GET /plain\n{}", added(0)).as_bytes());
    let mut meant = [expected.echo.as_bytes(), added(body.len()).as_bytes(), &body].concat();
    if passed.method() == "HEAD" {
        meant.clear();
    }
    assert!(read == meant, "{:?} is read from {raw:?}", String::from_utf8_lossy(&read));
}

struct Expected {
    head: Head,
    /// The request line and fields, as the loop above writes what it read.
    echo: String,
}

/// A second reader of heads, as plain as can be; panics where nothing should have been let in.
fn read(raw: &str) -> Expected {
    let mut lines = raw.strip_prefix("\r\n").unwrap_or(raw).split("\r\n");
    let words: Vec<&str> = lines.next().expect("a line").split(' ').collect();
    let &[method, target, version] = words.as_slice() else { panic!("{words:?}") };
    assert!(matches!(version, "HTTP/1.0" | "HTTP/1.1"), "{version}");
    assert!(!method.is_empty() && method.bytes().all(is_token), "{method}");
    let path = match target.split_once("://") {
        Some(("http" | "https", rest)) => {
            let authority = rest.split(['/', '?']).next().unwrap_or(rest);
            let path = &rest[authority.len()..];
            if path.is_empty() { "/" } else { path }
        }
        _ if (method, target) == ("OPTIONS", "*") => "/",
        _ => target,
    };
    assert!(path.starts_with('/') && !path.contains('#'), "{target}");

    let mut fields: Vec<(String, &str)> = Vec::new();
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').expect("a colon");
        assert!(!name.is_empty() && name.bytes().all(is_token), "{line}");
        fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t'])));
    }
    assert_eq!(lines.collect::<Vec<_>>(), [""], "the head ends once");
    assert!(fields.len() <= 64);

    let all = |wanted: &str| {
        let found = fields.iter().filter(|(name, _)| name == wanted);
        found.map(|(_, value)| *value).collect::<Vec<&str>>()
    };
    assert!(all("transfer-encoding").is_empty());
    assert!(all("host").len() <= 1 && (version == "HTTP/1.0" || all("host").len() == 1));
    let lengths = all("content-length");
    assert!(lengths.len() <= 1 && (method != "POST" || lengths.len() == 1));
    let content_length = lengths.first().map(|digits| {
        assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "{digits}");
        digits.parse().expect("a number")
    });
    assert!(content_length.unwrap_or(0) <= MAX_BODY_BYTES);
    let expectations = all("expect");
    assert!(expectations.iter().all(|one| one.eq_ignore_ascii_case("100-continue")));
    let connection = all("connection").into_iter().filter(|one| one.is_ascii());
    let close = connection.map(str::to_ascii_lowercase).any(|one| one.contains("close"));
    let forwarded = all("x-forwarded-for").last().and_then(|list| list.split(',').next_back());
    let forwarded: Option<IpAddr> = forwarded.and_then(|last| last.trim().parse().ok());

    let mut canonical = format!("{method} {path} HTTP/1.1\r\n");
    let mut echo = format!("{method} {path}\n");
    let mut passed_on = Vec::new();
    for (name, value) in &fields {
        if let Some((known, _)) = HEADERS.iter().find(|(known, _)| known == name) {
            passed_on.push(*known);
            assert_eq!(all(name).len(), 1, "{name}");
            assert!(value.is_ascii(), "{name}: {value}");
            canonical += &format!("{name}: {value}\r\n");
            echo += &format!("{name}={value}\n");
        }
    }
    let head = Head {
        canonical,
        content_length,
        has_host: !all("host").is_empty(),
        close: close || version == "HTTP/1.0",
        expects_continue: !expectations.is_empty() && version == "HTTP/1.1",
        passed_on,
        forwarded_for: forwarded.map(|client| client.to_canonical()),
    };
    Expected { head, echo }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What the pair of sockets below takes at once.
const MAX_RESPONSE_BYTES: usize = 32 * 1024;

/// Responses of the backend: where one ends is certain however its bytes come, and the client
/// reads what the backend said, but for what the proxy says itself.
pub fn response(bytes: &[u8]) {
    if bytes.len() > MAX_RESPONSE_BYTES {
        return;
    }
    for is_to_head in [false, true] {
        let whole = head::response(bytes, is_to_head);
        // None as long as the head is not whole. More bytes change nothing that was said then.
        let lengths = (0..bytes.len()).step_by(1 + bytes.len() / 64);
        let pieces = lengths.map(|length| head::response(&bytes[..length], is_to_head));
        let mut decided = pieces.skip_while(|found| *found == Ok(None));
        assert!(decided.all(|found| found == whole), "{:?}", String::from_utf8_lossy(bytes));
        match whole {
            Ok(Some(head)) => check_response(bytes, &head, is_to_head),
            Ok(None) => assert_eq!(response_head_length(bytes), None),
            Err(_) => {}
        }
    }
    // The same response three times, to requests with and without a response body, in pieces that
    // hold a part of one or several.
    let stream = bytes.repeat(3);
    let buffer_bytes = 1 + bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>() % 1024;
    for are_to_head in [[false; 3], [false, true, false], [true, false, true], [true; 3]] {
        check_split(&stream, are_to_head, buffer_bytes);
    }
}

/// Where the first empty line after another line ends.
fn response_head_length(bytes: &[u8]) -> Option<usize> {
    let (mut length, mut has_begun) = (0, false);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        length += line.len();
        let is_empty = matches!(line, b"\n" | b"\r\n");
        if is_empty && has_begun {
            return Some(length);
        }
        has_begun |= !is_empty;
    }
    None
}

/// A second reader of responses, as plain as can be.
fn check_response(bytes: &[u8], head: &ResponseHead, is_to_head: bool) {
    assert_eq!(response_head_length(bytes), Some(head.body_start));
    let raw = String::from_utf8_lossy(&bytes[..head.body_start]);
    let mut lines = raw.lines().skip_while(|line| line.is_empty());
    let mut words = lines.next().expect("a status line").splitn(3, ' ');
    let (version, status) = (words.next().expect("a version"), words.next().expect("a status"));
    assert!(matches!(version, "HTTP/1.0" | "HTTP/1.1"), "{version}");
    assert!(status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit()), "{status}");
    assert_eq!(status.parse(), Ok(head.status));
    let reason = words.next().filter(|reason| reason.is_ascii()).unwrap_or_default();

    let mut fields: Vec<(&str, &str)> = Vec::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').expect("a colon");
        assert!(!name.is_empty() && name.bytes().all(is_token), "{line}");
        fields.push((name, value.trim_matches([' ', '\t'])));
    }
    let all = |wanted: &str| {
        let found = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| *value).collect::<Vec<&str>>()
    };
    assert!(all("transfer-encoding").is_empty(), "{raw}");
    let &[digits] = all("content-length").as_slice() else { panic!("not one length: {raw}") };
    assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "{digits}");
    let length: usize = digits.parse().expect("a number");
    let has_length = !matches!(head.status, 100..=199 | 204 | 304);
    let body_bytes = if has_length && !is_to_head { length } else { 0 };
    assert_eq!(head.body_end.checked_sub(head.body_start), Some(body_bytes), "{raw}");
    assert_eq!(head.is_cacheable, all("x-accel-expires").last() == Some(&"1"), "{raw}");

    fields.retain(|(name, _)| match name.to_ascii_lowercase().as_str() {
        "server" | "connection" | "x-accel-expires" => false,
        "content-length" => has_length,
        _ => true,
    });
    let mut text = format!("HTTP/1.1 {status} {reason}\r\n");
    for (name, value) in &fields {
        text += &format!("{name}: {value}\r\n");
    }
    assert_eq!(head.text, text);

    // What a client reads of it is what the backend said.
    text += "\r\n";
    let mut headers = [EMPTY_HEADER; 64];
    let mut read = httparse::Response::new(&mut headers);
    assert_eq!(read.parse(text.as_bytes()), Ok(Status::Complete(text.len())), "{text}");
    assert_eq!((read.version, read.code, read.reason), (Some(1), Some(head.status), Some(reason)));
    let read = read.headers.iter().map(|header| (header.name, header.value));
    assert!(read.eq(fields.iter().map(|(name, value)| (*name, value.as_bytes()))), "{text}");
}

/// A stream is split into responses at the same places whether it comes whole or in pieces.
fn check_split(stream: &[u8], are_to_head: [bool; 3], buffer_bytes: usize) {
    let (mut expected, mut rest, mut is_response) = (Vec::new(), stream, true);
    for is_to_head in are_to_head {
        let found = head::response(rest, is_to_head);
        is_response = found.is_ok();
        let Ok(Some(head)) = found else { break };
        let Some(body) = rest.get(head.body_start..head.body_end) else { break };
        rest = &rest[head.body_end..];
        expected.push((head, body));
    }

    let request = |line| head::request(line, LIMITS).expect("a head");
    let (get, head) = (request(b"GET / HTTP/1.0\r\n\r\n"), request(b"HEAD / HTTP/1.0\r\n\r\n"));
    let (own, mut peer) = UnixStream::pair().expect("a connection");
    peer.write_all(stream).expect("its buffer takes all");
    drop(peer);
    let mut upstream = Upstream::new(own).expect("an upstream");
    for (number, is_to_head) in (0..).zip(are_to_head) {
        upstream.push(number, if is_to_head { &head } else { &get }, &[], None, 0);
    }
    let (mut deliveries, mut buffer) = (Vec::<Delivery>::new(), vec![0; buffer_bytes]);
    let error = loop {
        match upstream.receive(&mut buffer) {
            Ok(more) => deliveries.extend(more),
            Err(error) => break error,
        }
    };
    let text = String::from_utf8_lossy(stream);
    assert_eq!(error.kind() == ErrorKind::UnexpectedEof, is_response, "{error}: {text:?}");
    // A response that was read together with the cause of an error is not delivered.
    let are_all = deliveries.len() == expected.len();
    assert!(are_all || (!is_response && deliveries.len() < expected.len()), "{text:?}");
    for (number, (delivery, (head, body))) in (0..).zip(deliveries.iter().zip(&expected)) {
        assert_eq!((delivery.connection, &delivery.head), (number, head), "{text:?}");
        assert_eq!(delivery.body.as_ref(), *body, "{text:?}");
    }
}

static BUCKET: LazyLock<Standin> =
    LazyLock::new(|| Standin::start(Options::default()).expect("a bucket"));
static PUBLIC_KEY: LazyLock<PublicKey> =
    LazyLock::new(|| PublicKey::from_pem(BUCKET.public_key_pem()).expect("a key"));
const KEY_URL: &str = "aHR0cDovL2dvc3NwdWJsaWMuYWxpY2RuLmNvbS9jYWxsYmFja19wdWJfa2V5X3YxLnBlbQ==";

/// Signing takes a thousand times as long as all the rest: one in sixty-four must do.
fn is_signed(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) % 64 == 1
}

/// Callbacks, as `AUTHORIZATION\nKEY URL\nTARGET\nBODY`: nothing but the bucket's signature over
/// what it signs is good, and no key is fetched from anywhere but its one place.
pub fn callback(bytes: &[u8]) {
    let mut parts = bytes.splitn(4, |byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let (authorization, key_url, target, body) = (part(), part(), part(), part());
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (authorization, key_url, target) = (text(authorization), text(key_url), text(target));

    if let Ok(claim) = Claim::new(&authorization, &key_url, &target, body) {
        let origin = "https://keys.example";
        let mut keys = Keys::new(&KeySource::Origin(origin.to_owned()));
        if keys.find(&claim.key_url).err() == Some(Reject::KEY_UNAVAILABLE) {
            // So early in 1970 that version 1 is not due. The address comes back in the error.
            let said = keys.upkeep(20, Duration::from_secs(30), |url| Err(url.to_owned()));
            let (_, number) = claim.key_url.split_once("callback_pub_key_v").expect("a version");
            let number: u32 =
                number.strip_suffix(".pem").and_then(|n| n.parse().ok()).expect("one");
            let place = format!("v{number}: not fetched ({origin}/callback_pub_key_v{number}.pem)");
            assert_eq!(said.is_some(), number <= 16, "{}", claim.key_url);
            assert!(said.is_none_or(|said| said.contains(&place)), "{}", claim.key_url);
        }
        let is_good = claim.verify(&PUBLIC_KEY).is_ok();
        assert!(!is_good || authorization == BUCKET.sign(&target, body), "{authorization}");
    }
    let claim = Claim::new("", "", &target, body);
    let signed = claim.ok().map(|claim| claim.string_to_sign());
    if let Some(signed) = &signed {
        assert_eq!(
            *signed,
            callback_string_to_sign(&target, body, PathDecoding::default()),
            "{target}"
        );
    }
    if !is_signed(bytes) {
        return;
    }
    let signature = BUCKET.sign(&target, body);
    let verify = |target: &str, body: &[u8]| {
        let claim = Claim::new(&signature, KEY_URL, target, body);
        claim.is_ok_and(|claim| claim.verify(&PUBLIC_KEY).is_ok())
    };
    assert_eq!(verify(&target, body), signed.is_some(), "{target}");
    assert!(!verify(&target, &[body, b"x"].concat()), "{target}");
    assert!(!verify(&format!("/x{target}"), body), "{target}");
}

/// Bodies of callbacks and templates for them: read as form or JSON, or not at all.
pub fn body(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).ok();
    let signature = is_signed(bytes).then(|| BUCKET.sign("/", bytes));
    for (content_type, is_json) in
        [("application/x-www-form-urlencoded", false), ("application/json", true)]
    {
        let expected = text.and_then(if is_json { object } else { form });
        if let Some(text) = text {
            let template = callback::template(text, content_type);
            if !is_json || !text.contains("${") {
                assert_eq!(template, expected, "{text:?}");
            }
        }
        if let Some(signature) = &signature {
            let claim = Claim::new(signature, KEY_URL, "/", bytes);
            let Ok(verified) = claim.and_then(|claim| claim.verify(&PUBLIC_KEY)) else {
                panic!("its own signature is not good: {text:?}");
            };
            assert_eq!(callback::fields(&verified, content_type), expected, "{text:?}");
        }
    }
}

fn object(text: &str) -> Option<BTreeMap<String, String>> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let plain = |value: &serde_json::Value| match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_null() => String::new(),
        None => value.to_string(),
    };
    Some(value.as_object()?.iter().map(|(name, value)| (name.clone(), plain(value))).collect())
}

fn form(text: &str) -> Option<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let at = pair.find('=').unwrap_or(pair.len());
        let value = pair.get(at + 1..).unwrap_or_default();
        fields.insert(decoded(&pair[..at])?, decoded(value)?);
    }
    Some(fields)
}

fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let digits = rest.get(..2).filter(|two| two.iter().all(u8::is_ascii_hexdigit))?;
                rest = &rest[2..];
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).ok()
}
