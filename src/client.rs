//! One client of the door: what has come of its request, and what has gone of its answer. Nothing
//! here waits: what is not there yet, or does not fit yet, is for the client's next turn.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;
use std::time::Instant;

use socket2::Socket;

use crate::head::{self, Head, Limits};
use crate::reject::Reject;

/// From the first byte of a request to its last, and from the first byte of an answer to its last:
/// in all, not per read, or a byte every nine seconds would hold a place for ever.
pub const MESSAGE_TIME: u64 = 10_000;
/// Between requests.
pub const IDLE_TIME: u64 = 15_000;
/// For a client to read a refusal: were the connection closed with bytes unread, TCP would reset.
pub const LINGER_TIME: u64 = 1000;
/// Of one read: a callback, mostly.
pub const READ_BYTES: usize = 4 * 1024;

pub struct Client {
    stream: Socket,
    /// None on a Unix socket.
    pub peer: Option<IpAddr>,
    pub stage: Stage,
    /// When it must have moved on, in milliseconds on the door's clock.
    pub deadline: u64,
    /// When it came, or was last answered.
    pub waiting_since: Instant,
    /// Bytes taken from the shared account.
    pub reserved: usize,
    /// There may be something to read,
    pub readable: bool,
    /// and after it the end.
    pub hung_up: bool,
    /// Its turn comes without an event.
    pub queued: bool,
    /// What has come and is not yet asked for.
    pub input: Vec<u8>,
    /// How much of `input` has passed `head::end`.
    scanned: usize,
    /// Of the request under way, once it is whole, and how many bytes it had.
    pub head: Option<(Head, usize)>,
}

pub enum Stage {
    /// Its request is to come, or coming.
    Reading,
    /// Its request is whole, and waits until the loop has fewer in hand.
    Whole,
    /// The loop owes it an answer, which it was asked for in this second.
    Asked {
        head: Head,
        second: u64,
    },
    Writing {
        message: Arc<[u8]>,
        sent: usize,
        then: Then,
    },
    /// Sent away; it may read why.
    Leaving,
}

/// What follows an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Read,
    Close,
    /// Close, as the message says already.
    Refused,
}

/// What a request lacks.
pub enum Lack {
    Nothing,
    Bytes(usize),
    /// The client waits to be told to go on.
    Continue,
}

/// Why a connection ends.
pub enum End {
    /// The client went, or was sent away: there is nobody to tell.
    Gone,
    Refused(Reject),
}

impl From<Reject> for End {
    fn from(reject: Reject) -> End {
        End::Refused(reject)
    }
}

impl Client {
    pub fn new(stream: Socket, peer: Option<IpAddr>, now: u64) -> Client {
        Client {
            stream,
            peer,
            stage: Stage::Reading,
            deadline: now + IDLE_TIME,
            waiting_since: Instant::now(),
            reserved: 0,
            readable: false,
            hung_up: false,
            queued: false,
            input: Vec::new(),
            scanned: 0,
            head: None,
        }
    }

    /// True if it can be sent away without loss to it that it could not repair by asking again.
    pub fn waits(&self) -> bool {
        !matches!(self.stage, Stage::Whole | Stage::Asked { .. })
    }

    /// Part of a request has come.
    pub fn has_begun(&self) -> bool {
        !self.input.is_empty()
    }

    /// Looks at what has come. Sets `head` once it is there.
    pub fn parse(&mut self, limits: Limits) -> Result<Lack, Reject> {
        if self.head.is_none() {
            let Some(end) = head::end(&self.input, &mut self.scanned)? else {
                return Ok(Lack::Bytes(READ_BYTES));
            };
            let head = head::canonical(self.input.get(..end).unwrap_or_default(), limits)?;
            self.head = Some((head, end));
        }
        let Some((head, end)) = &mut self.head else { return Err(Reject::MALFORMED) };
        match (*end + head.length).saturating_sub(self.input.len()) {
            0 => Ok(Lack::Nothing),
            _ if std::mem::take(&mut head.expects) => Ok(Lack::Continue),
            bytes => Ok(Lack::Bytes(bytes.min(READ_BYTES))),
        }
    }

    /// Reads once, at most as much as `bytes` holds.
    pub fn read(&mut self, bytes: &mut [u8], now: u64) -> Result<(), End> {
        let read = self.receive(bytes)?;
        if self.input.is_empty() && read > 0 {
            self.deadline = now + MESSAGE_TIME;
        }
        self.input.reserve_exact(read);
        self.input.extend_from_slice(bytes.get(..read).unwrap_or_default());
        Ok(())
    }

    /// Reads once, and keeps nothing.
    pub fn receive(&mut self, bytes: &mut [u8]) -> Result<usize, End> {
        match (&self.stream).read(bytes) {
            Ok(read @ 1..) => {
                // Less than there is room for is all there is, but for the end. (Or what comes
                // before a mark of urgent data: whoever sends that may wait for his next byte.)
                self.readable = read == bytes.len() || self.hung_up;
                Ok(read)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(0)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            _ => Err(End::Gone),
        }
    }

    /// The body of the request that `head` is of.
    pub fn body(&self) -> &[u8] {
        let Some((head, end)) = &self.head else { return &[] };
        self.input.get(*end..*end + head.length).unwrap_or_default()
    }

    /// Takes the request out of what has come; what follows it stays.
    pub fn take_request(&mut self) -> Option<Head> {
        let (head, end) = self.head.take()?;
        self.input.drain(..(end + head.length).min(self.input.len()));
        self.input.shrink_to_fit(); // an idle connection holds none
        self.scanned = 0;
        Some(head)
    }

    /// Forgets all that has come.
    pub fn forget(&mut self) {
        (self.input, self.scanned, self.head) = (Vec::new(), 0, None);
    }

    pub fn give(&mut self, message: impl Into<Arc<[u8]>>, then: Then) {
        self.stage = Stage::Writing { message: message.into(), sent: 0, then };
    }

    /// Writes what the socket takes. Mostly one system call. Some once all is written.
    pub fn write(&mut self) -> Result<Option<Then>, End> {
        let Stage::Writing { message, sent, then } = &mut self.stage else { return Ok(None) };
        loop {
            let mut parts = parts(message, *then == Then::Close);
            let mut parts = parts.as_mut_slice();
            IoSlice::advance_slices(&mut parts, *sent);
            if parts.is_empty() {
                return Ok(Some(*then));
            }
            match (&self.stream).write_vectored(parts) {
                Ok(written) => *sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Gone),
            }
        }
    }

    /// Reads on until the client closes, or its time is over.
    pub fn leave(&mut self, now: u64) {
        let _ = self.stream.shutdown(Shutdown::Write);
        self.stage = Stage::Leaving;
        self.deadline = now + LINGER_TIME;
    }
}

/// The status line, what an answer lacks when it is the last, and the rest.
fn parts(message: &[u8], last: bool) -> [IoSlice<'_>; 3] {
    let line = message.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (status, rest) = message.split_at_checked(line).unwrap_or_default();
    let close = if last { b"Connection: close\r\n".as_slice() } else { b"" };
    [status, close, rest].map(IoSlice::new)
}
