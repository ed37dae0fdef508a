//! What a request costs: `cargo bench --bench load [SECONDS]`. The same load, by threads that each
//! keep one connection, on the server behind its door, on its Unix socket, and on a bare
//! tiny_http loop: throughput, latency, the server's CPU and memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use oss_standin::{Options, Standin};
use support::{Server, binary};

const CONNECTIONS: [usize; 3] = [1, 32, 256];

fn main() {
    if std::env::var_os("BARE_LOOP").is_some() {
        bare_loop();
    }
    let seconds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(3);
    let time = Duration::from_secs(seconds);
    let bucket = Standin::start(Options::default()).expect("the bucket starts");
    let folder = std::env::temp_dir().join(format!("appserver-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let pem = folder.join("key.pem");
    std::fs::write(&pem, bucket.public_key_pem()).expect("a key file");
    let socket = folder.join("http.sock");
    let vars = [
        ("CALLBACK_PUBLIC_KEY_FILE", pem.to_str().expect("a plain path")),
        ("CALLBACK_URL", "http://127.0.0.1/callback"),
        ("UPLOAD_DIR", "user/"),
    ];

    let door = Server::start(&vars);
    let mut command = Command::new(binary());
    command.arg(format!("unix:{}", socket.display()));
    let unix = Server::spawn(command, &vars);
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.arg("--bench");
    let bare = Server::spawn(command, &[("BARE_LOOP", "1")]);

    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
    let (v1, v4) = (get("/"), get("/get_post_signature_for_oss_upload"));
    let body = b"filename=user%2Fa.png&size=6&mimeType=image%2Fpng&height=&width=&bucket=b&etag=A";
    let key_url = BASE64.encode(oss_standin::PUB_KEY_URL);
    let callback = format!(
        "POST /callback HTTP/1.1\r\nHost: x\r\nauthorization: {}\r\nx-oss-pub-key-url: {key_url}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
        bucket.sign("/callback", body),
        body.len()
    );
    let callback = [callback.as_bytes(), body].concat();

    println!("what                connections   req/s    p50 us   p99 us  cpu us/req  VmRSS MB");
    for (what, request) in [("GET /", &v1), ("GET V4", &v4), ("callback", &callback)] {
        for connections in CONNECTIONS {
            let tcp = |server: &Server| {
                let address = server.address;
                move || {
                    TcpStream::connect(address).inspect(|s| s.set_nodelay(true).expect("nodelay"))
                }
            };
            let open = tcp(&door);
            row(&format!("{what}, door"), &door, request, connections, time, open);
            let path = socket.clone();
            let open = move || UnixStream::connect(&path);
            row(&format!("{what}, unix"), &unix, request, connections, time, open);
            if what == "GET /" {
                row("GET /, bare loop", &bare, request, connections, time, tcp(&bare));
            }
        }
    }
    let _ = std::fs::remove_dir_all(&folder);
}

fn row<S: Read + Write>(
    what: &str,
    server: &Server,
    request: &[u8],
    connections: usize,
    time: Duration,
    open: impl Fn() -> std::io::Result<S> + Send + Sync,
) {
    let stop = AtomicBool::new(false);
    let before = cpu(server);
    let mut latencies: Vec<u32> = Vec::new();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..connections).map(|_| scope.spawn(|| client(&open, request, &stop))).collect();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            latencies.extend(client.join().expect("no client fails"));
        }
    });
    let (elapsed, used) = (start.elapsed().as_secs_f64(), cpu(server) - before);
    latencies.sort_unstable();
    let count = latencies.len().max(1);
    let at = |share: f64| latencies.get((count as f64 * share) as usize).copied().unwrap_or(0);
    println!(
        "{what:<20} {connections:>10} {:>8.0} {:>8.0} {:>8.0} {:>11.1} {:>9.1}",
        count as f64 / elapsed,
        f64::from(at(0.5)) / 1e3,
        f64::from(at(0.99)) / 1e3,
        used * 1e6 / count as f64,
        server.status("VmRSS") as f64 / 1e3,
    );
}

/// Asks again and again; latencies in nanoseconds.
fn client<S: Read + Write>(
    open: &impl Fn() -> std::io::Result<S>,
    request: &[u8],
    stop: &AtomicBool,
) -> Vec<u32> {
    let mut stream = open().expect("connected");
    let (mut latencies, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        stream.write_all(request).expect("sent");
        let (mut held, mut total) = (0, usize::MAX);
        while held < total {
            match stream.read(&mut buffer[held..]) {
                Ok(0) => panic!("closed"),
                Ok(read) => held += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
            if total == usize::MAX {
                total = length(&buffer[..held]).unwrap_or(usize::MAX);
            }
        }
        assert!(
            buffer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&buffer[..held])
        );
        latencies.push(start.elapsed().as_nanos() as u32);
    }
    latencies
}

/// Of the whole answer, once its head is here.
fn length(answer: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(answer).ok()?;
    let head = text.find("\r\n\r\n")?;
    let value = text[..head].split("Content-Length: ").nth(1)?.split("\r\n").next()?;
    Some(head + 4 + value.parse::<usize>().ok()?)
}

/// Seconds of CPU time that the server has used.
fn cpu(server: &Server) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("stat");
    let after = stat.rsplit(") ").next().expect("fields");
    let fields: Vec<f64> = after.split(' ').map(|f| f.trim().parse().unwrap_or(0.0)).collect();
    (fields[11] + fields[12]) / 100.0
}

/// The reference: tiny_http with nothing before it. Its answer is short, since a longer one leaves
/// in two writes and waits 40 ms for the first to be acknowledged.
fn bare_loop() -> ! {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    eprintln!("bare loop listening on http://{address}");
    let server = Arc::new(tiny_http::Server::from_listener(listener, None).expect("a server"));
    let body = "x".repeat(800);
    loop {
        let request = server.recv().expect("a request");
        let _ = request.respond(tiny_http::Response::from_string(body.clone()));
    }
}
