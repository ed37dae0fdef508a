//! Fuzzing over the wire: requests that were valid before something happened to them (mutation),
//! held against what the proxy's own parser says of the same bytes, and against the log.

use std::collections::BTreeMap;

use appserver::http::{HEADERS, MAX_BODY_BYTES};
use appserver::proxy::head::{self, Limits};

use crate::*;

/// What must come back for some bytes, by the proxy's own rules.
struct Fate {
    answers: usize,
    /// Which of them answer a HEAD.
    heads: Vec<usize>,
    refused: Option<u16>,
    /// Another request may follow.
    open: bool,
}

fn fate(bytes: &[u8]) -> Fate {
    let limits = Limits { headers: &HEADERS, max_body_bytes: MAX_BODY_BYTES };
    let mut fate = Fate { answers: 0, heads: Vec::new(), refused: None, open: false };
    let mut rest = bytes;
    while !rest.is_empty() {
        let head = match head::end(rest, &mut 0) {
            Ok(Some(end)) => head::request(&rest[..end], limits).map(|head| (end, head)),
            Ok(None) => return fate,
            Err(reject) => Err(reject),
        };
        let (end, head) = match head {
            Ok(head) => head,
            Err(reject) => {
                fate.refused = Some(reject.0);
                return fate;
            }
        };
        let Some(after) = rest.get(end + head.content_length.unwrap_or(0)..) else { return fate };
        if head.canonical.starts_with("HEAD ") {
            fate.heads.push(fate.answers);
        }
        fate.answers += 1;
        if head.close {
            return fate;
        }
        rest = after;
    }
    fate.open = true;
    fate
}

/// Requests that were let in, and refusals by status and reason.
#[derive(Debug, Default, PartialEq)]
struct Outcomes {
    accepted: usize,
    refused: BTreeMap<(u16, String), usize>,
}

impl Outcomes {
    fn total(&self) -> usize {
        self.accepted + self.refused.values().sum::<usize>()
    }

    fn refuse(&mut self, refusal: (u16, String)) {
        *self.refused.entry(refusal).or_default() += 1;
    }
}

/// Random mutations of valid requests (fuzz), 100,000 in a long run, many pipelined on each
/// connection. Each that is let in is answered once, as the log says; each other one ends its
/// connection, and the log says why.
#[test]
fn random_mutations_of_valid_requests() {
    let _alone = alone();
    // On two servers, since a log of more lines would not be kept.
    for seed in [1, 2] {
        mutations(support::rounds(50_000, 10_000), seed);
    }
}

fn mutations(count: usize, seed: u64) {
    const THREADS: usize = 4;
    let world = World::new(&[]);
    let put =
        request("PUT /nothing HTTP/1.1", &format!("Content-Length: {}\r\n", SMUGGLED.len() + 2));
    let options = request("OPTIONS * HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 3\r\n");
    let valid = [
        get("/", "Origin: http://a.example\r\n").into_bytes(),
        get("/upload.js?a=b", "If-None-Match: \"x\"\r\nAccept: */*\r\n").into_bytes(),
        request("HEAD /nothing HTTP/1.1", "Connection: keep-alive\r\n").into_bytes(),
        [put.as_bytes(), SMUGGLED, b"\r\n"].concat(),
        (options + "abc").into_bytes(),
        world.callback.clone(),
    ];
    let (outcomes, connections) = (Mutex::new(Outcomes::default()), AtomicUsize::new(0));
    let client = |seed: u64| {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        let mut left = count / THREADS;
        while left > 0 {
            let (mut stream, mut heads, mut accepted) = (Vec::new(), Vec::new(), 0);
            let refusal = loop {
                let base = &valid[random.below(valid.len())];
                let mut message = mutate(&mut random, base);
                left = left.saturating_sub(1);
                let mut outcome = fate(&message);
                if !outcome.open && outcome.refused.is_none() {
                    // What is not complete takes from what follows, and must take no more.
                    message.extend_from_slice(get("/next", "").as_bytes());
                    outcome = fate(&message);
                }
                heads.extend(outcome.heads.iter().map(|head| accepted + head));
                accepted += outcome.answers;
                stream.extend_from_slice(&message);
                if !outcome.open || left == 0 || stream.len() > 32 * 1024 {
                    break outcome.refused;
                }
            };
            let socket = world.connect_from(connections.fetch_add(1, Relaxed) % 50_000);
            send_all(&socket, &stream);
            let _ = socket.shutdown(Shutdown::Write);
            let bytes = read_to_close(&socket).expect("the server closes");
            let (mut rest, mut told) = (&bytes[..], Vec::new());
            while !rest.is_empty() {
                let head_only = heads.contains(&told.len());
                let reply = read_reply(&mut rest, head_only).expect("whole responses");
                told.extend((reply.status != 100).then_some(reply));
            }
            let shown = || stream.escape_ascii().to_string();
            let all = accepted + usize::from(refusal.is_some());
            assert_eq!(told.len(), all, "{told:?} then {refusal:?}: {}", shown());
            let mut outcomes = outcomes.lock().unwrap();
            outcomes.accepted += accepted;
            if let Some(status) = refusal {
                let last = told.last().unwrap();
                assert_eq!(last.status, status, "{}", shown());
                let reason = reason(last).unwrap_or_else(|| panic!("{last:?}: {}", shown()));
                outcomes.refuse((status, reason));
            }
        }
    };
    world.while_others_are_served(|| {
        thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || client(seed << 8 | thread as u64));
            }
        });
    });
    // The log has a line for each request that was let in, and for each refusal one with the same
    // status and reason; no reason is both the proxy's and the application's. (Ours come from other
    // addresses than other clients' do.)
    let expected = outcomes.into_inner().unwrap();
    let logged = || {
        let mut logged = Outcomes::default();
        for line in world.server.log() {
            let peer = line.split(' ').nth(1).unwrap_or_default();
            if !peer.starts_with("127.") || peer == "127.0.0.1" {
                continue;
            }
            let refusal = line.split_once(" reason=").and_then(|(before, reason)| {
                let status = before.rsplit(' ').next()?.parse().ok()?;
                let refusal = (status, reason.trim_matches('"').to_owned());
                expected.refused.contains_key(&refusal).then_some(refusal)
            });
            match refusal {
                Some(refusal) => logged.refuse(refusal),
                None => logged.accepted += 1,
            }
        }
        logged
    };
    // Where this test reads more slowly than the server writes, lines are lost, and counted.
    let lost = || lost_lines(&world.server.log());
    let deadline = Instant::now() + Duration::from_secs(10);
    while logged().total() + lost() < expected.total() && Instant::now() < deadline {
        // The last lines are on their way; a loss is said with the next line.
        world.ask(get("/nothing", "").as_bytes());
        thread::sleep(Duration::from_millis(100));
    }
    match lost() {
        0 => assert_eq!(logged(), expected),
        lost => assert!(logged().total() + lost >= expected.total(), "{lost} lost: {expected:?}"),
    }
    println!("{expected:?} on {} connections", connections.into_inner());
}
