//! Behind a proxy: the Unix socket, a path that the proxy takes off, and Debian's nginx for real.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use oss_standin::{Options, Standin};
use support::{Reply, Server, binary, read_reply, request};

const FORM: &str = "application/x-www-form-urlencoded";
const BODY: &[u8] = b"bucket=examplebucket&filename=a.txt";

/// A folder of a test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("appserver-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn on_socket(socket: &Path, vars: &[(&str, &str)]) -> Server {
    let mut command = Command::new(binary());
    command.arg(format!("unix:{}", socket.display()));
    Server::spawn(command, vars)
}

fn ask(socket: &Path, message: &[u8]) -> Reply {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(message).unwrap();
    read_reply(&mut stream, false).unwrap()
}

#[test]
fn a_unix_socket_serves_a_proxy() {
    let folder = Folder::new("unix");
    let socket = folder.0.join("http.sock");
    let bucket = Standin::start(Options::default()).unwrap();
    let vars = [("CALLBACK_KEY_ORIGIN", &*bucket.key_origin())];
    let mut server = on_socket(&socket, &vars);
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let get = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.9\r\n\r\n";
    assert_eq!(ask(&socket, get).status, 200);
    server.wait_log(" 203.0.113.9 GET \"/\" 200 policy");
    let callback = bucket.callback_request("/callback", "x", BODY, FORM);
    assert_eq!(ask(&socket, &callback).text(), r#"{"Status":"OK"}"#);

    let too_long = vec![b'a'; 70_000];
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", too_long.len());
    assert_eq!(ask(&socket, &[head.as_bytes(), &too_long].concat()).status, 413);

    // A file that is no socket is not ours to remove.
    let file = folder.0.join("precious");
    std::fs::write(&file, "x").unwrap();
    let plain = [
        ("OSS_ACCESS_KEY_ID", "id"),
        ("OSS_ACCESS_KEY_SECRET", "s3cr3t"),
        ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
    ];
    let run = support::run(&[&format!("unix:{}", file.display())], &plain);
    assert!(run.code == Some(1) && run.stderr.contains("cannot listen on "), "{}", run.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x");

    // A socket that a killed process leaves behind does not keep the next from starting; one that
    // a living process serves does.
    server.kill();
    let _second = on_socket(&socket, &vars);
    assert_eq!(ask(&socket, get).status, 200);
    let third = support::run(&[&format!("unix:{}", socket.display())], &plain);
    assert!(third.code == Some(1) && third.stderr.contains("cannot listen on "));
    assert_eq!(ask(&socket, get).status, 200);
}

/// More requests at once than one batch holds: each gets its answer, and its own.
#[test]
fn more_than_a_batch_at_once_is_answered_whole() {
    let folder = Folder::new("batch");
    let socket = folder.0.join("http.sock");
    let _server = on_socket(&socket, &[]);
    let mut streams: Vec<UnixStream> =
        (0..200).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    for _ in 0..20 {
        for stream in &mut streams {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        }
        for stream in &mut streams {
            let reply = read_reply(stream, false).unwrap();
            assert_eq!((reply.status, &*reply.text()), (200, "ok\n"));
        }
    }
}

#[test]
fn a_path_prefix_is_routed_without_and_signed_with() {
    let bucket = Standin::start(Options::default()).unwrap();
    let origin = bucket.key_origin();
    let prefix = ("PUBLIC_PATH_PREFIX", "/post");
    let server = Server::start(&[("CALLBACK_KEY_ORIGIN", &origin), prefix]);
    for (path, status) in [
        ("/post/", 200),
        ("/post", 200),
        ("/", 200),
        ("/post/healthz", 200),
        ("/post/get_post_signature_for_oss_upload", 200),
        ("/posthealthz", 404),
        ("/post/post/healthz", 404),
    ] {
        assert_eq!(request(server.address, "GET", path, &[], b"").status, status, "{path}");
    }
    // OSS signed what it called; the proxy passes that on, or takes the prefix off.
    for (signed, arrives, status) in [
        ("/post/callback?x=1", "/post/callback?x=1", 200),
        ("/post/callback?x=1", "/callback?x=1", 200),
        ("/post?x=1", "/post?x=1", 200),
        ("/callback?x=1", "/callback?x=1", 400),
        ("/post/postal", "/postal", 200),
    ] {
        let authorization = bucket.sign(signed, BODY);
        let key_url = BASE64.encode(oss_standin::PUB_KEY_URL);
        let headers = [("authorization", &*authorization), ("x-oss-pub-key-url", &*key_url)];
        let reply = request(server.address, "POST", arrives, &headers, BODY);
        assert_eq!(reply.status, status, "{signed} as {arrives}");
    }
}

/// nginx in the foreground, one process, ended when dropped.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// README's configuration for nginx, with a certificate, ports and paths of this test's own.
#[test]
fn nginx_with_tls_passes_callbacks_on_over_the_unix_socket() {
    let folder = Folder::new("nginx");
    let path = |name: &str| folder.0.join(name).display().to_string();
    let bucket = Standin::start(Options::default()).unwrap();
    let socket = folder.0.join("http.sock");
    let origin = bucket.key_origin();
    let server =
        on_socket(&socket, &[("CALLBACK_KEY_ORIGIN", &origin), ("PUBLIC_PATH_PREFIX", "/upload")]);

    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-batch"])
        .args(["-subj", "/CN=localhost", "-keyout", &path("key.pem"), "-out", &path("cert.pem")])
        .stderr(Stdio::null())
        .status();
    assert!(made.is_ok_and(|status| status.success()), "openssl makes a certificate");

    let readme = include_str!("../README.md");
    let block = readme.split("```nginx\n").nth(1).expect("README has an nginx block");
    let block = block.split("```").next().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let block = block
        .replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port} ssl;"))
        .replace("/etc/ssl/upload.pem", &path("cert.pem"))
        .replace("/etc/ssl/upload.key", &path("key.pem"))
        .replace("/run/appserver/http.sock", &socket.display().to_string());
    let folder_names = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temp: String =
        folder_names.iter().map(|name| format!("{name}_temp_path {};\n", path(name))).collect();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {};\nerror_log {};\nevents {{}}\n\
         http {{\naccess_log off;\n{temp}{block}\n}}\n",
        path("pid"),
        path("error.log")
    );
    std::fs::write(folder.0.join("nginx.conf"), config).unwrap();
    let mut nginx = Command::new("nginx");
    nginx.args(["-e", &path("error.log"), "-c", &path("nginx.conf")]).stderr(Stdio::null());
    let child = nginx.spawn().expect("nginx starts (tests/run installs it)");
    let _nginx = Nginx(child);

    // curl speaks the TLS; nginx may need a moment to listen.
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["-s", "-k", "--max-time", "20", "--retry", "50", "--retry-connrefused"])
            .args(["--retry-delay", "0", "--retry-max-time", "20"])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let url = |target: &str| format!("https://127.0.0.1:{port}{target}");
    let start = Instant::now();
    while curl(&[&url("/upload/healthz")]) != "ok\n" {
        let log = std::fs::read_to_string(folder.0.join("error.log")).unwrap_or_default();
        assert!(start.elapsed() < Duration::from_secs(30), "nginx does not serve: {log}");
    }
    assert!(curl(&[&url("/upload/get_post_signature_for_oss_upload")]).contains("x_oss_date"));

    let target = "/upload/callback?x=%20y";
    let authorization = format!("Authorization: {}", bucket.sign(target, BODY));
    let key_url = format!("x-oss-pub-key-url: {}", BASE64.encode(oss_standin::PUB_KEY_URL));
    let body = String::from_utf8_lossy(BODY);
    let callback = ["-H", &authorization, "-H", &key_url, "--data-raw", &body];
    let target = url(target);
    assert_eq!(curl(&[&callback[..], &[&target]].concat()), r#"{"Status":"OK"}"#);
    assert_eq!(curl(&[&callback[..], &["--http1.0", &target]].concat()), r#"{"Status":"OK"}"#);
    server.wait_log(" 127.0.0.1 POST \"/upload/callback\" 200 callback bucket=\"examplebucket\"");

    let long = "a".repeat(70_000);
    let status = ["-o", "/dev/null", "-w", "%{http_code}", "--data-raw", &long];
    assert_eq!(curl(&[&status[..], &[&target]].concat()), "413");
}
