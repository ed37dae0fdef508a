//! One line per request or event, on standard error. Whatever came from outside is written with
//! `{:?}`, which escapes quotes, line ends, terminal controls and invisible characters.
//!
//! A reader that does not read must not stop the service. So nothing is written that would have to
//! wait, and what was left out is counted and said later.

use std::io::{Write, stderr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::time;

/// PIPE_BUF (pipe(7)): where `poll` finds room, so much can be written without a wait.
const PIECE_BYTES: usize = 4096;

/// Lines that were left out since one was written.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Writes `TIME TEXT`.
pub fn line(now: u64, text: &str) {
    lines(&entry(now, text));
}

/// The line of `TIME TEXT`.
pub fn entry(now: u64, text: &str) -> String {
    format!("{} {text}\n", time::iso8601(now))
}

/// Writes whole lines, as many in one call as fit into a piece.
pub fn lines(lines: &str) {
    let mut stderr = stderr().lock(); // so that no other thread takes the room that is found
    let mut rest = lines.as_bytes();
    while !rest.is_empty() {
        let lost = LOST.swap(0, Relaxed);
        let note = match lost {
            0 => String::new(),
            lost => entry(time::now(), &format!("{lost} lines were lost: nobody read the log")),
        };
        let limit = rest.len().min(PIECE_BYTES - note.len());
        let fits = rest.get(..limit).unwrap_or_default();
        let end = fits.iter().rposition(|byte| *byte == b'\n').map_or(limit, |at| at + 1);
        let (piece, after) = rest.split_at(end);
        rest = after;
        let mut set = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut set, PollTimeout::ZERO) == Ok(0) {
            let count = piece.iter().filter(|byte| **byte == b'\n').count() as u64;
            LOST.fetch_add(lost + count, Relaxed);
        } else {
            let _ = stderr.write_all(&[note.as_bytes(), piece].concat());
        }
    }
}
