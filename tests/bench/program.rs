//! A program under measurement: where it listens, its process, and what it uses. Its log goes to
//! /dev/null: to read it, as `support::Server` does, would cost CPU time during measurements.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::cpu_time;

use crate::client::Client;

/// Far longer than any response takes, so that a server that hangs ends the run.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How often a program that starts is asked. Short beside a start, which takes milliseconds.
const START_POLL: Duration = Duration::from_micros(200);

/// Where a program listens.
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Place {
    /// A port that is free now. Another process may take it before the program does, which then
    /// fails to start. Connections to 127.0.0.2 come from 127.0.0.1, so that one that is tried
    /// before the program listens cannot meet itself.
    pub fn free_port() -> Place {
        let listener = TcpListener::bind("127.0.0.2:0").expect("a free port");
        Place::Tcp(listener.local_addr().expect("a bound address"))
    }

    /// The arguments that make appserver listen there.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Place::Tcp(address) => vec![address.ip().to_string(), address.port().to_string()],
            Place::Unix(path) => vec![format!("unix:{}", path.display())],
        }
    }

    /// A connection, as a file: both kinds of socket are read and written alike.
    pub fn connect(&self) -> io::Result<File> {
        let socket: OwnedFd = match self {
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.into()
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.into()
            }
        };
        Ok(socket.into())
    }
}

/// A running program; ended when dropped.
pub struct Program {
    pub name: String,
    pub place: Place,
    child: Child,
}

impl Program {
    /// Starts `command` and waits for its response to `request`.
    pub fn start(name: &str, place: Place, mut command: Command, request: &[u8]) -> Program {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = Instant::now();
        let child = command.spawn().expect("the program starts");
        let mut program = Program { name: name.to_owned(), place, child };
        let mut client = Client::new();
        while let Err(error) = client.connect(&program.place) {
            let ended = program.child.try_wait().expect("a child process");
            assert!(ended.is_none(), "{} ended: {ended:?}", program.name);
            assert!(started.elapsed() < PATIENCE, "{}: {error}", program.name);
            thread::sleep(START_POLL);
        }
        client.exchange(request);
        program
    }

    /// Seconds of CPU time that it has used, threads that have ended included.
    pub fn cpu_time(&self) -> f64 {
        cpu_time(self.child.id())
    }

    /// VmRSS, in MB.
    pub fn memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the status of a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kilobytes.expect("a number") / 1e3
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
