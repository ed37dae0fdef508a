//! Real proxies in front of the server: Debian's nginx, Caddy and Apache, with the configurations
//! of `tests/proxy`. A missing one fails the test that needs it, in words that say what to install.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Process, documents};

/// The name in the configurations of `tests/proxy`.
pub const HOST: &str = "upload.example.com";

/// A file of `tests/proxy`, with places of a test's own.
pub fn file(name: &str, places: &[(&str, &str)]) -> String {
    documents::moved(&documents::text(&format!("tests/proxy/{name}")), places)
}

/// A certificate for `HOST` and its key, as `upload.pem` and `upload.key`.
pub fn certificate(folder: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-batch"])
        .args(["-subj", &format!("/CN={HOST}"), "-addext", &format!("subjectAltName=DNS:{HOST}")])
        .args(["-keyout", "upload.key", "-out", "upload.pem"])
        .current_dir(folder)
        .output();
    let made = output.is_ok_and(|output| output.status.success());
    assert!(made, "openssl makes no certificate (tests/run installs it)");
}

/// A proxy in the foreground, one process that serves already; ended when dropped.
pub struct Proxy {
    process: Process,
    /// Those that its configuration was given.
    pub ports: Vec<u16>,
}

impl Proxy {
    /// nginx; `http` makes what stands within `http {}`, of as many ports as are asked for.
    pub fn nginx(folder: &Path, ports: usize, http: impl Fn(&[u16]) -> String) -> Proxy {
        let path = |name: &str| folder.join(name).display().to_string();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String =
            kinds.iter().map(|name| format!("{name}_temp_path {};\n", path(name))).collect();
        Proxy::start("nginx", "nginx-light", "using the \"", ports, |ports| {
            let config = format!(
                "daemon off;\nmaster_process off;\npid {};\nerror_log stderr notice;\n\
                 events {{}}\nhttp {{\naccess_log off;\n{temporary}{}\n}}\n",
                path("nginx.pid"),
                http(ports)
            );
            std::fs::write(path("nginx.conf"), config).expect("written");
            let mut nginx = Command::new("nginx");
            nginx.args(["-e", "stderr", "-c", &path("nginx.conf")]);
            nginx
        })
    }

    /// Caddy as README has it, before the server at `socket`: with the certificate in the folder, or
    /// without TLS. It must not fetch a certificate, nor listen on port 80. What it keeps is in
    /// `folder`.
    pub fn caddy(folder: &Path, socket: &str, has_tls: bool) -> Proxy {
        Proxy::start("caddy", "caddy", "serving initial configuration", 1, |ports| {
            let [path, pem, key] =
                ["Caddyfile", "upload.pem", "upload.key"].map(|name| folder.join(name));
            let global = match has_tls {
                true => format!("auto_https disable_redirects\ndefault_sni {HOST}"),
                false => "auto_https off".to_owned(),
            };
            let site = match has_tls {
                true => format!(
                    "\nhttps://{HOST}:{} {{\ntls {} {}\n",
                    ports[0],
                    pem.display(),
                    key.display()
                ),
                false => format!("\nhttp://{HOST}:{} {{\n", ports[0]),
            };
            let places = [
                (&*format!("{{\n    default_sni {HOST}\n"), &*format!("{{\nadmin off\n{global}\n")),
                (&format!("\n{HOST} {{\n"), &format!("{site}bind 127.0.0.1\n")),
                ("/run/appserver.sock", socket),
            ];
            std::fs::write(&path, file("Caddyfile", &places)).expect("written");
            let mut caddy = Command::new("caddy");
            caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(path);
            for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
                caddy.env(name, folder);
            }
            caddy
        })
    }

    /// Apache likewise, with the modules that Debian enables and those of a proxy.
    pub fn apache(folder: &Path, socket: &str, has_tls: bool) -> Proxy {
        const MODULES: [&str; 7] = [
            "mpm_event",
            "authz_core",
            "reqtimeout",
            "socache_shmcb",
            "ssl",
            "proxy",
            "proxy_http",
        ];
        const PEM: &str = "SSLCertificateFile /etc/ssl/upload.pem";
        const KEY: &str = "SSLCertificateKeyFile /etc/ssl/upload.key";
        let module = |name: &&str| {
            format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n")
        };
        let modules: String = MODULES.iter().map(module).collect();
        Proxy::start("apache2", "apache2-bin", "start_threads", 1, |ports| {
            let place = folder.display();
            let address = format!("127.0.0.1:{}", ports[0]);
            let certificates = format!("{place}/");
            let mut places = vec![("*:443", &*address), ("/run/appserver.sock", socket)];
            match has_tls {
                true => places.push(("/etc/ssl/", &certificates)),
                false => places.extend(["SSLEngine on", PEM, KEY].map(|line| (line, ""))),
            }
            let site = file("apache.conf", &places);
            let config = format!(
                "ServerRoot {place}\nDefaultRuntimeDir {place}\nPidFile {place}/apache.pid\n\
                 ServerName localhost\nUser www-data\nGroup www-data\n{modules}\
                 Mutex file:{place}\nErrorLog /dev/stderr\nLogLevel warn mpm_event:debug\n\
                 Listen {address}\n{site}"
            );
            let path = folder.join("apache.conf");
            std::fs::write(&path, config).expect("written");
            let mut apache = Command::new("apache2");
            apache.arg("-X").arg("-f").arg(path); // one process, which a kill ends
            apache
        })
    }

    pub fn plain_caddy(folder: &Path, socket: &str) -> Proxy {
        Proxy::caddy(folder, socket, false)
    }

    pub fn plain_apache(folder: &Path, socket: &str) -> Proxy {
        Proxy::apache(folder, socket, false)
    }

    /// None of them can be given port 0, so another process may take a port that was free: then
    /// the proxy ends, and is started on others. It serves once it has written a line with `ready`.
    fn start(
        program: &str,
        package: &str,
        ready: &str,
        ports: usize,
        command: impl Fn(&[u16]) -> Command,
    ) -> Proxy {
        loop {
            let free: Vec<TcpListener> =
                (0..ports).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
            let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
            let ports: Vec<u16> = free.iter().map(port).collect();
            drop(free);
            let mut command = command(&ports);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            let process = Process::start(&mut command).unwrap_or_else(|error| {
                panic!(
                    "{program} does not start ({error}), and this test needs the real one; run \
                     tests/run as root, or: apt-get install {package}"
                )
            });
            let proxy = Proxy { process, ports };
            if proxy.process.find_log(ready).is_some() {
                return proxy;
            }
            let log = proxy.process.last_lines();
            let taken = log.iter().any(|line| line.to_lowercase().contains("address already in"));
            assert!(taken, "{program} does not serve: {log:#?}");
        }
    }

    pub fn address(&self, index: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[index]))
    }
}
