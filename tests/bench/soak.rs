//! Valid clients, alone and then beside 200 hostile ones: `cargo bench --bench soak` (three minutes).
//! Says what the valid ones wait for, what the server takes over time, and whether anything stays
//! behind. Ends with status 1 if something does, or if the attack costs others too much.

use std::io::{BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::hostile::{Random, connect, connect_narrow, mutate, reset, send_all, take};
use support::world::{FORM, Site};
use support::{Server, read_reply};

const WARM_UP: Duration = Duration::from_secs(20);
const ALONE: Duration = Duration::from_secs(30);
const UNDER_ATTACK: Duration = Duration::from_secs(60);
/// Far from what the server can do, so that waiting shows what the attack adds, not the load.
const CLIENTS: u64 = 8;
const REQUESTS_PER_SECOND: u64 = 1600;
/// Longer than the server keeps any connection that does nothing.
const AFTERMATH: Duration = Duration::from_secs(17);
const BODY: &[u8] = b"filename=user%2Fa.txt&size=5&mimeType=text%2Fplain&bucket=examplebucket";

/// What both phases share.
struct World {
    server: Server,
    valid: Vec<Vec<u8>>,
    connections: AtomicU64,
    attacks: AtomicU64,
    /// Answers to the hostile ones that are no answers.
    refused: AtomicU64,
    over: AtomicBool,
}

fn main() -> ExitCode {
    let site = Site::new(&[("UPLOAD_LOG", ""), ("UPLOAD_DIR", "")]);
    let server = Server::start(&site.vars(&[]));
    let callback = site.bucket.callback_request("/callback", "x", BODY, FORM);
    let kept = String::from_utf8(callback).expect("ASCII").replace("connection: close\r\n", "");
    let valid = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\nOrigin: http://a.example\r\n\r\n".to_vec(),
        b"GET /get_post_signature_for_oss_upload HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        kept.into_bytes(),
    ];
    let (connections, attacks, refused) = Default::default();
    let over = AtomicBool::new(false);
    let world = World { server, valid, connections, attacks, refused, over };

    let attacked = |time, name| {
        world.over.store(false, Relaxed);
        thread::scope(|scope| {
            attack(&world, scope);
            let waits = phase(&world, time, name);
            world.over.store(true, Relaxed);
            waits
        })
    };
    // What the C library keeps of the stacks and heaps of 200 threads is no growth: it keeps it once.
    let warm_up = attacked(WARM_UP, "warm-up");
    let before = wait_for(&world, "before", AFTERMATH);
    let mut alone = phase(&world, ALONE, "alone");
    let mut attacked = attacked(UNDER_ATTACK, "attacked");
    let after = wait_for(&world, "after", AFTERMATH);

    let refused = world.refused.into_inner();
    let served = warm_up.len() + alone.len() + attacked.len();
    println!("\nserved:      {served} requests on {} connections", world.connections.into_inner());
    println!("hostile:     {} connections, {refused} refusals", world.attacks.into_inner());
    let baseline = percentiles("alone:      ", &mut alone);
    let under_attack = percentiles("attacked:   ", &mut attacked);
    let ratio = under_attack.as_secs_f64() / baseline.as_secs_f64();
    println!("p99 ratio:   {ratio:.2} (3 at most)");
    let grown = after.memory.saturating_sub(before.memory);
    println!(
        "left behind: {grown} kB, threads {} -> {}, descriptors {} -> {}",
        before.threads, after.threads, before.descriptors, after.descriptors
    );
    let peak = world.server.status("VmHWM");
    println!("peak memory: {peak} kB (16384 at most)");
    let clean = after.threads == before.threads && after.descriptors == before.descriptors;
    if clean && ratio <= 3.0 && peak < 16 * 1024 && grown < 2048 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

struct Sample {
    memory: u64,
    threads: u64,
    descriptors: usize,
}

fn sample(world: &World, phase: &str, second: u64) -> Sample {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", world.server.pid()));
    let sample = Sample {
        memory: world.server.status("VmRSS"),
        threads: world.server.status("Threads"),
        descriptors: descriptors.map_or(0, Iterator::count),
    };
    println!(
        "{phase:>8} {second:>3} s: {:>6} kB, {:>3} threads, {:>3} descriptors",
        sample.memory, sample.threads, sample.descriptors
    );
    sample
}

fn wait_for(world: &World, phase: &str, time: Duration) -> Sample {
    thread::sleep(time);
    sample(world, phase, time.as_secs())
}

fn percentiles(name: &str, waits: &mut [Duration]) -> Duration {
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    let (median, p99) = (at(0.5), at(0.99));
    println!("{name} p50 {median:?}, p99 {p99:?}, p99.9 {:?}, worst {:?}", at(0.999), at(1.0));
    p99
}

/// Runs the valid clients for a time; how long each of their requests took.
fn phase(world: &World, time: Duration, name: &str) -> Vec<Duration> {
    let end = Instant::now() + time;
    thread::scope(|scope| {
        let client = |seed| scope.spawn(move || client(world, seed, end));
        let clients: Vec<_> = (1..=CLIENTS).map(client).collect();
        let start = Instant::now();
        while Instant::now() + Duration::from_secs(5) < end {
            thread::sleep(Duration::from_secs(5));
            sample(world, name, start.elapsed().as_secs());
        }
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    })
}

/// Sends at its pace, one to eight requests on a connection, and measures from before it connects.
fn client(world: &World, seed: u64, end: Instant) -> Vec<Duration> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
    let pace = Duration::from_secs(1) * CLIENTS as u32 / REQUESTS_PER_SECOND as u32;
    let (mut waits, mut due) = (Vec::new(), Instant::now());
    while Instant::now() < end {
        world.connections.fetch_add(1, Relaxed);
        let mut stream = None;
        for left in (0..1 + random.below(8)).rev() {
            due += pace;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let message = &world.valid[random.below(world.valid.len())];
            let start = Instant::now();
            let stream =
                stream.get_or_insert_with(|| connect(world.server.address).expect("a connection"));
            let closing = if left == 0 { closing(message) } else { message.clone() };
            send_all(stream, &closing);
            let reply = read_reply(&mut BufReader::new(&*stream), false).expect("an answer");
            waits.push(start.elapsed());
            assert_eq!(reply.status, 200, "{reply:?}");
        }
    }
    waits
}

fn closing(message: &[u8]) -> Vec<u8> {
    let line = message.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    [&message[..line], b"Connection: close\r\n", &message[line..]].concat()
}

/// 200 connections, and another one for each that the server ends.
fn attack<'scope>(world: &'scope World, scope: &'scope thread::Scope<'scope, '_>) {
    let slow_head: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nX: ";
    let slow_body: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n";
    for start in [b"", slow_head, slow_body] {
        scope.spawn(move || dripping(world, start, 40));
    }
    scope.spawn(move || never_reading(world, 40));
    scope.spawn(move || garbage_and_resets(world, 40));
}

fn open(world: &World, open: fn(SocketAddr) -> std::io::Result<TcpStream>) -> TcpStream {
    world.attacks.fetch_add(1, Relaxed);
    open(world.server.address).expect("a connection")
}

/// Whether the server ended it; if with a refusal, that counts.
fn is_over(world: &World, stream: &TcpStream) -> bool {
    let mut told = Vec::new();
    let over = take(stream, &mut told);
    // A refusal is the last thing said; `Refused` is our reason phrase for all of them.
    let refusals = told.windows(8).filter(|word| word == b" Refused").count();
    world.refused.fetch_add(refusals as u64, Relaxed);
    over
}

/// Says how a request starts, then a byte a second; with no start, nothing at all.
fn dripping(world: &World, start: &[u8], count: usize) {
    let begin = || {
        let stream = open(world, connect);
        send_all(&stream, start);
        stream
    };
    let mut streams: Vec<TcpStream> = (0..count).map(|_| begin()).collect();
    while !world.over.load(Relaxed) {
        thread::sleep(Duration::from_secs(1));
        for stream in &mut streams {
            if is_over(world, stream) || (!start.is_empty() && !send_all(stream, b"a")) {
                *stream = begin();
            }
        }
    }
}

/// Asks for the longest answer again and again, never for the same one, and reads none.
fn never_reading(world: &World, count: usize) {
    let begin = || {
        let stream = open(world, connect_narrow);
        stream.set_nonblocking(true).expect("a socket");
        stream
    };
    let mut streams: Vec<TcpStream> = (0..count).map(|_| begin()).collect();
    let mut number = 0;
    while !world.over.load(Relaxed) {
        thread::sleep(Duration::from_millis(500));
        for stream in &mut streams {
            number += 1;
            let ask = format!("GET /upload.js?{number} HTTP/1.1\r\nHost: x\r\n\r\n");
            if stream.write(ask.as_bytes()).is_err_and(|e| e.kind() != ErrorKind::WouldBlock) {
                *stream = begin();
            }
        }
    }
}

/// Four hundred a second that send something broken, every other of which then resets.
fn garbage_and_resets(world: &World, count: usize) {
    let mut random = Random(1);
    while !world.over.load(Relaxed) {
        let streams: Vec<TcpStream> = (0..count).map(|_| open(world, connect)).collect();
        for stream in &streams {
            let valid = &world.valid[random.below(world.valid.len())];
            send_all(stream, &mutate(&mut random, valid));
        }
        thread::sleep(Duration::from_millis(100));
        for (number, stream) in streams.into_iter().enumerate() {
            if number % 2 == 0 {
                reset(stream);
            } else {
                is_over(world, &stream);
            }
        }
    }
}
