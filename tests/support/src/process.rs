//! A child process, with its log at hand.

use std::io;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::PATIENCE;
use crate::log::Log;

const LAST_LINES: usize = 50;

/// What it writes to its standard error is its log. Killed when dropped.
pub struct Process {
    child: Child,
    unread: Option<ChildStderr>,
    log: Option<Log>,
}

impl Process {
    pub fn start(command: &mut Command) -> io::Result<Process> {
        let mut process = Process::start_unread(command)?;
        process.read_log();
        Ok(process)
    }

    /// With a log that nobody reads.
    pub fn start_unread(command: &mut Command) -> io::Result<Process> {
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let unread = child.stderr.take();
        Ok(Process { child, unread, log: None })
    }

    /// Reads the log from now on.
    pub fn read_log(&mut self) {
        self.log = self.unread.take().map(Log::read);
    }

    /// How much of the log waits to be read.
    pub fn unread_bytes(&self) -> u64 {
        self.unread.as_ref().map_or(0, |stderr| ioctl_fionread(stderr).expect("a pipe"))
    }

    /// All lines so far, those of every answered request among them.
    pub fn log(&self) -> Vec<String> {
        self.log.as_ref().map(Log::lines).unwrap_or_default()
    }

    pub fn last_lines(&self) -> Vec<String> {
        let mut lines = self.log();
        lines.split_off(lines.len().saturating_sub(LAST_LINES))
    }

    /// The first line that contains `text`, as soon as there is one; none if the log ends before.
    pub fn find_log(&self, text: &str) -> Option<String> {
        self.log.as_ref()?.wait(text, PATIENCE)
    }

    /// The first line that contains `text`, as soon as there is one.
    pub fn wait_log(&self, text: &str) -> String {
        let line = self.find_log(text);
        line.unwrap_or_else(|| panic!("no log line with {text:?} in {:#?}", self.log()))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A line of `/proc/PID/status`, as a number (kB where it says so).
    pub fn status(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(path).expect("status");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok()).expect("a number")
    }

    /// True as long as the process that was started is the one that runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("not yet waited for");
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty());
        let pidfd = pidfd.expect("not yet waited for");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: 0 };
            let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
            assert!(ended != Ok(0), "the process does not end: {:#?}", self.log());
            if ended == Ok(1) {
                return self.child.wait().expect("a child");
            }
        }
    }

    /// Asks to end (SIGTERM), as systemd does, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Ends it at once (SIGKILL) and waits for it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::thread::sleep(Duration::from_millis(200));
            let (running, last) = (self.is_running(), self.last_lines());
            eprintln!("process {} ran: {running}; the end of its log: {last:#?}", self.pid());
        }
        self.kill();
    }
}

/// Seconds of CPU time in user and system mode, threads that have ended included.
pub fn cpu_time(pid: u32) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0; // on every Linux
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    // The second field is a name and may hold anything, but it ends with the last parenthesis.
    let after_name = stat.rsplit(") ").next().expect("fields");
    let ticks = |field: &str| field.parse::<f64>().expect("a number of ticks");
    after_name.split(' ').skip(11).take(2).map(ticks).sum::<f64>() / TICKS_PER_SECOND
}
