//! The main job, end to end: a policy from the real binary, an upload to the stand-in bucket, the
//! bucket's signed callback, the verified answer back in the uploader's hands.

use std::process::Command;

use oss_standin::Options;
use serde_json::json;
use support::world::{V1, V4, World};
use support::{Folder, Reply, documents, post_form, upload};

fn world(token: Option<&str>, changes: &[(&str, &str)]) -> World {
    let options = Options { security_token: token.map(str::to_owned), ..Options::default() };
    World::of(options, changes)
}

/// Status, and the code of OSS's error.
fn code(reply: &Reply) -> (u16, String) {
    (reply.status, reply.element("Code").unwrap_or(reply.text()))
}

/// End to end, with a lasting and with a temporary key: V1 and V4, and the line of the log.
#[test]
fn both_versions_upload_and_get_the_verified_answer() {
    for token in [None, Some("exampleToken==")] {
        let world = world(token, &[]);
        for (contract, name) in [(V1, "one.txt"), (V4, "four.txt")] {
            let bytes: Vec<u8> = (0..100_000u32).map(|i| (i * 31 % 251) as u8).collect();
            let reply = upload(&world.policy(contract), name, &bytes, &[]);
            assert_eq!((reply.status, &*reply.text()), (200, r#"{"Status":"OK"}"#));
            let object = world.bucket.object(&format!("user/{name}")).unwrap();
            assert!(object.bytes[..] == bytes[..], "the bytes differ");
            let line = world.server.wait_log(name);
            let bucket = Options::default().bucket;
            let start = format!(r#"POST "/callback" 200 callback bucket="{bucket}" object="user/"#);
            assert!(line.contains(&start) && line.contains(" size=\"100000\" etag="), "{line}");
            assert!(line.contains(" mimeType=\"text/plain\" reqId=\""), "{line}");
        }
    }
}

/// `CALLBACK_BODY_TYPE=application/json`, and file names in Unicode.
#[test]
fn json_bodies_and_names_in_any_language() {
    let world = world(None, &[("CALLBACK_BODY_TYPE", "application/json")]);
    let names = ["中文 文件.txt", "ü+%41&=?#.txt", "emoji😀.txt", "a'b;c.txt"];
    for name in names {
        let reply = upload(&world.policy(V4), name, b"hello", &[]);
        assert_eq!(reply.verdict(), "200 OK", "{name}");
        assert!(world.bucket.object(&format!("user/{name}")).is_some(), "{name}");
        world.server.wait_log(&format!("object={:?}", format!("user/{name}")));
    }
}

/// No `CALLBACK_URL`.
#[test]
fn without_a_callback_the_object_is_just_stored() {
    let world = world(None, &[("CALLBACK_URL", "")]);
    for contract in [V1, V4] {
        let policy = world.policy(contract);
        assert_eq!((&policy["callback"], policy["fields"].get("callback")), (&json!(""), None));
        let reply = upload(&policy, "plain.txt", b"x", &[]);
        assert_eq!((reply.status, reply.body.len()), (200, 0));
    }
    assert!(world.bucket.callbacks().is_empty());
}

/// The client of the original samples: these names in this order, and nothing else. (Other clients:
/// tests/server/clients.rs.)
#[test]
fn the_original_client_works_unchanged() {
    let world = world(None, &[]);
    let answer = world.policy(V1);
    let value = |name: &str| answer[name].as_str().unwrap();
    let key = format!("{}{}", value("dir"), "${filename}");
    let fields = [
        ("name", "photo.txt"),
        ("key", key.as_str()),
        ("policy", value("policy")),
        ("OSSAccessKeyId", value("accessid")),
        ("success_action_status", "200"),
        ("callback", value("callback")),
        ("signature", value("signature")),
    ];
    let reply = post_form(value("host"), &fields, ("photo.txt", "text/plain", b"hello"));
    assert_eq!((reply.status, &*reply.text()), (200, r#"{"Status":"OK"}"#));
    assert_eq!(world.bucket.object("user/photo.txt").unwrap().bytes[..], b"hello"[..]);
}

/// Prefix, size limit, content type, callback, overwriting: the bucket refuses what the policy
/// forbids.
#[test]
fn the_bucket_enforces_what_is_pinned() {
    let changes = [
        ("MAX_UPLOAD_BYTES", "1000"),
        ("UPLOAD_CONTENT_TYPES", "text/plain"),
        ("FORBID_OVERWRITE", "on"),
    ];
    let world = world(Some("exampleToken=="), &changes);
    let other = "eyJjYWxsYmFja1VybCI6Imh0dHA6Ly9ldmlsLmV4YW1wbGUvIiwiY2FsbGJhY2tCb2R5IjoiYSJ9";
    for contract in [V1, V4] {
        let policy = world.policy(contract);
        let long = vec![0; 1001];
        for (what, bytes, change, status, expected) in [
            ("another prefix", &long[..9], ("key", "other/x.txt"), 403, "AccessDenied"),
            ("too large", &long, ("", ""), 400, "EntityTooLarge"),
            ("callback dropped", &long[..9], ("callback", ""), 403, "AccessDenied"),
            ("callback altered", &long[..9], ("callback", other), 403, "AccessDenied"),
            ("other type", &long[..9], ("Content-Type", "text/html"), 403, "AccessDenied"),
            ("overwriting", &long[..9], ("x-oss-forbid-overwrite", ""), 403, "AccessDenied"),
            ("token dropped", &long[..9], ("x-oss-security-token", ""), 403, "AccessDenied"),
        ] {
            let reply = upload(&policy, "x.txt", bytes, &[change]);
            if what == "token dropped" {
                assert_eq!(reply.status, 403, "{contract} {what}");
                continue;
            }
            assert_eq!(code(&reply), (status, expected.to_owned()), "{contract} {what}");
        }
        assert!(world.bucket.keys().is_empty() && world.bucket.callbacks().is_empty());
    }
    let policy = world.policy(V4);
    let first = upload(&policy, "once.txt", b"1", &[]);
    let second = upload(&policy, "once.txt", b"2", &[]);
    assert_eq!((first.status, code(&second)), (200, (409, "FileAlreadyExists".to_owned())));
    for condition in ["x-oss-signature-version", "x-oss-credential", "x-oss-date"] {
        let reply = upload(&policy, "y.txt", b"1", &[(condition, "")]);
        assert!(reply.status >= 400, "{condition} dropped");
    }
}

/// `EXPIRE_TIME` is over before the upload starts.
#[test]
fn an_expired_policy_is_refused() {
    let world = world(None, &[("EXPIRE_TIME", "30")]);
    for contract in [V1, V4] {
        let policy = world.policy(contract);
        world.bucket.set_clock(Some(policy["expire"].as_u64().unwrap() + 1));
        let reply = upload(&policy, "late.txt", b"x", &[]);
        assert_eq!(code(&reply), (403, "AccessDenied".to_owned()));
        assert!(reply.text().contains("Invalid according to Policy: Policy expired."));
        world.bucket.set_clock(None);
    }
}

/// A callback that is tampered with on its way: 400 for the bucket, 203 for the uploader.
#[test]
fn a_callback_that_the_server_refuses_reaches_the_uploader_as_203() {
    let world = world(None, &[]);
    world.bucket.faults().callback_corrupt = Some(Box::new(|body| [&body[..], b"&x=1"].concat()));
    let reply = upload(&world.policy(V4), "x.txt", b"x", &[]);
    assert_eq!(code(&reply), (203, "CallbackFailed".to_owned()));
    world.server.wait_log("400 reason=\"signature does not match\"");
    assert!(world.bucket.object("user/x.txt").is_some(), "the object is stored all the same");
}

/// The document's line for curl, as it stands there.
#[test]
fn the_curl_line_of_the_document_works() {
    let world = world(None, &[]);
    let line = documents::block("static/README.md", "sh", "| curl ");
    let line = documents::moved(&line, &[("http://127.0.0.1:8080", &world.server.url())]);
    let folder = Folder::new();
    std::fs::write(folder.0.join("photo.jpg"), [0xff, 0xd8, 0, 1, 2]).unwrap();
    let output = Command::new("sh").args(["-c", &line]).current_dir(&folder.0).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), r#"{"Status":"OK"}"#, "{stderr}");
    assert_eq!(world.bucket.object("user/photo.jpg").unwrap().bytes[..], [0xff, 0xd8, 0, 1, 2]);
}
