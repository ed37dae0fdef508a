//! What is counted, as Prometheus reads it (text format 0.0.4). Labels are fixed words of our own:
//! nothing from outside can add a line. Served on an address of its own, one client at a time.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::sys::{log, time};

/// For all of a client's request, and for it to take the page: others wait for it.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);

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
    REPEATED = "repeated_total" "counter" "" "Responses given again within their second";
    CALLBACKS = "callbacks_total" "counter" "outcome" "Callbacks";
    CONNECTIONS = "connections_total" "counter" "" "Connections accepted";
    REFUSALS = "refusals_total" "counter" "reason" "Requests that the proxy refused";
    EVICTIONS = "evictions_total" "counter" "" "Connections ended to make room for others";
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

/// Serves the page to Prometheus, on a thread of its own.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    log::line(time::now(), &format!("metrics at http://{}/metrics", listener.local_addr()?));
    let serve = move || {
        for client in listener.incoming() {
            let _ = client.and_then(respond); // the next one may do better
        }
    };
    thread::Builder::new().spawn(serve).map(drop)
}

/// Answers one request, which comes in one piece from whoever may ask here.
fn respond(mut client: TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut request = [0; 4096];
    let count = client.read(&mut request)?;
    let request = String::from_utf8_lossy(request.get(..count).unwrap_or_default()).into_owned();
    let mut words = request.split([' ', '?']);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = match path {
        "/metrics" => ("200 OK", page()),
        _ => ("404 Not Found", "not found\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes())?;
    if method == "HEAD" { Ok(()) } else { client.write_all(body.as_bytes()) }
}
