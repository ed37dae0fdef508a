//! systemd's part for one service: a socket that takes its messages and keeps its descriptors
//! (sd_notify(3)), and a start that hands such a descriptor on (sd_listen_fds(3)).

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

pub use rustix::process::Signal;

use crate::{PATIENCE, Process, binary};

/// Puts the descriptors where sd_listen_fds(3) says, with variables that only the process itself
/// can have right. A shell, because `exec` keeps its process.
const EXEC: &str = r#"export LISTEN_PID="${LISTEN_PID-$$}" WATCHDOG_PID="${WATCHDOG_PID-$$}"
exec "$0" "$@""#;
const PLACES: [&str; 3] = ["</dev/null", "3<&0 </dev/null", "3<&0 4<&1 </dev/null >/dev/null"];

/// A listener of messages. Unlike systemd's store, it takes a descriptor too many: that would show.
pub struct Manager {
    /// `NOTIFY_SOCKET`.
    pub name: String,
    socket: Arc<UnixDatagram>,
    heard: Arc<(Mutex<Heard>, Condvar)>,
}

#[derive(Default)]
struct Heard {
    messages: Vec<String>,
    kept: Vec<OwnedFd>,
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both); // ends the thread
        let _ = std::fs::remove_file(&self.name);
    }
}

impl Manager {
    /// Hears at a path, or at an abstract name (`@NAME`).
    pub fn start(name: &str) -> Manager {
        let address = match name.strip_prefix('@') {
            Some(name) => UnixAddr::from_abstract_name(name),
            None => UnixAddr::from_pathname(name),
        };
        let socket = UnixDatagram::bind_addr(&address.expect("a name")).expect("a new name");
        let (socket, heard) = (Arc::new(socket), Arc::<(Mutex<Heard>, Condvar)>::default());
        let (ours, sink) = (socket.clone(), heard.clone());
        thread::spawn(move || {
            while let Some((message, descriptors)) = receive(&ours) {
                lock(&sink.0).take(message, descriptors);
                sink.1.notify_all();
            }
        });
        Manager { name: name.to_owned(), socket, heard }
    }

    /// All messages so far.
    pub fn messages(&self) -> Vec<String> {
        lock(&self.heard.0).messages.clone()
    }

    /// How many messages there were with `line` in them.
    pub fn count(&self, line: &str) -> usize {
        lock(&self.heard.0).count(line)
    }

    /// Waits until there were `count`; false if there were not within the limit.
    pub fn hears(&self, line: &str, count: usize, limit: Duration) -> bool {
        let less = |heard: &mut Heard| heard.count(line) < count;
        let waited = self.heard.1.wait_timeout_while(lock(&self.heard.0), limit, less);
        waited.unwrap_or_else(PoisonError::into_inner).0.count(line) >= count
    }

    pub fn wait(&self, line: &str, count: usize) {
        let heard = self.hears(line, count, PATIENCE);
        assert!(heard, "not {count} times {line:?} in {:?}", self.messages());
    }

    /// The store, for the next start.
    pub fn kept(&self) -> Vec<OwnedFd> {
        let copy = |fd: &OwnedFd| fd.try_clone().expect("a copy");
        lock(&self.heard.0).kept.iter().map(copy).collect()
    }

    /// Where the only socket in the store listens, on TCP.
    pub fn address(&self) -> SocketAddr {
        let mut kept = self.kept();
        assert_eq!(kept.len(), 1, "{:?}", self.messages());
        TcpListener::from(kept.remove(0)).local_addr().expect("a socket")
    }
}

impl Heard {
    fn count(&self, line: &str) -> usize {
        self.messages.iter().filter(|message| message.lines().any(|one| one == line)).count()
    }

    fn take(&mut self, message: String, descriptors: Vec<OwnedFd>) {
        if message.contains("FDSTOREREMOVE=1\n") {
            self.kept.clear();
        }
        for descriptor in descriptors {
            let known = self.kept.iter().any(|kept| inode(kept) == inode(&descriptor));
            if message.contains("FDSTORE=1\n") && !known {
                self.kept.push(descriptor);
            }
        }
        self.messages.push(message);
    }
}

/// Of the open socket itself.
pub fn inode(descriptor: &OwnedFd) -> u64 {
    let copy = descriptor.try_clone().expect("a copy");
    File::from(copy).metadata().expect("open").ino()
}

/// The next message, with what came with it; none at the end.
fn receive(socket: &UnixDatagram) -> Option<(String, Vec<OwnedFd>)> {
    let (mut text, mut space) =
        ([0; 4096], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    let text = text.get(..received.bytes).filter(|text| !text.is_empty())?;
    Some((String::from_utf8_lossy(text).into_owned(), descriptors))
}

/// A server that systemd would have started; killed when dropped.
pub struct Service(Process);

impl Deref for Service {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.0
    }
}

impl DerefMut for Service {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.0
    }
}

impl Service {
    /// Starts with these arguments and exactly these variables, but for what systemd adds:
    /// messages go to `manager`, and `descriptors` (two at most) are handed on.
    pub fn start(
        manager: Option<&Manager>,
        arguments: &[&str],
        vars: &[(&str, &str)],
        descriptors: Vec<OwnedFd>,
    ) -> Service {
        let mut service = Service::start_unread(manager, arguments, vars, descriptors);
        service.read_log();
        service
    }

    /// The same with a log that nobody reads.
    pub fn start_unread(
        manager: Option<&Manager>,
        arguments: &[&str],
        vars: &[(&str, &str)],
        descriptors: Vec<OwnedFd>,
    ) -> Service {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{EXEC} {}", PLACES[descriptors.len()])]);
        command.arg(binary()).args(arguments).env_clear();
        command.envs(manager.map(|manager| ("NOTIFY_SOCKET", &manager.name)));
        if !descriptors.is_empty() {
            command.env("LISTEN_FDS", descriptors.len().to_string());
            command.env("LISTEN_FDNAMES", vec!["listener"; descriptors.len()].join(":"));
        }
        command.envs(vars.iter().copied());
        let mut carriers = descriptors.into_iter().map(Stdio::from);
        command.stdin(carriers.next().unwrap_or_else(Stdio::null));
        command.stdout(carriers.next().unwrap_or_else(Stdio::null));
        Service(Process::start_unread(&mut command).expect("the server starts"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
