//! Requests that no client should send: request smuggling (CL.TE, TE.CL, two lengths, line folding,
//! obs-fold), truncation, headers and bodies beyond the limits, bytes beyond ASCII, forged
//! addresses (X-Forwarded-For). Each is refused as RFC 9112 asks, and the log says why.

use std::os::unix::net::UnixStream;

use appserver::http::HEADERS;

use crate::*;

/// A request line or header without an end is refused at 8 KiB, so that no memory fills up with
/// it. The bare loop would keep it all.
#[test]
fn a_line_that_never_ends() {
    let rows = [
        ("GET / HTTP/1.1\r\nHost: x\r\nX: ", "aaaaaaaa", 431),
        ("GET / HTTP/1.1\r\n", "aaaaaaaa", 431),
        ("GET /", "aaaaaaaa", 431),
        ("", "AAAAAAAA", 431),
        ("", "        ", 431),
        ("", "\r\n\r\n\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\n", "a: b\r\nc: d\r\n", 431),
    ];
    let world = World::new(&[]);
    world.while_others_are_served(|| {
        side_by_side("a_line_that_never_ends", rows, |(start, endless, status)| {
            let stream = world.send(start);
            let chunk = endless.repeat(8 * 1024);
            // What follows a refusal is thrown away for a moment, then the connection ends.
            while send_all(&stream, chunk.as_bytes()) {
                thread::sleep(Duration::from_millis(10)); // six megabytes a second are enough
            }
            // A reset may overtake the response, but nothing else may come.
            let told = all_responses(&stream);
            assert!(told.is_empty() || statuses(&told) == [status], "{start:?}: {told:?}");
        });
    });
}

/// Request smuggling (CVE-2026-66752 and its like): two parsers that disagree where a message ends.
/// Whatever says how long a body is, but for one plain `Content-Length` within the limit (no
/// integer overflow, no huge allocation of memory), is refused, and what follows is no request.
#[test]
fn smuggling() {
    let chunked = "5\r\nabcde\r\n0\r\n\r\n";
    let mut rows: Vec<(String, &str, u16)> = Vec::new();
    for coding in [
        "chunked",
        "xchunked",
        "chunkedx",
        "chunked, identity",
        "identity, chunked",
        "identity",
        "gzip, chunked",
        "chunked, chunked",
        "chunked;q=1",
        "CHUNKED",
        "\tchunked",
        "chunked\t",
        "\"chunked\"",
        "chunk\u{e9}d",
        "",
        "x",
    ] {
        let both = format!("Content-Length: 5\r\nTransfer-Encoding: {coding}");
        rows.push((both, chunked, 501)); // CL.TE
        let both = format!("Transfer-Encoding: {coding}\r\nContent-Length: 5");
        rows.push((both, chunked, 501)); // TE.CL
        rows.push((format!("Transfer-Encoding: {coding}"), chunked, 501));
        rows.push((format!("tRANSFER-eNCODING:{coding}"), chunked, 501));
    }
    for fields in [
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\r\n\tchunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\r\rTransfer-Encoding: chunked",
        "X: y\0Transfer-Encoding: chunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding:\x0cchunked",
        "Transfer_Encoding\0: chunked",
        "Transfer-Encoding",
        ": chunked",
    ] {
        rows.push((fields.to_owned(), chunked, 400));
        rows.push((format!("Content-Length: 5\r\n{fields}"), chunked, 400));
        rows.push((format!("{fields}\r\nContent-Length: 5"), chunked, 400));
    }
    for length in [
        "+5", "-1", "-0", "0x5", "5, 5", "5,5", "5 5", "5;", "5.0", "5e0", "", " ", "five",
        "\"5\"", "5\t6", "\u{0665}", "1_0", "0b1",
    ] {
        rows.push((format!("Content-Length: {length}"), "abcde", 400));
    }
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 0",
        "Content-Length: 0\r\ncONTENT-lENGTH: 5",
        "Content-Length: 5\r\nX: y\r\nContent-Length: +5",
        "Content-Length : 5",
        "Content-Length\r\n : 5",
        "Content-Length: 5\r\n 6",
        "Content-Length: 5\nX: y",
        "Content-Length: 5\0",
        "Content-Length: 5\r\n\tX: y",
        "Content\0-Length: 5",
        "Content-Length: 5\x7f",
    ] {
        rows.push((fields.to_owned(), "abcde", 400));
    }
    // No memory holds such a length. The bare loop would allocate what it says.
    let digits = "9".repeat(5000);
    for length in
        ["65537", "99999999999999", "18446744073709551615", "18446744073709551616", &digits]
    {
        rows.push((format!("Content-Length: {length}"), "abcde", 413));
    }
    let world = World::new(&[]);
    world.while_others_are_served(|| {
        for (fields, body, expected) in &rows {
            for method in ["POST", "GET"] {
                let message = format!("{method} / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n{body}");
                world.refuses([message.as_bytes(), SMUGGLED].concat(), *expected);
            }
        }
    });
    assert!(!world.server.log().concat().contains("smuggled"));
}

/// A body that looks like a request is a body and no smuggling: the request after it is answered.
#[test]
fn what_looks_like_smuggling_and_is_not() {
    let world = World::new(&[]);
    let length = SMUGGLED.len();
    for (message, first) in [
        (format!("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"), 405),
        (format!("PUT / HTTP/1.1\r\nhOST: x\r\ncONTENT-lENGTH:00{length}\t \r\n\r\n"), 405),
        (format!("GET / HTTP/1.1\r\nHost:x\r\nContent-Length: {length}\r\n\r\n"), 200),
        (format!("\r\nPUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"), 405),
        (format!("PUT http://y/z HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"), 405),
    ] {
        let told = world.statuses([message.as_bytes(), SMUGGLED, HEALTH].concat());
        assert_eq!(told, [first, 200], "{message}");
    }
    assert!(!world.server.log().concat().contains("smuggled"));
}

/// Truncation: a request that is cut off anywhere is never answered as if it were whole. If its
/// rest never comes (slowloris), it is told 408 after a timeout, and nobody else waits for it. The
/// bare loop would wait for a body, or drain it in a `Drop`, and everybody with it.
#[test]
fn every_truncation_of_a_valid_request() {
    let world = World::new(&[]);
    let get = get("/healthz?a=b", "Origin: http://a\r\nContent-Length: 0\r\n");
    world.while_others_are_served(|| {
        for whole in [get.as_bytes(), &world.callback] {
            assert_eq!(world.statuses(whole), [200]);
            for end in 0..whole.len() {
                let told = world.answers(&whole[..end]);
                assert!(told.is_empty(), "{end} of {} bytes: {told:?}", whole.len());
                drop(world.send(&whole[..end]));
            }
        }
        let some = (1..world.callback.len()).step_by(37);
        let some = some.map(|end| &world.callback[..end]).chain([POST; 20]);
        let silent: Vec<TcpStream> = some.map(|start| world.send(start)).collect();
        for stream in silent {
            let told = all_responses(&stream);
            assert_eq!(statuses(&told), [408]);
            assert!(is_refusal(&told[0]), "{told:?}");
        }
    });
    world.server.wait_log(" 127.0.0.1 POST \"/\" 408 reason=\"");
}

/// Requests on the border of the grammar and of the limits: versions, request targets, header names
/// and values, `Expect`, pipelined line ends, TLS on a plain port.
#[test]
fn requests_on_the_border() {
    let world = World::new(&[]);
    let fields = |count: usize| "X: y\r\n".repeat(count - 1); // and the host
    let head = |bytes: usize| {
        let start = "GET /healthz HTTP/1.1\r\nHost: x\r\nX: ";
        format!("{start}{}\r\n\r\n", "a".repeat(bytes - start.len() - 4))
    };
    let plain = |fields: &str| get("/healthz", fields);
    for (message, expected) in [
        (plain(""), 200),
        (plain(&fields(64)), 200),
        (plain(&fields(65)), 431),
        (head(8192), 200),
        (head(8193), 431),
        (head(9000), 431),
        ("GET /healthz HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /healthz HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
        (request("GET /healthz HTTP/2.0", ""), 505),
        (request("GET /healthz HTTP/0.9", ""), 505),
        (request("GET /healthz HTTP/1.2", ""), 505),
        (request("GET /healthz HTTP/3.0", ""), 505),
        (request("GET /healthz", ""), 400),
        (request("GET  /healthz HTTP/1.1", ""), 400),
        (request("GET /healthz  HTTP/1.1", ""), 505),
        (request("GET /healthz HTTP/1.1 ", ""), 400),
        (request(" GET /healthz HTTP/1.1", ""), 400),
        (request("GET\t/healthz\tHTTP/1.1", ""), 400),
        (request("GET /a b HTTP/1.1", ""), 505),
        (request("GET healthz HTTP/1.1", ""), 400),
        (request("GET /healthz#a HTTP/1.1", ""), 400),
        (request("GET \\healthz HTTP/1.1", ""), 400),
        (request("CONNECT x:443 HTTP/1.1", ""), 400),
        (request("G@T /healthz HTTP/1.1", ""), 400),
        (request("get /healthz HTTP/1.1", ""), 405),
        (request("GET http://y/healthz?a HTTP/1.1", ""), 200),
        (request("GET https://y/healthz HTTP/1.1", ""), 200),
        (request("GET http://y HTTP/1.1", ""), 200),
        (request("GET http://y?healthz HTTP/1.1", ""), 400),
        (request("GET ftp://y/healthz HTTP/1.1", ""), 400),
        (request("GET //y/healthz HTTP/1.1", ""), 404),
        (request("GET /healthz/../healthz HTTP/1.1", ""), 404),
        (request("GET /\x7f HTTP/1.1", ""), 400),
        (request("OPTIONS * HTTP/1.1", ""), 204),
        (plain("Expect: 100-continue\r\n"), 200),
        (plain("Expect: 100-Continue\r\n"), 200),
        (plain("Expect: 200-ok\r\n"), 417),
        (plain("Expect: 100-continue, x\r\n"), 417),
        (plain("Expect:\r\n"), 417),
        (plain("Connection: upgrade\r\nUpgrade: h2c\r\n"), 200),
        (plain("TE: trailers, chunked\r\nTrailer: x\r\n"), 200),
        (plain("X: a\tb\r\n"), 200),
        (plain("X:\r\n"), 200),
        (plain("X\r\n"), 400),
        (plain(": x\r\n"), 400),
        (plain("X y: z\r\n"), 400),
        (plain("X(y): z\r\n"), 400),
        (plain("X: y\r\n\r\r\n"), 400),
        (plain("oRIGIN: http://a\r\n"), 200),
        ("\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 200),
        ("\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 400),
        ("\n\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 400),
        ("\0".to_owned(), 400),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}".to_owned(), 400), // TLS
    ] {
        let told = world.answers(&message);
        let shown: String = message.chars().take(120).collect();
        assert_eq!(statuses(&told).first(), Some(&expected), "{shown}");
        if matches!(expected, 408..=431 | 500..=599) {
            assert!(is_refusal(&told[0]), "{shown}: {:?}", told[0]);
        }
    }
}

/// Non-ASCII bytes: cookies, referrers and what proxies add may be in any encoding (UTF-8, Latin-1)
/// and are dropped. Values that are passed on must be ASCII, and the refusal names the header that
/// is not.
#[test]
fn bytes_beyond_ascii() {
    let world = World::new(&[]);
    let every: Vec<u8> = (0x80..=0xff).collect();
    let values = [&*every, b"caf\xe9", "caf\u{e9}".as_bytes(), "\u{5317}\u{4eac}".as_bytes()];
    let with = |line: &[u8], field: &[u8]| [line, b"\r\nHost: x\r\n", field, b"\r\n\r\n"].concat();
    let get = |field: &[u8]| with(b"GET /healthz HTTP/1.1", field);
    for value in values {
        for name in ["Cookie", "Referer", "User-Agent", "X-Geo-City"] {
            let field = [name.as_bytes(), b": a=", value].concat();
            // What follows is a request still.
            let told = world.statuses([&*get(&field), HEALTH].concat());
            assert_eq!(told, [200, 200], "{name} {:?}", value.escape_ascii());
            let end = world.callback.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
            let (head, rest) = world.callback.split_at(end);
            let callback = [head, b"\r\n", &*field, rest].concat();
            assert_eq!(world.statuses(&callback), [200], "{name}");
        }
        for (name, _) in HEADERS {
            let field = [name.to_uppercase().as_bytes(), b": a", value].concat();
            let told = world.refuses(get(&field), 400);
            assert!(told.text().contains(name), "{name}: {told:?}");
        }
        for line in [
            [b"GET /", value, b" HTTP/1.1"].concat(),
            [b"GET /?", value, b" HTTP/1.1"].concat(),
            [b"G", value, b"T / HTTP/1.1"].concat(),
            [b"GET / HTTP/1.1", value].concat(),
            [value, b"GET / HTTP/1.1"].concat(),
        ] {
            world.refuses(with(&line, b"X: y"), 400);
        }
        world.refuses(get(&[b"X-", value, b": y"].concat()), 400);
    }
    // A control character may end the line, or the value, for another parser.
    for byte in (0..0x20).chain([0x7f]).filter(|byte| *byte != b'\t') {
        for name in ["Cookie", "Origin"] {
            world.refuses(get(&[name.as_bytes(), b": a", &[byte], b"\xe9"].concat()), 400);
        }
    }
}

/// The client can read why it is refused, whatever the origin of its page (CORS). The log says who
/// asked for what, as far as that has come, and never the query, which may hold a secret token.
#[test]
fn refusals_are_told_and_logged() {
    let world = World::new(&[]);
    let get = |path: &str, fields: &str| get(&format!("{path}?t=hidden"), fields);
    let long = format!("Cookie: {}\r\n", "a".repeat(9000));
    let rows = [
        (get("/a", "Transfer-Encoding: chunked\r\n"), 501, "GET \"/a\""),
        (get("/b", "Content-Length: 65537\r\n"), 413, "GET \"/b\""),
        (get("/c", "Content-Length: x\r\n"), 400, "GET \"/c\""),
        (get("/d", "Origin: a\r\nOrigin: a\r\n"), 400, "GET \"/d\""),
        (get("/e", "Host: x\r\n"), 400, "GET \"/e\""),
        (get("/f", "Expect: x\r\n"), 417, "GET \"/f\""),
        (get("/g", &"X: y\r\n".repeat(70)), 431, "GET \"/g\""),
        (get("/h", &long), 431, "GET \"/h\""),
        (get("/i", "X: \x01\r\n"), 400, "GET \"/i\""),
        (get("/j", "Origin: \u{e9}\r\n"), 400, "GET \"/j\""),
        ("POST /l?t=hidden HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 411, "POST \"/l\""),
        ("BREW /m?t=hidden HTTP/1.1\r\n\r\n".to_owned(), 400, "BREW \"/m\""),
        ("G@T\r\n\r\n".to_owned(), 400, "- -"),
        ("\x16\x03\x01".to_owned(), 400, "- -"),
        (format!("GET /{}", "hidden".repeat(2000)), 431, "- -"),
    ];
    for (number, (message, status, request)) in rows.iter().enumerate() {
        let told = answers_on(world.connect_from(number), message);
        assert_eq!(statuses(&told), [*status], "{request}: {told:?}");
        assert!(is_refusal(&told[0]), "{request}: {:?}", told[0]);
        let peer = loopback(number);
        let line = world.server.wait_log(&format!(" {peer} "));
        let reason = reason(&told[0]).unwrap();
        let expected = format!(" {peer} {request} {status} reason={reason:?}");
        assert!(line.ends_with(&expected), "{line:?} does not end in {expected:?}");
    }
    assert!(!world.server.log().concat().contains("hidden"));
}

/// `Expect: 100-continue`: 100 is said once, and only to those who wait for it.
#[test]
fn continue_is_said_once_and_only_to_those_who_wait_for_it() {
    let world = World::new(&[]);
    let callback = String::from_utf8(world.callback.clone()).unwrap();
    let (head, body) = callback.split_once("\r\n\r\n").unwrap();
    let expecting = format!("{head}\r\nExpect: 100-continue\r\n\r\n");
    let expecting = expecting.replace("connection: close", "connection: keep-alive");

    let stream = world.connect();
    let mut reader = BufReader::new(&stream);
    for _ in 0..2 {
        send_all(&stream, expecting.as_bytes());
        assert_eq!(read_reply(&mut reader, true).unwrap().status, 100);
        world.others_are_served();
        for byte in body.as_bytes().chunks(1) {
            send_all(&stream, byte); // one `100` for all of them
        }
        assert_eq!(read_reply(&mut reader, false).unwrap().text(), "{\"Status\":\"OK\"}");
    }
    // Who has the body already, or speaks HTTP/1.0, does not wait.
    let old = expecting.replace("HTTP/1.1", "HTTP/1.0");
    for head in [&expecting, &old] {
        assert_eq!(world.statuses(head.to_owned() + body), [200]);
    }
    let stream = world.send(&old);
    thread::sleep(Duration::from_millis(100));
    assert!(!has_answer(&stream));
    // No body that would be refused is asked for.
    let length = format!("content-length: {}", body.len());
    let huge = expecting.replace(&length, "content-length: 65537");
    assert_ne!(huge, expecting);
    assert_eq!(world.statuses(&huge), [413]);
}

/// Persistent connections (keep-alive): kept and closed as the client says.
#[test]
fn connections_are_kept_and_closed_as_the_client_says() {
    let world = World::new(&[]);
    for (version, field, kept) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: keep-alive, Close\r\n", false),
        ("1.1", "Connection: x\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", false),
    ] {
        let message = request(&format!("GET / HTTP/{version}"), field);
        let told = world.answers(message.repeat(3));
        let close = |reply: &Reply| reply.header("connection") == Some("close");
        assert_eq!(told.len(), if kept { 3 } else { 1 }, "{version} {field}");
        assert_eq!(told.iter().any(close), !kept, "{version} {field}");
    }
}

/// The Unix socket for another proxy is guarded as well: no proxy is trusted to have read what it
/// passes on.
#[test]
fn the_unix_socket_is_no_way_around() {
    let folder = Folder::new();
    let path = folder.path("http.sock");
    let mut command = Command::new(binary());
    command.arg(format!("unix:{path}"));
    let mut server = Server::spawn(command, &[]);
    let send = |message: &[u8]| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = stream.write_all(message);
        stream
    };
    let silent: Vec<UnixStream> = (0..600).map(|_| send(POST)).collect();
    for (fields, expected) in [
        ("", &[200, 404][..]),
        ("X-Forwarded-For: 9.9.9.9, 7.7.7.7\r\n", &[200, 404]),
        ("Content-Length: 99999999999999\r\n", &[413]),
        ("Content-Length: 5, 5\r\n", &[400]),
        ("Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n", &[501]),
    ] {
        let mut stream = send((get("/", fields) + &get("/next", "")).as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        let start = Instant::now();
        let told: Vec<Reply> = std::iter::from_fn(|| read_reply(&mut stream, false)).collect();
        assert!(start.elapsed() < SERVED_WITHIN);
        // While all places are taken, any response may be its connection's last, if it says so.
        let last = told.last().and_then(|reply| reply.header("connection"));
        let whole = told.len().min(expected.len());
        let expected = if last == Some("close") { &expected[..whole] } else { expected };
        assert_eq!(statuses(&told), expected, "{fields}");
    }
    server.wait_log(" 7.7.7.7 GET \"/\" 200");
    drop(silent);
    assert_survived(server.is_running(), server.status("VmHWM"), "others were served");
}

/// Forged addresses (spoofing by `X-Forwarded-For`): the log names who really asks. A proxy on this
/// machine may say for whom it does, nobody else.
#[test]
fn forged_addresses() {
    let world = World::of(Command::new(binary()), "0.0.0.0", &[]);
    let forged = "x-appserver-from: 9.9.9.9 0\r\nX-Appserver-From: 8.8.8.8 1\r\n";
    let forwarded = "X-Forwarded-For: 9.9.9.9, 7.7.7.7\r\n";
    let mut rows = vec![
        ("/a", world.address(), forged, "127.0.0.1".to_owned()),
        ("/b", world.address(), forwarded, "7.7.7.7".to_owned()),
        ("/c", world.address(), "X-Forwarded-For: nobody\r\n", "127.0.0.1".to_owned()),
    ];
    if let Some(own) = own_address() {
        let address = SocketAddr::new(own, world.address().port());
        rows.push(("/d", address, forwarded, own.to_string()));
        rows.push(("/e", address, forged, own.to_string()));
    }
    for (path, address, fields, peer) in rows {
        let stream = connect(address).unwrap();
        assert_eq!(statuses(&answers_on(stream, get(path, fields))), [404]);
        let line = world.server.wait_log(&format!("GET {path:?} 404"));
        assert!(line.contains(&format!(" {peer} GET ")), "{path}: {line}");
    }
    assert!(!world.server.log().concat().contains("9.9.9.9"));
}

/// This machine's own address on its network, if it has one; nothing is sent to find it.
fn own_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.77:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}
