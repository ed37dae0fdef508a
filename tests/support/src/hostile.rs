//! Clients that misbehave: sockets that no library would open, and limits to start a child under.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};

use crate::PATIENCE;

/// A connection whose reads end some time.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    prepare(TcpStream::connect(address)?, PATIENCE)
}

/// A connection that comes from `source`: on Linux all of 127.0.0.0/8 is this machine.
pub fn connect_from(source: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(Some(source), address)?;
    socket.connect(&address.into())?;
    prepare(socket.into(), PATIENCE)
}

/// The `number`th of many loopback addresses.
pub fn loopback(number: usize) -> IpAddr {
    Ipv4Addr::new(
        127,
        1 + (number / 250 / 250) as u8,
        (number / 250 % 250) as u8,
        1 + (number % 250) as u8,
    )
    .into()
}

/// A connection that takes next to nothing: small segments and a small window, so that what the
/// server's system buffers for it is soon full.
pub fn connect_narrow(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(None, address)?;
    socket.set_recv_buffer_size(1)?;
    socket.set_tcp_mss(536)?;
    socket.connect(&address.into())?;
    prepare(socket.into(), PATIENCE)
}

/// A socket that will connect to `address`, from `source` if there is one.
pub(crate) fn socket(source: Option<IpAddr>, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// Neither a read nor a write waits longer.
pub(crate) fn prepare(stream: TcpStream, patience: Duration) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Closes with a reset instead of a goodbye.
pub fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// Sends all, as far as the server takes it: it may refuse and close before the end.
pub fn send_all(mut stream: &TcpStream, bytes: &[u8]) -> bool {
    stream.write_all(bytes).is_ok()
}

/// All that comes until the server closes; `None` if it has not within `PATIENCE`.
pub fn read_to_close(mut stream: &TcpStream) -> Option<Vec<u8>> {
    let (mut all, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Some(all),
            Ok(read) => all.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(_) => return Some(all),
        }
    }
}

/// Whether the server has ended this connection; what it sent before is thrown away.
pub fn is_closed(stream: &TcpStream) -> bool {
    take(stream, &mut Vec::new())
}

/// Adds what has come to `bytes`, without waiting; whether the server has ended this connection.
pub fn take(mut stream: &TcpStream, bytes: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 4096];
    stream.set_nonblocking(true).expect("a socket");
    let closed = loop {
        match stream.read(&mut chunk) {
            Ok(0) => break true,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => break error.kind() != ErrorKind::WouldBlock,
        }
    };
    stream.set_nonblocking(false).expect("a socket");
    closed
}

/// `program`, to run with at most `count` threads. The limit counts all threads of a user and
/// does not bind root, so it runs as a user of its own: as root, an id that nobody else has; else,
/// in a user namespace, where counting begins anew.
pub fn limit_threads(count: usize, program: &Path) -> Command {
    let limit = format!("--nproc={count}");
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    });
    let mut command;
    if is_root {
        let id = 60_000_000 + std::process::id();
        command = Command::new("setpriv");
        command.args([format!("--reuid={id}"), format!("--regid={id}")]);
        command.args(["--clear-groups", "prlimit", &limit]);
    } else {
        command = Command::new("unshare");
        command.args(["--user", "prlimit", &limit]);
    }
    command.arg(program);
    command
}

/// Lets this process itself have so many descriptors, and some for what else it does.
pub fn allow_descriptors(count: usize) {
    let (limit, wanted) = (getrlimit(Resource::Nofile), count as u64 + 500);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit });
        let maximum = limit.maximum;
        assert!(raised.is_ok(), "this test needs {wanted} descriptors (ulimit -Hn: {maximum:?})");
    }
}

/// Small and quick, the same on every machine (xorshift64*).
pub struct Random(pub u64);

impl Random {
    #[expect(clippy::should_implement_trait)] // not an iterator: it never ends
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

/// Bytes that mean something in a request's head.
const TELLING: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"\r\n\r\n",
    b"\r\n ",
    b"\xff",
    b"\xc3\xa9",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"content-length: +5\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Host: y\r\n",
    b"x-appserver-from: 9.9.9.9 0\r\n",
    b"authorization: x\r\n",
    b"Connection: upgrade\r\n",
    b"TE: chunked\r\n",
    b"http://x/",
    b"?",
    b"#",
    b"%",
    b"//",
    b"HEAD",
    b"POST",
    b"origin: \"\r\n",
    b"0\r\n\r\n",
    b"99999999999999999999",
    b",",
    b";",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
];

/// A valid message with a few faults in it, half the time a single one: bytes changed, dropped,
/// doubled, swapped, or something telling put in.
pub fn mutate(random: &mut Random, message: &[u8]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    for _ in 0..1 + random.below(4) * random.below(2) {
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(8)).min(bytes.len());
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] = b' ' + random.below(95) as u8,
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            5 if !bytes.is_empty() => {
                let other = random.below(bytes.len());
                bytes.swap(at, other);
            }
            _ => drop(bytes.splice(at..at, random.of(TELLING).iter().copied())),
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}
