//! The machine that this runs on: the listening socket, systemd, the log, the clock, metrics and
//! background tasks.

pub mod background;
pub mod listener;
pub mod log;
pub mod metrics;
pub mod systemd;
pub mod time;
