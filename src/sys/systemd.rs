//! The service manager's side: a listening socket that outlives us in systemd's descriptor store,
//! and what we tell it. Implements sd_notify(3) and sd_listen_fds(3), and does nothing without it.

use std::io::IoSlice;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, listen,
    sendmsg, socket,
};

use super::listener::Listen;

/// The socket's name in the descriptor store.
const NAME: &str = "FDNAME=listener";

/// The socket for `listen` that the process before us left with systemd. It never stopped
/// listening: who connected meanwhile waits in it.
pub fn inherited(address: &Listen) -> Option<OwnedFd> {
    let mut handed = ListenFd::from_env();
    let all = (0..handed.len()).filter_map(|index| match address {
        Listen::Tcp(wanted) => {
            let listener: TcpListener = handed.take_tcp_listener(index).ok()??;
            let there = listener.local_addr().ok()?;
            let same = there.ip() == wanted.ip() && [there.port(), 0].contains(&wanted.port());
            same.then(|| OwnedFd::from(listener))
        }
        Listen::Unix(path) => {
            let listener: UnixListener = handed.take_unix_listener(index).ok()??;
            // If its file was removed nobody can connect: then another is bound.
            let same = listener.local_addr().ok()?.as_pathname() == Some(path) && path.exists();
            same.then(|| OwnedFd::from(listener))
        }
    });
    // What does not listen is not ours, whatever its address.
    let mut listening = all.filter(|socket| listen(socket, Backlog::MAXCONN).is_ok());
    listening.next()
}

/// Leaves the socket with systemd for the process after us.
pub fn keep(socket: &OwnedFd) {
    notify(&["FDSTORE=1", NAME], &[socket.as_raw_fd()]);
}

/// Has systemd close what was kept.
pub fn forget() {
    notify(&["FDSTOREREMOVE=1", NAME], &[]);
}

/// Tells systemd, if it asked to be told and listens. It is never worth an error, or a wait.
pub fn notify(lines: &[&str], descriptors: &[RawFd]) {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return };
    let address = match path.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes()),
        None => UnixAddr::new(path.as_str()),
    };
    let datagram = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let (Ok(address), Ok(datagram)) = (address, datagram) else { return };
    let text = lines.join("\n");
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &[] } else { rights.as_slice() };
    let parts = [IoSlice::new(text.as_bytes())];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let _ = sendmsg(datagram.as_raw_fd(), &parts, control, flags, Some(&address));
}

/// How often systemd wants to hear that we work, in milliseconds: four times as often as it must,
/// so that one late health check does not end us.
pub fn watchdog_interval() -> Option<u64> {
    let variable = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let microseconds = variable("WATCHDOG_USEC").filter(|all| is_ours && *all > 0)?;
    Some(microseconds.div_ceil(4000))
}
