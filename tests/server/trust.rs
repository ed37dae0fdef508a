//! The chain of trust over the real binary, with the stand-in bucket as the adversary: ticket,
//! policy, callback, record. A test per forgery; the attacks' table in `src/README.md` names them.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use oss_standin::{Options, PUB_KEY_URL, STRANGER_KEY_PEM, Standin};
use serde_json::{Value, json};
use support::tickets::{self, Case, FORGED, MISSING, OK};
use support::trust::{self, JWT_SECRET, TOKEN_KEY, callback_token, now, ticket};
use support::world::{FORM, TOKENS, V1, V4, World, borrowed, call_with, ticket_for, ticket_with};
use support::{Connection, Host, PLAIN, Server, request, run, upload};

/// A callback about a file in alice's folder.
const BODY: &str = "filename=user%2Falice%2Fa.txt&size=1&bucket=examplebucket&etag=x";
const CONFIRM: [(&str, &str); 1] = [("CONFIRM_UPLOADS", "on")];
const PATIENCE: Duration = Duration::from_secs(30);

const OTHER_PREFIX: &str = "400 object is not under the token's prefix";
const NO_OBJECT: &str = "400 body does not name an object";
const BAD_OBJECT: &str = "400 object's name is no path within its folder";
const OTHER_BUCKET: &str = "400 another bucket";
const DIFFERS: &str = "400 object in the bucket differs";
const UNREACHABLE: &str = "503 bucket cannot be asked now";
const NO_SIGNATURE: &str = "400 signature does not match";

/// All checks but the look into the bucket.
fn world(changes: &[(&str, &str)]) -> World {
    World::new(&[&TOKENS[..], changes].concat())
}

/// What base64 hides in a field of a policy.
fn decoded(policy: &Value, field: &str) -> Value {
    let text = BASE64.decode(policy[field].as_str().unwrap()).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Path and query of every callback URL of a policy.
fn targets(policy: &Value) -> Vec<String> {
    let parameter = decoded(policy, "callback");
    let urls = parameter["callbackUrl"].as_str().unwrap().split(';');
    let target = |url: &str| {
        let rest = url.split_once("://").unwrap().1;
        let target = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
        if target.starts_with('/') { target.to_owned() } else { format!("/{target}") }
    };
    urls.map(target).collect()
}

fn target(policy: &Value) -> String {
    targets(policy).remove(0)
}

/// Where alice's uploads are called back.
fn alice(world: &World) -> String {
    target(&world.policy_for("alice"))
}

/// Cases whose text a request target can have. The expired one is so where tokens live `ttl` seconds
/// longer than their policy, and not where they live a few more.
fn queries(ttl: u64) -> Vec<Case> {
    let mut cases = tickets::callbacks(now() + 100, now() - ttl - 3);
    cases.retain(|case| !case.text.contains(['#', ' ']) && case.text.is_ascii());
    cases
}

// Who may upload.

/// `Authorization: Bearer` or `?ticket=`: a JWT's `sub` is the folder, and the record's subject.
#[test]
fn a_ticket_becomes_a_folder_and_a_subject() {
    let world = world(&[]);
    let ticket = ticket_for("alice");
    for contract in [V1, V4] {
        for (name, header, query) in [
            ("bearer.txt", ("Authorization", format!("Bearer {ticket}")), String::new()),
            ("lower.txt", ("authorization", format!("bearer {ticket}")), String::new()),
            ("query.txt", ("Accept", "*/*".to_owned()), format!("?ticket={ticket}")),
            ("among.txt", ("Accept", "*/*".to_owned()), format!("?a=1&ticket={ticket}&b=2")),
        ] {
            let reply = world.get(&format!("{contract}{query}"), &[(header.0, &header.1)]);
            let policy = reply.json();
            assert_eq!((reply.status, &policy["dir"]), (200, &json!("user/alice/")), "{name}");
            assert_eq!(upload(&policy, name, b"hello", &[]).verdict(), OK, "{name}");
            world.server.wait_log(&format!("object=\"user/alice/{name}\""));
            world.server.wait_log("subject=\"alice\"");
            let line = world.record().pop().unwrap();
            assert_eq!(line["object"], json!(format!("user/alice/{name}")));
            assert_eq!(line["subject"], json!("alice"));
        }
    }
}

/// A slash that `UPLOAD_DIR` lacks stands between it and the subject: a folder of one's own.
#[test]
fn a_subject_is_a_folder_without_a_slash_in_the_prefix_too() {
    for (dir, folder) in [("user", "user/alice/"), ("user/", "user/alice/"), ("", "alice/")] {
        assert_eq!(world(&[("UPLOAD_DIR", dir)]).policy_for("alice")["dir"], json!(folder));
    }
}

/// 401 for each forged, expired or misused JWT of the table, with its own words, readable by a page
/// of any origin (CORS) that may read the policy; and a policy for each good one.
#[test]
fn without_a_good_ticket_there_is_no_policy() {
    let world = world(&[]);
    let now = now();
    let cases = [
        tickets::algorithms(now),
        tickets::signatures(now),
        tickets::times(now),
        tickets::subjects(now),
        tickets::limits(now),
    ];
    let (mut by_header, mut by_query) = (0, 0);
    for case in cases.concat().iter().filter(|case| case.fits_a_header()) {
        let header = format!("Bearer {}", case.text);
        let headers = [("Authorization", &*header), ("Origin", "https://www.example.com")];
        let mut replies = vec![world.get(V1, &headers), world.get(V4, &headers)];
        if case.fits_a_query() {
            replies.push(world.get(&format!("{V4}?ticket={}", case.text), &headers[1..]));
            by_query += 1;
        }
        by_header += 1;
        for reply in replies {
            assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{}", case.what);
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{}", case.what);
            if case.verdict == OK {
                assert_eq!(reply.status, 200, "{}", case.what);
                continue;
            }
            assert_eq!(reply.verdict(), case.verdict, "{}", case.what);
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{}", case.what);
        }
    }
    assert!(by_header > 150 && by_query > 150, "{by_header} in headers, {by_query} in queries");
    // 10 KB end at the proxy.
    let reply = world.ask(V4, &ticket_for(&"a".repeat(10_240)));
    assert_eq!(reply.status, 431);
    for headers in [
        vec![],
        vec![("Authorization", "Basic YWxpY2U6eA==")],
        vec![("Authorization", "Bearer")],
        vec![("Authorization", JWT_SECRET)],
        vec![("X-Ticket", "x")],
    ] {
        for target in [V1, V4, "/?Ticket=x", "/?tickets=x", "/?ticket"] {
            let reply = world.get(target, &headers);
            assert_eq!(reply.verdict(), "401 ticket is missing", "{headers:?} {target}");
        }
    }
    // A header that is no good is not made good by the query.
    let target = format!("{V4}?ticket={}", ticket_for("alice"));
    let reply = world.ask(&target, "x.y.z");
    assert_eq!(reply.verdict(), "401 ticket is not a JWT of up to 4096 bytes");
    let reply = world.get(&target, &[("Authorization", "Basic YWxpY2U6eA==")]);
    assert_eq!(reply.status, 200, "a proxy's own password is no ticket");
    assert!(world.bucket.posts().is_empty() && world.record().is_empty());
}

/// What needs no ticket: health, the page, and the callback, which has a token.
#[test]
fn only_policies_need_a_ticket() {
    let world = world(&[]);
    assert_eq!(world.get("/healthz", &[]).status, 200);
    for file in ["/index.html", "/page.js", "/style.css", "/upload.js"] {
        assert_eq!(world.get(file, &[]).status, 200, "{file}");
    }
    for contract in [V1, V4] {
        assert_eq!(world.get(contract, &[]).status, 401, "{contract}");
    }
    assert_eq!(world.call(&alice(&world), BODY).verdict(), OK);
}

/// `max` of a JWT: never more than `MAX_UPLOAD_BYTES`, and the bucket holds the uploader to it.
#[test]
fn a_ticket_narrows_and_never_widens() {
    let world = world(&[("MAX_UPLOAD_BYTES", "1000")]);
    for (claims, allowed) in [
        (json!({}), 1000),
        (json!({ "max": 10 }), 10),
        (json!({ "max": 1000 }), 1000),
        (json!({ "max": 1001 }), 1000),
        (json!({ "max": u64::MAX }), 1000),
    ] {
        let policy = world.policy_of(&ticket_with("alice", &claims));
        let range = json!(["content-length-range", 0, allowed]);
        let conditions = decoded(&policy, "policy")["conditions"].clone();
        assert!(conditions.as_array().unwrap().contains(&range), "{claims}: {conditions}");
        assert_eq!(upload(&policy, "a.txt", &vec![0; allowed], &[]).verdict(), OK);
        assert_eq!(upload(&policy, "b.txt", &vec![0; allowed + 1], &[]).status, 400);
    }
    assert_eq!(world.bucket.keys(), ["user/alice/a.txt"]);
}

/// `types` of a JWT and `UPLOAD_CONTENT_TYPES` leave what both allow, or 401. `image/*` is a
/// prefix, wherever it stands. The bucket holds uploaders to the content types.
#[test]
fn the_types_of_a_ticket_are_within_those_of_the_configuration() {
    let both = "image/png,text/plain";
    // Those configured, those of the ticket (null: none), and the condition that the policy has.
    let rows = json!([
        [both, null, "in", ["image/png", "text/plain"]],
        [both, ["text/plain"], "eq", "text/plain"],
        [both, ["text/html", "text/plain"], "eq", "text/plain"],
        [both, ["text/plain", "image/png", "text/html"], "in", ["text/plain", "image/png"]],
        [both, ["image/*"], "eq", "image/png"],
        [both, [], "refused"],
        [both, ["text/html"], "refused"],
        [both, ["audio/*"], "refused"],
        [both, [""], "refused"],
        [both, ["IMAGE/PNG"], "refused"],
        [both, ["image/png,text/plain"], "refused"],
        ["image/*", null, "starts-with", "image/"],
        ["image/*", ["image/*"], "starts-with", "image/"],
        ["image/*", ["image/png", "text/plain"], "eq", "image/png"],
        ["", ["image/*"], "starts-with", "image/"],
        ["", ["text/plain"], "eq", "text/plain"],
        ["", [], "refused"],
    ]);
    for row in rows.as_array().unwrap() {
        let (types, kind, allowed) = (&row[1], row[2].as_str().unwrap(), &row[3]);
        let world = world(&[("UPLOAD_CONTENT_TYPES", row[0].as_str().unwrap())]);
        let claims = if types.is_null() { json!({}) } else { json!({ "types": types }) };
        let reply = world.ask(V4, &ticket_with("alice", &claims));
        if kind == "refused" {
            assert_eq!(reply.verdict(), "401 ticket allows no content type", "{row}");
            continue;
        }
        let policy = reply.json();
        let conditions = decoded(&policy, "policy")["conditions"].clone();
        let pinned = json!([kind, "$content-type", allowed]);
        assert!(conditions.as_array().unwrap().contains(&pinned), "{row}: {conditions}");
        assert_eq!(policy["fields"].get("Content-Type").is_some(), kind == "eq", "{row}");
        for sent in ["image/png", "text/plain", "text/html", "imageX/png", "a/image/"] {
            let fits = match kind {
                "starts-with" => sent.starts_with(allowed.as_str().unwrap()),
                "in" => allowed.as_array().unwrap().contains(&json!(sent)),
                _ => allowed == sent,
            };
            let reply = upload(&policy, "a.txt", b"x", &[("Content-Type", sent)]);
            assert_eq!(reply.status, if fits { 200 } else { 403 }, "{row} {sent}");
        }
    }
}

/// A policy expires with its JWT at the latest, in both contracts.
#[test]
fn a_policy_never_outlives_its_ticket() {
    let world = world(&[("EXPIRE_TIME", "3600")]);
    let expire = now() + 100;
    for exp in [json!(expire), json!(expire as f64 + 0.9)] {
        let ticket = ticket_with("alice", &json!({ "exp": exp }));
        for contract in [V1, V4] {
            let policy = world.ask(contract, &ticket).json();
            assert_eq!(policy["expire"], json!(expire));
            // The bucket agrees, a second later.
            world.bucket.set_clock(Some(expire + 1));
            let reply = upload(&policy, "late.txt", b"x", &[]);
            assert!(reply.status == 403 && reply.text().contains("Policy expired"));
            world.bucket.set_clock(None);
            let target = target(&policy);
            assert!(target.contains(&format!("?token={expire}.")), "{target}");
        }
    }
    let long = ticket_with("alice", &json!({ "exp": now() + 1_000_000 }));
    let before = now() + 3600;
    let expire = world.policy_of(&long)["expire"].as_u64().unwrap();
    assert!((before..=now() + 3600).contains(&expire), "the configuration's end holds too");
}

/// The proxy's micro-cache repeats responses within a second. It must never repeat one person's to
/// another.
#[test]
fn two_users_get_their_own_folders_within_one_second() {
    let world = world(&[]);
    let (alice, bob) = (ticket_for("alice"), ticket_for("bob"));
    let mut connection = Connection::open(world.server.address).unwrap();
    let mut ask = |query: &str, header: &str| {
        let message = format!("GET {V4}{query} HTTP/1.1\r\nHost: x\r\n{header}\r\n");
        connection.ask(message.as_bytes()).unwrap()
    };
    let mut together = 0;
    for _ in 0..50 {
        let mut dates = Vec::new();
        for (text, folder) in [(&alice, "user/alice/"), (&bob, "user/bob/")] {
            let header = format!("Authorization: Bearer {text}\r\n");
            for reply in [ask("", &header), ask(&format!("?ticket={text}"), "")] {
                let policy = reply.json();
                assert_eq!((reply.status, &policy["dir"]), (200, &json!(folder)));
                dates.push(policy["x_oss_date"].clone());
            }
        }
        assert_eq!(ask("", "").status, 401);
        assert_eq!(ask("", "Authorization: Bearer a.b.c\r\n").status, 401);
        together += u32::from(dates.iter().all(|date| *date == dates[0]));
    }
    assert!(together > 0, "no four answers of one second: nothing was shown");
    assert!(!world.server.log().iter().any(|line| line.contains(" again")));
}

/// Without `UPLOAD_JWT_SECRET` there is no authentication, and the log warns of it at the start.
#[test]
fn without_a_secret_anybody_may_upload_and_the_start_says_so() {
    let world = world(&[("UPLOAD_JWT_SECRET", "")]);
    world.server.wait_log("UPLOAD_JWT_SECRET is not set: anybody who can reach this server may");
    let policy = world.policy_of("x.y.z");
    assert_eq!(policy["dir"], json!("user/"));
    assert_eq!(upload(&policy, "a.txt", b"x", &[]).verdict(), OK);
    let line = world.record().pop().unwrap();
    assert_eq!(line.get("subject"), None);

    let closed = self::world(&[]);
    closed.get("/healthz", &[]);
    assert!(!closed.server.log().iter().any(|line| line.contains("anybody")));
}

// What we issued.

/// One who may upload drops the callback, or edits it: the policy pins it.
#[test]
fn a_client_that_drops_or_edits_the_callback_is_refused_by_the_bucket() {
    let world = world(&[]);
    let policy = world.policy_for("alice");
    let mut edited = decoded(&policy, "callback");
    edited["callbackUrl"] = json!("http://127.0.0.1:9/");
    let edited = BASE64.encode(edited.to_string());
    let mut body = decoded(&policy, "callback");
    body["callbackBody"] = json!("bucket=${bucket}&filename=${object}&size=1&etag=${etag}");
    let body = BASE64.encode(body.to_string());
    let bobs = world.policy_for("bob")["callback"].as_str().unwrap().to_owned();
    for (what, callback) in [("dropped", ""), ("url", &edited), ("body", &body), ("bob's", &bobs)] {
        let reply = upload(&policy, "a.txt", b"x", &[("callback", callback)]);
        assert_eq!(reply.status, 403, "{what}: {}", reply.text());
    }
    assert_eq!(upload(&policy, "a.txt", b"x", &[("key", "user/bob/a.txt")]).status, 403);
    assert!(world.bucket.callbacks().is_empty() && world.bucket.keys().is_empty());
    assert!(world.record().is_empty());
}

/// A customer of OSS like any other has his own bucket call us back. OSS signs what he likes. Each
/// forgery is tried as a direct request too, and leaves no line in the record.
#[test]
fn another_customers_bucket_is_refused() {
    let world = world(&[]);
    let options = Options {
        bucket: "evilbucket".to_owned(),
        access_key_id: "LTAI5tMallory".to_owned(),
        access_key_secret: "mallorysSecret".to_owned(),
        ..Options::default()
    };
    let evil = Standin::start(options).unwrap();
    let good = &*alice(&world); // he may upload himself: the token in it is good
    let ours = |more: &str| format!("bucket=examplebucket&size=1&etag=x{more}");
    let object = "filename=user%2Falice%2Fa";
    for (target, body, verdict) in [
        ("/callback", ours("&filename=user%2Falice%2Fa"), MISSING),
        ("/callback?token=1.2.3", ours(""), FORGED),
        (good, format!("bucket=${{bucket}}&{object}"), OTHER_BUCKET),
        (good, format!("bucket=examplebucket&bucket=${{bucket}}&{object}"), OTHER_BUCKET),
        (good, object.to_owned(), "400 body does not name a bucket"),
        (good, "bucket=x&filename=y".to_owned(), OTHER_BUCKET),
        (good, ours(""), NO_OBJECT),
        (good, ours("&filename="), NO_OBJECT),
        (good, "hello".to_owned(), NO_OBJECT),
        (good, ours("&filename=user%2F"), BAD_OBJECT),
        (good, ours("&filename=user%2Fbob%2Fa"), OTHER_PREFIX),
        (good, ours("&filename=user%2Falice2%2Fa"), OTHER_PREFIX),
        (good, ours("&filename=user%252Falice%252Fa"), OTHER_PREFIX), // escaped twice
        (good, ours("&filename=${object}"), OTHER_PREFIX),
    ] {
        // His bucket needs policies too: what makes them is this same program.
        let url = format!("{}{target}", world.server.url());
        let vars = evil.vars();
        let mut vars = borrowed(&vars);
        vars.extend([("CALLBACK_URL", &*url), ("CALLBACK_BODY", &body)]);
        let mallory = Server::start(&vars);
        let policy = request(mallory.address, "GET", V4, &[], b"").json();
        let reply = upload(&policy, "a", b"x", &[]);
        assert_eq!(reply.status, 203, "{body}: {}", reply.text());
        // OSS does not pass our words on; the log has them.
        let line = world.last_post();
        let end = format!("{} reason={:?}", &verdict[..3], &verdict[4..]);
        assert!(line.ends_with(&end), "{body}: {line}");
        let body = body.replace("${bucket}", "evilbucket").replace("${object}", "a");
        assert_eq!(world.call(target, &body).verdict(), verdict, "{target} {body}");
    }
    assert!(world.record().is_empty());
    let honest = world.call(good, &ours(&format!("&{object}")));
    assert_eq!(honest.verdict(), OK, "and the honest one passes");
    assert_eq!(world.record().len(), 1);
}

/// 512 bits can be factored: whoever holds the private key signs what he likes, without OSS.
#[test]
fn the_private_key_of_oss_is_not_enough() {
    let world = world(&[]);
    let private_key = oss_standin::PRIVATE_KEY_PEM;
    for secret in ["", "exampleAccessKeySecret", JWT_SECRET, private_key] {
        let token = callback_token(secret, "/callback", now() + 100, "user/alice/");
        let reply = world.call(&format!("/callback?token={token}"), BODY);
        assert_eq!(reply.verdict(), FORGED);
    }
    assert_eq!(world.call("/callback", BODY).verdict(), MISSING);
    assert!(world.record().is_empty());
}

/// An RSA signature of another key, body or target: 400, whatever token there is.
#[test]
fn a_token_does_not_stand_for_the_signature() {
    let world = world(&[]);
    let target = alice(&world);
    let stranger = Standin::sign_with(STRANGER_KEY_PEM, &target, BODY.as_bytes()).unwrap();
    let other_body = world.bucket.sign(&target, b"size=2");
    let other_target = world.bucket.sign("/callback", BODY.as_bytes());
    for authorization in [stranger, other_body, other_target] {
        let reply = call_with(&world.server, &target, (&authorization, PUB_KEY_URL), BODY);
        assert_eq!(reply.verdict(), NO_SIGNATURE);
    }
    assert!(world.record().is_empty());
}

/// Forged, expired and replayed callback tokens. (Every bit of one: tests/unit/token.rs.)
#[test]
fn forged_tokens_are_refused() {
    let world = world(&[("CALLBACK_TOKEN_TTL", "100")]);
    let token = |path, folder| callback_token(TOKEN_KEY, path, now() + 100, folder);
    let mut cases = 0;
    for case in queries(100) {
        let reply = world.call(&format!("/callback?{}", case.text), BODY);
        assert_eq!(reply.verdict(), case.verdict, "{}", case.text);
        cases += 1;
    }
    assert!(cases > 50, "{cases} cases");
    let recorded = world.record().len();
    assert_eq!(world.call("/callback", BODY).verdict(), MISSING);
    let target = format!("/callback?token={}", token("/callback", "user/bob/"));
    assert_eq!(world.call(&target, BODY).verdict(), OTHER_PREFIX);
    // Replayed to another path, whether or not anything else is there.
    let good = token("/callback", "user/alice/");
    for path in ["/", "/callback/", "/Callback", "//callback", "/callback%00", "/other"] {
        let reply = world.call(&format!("{path}?token={good}"), BODY);
        assert_eq!(reply.verdict(), FORGED, "{path}");
    }
    assert_eq!(world.record().len(), recorded);
    // The same path in another spelling is the same path, and so it is the same callback.
    for path in ["/callback", "/%63allback"] {
        assert_eq!(world.call(&format!("{path}?token={good}&again"), BODY).verdict(), OK);
    }
    assert_eq!(world.record().len(), recorded + 1);
}

/// Only then is a mistake in the callback the cause: neither RSA nor the network is asked.
#[test]
fn without_a_good_token_no_key_is_fetched_and_no_signature_looked_at() {
    let world = world(&[("CALLBACK_PUBLIC_KEY_FILE", "")]);
    world.server.wait_log("callback key v1: fetched");
    let unknown = "http://gosspublic.alicdn.com/callback_pub_key_v7.pem";
    // A signature that is none would be another reason, if anybody looked.
    let junk = BASE64.encode([7; 64]);
    for case in queries(86_400).iter().filter(|case| case.verdict != OK) {
        let target = format!("/callback?{}", case.text);
        let signature = world.bucket.sign(&target, BODY.as_bytes());
        for key_url in [unknown, PUB_KEY_URL] {
            for authorization in [&signature, &junk] {
                let reply = call_with(&world.server, &target, (authorization, key_url), BODY);
                assert_eq!(reply.verdict(), case.verdict, "{target}");
            }
        }
    }
    assert_eq!(world.bucket.key_requests(), ["/callback_pub_key_v1.pem"]);
    // With a good token the same request does cause a fetch: the test would see it.
    let target = alice(&world);
    let signature = world.bucket.sign(&target, BODY.as_bytes());
    let reply = call_with(&world.server, &target, (&signature, unknown), BODY);
    assert_eq!(reply.verdict(), "503 public key cannot be had now");
    world.server.wait_log("callback key v7: not fetched");
    let requests = world.bucket.key_requests();
    assert_eq!(requests, ["/callback_pub_key_v1.pem", "/callback_pub_key_v7.pem"]);
}

/// A token is bound to the decoded path of its URL. `http://HOST?query` is a URL without a path:
/// OSS asks for `/?query`.
#[test]
fn each_callback_url_has_a_token_of_its_own() {
    let five = "http://127.0.0.1:9/;http://127.0.0.1:9;http://127.0.0.1:9/a?id=1;\
                http://127.0.0.1:9/%E7%94%A8;http://127.0.0.1:9/b/c";
    for (urls, before, uploads) in [
        // Without a request id these are five uploads, but for the two URLs that are the same.
        (five, &["/?", "/?", "/a?id=1&", "/%E7%94%A8?", "/b/c?"][..], 4),
        ("http://127.0.0.1:9?id=1", &["/?id=1&"], 1),
    ] {
        let world = world(&[("CALLBACK_URL", urls)]);
        let policy = world.policy_for("alice");
        let targets = targets(&policy);
        assert_eq!(targets.len(), before.len());
        let expire = policy["expire"].as_u64().unwrap();
        for (target, before) in targets.iter().zip(before) {
            assert_eq!(world.call(target, BODY).verdict(), OK, "{target}");
            let path = before.split('?').next().unwrap().replace("%E7%94%A8", "用");
            let token = callback_token(TOKEN_KEY, &path, expire, "user/alice/");
            assert_eq!(*target, format!("{before}token={token}"));
            for other in ["/", "/a", "/b/c", "/b", "/%E7%94%A8"] {
                if !target.starts_with(&format!("{other}?")) {
                    let reply = world.call(&format!("{other}?token={token}"), BODY);
                    assert_eq!(reply.verdict(), FORGED, "{target} {other}");
                }
            }
        }
        assert_eq!(world.record().len(), uploads);
    }
}

/// OSS takes 5 KB of callback parameter and refuses every upload with more. What the tokens add to
/// five URLs counts: with the longest prefix that the start allows the longest subject's parameter
/// still fits, and with one byte more nothing starts.
#[test]
fn the_callback_parameter_fits_with_its_tokens() {
    let urls = [0, 1, 2, 3, 4].map(|n| format!("http://127.0.0.1:9/callback{n}")).join(";");
    let check = |bytes: usize| {
        let dir = format!("{}/", "d".repeat(bytes));
        let changes = [TOKENS[0], ("CALLBACK_URL", &*urls), ("UPLOAD_DIR", &*dir)];
        run(&["--check"], &[&PLAIN[..], &changes].concat())
    };
    let lengths: Vec<usize> = (1..900).collect();
    let fits = lengths.partition_point(|bytes| check(*bytes).code == Some(0));
    let refused = check(fits + 1);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("CALLBACK_URL: "), "{}", refused.stderr);
    let dir = format!("{}/", "d".repeat(fits));
    let world = world(&[("UPLOAD_DIR", &*dir), ("CALLBACK_URL", &*urls)]);
    let policy = world.policy_for(&"s".repeat(128));
    let length = policy["callback"].as_str().unwrap().len();
    // Close to it: the start reckons with an expiry of ten digits more, in each of five tokens.
    assert!((5000..=5 * 1024).contains(&length), "{length} bytes, {fits} of the prefix");
    // The bucket takes it. (Nothing listens at port 9.)
    let reply = upload(&policy, "a.txt", b"hello", &[]);
    assert_eq!(reply.status, 203, "{}", reply.text());
    assert_eq!(world.bucket.callbacks().len(), 5);
}

/// An access key that rotates must not cost the callbacks of uploads under way, nor does a restart.
#[test]
fn callbacks_outlive_a_restart_with_another_access_key() {
    let world = world(&[]);
    let off = ("UPLOAD_LOG", ""); // the folder is the first server's
    let start = |changes: &[(&str, &str)]| world.start(&[&[off], changes].concat());
    let call = |server: &Server, target: &str| world.call_to(server, target, BODY).verdict();
    let rotated =
        [("OSS_ACCESS_KEY_ID", "next"), ("OSS_ACCESS_KEY_SECRET", "nextSecretNeverShown")];
    let of_old = alice(&world);
    assert_eq!(call(&start(&rotated), &of_old), OK);
    let other_key = [("CALLBACK_TOKEN_KEY", "another-key-of-more-than-32-characters")];
    assert_eq!(call(&start(&other_key), &of_old), FORGED);

    // Without a key of their own, tokens hang on the access key.
    let derived = ("CALLBACK_TOKEN_KEY", "");
    let secret = Options::default().access_key_secret;
    let before = start(&[derived]);
    let bearer = format!("Bearer {}", ticket_for("alice"));
    let policy = request(before.address, "GET", V4, &[("Authorization", &bearer)], b"").json();
    let (of_old, expire) = (target(&policy), policy["expire"].as_u64().unwrap());
    let token = callback_token(&secret, "/callback", expire, "user/alice/");
    assert_eq!(of_old, format!("/callback?token={token}"));
    assert_eq!(call(&before, &of_old), OK);
    assert_eq!(call(&start(&[derived]), &of_old), OK, "a restart alone changes nothing");
    assert_eq!(call(&start(&[derived, rotated[0], rotated[1]]), &of_old), FORGED);
}

/// `PUBLIC_PATH_PREFIX`, behind a reverse proxy that strips the prefix and behind one that does
/// not.
#[test]
fn behind_a_path_prefix_the_token_is_bound_to_the_public_path() {
    let changes = [("PUBLIC_PATH_PREFIX", "/post"), ("CALLBACK_URL", "http://127.0.0.1:9/post/cb")];
    let world = world(&changes);
    let public = alice(&world);
    assert_eq!(world.call(&public, BODY).verdict(), OK, "a proxy that leaves the prefix");
    let inner = public.strip_prefix("/post").unwrap();
    let authorization = world.bucket.sign(&public, BODY.as_bytes());
    let reply = call_with(&world.server, inner, (&authorization, PUB_KEY_URL), BODY);
    assert_eq!(reply.verdict(), OK, "a proxy that takes it off");
}

// What is really there.

/// An uploader has OSS sign another size or ETag: 400, and no line in the record. An ETag is the
/// same in either case, with quotes or without.
#[test]
fn sizes_and_etags_that_lie_are_refused() {
    let world = world(&CONFIRM);
    let target = alice(&world);
    world.put("user/alice/other.txt", b"other");
    let body = world.put("user/alice/true.txt", b"hello");
    let (size, etag) = ("size=5", "5D41402ABC4B2A76B9719D911017C592");
    let mut honest = 0;
    for (from, to, verdict) in [
        (size, "size=500", DIFFERS),
        (size, "size=0", DIFFERS),
        (size, "size=five", DIFFERS),
        (size, "size=05", DIFFERS),
        (size, "size=", DIFFERS),
        (size, "x=1", DIFFERS),
        (etag, "00000000000000000000000000000000", DIFFERS),
        (etag, "", DIFFERS),
        (etag, "5D41402ABC4B2A76B971", DIFFERS),
        ("&etag=", "&x=", DIFFERS),
        ("true.txt", "other.txt", DIFFERS),
        ("true.txt", "nothing.txt", "400 object is not in the bucket"),
        (etag, etag, OK),
        (etag, "5d41402abc4b2a76b9719d911017c592", OK),
        (etag, "%225D41402ABC4B2A76B9719D911017C592%22", OK),
    ] {
        assert!(body.contains(from), "{body}");
        assert_eq!(world.call(&target, &body.replace(from, to)).verdict(), verdict, "{to}");
        honest += usize::from(verdict == OK);
        assert_eq!(world.record().len(), honest);
    }
    // What an uploader sees of it: the bucket's 203, whatever he had OSS send.
    world.bucket.faults().callback_tamper = Some(Box::new(|body| {
        String::from_utf8(body).unwrap().replace("size=5", "size=6").into_bytes()
    }));
    let reply = upload(&world.policy_for("alice"), "lie.txt", b"hello", &[]);
    let callback = world.last_callback(1);
    assert_eq!((reply.status, callback.status), (203, Some(400)));
    assert_eq!(callback.error.as_deref(), Some("Error status : 400."));
    assert!(world.last_post().ends_with("400 reason=\"object in the bucket differs\""));
    world.bucket.faults().callback_tamper = None;
    assert_eq!(upload(&world.policy_for("alice"), "true.txt", b"hello", &[]).verdict(), OK);
}

/// Deleted or overwritten before the callback; and a replay of one that is recorded.
#[test]
fn an_object_that_is_gone_is_refused() {
    let world = world(&CONFIRM);
    let target = alice(&world);
    let body = world.put("user/alice/a.txt", b"hello");
    assert_eq!(world.call(&target, &body).verdict(), OK);
    let reads = world.bucket.reads().len();
    assert!(world.bucket.remove("user/alice/a.txt"));
    let reply = world.call(&target, &format!("{body}&reqId=2"));
    assert_eq!(reply.verdict(), "400 object is not in the bucket");
    world.put("user/alice/a.txt", b"hellO");
    assert_eq!(world.call(&target, &format!("{body}&reqId=3")).verdict(), DIFFERS);
    assert_eq!(world.record().len(), 1);
    // What is recorded was true then. A replay costs the bucket no request.
    assert_eq!(world.call(&target, &body).verdict(), OK);
    assert_eq!((world.record().len(), world.bucket.reads().len()), (1, reads + 2));
}

/// What is not ours to believe causes no request to the bucket either.
#[test]
fn the_bucket_is_asked_for_verified_callbacks_alone() {
    let world = world(&CONFIRM);
    let target = alice(&world);
    let body = world.put("user/alice/a.txt", b"hello");
    let junk = BASE64.encode([7; 64]);
    assert_eq!(world.call("/callback", &body).status, 400);
    assert_eq!(call_with(&world.server, &target, (&junk, PUB_KEY_URL), &body).status, 400);
    assert_eq!(world.call(&target, &body.replace("examplebucket", "evilbucket")).status, 400);
    assert_eq!(world.call(&target, &body.replace("alice", "bob")).status, 400);
    assert!(world.bucket.reads().is_empty());
    assert_eq!(world.call(&target, &body).verdict(), OK);
    let reads = world.bucket.reads();
    assert_eq!(reads.len(), 1);
    assert_eq!((&*reads[0].method, &*reads[0].key), ("HEAD", "user/alice/a.txt"));
}

/// Errors of OSS in place of an answer, and a connection that is refused.
#[test]
fn a_bucket_that_cannot_be_asked_is_503() {
    let world = world(&CONFIRM);
    let target = alice(&world);
    let body = world.put("user/alice/a.txt", b"hello");
    for (status, code) in [
        (403, "AccessDenied"),
        (400, "InvalidArgument"),
        (500, "InternalError"),
        (503, "ServiceUnavailable"),
        (429, "QpsLimitExceeded"),
        (304, "NotModified"),
        (301, "AccessDenied"),
        (204, "Nothing"),
    ] {
        world.bucket.faults().reads.push_back((status, code.to_owned()));
        assert_eq!(world.call(&target, &body).verdict(), UNREACHABLE, "{status}");
    }
    assert!(world.record().is_empty());
    assert_eq!(world.call(&target, &body).verdict(), OK, "and then it can");

    let dead = self::world(&[CONFIRM[0], ("OSS_INTERNAL_HOST", "http://127.0.0.1:9")]);
    let target = alice(&dead);
    assert_eq!(dead.call(&target, &body).verdict(), UNREACHABLE);
}

/// A timeout: OSS waits five seconds, so a bucket that says nothing must not make it give up. And
/// eight looks into one that hangs wait side by side, not one behind the other.
#[test]
fn a_bucket_that_hangs_is_503_before_oss_gives_up() {
    let world = world(&CONFIRM);
    world.bucket.faults().hang_reads = true;
    let policy = world.policy_for("alice");
    let send = |name: &str| assert_eq!(upload(&policy, name, b"hello", &[]).status, 203);
    send("alone.txt");
    let alone = world.last_callback(1);
    assert_eq!((alone.status, alone.error.as_deref()), (Some(503), Some("Error status : 503.")));
    world.server.wait_log("503 reason=\"bucket cannot be asked now\"");

    world.bucket.faults().callback_timeout = Duration::from_secs(60);
    thread::scope(|scope| {
        for n in 0..8 {
            scope.spawn(move || send(&format!("{n}.txt")));
        }
    });
    let together = world.bucket.wait_for_callbacks(9, PATIENCE);
    let together = together[1..].iter().map(|callback| callback.duration).max().unwrap();
    let alone = alone.duration;
    println!("a hanging bucket: one callback {alone:?}, the slowest of eight {together:?}");
    // The first of them may be alone in its batch, and the others wait for it: two batches.
    assert!(together < alone * 3, "{together:?} for eight, {alone:?} for one");
    assert!(world.record().is_empty());

    // One slow look, and those that come meanwhile: they do not inherit its fate.
    thread::scope(|scope| {
        scope.spawn(|| send("slow.txt"));
        assert!(world.bucket.wait_for_stalls(10, PATIENCE));
        world.bucket.faults().hang_reads = false;
        for n in 0..4 {
            let policy = &policy;
            scope.spawn(move || {
                let reply = upload(policy, &format!("quick{n}.txt"), b"x", &[]);
                assert_eq!(reply.verdict(), OK);
            });
        }
    });
    assert_eq!(world.record().len(), 4);
}

/// Each look is a thread and a connection: a flood of callbacks has at most sixteen.
#[test]
fn looks_into_the_bucket_are_bounded() {
    const CALLBACKS: usize = 40;
    let world = world(&CONFIRM);
    world.bucket.faults().hang_reads = true;
    let target = alice(&world);
    let answered = AtomicUsize::new(0);
    let mut rounds = Vec::new();
    thread::scope(|scope| {
        for n in 0..CALLBACKS {
            let (world, target, answered) = (&world, &target, &answered);
            scope.spawn(move || {
                let name = format!("user%2Falice%2F{n}.txt");
                let body = format!("filename={name}&size=5&bucket=examplebucket&etag=E");
                assert_ne!(world.call(target, &body).status, 200);
                answered.fetch_add(1, Relaxed);
            });
        }
        // Those that are at once hang until no more come.
        let (mut looks, mut round) = (0, 0);
        while answered.load(Relaxed) < CALLBACKS {
            if world.bucket.wait_for_stalls(looks + 1, Duration::from_millis(100)) {
                (looks, round) = (looks + 1, round + 1);
            } else {
                rounds.push(std::mem::take(&mut round));
                world.bucket.release();
            }
        }
    });
    println!("looks at once: {rounds:?}");
    // Without a bound, one of the first two rounds would have half of them. (One or two of a round
    // may be counted in the next.)
    let most = rounds.into_iter().max().unwrap();
    assert!((2..20).contains(&most), "{most} looks at once");
}

/// Keys with blanks, Unicode and every mark that a URL escapes: signed as OSS signs them.
#[test]
fn names_that_need_encoding_are_confirmed() {
    let marks = " !\"#$%&'()*+,-.:;<=>?@[\\]^_`{|}~";
    let mut names: Vec<String> = marks.chars().map(|mark| format!("a{mark}b.txt")).collect();
    names.extend(
        ["%41.txt", "%2F.txt", "a/.b/c", "..a", "a..", "...", ".hidden"].map(str::to_owned),
    );
    names.extend(["中文 文件.txt", "emoji😀.txt", "ü.txt", "u\u{308}.txt"].map(str::to_owned));
    names.push("长".repeat(337)); // with the folder, 1,022 bytes
    for (kind, body_type) in [("form", FORM), ("json", "application/json")] {
        let world = world(&[CONFIRM[0], ("CALLBACK_BODY_TYPE", body_type)]);
        for name in &names {
            let key = format!("user/alice/{name}");
            let policy = world.policy_for("alice");
            let reply = upload(&policy, "file", name.as_bytes(), &[("key", &key)]);
            assert_eq!(reply.verdict(), OK, "{kind} {name:?}: {}", world.last_post());
            assert_eq!(world.bucket.reads().pop().unwrap().key, key, "{kind}");
            assert_eq!(world.record().pop().unwrap()["object"], json!(key), "{kind}");
        }
        assert_eq!(world.record().len(), names.len());
    }
}

/// `OSS_INTERNAL_HOST` is the one that is asked, so that confirmations stay within Alibaba's
/// network; with STS credentials the `HEAD` carries their token.
#[test]
fn the_internal_endpoint_is_the_one_that_is_asked() {
    let options =
        Options { security_token: Some("exampleToken==".to_owned()), ..Options::default() };
    let inside = Standin::start(options.clone()).unwrap();
    let changes = [CONFIRM[0], ("OSS_INTERNAL_HOST", &inside.url())];
    let world = World::of(options, &[&TOKENS[..], &changes].concat());
    inside.put("user/alice/a b.txt", b"hello", "text/plain");
    assert_eq!(upload(&world.policy_for("alice"), "a b.txt", b"hello", &[]).verdict(), OK);
    assert_eq!((world.bucket.reads().len(), inside.reads().len()), (0, 1));
    let token = ("x-oss-security-token".to_owned(), "exampleToken==".to_owned());
    assert!(inside.reads()[0].headers.contains(&token));
}

/// With tokens off a body may say anything, or nothing: then there is nothing to confirm.
#[test]
fn confirmation_without_tokens_refuses_what_names_no_object() {
    let world = world(&[CONFIRM[0], ("CALLBACK_TOKEN", "off")]);
    let good = world.put("user/alice/a.txt", b"hello");
    assert_eq!(world.call("/callback", &good).verdict(), OK);
    let unread = world.call("/callback", "%zz");
    assert_eq!(unread.verdict(), "400 body is not of CALLBACK_BODY_TYPE");
    for body in
        ["hello", "", "filename=&size=&etag=", "size=5&etag=5D41402ABC4B2A76B9719D911017C592"]
    {
        let reply = world.call("/callback", body);
        assert_eq!(reply.verdict(), NO_OBJECT, "{body:?}");
    }
    // What is in another bucket of this name, our bucket cannot confirm.
    let other = good.replace("examplebucket", "evilbucket");
    assert_eq!(world.call("/callback", &other).verdict(), OTHER_BUCKET);
    assert_eq!(world.record().len(), 1);
}

/// Redirects, junk, another protocol: whatever answers, it is not followed, not believed, and does
/// not stop the next.
#[test]
fn a_bucket_that_answers_strangely_confirms_nothing() {
    let elsewhere = Host::start(|_| Vec::new());
    let (etag, to) = ("\"5D41402ABC4B2A76B9719D911017C592\"", elsewhere.url());
    let ok = |headers: &str| {
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{headers}\r\n").into_bytes()
    };
    let good = ok(&format!("Content-Length: 5\r\nETag: {etag}\r\n"));
    let elsewhere_said = format!(
        "HTTP/1.1 302 Found\r\nLocation: {to}/\r\nConnection: close\r\n\
         Content-Length: 0\r\n\r\n"
    );
    // What is no answer may be of a kept connection that was closed meanwhile: asked once more.
    let none = |answer: &str| [answer.into(), answer.into()].to_vec();
    let cases = [
        ([good.clone()].to_vec(), OK),
        ([elsewhere_said.into()].to_vec(), UNREACHABLE),
        (none(""), UNREACHABLE),
        (none("SSH-2.0-OpenSSH_9.2\r\n"), UNREACHABLE),
        (none("HTTP/1.1 200 OK\r\nContent-Le"), UNREACHABLE),
        ([b"".to_vec(), good.clone()].to_vec(), OK),
        ([b"".to_vec(), ok("")].to_vec(), DIFFERS),
        ([ok("")].to_vec(), DIFFERS),
        ([ok("Content-Length: 5\r\n")].to_vec(), DIFFERS),
        ([ok(&format!("ETag: {etag}\r\n"))].to_vec(), DIFFERS),
        ([ok(&format!("Content-Length: 6\r\nETag: {etag}\r\n"))].to_vec(), DIFFERS),
        ([ok("Content-Length: 5\r\nETag: \"\"\r\n")].to_vec(), DIFFERS),
        ([ok(&format!("Content-Length: 5\r\nETag: W/{etag}\r\n"))].to_vec(), DIFFERS),
        ([good].to_vec(), OK),
    ];
    let answers: Vec<Vec<u8>> = cases.iter().flat_map(|case| case.0.clone()).collect();
    let asked = AtomicUsize::new(0);
    let bucket = Host::start(move |_| answers[asked.fetch_add(1, Relaxed)].clone());
    let world = world(&[CONFIRM[0], ("OSS_INTERNAL_HOST", &bucket.url())]);
    let target = alice(&world);
    let body = world.put("user/alice/a.txt", b"hello");
    for (n, (answers, verdict)) in cases.iter().enumerate() {
        let reply = world.call(&target, &format!("{body}&reqId={n}"));
        let answer = String::from_utf8_lossy(&answers[0]);
        assert_eq!(reply.verdict(), *verdict, "{answer}");
    }
    assert!(elsewhere.asked().is_empty(), "the redirect was followed");
    let heads = bucket.asked();
    assert_eq!(heads.len(), cases.iter().map(|case| case.0.len()).sum::<usize>());
    for head in &heads {
        assert!(head.starts_with("HEAD /user/alice/a.txt HTTP/1.1\r\n"), "{head}");
        let signed = "\r\nauthorization: oss4-hmac-sha256 credential=";
        assert!(head.to_lowercase().contains(signed), "{head}");
        assert!(!head.contains("exampleAccessKeySecret"));
    }
    assert_eq!(world.record().len(), 3);
}

// From end to end.

/// Every field of the record, from a real upload: an image, variables, a subject.
#[test]
fn identity_flows_from_the_ticket_to_the_record() {
    let png = [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x03\0\0\0\x02\x08\x02\0\0\0"[..], &[0; 20]]
        .concat();
    let form = "filename=${object}&size=${size}&mimeType=${mimeType}&height=${imageInfo.height}&\
                width=${imageInfo.width}&format=${imageInfo.format}&bucket=${bucket}&etag=${etag}&\
                order=${x:order}&note=${x:note}&none=${x:none}&reqId=${reqId}&subject=c&object=c";
    let json = "{\"filename\":${object},\"size\":${size},\"mimeType\":${mimeType},\"height\":\
                ${imageInfo.height},\"width\":${imageInfo.width},\"format\":${imageInfo.format},\
                \"bucket\":${bucket},\"etag\":${etag},\"order\":${x:order},\"note\":${x:note},\
                \"none\":${x:none},\"reqId\":${reqId},\"subject\":\"c\",\"object\":\"c\"}";
    for (body_type, template) in [(FORM, form), ("application/json", json)] {
        let changes = [CONFIRM[0], ("CALLBACK_BODY_TYPE", body_type), ("CALLBACK_BODY", template)];
        let world = world(&changes);
        let custom =
            [("x:order", "42"), ("x:note", "grüße & \"mehr\" 😀\\"), ("Content-Type", "image/png")];
        let before = now();
        let policy = world.policy_for("alice@example.com");
        assert_eq!(upload(&policy, "mein bild.png", &png, &custom).verdict(), OK);
        let callback = world.last_callback(1);
        let [line] = &world.record()[..] else { panic!("one line") };
        let key = "user/alice@example.com/mein bild.png";
        let id = line["id"].as_str().unwrap();
        let is_hex = |byte| b"0123456789abcdef".contains(&byte);
        assert!(id.len() == 16 && id.bytes().all(is_hex), "{id}");
        let expected = json!({
            "id": id,
            "time": line["time"],
            "reqId": callback.request_id,
            "bucket": "examplebucket",
            "object": key,
            "size": png.len(),
            "etag": world.bucket.object(key).unwrap().etag,
            "mimeType": "image/png",
            "imageInfo.height": 2,
            "imageInfo.width": 3,
            "imageInfo.format": "png",
            // A field is no variable because it has the name of one.
            "custom": {
                "x:order": "42", "x:note": "grüße & \"mehr\" 😀\\", "subject": "c", "object": "c",
            },
            "subject": "alice@example.com",
        });
        assert_eq!(*line, expected);
        let time = line["time"].as_str().unwrap();
        let between = [before, now()].map(appserver::sys::time::iso8601);
        assert!(*between[0] <= *time && *time <= *between[1], "{time}");
        // The file is of that day, and has no other line.
        let name = format!("uploads-{}.jsonl", &time[..10]);
        assert!(world.folder.0.join("record").join(name).is_file());
    }
}

/// Path traversal, NUL, line ends: who makes paths of the record stays in the folder, on Unix and
/// on Windows.
#[test]
fn names_that_leave_their_folder_are_refused() {
    let world = world(&[]);
    let good = alice(&world);
    let body =
        |name: &str| format!("filename=user/alice/{name}&size=1&bucket=examplebucket&etag=x");
    let plain = ["", "/", "..", "../", ".", "./a", "../bob/a", "a/..", "a/./b", "a//b", "/a", "a/"];
    let others = ["a/../../bob/a", "..%5Cbob%5Ca", "a%5C..%5Cb", "a%5C", "%5Ca"];
    let controls = ["%00", "a%00.png", "a%0Ab", "a%0D%0Ab", "%1B[2J", "%7F", "%C2%85", "a%09b"];
    let long = "x".repeat(1013);
    for name in [&plain[..], &others, &controls, &[&*long]].concat() {
        assert_eq!(world.call(&good, &body(name)).verdict(), BAD_OBJECT, "{name:?}");
    }
    let fine = ["..a", "a..", "...", ".a", "a/.b", "a\u{202e}b", "%20", "%F0%9F%98%80", &long[1..]];
    for name in fine {
        assert_eq!(world.call(&good, &body(name)).verdict(), OK, "{name:?}");
    }
    assert_eq!(world.record().len(), fine.len());
    // Nor does it matter who issued the policy.
    let bare = self::world(&[("CALLBACK_TOKEN", "off")]);
    assert_eq!(bare.call("/callback", "filename=a/../b").verdict(), BAD_OBJECT);
    assert_eq!(bare.call("/callback", "filename=a/b").verdict(), OK);
}

/// A field that `CALLBACK_BODY` has as text carries no variable, whatever its name: a policy of
/// another server, whose fields have other names, cannot be taken for one of ours.
#[test]
fn a_constant_is_not_the_variable_of_the_same_name() {
    let body = "bucket=examplebucket&object=user/alice/a.txt&b=${bucket}&o=${object}&\
                n=${x:n}-${x:m}&x:n=const&v=${x:n}&size=7";
    let world = world(&[("CALLBACK_BODY", body)]);
    let good = alice(&world);
    let lie = "bucket=examplebucket&object=user/alice/a.txt&size=7&x:n=const&n=1-2&v=1";
    for (ours, verdict) in [
        ("", NO_OBJECT),
        ("&b=evilbucket&o=user/alice/a.txt", OTHER_BUCKET),
        ("&b=examplebucket&o=user/bob/a.txt", OTHER_PREFIX),
    ] {
        assert_eq!(world.call(&good, &format!("{lie}{ours}")).verdict(), verdict);
    }
    assert_eq!(world.call(&good, &format!("{lie}&b=examplebucket&o=user/alice/b")).verdict(), OK);
    let line = world.record().pop().unwrap();
    assert_eq!((&line["object"], &line["size"]), (&json!("user/alice/b"), &Value::Null));
    let custom = json!({
        "bucket": "examplebucket", "object": "user/alice/a.txt", "size": "7", "n": "1-2",
        "x:n": "1",
    });
    assert_eq!(line["custom"], custom);
}

/// A number, or not there. What OSS never sends stays what it is, as text.
#[test]
fn a_field_of_the_record_has_one_type() {
    let world = world(&[]);
    let good = alice(&world);
    let sizes = [
        ("5", json!(5), Value::Null),
        ("18446744073709551615", json!(u64::MAX), Value::Null),
        ("", Value::Null, Value::Null),
        ("-1", Value::Null, json!("-1")),
        ("5.0", Value::Null, json!("5.0")),
        ("18446744073709551616", Value::Null, json!("18446744073709551616")),
        ("many", Value::Null, json!("many")),
    ];
    for (n, (size, number, text)) in sizes.into_iter().enumerate() {
        let body =
            format!("filename=user/alice/5&size={size}&bucket=examplebucket&etag=12&reqId={n}");
        assert_eq!(world.call(&good, &body).verdict(), OK);
        let line = world.record().pop().unwrap();
        assert_eq!((&line["size"], &line["custom"]["size"]), (&number, &text), "{size:?}");
        assert_eq!((&line["etag"], &line["reqId"]), (&json!("12"), &json!(n.to_string())));
    }
    // The type is the configured one: what is no form does not become one by a header.
    let body = r#"{"filename":"user/alice/a","bucket":"examplebucket"}"#;
    let body = body.as_bytes();
    let message = trust::callback(&good, &world.bucket.sign(&good, body), "application/json", body);
    let reply = Connection::open(world.server.address).unwrap().ask(&message).unwrap();
    assert_eq!(reply.verdict(), NO_OBJECT);
}

/// `CALLBACK_TOKEN=off`: whatever OSS has signed is believed, as in Alibaba's samples. A body need
/// not parse. Then, and only then, it is in the record as it came.
#[test]
fn token_off_is_the_bare_protocol() {
    let world = world(&[("CALLBACK_TOKEN", "off")]);
    let policy = world.policy_for("alice");
    assert_eq!(target(&policy), "/callback");
    assert_eq!(upload(&policy, "a.txt", b"x", &[]).verdict(), OK);
    for (body, recorded, custom) in [
        ("bucket=evilbucket&filename=x", Value::Null, json!({})),
        ("hello", Value::Null, json!({ "hello": "" })),
        ("a=1", Value::Null, json!({ "a": "1" })),
        ("%zz \u{1}", json!("%zz \u{1}"), json!({})),
        ("a=%ff", json!("a=%ff"), json!({})),
    ] {
        for target in ["/callback", "/elsewhere?token=1&token=2"] {
            assert_eq!(world.call(target, body).verdict(), OK, "{target} {body}");
            let line = world.record().pop().unwrap();
            assert_eq!((&line["body"], &line["custom"]), (&recorded, &custom), "{body}");
        }
    }
    let junk = BASE64.encode([7; 64]);
    let reply = call_with(&world.server, "/callback", (&junk, PUB_KEY_URL), "a=1");
    assert_eq!(reply.verdict(), NO_SIGNATURE);
    // With a line feed in the path, one signature would be good for several bodies.
    let authorization = world.bucket.sign("/callback", b"a=1\nb=2");
    let signed = (&*authorization, PUB_KEY_URL);
    assert_eq!(call_with(&world.server, "/callback", signed, "a=1\nb=2").verdict(), OK);
    let split = call_with(&world.server, "/callback%0Aa=1", signed, "b=2");
    assert_eq!(split.verdict(), "400 path is not percent-encoded");
}

/// An uploader can claim any type in a callback of his own. The bucket knows better.
#[test]
fn the_content_type_is_that_of_the_bucket() {
    let world = world(&CONFIRM);
    let good = alice(&world);
    let body = world.put("user/alice/a.txt", b"<script>");
    assert_eq!(world.call(&good, &format!("{body}&mimeType=image/png")).verdict(), OK);
    assert_eq!(world.record().pop().unwrap()["mimeType"], json!("text/plain"));
}

/// No image has no size; what is empty is not a number.
#[test]
fn the_record_of_what_is_no_image() {
    for body_type in [FORM, "application/json"] {
        let world = world(&[("CALLBACK_BODY_TYPE", body_type)]);
        assert_eq!(upload(&world.policy_for("alice"), "a.txt", b"hello", &[]).verdict(), OK);
        let line = world.record().pop().unwrap();
        assert_eq!(line["size"], json!(5));
        let names: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert!(!names.iter().any(|name| name.starts_with("imageInfo")), "{names:?}");
        assert_eq!(line["custom"], json!({}));
    }
}

/// Neither the log nor any answer holds a secret, a ticket, a token, or what they are made of.
#[test]
fn nothing_secret_is_ever_said() {
    let options =
        Options { security_token: Some("exampleTokenNeverShown".to_owned()), ..Options::default() };
    let world = World::of(options.clone(), &[&TOKENS[..], &CONFIRM].concat());
    let good = ticket_for("alice");
    let bad = ticket("of somebody else, and long enough too", &json!({}));
    let policy = world.policy_of(&good);
    let target = target(&policy);
    let token = target.split_once("token=").unwrap().1;
    assert_eq!(upload(&policy, "a.txt", b"hello", &[]).verdict(), OK);
    let mut answers = Vec::new();
    for path in ["/", "/healthz", "/index.html", "/nothing"] {
        answers.push(world.get(path, &[]));
    }
    for text in [&good, &bad] {
        for target in ["/nothing?ticket=", "/healthz?ticket="] {
            answers.push(world.get(&format!("{target}{text}"), &[]));
        }
        let target = format!("/?ticket={text}");
        let _ = world.get(&target, &[]);
        answers.push(request(world.server.address, "DELETE", &target, &[], b""));
        answers.push(world.get(&format!("{target}#"), &[]));
        answers.push(world.get(&format!("{target}\u{fc}"), &[]));
    }
    let body = "filename=user%2Falice%2Fa.txt&size=5&bucket=examplebucket&etag=lie";
    for (end, body) in [("", body), ("x", body), ("&token=1", body), ("", "hello")] {
        answers.push(world.call(&format!("{target}{end}"), body));
    }
    world.bucket.faults().reads.push_back((403, "AccessDenied".to_owned()));
    answers.push(world.call(&target, body));
    answers.push(call_with(&world.server, &target, ("x", "http://evil.example/"), body));

    let mut said = world.server.log().join("\n");
    assert!(said.contains("reason=") && said.contains("callback bucket="), "{said}");
    for reply in answers {
        said += &format!("{:?}{}", reply.headers, reply.text());
    }
    for line in world.record() {
        said += &line.to_string();
    }
    let mac_of = |text: &str| text.rsplit_once('.').unwrap().1.to_owned();
    let (secret, macs) = (&*options.access_key_secret, [mac_of(token), mac_of(&good)]);
    for secret in [
        JWT_SECRET,
        TOKEN_KEY,
        secret,
        "exampleTokenNeverShown",
        &good,
        &bad,
        token,
        &macs[0],
        &macs[1],
    ] {
        assert!(!said.contains(secret), "{secret:?} in {said}");
    }
    // Not even a policy holds what signs it, except the STS token, which the form needs.
    let policy = policy.to_string() + &world.ask(V1, &good).text();
    assert!(policy.contains(&options.access_key_id));
    let check =
        run(&["--check"], &[&PLAIN[..], &TOKENS, &[("OSS_ACCESS_KEY_SECRET", secret)]].concat());
    assert_eq!(check.code, Some(0));
    for secret in [JWT_SECRET, TOKEN_KEY, secret, &good] {
        for text in [&policy, &check.stdout, &check.stderr] {
            assert!(!text.contains(secret), "{secret:?} in {text}");
        }
    }
}

/// Several callbacks on one keep-alive connection: the checks are the same.
#[test]
fn forgeries_between_good_ones_on_one_connection() {
    let world = world(&[]);
    let good = alice(&world);
    let mut connection = Connection::open(world.server.address).unwrap();
    for round in 0..20 {
        let target = if round % 2 == 0 { good.as_str() } else { "/callback?token=1.2.3" };
        let body = format!("{BODY}&reqId={round}").into_bytes();
        let message = trust::callback(target, &world.bucket.sign(target, &body), FORM, &body);
        let status = connection.ask(&message).unwrap().status;
        assert_eq!(status, if round % 2 == 0 { 200 } else { 400 });
    }
    assert_eq!(world.record().len(), 10);
}
