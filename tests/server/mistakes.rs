//! Mistakes that other callback servers make, a test each: the attacker's own key, the server as
//! a proxy into its network, the key host that stalls everything. (Query dropped, path decoded
//! twice, body written again: tests/unit/callback.rs. Missing headers: tests/server/replies.rs.)

use std::net::TcpListener;
use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use oss_standin::{KeyFault, Options, PUB_KEY_URL, Standin};
use support::trust::{TOKEN_KEY, callback_token, now};
use support::{Reply, Server, request};

const TARGET: &str = "/callback";
const BODY: &[u8] = b"bucket=examplebucket&filename=a.txt";
/// How long a request may take while the key host does what it likes.
const SERVED_WITHIN: Duration = Duration::from_secs(1);
const V2: &str = "http://gosspublic.alicdn.com/callback_pub_key_v2.pem";

fn bucket() -> Standin {
    Standin::start(Options::default()).unwrap()
}

/// A server that fetches its keys from the bucket's key host.
fn server(bucket: &Standin) -> Server {
    Server::start(&[("CALLBACK_KEY_ORIGIN", &bucket.key_origin())])
}

/// A callback with the bucket's own good signature and this key URL.
fn call(server: &Server, bucket: &Standin, target: &str, key_url: &str) -> Reply {
    let authorization = bucket.sign(target, BODY);
    let key_url = BASE64.encode(key_url);
    let headers = [("authorization", &*authorization), ("x-oss-pub-key-url", &*key_url)];
    request(server.address, "POST", target, &headers, BODY)
}

/// ssrf: x-oss-pub-key-url never makes the server connect to an address of the request.
#[test]
fn no_request_makes_the_server_visit_an_address() {
    let attacker = TcpListener::bind("127.0.0.1:0").unwrap();
    attacker.set_nonblocking(true).unwrap();
    let evil = attacker.local_addr().unwrap();
    let bucket = bucket();
    // The attacker signs with his own key, so only the choice of the key is between him and us.
    let mut server = Server::start(&[]);
    for url in [
        format!("http://{evil}/callback_pub_key_v1.pem"),
        format!("http://gosspublic.alicdn.com@{evil}/callback_pub_key_v1.pem"),
        format!("http://gosspublic.alicdn.com:{}/callback_pub_key_v1.pem", evil.port()),
        format!("https://{evil}/callback_pub_key_v1.pem"),
        format!("http://{evil}/http://gosspublic.alicdn.com/callback_pub_key_v1.pem"),
        format!("http://gosspublic.alicdn.com.{evil}/callback_pub_key_v1.pem"),
        format!("http://gosspublic.alicdn.com\r\nHost: {evil}/callback_pub_key_v1.pem"),
        format!("file://{evil}/etc/passwd"),
    ] {
        let reply = call(&server, &bucket, TARGET, &url);
        assert_eq!(reply.status, 400, "{url}");
        assert!(reply.text().contains("names no OSS public key"), "{url}");
    }
    // Under the real name, the attacker's signature does not match the real key.
    let reply = call(&server, &bucket, TARGET, PUB_KEY_URL);
    assert!(reply.text().contains("signature does not match"));
    let nobody = attacker.accept().err().map(|error| error.kind());
    assert_eq!(nobody, Some(std::io::ErrorKind::WouldBlock), "the server visited {evil}");
    assert!(server.is_running());
}

/// After each of these at the start, the built-in key is in force: Alibaba's example verifies. OSS
/// gives up after 5 s, so the first response comes sooner, also with a time-out of the key host. A
/// redirect is not followed.
#[test]
fn a_key_host_that_misbehaves_stops_nothing() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let redirect = format!("http://{}/x.pem", elsewhere.local_addr().unwrap());
    let misbehave = |fault: KeyFault| {
        let bucket = bucket();
        bucket.faults().key = fault.clone();
        let (server, start) = (server(&bucket), Instant::now());
        let signature = "kKQeGTRccDKyHB3H9vF+xYMSrmhMZjzzl2/kdD1ktNVgbWEfYTQG0G2SU/RaHBovRCE8OkQDjC3u\
                         G33esH2txA==";
        let key_url = BASE64.encode(PUB_KEY_URL);
        let headers = [("authorization", signature), ("x-oss-pub-key-url", &*key_url)];
        let target = "/index.php?id=1&index=2";
        let reply = request(server.address, "POST", target, &headers, b"bucket=yonghu-test");
        let took = start.elapsed();
        assert!(reply.status == 200 && took < Duration::from_secs(5), "{fault:?}: {took:?}");
        server.wait_log("callback key v1: not fetched");
        let log = server.log();
        assert_eq!(log.iter().filter(|line| line.contains("not fetched")).count(), 1, "{log:?}");
    };
    std::thread::scope(|scope| {
        for fault in [
            KeyFault::Status(503),
            KeyFault::Status(404),
            KeyFault::Hang,
            KeyFault::Redirect(redirect),
            KeyFault::Oversized(1 << 20),
            KeyFault::Body("<html>sign in to our hotel's network</html>".to_owned()),
        ] {
            scope.spawn(|| misbehave(fault));
        }
    });
    assert!(elsewhere.accept().is_err(), "the redirect was followed");
}

/// A key is fetched once, and not for every callback.
#[test]
fn an_unknown_version_is_refused_until_its_key_has_come_and_verifies_then() {
    let bucket = bucket();
    bucket.faults().key = KeyFault::Body(bucket.public_key_pem().to_owned());
    let https = PUB_KEY_URL.replace("http:", "https:");
    let server = server(&bucket);
    let reply = call(&server, &bucket, TARGET, V2);
    assert_eq!(reply.status, 503);
    assert!(reply.text().contains("public key cannot be had now"));
    server.wait_log("callback key v2: fetched");
    for _ in 0..20 {
        assert_eq!(call(&server, &bucket, TARGET, V2).status, 200);
        assert_eq!(call(&server, &bucket, TARGET, &https).status, 200);
    }
    let requests = bucket.key_requests();
    assert_eq!(requests, ["/callback_pub_key_v1.pem", "/callback_pub_key_v2.pem"]);
}

/// Who has a good token may name one key after the other: each is a fetch that fails after 3 s,
/// and the next begins 10 s after it. Nobody waits for them. (The short run sees one such fetch.)
#[test]
fn a_key_host_that_never_answers_holds_up_no_request_while_callbacks_name_new_keys() {
    let bucket = bucket();
    let server = Server::start_called_back(&[
        ("CALLBACK_KEY_ORIGIN", &bucket.key_origin()),
        ("CALLBACK_TOKEN", "on"),
        ("CALLBACK_TOKEN_KEY", TOKEN_KEY),
    ]);
    server.wait_log("callback key v1: fetched");
    bucket.faults().key = KeyFault::Hang;
    let target = format!("{TARGET}?token={}", callback_token(TOKEN_KEY, TARGET, now() + 600, ""));
    let mut versions = 2..;
    let fetches = support::rounds(2, 1);
    // All the while (a round in 20 ms), until the last fetch hangs; the first is seen to fail.
    let asked = || bucket.wait_for_key_requests(fetches + 2, Duration::from_millis(20)).len();
    let has_failed = || server.log().iter().any(|line| line.contains("key v2: not fetched"));
    while asked() < fetches + 1 || !has_failed() {
        let version = versions.next().filter(|version| *version < 1500).expect("two fetches");
        let new_key = format!("http://gosspublic.alicdn.com/callback_pub_key_v{version}.pem");
        let start = Instant::now();
        let reply = call(&server, &bucket, &target, &new_key);
        assert_eq!(reply.status, 503, "{}", reply.text());
        let reply = call(&server, &bucket, &target, PUB_KEY_URL);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(request(server.address, "GET", "/", &[], b"").status, 200);
        let took = start.elapsed();
        assert!(took < SERVED_WITHIN, "three requests took {took:?} at version {version}");
    }
    let paths = [2, 3].map(|version| format!("/callback_pub_key_v{version}.pem"));
    assert_eq!(bucket.key_requests()[1..], paths[..fetches]);
}

/// Nobody listens at the key host: connection refused. The sender is told 503, so that he may come
/// again, and the log says why.
#[test]
fn a_key_host_that_is_down_makes_unknown_versions_503() {
    let server = Server::start(&[]);
    let reply = call(&server, &bucket(), TARGET, V2);
    assert_eq!(reply.status, 503, "{}", reply.text());
    let line = server.wait_log("callback key v2: not fetched");
    assert!(line.contains("refused"), "{line}");
}
