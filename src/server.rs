//! The loop: requests from tiny_http, answered by `App` one after the other. The only file that
//! names `tiny_http`. What waits is taken together, and each answer leaves whole, in one write.

use std::fs::Permissions;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tiny_http::{Server, StatusCode};

use crate::app::App;
use crate::engine::{self, Engine};
use crate::head::Limits;
use crate::http::{HEADERS, MAX_BODY_BYTES, Request, Response};
use crate::reject::Reject;
use crate::{door, log, time};

/// How long nobody must have asked before `App::upkeep` may take its time.
const IDLE: Duration = Duration::from_secs(5);
const MAX_BATCH: usize = 64;

/// Binds `address` and serves it through the door. Returns what ended that, or kept it from
/// starting; the unit starts us again.
pub fn run_tcp(address: SocketAddr, app: App) -> io::Error {
    match bind(address) {
        Ok(listener) => run_listener(listener, app).unwrap_or_else(|error| error),
        Err(error) => io::Error::other(format!("cannot listen on {address}: {error}")),
    }
}

/// As `TcpListener::bind`, but for the backlog: its 128 overflow when many connect at once, and
/// who comes then waits a second for TCP to try again.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// The same on a socket that is bound already.
pub fn run_listener(listener: TcpListener, app: App) -> io::Result<io::Error> {
    let folder = private_folder()?;
    let socket = folder.join("engine");
    let server = UnixListener::bind(&socket)?;
    announce(&format!("http://{}", listener.local_addr()?));
    let limits = Limits { fields: &HEADERS, max_body_bytes: MAX_BODY_BYTES };
    let max_connections = app.max_connections();
    thread::Builder::new().spawn(move || {
        let engine = Engine::open(&socket).and_then(|engine| {
            std::fs::remove_dir(folder)?;
            Ok(engine)
        });
        match engine {
            Ok(engine) => match door::run(&listener, engine, limits, max_connections) {},
            Err(error) => {
                log::line(time::now(), &format!("cannot open the engine: {error}"));
                std::process::exit(1);
            }
        }
    })?;
    Ok(run(server, app, true))
}

/// Serves a Unix socket, for a proxy that buffers requests and limits their size and time. User
/// and group may connect. A socket that a dead process left is put away.
pub fn run_unix(path: &Path, app: App) -> io::Error {
    let serve = |listener: UnixListener| {
        std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
        announce(&format!("unix:{}", path.display()));
        Ok(run(listener, app, false))
    };
    if UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
        let _ = std::fs::remove_file(path);
    }
    UnixListener::bind(path).and_then(serve).unwrap_or_else(|error| {
        io::Error::other(format!("cannot listen on {}: {error}", path.display()))
    })
}

fn announce(address: &str) {
    log::line(time::now(), &format!("appserver listening on {address}"));
}

/// A folder that only we can enter.
fn private_folder() -> io::Result<PathBuf> {
    let parent =
        std::env::var_os("RUNTIME_DIRECTORY").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = parent.join(format!("appserver-{}-{}", std::process::id(), time::now()));
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

fn run(listener: UnixListener, mut app: App, door: bool) -> io::Error {
    let server = match Server::from_listener(listener, None) {
        Ok(server) => server,
        Err(error) => return io::Error::other(error.to_string()),
    };
    if let Some(notice) = app.notice() {
        log::line(time::now(), notice);
    }
    app.upkeep(time::now(), true);
    loop {
        match server.recv_timeout(IDLE) {
            Ok(Some(first)) => {
                let mut batch = vec![first];
                // A full batch must not even look: what `try_recv` gives would be dropped.
                while batch.len() < MAX_BATCH {
                    let Ok(Some(next)) = server.try_recv() else { break };
                    batch.push(next);
                }
                serve(batch, &mut app, door);
                app.upkeep(time::now(), false);
            }
            Ok(None) => app.upkeep(time::now(), true),
            Err(error) => return error,
        }
    }
}

/// Handles all, logs all, and only then answers: who has an answer can be sure of its record.
fn serve(batch: Vec<tiny_http::Request>, app: &mut App, door: bool) {
    let now = time::now();
    let (mut raws, mut requests) = (Vec::new(), Vec::new());
    for mut raw in batch {
        match read(&mut raw, door) {
            Some(request) => {
                requests.push(request);
                raws.push(raw);
            }
            None => {
                answer(raw, &encode(&Response::reject(Reject::BODY_TOO_LONG), false, now, door))
            }
        }
    }
    let responses = app.handle(&requests, now);
    let all = || requests.iter().zip(&responses);
    log::lines(
        &all().map(|(request, response)| app.log_line(request, response, now)).collect::<String>(),
    );
    for (raw, (request, response)) in raws.into_iter().zip(all()) {
        answer(raw, &encode(response, request.method == "HEAD", now, door));
    }
}

/// A client that left before its answer is no error of ours.
fn answer(raw: tiny_http::Request, message: &[u8]) {
    let mut writer = raw.into_writer();
    let _ = writer.write_all(message).and_then(|()| writer.flush());
}

/// The request in our own terms; none if its body is longer than we read.
fn read(raw: &mut tiny_http::Request, door: bool) -> Option<Request> {
    let known = |header: &tiny_http::Header| {
        let name = HEADERS.iter().find(|name| header.field.equiv(name))?;
        Some((*name, header.value.as_str().to_owned()))
    };
    // Behind the door it says who asks; on a Unix socket the proxy does, whose last word counts.
    let peer_field = if door { engine::PEER } else { "x-forwarded-for" };
    let peer = raw.headers().iter().rev().find(|header| header.field.equiv(peer_field));
    let peer =
        peer.and_then(|header| header.value.as_str().rsplit(',').next()?.trim().parse().ok());
    let mut request = Request {
        method: raw.method().to_string(),
        target: raw.url().to_owned(),
        headers: raw.headers().iter().filter_map(known).collect(),
        body: Vec::new(),
        peer,
    };
    let limit = MAX_BODY_BYTES as u64 + 1;
    let complete = raw.as_reader().take(limit).read_to_end(&mut request.body).is_ok();
    (complete && request.body.len() <= MAX_BODY_BYTES).then_some(request)
}

/// The whole message; for the door, with what `engine` says opens an answer.
fn encode(response: &Response, head_only: bool, now: u64, door: bool) -> Vec<u8> {
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
    let mut message = Vec::with_capacity(5 + head.len() + body.len());
    if door {
        message.push(if response.reusable { engine::REUSABLE } else { engine::ONCE });
        message.extend(((head.len() + body.len()) as u32).to_be_bytes());
    }
    message.extend_from_slice(head.as_bytes());
    message.extend_from_slice(body);
    message
}
