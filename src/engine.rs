//! The way to the loop and back. Requests go, one behind the other, over the one connection that
//! the loop's private socket ever has; its answers come in the same order. This second's answers
//! are kept: the same request gets the same again without asking.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::head::Head;
use crate::{log, time};

/// What may wait to be written to the loop before the next request waits with its client.
const OUTBOX_BYTES: usize = 32 * 1024;
/// Distinct reusable answers that are kept.
const MAX_ANSWERS: usize = 4;

/// Names client and request to the loop, as `PEER NUMBER`; a field of this name from outside is
/// never passed on.
pub const FROM: &str = "x-appserver-from";

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
    /// Whose requests are not answered, oldest first, and the first one's number.
    in_hand: VecDeque<usize>,
    first: u64,
    /// What the stream has not taken.
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
    /// `stream` is connected to the loop, which has at most so many requests in hand.
    pub fn new(stream: UnixStream, max_in_hand: usize) -> io::Result<Engine> {
        stream.set_nonblocking(true)?;
        let (in_hand, outbox, answers) = (VecDeque::new(), Vec::new(), Answers::default());
        Ok(Engine { stream, max_in_hand, in_hand, first: 0, outbox, answers })
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
        self.in_hand.len() < self.max_in_hand && self.outbox.len() < OUTBOX_BYTES
    }

    /// Puts a request of `whose` behind the others; `flush` sends them.
    pub fn ask(&mut self, whose: usize, peer: &str, head: &Head, body: &[u8]) {
        let number = self.first + self.in_hand.len() as u64;
        let length = body.len();
        self.in_hand.push_back(whose);
        self.outbox.extend_from_slice(head.canonical.as_bytes());
        let _ = write!(self.outbox, "{FROM}: {peer} {number}\r\ncontent-length: {length}\r\n\r\n");
        self.outbox.extend_from_slice(body);
    }

    /// Sends what the stream takes now.
    pub fn flush(&mut self) {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(written @ 1..) => drop(self.outbox.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => broken("it takes no more"),
            }
        }
        self.outbox.shrink_to(OUTBOX_BYTES);
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

/// Nothing that the network sends can cause this. The unit starts us again.
pub fn broken(how: &str) -> ! {
    log::line(time::now(), &format!("the engine broke its contract: {how}"));
    std::process::abort();
}
