//! Background tasks: calls that may wait for others, on threads of their own, so that no request
//! waits for them.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Runs one call at a time.
pub struct Task<T> {
    receiver: Option<Receiver<T>>,
}

impl<T: Send + 'static> Task<T> {
    pub const IDLE: Task<T> = Task { receiver: None };

    pub fn is_idle(&self) -> bool {
        self.receiver.is_none()
    }

    pub fn start(&mut self, call: impl FnOnce() -> T + Send + 'static) {
        let (sender, receiver) = channel();
        // If there are no threads left, `sender` is dropped and the task ends without a result.
        let _ = thread::Builder::new().spawn(move || sender.send(call()));
        self.receiver = Some(receiver);
    }

    /// The result, once, if it is there or comes within `wait`.
    pub fn result(&mut self, wait: Duration) -> Option<T> {
        let result = self.receiver.as_ref()?.recv_timeout(wait);
        if !matches!(result, Err(RecvTimeoutError::Timeout)) {
            self.receiver = None;
        }
        result.ok()
    }
}
