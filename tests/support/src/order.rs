//! In which order a server appends to its record, syncs and responds: noted by a library that is
//! preloaded into it, since no test can cut the power.

use std::fs;

use crate::Folder;
use crate::disk::preload;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/order.c");

/// What one server did, and the folder of its record.
pub struct Order {
    library: String,
    log: String,
    pub record: String,
    _folder: Folder,
}

/// One of `append`, `fsync`, `fdatasync`, `backend` (a response on its way to the proxy),
/// `response` (one to a client) and `listening`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub what: String,
    /// The last part of the path of what was written or synced.
    pub name: String,
    /// Lines that were appended, responses in one write, or what a sync returned.
    pub count: i64,
}

impl Order {
    #[expect(clippy::new_without_default, reason = "making one runs a compiler")]
    pub fn new() -> Order {
        let (folder, library) = preload(SOURCE);
        let (log, record) = (folder.path("order"), folder.path("record"));
        Order { library, log, record, _folder: folder }
    }

    /// Variables of the server that is looked at.
    pub fn vars(&self) -> [(&str, &str); 3] {
        [("LD_PRELOAD", &self.library), ("ORDER_LOG", &self.log), ("UPLOAD_LOG", &self.record)]
    }

    /// What happened since this was last asked.
    pub fn take(&self) -> Vec<Event> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let _ = fs::write(&self.log, "");
        let event = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut word = || words.next().expect("three words");
            let (what, name) = (word(), word());
            Event { what, name, count: word().parse().expect("a number") }
        };
        text.lines().map(event).collect()
    }
}
