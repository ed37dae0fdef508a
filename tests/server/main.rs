//! Tests of the real binary over real sockets: what it answers, what it trusts, what it keeps, how
//! it starts and ends.

mod clients;
mod credentials;
mod ipv6;
mod mistakes;
mod operating;
mod page;
mod promises;
mod replies;
mod roundtrip;
mod service;
mod strict;
mod trust;
mod uploads;
