//! Promises that hold whichever part of the program is looked at. On every call that goes out:
//! certificates are checked, proxies of the environment are ignored, what others answer reaches no
//! log and no header. And of every upload: it is on disk before anybody is told. (ssrf, tls, proxy,
//! injection, fsync)

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use appserver::oss::credentials::{Credentials, Secret, Source};
use appserver::oss::sts;
use oss_standin::{CredentialFault, Options, Standin};
use support::Connection;
use support::trust::callback_token;
use support::{Event, Folder, Order, Reply, Server, request, run, send, trust};

const PATIENCE: Duration = Duration::from_secs(30);
const FORM: &str = "application/x-www-form-urlencoded";
const BODY: &[u8] = b"filename=user%2Fa.txt&size=5&etag=E&bucket=examplebucket";

/// Who calls out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Caller {
    KeyHost,
    Sts,
    Metadata,
    Bucket,
}

const CALLERS: [Caller; 4] = [Caller::KeyHost, Caller::Sts, Caller::Metadata, Caller::Bucket];

impl Caller {
    /// The configuration with which it calls `url`, and everything else is the stand-in's.
    fn vars(self, url: &str, bucket: &Standin) -> Vec<(&'static str, String)> {
        let options = Options::default();
        let mut vars = vec![
            ("OSS_ACCESS_KEY_ID", options.access_key_id),
            ("OSS_ACCESS_KEY_SECRET", options.access_key_secret),
            ("OSS_HOST", bucket.url()),
            ("OSS_BUCKET", options.bucket),
            ("OSS_REGION", options.region),
            ("CALLBACK_URL", "http://203.0.113.5/callback".to_owned()),
            ("CALLBACK_KEY_ORIGIN", bucket.key_origin()),
        ];
        let more = match self {
            Caller::KeyHost => vec![("CALLBACK_KEY_ORIGIN", url.to_owned())],
            Caller::Sts => {
                vec![("OSS_STS_ROLE_ARN", options.role_arn), ("OSS_STS_ENDPOINT", url.to_owned())]
            }
            Caller::Metadata => vec![
                ("OSS_ACCESS_KEY_ID", String::new()),
                ("OSS_ACCESS_KEY_SECRET", String::new()),
                ("OSS_ECS_ROLE", options.ecs_role),
                ("OSS_ECS_ENDPOINT", url.to_owned()),
                ("CALLBACK_TOKEN_KEY", "a-key-of-thirty-two-bytes-or-more".to_owned()),
            ],
            Caller::Bucket => {
                vec![("CONFIRM_UPLOADS", "on".to_owned()), ("OSS_INTERNAL_HOST", url.to_owned())]
            }
        };
        vars.retain(|(name, _)| more.iter().all(|(other, _)| name != other));
        vars.extend(more);
        vars
    }

    /// Where the stand-in serves it.
    fn served(self, bucket: &Standin) -> String {
        match self {
            Caller::KeyHost => bucket.key_origin(),
            Caller::Sts => bucket.sts_url(),
            Caller::Metadata => bucket.metadata_url(),
            Caller::Bucket => bucket.url(),
        }
    }

    /// Starts the server, has it call, and waits for what comes of it: the line of the log that
    /// tells, and the response to the callback that needs the bucket.
    fn call(self, url: &str, bucket: &Standin, more: &[(&str, &str)]) -> (Server, String, Reply) {
        let vars = self.vars(url, bucket);
        let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, &**value)).collect();
        let server = Server::start(&[&vars[..], more].concat());
        if self != Caller::KeyHost {
            server.wait_log(" callback key v1: fetched");
        }
        let mut line = String::new();
        match self {
            Caller::KeyHost => line = server.wait_log(" callback key v1: "),
            Caller::Sts | Caller::Metadata => line = server.wait_log(" credentials: "),
            Caller::Bucket => {}
        }
        let callback = bucket.callback_request("/callback", "x", BODY, FORM);
        let reply = send(server.address, &callback, false).expect("a response");
        if self == Caller::Bucket {
            line = server.wait_log(" POST ");
        }
        (server, line, reply)
    }

    /// The outcome of `call` where nothing that was answered can be used.
    fn is_refused(self, line: &str, reply: &Reply) -> bool {
        match self {
            Caller::KeyHost => line.contains("callback key v1: not fetched ("),
            Caller::Sts => line.contains("credentials: not renewed (sts: "),
            Caller::Metadata => line.contains("credentials: not renewed (ecs metadata: "),
            Caller::Bucket => reply.status == 503,
        }
    }
}

/// The object that callbacks tell of.
fn bucket() -> Standin {
    let bucket = Standin::start(Options::default()).unwrap();
    bucket.put("user/a.txt", b"hello", "text/plain");
    bucket
}

/// Whoever answers well is believed: what the tests below see is not a broken test.
#[test]
fn each_call_works_when_nothing_is_wrong() {
    for caller in CALLERS {
        let bucket = bucket();
        let etag = bucket.object("user/a.txt").unwrap().etag;
        let (server, line, _) = caller.call(&caller.served(&bucket), &bucket, &[]);
        assert!(!line.contains("not "), "{caller:?}: {line}");
        let body =
            String::from_utf8(BODY.to_vec()).unwrap().replace("etag=E", &format!("etag={etag}"));
        let callback = bucket.callback_request("/callback", "x", body.as_bytes(), FORM);
        assert_eq!(send(server.address, &callback, false).unwrap().status, 200, "{caller:?}");
    }
}

// TLS

/// An authority of the test's own, and certificates that it issued. No program trusts it.
struct Authority(Folder);

impl Authority {
    fn new() -> Authority {
        let authority = Authority(Folder::new());
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=Test \
             -keyout ca.key -out ca.pem",
        );
        authority.openssl(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=leaf \
             -keyout leaf.key -out leaf.csr",
        );
        authority
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir(&self.0.0);
        let output = command.output().expect("openssl");
        assert!(output.status.success(), "{arguments}: {output:?}");
    }

    /// A certificate for these names that ends in so many days.
    fn issue(&self, file: &str, names: &str, days: i32) {
        let extensions = format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(self.0.path("extensions"), extensions).unwrap();
        self.openssl(&format!(
            "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} \
             -extfile extensions -out {file}"
        ));
    }

    /// A certificate that vouches for itself.
    fn issue_self_signed(&self, file: &str) {
        self.openssl(&format!(
            "req -x509 -key leaf.key -days 2 -subj /CN=localhost -addext \
             subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE -out {file}"
        ));
    }
}

/// A TLS server that prints what it reads, and its handshakes that failed.
struct TlsHost {
    child: Child,
    port: u16,
    printed: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl TlsHost {
    fn start(authority: &Authority, certificate: &str) -> TlsHost {
        let program = format!(
            "exec openssl s_server -accept 127.0.0.1:0 -key leaf.key -cert {certificate} 2>&1"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &program]).current_dir(&authority.0.0);
        // As long as its input is open, it serves.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("openssl");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let printed = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let ours = printed.clone();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                ours.0.lock().unwrap().push(line);
                ours.1.notify_all();
            }
        });
        let mut host = TlsHost { child, port: 0, printed };
        let line = host.wait("ACCEPT 127.0.0.1:");
        host.port = line.rsplit(':').next().unwrap().parse().unwrap();
        host
    }

    /// The first line that begins so, as soon as there is one.
    fn wait(&self, start: &str) -> String {
        let is_missing =
            |lines: &mut Vec<String>| !lines.iter().any(|line| line.starts_with(start));
        let lines = self.printed.0.lock().unwrap();
        let (lines, timeout) =
            self.printed.1.wait_timeout_while(lines, PATIENCE, is_missing).unwrap();
        assert!(!timeout.timed_out(), "no {start} in {lines:#?}");
        lines.iter().find(|line| line.starts_with(start)).unwrap().clone()
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn requests(&self) -> Vec<String> {
        let lines = self.printed.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(" HTTP/1.1")).cloned().collect()
    }
}

impl Drop for TlsHost {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// curl on its way to this host, with the authority trusted.
fn curl(authority: &Authority, host: &TlsHost, path: &str) -> Child {
    let mut command = Command::new("curl");
    command.args(["-s", "--noproxy", "*", "--max-time", "30", "--cacert", "ca.pem"]);
    command.arg(format!("{}/{path}", host.url())).current_dir(&authority.0.0);
    command.stdout(Stdio::null()).spawn().expect("curl")
}

/// Neither key nor token nor signature goes to a host whose certificate is not good: the handshake
/// ends, and not one byte of a request is sent.
#[test]
fn certificates_are_checked_on_every_call() {
    let authority = Authority::new();
    authority.issue("good.pem", "DNS:localhost", 2);
    authority.issue("name.pem", "DNS:localhost.example.com,DNS:*.localhost", 2);
    authority.issue("expired.pem", "DNS:localhost", -1);
    authority.issue_self_signed("self.pem");
    for certificate in ["good.pem", "name.pem", "expired.pem", "self.pem"] {
        // What is wrong with each, by what curl says that trusts the authority: it asks the good
        // one (which never answers), and ends with 60 at the others.
        let host = TlsHost::start(&authority, certificate);
        let mut curl = curl(&authority, &host, "control");
        if certificate == "good.pem" {
            host.wait("GET /control HTTP/1.1");
            curl.kill().unwrap();
            curl.wait().unwrap();
        } else {
            assert_eq!(curl.wait().unwrap().code(), Some(60), "{certificate}");
        }
        drop(host);
        for caller in CALLERS {
            let (host, bucket) = (TlsHost::start(&authority, certificate), bucket());
            let case = format!("{caller:?} {certificate}");
            let (server, line, reply) = caller.call(&host.url(), &bucket, &[]);
            host.wait("ERROR");
            assert!(caller.is_refused(&line, &reply), "{case}: {line} {}", reply.text());
            if caller != Caller::Bucket {
                assert!(line.contains("certificate"), "{case}: {line}");
            }
            drop(server);
            assert_eq!(host.requests(), [""; 0], "{case}");
        }
        let (host, bucket) = (TlsHost::start(&authority, certificate), bucket());
        let vars = Caller::Bucket.vars(&host.url(), &bucket);
        let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, &**value)).collect();
        let found = run(&["--check", "--online"], &vars);
        let line = found.stdout.lines().find(|line| line.starts_with("FAIL bucket: ")).unwrap();
        assert!(line.contains("certificate"), "{certificate}: {line}");
        assert_eq!((found.code, host.requests()), (Some(2), vec![]), "{certificate}");
    }
}

// Proxies

/// A host that answers each connection with the same bytes, and keeps what it was asked.
struct RawHost {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl RawHost {
    fn start(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> RawHost {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let ours = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let head = read_request(&stream);
                let answer = answer(&head);
                ours.lock().unwrap().push(head);
                let _ = (&stream).write_all(&answer);
            }
        });
        RawHost { address, asked }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Head and body of a request, or as much as there is.
fn read_request(stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return head;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    let _ = reader.read_exact(&mut body);
    head + &String::from_utf8_lossy(&body)
}

const PROXIES: [&str; 6] =
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// Whoever sets the environment of a service sees no key and no token: the variables that send the
/// calls of other programs to a proxy send none of ours.
#[test]
fn proxies_of_the_environment_are_ignored_on_every_call() {
    let authority = Authority::new();
    authority.issue("good.pem", "DNS:localhost", 2);
    for caller in CALLERS {
        let proxy = RawHost::start(|_| b"HTTP/1.1 502 no\r\nContent-Length: 0\r\n\r\n".to_vec());
        let url = proxy.url();
        let mut set: Vec<(&str, &str)> = PROXIES.map(|name| (name, &*url)).to_vec();
        set.push(("NO_PROXY", ""));
        let (bucket, host) = (bucket(), TlsHost::start(&authority, "good.pem"));
        let (_server, line, reply) = caller.call(&caller.served(&bucket), &bucket, &set);
        assert!(!caller.is_refused(&line, &reply), "{caller:?}: {line}");
        let (_server, line, reply) = caller.call(&host.url(), &bucket, &set);
        assert!(caller.is_refused(&line, &reply), "{caller:?}: {line}");
        host.wait("ERROR");
        assert_eq!(proxy.asked(), [""; 0], "{caller:?}");
        // They are there, and curl minds them.
        let mut curl = Command::new("curl");
        curl.env_clear().envs(set).args(["-s", "-o", "/dev/null", &bucket.url(), &host.url()]);
        curl.status().expect("curl");
        let asked = proxy.asked();
        assert!(asked[0].starts_with("GET http://") && asked[1].starts_with("CONNECT localhost:"));
    }
}

// Injection

/// No line of the log has what a terminal would obey, and none was begun by somebody else.
fn is_clean(log: &[String]) -> bool {
    log.iter().all(|line| {
        let stamp = line.split(' ').next().unwrap_or("");
        let is_ours = stamp.len() == 20 && stamp.starts_with("20") && stamp.ends_with('Z');
        is_ours && !line.contains(char::is_control) && !line.contains("forged")
    })
}

/// Responses that are none, or hold what no response may: line feeds, controls of terminals, a
/// redirect, lengths that are no numbers.
#[test]
fn hostile_responses_reach_no_log() {
    let elsewhere = RawHost::start(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nLocation: {}/forged\r\nContent-Length: 0\r\n\r\n",
        elsewhere.url()
    );
    let body = |status: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let code = "{\"Code\":\"a\\n2026-01-01T00:00:00Z forged\",\"RequestId\":\"forged\"}";
    let xml = "<Error><Code>a\n2026-01-01T00:00:00Z forged\u{1b}[31m</Code></Error>";
    for answer in [
        "".to_owned(),
        "forged\n2026-01-01T00:00:00Z forged\r\n\r\n".to_owned(),
        "HTTP/1.1 500 \u{1b}[31mforged\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 500 a\n2026-01-01T00:00:00Z forged\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nX: a\n2026-01-01T00:00:00Z forged\r\nContent-Length: 0\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 200 OK\r\nforged\u{7}: \u{1b}]0;forged\u{7}\r\nContent-Length: 0\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: forged\r\n\r\nforged".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nforged\u{1b}\r\nforged".to_owned(),
        "HTTP/1.1 200 OK\r\nETag: \"forged\u{8a}\"\r\nContent-Length: 0\r\n\r\n".to_owned(),
        body("200 OK", "\u{1b}]0;forged\u{7}\n2026-01-01T00:00:00Z forged\n"),
        body("403 no", code),
        body("403 no", xml),
        redirect,
    ] {
        for caller in CALLERS {
            let bytes = answer.clone().into_bytes();
            let (host, bucket) = (RawHost::start(move |_| bytes.clone()), bucket());
            let case = format!("{caller:?} {answer:?}");
            let (server, line, reply) = caller.call(&host.url(), &bucket, &[]);
            // A 200 without the object's size and ETag is an object that differs.
            let differs = caller == Caller::Bucket && reply.status == 400;
            assert!(caller.is_refused(&line, &reply) || differs, "{case}: {line}");
            assert!(!host.asked().is_empty(), "{case}: not asked");
            assert!(!reply.text().contains("forged"), "{case}: {}", reply.text());
            let policy = request(server.address, "GET", "/", &[], b"");
            assert!(!policy.text().contains("forged"), "{case}: {}", policy.text());
            let log = server.log();
            assert!(is_clean(&log), "{case}: {log:#?}");
        }
    }
    assert_eq!(elsewhere.asked(), [""; 0], "a redirect was followed");
}

/// What `--check` prints of a bucket's code is one line, escaped.
#[test]
fn hostile_codes_are_escaped_in_the_report() {
    let xml = "<Error><Code>a\nok   bucket: forged\u{1b}[31m</Code></Error>";
    let answer = format!("HTTP/1.1 403 no\r\nContent-Length: {}\r\n\r\n{xml}", xml.len());
    let (host, bucket) = (RawHost::start(move |_| answer.clone().into_bytes()), bucket());
    let vars = Caller::Bucket.vars(&host.url(), &bucket);
    let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, &**value)).collect();
    let found = run(&["--check", "--online"], &vars);
    assert_eq!(found.code, Some(2), "{}", found.stdout);
    assert!(found.stdout.lines().all(|line| !line.contains(char::is_control)), "{}", found.stdout);
    assert!(!found.stdout.contains("\nok   bucket"), "{}", found.stdout);
    assert!(found.stdout.contains("FAIL bucket: \"a\\nok   bucket: forged\\u{1b}[31m\""));
}

/// A request that the endpoint of another region gets, as a bucket answers it there.
#[test]
fn a_bucket_of_another_region_is_said_to_be_one() {
    let bucket = bucket();
    let address = bucket.url().trim_start_matches("http://").to_owned();
    let host = RawHost::start(move |head| {
        let lines = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("host:"));
        let mut lines: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
        lines.push("Host: examplebucket.oss-cn-beijing.aliyuncs.com\r\nConnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(lines.join("\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    let vars = Caller::Bucket.vars(&host.url(), &bucket);
    let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, &**value)).collect();
    let found = run(&["--check", "--online"], &vars);
    let said = "FAIL bucket: the bucket is in another region than OSS_HOST says\n";
    assert!(found.code == Some(2) && found.stdout.contains(said), "{}", found.stdout);
}

/// The token of the metadata service becomes a header, so one with a line end would be two.
#[test]
fn a_token_of_the_metadata_service_is_one_header() {
    for token in [
        "token\r\nX-Forged: forged",
        "token\nX-Forged: forged",
        "token\rX-Forged: forged",
        "token\r\n\r\nGET /forged HTTP/1.1",
        "token\0forged",
        "token\u{7f}forged",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{token}", token.len());
        let host = RawHost::start(move |_| answer.clone().into_bytes());
        let bucket = bucket();
        let (server, line, reply) = Caller::Metadata.call(&host.url(), &bucket, &[]);
        assert!(Caller::Metadata.is_refused(&line, &reply), "{token:?}: {line}");
        let asked = host.asked();
        assert!(!asked.iter().any(|head| head.contains("orged")), "{token:?}: {asked:#?}");
        assert_eq!(asked.len(), 1, "{token:?}: {asked:#?}");
        assert!(is_clean(&server.log()), "{token:?}: {:#?}", server.log());
    }
}

fn role(endpoint: &str) -> Source {
    let options = Options::default();
    let key = Credentials {
        access_key_id: options.access_key_id,
        access_key_secret: Secret::new(options.access_key_secret),
        security_token: None,
    };
    let policy = sts::session_policy("examplebucket", "", false);
    Source::Role { key, endpoint: endpoint.to_owned(), arn: options.role_arn, policy }
}

/// Id, secret and token become form fields, headers and parts of a credential; the code of an error
/// becomes a word of the log. Only what is visible ASCII may be one of them.
#[test]
fn values_that_others_issue_are_plain() {
    let bucket = bucket();
    let ecs = Source::Ecs { endpoint: bucket.metadata_url(), role: Options::default().ecs_role };
    let sources = [("sts", role(&bucket.sts_url())), ("ecs metadata", ecs)];
    let now = trust::now();
    let hostile = [
        "",
        " ",
        "a b",
        "a\nforged",
        "a\rforged",
        "a\r\nforged",
        "a\0",
        "\u{1b}[31mforged",
        "a\t",
        "\u{7f}",
        "a\u{85}",
        "a\u{2028}forged",
        "é",
        "\u{202e}forged",
        "\n",
        "a\n",
    ];
    for (who, source) in &sources {
        let good = [
            ("AccessKeyId", "STS.Id"),
            ("AccessKeySecret", "Secret"),
            ("SecurityToken", "Token=="),
            ("Expiration", "2099-01-01T00:00:00Z"),
        ];
        let ask = |changed: &str, value: &str| {
            let fields = good.map(|(name, good)| {
                let value = if name == changed { value } else { good };
                (name.to_owned(), serde_json::Value::from(value))
            });
            let mut fields = serde_json::Map::from_iter(fields);
            if *who == "sts" {
                fields = serde_json::Map::from_iter([("Credentials".to_owned(), fields.into())]);
            } else {
                fields.insert("Code".to_owned(), "Success".into());
            }
            let body = CredentialFault::Body(serde_json::Value::from(fields).to_string());
            let mut faults = bucket.faults();
            (faults.sts, faults.metadata) = (body.clone(), body);
            drop(faults);
            sts::ask(source, now)
        };
        let issued = ask("", "").unwrap_or_else(|error| panic!("{who}: {error}"));
        assert_eq!(issued.credentials.access_key_id, "STS.Id");
        for (name, _) in good {
            for value in hostile {
                let refused = ask(name, value).err();
                let expected = format!("{who}: a response without {name}");
                assert_eq!(refused, Some(expected), "{who} {name} {value:?}");
            }
        }
        // Its code, where it refuses.
        for (code, said) in [
            ("NoPermission", " NoPermission"),
            ("EntityNotExist.Role", " EntityNotExist.Role"),
            ("", ""),
            ("a\nforged", ""),
            ("a forged", ""),
            ("\u{1b}[31mforged", ""),
            ("forged\u{202e}", ""),
            (&"A".repeat(100), &format!(" {}", "A".repeat(100))),
            (&"A".repeat(101), ""),
        ] {
            let fault = CredentialFault::Status(403, code.to_owned());
            bucket.faults().sts = fault;
            if *who == "sts" {
                let error = sts::ask(source, now).err();
                assert_eq!(error, Some(format!("sts: status 403{said}")), "{code:?}");
            }
        }
    }
}

// The record

const TOKEN_KEY: &str = "tokenKeyOfMoreThanThirtyTwoCharacters";

/// A server whose record is watched.
struct Recorder {
    bucket: Standin,
    order: Order,
    server: Server,
    _folder: Folder,
}

impl Recorder {
    fn start() -> Recorder {
        let (bucket, order, folder) = (bucket(), Order::new(), Folder::new());
        let key = folder.path("key.pem");
        std::fs::write(&key, bucket.public_key_pem()).unwrap();
        let vars = [
            ("CALLBACK_PUBLIC_KEY_FILE", &*key),
            ("CALLBACK_URL", "http://203.0.113.5/callback"),
            ("CALLBACK_TOKEN", "on"),
            ("CALLBACK_TOKEN_KEY", TOKEN_KEY),
        ];
        let server = Server::start(&[&vars[..], &order.vars()].concat());
        Recorder { bucket, order, server, _folder: folder }
    }

    /// A callback as it goes over the wire.
    fn message(&self, object: &str) -> Vec<u8> {
        let token = callback_token(TOKEN_KEY, "/callback", trust::now() + 3600, "user/");
        let target = format!("/callback?token={token}");
        let body = format!("filename=user%2F{object}&size=5&bucket=examplebucket&etag=E");
        let authorization = self.bucket.sign(&target, body.as_bytes());
        trust::callback(&target, &authorization, FORM, body.as_bytes())
    }

    fn call(&self, object: &str) {
        let mut connection = Connection::open(self.server.address).unwrap();
        let reply = connection.ask(&self.message(object)).expect("a response");
        assert_eq!((reply.status, &*reply.text()), (200, "{\"Status\":\"OK\"}"));
    }
}

/// What happened, in words; times and dates of names are left out.
fn words(events: &[Event]) -> Vec<String> {
    let name = |name: &str| match name.starts_with("uploads-") {
        true => "FILE".to_owned(),
        false if name == "record" => "FOLDER".to_owned(),
        false => String::new(),
    };
    let word = |event: &Event| format!("{} {}", event.what, name(&event.name)).trim().to_owned();
    events.iter().map(word).collect()
}

/// A machine that loses its power after a response has what the response spoke of: the line was
/// synced before the response left, and a new file's name before its first line. `kill -9` shows
/// neither, since the kernel's cache outlives the process.
#[test]
fn an_upload_is_synced_before_its_response_is_sent() {
    let world = Recorder::start();
    let opened = ["fsync FILE", "fsync FOLDER"];
    let recorded = ["append FILE", "fdatasync FILE", "backend", "response"];
    assert_eq!(words(&world.order.take()), [&opened[..], &["listening"]].concat());
    world.call("first");
    assert_eq!(words(&world.order.take()), recorded);
    world.call("second");
    assert_eq!(words(&world.order.take()), recorded);
    // Its file was renamed under it, then its folder: each time there is a new file.
    let file = std::fs::read_dir(&world.order.record).unwrap().next().unwrap().unwrap().path();
    std::fs::rename(&file, file.with_extension("old")).unwrap();
    world.call("third");
    assert_eq!(words(&world.order.take()), [&opened[..], &recorded].concat());
    let away = format!("{}.away", world.order.record);
    std::fs::rename(&world.order.record, &away).unwrap();
    std::fs::create_dir(&world.order.record).unwrap();
    world.call("fourth");
    assert_eq!(words(&world.order.take()), [&opened[..], &recorded].concat());
}

/// Callbacks that come together share a sync, and none is told before it.
#[test]
fn responses_never_outrun_the_sync_that_they_share() {
    const CLIENTS: i64 = 16;
    const EACH: i64 = 25;
    let world = Recorder::start();
    world.order.take();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let world = &world;
            scope.spawn(move || {
                let mut connection = Connection::open(world.server.address).unwrap();
                for n in 0..EACH {
                    let message = world.message(&format!("{client}-{n}"));
                    assert_eq!(connection.ask(&message).expect("a response").status, 200);
                }
            });
        }
    });
    let events = world.order.take();
    let (mut appended, mut synced, mut answered, mut told) = (0, 0, 0, 0);
    for (at, Event { what, count, .. }) in events.iter().enumerate() {
        match what.as_str() {
            "append" => appended += count,
            "fdatasync" => {
                assert_eq!(*count, 0);
                synced = appended;
            }
            "backend" => answered += count,
            "response" => told += count,
            other => panic!("{other}"),
        }
        assert!(answered <= synced, "{at}: {answered} answered, {synced} synced: {events:#?}");
        assert!(told <= synced, "{at}: {told} told, {synced} synced: {events:#?}");
    }
    let all = CLIENTS * EACH;
    assert_eq!((appended, synced, answered, told), (all, all, all, all));
}
