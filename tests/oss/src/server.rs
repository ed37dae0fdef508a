//! The listeners and the way of a request through the bucket: one thread per connection. Adds to
//! every answer what a real bucket adds, errors too.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::error::OssError;
use crate::http::{self, Body, Head, Reply};
use crate::{Shared, cors, credentials, digest, lock, names, post, read, time};

/// A port that is served by a thread of its own.
pub struct Listener {
    pub address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Waits until the port is closed; `shared.stopped()` must hold already.
    pub fn end(&mut self) {
        // A connection wakes the loop, which then sees that it is over.
        if TcpStream::connect(self.address).is_ok() {
            self.thread.take().map(JoinHandle::join);
        }
    }
}

/// Listens on the port at this place of the options; each connection gets a thread that runs
/// `serve`.
pub fn listen(
    shared: &Arc<Shared>,
    port: usize,
    serve: fn(&Shared, &TcpStream) -> io::Result<()>,
) -> io::Result<Listener> {
    let listener = TcpListener::bind((shared.options.ip, shared.options.ports[port]))?;
    let address = listener.local_addr()?;
    let shared = shared.clone();
    let thread = std::thread::Builder::new().name("oss-accept".to_string());
    let thread = thread.spawn(move || {
        for stream in listener.incoming() {
            if shared.stopped() {
                break;
            }
            let Ok(stream) = stream.map(Arc::new) else { continue };
            let mut connections = lock(&shared.connections);
            connections.retain(|known| known.strong_count() > 0);
            connections.push(Arc::downgrade(&stream));
            drop(connections);
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("oss-connection".to_string());
            // An error ends this connection and nothing else: the client sees it closed.
            let _ = thread.spawn(move || {
                let _ = stream.set_nodelay(true);
                let _ = stream.set_read_timeout(Some(http::IDLE));
                let _ = stream.set_write_timeout(Some(http::IDLE));
                let _ = serve(&shared, &stream);
            });
        }
    })?;
    Ok(Listener { address, thread: Some(thread) })
}

/// 24 upper-case hex digits, as in `x-oss-request-id`.
pub fn request_id() -> String {
    digest::hex(&credentials::random(12)).to_ascii_uppercase()
}

/// Serves the requests of one connection to the bucket.
pub fn connection(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    while let Some(head) = http::read_head(stream)? {
        let request_id = request_id();
        http::invite_body(stream, &head)?;
        let Some(reply) = route(shared, stream, &head, &request_id)? else { return Ok(()) };
        let reply = finish(shared, &head, &request_id, reply);
        reply.write(stream, head.close, head.method == "HEAD")?;
        if head.close || shared.stopped() {
            break;
        }
    }
    Ok(())
}

/// `None`: a fault wants the connection closed without an answer.
fn route(
    shared: &Shared,
    stream: &TcpStream,
    head: &Head,
    request_id: &str,
) -> io::Result<Option<Reply>> {
    let path = head.target.split('?').next().unwrap_or("");
    let host = names::check_host(head, &shared.options);
    if host.is_ok() && head.method == "POST" && path == "/" {
        return post::post_object(shared, stream, head, request_id);
    }
    Body::new(stream, head.content_length().ok().flatten().unwrap_or(0)).drain()?;
    let error = |error: OssError| error_reply(shared, &error, request_id);
    if let Err(wrong) = host {
        shared.say(format_args!("{} refused: {} {}", head.method, wrong.status, wrong.code));
        return Ok(Some(error(wrong)));
    }
    Ok(Some(match head.method.as_str() {
        "OPTIONS" => {
            shared.record(|state| state.preflights.push(head.headers.clone()));
            cors::preflight(&shared.faults().cors, head).unwrap_or_else(error)
        }
        "GET" | "HEAD" if path.len() > 1 => {
            read::object(shared, head, request_id).unwrap_or_else(error)
        }
        _ => error(OssError::new(
            405,
            "MethodNotAllowed",
            "The specified method is not allowed against this resource.",
        )),
    }))
}

pub fn error_reply(shared: &Shared, error: &OssError, request_id: &str) -> Reply {
    let reply = Reply::new(error.status);
    let reply = reply.body("application/xml", error.xml(&shared.options, request_id));
    match error.ec {
        Some(ec) => reply.header("x-oss-ec", ec),
        None => reply,
    }
}

fn finish(shared: &Shared, head: &Head, request_id: &str, reply: Reply) -> Reply {
    let reply = reply
        .header("Server", "AliyunOSS")
        .header("Date", time::http_date(shared.now()))
        .header("x-oss-request-id", request_id)
        .header("x-oss-server-time", 1);
    cors::finish(&shared.faults().cors, head, reply)
}
