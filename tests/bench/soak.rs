//! Valid clients, alone and then beside 200 hostile ones: `cargo bench --bench soak` (three minutes).
//! Says what the valid ones wait for, what the server takes over time, and whether anything stays
//! behind. Ends with status 1 if something does, or if the attack costs others too much.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::hostile::{Random, connect, connect_narrow, mutate, reset, send_all, take};
use support::load::{beside, closing};
use support::trust::callback;
use support::world::{FORM, Site, V4};
use support::{Connection, Server};

const WARM_UP: Duration = Duration::from_secs(20);
const ALONE: Duration = Duration::from_secs(30);
const UNDER_ATTACK: Duration = Duration::from_secs(60);
/// Far from what the server can do, so that waiting shows what the attack adds, not the load.
const CLIENTS: usize = 8;
const REQUESTS_PER_SECOND: u32 = 1600;
/// The hostile connections of each kind, of which there are five.
const EACH: usize = 40;
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
}

fn main() -> ExitCode {
    let site = Site::new(&[("UPLOAD_LOG", "")]);
    let server = site.start(&[]);
    let valid = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\nOrigin: http://a.example\r\n\r\n".to_vec(),
        format!("GET {V4} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes(),
        callback("/callback", &site.bucket.sign("/callback", BODY), FORM, BODY),
    ];
    let (connections, attacks, refused) = Default::default();
    let world = World { server, valid, connections, attacks, refused };

    // What the C library keeps of the stacks and heaps of 200 threads is no growth: it keeps it once.
    let warm_up = attacked(&world, WARM_UP, "warm-up");
    let before = wait_for(&world, "before", AFTERMATH);
    let mut alone = phase(&world, ALONE, "alone");
    let mut under_attack = attacked(&world, UNDER_ATTACK, "attacked");
    let after = wait_for(&world, "after", AFTERMATH);

    let refused = world.refused.into_inner();
    let served = warm_up.len() + alone.len() + under_attack.len();
    println!("\nserved:      {served} requests on {} connections", world.connections.into_inner());
    println!("hostile:     {} connections, {refused} refusals", world.attacks.into_inner());
    let baseline = percentiles("alone:      ", &mut alone);
    let attacked = percentiles("attacked:   ", &mut under_attack);
    let ratio = attacked.as_secs_f64() / baseline.as_secs_f64();
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
    let client = |number, over: &AtomicBool| client(world, number as u64 + 1, over);
    let (waits, ()) = beside(CLIENTS, client, || {
        for second in (5..=time.as_secs()).step_by(5) {
            thread::sleep(Duration::from_secs(5));
            sample(world, name, second);
        }
    });
    waits.concat()
}

/// Sends at its pace, one to eight requests on a connection, and measures from before it connects.
fn client(world: &World, seed: u64, over: &AtomicBool) -> Vec<Duration> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
    let pace = Duration::from_secs(1) * CLIENTS as u32 / REQUESTS_PER_SECOND;
    let (mut waits, mut due) = (Vec::new(), Instant::now());
    while !over.load(Relaxed) {
        world.connections.fetch_add(1, Relaxed);
        let mut connection = None;
        for left in (0..1 + random.below(8)).rev() {
            due += pace;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let message = &world.valid[random.below(world.valid.len())];
            let message = if left == 0 { closing(message) } else { message.clone() };
            let start = Instant::now();
            let open = || Connection::open(world.server.address).expect("a connection");
            let reply = connection.get_or_insert_with(open).ask(&message).expect("a response");
            waits.push(start.elapsed());
            assert_eq!(reply.status, 200, "{reply:?}");
        }
    }
    waits
}

/// The same beside 200 hostile connections, and another one for each that the server ends.
fn attacked(world: &World, time: Duration, name: &str) -> Vec<Duration> {
    let attack = |number, over: &AtomicBool| match number {
        0 => dripping(world, b"", over),
        1 => dripping(world, b"GET / HTTP/1.1\r\nHost: x\r\nX: ", over),
        2 => dripping(world, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n", over),
        3 => never_reading(world, over),
        _ => garbage_and_resets(world, over),
    };
    beside(5, attack, || phase(world, time, name)).1
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
fn dripping(world: &World, start: &[u8], over: &AtomicBool) {
    let begin = || {
        let stream = open(world, connect);
        send_all(&stream, start);
        stream
    };
    let mut streams: Vec<TcpStream> = (0..EACH).map(|_| begin()).collect();
    while !over.load(Relaxed) {
        thread::sleep(Duration::from_secs(1));
        for stream in &mut streams {
            if is_over(world, stream) || (!start.is_empty() && !send_all(stream, b"a")) {
                *stream = begin();
            }
        }
    }
}

/// Asks for the longest answer again and again, never for the same one, and reads none.
fn never_reading(world: &World, over: &AtomicBool) {
    let begin = || {
        let stream = open(world, connect_narrow);
        stream.set_nonblocking(true).expect("a socket");
        stream
    };
    let mut streams: Vec<TcpStream> = (0..EACH).map(|_| begin()).collect();
    let mut number = 0;
    while !over.load(Relaxed) {
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
fn garbage_and_resets(world: &World, over: &AtomicBool) {
    let mut random = Random(1);
    while !over.load(Relaxed) {
        let streams: Vec<TcpStream> = (0..EACH).map(|_| open(world, connect)).collect();
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
