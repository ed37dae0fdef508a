//! What the tests share: the real binary as a child process, and plain HTTP over sockets.

mod http;
mod server;

pub use http::{Reply, post_form, read_reply, request, send};
pub use server::{Run, Server, binary, run};
