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

/// What a host makes of a request. `None`: the connection ends without a response.
type Answer = fn(&Shared, &TcpStream, &Head) -> io::Result<Option<Reply>>;

/// Listens on the port at this place of the options; each connection gets a thread.
pub fn listen(shared: &Arc<Shared>, port: usize, answer: Answer) -> io::Result<Listener> {
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
                let _ = serve(&shared, &stream, answer);
            });
        }
    })?;
    Ok(Listener { address, thread: Some(thread) })
}

/// 24 upper-case hex digits, as in `x-oss-request-id`.
pub fn request_id() -> String {
    digest::hex(&credentials::random(12)).to_ascii_uppercase()
}

fn serve(shared: &Shared, stream: &TcpStream, answer: Answer) -> io::Result<()> {
    while let Some(head) = http::read_head(stream)? {
        let Some(reply) = answer(shared, stream, &head)? else { break };
        let close = head.close || reply.close;
        reply.write(stream, close, head.method == "HEAD")?;
        if close || shared.stopped() {
            break;
        }
    }
    Ok(())
}

/// A request to the bucket.
pub fn bucket(shared: &Shared, stream: &TcpStream, head: &Head) -> io::Result<Option<Reply>> {
    let request_id = request_id();
    let path = head.target.split('?').next().unwrap_or("");
    let host = names::check_host(head, &shared.options);
    if let Err(wrong) = &host {
        shared.say(format_args!("{} refused: {} {}", head.method, wrong.status, wrong.code));
    }
    let reply = if host.is_ok() && head.method == "POST" && path == "/" {
        post::post_object(shared, stream, head, &request_id)?
    } else {
        Body::new(stream, head)?.drain()?;
        let reply = host.and_then(|()| route(shared, head, path, &request_id));
        Some(reply.unwrap_or_else(|error| error_reply(shared, &error, &request_id)))
    };
    let Some(reply) = reply else { return Ok(None) };
    let reply = reply
        .header("Server", "AliyunOSS")
        .header("Date", time::http_date(shared.now()))
        .header("x-oss-request-id", request_id)
        .header("x-oss-server-time", 1);
    Ok(Some(cors::finish(&shared.faults().cors, head, reply)))
}

fn route(shared: &Shared, head: &Head, path: &str, request_id: &str) -> Result<Reply, OssError> {
    match head.method.as_str() {
        "OPTIONS" => cors::preflight(&shared.faults().cors, head),
        "GET" | "HEAD" if path.len() > 1 => read::object(shared, head, path, request_id),
        _ => {
            let message = "The specified method is not allowed against this resource.";
            Err(OssError::new(405, "MethodNotAllowed", message))
        }
    }
}

pub fn error_reply(shared: &Shared, error: &OssError, request_id: &str) -> Reply {
    let reply = Reply::new(error.status);
    let reply = reply.body("application/xml", error.xml(&shared.options, request_id));
    if error.ec.is_empty() { reply } else { reply.header("x-oss-ec", error.ec) }
}
