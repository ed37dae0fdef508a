//! The real binary over real sockets: routes, headers, exit codes, and what reaches the log.

use std::collections::BTreeSet;
use std::thread;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use support::trust::{JWT_SECRET, now};
use support::world::{FORM, V1, V4};
use support::{PLAIN, Reply, Server, request, run, send};

/// Alibaba's example (tests/vectors/callback-real.json): good under the built-in key.
const TARGET: &str = "/index.php?id=1&index=2";
const BODY: &[u8] = b"bucket=yonghu-test";
const SIGNED: [(&str, &str); 3] = [
    (
        "Authorization",
        "kKQeGTRccDKyHB3H9vF+xYMSrmhMZjzzl2/kdD1ktNVgbWEfYTQG0G2SU/RaHBovRCE8OkQDjC3uG33esH2txA==",
    ),
    (
        "x-oss-pub-key-url",
        "aHR0cDovL2dvc3NwdWJsaWMuYWxpY2RuLmNvbS9jYWxsYmFja19wdWJfa2V5X3YxLnBlbQ==",
    ),
    ("Content-Type", FORM),
];

/// A V1 and a V4 policy and their headers: no cache, no sniffing, CORS. (All that their JSON has:
/// tests/unit/policy.rs.)
#[test]
fn both_contracts_are_served() {
    let server = Server::start(&[("CALLBACK_URL", "http://a.example/"), ("UPLOAD_DIR", "user/")]);
    for (target, own) in [(V1, "accessid"), (V4, "x_oss_date"), (&format!("{V4}?x=1"), "version")] {
        let reply = request(server.address, "GET", target, &[], b"");
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert!(reply.json()[own].is_string(), "{target}: {}", reply.text());
    }
    server.wait_log("GET \"/get_post_signature_for_oss_upload\" 200 policy dir=");
}

/// The micro-cache repeats a policy that anybody may have in its second, and never a stale one.
#[test]
fn no_policy_is_older_than_a_second() {
    let server = Server::start(&[("EXPIRE_TIME", "600")]);
    let first = now();
    let mut seconds = BTreeSet::new();
    while seconds.len() < 3 {
        let before = now();
        let reply = request(server.address, "GET", V4, &[], b"");
        let after = now();
        let expire = reply.json()["expire"].as_u64().unwrap();
        assert!((before + 600..=after + 600).contains(&expire), "{} s old", before + 600 - expire);
        seconds.insert(after - first);
    }
}

/// Parameter injection: neither a query nor a header is signed.
#[test]
fn nothing_in_a_request_changes_what_is_signed() {
    let server = Server::start(&[("EXPIRE_TIME", "600")]);
    let conditions = |target: &str, headers: &[(&str, &str)]| {
        let answer = request(server.address, "GET", target, headers, b"").json();
        let policy = BASE64.decode(answer["policy"].as_str().unwrap()).unwrap();
        let policy: Value = serde_json::from_slice(&policy).unwrap();
        policy["conditions"].clone()
    };
    let plain = conditions("/", &[]);
    let asked = [("X-Forwarded-Host", "evil.example"), ("Origin", "http://evil")];
    assert_eq!(conditions("/?dir=evil&callback=evil&expire=9999999999&bucket=evil", &asked), plain);
}

/// 404 and 405, path traversal, and HEAD, which has GET's status and length and no body.
#[test]
fn methods_and_paths() {
    let server = Server::start(&[]);
    let ask = |method: &str, target: &str| request(server.address, method, target, &[], b"");
    assert_eq!(ask("GET", "/healthz").text(), "ok\n");
    assert_eq!(ask("GET", "/nothing").status, 404);
    assert_eq!(ask("GET", "/index.html/").status, 404);
    assert_eq!(ask("GET", "/../Cargo.toml").status, 404);
    for method in ["PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"] {
        let reply = ask(method, "/");
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD, POST, OPTIONS")));
    }
    for target in [V1, V4, "/index.html", "/upload.js", "/healthz", "/nothing"] {
        let (get, head) = (ask("GET", target), ask("HEAD", target));
        assert_eq!(get.status, head.status, "{target}");
        assert_eq!(get.header("content-length"), head.header("content-length"), "{target}");
        assert_eq!(get.header("content-length"), Some(&*get.body.len().to_string()));
        assert!(head.body.is_empty());
    }
    // Health checks would only fill the log.
    assert!(!server.log().iter().any(|line| line.contains("/healthz\" 200")));
}

/// Whether a browser lets a page read the response (Fetch, 4.10, "CORS check").
fn is_readable(reply: &Reply, origin: &str, with_credentials: bool) -> bool {
    let allowed = reply.header("access-control-allow-origin");
    let credentials = reply.header("access-control-allow-credentials");
    if !with_credentials && allowed == Some("*") {
        return true;
    }
    allowed == Some(origin) && (!with_credentials || credentials == Some("true"))
}

/// Whether it sends the request after this preflight (Fetch, 4.8, "CORS-preflight fetch").
fn passes(reply: &Reply, origin: &str, with_credentials: bool, names: &str) -> bool {
    let allowed = reply.header("access-control-allow-headers").unwrap_or_default();
    let allowed: Vec<String> =
        allowed.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
    let has = |name: &str| allowed.iter().any(|one| one == name);
    let mut names = names.split(',').filter(|name| !name.is_empty());
    is_readable(reply, origin, with_credentials)
        && reply.status == 204
        && names.all(|name| has(name) || (has("*") && !with_credentials && name != "authorization"))
}

/// CORS preflights as browsers send them: what libraries add (tracing, CSRF tokens of the page's
/// own backend) passes, and a page with credentials is served where its origin is listed.
#[test]
fn preflights_pass_whatever_libraries_add() {
    let page = PAGE;
    let listed = "https://www.example.com, http://localhost:8080,null,capacitor://localhost,\
                  tauri://localhost,app://.,chrome-extension://abcdefghijklmnopabcdefghijklmnop";
    let servers = ["", listed].map(|list| Server::start(&[("ALLOW_ORIGIN", list)]));
    let ask = |server: &Server, origin: &str, names: &str| {
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "GET"),
            ("Access-Control-Request-Headers", names),
        ];
        let headers = if names.is_empty() { &headers[..2] } else { &headers };
        request(server.address, "OPTIONS", "/", headers, b"")
    };
    for names in [
        "",
        "authorization",
        "sentry-trace,baggage",
        "traceparent,tracestate",
        "x-requested-with",
        "token",
        "authorization,content-type,token,x-access-token,x-csrf-token",
        "x-b3-traceid,x-b3-spanid,tenant-id",
        "cache-control,pragma",
    ] {
        let [any, list] = [0, 1].map(|at| ask(&servers[at], page, names));
        assert!(passes(&any, page, false, names), "{names}: {any:?}");
        assert_eq!(any.header("access-control-allow-credentials"), None, "never with a star");
        for with_credentials in [false, true] {
            assert!(passes(&list, page, with_credentials, names), "{names}: {list:?}");
        }
        let other = ask(&servers[1], EVIL, names);
        assert!(!passes(&other, EVIL, false, names), "{names}: {other:?}");
        assert_eq!(other.header("access-control-allow-credentials"), None);
        let methods = list.header("access-control-allow-methods");
        assert_eq!(methods, Some("GET, HEAD, POST, OPTIONS"));
    }
    // An origin is compared whole.
    let others = ["https://www.example.com.evil.example", "http://www.example.com"];
    for origin in listed.split(',').map(str::trim).chain(others) {
        for method in ["GET", "OPTIONS"] {
            let reply = request(servers[1].address, method, "/", &[("Origin", origin)], b"");
            let is_listed = !others.contains(&origin);
            assert_eq!(is_readable(&reply, origin, true), is_listed, "{origin}: {reply:?}");
            assert_eq!(is_readable(&reply, origin, false), is_listed, "{origin}: {reply:?}");
            assert_eq!(reply.header("vary"), Some("Origin"));
        }
    }
}

/// CORS of refusals too, those of the proxy among them, and with the credentials of a listed
/// origin. It waits for a timeout of ten seconds: what the proxy refuses sooner has no head that it
/// could parse, and so no origin.
#[test]
fn every_answer_can_be_read_by_the_page_that_may_ask() {
    thread::scope(|scope| {
        for (list, with_credentials) in [("", false), (PAGE, false), (PAGE, true)] {
            scope.spawn(move || check_answers(list, with_credentials));
        }
    });
}

const PAGE: &str = "https://www.example.com";
const EVIL: &str = "https://evil.example";

fn check_answers(list: &str, with_credentials: bool) {
    let secret = ("UPLOAD_JWT_SECRET", JWT_SECRET);
    let servers = [
        Server::start(&[("ALLOW_ORIGIN", list)]),
        Server::start(&[("ALLOW_ORIGIN", list), secret]),
        Server::start(&[
            ("ALLOW_ORIGIN", list),
            ("OSS_STS_ROLE_ARN", "acs:ram::1:role/a"),
            ("OSS_STS_ENDPOINT", "http://127.0.0.1:9"),
        ]),
    ];
    for (server, method, target, more, status) in [
        (0, "GET", "/", ("Accept", "*/*"), 200),
        (0, "GET", "/nothing", ("Accept", "*/*"), 404),
        (0, "PUT", "/", ("Accept", "*/*"), 405),
        (0, "POST", "/", ("Accept", "*/*"), 400),
        (1, "GET", "/", ("Accept", "*/*"), 401),
        (1, "OPTIONS", V4, ("Access-Control-Request-Headers", "authorization"), 204),
        (1, "GET", "/", ("Authorization", "Bearer x"), 401),
        (2, "GET", "/", ("Accept", "*/*"), 503),
    ] {
        let headers = [("Origin", PAGE), more];
        let reply = request(servers[server].address, method, target, &headers, b"");
        assert_eq!(reply.status, status, "{method} {target}");
        assert!(is_readable(&reply, PAGE, with_credentials), "{list} {status}: {reply:?}");
        let other = request(servers[server].address, method, target, &[("Origin", EVIL)], b"");
        assert_eq!(is_readable(&other, EVIL, false), list.is_empty(), "{list} {status}: {other:?}");
        assert_eq!(other.header("access-control-allow-credentials"), None);
        let vary = [&reply, &other].map(|reply| reply.header("vary").is_some());
        assert_eq!(vary, [!list.is_empty(); 2], "{list} {status}");
    }
    // The proxy's own, of a request that never comes whole.
    let address = servers[0].address;
    let never_whole = |origin: &str| {
        let fields = format!("Host: x\r\nOrigin: {origin}\r\nContent-Length: 9");
        let head = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
        let reply = send(address, head.as_bytes(), false).unwrap();
        assert_eq!(reply.status, 408);
        reply
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| never_whole(EVIL));
        let reply = never_whole(PAGE);
        assert!(is_readable(&reply, PAGE, with_credentials), "{list}: {reply:?}");
        // Nobody else's credentials are wanted, for a refusal either.
        let other = other.join().unwrap();
        assert_eq!(other.header("access-control-allow-origin"), Some("*"));
        assert_eq!(other.header("access-control-allow-credentials"), None);
    });
}

/// Alibaba's worked example, under the key that is built in.
#[test]
fn the_documented_callback_is_accepted_and_logged() {
    let server = Server::start(&[]);
    // This header is not signed, so anybody could have written it.
    let headers = [&SIGNED[..], &[("x-oss-request-id", "5C06A6F3")]].concat();
    let reply = request(server.address, "POST", TARGET, &headers, BODY);
    assert_eq!((reply.status, reply.json()), (200, json!({ "Status": "OK" })));
    let line = server.wait_log("POST");
    let end = r#" POST "/index.php" 200 callback bucket="yonghu-test""#;
    assert!(line.ends_with(end), "{line}");
    let key = "callback key v1: not fetched";
    assert_eq!(server.log().iter().filter(|line| line.contains(key)).count(), 1);
}

/// Everything else is as OSS sends it: the log says where to look.
const EATEN: &str = "authorization is missing: does the proxy in front pass it on?";

/// Missing, repeated and forged headers; a signature that does not match: 400 and its reason.
#[test]
fn bad_callbacks_are_refused_with_their_reason() {
    let server = Server::start(&[]);
    let [authorization, key_url, content_type] = SIGNED;
    let evil = ("x-oss-pub-key-url", "aHR0cDovL2V2aWwuZXhhbXBsZS9rZXkucGVt");
    let unsigned = ("Authorization", "AAAA");
    for (headers, target, body, reason) in [
        (vec![authorization], TARGET, BODY, "x-oss-pub-key-url is missing"),
        (vec![key_url], TARGET, BODY, EATEN),
        (vec![], "/", b"".as_slice(), "x-oss-pub-key-url is missing"),
        (vec![authorization, evil], TARGET, BODY, "x-oss-pub-key-url names no OSS public key"),
        (vec![unsigned, key_url], TARGET, BODY, "authorization is not a signature"),
        (vec![authorization, key_url], "/index.php", BODY, "signature does not match"),
        (vec![authorization, key_url], TARGET, b"bucket=other", "signature does not match"),
        (vec![authorization, key_url], "/%zz", BODY, "path is not percent-encoded"),
    ] {
        let headers = [headers, vec![content_type]].concat();
        let reply = request(server.address, "POST", target, &headers, body);
        let expected = json!({ "Status": "verify not ok", "reason": reason });
        assert_eq!((reply.status, reply.json()), (400, expected));
        server.wait_log(&format!("400 reason=\"{reason}\""));
    }
    for repeated in [authorization, key_url] {
        let headers = [authorization, key_url, repeated];
        let reply = request(server.address, "POST", TARGET, &headers, BODY);
        assert_eq!(reply.status, 400, "two of {}", repeated.0);
    }
}

/// 413 begins at 20,481 bytes: the longest body that OSS documents fits.
#[test]
fn a_body_may_have_20_kib_and_no_more() {
    let server = Server::start(&[]);
    let longest = vec![b'a'; 20_480];
    let verdict = |body: &[u8]| request(server.address, "POST", "/", &SIGNED, body).verdict();
    assert_eq!(verdict(&longest), "400 signature does not match");
    assert_eq!(verdict(&[&longest[..], b"a"].concat()), "413 body longer than 20 KiB");
    // The longest that OSS documents: a key of 1,023 bytes, ten variables of 512, each byte
    // encoded.
    let encoded = |bytes: usize| "%E9".repeat(bytes);
    let variable = |n| format!("&variable{n}={}", encoded(512));
    let variables: String = (0..10).map(variable).collect();
    let body = format!("filename={}&size=5368709120{variables}", encoded(1023));
    assert_eq!(verdict(body.as_bytes()), "400 signature does not match", "{}", body.len());
}

/// Log injection by a line feed in a path; and no query, which may hold a ticket.
#[test]
fn log_lines_cannot_be_forged_and_hold_no_query() {
    let server = Server::start(&[]);
    let target = "/%0A2026-11-21T00:00:00Z?ticket=s3cr3t";
    assert_eq!(request(server.address, "GET", target, &[], b"").status, 404);
    let line = server.wait_log(" 404");
    assert!(line.ends_with(" GET \"/%0A2026-11-21T00:00:00Z\" 404"), "{line}");
    assert!(!server.log().concat().contains("s3cr3t"));
}

/// A pipe takes so much at once or nothing. Were a longer line written in pieces, its end could be
/// lost, and the next line begin where a client likes.
#[test]
fn a_line_of_the_log_is_cut_at_four_kilobytes() {
    let server = Server::start(&[]);
    let long = format!("/long-{}", "x".repeat(5000));
    assert_eq!(request(server.address, "GET", &long, &[], b"").status, 404);
    assert_eq!(request(server.address, "GET", "/next", &[], b"").status, 404);
    server.wait_log("GET \"/next\" 404");
    let line = server.wait_log("GET \"/long-");
    assert_eq!((line.len(), line.ends_with('x')), (4095, true), "{line}");
    assert!(server.log().iter().all(|line| line.starts_with("20")), "{:?}", server.log());
}

/// 0 for what is asked for, 2 for usage and configuration, 1 for a port in use.
#[test]
fn exit_codes() {
    let help = run(&["--help"], &[]);
    assert!(help.code == Some(0) && help.stdout.starts_with("usage: appserver"));
    let version = run(&["--version"], &[]);
    assert_eq!(version.stdout, format!("appserver {}\n", env!("CARGO_PKG_VERSION")));
    let check = run(&["--check"], &PLAIN);
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    assert!(check.stdout.contains("OSS_BUCKET = examplebucket"));
    assert!(!check.stdout.contains("NeverShown"));

    for (arguments, vars, line) in [
        (&["--check"][..], &PLAIN[..2], "OSS_HOST: not set (https://BUCKET.ENDPOINT)"),
        (&["127.0.0.1", "0"], &PLAIN[1..], "OSS_ACCESS_KEY_ID: not set (an access key id)"),
        (&[], &PLAIN, "arguments: expected [IP] PORT or unix:/PATH (try --help)"),
        (&["x"], &PLAIN, "argument \"x\": not a port (try --help)"),
    ] {
        let run = run(arguments, vars);
        assert_eq!((run.code, run.stderr), (Some(2), format!("appserver: {line}\n")));
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = run(&["127.0.0.1", &port], &PLAIN);
    assert_eq!(run.code, Some(1));
    let last = run.stderr.lines().last().unwrap_or_default();
    let expected = format!("appserver: cannot listen on http://127.0.0.1:{port}: ");
    assert!(last.starts_with(&expected), "{}", run.stderr);
}
