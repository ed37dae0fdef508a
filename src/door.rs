//! The front door: who is let in from the open network, and who gives way when it is full. With
//! `client.rs` it alone waits for clients, and passes on complete, bounded, canonical requests and
//! nothing else. What a client does or leaves undone costs nobody else anything.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, Shutdown};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::client::{Connection, NOT_WAITING, deliver, refuse, serve};
use crate::engine::{Engine, broken, lock};
use crate::head::{Head, Limits};
use crate::metrics::{CONNECTIONS, EVICTIONS, REPEATED};
use crate::reject::Reject;
use crate::{log, time};

const STACK_BYTES: usize = 64 * 1024;
/// What a connection may buffer on its own account, and what all may buffer beyond it together:
/// so many slow senders of long bodies cannot make the process grow.
pub const OWN_BYTES: usize = 4 * 1024;
const SHARED_BYTES: usize = 384 * 1024;
/// No connection gives way before it had this long to be served.
const MIN_WAIT_MILLISECONDS: u64 = 20;
/// Told to end, all have this long to be served: OSS waits no longer for an answer.
pub const DRAIN: Duration = Duration::from_secs(5);
/// Of that, whose request has not come, or not wholly.
const DRAIN_NEW_MILLISECONDS: u64 = 1000;

/// Who answers.
pub enum Site {
    Loop(Engine),
    /// The answer to a method and path, without the loop.
    Page(fn(&str, &str) -> Vec<u8>),
}

/// What all connections share.
pub struct Door {
    site: Site,
    pub limits: Limits,
    max: usize,
    ending: AtomicBool,
    connections: Mutex<Vec<Weak<Connection>>>,
    /// Bytes buffered beyond `OWN_BYTES`.
    shared_bytes: AtomicUsize,
    opened: Instant,
}

impl Door {
    /// Serves at most `max` connections at a time.
    pub fn new(site: Site, limits: Limits, max: usize) -> Arc<Door> {
        Arc::new(Door {
            site,
            limits,
            max,
            ending: AtomicBool::new(false),
            connections: Mutex::default(),
            shared_bytes: AtomicUsize::new(0),
            opened: Instant::now(),
        })
    }

    /// Each answer from now on is its connection's last, and so is the next connection.
    pub fn end(&self) {
        self.ending.store(true, Relaxed);
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(Relaxed)
    }
}

/// Serves `listener` until the door ends, and returns when all who came before are served.
pub fn run(listener: &Socket, door: &Arc<Door>) {
    while !door.is_ending() {
        let (stream, peer) = match listener.accept() {
            Ok((stream, peer)) => (stream, peer.as_socket().map(|peer| peer.ip().to_canonical())),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(_) => {
                // Out of descriptors, most likely: whoever has waited longest frees one.
                door.evict(|_| true);
                thread::sleep(Duration::from_millis(1));
                continue;
            }
        };
        let connection = Arc::new(Connection::new(stream, peer, door.clock()));
        let neighbour = |other: &Connection| other.peer.map(source) == peer.map(source);
        let room = door.make_room(door.max, |_| true)
            && (is_local(peer) || door.make_room(door.max.div_ceil(4), neighbour));
        if room && spawn(door, &connection).is_ok() {
            door.connections().push(Arc::downgrade(&connection));
            CONNECTIONS.add();
        } else {
            refuse(&connection, Reject::BUSY);
        }
    }
    door.drain();
}

/// A thread for the connection; out of threads, whoever has waited longest frees one.
fn spawn(door: &Arc<Door>, connection: &Arc<Connection>) -> io::Result<()> {
    loop {
        let (theirs, connection) = (door.clone(), connection.clone());
        let builder = thread::Builder::new().stack_size(STACK_BYTES);
        match builder.spawn(move || serve(&theirs, &connection)) {
            Ok(_) => return Ok(()),
            Err(error) if !door.evict(|_| true) => return Err(error),
            Err(_) => {}
        }
    }
}

/// Of a client in the log.
pub fn name(peer: Option<IpAddr>) -> String {
    peer.map_or("-".to_owned(), |peer| peer.to_string())
}

/// True on a Unix socket and on loopback: a proxy of our own, most likely.
fn is_local(peer: Option<IpAddr>) -> bool {
    peer.is_none_or(|peer| peer.is_loopback())
}

/// Who counts as one source: an address, or all of an IPv6 customer's network.
fn source(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

impl Door {
    pub fn clock(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// Those that live.
    fn connections(&self) -> MutexGuard<'_, Vec<Weak<Connection>>> {
        let mut connections = lock(&self.connections);
        connections.retain(|connection| connection.strong_count() > 0);
        connections
    }

    /// Ends waiting connections until fewer than `max` are `of` the kind; false if all are served.
    fn make_room(&self, max: usize, of: impl Fn(&Connection) -> bool + Copy) -> bool {
        let full = || {
            let connections = self.connections();
            let alike = || connections.iter().filter_map(Weak::upgrade).filter(|c| of(c)).count();
            connections.len() >= max && alike() >= max
        };
        while full() {
            if !self.evict(of) {
                return false;
            }
        }
        true
    }

    /// Ends the connection that has waited longest without a complete request, and waits for its
    /// thread to let go of it; false if none waits. Where all are new, only time passes.
    fn evict(&self, of: impl Fn(&Connection) -> bool) -> bool {
        let alive: Vec<_> = self.connections().iter().filter_map(Weak::upgrade).collect();
        let waiting = alive
            .iter()
            .filter(|connection| of(connection))
            .map(|connection| (connection.waiting_since.load(Relaxed), connection));
        let waiting = waiting.filter(|(since, _)| *since != NOT_WAITING);
        let Some((since, victim)) = waiting.min_by_key(|(since, _)| *since) else { return false };
        if self.clock().saturating_sub(since) < MIN_WAIT_MILLISECONDS {
            drop(alive);
            thread::sleep(Duration::from_millis(1)); // its request may be here, and unread
            return true;
        }
        let claim = victim.waiting_since.compare_exchange(since, NOT_WAITING, Relaxed, Relaxed);
        if claim.is_err() {
            return true; // it moved on: look again
        }
        EVICTIONS.add();
        let _ = victim.stream.shutdown(Shutdown::Both);
        let victim = Arc::downgrade(victim);
        drop(alive);
        for _ in 0..1000 {
            if victim.strong_count() == 0 {
                break;
            }
            thread::sleep(Duration::from_micros(50));
        }
        true
    }

    /// Makes sure that the connection may buffer `bytes`. What goes beyond its own is everybody's:
    /// when that is gone, whoever holds some of it and has waited longest gives way.
    pub fn reserve(&self, connection: &Connection, bytes: usize) -> Result<(), Reject> {
        while !self.try_reserve(connection, bytes) {
            let holds = |other: &Connection| {
                !std::ptr::eq(other, connection) && other.reserved.load(Relaxed) > 0
            };
            if !self.evict(holds) {
                return Err(Reject::BUSY);
            }
        }
        Ok(())
    }

    /// The same if nobody has to give way for it.
    pub fn try_reserve(&self, connection: &Connection, bytes: usize) -> bool {
        let more = bytes.saturating_sub(OWN_BYTES + connection.reserved.load(Relaxed));
        if more > 0 && self.shared_bytes.fetch_add(more, Relaxed) + more > SHARED_BYTES {
            self.shared_bytes.fetch_sub(more, Relaxed);
            return false;
        }
        connection.reserved.fetch_add(more, Relaxed);
        true
    }

    /// Gives back what the connection reserved.
    pub fn release(&self, connection: &Connection) {
        self.shared_bytes.fetch_sub(connection.reserved.swap(0, Relaxed), Relaxed);
    }

    /// What the client is to write now: an answer of this second, or nothing if the loop will owe
    /// it one.
    pub fn answer(
        &self,
        head: Head,
        connection: &Arc<Connection>,
        body: &[u8],
    ) -> Result<Option<Arc<[u8]>>, Reject> {
        // Who stands behind a proxy on this machine, the proxy says; others may say what they like.
        let peer = connection.peer;
        let peer = name(head.forwarded_for.filter(|_| is_local(peer)).or(peer));
        let engine = match &self.site {
            Site::Loop(engine) => engine,
            Site::Page(page) => return Ok(Some(page(head.method(), head.path()).into())),
        };
        let now = time::now();
        let Some(answer) = engine.again(&head.canonical, now) else {
            return engine.ask(connection, head, &peer, body).map(|()| None);
        };
        REPEATED.add();
        log::line(now, &format!("{peer} {} {:?} 200 again", head.method(), head.path()));
        Ok(Some(answer))
    }

    /// The loop's answer goes to whom it is for.
    pub fn deliver(&self, number: u64, message: Vec<u8>, reusable: bool) {
        let Site::Loop(engine) = &self.site else { return };
        match engine.answer(number, message, reusable) {
            Some(answer) => deliver(self, answer),
            None => broken("an answer to what nobody asked"),
        }
    }

    /// Waits for those that are served, and for those whose request may be on its way.
    fn drain(&self) {
        let (start, end) = (self.clock(), Instant::now() + DRAIN);
        let owed = |connection: Arc<Connection>| {
            let mut since = connection.waiting_since.load(Relaxed);
            if connection.begun.load(Relaxed) {
                since = since.max(start);
            }
            since == NOT_WAITING || since + DRAIN_NEW_MILLISECONDS > self.clock()
        };
        while Instant::now() < end && self.connections().iter().filter_map(Weak::upgrade).any(owed)
        {
            thread::sleep(Duration::from_millis(5));
        }
    }
}
