//! The service manager's side of the real binary. The test plays systemd: it hears the messages,
//! keeps the listening socket, ends one process and starts the next. Nobody who connects meanwhile
//! may notice, no callback may be lost, and no secret may be read beside the process.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use oss_standin::{CredentialFault, KeyFault, Options, Standin};
use serde_json::{Value, json};
use support::Connection;
use support::hostile::{Random, connect_narrow, is_closed, read_to_close};
use support::systemd::{Manager, PATIENCE, Service, Signal, inode};
use support::trust::{callback_token, now, ticket};
use support::{Disk, Folder, Reply, Server, binary, read_reply, request, run, upload};

const FORM: &str = "application/x-www-form-urlencoded";
/// A watchdog's interval that keeps tests short: it asks twice in this time.
const OFTEN: (&str, &str) = ("WATCHDOG_USEC", "400000");
const SECRET: &str = "exampleAkSecretNeverShown";
const LONG_SECRET: &str = "ticketSecretOfMoreThanThirtyTwoCharacters";
const TOKEN_KEY: &str = "tokenKeyOfMoreThanThirtyTwoCharacters";

/// systemd, a bucket that calls back, and what a server needs to be started between them.
struct World {
    manager: Manager,
    bucket: Standin,
    record: PathBuf,
    vars: Vec<(String, String)>,
    folder: Folder,
}

impl World {
    fn new(changes: &[(&str, &str)]) -> World {
        let folder = Folder::new();
        let name = folder.path("notify");
        World::heard_at(folder, &name, changes)
    }

    fn heard_at(folder: Folder, name: &str, changes: &[(&str, &str)]) -> World {
        let bucket = Standin::start(Options::default()).unwrap();
        let record = folder.0.join("record");
        fs::create_dir(&record).unwrap();
        fs::write(folder.0.join("key.pem"), bucket.public_key_pem()).unwrap();
        let options = Options::default();
        let mut vars = vec![
            ("OSS_ACCESS_KEY_ID", options.access_key_id),
            ("OSS_ACCESS_KEY_SECRET", options.access_key_secret),
            ("OSS_HOST", bucket.url()),
            ("OSS_BUCKET", options.bucket),
            ("OSS_REGION", options.region),
            // Only for the names in its body.
            ("CALLBACK_URL", "http://127.0.0.1:9/callback".to_owned()),
            ("CALLBACK_TOKEN", "off".to_owned()),
            ("CALLBACK_PUBLIC_KEY_FILE", folder.path("key.pem")),
            ("UPLOAD_LOG", folder.path("record")),
            ("RUNTIME_DIRECTORY", folder.path("")),
        ];
        vars.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
        vars.extend(changes.iter().map(|(name, value)| (*name, (*value).to_owned())));
        vars.retain(|(_, value)| !value.is_empty());
        let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        World { manager: Manager::start(name), bucket, record, vars, folder }
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
        Service::start(Some(&self.manager), arguments, &self.vars(changes), descriptors)
    }

    fn vars<'a>(&'a self, changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own = self.vars.iter().map(|(name, value)| (&**name, &**value));
        own.chain(changes.iter().copied()).collect()
    }

    /// A first start on a port that the system chose, and the wait for it.
    fn start_first(&self) -> Service {
        let service = self.start(&["127.0.0.1", "0"], Vec::new());
        self.manager.wait("READY=1", 1);
        service
    }

    /// The complete callback about an object, as OSS sends it: on a connection of its own.
    fn callback(&self, object: &str) -> Vec<u8> {
        let body = format!("filename={object}&size=5&bucket=examplebucket&etag=E");
        self.bucket.callback_request("/callback", "example.com", body.as_bytes(), FORM)
    }

    /// The objects in the record; every line is whole.
    fn objects(&self) -> Vec<String> {
        let mut objects = Vec::new();
        for entry in fs::read_dir(&self.record).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            assert!(text.is_empty() || text.ends_with('\n'));
            objects.extend(text.lines().map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                line["object"].as_str().unwrap().to_owned()
            }));
        }
        objects
    }
}

/// A request that waits for its answer.
fn send(address: SocketAddr, message: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(message).unwrap();
    stream
}

fn status(stream: &mut impl Read) -> Option<u16> {
    read_reply(stream, false).map(|reply| reply.status)
}

fn is_well(address: SocketAddr) -> bool {
    request(address, "GET", "/healthz", &[], b"").status == 200
}

// What systemd hears.

#[test]
fn ready_comes_when_requests_are_answered_and_not_before() {
    let world = World::new(&[("CALLBACK_PUBLIC_KEY_FILE", ""), ("CALLBACK_TOKEN", "off")]);
    // Until it has the first credentials the server cannot do its work.
    world.bucket.faults().sts = CredentialFault::Hang;
    world.bucket.faults().key = KeyFault::Hang;
    let (sts, origin) = (world.bucket.sts_url(), world.bucket.key_origin());
    let slow = [
        ("OSS_STS_ENDPOINT", &*sts),
        ("OSS_STS_ROLE_ARN", "acs:ram::1234567890123456:role/uploader"),
        ("CALLBACK_KEY_ORIGIN", &origin),
    ];
    let mut service = world.start_with(&["127.0.0.1", "0"], &slow, Vec::new());
    assert!(world.bucket.wait_for_stalls(1, PATIENCE));
    assert_eq!(world.manager.count("READY=1"), 0);
    // Who comes now waits; and the socket is kept already, so it waits through a crash too.
    let mut early = send(world.manager.address(), b"GET /healthz HTTP/1.0\r\n\r\n");
    assert!(!is_closed(&early));
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

#[test]
fn the_watchdog_is_told_again_and_again() {
    let name = format!("@appserver-service-{}", std::process::id());
    for abstract_name in [false, true] {
        let folder = Folder::new();
        let name = if abstract_name { name.clone() } else { folder.path("notify") };
        let world = World::heard_at(folder, &name, &[OFTEN]);
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

/// Its messages would have to wait, and with them all clients.
#[test]
fn a_manager_that_does_not_read_holds_nobody() {
    let world = World::new(&[OFTEN]);
    let folder = Folder::new();
    let path = folder.path("notify");
    let _unread = UnixDatagram::bind(&path).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"full", &path).is_ok() {}

    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut vars = world.vars(&[]);
    vars.push(("NOTIFY_SOCKET", &path));
    let mut service = Service::start(None, &["127.0.0.1", "0"], &vars, vec![socket.into()]);
    assert!(is_well(address));
    assert!(service.stop().success());
}

/// No systemd, or one that cannot be reached: the same server.
#[test]
fn it_serves_and_ends_without_anybody_to_tell() {
    let world = World::new(&[OFTEN]);
    let folder = Folder::new();
    let (file, nothing) = (folder.path("file"), folder.path("nothing"));
    fs::write(&file, "").unwrap();
    let long = format!("/{}", "x".repeat(300));
    for name in ["", "@", "/", "relative", "vsock:2:1", &long, &file, &nothing, "\n"] {
        // The test's own socket, so that the address is known without a message.
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut vars = world.vars(&[]);
        // Without a name at all, or with one that leads nowhere.
        vars.extend((!name.is_empty()).then_some(("NOTIFY_SOCKET", name)));
        let mut service = Service::start(None, &["127.0.0.1", "0"], &vars, vec![socket.into()]);
        assert!(is_well(address), "{name:?}");
        assert!(service.stop().success(), "{name:?}");
    }
    assert!(world.manager.messages().is_empty());
    // An empty name, which is as good as none.
    let server = Server::start(&[("NOTIFY_SOCKET", " "), OFTEN]);
    assert!(is_well(server.address));
}

#[test]
fn both_signals_end_it_and_that_is_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let world = World::new(&[]);
        let mut service = world.start_first();
        assert!(is_well(world.manager.address()));
        service.signal(signal);
        world.manager.wait("STOPPING=1", 1);
        assert_eq!(service.wait().code(), Some(0));
    }
}

/// A process that answers is one that ends in order: whoever it serves by then is served first.
#[test]
fn from_the_first_answer_on_the_end_is_an_orderly_one() {
    let world = World::new(&[]);
    for _ in 0..30 {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        // The callback is there before the proxy is.
        let mut first = send(address, &world.callback("first"));
        let mut service = world.start(&["127.0.0.1", "0"], vec![socket.into()]);
        assert_eq!(status(&mut first), Some(200));
        assert_eq!(service.stop().code(), Some(0));
    }
    assert_eq!(world.manager.count("STOPPING=1"), 30);
}

// What the watchdog proves.

/// A server whose loop waits for a disk that hangs, and requests that wait for the loop, each with
/// the status that it gets when the disk is back.
fn start_stuck(world: &World) -> (Service, Disk, Vec<(TcpStream, u16)>) {
    let disk = Disk::new();
    let service = world.start_with(&["127.0.0.1", "0"], &disk.vars(), Vec::new());
    world.manager.wait("WATCHDOG=1", 2);
    let address = world.manager.address();
    disk.hang();
    let mut unanswered = vec![(send(address, &world.callback("stuck")), 200)];
    disk.wait_for_a_sync();
    for number in 0..3 {
        let message = format!("GET /{number} HTTP/1.0\r\n\r\n");
        unanswered.push((send(address, message.as_bytes()), 404));
    }
    (service, disk, unanswered)
}

#[test]
fn a_loop_that_is_stuck_is_not_reported_alive() {
    let world = World::new(&[OFTEN]);
    let (mut service, disk, unanswered) = start_stuck(&world);
    let before = world.manager.count("WATCHDOG=1");
    // One may have been under way. More do not come in the time of ten.
    assert!(!world.manager.hears("WATCHDOG=1", before + 2, Duration::from_secs(2)));
    disk.resume();
    world.manager.wait("WATCHDOG=1", before + 3);
    for (mut stream, expected) in unanswered {
        assert_eq!(status(&mut stream), Some(expected));
    }
    assert!(service.stop().success());
}

/// The drain waits for nobody who waits for the loop: systemd need not kill.
#[test]
fn a_loop_that_is_stuck_can_be_ended() {
    let world = World::new(&[OFTEN]);
    let (mut service, _disk, _unanswered) = start_stuck(&world);
    let told = Instant::now();
    service.signal(Signal::TERM);
    world.manager.wait("STOPPING=1", 1);
    assert!(service.wait().success());
    println!("ended {:.1?} after it was told to, with a stuck loop", told.elapsed());
}

/// A health check needs no place among the clients.
#[test]
fn a_proxy_full_of_silent_clients_does_not_silence_the_watchdog() {
    const FULL: usize = 512; // the default of MAX_CONNECTIONS
    let world = World::new(&[OFTEN]);
    let mut service = world.start_first();
    let address = world.manager.address();
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

#[test]
fn who_calls_between_two_processes_is_answered_by_the_next() {
    let world = World::new(&[]);
    let mut first = world.start_first();
    let address = world.manager.address();
    let socket = inode(&world.manager.kept()[0]);
    assert_eq!(status(&mut send(address, &world.callback("before"))), Some(200));
    assert!(first.stop().success());
    let mut waiting = send(address, &world.callback("between"));
    let port = address.port().to_string();
    let mut second = world.start(&["127.0.0.1", &port], world.manager.kept());
    assert_eq!(status(&mut waiting), Some(200));
    world.manager.wait("READY=1", 2);
    // It is the same socket, and systemd keeps it still.
    assert_eq!(world.manager.address(), address);
    assert_eq!(inode(&world.manager.kept()[0]), socket);
    assert_eq!(world.manager.count("FDSTOREREMOVE=1"), 1);
    // A crash is no different.
    second.signal(Signal::KILL);
    assert_eq!(second.wait().signal(), Some(9));
    let mut waiting = send(address, &world.callback("after a crash"));
    let mut third = world.start(&["127.0.0.1", &port], world.manager.kept());
    assert_eq!(status(&mut waiting), Some(200));
    assert_eq!(world.objects(), ["before", "between", "after a crash"]);
    assert!(third.stop().success());
}

/// The command line is what the operator changes; an old socket must not outlive that.
#[test]
fn a_socket_for_another_address_is_given_up() {
    let world = World::new(&[]);
    let mut first = world.start_first();
    let old = world.manager.address();
    assert!(first.stop().success());
    let kept = world.manager.kept();
    let mut second = world.start(&["127.0.0.2", "0"], kept);
    world.manager.wait("READY=1", 2);
    let new = world.manager.address();
    assert_eq!(new.ip().to_string(), "127.0.0.2");
    assert!(is_well(new));
    assert!(TcpStream::connect(old).is_err());
    let messages = world.manager.messages();
    let again = &messages[messages.len() - 3..];
    let store = ["FDSTOREREMOVE=1\nFDNAME=listener", "FDSTORE=1\nFDNAME=listener", "READY=1"];
    assert_eq!(again, store);
    assert!(second.stop().success());
    // Of two, it takes the one that is asked for, wherever it is.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut both = vec![OwnedFd::from(other)];
    both.extend(world.manager.kept());
    let mut waiting = send(new, &world.callback("second"));
    let mut third = world.start(&["127.0.0.2", &new.port().to_string()], both);
    assert_eq!(status(&mut waiting), Some(200));
    assert!(third.stop().success());
}

#[test]
fn a_unix_socket_stays_where_it_is() {
    let world = World::new(&[]);
    let path = world.folder.path("http.sock");
    let argument = format!("unix:{path}");
    let arguments = [argument.as_str()];
    let mut first = world.start(&arguments, Vec::new());
    world.manager.wait("READY=1", 1);
    let there = fs::metadata(&path).unwrap();
    assert!(there.file_type().is_socket());
    assert!(first.stop().success());
    let mut waiting = UnixStream::connect(&path).unwrap();
    waiting.write_all(&world.callback("between")).unwrap();
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
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(&world.callback("anew")).unwrap();
    assert_eq!(status(&mut client), Some(200));
    assert_eq!((world.manager.count("FDSTOREREMOVE=1"), world.manager.kept().len()), (2, 1));
    assert!(third.stop().success());
    assert_eq!(world.objects(), ["between", "anew"]);
}

/// Whatever stands where a socket should be, the server has one of its own.
#[test]
fn what_is_no_listener_is_left_alone() {
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let file = || fs::File::open("/dev/null").unwrap();
    let datagram = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let pair = || UnixDatagram::pair().unwrap().0;
    let peer = listener();
    let connected = || TcpStream::connect(peer.local_addr().unwrap()).unwrap();
    type Case<'a> = (&'a str, OwnedFd, &'a [(&'a str, &'a str)]);
    let cases: Vec<Case> = vec![
        ("a file", file().into(), &[]),
        ("a UDP socket", datagram().into(), &[]),
        ("a pair of sockets", pair().into(), &[]),
        ("a pair of streams", UnixStream::pair().unwrap().0.into(), &[]),
        ("a connection", connected().into(), &[]),
        ("fewer than said", file().into(), &[("LISTEN_FDS", "5")]),
        ("no number", listener().into(), &[("LISTEN_FDS", "many")]),
        ("less than none", listener().into(), &[("LISTEN_FDS", "-1")]),
        ("another's", listener().into(), &[("LISTEN_PID", "1")]),
        ("nobody's", listener().into(), &[("LISTEN_PID", "me")]),
    ];
    for (what, descriptor, changes) in cases {
        let world = World::new(&[]);
        let copy = descriptor.try_clone().unwrap();
        let mut service = world.start_with(&["127.0.0.1", "0"], changes, vec![descriptor]);
        world.manager.wait("READY=1", 1);
        let kept = world.manager.kept();
        assert!(kept.iter().all(|kept| inode(kept) != inode(&copy)), "{what}");
        assert_eq!(kept.len(), 1, "{what}");
        assert!(is_well(world.manager.address()), "{what}");
        assert!(service.stop().success(), "{what}");
    }
    // More than there are, and the right one among them.
    let world = World::new(&[]);
    let (socket, count) = (listener(), [("LISTEN_FDS", "5")]);
    let address = socket.local_addr().unwrap();
    let mut service = world.start_with(&["127.0.0.1", "0"], &count, vec![socket.into()]);
    assert!(is_well(address));
    assert!(service.stop().success());
}

// Restarts under load.

/// What clients saw.
#[derive(Default)]
struct Seen {
    /// Objects whose callback was answered 200.
    acknowledged: Mutex<Vec<String>>,
    polled: AtomicUsize,
    /// Connections on which the server said that it was the last answer.
    said_close: AtomicUsize,
    refused: Mutex<Vec<String>>,
    /// Callbacks that were sent and not answered.
    lost: Mutex<Vec<String>>,
    /// Requests without an answer on connections that the server had not said to close.
    dropped: Mutex<Vec<String>>,
    /// Tells `wait_for_more` of another.
    told: Condvar,
}

impl Seen {
    /// Waits until this many more callbacks are acknowledged.
    fn wait_for_more(&self, more: usize) {
        let acknowledged = self.acknowledged.lock().unwrap();
        let goal = acknowledged.len() + more;
        let fewer = |all: &mut Vec<String>| all.len() < goal;
        let waited = self.told.wait_timeout_while(acknowledged, PATIENCE, fewer).unwrap();
        assert!(waited.0.len() >= goal, "no more answers");
    }
}

/// A callback as OSS makes it: one connection, one request, nothing is repeated.
fn call_back(world: &World, address: SocketAddr, object: String, seen: &Seen) {
    let mut stream = match TcpStream::connect(address) {
        Ok(stream) => stream,
        Err(error) => return seen.refused.lock().unwrap().push(error.to_string()),
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent = Instant::now();
    let mut answer = Vec::new();
    let result = stream
        .write_all(&world.callback(&object))
        .and_then(|()| stream.read_to_end(&mut answer).map(drop));
    match read_reply(&mut answer.as_slice(), false) {
        Some(reply) if reply.status == 200 => {
            seen.acknowledged.lock().unwrap().push(object);
            seen.told.notify_all();
        }
        Some(reply) => seen.lost.lock().unwrap().push(format!("{object}: {}", reply.text())),
        None => {
            let text = format!("{object}: {result:?} after {:?}", sent.elapsed());
            seen.lost.lock().unwrap().push(text);
        }
    }
}

/// A page that asks again and again on one connection for as long as the server keeps it.
fn poll(address: SocketAddr, over: &AtomicBool, seen: &Seen) {
    while !over.load(Ordering::Relaxed) {
        let stream = match TcpStream::connect(address) {
            Ok(stream) => stream,
            Err(error) => return seen.refused.lock().unwrap().push(error.to_string()),
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = BufReader::new(stream);
        while !over.load(Ordering::Relaxed) {
            let sent = stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            let Some(reply) = read_reply(&mut stream, false) else {
                seen.dropped.lock().unwrap().push(format!("{sent:?}"));
                break;
            };
            assert_eq!(reply.status, 200);
            seen.polled.fetch_add(1, Ordering::Relaxed);
            if reply.header("connection") == Some("close") {
                seen.said_close.fetch_add(1, Ordering::Relaxed);
                assert!(matches!(stream.read(&mut [0]), Ok(0)), "more after the last answer");
                break;
            }
        }
    }
}

/// Runs clients while `restarts` plays systemd; gives what they saw.
fn under_load(world: &World, address: SocketAddr, restarts: impl FnOnce(&Seen)) -> Seen {
    const CALLERS: usize = 4;
    const POLLERS: usize = 2;
    let (seen, over) = (Seen::default(), AtomicBool::new(false));
    /// Ends the clients, also when `restarts` panics: else the scope would wait for them.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        let (seen, over) = (&seen, &over);
        for caller in 0..CALLERS {
            scope.spawn(move || {
                for n in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    call_back(world, address, format!("{caller}-{n}"), seen);
                }
            });
        }
        for _ in 0..POLLERS {
            scope.spawn(move || poll(address, over, seen));
        }
        let _over = Over(over);
        restarts(seen);
    });
    seen
}

impl Seen {
    fn report(&self, what: &str, rounds: usize, took: Duration, world: &World) -> usize {
        let recorded: BTreeSet<String> = world.objects().into_iter().collect();
        let acknowledged = self.acknowledged.lock().unwrap();
        let missing = acknowledged.iter().filter(|object| !recorded.contains(*object)).count();
        let count = |list: &Mutex<Vec<String>>| list.lock().unwrap().len();
        println!(
            "{rounds} {what} in {took:.1?}: {} refused; {} callbacks acknowledged, {missing} of \
             them not in the record, {} without an answer; {} polls, {} of them the last of their \
             connection, {} without an answer",
            count(&self.refused),
            acknowledged.len(),
            count(&self.lost),
            self.polled.load(Ordering::Relaxed),
            self.said_close.load(Ordering::Relaxed),
            count(&self.dropped),
        );
        for list in [&self.refused, &self.lost, &self.dropped] {
            list.lock().unwrap().iter().take(5).for_each(|one| println!("  {one}"));
        }
        assert_eq!(count(&self.refused), 0);
        assert_eq!(missing, 0);
        assert!(acknowledged.len() >= rounds, "too little load to show anything");
        acknowledged.len()
    }

    fn assert_nothing_lost(&self) {
        assert!(self.lost.lock().unwrap().is_empty());
        assert!(self.dropped.lock().unwrap().is_empty());
    }
}

#[test]
fn fifty_restarts_under_load_refuse_nobody_and_lose_nothing() {
    let rounds = support::rounds(50, 15);
    let world = World::new(&[]);
    let mut service = world.start_first();
    let address = world.manager.address();
    let port = address.port().to_string();
    let start = Instant::now();
    let seen = under_load(&world, address, |seen| {
        for round in 1..=rounds {
            seen.wait_for_more(30);
            assert_eq!(service.stop().code(), Some(0));
            service = world.start(&["127.0.0.1", &port], world.manager.kept());
            world.manager.wait("READY=1", 1 + round);
        }
        seen.wait_for_more(30);
    });
    let acknowledged = seen.report("restarts", rounds, start.elapsed(), &world);
    seen.assert_nothing_lost();
    // Nothing was sent twice, so nothing is there twice.
    assert_eq!(world.objects().len(), acknowledged);
    assert!(service.stop().success());
}

/// systemd may be told to stop what it has just begun to start.
#[test]
fn restarts_at_any_moment_of_the_start_lose_nothing() {
    let rounds = support::rounds(100, 25);
    let world = World::new(&[]);
    let mut service = world.start_first();
    let address = world.manager.address();
    let port = address.port().to_string();
    let mut random = Random(now() << 20 | u64::from(std::process::id()));
    println!("seed {}", random.0);
    let (start, mut early) = (Instant::now(), 0);
    let seen = under_load(&world, address, |seen| {
        for round in 1..=rounds {
            let ready = world.manager.count("READY=1");
            let status = service.stop();
            early += usize::from(status.signal() == Some(15));
            assert!(status.success() || status.signal() == Some(15), "{status}");
            service = world.start(&["127.0.0.1", &port], world.manager.kept());
            // Now and then there must be answers at all.
            if round % 10 == 0 {
                world.manager.wait("READY=1", ready + 1);
                seen.wait_for_more(10);
            } else {
                thread::sleep(Duration::from_micros(random.below(80_000) as u64));
            }
        }
        seen.wait_for_more(10);
    });
    seen.report("restarts, READY or not", rounds, start.elapsed(), &world);
    println!("{early} processes ended before they could be told");
    seen.assert_nothing_lost();
    assert!(service.stop().success());
}

/// What a crash takes with it is what was being answered, and nothing else.
#[test]
fn crashes_under_load_refuse_nobody_and_lose_nothing_that_was_acknowledged() {
    let rounds = support::rounds(50, 15);
    const IN_HAND: usize = 6; // one for each client
    let world = World::new(&[]);
    let mut service = world.start_first();
    let address = world.manager.address();
    let port = address.port().to_string();
    let start = Instant::now();
    let seen = under_load(&world, address, |seen| {
        for round in 1..=rounds {
            seen.wait_for_more(30);
            service.signal(Signal::KILL);
            service.wait();
            service = world.start(&["127.0.0.1", &port], world.manager.kept());
            world.manager.wait("READY=1", 1 + round);
        }
        seen.wait_for_more(30);
    });
    seen.report("crashes", rounds, start.elapsed(), &world);
    let cut = seen.lost.lock().unwrap().len() + seen.dropped.lock().unwrap().len();
    assert!(cut <= rounds * IN_HAND, "{cut}");
    assert!(service.stop().success());
}

// The end of a process.

impl World {
    /// With every callback confirmed by a look into the bucket, where "slow" is.
    fn confirming() -> World {
        let world = World::new(&[("CONFIRM_UPLOADS", "on"), ("UPLOAD_DIR", "user/")]);
        world.bucket.put("user/slow", b"12345", "text/plain");
        world
    }

    fn confirmed_callback(&self) -> Vec<u8> {
        let etag = self.bucket.object("user/slow").unwrap().etag;
        let body = format!("filename=user/slow&size=5&bucket=examplebucket&etag={etag}");
        self.bucket.callback_request("/callback", "example.com", body.as_bytes(), FORM)
    }
}

#[test]
fn the_end_waits_for_a_callback_and_for_nobody_who_says_nothing() {
    let world = World::confirming();
    let mut service = world.start_first();
    let address = world.manager.address();
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    let request = world.confirmed_callback();
    let slow = [send(address, &request[..20]), send(address, &request[..request.len() - 1])];
    world.bucket.faults().hang_reads = true;
    let mut callback = send(address, &request);
    assert!(world.bucket.wait_for_stalls(1, PATIENCE));
    let told = Instant::now();
    service.signal(Signal::TERM);
    world.manager.wait("STOPPING=1", 1);
    // The confirmation takes as long as the silent are waited for, and less than it may take.
    thread::sleep(Duration::from_secs(1));
    assert!(service.is_running());
    world.bucket.faults().hang_reads = false;
    world.bucket.release();
    let reply = read_reply(&mut callback, false).expect("an answer");
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert_eq!(service.wait().code(), Some(0));
    println!("ended {:.1?} after it was told to", told.elapsed());
    for stream in silent.iter().chain(&slow) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(read_to_close(stream).unwrap(), b"");
    }
    assert_eq!(world.objects(), ["user/slow"]);
}

/// The bucket's limit of time holds to the end, and the answer says what there was.
#[test]
fn a_confirmation_that_never_comes_does_not_hold_the_end() {
    let world = World::confirming();
    let mut service = world.start_first();
    let address = world.manager.address();
    world.bucket.faults().hang_reads = true;
    let mut callback = send(address, &world.confirmed_callback());
    assert!(world.bucket.wait_for_stalls(1, PATIENCE));
    service.signal(Signal::TERM);
    world.manager.wait("STOPPING=1", 1);
    assert!(status(&mut callback).unwrap() >= 500);
    assert_eq!(service.wait().code(), Some(0));
    assert!(world.objects().is_empty());
}

/// Who is still sending when the end is near is served, if the rest comes soon; so is who connected
/// a moment before.
#[test]
fn a_request_that_is_on_its_way_is_served_at_the_end() {
    let world = World::new(&[]);
    let mut service = world.start_first();
    let address = world.manager.address();
    let message = world.callback("late");
    let (begin, rest) = message.split_at(message.len() / 2);
    let mut late = send(address, begin);
    // Accepted in this order: when the second is answered, the first has been let in.
    assert!(is_well(address));
    service.signal(Signal::TERM);
    world.manager.wait("STOPPING=1", 1);
    late.write_all(rest).unwrap();
    assert_eq!(status(&mut late), Some(200));
    assert!(service.wait().success());
    assert_eq!(world.objects(), ["late"]);
}

/// The same on a connection that was unused for longer than the end waits for such.
#[test]
fn a_request_on_its_way_over_an_old_connection_is_served_at_the_end() {
    let world = World::new(&[]);
    let mut service = world.start_first();
    let address = world.manager.address();
    let mut old = send(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(status(&mut old), Some(200));
    thread::sleep(Duration::from_millis(1300));
    let message = world.callback("late");
    let (begin, rest) = message.split_at(message.len() / 2);
    old.write_all(begin).unwrap();
    // Time for what was sent to be read, and then for the end to forget it, if it would.
    thread::sleep(Duration::from_millis(200));
    service.signal(Signal::TERM);
    world.manager.wait("STOPPING=1", 1);
    thread::sleep(Duration::from_millis(200));
    old.write_all(rest).unwrap();
    assert_eq!(status(&mut old), Some(200));
    assert!(service.wait().success());
    assert_eq!(world.objects(), ["late"]);
}

/// An answer that is being taken is not cut off, if it takes no longer than the end may.
#[test]
fn an_answer_that_is_being_taken_is_finished_at_the_end() {
    let world = World::new(&[]);
    let mut service = world.start_first();
    let stream = connect_narrow(world.manager.address()).unwrap();
    let ask = |number: usize| format!("GET /upload.js?{number} HTTP/1.1\r\nHost: x\r\n\r\n");
    (&stream).write_all((0..20).map(ask).collect::<String>().as_bytes()).unwrap();
    assert_eq!(stream.peek(&mut [0]).unwrap(), 1);
    thread::sleep(Duration::from_millis(200)); // by then nothing more fits on its way
    service.signal(Signal::TERM);
    world.manager.wait("STOPPING=1", 1);
    thread::sleep(Duration::from_millis(1500)); // who says nothing is waited for no longer
    let bytes = read_to_close(&stream).unwrap();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        assert_eq!(read_reply(&mut rest, false).expect("a whole answer").status, 200);
    }
    assert!(service.wait().success());
}

/// Open and unused for longer than the end waits for such: nobody is owed anything.
#[test]
fn idle_connections_do_not_hold_the_end() {
    let world = World::new(&[]);
    let mut service = world.start_first();
    let address = world.manager.address();
    let mut idle: Vec<Connection> = (0..100).map(|_| Connection::open(address).unwrap()).collect();
    for connection in &mut idle {
        let reply = connection.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!((reply.status, reply.header("connection")), (200, None));
    }
    assert!(service.stop().success());
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

/// The answer to a ticket's holder, whose upload the bucket then takes: so the access key, the
/// security token, the secret of the tickets and the key of the tokens are all what they should be.
fn works(bucket: &Standin, server: &Server, key: &str) {
    let ticket = ticket(LONG_SECRET, &json!({"sub": "alice", "exp": now() + 600}));
    let bearer = format!("Bearer {ticket}");
    let headers = [("Authorization", bearer.as_str())];
    for target in ["/", "/get_post_signature_for_oss_upload"] {
        assert_eq!(request(server.address, "GET", target, &[], b"").status, 401);
        let reply = request(server.address, "GET", target, &headers, b"");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let policy: Value = serde_json::from_slice(&reply.body).unwrap();
        let reply = upload(&policy, "one.txt", b"12345", &[]);
        assert_eq!((reply.status, &*reply.text()), (200, r#"{"Status":"OK"}"#));
    }
    let token = callback_token(key, "/callback", now() + 3600, "alice/");
    let target = format!("/callback?token={token}");
    let body = b"filename=alice/2&size=5&bucket=examplebucket&etag=E";
    let message = bucket.callback_request(&target, "example.com", body, FORM);
    assert_eq!(status(&mut send(server.address, &message)), Some(200));
}

type Vars = Vec<(&'static str, String)>;

/// A bucket with a temporary key, and the variables that go with it, the secrets apart.
fn temporary() -> (Folder, Standin, Vars, Vars) {
    let folder = Folder::new();
    let mut options = Options { security_token: Some("exampleToken==".into()), ..<_>::default() };
    options.access_key_secret = SECRET.into();
    let bucket = Standin::start(options.clone()).unwrap();
    fs::write(folder.0.join("key.pem"), bucket.public_key_pem()).unwrap();
    let vars = vec![
        ("OSS_ACCESS_KEY_ID", options.access_key_id),
        ("OSS_HOST", bucket.url()),
        ("OSS_BUCKET", options.bucket),
        ("OSS_REGION", options.region),
        ("CALLBACK_PUBLIC_KEY_FILE", folder.path("key.pem")),
        ("CALLBACK_TOKEN", "on".into()),
    ];
    let secrets = vec![
        ("OSS_ACCESS_KEY_SECRET", SECRET.to_owned()),
        ("OSS_SESSION_TOKEN", "exampleToken==".into()),
        ("UPLOAD_JWT_SECRET", LONG_SECRET.into()),
        ("CALLBACK_TOKEN_KEY", TOKEN_KEY.into()),
    ];
    (folder, bucket, vars, secrets)
}

fn borrowed<'a>(vars: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    vars.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[test]
fn no_secret_can_be_read_beside_the_process() {
    let (folder, bucket, vars, secrets) = temporary();
    for (name, value) in &secrets {
        fs::write(folder.0.join(name.to_lowercase()), format!("{value}\n")).unwrap();
    }
    let credentials = folder.path("");
    // OSS_ACCESS_KEY_SECRET has a default in these tests, which "" takes away.
    let place = [("CREDENTIALS_DIRECTORY", &*credentials), ("OSS_ACCESS_KEY_SECRET", "")];
    let server = Server::start_called_back(&[borrowed(&vars), place.to_vec()].concat());
    works(&bucket, &server, TOKEN_KEY);
    let seen = start_of(server.pid());
    assert!(contains(&seen, "OSS_ACCESS_KEY_ID=") && contains(&seen, "appserver"));
    let log = server.log().join("\n");
    assert!(!log.contains("/proc/"), "{log}");
    for (name, value) in &secrets {
        assert!(!contains(&seen, value), "{name} can be read");
        assert!(!log.contains(value.as_str()), "{name} is in the log");
    }
}

/// They stay there as long as the process runs: one line says so, and where they should be.
#[test]
fn secrets_in_the_environment_are_used_and_warned_of() {
    let (_folder, bucket, vars, secrets) = temporary();
    let server = Server::start_called_back(&[borrowed(&vars), borrowed(&secrets)].concat());
    works(&bucket, &server, TOKEN_KEY);
    let log = server.log();
    let warnings: Vec<&String> = log.iter().filter(|line| line.contains("/proc/")).collect();
    let [warning] = warnings[..] else { panic!("{log:?}") };
    assert!(warning.contains("systemd credential"), "{warning}");
    for (name, value) in &secrets {
        assert!(warning.contains(name), "{name} is not in {warning}");
        assert!(!log.iter().any(|line| line.contains(value)), "{name} is in the log");
        assert!(contains(&start_of(server.pid()), value), "{name}: then the warning is wrong");
    }
}

/// The process stays the one that systemd started and watches: number, arguments, name, socket.
#[test]
fn the_process_stays_the_same() {
    let world = World::new(&[OFTEN]);
    let mut service = world.start_first();
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
    let (_folder, _bucket, mut vars, _secrets) = temporary();
    vars.push(("CALLBACK_KEY_ORIGIN", "http://127.0.0.1:9".into()));
    vars.retain(|(name, _)| *name != "CALLBACK_PUBLIC_KEY_FILE");
    let plain = ("OSS_ACCESS_KEY_SECRET", SECRET);
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
        let changes: Vec<_> = [plain].into_iter().filter(|(other, _)| *other != name).collect();
        let given = [borrowed(&vars), changes, vec![(name, value)]].concat();
        let (checked, served) = (run(&["--check"], &given), run(&["127.0.0.1", "0"], &given));
        assert_eq!(checked.code, Some(2), "{name}={value:?}");
        assert_eq!((served.code, &served.stderr), (checked.code, &checked.stderr));
        assert!(served.stderr.starts_with(&format!("appserver: {name}: ")), "{}", served.stderr);
        assert!(value.trim().len() < 6 || !served.stderr.contains(value.trim()));
    }
    for value in ["a=b==c", "=", "\"quoted'$x`", "  trimmed\n", &long] {
        let options = Options { access_key_secret: value.trim().into(), ..<_>::default() };
        let bucket = Standin::start(options).unwrap();
        let host = bucket.url();
        let given = [borrowed(&vars), vec![("OSS_HOST", &host), (plain.0, value)]].concat();
        let server = Server::start(&given);
        let reply: Reply = request(server.address, "GET", "/", &[], b"");
        let policy: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(upload(&policy, "one.txt", b"12345", &[]).status, 200, "{value:?}");
    }
}
