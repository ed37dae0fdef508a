//! Floods of silent connections, of bodies a byte short, of resets, of pipelined requests, of more
//! connections than there are places, descriptors or threads. Who is evicted, and who never is.

use appserver::http::MAX_BODY_BYTES;

use crate::*;

/// Pipelining: thousands of requests at once are answered one after the other, in their order, and
/// fill no memory; a response to HEAD has no body between them. The bare loop's queue has no bound.
#[test]
fn thousands_of_pipelined_requests() {
    let world = World::new(&[]);
    let kinds = [
        (get("/healthz", ""), 200),
        (request("HEAD / HTTP/1.1", ""), 200),
        (get("/nothing", ""), 404),
        (request("HEAD /upload.js HTTP/1.1", ""), 200),
        (request("HEAD /nothing HTTP/1.1", ""), 404),
        (request("PUT / HTTP/1.1", "Content-Length: 3\r\n") + "abc", 405),
    ];
    world.while_others_are_served(|| {
        let all: String = kinds.iter().cycle().take(5000).map(|(message, _)| &**message).collect();
        let stream = world.connect();
        thread::scope(|scope| {
            scope.spawn(|| assert!(send_all(&stream, all.as_bytes())));
            let mut reader = BufReader::new(&stream);
            for (number, (message, status)) in kinds.iter().cycle().take(5000).enumerate() {
                let reply = read_reply(&mut reader, message.starts_with("HEAD"));
                assert_eq!(reply.expect("a response to each").status, *status, "request {number}");
            }
        });
    });
}

/// Descriptor exhaustion (EMFILE): more connections than descriptors. The bare loop's accept thread
/// would die of it, and the process live on, deaf.
#[test]
fn more_connections_than_descriptors() {
    // It does not start with so few; but a limit can be lowered later, or all of a system be used.
    let world = World::new(&[]);
    let pid = world.server.pid().to_string();
    let lowered = Command::new("prlimit").args(["--nofile=64", "--pid", &pid]).status();
    assert!(lowered.unwrap().success());
    let silent = world.while_others_are_served(|| world.connect_all(400));
    world.others_are_served();
    let ended = silent.iter().filter(|stream| is_closed(stream)).count();
    assert!(ended > 300, "only {ended} gave way");
    // And those that ask are served, however scarce.
    (0..50).for_each(|_| world.others_are_served());
}

/// Thread exhaustion: more connections than threads, of which a connection needs none.
#[test]
fn more_connections_than_threads() {
    // tiny_http and the proxy take about ten; the program must be where another user can run it.
    let folder = Folder::new();
    let program = folder.0.join("appserver");
    std::fs::copy(binary(), &program).unwrap();
    let elsewhere = [("RUNTIME_DIRECTORY", "")]; // that user may not write into the test's folder
    let world = World::of(limit_threads(40, &program), "127.0.0.1", &elsewhere);
    world.others_are_served(); // by then all have started
    let threads = world.server.status("Threads");
    let silent = world.while_others_are_served(|| world.connect_all(400));
    (0..50).for_each(|_| world.others_are_served());
    assert!(!silent.iter().any(is_closed), "somebody had to give way");
    assert_eq!(world.server.status("Threads"), threads);
}

/// A thousand silent connections (slowloris, idle timeout) keep nobody from being served: the ones
/// that have waited longest are evicted.
#[test]
fn a_thousand_silent_connections() {
    let world = World::new(&[]);
    let silent: Vec<TcpStream> = world
        .while_others_are_served(|| (0..1000).map(|number| world.connect_from(number)).collect());
    world.others_are_served();
    // As many as may be are left, and they are the latest.
    let ended: Vec<bool> = silent.iter().map(is_closed).collect();
    let count = ended.iter().filter(|ended| **ended).count();
    assert!((488..600).contains(&count), "{count} gave way");
    assert!(ended[..count - 20].iter().all(|ended| *ended), "a later one gave way before");
    assert!(world.server.status("Threads") < 20);
    // Silence after a request is no different from silence before it.
    world.while_others_are_served(|| {
        let ask = |number| {
            let stream = world.connect_from(number);
            send_all(&stream, HEALTH);
            stream
        };
        (0..1000).map(ask).collect::<Vec<_>>()
    });
}

/// Memory: 512 bodies of 20 KiB less a byte would be 10 MiB; and nothing would be left for a
/// callback that is longer than most.
#[test]
fn a_flood_of_bodies_a_byte_short() {
    let world = World::new(&[]);
    let long = format!("filename=user%2Fa.txt&size=5&bucket=examplebucket&x={}", "a".repeat(6000));
    let long = world.site.bucket.callback_request("/callback", "x", long.as_bytes(), FORM);
    let almost = request("POST / HTTP/1.1", &format!("Content-Length: {MAX_BODY_BYTES}\r\n"))
        + &"a".repeat(MAX_BODY_BYTES - 1);
    for round in 0..3 {
        let flood = world.while_others_are_served(|| {
            let send = |number| {
                let stream = world.connect_from(number);
                stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
                send_all(&stream, almost.as_bytes());
                stream
            };
            (0..512).map(send).collect::<Vec<_>>()
        });
        let start = Instant::now();
        let reply = world.ask(&long).expect("a response");
        let (status, took) = (reply.status, start.elapsed());
        assert_eq!(status, 200, "a callback of 6 KB in round {round}: {}", reply.text());
        assert!(took < SERVED_WITHIN, "a callback of 6 KB took {took:?}");
        drop(flood);
    }
}

/// A flood of requests and then a reset (RST): every connection leaves something different behind.
#[test]
fn requests_and_then_a_reset() {
    let world = World::new(&[]);
    let pieces = [
        HEALTH,
        &world.callback,
        &world.callback[..world.callback.len() / 2],
        b"",
        b"G",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n",
        &get("/upload.js", "").repeat(2).into_bytes(),
    ];
    world.while_others_are_served(|| {
        for i in 0..5000 {
            reset(world.send(pieces[i % pieces.len()]));
        }
    });
}

/// When all places are taken (`MAX_CONNECTIONS`), the connection that has waited longest is evicted
/// (LRU); one whose request is in hand never is. Then newcomers wait for the moment until there is
/// a place, and all are told when the moment becomes too long.
#[test]
fn the_longest_waiting_gives_way_and_the_served_never() {
    let disk = Disk::new();
    let world = World::new(&[&disk.vars()[..], &[("MAX_CONNECTIONS", "4")]].concat());
    let send = |message: &[u8]| {
        let stream = world.connect();
        assert!(send_all(&stream, message));
        (stream, Instant::now())
    };
    let status = |(stream, sent): (TcpStream, Instant)| {
        (response(&stream).expect("a response"), sent.elapsed())
    };
    let silent = [(); 4].map(|()| {
        thread::sleep(Duration::from_millis(20));
        world.connect()
    });
    let ended = || silent.iter().map(is_closed).collect::<Vec<bool>>();
    assert_eq!(world.ask(HEALTH).unwrap().status, 200);
    assert_eq!(ended(), [true, false, false, false]);

    // Callbacks that wait for the disk take all places.
    let take_all_places = |objects: [&str; 4]| {
        disk.hang();
        let requests = objects.map(|object| {
            let request = send(&world.callback_about(object));
            thread::sleep(Duration::from_millis(50));
            request
        });
        disk.wait_for_a_sync();
        requests
    };
    let in_hand = take_all_places(["1", "2", "3", "4"]);
    assert_eq!(ended(), [true; 4]);
    let late = send(HEALTH);
    thread::sleep(Duration::from_millis(300));
    assert!(!has_answer(&late.0), "a newcomer did not wait: {:?}", status(late).0);
    disk.resume();
    for request in in_hand.into_iter().chain([late]) {
        let (reply, _) = status(request);
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    // The same for longer than anybody may have to wait.
    let in_hand = take_all_places(["5", "6", "7", "8"]);
    let late = send(HEALTH);
    for request in in_hand.into_iter().chain([late]) {
        let (reply, took) = status(request);
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")), "{reply:?}");
        assert!(took < TOLD_WITHIN, "told after {took:?}");
        assert!(is_refusal(&reply), "{reply:?}");
    }
    world.server.wait_log(" 127.0.0.1 POST \"/callback\" 503 reason=\"");
    disk.resume();
    world.is_served_again_within(SERVED_WITHIN);
}

/// The quota of a source: one address cannot take all places, but for loopback, where proxies and
/// tests live.
#[test]
fn one_source_may_have_a_quarter_of_all_places() {
    namespace::run("floods::one_source_may_have_a_quarter_of_all_places", || {
        let vars = [("MAX_CONNECTIONS", "40")];
        let world = World::of(Command::new(binary()), namespace::SERVER, &vars);
        let from = |source| connect_from(source, world.address()).unwrap();
        let elsewhere: Vec<TcpStream> = (0..20).map(|_| from(loopback(0))).collect();
        let greedy: Vec<TcpStream> = (0..30).map(|_| from(namespace::source(1))).collect();
        world.others_are_served();
        let ended = |all: &[TcpStream]| all.iter().filter(|stream| is_closed(stream)).count();
        assert_eq!((ended(&elsewhere), ended(&greedy)), (0, 20));
        // And it is served itself.
        let own = Some(namespace::source(1));
        let reply = ask_from(own, world.address(), HEALTH, SERVED_WITHIN);
        assert_eq!(reply.map(|reply| reply.status), Ok(200));
    });
}

/// A source over its limit evicts its own connections. What was decided for a request of it, and
/// logged, still reaches the client: a callback that is recorded must be acknowledged.
#[test]
fn a_response_is_not_evicted_before_it_is_written() {
    namespace::run("floods::a_response_is_not_evicted_before_it_is_written", || {
        let vars = [("MAX_CONNECTIONS", "40")];
        let world = World::of(Command::new(binary()), namespace::SERVER, &vars);
        let (own, answered) = (namespace::source(1), AtomicUsize::new(0));
        let client = |client: usize, _: &AtomicBool| {
            for number in 0..100 {
                let message = get(&format!("/{client}-{number}"), "Connection: close\r\n");
                // Most of them are evicted before they have asked, by the flood.
                let reply = ask_from(Some(own), world.address(), message.as_bytes(), TOLD_WITHIN);
                if reply.is_ok_and(|reply| reply.status == 404) {
                    answered.fetch_add(1, Relaxed);
                }
            }
        };
        let flood = |_, over: &AtomicBool| flood(own, world.address(), b"", over);
        beside(1, flood, || beside(24, client, || ()));
        world.others_are_served();
        // The log is read up to its last line.
        assert_eq!(world.statuses(request("PUT /last HTTP/1.1", "")), [405]);
        world.server.wait_log(" PUT \"/last\" 405");
        let log = world.server.log();
        let decided = log.iter().filter(|line| line.contains("-") && line.ends_with("\" 404"));
        let (decided, answered) = (decided.count(), answered.into_inner());
        println!("{answered} answered of {decided} decided");
        assert!(decided > 50, "only {decided} requests came through");
        assert_eq!(answered, decided);
    });
}
