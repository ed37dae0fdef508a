//! Slow clients (slowloris): a byte a second, silence, clients that never read their responses
//! (backpressure), in our memory or the kernel's. Timeouts end them all.

use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::*;

/// For one connection, in the kernel: `MemoryMax=` counts that too.
const MAX_QUEUED_BYTES: u64 = 128 << 10;

/// Slowloris: a byte a second keeps any timeout per read from firing; the timeout for a request is
/// for all of it. A connection that sends nothing ends as well.
#[test]
fn slow_heads_and_slow_bodies() {
    let world = World::new(&[]);
    let head = "GET / HTTP/1.1\r\nHost: a.very.long.name.example\r\nX: y\r\n\r\n";
    let body = request("POST / HTTP/1.1", "Content-Length: 50\r\n") + &"a".repeat(50);
    let idle = world.connect();
    world.while_others_are_served(|| {
        // All of the second's head comes at once.
        let drips = [(head, 0), (&*body, body.len() - 50)];
        side_by_side("drip", drips.into_iter().cycle().take(40), |(message, at_once)| {
            let stream = world.send(&message[..at_once]);
            let rest = message.as_bytes()[at_once..].chunks(1);
            let goes_on = |byte: &&[u8]| {
                thread::sleep(Duration::from_secs(1));
                !has_answer(&stream) && send_all(&stream, byte)
            };
            let sent = rest.take_while(goes_on).count();
            assert!(sent < 20, "{sent} bytes were waited for");
            let told = all_responses(&stream);
            assert!(told.is_empty() || statuses(&told) == [408], "{told:?}");
        });
    });
    // Nothing at all is not waited for either.
    assert_eq!(read_to_close(&idle), Some(Vec::new()));
}

/// The timeout of an idle connection (15 s) is not that of a request (10 s): a request that begins
/// late has its whole time.
#[test]
fn a_request_that_begins_late_has_its_whole_time() {
    let world = World::new(&[]);
    let stream = world.send(HEALTH);
    assert_eq!(response(&stream).unwrap().status, 200);
    thread::sleep(Duration::from_secs(12));
    assert!(send_all(&stream, &HEALTH[..9]));
    thread::sleep(Duration::from_secs(5));
    assert!(send_all(&stream, &HEALTH[9..]));
    assert_eq!(response(&stream).unwrap().status, 200);
}

/// No busy loop: when nobody asks and nothing is due, the server sleeps. The longest deadline of a
/// request in hand (4 s) has passed by then.
#[test]
fn an_idle_server_uses_no_processor() {
    let world = World::new(&[]);
    world.others_are_served();
    let _idle = world.connect();
    thread::sleep(Duration::from_secs(5));
    let before = cpu_time(world.server.pid());
    thread::sleep(Duration::from_secs(2));
    let used = cpu_time(world.server.pid()) - before;
    assert!(used < 0.2, "{used} s of CPU time in two seconds");
}

/// Lingering close (RFC 9112, 9.6): who is refused while he sends reads the refusal and an orderly
/// end, and may send on for a moment: no reset takes the refusal from him.
#[test]
fn who_is_refused_while_sending_is_not_reset() {
    let world = World::new(&[]);
    let head = request("POST / HTTP/1.1", "Content-Length: 99999\r\n");
    let stream = world.send(head + &"a".repeat(1000));
    let mut reader = BufReader::new(&stream);
    assert_eq!(read_reply(&mut reader, false).unwrap().status, 413);
    for _ in 0..8 {
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "not the end");
        assert!(send_all(&stream, &[b'a'; 8 << 10]));
    }
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

/// A slow reader's place is like any other: it is evicted for a newcomer once its response has
/// begun to be written.
#[test]
fn slow_readers_give_way() {
    let world = World::new(&[("MAX_CONNECTIONS", "2")]);
    let all = get("/upload.js", "").repeat(20);
    for _ in 0..2 {
        let slow: Vec<TcpStream> =
            (0..2).map(|_| connect_narrow(world.address()).unwrap()).collect();
        for stream in &slow {
            assert!(send_all(stream, all.as_bytes()));
        }
        wait_until_nothing_fits(&world);
        world.others_are_served();
    }
}

/// Slow readers (backpressure): clients that ask for much and never read, the longest response,
/// twice or more. With small segments and windows, little of it fits into the system's buffers, and
/// the server's memory must not hold the rest for each.
#[test]
fn slow_readers() {
    type Target = fn(usize, usize) -> String;
    let rows: [Target; 3] = [
        // Never the same response twice, so that they cannot share it.
        |client, number| format!("/upload.js?{client}.{number}"),
        // The response that is the last says so, and must not be a copy for each for that.
        |_, _| "/upload.js".to_owned(),
        // All of them share it as long as the second lasts, and nobody counts it as theirs.
        |client, _| format!("/upload.js?{}", client / 2),
    ];
    // They wait side by side, and attack one after the other.
    let attacks = Mutex::new(());
    side_by_side("slow_readers", rows, |target| slow_readers_of(target, &attacks));
}

fn slow_readers_of(target: fn(usize, usize) -> String, attacks: &Mutex<()>) {
    let world = World::new(&[]);
    let slow: Vec<TcpStream> = (0..600).map(|_| connect_narrow(world.address()).unwrap()).collect();
    let attack = attacks.lock().unwrap();
    // In the middle of them one second ends and another begins.
    while SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_millis() < 950 {
        thread::sleep(Duration::from_millis(1));
    }
    world.while_others_are_served(|| {
        for (client, stream) in slow.iter().enumerate() {
            let last = [1, 2, 20][client % 3];
            let ask = |number| {
                let end = if number == last { "Connection: close\r\n" } else { "" };
                get(&target(client, number), end)
            };
            // In front of them, so that they break off in different places.
            let small = get("/nothing", "").repeat(client % 8);
            let all = small + &(0..=last).map(ask).collect::<String>();
            stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            send_all(stream, all.as_bytes());
        }
    });
    drop(attack);
    // And a while later, when nothing moves.
    thread::sleep(Duration::from_secs(2));
    world.others_are_served();
    // In the end they are all sent away, whether they read or not.
    let waited_for = |mut stream: &TcpStream| match stream.write(b"x") {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while slow.iter().filter(|stream| waited_for(stream)).count() > 0 {
        assert!(Instant::now() < deadline, "a client that never reads is waited for");
        thread::sleep(Duration::from_millis(200));
    }
}

/// Pipelining and a client that reads late: what could not be written at once is not lost.
#[test]
fn who_reads_late_gets_every_answer() {
    let world = World::new(&[]);
    // Never repeated by the proxy.
    let kinds = [("GET /nothing HTTP/1.1", 404), ("PUT /nothing HTTP/1.1", 405)];
    let ask = |number: usize| request(kinds[number % 2].0, "");
    let stream = world.while_others_are_served(|| {
        let stream = connect_narrow(world.address()).unwrap();
        assert!(send_all(&stream, (0..3000).map(ask).collect::<String>().as_bytes()));
        wait_until_nothing_fits(&world);
        stream
    });
    let mut reader = BufReader::new(&stream);
    // Nor does it have to wait for a next request that has only begun.
    assert!(send_all(&stream, &HEALTH[..9]));
    for number in 0..3000 {
        let reply = read_reply(&mut reader, false).expect("a response to each");
        assert_eq!(reply.status, kinds[number % 2].1, "response {number}");
    }
    assert!(send_all(&stream, &HEALTH[9..]));
    assert_eq!(read_reply(&mut reader, false).expect("a response").status, 200);
    drop(reader);
}

/// Waits until the sockets of clients that do not read are full.
fn wait_until_nothing_fits(world: &World) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while unsent_bytes(world.address().port()) < 20_000 {
        assert!(Instant::now() < deadline, "responses do not pile up");
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(300));
}

/// What the kernel holds of responses on this port that nobody has read.
fn unsent_bytes(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ours = |line: &&str| {
        let local = line.split_whitespace().nth(1).unwrap_or_default();
        local.ends_with(&format!(":{port:04X}"))
    };
    let queue = |line: &str| {
        let queues = line.split_whitespace().nth(4)?;
        u64::from_str_radix(queues.split(':').next()?, 16).ok()
    };
    table.lines().filter(ours).filter_map(queue).sum()
}

/// Responses that nobody reads fill the buffers of both ends, which Linux lets grow to megabytes of
/// kernel memory: here they stay small.
#[test]
fn responses_that_nobody_reads_do_not_fill_the_kernel() {
    let world = World::new(&[]);
    let all = get("/upload.js", "").repeat(150);
    let idle = world.connect_all(100);
    world.while_others_are_served(|| {
        for stream in &idle {
            send_all(stream, all.as_bytes());
        }
    });
    // All that will be written in this second, and in the next.
    thread::sleep(Duration::from_secs(2));
    let queued = unsent_bytes(world.address().port());
    println!("the kernel holds {queued} bytes for 100 who do not read");
    assert!(queued < 100 * MAX_QUEUED_BYTES, "the kernel holds {queued} bytes for 100");
}
