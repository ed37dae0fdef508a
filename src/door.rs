//! The front door: the only code that reads from the open network. It passes on complete, bounded,
//! canonical requests and nothing else, and it alone waits for clients. What a client does or
//! leaves undone costs that client's own thread, for a bounded time, and nobody else anything.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::head::{self, Head, Limits};
use crate::reject::Reject;
use crate::{log, time};

/// From the first byte of a request to its last, and from the first byte of an answer to its last:
/// in all, not per read, or a byte every nine seconds would hold a thread for ever.
const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// Between requests.
const IDLE_TIME: Duration = Duration::from_secs(15);
const STACK_BYTES: usize = 64 * 1024;
/// What a connection may buffer on its own account, and what all may buffer beyond it together:
/// so many slow senders of long bodies cannot make the process grow.
const OWN_BYTES: usize = 4 * 1024;
const SHARED_BYTES: usize = 2 * 1024 * 1024;
/// `Connection::waiting_since` of one whose request is complete.
const NOT_WAITING: u64 = u64::MAX;

/// What all connections share.
struct Door {
    engine: Engine,
    limits: Limits,
    /// Bytes buffered beyond `OWN_BYTES`.
    shared_bytes: AtomicUsize,
    opened: Instant,
}

/// What the accept loop knows of a connection that a thread serves.
struct Connection {
    stream: TcpStream,
    peer: IpAddr,
    /// Milliseconds since the door opened, or `NOT_WAITING`.
    waiting_since: AtomicU64,
}

/// Serves `listener`, at most `max` connections at a time, for ever.
pub fn run(listener: &TcpListener, engine: Engine, limits: Limits, max: usize) -> Infallible {
    let shared_bytes = AtomicUsize::new(0);
    let door = Arc::new(Door { engine, limits, shared_bytes, opened: Instant::now() });
    let mut connections: Vec<Weak<Connection>> = Vec::new();
    loop {
        connections.retain(|connection| connection.strong_count() > 0);
        let (stream, peer) = match listener.accept() {
            Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(_) => {
                // Out of descriptors, most likely: whoever has waited longest frees one.
                evict(&mut connections, |_| true);
                thread::sleep(Duration::from_millis(1));
                continue;
            }
        };
        let waiting_since = AtomicU64::new(door.clock());
        let connection = Arc::new(Connection { stream, peer, waiting_since });
        let neighbour = |other: &Connection| source(other.peer) == source(peer);
        let room = make_room(&mut connections, max, |_| true)
            && (peer.is_loopback() || make_room(&mut connections, max / 4, neighbour));
        if room && spawn(&door, &connection, &mut connections).is_ok() {
            connections.push(Arc::downgrade(&connection));
        } else {
            refuse(&connection, Reject::BUSY);
        }
    }
}

/// Who counts as one source: an address, or all of an IPv6 customer's network.
fn source(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// Ends waiting connections until fewer than `max` are `of` the kind; false if all are served.
fn make_room(
    connections: &mut Vec<Weak<Connection>>,
    max: usize,
    of: impl Fn(&Connection) -> bool + Copy,
) -> bool {
    loop {
        let alive = connections.iter().filter_map(Weak::upgrade);
        if alive.filter(|connection| of(connection)).count() < max {
            return true;
        }
        if !evict(connections, of) {
            return false;
        }
    }
}

/// Ends the connection that has waited longest without a complete request, if one waits, and
/// waits for its thread to let go of it. One whose request is complete is never ended.
fn evict(connections: &mut Vec<Weak<Connection>>, of: impl Fn(&Connection) -> bool) -> bool {
    let alive = connections.iter().filter_map(Weak::upgrade).filter(|one| of(one));
    let waiting = alive.map(|one| (one.waiting_since.load(Relaxed), one));
    let longest =
        waiting.filter(|(since, _)| *since != NOT_WAITING).min_by_key(|(since, _)| *since);
    let Some((since, victim)) = longest else { return false };
    let claimed = victim.waiting_since.compare_exchange(since, NOT_WAITING, Relaxed, Relaxed);
    if claimed.is_ok() {
        let _ = victim.stream.shutdown(Shutdown::Both);
        let victim = Arc::downgrade(&victim); // the last reference but the thread's own
        for _ in 0..1000 {
            if victim.strong_count() == 0 {
                break;
            }
            thread::sleep(Duration::from_micros(100));
        }
    }
    connections.retain(|connection| connection.strong_count() > 0);
    true
}

/// A thread for the connection; out of threads, whoever has waited longest frees one.
fn spawn(
    door: &Arc<Door>,
    connection: &Arc<Connection>,
    connections: &mut Vec<Weak<Connection>>,
) -> io::Result<()> {
    loop {
        let (door, connection) = (door.clone(), connection.clone());
        let builder = thread::Builder::new().stack_size(STACK_BYTES);
        match builder.spawn(move || serve(&door, &connection)) {
            Ok(_) => return Ok(()),
            Err(error) if !evict(connections, |_| true) => return Err(error),
            Err(_) => {}
        }
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

fn serve(door: &Door, connection: &Connection) {
    let stream = &connection.stream;
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(IDLE_TIME));
    let _ = stream.set_write_timeout(Some(MESSAGE_TIME));
    let (buffer, scanned, reserved, deadline) = (Vec::new(), 0, 0, None);
    let mut client = Client { door, connection, buffer, scanned, reserved, deadline };
    let end = loop {
        match client.exchange() {
            Ok(true) => {}
            Ok(false) => return,
            Err(end) => break end,
        }
    };
    if let End::Refused(reject) = end {
        refuse(connection, reject);
        // Closed with bytes unread, TCP would reset and the client never see the answer.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let (until, mut sink) = (Instant::now() + Duration::from_secs(1), [0; 2048]);
        while Instant::now() < until && matches!((&*stream).read(&mut sink), Ok(1..)) {}
    }
}

/// One connection's requests, one after the other.
struct Client<'a> {
    door: &'a Door,
    connection: &'a Connection,
    /// What has come and is not yet answered.
    buffer: Vec<u8>,
    /// How much of `buffer` has passed `head::end`.
    scanned: usize,
    /// Bytes taken from the door's shared account.
    reserved: usize,
    /// When the message under way must be complete; none while nothing of it has come.
    deadline: Option<Instant>,
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        self.door.shared_bytes.fetch_sub(self.reserved, Relaxed);
    }
}

impl Client<'_> {
    /// Reads a request, has it answered, writes the answer; false if that was the last.
    fn exchange(&mut self) -> Result<bool, End> {
        if !self.buffer.is_empty() {
            self.deadline = Some(Instant::now() + MESSAGE_TIME); // pipelined
        }
        let head_bytes = loop {
            if self.scanned == 0 && self.buffer.starts_with(b"\r\n") {
                self.buffer.drain(..2); // as RFC 9112, 2.2, asks, for clients that end bodies so
            }
            if let Some(end) = head::end(&self.buffer, &mut self.scanned)? {
                break end;
            }
            self.fill()?;
        };
        let head = self.buffer.get(..head_bytes).unwrap_or_default();
        let mut head = head::canonical(head, self.door.limits)?;
        let total = head_bytes + head.length;
        while self.buffer.len() < total {
            if std::mem::take(&mut head.expects) {
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            self.fill()?;
        }
        if self.connection.waiting_since.swap(NOT_WAITING, Relaxed) == NOT_WAITING {
            return Err(End::Gone); // evicted
        }
        let body = self.buffer.get(head_bytes..total).unwrap_or_default();
        let answer = self.door.answer(&head, self.connection.peer, body)?;
        self.connection.waiting_since.store(self.door.clock(), Relaxed);
        self.write(&if head.close { with_close(&answer).into() } else { answer })?;

        self.buffer.drain(..total);
        self.buffer.shrink_to(OWN_BYTES);
        self.door.shared_bytes.fetch_sub(std::mem::take(&mut self.reserved), Relaxed);
        self.scanned = 0;
        if self.deadline.take().is_some_and(|_| self.buffer.is_empty()) {
            let _ = self.connection.stream.set_read_timeout(Some(IDLE_TIME));
        }
        Ok(!head.close)
    }

    /// Reads what has come, within the deadline and the memory that this connection may use.
    fn fill(&mut self) -> Result<(), End> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Some(left).filter(|left| !left.is_zero()).ok_or(Reject::TOO_SLOW)?;
            let _ = self.connection.stream.set_read_timeout(Some(left));
        }
        let mut chunk = [0; 2048];
        let read = match (&self.connection.stream).read(&mut chunk) {
            Ok(0) => return Err(End::Gone),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.deadline.is_some() => {
                return Err(Reject::TOO_SLOW.into());
            }
            Err(_) => return Err(End::Gone),
        };
        self.deadline.get_or_insert_with(|| Instant::now() + MESSAGE_TIME);
        if self.buffer.len() + read > OWN_BYTES + self.reserved {
            // Doubling, as the buffer itself grows.
            let more = OWN_BYTES + self.reserved;
            self.reserved += more;
            if self.door.shared_bytes.fetch_add(more, Relaxed) + more > SHARED_BYTES {
                return Err(Reject::BUSY.into());
            }
        }
        self.buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
        Ok(())
    }

    fn write(&self, mut bytes: &[u8]) -> Result<(), End> {
        let deadline = Instant::now() + MESSAGE_TIME;
        while !bytes.is_empty() {
            match (&self.connection.stream).write(bytes) {
                Ok(written) if Instant::now() < deadline => {
                    bytes = bytes.get(written..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return Err(End::Gone),
            }
        }
        Ok(())
    }
}

impl Door {
    fn clock(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    fn answer(&self, head: &Head, peer: IpAddr, body: &[u8]) -> Result<Arc<[u8]>, Reject> {
        // Who stands behind a proxy on this machine, the proxy says; others may say what they like.
        let peer = head.forwarded_for.filter(|_| peer.is_loopback()).unwrap_or(peer);
        let now = time::now();
        let Some(answer) = self.engine.again(&head.canonical, now) else {
            return self.engine.ask(&head.canonical, &peer.to_string(), body);
        };
        let (method, target) = head.canonical.split_once(' ').unwrap_or_default();
        let path = target.split(['?', ' ']).next().unwrap_or_default();
        log::line(now, &format!("{peer} {method} {path:?} 200 again"));
        Ok(answer)
    }
}

fn with_close(answer: &[u8]) -> Vec<u8> {
    let line = answer.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (status, rest) = answer.split_at_checked(line).unwrap_or_default();
    [status, b"Connection: close\r\n", rest].concat()
}

/// Writes a refusal without waiting: it fits what the system buffers.
fn refuse(connection: &Connection, Reject(status, reason): Reject) {
    log::line(time::now(), &format!("{} - {status} reason={reason:?}", connection.peer));
    let body = format!("{{\"reason\":\"{reason}\"}}");
    let answer = format!(
        "HTTP/1.1 {status} Refused\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = (&connection.stream).write_all(answer.as_bytes());
}
