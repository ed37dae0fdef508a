//! The chain of trust over the real binary, with the stand-in bucket as the adversary: ticket,
//! policy, callback, record. A test per forgery; the attacks' table in `src/README.md` names them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use oss_standin::{CallbackRecord, Options, STRANGER_KEY_PEM, Standin};
use serde_json::{Value, json};
use support::Connection;
use support::trust::{self, callback_token, now, ticket, ticket_of};
use support::{Folder, Reply, Server, request, run, upload};

const V1: &str = "/";
const V4: &str = "/get_post_signature_for_oss_upload";
const FORM: &str = "application/x-www-form-urlencoded";
const SECRET: &str = "ticketSecretOfMoreThanThirtyTwoBytes";
const TOKEN_KEY: &str = "tokenKeyOfMoreThanThirtyTwoCharacters";
const PATIENCE: Duration = Duration::from_secs(30);

/// A bucket and the server that signs for it, with all checks but the look into the bucket.
struct World {
    bucket: Standin,
    server: Server,
    folder: Folder,
}

/// The environment of a server for this bucket, its record in `folder`.
fn vars(bucket: &Standin, options: &Options, folder: &std::path::Path) -> Vec<(String, String)> {
    let key = folder.join("key.pem");
    let record = folder.join("record");
    std::fs::create_dir_all(&record).unwrap();
    std::fs::write(&key, bucket.public_key_pem()).unwrap();
    let vars = [
        ("OSS_ACCESS_KEY_ID", options.access_key_id.as_str()),
        ("OSS_ACCESS_KEY_SECRET", &options.access_key_secret),
        ("OSS_SESSION_TOKEN", options.security_token.as_deref().unwrap_or_default()),
        ("OSS_HOST", &bucket.url()),
        ("OSS_BUCKET", &options.bucket),
        ("OSS_REGION", &options.region),
        ("CALLBACK_PUBLIC_KEY_FILE", key.to_str().unwrap()),
        ("UPLOAD_DIR", "user/"),
        ("UPLOAD_JWT_SECRET", SECRET),
        ("CALLBACK_TOKEN", "on"),
        ("CALLBACK_TOKEN_KEY", TOKEN_KEY),
        ("UPLOAD_LOG", record.to_str().unwrap()),
    ];
    vars.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn world(changes: &[(&str, &str)]) -> World {
    world_of(Options::default(), changes)
}

fn world_of(options: Options, changes: &[(&str, &str)]) -> World {
    let folder = Folder::new();
    let bucket = Standin::start(options.clone()).unwrap();
    let vars = vars(&bucket, &options, &folder.0);
    let mut vars: Vec<(&str, &str)> = vars.iter().map(|(n, v)| (&**n, &**v)).collect();
    vars.extend(changes);
    let server = Server::start_called_back(&vars);
    World { bucket, server, folder }
}

impl World {
    fn get(&self, target: &str, headers: &[(&str, &str)]) -> Reply {
        request(self.server.address, "GET", target, headers, b"")
    }

    /// A policy for who shows `ticket`.
    fn policy_for(&self, ticket: &str) -> Value {
        let reply = self.get(V4, &[("Authorization", &format!("Bearer {ticket}"))]);
        assert_eq!(reply.status, 200, "{}", reply.text());
        serde_json::from_slice(&reply.body).unwrap()
    }

    fn policy(&self, subject: &str) -> Value {
        self.policy_for(&ticket_for(subject))
    }

    /// Uploads with the `fields` of a policy after `change` (an empty value removes).
    fn upload(&self, policy: &Value, name: &str, bytes: &[u8], change: &[(&str, &str)]) -> Reply {
        upload(policy, name, bytes, change)
    }

    /// A callback that OSS's own key has signed, whoever made it do so.
    fn call(&self, target: &str, body: &str) -> Reply {
        let authorization = self.bucket.sign(target, body.as_bytes());
        self.call_with(target, &authorization, oss_standin::PUB_KEY_URL, body)
    }

    fn call_with(&self, target: &str, authorization: &str, key_url: &str, body: &str) -> Reply {
        let key_url = BASE64.encode(key_url);
        let headers = [
            ("Authorization", authorization),
            ("x-oss-pub-key-url", &*key_url),
            ("Content-Type", FORM),
        ];
        request(self.server.address, "POST", target, &headers, body.as_bytes())
    }

    /// Puts an object in and gives the callback's body for it.
    fn put(&self, key: &str, bytes: &[u8]) -> String {
        self.bucket.put(key, bytes, "text/plain");
        let etag = self.bucket.object(key).unwrap().etag;
        let name = key.replace('/', "%2F");
        format!("filename={name}&size={}&bucket=examplebucket&etag={etag}", bytes.len())
    }

    /// All lines of the record.
    fn record(&self) -> Vec<Value> {
        record(&self.folder.0.join("record"))
    }

    /// The line of the POST that was answered last.
    fn last_post(&self) -> String {
        self.server.log().into_iter().rfind(|line| line.contains(" POST ")).unwrap()
    }

    /// The callback that the bucket made last.
    fn last_callback(&self, count: usize) -> CallbackRecord {
        let mut callbacks = self.bucket.wait_for_callbacks(count, PATIENCE);
        assert_eq!(callbacks.len(), count);
        callbacks.pop().unwrap()
    }
}

fn record(folder: &std::path::Path) -> Vec<Value> {
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let text: String = names.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ticket_for(subject: &str) -> String {
    ticket(SECRET, &json!({ "sub": subject, "exp": now() + 600 }))
}

fn reason(reply: &Reply) -> (u16, String) {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    (reply.status, body["reason"].as_str().unwrap_or_default().to_owned())
}

fn refused(status: u16, words: &str) -> (u16, String) {
    (status, words.to_owned())
}

fn accepted(reply: &Reply) -> bool {
    reply.status == 200 && reply.text() == r#"{"Status":"OK"}"#
}

/// The callback parameter that a policy pins.
fn parameter(policy: &Value) -> Value {
    let callback = policy["callback"].as_str().unwrap();
    serde_json::from_slice(&BASE64.decode(callback).unwrap()).unwrap()
}

/// Path and query of every callback URL of a policy.
fn targets(policy: &Value) -> Vec<String> {
    let parameter = parameter(policy);
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

// Who may upload.

#[test]
fn a_ticket_becomes_a_folder_and_a_subject() {
    let world = world(&[]);
    for contract in [V1, V4] {
        for (name, headers, target) in [
            ("bearer.txt", vec![("Authorization", format!("Bearer {}", ticket_for("alice")))], ""),
            ("lower.txt", vec![("authorization", format!("bearer {}", ticket_for("alice")))], ""),
            ("query.txt", vec![], &*format!("?ticket={}", ticket_for("alice"))),
            ("among.txt", vec![], &*format!("?a=1&ticket={}&b=2", ticket_for("alice"))),
        ] {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let reply = world.get(&format!("{contract}{target}"), &headers);
            let policy: Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!((reply.status, &policy["dir"]), (200, &json!("user/alice/")), "{name}");
            assert!(accepted(&world.upload(&policy, name, b"hello", &[])), "{name}");
            world.server.wait_log(&format!("object=\"user/alice/{name}\""));
            world.server.wait_log("subject=\"alice\"");
            let line = world.record().pop().unwrap();
            assert_eq!(line["object"], json!(format!("user/alice/{name}")));
            assert_eq!(line["subject"], json!("alice"));
        }
    }
}

/// Each with its own words, and readable by a page of any origin that may read the policy.
#[test]
fn without_a_good_ticket_there_is_no_policy() {
    let world = world(&[]);
    let exp = now() + 600;
    let good = json!({ "sub": "alice", "exp": exp });
    let forged = |header: &str| ticket_of(SECRET, header, &good.to_string());
    let with = |change: Value| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        ticket(SECRET, &claims)
    };
    let none = forged(r#"{"alg":"none"}"#);
    let unsigned = format!("{}.", none.rsplit_once('.').unwrap().0);
    let bad = "ticket is not a JWT of up to 4096 bytes";
    let alg = "ticket's alg is not HS256, or it has crit";
    let mac = "ticket is not signed with UPLOAD_JWT_SECRET";
    let milliseconds = "ticket's exp is in milliseconds, not in seconds";
    let sub = "ticket has no usable sub";
    for (what, text, words) in [
        ("a dot", ".".to_owned(), bad),
        ("dots", "..".to_owned(), alg),
        ("alg none", none, alg),
        ("alg none, unsigned", unsigned, alg),
        ("RS256", forged(r#"{"alg":"RS256"}"#), alg),
        ("HS512", forged(r#"{"alg":"HS512"}"#), alg),
        ("crit", forged(r#"{"alg":"HS256","crit":["exp"]}"#), alg),
        ("other secret", ticket("another secret, as long as the first one", &good), mac),
        ("the access key's secret", ticket("exampleAccessKeySecret", &good), mac),
        ("the key of tokens", ticket(TOKEN_KEY, &good), mac),
        ("no exp", ticket(SECRET, &json!({ "sub": "alice" })), "ticket's exp is missing"),
        ("exp as text", with(json!({ "exp": exp.to_string() })), "ticket's exp is not a number"),
        ("exp in milliseconds", with(json!({ "exp": exp * 1000 })), milliseconds),
        ("max", with(json!({ "max": "10" })), "ticket's max is not a whole number from 1"),
        (
            "mixed",
            with(json!({ "types": ["a/*", "b/c"] })),
            "ticket's types has image/* beside others",
        ),
        ("expired", with(json!({ "exp": now() - 1 })), "ticket has expired"),
        ("nbf", with(json!({ "nbf": now() + 120 })), "ticket is not valid yet"),
        ("iat", with(json!({ "iat": now() + 120 })), "ticket is not valid yet"),
        ("no sub", ticket(SECRET, &json!({ "exp": exp })), sub),
        ("empty sub", with(json!({ "sub": "" })), sub),
        ("../", with(json!({ "sub": "../" })), sub),
        ("%2e%2e", with(json!({ "sub": "%2e%2e" })), sub),
        ("a/b", with(json!({ "sub": "a/b" })), sub),
        ("NUL", with(json!({ "sub": "a\0b" })), sub),
        ("4 KB", with(json!({ "sub": "a".repeat(3200) })), bad),
        (
            "types",
            with(json!({ "types": "text/plain" })),
            "ticket's types is not a list of content types",
        ),
        ("no types", with(json!({ "types": [] })), "ticket allows no content type"),
    ] {
        let header = format!("Bearer {text}");
        let origin = ("Origin", "https://www.example.com");
        let replies = [
            world.get(V1, &[("Authorization", &header), origin]),
            world.get(V4, &[("Authorization", &header), origin]),
            world.get(&format!("{V4}?ticket={text}"), &[origin]),
        ];
        for reply in replies {
            assert_eq!(reason(&reply), refused(401, words), "{what}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{what}");
            assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{what}");
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{what}");
        }
    }
    // 10 KB end at the proxy.
    let huge = with(json!({ "sub": "a".repeat(10_240) }));
    let reply = world.get(V4, &[("Authorization", &format!("Bearer {huge}"))]);
    assert_eq!(reply.status, 431);
    for headers in [
        vec![],
        vec![("Authorization", "Basic YWxpY2U6eA==")],
        vec![("Authorization", "Bearer")],
        vec![("Authorization", SECRET)],
        vec![("X-Ticket", "x")],
    ] {
        for target in [V1, V4, "/?Ticket=x", "/?tickets=x", "/?ticket"] {
            let reply = world.get(target, &headers);
            assert_eq!(reason(&reply), refused(401, "ticket is missing"), "{headers:?} {target}");
        }
    }
    // A header that is no good is not made good by the query.
    let target = format!("{V4}?ticket={}", ticket_for("alice"));
    let reply = world.get(&target, &[("Authorization", "Bearer x.y.z")]);
    assert_eq!(reason(&reply), refused(401, bad));
    let reply = world.get(&target, &[("Authorization", "Basic YWxpY2U6eA==")]);
    assert_eq!(reply.status, 200, "a proxy's own password is no ticket");
    assert!(world.bucket.posts().is_empty() && world.record().is_empty());
}

#[test]
fn a_page_may_read_the_refusal_and_send_the_header() {
    let world = world(&[("ALLOW_ORIGIN", "https://www.example.com")]);
    for (origin, allowed) in [
        ("https://www.example.com", Some("https://www.example.com")),
        ("https://evil.example", None),
    ] {
        let reply = world.get(V4, &[("Origin", origin)]);
        assert_eq!(reply.status, 401);
        assert_eq!(reply.header("access-control-allow-origin"), allowed);
        assert_eq!(reply.header("vary"), Some("Origin"));
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "GET"),
            ("Access-Control-Request-Headers", "authorization"),
        ];
        let reply = request(world.server.address, "OPTIONS", V4, &headers, b"");
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (204, allowed));
        let names = reply.header("access-control-allow-headers").unwrap().to_lowercase();
        // A star would not do: it leaves out exactly this one (Fetch, 4.9).
        assert!(names.split(", ").any(|name| name == "authorization"), "{names}");
    }
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
    let policy = world.policy("alice");
    let body = "filename=user%2Falice%2Fa.txt&size=1&bucket=examplebucket&etag=x";
    assert!(accepted(&world.call(&target(&policy), body)));
}

#[test]
fn a_ticket_narrows_and_never_widens() {
    let changes = [("MAX_UPLOAD_BYTES", "1000"), ("UPLOAD_CONTENT_TYPES", "image/png,text/plain")];
    let world = world(&changes);
    let ask = |claims: Value| {
        let mut all = json!({ "sub": "alice", "exp": now() + 600 });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        world.get(V4, &[("Authorization", &format!("Bearer {}", ticket(SECRET, &all)))])
    };
    let conditions = |reply: &Reply| -> Value {
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        let policy = BASE64.decode(answer["policy"].as_str().unwrap()).unwrap();
        serde_json::from_slice::<Value>(&policy).unwrap()["conditions"].clone()
    };
    let find = |conditions: &Value, what: &str| -> Value {
        let find = |condition: &&Value| condition.to_string().contains(what);
        conditions.as_array().unwrap().iter().find(find).cloned().unwrap_or_default()
    };
    for (max, allowed) in [
        (json!({}), 1000),
        (json!({ "max": 10 }), 10),
        (json!({ "max": 1000 }), 1000),
        (json!({ "max": 1001 }), 1000),
        (json!({ "max": u64::MAX }), 1000),
    ] {
        let range = find(&conditions(&ask(max.clone())), "content-length-range");
        assert_eq!(range, json!(["content-length-range", 0, allowed]), "{max}");
    }
    let all = json!(["in", "$content-type", ["image/png", "text/plain"]]);
    for (types, expected) in [
        (json!({}), all),
        (json!({ "types": ["text/plain"] }), json!(["eq", "$content-type", "text/plain"])),
        (
            json!({ "types": ["text/html", "text/plain"] }),
            json!(["eq", "$content-type", "text/plain"]),
        ),
        (
            json!({ "types": ["text/plain", "image/png", "text/html"] }),
            json!(["in", "$content-type", ["text/plain", "image/png"]]),
        ),
        (json!({ "types": ["image/*"] }), json!(["eq", "$content-type", "image/png"])),
    ] {
        let found = find(&conditions(&ask(types.clone())), "$content-type");
        assert_eq!(found, expected, "{types}");
    }
    for types in [
        json!([]),
        json!(["text/html"]),
        json!(["audio/*"]),
        json!([""]),
        json!(["IMAGE/PNG"]),
        json!(["image/png,text/plain"]),
    ] {
        let reply = ask(json!({ "types": types }));
        assert_eq!(reason(&reply), refused(401, "ticket allows no content type"), "{types}");
    }
    // And the bucket holds the uploader to it.
    let claims = json!({ "sub": "alice", "exp": now() + 600, "max": 10, "types": ["text/plain"] });
    let policy = world.policy_for(&ticket(SECRET, &claims));
    assert!(accepted(&world.upload(&policy, "a.txt", &[0; 10], &[])));
    assert_eq!(world.upload(&policy, "b.txt", &[0; 11], &[]).status, 400);
    assert_eq!(world.upload(&policy, "c.txt", b"x", &[("Content-Type", "image/png")]).status, 403);
    assert_eq!(world.bucket.keys(), ["user/alice/a.txt"]);
}

/// `image/*` means what people mean by it, wherever it stands; the bucket holds uploaders to it.
#[test]
fn a_pattern_of_types_is_a_prefix() {
    for (configured, claimed, condition) in [
        ("image/*", json!(null), json!(["starts-with", "$content-type", "image/"])),
        ("image/*", json!(["image/*"]), json!(["starts-with", "$content-type", "image/"])),
        ("", json!(["image/*"]), json!(["starts-with", "$content-type", "image/"])),
        (
            "image/*",
            json!(["image/png", "text/plain"]),
            json!(["eq", "$content-type", "image/png"]),
        ),
        ("image/png,text/plain", json!(["image/*"]), json!(["eq", "$content-type", "image/png"])),
    ] {
        let world = world(&[("UPLOAD_CONTENT_TYPES", configured)]);
        let mut claims = json!({ "sub": "alice", "exp": now() + 600 });
        if !claimed.is_null() {
            claims["types"] = claimed.clone();
        }
        let policy = world.policy_for(&ticket(SECRET, &claims));
        let text = BASE64.decode(policy["policy"].as_str().unwrap()).unwrap();
        let text: Value = serde_json::from_slice(&text).unwrap();
        let conditions = text["conditions"].as_array().unwrap();
        assert!(conditions.contains(&condition), "{configured} {claimed}: {text}");
        let is_exact = condition[0] == "eq";
        assert_eq!(policy["fields"].get("Content-Type").is_some(), is_exact, "{configured}");
        let png = world.upload(&policy, "a.png", b"x", &[("Content-Type", "image/png")]);
        assert!(accepted(&png), "{configured} {claimed}: {}", png.text());
        for other in ["text/plain", "imageX/png", "application/image/"] {
            let other = world.upload(&policy, "a.txt", b"x", &[("Content-Type", other)]);
            assert_eq!(other.status, 403, "{configured} {claimed}");
        }
    }
}

/// A server that allows any type takes the ticket's list as it is.
#[test]
fn the_types_of_a_ticket_stand_where_the_configuration_has_none() {
    let world = world(&[]);
    let claims = json!({ "sub": "alice", "exp": now() + 600, "types": ["text/plain"] });
    let policy = world.policy_for(&ticket(SECRET, &claims));
    assert_eq!(world.upload(&policy, "a.txt", b"x", &[("Content-Type", "text/html")]).status, 403);
    assert!(accepted(&world.upload(&policy, "a.txt", b"x", &[])));
    let claims = json!({ "sub": "alice", "exp": now() + 600, "types": [] });
    let reply = world.get(V4, &[("Authorization", &format!("Bearer {}", ticket(SECRET, &claims)))]);
    assert_eq!(reason(&reply), refused(401, "ticket allows no content type"));
}

#[test]
fn a_policy_never_outlives_its_ticket() {
    let world = world(&[("EXPIRE_TIME", "3600")]);
    let expire = now() + 100;
    for exp in [json!(expire), json!(expire as f64 + 0.9)] {
        let ticket = ticket(SECRET, &json!({ "sub": "alice", "exp": exp }));
        for contract in [V1, V4] {
            let reply = world.get(contract, &[("Authorization", &format!("Bearer {ticket}"))]);
            let policy: Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(policy["expire"], json!(expire));
            // The bucket agrees, a second later.
            world.bucket.set_clock(Some(expire + 1));
            let reply = world.upload(&policy, "late.txt", b"x", &[]);
            assert!(reply.status == 403 && reply.text().contains("Policy expired"));
            world.bucket.set_clock(None);
            let token = target(&policy).split_once("?token=").unwrap().1.to_owned();
            assert!(token.starts_with(&format!("{expire}.")), "{token}");
        }
    }
    let long = ticket(SECRET, &json!({ "sub": "alice", "exp": now() + 1_000_000 }));
    let before = now() + 3600;
    let expire = world.policy_for(&long)["expire"].as_u64().unwrap();
    assert!((before..=now() + 3600).contains(&expire), "the configuration's end holds too");
}

/// The proxy repeats responses within a second. It must never repeat one person's to another.
#[test]
fn two_users_get_their_own_folders_within_one_second() {
    let world = world(&[]);
    let (alice, bob) = (ticket_for("alice"), ticket_for("bob"));
    let mut connection = Connection::open(world.server.address).unwrap();
    let mut ask = |target: &str, header: &str| {
        let message = format!("GET {target} HTTP/1.1\r\nHost: x\r\n{header}\r\n");
        let reply = connection.ask(message.as_bytes()).unwrap();
        let policy: Value = serde_json::from_slice(&reply.body).unwrap();
        (reply.status, policy["dir"].clone(), policy["x_oss_date"].clone())
    };
    let mut together = 0;
    for _ in 0..50 {
        let mut dates = Vec::new();
        for (text, folder) in [(&alice, "user/alice/"), (&bob, "user/bob/")] {
            for (target, header) in [
                (V4.to_owned(), format!("Authorization: Bearer {text}\r\n")),
                (format!("{V4}?ticket={text}"), String::new()),
            ] {
                let (status, dir, date) = ask(&target, &header);
                assert_eq!((status, dir), (200, json!(folder)));
                dates.push(date);
            }
        }
        assert_eq!(ask(V4, "").0, 401);
        assert_eq!(ask(V4, "Authorization: Bearer a.b.c\r\n").0, 401);
        together += u32::from(dates.iter().all(|date| *date == dates[0]));
    }
    assert!(together > 0, "no four answers of one second: nothing was shown");
    assert!(!world.server.log().iter().any(|line| line.contains(" again")));
}

#[test]
fn without_a_secret_anybody_may_upload_and_the_start_says_so() {
    let world = world(&[("UPLOAD_JWT_SECRET", "")]);
    world.server.wait_log("UPLOAD_JWT_SECRET is not set: anybody who can reach this server may");
    let reply = world.get(V4, &[("Authorization", "Bearer x.y.z")]);
    let policy: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(policy["dir"], json!("user/"));
    assert!(accepted(&world.upload(&policy, "a.txt", b"x", &[])));
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
    let policy = world.policy("alice");
    let mut edited = parameter(&policy);
    edited["callbackUrl"] = json!("http://127.0.0.1:9/");
    let edited = BASE64.encode(edited.to_string());
    let mut body = parameter(&policy);
    body["callbackBody"] = json!("bucket=${bucket}&filename=${object}&size=1&etag=${etag}");
    let body = BASE64.encode(body.to_string());
    let bobs = world.policy("bob")["callback"].as_str().unwrap().to_owned();
    for (what, callback) in [("dropped", ""), ("url", &edited), ("body", &body), ("bob's", &bobs)] {
        let reply = world.upload(&policy, "a.txt", b"x", &[("callback", callback)]);
        assert_eq!(reply.status, 403, "{what}: {}", reply.text());
    }
    assert_eq!(world.upload(&policy, "a.txt", b"x", &[("key", "user/bob/a.txt")]).status, 403);
    assert!(world.bucket.callbacks().is_empty() && world.bucket.keys().is_empty());
    assert!(world.record().is_empty());
}

/// A customer of OSS like any other has his own bucket call us back. OSS signs what he likes.
#[test]
fn another_customers_bucket_is_refused() {
    let world = world(&[]);
    let options = Options {
        bucket: "evilbucket".to_owned(),
        access_key_id: "LTAI5tMallory".to_owned(),
        access_key_secret: "mallorysSecret".to_owned(),
        ..Options::default()
    };
    let evil = Standin::start(options.clone()).unwrap();
    let policy = world.policy("alice"); // he may upload himself: the token in it is good
    let (bare, good) = (format!("{}/callback", world.server.url()), target(&policy));
    let with_token = format!("{}{good}", world.server.url());
    let ours = "bucket=examplebucket&size=1&etag=x";
    for (what, url, body, words) in [
        ("no token", &bare, &*format!("{ours}&filename=user%2Falice%2Fa"), "token is missing"),
        (
            "an invented one",
            &format!("{bare}?token=1.2.3"),
            ours,
            "token is not one of ours for this path",
        ),
        (
            "his own bucket",
            &with_token,
            "bucket=${bucket}&filename=user%2Falice%2Fa",
            "another bucket",
        ),
        ("no bucket", &with_token, "filename=user%2Falice%2Fa", "body does not name a bucket"),
        (
            "two buckets",
            &with_token,
            "bucket=examplebucket&bucket=${bucket}&filename=user%2Falice%2Fa",
            "another bucket",
        ),
        ("no object", &with_token, ours, "body does not name an object"),
        ("no fields", &with_token, "hello", "body does not name an object"),
        (
            "bob's prefix",
            &with_token,
            &format!("{ours}&filename=user%2Fbob%2Fa"),
            "object is not under the token's prefix",
        ),
        (
            "the parent",
            &with_token,
            &format!("{ours}&filename=user%2F"),
            "object's name is no path within its folder",
        ),
        (
            "a longer name",
            &with_token,
            &format!("{ours}&filename=user%2Falice2%2Fa"),
            "object is not under the token's prefix",
        ),
        ("no name", &with_token, &format!("{ours}&filename="), "body does not name an object"),
        (
            "escaped twice",
            &with_token,
            &format!("{ours}&filename=user%252Falice%252Fa"),
            "object is not under the token's prefix",
        ),
        (
            "his object",
            &with_token,
            &format!("{ours}&filename=${{object}}"),
            "object is not under the token's prefix",
        ),
    ] {
        // His bucket needs policies too: what makes them is this same program.
        let mallory = Server::start(&[
            ("OSS_HOST", &evil.url()),
            ("OSS_BUCKET", &options.bucket),
            ("OSS_REGION", &options.region),
            ("OSS_ACCESS_KEY_ID", &options.access_key_id),
            ("OSS_ACCESS_KEY_SECRET", &options.access_key_secret),
            ("CALLBACK_URL", url),
            ("CALLBACK_BODY", body),
        ]);
        let reply = request(mallory.address, "GET", V4, &[], b"");
        let reply = upload(&serde_json::from_slice(&reply.body).unwrap(), "a", b"x", &[]);
        assert_eq!(reply.status, 203, "{what}: {}", reply.text());
        // OSS does not pass our words on; the log has them.
        let line = world.last_post();
        assert!(line.ends_with(&format!("400 reason={words:?}")), "{what}: {line}");
    }
    assert!(world.record().is_empty());
    // The same as direct requests, so that each is seen to fail for its own reason.
    let object = "filename=user%2Falice%2Fa.txt";
    for (target, body, words) in [
        ("/callback", format!("{ours}&{object}"), "token is missing"),
        (&good, format!("bucket=evilbucket&{object}"), "another bucket"),
        (&good, object.to_owned(), "body does not name a bucket"),
        (
            &good,
            format!("{ours}&filename=user%2Fbob%2Fa"),
            "object is not under the token's prefix",
        ),
        (&good, "hello".to_owned(), "body does not name an object"),
    ] {
        assert_eq!(reason(&world.call(target, &body)), refused(400, words), "{target} {body}");
    }
    assert!(accepted(&world.call(&good, &format!("{ours}&{object}"))), "and the honest one passes");
    assert_eq!(world.record().len(), 1);
}

/// 512 bits can be factored: whoever holds the private key signs what he likes, without OSS.
#[test]
fn the_private_key_of_oss_is_not_enough() {
    let world = world(&[]);
    let body = "filename=user%2Falice%2Fa.txt&size=1&bucket=examplebucket&etag=x";
    let expire = now() + 100;
    let forged = "token is not one of ours for this path";
    for secret in ["", "exampleAccessKeySecret", SECRET, oss_standin::PRIVATE_KEY_PEM] {
        let token = callback_token(secret, "/callback", expire, "user/alice/");
        let reply = world.call(&format!("/callback?token={token}"), body);
        assert_eq!(reason(&reply), refused(400, forged));
    }
    assert_eq!(reason(&world.call("/callback", body)), refused(400, "token is missing"));
    assert!(world.record().is_empty());
}

#[test]
fn a_token_does_not_stand_for_the_signature() {
    let world = world(&[]);
    let body = "filename=user%2Falice%2Fa.txt&size=1&bucket=examplebucket&etag=x";
    let target = target(&world.policy("alice"));
    let stranger = Standin::sign_with(STRANGER_KEY_PEM, &target, body.as_bytes()).unwrap();
    let other_body = world.bucket.sign(&target, b"size=2");
    let other_target = world.bucket.sign("/callback", body.as_bytes());
    for authorization in [stranger, other_body, other_target] {
        let reply = world.call_with(&target, &authorization, oss_standin::PUB_KEY_URL, body);
        assert_eq!(reason(&reply), refused(400, "signature does not match"));
    }
    assert!(world.record().is_empty());
}

#[test]
fn forged_tokens_are_refused() {
    let world = world(&[("CALLBACK_TOKEN_TTL", "1")]);
    let body = "filename=user%2Falice%2Fa.txt&size=1&bucket=examplebucket&etag=x";
    let good = callback_token(TOKEN_KEY, "/callback", now() + 100, "user/alice/");
    let (missing, forged) = ("token is missing", "token is not one of ours for this path");
    assert!(accepted(&world.call(&format!("/callback?token={good}"), body)));
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        let reply = world.call(&format!("/callback?token={changed}"), body);
        assert_eq!(reason(&reply), refused(400, forged), "character {at}");
    }
    let expired = callback_token(TOKEN_KEY, "/callback", now() - 3, "user/alice/");
    let other_path = callback_token(TOKEN_KEY, "/other", now() + 100, "user/alice/");
    let other_prefix = callback_token(TOKEN_KEY, "/callback", now() + 100, "user/bob/");
    for (query, words) in [
        (String::new(), missing),
        ("?".to_owned(), missing),
        ("?token".to_owned(), missing),
        ("?token=".to_owned(), forged),
        (format!("?{good}"), missing),
        (format!("?token={}", &good[..good.len() - 1]), forged),
        (format!("?token={good}="), forged),
        (format!("?token={good}&token={good}"), missing),
        (format!("?token={good}&token=x"), missing),
        (format!("?token=x&token={good}"), missing),
        (format!("?token={}", good.replace('.', "%2e")), forged),
        (format!("?token={expired}"), "token has expired"),
        (format!("?token={other_path}"), forged),
        (format!("?token={other_prefix}"), "object is not under the token's prefix"),
    ] {
        let reply = world.call(&format!("/callback{query}"), body);
        assert_eq!(reason(&reply), refused(400, words), "{query}");
    }
    // Replayed to another path, whether or not anything else is there.
    for path in ["/", "/callback/", "/Callback", "//callback", "/callback%00", "/other"] {
        let reply = world.call(&format!("{path}?token={good}"), body);
        assert_eq!(reason(&reply), refused(400, forged), "{path}");
    }
    // The same path in another spelling is the same path, and so it is the same callback.
    assert!(accepted(&world.call(&format!("/%63allback?token={good}"), body)));
    assert_eq!(world.record().len(), 1);
}

/// A last character that the token does not have, of those that base64 allows there.
fn other_end(token: &str) -> char {
    if token.ends_with('A') { 'Q' } else { 'A' }
}

/// Only then is a mistake in the callback the cause: neither RSA nor the network is asked.
#[test]
fn without_a_good_token_no_key_is_fetched_and_no_signature_looked_at() {
    let bucket = Standin::start(Options::default()).unwrap();
    let origin = bucket.key_origin();
    let world = world(&[("CALLBACK_PUBLIC_KEY_FILE", ""), ("CALLBACK_KEY_ORIGIN", &origin)]);
    world.server.wait_log("callback key v1: fetched");
    let unknown = "http://gosspublic.alicdn.com/callback_pub_key_v7.pem";
    let body = "filename=user%2Falice%2Fa.txt&size=1&bucket=examplebucket&etag=x";
    let good = callback_token(TOKEN_KEY, "/callback", now() + 100, "user/alice/");
    let old = callback_token(TOKEN_KEY, "/callback", now() - 1_000_000, "user/alice/");
    for (query, words) in [
        (String::new(), "token is missing"),
        ("?token=1.2.3".to_owned(), "token is not one of ours for this path"),
        (
            format!("?token={}{}", &good[..good.len() - 1], other_end(&good)),
            "token is not one of ours for this path",
        ),
        (format!("?token={old}"), "token has expired"),
        (format!("?token={good}&token={good}"), "token is missing"),
    ] {
        let target = format!("/callback{query}");
        // A signature that is none would be another reason, if anybody looked.
        let junk = BASE64.encode([7; 64]);
        for key_url in [unknown, oss_standin::PUB_KEY_URL] {
            for authorization in [&world.bucket.sign(&target, body.as_bytes()), &junk] {
                let reply = world.call_with(&target, authorization, key_url, body);
                assert_eq!(reason(&reply), refused(400, words), "{query}");
            }
        }
    }
    assert_eq!(bucket.key_requests(), ["/callback_pub_key_v1.pem"]);
    // With a good token the same request does cause a fetch: the test would see it.
    let target = format!("/callback?token={good}");
    let authorization = world.bucket.sign(&target, body.as_bytes());
    let reply = world.call_with(&target, &authorization, unknown, body);
    assert_eq!(reason(&reply), refused(503, "public key cannot be had now"));
    world.server.wait_log("callback key v7: not fetched");
    assert_eq!(bucket.key_requests(), ["/callback_pub_key_v1.pem", "/callback_pub_key_v7.pem"]);
}

#[test]
fn each_callback_url_has_a_token_of_its_own() {
    let urls = "http://127.0.0.1:9/;http://127.0.0.1:9;http://127.0.0.1:9/a?id=1;\
                http://127.0.0.1:9/%E7%94%A8;http://127.0.0.1:9/b/c";
    let world = world(&[("CALLBACK_URL", urls)]);
    let policy = world.policy("alice");
    let targets = targets(&policy);
    assert_eq!(targets.len(), 5);
    let body = "filename=user%2Falice%2Fa.txt&size=1&bucket=examplebucket&etag=x";
    let expire = policy["expire"].as_u64().unwrap();
    for (target, path) in targets.iter().zip(["/", "/", "/a", "/用", "/b/c"]) {
        assert!(accepted(&world.call(target, body)), "{target}");
        let token = target.split("token=").nth(1).unwrap();
        assert_eq!(token, callback_token(TOKEN_KEY, path, expire, "user/alice/"));
        for other in ["/", "/a", "/b/c", "/b", "/%E7%94%A8"]
            .iter()
            .filter(|other| !target.starts_with(&format!("{other}?")))
        {
            let reply = world.call(&format!("{other}?token={token}"), body);
            let words = "token is not one of ours for this path";
            assert_eq!(reason(&reply), refused(400, words), "{target} {other}");
        }
    }
    assert!(targets[2].starts_with("/a?id=1&token="), "{}", targets[2]);
    // Without a request id these are five uploads, but for the two URLs that are the same.
    assert_eq!(world.record().len(), 4);
}

/// `http://HOST?query` is a URL without a path: OSS asks for `/?query`.
#[test]
fn a_callback_url_of_host_and_query_alone_works() {
    let world = world(&[("CALLBACK_URL", "http://127.0.0.1:9?id=1")]);
    let body = "filename=user%2Falice%2Fa.txt&size=1&bucket=examplebucket&etag=x";
    let reply = world.call(&target(&world.policy("alice")), body);
    assert!(accepted(&reply), "{}", reply.text());
}

/// OSS takes 5 KB of callback parameter and refuses every upload with more. What the tokens add to
/// five URLs counts: with the longest prefix that the start allows the longest subject's parameter
/// still fits, and with one byte more nothing starts.
#[test]
fn the_callback_parameter_fits_with_its_tokens() {
    let urls: Vec<String> = (0..5).map(|n| format!("http://127.0.0.1:9/callback{n}")).collect();
    let urls = urls.join(";");
    let check = |bytes: usize| {
        let dir = format!("{}/", "d".repeat(bytes));
        let vars = [
            ("OSS_ACCESS_KEY_ID", "exampleAkId"),
            ("OSS_ACCESS_KEY_SECRET", "exampleAkSecretNeverShown"),
            ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
            ("UPLOAD_JWT_SECRET", SECRET),
            ("CALLBACK_URL", &urls),
            ("UPLOAD_DIR", &dir),
        ];
        run(&["--check"], &vars)
    };
    let (mut fits, mut too_long) = (1, 900);
    assert_eq!(check(fits).code, Some(0));
    while too_long - fits > 1 {
        let middle = (fits + too_long) / 2;
        match check(middle).code {
            Some(0) => fits = middle,
            _ => too_long = middle,
        }
    }
    let refused = check(too_long);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("CALLBACK_URL: "), "{}", refused.stderr);
    let dir = format!("{}/", "d".repeat(fits));
    let world = world(&[("UPLOAD_DIR", &*dir), ("CALLBACK_URL", &*urls)]);
    let policy = world.policy(&"s".repeat(128));
    let length = policy["callback"].as_str().unwrap().len();
    // Close to it: the start reckons with an expiry of ten digits more, in each of five tokens.
    assert!((5000..=5 * 1024).contains(&length), "{length} bytes, {fits} of the prefix");
    // The bucket takes it. (Nothing listens at port 9.)
    let reply = world.upload(&policy, "a.txt", b"hello", &[]);
    assert_eq!(reply.status, 203, "{}", reply.text());
    assert_eq!(world.bucket.callbacks().len(), 5);
}

/// The exit status and message of `--check`.
fn check(url: &str, token: &str, body: &str, confirm: &str) -> (Option<i32>, String) {
    let vars = [
        ("OSS_ACCESS_KEY_ID", "exampleAkId"),
        ("OSS_ACCESS_KEY_SECRET", "exampleAkSecretNeverShown"),
        ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
        ("CALLBACK_URL", url),
        ("CALLBACK_BODY", body),
        ("CALLBACK_TOKEN", token),
        ("CONFIRM_UPLOADS", confirm),
    ];
    let run = run(&["--check"], &vars);
    (run.code, run.stderr)
}

/// A URL that has a `token=` of its own would have two, and every callback be refused.
#[test]
fn a_callback_url_with_a_token_of_its_own_does_not_start() {
    let body = "b=${bucket}&o=${object}";
    for (url, with_tokens) in [
        ("http://127.0.0.1:9/?token=mine", 2),
        ("http://127.0.0.1:9/?a=1&token=mine", 2),
        ("http://127.0.0.1:9/;http://127.0.0.1:9/?token=mine", 2),
        ("http://127.0.0.1:9?token=mine", 2),
        ("http://127.0.0.1:9/token=mine?tokens=1&xtoken=2", 0),
    ] {
        assert_eq!(check(url, "off", body, "off").0, Some(0), "{url}");
        let (code, stderr) = check(url, "on", body, "off");
        assert_eq!(code, Some(with_tokens), "{url}: {stderr}");
        assert!(code == Some(0) || stderr.starts_with("appserver: CALLBACK_URL: "), "{stderr}");
    }
}

/// What the checks compare, the body must name, or every callback would be refused.
#[test]
fn a_callback_body_that_cannot_be_checked_does_not_start() {
    let url = "http://127.0.0.1:9/";
    assert_eq!(check(url, "on", "b=${bucket}&o=${object}&s=${size}&e=${etag}", "on").0, Some(0));
    assert_eq!(check(url, "off", "a=${x:a}", "off").0, Some(0));
    for body in ["o=${object}", "b=${bucket}", "a=${x:a}"] {
        let (code, stderr) = check(url, "on", body, "off");
        assert_eq!(code, Some(2), "{body} with tokens");
        assert!(stderr.contains("CALLBACK_BODY"), "{stderr}");
    }
    for body in ["o=${object}&b=${bucket}&s=${size}", "o=${object}&b=${bucket}&e=${etag}"] {
        assert_eq!(check(url, "on", body, "off").0, Some(0), "{body}");
        assert_eq!(check(url, "on", body, "on").0, Some(2), "{body} with confirmation");
    }
}

#[test]
fn token_off_is_the_bare_protocol() {
    let world = world(&[("CALLBACK_TOKEN", "off")]);
    let policy = world.policy("alice");
    assert_eq!(target(&policy), "/callback");
    assert!(accepted(&world.upload(&policy, "a.txt", b"x", &[])));
    for body in ["bucket=evilbucket&filename=x", "hello", "%zz", "a=1"] {
        assert!(accepted(&world.call("/callback", body)), "{body}");
        assert!(accepted(&world.call("/elsewhere?token=1&token=2", body)), "{body}");
    }
    let junk = BASE64.encode([7; 64]);
    let reply = world.call_with("/callback", &junk, oss_standin::PUB_KEY_URL, "a=1");
    assert_eq!(reason(&reply), refused(400, "signature does not match"));
}

/// An access key that rotates must not cost the callbacks of uploads under way.
#[test]
fn callbacks_outlive_a_restart_with_another_access_key() {
    let world = world(&[]);
    let target_of_old = target(&world.policy("alice"));
    let body = "filename=user%2Falice%2Fa.txt&size=1&bucket=examplebucket&etag=x";
    let options = Options::default();
    let vars = vars(&world.bucket, &options, &world.folder.0);
    let mut vars: Vec<(&str, &str)> = vars.iter().map(|(n, v)| (&**n, &**v)).collect();
    vars.push(("UPLOAD_LOG", "")); // the folder is the first server's
    let rotated =
        [("OSS_ACCESS_KEY_ID", "next"), ("OSS_ACCESS_KEY_SECRET", "nextSecretNeverShown")];
    let forged = refused(400, "token is not one of ours for this path");
    let authorization = world.bucket.sign(&target_of_old, body.as_bytes());
    let call = |server: &Server, target: &str, authorization: &str| {
        let key_url = BASE64.encode(oss_standin::PUB_KEY_URL);
        let headers = [
            ("Authorization", authorization),
            ("x-oss-pub-key-url", &key_url),
            ("Content-Type", FORM),
        ];
        request(server.address, "POST", target, &headers, body.as_bytes())
    };
    let same = Server::start_called_back(&[&vars[..], &rotated].concat());
    assert!(accepted(&call(&same, &target_of_old, &authorization)));
    let other_key =
        [("CALLBACK_TOKEN_KEY", "another key of more than 32 characters".replace(' ', "-"))];
    let other_key = other_key.each_ref().map(|(n, v)| (*n, v.as_str()));
    let other = Server::start_called_back(&[&vars[..], &other_key].concat());
    assert_eq!(reason(&call(&other, &target_of_old, &authorization)), forged);

    // Without a key of their own, tokens hang on the access key.
    let derived = [&vars[..], &[("CALLBACK_TOKEN_KEY", "")]].concat();
    let before = Server::start_called_back(&derived);
    let reply = request(
        before.address,
        "GET",
        V4,
        &[("Authorization", &format!("Bearer {}", ticket_for("alice")))],
        b"",
    );
    let old = target(&serde_json::from_slice(&reply.body).unwrap());
    let authorization = world.bucket.sign(&old, body.as_bytes());
    assert!(accepted(&call(&before, &old, &authorization)));
    let restarted = Server::start_called_back(&derived);
    assert!(accepted(&call(&restarted, &old, &authorization)), "a restart alone changes nothing");
    let after = Server::start_called_back(&[&derived[..], &rotated].concat());
    assert_eq!(reason(&call(&after, &old, &authorization)), forged);
    let token = old.split_once("?token=").unwrap().1;
    let expire = token.split('.').next().unwrap().parse().unwrap();
    let secret = &options.access_key_secret;
    assert_eq!(token, callback_token(secret, "/callback", expire, "user/alice/"));
}

#[test]
fn behind_a_path_prefix_the_token_is_bound_to_the_public_path() {
    let changes = [("PUBLIC_PATH_PREFIX", "/post"), ("CALLBACK_URL", "http://127.0.0.1:9/post/cb")];
    let world = world(&changes);
    let body = "filename=user%2Falice%2Fa.txt&size=1&bucket=examplebucket&etag=x";
    let public = target(&world.policy("alice"));
    assert!(accepted(&world.call(&public, body)), "a proxy that leaves the prefix");
    let inner = public.strip_prefix("/post").unwrap();
    let authorization = world.bucket.sign(&public, body.as_bytes());
    let reply = world.call_with(inner, &authorization, oss_standin::PUB_KEY_URL, body);
    assert!(accepted(&reply), "a proxy that takes it off");
}

// What is really there.

const CONFIRM: [(&str, &str); 1] = [("CONFIRM_UPLOADS", "on")];

#[test]
fn sizes_and_etags_that_lie_are_refused() {
    let world = world(&CONFIRM);
    world.bucket.put("user/alice/other.txt", b"other", "text/plain");
    let (differs, missing) = ("object in the bucket differs", "object is not in the bucket");
    let (size, etag) = ("size=5", "etag=5D41402ABC4B2A76B9719D911017C592");
    let cases: [(&str, &'static str, String, &str); 12] = [
        ("larger", size, "size=500".to_owned(), differs),
        ("smaller", size, "size=0".to_owned(), differs),
        ("no number", size, "size=five".to_owned(), differs),
        ("leading zero", size, "size=05".to_owned(), differs),
        ("no size", size, "size=".to_owned(), differs),
        ("size gone", size, "x=1".to_owned(), differs),
        ("other etag", etag, format!("etag={}", "0".repeat(32)), differs),
        ("no etag", etag, "etag=".to_owned(), differs),
        ("etag gone", etag, "x=1".to_owned(), differs),
        ("part of the etag", etag, "etag=5D41402ABC4B2A76B971".to_owned(), differs),
        ("another object", "lie.txt", "other.txt".to_owned(), differs),
        ("no such object", "lie.txt", "nothing.txt".to_owned(), missing),
    ];
    for (count, (what, from, to, words)) in cases.into_iter().enumerate() {
        world.bucket.faults().callback_tamper = Some(Box::new(move |body| {
            let text = String::from_utf8(body).unwrap();
            assert!(text.contains(from), "{text}");
            text.replace(from, &to).into_bytes()
        }));
        let reply = world.upload(&world.policy("alice"), "lie.txt", b"hello", &[]);
        assert_eq!(reply.status, 203, "{what}: {}", reply.text());
        let callback = world.last_callback(count + 1);
        let (status, error) = (callback.status, callback.error);
        assert_eq!((status, error.as_deref()), (Some(400), Some("Error status : 400.")), "{what}");
        let line = world.last_post();
        assert!(line.ends_with(&format!("400 reason={words:?}")), "{what}: {line}");
    }
    assert!(world.record().is_empty());
    world.bucket.faults().callback_tamper = None;
    assert!(accepted(&world.upload(&world.policy("alice"), "true.txt", b"hello", &[])));
    // An ETag is the same in either case, with quotes or without.
    for etag in ["5d41402abc4b2a76b9719d911017c592", "%225D41402ABC4B2A76B9719D911017C592%22"] {
        let body =
            format!("filename=user%2Falice%2Ftrue.txt&size=5&bucket=examplebucket&etag={etag}");
        assert!(accepted(&world.call(&target(&world.policy("alice")), &body)), "{etag}");
    }
    assert_eq!(world.record().len(), 3);
}

#[test]
fn an_object_that_is_gone_is_refused() {
    let world = world(&CONFIRM);
    let target = target(&world.policy("alice"));
    let body = world.put("user/alice/a.txt", b"hello");
    assert!(accepted(&world.call(&target, &body)));
    let reads = world.bucket.reads().len();
    assert!(world.bucket.remove("user/alice/a.txt"));
    let gone = refused(400, "object is not in the bucket");
    assert_eq!(reason(&world.call(&target, &format!("{body}&reqId=2"))), gone);
    world.put("user/alice/a.txt", b"hellO");
    let differs = refused(400, "object in the bucket differs");
    assert_eq!(reason(&world.call(&target, &format!("{body}&reqId=3"))), differs);
    assert_eq!(world.record().len(), 1);
    // What is recorded was true then. A replay costs the bucket no request.
    assert!(accepted(&world.call(&target, &body)));
    assert_eq!((world.record().len(), world.bucket.reads().len()), (1, reads + 2));
}

/// What is not ours to believe causes no request to the bucket either.
#[test]
fn the_bucket_is_asked_for_verified_callbacks_alone() {
    let world = world(&CONFIRM);
    let target = target(&world.policy("alice"));
    let body = world.put("user/alice/a.txt", b"hello");
    let junk = BASE64.encode([7; 64]);
    let url = oss_standin::PUB_KEY_URL;
    assert_eq!(world.call("/callback", &body).status, 400);
    assert_eq!(world.call_with(&target, &junk, url, &body).status, 400);
    assert_eq!(world.call(&target, &body.replace("examplebucket", "evilbucket")).status, 400);
    assert_eq!(world.call(&target, &body.replace("alice", "bob")).status, 400);
    assert!(world.bucket.reads().is_empty());
    assert!(accepted(&world.call(&target, &body)));
    let reads = world.bucket.reads();
    assert_eq!(reads.len(), 1);
    assert_eq!((&*reads[0].method, &*reads[0].key), ("HEAD", "user/alice/a.txt"));
}

#[test]
fn a_bucket_that_cannot_be_asked_is_503() {
    let world = world(&CONFIRM);
    let target = target(&world.policy("alice"));
    let body = world.put("user/alice/a.txt", b"hello");
    let unreachable = refused(503, "bucket cannot be asked now");
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
        assert_eq!(reason(&world.call(&target, &body)), unreachable, "{status}");
    }
    assert!(world.record().is_empty());
    assert!(accepted(&world.call(&target, &body)), "and then it can");

    let dead = self::world(&[CONFIRM[0], ("OSS_INTERNAL_HOST", "http://127.0.0.1:9")]);
    let target = self::target(&dead.policy("alice"));
    let reply = dead.call(&target, &dead.put("user/alice/a.txt", b"hello"));
    assert_eq!(reason(&reply), unreachable);
}

/// OSS waits five seconds. A bucket that says nothing must not make it give up.
#[test]
fn a_bucket_that_hangs_is_503_before_oss_gives_up() {
    let world = world(&CONFIRM);
    world.bucket.faults().hang_reads = true;
    let reply = world.upload(&world.policy("alice"), "a.txt", b"hello", &[]);
    assert_eq!(reply.status, 203);
    let callback = world.last_callback(1);
    assert_eq!(
        (callback.status, callback.error.as_deref()),
        (Some(503), Some("Error status : 503."))
    );
    world.server.wait_log("503 reason=\"bucket cannot be asked now\"");
    world.bucket.faults().hang_reads = false;
    world.bucket.release();
    assert!(world.record().is_empty());
    assert!(accepted(&world.upload(&world.policy("alice"), "a.txt", b"hello", &[])));
}

/// Eight looks into a bucket that hangs: they wait side by side, not one behind the other.
#[test]
fn slow_looks_do_not_add_up() {
    let world = world(&CONFIRM);
    {
        let mut faults = world.bucket.faults();
        faults.hang_reads = true;
        faults.callback_timeout = Duration::from_secs(60);
    }
    let policy = world.policy("alice");
    let upload = |name: &str| assert_eq!(world.upload(&policy, name, b"hello", &[]).status, 203);
    upload("alone.txt");
    let alone = world.last_callback(1).duration;
    thread::scope(|scope| {
        for n in 0..8 {
            scope.spawn(move || upload(&format!("{n}.txt")));
        }
    });
    let together = world.bucket.wait_for_callbacks(9, PATIENCE);
    let together = together[1..].iter().map(|callback| callback.duration).max().unwrap();
    println!("a hanging bucket: one callback {alone:?}, the slowest of eight {together:?}");
    // The first of them may be alone in its batch, and the others wait for it: two batches.
    assert!(together < alone * 3, "{together:?} for eight, {alone:?} for one");

    // One slow look, and those that come meanwhile: they do not inherit its fate.
    world.bucket.faults().hang_reads = true;
    thread::scope(|scope| {
        scope.spawn(|| upload("slow.txt"));
        assert!(world.bucket.wait_for_stalls(10, PATIENCE));
        world.bucket.faults().hang_reads = false;
        let quick: Vec<_> = (0..4)
            .map(|n| {
                let (world, policy) = (&world, &policy);
                scope.spawn(move || world.upload(policy, &format!("quick{n}.txt"), b"x", &[]))
            })
            .collect();
        for reply in quick {
            assert!(accepted(&reply.join().unwrap()));
        }
    });
    assert_eq!(world.record().len(), 4);
}

#[test]
fn names_that_need_encoding_are_confirmed() {
    for (kind, body_type) in [("form", FORM), ("json", "application/json")] {
        let world = world(&[CONFIRM[0], ("CALLBACK_BODY_TYPE", body_type)]);
        let names = [
            "a b.txt",
            "100%.txt",
            "%41.txt",
            "%2F.txt",
            "a+b.txt",
            "#1.txt",
            "what?.txt",
            "a&b=c.txt",
            "中文 文件.txt",
            "emoji😀.txt",
            "ü.txt",
            "u\u{308}.txt",
            "a;b,c.txt",
            "a'b(c)!*.txt",
            "~._-.txt",
            "a:b@c.txt",
            "[1].txt",
            "{1}|^`.txt",
            "$x.txt",
            "a\\b.txt",
            "<&>.txt",
            "..a",
            "a..",
            "...",
            ".hidden",
            "a/.b/c",
            "\"quoted\"",
            &"长".repeat(337), // with the folder, 1,022 bytes
        ];
        for name in names {
            let policy = world.policy("alice");
            let key = format!("user/alice/{name}");
            let reply = world.upload(&policy, "file", name.as_bytes(), &[("key", &key)]);
            assert!(accepted(&reply), "{kind} {name:?}: {}", world.server.log().pop().unwrap());
            assert_eq!(world.bucket.reads().pop().unwrap().key, key, "{kind}");
            assert_eq!(world.record().pop().unwrap()["object"], json!(key), "{kind}");
        }
        assert_eq!(world.record().len(), names.len());
    }
}

#[test]
fn a_temporary_key_sends_its_token() {
    let options =
        Options { security_token: Some("exampleToken==".to_owned()), ..Options::default() };
    let world = world_of(options, &CONFIRM);
    assert!(accepted(&world.upload(&world.policy("alice"), "a b.txt", b"hello", &[])));
    let read = world.bucket.reads().pop().unwrap();
    let token = read.headers.iter().find(|(name, _)| name == "x-oss-security-token");
    assert_eq!(token.map(|(_, value)| value.as_str()), Some("exampleToken=="));
}

#[test]
fn the_internal_endpoint_is_the_one_that_is_asked() {
    let bucket = Standin::start(Options::default()).unwrap();
    let inside = bucket.url();
    let world = world(&[CONFIRM[0], ("OSS_INTERNAL_HOST", &inside)]);
    bucket.put("user/alice/a.txt", b"hello", "text/plain");
    assert!(accepted(&world.upload(&world.policy("alice"), "a.txt", b"hello", &[])));
    assert_eq!((world.bucket.reads().len(), bucket.reads().len()), (0, 1));
}

/// With tokens off a body may say anything, or nothing: then there is nothing to confirm.
#[test]
fn confirmation_without_tokens_refuses_what_names_no_object() {
    let world = world(&[CONFIRM[0], ("CALLBACK_TOKEN", "off")]);
    let good = world.put("user/alice/a.txt", b"hello");
    assert!(accepted(&world.call("/callback", &good)));
    let unread = world.call("/callback", "%zz");
    assert_eq!(reason(&unread), refused(400, "body is not of CALLBACK_BODY_TYPE"));
    for body in
        ["hello", "", "filename=&size=&etag=", "size=5&etag=5D41402ABC4B2A76B9719D911017C592"]
    {
        let reply = world.call("/callback", body);
        assert_eq!(reason(&reply), refused(400, "body does not name an object"), "{body:?}");
    }
    // What is in another bucket of this name, our bucket cannot confirm.
    let other = good.replace("examplebucket", "evilbucket");
    assert_eq!(reason(&world.call("/callback", &other)), refused(400, "another bucket"));
    assert_eq!(world.record().len(), 1);
}

/// A bucket that answers each request with the next of these bytes, and closes.
fn fake_bucket(answers: Vec<Vec<u8>>) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = move |answer: Vec<u8>| {
        let (mut stream, _) = listener.accept().unwrap();
        let head = read_head(&mut stream);
        let _ = stream.write_all(&answer);
        head
    };
    (url, thread::spawn(move || answers.into_iter().map(serve).collect()))
}

fn read_head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Whatever answers, it is not followed, not believed, and does not stop the next.
#[test]
fn a_bucket_that_answers_strangely_confirms_nothing() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let (etag, to) = ("\"5D41402ABC4B2A76B9719D911017C592\"", elsewhere.local_addr().unwrap());
    let ok = |headers: &str| {
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{headers}\r\n").into_bytes()
    };
    let good = ok(&format!("Content-Length: 5\r\nETag: {etag}\r\n"));
    let elsewhere_said = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://{to}/\r\nConnection: close\r\n\
         Content-Length: 0\r\n\r\n"
    );
    let unreachable = Some((503, "bucket cannot be asked now"));
    let differs = Some((400, "object in the bucket differs"));
    // What is no answer may be of a kept connection that was closed meanwhile: asked once more.
    let none = |answer: &str| [answer.into(), answer.into()].to_vec();
    let cases = [
        ([good.clone()].to_vec(), None),
        ([elsewhere_said.into()].to_vec(), unreachable),
        (none(""), unreachable),
        (none("SSH-2.0-OpenSSH_9.2\r\n"), unreachable),
        (none("HTTP/1.1 200 OK\r\nContent-Le"), unreachable),
        ([b"".to_vec(), good.clone()].to_vec(), None),
        ([b"".to_vec(), ok("")].to_vec(), differs),
        ([ok("")].to_vec(), differs),
        ([ok("Content-Length: 5\r\n")].to_vec(), differs),
        ([ok(&format!("ETag: {etag}\r\n"))].to_vec(), differs),
        ([ok(&format!("Content-Length: 6\r\nETag: {etag}\r\n"))].to_vec(), differs),
        ([ok("Content-Length: 5\r\nETag: \"\"\r\n")].to_vec(), differs),
        ([ok(&format!("Content-Length: 5\r\nETag: W/{etag}\r\n"))].to_vec(), differs),
        ([good].to_vec(), None),
    ];
    let (url, bucket) =
        fake_bucket(cases.iter().flat_map(|(answers, _)| answers.clone()).collect());
    let world = world(&[CONFIRM[0], ("OSS_INTERNAL_HOST", &url)]);
    let target = target(&world.policy("alice"));
    let body = world.put("user/alice/a.txt", b"hello");
    for (n, (answers, verdict)) in cases.iter().enumerate() {
        let reply = world.call(&target, &format!("{body}&reqId={n}"));
        let answer = String::from_utf8_lossy(&answers[0]);
        match verdict {
            None => assert!(accepted(&reply), "{answer}: {}", reply.text()),
            Some((status, words)) => {
                assert_eq!(reason(&reply), refused(*status, words), "{answer}")
            }
        }
    }
    assert!(elsewhere.accept().is_err(), "the redirect was followed");
    let heads = bucket.join().unwrap();
    for head in &heads {
        assert!(head.starts_with("HEAD /user/alice/a.txt HTTP/1.1\r\n"), "{head}");
        let lower = head.to_lowercase();
        assert!(lower.contains("\r\nauthorization: oss4-hmac-sha256 credential="), "{head}");
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
        let reply =
            world.upload(&world.policy("alice@example.com"), "mein bild.png", &png, &custom);
        assert!(accepted(&reply), "{}", reply.text());
        let callback = world.last_callback(1);
        let [line] = &world.record()[..] else { panic!("one line") };
        let key = "user/alice@example.com/mein bild.png";
        let id = line["id"].as_str().unwrap();
        assert!(
            id.len() == 16 && id.bytes().all(|byte| b"0123456789abcdef".contains(&byte)),
            "{id}"
        );
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

/// Who makes paths of the record stays in the folder, on Unix and on Windows.
#[test]
fn names_that_leave_their_folder_are_refused() {
    let world = world(&[]);
    let good = target(&world.policy("alice"));
    let words = refused(400, "object's name is no path within its folder");
    for name in [
        "",
        "/",
        "..",
        "../",
        ".",
        "./a",
        "../bob/a",
        "a/../../bob/a",
        "a/..",
        "a/./b",
        "a//b",
        "/a",
        "a/",
        "..%5Cbob%5Ca",
        "a%5C..%5Cb",
        "a%5C",
        "%5Ca",
        "%00",
        "a%00.png",
        "a%0Ab",
        "a%0D%0Ab",
        "%1B[2J",
        "%7F",
        "%C2%85",
        "a%09b",
        &"x".repeat(1013),
    ] {
        let body = format!("filename=user/alice/{name}&size=1&bucket=examplebucket&etag=x");
        assert_eq!(reason(&world.call(&good, &body)), words, "{name:?}");
    }
    for name in
        ["..a", "a..", "...", ".a", "a/.b", "a\u{202e}b", "%20", "%F0%9F%98%80", &"x".repeat(1012)]
    {
        let body = format!("filename=user/alice/{name}&size=1&bucket=examplebucket&etag=x");
        assert!(accepted(&world.call(&good, &body)), "{name:?}");
    }
    assert_eq!(world.record().len(), 9);
    // Nor does it matter who issued the policy.
    let bare = self::world(&[("CALLBACK_TOKEN", "off")]);
    assert_eq!(reason(&bare.call("/callback", "filename=a/../b")), words);
    assert!(accepted(&bare.call("/callback", "filename=a/b")));
}

/// A field that `CALLBACK_BODY` has as text carries no variable, whatever its name: a policy of
/// another server, whose fields have other names, cannot be taken for one of ours.
#[test]
fn a_constant_is_not_the_variable_of_the_same_name() {
    let body = "bucket=examplebucket&object=user/alice/a.txt&b=${bucket}&o=${object}&n=${x:n}-${x:m}&\
                x:n=const&v=${x:n}&size=7";
    let world = world(&[("CALLBACK_BODY", body)]);
    let good = target(&world.policy("alice"));
    let lie = "bucket=examplebucket&object=user/alice/a.txt&size=7&x:n=const&n=1-2&v=1";
    for (ours, words) in [
        ("", "body does not name an object"),
        ("&b=evilbucket&o=user/alice/a.txt", "another bucket"),
        ("&b=examplebucket&o=user/bob/a.txt", "object is not under the token's prefix"),
    ] {
        assert_eq!(reason(&world.call(&good, &format!("{lie}{ours}"))), refused(400, words));
    }
    assert!(accepted(&world.call(&good, &format!("{lie}&b=examplebucket&o=user/alice/b"))));
    let line = world.record().pop().unwrap();
    assert_eq!((&line["object"], &line["size"]), (&json!("user/alice/b"), &Value::Null));
    let custom = json!({
        "bucket": "examplebucket", "object": "user/alice/a.txt", "n": "1-2", "x:n": "1", "size": "7",
    });
    assert_eq!(line["custom"], custom);
}

/// A number, or not there. What OSS never sends stays what it is, as text.
#[test]
fn a_field_of_the_record_has_one_type() {
    let world = world(&[]);
    let good = target(&world.policy("alice"));
    for (n, (size, number, text)) in [
        ("5", json!(5), Value::Null),
        ("18446744073709551615", json!(u64::MAX), Value::Null),
        ("", Value::Null, Value::Null),
        ("-1", Value::Null, json!("-1")),
        ("5.0", Value::Null, json!("5.0")),
        ("18446744073709551616", Value::Null, json!("18446744073709551616")),
        ("many", Value::Null, json!("many")),
    ]
    .into_iter()
    .enumerate()
    {
        let body =
            format!("filename=user/alice/5&size={size}&bucket=examplebucket&etag=12&reqId={n}");
        assert!(accepted(&world.call(&good, &body)));
        let line = world.record().pop().unwrap();
        assert_eq!((&line["size"], &line["custom"]["size"]), (&number, &text), "{size:?}");
        assert_eq!((&line["etag"], &line["reqId"]), (&json!("12"), &json!(n.to_string())));
    }
    // The type is the configured one: what is no form does not become one by a header.
    let body = r#"{"filename":"user/alice/a","bucket":"examplebucket"}"#;
    let message = trust::callback(
        &good,
        &world.bucket.sign(&good, body.as_bytes()),
        "application/json",
        body.as_bytes(),
    );
    let reply = Connection::open(world.server.address).unwrap().ask(&message).unwrap();
    assert_eq!(reason(&reply), refused(400, "body does not name an object"));
}

/// With tokens off a body need not parse. Then, and only then, it is in the record as it came.
#[test]
fn a_body_that_does_not_parse_is_recorded_as_it_came() {
    let world = world(&[("CALLBACK_TOKEN", "off")]);
    for (body, recorded) in
        [("%zz \u{1}", json!("%zz \u{1}")), ("a=%ff", json!("a=%ff")), ("hello", Value::Null)]
    {
        assert!(accepted(&world.call("/callback", body)));
        assert_eq!(world.record().pop().unwrap()["body"], recorded);
    }
    assert_eq!(world.record()[2]["custom"], json!({ "hello": "" }));
    // With a line feed in the path, one signature would be good for several bodies.
    let authorization = world.bucket.sign("/callback", b"a=1\nb=2");
    let url = oss_standin::PUB_KEY_URL;
    assert!(accepted(&world.call_with("/callback", &authorization, url, "a=1\nb=2")));
    let split = world.call_with("/callback%0Aa=1", &authorization, url, "b=2");
    assert_eq!(reason(&split), refused(400, "path is not percent-encoded"));
}

/// An uploader can claim any type in a callback of his own. The bucket knows better.
#[test]
fn the_content_type_is_that_of_the_bucket() {
    let world = world(&CONFIRM);
    let good = target(&world.policy("alice"));
    let body = world.put("user/alice/a.txt", b"<script>");
    assert!(accepted(&world.call(&good, &format!("{body}&mimeType=image/png"))));
    assert_eq!(world.record().pop().unwrap()["mimeType"], json!("text/plain"));
}

/// No image has no size; what is empty is not a number.
#[test]
fn the_record_of_what_is_no_image() {
    for body_type in [FORM, "application/json"] {
        let world = world(&[("CALLBACK_BODY_TYPE", body_type)]);
        assert!(accepted(&world.upload(&world.policy("alice"), "a.txt", b"hello", &[])));
        let line = world.record().pop().unwrap();
        assert_eq!(line["size"], json!(5));
        let names: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert!(!names.iter().any(|name| name.starts_with("imageInfo")), "{names:?}");
        assert_eq!(line["custom"], json!({}));
    }
}

#[test]
fn a_refused_callback_leaves_no_line() {
    let world = world(&[]);
    let good = target(&world.policy("alice"));
    let body = "filename=user%2Falice%2Fa.txt&size=1&bucket=examplebucket&etag=x";
    for (target, body) in [("/callback", body), (&good, "hello"), (&good, "bucket=x&filename=y")] {
        assert_eq!(world.call(target, body).status, 400);
        assert!(world.record().is_empty());
    }
    assert!(accepted(&world.call(&good, body)));
    assert_eq!(world.record().len(), 1);
}

/// Neither the log nor any answer holds a secret, a ticket, a token, or what they are made of.
#[test]
fn nothing_secret_is_ever_said() {
    let options =
        Options { security_token: Some("exampleTokenNeverShown".to_owned()), ..Options::default() };
    let world = world_of(options.clone(), &CONFIRM);
    let (good, bad) =
        (ticket_for("alice"), ticket("of somebody else, and long enough too", &json!({})));
    let policy = world.policy_for(&good);
    let target = target(&policy);
    let token = target.split_once("token=").unwrap().1.to_owned();
    assert!(accepted(&world.upload(&policy, "a.txt", b"hello", &[])));
    let mut answers = Vec::new();
    for text in [&good, &bad] {
        answers.push(world.get(&format!("/nothing?ticket={text}"), &[]));
        answers.push(world.get(&format!("/healthz?ticket={text}"), &[]));
        answers.push(request(
            world.server.address,
            "DELETE",
            &format!("/?ticket={text}"),
            &[],
            b"",
        ));
        let _ = world.get(&format!("/?ticket={text}"), &[]);
        answers.push(world.get(&format!("/?ticket={text}#"), &[]));
        answers.push(world.get(&format!("/?ticket={text}\u{fc}"), &[]));
    }
    let body = "filename=user%2Falice%2Fa.txt&size=5&bucket=examplebucket&etag=lie";
    answers.push(world.call(&target, body));
    answers.push(world.call(&format!("{target}x"), body));
    answers.push(world.call(&format!("{target}&token=1"), body));
    answers.push(world.call(&target, "hello"));
    world.bucket.faults().reads.push_back((403, "AccessDenied".to_owned()));
    answers.push(world.call(&target, body));
    answers.push(world.call_with(&target, "x", "http://evil.example/", body));

    let log = world.server.log().join("\n");
    assert!(log.contains("reason=") && log.contains("callback bucket="), "{log}");
    let record = world.record();
    let said = answers
        .iter()
        .fold(log, |all, reply| all + &format!("{:?}", reply.headers) + &reply.text());
    let said = record.iter().fold(said, |all, line| all + &line.to_string());
    let mac = token.rsplit_once('.').unwrap().1.to_owned();
    let ticket_mac = good.rsplit_once('.').unwrap().1.to_owned();
    for secret in [
        SECRET,
        TOKEN_KEY,
        &options.access_key_secret,
        "exampleTokenNeverShown",
        &good,
        &bad,
        &ticket_mac,
        &token,
        &mac,
    ] {
        assert!(!said.contains(secret), "{secret:?} in {said}");
    }
    // Not even a policy holds what signs it, except the STS token, which the form needs.
    let text = policy.to_string();
    for secret in [SECRET, TOKEN_KEY, &options.access_key_secret, &good] {
        assert!(!text.contains(secret), "{secret:?} in {text}");
    }
    let check = run(
        &["--check"],
        &[
            ("OSS_ACCESS_KEY_ID", "exampleAkId"),
            ("OSS_ACCESS_KEY_SECRET", &options.access_key_secret),
            ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
            ("UPLOAD_JWT_SECRET", SECRET),
            ("CALLBACK_TOKEN_KEY", TOKEN_KEY),
        ],
    );
    assert_eq!(check.code, Some(0));
    for secret in [SECRET, TOKEN_KEY, &options.access_key_secret] {
        assert!(!(check.stdout.clone() + &check.stderr).contains(secret));
    }
}

#[test]
fn secrets_too_short_to_be_ones_stop_the_start() {
    for name in ["UPLOAD_JWT_SECRET", "CALLBACK_TOKEN_KEY"] {
        for (secret, code) in [("", 2), ("short", 2), (&SECRET[..31], 2), (&SECRET[..32], 0)] {
            let run = run(
                &["--check"],
                &[
                    ("OSS_ACCESS_KEY_ID", "exampleAkId"),
                    ("OSS_ACCESS_KEY_SECRET", "exampleAkSecretNeverShown"),
                    ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
                    (name, secret),
                ],
            );
            assert_eq!(run.code, Some(code), "{name} of {} characters", secret.len());
            assert!(code == 0 || run.stderr.starts_with(&format!("appserver: {name}: ")));
            assert!(secret.len() < 31 || !(run.stdout + &run.stderr).contains(secret));
        }
    }
}

/// A callback in two packets, or several on one connection: the checks are the same.
#[test]
fn forgeries_between_good_ones_on_one_connection() {
    let world = world(&[]);
    let good = target(&world.policy("alice"));
    let body = "filename=user%2Falice%2Fa.txt&size=1&bucket=examplebucket&etag=x";
    let mut connection = Connection::open(world.server.address).unwrap();
    for round in 0..20 {
        let target = if round % 2 == 0 { good.as_str() } else { "/callback?token=1.2.3" };
        let body = format!("{body}&reqId={round}").into_bytes();
        let message = trust::callback(target, &world.bucket.sign(target, &body), FORM, &body);
        let status = connection.ask(&message).unwrap().status;
        assert_eq!(status, if round % 2 == 0 { 200 } else { 400 });
    }
    assert_eq!(world.record().len(), 10);
}
