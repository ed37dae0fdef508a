//! A call that may wait for others, on a thread of its own, so that the loop never waits for it.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Runs one call at a time.
pub struct Task<T> {
    receiver: Option<Receiver<T>>,
}

impl<T: Send + 'static> Task<T> {
    pub const IDLE: Task<T> = Task { receiver: None };

    /// Until its result is taken.
    pub fn is_running(&self) -> bool {
        self.receiver.is_some()
    }

    pub fn start(&mut self, call: impl FnOnce() -> T + Send + 'static) {
        let (sender, receiver) = mpsc::channel();
        // If there are no threads left, `sender` is dropped and the task ends without a result.
        let _ = thread::Builder::new().spawn(move || sender.send(call()));
        self.receiver = Some(receiver);
    }

    /// Takes the result, if it is there or comes within `wait`.
    pub fn result(&mut self, wait: Duration) -> Option<T> {
        let result = match self.receiver.as_ref()?.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => return None,
            result => result.ok(),
        };
        self.receiver = None;
        result
    }
}
