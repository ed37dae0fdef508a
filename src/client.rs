//! One client of the door: reads its requests, bounded in time and size, and has each answered.
//! What it does here costs its own thread. The loop writes its answers itself, as one more thread
//! that wakes up is dear, but never waits: what a client does not take at once its thread writes.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::door::{Door, OWN_BYTES, name};
use crate::engine::{Answer, TIMEOUT, broken, lock};
use crate::head;
use crate::metrics::REFUSALS;
use crate::reject::Reject;
use crate::{log, time};

/// From the first byte of a request to its last, and from the first byte of an answer to its last:
/// in all, not per read, or a byte every nine seconds would hold a thread for ever.
const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// Between requests.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// How long after a request a thread looks whether the loop left something of the answer to it.
const LOOK_TIME: Duration = Duration::from_millis(50);
const LINGER_TIME: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 1536; // a callback, mostly

/// `Connection::waiting_since` of one whose request is complete.
pub const NOT_WAITING: u64 = u64::MAX;

/// What others may know of a connection; the rest is its thread's own.
pub struct Connection {
    pub stream: Socket,
    /// None on a Unix socket.
    pub peer: Option<IpAddr>,
    /// Milliseconds since the door opened, or `NOT_WAITING`.
    pub waiting_since: AtomicU64,
    /// Part of a request has come.
    pub begun: AtomicBool,
    /// Bytes taken from the shared account.
    pub reserved: AtomicUsize,
    due: Mutex<Due>,
    paid: Condvar,
}

/// What the loop owes a client.
enum Due {
    Nothing,
    Answer,
    /// All but the first `sent` bytes of an answer.
    Rest {
        message: Arc<[u8]>,
        sent: usize,
        last: bool,
    },
    /// Its last answer was given, or could not be.
    Over,
}

impl Connection {
    pub fn new(stream: Socket, peer: Option<IpAddr>, now: u64) -> Connection {
        Connection {
            stream,
            peer,
            waiting_since: AtomicU64::new(now),
            begun: AtomicBool::new(false),
            reserved: AtomicUsize::new(0),
            due: Mutex::new(Due::Nothing),
            paid: Condvar::new(),
        }
    }

    /// From now on the loop owes it an answer.
    pub fn owe(&self) {
        *lock(&self.due) = Due::Answer;
    }
}

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

pub fn serve(door: &Door, connection: &Arc<Connection>) {
    let stream = &connection.stream;
    let _ = stream.set_tcp_nodelay(true);
    let _ = stream.set_read_timeout(Some(IDLE_TIME));
    let _ = stream.set_write_timeout(Some(MESSAGE_TIME));
    let (buffer, scanned, deadline) = (Vec::new(), 0, None);
    let (asked, timeout) = (false, IDLE_TIME);
    let mut client = Client { door, connection, buffer, scanned, deadline, asked, timeout };
    let end = loop {
        match client.exchange() {
            Ok(true) => {}
            Ok(false) => return,
            Err(end) => break end,
        }
    };
    let refused = match end {
        End::Refused(reject) => client.settle().is_ok().then_some(reject),
        End::Gone => None,
    };
    drop(client); // and its buffer, before the client takes its time
    if let Some(reject) = refused {
        refuse(connection, reject);
        linger(connection);
    }
}

/// The loop's part: whatever the client does, this returns at once.
pub fn deliver(door: &Door, Answer { connection, message, shared, close }: Answer) {
    let mut due = lock(&connection.due);
    let last = close || door.is_ending();
    let parts = parts(&message, last);
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let stream = &connection.stream;
    let sent = match stream.send_vectored_with_flags(&parts, libc::MSG_DONTWAIT) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
        sent => sent.ok(),
    };
    *due = match sent {
        Some(sent) if sent == total && !last => Due::Nothing,
        Some(sent) if sent < total && (shared || door.try_reserve(&connection, total)) => {
            Due::Rest { message, sent, last }
        }
        _ => {
            let _ = stream.shutdown(Shutdown::Both); // ends its thread's read
            Due::Over
        }
    };
    connection.waiting_since.store(door.clock(), Relaxed);
    connection.paid.notify_one();
}

/// The status line, what an answer lacks when it is the last, and the rest.
fn parts(message: &[u8], last: bool) -> [IoSlice<'_>; 3] {
    let line = message.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (status, rest) = message.split_at_checked(line).unwrap_or_default();
    let close = if last { b"Connection: close\r\n".as_slice() } else { b"" };
    [status, close, rest].map(IoSlice::new)
}

/// Lets the client read a refusal: were the connection closed with bytes unread, TCP would reset.
fn linger(connection: &Connection) {
    let mut stream = &connection.stream;
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(LINGER_TIME));
    let (until, mut sink) = (Instant::now() + LINGER_TIME, [0; 256]); // on every stack
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
    connection: &'a Arc<Connection>,
    /// What has come and is not yet answered.
    buffer: Vec<u8>,
    /// How much of `buffer` has passed `head::end`.
    scanned: usize,
    /// When the message under way must be complete; none while nothing of it has come.
    deadline: Option<Instant>,
    /// The loop owes it an answer, or has paid unseen.
    asked: bool,
    /// Of reads.
    timeout: Duration,
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        self.door.release(self.connection);
    }
}

impl Client<'_> {
    /// Reads a request and has it answered; false if that was the last.
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
        self.settle()?;
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
        let close = head.close;
        let answer = self.door.answer(head, self.connection, body)?;
        self.asked = answer.is_none();
        if let Some(answer) = answer {
            self.door.release(self.connection);
            self.connection.waiting_since.store(self.door.clock(), Relaxed);
            let last = close || self.door.is_ending();
            self.write(&mut parts(&answer, last))?;
            if last {
                return Ok(false);
            }
        }
        self.buffer.drain(..total);
        self.buffer.shrink_to_fit(); // an idle connection holds none
        self.scanned = 0;
        self.deadline = None;
        self.connection.begun.store(!self.buffer.is_empty(), Relaxed);
        Ok(true)
    }

    /// Waits for the answer that the loop owes, if any, and writes what it left.
    fn settle(&mut self) -> Result<(), End> {
        if !std::mem::take(&mut self.asked) {
            return Ok(());
        }
        let (due, paid) = (lock(&self.connection.due), &self.connection.paid);
        let waited = paid.wait_timeout_while(due, TIMEOUT, |due| matches!(due, Due::Answer));
        let mut due = waited.unwrap_or_else(PoisonError::into_inner).0;
        let found = std::mem::replace(&mut *due, Due::Nothing);
        drop(due);
        let settled = match found {
            Due::Nothing => Ok(()),
            Due::Answer => broken("no answer"),
            Due::Rest { message, sent, last } => {
                let mut parts = parts(&message, last);
                let mut parts = parts.as_mut_slice();
                IoSlice::advance_slices(&mut parts, sent);
                let written = self.write(parts);
                if last { Err(End::Gone) } else { written }
            }
            Due::Over => Err(End::Gone),
        };
        self.door.release(self.connection);
        settled
    }

    /// Reads what has come, within the deadline.
    fn fill(&mut self) -> Result<(), End> {
        if self.buffer.len() + READ_BYTES > OWN_BYTES {
            self.settle()?; // who holds what is everybody's must be able to give way
        }
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let mut timeout = self.deadline.map_or(IDLE_TIME, left);
        if timeout.is_zero() {
            return Err(Reject::TOO_SLOW.into());
        }
        if self.asked {
            timeout = timeout.min(LOOK_TIME);
        }
        if timeout != self.timeout {
            self.timeout = timeout;
            let timeout = timeout.max(Duration::from_millis(1)); // less would be read as for ever
            let _ = self.connection.stream.set_read_timeout(Some(timeout));
        }
        self.door.reserve(self.connection, self.buffer.len() + READ_BYTES)?;
        let mut bytes = [0; READ_BYTES];
        match (&self.connection.stream).read(&mut bytes) {
            Ok(read @ 1..) => {
                self.buffer.reserve_exact(read);
                self.buffer.extend_from_slice(bytes.get(..read).unwrap_or_default());
                self.deadline = self.deadline.or(Some(Instant::now() + MESSAGE_TIME));
                self.connection.begun.store(true, Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.asked => self.settle()?,
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.deadline.is_some() => {
                return Err(Reject::TOO_SLOW.into());
            }
            _ => {
                self.settle()?; // it may have asked, and only listen now
                return Err(End::Gone);
            }
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
