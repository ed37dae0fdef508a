//! The way to the backend and back: genuine HTTP/1.1, pipelined over one private Unix connection
//! (RFC 9112, 9.3.2). Responses come in the order of the requests.
//!
//! What makes that safe with tiny_http 0.12 as the backend, whose faults are known and unfixed:
//! requests are whole, bounded, HTTP/1.1 and ASCII before their first byte is sent. None has a
//! `Connection`, `Transfer-Encoding`, `TE`, `Expect` or `Upgrade` header, and a `Content-Length` is
//! there once and right. tiny_http reads bodies of up to 1,024 bytes on its own thread, and longer
//! ones on the loop's, from a proxy that never waits. Each response has a `Content-Length`.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::head::{self, Head, ResponseHead};

/// What may wait to be sent before the next request waits with its client.
const MAX_OUTPUT_BYTES: usize = 32 * 1024;

pub struct Upstream {
    pub stream: UnixStream,
    /// Requests without a response, oldest first.
    in_flight: VecDeque<InFlight>,
    output: Vec<u8>,
    input: Vec<u8>,
}

struct InFlight {
    /// For whom the response is. The connection may be gone when it comes.
    connection: u64,
    is_head: bool,
    /// When it was forwarded, on the proxy's clock.
    since: u64,
}

/// A response, and the connection that it is for.
pub struct Delivery {
    pub connection: u64,
    pub head: ResponseHead,
    pub body: Arc<[u8]>,
}

impl Upstream {
    pub fn new(stream: UnixStream) -> io::Result<Upstream> {
        stream.set_nonblocking(true)?;
        let (output, input) = (Vec::new(), Vec::new());
        Ok(Upstream { stream, in_flight: VecDeque::new(), output, input })
    }

    pub fn has_room(&self, max_in_flight: usize) -> bool {
        self.in_flight.len() < max_in_flight && self.output.len() < MAX_OUTPUT_BYTES
    }

    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// When the request was forwarded that has waited longest for a response.
    pub fn oldest(&self) -> Option<u64> {
        self.in_flight.front().map(|request| request.since)
    }

    /// Puts a request behind the others; `flush` sends them.
    pub fn push(
        &mut self,
        connection: u64,
        head: &Head,
        body: &[u8],
        client: Option<IpAddr>,
        now: u64,
    ) {
        let output = &mut self.output;
        output.extend_from_slice(head.canonical.as_bytes());
        output.extend_from_slice(b"host: a\r\n");
        if let Some(client) = client {
            let _ = write!(output, "x-forwarded-for: {client}\r\n"); // a Vec takes all
        }
        if !body.is_empty() {
            let _ = write!(output, "content-length: {}\r\n", body.len());
        }
        output.extend_from_slice(b"\r\n");
        output.extend_from_slice(body);
        let is_head = head.method() == "HEAD";
        self.in_flight.push_back(InFlight { connection, is_head, since: now });
    }

    /// Sends what the stream takes now.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.shrink_to(MAX_OUTPUT_BYTES);
        Ok(())
    }

    /// Reads once, by way of `buffer`. Returns the responses that are whole.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Vec<Delivery>> {
        match self.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.input.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        let (mut deliveries, mut used) = (Vec::new(), 0);
        while let Some(request) = self.in_flight.front() {
            let input = self.input.get(used..).unwrap_or_default();
            let head = head::response(input, request.is_head).map_err(io::Error::other)?;
            let Some(head) = head else { break };
            let Some(body) = input.get(head.body_start..head.body_end) else { break };
            used += head.body_end;
            deliveries.push(Delivery { connection: request.connection, head, body: body.into() });
            self.in_flight.pop_front();
        }
        self.input.drain(..used);
        Ok(deliveries)
    }
}
