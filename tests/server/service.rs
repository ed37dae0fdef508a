//! The service manager's side of the real binary. The test plays systemd: it hears the messages,
//! keeps the listening socket, ends one process and starts the next. Nobody who connects meanwhile
//! may notice, no callback may be lost, and no secret may be read beside the process.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use oss_standin::{CredentialFault, KeyFault, Options, Source};
use serde_json::json;
use support::hostile::{Random, connect_narrow, is_closed, read_to_close, send_all};
use support::load::beside;
use support::systemd::{Manager, Service, Signal, inode};
use support::trust::{JWT_SECRET, TOKEN_KEY, now, ticket};
use support::world::{FORM, Site, V1, V4, borrowed, policy};
use support::{Connection, Disk, PATIENCE, Server, binary, read_reply, request, run, upload};

/// A watchdog's interval that keeps tests short: it asks twice in this time.
const OFTEN: (&str, &str) = ("WATCHDOG_USEC", "400000");
const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// systemd, a bucket that calls back, and what a server needs to be started between them.
struct World {
    manager: Manager,
    site: Site,
}

impl Deref for World {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl World {
    fn new(changes: &[(&str, &str)]) -> World {
        World::heard_at(None, changes)
    }

    /// The same with a service that runs.
    fn started(changes: &[(&str, &str)]) -> (World, Service) {
        let world = World::new(changes);
        let service = world.start_first();
        (world, service)
    }

    /// systemd hears at this name, or at a path in the folder.
    fn heard_at(name: Option<&str>, changes: &[(&str, &str)]) -> World {
        // Nobody is called back: this is for the names in the body.
        let url = ("CALLBACK_URL", "http://127.0.0.1:9/callback");
        let site = Site::new(&[&[url, ("CALLBACK_TOKEN", "off")], changes].concat());
        let path = site.folder.path("notify");
        World { manager: Manager::start(name.unwrap_or(&path)), site }
    }

    fn start(&self, arguments: &[&str], descriptors: Vec<OwnedFd>) -> Service {
        self.start_with(arguments, &[], descriptors)
    }

    fn start_with(
        &self,
        arguments: &[&str],
        changes: &[(&str, &str)],
        descriptors: Vec<OwnedFd>,
    ) -> Service {
        Service::start(Some(&self.manager), arguments, &self.exact(changes), descriptors)
    }

    /// A start on a listener of the test's own, whose address is known without a message; that
    /// systemd hears nothing of, unless a variable says where it does.
    fn start_unheard(&self, changes: &[(&str, &str)]) -> (Service, SocketAddr) {
        let (address, socket) = listener();
        let vars = self.exact(changes);
        (Service::start(None, &["127.0.0.1", "0"], &vars, vec![socket]), address)
    }

    /// A first start on a port that the system chose, and the wait for it.
    fn start_first(&self) -> Service {
        let service = self.start(&["127.0.0.1", "0"], Vec::new());
        self.manager.wait("READY=1", 1);
        service
    }

    /// The next process, with the socket that systemd keeps.
    fn start_next(&self) -> Service {
        let port = self.address().port().to_string();
        self.start(&["127.0.0.1", &port], self.manager.kept())
    }

    /// Of the socket that systemd keeps.
    fn address(&self) -> SocketAddr {
        self.manager.address()
    }

    /// The complete callback about an object, as OSS sends it: on a connection of its own.
    fn callback(&self, object: &str) -> Vec<u8> {
        self.site.callback("/callback", object)
    }

    fn send(&self, message: &[u8]) -> Connection {
        Connection::begin(self.address(), message)
    }

    /// systemd's SIGTERM, and the wait until the server has heard it.
    fn tell_to_end(&self, service: &Service) {
        service.signal(Signal::TERM);
        self.manager.wait("STOPPING=1", 1);
    }
}

fn listener() -> (SocketAddr, OwnedFd) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    (socket.local_addr().unwrap(), socket.into())
}

fn status(connection: &mut Connection) -> Option<u16> {
    connection.reply().map(|reply| reply.status)
}

fn is_well(address: SocketAddr) -> bool {
    request(address, "GET", "/healthz", &[], b"").status == 200
}

// What systemd hears.

/// systemd hears READY=1 (sd_notify) once the first credentials are there; clients that connect
/// earlier wait.
#[test]
fn ready_comes_when_requests_are_answered_and_not_before() {
    let world = World::new(&[("CALLBACK_PUBLIC_KEY_FILE", "")]);
    // Until it has the first credentials the server cannot do its work.
    world.bucket.faults().sts = CredentialFault::Hang;
    world.bucket.faults().key = KeyFault::Hang;
    let role = world.bucket.role_vars(Source::Sts);
    let mut service = world.start_with(&["127.0.0.1", "0"], &borrowed(&role), Vec::new());
    assert!(world.bucket.wait_for_stalls(1, PATIENCE));
    assert_eq!(world.manager.count("READY=1"), 0);
    // Who comes now waits; and the socket is kept already, so it waits through a crash too.
    let mut early = world.send(HEALTH);
    for _ in 0..2 {
        world.bucket.release();
    }
    world.manager.wait("READY=1", 1);
    world.bucket.release();
    assert_eq!(status(&mut early), Some(200));
    assert!(service.stop().success());
    assert_eq!(
        world.manager.messages(),
        ["FDSTOREREMOVE=1\nFDNAME=listener", "FDSTORE=1\nFDNAME=listener", "READY=1", "STOPPING=1"]
    );
}

/// systemd: the watchdog hears WATCHDOG=1 all the time, at a path or an abstract socket name.
#[test]
fn the_watchdog_is_told_again_and_again() {
    let name = format!("@appserver-service-{}", std::process::id());
    for name in [None, Some(&*name)] {
        let world = World::heard_at(name, &[OFTEN]);
        let mut service = world.start_first();
        world.manager.wait("WATCHDOG=1", 4);
        assert!(service.stop().success());
        world.manager.wait("STOPPING=1", 1);
        let messages = world.manager.messages();
        assert_eq!(messages.last().unwrap(), "STOPPING=1");
        let ready = messages.iter().position(|message| message == "READY=1").unwrap();
        let first = messages.iter().position(|message| message == "WATCHDOG=1").unwrap();
        assert!(ready < first, "{messages:?}");
    }
}

/// In the time in which a server tells its watchdog ten times, one that was not asked to is silent.
#[test]
fn without_a_watchdog_of_its_own_it_is_silent() {
    let asked = World::new(&[OFTEN]);
    let worlds = [
        World::new(&[OFTEN, ("WATCHDOG_PID", "1")]),
        World::new(&[]),
        World::new(&[("WATCHDOG_USEC", "soon")]),
        World::new(&[("WATCHDOG_USEC", "0")]),
    ];
    let mut services: Vec<Service> = worlds.iter().map(World::start_first).collect();
    let _asked = asked.start_first();
    asked.manager.wait("WATCHDOG=1", 10);
    for (world, service) in worlds.iter().zip(&mut services) {
        assert_eq!(world.manager.count("WATCHDOG=1"), 0);
        assert!(service.stop().success());
        world.manager.wait("STOPPING=1", 1);
        assert_eq!(world.manager.messages().len(), 4);
    }
}

/// Without systemd, or with one that cannot be reached or does not read its messages, which would
/// hold all clients: the same server.
#[test]
fn it_serves_and_ends_without_anybody_to_tell() {
    let world = World::new(&[OFTEN]);
    let [file, nothing, full] = ["file", "nothing", "full"].map(|name| world.folder.path(name));
    fs::write(&file, "").unwrap();
    let _unread = UnixDatagram::bind(&full).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"full", &full).is_ok() {}
    let long = format!("/{}", "x".repeat(300));
    for name in ["", "@", "/", "relative", "vsock:2:1", &long, &file, &nothing, &full, "\n", " "] {
        // Without a name at all, or with one that leads nowhere.
        let (mut service, address) = world.start_unheard(&[("NOTIFY_SOCKET", name)]);
        assert!(is_well(address), "{name:?}");
        assert!(service.stop().success(), "{name:?}");
    }
    assert!(world.manager.messages().is_empty());
}

/// SIGTERM and SIGINT shut the server down with exit code 0. A process that answers is one that ends
/// in order: whoever it serves by then is served first.
#[test]
fn from_the_first_answer_on_the_end_is_an_orderly_one() {
    let world = World::new(&[]);
    for signal in [Signal::TERM, Signal::INT].repeat(15) {
        let (address, socket) = listener();
        // The callback is there before the proxy is.
        let mut first = Connection::begin(address, &world.callback("first"));
        let mut service = world.start(&["127.0.0.1", "0"], vec![socket]);
        assert_eq!(status(&mut first), Some(200));
        service.signal(signal);
        assert_eq!(service.wait().code(), Some(0));
    }
    world.manager.wait("STOPPING=1", 30);
}

// What the watchdog proves.

/// A server whose loop waits for a disk that hangs, and requests that wait for the loop, each with
/// the status that it gets when the disk is back.
fn start_stuck(world: &World) -> (Service, Disk, Vec<(Connection, u16)>) {
    let disk = Disk::new();
    let service = world.start_with(&["127.0.0.1", "0"], &disk.vars(), Vec::new());
    world.manager.wait("WATCHDOG=1", 2);
    disk.hang();
    let mut unanswered = vec![(world.send(&world.callback("stuck")), 200)];
    disk.wait_for_a_sync();
    for number in 0..3 {
        let message = format!("GET /{number} HTTP/1.0\r\n\r\n");
        unanswered.push((world.send(message.as_bytes()), 404));
    }
    (service, disk, unanswered)
}

/// The watchdog hears nothing while a disk hangs in fsync, so systemd would restart the server.
#[test]
fn a_loop_that_is_stuck_is_not_reported_alive() {
    let world = World::new(&[OFTEN]);
    let (mut service, disk, unanswered) = start_stuck(&world);
    let before = world.manager.count("WATCHDOG=1");
    // One may have been under way. More do not come in the time of ten.
    assert!(!world.manager.hears("WATCHDOG=1", before + 2, Duration::from_secs(2)));
    disk.resume();
    world.manager.wait("WATCHDOG=1", before + 3);
    for (mut connection, expected) in unanswered {
        assert_eq!(status(&mut connection), Some(expected));
    }
    assert!(service.stop().success());
}

/// The drain waits for nobody who waits for the loop: systemd need not kill.
#[test]
fn a_loop_that_is_stuck_can_be_ended() {
    let world = World::new(&[OFTEN]);
    let (mut service, _disk, _unanswered) = start_stuck(&world);
    let told = Instant::now();
    world.tell_to_end(&service);
    assert!(service.wait().success());
    println!("ended {:.1?} after it was told to, with a stuck loop", told.elapsed());
}

/// The watchdog of a busy server: its health check waits in line with all requests and is answered,
/// so that systemd ends no server that works.
#[test]
fn a_busy_server_goes_on_telling_its_watchdog() {
    let (world, mut service) = World::started(&[OFTEN]);
    let address = world.address();
    let busy = |number: usize, over: &AtomicBool| {
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            let callback = world.callback(&format!("{number}-{count}"));
            assert_eq!(support::send(address, &callback, false).unwrap().status, 200);
            count += 1;
        }
        count
    };
    let told = world.manager.count("WATCHDOG=1");
    let (counts, ()) = beside(16, busy, || world.manager.wait("WATCHDOG=1", told + 8));
    assert!(counts.iter().all(|count| *count > 8), "not busy: {counts:?}");
    assert!(service.stop().success());
}

/// A health check needs no place among the clients.
#[test]
fn a_proxy_full_of_silent_clients_does_not_silence_the_watchdog() {
    const FULL: usize = 512; // the default of MAX_CONNECTIONS
    let (world, mut service) = World::started(&[OFTEN]);
    let address = world.address();
    let (mut silent, mut sent_away) = (Vec::new(), 0);
    for _ in 0..6 {
        silent.retain(|stream| !is_closed(stream));
        while silent.len() < FULL + 4 {
            silent.push(TcpStream::connect(address).unwrap());
        }
        world.manager.wait("WATCHDOG=1", world.manager.count("WATCHDOG=1") + 2);
        sent_away += silent.iter().filter(|stream| is_closed(stream)).count();
    }
    println!("{sent_away} silent clients gave way");
    assert!(sent_away >= 6 * 4, "the proxy was never full");
    assert!(service.stop().success());
}

// The socket that outlives the process.

/// restart: systemd keeps the listening socket (its fd store), so clients wait through a stop or a
/// crash.
#[test]
fn who_calls_between_two_processes_is_answered_by_the_next() {
    let (world, mut first) = World::started(&[]);
    let address = world.address();
    let socket = inode(&world.manager.kept()[0]);
    assert_eq!(status(&mut world.send(&world.callback("before"))), Some(200));
    assert!(first.stop().success());
    let mut waiting = world.send(&world.callback("between"));
    let mut second = world.start_next();
    assert_eq!(status(&mut waiting), Some(200));
    world.manager.wait("READY=1", 2);
    // It is the same socket, and systemd keeps it still.
    assert_eq!(world.address(), address);
    assert_eq!(inode(&world.manager.kept()[0]), socket);
    assert_eq!(world.manager.count("FDSTOREREMOVE=1"), 1);
    // A crash is no different.
    second.signal(Signal::KILL);
    assert_eq!(second.wait().signal(), Some(9));
    let mut waiting = world.send(&world.callback("after a crash"));
    let mut third = world.start_next();
    assert_eq!(status(&mut waiting), Some(200));
    assert_eq!(world.objects(), ["before", "between", "after a crash"]);
    assert!(third.stop().success());
}

/// The command line is what the operator changes; an old socket must not outlive that.
#[test]
fn a_socket_for_another_address_is_given_up() {
    let (world, mut first) = World::started(&[]);
    let old = world.address();
    assert!(first.stop().success());
    let mut second = world.start(&["127.0.0.2", "0"], world.manager.kept());
    world.manager.wait("READY=1", 2);
    let new = world.address();
    assert_eq!(new.ip().to_string(), "127.0.0.2");
    assert!(is_well(new));
    assert!(TcpStream::connect(old).is_err());
    let messages = world.manager.messages();
    let again = &messages[messages.len() - 3..];
    let store = ["FDSTOREREMOVE=1\nFDNAME=listener", "FDSTORE=1\nFDNAME=listener", "READY=1"];
    assert_eq!(again, store);
    assert!(second.stop().success());
    // Of two, it takes the one that is asked for, wherever it is.
    let mut both = vec![listener().1];
    both.extend(world.manager.kept());
    let mut waiting = world.send(&world.callback("second"));
    let mut third = world.start(&["127.0.0.2", &new.port().to_string()], both);
    assert_eq!(status(&mut waiting), Some(200));
    assert!(third.stop().success());
}

/// restart: a Unix socket keeps its inode; if its path was removed, there is a new one.
#[test]
fn a_unix_socket_stays_where_it_is() {
    let world = World::new(&[]);
    let path = world.folder.path("http.sock");
    let connect = |object: &str| {
        let mut connection = Connection::unix(Path::new(&path)).unwrap();
        connection.send(&world.callback(object));
        connection
    };
    let argument = format!("unix:{path}");
    let arguments = [argument.as_str()];
    let mut first = world.start(&arguments, Vec::new());
    world.manager.wait("READY=1", 1);
    let there = fs::metadata(&path).unwrap();
    assert!(there.file_type().is_socket());
    assert!(first.stop().success());
    let mut waiting = connect("between");
    let mut second = world.start(&arguments, world.manager.kept());
    assert_eq!(status(&mut waiting), Some(200));
    world.manager.wait("READY=1", 2);
    let still = fs::metadata(&path).unwrap();
    assert_eq!((still.ino(), still.mode()), (there.ino(), there.mode()));
    assert_eq!(world.manager.kept().len(), 1);
    assert!(second.stop().success());

    // A socket whose path is gone reaches nobody: then a new one, and that is kept.
    fs::remove_file(&path).unwrap();
    let mut third = world.start(&arguments, world.manager.kept());
    world.manager.wait("READY=1", 3);
    assert_eq!(status(&mut connect("anew")), Some(200));
    assert_eq!((world.manager.count("FDSTOREREMOVE=1"), world.manager.kept().len()), (2, 1));
    assert!(third.stop().success());
    assert_eq!(world.objects(), ["between", "anew"]);
}

/// Whatever stands where a socket should be, the server has one of its own.
#[test]
fn what_is_no_listener_is_left_alone() {
    let own = || listener().1;
    let file = || fs::File::open("/dev/null").unwrap().into();
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(peer.local_addr().unwrap()).unwrap();
    type Case<'a> = (&'a str, OwnedFd, &'a [(&'a str, &'a str)]);
    let cases: Vec<Case> = vec![
        ("a file", file(), &[]),
        ("a UDP socket", UdpSocket::bind("127.0.0.1:0").unwrap().into(), &[]),
        ("a pair of sockets", UnixDatagram::pair().unwrap().0.into(), &[]),
        ("a pair of streams", UnixStream::pair().unwrap().0.into(), &[]),
        ("a connection", connected.into(), &[]),
        ("fewer than said", file(), &[("LISTEN_FDS", "5")]),
        ("no number", own(), &[("LISTEN_FDS", "many")]),
        ("less than none", own(), &[("LISTEN_FDS", "-1")]),
        ("another's", own(), &[("LISTEN_PID", "1")]),
        ("nobody's", own(), &[("LISTEN_PID", "me")]),
    ];
    for (what, descriptor, changes) in cases {
        let world = World::new(&[]);
        let copy = descriptor.try_clone().unwrap();
        let mut service = world.start_with(&["127.0.0.1", "0"], changes, vec![descriptor]);
        world.manager.wait("READY=1", 1);
        let kept = world.manager.kept();
        assert!(kept.iter().all(|kept| inode(kept) != inode(&copy)), "{what}");
        assert_eq!(kept.len(), 1, "{what}");
        assert!(is_well(world.address()), "{what}");
        assert!(service.stop().success(), "{what}");
    }
    // More than there are, and the right one among them.
    let world = World::new(&[]);
    let (mut service, address) = world.start_unheard(&[("LISTEN_FDS", "5")]);
    assert!(is_well(address));
    assert!(service.stop().success());
}

// Restarts under load.

/// What clients saw.
#[derive(Default)]
struct Seen {
    /// Objects whose callback was answered 200.
    acknowledged: Mutex<Vec<String>>,
    /// Tells `wait_for_load` of another.
    told: Condvar,
    polled: AtomicUsize,
    /// Connections that were refused.
    refused: AtomicUsize,
    /// Callbacks that were sent and not answered.
    lost: Mutex<Vec<String>>,
    /// Requests without an answer on connections that the server had not said to close.
    dropped: AtomicUsize,
}

impl Seen {
    /// Waits until some more callbacks are acknowledged.
    fn wait_for_load(&self) {
        let more = support::rounds(30, 10);
        let acknowledged = self.acknowledged.lock().unwrap();
        let goal = acknowledged.len() + more;
        let fewer = |all: &mut Vec<String>| all.len() < goal;
        let waited = self.told.wait_timeout_while(acknowledged, PATIENCE, fewer).unwrap();
        assert!(waited.0.len() >= goal, "no more answers");
    }

    /// A callback as OSS makes it: one connection, one request, nothing is repeated.
    fn call_back(&self, world: &World, address: SocketAddr, object: String) {
        let Some(mut connection) = Connection::open(address) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let sent = Instant::now();
        match connection.ask(&world.callback(&object)) {
            Some(reply) if reply.status == 200 => {
                self.acknowledged.lock().unwrap().push(object);
                self.told.notify_all();
            }
            reply => {
                let text = format!("{object}: {reply:?} after {:?}", sent.elapsed());
                self.lost.lock().unwrap().push(text);
            }
        }
    }

    /// A page that asks again and again on one connection for as long as the server keeps it.
    fn poll(&self, address: SocketAddr, over: &AtomicBool) {
        let mut connection = None;
        while !over.load(Ordering::Relaxed) {
            let Some(open) = connection.take().or_else(|| Connection::open(address)) else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return;
            };
            let open = connection.insert(open);
            let Some(reply) = open.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") else {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                connection = None;
                continue;
            };
            assert_eq!(reply.status, 200);
            self.polled.fetch_add(1, Ordering::Relaxed);
            if reply.header("connection") == Some("close") {
                assert!(open.is_at_its_end(), "more after the last answer");
                connection = None;
            }
        }
    }

    /// Callbacks and polls that the server took and did not answer.
    fn cut(&self) -> usize {
        self.lost.lock().unwrap().len() + self.dropped.load(Ordering::Relaxed)
    }
}

const CALLERS: usize = 4;
const POLLERS: usize = 2;

/// Runs clients while `restart` plays systemd in each round: it ends a process and starts the next.
/// Whatever it does, nobody is refused, and what was acknowledged is in the record.
fn restarts(
    what: &str,
    rounds: usize,
    mut restart: impl FnMut(&World, &mut Service, &Seen, usize),
) -> (World, Seen) {
    let (world, seen) = (World::new(&[]), Seen::default());
    let mut service = world.start_first();
    let (address, start) = (world.address(), Instant::now());
    let client = |number: usize, over: &AtomicBool| {
        if number >= CALLERS {
            return seen.poll(address, over);
        }
        for n in (0..).take_while(|_| !over.load(Ordering::Relaxed)) {
            seen.call_back(&world, address, format!("{number}-{n}"));
        }
    };
    beside(CALLERS + POLLERS, client, || {
        for round in 1..=rounds {
            restart(&world, &mut service, &seen, round);
        }
        seen.wait_for_load();
    });
    let took = start.elapsed();
    assert!(service.stop().success());

    let recorded: BTreeSet<String> = world.objects().into_iter().collect();
    let acknowledged = seen.acknowledged.lock().unwrap().clone();
    let missing = acknowledged.iter().filter(|object| !recorded.contains(*object)).count();
    let refused = seen.refused.load(Ordering::Relaxed);
    println!(
        "{rounds} {what} in {took:.1?}: {refused} refused; {} callbacks acknowledged, {missing} of \
         them not in the record; {} polls, {} without an answer; callbacks without one: {:#?}",
        acknowledged.len(),
        seen.polled.load(Ordering::Relaxed),
        seen.dropped.load(Ordering::Relaxed),
        seen.lost.lock().unwrap(),
    );
    assert_eq!((refused, missing), (0, 0));
    assert!(acknowledged.len() >= rounds, "too little load to show anything");
    (world, seen)
}

/// restart: who connects between two processes waits for the next, and nothing is lost or done
/// twice.
#[test]
fn fifty_restarts_under_load_refuse_nobody_and_lose_nothing() {
    let rounds = support::rounds(50, 15);
    let (world, seen) = restarts("restarts", rounds, |world, service, seen, round| {
        seen.wait_for_load();
        assert_eq!(service.stop().code(), Some(0));
        *service = world.start_next();
        world.manager.wait("READY=1", 1 + round);
    });
    assert_eq!(seen.cut(), 0);
    // Nothing was sent twice, so nothing is there twice.
    assert_eq!(world.objects().len(), seen.acknowledged.lock().unwrap().len());
}

/// systemd may be told to stop what it has just begun to start.
#[test]
fn restarts_at_any_moment_of_the_start_lose_nothing() {
    let mut random = Random(now() << 20 | u64::from(std::process::id()));
    println!("seed {}", random.0);
    let (rounds, mut early) = (support::rounds(100, 25), 0);
    let what = "restarts, READY or not";
    let (_world, seen) = restarts(what, rounds, |world, service, seen, round| {
        let ready = world.manager.count("READY=1");
        let status = service.stop();
        early += usize::from(status.signal() == Some(15));
        assert!(status.success() || status.signal() == Some(15), "{status}");
        *service = world.start_next();
        // Now and then there must be answers at all.
        if round % 10 == 0 {
            world.manager.wait("READY=1", ready + 1);
            seen.wait_for_load();
        } else {
            thread::sleep(Duration::from_micros(random.below(80_000) as u64));
        }
    });
    println!("{early} processes ended before they could be told");
    assert_eq!(seen.cut(), 0);
}

/// What a crash takes with it is what was being answered, and nothing else.
#[test]
fn crashes_under_load_refuse_nobody_and_lose_nothing_that_was_acknowledged() {
    let rounds = support::rounds(50, 15);
    let (_world, seen) = restarts("crashes", rounds, |world, service, seen, round| {
        seen.wait_for_load();
        service.signal(Signal::KILL);
        service.wait();
        *service = world.start_next();
        world.manager.wait("READY=1", 1 + round);
    });
    let cut = seen.cut();
    assert!(cut <= rounds * (CALLERS + POLLERS), "{cut}");
}

// The end of a process.

impl World {
    /// With every callback confirmed by a look into the bucket, where "slow" is.
    fn confirming() -> World {
        let world = World::new(&[("CONFIRM_UPLOADS", "on")]);
        world.bucket.put("user/slow", b"12345", "text/plain");
        world
    }

    fn confirmed_callback(&self) -> Vec<u8> {
        let etag = self.bucket.object("user/slow").unwrap().etag;
        let body = format!("filename=user/slow&size=5&bucket=examplebucket&etag={etag}");
        self.bucket.callback_request("/callback", "example.com", body.as_bytes(), FORM)
    }
}

/// shutdown: the drain waits for a callback that is being confirmed. It closes connections that say
/// nothing, are idle between two requests, or stay in the middle of one.
#[test]
fn the_end_waits_for_a_callback_and_for_nobody_who_says_nothing() {
    let world = World::confirming();
    let mut service = world.start_first();
    let request = world.confirmed_callback();
    let starts = [&[][..], &request[..20], &request[..request.len() - 1], HEALTH];
    let mut silent: Vec<_> =
        (0..100).map(|number| world.send(starts[number % starts.len()])).collect();
    for idle in silent.iter_mut().skip(3).step_by(starts.len()) {
        let reply = idle.reply().unwrap();
        assert_eq!((reply.status, reply.header("connection")), (200, None));
    }
    world.bucket.faults().hang_reads = true;
    let mut callback = world.send(&request);
    assert!(world.bucket.wait_for_stalls(1, PATIENCE));
    let told = Instant::now();
    world.tell_to_end(&service);
    // The confirmation takes as long as the silent are waited for, and less than it may take.
    thread::sleep(Duration::from_secs(1));
    assert!(service.is_running());
    world.bucket.faults().hang_reads = false;
    world.bucket.release();
    let reply = callback.reply().expect("an answer");
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert_eq!(service.wait().code(), Some(0));
    println!("ended {:.1?} after it was told to", told.elapsed());
    assert!(silent.iter_mut().all(Connection::is_at_its_end));
    assert_eq!(world.objects(), ["user/slow"]);
}

/// The bucket's limit of time holds to the end, and the answer says what there was.
#[test]
fn a_confirmation_that_never_comes_does_not_hold_the_end() {
    let world = World::confirming();
    let mut service = world.start_first();
    world.bucket.faults().hang_reads = true;
    let mut callback = world.send(&world.confirmed_callback());
    assert!(world.bucket.wait_for_stalls(1, PATIENCE));
    world.tell_to_end(&service);
    assert!(status(&mut callback).unwrap() >= 500);
    assert_eq!(service.wait().code(), Some(0));
    assert!(world.objects().is_empty());
}

/// Who is still sending when the end is near is served, if the rest comes soon; so is who connected
/// a moment before, and who was unused for longer than the end waits for such. OSS sends the head of
/// a callback and its body apart, and others are served between them.
#[test]
fn a_request_that_is_on_its_way_is_served_at_the_end() {
    let long = Duration::from_millis(2600);
    for (idle, is_head_whole) in [(Duration::ZERO, true), (Duration::ZERO, false), (long, false)] {
        let (world, mut service) = World::started(&[]);
        let mut late = world.send(b"");
        if idle == long {
            late.send(HEALTH);
            assert_eq!(status(&mut late), Some(200));
        }
        thread::sleep(idle);
        let message = world.callback("late");
        let body = message.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let (begin, rest) = message.split_at(if is_head_whole { body } else { body / 2 });
        late.send(begin);
        // Accepted in this order: when the second is answered, the first has been let in.
        assert!(is_well(world.address()));
        world.tell_to_end(&service);
        // Time for the end to forget it, if it would.
        thread::sleep(idle / 6);
        late.send(rest);
        assert_eq!(status(&mut late), Some(200));
        assert!(service.wait().success());
        assert_eq!(world.objects(), ["late"]);
    }
}

/// An answer that is being taken is not cut off, if it takes no longer than the end may.
#[test]
fn an_answer_that_is_being_taken_is_finished_at_the_end() {
    let (world, mut service) = World::started(&[]);
    let stream = connect_narrow(world.address()).unwrap();
    let ask = |number: usize| format!("GET /upload.js?{number} HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(send_all(&stream, (0..20).map(ask).collect::<String>().as_bytes()));
    assert_eq!(stream.peek(&mut [0]).unwrap(), 1);
    thread::sleep(Duration::from_millis(200)); // by then nothing more fits on its way
    world.tell_to_end(&service);
    thread::sleep(Duration::from_millis(1500)); // who says nothing is waited for no longer
    let bytes = read_to_close(&stream).unwrap();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        assert_eq!(read_reply(&mut rest, false).expect("a whole answer").status, 200);
    }
    assert!(service.wait().success());
}

// Secrets.

/// All that others with this user's rights can read of how a process was started.
fn start_of(pid: u32) -> Vec<u8> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let tasks = fs::read_dir(process.join("task")).unwrap().map(|task| task.unwrap().path());
    let mut all = Vec::new();
    for place in tasks.chain([process]) {
        for name in ["environ", "cmdline", "comm", "status"] {
            // A task may end meanwhile.
            all.extend(fs::read(place.join(name)).unwrap_or_default());
        }
    }
    all
}

fn contains(all: &[u8], text: &str) -> bool {
    all.windows(text.len()).any(|window| window == text.as_bytes())
}

/// A bucket with a temporary key: its server has every secret there is.
fn temporary(changes: &[(&str, &str)]) -> Site {
    let [secret, token, _, _] = SECRETS.map(|(_, value)| value.to_owned());
    let options =
        Options { access_key_secret: secret, security_token: Some(token), ..Options::default() };
    Site::of(options, &[&[("CALLBACK_TOKEN", "on")], changes].concat())
}

const SECRETS: [(&str, &str); 4] = [
    ("OSS_ACCESS_KEY_SECRET", "exampleAkSecretOfATemporaryKey"),
    ("OSS_SESSION_TOKEN", "exampleToken=="),
    ("UPLOAD_JWT_SECRET", JWT_SECRET),
    ("CALLBACK_TOKEN_KEY", TOKEN_KEY),
];

/// The answer to a ticket's holder, whose upload the bucket then takes: so the access key, the
/// security token, the secret of the tickets and the key of the tokens are all what they should be.
fn works(site: &Site, server: &Server) {
    let ticket = ticket(JWT_SECRET, &json!({"sub": "alice", "exp": now() + 600}));
    let bearer = format!("Bearer {ticket}");
    let headers = [("Authorization", bearer.as_str())];
    for target in [V1, V4] {
        assert_eq!(request(server.address, "GET", target, &[], b"").status, 401);
        let policy = policy(server.address, target, &headers);
        let reply = upload(&policy, "one.txt", b"12345", &[]);
        assert_eq!((reply.status, &*reply.text()), (200, r#"{"Status":"OK"}"#));
    }
    let message = site.callback_with_token("/callback", "user/alice/", "2");
    assert_eq!(status(&mut Connection::begin(server.address, &message)), Some(200));
}

/// secrets: none is in /proc/PID/environ, nor in the log, if all are systemd credentials.
#[test]
fn no_secret_can_be_read_beside_the_process() {
    let site = temporary(&SECRETS.map(|(name, _)| (name, "")));
    for (name, value) in &SECRETS {
        fs::write(site.folder.path(&name.to_lowercase()), format!("{value}\n")).unwrap();
    }
    let server = site.start(&[("CREDENTIALS_DIRECTORY", &site.folder.path(""))]);
    works(&site, &server);
    let seen = start_of(server.pid());
    assert!(contains(&seen, "OSS_ACCESS_KEY_ID=") && contains(&seen, "appserver"));
    let log = server.log().join("\n");
    assert!(!log.contains("/proc/"), "{log}");
    for (name, value) in &SECRETS {
        assert!(!contains(&seen, value), "{name} can be read");
        assert!(!log.contains(value), "{name} is in the log");
    }
}

/// They stay there as long as the process runs: one line says so, and where they should be.
#[test]
fn secrets_in_the_environment_are_used_and_warned_of() {
    let site = temporary(&SECRETS);
    let server = site.start(&[]);
    works(&site, &server);
    let log = server.log();
    let warnings: Vec<&String> = log.iter().filter(|line| line.contains("/proc/")).collect();
    let [warning] = warnings[..] else { panic!("{log:?}") };
    assert!(warning.contains("systemd credential"), "{warning}");
    for (name, value) in &SECRETS {
        assert!(warning.contains(name), "{name} is not in {warning}");
        assert!(!log.iter().any(|line| line.contains(value)), "{name} is in the log");
        assert!(contains(&start_of(server.pid()), value), "{name}: then the warning is wrong");
    }
}

/// The process stays the one that systemd started and watches: number, arguments, name, socket.
#[test]
fn the_process_stays_the_same() {
    let (world, mut service) = World::started(&[OFTEN]);
    // WATCHDOG_PID and the store's LISTEN_PID go by it.
    world.manager.wait("WATCHDOG=1", 1);
    let read = |name: &str| fs::read(format!("/proc/{}/{name}", service.pid())).unwrap();
    let arguments = format!("{}\x00127.0.0.1\x000\x00", binary().display());
    assert_eq!(String::from_utf8_lossy(&read("cmdline")), arguments);
    // Linux keeps 15 bytes of a name.
    let program = binary().file_name().unwrap().to_string_lossy().into_owned();
    let name = program.get(..15).unwrap_or(&program);
    assert_eq!(String::from_utf8_lossy(&read("comm")), format!("{name}\n"));
    assert!(service.stop().success());
}

/// `--check` and the start have the same verdict on each value.
#[test]
fn secrets_are_taken_as_they_are() {
    let site = Site::new(&[]);
    let long = "x".repeat(100_000);
    for (name, value) in [
        ("OSS_ACCESS_KEY_SECRET", ""),
        ("OSS_ACCESS_KEY_SECRET", "two words"),
        ("OSS_ACCESS_KEY_SECRET", "two\nlines"),
        ("OSS_ACCESS_KEY_SECRET", "one\nOSS_SESSION_TOKEN=two"),
        ("OSS_ACCESS_KEY_SECRET", "clé"),
        ("OSS_SESSION_TOKEN", ""),
        ("OSS_SESSION_TOKEN", "\u{1b}[31m"),
        ("UPLOAD_JWT_SECRET", "short"),
        ("UPLOAD_JWT_SECRET", " "),
        ("CALLBACK_TOKEN_KEY", "="),
    ] {
        let mut vars = site.exact(&[]);
        vars.retain(|(other, _)| *other != name);
        vars.push((name, value));
        let (checked, served) = (run(&["--check"], &vars), run(&["127.0.0.1", "0"], &vars));
        assert_eq!(checked.code, Some(2), "{name}={value:?}");
        assert_eq!((served.code, &served.stderr), (checked.code, &checked.stderr));
        assert!(served.stderr.starts_with(&format!("appserver: {name}: ")), "{}", served.stderr);
        assert_eq!(served.stderr.lines().count(), 1, "{}", served.stderr);
        assert!(value.trim().len() < 6 || !served.stderr.contains(value.trim()));
    }
    for value in ["a=b==c", "=", "\"quoted'$x`", "  trimmed\n", &long] {
        let options = Options { access_key_secret: value.trim().into(), ..<_>::default() };
        let site = Site::of(options, &[("OSS_ACCESS_KEY_SECRET", value)]);
        let server = site.start(&[]);
        let policy = policy(server.address, V1, &[]);
        assert_eq!(upload(&policy, "one.txt", b"12345", &[]).status, 200, "{value:?}");
    }
}
