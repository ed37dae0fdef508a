//! What an operator has: the report of `--check`, with and without the network, `/metrics`, and a
//! unit file that systemd takes as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use oss_standin::{CredentialFault, KeyFault, Options, Source};
use support::trust::{TOKEN_KEY, now};
use support::world::{Site, borrowed};
use support::{Folder, Run, Server, binary, documents, request, send};

/// A bucket that is called back at public addresses; its key host is asked, nothing is recorded.
fn site() -> Site {
    Site::new(&[
        ("CALLBACK_URL", "https://203.0.113.5/cb?x=1;http://203.0.113.6"),
        ("CALLBACK_PUBLIC_KEY_FILE", ""),
        ("UPLOAD_LOG", ""),
        ("UPLOAD_DIR", ""),
    ])
}

/// What `--check` prints for it, `changes` made (an empty value removes).
fn check(site: &Site, arguments: &[&str], changes: &[(&str, &str)]) -> Run {
    let run = site.run(&[&["--check"], arguments].concat(), changes);
    assert!(!run.stdout.contains(&Options::default().access_key_secret), "{}", run.stdout);
    run
}

/// The lines of the report that begin with one of these words.
fn lines<'a>(run: &'a Run, words: &[&str]) -> Vec<&'a str> {
    let begins = |line: &&str| words.iter().any(|word| line.split(' ').next() == Some(word));
    run.stdout.lines().filter(begins).collect()
}

/// How the tries went.
fn tries(run: &Run) -> Vec<&str> {
    lines(run, &["ok", "FAIL"])
}

/// `--check` without `--online` asks nobody, and leaves nothing in the folder of the record.
#[test]
fn a_good_configuration_is_tried_offline() {
    let (site, folder) = (site(), Folder::new());
    let found = check(&site, &[], &[("UPLOAD_LOG", &folder.path(""))]);
    assert_eq!(found.code, Some(0), "{}", found.stderr);
    assert_eq!(tries(&found), ["ok   upload log: can be written"]);
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0, "something was left");
    assert!(site.bucket.reads().is_empty() && site.bucket.key_requests().is_empty());
}

/// `appserver --help | head -1`: whoever reads may have seen enough, and that is no crash.
#[test]
fn nobody_reads_what_is_printed() {
    for arguments in [["--help"], ["--version"]] {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let mut program = Command::new(binary());
        let program = program.args(arguments).env_clear().stdout(OwnedFd::from(writer));
        assert_eq!(program.status().unwrap().code(), Some(0), "{arguments:?}");
    }
}

/// What may not do what was meant is said, and fails nothing.
#[test]
fn what_is_unwise_is_a_warning() {
    let site = site();
    let warnings = |arguments: &[&str], changes: &[(&str, &str)]| {
        let found = check(&site, arguments, changes);
        assert_eq!(found.code, Some(0), "{} {}", found.stdout, found.stderr);
        lines(&found, &["warn"]).join("\n")
    };
    let http = "warn OSS_HOST: http ";
    let secret = "warn OSS_ACCESS_KEY_SECRET: readable in /proc/PID/environ";
    let plain = warnings(&[], &[("UPLOAD_DIR", "user-uploads/")]);
    assert!(plain.starts_with(secret) && plain.lines().count() == 1, "{plain}");

    let folder = Folder::new();
    std::fs::write(folder.path("oss_access_key_secret"), "exampleAkSecret").unwrap();
    let credentials = [("OSS_ACCESS_KEY_SECRET", ""), ("CREDENTIALS_DIRECTORY", &*folder.path(""))];
    assert_eq!(warnings(&[], &credentials), "");

    for (name, value, words, is_said) in [
        ("EXPIRE_TIME", "29", "warn EXPIRE_TIME: ", true),
        ("EXPIRE_TIME", "1", "warn EXPIRE_TIME: ", true),
        ("EXPIRE_TIME", "30", "warn EXPIRE_TIME: ", false),
        ("EXPIRE_TIME", "3600", "warn EXPIRE_TIME: ", false),
        ("OSS_HOST", "http://files.example.com", "warn OSS_HOST: ", true),
        ("OSS_HOST", "http://192.0.2.1:8080", "warn OSS_HOST: ", true),
        ("OSS_HOST", "https://files.example.com", "warn OSS_HOST: ", false),
        ("OSS_HOST", "http://examplebucket.oss-cn-hangzhou.aliyuncs.com", http, true),
        ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com", http, false),
        ("OSS_HOST", "http://examplebucket.oss-cn-hangzhou-internal.aliyuncs.com", http, false),
        ("UPLOAD_DIR", "user-uploads", "warn UPLOAD_DIR: ", true),
        ("UPLOAD_DIR", "user-uploads", " user-uploads2/", true),
        ("UPLOAD_DIR", "a/b", "warn UPLOAD_DIR: ", true),
        ("UPLOAD_DIR", "a/b/", "warn UPLOAD_DIR: ", false),
    ] {
        let said = warnings(&[], &[(name, value)]);
        assert_eq!(said.contains(words), is_said, "{name}={value}: {said}");
    }

    let record = ("UPLOAD_LOG", &*folder.path(""));
    let body = ("CALLBACK_BODY", "bucket=${bucket}&object=${object}");
    for (changes, is_said) in [(&[record, body][..], true), (&[record], false), (&[body], false)] {
        let said = warnings(&[], changes);
        assert_eq!(said.contains("warn CALLBACK_BODY: lacks ${reqId}"), is_said, "{said}");
    }

    // Those that OSS refuses, too, are in strict.rs.
    for host in ["100.64.0.1", "100.127.255.254:80", "0.0.0.0", "224.0.0.1", "255.255.255.255"] {
        let url = format!("https://203.0.113.5/cb;http://{host}/cb");
        let (name, _) = host.split_once(':').unwrap_or((host, ""));
        let line = format!("warn CALLBACK_URL: {name} has no public IPv4 address");
        let said = warnings(&[], &[("CALLBACK_URL", &url)]);
        assert!(said.ends_with(&line) && said.lines().count() == 2, "{said}");
    }
    for host in ["203.0.113.7", "100.63.0.1", "100.128.0.1", "9.9.9.9:8080"] {
        let said = warnings(&[], &[("CALLBACK_URL", &format!("http://{host}/cb"))]);
        assert!(!said.contains("CALLBACK_URL"), "{said}");
    }
    // Longer than a name may be: it has no address, and nobody is asked for one.
    let name = format!("{}.example", "x".repeat(64));
    let url = [("CALLBACK_URL", &*format!("https://{name}/cb"))];
    assert!(!warnings(&[], &url).contains("CALLBACK_URL"));
    let said = warnings(&["--online"], &url);
    assert!(said.contains(&format!("warn CALLBACK_URL: {name} has no public")), "{said}");
}

/// Who never runs `--check` reads it in the log.
#[test]
fn what_is_unwise_is_said_at_the_start() {
    let server = Server::start(&[("UPLOAD_DIR", "user")]);
    server.wait_log(" UPLOAD_DIR: without a slash at its end it covers user2/ too");
    // No name is looked up at the start: DNS may be down, and the server must come up.
    let server = Server::start(&[("CALLBACK_URL", "http://upload.invalid/callback")]);
    let log = server.log();
    assert!(!log.iter().any(|line| line.contains("CALLBACK_URL")), "{log:?}");
}

/// Connections beyond the limit would be refused one by one, good callbacks among them.
#[test]
fn more_connections_than_descriptors_stop_the_start() {
    let limited = || {
        let mut command = Command::new("prlimit");
        command.arg("--nofile=128");
        command
    };
    let site = site();
    for (max_connections, needed) in [("64", None), ("65", Some(129)), ("512", Some(576))] {
        let vars = [("MAX_CONNECTIONS", max_connections)];
        let Some(needed) = needed else {
            let mut command = limited();
            command.arg(binary());
            command.args(["127.0.0.1", "0"]);
            Server::spawn(command, &vars); // it has started once this returns
            continue;
        };
        // With a time-out, so that this ends if it starts all the same.
        let mut command = limited();
        command.args(["timeout", "30"]).arg(binary()).args(["127.0.0.1", "0"]);
        let output = command.env_clear().envs(site.exact(&vars)).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let line =
            format!("appserver: MAX_CONNECTIONS: needs {needed} descriptors, ulimit -n is 128");
        assert_eq!(said.lines().last(), Some(&*line));
    }
}

/// `--check --online` fetches the public key, assumes the role (STS or ECS) and signs for the
/// bucket.
#[test]
fn online_the_key_host_sts_and_the_bucket_are_asked() {
    let site = site();
    let online = |changes: &[(&str, &str)], expected: &[&str]| {
        let found = check(&site, &["--online"], changes);
        let lines = tries(&found).join("\n");
        assert_eq!(found.code, Some(0), "{lines}");
        for line in expected {
            assert!(lines.contains(line), "{lines}");
        }
    };
    let public_key = "ok   public key: fetched from";
    online(&[("CONFIRM_UPLOADS", "on")], &[public_key, "ok   bucket: knows our signature"]);

    // The role of `OSS_STS_ROLE_ARN` is narrowed: it may read only to confirm.
    let role = site.bucket.role_vars(Source::Sts);
    let narrowed = "lets us read nothing, as should be";
    online(&borrowed(&role), &["ok   credentials: valid until 20", narrowed]);

    // And an instance's role is not asked for offline.
    let mut role = site.bucket.role_vars(Source::Ecs);
    role.push(("CALLBACK_TOKEN_KEY", TOKEN_KEY.to_owned()));
    let before = site.bucket.credential_requests();
    assert_eq!(check(&site, &[], &borrowed(&role)).code, Some(0));
    assert_eq!(site.bucket.credential_requests(), before);
    online(&borrowed(&role), &[]);
}

/// A policy of 30 seconds that is signed by a clock a minute off is never good, or too long.
#[test]
fn a_clock_that_is_off_fails_the_check() {
    let site = site();
    for (seconds, good) in [(0, true), (10, true), (-10, true), (60, false), (-60, false)] {
        site.bucket.set_clock(now().checked_add_signed(seconds));
        let found = check(&site, &["--online"], &[]);
        let words = "FAIL bucket: its clock says ";
        assert_eq!(found.code, Some(if good { 0 } else { 2 }), "{seconds}: {}", found.stdout);
        assert_eq!(found.stdout.contains(words), !good, "{seconds}: {}", found.stdout);
        assert_eq!(found.stdout.contains(" GMT, and ours does not (timedatectl)"), !good);
    }
}

/// Which clients a configuration serves is one line, of the start and of `--check`.
#[test]
fn the_contract_that_is_served_is_said() {
    let site = site();
    let role = site.bucket.role_vars(Source::Sts);
    let lasting = "V1, or V4 without a security token";
    let temporary = "V4 with the security token";
    for (changes, words) in [
        (&[][..], lasting),
        (&[("OSS_SESSION_TOKEN", "exampleToken")], temporary),
        (&borrowed(&role), temporary),
    ] {
        for (url, callback) in [("http://203.0.113.5/cb", "callback"), ("", "no callback")] {
            let line = format!("serves samples' clients that post {callback}: {words} (");
            let changes = [changes, &[("CALLBACK_URL", url)]].concat();
            let found = check(&site, &[], &changes);
            let notes = lines(&found, &["note"]);
            assert!(notes.len() == 1 && notes[0].starts_with(&format!("note {line}")), "{notes:?}");
            Server::start(&changes).wait_log(&line);
        }
    }
}

/// `--check`: a wrong access key, key host, role or folder is one FAIL line, and exit code 2.
#[test]
fn what_is_wrong_is_said_and_fails_the_check() {
    let site = site();
    let nowhere = "http://127.0.0.1:9";
    let fails = |arguments: &[&str], changes: &[(&str, &str)], lines: &[&str]| {
        let found = check(&site, arguments, changes);
        assert_eq!(found.code, Some(2), "{}", found.stdout);
        for line in lines {
            assert!(found.stdout.contains(line), "{line}: {}", found.stdout);
        }
    };
    for (changes, line) in [
        (&[("OSS_ACCESS_KEY_ID", "another")][..], "FAIL bucket: \"InvalidAccessKeyId\""),
        (&[("OSS_ACCESS_KEY_SECRET", "wrong")], "FAIL bucket: \"SignatureDoesNotMatch\""),
        (&[("CALLBACK_KEY_ORIGIN", nowhere)], "FAIL public key: io: "),
        (&[("OSS_INTERNAL_HOST", nowhere), ("CONFIRM_UPLOADS", "on")], "FAIL bucket: "),
    ] {
        fails(&["--online"], changes, &[line]);
    }
    site.bucket.faults().sts = CredentialFault::Status(403, "NoPermission".into());
    let role = site.bucket.role_vars(Source::Sts);
    let denied = "FAIL credentials: sts: status 403 NoPermission\n";
    fails(&["--online"], &borrowed(&role), &[denied]);
    site.bucket.faults().key = KeyFault::Body("<html>".into());
    fails(&["--online"], &[], &["FAIL public key: ", " is not one\n"]);
    // A folder that cannot be written, even by root: it is gone, or not a folder.
    fails(&[], &[("UPLOAD_LOG", "/proc/self/task")], &["FAIL upload log: "]);
}

/// README's example of the report has the lines that there are, in their order.
#[test]
fn the_report_in_readme_is_the_one_that_is_printed() {
    let (site, folder) = (site(), Folder::new());
    let mut changes = site.bucket.role_vars(Source::Sts);
    changes.push(("UPLOAD_LOG", folder.path("")));
    let found = check(&site, &["--online"], &borrowed(&changes));
    // Times and addresses are others.
    let alike = |line: &str| {
        line.split(" from ").next().unwrap().split(" until ").next().unwrap().to_owned()
    };
    let printed: Vec<String> = tries(&found).into_iter().map(alike).collect();
    let example = documents::block("README.md", "", "ok   ");
    let example: Vec<String> = example.lines().map(alike).collect();
    assert_eq!(printed, example);
}

/// A server whose metrics are read.
struct Metrics {
    server: Server,
    address: SocketAddr,
}

impl Metrics {
    fn start(site: &Site, changes: &[(&str, &str)]) -> Metrics {
        let record = site.folder.path("record");
        let own = [("UPLOAD_LOG", &*record), ("METRICS_LISTEN", "127.0.0.1:0")];
        let server = Server::start(&site.vars(&[&own[..], changes].concat()));
        let line = server.wait_log("metrics at ");
        let address = line.rsplit("http://").next().unwrap().trim_end_matches("/metrics");
        Metrics { address: address.parse().unwrap(), server }
    }

    /// The values of samples, by their names after `appserver_`. Each line is as Prometheus reads
    /// it.
    fn samples(&self) -> BTreeMap<String, u64> {
        let reply = request(self.address, "GET", "/metrics", &[], b"");
        assert_eq!(reply.status, 200);
        let kind = reply.header("content-type").unwrap();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        let (text, mut samples) = (reply.text(), BTreeMap::new());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let bare = name.split('{').next().unwrap();
            let kind = if bare.ends_with("_total") { "counter" } else { "gauge" };
            assert!(text.contains(&format!("# TYPE {bare} {kind}\n")), "{line}");
            assert!(text.contains(&format!("# HELP {bare} ")), "{line}");
            let name = name.strip_prefix("appserver_").unwrap();
            samples.insert(name.to_owned(), value.parse().unwrap());
        }
        samples
    }

    fn value(&self, name: &str) -> Option<u64> {
        self.samples().get(name).copied()
    }

    fn get(&self, target: &str) -> u16 {
        request(self.server.address, "GET", target, &[], b"").status
    }

    fn send(&self, message: &[u8]) -> u16 {
        send(self.server.address, message, false).unwrap().status
    }
}

/// metrics: Prometheus reads the counters of callbacks, policies, syncs and refusals at an address
/// of their own.
#[test]
fn metrics_count_what_happens() {
    let site = site();
    let mut metrics = Metrics::start(&site, &[]);
    assert_eq!(metrics.value("policies_total"), Some(0));
    assert_eq!(metrics.value("callbacks_total{outcome=\"accepted\"}"), None);

    // The last is a replay, which needs no line.
    for object in ["1", "2", "3", "3"] {
        assert_eq!(metrics.send(&site.callback("/callback", object)), 200);
    }
    let public = metrics.server.address;
    assert_eq!(request(public, "POST", "/callback", &[], b"x").status, 400);
    assert_eq!(metrics.get("/"), 200);
    assert_eq!(metrics.send(b"BAD\r\n\r\n"), 400);
    for (name, expected) in [
        ("callbacks_total{outcome=\"accepted\"}", 4),
        ("callbacks_total{outcome=\"x-oss-pub-key-url is missing\"}", 1),
        ("policies_total", 1),
        ("log_syncs_total{result=\"ok\"}", 3),
        ("key_fetches_total{result=\"ok\"}", 1),
        ("refusals_total{reason=\"malformed request\"}", 1),
        ("evictions_total", 0),
    ] {
        assert_eq!(metrics.value(name), Some(expected), "{name}");
    }
    assert!(metrics.value("connections_total").unwrap() >= 7);

    // Nothing else is there, and nothing of it at the public address.
    assert_eq!(request(metrics.address, "GET", "/", &[], b"").status, 404);
    assert_eq!(request(metrics.address, "POST", "/callback", &[], b"x").status, 404);
    assert_eq!(request(metrics.address, "HEAD", "/metrics", &[], b"").body, b"");
    assert_eq!(metrics.get("/metrics"), 404);
    assert!(metrics.server.is_running());
}

/// No counter is there for show: each moves when its event happens, and an outcome has its word.
#[test]
fn every_metric_moves() {
    let site = site();
    let role = site.bucket.role_vars(Source::Sts);
    let role = borrowed(&role);
    site.bucket.faults().sts = CredentialFault::Status(503, "Busy".to_owned());
    let refused = Metrics::start(&site, &[&role[..], &[("UPLOAD_LOG", "")]].concat());
    refused.server.wait_log("credentials: not renewed");
    let refused = refused.samples(); // before it tries again
    site.bucket.faults().sts = CredentialFault::Serve;
    let metrics = Metrics::start(&site, &[&role[..], &[("MAX_CONNECTIONS", "2")]].concat());
    metrics.server.wait_log("valid until");
    metrics.server.wait_log("callback key v1: fetched");
    assert_eq!(metrics.send(&site.callback("/callback", "1")), 200);
    let unknown = BASE64.encode("https://gosspublic.alicdn.com/callback_pub_key_v7.pem");
    let headers = [("Authorization", "AAAA"), ("x-oss-pub-key-url", &*unknown)];
    let public = metrics.server.address;
    let reply = request(public, "POST", "/callback", &headers, b"x");
    assert_eq!(reply.status, 503, "{}", reply.text());
    metrics.server.wait_log("callback key v7: not fetched");
    std::fs::remove_dir_all(site.folder.path("record")).unwrap();
    assert_eq!(metrics.send(&site.callback("/callback", "2")), 500);
    assert_eq!(metrics.send(b"BAD\r\n\r\n"), 400);
    for _ in 0..200 {
        assert_eq!(metrics.get("/"), 200);
    }
    let _idle: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(public).unwrap()).collect();
    assert_eq!(metrics.get("/healthz"), 200);

    let samples = [metrics.samples(), refused];
    let text = request(metrics.address, "GET", "/metrics", &[], b"").text();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE appserver_"));
    let mut names: BTreeSet<&str> = types.map(|line| line.split(' ').next().unwrap()).collect();
    for sample in [
        "policies_total",
        "repeated_total",
        "callbacks_total{outcome=\"accepted\"}",
        "connections_total",
        "refusals_total{reason=\"malformed request\"}",
        "evictions_total",
        "log_syncs_total{result=\"ok\"}",
        "log_syncs_total{result=\"failed\"}",
        "key_fetches_total{result=\"ok\"}",
        "key_fetches_total{result=\"failed\"}",
        "credential_renewals_total{result=\"ok\"}",
        "credential_renewals_total{result=\"failed\"}",
        "credentials_end_seconds",
    ] {
        names.remove(sample.split('{').next().unwrap());
        let moved =
            samples.iter().any(|samples| samples.get(sample).is_some_and(|value| *value > 0));
        assert!(moved, "{sample} did not move: {samples:#?}");
    }
    assert!(names.is_empty(), "nobody has seen these move: {names:?}");
    // The end of what is in hand, 1 while nothing is, 0 for keys that last.
    let ends = samples.map(|samples| samples["credentials_end_seconds"]);
    assert_eq!(ends, [site.bucket.issued()[0].expire, 1]);
    let lasting = Metrics::start(&site, &[("UPLOAD_LOG", "")]);
    assert_eq!(lasting.value("credentials_end_seconds"), Some(0));
}

/// metrics: one client is served at a time, so one that says nothing is sent away (timeout).
#[test]
fn a_silent_client_does_not_silence_the_metrics() {
    let metrics = Metrics::start(&site(), &[]);
    let silent = TcpStream::connect(metrics.address).unwrap();
    assert_eq!(metrics.value("evictions_total"), Some(0));
    assert_eq!(support::hostile::read_to_close(&silent), Some(Vec::new()));
}

/// metrics: a port of METRICS_LISTEN that is taken only turns them off.
#[test]
fn the_metrics_address_may_be_taken() {
    // Uploads are worth more than metrics.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let server = Server::start(&[("METRICS_LISTEN", &*address)]);
    server.wait_log("METRICS_LISTEN: cannot listen on");
    assert_eq!(request(server.address, "GET", "/", &[], b"").status, 200);
}

/// A unit file as systemd reads it, with the binary under test in place of the installed one.
fn write_unit(folder: &Folder, name: &str, text: &str) -> String {
    let path = folder.0.join(name);
    let text = text.replace("/usr/local/bin/appserver", binary().to_str().unwrap());
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// What systemd-analyze says of units; none where it is not installed.
fn analyze(arguments: &[&str]) -> Option<String> {
    let mut programs = ["/usr/bin/systemd-analyze", "/bin/systemd-analyze"].iter();
    let Some(program) = programs.find(|path| Path::new(path).exists()) else {
        support::skip("systemd-analyze is not installed: no unit file is looked at");
        return None;
    };
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// systemd: the unit file verifies, and systemd-analyze security finds the sandbox tight.
#[test]
fn systemd_takes_the_unit_and_finds_little_exposed() {
    let folder = Folder::new();
    let unit = write_unit(&folder, "appserver.service", &documents::text("appserver.service"));
    let Some(verdict) = analyze(&["verify", "--man=no", &unit]) else { return };
    assert_eq!(verdict, "");
    let report = analyze(&["security", "--offline=true", "--no-pager", &unit]).unwrap();
    let level = report.split("Overall exposure level for appserver.service: ").nth(1).unwrap();
    let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
    println!("exposure level {level}");
    assert!(level <= 1.2, "{report}");
}

/// The socket unit, and the unit with the line that its document asks for.
#[test]
fn systemd_takes_the_socket_unit() {
    let folder = Folder::new();
    let line = documents::block("tests/proxy/README.md", "ini", "ExecStart=");
    let unit = documents::text("appserver.service");
    let unit =
        documents::moved(&unit, &[("ExecStart=/usr/local/bin/appserver 127.0.0.1 8080\n", &*line)]);
    let socket = documents::text("tests/proxy/appserver.socket");
    let path = "/run/appserver.sock";
    assert!(line.ends_with(&format!(" unix:{path}\n")), "{line}");
    assert!(socket.contains(&format!("\nListenStream={path}\n")), "{socket}");
    for name in ["nginx.conf", "Caddyfile", "apache.conf"] {
        assert!(documents::text(&format!("tests/proxy/{name}")).contains(path), "{name}");
    }
    write_unit(&folder, "appserver.service", &unit);
    let socket = write_unit(&folder, "appserver.socket", &socket);
    let Some(verdict) = analyze(&["verify", "--man=no", &socket]) else { return };
    assert_eq!(verdict, "");
}
