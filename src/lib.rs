//! appserver: signs browser uploads to Alibaba Cloud OSS and verifies the callbacks that follow.
//!
//! In reading order: `config` (environment to `Config`), `server` (the loop), `app` (routes and
//! pipelines), then what they are made of: `policy`, `callback`, `keys`, `credentials`, `page`,
//! and the small `log` and `time`.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

pub mod app;
pub mod callback;
pub mod config;
pub mod credentials;
pub mod keys;
pub mod log;
pub mod page;
pub mod policy;
pub mod server;
pub mod time;
