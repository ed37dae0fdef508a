//! A call that may have to wait for others, on a thread of its own, so that the loop never does.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// One at a time.
pub struct Errand<T>(Option<Receiver<T>>);

impl<T: Send + 'static> Errand<T> {
    pub const NONE: Errand<T> = Errand(None);

    pub fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    pub fn begin(&mut self, call: impl FnOnce() -> T + Send + 'static) {
        let (answer, answers) = mpsc::channel();
        // Out of threads, `answer` is gone and with it the errand: its time comes again.
        let _ = thread::Builder::new().spawn(move || answer.send(call()));
        self.0 = Some(answers);
    }

    /// What came of it, if it has come or comes within `wait`.
    pub fn end(&mut self, wait: Duration) -> Option<T> {
        let answer = match self.0.as_ref()?.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => return None,
            answer => answer.ok(),
        };
        self.0 = None;
        answer
    }
}
