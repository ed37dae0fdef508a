//! What a child process writes to its standard error.

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::process::ChildStderr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::ioctl_fionbio;

/// A benchmark's log would fill the memory.
const MAX_LINES: usize = 100_000;

/// The log of a child: read as it comes, so that the child never waits.
#[derive(Clone)]
pub struct Log(Arc<(Mutex<Lines>, Condvar)>);

struct Lines {
    stderr: ChildStderr,
    begun: Vec<u8>,
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    /// Reads from now on.
    pub fn read(stderr: ChildStderr) -> Log {
        ioctl_fionbio(&stderr, true).expect("a pipe");
        let lines = Lines { stderr, begun: Vec::new(), lines: Vec::new(), ended: false };
        let pipe = lines.stderr.as_fd().try_clone_to_owned().expect("a pipe");
        let log = Log(Arc::new((Mutex::new(lines), Condvar::new())));
        let ours = log.clone();
        std::thread::spawn(move || {
            let mut ended = false;
            while !ended {
                let _ = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], None);
                ended = ours.lock().ended;
            }
        });
        log
    }

    /// All that was written until now: a line is there as soon as its writer has gone on.
    fn lock(&self) -> MutexGuard<'_, Lines> {
        let mut lines = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.take();
        self.0.1.notify_all(); // whoever reads, reads for all
        lines
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// The first line that contains `text`, as soon as there is one; `None` when the log ends or
    /// the patience.
    pub fn wait(&self, text: &str, patience: Duration) -> Option<String> {
        let deadline = Instant::now() + patience;
        let mut lines = self.lock();
        loop {
            if let Some(line) = lines.lines.iter().find(|line| line.contains(text)) {
                return Some(line.clone());
            }
            if lines.ended {
                return None;
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            // Not `lock`: two who wait would wake each other for ever.
            lines = self.0.1.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Lines {
    /// Whatever is in the pipe.
    fn take(&mut self) {
        let mut bytes = [0; 16_384];
        loop {
            match self.stderr.read(&mut bytes) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.begun.extend(&bytes[..count]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => self.ended |= error.kind() != ErrorKind::WouldBlock,
            }
            break;
        }
        let whole = self.begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let whole = if self.ended { self.begun.len() } else { whole };
        let text: Vec<u8> = self.begun.drain(..whole).collect();
        let room = MAX_LINES - self.lines.len();
        self.lines.extend(String::from_utf8_lossy(&text).lines().take(room).map(str::to_owned));
    }
}
