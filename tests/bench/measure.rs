//! One sample of one row: one thread keeps many connections busy, each with one request under way.

use std::fmt;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use crate::client::{Client, Progress};
use support::cpu_time;

use crate::program::{PATIENCE, Program};

/// How many requests are under way at a time, and on what connections.
#[derive(Clone, Copy, PartialEq)]
pub struct Load {
    pub connections: usize,
    /// Otherwise each request has a connection of its own, as OSS's callbacks have.
    pub keep_alive: bool,
}

impl fmt::Display for Load {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        let suffix = if self.keep_alive { "" } else { ", one request each" };
        write!(to, "{}{suffix}", self.connections)
    }
}

#[derive(Clone, Copy)]
pub struct Sample {
    pub per_second: f64,
    /// Microseconds to the whole response; with a connection of its own, from before it is opened
    /// until the server has closed it.
    pub p50: f64,
    pub p99: f64,
    /// Microseconds of CPU time per request.
    pub server_cpu: f64,
    pub client_cpu: f64,
    /// MB, with the last connections open.
    pub memory: f64,
}

/// Keeps each connection busy for `time`, then waits for the responses that are still to come.
pub fn measure(program: &Program, request: &[u8], load: Load, time: Duration) -> Sample {
    let mut latencies: Vec<u32> = Vec::new();
    let mut events = Vec::with_capacity(load.connections);
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let own_pid = std::process::id();
    let mut run = Run::new(program, request, load);
    let (client_cpu, server_cpu) = (cpu_time(own_pid), program.cpu_time());
    let start = Instant::now();
    let mut last = start;
    for number in 0..load.connections {
        run.begin(number);
    }
    let mut under_way = load.connections;
    while under_way > 0 {
        epoll::wait(&run.poll, spare_capacity(&mut events), Some(&patience)).expect("events");
        assert!(!events.is_empty(), "{}: nothing within {PATIENCE:?}", program.name);
        for event in events.drain(..) {
            let number = event.data.u64() as usize;
            if !run.is_done(number) {
                continue;
            }
            last = Instant::now();
            latencies.push((last - run.exchanges[number].start).as_nanos() as u32);
            if last - start < time {
                run.begin(number);
            } else {
                under_way -= 1;
            }
        }
    }
    let client_cpu = cpu_time(own_pid) - client_cpu;
    let server_cpu = program.cpu_time() - server_cpu;
    let memory = program.memory();

    latencies.sort_unstable();
    let count = latencies.len() as f64;
    let percentile = |share: f64| f64::from(latencies[((count - 1.0) * share) as usize]) / 1e3;
    Sample {
        per_second: count / (last - start).as_secs_f64(),
        p50: percentile(0.5),
        p99: percentile(0.99),
        server_cpu: server_cpu * 1e6 / count,
        client_cpu: client_cpu * 1e6 / count,
        memory,
    }
}

struct Exchange {
    client: Client,
    start: Instant,
}

struct Run<'a> {
    program: &'a Program,
    request: &'a [u8],
    load: Load,
    poll: OwnedFd,
    exchanges: Vec<Exchange>,
}

impl Run<'_> {
    fn new<'a>(program: &'a Program, request: &'a [u8], load: Load) -> Run<'a> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
        let mut run = Run { program, request, load, poll, exchanges: Vec::new() };
        for number in 0..load.connections {
            run.exchanges.push(Exchange { client: Client::new(), start: Instant::now() });
            if load.keep_alive {
                run.connect(number);
                // The response comes before the next connection is opened: tiny_http gives one
                // that comes earlier to a thread that is about to take the last one, and never
                // looks at it again.
                run.exchanges[number].client.exchange(request);
            }
        }
        run
    }

    /// A connection leaves the epoll set by itself when it is closed.
    fn connect(&mut self, number: usize) {
        let client = &mut self.exchanges[number].client;
        client.connect(&self.program.place).expect("a connection");
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&self.poll, &client, data, epoll::EventFlags::IN).expect("a watched socket");
    }

    fn begin(&mut self, number: usize) {
        self.exchanges[number].start = Instant::now();
        if !self.load.keep_alive {
            self.connect(number);
        }
        self.exchanges[number].client.send(self.request);
    }

    /// Reads once. A connection for one request is done when the server has closed it: the state
    /// TIME_WAIT is then on the server's side, and the client never runs out of ports.
    fn is_done(&mut self, number: usize) -> bool {
        let end = if self.load.keep_alive { Progress::Whole } else { Progress::Closed };
        self.exchanges[number].client.receive() == end
    }
}
