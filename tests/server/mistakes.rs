//! Mistakes that other callback servers make, a test each: the attacker's own key, the server as
//! a proxy into its network, the key host that stalls everything. (Query dropped, path decoded
//! twice, body written again: tests/unit/callback.rs. Missing headers: tests/server/replies.rs.)

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use oss_standin::{KeyFault, Options, Standin};
use support::trust::{callback_token, now};
use support::{Reply, Server, read_reply, request};

const TARGET: &str = "/callback";
const BODY: &[u8] = b"bucket=examplebucket&filename=a.txt";
const TOKEN_KEY: &str = "tokenKeyOfMoreThanThirtyTwoCharacters";
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
fn call(server: &Server, bucket: &Standin, key_url: &str) -> Reply {
    call_at(server, bucket, TARGET, key_url)
}

fn call_at(server: &Server, bucket: &Standin, target: &str, key_url: &str) -> Reply {
    let authorization = bucket.sign(target, BODY);
    let key_url = BASE64.encode(key_url);
    let headers = [("authorization", &*authorization), ("x-oss-pub-key-url", &*key_url)];
    request(server.address, "POST", target, &headers, BODY)
}

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
        let reply = call(&server, &bucket, &url);
        assert_eq!(reply.status, 400, "{url}");
        assert!(reply.text().contains("names no OSS public key"), "{url}");
    }
    // Under the real name, the attacker's signature does not match the real key.
    let reply = call(&server, &bucket, oss_standin::PUB_KEY_URL);
    assert!(reply.text().contains("signature does not match"));
    let nobody = attacker.accept().err().map(|error| error.kind());
    assert_eq!(nobody, Some(std::io::ErrorKind::WouldBlock), "the server visited {evil}");
    assert!(server.is_running());
}

#[test]
fn the_key_is_fetched_once_and_not_for_every_callback() {
    let bucket = bucket();
    let server = server(&bucket);
    server.wait_log("callback key v1: fetched");
    for _ in 0..20 {
        assert_eq!(call(&server, &bucket, oss_standin::PUB_KEY_URL).status, 200);
    }
    assert_eq!(bucket.key_requests(), ["/callback_pub_key_v1.pem"]);
}

#[test]
fn both_spellings_of_the_key_url_are_known() {
    let bucket = bucket();
    let server = server(&bucket);
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://gosspublic.alicdn.com/callback_pub_key_v1.pem");
        assert_eq!(call(&server, &bucket, &url).status, 200, "{url}");
    }
}

/// After each of these at the start, the built-in key is in force: Alibaba's example verifies.
#[test]
fn a_key_host_that_misbehaves_stops_nothing() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let redirect = format!("http://{}/x.pem", elsewhere.local_addr().unwrap());
    for fault in [
        KeyFault::Status(503),
        KeyFault::Status(404),
        KeyFault::Hang,
        KeyFault::Redirect(redirect),
        KeyFault::Oversized(1 << 20),
        KeyFault::Body("<html>sign in to our hotel's network</html>".to_owned()),
    ] {
        let bucket = bucket();
        bucket.faults().key = fault.clone();
        let server = server(&bucket);
        let signature = "kKQeGTRccDKyHB3H9vF+xYMSrmhMZjzzl2/kdD1ktNVgbWEfYTQG0G2SU/RaHBovRCE8OkQDjC3u\
                         G33esH2txA==";
        let key_url = BASE64.encode(oss_standin::PUB_KEY_URL);
        let headers = [("authorization", signature), ("x-oss-pub-key-url", &*key_url)];
        let target = "/index.php?id=1&index=2";
        let reply = request(server.address, "POST", target, &headers, b"bucket=yonghu-test");
        assert_eq!(reply.status, 200, "{fault:?}");
        server.wait_log("callback key v1: not fetched");
        let log = server.log();
        assert_eq!(log.iter().filter(|line| line.contains("not fetched")).count(), 1, "{log:?}");
    }
    assert!(elsewhere.accept().is_err(), "the redirect was followed");
}

#[test]
fn an_unknown_version_is_refused_until_its_key_has_come_and_verifies_then() {
    let bucket = bucket();
    bucket.faults().key = KeyFault::Body(bucket.public_key_pem().to_owned());
    let server = server(&bucket);
    let reply = call(&server, &bucket, V2);
    assert_eq!(reply.status, 503);
    assert!(reply.text().contains("public key cannot be had now"));
    server.wait_log("callback key v2: fetched");
    for _ in 0..20 {
        assert_eq!(call(&server, &bucket, V2).status, 200);
    }
    let requests = bucket.key_requests();
    assert_eq!(requests, ["/callback_pub_key_v1.pem", "/callback_pub_key_v2.pem"]);
}

#[test]
fn an_unknown_version_is_refused_while_it_cannot_be_had() {
    let bucket = bucket();
    let server = Server::start(&[]); // its key host is dead
    for _ in 0..20 {
        let reply = call(&server, &bucket, V2);
        assert_eq!(reply.status, 503);
        assert!(reply.text().contains("public key cannot be had now"));
    }
    server.wait_log("callback key v2: not fetched");
}

/// Who has a good token may name one key after the other: each is a fetch that fails after 3 s,
/// and the next begins 10 s after it. Nobody waits for them.
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
    // All the while, until the second fetch hangs.
    while bucket.wait_for_key_requests(3, Duration::from_millis(20)).len() < 3 {
        let version = versions.next().filter(|version| *version < 1500).expect("two fetches");
        let new_key = format!("http://gosspublic.alicdn.com/callback_pub_key_v{version}.pem");
        let start = Instant::now();
        let reply = call_at(&server, &bucket, &target, &new_key);
        assert_eq!(reply.status, 503, "{}", reply.text());
        let reply = call_at(&server, &bucket, &target, oss_standin::PUB_KEY_URL);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(request(server.address, "GET", "/", &[], b"").status, 200);
        let took = start.elapsed();
        assert!(took < SERVED_WITHIN, "three requests took {took:?} at version {version}");
    }
    server.wait_log("callback key v2: not fetched");
    assert_eq!(
        bucket.key_requests()[1..],
        ["/callback_pub_key_v2.pem", "/callback_pub_key_v3.pem"]
    );
}

/// The head and body of a callback may arrive a while apart (OSS sends them in two segments).
#[test]
fn a_body_that_comes_after_its_head_is_waited_for() {
    let bucket = bucket();
    let server = server(&bucket);
    let host = server.address.to_string();
    let message = bucket.callback_request(TARGET, &host, BODY, "application/x-www-form-urlencoded");
    let (head, body) = message.split_at(message.len() - BODY.len());
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(head).unwrap();
    assert_eq!(request(server.address, "GET", "/healthz", &[], b"").status, 200);
    stream.write_all(body).unwrap();
    assert_eq!(read_reply(&mut stream, false).unwrap().status, 200);
}

/// OSS gives up after 5 s: with the key host hanging at the start, the first answer comes sooner.
#[test]
fn a_hanging_key_host_delays_the_first_answer_by_less_than_oss_waits() {
    let bucket = bucket();
    bucket.faults().key = KeyFault::Hang;
    let server = server(&bucket);
    let start = Instant::now();
    assert_eq!(request(server.address, "GET", "/healthz", &[], b"").status, 200);
    assert!(start.elapsed() < Duration::from_secs(5));
}
