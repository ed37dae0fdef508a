//! One line per request or event, on standard error. Whatever came from outside is written with
//! `{:?}`, which escapes quotes, line ends, terminal controls and invisible characters.

use std::io::Write;

use crate::time;

/// Writes `TIME TEXT` in one call. A log that cannot be written must not stop the service.
pub fn line(now: u64, text: &str) {
    let line = format!("{} {text}\n", time::iso8601(now));
    let _ = std::io::stderr().write_all(line.as_bytes());
}
