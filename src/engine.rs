//! The way to the loop and back. Requests go, one behind the other, over the one connection that
//! the loop's private socket ever has; each answer the loop gives to the client that it is for.
//! This second's answers are kept: the same request gets the same again without asking.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::client::Connection;
use crate::head::Head;
use crate::reject::Reject;
use crate::{log, time};

/// How long a request waits until fewer are in hand.
const WAIT: Duration = Duration::from_secs(5);
/// Longer than the loop's longest wait: an engine that takes longer is broken.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Distinct reusable answers that are kept.
const MAX_ANSWERS: usize = 4;

/// Names client and request to the loop, as `PEER NUMBER`; a field of this name from outside is
/// never passed on.
pub const FROM: &str = "x-appserver-from";

pub struct Engine {
    stream: Mutex<UnixStream>,
    max_in_hand: usize,
    in_hand: Mutex<InHand>,
    fewer: Condvar,
    answers: Mutex<Answers>,
}

/// Requests that are not answered.
#[derive(Default)]
struct InHand {
    next: u64,
    asked: BTreeMap<u64, Asked>,
}

/// Whose a request is.
struct Asked {
    connection: Arc<Connection>,
    head: Head,
    second: u64,
}

/// Whom an answer is for.
pub struct Answer {
    pub connection: Arc<Connection>,
    pub message: Arc<[u8]>,
    /// Others have it too.
    pub shared: bool,
    /// The client wants the connection closed after it.
    pub close: bool,
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
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Engine {
            stream: Mutex::new(stream),
            max_in_hand,
            in_hand: Mutex::default(),
            fewer: Condvar::new(),
            answers: Mutex::default(),
        })
    }

    /// The answer to a request for which `canonical` was already asked in this second, if any.
    pub fn again(&self, canonical: &str, now: u64) -> Option<Arc<[u8]>> {
        let answers = lock(&self.answers);
        answers.by_request.get(canonical).filter(|_| answers.second == now).cloned()
    }

    /// Asks the loop, which will owe `connection` the answer.
    pub fn ask(
        &self,
        connection: &Arc<Connection>,
        head: Head,
        peer: &str,
        body: &[u8],
    ) -> Result<(), Reject> {
        let many = |in_hand: &mut InHand| in_hand.asked.len() >= self.max_in_hand;
        let waited = self.fewer.wait_timeout_while(lock(&self.in_hand), WAIT, many);
        let (mut in_hand, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(Reject::BUSY);
        }
        connection.owe();
        let number = in_hand.next;
        in_hand.next += 1;
        let mut message = Vec::with_capacity(head.canonical.len() + 100 + body.len());
        message.extend_from_slice(head.canonical.as_bytes());
        let _ =
            write!(message, "{FROM}: {peer} {number}\r\ncontent-length: {}\r\n\r\n", body.len());
        message.extend_from_slice(body);
        let asked = Asked { connection: connection.clone(), head, second: time::now() };
        in_hand.asked.insert(number, asked);
        drop(in_hand);
        if let Err(error) = lock(&self.stream).write_all(&message) {
            broken(&error.to_string());
        }
        Ok(())
    }

    /// The loop's answer to a request in hand. A reusable one is good for every same request as
    /// long as the clock shows this second.
    pub fn answer(&self, number: u64, message: Vec<u8>, reusable: bool) -> Option<Answer> {
        let Asked { connection, head, second } = lock(&self.in_hand).asked.remove(&number)?;
        self.fewer.notify_one();
        let (message, close): (Arc<[u8]>, bool) = (message.into(), head.close);
        let reusable = reusable && head.length == 0;
        let shared = reusable && self.remember(head.canonical, &message, second);
        Some(Answer { connection, message, shared, close })
    }

    /// False if this second's answers are enough, or the answer is of a second that is over: were
    /// those in turn with this second's, each would put out the other and none would be shared.
    fn remember(&self, canonical: String, answer: &Arc<[u8]>, asked: u64) -> bool {
        let mut answers = lock(&self.answers);
        let second = time::now();
        if answers.second != second {
            *answers = Answers { second, by_request: BTreeMap::new() };
        }
        let room = asked == second && answers.by_request.len() < MAX_ANSWERS;
        if room {
            answers.by_request.insert(canonical, answer.clone());
        }
        room
    }
}

/// Nothing that the network sends can cause this. The unit starts us again.
pub fn broken(how: &str) -> ! {
    log::line(time::now(), &format!("the engine broke its contract: {how}"));
    std::process::abort();
}

/// A thread that panics ends the process (`panic = "abort"`), so no lock is ever poisoned.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
