//! What the tests share: the real binary as a child process, and plain HTTP over sockets.

mod disk;
pub mod documents;
mod folder;
pub mod hostile;
mod http;
mod log;
pub mod namespace;
pub mod proxy;
mod server;
pub mod siege;
pub mod systemd;
pub mod trust;
pub mod webdriver;

pub use disk::Disk;
pub use folder::Folder;
pub use http::{Reply, post_form, read_reply, request, send, upload};
pub use server::{Run, Server, binary, run};
