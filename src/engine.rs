//! The way to the loop and back. Requests that are whole at the same time go together, in the body
//! of one message over the one connection that the loop's private socket ever has: so what came
//! from outside is nothing that tiny_http parses, and what it costs is shared. Answers come in the
//! same order. This second's are kept: the same request gets the same again without asking.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::head::Head;
use crate::http::{HEADERS, Request};
use crate::{log, time};

/// What may wait to be written to the loop before the next request waits with its client.
const BATCH_BYTES: usize = 32 * 1024;
/// Distinct reusable answers that are kept.
const MAX_ANSWERS: usize = 4;

/// The loop's answer to request `number`, whole.
pub struct Answer {
    pub number: u64,
    pub message: Vec<u8>,
    /// Good for every same request as long as the clock shows the second it was asked in.
    pub reusable: bool,
}

pub struct Engine {
    /// Does not block.
    pub stream: UnixStream,
    max_in_hand: usize,
    max_ahead: usize,
    /// Whose requests are not answered, oldest first, and the first one's number.
    in_hand: VecDeque<usize>,
    first: u64,
    /// Requests that go together, as `requests` reads them, and how many they are.
    batch: Vec<u8>,
    batched: usize,
    /// What the stream has not taken of those before.
    outbox: Vec<u8>,
    answers: Answers,
}

/// What was answered in one second, by canonical request.
#[derive(Default)]
struct Answers {
    second: u64,
    by_request: BTreeMap<String, Arc<[u8]>>,
}

impl Engine {
    /// `stream` is connected to the loop, which has at most `max_in_hand` requests. While it has
    /// more than `max_ahead`, others wait for each other, and then go together.
    pub fn new(stream: UnixStream, max_in_hand: usize, max_ahead: usize) -> io::Result<Engine> {
        stream.set_nonblocking(true)?;
        Ok(Engine {
            stream,
            max_in_hand,
            max_ahead,
            in_hand: VecDeque::new(),
            first: 0,
            batch: Vec::new(),
            batched: 0,
            outbox: Vec::new(),
            answers: Answers::default(),
        })
    }

    /// The answer to a request for which `canonical` was already asked in this second, if any.
    pub fn again(&self, canonical: &str, second: u64) -> Option<Arc<[u8]>> {
        let answers = &self.answers;
        answers.by_request.get(canonical).filter(|_| answers.second == second).cloned()
    }

    /// Keeps an answer to a request of `asked`, unless this second's are enough, or that second is
    /// over: were those in turn with this second's, each would put out the other.
    pub fn remember(&mut self, canonical: String, answer: &Arc<[u8]>, asked: u64, second: u64) {
        if self.answers.second != second {
            self.answers = Answers { second, by_request: BTreeMap::new() };
        }
        if asked == second && self.answers.by_request.len() < MAX_ANSWERS {
            self.answers.by_request.insert(canonical, answer.clone());
        }
    }

    pub fn has_room(&self) -> bool {
        self.in_hand.len() < self.max_in_hand && self.batch.len() < BATCH_BYTES
    }

    /// Puts a request of `whose` behind the others; `flush` sends them.
    pub fn ask(&mut self, whose: usize, peer: &str, head: &Head, body: &[u8]) {
        let number = self.first + self.in_hand.len() as u64;
        self.in_hand.push_back(whose);
        self.batched += 1;
        let canonical = head.canonical.as_bytes();
        let _ = writeln!(self.batch, "{number} {peer} {} {}", canonical.len(), body.len());
        self.batch.extend_from_slice(canonical);
        self.batch.extend_from_slice(body);
    }

    /// Sends what the stream takes now.
    pub fn flush(&mut self) {
        loop {
            if self.outbox.is_empty() {
                if self.batched == 0 || self.in_hand.len() - self.batched > self.max_ahead {
                    return self.outbox.shrink_to(BATCH_BYTES);
                }
                let length = self.batch.len();
                let _ = write!(self.outbox, "POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
                self.outbox.append(&mut self.batch);
                self.batched = 0;
                self.batch.shrink_to(BATCH_BYTES);
            }
            match self.stream.write(&self.outbox) {
                Ok(written @ 1..) => drop(self.outbox.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => broken("it takes no more"),
            }
        }
    }

    /// Whose request the loop answers now.
    pub fn answered(&mut self, number: u64) -> usize {
        match self.in_hand.pop_front().filter(|_| self.first == number) {
            Some(whose) => {
                self.first += 1;
                whose
            }
            None => broken("an answer to what nobody asked"),
        }
    }
}

/// The requests of one message to the loop, with their numbers; none if they are not as `ask`
/// writes them.
pub fn requests(mut message: &[u8]) -> Option<Vec<(u64, Request)>> {
    let mut requests = Vec::new();
    while !message.is_empty() {
        let end = message.iter().position(|byte| *byte == b'\n')?;
        let mut words = std::str::from_utf8(message.get(..end)?).ok()?.split(' ');
        let (number, peer) = (words.next()?.parse().ok()?, words.next()?.to_owned());
        let (head, body) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let (head, rest) = message.get(end + 1..)?.split_at_checked(head)?;
        let (body, rest) = rest.split_at_checked(body)?;
        message = rest;

        let mut lines = std::str::from_utf8(head).ok()?.split_terminator("\r\n");
        let (method, target) = lines.next()?.strip_suffix(" HTTP/1.1")?.split_once(' ')?;
        let field = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            let name = HEADERS.into_iter().find(|known| *known == name)?;
            Some((name, value.to_owned()))
        };
        let headers = lines.map(field).collect::<Option<_>>()?;
        let (method, target, body) = (method.to_owned(), target.to_owned(), body.to_vec());
        requests.push((number, Request { method, target, headers, body, peer }));
    }
    Some(requests)
}

/// Nothing that the network sends can cause this. The unit starts us again.
pub fn broken(how: &str) -> ! {
    log::line(time::now(), &format!("the engine broke its contract: {how}"));
    std::process::abort();
}
