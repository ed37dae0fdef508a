//! The same attacks on a bare tiny_http loop. They succeed: it stalls, aborts, fills the memory, or
//! goes deaf. Ignored by default, since they show nothing of the product.

use std::path::Path;

use crate::*;

/// Not a test: the loop itself, in a process that is started with `BARE_LOOP`.
#[test]
#[ignore = "what the attacks below attack"]
fn the_loop() {
    if std::env::var_os("BARE_LOOP").is_none() {
        return;
    }
    let server = tiny_http::Server::http("127.0.0.1:0").unwrap();
    let _ = writeln!(std::io::stderr(), "listening on http://{}", server.server_addr());
    let long = "a".repeat(20_000);
    loop {
        // An error is no reason for a server to end.
        let Ok(mut request) = server.recv() else { continue };
        let mut body = Vec::new();
        let _ = request.as_reader().read_to_end(&mut body);
        let answer = if request.url() == "/long" { &*long } else { "ok\n" };
        let _ = request.respond(tiny_http::Response::from_string(answer));
    }
}

/// What an attack is called, the program that runs the loop within limits, and the attack.
type Row = (&'static str, fn(&Path) -> Command, fn(&mut Server));

/// Slowloris, slow readers (backpressure), a huge `Content-Length`, an endless line, pipelining,
/// descriptor exhaustion, thread exhaustion, request smuggling: each succeeds.
#[test]
#[ignore = "shows what a bare loop does"]
fn attacks_succeed_on_a_bare_loop() {
    let rows: [Row; 8] = [
        ("a silent body", unlimited, a_silent_body_stalls_everybody),
        ("a slow reader", unlimited, a_slow_reader_stalls_everybody),
        ("a huge length", unlimited, a_huge_length_aborts_the_process),
        ("an endless line", unlimited, an_endless_line_fills_the_memory),
        ("pipelined requests", unlimited, pipelined_requests_fill_the_memory),
        ("descriptors", |program| limit("--nofile=64", program), a_flood_leaves_it_deaf),
        ("threads", |program| limit_threads(40, program), a_flood_leaves_it_deaf),
        ("smuggling", unlimited, an_unknown_coding_smuggles_a_request),
    ];
    // Another user must be able to run it.
    let folder = Folder::new();
    let program = folder.0.join("bare");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    side_by_side("attacks_succeed_on_a_bare_loop", rows, |(what, command, attack)| {
        let mut command = command(&program);
        command.args(["--exact", "bare::the_loop", "--ignored", "--nocapture"]);
        command.arg("--test-threads=1");
        let mut server = Server::spawn(command, &[("BARE_LOOP", "1")]);
        assert!(is_served(&server), "{what}: before the attack");
        attack(&mut server);
        println!("{what}: succeeded");
    });
}

/// Whether another client is, within far more than the second that it may take.
fn is_served(server: &Server) -> bool {
    let Ok(stream) = TcpStream::connect(server.address) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    send_all(&stream, HEALTH);
    response(&stream).is_some_and(|reply| reply.text() == "ok\n")
}

/// Waits for what the attack does to the loop.
fn wait_until(mut happens: impl FnMut() -> bool, else_says: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !happens() {
        assert!(Instant::now() < deadline, "{else_says}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn a_silent_body_stalls_everybody(server: &mut Server) {
    let silent = connect(server.address).unwrap();
    send_all(&silent, POST);
    thread::sleep(Duration::from_millis(200));
    assert!(!is_served(server) && server.is_running());
    drop(silent);
    assert!(is_served(server), "it was that client");
}

fn a_slow_reader_stalls_everybody(server: &mut Server) {
    let client = connect_narrow(server.address).unwrap();
    send_all(&client, get("/long", "").repeat(20).as_bytes());
    thread::sleep(Duration::from_millis(200));
    assert!(!is_served(server));
    drop(client);
}

fn a_huge_length_aborts_the_process(server: &mut Server) {
    let client = connect(server.address).unwrap();
    send_all(&client, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n");
    drop(client);
    wait_until(|| !server.is_running(), "it lives on");
}

fn an_endless_line_fills_the_memory(server: &mut Server) {
    let client = connect(server.address).unwrap();
    send_all(&client, b"GET / HTTP/1.1\r\nX: ");
    for _ in 0..64 {
        assert!(send_all(&client, &[b'a'; 1 << 20]));
    }
    wait_until(|| server.status("VmHWM") >= 2 * MAX_MEMORY_KB, "its memory does not grow");
}

fn pipelined_requests_fill_the_memory(server: &mut Server) {
    let client = connect_narrow(server.address).unwrap();
    client.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let requests = get("/long", "").repeat(1000);
    let sent = (0..300).take_while(|_| send_all(&client, requests.as_bytes())).count();
    let peak = server.status("VmHWM");
    assert!(peak > 2 * MAX_MEMORY_KB, "{peak} kB after {sent} thousand requests");
    assert!(!is_served(server));
}

fn unlimited(program: &Path) -> Command {
    Command::new(program)
}

fn limit(limit: &str, program: &Path) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(limit).arg(program);
    command
}

/// More connections than there is room for, closed again at once: room for anybody but the
/// thread that would let them in.
fn a_flood_leaves_it_deaf(server: &mut Server) {
    // Not too fast: each must be given a thread of its own before the next comes.
    let open = |_| {
        thread::sleep(Duration::from_millis(5));
        connect(server.address).ok()
    };
    let flood: Vec<Option<TcpStream>> = (0..150).map(open).collect();
    thread::sleep(Duration::from_millis(500));
    drop(flood);
    thread::sleep(Duration::from_millis(500));
    assert!(!is_served(server), "it hears");
    assert!(server.is_running(), "it is dead, not deaf");
}

/// Request smuggling (CVE-2026-66752): any transfer coding is taken for chunked, so a front that
/// goes by the length passes on one request where this loop reads two.
fn an_unknown_coding_smuggles_a_request(server: &mut Server) {
    let body = [b"0\r\n\r\n", SMUGGLED].concat();
    for coding in ["xchunked", "identity", "chunked, identity"] {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nTransfer-Encoding: {coding}\r\n\r\n",
            body.len()
        );
        let stream = connect(server.address).unwrap();
        let told = answers_on(stream, [head.as_bytes(), &body].concat());
        assert_eq!(told.len(), 2, "{coding}");
    }
}
