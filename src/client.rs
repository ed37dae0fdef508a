//! One client of the door: reads its requests, bounded in time and size, has each answered, and
//! writes the answer. What it does here costs its own thread.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::door::{Connection, Door, NOT_WAITING, name};
use crate::head;
use crate::metrics::REFUSALS;
use crate::reject::Reject;
use crate::{log, time};

/// From the first byte of a request to its last, and from the first byte of an answer to its last:
/// in all, not per read, or a byte every nine seconds would hold a thread for ever.
const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// Between requests.
const IDLE_TIME: Duration = Duration::from_secs(15);
const LINGER_TIME: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 1536; // a callback, mostly

/// Why a connection ends.
enum End {
    /// The client went, or was sent away: there is nobody to tell.
    Gone,
    Refused(Reject),
}

impl From<Reject> for End {
    fn from(reject: Reject) -> End {
        End::Refused(reject)
    }
}

pub fn serve(door: &Door, connection: &Connection) {
    let stream = &connection.stream;
    let _ = stream.set_tcp_nodelay(true);
    let _ = stream.set_read_timeout(Some(IDLE_TIME));
    let _ = stream.set_write_timeout(Some(MESSAGE_TIME));
    let (buffer, scanned, deadline, hurried) = (Vec::new(), 0, None, false);
    let mut client = Client { door, connection, buffer, scanned, deadline, hurried };
    let end = loop {
        match client.exchange() {
            Ok(true) => {}
            Ok(false) => return,
            Err(end) => break end,
        }
    };
    drop(client); // and its buffer, before the client takes its time
    if let End::Refused(reject) = end {
        refuse(connection, reject);
        linger(connection);
    }
}

/// Lets the client read a refusal: were the connection closed with bytes unread, TCP would reset.
fn linger(connection: &Connection) {
    let mut stream = &connection.stream;
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(LINGER_TIME));
    let (until, mut sink) = (Instant::now() + LINGER_TIME, [0; READ_BYTES]);
    while matches!(stream.read(&mut sink), Ok(1..)) && Instant::now() < until {}
}

/// Writes a refusal without waiting: it fits what the system buffers.
pub fn refuse(connection: &Connection, Reject(status, reason): Reject) {
    REFUSALS.add_for(reason);
    let peer = name(connection.peer);
    log::line(time::now(), &format!("{peer} - {status} reason={reason:?}"));
    let body = format!("{{\"reason\":\"{reason}\"}}");
    let answer = format!(
        "HTTP/1.1 {status} Refused\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = (&connection.stream).write_all(answer.as_bytes());
}

/// One connection's requests, one after the other.
struct Client<'a> {
    door: &'a Door,
    connection: &'a Connection,
    /// What has come and is not yet answered.
    buffer: Vec<u8>,
    /// How much of `buffer` has passed `head::end`.
    scanned: usize,
    /// When the message under way must be complete; none while nothing of it has come.
    deadline: Option<Instant>,
    /// The read timeout is that of a message, not that between messages.
    hurried: bool,
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        self.door.release(self.connection);
    }
}

impl Client<'_> {
    /// Reads a request, has it answered, writes the answer; false if that was the last.
    fn exchange(&mut self) -> Result<bool, End> {
        if !self.buffer.is_empty() {
            self.deadline = Some(Instant::now() + MESSAGE_TIME); // pipelined
        }
        let head_bytes = loop {
            match head::end(&self.buffer, &mut self.scanned)? {
                Some(end) => break end,
                None => self.fill()?,
            }
        };
        let head = self.buffer.get(..head_bytes).unwrap_or_default();
        let mut head = head::canonical(head, self.door.limits)?;
        let total = head_bytes + head.length;
        while self.buffer.len() < total {
            if std::mem::take(&mut head.expects) {
                self.write(&mut [IoSlice::new(b"HTTP/1.1 100 Continue\r\n\r\n")])?;
            }
            self.door.reserve(self.connection, total)?;
            self.fill()?;
        }
        if self.connection.waiting_since.swap(NOT_WAITING, Relaxed) == NOT_WAITING {
            return Err(End::Gone); // evicted
        }
        let body = self.buffer.get(head_bytes..total).unwrap_or_default();
        let answer = self.door.answer(&head, self.connection, body)?;
        self.connection.waiting_since.store(self.door.clock(), Relaxed);
        // The status line, and the rest: what an answer lacks when it is the last is put between.
        let line = answer.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (status, rest) = answer.split_at_checked(line).unwrap_or_default();
        let last = head.close || self.door.is_ending();
        let close = if last { b"Connection: close\r\n".as_slice() } else { b"" };
        self.write(&mut [status, close, rest].map(IoSlice::new))?;

        self.buffer.drain(..total);
        self.buffer.shrink_to_fit(); // an idle connection holds none
        self.door.release(self.connection);
        self.scanned = 0;
        self.deadline = None;
        self.connection.begun.store(!self.buffer.is_empty(), Relaxed);
        if std::mem::take(&mut self.hurried) {
            let _ = self.connection.stream.set_read_timeout(Some(IDLE_TIME));
        }
        Ok(!last)
    }

    /// Reads what has come, within the deadline.
    fn fill(&mut self) -> Result<(), End> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Reject::TOO_SLOW.into());
            }
            let left = Some(left.max(Duration::from_millis(1))); // less would be read as for ever
            let _ = self.connection.stream.set_read_timeout(left);
            self.hurried = true;
        }
        let held = self.buffer.len();
        self.door.reserve(self.connection, held + READ_BYTES)?;
        self.buffer.reserve_exact(READ_BYTES);
        self.buffer.resize(held + READ_BYTES, 0);
        let room = self.buffer.get_mut(held..).unwrap_or_default();
        let read = (&self.connection.stream).read(room);
        self.buffer.truncate(held + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(1..) => {
                self.deadline = self.deadline.or(Some(Instant::now() + MESSAGE_TIME));
                self.connection.begun.store(true, Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.deadline.is_some() => {
                return Err(Reject::TOO_SLOW.into());
            }
            _ => return Err(End::Gone),
        }
        Ok(())
    }

    /// Mostly one system call.
    fn write(&self, mut parts: &mut [IoSlice]) -> Result<(), End> {
        let deadline = Instant::now() + MESSAGE_TIME;
        while !parts.is_empty() {
            match (&self.connection.stream).write_vectored(parts) {
                Ok(written) if Instant::now() < deadline => {
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return Err(End::Gone),
            }
        }
        Ok(())
    }
}
