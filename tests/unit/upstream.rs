//! The private connection to the backend never blocks the proxy (backpressure, nonblocking I/O).

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::thread;

use appserver::http::{HEADERS, MAX_BODY_BYTES};
use appserver::proxy::head::{Limits, request};
use appserver::proxy::upstream::Upstream;

/// A backend that does not read: what the socket has no room for stays, and goes on later, in order.
#[test]
fn a_backend_that_does_not_read_blocks_nobody() {
    let (ours, mut backend) = UnixStream::pair().unwrap();
    let mut upstream = Upstream::new(ours).unwrap();
    assert!(upstream.receive(&mut [0; 1024]).unwrap().is_empty(), "nothing has come");
    let limits = Limits { headers: &HEADERS, max_body_bytes: MAX_BODY_BYTES };
    let head = b"POST /callback HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n";
    let head = request(head, limits).unwrap();
    let mut bodies = 0..=u8::MAX;
    while !upstream.has_output() {
        let body = [bodies.next().expect("a full socket"); 20_000];
        upstream.push(1, &head, &body, None, 0);
        upstream.flush().unwrap();
    }
    let count = *bodies.start();
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        backend.read_to_end(&mut all).unwrap();
        all
    });
    while upstream.has_output() {
        upstream.flush().unwrap();
        thread::yield_now();
    }
    drop(upstream);
    let all = reader.join().unwrap();
    let mut rest = all.as_slice();
    for number in 0..count {
        let body = rest.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        assert!(rest[..body].starts_with(b"POST /callback HTTP/1.1\r\n"));
        assert!(rest[body..body + 20_000].iter().all(|byte| *byte == number), "{number}");
        rest = &rest[body + 20_000..];
    }
    assert!(rest.is_empty());
}
