//! The real binary, on a port that the system chose, with its log at hand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Far longer than anything waited for takes, so that a loaded machine fails no test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A benchmark's log would fill the memory.
const MAX_LINES: usize = 100_000;

/// The binary under test: cargo puts it beside the folder of the test that runs.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("target folder");
    profile.join("appserver")
}

/// A running server; ended when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    log: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Server {
    /// Starts with the environment that a plain bucket needs, `vars` added or put in its place
    /// (an empty value removes), and waits until it listens.
    pub fn start(vars: &[(&str, &str)]) -> Server {
        Server::start_on("127.0.0.1", vars)
    }

    pub fn start_on(ip: &str, vars: &[(&str, &str)]) -> Server {
        let mut command = Command::new(binary());
        command.args([ip, "0"]);
        Server::spawn(command, vars)
    }

    /// Starts with `CALLBACK_URL` naming this very server (and the path `/callback`).
    pub fn start_called_back(vars: &[(&str, &str)]) -> Server {
        loop {
            // Another process may take the port between the two: then try another one.
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = free.local_addr().expect("bound");
            drop(free);
            let mut command = Command::new(binary());
            command.args(["127.0.0.1", &address.port().to_string()]);
            let url = format!("http://{address}/callback");
            let server = Server::spawn(command, &[&[("CALLBACK_URL", &*url)], vars].concat());
            if server.address == address {
                return server;
            }
        }
    }

    /// Starts `command`, which must end up as the server (it may be a wrapper that execs it).
    pub fn spawn(mut command: Command, vars: &[(&str, &str)]) -> Server {
        command.env_clear().envs(environment(vars));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server starts");
        let log: Arc<(Mutex<Vec<String>>, Condvar)> = Arc::default();
        let stderr = child.stderr.take().expect("piped");
        let sink = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut lines = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() < MAX_LINES {
                    lines.push(line);
                }
                drop(lines);
                sink.1.notify_all();
            }
        });
        let mut server = Server { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), log };
        let line = server.wait_log("listen");
        if let Some((_, address)) = line.split_once("listening on http://") {
            server.address = address.trim().parse().expect("an address");
            if server.address.ip().is_unspecified() {
                server.address.set_ip([127, 0, 0, 1].into());
            }
        }
        server
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All lines so far.
    pub fn log(&self) -> Vec<String> {
        self.log.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first line that contains `text`, as soon as there is one.
    pub fn wait_log(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let lines = lines.clone(); // and the lock is free again when this panics
                panic!("no log line with {text:?} in {lines:#?}");
            }
            let waited = self.log.1.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// True as long as the process that was started is the one that runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// A line of `/proc/PID/status`, as a number (kB where it says so).
    pub fn status(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok()).expect("a number")
    }

    /// Ends the process at once (SIGKILL) and waits for it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::thread::sleep(Duration::from_millis(200));
            let (running, log) = (self.is_running(), self.log());
            let last = log.get(log.len().saturating_sub(50)..);
            eprintln!("the server ran: {running}; the end of its log: {last:#?}");
        }
        self.kill();
    }
}

/// What a run that ends by itself left.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the binary to its end, with exactly the environment given.
pub fn run(arguments: &[&str], vars: &[(&str, &str)]) -> Run {
    let mut command = Command::new(binary());
    command.args(arguments).env_clear().envs(vars.iter().copied()).stdin(Stdio::null());
    let output = command.output().expect("the server runs");
    Run {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn environment(vars: &[(&str, &str)]) -> BTreeMap<String, String> {
    let plain = [
        ("OSS_ACCESS_KEY_ID", "exampleAkId"),
        ("OSS_ACCESS_KEY_SECRET", "exampleAkSecretNeverShown"),
        ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
        // Callbacks that no policy of the server's asked for: tests of the token turn it on.
        ("CALLBACK_TOKEN", "off"),
        // As in appserver.service: memory is measured as it is there.
        ("MALLOC_ARENA_MAX", "2"),
        // Nothing listens there: tests never leave this machine.
        ("CALLBACK_KEY_ORIGIN", "http://127.0.0.1:9"),
    ];
    let all = plain.iter().chain(vars);
    let mut environment: BTreeMap<String, String> =
        all.map(|(name, value)| (name.to_string(), value.to_string())).collect();
    environment.retain(|_, value| !value.is_empty());
    environment
}
