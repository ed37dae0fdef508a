//! appserver signs browser uploads to Alibaba Cloud OSS and verifies the callbacks that follow.
//!
//! ```text
//!  clients ── TCP or Unix ──► proxy ── HTTP/1.1, pipelined ──► tiny_http ──► loop: App::handle
//!                             one thread, poll(2)              its threads   the main thread
//!                             limits, deadlines, parsing       parse again   one batch at a time
//!  background tasks, a thread each while they run: keys, credentials, looks into the bucket
//!  metrics: a thread of its own, where METRICS_LISTEN is set
//! ```
//!
//! A GET: `proxy::places` accepts the connection, `proxy::connection` reads, `proxy::head` checks
//! and rewrites, `proxy::upstream` forwards. `server` reads it from tiny_http, `app` checks the
//! upload token (`trust`) and signs the terms (`oss::policy`). The log line is written, then the
//! response goes back through tiny_http and the proxy to the client.
//!
//! A POST goes the same way to `app`. It checks, the cheap before the dear: the headers, our token
//! in the URL (`trust`), the key's name (`oss::keys`), OSS's signature of path, query and body
//! (`oss::callback`). Only then it parses the body, compares it with what the token allows, looks
//! for the object in the bucket (`oss::bucket`) and syncs a line to disk (`trust::upload_log`),
//! where each is configured. Then the callback is logged and answered.
//!
//! Arrows go down: `main`, `server` and `check` use `app` and `proxy`, which use `trust`, `oss` and
//! `sys`. The proxy knows nothing of the application, nor the application of connections.
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
pub mod upload;
