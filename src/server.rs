//! The loop: requests from tiny_http, answered by `App` one after the other. The only file that
//! names `tiny_http`. What waits is taken together, and each answer leaves whole, in one write.

use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tiny_http::{Server, StatusCode};

use crate::app::App;
use crate::config::Listen;
use crate::door::{self, Bell, Door, Site};
use crate::engine::{self, Answer, Engine};
use crate::head::Limits;
use crate::http::{HEADERS, MAX_BODY_BYTES, Request, Response};
use crate::{log, metrics, service, time};

/// How long after a request `App::upkeep` has its next turn.
const IDLE: Duration = Duration::from_secs(2);
/// How long the first requests wait for key and credentials. OSS waits 5 s for us.
const START_WAIT: Duration = Duration::from_millis(500);
/// Requests that the loop has not answered.
const MAX_IN_HAND: usize = 256;
/// The same where each waits for the bucket, on a thread of its own.
const MAX_LOOKS: usize = 16;
/// How many are answered together where they share nothing: few, so that door and clients have
/// work while the loop goes on.
const MAX_ANSWERS: usize = 8;
const SEND_BUFFER_BYTES: usize = 32 * 1024;
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024;
/// Prometheus, and whoever looks at it by hand.
const METRICS_CONNECTIONS: usize = 8;

/// Serves through the door. Returns what ended that, or kept it from starting; the unit starts us
/// again.
pub fn run(listen: &Listen, app: App) -> io::Error {
    let fresh = || -> io::Result<Socket> {
        service::forget(); // one of another address would still hold the port
        let socket = match listen {
            Listen::Tcp(address) => bind(Domain::for_address(*address), &(*address).into()),
            Listen::Unix(path) => bind_unix(path),
        }?;
        service::keep(&socket);
        Ok(socket)
    };
    match service::inherited(listen).map_or_else(fresh, Ok) {
        Ok(listener) => run_on(listener, app).unwrap_or_else(|error| error),
        Err(error) => io::Error::other(format!("cannot listen on {listen}: {error}")),
    }
}

/// As std binds, but for the backlog.
fn bind(domain: Domain, address: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    if domain != Domain::UNIX {
        socket.set_reuse_address(true)?;
    }
    socket.bind(address)?;
    socket.listen(service::BACKLOG)?;
    Ok(socket)
}

/// User and group may connect. A socket that a dead process left is put away.
fn bind_unix(path: &Path) -> io::Result<Socket> {
    let is_socket = path.symlink_metadata().is_ok_and(|there| there.file_type().is_socket());
    let dead = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(dead) {
        std::fs::remove_file(path)?;
    }
    let socket = bind(Domain::UNIX, &SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(socket)
}

/// Serves a bound socket.
pub fn run_on(listener: Socket, app: App) -> io::Result<io::Error> {
    // Connections inherit these: for one who never reads the kernel would hold 4 MB.
    listener.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    listener.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    let _ = listener.set_tcp_nodelay(true); // there is none on a Unix socket
    let address = listener.local_addr()?;
    let spelt = address
        .as_socket()
        .map(Listen::Tcp)
        .or(address.as_pathname().map(|path| path.to_owned()).map(Listen::Unix));
    if let Some(address) = spelt {
        log::line(time::now(), &format!("appserver listening on {address}"));
    }
    let limits = Limits { fields: &HEADERS, max_body_bytes: MAX_BODY_BYTES };
    let max_connections = app.config.max_connections;
    if let Some(address) = app.config.metrics {
        if let Err(error) = serve_metrics(address, limits) {
            let text = format!("METRICS_LISTEN: cannot listen on {address}: {error}");
            log::line(time::now(), &text); // uploads are worth more
        }
    }
    let (server, stream) = open_engine()?;
    // OSS waits 5 s, and a look into the bucket takes 2 s: so no more than one batch of them waits.
    let in_hand = if app.config.confirm_host.is_some() { MAX_LOOKS } else { MAX_IN_HAND };
    let shares = app.config.upload_log.is_some() || app.config.confirm_host.is_some();
    let (ahead, together) = if shares { (0, MAX_IN_HAND) } else { (2 * MAX_ANSWERS, MAX_ANSWERS) };
    let site = Site::Loop(Engine::new(stream, in_hand, ahead)?);
    let (mut door, bell) = Door::new(listener, site, limits, max_connections)?;
    let ours = bell.clone();
    thread::Builder::new().spawn(move || {
        let served = serve_clients(&mut door, ours, address);
        if let Err(error) = &served {
            log::line(time::now(), &format!("cannot open the door: {error}"));
        }
        std::process::exit(served.is_err().into());
    })?;
    Ok(run_engine(&server, app, &bell, together))
}

/// tiny_http, and the only connection that it will ever have.
fn open_engine() -> io::Result<(Server, UnixStream)> {
    let folder = private_folder()?;
    let socket = folder.join("engine");
    let listener = UnixListener::bind(&socket)?;
    let stream = UnixStream::connect(&socket)?;
    std::fs::remove_file(&socket)?;
    std::fs::remove_dir(folder)?;
    let server = Server::from_listener(listener, None);
    Ok((server.map_err(|error| io::Error::other(error.to_string()))?, stream))
}

/// Until we are told to end, and all who came before are served.
fn serve_clients(door: &mut Door, bell: Bell, address: SockAddr) -> io::Result<()> {
    door.greet().map_err(|reject| io::Error::other(reject.1))?;
    let signals = service::signals()?; // before anybody is let in
    thread::Builder::new().spawn(move || {
        if let Err(error) = service::watch(signals, &address) {
            log::line(time::now(), &format!("cannot go on: {error}"));
        }
        bell.end();
        thread::sleep(door::DRAIN * 2); // by then it has ended us
        std::process::exit(0);
    })?;
    door.run()
}

/// On an address and through a door of its own.
fn serve_metrics(address: SocketAddr, limits: Limits) -> io::Result<()> {
    let listener = bind(Domain::for_address(address), &address.into())?;
    if let Some(address) = listener.local_addr()?.as_socket() {
        log::line(time::now(), &format!("metrics at http://{address}/metrics"));
    }
    let site = Site::Page(metrics_page);
    let (mut door, _) = Door::new(listener, site, limits, METRICS_CONNECTIONS)?;
    thread::Builder::new().spawn(move || door.run()).map(drop)
}

/// What the door of `METRICS_LISTEN` answers.
fn metrics_page(method: &str, path: &str) -> Vec<u8> {
    let response = match path {
        "/metrics" => {
            let text = metrics::page().into_bytes();
            Response::new(200, text, "text/plain; version=0.0.4; charset=utf-8")
        }
        _ => Response::text(404, "not found\n"),
    };
    message(&response, method == "HEAD", time::now())
}

/// A folder that only we can enter.
fn private_folder() -> io::Result<PathBuf> {
    let parent =
        std::env::var_os("RUNTIME_DIRECTORY").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = parent.join(format!("appserver-{}-{}", std::process::id(), time::now()));
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

fn run_engine(server: &Server, mut app: App, door: &Bell, together: usize) -> io::Error {
    if let Some(notice) = app.notice() {
        log::line(time::now(), notice);
    }
    for wait in [Duration::ZERO, START_WAIT] {
        app.upkeep(time::now(), wait); // all begins before the first is waited for
    }
    loop {
        let mut batch = match server.recv_timeout(IDLE) {
            Ok(message) => message.map(read).unwrap_or_default(),
            Err(error) => return error,
        };
        while !batch.is_empty() {
            let rest = batch.split_off(batch.len().min(together));
            serve(std::mem::replace(&mut batch, rest), &mut app, door);
        }
        app.upkeep(time::now(), Duration::ZERO);
    }
}

/// Handles all, logs all, and only then answers: who has an answer can be sure of its record.
fn serve(batch: Vec<(u64, Request)>, app: &mut App, door: &Bell) {
    let now = time::now();
    let (numbers, requests): (Vec<u64>, Vec<Request>) = batch.into_iter().unzip();
    let responses = app.handle(&requests, now);
    let all = || requests.iter().zip(&responses);
    log::lines(
        &all().map(|(request, response)| app.log_line(request, response, now)).collect::<String>(),
    );
    let answer = |(number, (request, response)): (u64, (&Request, &Response))| {
        let message = message(response, request.method == "HEAD", now);
        Answer { number, message, reusable: response.reusable }
    };
    door.answer(numbers.into_iter().zip(all()).map(answer).collect());
}

/// The requests of a message, and their numbers. The door has sent it whole.
fn read(mut message: tiny_http::Request) -> Vec<(u64, Request)> {
    let mut bytes = Vec::with_capacity(message.body_length().unwrap_or_default());
    let _ = message.as_reader().read_to_end(&mut bytes);
    drop(message.into_writer()); // answers go through the door, and the next may be read
    engine::requests(&bytes).unwrap_or_else(|| engine::broken("no requests"))
}

/// The whole HTTP message.
fn message(response: &Response, head_only: bool, now: u64) -> Vec<u8> {
    let reason = StatusCode(response.status).default_reason_phrase();
    let mut head =
        format!("HTTP/1.1 {} {reason}\r\nDate: {}\r\n", response.status, time::http(now));
    for (name, value) in &response.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if !matches!(response.status, 204 | 304) {
        head += &format!("Content-Length: {}\r\n", response.body.len());
    }
    head += "\r\n";
    let body: &[u8] = if head_only { &[] } else { &response.body };
    [head.as_bytes(), body].concat()
}
