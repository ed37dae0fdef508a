//! The attacks, a test each, over the real binary and real sockets. Each shows that other clients
//! are served meanwhile, that memory stays bounded, and that the process is the one that started.
//! The test of `bare`, ignored by default (`cargo test --test hostile -- --ignored`), has the same
//! attacks on a bare tiny_http loop, which succeed, so that the suite can tell the difference.

mod backend;
mod bare;
mod behind_a_proxy;
mod floods;
mod mutations;
mod requests;
mod sieges;
mod slow;

use std::io::{BufReader, ErrorKind, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use support::hostile::*;
use support::load::*;
use support::world::{FORM, Site, objects};
use support::{
    Disk, Folder, PATIENCE, Reply, Server, binary, cpu_time, namespace, read_reply, rounds,
};

/// How long another client may have to wait, whatever the attack.
const SERVED_WITHIN: Duration = Duration::from_secs(1);
/// How long while the loop itself cannot go on: OSS gives up after this time.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// Between the valid callbacks of a series, of which there are a hundred: it takes 2.5 s.
const SERIES_INTERVAL: Duration = Duration::from_millis(25);
const MAX_MEMORY_KB: u64 = 12 * 1024;

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
/// Only an attacker asks for this, and only in places where it is no request.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
/// Announces a body.
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n";

/// With this request line, and these fields besides `Host`.
fn request(line: &str, fields: &str) -> String {
    format!("{line}\r\nHost: x\r\n{fields}\r\n")
}

fn get(target: &str, fields: &str) -> String {
    request(&format!("GET {target} HTTP/1.1"), fields)
}

/// A server under attack, which verifies the callbacks of a bucket, and another client of it. When
/// it is dropped, it must have survived.
struct World {
    server: Server,
    site: Site,
    callback: Vec<u8>,
    slowest: Mutex<Duration>,
}

impl World {
    fn new(changes: &[(&str, &str)]) -> World {
        World::of(Command::new(binary()), "127.0.0.1", changes)
    }

    /// `command` ends up as the server once it has its address.
    fn of(mut command: Command, ip: &str, changes: &[(&str, &str)]) -> World {
        allow_descriptors(FLOOD_KEEPS); // of this process, for the clients of all tests
        let site = Site::new(&[("UPLOAD_LOG", "")]);
        command.args([ip, "0"]);
        let server = Server::spawn(command, &site.vars(changes));
        let callback = site.callback("/callback", "user/a.txt");
        World { server, site, callback, slowest: Mutex::default() }
    }

    fn address(&self) -> SocketAddr {
        self.server.address
    }

    fn connect(&self) -> TcpStream {
        connect(self.address()).unwrap()
    }

    /// The `number`th of many clients, each with an address of its own.
    fn connect_from(&self, number: usize) -> TcpStream {
        connect_from(loopback(number), self.address()).unwrap()
    }

    /// So many connections that say nothing.
    fn connect_all(&self, count: usize) -> Vec<TcpStream> {
        (0..count).map(|_| self.connect()).collect()
    }

    /// A new connection on which this is sent, as far as the server takes it.
    fn send(&self, message: impl AsRef<[u8]>) -> TcpStream {
        let stream = self.connect();
        send_all(&stream, message.as_ref());
        stream
    }

    /// One request and its response on a connection of its own.
    fn ask(&self, message: &[u8]) -> Option<Reply> {
        let stream = connect(self.address()).ok()?;
        send_all(&stream, message);
        response(&stream)
    }

    /// Sends bytes, ends its side, and reads all responses until the server closes.
    fn answers(&self, message: impl AsRef<[u8]>) -> Vec<Reply> {
        answers_on(self.connect(), message)
    }

    fn statuses(&self, message: impl AsRef<[u8]>) -> Vec<u16> {
        statuses(&self.answers(message))
    }

    /// The proxy itself refuses this, and whatever follows on the connection is no request.
    fn refuses(&self, message: impl AsRef<[u8]>, status: u16) -> Reply {
        let message = message.as_ref();
        let told = self.answers(message);
        let shown = message[..message.len().min(200)].escape_ascii();
        assert_eq!(statuses(&told), [status], "{shown}");
        assert!(is_refusal(&told[0]), "{shown}: {told:?}");
        told[0].clone()
    }

    /// A new client: a health check, a policy, a callback, each on a connection of its own and
    /// each answered in time.
    fn others_are_served(&self) {
        for (message, expected) in [
            (HEALTH, "ok\n"),
            (get("/", "").as_bytes(), "\"policy\":"),
            (&self.callback, "{\"Status\":\"OK\"}"),
        ] {
            let start = Instant::now();
            let reply = self.ask(message);
            let took = start.elapsed();
            let reply = reply.unwrap_or_else(|| panic!("no {expected} after {took:?}"));
            assert!(reply.status == 200 && reply.text().contains(expected), "{reply:?}");
            assert!(took < SERVED_WITHIN, "{expected} took {took:?}");
            self.waited(took);
        }
    }

    /// Others are served before the attack, all through it, and after it.
    fn while_others_are_served<T>(&self, attack: impl FnOnce() -> T) -> T {
        self.others_are_served();
        let ask = |_, over: &AtomicBool| {
            while !over.load(Relaxed) {
                self.others_are_served();
                thread::sleep(Duration::from_millis(10));
            }
        };
        let (_, result) = beside(1, ask, attack);
        self.others_are_served();
        result
    }

    /// A hundred valid callbacks from one source, a connection each.
    fn callbacks_from(&self, source: IpAddr) -> Series {
        let series = callbacks(source, self.address(), &self.callback);
        self.waited(series.longest());
        series
    }

    fn waited(&self, time: Duration) {
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = time.max(*slowest);
    }

    /// A valid callback about this object.
    fn callback_about(&self, object: &str) -> Vec<u8> {
        self.site.callback("/callback", &format!("user/{object}"))
    }

    /// Asks until a callback is answered 200. Until then 503 will do: the loop may have to finish
    /// requests first that nobody waits for any more.
    fn is_served_again_within(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            match self.ask(&self.callback).map(|reply| reply.status) {
                Some(200) => return,
                Some(503) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                told => panic!("told {told:?}, and nothing is served"),
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        self.others_are_served();
        let peak = self.server.status("VmHWM");
        let slowest = self.slowest.lock().unwrap();
        assert_survived(
            self.server.is_running(),
            peak,
            &format!("others waited {slowest:?} at most"),
        );
    }
}

/// What must be true after every attack. (VmHWM, in kB, is the highest that VmRSS ever was.)
fn assert_survived(is_running: bool, peak: u64, report: &str) {
    assert!(is_running, "the process is another");
    assert!(peak < MAX_MEMORY_KB, "memory rose to {peak} kB");
    let test = thread::current().name().unwrap_or_default().to_owned();
    println!("{test}: {peak} kB, {report}");
}

/// A hundred requests like this from one source, which want to be answered 200 in time.
fn callbacks(source: IpAddr, address: SocketAddr, message: &[u8]) -> Series {
    let ask = |_| ask_from(Some(source), address, message, SERVED_WITHIN);
    Series::run(100, SERIES_INTERVAL, SERVED_WITHIN, ask)
}

/// One response, unless the server closes before it is whole.
fn response(stream: &TcpStream) -> Option<Reply> {
    read_reply(&mut BufReader::new(stream), false)
}

fn answers_on(stream: TcpStream, message: impl AsRef<[u8]>) -> Vec<Reply> {
    send_all(&stream, message.as_ref());
    let _ = stream.shutdown(Shutdown::Write);
    all_responses(&stream)
}

/// All that come until the server closes.
fn all_responses(stream: &TcpStream) -> Vec<Reply> {
    let bytes = read_to_close(stream).expect("the server closes");
    let (mut rest, mut replies) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let reply = read_reply(&mut rest, false);
        replies.push(reply.unwrap_or_else(|| panic!("after {replies:?} comes no whole response")));
    }
    replies
}

fn statuses(replies: &[Reply]) -> Vec<u16> {
    replies.iter().map(|reply| reply.status).collect()
}

/// Why the proxy itself refused a request.
fn reason(reply: &Reply) -> Option<String> {
    let text = reply.text();
    Some(text.strip_prefix("{\"reason\":\"")?.strip_suffix("\"}")?.to_owned())
}

/// Whether the proxy itself refused the request, in a response that a page of any origin may read:
/// without the CORS header its script learns no more than that something failed.
fn is_refusal(reply: &Reply) -> bool {
    reason(reply).is_some()
        && reply.header("connection") == Some("close")
        && reply.header("access-control-allow-origin") == Some("*")
}

/// How many lines a log says were lost, because nobody read it in time.
fn lost_lines(log: &[String]) -> usize {
    let said = log.iter().filter_map(|line| {
        let (before, _) = line.split_once(" lines of the log were lost")?;
        before.rsplit(' ').next()?.parse::<usize>().ok()
    });
    said.sum()
}

/// Whether anything has come, a response or the end.
fn has_answer(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Held by attacks that keep a processor busy all the time: two beside each other would show what
/// the machine can do, not the server.
fn alone() -> MutexGuard<'static, ()> {
    static PROCESSOR: Mutex<()> = Mutex::new(());
    PROCESSOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks all rows at once, each in a thread that is called `name` and its number.
fn side_by_side<T: Send>(name: &str, rows: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    thread::scope(|scope| {
        for (number, row) in rows.into_iter().enumerate() {
            let (check, name) = (&check, format!("{name}, row {number}"));
            thread::Builder::new().name(name).spawn_scoped(scope, move || check(row)).unwrap();
        }
    });
}
