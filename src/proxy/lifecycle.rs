//! What the service manager and we tell each other: that the whole way to the backend and back
//! works (sd_notify(3), readiness and watchdog), and that it is time to end.

use super::connection::{Connection, State};
use super::head::Head;
use super::{DRAIN_REQUEST_TIMEOUT, DRAIN_TIMEOUT, NEVER, Proxy, UPSTREAM};
use crate::sys::systemd;

impl Proxy {
    /// Asks the backend whether it works, when it is time for that.
    pub(super) fn check_health(&mut self) {
        if self.now >= self.health_check_at {
            self.health_check_at = NEVER;
            let canonical = format!("GET {} HTTP/1.1\r\n", self.settings.health_target);
            let head = Head { canonical, ..Head::default() };
            self.upstream.push(UPSTREAM, &head, &[], None, self.now);
        }
    }

    /// The whole way to the backend and back works, and systemd is told.
    pub(super) fn pass_health_check(&mut self) {
        if self.draining_since.is_some() {
            return;
        }
        if self.accept_at == NEVER {
            self.accept_at = self.now;
            systemd::notify(&["READY=1"], &[]);
        } else {
            systemd::notify(&["WATCHDOG=1"], &[]);
        }
        let interval = self.settings.health_interval;
        self.health_check_at = interval.map_or(NEVER, |interval| self.now + interval);
    }

    /// From now on each response is its connection's last. Who came before is let in and served.
    pub(super) fn drain(&mut self) {
        if let Ok(Some(_)) = self.signals.read_signal() {
            systemd::notify(&["STOPPING=1"], &[]);
            self.draining_since = self.draining_since.or(Some(self.now));
            self.accept_at = self.accept_at.min(self.now); // be we ready or not
            self.accept();
        }
    }

    /// We were told to end, and nobody is left who is being served or may be about to ask.
    pub(super) fn is_drained(&self) -> bool {
        let Some(start) = self.draining_since else { return false };
        let is_served = |connection: &Connection| match connection.state {
            State::Queued | State::Awaiting | State::Writing { .. } => true,
            State::Lingering => false,
            State::Reading => {
                let earliest = if connection.has_begun() { start } else { 0 };
                self.now - connection.waiting_since.max(earliest) < DRAIN_REQUEST_TIMEOUT
            }
        };
        let is_empty = self.accept_at == NEVER && self.pending.is_none();
        self.now - start >= DRAIN_TIMEOUT || (is_empty && !self.connections.values().any(is_served))
    }
}
