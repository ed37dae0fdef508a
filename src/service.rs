//! The service manager's side: a listening socket that outlives us in systemd's descriptor store,
//! readiness, a watchdog that goes the whole way from the door to the loop, the signals that end us
//! without dropping a callback, and secrets that leave the environment. Implements sd_notify(3) and
//! sd_listen_fds(3); without systemd only signals and secrets matter.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use signal_hook::consts::{SIGINT, SIGPIPE, SIGTERM};
use socket2::{Domain, MsgHdr, SockAddr, SockRef, Socket, Type};

use crate::config::{Listen, SECRETS, Vars};
use crate::{log, time};

/// Says that secrets come on standard input.
const HANDED_OVER: &str = "APPSERVER_SECRETS_ON_STDIN";
/// The socket's name in the descriptor store.
const NAME: &str = "FDNAME=listener";
/// std's 128 overflow when many connect at once: who comes then waits for TCP to try again.
pub const BACKLOG: i32 = 4096;
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a process was started with can be read in `/proc/PID/environ` for as long as it runs. So
/// where secrets are among it, we start anew in our own place without them, and hand them over.
pub fn take_secrets(mut vars: Vars) -> Vars {
    if vars.remove(HANDED_OVER).is_some() {
        let mut handed = String::new();
        let _ = io::stdin().read_to_string(&mut handed);
        let pairs = handed.split_terminator('\0').filter_map(|pair| pair.split_once('='));
        vars.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    } else if SECRETS.iter().any(|name| vars.contains_key(*name)) {
        let error = start_anew(&vars).err().unwrap_or(ErrorKind::Other.into());
        let text = format!("secrets stay visible in the environment of this process: {error}");
        log::line(time::now(), &text);
        // The attempt left SIGPIPE at its default, and a client that goes away would end us.
        let _ = signal_hook::flag::register(SIGPIPE, Arc::default());
    }
    vars
}

/// Returns only if that fails.
fn start_anew(vars: &Vars) -> io::Result<()> {
    let (mut write, read) = UnixStream::pair()?;
    write.set_nonblocking(true)?; // what the socket does not hold is an error, not a wait
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).env(HANDED_OVER, "1").stdin(OwnedFd::from(read));
    for name in SECRETS {
        if let Some(value) = vars.get(name) {
            write.write_all(format!("{name}={value}\0").as_bytes())?;
            command.env_remove(name);
        }
    }
    drop(write);
    Err(command.exec())
}

/// The socket for `listen` that the process before us left with systemd. It never stopped
/// listening: who connected meanwhile waits in it.
pub fn inherited(listen: &Listen) -> Option<Socket> {
    let mut handed = ListenFd::from_env();
    (0..handed.len()).find_map(|index| {
        let tcp = handed.take_tcp_listener(index).ok().flatten().map(OwnedFd::from);
        let unix = || handed.take_unix_listener(index).ok().flatten().map(OwnedFd::from);
        let socket = Socket::from(tcp.or_else(unix)?);
        let address = socket.local_addr().ok()?;
        let same = match listen {
            Listen::Tcp(wanted) => address.as_socket().is_some_and(|there| {
                there.ip() == wanted.ip() && [there.port(), 0].contains(&wanted.port())
            }),
            // The path may have been removed under it: then nobody can reach it.
            Listen::Unix(path) => address.as_pathname() == Some(path) && path.exists(),
        };
        // What does not listen is not ours, whatever its address.
        same.then_some(socket).filter(|socket| socket.listen(BACKLOG).is_ok())
    })
}

/// Has systemd close what was kept.
pub fn forget() {
    notify(&["FDSTOREREMOVE=1", NAME], None);
}

/// Leaves the socket with systemd for the process after us.
pub fn keep(socket: &Socket) {
    notify(&["FDSTORE=1", NAME], Some(socket));
}

/// Tells systemd, if it asked to be told. It is never worth an error.
fn notify(lines: &[&str], socket: Option<&Socket>) {
    let Some(path) = std::env::var("NOTIFY_SOCKET").ok() else { return };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let connected = UnixDatagram::unbound().and_then(|datagram| {
        datagram.connect_addr(&address?)?;
        Ok(datagram)
    });
    let Ok(datagram) = connected else { return };
    let text = lines.join("\n");
    let mut control = Vec::new();
    if let Some(socket) = socket {
        // struct cmsghdr of unix(7), then the descriptor: length, SOL_SOCKET, SCM_RIGHTS.
        let length = size_of::<usize>() + 3 * size_of::<i32>();
        control.extend(length.to_ne_bytes());
        control.extend([1, 1, socket.as_raw_fd()].map(i32::to_ne_bytes).concat());
        control.resize(length.next_multiple_of(size_of::<usize>()), 0);
    }
    let parts = [IoSlice::new(text.as_bytes())];
    let message = MsgHdr::new().with_buffers(&parts).with_control(&control);
    let _ = SockRef::from(&datagram).sendmsg(&message, 0);
}

/// From now on signals do not end us, but come here.
pub fn signals() -> io::Result<UnixStream> {
    let (signals, write) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(signals)
}

/// Tells systemd that we serve, and then, as often as it asks for, that a request still finds its
/// way to the loop and back; returns when we are told to end, with whoever has begun to be served.
pub fn watch(mut signals: UnixStream, address: &SockAddr) -> io::Result<()> {
    let variable = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let interval = variable("WATCHDOG_USEC").filter(|all| ours && *all > 0);
    // Often enough that one lost probe does not end us.
    let pause = interval.map(|all| Duration::from_micros(all.div_ceil(4)));
    signals.set_read_timeout(pause)?;
    notify(&["READY=1"], None);
    loop {
        match signals.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if probe(address).is_ok() {
                    notify(&["WATCHDOG=1"], None);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    notify(&["STOPPING=1"], None);
    Ok(())
}

/// A health check of our own, as any client would make it. A door that is too busy is alive, and a
/// dead loop ends the process by itself (`door::TIMEOUT`).
pub fn probe(address: &SockAddr) -> io::Result<()> {
    let mut socket = Socket::new(Domain::from(i32::from(address.family())), Type::STREAM, None)?;
    socket.set_read_timeout(Some(PROBE_TIMEOUT))?;
    socket.set_write_timeout(Some(PROBE_TIMEOUT))?;
    socket.connect(address)?; // to the unspecified address is to ourselves (Linux)
    socket.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let alive = ["HTTP/1.1 200 ", "HTTP/1.1 503 "].iter().any(|line| answer.starts_with(line));
    if alive { Ok(()) } else { Err(ErrorKind::Other.into()) }
}
