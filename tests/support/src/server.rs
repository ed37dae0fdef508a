//! The real binary, on a port that the system chose, with its log at hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::Process;

/// The binary under test: the one that the variable `APPSERVER_BINARY` names by its path, so that
/// the same tests and benchmarks can be run on another one, an older version say. Without it, the
/// one that cargo puts beside the folder of the test that runs.
pub fn binary() -> PathBuf {
    if let Some(other) = std::env::var_os("APPSERVER_BINARY").filter(|path| !path.is_empty()) {
        let other = std::path::absolute(other).expect("a path");
        assert!(other.is_file(), "APPSERVER_BINARY: {} is no file", other.display());
        return other;
    }
    let test = std::env::current_exe().expect("own path");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("target folder");
    profile.join("appserver")
}

/// A running server; ended when dropped.
pub struct Server {
    process: Process,
    pub address: SocketAddr,
}

impl Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
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
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process::start(&mut command).expect("the server starts");
        let mut server = Server { process, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let line = server.wait_log("listen");
        if let Some((_, address)) = line.split_once("listening on http://") {
            server.address = address.trim().parse().expect("an address");
            if server.address.ip().is_unspecified() {
                server.address.set_ip([127, 0, 0, 1].into());
            }
        }
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops the process (SIGSTOP), until SIGCONT, and returns when all of its threads stand still.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.pid());
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(task.expect("a task").path().join("status"));
            status.expect("status").contains("State:\tT (stopped)")
        };
        while !std::fs::read_dir(&tasks).expect("a process").all(is_stopped) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What a run that ends by itself left.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// What a plain bucket needs.
pub const PLAIN: [(&str, &str); 3] = [
    ("OSS_ACCESS_KEY_ID", "exampleAkId"),
    ("OSS_ACCESS_KEY_SECRET", "exampleAkSecretNeverShown"),
    ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
];

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
    let quiet = [
        // Callbacks that no policy of the server's asked for: tests of the token turn it on.
        ("CALLBACK_TOKEN", "off"),
        // Nothing listens there: tests never leave this machine.
        ("CALLBACK_KEY_ORIGIN", "http://127.0.0.1:9"),
    ];
    let all = PLAIN.iter().chain(&quiet).chain(vars);
    let mut environment: BTreeMap<String, String> =
        all.map(|(name, value)| (name.to_string(), value.to_string())).collect();
    environment.retain(|_, value| !value.is_empty());
    environment
}
