//! The listeners and the way of a request through the bucket: one thread per connection. Adds to
//! every answer what a real bucket adds, CORS included, errors too.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::error::OssError;
use crate::http::{self, Body, Head, Reply};
use crate::{Shared, credentials, digest, lock, post, read, time};

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

/// Listens on a free loopback port; each connection gets a thread that runs `serve`.
pub fn listen(
    shared: &Arc<Shared>,
    serve: fn(&Shared, &TcpStream) -> io::Result<()>,
) -> io::Result<Listener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
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
    if head.method == "POST" && path == "/" {
        return post::post_object(shared, stream, head, request_id);
    }
    Body::new(stream, head.content_length().ok().flatten().unwrap_or(0)).drain()?;
    let error = |error: OssError| error_reply(shared, &error, request_id);
    Ok(Some(match head.method.as_str() {
        "OPTIONS" => preflight(shared, head).unwrap_or_else(error),
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
    let mut reply = reply
        .header("Server", "AliyunOSS")
        .header("Date", time::http_date(shared.now()))
        .header("x-oss-request-id", request_id)
        .header("x-oss-server-time", 1);
    // A preflight answer names its origin itself.
    let named = http::header(&reply.headers, "access-control-allow-origin").is_some();
    if let Some(allowed) = head.header("origin").and_then(|origin| allowed(shared, origin)) {
        if !named {
            reply = reply
                .header("Access-Control-Allow-Origin", &allowed)
                .header("Access-Control-Allow-Methods", METHODS)
                .header("Access-Control-Expose-Headers", "ETag, x-oss-request-id");
        }
        if allowed != "*" {
            reply = reply.header("Vary", "Origin");
        }
    }
    reply
}

const METHODS: &str = "GET, POST, PUT, DELETE, HEAD";

/// "CORS": the value of `Access-Control-Allow-Origin` if the bucket's rule fits the origin.
fn allowed(shared: &Shared, origin: &str) -> Option<String> {
    let faults = shared.faults();
    let mut rule = faults.allow_origins.iter();
    rule.find(|known| *known == "*" || *known == origin).cloned()
}

/// "OptionObject": 200 with the rule, or 403 where none fits.
fn preflight(shared: &Shared, head: &Head) -> Result<Reply, OssError> {
    shared.record(|state| state.preflights.push(head.headers.clone()));
    let missing = |what: &str| {
        let message = format!("Insufficient information. {what} header needed.");
        OssError::new(400, "BadRequest", message)
    };
    let origin = head.header("origin").ok_or_else(|| missing("Origin request"))?;
    let method = head.header("access-control-request-method");
    let method = method.ok_or_else(|| missing("Request Access-Control-Request-Method"))?;
    let fits = METHODS.split(", ").any(|known| known == method);
    let origin = allowed(shared, origin).filter(|_| fits).ok_or_else(|| {
        OssError::new(
            403,
            "AccessForbidden",
            "CORSResponse: This CORS request is not allowed. This is usually because the evalution \
             of Origin, request method / Access-Control-Request-Method or Access-Control-Requet-\
             Headers are not whitelisted by the resource's CORS spec.",
        )
    })?;
    let mut reply = Reply::new(200)
        .header("Access-Control-Allow-Origin", origin)
        .header("Access-Control-Allow-Methods", METHODS)
        .header("Access-Control-Expose-Headers", "ETag, x-oss-request-id")
        .header("Access-Control-Max-Age", 600);
    if let Some(headers) = head.header("access-control-request-headers") {
        reply = reply.header("Access-Control-Allow-Headers", headers);
    }
    Ok(reply)
}
