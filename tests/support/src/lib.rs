//! What the tests share: the real binary as a child process, and plain HTTP over sockets.

mod disk;
pub mod documents;
mod folder;
mod host;
pub mod hostile;
mod http;
pub mod load;
mod log;
pub mod namespace;
mod order;
mod process;
pub mod proxy;
mod server;
pub mod systemd;
pub mod tickets;
pub mod trust;
pub mod webdriver;
pub mod world;

use std::time::Duration;

pub use disk::Disk;
pub use folder::Folder;
pub use host::Host;
pub use http::{Connection, Reply, post_form, read_reply, request, send, upload};
pub use order::{Event, Order};
pub use process::{Process, cpu_time};
pub use server::{PLAIN, Run, Server, binary, run};

/// Far longer than anything waited for takes, so that a loaded machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Says that a test cannot run here, and why; `tests/run` counts it at its end. Written past the
/// harness, which shows nothing of tests that pass.
pub fn skip(reason: &str) {
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("skipped: {reason}\n").as_bytes(),
    );
}

/// How often a test repeats what chance decides: in `tests/run --long` as often as it should.
pub fn rounds(long: usize, short: usize) -> usize {
    if std::env::var_os("APPSERVER_TESTS_LONG").is_some() { long } else { short }
}
