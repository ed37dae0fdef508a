//! One line per request or event, on standard error. Whatever came from outside is written with
//! `{:?}`, which escapes quotes, line ends, terminal controls and invisible characters.
//!
//! A reader that does not read must not stop the service. So nothing is written that would have to
//! wait, and what was left out is counted and said later.

use std::io::{StderrLock, Write, stderr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::time;

/// PIPE_BUF (pipe(7)): where `poll` finds room, so much can be written without a wait.
const PIECE_BYTES: usize = 4096;

/// Lines that were left out since one was written.
static LOST: AtomicUsize = AtomicUsize::new(0);

/// Writes `TIME TEXT`.
pub fn line(now: u64, text: &str) {
    lines(&entry(now, text));
}

/// The line of `TIME TEXT`.
pub fn entry(now: u64, text: &str) -> String {
    format!("{} {text}\n", time::iso8601(now))
}

/// Writes whole lines, as many in one call as fit into a piece, and how many were lost before.
pub fn lines(lines: &str) {
    let mut stderr = stderr().lock(); // so that no other thread takes the room that is found
    let lost = LOST.swap(0, Relaxed);
    if lost > 0 {
        let text = format!("{lost} lines of the log were lost: nobody read it");
        write(&mut stderr, entry(time::now(), &text).as_bytes(), lost);
    }
    let mut rest = lines.as_bytes();
    while !rest.is_empty() {
        let room = rest.get(..PIECE_BYTES).unwrap_or(rest);
        let (piece, after) = match room.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => rest.split_at(last + 1),
            None => {
                // The line is longer than a piece: it is cut.
                let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                let start = room.get(..PIECE_BYTES - 1).unwrap_or(room);
                write(&mut stderr, &[start, b"\n"].concat(), 1);
                (b"".as_slice(), rest.get(end + 1..).unwrap_or_default())
            }
        };
        if !piece.is_empty() {
            write(&mut stderr, piece, piece.iter().filter(|byte| **byte == b'\n').count());
        }
        rest = after;
    }
}

/// Writes a piece, or counts its `lines` as lost.
fn write(stderr: &mut StderrLock, piece: &[u8], lines: usize) {
    let mut set = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut set, PollTimeout::ZERO) == Ok(0) {
        LOST.fetch_add(lines, Relaxed);
    } else {
        let _ = stderr.write_all(piece);
    }
}
