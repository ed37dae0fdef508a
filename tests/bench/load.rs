//! What a request costs: `tests/bench/run`, or `cargo bench --bench load -- [ROUNDS] [SECONDS]
//! [ROW]`, where ROW is a part of the rows' names, as in `callback, door, 32`. One thread drives
//! many connections, each with one request on its way, against the server on TCP, on a Unix
//! socket, and a bare tiny_http loop. Rounds of all rows in turn, so that noise hits all alike;
//! their medians as Markdown.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use httparse::Status;
use oss_standin::{Options, Standin};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use serde_json::json;
use socket2::Socket;
use support::binary;
use support::trust::{callback, callback_token, now, ticket};

const CONNECTIONS: [usize; 3] = [1, 32, 256];
const OSS_SECRET: &str = "exampleAkSecretNeverShown";
const TICKET_SECRET: &str = "ticketSecretOfMoreThanThirtyTwoCharacters";
const FORM: &str = "application/x-www-form-urlencoded";
const BODY: &[u8] = b"filename=user%2Fphoto.jpg&size=123456&mimeType=image%2Fjpeg&height=600&\
                      width=800&bucket=examplebucket&etag=5D41402ABC4B2A76B9719D911017C592";
/// Far longer than any answer takes, so that a server that hangs ends the run.
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_BYTES: usize = 8 * 1024;
const BARE: &str = "bare loop";

fn main() {
    if let Ok(address) = std::env::var("BARE_LOOP") {
        bare_loop(&address);
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok());
    let (rounds, seconds) = (number(0).unwrap_or(3).max(1), number(1).unwrap_or(2).max(1));
    let wanted = words.get(2).cloned().unwrap_or_default();

    // Sockets need a short path, the record a disk that syncs: the system's folder may be memory.
    let own = std::process::id();
    let folder = std::env::temp_dir().join(format!("appserver-load-{own}"));
    let record = binary().with_file_name(format!("bench-load-{own}"));
    for folder in [&folder, &record] {
        fs::create_dir_all(folder).expect("a folder");
    }
    let bucket = Standin::start(Options::default()).expect("the bucket starts");
    let pem = folder.join("key.pem");
    fs::write(&pem, bucket.public_key_pem()).expect("a key file");
    let vars = [
        ("OSS_ACCESS_KEY_ID", "exampleAkId"),
        ("OSS_ACCESS_KEY_SECRET", OSS_SECRET),
        ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
        ("UPLOAD_DIR", "user/"),
        ("CALLBACK_URL", "http://127.0.0.1/callback"),
        ("CALLBACK_PUBLIC_KEY_FILE", pem.to_str().expect("a plain path")),
    ];

    // The server with each extra variable, on both kinds of socket.
    let logs = ["door", "unix"].map(|place| record.join(place).display().to_string());
    let server = |place: usize, name: &str, extra: &[(&str, &str)]| {
        let name = format!("{}{name}", ["door", "unix"][place]);
        let site = match place {
            0 => Site::free(),
            _ => Site::Unix(folder.join(format!("{}.sock", name.replace([' ', ','], "-")))),
        };
        let mut command = Command::new(binary());
        command.env_clear().envs(vars).envs(extra.iter().copied()).args(site.arguments());
        Program::start(&name, site, command)
    };
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    let site = Site::free();
    command.env_clear().env("BARE_LOOP", site.arguments().join(":"));
    let bare = Program::start(BARE, site, command);
    let plain = [0, 1].map(|place| server(place, "", &[]));
    let ticketed =
        [0, 1].map(|place| server(place, ", tickets", &[("UPLOAD_JWT_SECRET", TICKET_SECRET)]));
    let recording = [0, 1].map(|place| {
        fs::create_dir(&logs[place]).expect("a folder");
        server(place, ", `UPLOAD_LOG`", &[("UPLOAD_LOG", &logs[place])])
    });

    let get =
        |path: &str, field: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{field}\r\n").into();
    let until = now() + 86_400;
    let bearer = ticket(TICKET_SECRET, &json!({ "sub": "alice", "exp": until }));
    let token = callback_token(OSS_SECRET, "/callback", until, "user/");
    let target = format!("/callback?token={token}");
    let post = callback(&target, &bucket.sign(&target, BODY), FORM, BODY);
    let kinds: [(&str, Vec<u8>, Vec<&Program>); 5] = [
        ("`GET /`", get("/", ""), vec![&plain[0], &plain[1], &bare]),
        ("`GET` V4", get("/get_post_signature_for_oss_upload", ""), vec![&plain[0], &plain[1]]),
        (
            "`GET /` with a ticket",
            get("/", &format!("Authorization: Bearer {bearer}\r\n")),
            vec![&ticketed[0], &ticketed[1]],
        ),
        ("callback", post.clone(), vec![&plain[0], &plain[1], &bare]),
        ("callback, `UPLOAD_LOG`", post, vec![&recording[0], &recording[1]]),
    ];
    let mut rows: Vec<Row> = Vec::new();
    for connections in CONNECTIONS {
        for (what, message, programs) in &kinds {
            for &program in programs {
                rows.push(Row { what, message, program, connections, samples: Vec::new() });
            }
        }
    }
    // The rows that are asked for, and what they are compared with.
    let is_wanted = |row: &Row| format!("{}, {}", row.name(), row.connections).contains(&wanted);
    let references: Vec<_> = rows.iter().filter(|row| is_wanted(row)).map(Row::reference).collect();
    let is_reference =
        |row: &Row| row.program.name == BARE && references.contains(&row.reference());
    rows.retain(|row| is_wanted(row) || is_reference(row));
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}: {} rows of {seconds} s", rows.len());
        for row in &mut rows {
            row.samples.push(measure(row, Duration::from_secs(seconds)));
        }
    }

    println!(
        "Medians of {rounds} round(s) of {seconds} s a row; the client is one thread on the same \
         machine. Log lines go to\n/dev/null, the record of `UPLOAD_LOG` to {}.\n",
        record.display()
    );
    print_rows(&rows);
    println!("\n| | memory idle, MB | after 256 connections, MB |\n|---|---|---|");
    let programs = plain.iter().chain(&ticketed).chain(&recording).chain([&bare]);
    for Program { name, idle, pid, .. } in programs {
        println!("| {name} | {idle:.1} | {:.1} |", memory(*pid));
    }
    for folder in [&folder, &record] {
        let _ = fs::remove_dir_all(folder);
    }
}

struct Row<'a> {
    what: &'a str,
    message: &'a [u8],
    program: &'a Program,
    connections: usize,
    samples: Vec<Sample>,
}

impl Row<'_> {
    fn name(&self) -> String {
        let place = self.program.name.split(',').next().unwrap_or_default();
        format!("{}, {place}", self.what)
    }

    /// What rows have in common with the bare loop's that they are compared with.
    fn reference(&self) -> (bool, usize) {
        (self.message.starts_with(b"POST"), self.connections)
    }
}

struct Sample {
    per_second: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
    /// Microseconds of CPU time per request.
    theirs: f64,
    ours: f64,
    /// MB, with all connections open.
    memory: f64,
}

fn print_rows(rows: &[Row]) {
    println!(
        "| | connections | requests/s | p50 µs | p99 µs | CPU µs/request | the client's | \
         memory MB | of the bare loop |\n|---|---|---|---|---|---|---|---|---|"
    );
    for row in rows {
        let of = |value: fn(&Sample) -> f64| median(row.samples.iter().map(value));
        // Round by round, so that a slow minute slows both.
        let same =
            |other: &&Row| other.program.name == BARE && other.reference() == row.reference();
        let bare = rows.iter().find(same);
        let bare = bare.expect("a reference").samples.iter();
        let pairs = row.samples.iter().zip(bare);
        let ratio = median(pairs.map(|(row, bare)| row.per_second / bare.per_second));
        println!(
            "| {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.1} | {ratio:.2} |",
            row.name(),
            row.connections,
            grouped(of(|sample| sample.per_second)),
            grouped(of(|sample| sample.p50)),
            grouped(of(|sample| sample.p99)),
            of(|sample| sample.theirs),
            of(|sample| sample.ours),
            of(|sample| sample.memory),
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

/// Whole, as in `12,345`.
fn grouped(value: f64) -> String {
    let value = value.round() as u64;
    if value < 1000 { value.to_string() } else { format!("{},{:03}", value / 1000, value % 1000) }
}

/// Keeps each connection asking for so long, and waits for all that was asked.
fn measure(row: &Row, time: Duration) -> Sample {
    let Row { message, program, .. } = row;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
    // Each is answered before the next is opened: tiny_http hands one that comes before that to a
    // thread that the last is about to take, and then never looks at it.
    let open = |number| {
        let mut client = Client::open(&program.site).expect("a connection");
        client.send(message);
        while !client.receive() {}
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&poll, &client.socket, data, epoll::EventFlags::IN).expect("a socket");
        client
    };
    let mut clients: Vec<Client> = (0..row.connections).map(open).collect();

    let mut latencies: Vec<u32> = Vec::new();
    let mut events = Vec::with_capacity(row.connections);
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let (ours, theirs) = (cpu(std::process::id()), cpu(program.pid));
    let start = Instant::now();
    let mut last = start;
    clients.iter_mut().for_each(|client| client.send(message));
    let mut waiting = clients.len();
    while waiting > 0 {
        epoll::wait(&poll, spare_capacity(&mut events), Some(&patience)).expect("events");
        assert!(!events.is_empty(), "{}: no answer within {PATIENCE:?}", program.name);
        for event in events.drain(..) {
            let client = &mut clients[event.data.u64() as usize];
            if !client.receive() {
                continue;
            }
            last = Instant::now();
            latencies.push((last - client.sent).as_nanos() as u32);
            if last - start < time {
                client.send(message);
            } else {
                waiting -= 1;
            }
        }
    }
    let (ours, theirs) = (cpu(std::process::id()) - ours, cpu(program.pid) - theirs);
    let memory = memory(program.pid);

    latencies.sort_unstable();
    let count = latencies.len() as f64;
    let at = |share: f64| f64::from(latencies[((count - 1.0) * share) as usize]) / 1e3;
    Sample {
        per_second: count / (last - start).as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
        theirs: theirs * 1e6 / count,
        ours: ours * 1e6 / count,
        memory,
    }
}

struct Client {
    socket: Socket,
    buffer: [u8; ANSWER_BYTES],
    held: usize,
    sent: Instant,
}

impl Client {
    fn open(site: &Site) -> io::Result<Client> {
        let socket: OwnedFd = match site {
            Site::Tcp(address) => TcpStream::connect(address)?.into(),
            Site::Unix(path) => UnixStream::connect(path)?.into(),
        };
        let socket = Socket::from(socket);
        if let Site::Tcp(_) = site {
            socket.set_tcp_nodelay(true)?;
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Client { socket, buffer: [0; ANSWER_BYTES], held: 0, sent: Instant::now() })
    }

    /// One write: nothing else is on its way, so the system has room for all of it.
    fn send(&mut self, message: &[u8]) {
        self.sent = Instant::now();
        let sent = self.socket.write(message).expect("a request is sent");
        assert_eq!(sent, message.len());
    }

    /// Reads what is there; true once it is a whole answer. What is none with status 200 and just
    /// the length that it says ends the run: nothing else is ever counted.
    fn receive(&mut self) -> bool {
        let read = self.socket.read(&mut self.buffer[self.held..]).expect("an answer");
        assert!(read > 0, "the server closed, or answers at too great length");
        self.held += read;
        let answer = &self.buffer[..self.held];
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let Status::Complete(body) = head.parse(answer).expect("an answer in HTTP") else {
            return false;
        };
        assert_eq!(head.code, Some(200), "{}", String::from_utf8_lossy(answer));
        let mut fields = head.headers.iter();
        let length = fields.find(|field| field.name.eq_ignore_ascii_case("content-length"));
        let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
        let length: usize = length.expect("an answer with its length");
        let total = body + length;
        assert!(self.held <= total, "more than an answer");
        let whole = self.held == total;
        if whole {
            self.held = 0;
        }
        whole
    }
}

/// Where a program listens.
enum Site {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Site {
    /// A port that is free now. Another process may take it before the program does, which then
    /// fails to start.
    fn free() -> Site {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Site::Tcp(free.local_addr().expect("bound"))
    }

    /// As appserver takes it.
    fn arguments(&self) -> Vec<String> {
        match self {
            Site::Tcp(address) => vec![address.ip().to_string(), address.port().to_string()],
            Site::Unix(path) => vec![format!("unix:{}", path.display())],
        }
    }
}

/// A running program; ended when dropped.
struct Program {
    name: String,
    site: Site,
    child: Child,
    pid: u32,
    /// MB, after the first answer.
    idle: f64,
}

impl Program {
    /// Not `support::Server`, which reads all log lines: that would cost CPU time while others
    /// are measured.
    fn start(name: &str, site: Site, mut command: Command) -> Program {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("the program starts");
        let (name, pid, idle) = (name.to_owned(), child.id(), 0.0);
        let mut program = Program { name, site, child, pid, idle };
        let start = Instant::now();
        let mut client = loop {
            let ended = program.child.try_wait().expect("a child");
            assert!(ended.is_none(), "{} ended: {ended:?}", program.name);
            match Client::open(&program.site) {
                Ok(client) => break client,
                Err(error) => assert!(start.elapsed() < PATIENCE, "{}: {error}", program.name),
            }
            thread::sleep(Duration::from_millis(5));
        };
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        while !client.receive() {}
        thread::sleep(Duration::from_millis(200)); // what it still does at its start
        program.idle = memory(pid);
        program
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Seconds of CPU time that a process has used, threads that have ended included.
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let after = stat.rsplit(") ").next().expect("fields");
    let fields: Vec<f64> = after.split(' ').map(|f| f.trim().parse().unwrap_or(0.0)).collect();
    (fields[11] + fields[12]) / 100.0
}

/// VmRSS of a process, in MB.
fn memory(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.expect("a number") / 1e3
}

/// The reference: tiny_http with nothing before it. Its answer to GET is short, since a longer one
/// leaves in two writes and waits 40 ms for the first to be acknowledged; that to POST is the
/// server's, without any check.
fn bare_loop(address: &str) -> ! {
    let server = tiny_http::Server::http(address).expect("a server");
    let body = "x".repeat(800);
    loop {
        let mut request = server.recv().expect("a request");
        let answer = if *request.method() == tiny_http::Method::Post {
            let _ = request.as_reader().read_to_end(&mut Vec::new());
            r#"{"Status":"OK"}"#
        } else {
            &body
        };
        let _ = request.respond(tiny_http::Response::from_string(answer));
    }
}
