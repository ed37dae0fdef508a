//! The product on a bucket that refuses all that OSS refuses: private callback addresses, other
//! hosts, rights beyond those that the README asks for. And on both of what OSS may be, where its
//! documents leave something open.

use oss_standin::{Options, PathDecoding, Standin};
use serde_json::{Value, json};
use support::{Folder, Reply, Server, request, run, upload};

const V4: &str = "/get_post_signature_for_oss_upload";
const NAME: &str = "upload.example.com";
const TOKEN_KEY: &str = "a-key-of-thirty-two-bytes-or-more";

/// A RAM policy that allows these actions on one resource, as the README words its rights.
fn allow(actions: &[&str], resource: &str) -> Option<String> {
    let statement = json!({"Effect": "Allow", "Action": actions, "Resource": resource});
    Some(json!({"Version": "1", "Statement": [statement]}).to_string())
}

fn strict() -> Options {
    Options { private_callbacks: false, ..Options::default() }
}

fn vars(bucket: &Standin, callback_url: &str) -> Vec<(&'static str, String)> {
    let options = Options::default();
    vec![
        ("OSS_ACCESS_KEY_ID", options.access_key_id),
        ("OSS_ACCESS_KEY_SECRET", options.access_key_secret),
        ("OSS_HOST", bucket.url()),
        ("OSS_BUCKET", options.bucket),
        ("OSS_REGION", options.region),
        ("CALLBACK_URL", callback_url.to_owned()),
        ("CALLBACK_KEY_ORIGIN", bucket.key_origin()),
        ("CALLBACK_TOKEN", "on".to_owned()),
        ("CALLBACK_TOKEN_KEY", TOKEN_KEY.to_owned()),
        ("UPLOAD_DIR", "user/".to_owned()),
    ]
}

/// A server behind the public name, which the bucket finds at the server's own address.
fn start(bucket: &Standin, callback_url: &str, more: &[(&str, &str)]) -> Server {
    let vars = vars(bucket, callback_url);
    let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, &**value)).collect();
    let server = Server::start(&[&vars[..], more].concat());
    bucket.faults().routes = vec![(NAME.to_owned(), server.address)];
    server
}

fn policy(server: &Server) -> Value {
    let reply = request(server.address, "GET", V4, &[], b"");
    assert_eq!(reply.status, 200, "{}", reply.text());
    serde_json::from_slice(&reply.body).unwrap()
}

fn answer(reply: &Reply) -> (u16, String) {
    let text = reply.text();
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once("</")?.0.to_owned())
    };
    (reply.status, element("EC").or(element("Code")).unwrap_or(text.clone()))
}

fn done() -> (u16, String) {
    (200, r#"{"Status":"OK"}"#.to_owned())
}

#[test]
fn the_rights_that_the_readme_asks_for_are_enough() {
    let url = format!("http://{NAME}/callback");
    let objects = "acs:oss:*:*:examplebucket/user/*";
    // A key that signs, without and with a look into the bucket.
    for (actions, confirm, expected) in [
        (&["oss:PutObject"][..], "off", 200),
        (&["oss:PutObject", "oss:GetObject"], "on", 200),
        (&["oss:PutObject"], "on", 203),
        (&["oss:GetObject"], "off", 403),
    ] {
        let options = Options { key_policy: allow(actions, objects), ..strict() };
        let bucket = Standin::start(options).unwrap();
        let server = start(&bucket, &url, &[("CONFIRM_UPLOADS", confirm)]);
        let reply = upload(&policy(&server), "a.txt", b"hello", &[]);
        assert_eq!(reply.status, expected, "{actions:?} {confirm}: {}", reply.text());
        let elsewhere = upload(&policy(&server), "a.txt", b"hello", &[("key", "other/a.txt")]);
        assert_eq!(elsewhere.status, 403);
    }
    // A key that may only assume a role, and a role that has more rights than the server wants.
    let key_policy = allow(&["sts:AssumeRole"], &Options::default().role_arn);
    for (confirm, read) in [("off", 403), ("on", 200)] {
        let role_policy = allow(&["oss:*"], "acs:oss:*:*:examplebucket/*");
        let options = Options { key_policy: key_policy.clone(), role_policy, ..strict() };
        let bucket = Standin::start(options.clone()).unwrap();
        let sts = bucket.sts_url();
        let role = [
            ("OSS_STS_ROLE_ARN", &*options.role_arn),
            ("OSS_STS_ENDPOINT", &sts),
            ("CONFIRM_UPLOADS", confirm),
        ];
        let server = start(&bucket, &url, &role);
        server.wait_log(" credentials: ");
        let reply = upload(&policy(&server), "a.txt", b"hello", &[]);
        assert_eq!(answer(&reply), done());
        let reads: Vec<u16> = bucket.reads().iter().map(|read| read.status).collect();
        assert_eq!(reads, if read == 200 { vec![200] } else { vec![] }, "{confirm}");
        // As long as every role allows.
        let asked = &bucket.issued()[0];
        assert_eq!(asked.expire, asked.issued_at + 3600);
    }
}

/// Whatever OSS refuses to call back, `--check` warns of; what it calls back, `--check` accepts.
#[test]
fn check_warns_of_the_callback_addresses_that_oss_refuses() {
    for (host, private) in [
        ("127.0.0.1:8080", true),
        ("127.9.9.9", true),
        ("localhost:8080", true),
        ("10.1.2.3", true),
        ("172.16.0.1", true),
        ("172.31.255.255", true),
        ("192.168.0.1", true),
        ("169.254.1.1", true),
        ("172.32.0.1", false),
        ("11.22.33.44:8080", false),
        ("upload.example.com", false),
    ] {
        let bucket = Standin::start(strict()).unwrap();
        let url = format!("http://{host}/callback");
        let server = start(&bucket, &url, &[]);
        let reply = upload(&policy(&server), "a.txt", b"hello", &[]);
        let expected = match (private, host) {
            (true, _) => (400, "0007-00000008".to_owned()),
            (false, NAME) => done(),
            // Public, and the stand-in does not leave this machine.
            (false, _) => (203, "0007-00000203".to_owned()),
        };
        assert_eq!(answer(&reply), expected, "{host}");
        assert_eq!(bucket.keys().is_empty(), private, "{host}");
        let vars = vars(&bucket, &url);
        let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, &**value)).collect();
        let found = run(&["--check"], &vars);
        assert_eq!(
            found.stdout.contains("warn CALLBACK_URL: "),
            private,
            "{host}: {}",
            found.stdout
        );
    }
}

/// Until a custom domain is mapped to the bucket, nothing can be uploaded, and `--check` says why.
#[test]
fn a_domain_that_is_not_the_buckets_is_found_out() {
    for (mapped, code, expected) in [(false, Some(2), 404), (true, Some(0), 200)] {
        let domains = if mapped { vec!["0.0.0.0".to_owned()] } else { Vec::new() };
        let bucket = Standin::start(Options { domains, ..strict() }).unwrap();
        // The same port by an address that is not the one the bucket listens on.
        let host = bucket.url().replace("127.0.0.1", "0.0.0.0");
        let mut vars = vars(&bucket, &format!("http://{NAME}/callback"));
        vars.retain(|(name, _)| *name != "OSS_HOST");
        vars.push(("OSS_HOST", host.clone()));
        let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, &**value)).collect();
        let found = run(&["--check", "--online"], &vars);
        assert_eq!(found.code, code, "{}", found.stdout);
        assert_eq!(found.stdout.contains("FAIL bucket: NoSuchBucket ("), !mapped);
        let server = start(&bucket, &format!("http://{NAME}/callback"), &[("OSS_HOST", &host)]);
        let reply = upload(&policy(&server), "a.txt", b"hello", &[]);
        assert_eq!(reply.status, expected, "{}", reply.text());
    }
}

/// The string to sign has the decoded path, and no document says whether `+` is a blank there and
/// whether `%2F` is decoded. A path without them works either way. With them a callback is believed
/// in one of the two cases, and refused in the other: it is never believed for another path.
#[test]
fn callback_paths_that_oss_may_decode_in_two_ways() {
    let decodings = [(false, false), (true, false), (false, true), (true, true)];
    for (path, good_if) in [
        ("/callback", [true, true, true, true]),
        ("/a%20b/c-d_e.f~g", [true, true, true, true]),
        ("/c?x=%2F+%20y", [true, true, true, true]),
        ("/a+b", [true, false, true, false]),
        ("/a%2Fb", [true, true, false, false]),
        ("/a%2fb+c", [true, false, false, false]),
    ] {
        let (bucket, record) = (Standin::start(strict()).unwrap(), Folder::new());
        let folder = record.0.to_str().unwrap();
        let server = start(&bucket, &format!("http://{NAME}{path}"), &[("UPLOAD_LOG", folder)]);
        let mut recorded = 0;
        for ((plus_is_blank, keep_slash), good) in decodings.into_iter().zip(good_if) {
            bucket.faults().path_decoding = PathDecoding { plus_is_blank, keep_slash };
            let reply = upload(&policy(&server), "a.txt", b"hello", &[]);
            let case = format!("{path} plus_is_blank={plus_is_blank} keep_slash={keep_slash}");
            if good {
                assert_eq!(answer(&reply), done(), "{case}");
                recorded += 1;
            } else {
                assert_eq!(answer(&reply), (203, "0007-00000203".to_owned()), "{case}");
                let callback = bucket.callbacks().pop().unwrap();
                let text = String::from_utf8(callback.answer).unwrap();
                assert_eq!(callback.status, Some(400), "{case}: {text}");
            }
        }
        let files = std::fs::read_dir(folder).unwrap();
        let lines: usize = files
            .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap().lines().count())
            .sum();
        assert_eq!(lines, recorded, "{path}");
        let refused = server.log().iter().filter(|line| line.contains("does not match")).count();
        assert_eq!(refused, 4 - recorded, "{path}: {:#?}", server.log());
    }
}

/// A blank in a form value of a callback is `%20` or `+`: no document says which. A `+` of the name
/// is `%2B` in both, so the record has the name as it is.
#[test]
fn blanks_in_names_whichever_way_oss_writes_them() {
    let (bucket, record) = (Standin::start(strict()).unwrap(), Folder::new());
    let folder = record.0.to_str().unwrap();
    let server = start(&bucket, &format!("http://{NAME}/callback"), &[("UPLOAD_LOG", folder)]);
    let names = ["a b.txt", "a+b.txt", "a b+c%20d%2Be.txt", " +.txt", "a%41%.txt"];
    for (space_as_plus, written) in [(false, "a%20b.txt"), (true, "a+b.txt")] {
        bucket.faults().space_as_plus = space_as_plus;
        for name in names {
            let reply = upload(&policy(&server), name, b"hello", &[]);
            assert_eq!(answer(&reply), done(), "{name} {space_as_plus}");
        }
        let bodies: Vec<Vec<u8>> = bucket.callbacks().into_iter().map(|one| one.body).collect();
        let has =
            |text: &str| bodies.iter().any(|body| String::from_utf8_lossy(body).contains(text));
        assert!(has(written), "{written} in {bodies:?}");
    }
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let recorded: Vec<String> = std::fs::read_to_string(file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["object"].to_string())
        .collect();
    let expected: Vec<String> =
        names.iter().chain(&names).map(|name| json!(format!("user/{name}")).to_string()).collect();
    assert_eq!(recorded, expected);
}
