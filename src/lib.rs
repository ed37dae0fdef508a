//! appserver: signs browser uploads to Alibaba Cloud OSS and verifies the callbacks that follow.
//!
//! In reading order: `config` (environment to `Config`), `door`, `client`, `head` and `engine`
//! (what comes from the network, bounded and written anew), `server` (the loop), `http`, `reject`,
//! `app` (routes and pipelines), then what it is made of: `policy`, `callback`, `keys`, `token`,
//! `uploads`, `credentials`, `sts`, `oss`, `background`, `page`, `log`, `time`; and what runs it:
//! `service` (systemd), `check`, `metrics`.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

pub mod app;
pub mod check;
pub mod config;
pub mod http;
pub mod oss;
pub mod page;
pub mod proxy;
pub mod reject;
pub mod server;
pub mod sys;
pub mod trust;
