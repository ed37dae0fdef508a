//! What the documents refuse, over the wire: other hosts, private callbacks, bad keys, requests
//! that no CORS rule fits, and what a role, a session or a user may not do.

use super::temporary::{PUT_ONE, assume};
use super::*;

#[test]
fn a_request_to_another_host_reaches_no_bucket() {
    let standin = start(|options| options.domains = vec!["files.example.com".to_string()]);
    let body = Form::v4().body();
    let post = |hosts: &str| {
        let mut stream = connect(&standin);
        stream.write_all(&upload(hosts, &body)).unwrap();
        let got = answer(&mut stream);
        // The body was read: the connection goes on.
        stream.write_all(format!("GET / HTTP/1.1\r\n{HOST}\r\n").as_bytes()).unwrap();
        assert_eq!(answer(&mut stream).status, 405, "{hosts}");
        got
    };
    let missing = (404, "NoSuchBucket", "0015-00000101");
    let level = (403, "SecondLevelDomainForbidden", "");
    let elsewhere = (403, "AccessDenied", "0003-00001403");
    let regular = "examplebucket.oss-cn-hangzhou.aliyuncs.com";
    for (host, error, bucket) in [
        ("oss-cn-hangzhou.aliyuncs.com", level, ""),
        ("cn-hangzhou.oss.aliyuncs.com", level, ""),
        ("examplebucket.oss-cn-beijing.aliyuncs.com", elsewhere, ""),
        ("examplebucket.cn-beijing.oss.aliyuncs.com", elsewhere, ""),
        ("other.oss-cn-hangzhou.aliyuncs.com", missing, "other"),
        (&format!("a.{regular}"), missing, "a"),
        (&format!("{regular}.evil.example"), missing, &format!("{regular}.evil.example")),
        ("www.example.com", missing, "www.example.com"),
        ("127.0.0.2", missing, "127.0.0.2"),
        ("", missing, ""),
    ] {
        let got = post(&format!("Host: {host}\r\n"));
        assert_eq!((got.error(), got.element("BucketName")), (error, bucket), "{host}");
        let endpoint = if error == elsewhere { "oss-cn-hangzhou.aliyuncs.com" } else { "" };
        assert_eq!(got.element("Endpoint"), endpoint, "{host}");
    }
    for none_or_two in ["", "Host: localhost\r\nHost: localhost\r\n"] {
        assert_eq!(post(none_or_two).error(), (400, "BadRequest", ""));
    }
    assert!(standin.keys().is_empty() && standin.posts().is_empty());
    for host in [
        regular,
        "ExampleBucket.oss-cn-hangzhou.aliyuncs.com:443",
        "examplebucket.oss-cn-hangzhou-internal.aliyuncs.com",
        "examplebucket.cn-hangzhou.oss.aliyuncs.com",
        "examplebucket.oss-accelerate.aliyuncs.com",
        "files.example.com",
        "files.example.com:8080",
        standin.url().trim_start_matches("http://"),
        "localhost",
    ] {
        assert_eq!(post(&format!("Host: {host}\r\n")).status, 204, "{host}");
    }
}

#[test]
fn a_private_callback_is_refused_before_the_object_is_stored() {
    let strict = start(|options| options.private_callbacks = false);
    let post = |url: &str| Form::v4().callback(url, "a=1", false).post(&strict);
    let (address, app) = app(GOOD);
    let private = format!("http://{address}/callback");
    for url in [
        &*private,
        "127.1.2.3",
        "https://10.0.0.1/",
        "http://172.16.0.1/",
        "http://172.31.255.255/",
        "http://192.168.1.1/",
        "http://169.254.1.1/",
        "http://0.0.0.0/",
        "http://LocalHost:1/",
    ] {
        let got = post(url);
        assert_eq!(got.error(), (400, "InvalidArgument", "0007-00000008"), "{url}");
        assert_eq!(got.element("Message"), "Private address is forbidden to callback.");
        let argument = (got.element("ArgumentName"), got.element("ArgumentValue"));
        assert_eq!(argument, ("callbackUrl", url));
    }
    assert!(strict.keys().is_empty() && strict.callbacks().is_empty());
    for public in ["http://121.101.166.30/", "http://172.32.0.1/", "https://a.example/x"] {
        assert_eq!(post(public).error().1, "CallbackFailed", "{public}");
    }
    // A name that a route leads to this machine is public.
    strict.faults().routes = vec![("app.example".to_string(), address.parse().unwrap())];
    let got = post("http://app.example/callback");
    assert_eq!(got.status, 200, "{}", got.text());
    app.join().unwrap();
}

#[test]
fn keys_that_are_names_and_keys_that_are_none() {
    let standin = start(|_| {});
    let invalid = |ec| (400, "InvalidObjectName", ec);
    // 1,024 bytes, 512 characters
    let got = Form::v4().field("key", &"ü".repeat(512)).post(&standin);
    assert_eq!(got.error(), invalid("0016-00000002"));
    // Its first character comes from the name of the file.
    let form = Form::v4().field("key", "${filename}").file("/a", "text/plain", b"x");
    assert_eq!(form.post(&standin).error(), invalid("0016-00000005"));
    let body = Form::v4().field("key", "dir/EVIL").body();
    let at = memchr::memmem::find(&body, b"EVIL").unwrap();
    let body = [&body[..at], b"\xff\xfe", &body[at + 4..]].concat();
    assert_eq!(post(&standin, &body).error(), invalid("0016-00000002"));
    let got = ask(&standin.url(), format!("GET //a HTTP/1.1\r\n{HOST}\r\n"));
    assert_eq!(got.error(), invalid("0016-00000005"));
    assert!(standin.keys().is_empty());
    for good in ["a", "图片/ü.png", "a//b/", "a\\b", " ", &"k".repeat(1023)] {
        assert_eq!(Form::v4().field("key", good).post(&standin).status, 204, "{good}");
    }
}

fn preflight(standin: &Standin, origin: &str, method: &str, headers: &str) -> Got {
    let asked = format!("Access-Control-Request-Headers: {headers}\r\n");
    let asked = if headers.is_empty() { "" } else { &asked };
    let request = format!(
        "OPTIONS /a HTTP/1.1\r\n{HOST}Origin: {origin}\r\n\
         Access-Control-Request-Method: {method}\r\n{asked}\r\n"
    );
    ask(&standin.url(), request)
}

#[test]
fn cors_as_the_rules_say() {
    let standin = start(|_| {});
    // Allow-Origin, -Methods, -Headers, Expose-Headers, Max-Age, Vary
    let described = |got: &Got| {
        assert_eq!(got.status, 200);
        let names = ["allow-origin", "allow-methods", "allow-headers", "expose-headers", "max-age"];
        let values = names.map(|name| got.header(&format!("access-control-{name}")).to_string());
        format!("{} | {}", values.join(" | "), got.header("vary"))
    };
    let got = preflight(&standin, "http://page", "POST", "x-a");
    assert_eq!(described(&got), "* | POST | x-a | ETag, x-oss-request-id | 600 | ");
    let own = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let narrow = CorsRule {
        origins: own(&["http://page", "https://*.example.com"]),
        methods: own(&["POST", "GET"]),
        headers: own(&["Content-Type", "x-oss-*"]),
        expose: vec![],
        max_age_seconds: None,
    };
    let put =
        CorsRule { methods: own(&["PUT"]), ..CorsRule::uploads_from("https://*.example.com") };
    standin.faults().cors = vec![narrow, put];
    let asked = "content-type, X-OSS-Meta-A";
    let got = preflight(&standin, "http://page", "POST", asked);
    assert_eq!(described(&got), format!("http://page | POST, GET | {asked} |  |  | Origin"));
    for (origin, method, headers, status) in [
        ("https://a.example.com", "GET", "", 200),
        ("https://a.example.com", "PUT", "authorization", 200),
        ("https://example.com", "POST", "", 403),
        ("http://page", "PUT", "", 403),
        ("http://page", "DELETE", "", 403),
        ("http://page", "POST", "authorization", 403),
        ("http://page", "POST", "x-oss-a,authorization", 403),
        ("http://page.evil.example", "POST", "", 403),
        ("null", "POST", "", 403),
    ] {
        let got = preflight(&standin, origin, method, headers);
        assert_eq!(got.status, status, "{origin} {method} {headers}");
        let code = if status == 200 { "" } else { "AccessForbidden" };
        assert_eq!(got.element("Code"), code, "{origin} {method} {headers}");
        assert_eq!(got.header("access-control-allow-origin").is_empty(), status == 403);
    }
    let got = ask(&standin.url(), format!("OPTIONS / HTTP/1.1\r\n{HOST}\r\n"));
    assert_eq!(got.error(), (400, "BadRequest", ""));
    // The request itself: the rule must fit its method, or a page may not read the response.
    let got = Form::v4().post(&standin);
    assert_eq!((got.status, got.header("access-control-allow-origin")), (204, "http://page"));
    standin.faults().cors.remove(0);
    let got = Form::v4().post(&standin);
    assert_eq!((got.status, got.header("access-control-allow-origin")), (204, ""));
    standin.faults().cors.clear();
    let got = preflight(&standin, "http://page", "POST", "");
    assert_eq!(got.error().1, "AccessForbidden");
}

const ROLE: &str = "{\"Version\":\"1\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"oss:*\",\
                    \"Resource\":\"acs:oss:*:*:examplebucket/dir/a*\"}]}";
const USER: &str = "{\"Version\":\"1\",\"Statement\":[{\"Effect\":\"Allow\",\
                    \"Action\":\"sts:AssumeRole\",\
                    \"Resource\":\"acs:ram::1234567890123456:role/uploader\"}]}";

#[test]
fn a_session_may_do_what_its_role_and_its_own_policy_allow() {
    let standin = start(|options| {
        options.role_policy = Some(ROLE.to_string());
        options.key_policy = Some(USER.to_string());
    });
    let denied = (403, "AccessDenied", "0003-00000301");
    let role_alone = assume("1").issued(&standin);
    let both = assume("2").with("Policy", PUT_ONE).issued(&standin);
    let elsewhere = PUT_ONE.replace("dir/", "other/");
    let neither = assume("3").with("Policy", &elsewhere).issued(&standin);
    for issued in [&role_alone, &both] {
        assert_eq!(Form::v4_by(issued).post(&standin).status, 204);
        assert_eq!(Form::v4_by(issued).field("key", "dir/b.txt").post(&standin).error(), denied);
    }
    for key in ["dir/a.txt", "other/a.txt"] {
        assert_eq!(Form::v4_by(&neither).field("key", key).post(&standin).error(), denied, "{key}");
    }
    // The user may assume the role and do nothing else; another user may not even do that.
    assert_eq!(Form::v4().post(&standin).error(), denied);
    let standin = start(|options| options.key_policy = Some(PUT_ONE.to_string()));
    assert_eq!(Form::v4().post(&standin).status, 204);
    assert_eq!(assume("1").post(&standin).status, 403);
}
