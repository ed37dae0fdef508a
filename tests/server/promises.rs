//! Promises that hold whichever part of the program is looked at: what goes out with every call,
//! what others answer reaches no log and no header, and every upload is on disk before anybody is
//! told.

use std::process::{Child, Command, Stdio};

use appserver::oss::credentials::{Credentials, Secret, Source};
use appserver::oss::sts;
use oss_standin::{CredentialFault, Options, Source as Role, Standin};
use support::trust::TOKEN_KEY;
use support::world::{FORM, Site, V1, borrowed};
use support::{Connection, Event, Folder, Host, Order, Process, Reply, Run, Server};
use support::{request, run, send, trust};

const BODY: &str = "filename=user%2Fa.txt&size=5&etag=E&bucket=examplebucket";
const NOTHING: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

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
        let mut vars = bucket.vars();
        vars.push(("CALLBACK_URL", "http://203.0.113.5/callback".to_owned()));
        let (name, more) = match self {
            Caller::KeyHost => ("CALLBACK_KEY_ORIGIN", vec![]),
            Caller::Sts => ("OSS_STS_ENDPOINT", bucket.role_vars(Role::Sts)),
            Caller::Metadata => ("OSS_ECS_ENDPOINT", bucket.role_vars(Role::Ecs)),
            Caller::Bucket => ("OSS_INTERNAL_HOST", vec![("CONFIRM_UPLOADS", "on".to_owned())]),
        };
        vars.extend(more);
        vars.extend([(name, url.to_owned()), ("CALLBACK_TOKEN_KEY", TOKEN_KEY.to_owned())]);
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
        let server = Server::start(&[&borrowed(&vars), more].concat());
        if self != Caller::KeyHost {
            server.wait_log(" callback key v1: fetched");
        }
        let mut line = String::new();
        match self {
            Caller::KeyHost => line = server.wait_log(" callback key v1: "),
            Caller::Sts | Caller::Metadata => line = server.wait_log(" credentials: "),
            Caller::Bucket => {}
        }
        let reply = call_back(&server, bucket, BODY);
        if self == Caller::Bucket {
            line = server.wait_log(" POST ");
        }
        (server, line, reply)
    }

    /// What `--check --online` says of it.
    fn check(self, url: &str, bucket: &Standin) -> Run {
        let mut vars = self.vars(url, bucket);
        vars.retain(|(_, value)| !value.is_empty());
        run(&["--check", "--online"], &borrowed(&vars))
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

fn call_back(server: &Server, bucket: &Standin, body: &str) -> Reply {
    let callback = bucket.callback_request("/callback", "x", body.as_bytes(), FORM);
    send(server.address, &callback, false).expect("a response")
}

// TLS

/// An authority of the test's own, which no program trusts, and certificates of it: a good one, one
/// of other names, one that has ended, and one that vouches for itself.
const CERTIFICATES: &str = r#"
    issue() {
        printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\n' "$2" > extensions
        openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
            -days "$3" -extfile extensions -out "$1"
    }
    new="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    openssl req -x509 $new -days 2 -subj /CN=Test -keyout ca.key -out ca.pem
    openssl req -new $new -subj /CN=leaf -keyout leaf.key -out leaf.csr
    issue good.pem DNS:localhost 2
    issue name.pem 'DNS:localhost.example.com,DNS:*.localhost' 2
    issue expired.pem DNS:localhost -1
    openssl req -x509 -key leaf.key -days 2 -subj /CN=localhost -out self.pem \
        -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE
"#;

fn certificates() -> Folder {
    let folder = Folder::new();
    let output = Command::new("sh").args(["-ec", CERTIFICATES]).current_dir(&folder.0).output();
    let output = output.expect("sh");
    assert!(output.status.success(), "{output:?}");
    folder
}

/// A TLS server whose log has what it reads, and its handshakes that failed.
struct TlsHost {
    process: Process,
    port: u16,
}

impl TlsHost {
    fn start(certificates: &Folder, certificate: &str) -> TlsHost {
        let program = format!(
            "exec openssl s_server -accept 127.0.0.1:0 -key leaf.key -cert {certificate} 1>&2"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &program]).current_dir(&certificates.0);
        // As long as its input is open, it serves.
        let process = Process::start(command.stdin(Stdio::piped())).expect("openssl");
        let line = process.wait_log("ACCEPT 127.0.0.1:");
        TlsHost { process, port: line.rsplit(':').next().unwrap().parse().unwrap() }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn requests(&self) -> Vec<String> {
        let mut lines = self.process.log();
        lines.retain(|line| line.contains(" HTTP/1.1"));
        lines
    }
}

/// curl on its way to this host, with the authority trusted.
fn curl(certificates: &Folder, host: &TlsHost, path: &str) -> Child {
    let mut command = Command::new("curl");
    command.args(["-s", "--noproxy", "*", "--max-time", "30", "--cacert", "ca.pem"]);
    command.arg(format!("{}/{path}", host.url())).current_dir(&certificates.0);
    command.stdout(Stdio::null()).spawn().expect("curl")
}

/// TLS: neither key nor token nor signature goes to a host whose certificate is not good: the
/// handshake ends, and not one byte of a request is sent.
#[test]
fn certificates_are_checked_on_every_call() {
    let certificates = certificates();
    for certificate in ["good.pem", "name.pem", "expired.pem", "self.pem"] {
        // What is wrong with each, by what curl says that trusts the authority: it asks the good
        // one (which never answers), and ends with 60 at the others.
        let host = TlsHost::start(&certificates, certificate);
        let mut curl = curl(&certificates, &host, "control");
        if certificate == "good.pem" {
            host.process.wait_log("GET /control HTTP/1.1");
            curl.kill().unwrap();
            curl.wait().unwrap();
        } else {
            assert_eq!(curl.wait().unwrap().code(), Some(60), "{certificate}");
        }
        drop(host);
        for caller in CALLERS {
            let (host, bucket) = (TlsHost::start(&certificates, certificate), bucket());
            let case = format!("{caller:?} {certificate}");
            let (server, line, reply) = caller.call(&host.url(), &bucket, &[]);
            host.process.wait_log("ERROR");
            assert!(caller.is_refused(&line, &reply), "{case}: {line} {}", reply.text());
            if caller != Caller::Bucket {
                assert!(line.contains("certificate"), "{case}: {line}");
            }
            drop(server);
            assert_eq!(host.requests(), [""; 0], "{case}");
        }
        let (host, bucket) = (TlsHost::start(&certificates, certificate), bucket());
        let found = Caller::Bucket.check(&host.url(), &bucket);
        let line = found.stdout.lines().find(|line| line.starts_with("FAIL bucket: ")).unwrap();
        assert!(line.contains("certificate"), "{certificate}: {line}");
        assert_eq!((found.code, host.requests()), (Some(2), vec![]), "{certificate}");
    }
}

// Proxies

const PROXIES: [&str; 6] =
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// Proxies: whoever sets the environment of a service (HTTPS_PROXY) sees no key and no token: the
/// variables that send the calls of other programs to a proxy send none of ours.
#[test]
fn proxies_of_the_environment_are_ignored_on_every_call() {
    let certificates = certificates();
    for caller in CALLERS {
        let proxy = Host::start(|_| b"HTTP/1.1 502 no\r\nContent-Length: 0\r\n\r\n".to_vec());
        let url = proxy.url();
        let mut set: Vec<(&str, &str)> = PROXIES.map(|name| (name, &*url)).to_vec();
        set.push(("NO_PROXY", ""));
        let (bucket, host) = (bucket(), TlsHost::start(&certificates, "good.pem"));
        // Whoever answers well is believed: what else is seen here is not a broken test.
        let etag = bucket.object("user/a.txt").unwrap().etag;
        let (server, line, _) = caller.call(&caller.served(&bucket), &bucket, &set);
        assert!(!line.contains("not "), "{caller:?}: {line}");
        let body = BODY.replace("etag=E", &format!("etag={etag}"));
        assert_eq!(call_back(&server, &bucket, &body).status, 200, "{caller:?}");
        let (_server, line, reply) = caller.call(&host.url(), &bucket, &set);
        assert!(caller.is_refused(&line, &reply), "{caller:?}: {line}");
        host.process.wait_log("ERROR");
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

fn response(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A host that answers so whatever it is asked.
fn saying(response: &str) -> Host {
    let response = response.to_owned();
    Host::start(move |_| response.clone().into())
}

/// Log injection: responses that are none, or hold what no response may: line feeds, controls of
/// terminals, a redirect, lengths that are no numbers.
#[test]
fn hostile_responses_reach_no_log() {
    let elsewhere = Host::start(|_| NOTHING.into());
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nLocation: {}/forged\r\nContent-Length: 0\r\n\r\n",
        elsewhere.url()
    );
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
        response("200 OK", "\u{1b}]0;forged\u{7}\n2026-01-01T00:00:00Z forged\n"),
        response("403 no", code),
        response("403 no", xml),
        redirect,
    ] {
        for caller in CALLERS {
            let (host, bucket) = (saying(&answer), bucket());
            let case = format!("{caller:?} {answer:?}");
            let (server, line, reply) = caller.call(&host.url(), &bucket, &[]);
            // A 200 without the object's size and ETag is an object that differs.
            let differs = caller == Caller::Bucket && reply.status == 400;
            assert!(caller.is_refused(&line, &reply) || differs, "{case}: {line}");
            assert!(!host.asked().is_empty(), "{case}: not asked");
            assert!(!reply.text().contains("forged"), "{case}: {}", reply.text());
            let policy = request(server.address, "GET", V1, &[], b"");
            assert!(!policy.text().contains("forged"), "{case}: {}", policy.text());
            let log = server.log();
            assert!(is_clean(&log), "{case}: {log:#?}");
        }
    }
    assert_eq!(elsewhere.asked(), [""; 0], "a redirect was followed");
}

/// Log injection: what `--check` prints of a bucket's code is one line, escaped.
#[test]
fn hostile_codes_are_escaped_in_the_report() {
    let xml = "<Error><Code>a\nok   bucket: forged\u{1b}[31m</Code></Error>";
    let host = saying(&response("403 no", xml));
    let found = Caller::Bucket.check(&host.url(), &bucket());
    assert_eq!(found.code, Some(2), "{}", found.stdout);
    assert!(found.stdout.lines().all(|line| !line.contains(char::is_control)), "{}", found.stdout);
    assert!(!found.stdout.contains("\nok   bucket"), "{}", found.stdout);
    assert!(found.stdout.contains("FAIL bucket: \"a\\nok   bucket: forged\\u{1b}[31m\""));
}

/// A request that the endpoint of another region gets, as a bucket answers it there.
#[test]
fn a_bucket_of_another_region_is_said_to_be_one() {
    let bucket = bucket();
    let address = bucket.url().trim_start_matches("http://").parse().unwrap();
    let host = Host::start(move |head| {
        let lines = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("host:"));
        let mut lines: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
        lines.push("Host: examplebucket.oss-cn-beijing.aliyuncs.com\r\nConnection: close\r\n\r\n");
        let reply = send(address, lines.join("\r\n").as_bytes(), false).unwrap();
        response(&format!("{} as there", reply.status), &reply.text()).into()
    });
    let found = Caller::Bucket.check(&host.url(), &bucket);
    let said = "FAIL bucket: the bucket is in another region than OSS_HOST says\n";
    assert!(found.code == Some(2) && found.stdout.contains(said), "{}", found.stdout);
}

/// Header injection: the token of the metadata service becomes a header, so one with a line end
/// would be two.
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
        let (host, bucket) = (saying(&response("200 OK", token)), bucket());
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

/// Injection: id, secret and token become form fields, headers and parts of a credential; the code
/// of an error becomes a word of the log. Only what is visible ASCII may be one of them.
#[test]
fn values_that_others_issue_are_plain() {
    let bucket = bucket();
    let ecs = Source::Ecs { endpoint: bucket.metadata_url(), role: Options::default().ecs_role };
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
    let good = [
        ("AccessKeyId", "STS.Id"),
        ("AccessKeySecret", "Secret"),
        ("SecurityToken", "Token=="),
        ("Expiration", "2099-01-01T00:00:00Z"),
    ];
    let sts = role(&bucket.sts_url());
    for (who, source) in [("sts", &sts), ("ecs metadata", &ecs)] {
        let ask = |changed: &str, value: &str| {
            let mut fields = serde_json::Map::new();
            for (name, good) in good {
                let value = if name == changed { value } else { good };
                fields.insert(name.to_owned(), value.into());
            }
            // STS has them a level deeper.
            fields.insert("Credentials".to_owned(), fields.clone().into());
            fields.insert("Code".to_owned(), "Success".into());
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
    }
    // The code of STS, where it refuses.
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
        bucket.faults().sts = CredentialFault::Status(403, code.to_owned());
        let error = sts::ask(&sts, now).err();
        assert_eq!(error, Some(format!("sts: status 403{said}")), "{code:?}");
    }
}

// The record

/// A server whose record is watched.
struct Recorder {
    site: Site,
    order: Order,
    server: Server,
}

impl Recorder {
    fn start() -> Recorder {
        let (site, order) = (Site::new(&[("CALLBACK_TOKEN_KEY", TOKEN_KEY)]), Order::new());
        let server = site.start(&[&[("CALLBACK_TOKEN", "on")], &order.vars()[..]].concat());
        Recorder { site, order, server }
    }

    fn call(&self, object: &str) {
        let message = self.site.callback_with_token("/callback", "user/", object);
        let reply = send(self.server.address, &message, false).expect("a response");
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

/// fsync: a machine that loses its power after a response has what the response spoke of: the line
/// was synced before the response left, and a new file's name before its first line. `kill -9`
/// shows neither, since the kernel's cache outlives the process.
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

/// fsync: callbacks that come together share a sync, and none is told before it.
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
                    let object = format!("{client}-{n}");
                    let message = world.site.callback_with_token("/callback", "user/", &object);
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
