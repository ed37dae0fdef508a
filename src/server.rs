//! Binds, starts the proxy, and runs the loop: requests come from tiny_http, `App` handles those
//! that came together, and each is answered. The only file that names `tiny_http`.

use std::borrow::Cow;
use std::io::{self, Cursor, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tiny_http::{Header, Server, StatusCode};

use crate::app::App;
use crate::http::{HEADERS, MAX_BODY_BYTES, Request, Response};
use crate::proxy::head::Limits;
use crate::proxy::{Proxy, Settings};
use crate::sys::listener::{self, Listen};
use crate::sys::{log, metrics, systemd, time};

/// Without requests, `App::upkeep` runs this often.
const IDLE: Duration = Duration::from_secs(2);
/// How long the start waits for credentials, and then for the key. OSS waits 5 s for a response.
const START_WAIT: Duration = Duration::from_millis(500);
/// Requests that the loop has at a time.
const MAX_IN_FLIGHT: usize = 256;
/// The same where each callback waits for the bucket, on a thread of its own.
const MAX_CONFIRMATIONS: usize = 16;
/// Requests in a batch that share no sync and no look into the bucket: few, so that the proxy can
/// relay some responses while the loop works on others.
const MAX_BATCH: usize = 8;

/// Serves. Returns what ended that, or kept it from starting; the unit starts us again.
pub fn run(listen: &Listen, app: App) -> io::Error {
    let needed = app.config.max_connections as u64 + 64; // 16 looks into the bucket, and our own
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, 0));
    if limit < needed {
        let problem = format!("MAX_CONNECTIONS: needs {needed} descriptors, ulimit -n is {limit}");
        return io::Error::other(problem);
    }
    match listener::open(listen) {
        Ok(socket) => run_on(socket, app).unwrap_or_else(|error| error),
        Err(error) => io::Error::other(format!("cannot listen on {listen}: {error}")),
    }
}

/// Serves a bound socket.
pub fn run_on(socket: OwnedFd, app: App) -> io::Result<io::Error> {
    let signals = catch_signals()?; // before there is another thread, which would get them
    listener::prepare(&socket)?;
    if let Some(address) = listener::address(&socket) {
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
    let shares = confirms || app.config.upload_log.is_some();
    let max_batch = if shares { max_in_flight } else { MAX_BATCH };
    let settings = Settings {
        limits: Limits { headers: &HEADERS, max_body_bytes: MAX_BODY_BYTES },
        origins: app.config.allow_origins.clone(),
        max_connections: app.config.max_connections,
        max_in_flight,
        health_target: "/healthz",
        health_interval: systemd::watchdog_interval(),
    };
    let mut proxy = Proxy::new(settings, socket, backend, signals)?;
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
    if app.config.jwt_secret.is_none() {
        let warning = "anybody who can reach this server may upload";
        log::line(time::now(), &format!("UPLOAD_JWT_SECRET is not set: {warning}"));
    }
    for wait in [Duration::ZERO, START_WAIT] {
        app.upkeep(time::now(), wait); // the first round starts both tasks, the second waits
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
        serve(batch, &mut app);
        app.upkeep(time::now(), Duration::ZERO);
    }
}

/// Handles all, logs all, and only then responds: who has a response can be sure of its record.
fn serve(batch: Vec<(Request, tiny_http::Request)>, app: &mut App) {
    let now = time::now();
    let (requests, responders): (Vec<Request>, Vec<tiny_http::Request>) = batch.into_iter().unzip();
    let responses = app.handle(&requests, now);
    let mut lines = String::new();
    for (request, response) in requests.iter().zip(&responses) {
        lines += &log_line(request, response, now);
    }
    log::lines(&lines);
    for (responder, response) in responders.into_iter().zip(responses) {
        let _ = responder.respond(message(response)); // it fails if the proxy has ended
    }
}

/// Time, peer, method, path, status, note. Never the query, which may hold a token. Health checks
/// would only fill the log.
fn log_line(request: &Request, response: &Response, now: u64) -> String {
    let (method, path, status) = (&request.method, request.path(""), response.status);
    if path == "/healthz" && status == 200 {
        return String::new();
    }
    let line = format!("{} {method} {path:?} {status} {}", request.peer, response.note);
    log::entry(now, line.trim_end())
}

/// A request in our own terms. The proxy has seen to its limits.
fn read(request: &mut tiny_http::Request) -> Request {
    let mut body = Vec::with_capacity(request.body_length().unwrap_or_default());
    let _ = request.as_reader().read_to_end(&mut body);
    let (mut headers, mut peer) = (Vec::new(), "-".to_owned());
    for header in request.headers() {
        let name = header.field.as_str().as_str();
        if let Some((known, _)) = HEADERS.iter().find(|(known, _)| *known == name) {
            headers.push((*known, header.value.to_string()));
        } else if name == "x-forwarded-for" {
            peer = header.value.to_string();
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
