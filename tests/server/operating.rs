//! What an operator has: the report of `--check`, with and without the network, `/metrics`, and a
//! unit file that systemd takes as it is.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use oss_standin::{CredentialFault, KeyFault, Options, Standin};
use support::documents;
use support::trust::now;
use support::{Folder, Run, Server, binary, request, run};

/// What `--check` prints for this bucket, `changes` made (an empty value removes).
fn check(bucket: &Standin, arguments: &[&str], changes: &[(&str, &str)]) -> Run {
    let options = Options::default();
    let (url, keys) = (bucket.url(), bucket.key_origin());
    let plain = [
        ("OSS_ACCESS_KEY_ID", &*options.access_key_id),
        ("OSS_ACCESS_KEY_SECRET", &options.access_key_secret),
        ("OSS_HOST", &url),
        ("OSS_BUCKET", &options.bucket),
        ("OSS_REGION", &options.region),
        ("CALLBACK_KEY_ORIGIN", &keys),
        ("CALLBACK_URL", "https://203.0.113.5/cb?x=1;http://203.0.113.6"),
    ];
    let mut vars: Vec<(&str, &str)> = plain.to_vec();
    vars.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    vars.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
    let run = run(&[&["--check"], arguments].concat(), &vars);
    assert!(!run.stdout.contains(&options.access_key_secret), "{}", run.stdout);
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

#[test]
fn a_good_configuration_is_tried_offline() {
    let bucket = Standin::start(Options::default()).unwrap();
    let folder = Folder::new();
    let found = check(&bucket, &[], &[("UPLOAD_LOG", folder.0.to_str().unwrap())]);
    assert_eq!(found.code, Some(0), "{}", found.stderr);
    assert_eq!(tries(&found), ["ok   upload log: can be written"]);
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0, "something was left");
    assert!(bucket.reads().is_empty() && bucket.key_requests().is_empty());
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
    let bucket = Standin::start(Options::default()).unwrap();
    let warnings = |arguments: &[&str], changes: &[(&str, &str)]| {
        let found = check(&bucket, arguments, changes);
        assert_eq!(found.code, Some(0), "{} {}", found.stdout, found.stderr);
        lines(&found, &["warn"]).join("\n")
    };
    let secret = "warn OSS_ACCESS_KEY_SECRET: readable in /proc/PID/environ";
    let plain = warnings(&[], &[("UPLOAD_DIR", "user-uploads/")]);
    assert!(plain.starts_with(secret) && plain.lines().count() == 1, "{plain}");

    let folder = Folder::new();
    std::fs::write(folder.path("oss_access_key_secret"), "exampleAkSecret").unwrap();
    let credentials = [("OSS_ACCESS_KEY_SECRET", ""), ("CREDENTIALS_DIRECTORY", &*folder.path(""))];
    assert_eq!(warnings(&[], &credentials), "");

    let said = warnings(&[], &[("UPLOAD_DIR", "user-uploads")]);
    assert!(said.contains("warn UPLOAD_DIR: ") && said.contains(" user-uploads2/"), "{said}");

    for (name, value, warns) in [
        ("EXPIRE_TIME", "29", true),
        ("EXPIRE_TIME", "1", true),
        ("EXPIRE_TIME", "30", false),
        ("EXPIRE_TIME", "3600", false),
        ("OSS_HOST", "http://files.example.com", true),
        ("OSS_HOST", "http://192.0.2.1:8080", true),
        ("OSS_HOST", "https://files.example.com", false),
        ("UPLOAD_DIR", "a/b", true),
        ("UPLOAD_DIR", "a/b/", false),
    ] {
        let said = warnings(&[], &[(name, value)]);
        assert_eq!(said.contains(&format!("warn {name}: ")), warns, "{name}={value}: {said}");
    }

    for (host, is_said) in [
        ("http://examplebucket.oss-cn-hangzhou.aliyuncs.com", true),
        ("https://examplebucket.oss-cn-hangzhou.aliyuncs.com", false),
        ("http://examplebucket.oss-cn-hangzhou-internal.aliyuncs.com", false),
    ] {
        let said = warnings(&[], &[("OSS_HOST", host)]);
        assert_eq!(said.contains("warn OSS_HOST: http "), is_said, "{host}: {said}");
    }

    let record = [("UPLOAD_LOG", &*folder.path(""))];
    let body = [("CALLBACK_BODY", "bucket=${bucket}&object=${object}")];
    for (changes, is_said) in
        [(&[&record[..], &body].concat(), true), (&record.to_vec(), false), (&body.to_vec(), false)]
    {
        let said = warnings(&[], changes);
        assert_eq!(said.contains("warn CALLBACK_BODY: lacks ${reqId}"), is_said, "{said}");
    }

    for host in [
        "localhost:8080",
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.9:80",
        "192.168.0.1",
        "169.254.1.1",
        "100.64.0.1",
        "100.127.255.254:8080",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        let url = format!("https://203.0.113.5/cb;http://{host}/cb");
        let (name, _) = host.split_once(':').unwrap_or((host, ""));
        let line = format!("warn CALLBACK_URL: {name} has no public IPv4 address");
        let said = warnings(&[], &[("CALLBACK_URL", &url)]);
        assert!(said.ends_with(&line) && said.lines().count() == 2, "{said}");
    }
    for host in ["203.0.113.7", "100.63.0.1", "100.128.0.1", "172.32.0.1", "9.9.9.9:8080"] {
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
}

/// Connections beyond the limit would be refused one by one, good callbacks among them.
#[test]
fn more_connections_than_descriptors_stop_the_start() {
    for (limit, max_connections, good) in
        [(128, "512", false), (128, "65", false), (128, "64", true)]
    {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limit}"));
        let vars = [("MAX_CONNECTIONS", max_connections)];
        if good {
            command.arg(binary()).args(["127.0.0.1", "0"]);
            Server::spawn(command, &vars); // it has started once this returns
            continue;
        }
        // With a time-out, so that this ends if it starts all the same.
        command.args(["timeout", "30"]).arg(binary()).args(["127.0.0.1", "0"]);
        let secret = ("OSS_ACCESS_KEY_SECRET", "exampleAkSecret");
        let host = ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com");
        let all = [("OSS_ACCESS_KEY_ID", "id"), secret, host, vars[0]];
        let output = command.env_clear().envs(all).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let needed = max_connections.parse::<u32>().unwrap() + 64;
        let line =
            format!("appserver: MAX_CONNECTIONS: needs {needed} descriptors, ulimit -n is 128");
        assert_eq!(said.lines().last(), Some(&*line));
    }
}

#[test]
fn online_the_key_host_sts_and_the_bucket_are_asked() {
    let bucket = Standin::start(Options::default()).unwrap();
    let found = check(&bucket, &["--online"], &[("CONFIRM_UPLOADS", "on")]);
    let lines = tries(&found).join("\n");
    assert_eq!(found.code, Some(0), "{lines}");
    assert!(lines.contains("ok   public key: fetched from"), "{lines}");
    assert!(lines.contains("ok   bucket: knows our signature"), "{lines}");

    // The role of `OSS_STS_ROLE_ARN` is narrowed: it may read only to confirm.
    let options = Options::default();
    let sts = bucket.sts_url();
    let role = [("OSS_STS_ROLE_ARN", &*options.role_arn), ("OSS_STS_ENDPOINT", &sts)];
    let found = check(&bucket, &["--online"], &role);
    let lines = tries(&found).join("\n");
    assert_eq!(found.code, Some(0), "{lines}");
    assert!(lines.contains("ok   credentials: valid until 20"), "{lines}");
    assert!(lines.contains("lets us read nothing, as should be"), "{lines}");

    // And an instance's role is not asked for offline.
    let metadata = bucket.metadata_url();
    let role = [
        ("OSS_ACCESS_KEY_ID", ""),
        ("OSS_ACCESS_KEY_SECRET", ""),
        ("OSS_ECS_ROLE", &*options.ecs_role),
        ("OSS_ECS_ENDPOINT", &metadata),
        ("CALLBACK_TOKEN_KEY", "a-key-of-thirty-two-bytes-or-more"),
    ];
    let before = bucket.credential_requests();
    assert_eq!(check(&bucket, &[], &role).code, Some(0));
    assert_eq!(bucket.credential_requests(), before);
    assert_eq!(check(&bucket, &["--online"], &role).code, Some(0));
}

/// A policy of 30 seconds that is signed by a clock a minute off is never good, or too long.
#[test]
fn a_clock_that_is_off_fails_the_check() {
    let bucket = Standin::start(Options::default()).unwrap();
    for (seconds, good) in [(0, true), (10, true), (-10, true), (60, false), (-60, false)] {
        bucket.set_clock(now().checked_add_signed(seconds));
        let found = check(&bucket, &["--online"], &[]);
        let words = "FAIL bucket: its clock says ";
        assert_eq!(found.code, Some(if good { 0 } else { 2 }), "{seconds}: {}", found.stdout);
        assert_eq!(found.stdout.contains(words), !good, "{seconds}: {}", found.stdout);
        assert_eq!(found.stdout.contains(" GMT, and ours does not (timedatectl)"), !good);
    }
}

/// Which clients a configuration serves is one line, of the start and of `--check`.
#[test]
fn the_contract_that_is_served_is_said() {
    let bucket = Standin::start(Options::default()).unwrap();
    let (role, sts) = (Options::default().role_arn, bucket.sts_url());
    let lasting = "V1, or V4 without a security token";
    let temporary = "V4 with the security token";
    for (changes, words) in [
        (&[][..], lasting),
        (&[("OSS_SESSION_TOKEN", "exampleToken")], temporary),
        (&[("OSS_STS_ROLE_ARN", &*role), ("OSS_STS_ENDPOINT", &sts)], temporary),
    ] {
        for (url, callback) in [("http://203.0.113.5/cb", "callback"), ("", "no callback")] {
            let line = format!("serves samples' clients that post {callback}: {words} (");
            let changes = [changes, &[("CALLBACK_URL", url)]].concat();
            let found = check(&bucket, &[], &changes);
            let notes = lines(&found, &["note"]);
            assert!(notes.len() == 1 && notes[0].starts_with(&format!("note {line}")), "{notes:?}");
            Server::start(&changes).wait_log(&line);
        }
    }
}

#[test]
fn what_is_wrong_is_said_and_fails_the_check() {
    let bucket = Standin::start(Options::default()).unwrap();
    let options = Options::default();
    let sts = bucket.sts_url();
    let role = [("OSS_STS_ROLE_ARN", &*options.role_arn), ("OSS_STS_ENDPOINT", &sts)];
    for (changes, line) in [
        (&[("OSS_ACCESS_KEY_ID", "another")][..], "FAIL bucket: \"InvalidAccessKeyId\""),
        (&[("OSS_ACCESS_KEY_SECRET", "wrong")], "FAIL bucket: \"SignatureDoesNotMatch\""),
        (&[("CALLBACK_KEY_ORIGIN", "http://127.0.0.1:9")], "FAIL public key: io: "),
        (
            &[("OSS_INTERNAL_HOST", "http://127.0.0.1:9"), ("CONFIRM_UPLOADS", "on")],
            "FAIL bucket: ",
        ),
    ] {
        let found = check(&bucket, &["--online"], changes);
        assert_eq!(found.code, Some(2), "{}", found.stdout);
        assert!(found.stdout.contains(line), "{line}: {}", found.stdout);
    }
    bucket.faults().sts = CredentialFault::Status(403, "NoPermission".into());
    let found = check(&bucket, &["--online"], &role);
    assert!(found.stdout.contains("FAIL credentials: sts: status 403 NoPermission\n"));
    assert_eq!(found.code, Some(2));
    bucket.faults().key = KeyFault::Body("<html>".into());
    let found = check(&bucket, &["--online"], &[]);
    assert!(found.stdout.contains("FAIL public key: ") && found.stdout.contains(" is not one\n"));
    // A folder that cannot be written, even by root: it is gone, or not a folder.
    let found = check(&bucket, &[], &[("UPLOAD_LOG", "/proc/self/task")]);
    assert!(found.stdout.contains("FAIL upload log: "), "{}", found.stdout);
    assert_eq!(found.code, Some(2));
}

/// README's example of the report has the lines that there are, in their order.
#[test]
fn the_report_in_readme_is_the_one_that_is_printed() {
    let bucket = Standin::start(Options::default()).unwrap();
    let (options, sts, folder) = (Options::default(), bucket.sts_url(), Folder::new());
    let changes = [
        ("OSS_STS_ROLE_ARN", &*options.role_arn),
        ("OSS_STS_ENDPOINT", &sts),
        ("UPLOAD_LOG", folder.0.to_str().unwrap()),
    ];
    let found = check(&bucket, &["--online"], &changes);
    // Times and addresses are others.
    let alike = |line: &str| {
        line.split(" from ").next().unwrap().split(" until ").next().unwrap().to_owned()
    };
    let printed: Vec<String> = tries(&found).into_iter().map(alike).collect();
    let example = documents::block("README.md", "", "ok   ");
    let example: Vec<String> = example.lines().map(alike).collect();
    assert_eq!(printed, example);
}

/// Names with their values, each line as Prometheus reads it.
fn metrics(address: std::net::SocketAddr) -> Vec<(String, u64)> {
    let reply = request(address, "GET", "/metrics", &[], b"");
    assert_eq!(reply.status, 200);
    let kind = reply.header("content-type").unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let text = reply.text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let bare = name.split('{').next().unwrap();
        assert!(
            text.contains(&format!("# TYPE {bare} ")) && text.contains(&format!("# HELP {bare} "))
        );
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

#[test]
fn metrics_count_what_happens() {
    let bucket = Standin::start(Options::default()).unwrap();
    let folder = Folder::new();
    let (keys, log) = (bucket.key_origin(), folder.0.to_str().unwrap());
    let mut server = Server::start(&[
        ("CALLBACK_KEY_ORIGIN", &keys),
        ("UPLOAD_LOG", log),
        ("METRICS_LISTEN", "127.0.0.1:0"),
    ]);
    let line = server.wait_log("metrics at ");
    let address = line.rsplit("http://").next().unwrap().trim_end_matches("/metrics");
    let address = address.parse().unwrap();
    let value = |name: &str| {
        let found = metrics(address);
        found.iter().find(|(sample, _)| sample == name).map(|(_, value)| *value)
    };
    assert_eq!(value("appserver_policies_total"), Some(0));
    assert_eq!(value("appserver_callbacks_total{outcome=\"accepted\"}"), None);

    let form = "application/x-www-form-urlencoded";
    // The last is a replay, which needs no line.
    for object in ["1", "2", "3", "3"] {
        let body = format!("bucket=examplebucket&filename={object}");
        let callback = bucket.callback_request("/callback", "x", body.as_bytes(), form);
        assert_eq!(support::send(server.address, &callback, false).unwrap().status, 200);
    }
    assert_eq!(request(server.address, "POST", "/callback", &[], b"x").status, 400);
    assert_eq!(request(server.address, "GET", "/", &[], b"").status, 200);
    assert_eq!(support::send(server.address, b"BAD\r\n\r\n", false).unwrap().status, 400);
    for (name, expected) in [
        ("appserver_callbacks_total{outcome=\"accepted\"}", 4),
        ("appserver_callbacks_total{outcome=\"x-oss-pub-key-url is missing\"}", 1),
        ("appserver_policies_total", 1),
        ("appserver_log_syncs_total{result=\"ok\"}", 3),
        ("appserver_key_fetches_total{result=\"ok\"}", 1),
        ("appserver_refusals_total{reason=\"malformed request\"}", 1),
        ("appserver_evictions_total", 0),
    ] {
        assert_eq!(value(name), Some(expected), "{name}");
    }
    assert!(value("appserver_connections_total").unwrap() >= 7);

    // Nothing else is there, and nothing of it at the public address.
    assert_eq!(request(address, "GET", "/", &[], b"").status, 404);
    assert_eq!(request(address, "POST", "/callback", &[], b"x").status, 404);
    assert_eq!(request(address, "HEAD", "/metrics", &[], b"").body, b"");
    assert_eq!(request(server.address, "GET", "/metrics", &[], b"").status, 404);
    assert!(server.is_running());
}

/// No counter is there for show: each moves when its event happens, and an outcome has its word.
#[test]
fn every_metric_moves() {
    let bucket = Standin::start(Options::default()).unwrap();
    let options = Options::default();
    bucket.faults().sts = CredentialFault::Status(503, "Busy".to_owned());
    let folder = Folder::new();
    let record = folder.path("record");
    std::fs::create_dir(&record).unwrap();
    let (keys, sts) = (bucket.key_origin(), bucket.sts_url());
    let server = Server::start(&[
        ("OSS_ACCESS_KEY_ID", &*options.access_key_id),
        ("OSS_ACCESS_KEY_SECRET", &options.access_key_secret),
        ("CALLBACK_KEY_ORIGIN", &keys),
        ("OSS_STS_ENDPOINT", &sts),
        ("OSS_STS_ROLE_ARN", "acs:ram::1234567890123456:role/uploader"),
        ("UPLOAD_LOG", &record),
        ("METRICS_LISTEN", "127.0.0.1:0"),
        ("MAX_CONNECTIONS", "2"),
    ]);
    let line = server.wait_log("metrics at ");
    let address = line.rsplit("http://").next().unwrap().trim_end_matches("/metrics");
    let address = address.parse().unwrap();
    let value = |name: &str| {
        let found = metrics(address);
        let sample = found.into_iter().find(|(sample, _)| sample == &format!("appserver_{name}"));
        sample.map_or(0, |(_, value)| value)
    };
    server.wait_log("credentials: not renewed");
    bucket.faults().sts = CredentialFault::Serve;
    server.wait_log("valid until");
    server.wait_log("callback key v1: fetched");
    let form = "application/x-www-form-urlencoded";
    let callback = bucket.callback_request("/callback", "x", b"bucket=examplebucket", form);
    assert_eq!(support::send(server.address, &callback, false).unwrap().status, 200);
    let unknown = BASE64.encode("https://gosspublic.alicdn.com/callback_pub_key_v7.pem");
    let headers = [("Authorization", "AAAA"), ("x-oss-pub-key-url", &*unknown)];
    assert_eq!(request(server.address, "POST", "/callback", &headers, b"x").status, 503);
    server.wait_log("callback key v7: not fetched");
    std::fs::remove_dir_all(&record).unwrap();
    let other = bucket.callback_request("/callback", "y", b"bucket=examplebucket&x=1", form);
    assert_eq!(support::send(server.address, &other, false).unwrap().status, 500);
    assert_eq!(support::send(server.address, b"BAD\r\n\r\n", false).unwrap().status, 400);
    for _ in 0..200 {
        assert_eq!(request(server.address, "GET", "/", &[], b"").status, 200);
    }
    let _idle: Vec<TcpStream> =
        (0..4).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    assert_eq!(request(server.address, "GET", "/healthz", &[], b"").status, 200);

    let listed = request(address, "GET", "/metrics", &[], b"").text().to_owned();
    let types = listed.lines().filter_map(|line| line.strip_prefix("# TYPE appserver_"));
    let mut names: Vec<&str> = types.map(|line| line.split(' ').next().unwrap()).collect();
    for (name, samples) in [
        ("policies_total", &["policies_total"][..]),
        ("repeated_total", &["repeated_total"]),
        ("callbacks_total", &["callbacks_total{outcome=\"accepted\"}"]),
        ("connections_total", &["connections_total"]),
        ("refusals_total", &["refusals_total{reason=\"malformed request\"}"]),
        ("evictions_total", &["evictions_total"]),
        (
            "log_syncs_total",
            &["log_syncs_total{result=\"ok\"}", "log_syncs_total{result=\"failed\"}"],
        ),
        (
            "key_fetches_total",
            &["key_fetches_total{result=\"ok\"}", "key_fetches_total{result=\"failed\"}"],
        ),
        (
            "credential_renewals_total",
            &[
                "credential_renewals_total{result=\"ok\"}",
                "credential_renewals_total{result=\"failed\"}",
            ],
        ),
        ("credentials_end_seconds", &["credentials_end_seconds"]),
    ] {
        names.retain(|listed| *listed != name);
        for sample in samples {
            assert!(value(sample) > 0, "{sample} did not move: {listed}");
        }
    }
    assert!(names.is_empty(), "nobody has seen these move: {names:?}");
}

#[test]
fn the_metrics_address_must_be_one_and_may_be_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let plain = [
        ("OSS_ACCESS_KEY_ID", "id"),
        ("OSS_ACCESS_KEY_SECRET", "s3cr3t"),
        ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
    ];
    for value in ["9090", "localhost:9090"] {
        let vars = [&plain[..], &[("METRICS_LISTEN", value)]].concat();
        let run = run(&["127.0.0.1", "0"], &vars);
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        assert!(run.stderr.contains("METRICS_LISTEN: "), "{}", run.stderr);
    }
    // Uploads are worth more than metrics.
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
