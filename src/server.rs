//! The loop: one request at a time from tiny_http, answered by `App`. The only file that names
//! `tiny_http`. Answers are written raw and whole, one write each.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use tiny_http::{Server, StatusCode};

use crate::app::{App, HEADERS, MAX_BODY_BYTES, Reject, Request, Response};
use crate::time;

/// How long nobody must have asked before `App::idle` may take its time.
const IDLE: Duration = Duration::from_secs(5);

/// Serves until the listener fails, which ends the process: the unit starts it again.
pub fn run(listener: TcpListener, mut app: App) -> io::Error {
    let server = match Server::from_listener(listener, None) {
        Ok(server) => server,
        Err(error) => return io::Error::other(error.to_string()),
    };
    app.idle(time::now());
    loop {
        match server.recv_timeout(IDLE) {
            Ok(Some(request)) => serve(request, &mut app),
            Ok(None) => app.idle(time::now()),
            Err(error) => return error,
        }
    }
}

fn serve(mut raw: tiny_http::Request, app: &mut App) {
    let now = time::now();
    let (request, response) = match read(&mut raw) {
        Ok(request) => {
            let response = app.handle(&request, now);
            (request, response)
        }
        Err(request) => (request, Response::reject(Reject::BodyTooLong)),
    };
    let head_only = request.method == "HEAD";
    // Before the answer: who has it can be sure that it is in the log.
    app.log(&request, &response, now);
    // A client that left before its answer is no error of ours.
    let mut writer = raw.into_writer();
    let _ = writer.write_all(&encode(&response, head_only, now)).and_then(|()| writer.flush());
}

/// The request in our own terms; `Err` if its body is longer than we read.
fn read(raw: &mut tiny_http::Request) -> Result<Request, Request> {
    let known = |header: &tiny_http::Header| {
        let name = HEADERS.iter().find(|name| header.field.equiv(name))?;
        Some((*name, header.value.as_str().to_owned()))
    };
    let mut request = Request {
        method: raw.method().to_string(),
        target: raw.url().to_owned(),
        headers: raw.headers().iter().filter_map(known).collect(),
        body: Vec::new(),
        peer: raw.remote_addr().map_or("-".to_owned(), |address| address.ip().to_string()),
    };
    let limit = MAX_BODY_BYTES as u64 + 1;
    let complete = raw.as_reader().take(limit).read_to_end(&mut request.body).is_ok();
    if complete && request.body.len() <= MAX_BODY_BYTES { Ok(request) } else { Err(request) }
}

/// The whole message, so that it leaves in one write.
fn encode(response: &Response, head_only: bool, now: u64) -> Vec<u8> {
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
    let mut message = head.into_bytes();
    if !head_only {
        message.extend_from_slice(&response.body);
    }
    message
}
