//! Behind a proxy: the Unix socket, a path that the proxy takes off, and the configurations of
//! `tests/proxy` with the real nginx, Caddy and Apache.

mod machines;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use support::proxy::{self, HOST, Proxy};
use support::trust::{JWT_SECRET, now, ticket};
use support::world::{FORM, Site};
use support::{Connection, Folder, Host, Reply, Server, binary, request};

const BODY: &[u8] = b"bucket=examplebucket&filename=a.txt";

fn on_socket(socket: &Path, vars: &[(&str, &str)]) -> Server {
    let mut command = Command::new(binary());
    command.arg(format!("unix:{}", socket.display()));
    Server::spawn(command, vars)
}

fn ask(socket: &Path, message: &[u8]) -> Reply {
    Connection::unix(socket).unwrap().ask(message).unwrap()
}

/// `Authorization: Bearer` of `alice`.
fn bearer() -> String {
    let ticket = ticket(JWT_SECRET, &json!({ "sub": "alice", "exp": now() + 600 }));
    format!("Authorization: Bearer {ticket}")
}

/// Unix socket: its mode, X-Forwarded-For, a file in its place, and the socket of a killed process.
#[test]
fn a_unix_socket_serves_a_proxy() {
    let site = Site::new(&[("UPLOAD_LOG", "")]);
    let socket = site.folder.0.join("http.sock");
    let mut server = on_socket(&socket, &site.vars(&[]));
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let get = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.9\r\n\r\n";
    assert_eq!(ask(&socket, get).status, 200);
    server.wait_log(" 203.0.113.9 GET \"/\" 200 policy");
    assert_eq!(ask(&socket, &site.callback("/callback", "a.txt")).text(), r#"{"Status":"OK"}"#);

    let too_long = vec![b'a'; 70_000];
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", too_long.len());
    assert_eq!(ask(&socket, &[head.as_bytes(), &too_long].concat()).status, 413);

    // A file that is no socket is not ours to remove.
    let file = site.folder.0.join("precious");
    std::fs::write(&file, "x").unwrap();
    let cannot_listen = |path: &Path| {
        let run = site.run(&[&format!("unix:{}", path.display())], &[]);
        assert!(run.code == Some(1) && run.stderr.contains("cannot listen on "), "{}", run.stderr);
    };
    cannot_listen(&file);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x");

    // A socket that a killed process leaves behind does not keep the next from starting; one that
    // a living process serves does.
    server.kill();
    let _second = on_socket(&socket, &site.vars(&[]));
    assert_eq!(ask(&socket, get).status, 200);
    cannot_listen(&socket);
    assert_eq!(ask(&socket, get).status, 200);
}

/// More requests at once than one batch holds: each gets its answer, and its own.
#[test]
fn more_than_a_batch_at_once_is_answered_whole() {
    let folder = Folder::new();
    let socket = folder.0.join("http.sock");
    let _server = on_socket(&socket, &[]);
    let mut connections: Vec<Connection> =
        (0..200).map(|_| Connection::unix(&socket).unwrap()).collect();
    for _ in 0..20 {
        for connection in &mut connections {
            connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        for connection in &mut connections {
            let reply = connection.reply().unwrap();
            assert_eq!((reply.status, &*reply.text()), (200, "ok\n"));
        }
    }
}

/// PUBLIC_PATH_PREFIX: a reverse proxy may strip the path, and the signature holds what OSS called.
#[test]
fn a_path_prefix_is_routed_without_and_signed_with() {
    let site = Site::new(&[("PUBLIC_PATH_PREFIX", "/post")]);
    let server = Server::start(&site.vars(&[]));
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
        let message = site.callback(signed, "a.txt");
        let message = String::from_utf8(message).unwrap().replace(signed, arrives);
        let reply = support::send(server.address, message.as_bytes(), false).unwrap();
        assert_eq!(reply.status, status, "{signed} as {arrives}");
    }
}

/// What a proxy of `tests/proxy` stands before: a server under `/upload` that wants tickets.
struct Behind {
    site: Site,
    server: Server,
}

impl Behind {
    fn new() -> Behind {
        let changes = [("PUBLIC_PATH_PREFIX", "/upload"), ("UPLOAD_JWT_SECRET", JWT_SECRET)];
        let site = Site::new(&changes);
        proxy::certificate(&site.folder.0);
        let socket = site.folder.0.join("http.sock");
        let server = on_socket(&socket, &site.vars(&[]));
        // Apache's process gives up root.
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).unwrap();
        Behind { site, server }
    }

    fn path(&self, name: &str) -> String {
        self.site.folder.path(name)
    }

    /// `nginx.conf`, listening on this port with the certificate of the test.
    fn nginx_block(&self, port: u16) -> String {
        let places = [
            ("listen 443 ", &*format!("listen 127.0.0.1:{port} ")),
            ("/etc/ssl/upload.pem", &self.path("upload.pem")),
            ("/etc/ssl/upload.key", &self.path("upload.key")),
            ("/run/appserver.sock", &self.path("http.sock")),
        ];
        proxy::file("nginx.conf", &places)
    }

    /// As browsers do: by name, so that the handshake names it too, and with the certificate
    /// checked. Status and body.
    fn curl(&self, proxy: &Proxy, path: &str, arguments: &[&str]) -> (u16, String) {
        let port = proxy.ports[0];
        let output = Command::new("curl")
            .args(["-s", "--max-time", "30", "--path-as-is", "--cacert", &self.path("upload.pem")])
            .args(["--resolve", &format!("{HOST}:{port}:127.0.0.1"), "-w", "\n%{http_code}"])
            .args(arguments)
            .arg(format!("https://{HOST}:{port}{path}"))
            .output()
            .expect("curl runs (tests/run installs it)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// A message over TLS that names no host in its handshake; all that comes back.
    fn without_a_name(&self, proxy: &Proxy, message: &[u8]) -> String {
        let mut client = Command::new("timeout")
            .args(["30", "openssl", "s_client", "-quiet", "-noservername"])
            .args(["-verify_return_error", "-CAfile", &self.path("upload.pem")])
            .args(["-verify_hostname", HOST, "-connect", &proxy.address(0).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts (tests/run installs it)");
        client.stdin.take().unwrap().write_all(message).unwrap();
        String::from_utf8_lossy(&client.wait_with_output().unwrap().stdout).into_owned()
    }

    /// The complete callback as OSS sends it, signed for this path and query.
    fn callback(&self, target: &str) -> Vec<u8> {
        self.site.bucket.callback_request(target, HOST, BODY, FORM)
    }

    /// What every proxy must do.
    fn check(&self, proxy: &Proxy) {
        assert_eq!(self.curl(proxy, "/upload/healthz", &[]), (200, "ok\n".into()));
        assert_eq!(self.curl(proxy, "/upload/index.html", &[]).0, 200);
        let policies = "/upload/get_post_signature_for_oss_upload";
        assert_eq!(self.curl(proxy, policies, &[]).0, 401);
        let ticket = bearer();
        let lie = "X-Forwarded-For: 6.6.6.6";
        let (status, policy) = self.curl(proxy, policies, &["-H", &ticket, "-H", lie]);
        assert!(status == 200 && policy.contains("x_oss_date"), "{status} {policy}");
        self.server
            .wait_log(&format!(" 127.0.0.1 GET {policies:?} 200 policy dir=\"user/alice/\""));

        for http10 in [false, true] {
            self.site.bucket.faults().callback_http10 = http10;
            let callback = self.callback("/upload/callback?x=%20y+z%2F&token=a.b_c-d");
            let answer = self.without_a_name(proxy, &callback);
            assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 OK\r\n"), "{answer}");
            assert!(answer.ends_with("\r\n\r\n{\"Status\":\"OK\"}"), "{answer}");
            // OSS wants to know how long the answer is.
            assert!(answer.to_lowercase().contains("content-length: 15\r\n"), "{answer}");
        }
        self.server.wait_log(" 127.0.0.1 POST \"/upload/callback\" 200 callback bucket=");
        let forged = String::from_utf8(self.callback("/upload/callback?x=1")).unwrap();
        let forged = forged.replace("?x=1", "?x=2");
        let answer = self.without_a_name(proxy, forged.as_bytes());
        assert!(answer.contains(" 400 ") && answer.contains("verify not ok"), "{answer}");

        // The server takes 20 KiB, and so does each proxy.
        let file = self.site.folder.0.join("body");
        let data = format!("@{}", file.display());
        for length in [20_480, 20_481, 1_000_000] {
            std::fs::write(&file, vec![b'a'; length]).unwrap();
            let sent = self.curl(proxy, "/upload/callback", &["--data-binary", &data]);
            // A proxy may close before all has come, and then curl may not see the 413.
            let expected: &[u16] = if length > 20_480 { &[413, 0] } else { &[400] };
            assert!(expected.contains(&sent.0), "{length} bytes: {sent:?}");
        }
    }
}

/// nginx: TLS, tickets, callbacks without a name in the handshake, long bodies; only POST at the
/// callback.
#[test]
fn nginx_passes_all_on_over_the_unix_socket() {
    let behind = Behind::new();
    let nginx = Proxy::nginx(&behind.site.folder.0, 1, |ports| {
        // Another site, first on the same address: without a name, it is not the one.
        format!(
            "server {{\nlisten 127.0.0.1:{} ssl;\nserver_name other.example.com;\n\
             ssl_certificate {};\nssl_certificate_key {};\nreturn 204;\n}}\n{}",
            ports[0],
            behind.path("upload.pem"),
            behind.path("upload.key"),
            behind.nginx_block(ports[0])
        )
    });
    behind.check(&nginx);
    assert_eq!(behind.curl(&nginx, "/upload/callback", &[]).0, 403);
    assert_eq!(behind.curl(&nginx, "/callback", &["-d", "a=b"]).0, 404);
}

/// nginx auth_request: a session cookie is asked for before policies; no spelling of a path goes
/// around it.
#[test]
fn nginx_asks_the_application_before_policies_but_not_before_callbacks() {
    let behind = Behind::new();
    // The application: knows its sessions by a cookie.
    let application = Host::start(|head| {
        let good = head.contains("Cookie: session=good\r\n");
        let status = if good { "204 Good" } else { "401 Who" };
        format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n").into()
    });
    let places = [("127.0.0.1:3000", &*application.address.to_string())];
    let locations = proxy::file("nginx-session.conf", &places);
    let nginx = Proxy::nginx(&behind.site.folder.0, 1, |ports| {
        let block = behind.nginx_block(ports[0]);
        let (before, rest) = block.split_once("    location /upload/ {").expect("the location");
        let (_, after) = rest.split_once("    }\n").expect("its end");
        format!("{before}{locations}{after}")
    });

    let ticket = bearer();
    for path in ["/upload/", "/upload/get_post_signature_for_oss_upload", "/upload/index.html"] {
        let ask = |cookie: &str| behind.curl(&nginx, path, &["-H", &ticket, "-H", cookie]).0;
        assert_eq!((ask("Cookie: session=good"), ask("Cookie: session=bad")), (200, 401), "{path}");
    }
    assert!(!behind.server.log().iter().any(|line| line.contains("\" 401")));
    let callback = behind.callback("/upload/callback?token=a");
    let answer = behind.without_a_name(&nginx, &callback);
    assert!(answer.ends_with("{\"Status\":\"OK\"}"), "{answer}");

    // Around the question: nothing that nginx and the server could read differently.
    for (path, expected) in [
        ("/session", 404),
        ("/upload", 301),
        ("/upload/callback", 403),
        ("/upload/callback?x=/upload/", 403),
        ("/upload/callback/", 401),
        ("/upload/callback/../", 401),
        ("/upload/callback/../get_post_signature_for_oss_upload", 401),
        ("/upload/%67et_post_signature_for_oss_upload", 401),
        ("/upload//get_post_signature_for_oss_upload", 401),
        ("/upload/get_post_signature_for_oss_upload/../callback", 403),
        ("/upload/get_post_signature_for_oss_upload%3F/../callback", 403),
        ("/upload/get_post_signature_for_oss_upload?/../callback", 401),
    ] {
        assert_eq!(behind.curl(&nginx, path, &["-H", &ticket]).0, expected, "{path}");
    }
    // A callback may have any path, so others are none.
    assert_eq!(behind.curl(&nginx, "/upload/", &["-H", &ticket, "-d", "a=b"]).0, 401);
}

/// Caddy and Apache: the same over `reverse_proxy` and mod_proxy, `Authorization` included.
#[test]
fn caddy_and_apache_pass_all_on_over_the_unix_socket() {
    for start in [Proxy::caddy, Proxy::apache] {
        let behind = Behind::new();
        behind.check(&start(&behind.site.folder.0, &behind.path("http.sock"), true));
    }
}
