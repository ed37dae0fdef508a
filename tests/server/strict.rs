//! The product on a bucket that refuses all that OSS refuses: private callback addresses, other
//! hosts, rights beyond those that the README asks for. And on both of what OSS may be, where its
//! documents leave something open.

use oss_standin::{Options, PathDecoding, Source};
use serde_json::json;
use support::trust::TOKEN_KEY;
use support::world::{Site, V4, borrowed, policy};
use support::{Reply, Server, upload};

const NAME: &str = "upload.example.com";

/// A RAM policy that allows these actions on one resource, as the README words its rights.
fn allow(actions: &[&str], resource: &str) -> Option<String> {
    let statement = json!({"Effect": "Allow", "Action": actions, "Resource": resource});
    Some(json!({"Version": "1", "Statement": [statement]}).to_string())
}

/// A bucket like this that is called back at a path of the public name.
fn site(options: Options, path: &str) -> Site {
    let url = format!("http://{NAME}{path}");
    let changes = [("CALLBACK_TOKEN", "on"), ("CALLBACK_TOKEN_KEY", TOKEN_KEY)];
    let options = Options { private_callbacks: false, ..options };
    Site::of(options, &[&changes[..], &[("CALLBACK_URL", &url)]].concat())
}

/// A server behind the public name, which the bucket finds at the server's own address.
fn start(site: &Site, changes: &[(&str, &str)]) -> Server {
    let server = Server::start(&site.vars(changes));
    site.bucket.faults().routes = vec![(NAME.to_owned(), server.address)];
    server
}

/// An upload of `hello`, after this change of its form.
fn put(server: &Server, name: &str, change: &[(&str, &str)]) -> Reply {
    upload(&policy(server.address, V4, &[]), name, b"hello", change)
}

/// Status, and the code of an error or the text.
fn answer(reply: &Reply) -> (u16, String) {
    let code = reply.element("EC").or(reply.element("Code"));
    (reply.status, code.unwrap_or(reply.text()))
}

fn done() -> (u16, String) {
    (200, r#"{"Status":"OK"}"#.to_owned())
}

/// RAM: a key, or a role that STS narrows, needs oss:PutObject, and oss:GetObject to confirm; not
/// more.
#[test]
fn the_rights_that_the_readme_asks_for_are_enough() {
    let objects = "acs:oss:*:*:examplebucket/user/*";
    // A key that signs, without and with a look into the bucket.
    for (actions, confirm, expected) in [
        (&["oss:PutObject"][..], "off", 200),
        (&["oss:PutObject", "oss:GetObject"], "on", 200),
        (&["oss:PutObject"], "on", 203),
        (&["oss:GetObject"], "off", 403),
    ] {
        let key_policy = allow(actions, objects);
        let site = site(Options { key_policy, ..Options::default() }, "/callback");
        let server = start(&site, &[("CONFIRM_UPLOADS", confirm)]);
        let reply = put(&server, "a.txt", &[]);
        assert_eq!(reply.status, expected, "{actions:?} {confirm}: {}", reply.text());
        let elsewhere = put(&server, "a.txt", &[("key", "other/a.txt")]);
        assert_eq!(elsewhere.status, 403);
    }
    // A key that may only assume a role, and a role that has more rights than the server wants.
    let key_policy = allow(&["sts:AssumeRole"], &Options::default().role_arn);
    for (confirm, read) in [("off", 403), ("on", 200)] {
        let role_policy = allow(&["oss:*"], "acs:oss:*:*:examplebucket/*");
        let (key_policy, options) = (key_policy.clone(), Options::default());
        let site = site(Options { key_policy, role_policy, ..options }, "/callback");
        let mut role = site.bucket.role_vars(Source::Sts);
        role.push(("CONFIRM_UPLOADS", confirm.to_owned()));
        let server = start(&site, &borrowed(&role));
        server.wait_log(" credentials: ");
        assert_eq!(answer(&put(&server, "a.txt", &[])), done());
        let reads: Vec<u16> = site.bucket.reads().iter().map(|read| read.status).collect();
        assert_eq!(reads, if read == 200 { vec![200] } else { vec![] }, "{confirm}");
        // As long as every role allows.
        let asked = &site.bucket.issued()[0];
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
        let site = site(Options::default(), "/callback");
        let url = format!("http://{host}/callback");
        let changes = [("CALLBACK_URL", &*url)];
        let reply = put(&start(&site, &changes), "a.txt", &[]);
        let expected = match (private, host) {
            (true, _) => (400, "0007-00000008".to_owned()),
            (false, NAME) => done(),
            // Public, and the stand-in does not leave this machine.
            (false, _) => (203, "0007-00000203".to_owned()),
        };
        assert_eq!(answer(&reply), expected, "{host}");
        assert_eq!(site.bucket.keys().is_empty(), private, "{host}");
        let report = site.run(&["--check"], &changes).stdout;
        let (name, _) = host.split_once(':').unwrap_or((host, ""));
        let line = format!("\nwarn CALLBACK_URL: {name} has no public IPv4 address\n");
        assert_eq!(report.contains(&line), private, "{host}: {report}");
        assert_eq!(report.contains("warn CALLBACK_URL: "), private, "{host}: {report}");
    }
}

/// Until a custom domain is mapped to the bucket, nothing can be uploaded, and `--check` says why.
#[test]
fn a_domain_that_is_not_the_buckets_is_found_out() {
    for (mapped, code, expected) in [(false, Some(2), 404), (true, Some(0), 200)] {
        let domains = if mapped { vec!["0.0.0.0".to_owned()] } else { Vec::new() };
        let site = site(Options { domains, ..Options::default() }, "/callback");
        // The same port by an address that is not the one the bucket listens on.
        let host = site.bucket.url().replace("127.0.0.1", "0.0.0.0");
        let changes = [("OSS_HOST", &*host)];
        let found = site.run(&["--check", "--online"], &changes);
        assert_eq!(found.code, code, "{}", found.stdout);
        assert_eq!(found.stdout.contains("FAIL bucket: NoSuchBucket ("), !mapped);
        let reply = put(&start(&site, &changes), "a.txt", &[]);
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
        let site = site(Options::default(), path);
        let server = start(&site, &[]);
        let mut recorded = 0;
        for ((plus_is_blank, keep_slash), good) in decodings.into_iter().zip(good_if) {
            site.bucket.faults().path_decoding = PathDecoding { plus_is_blank, keep_slash };
            let reply = put(&server, "a.txt", &[]);
            let case = format!("{path} plus_is_blank={plus_is_blank} keep_slash={keep_slash}");
            if good {
                assert_eq!(answer(&reply), done(), "{case}");
                recorded += 1;
            } else {
                assert_eq!(answer(&reply), (203, "0007-00000203".to_owned()), "{case}");
                let callback = site.bucket.callbacks().pop().unwrap();
                let text = String::from_utf8(callback.answer).unwrap();
                assert_eq!(callback.status, Some(400), "{case}: {text}");
            }
        }
        assert_eq!(site.record().len(), recorded, "{path}");
        let refused = server.log().iter().filter(|line| line.contains("does not match")).count();
        assert_eq!(refused, 4 - recorded, "{path}: {:#?}", server.log());
    }
}

/// A blank in a form value of a callback is `%20` or `+`: no document says which. A `+` of the name
/// is `%2B` in both, so the record has the name as it is.
#[test]
fn blanks_in_names_whichever_way_oss_writes_them() {
    let site = site(Options::default(), "/callback");
    let server = start(&site, &[]);
    let names = ["a b.txt", "a+b.txt", "a b+c%20d%2Be.txt", " +.txt", "a%41%.txt"];
    for (space_as_plus, written) in [(false, "a%20b.txt"), (true, "a+b.txt")] {
        site.bucket.faults().space_as_plus = space_as_plus;
        for name in names {
            assert_eq!(answer(&put(&server, name, &[])), done(), "{name} {space_as_plus}");
        }
        let callbacks = site.bucket.callbacks();
        let bodies: Vec<_> =
            callbacks.iter().map(|one| String::from_utf8_lossy(&one.body)).collect();
        let has = |text: &str| bodies.iter().any(|body| body.contains(text));
        assert!(has(written), "{written} in {bodies:?}");
    }
    let expected = names.iter().chain(&names).map(|name| format!("user/{name}"));
    assert_eq!(site.objects(), expected.collect::<Vec<_>>());
}
