//! Binds, starts the proxy, and runs the loop: requests come from tiny_http, `App` handles those
//! that came together, and each is answered. The only file that names `tiny_http`.

use std::borrow::Cow;
use std::fs::Permissions;
use std::io::{self, Cursor, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{Backlog, SockaddrStorage, getsockname, listen, setsockopt, sockopt};
use tiny_http::{Header, Server, StatusCode};

use crate::app::App;
use crate::config::Listen;
use crate::http::{HEADERS, MAX_BODY_BYTES, Request, Response};
use crate::proxy::head::Limits;
use crate::proxy::{Proxy, Settings};
use crate::sys::{log, metrics, systemd, time};

/// How long after a request `App::upkeep` has its next turn.
const IDLE: Duration = Duration::from_secs(2);
/// How long the first requests wait for key and credentials. OSS waits 5 s for a response.
const START_WAIT: Duration = Duration::from_millis(500);
/// Requests that the loop has at a time,
const MAX_IN_FLIGHT: usize = 256;
/// and where each waits for the bucket, on a thread of its own: all within OSS's 5 s.
const MAX_CONFIRMATIONS: usize = 16;
/// What std asks for, 128, overflows when many connect at once; who comes then must try again.
const BACKLOG: i32 = 4096;
/// Connections inherit these from the listener. The kernel would hold 4 MB for one that never reads.
const SEND_BUFFER_BYTES: usize = 32 * 1024;
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024;

/// Serves. Returns what ended that, or kept it from starting; the unit starts us again.
pub fn run(listen: &Listen, app: App) -> io::Error {
    let listener = match systemd::inherited(listen) {
        Some(listener) => Ok(listener),
        None => {
            systemd::forget(); // one of another address would still hold the port
            bind(listen).inspect(systemd::keep)
        }
    };
    match listener {
        Ok(listener) => run_on(listener, app).unwrap_or_else(|error| error),
        Err(error) => io::Error::other(format!("cannot listen on {listen}: {error}")),
    }
}

fn bind(listen: &Listen) -> io::Result<OwnedFd> {
    match listen {
        Listen::Tcp(address) => Ok(TcpListener::bind(address)?.into()),
        Listen::Unix(path) => Ok(bind_unix(path)?.into()),
    }
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

/// Serves a bound socket.
pub fn run_on(listener: OwnedFd, app: App) -> io::Result<io::Error> {
    let signals = catch_signals()?; // before there is another thread, which would get them
    prepare(&listener)?;
    let address: SockaddrStorage = getsockname(listener.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(|v4| Listen::Tcp(SocketAddr::V4((*v4).into())));
    let v6 = address.as_sockaddr_in6().map(|v6| Listen::Tcp(SocketAddr::V6((*v6).into())));
    let unix = address.as_unix_addr().and_then(|unix| Some(Listen::Unix(unix.path()?.into())));
    if let Some(address) = v4.or(v6).or(unix) {
        log::line(time::now(), &format!("appserver listening on {address}"));
    }
    if let Some(address) = app.config.metrics {
        if let Err(error) = metrics::serve(address) {
            let text = format!("METRICS_LISTEN: cannot listen on {address}: {error}");
            log::line(time::now(), &text); // uploads are worth more
        }
    }
    let (server, backend) = open_backend()?;
    // With a record or confirmations, requests that came together share a sync, or a wait.
    let confirms = app.config.confirm_host.is_some();
    let max_in_flight = if confirms { MAX_CONFIRMATIONS } else { MAX_IN_FLIGHT };
    let max_batch = if confirms || app.config.upload_log.is_some() { max_in_flight } else { 8 };
    let settings = Settings {
        limits: Limits { headers: &HEADERS, max_body_bytes: MAX_BODY_BYTES },
        max_connections: app.config.max_connections,
        max_in_flight,
        health_target: "/healthz",
        health_interval: systemd::watchdog_interval(),
    };
    let mut proxy = Proxy::new(settings, listener, backend, signals)?;
    thread::Builder::new().spawn(move || {
        let served = proxy.run();
        if let Err(error) = &served {
            log::line(time::now(), &format!("the proxy cannot go on: {error}"));
        }
        std::process::exit(served.is_err().into());
    })?;
    Ok(run_loop(&server, app, max_batch))
}

/// SIGTERM and SIGINT end nothing at once from now on, but are read by the proxy.
fn catch_signals() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

fn prepare(listener: &OwnedFd) -> io::Result<()> {
    listen(listener, Backlog::new(BACKLOG)?)?;
    setsockopt(listener, sockopt::SndBuf, &SEND_BUFFER_BYTES)?;
    setsockopt(listener, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES)?;
    let _ = setsockopt(listener, sockopt::TcpNoDelay, &true); // there is none on a Unix socket
    fcntl(listener, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// tiny_http, and the only connection that it will ever have.
fn open_backend() -> io::Result<(Server, UnixStream)> {
    let folder = private_folder()?;
    let path = folder.join("backend");
    let listener = UnixListener::bind(&path)?;
    let stream = UnixStream::connect(&path)?;
    std::fs::remove_file(&path)?;
    std::fs::remove_dir(folder)?;
    let server = Server::from_listener(listener, None);
    Ok((server.map_err(|error| io::Error::other(error.to_string()))?, stream))
}

/// A folder that only we can enter.
fn private_folder() -> io::Result<PathBuf> {
    let parent =
        std::env::var_os("RUNTIME_DIRECTORY").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = parent.join(format!("appserver-{}-{}", std::process::id(), time::now()));
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

/// The loop. One batch of requests after the other; between two, and when idle, there is upkeep.
fn run_loop(server: &Server, mut app: App, max_batch: usize) -> io::Error {
    if let Some(notice) = app.notice() {
        log::line(time::now(), notice);
    }
    for wait in [Duration::ZERO, START_WAIT] {
        app.upkeep(time::now(), wait); // all begins before the first is waited for
    }
    loop {
        let mut batch = Vec::new();
        let mut next = server.recv_timeout(IDLE);
        while let Ok(Some(mut request)) = next {
            batch.push((read(&mut request), request));
            next = if batch.len() < max_batch { server.try_recv() } else { Ok(None) };
        }
        if let Err(error) = next {
            return error;
        }
        answer(batch, &mut app);
        app.upkeep(time::now(), Duration::ZERO);
    }
}

/// Handles all, logs all, and only then responds: who has a response can be sure of its record.
fn answer(batch: Vec<(Request, tiny_http::Request)>, app: &mut App) {
    let now = time::now();
    let (requests, responders): (Vec<Request>, Vec<tiny_http::Request>) = batch.into_iter().unzip();
    let responses = app.handle(&requests, now);
    let lines = requests.iter().zip(&responses);
    log::lines(
        &lines.map(|(request, response)| app.log_line(request, response, now)).collect::<String>(),
    );
    for (responder, response) in responders.into_iter().zip(responses) {
        let _ = responder.respond(message(response)); // it fails if the proxy has ended
    }
}

/// A request in our own terms. The proxy has seen to its limits.
fn read(request: &mut tiny_http::Request) -> Request {
    let mut body = Vec::with_capacity(request.body_length().unwrap_or_default());
    let _ = request.as_reader().read_to_end(&mut body);
    let (mut headers, mut peer) = (Vec::new(), String::new());
    for header in request.headers() {
        let (name, value) = (header.field.as_str().as_str(), header.value.to_string());
        match HEADERS.iter().find(|(known, _)| *known == name) {
            Some((known, _)) => headers.push((*known, value)),
            None if name == "x-forwarded-for" => peer = value,
            None => {}
        }
    }
    let (method, target) = (request.method().to_string(), request.url().to_owned());
    Request { method, target, headers, body, peer }
}

/// A response in tiny_http's terms. With this threshold each has a `Content-Length`.
fn message(response: Response) -> tiny_http::Response<impl Read> {
    let header =
        |(name, value): &(&str, Cow<str>)| Header::from_bytes(*name, value.as_bytes()).ok();
    let headers = response.headers.iter().filter_map(header).collect(); // all of them are ASCII
    let (status, length) = (StatusCode(response.status), response.body.len());
    tiny_http::Response::new(status, headers, Cursor::new(response.body), Some(length), None)
        .with_chunked_threshold(usize::MAX)
}
