//! One client's connection: the request that is coming and the response that is going. Nothing here
//! waits: each call takes what the socket has, or gives what it takes, once.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, sendmsg, shutdown};

use super::head::{self, Head, Limits};
use super::{IDLE_TIMEOUT, LINGER_TIMEOUT, MESSAGE_TIMEOUT};
use crate::reject::Reject;

/// How much is read at a time: mostly a whole callback.
pub const READ_BYTES: usize = 4 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const WRITE_FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

pub struct Connection {
    pub stream: OwnedFd,
    /// None on a Unix socket.
    peer: Option<IpAddr>,
    pub state: State,
    /// When it must have moved on, on the proxy's clock.
    pub deadline: u64,
    /// When it was accepted or last answered, on the proxy's clock.
    pub waiting_since: u64,
    /// What has come, from the first byte of a request that the backend does not have.
    input: Vec<u8>,
    /// How much of `input` has been looked at for the end of a head.
    scanned: usize,
    /// The head of the request that is coming or with the backend, and its length in `input`.
    head: Option<(Head, usize)>,
}

pub enum State {
    /// A request is to come, or coming.
    Reading,
    /// The request is whole, and waits for room on the way to the backend.
    Queued,
    /// The backend has the request.
    Awaiting,
    Writing {
        response: Response,
        sent: usize,
        /// The socket was offered some of it.
        is_begun: bool,
        /// It is the connection's last.
        close: bool,
    },
    /// The last response is written. What still comes is read and thrown away: to close with bytes
    /// unread would be a reset, which may overtake the response ("lingering close").
    Lingering,
}

/// A whole message for a client. The body may be shared with others.
#[derive(Clone)]
pub struct Response {
    /// Status line and headers, each with its CRLF.
    pub head: String,
    pub body: Arc<[u8]>,
}

/// Why a connection ends early.
pub enum End {
    /// The client went, or does not read: there is nobody to tell.
    Gone,
    Refused(Reject),
}

impl Connection {
    pub fn new(stream: OwnedFd, peer: Option<IpAddr>, now: u64) -> Connection {
        Connection {
            stream,
            peer,
            state: State::Reading,
            deadline: now + IDLE_TIMEOUT,
            waiting_since: now,
            input: Vec::new(),
            scanned: 0,
            head: None,
        }
    }

    /// What `poll` waits for. While the backend has the request there is nothing to do.
    pub fn interest(&self) -> PollFlags {
        match self.state {
            State::Reading | State::Lingering => PollFlags::POLLIN,
            State::Writing { .. } => PollFlags::POLLOUT,
            State::Queued | State::Awaiting => PollFlags::empty(),
        }
    }

    /// True if its request is not whole, or the client is slow to take the response.
    pub fn is_evictable(&self) -> bool {
        match self.state {
            State::Reading | State::Lingering => true,
            State::Queued | State::Awaiting => false,
            State::Writing { is_begun, .. } => is_begun,
        }
    }

    /// Part of a request has come.
    pub fn has_begun(&self) -> bool {
        !self.input.is_empty()
    }

    /// How it ends when its time is over.
    pub fn expire(&self) -> End {
        match self.state {
            State::Queued | State::Awaiting => End::Refused(Reject::BUSY),
            State::Reading if self.has_begun() => End::Refused(Reject::TOO_SLOW),
            _ => End::Gone,
        }
    }

    /// What the connection holds in memory. A body that others share counts for nobody.
    pub fn buffered_bytes(&self) -> usize {
        let head = self.head.as_ref().map_or(0, |(head, _)| head.canonical.len());
        let output = match &self.state {
            State::Writing { response, .. } if Arc::strong_count(&response.body) == 1 => {
                response.head.len() + response.body.len()
            }
            _ => 0,
        };
        self.input.len() + head + output
    }

    /// The head of the request that is coming or with the backend.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref().map(|(head, _)| head)
    }

    /// Whom a proxy on this machine names as its client. Others may say what they like.
    fn forwarded_for(&self) -> Option<IpAddr> {
        let is_local = self.peer.is_none_or(|peer| peer.is_loopback());
        self.head().filter(|_| is_local)?.forwarded_for
    }

    /// In whose share of the places it counts; none for a proxy on this machine.
    pub fn source(&self) -> Option<IpAddr> {
        let remote = self.peer.filter(|peer| !peer.is_loopback());
        match self.forwarded_for().or(remote)? {
            // A customer's IPv6 network, a /64, is one source.
            IpAddr::V6(v6) => {
                Some(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into())
            }
            v4 => Some(v4),
        }
    }

    /// Who asks; none for somebody on this machine behind a Unix socket.
    pub fn client(&self) -> Option<IpAddr> {
        self.forwarded_for().or(self.peer)
    }

    /// Client, method and path, as far as they are known, for the log.
    pub fn describe(&self) -> String {
        let line = match self.head() {
            Some(head) => Some((head.method().to_owned(), head.path().to_owned())),
            None => head::request_line(&self.input),
        };
        let client = self.client().map_or("-".to_owned(), |client| client.to_string());
        match line {
            Some((method, path)) => format!("{client} {method} {path:?}"),
            None => format!("{client} - -"),
        }
    }

    /// Reads once, by way of `buffer`. While the connection lingers it keeps nothing.
    pub fn read(&mut self, buffer: &mut [u8], now: u64) -> Result<(), End> {
        let count = match recv(self.stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(count @ 1..) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Ok(_) | Err(_) => return Err(End::Gone),
        };
        if matches!(self.state, State::Lingering) {
            return Ok(());
        }
        if self.input.is_empty() {
            self.deadline = now + MESSAGE_TIMEOUT;
        }
        self.input.reserve_exact(count);
        self.input.extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(())
    }

    /// Looks at what has come. Returns true if a request is whole.
    pub fn parse(&mut self, limits: Limits) -> Result<bool, End> {
        if self.head.is_none() {
            let end = head::end(&self.input, &mut self.scanned).map_err(End::Refused)?;
            let Some(end) = end else { return Ok(false) };
            let bytes = self.input.get(..end).unwrap_or_default();
            self.head = Some((head::request(bytes, limits).map_err(End::Refused)?, end));
        }
        if self.request().is_some() {
            return Ok(true);
        }
        let head = self.head.as_mut().map(|(head, _)| head);
        if head.is_some_and(|head| std::mem::take(&mut head.expects_continue)) {
            let sent = send(self.stream.as_raw_fd(), CONTINUE, WRITE_FLAGS);
            // The socket's buffer is full: the client does not read its responses.
            sent.ok().filter(|sent| *sent == CONTINUE.len()).ok_or(End::Gone)?;
        }
        Ok(false)
    }

    /// Head and body of a request that is whole.
    pub fn request(&self) -> Option<(&Head, &[u8])> {
        let (head, end) = self.head.as_ref()?;
        Some((head, self.input.get(*end..*end + head.content_length.unwrap_or(0))?))
    }

    /// Drops the bytes of a request that is forwarded or answered. What follows them stays.
    pub fn consume(&mut self) {
        let Some((head, end)) = &self.head else { return };
        let end = end + head.content_length.unwrap_or(0);
        self.input.drain(..end.min(self.input.len()));
        self.input.shrink_to_fit(); // an idle connection holds none
        self.scanned = 0;
    }

    /// Has a response written next, for the request that `head` is of.
    pub fn respond(&mut self, mut response: Response, is_last: bool, now: u64) {
        let close = self.head.take().is_some_and(|(head, _)| head.close) || is_last;
        response.head += if close { "Connection: close\r\n\r\n" } else { "\r\n" };
        self.state = State::Writing { response, sent: 0, is_begun: false, close };
        (self.deadline, self.waiting_since) = (now + MESSAGE_TIMEOUT, now);
    }

    /// Writes what the socket takes, and goes on when that is all.
    pub fn write(&mut self, now: u64) -> Result<(), End> {
        let has_begun = self.has_begun();
        let State::Writing { response, sent, is_begun, close } = &mut self.state else {
            return Ok(());
        };
        *is_begun = true;
        let mut parts = [IoSlice::new(response.head.as_bytes()), IoSlice::new(&response.body)];
        let mut rest = parts.as_mut_slice();
        IoSlice::advance_slices(&mut rest, *sent);
        match sendmsg::<()>(self.stream.as_raw_fd(), rest, &[], WRITE_FLAGS, None) {
            Ok(count) => *sent += count,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return Err(End::Gone),
        }
        if *sent < response.head.len() + response.body.len() {
            return Ok(());
        }
        if !*close {
            let timeout = if has_begun { MESSAGE_TIMEOUT } else { IDLE_TIMEOUT };
            (self.state, self.deadline) = (State::Reading, now + timeout);
        } else if has_begun {
            let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Write);
            (self.state, self.deadline) = (State::Lingering, now + LINGER_TIMEOUT);
            self.input = Vec::new();
        } else {
            return Err(End::Gone);
        }
        Ok(())
    }
}
