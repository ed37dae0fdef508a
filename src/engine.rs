//! The door's side of the engine: a fixed few connections to the loop's private socket, and this
//! second's answers, which the same request gets again without asking.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::reject::Reject;
use crate::{log, time};

/// As many requests as may share one sync of the upload log.
const CONNECTIONS: usize = 16;
/// How long a request waits for a free one.
const WAIT: Duration = Duration::from_secs(5);
/// Longer than the loop's longest wait: an engine that takes longer is broken.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Distinct reusable answers that are kept.
const MAX_ANSWERS: usize = 4;
/// Most answers fit, so that one read has them whole.
const ANSWER_BYTES: usize = 4096;

/// Names the client to the loop; a field of this name from outside is never passed on.
pub const PEER: &str = "x-appserver-peer";
/// An answer opens with one of these, then its length (u32, big endian), then the HTTP message.
/// (tiny_http's own error answers open with an `H`.)
pub const ONCE: u8 = 0;
/// The same request gets the same answer for as long as the clock shows this second.
pub const REUSABLE: u8 = 1;

pub struct Engine {
    idle: Mutex<Vec<UnixStream>>,
    freed: Condvar,
    answers: Mutex<Answers>,
}

/// What was answered in one second, by canonical request.
#[derive(Default)]
struct Answers {
    second: u64,
    by_request: BTreeMap<String, Arc<[u8]>>,
}

impl Engine {
    /// Opens the connections one by one, each answered before the next (tiny_http hands one that
    /// comes too soon to a thread that is about to be taken), and unlinks the socket: from then on
    /// nobody else can connect.
    pub fn open(path: &Path) -> io::Result<Engine> {
        let open = |_| {
            let mut stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            ask(&mut stream, b"GET /healthz HTTP/1.1\r\n\r\n").map(|_| stream)
        };
        let idle = (0..CONNECTIONS).map(open).collect::<io::Result<Vec<_>>>()?;
        std::fs::remove_file(path)?;
        Ok(Engine { idle: Mutex::new(idle), freed: Condvar::new(), answers: Mutex::default() })
    }

    /// The answer to a request for which `canonical` was already asked in this second, if any.
    pub fn again(&self, canonical: &str, now: u64) -> Option<Arc<[u8]>> {
        let answers = lock(&self.answers);
        answers.by_request.get(canonical).filter(|_| answers.second == now).cloned()
    }

    /// Asks the loop. `canonical` is a request line and header fields, each with its CRLF. An
    /// answer of which nobody else will have a share must be admitted, with its length, before the
    /// connection is free again: so few at a time are held that do not count yet.
    pub fn ask(
        &self,
        canonical: &str,
        peer: &str,
        body: &[u8],
        admit: impl FnOnce(usize) -> Result<(), Reject>,
    ) -> Result<Arc<[u8]>, Reject> {
        let rest = format!("{PEER}: {peer}\r\ncontent-length: {}\r\n\r\n", body.len());
        let message = [canonical.as_bytes(), rest.as_bytes(), body].concat();
        let now = time::now();
        let idle = self.freed.wait_timeout_while(lock(&self.idle), WAIT, |idle| idle.is_empty());
        let stream = idle.unwrap_or_else(PoisonError::into_inner).0.pop();
        let mut stream = stream.ok_or(Reject::BUSY)?;
        let (kind, answer) = ask(&mut stream, &message).unwrap_or_else(|error| {
            // Nothing that the network sends can cause this. The unit starts us again.
            log::line(now, &format!("the engine broke its contract: {error}"));
            std::process::abort();
        });
        let answer: Arc<[u8]> = answer.into();
        let reusable = kind == REUSABLE && body.is_empty();
        let shared = reusable && self.remember(canonical, &answer, now);
        let admitted = if shared { Ok(()) } else { admit(answer.len()) };
        lock(&self.idle).push(stream);
        self.freed.notify_one();
        admitted.map(|()| answer)
    }

    /// False if this second's answers are enough, or the answer is of a second that is over: were
    /// those in turn with this second's, each would put out the other and none would be shared.
    fn remember(&self, canonical: &str, answer: &Arc<[u8]>, asked: u64) -> bool {
        let mut answers = lock(&self.answers);
        let second = time::now();
        if answers.second != second {
            *answers = Answers { second, by_request: BTreeMap::new() };
        }
        let room = asked == second && answers.by_request.len() < MAX_ANSWERS;
        if room {
            answers.by_request.insert(canonical.to_owned(), answer.clone());
        }
        room
    }
}

/// One write, and mostly one read.
fn ask(engine: &mut UnixStream, message: &[u8]) -> io::Result<(u8, Vec<u8>)> {
    engine.write_all(message)?;
    let mut answer = vec![0; ANSWER_BYTES];
    let read = loop {
        match engine.read(&mut answer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    answer.truncate(read);
    let &[kind @ (ONCE | REUSABLE), a, b, c, d, ..] = answer.as_slice() else {
        return Err(io::Error::other("not an answer of ours"));
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    answer.drain(..5);
    let missing = length.checked_sub(answer.len()).ok_or(io::Error::other("answer too long"))?;
    answer.reserve_exact(missing);
    if engine.take(missing as u64).read_to_end(&mut answer)? < missing {
        return Err(io::Error::other("answer cut off"));
    }
    Ok((kind, answer))
}

/// A thread that panics ends the process (`panic = "abort"`), so no lock is ever poisoned.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
