//! What the loop waits for, or must not wait for: a log that nobody reads, a disk that hangs, a key
//! host that never answers, a process that is paused (SIGSTOP).

use oss_standin::KeyFault;
use support::systemd::{Service, Signal};
use support::trust::{callback_token, now};

use crate::*;

/// Longer than any timeout, which has 15 seconds; far longer in a long run.
fn longer_than_any_timeout() -> Duration {
    Duration::from_secs(rounds(41, 16) as u64)
}

/// A log that nobody reads (backpressure of standard error): its pipe is full after some 250 lines.
/// Requests are answered all the same, and later a line says how many lines are missing.
#[test]
fn a_log_that_nobody_reads() {
    const REQUESTS: usize = 1000;
    const PIPE_BYTES: u64 = 64 * 1024;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let vars = [
        ("OSS_ACCESS_KEY_ID", "id"),
        ("OSS_ACCESS_KEY_SECRET", "s3cr3t"),
        ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
        ("CALLBACK_KEY_ORIGIN", "http://127.0.0.1:9"),
    ];
    let arguments = ["127.0.0.1", "0"];
    let mut service = Service::start_unread(None, &arguments, &vars, vec![socket.into()]);
    let mut longest = Duration::ZERO;
    let ask = |number: usize| {
        let target = format!("/{number}-{}", "x".repeat(200));
        let message = get(&target, "Connection: close\r\n");
        ask_from(None, address, message.as_bytes(), SERVED_WITHIN)
    };
    for number in 0..REQUESTS {
        let start = Instant::now();
        let reply = ask(number);
        longest = longest.max(start.elapsed());
        let unread = service.unread_bytes();
        let reply = reply.unwrap_or_else(|error| {
            panic!("request {number}, while {unread} bytes of log are not read: {error}")
        });
        assert_eq!(reply.status, 404);
    }
    let unread = service.unread_bytes();
    assert!(unread > PIPE_BYTES / 4 * 3, "the pipe was not full: {unread} bytes");
    service.read_log();
    assert_eq!(ask(REQUESTS).unwrap().status, 404);
    // Lines are whole or not there at all.
    let (mut seen, mut lost) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    while seen + lost < REQUESTS + 1 && Instant::now() < deadline {
        let log = service.log();
        let is_ours = |line: &&String| line.contains(" GET \"/") && line.ends_with("x\" 404");
        seen = log.iter().filter(is_ours).count();
        lost = lost_lines(&log);
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!((seen + lost, lost > 0), (REQUESTS + 1, true), "{seen} seen, {lost} lost");
    let report = format!("others waited {longest:?} at most, {lost} lines lost");
    assert_survived(service.is_running(), service.status("VmHWM"), &report);
}

/// A disk that hangs for longer than any timeout: every client is told in time (200 or 503), the
/// process stays, and what it acknowledged is in the record.
#[test]
fn a_disk_that_hangs() {
    const INTERVAL: Duration = Duration::from_millis(500 / 3);
    let disk = Disk::new();
    let mut world = World::new(&disk.vars());
    world.others_are_served();
    let acknowledged = Mutex::new(vec!["user/after".to_owned()]);
    // A callback, a policy, a health check, in turn.
    let ask = |number: usize| {
        let object = format!("object-{number}");
        let message = match number % 3 {
            0 => world.callback_about(&object),
            1 => format!("GET /?{number} HTTP/1.0\r\n\r\n").into_bytes(),
            _ => HEALTH.to_vec(),
        };
        let reply = ask_from(None, world.address(), &message, TOLD_WITHIN);
        if number % 3 == 0 && reply.as_ref().is_ok_and(|reply| reply.status == 200) {
            acknowledged.lock().unwrap().push(format!("user/{object}"));
        }
        reply
    };
    let count = longer_than_any_timeout().as_millis() / INTERVAL.as_millis();
    disk.hang();
    let series = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(longer_than_any_timeout());
            disk.resume(); // while some are in hand
        });
        Series::run(count as usize, INTERVAL, TOLD_WITHIN, ask)
    });
    println!("a_disk_that_hangs: {series}");
    assert!(world.server.is_running(), "it ended");
    assert!(series.others.keys().all(|end| end == "503"), "some were not told in time: {series}");
    world.is_served_again_within(SERVED_WITHIN);
    assert_eq!(world.ask(&world.callback_about("after")).expect("a response").status, 200);
    let recorded = objects(disk.folder());
    let acknowledged = acknowledged.into_inner().unwrap();
    let missing: Vec<_> = acknowledged.iter().filter(|object| !recorded.contains(object)).collect();
    assert!(missing.is_empty(), "not in the record: {missing:?}");
}

/// A process that was paused by SIGSTOP, as by a suspended machine or a snapshot. It goes on as if
/// less time had passed: every request that has come is answered, if only with 503, and the process
/// stays.
#[test]
fn a_process_that_was_paused() {
    let disk = Disk::new();
    let world = World::new(&disk.vars());
    let idle = [(); 2].map(|()| world.connect());
    world.others_are_served(); // so the idle ones are accepted
    disk.hang();
    let send = |stream: TcpStream, message: &[u8]| {
        assert!(send_all(&stream, message));
        stream
    };
    let names = ["one", "two", "three", "four"];
    let in_hand = names.map(|name| send(world.connect(), &world.callback_about(name)));
    disk.wait_for_a_sync();
    world.server.pause();
    disk.resume();
    // What comes while it is paused: on connections that it has accepted, and on those it has not.
    let [first, second] = idle;
    let meanwhile = [
        send(first, HEALTH),
        send(second, &world.callback),
        send(world.connect(), HEALTH),
        send(world.connect(), &world.callback),
    ];
    thread::sleep(longer_than_any_timeout());
    assert!(!meanwhile.iter().chain(&in_hand).any(has_answer), "it was not paused");
    world.server.signal(Signal::CONT);
    let start = Instant::now();
    world.is_served_again_within(SERVED_WITHIN);
    let status = |stream: &TcpStream| Some(response(stream)?.status);
    let told = in_hand.each_ref().map(status);
    let meanwhile = meanwhile.each_ref().map(status);
    let took = start.elapsed();
    let is_told = |status: &Option<u16>| matches!(status, Some(200 | 503));
    assert!(told.iter().all(is_told), "in hand: {told:?}");
    assert!(meanwhile.iter().all(is_told), "sent meanwhile: {meanwhile:?}");
    assert!(took < SERVED_WITHIN, "the last was told after {took:?}");
    let recorded = objects(disk.folder());
    for (name, told) in names.iter().zip(told) {
        let is_recorded = recorded.contains(&format!("user/{name}"));
        assert!(is_recorded || told != Some(200), "{name} is not in the record");
    }
}

/// A key host that never answers: an uploader, who has a token of ours, can name a key that is not
/// known yet, again and again. The fetch is in the background, and has a timeout.
#[test]
fn a_key_host_that_never_answers() {
    const SECRET: &str = "tokenKeyOfMoreThanThirtyTwoCharacters";
    /// Long enough for a second fetch.
    const LASTS: Duration = Duration::from_secs(11);
    let vars = [
        ("CALLBACK_PUBLIC_KEY_FILE", ""),
        ("CALLBACK_URL", "http://127.0.0.1:9/callback"), // only for the names in its body
        ("CALLBACK_TOKEN", "on"),
        ("CALLBACK_TOKEN_KEY", SECRET),
    ];
    let mut world = World::new(&vars);
    let token = callback_token(SECRET, "/callback", now() + 3600, "user/");
    let target = format!("/callback?token={token}");
    world.callback = world.site.callback(&target, "user/a.txt");
    world.server.wait_log("callback key v1: fetched");
    let bucket = &world.site.bucket;
    bucket.faults().key = KeyFault::Hang;
    let longest = world.while_others_are_served(|| {
        let (start, mut longest) = (Instant::now(), Duration::ZERO);
        for version in 2.. {
            if start.elapsed() > LASTS {
                break;
            }
            let key_url = format!("https://gosspublic.alicdn.com/callback_pub_key_v{version}.pem");
            bucket.faults().pub_key_url = key_url;
            let message = world.site.callback(&target, "user/a.txt");
            let asked = Instant::now();
            let reply = world.ask(&message).expect("a response");
            longest = longest.max(asked.elapsed());
            assert_eq!(reply.status, 503, "v{version}: {}", reply.text());
            thread::sleep(Duration::from_millis(50));
        }
        longest
    });
    let asked = bucket.key_requests();
    println!("asked the key host for {asked:?}; the attacker waited {longest:?} at most");
    assert!((2..=3).contains(&asked.len()), "{asked:?}");
    assert!(longest < SERVED_WITHIN, "503 came after {longest:?}");
}

/// Long heads while the loop is held: what waits for it is bounded in bytes of memory, not only in
/// number. A request for which there is no room is told 503.
#[test]
fn long_heads_while_the_loop_is_held() {
    let disk = Disk::new();
    let world = World::new(&disk.vars());
    world.others_are_served();
    disk.hang();
    let held = world.send(world.callback_about("held"));
    disk.wait_for_a_sync();
    let ask = |number: usize| {
        let stream = world.connect();
        let head = get(&format!("/nothing?{number}{}", "a".repeat(8000)), "");
        assert!(send_all(&stream, head.as_bytes()));
        stream
    };
    let asked: Vec<TcpStream> = (0..500).map(ask).collect();
    thread::sleep(Duration::from_millis(500)); // by then as many are read as will be
    disk.resume();
    let status = |stream: &TcpStream| Some(response(stream)?.status);
    assert_eq!(status(&held), Some(200));
    let statuses: Vec<u16> = asked.iter().filter_map(status).collect();
    assert!(statuses.iter().all(|status| [404, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&404), "nobody was served");
}
