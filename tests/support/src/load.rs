//! Load: clients that ask until they are told to stop, sieges that together hold all places of a
//! server, floods of new connections, and what became of others' requests meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::panic::resume_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::hostile::{prepare, reset, send_all, socket};
use crate::{Reply, read_reply};

/// Runs `then` beside so many clients, each in a thread of its own, and gives what they and it
/// returned. A client goes on until its flag is set: `then` has returned or panicked.
pub fn beside<C: Send, T>(
    clients: usize,
    client: impl Fn(usize, &AtomicBool) -> C + Sync,
    then: impl FnOnce() -> T,
) -> (Vec<C>, T) {
    /// Sets the flag in a panic too: else the scope would wait for ever.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (client, over) = (&client, &over);
        let spawn = |number| scope.spawn(move || client(number, over));
        let running: Vec<_> = (0..clients).map(spawn).collect();
        let end = Over(over);
        let result = then();
        drop(end);
        let mut results = Vec::new();
        for client in running {
            results.push(client.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        (results, result)
    })
}

/// One source that holds places with connections that it keeps alive.
pub struct Siege {
    pub source: IpAddr,
    pub address: SocketAddr,
    pub connections: usize,
    /// In each period a connection sends the next part of `message`, or, after the last part,
    /// begins again if a response has come. If the server has closed it, it is opened anew.
    pub period: Duration,
    pub message: Vec<Vec<u8>>,
}

/// What all sources together did.
#[derive(Default)]
pub struct Counts {
    pub sent: AtomicUsize,
    pub answered: AtomicUsize,
    pub opened: AtomicUsize,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let [sent, answered, opened] =
            [&self.sent, &self.answered, &self.opened].map(|count| count.load(Relaxed));
        write!(f, "{opened} hostile connections sent {sent} times, were answered {answered}")
    }
}

#[derive(Default)]
struct Place {
    stream: Option<TcpStream>,
    /// How many parts of the message are sent.
    sent: usize,
}

impl Siege {
    /// Lasts until it is `over`.
    pub fn run(&self, over: &AtomicBool, counts: &Counts) {
        let mut places: Vec<Place> = Vec::new();
        places.resize_with(self.connections, Place::default);
        let step = self.period / self.connections as u32;
        let mut due = Instant::now();
        let mut next = 0;
        while !over.load(Relaxed) {
            let now = Instant::now();
            while due <= now {
                self.ask(&mut places[next], counts);
                next = (next + 1) % places.len();
                due += step;
            }
            // Who is late does not make up for it: then all periods are longer.
            due = due.max(Instant::now());
            thread::sleep(due.saturating_duration_since(now).max(Duration::from_micros(500)));
        }
        // Without leaving a port that is taken for a minute.
        places.into_iter().filter_map(|place| place.stream).for_each(reset);
    }

    /// The turn of one of the connections. It reads once: what is left is for the next turn.
    fn ask(&self, place: &mut Place, counts: &Counts) {
        if let Some(stream) = &mut place.stream {
            match stream.read(&mut [0; 32 * 1024]) {
                Ok(1..) => {
                    counts.answered.fetch_add(1, Relaxed);
                    place.sent = 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => *place = Place::default(),
            }
        }
        if place.stream.is_none() {
            place.stream = open(self.source, self.address);
            counts.opened.fetch_add(1, Relaxed);
        }
        let (Some(stream), Some(part)) = (&mut place.stream, self.message.get(place.sent)) else {
            return;
        };
        match stream.write(part) {
            Ok(_) => {
                counts.sent.fetch_add(1, Relaxed);
                place.sent += 1;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {} // not yet connected
            Err(_) => *place = Place::default(),
        }
    }
}

/// Begins to connect, and does not wait for it.
fn open(source: IpAddr, address: SocketAddr) -> Option<TcpStream> {
    let socket = socket(Some(source), address).ok()?;
    socket.set_nonblocking(true).ok()?;
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_send_buffer_size(128 * 1024); // a part of a message goes in whole
    let _ = socket.connect(&address.into()); // it is under way
    Some(socket.into())
}

/// More than a server and its backlog hold together, so that none of what they hold is closed from
/// this side.
pub const FLOOD_KEEPS: usize = 6000;
/// In a second. More would be a race for the processor, which tests that run beside it would lose.
const FLOOD_OPENS: u32 = 10_000;

/// One source that opens connections as fast as it can, up to `FLOOD_OPENS`, says nothing on every
/// other and `message` on the rest, and forgets them. It gives how many there were.
pub fn flood(source: IpAddr, address: SocketAddr, message: &[u8], over: &AtomicBool) -> u32 {
    const PAUSE: Duration = Duration::from_micros(500);
    let (mut due, mut kept, mut opened) = (Instant::now(), VecDeque::new(), 0);
    while !over.load(Relaxed) {
        let now = Instant::now();
        if now < due {
            thread::sleep(PAUSE);
            continue;
        }
        // Nor does this one make up for being late, but for what a pause makes of it.
        due = due.max(now - 10 * PAUSE) + Duration::from_secs(1) / FLOOD_OPENS;
        opened += 1;
        // If none can be opened, the next may be luckier.
        let Some(stream) = open(source, address) else { continue };
        if opened % 2 == 0 {
            let _ = (&stream).write(message);
        }
        kept.push_back(stream);
        if kept.len() > FLOOD_KEEPS {
            kept.pop_front().into_iter().for_each(reset);
        }
    }
    kept.into_iter().for_each(reset);
    opened
}

/// What became of requests that were sent at even intervals, each on a connection of its own.
#[derive(Debug)]
pub struct Series {
    pub count: usize,
    /// How long each waited that was answered 200 in time, the shortest first.
    pub served: Vec<Duration>,
    /// How many of the others ended how.
    pub others: BTreeMap<String, usize>,
}

impl Series {
    /// Sends `count` requests, one in each `interval`, whatever becomes of those before. `ask`
    /// sends one and waits for its response no longer than `limit`.
    pub fn run(
        count: usize,
        interval: Duration,
        limit: Duration,
        ask: impl Fn(usize) -> Result<Reply, String> + Sync,
    ) -> Series {
        let (served, others) = (Mutex::new(Vec::new()), Mutex::new(BTreeMap::new()));
        let start = Instant::now();
        thread::scope(|scope| {
            for number in 0..count {
                let due = start + interval * number as u32;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let (ask, served, others) = (&ask, &served, &others);
                scope.spawn(move || {
                    let start = Instant::now();
                    let result = ask(number);
                    let took = start.elapsed();
                    let end = match result {
                        Ok(reply) if reply.status == 200 && took < limit => {
                            return served.lock().unwrap().push(took);
                        }
                        Ok(reply) if reply.status == 200 => "200, too late".to_owned(),
                        Ok(reply) => reply.status.to_string(),
                        Err(error) => error,
                    };
                    *others.lock().unwrap().entry(end).or_default() += 1;
                });
            }
        });
        let mut served = served.into_inner().unwrap();
        served.sort();
        Series { count, served, others: others.into_inner().unwrap() }
    }

    /// The longest that anybody waited who was served.
    pub fn longest(&self) -> Duration {
        self.served.last().copied().unwrap_or_default()
    }

    /// As many waited longer as waited less.
    pub fn median(&self) -> Duration {
        self.served.get(self.served.len() / 2).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let (served, count, others) = (self.served.len(), self.count, &self.others);
        let (median, longest) = (self.median(), self.longest());
        write!(f, "{served} of {count} served, median {median:.1?}, longest {longest:.1?}")?;
        if others.is_empty() { Ok(()) } else { write!(f, ", others: {others:?}") }
    }
}

/// One request and its response on a connection of its own from `source`, all within `limit`; else
/// in words what happened.
pub fn ask_from(
    source: Option<IpAddr>,
    address: SocketAddr,
    message: &[u8],
    limit: Duration,
) -> Result<Reply, String> {
    let deadline = Instant::now() + limit;
    let socket = socket(source, address).map_err(|error| error.to_string())?;
    socket
        .connect_timeout(&address.into(), limit)
        .map_err(|error| format!("not connected ({:?})", error.kind()))?;
    let left = deadline.saturating_duration_since(Instant::now());
    let stream = prepare(socket.into(), left.max(Duration::from_millis(1)));
    let stream = stream.map_err(|error| error.to_string())?;
    let sent = send_all(&stream, message);
    let reply = read_reply(&mut BufReader::new(stream), false);
    reply.ok_or_else(|| match (sent, Instant::now() < deadline) {
        (_, false) => "no response in time".to_owned(),
        (true, true) => "closed without a response".to_owned(),
        (false, true) => "closed before all was sent".to_owned(),
    })
}

/// The same request as the only one of its connection.
pub fn closing(request: &[u8]) -> Vec<u8> {
    let mut lines = request.splitn(2, |byte| *byte == b'\n');
    let first = lines.next().expect("a request line");
    let rest = lines.next().expect("header lines");
    [first, b"\nConnection: close\r\n", rest].concat()
}
