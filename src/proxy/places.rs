//! Who is let in, and who gives way. The places (connections) and what they may buffer are shared
//! out by source, so that no source keeps another from being served.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{SockFlag, SockaddrStorage, accept4, getpeername};

use super::connection::{Connection, READ_BYTES};
use super::{GRACE, NEVER, Proxy, RETRY_INTERVAL, SHARED_BYTES, STALL_TIMEOUT};
use crate::reject::Reject;
use crate::sys::metrics::{CONNECTIONS, EVICTIONS};

/// Connections accepted before the others have their next turn.
const MAX_ACCEPTS: usize = 64;

/// Whether there is a place for one more.
enum Place {
    Free,
    /// Soon: the backend has all requests, or all have only just come.
    Soon,
    None,
}

impl Proxy {
    /// Lets in those who wait in the backlog.
    pub(super) fn accept(&mut self) {
        for _ in 0..MAX_ACCEPTS {
            let next = match self.pending.take() {
                Some(pending) => Ok(pending),
                None => accept(&self.listener, self.now),
            };
            let pending = match next {
                Ok(pending) => pending,
                Err(Errno::EAGAIN) => {
                    if self.draining_since.is_some() {
                        self.accept_at = NEVER;
                    }
                    return;
                }
                Err(Errno::EINTR | Errno::ECONNABORTED | Errno::ENOTCONN) => continue,
                // There is no descriptor, most likely.
                Err(_) if self.evict_for(0) => continue,
                Err(_) => {
                    self.accept_at = self.now + RETRY_INTERVAL;
                    return;
                }
            };
            match self.find_place(pending.source()) {
                Place::Free => {
                    self.last_id += 1;
                    self.connections.insert(self.last_id, pending);
                    CONNECTIONS.add();
                }
                Place::Soon => {
                    self.pending = Some(pending);
                    return;
                }
                Place::None => self.refuse_pending(pending),
            }
        }
    }

    /// Looks for a place, and makes one if need be. A source may have a quarter of all; beyond that
    /// it gives way to itself. A proxy on this machine speaks for many sources, so it may have all.
    fn find_place(&mut self, source: Option<IpAddr>) -> Place {
        let is_own = |one: &Connection| source.is_some() && one.source() == source;
        let held = self.connections.values().filter(|one| is_own(one)).count();
        if held >= self.settings.max_connections.div_ceil(4) {
            return if self.evict(is_own) { Place::Free } else { Place::None };
        }
        if self.connections.len() < self.settings.max_connections || self.evict_for(held) {
            return Place::Free;
        }
        let waited = self.upstream.oldest().map_or(0, |since| self.now - since);
        if waited > STALL_TIMEOUT { Place::None } else { Place::Soon }
    }

    /// Makes a place for a source that holds `held`: by evicting from the source with the most
    /// places, if it still has no fewer afterwards. Otherwise the connection that has waited
    /// longest is evicted, of whatever source, if it is older than GRACE.
    fn evict_for(&mut self, held: usize) -> bool {
        let mut shares: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for source in self.connections.values().filter_map(Connection::source) {
            *shares.entry(source).or_default() += 1;
        }
        let largest = shares.into_iter().max_by_key(|(_, share)| *share);
        if let Some((source, share)) = largest {
            if share > held + 1 && self.evict(|one| one.source() == Some(source)) {
                return true;
            }
        }
        let since = self.now.saturating_sub(GRACE);
        self.evict(|one| one.waiting_since <= since)
    }

    /// Ends the connection of a kind that has waited longest, unless the backend has its request.
    fn evict(&mut self, is_meant: impl Fn(&Connection) -> bool) -> bool {
        let evictable = self.connections.iter().filter(|(_, one)| one.is_evictable());
        let meant = evictable.filter(|(_, one)| is_meant(one));
        let longest = meant.min_by_key(|(_, one)| one.waiting_since);
        let Some(id) = longest.map(|(id, _)| *id) else { return false };
        self.connections.remove(&id);
        EVICTIONS.add();
        true
    }

    /// Makes sure that a connection may buffer `more` bytes beyond its own. Who does so already and
    /// has waited longest gives way, be it the connection itself.
    pub(super) fn make_room(&mut self, id: u64, more: usize) -> bool {
        let beyond = |one: &Connection| one.buffered_bytes().saturating_sub(READ_BYTES);
        while self.connections.values().map(beyond).sum::<usize>() + more > SHARED_BYTES {
            if !self.evict(|other| beyond(other) > 0) {
                return false;
            }
        }
        self.connections.contains_key(&id)
    }

    /// Refuses a client for whom there is no place. What it has sent is not read.
    fn refuse_pending(&mut self, mut pending: Connection) {
        let response = self.refusal(&pending.describe(), Reject::BUSY);
        self.write_log();
        pending.respond(response, true, self.now);
        let _ = pending.write(self.now); // it fits into what the system buffers
    }
}

/// The next client of the backlog.
fn accept(listener: &OwnedFd, now: u64) -> nix::Result<Connection> {
    let stream = accept4(listener, SockFlag::SOCK_CLOEXEC)?;
    let address: SockaddrStorage = getpeername(stream.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
    let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip()));
    Ok(Connection::new(stream, v4.or(v6).map(|peer| peer.to_canonical()), now))
}
