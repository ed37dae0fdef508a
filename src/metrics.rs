//! What is counted, as Prometheus reads it (text format 0.0.4). Labels are fixed words of our own:
//! nothing from outside can add a line. Served on an address of its own, through a door of its own.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Values of one name, by the word of its label (one without, of the empty word).
pub struct Metric {
    name: &'static str,
    kind: &'static str,
    label: &'static str,
    help: &'static str,
    values: Mutex<BTreeMap<&'static str, u64>>,
}

macro_rules! metrics {
    ($($id:ident = $name:literal $kind:literal $label:literal $help:literal;)*) => {
        $(pub static $id: Metric = Metric {
            name: concat!("appserver_", $name),
            kind: $kind,
            label: $label,
            help: $help,
            values: Mutex::new(BTreeMap::new()),
        };)*
        static ALL: &[&Metric] = &[$(&$id),*];
    };
}

metrics! {
    POLICIES = "policies_total" "counter" "" "Policies signed";
    REPEATED = "repeated_total" "counter" "" "Answers given again within their second";
    CALLBACKS = "callbacks_total" "counter" "outcome" "Callbacks";
    CONNECTIONS = "connections_total" "counter" "" "Connections let in";
    REFUSALS = "refusals_total" "counter" "reason" "Requests that the front door refused";
    EVICTIONS = "evictions_total" "counter" "" "Waiting connections ended to make room";
    SYNCS = "log_syncs_total" "counter" "result" "Syncs of the upload log";
    KEY_FETCHES = "key_fetches_total" "counter" "result" "Fetches of OSS's public key";
    RENEWALS = "credential_renewals_total" "counter" "result" "Requests for credentials";
    CREDENTIALS_END = "credentials_end_seconds" "gauge" "" "Their end, Unix time; 0: they last";
}

impl Metric {
    pub fn add(&self) {
        self.add_for("");
    }

    pub fn add_for(&self, word: &'static str) {
        *self.values().entry(word).or_default() += 1;
    }

    pub fn set(&self, value: u64) {
        self.values().insert("", value);
    }

    /// A thread that panics ends the process (`panic = "abort"`), so no lock is ever poisoned.
    fn values(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        let Metric { name, kind, label, help, .. } = self;
        let mut text = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        let mut values = self.values().clone();
        if label.is_empty() {
            values.entry("").or_default(); // what has not happened yet is 0, not absent
        }
        for (word, value) in values {
            text += &match *label {
                "" => format!("{name} {value}\n"),
                label => format!("{name}{{{label}=\"{word}\"}} {value}\n"),
            };
        }
        text
    }
}

/// A label's word.
pub fn result<T, E>(result: &Result<T, E>) -> &'static str {
    if result.is_ok() { "ok" } else { "failed" }
}

/// The page.
pub fn page() -> String {
    ALL.iter().map(|metric| metric.text()).collect()
}
