//! One line per request or event, on standard error. Whatever came from outside is written with
//! `{:?}`, which escapes quotes, line ends, terminal controls and invisible characters.

use std::io::Write;

use crate::time;

/// Writes `TIME TEXT`.
pub fn line(now: u64, text: &str) {
    lines(&entry(now, text));
}

/// The line of `TIME TEXT`.
pub fn entry(now: u64, text: &str) -> String {
    format!("{} {text}\n", time::iso8601(now))
}

/// Writes whole lines in one call. A log that cannot be written must not stop the service.
pub fn lines(lines: &str) {
    let _ = std::io::stderr().write_all(lines.as_bytes());
}
