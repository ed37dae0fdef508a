//! The socket that clients connect to: bound here, or left with systemd by the process before us.

use std::fmt;
use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Backlog, SockaddrStorage, getsockname, listen, setsockopt, sockopt};

use super::systemd;

/// std asks for 128, which overflow when many connect at once; who comes then must try again.
const BACKLOG: i32 = 4096;
/// Connections inherit these. The kernel would hold 4 MB for a client that never reads.
const SEND_BUFFER_BYTES: usize = 32 * 1024;
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024;

/// Where to listen.
#[derive(Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "http://{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// What the command line says: `[IP] PORT` or `unix:/PATH`.
    pub fn parse(words: &[&str]) -> Result<Listen, String> {
        let (ip, port) = match words {
            [path] if path.starts_with("unix:/") => {
                return Ok(Listen::Unix(path.trim_start_matches("unix:").into()));
            }
            [port] => ("0.0.0.0", port),
            [ip, port] => (*ip, port),
            _ => return Err("arguments: expected [IP] PORT or unix:/PATH (try --help)".to_owned()),
        };
        let ip = ip.parse().map_err(|_| format!("argument {ip:?}: not an IP address"))?;
        let port =
            port.parse().map_err(|_| format!("argument {port:?}: not a port (try --help)"))?;
        Ok(Listen::Tcp(SocketAddr::new(ip, port)))
    }
}

/// A socket that listens there.
pub fn open(address: &Listen) -> io::Result<OwnedFd> {
    if let Some(socket) = systemd::inherited(address) {
        return Ok(socket);
    }
    systemd::forget(); // one of another address would still hold the port
    let socket = match address {
        Listen::Tcp(address) => TcpListener::bind(address)?.into(),
        Listen::Unix(path) => bind_unix(path)?.into(),
    };
    systemd::keep(&socket);
    Ok(socket)
}

/// User and group may connect. A socket that a dead process left is put away.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let is_socket = path.symlink_metadata().is_ok_and(|there| there.file_type().is_socket());
    let is_dead = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(is_dead) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Sets what all connections share. From now on nobody waits in `accept`.
pub fn prepare(socket: &OwnedFd) -> io::Result<()> {
    listen(socket, Backlog::new(BACKLOG)?)?;
    setsockopt(socket, sockopt::SndBuf, &SEND_BUFFER_BYTES)?;
    setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES)?;
    let _ = setsockopt(socket, sockopt::TcpNoDelay, &true); // there is none on a Unix socket
    fcntl(socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Where it listens, for the log: port 0 has become one.
pub fn address(socket: &OwnedFd) -> Option<Listen> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(Listen::Tcp(SocketAddr::V4((*v4).into())));
    }
    if let Some(v6) = address.as_sockaddr_in6() {
        return Some(Listen::Tcp(SocketAddr::V6((*v6).into())));
    }
    Some(Listen::Unix(address.as_unix_addr()?.path()?.into()))
}
