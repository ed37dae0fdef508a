//! A small reverse proxy, in one thread around one `poll`: it owns every client's socket, forwards
//! complete, bounded, canonical requests to the backend, and relays its responses. It waits for
//! nobody, so what one client does or leaves undone costs no other client anything. It knows
//! HTTP/1.1 (RFC 9112) and nothing of the application behind it.

mod cache;
mod connection;
pub mod head;
mod lifecycle;
mod places;
pub mod upstream;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

use crate::reject::Reject;
use crate::sys::metrics::{REFUSALS, REPEATED};
use crate::sys::{log, time};

use cache::Cache;
use connection::{Connection, End, READ_BYTES, Response, State};
use head::Limits;
use upstream::Upstream;

// All times of the proxy, in milliseconds.

/// From the first byte of a request to its last, and of a response likewise: for the whole message,
/// since with a timeout per read a byte every nine seconds would hold a place for ever.
const MESSAGE_TIMEOUT: u64 = 10_000;
/// Between two requests of a connection.
const IDLE_TIMEOUT: u64 = 15_000;
/// For a client to read a refusal before its connection is closed.
const LINGER_TIMEOUT: u64 = 1000;
/// From a whole request to its response. OSS waits 5 s.
const RESPONSE_TIMEOUT: u64 = 4000;
/// If the oldest request has waited so long, a newcomer without a place is refused at once.
const STALL_TIMEOUT: u64 = 1000;
/// A connection so young is evicted only if its source holds more places than the newcomer's.
const GRACE: u64 = 20;
/// Until a place or a descriptor is looked for again, while a client waits for one.
const RETRY_INTERVAL: u64 = 2;
/// After a signal to end: until all is over, and until the last request must have come whole.
const DRAIN_TIMEOUT: u64 = 5000;
const DRAIN_REQUEST_TIMEOUT: u64 = 1000;
const DRAIN_INTERVAL: u64 = 10;
const NEVER: u64 = u64::MAX;

/// What all connections may buffer beyond `READ_BYTES` each, so that many slow senders of long
/// bodies, and many slow readers, cannot make the process grow.
const SHARED_BYTES: usize = 384 * 1024;
/// Responses of the backend are read in pieces of this.
const BUFFER_BYTES: usize = 32 * 1024;
/// Requests that are read before the backend is given them: it has work while more are read.
const MAX_UNSENT: usize = 8;

// What `poll` finds beside connections, whose ids begin at 1. In flight, 0 is a health check.
const UPSTREAM: u64 = 0;
const LISTENER: u64 = u64::MAX;
const SIGNALS: u64 = u64::MAX - 1;

pub struct Settings {
    pub limits: Limits,
    /// Of pages that may send credentials with their requests.
    pub origins: Vec<String>,
    /// Clients that are served at a time.
    pub max_connections: usize,
    /// Requests that the backend has at a time.
    pub max_in_flight: usize,
    /// A target that a backend which works answers with 200.
    pub health_target: &'static str,
    /// Milliseconds between two health checks; none: one at the start is all.
    pub health_interval: Option<u64>,
}

pub struct Proxy {
    settings: Settings,
    listener: OwnedFd,
    upstream: Upstream,
    /// SIGTERM and SIGINT come here.
    signals: SignalFd,
    /// By id, which grows: in the order of their coming.
    connections: BTreeMap<u64, Connection>,
    last_id: u64,
    /// A client for whom there is no place yet. Others wait in the backlog.
    pending: Option<Connection>,
    /// When connections may be accepted: not before the backend has passed a health check, a little
    /// later when there is no descriptor, and never again once a drain has emptied the backlog.
    accept_at: u64,
    /// Connections whose request is whole, in the order of their requests.
    queue: VecDeque<u64>,
    /// Connections that were given a response in this turn. It is written after the log.
    responded: Vec<u64>,
    cache: Cache,
    log: String,
    buffer: Box<[u8; BUFFER_BYTES]>,
    started: Instant,
    /// Milliseconds since the start.
    now: u64,
    /// When `poll` was last called.
    polled_at: u64,
    /// The earliest deadline of all connections, when `wait` looked.
    deadline: u64,
    health_check_at: u64,
    /// When the drain began. From then on each response is its connection's last.
    draining_since: Option<u64>,
}

impl Proxy {
    /// `listener` does not block. `backend` is connected to a server of HTTP/1.1 (see `upstream`).
    pub fn new(
        settings: Settings,
        listener: OwnedFd,
        backend: UnixStream,
        signals: SignalFd,
    ) -> io::Result<Proxy> {
        Ok(Proxy {
            settings,
            listener,
            upstream: Upstream::new(backend)?,
            signals,
            connections: BTreeMap::new(),
            last_id: 0,
            pending: None,
            accept_at: NEVER,
            queue: VecDeque::new(),
            responded: Vec::new(),
            cache: Cache::default(),
            log: String::new(),
            buffer: Box::new([0; BUFFER_BYTES]),
            started: Instant::now(),
            now: 0,
            polled_at: 0,
            deadline: NEVER,
            health_check_at: 0,
            draining_since: None,
        })
    }

    /// Serves until a signal ends it and all who came before are served. An error means that the
    /// backend is gone.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.is_drained() {
            self.check_health();
            self.forward()?;
            for id in self.wait()? {
                match id {
                    UPSTREAM => self.deliver()?,
                    SIGNALS => self.drain(),
                    LISTENER => self.accept(),
                    id => self.advance(id),
                }
                if self.queue.len() >= MAX_UNSENT {
                    self.forward()?;
                }
            }
            if self.pending.is_some() {
                self.accept();
            }
            self.expire();
            self.write_responses();
        }
        Ok(())
    }

    /// Waits until something can be done, or must be. Returns what that is.
    fn wait(&mut self) -> io::Result<Vec<u64>> {
        self.deadline = NEVER;
        let count = self.connections.len() + 3;
        let (mut polled, mut set) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut add = |id, fd, interest| {
            polled.push(id);
            set.push(PollFd::new(fd, interest));
        };
        let mut upstream = PollFlags::POLLIN;
        upstream.set(PollFlags::POLLOUT, self.upstream.has_output());
        add(UPSTREAM, self.upstream.stream.as_fd(), upstream);
        for (id, connection) in &self.connections {
            self.deadline = self.deadline.min(connection.deadline);
            let interest = connection.interest();
            if !interest.is_empty() {
                add(*id, connection.stream.as_fd(), interest);
            }
        }
        add(SIGNALS, self.signals.as_fd(), PollFlags::POLLIN);
        if self.accept_at <= self.now && self.pending.is_none() {
            add(LISTENER, self.listener.as_fd(), PollFlags::POLLIN);
        }
        let timeout = self.deadline.min(self.next_check()).saturating_sub(self.now);
        self.polled_at = self.started.elapsed().as_millis() as u64;
        match poll(&mut set, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::NONE)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.now = self.started.elapsed().as_millis() as u64;
        let ready = polled.iter().zip(&set).filter(|(_, fd)| fd.any() == Some(true));
        Ok(ready.map(|(id, _)| *id).collect())
    }

    /// When something must be done that is no connection's deadline.
    fn next_check(&self) -> u64 {
        if !self.responded.is_empty() {
            self.now
        } else if self.pending.is_some() {
            self.now + RETRY_INTERVAL
        } else if self.draining_since.is_some() {
            self.now + DRAIN_INTERVAL
        } else if self.accept_at > self.now {
            self.accept_at.min(self.health_check_at)
        } else {
            self.health_check_at
        }
    }

    /// A connection's turn: it is read from or written to, once.
    fn advance(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let result = match connection.state {
            State::Reading => self.read(id),
            State::Writing { .. } => self.write(id),
            State::Lingering => connection.read(self.buffer.as_mut_slice(), self.now),
            State::Queued | State::Awaiting => Ok(()),
        };
        self.settle(id, result);
    }

    fn settle(&mut self, id: u64, result: Result<(), End>) {
        match result {
            Ok(()) => {}
            Err(End::Gone) => drop(self.connections.remove(&id)),
            Err(End::Refused(reject)) => self.refuse(id, reject),
        }
    }

    fn read(&mut self, id: u64) -> Result<(), End> {
        let held = self.connections.get(&id).map_or(0, Connection::buffered_bytes);
        let more = held.min(READ_BYTES); // so much this read may add beyond READ_BYTES
        if more > 0 && !self.make_room(id, more) {
            return Err(End::Refused(Reject::BUSY));
        }
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.read(self.buffer.get_mut(..READ_BYTES).unwrap_or_default(), self.now)?;
        self.parse(id)
    }

    fn parse(&mut self, id: u64) -> Result<(), End> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        if connection.parse(self.settings.limits)? {
            self.dispatch(id);
        }
        Ok(())
    }

    /// A request is whole: it is answered from the cache, or waits for the backend.
    fn dispatch(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some((head, _)) = connection.request() else { return };
        if let Some(response) = self.cache.find(head, time::now()) {
            REPEATED.add();
            let status = response.head.get(9..12).unwrap_or_default();
            let text = format!("{} {status} again", connection.describe());
            self.log += &log::entry(time::now(), &text);
            connection.consume();
            self.respond(id, response);
        } else {
            connection.state = State::Queued;
            connection.deadline = self.now + RESPONSE_TIMEOUT;
            self.queue.push_back(id);
        }
    }

    /// Ends those whose time was over when `poll` was called, unless they have moved on since: what
    /// came while the process was paused (SIGSTOP, a snapshot) is read before anybody is late.
    fn expire(&mut self) {
        if self.polled_at < self.deadline {
            return;
        }
        let late = self.connections.iter().filter(|(_, one)| one.deadline <= self.polled_at);
        for (id, end) in late.map(|(id, one)| (*id, one.expire())).collect::<Vec<_>>() {
            self.settle(id, Err(end));
        }
        // Refused ones would stay in the queue for as long as the backend takes nothing.
        let is_queued = |one: &Connection| matches!(one.state, State::Queued);
        self.queue.retain(|id| self.connections.get(id).is_some_and(is_queued));
    }

    /// Gives the backend requests, as many as it may have.
    fn forward(&mut self) -> io::Result<()> {
        while self.upstream.has_room(self.settings.max_in_flight) {
            let Some(id) = self.queue.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            if !matches!(connection.state, State::Queued) {
                continue; // it has waited too long
            }
            let Some((head, body)) = connection.request() else { continue };
            self.upstream.push(id, head, body, connection.client(), self.now);
            connection.consume();
            connection.state = State::Awaiting;
        }
        self.upstream.flush()
    }

    /// Gives connections the responses that have come.
    fn deliver(&mut self) -> io::Result<()> {
        for delivery in self.upstream.receive(self.buffer.as_mut_slice())? {
            let id = delivery.connection;
            if id == UPSTREAM && delivery.head.status == 200 {
                self.pass_health_check();
            }
            let Some(connection) = self.connections.get(&id) else { continue };
            // One that has waited too long was answered already.
            let State::Awaiting = connection.state else { continue };
            let response = Response { head: delivery.head.text, body: delivery.body };
            if let (true, Some(head)) = (delivery.head.is_cacheable, connection.head()) {
                self.cache.keep(head, &response, time::now());
            }
            self.respond(id, response);
        }
        Ok(())
    }

    /// Has a response written. While a client waits for a place it is its connection's last: else
    /// clients that always ask again in time would own every place for ever.
    fn respond(&mut self, id: u64, response: Response) {
        let is_last = self.pending.is_some() || self.draining_since.is_some();
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.respond(response, is_last, self.now);
            self.responded.push(id);
        }
    }

    fn refuse(&mut self, id: u64, reject: Reject) {
        let Some(connection) = self.connections.get(&id) else { return };
        let mut lines = connection.head().map_or("", |head| &head.canonical).split("\r\n");
        let origin = lines.find_map(|line| line.strip_prefix("origin: "));
        let origin = self.settings.origins.iter().find(|one| Some(one.as_str()) == origin).cloned();
        let mut response = self.refusal(&connection.describe(), reject);
        if let Some(origin) = origin {
            // A page that sends credentials could not read it for `*` (Fetch, 4.10).
            let reader = format!(": {origin}\r\nAccess-Control-Allow-Credentials: true\r\n");
            response.head = response.head.replacen(": *\r\n", &reader, 1);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.respond(response, true, self.now);
            self.responded.push(id);
        }
    }

    /// A response of our own to `request`, and its line in the log. A browser may read why.
    fn refusal(&mut self, request: &str, Reject(status, reason): Reject) -> Response {
        REFUSALS.add_for(reason);
        let text = format!("{request} {status} reason={reason:?}");
        self.log += &log::entry(time::now(), &text);
        let body = format!("{{\"reason\":\"{reason}\"}}");
        let (date, length) = (time::http(time::now()), body.len());
        let retry = if status == 503 { "Retry-After: 5\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status} Refused\r\nDate: {date}\r\nContent-Type: application/json\r\n\
             Access-Control-Allow-Origin: *\r\n{retry}Content-Length: {length}\r\n"
        );
        Response { head, body: body.into_bytes().into() }
    }

    /// Writes the log, and only then what it speaks of.
    fn write_responses(&mut self) {
        self.write_log();
        for id in std::mem::take(&mut self.responded) {
            let result = self.write(id);
            self.settle(id, result);
        }
        self.write_log(); // of those whose next request had come already
    }

    fn write_log(&mut self) {
        log::lines(&self.log);
        self.log.clear();
    }

    fn write(&mut self, id: u64) -> Result<(), End> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.write(self.now)?;
        match connection.state {
            // The next pipelined request may be whole already.
            State::Reading if connection.has_begun() => self.parse(id),
            State::Writing { .. } => self.make_room(id, 0).then_some(()).ok_or(End::Gone),
            _ => Ok(()),
        }
    }
}
