//! Counters, as Prometheus reads them (text format 0.0.4). The words of labels are our own, so that
//! nothing from outside can add a line.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::sys::{log, time};

/// Others wait while one client sends its request or takes the page.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);
const ERROR_PAUSE: Duration = Duration::from_millis(10);

pub struct Metric {
    name: &'static str,
    /// Empty: there is one value alone, whose word is empty too.
    label: &'static str,
    help: &'static str,
}

/// By name and word.
type Values = BTreeMap<(&'static str, &'static str), u64>;
static VALUES: Mutex<Values> = Mutex::new(BTreeMap::new());

macro_rules! metrics {
    ($($id:ident = $name:literal $label:literal $help:literal;)*) => {
        $(pub const $id: Metric = Metric { name: $name, label: $label, help: $help };)*
        const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    POLICIES = "policies_total" "" "Policies signed";
    REPEATED = "repeated_total" "" "Responses given again within their second";
    CALLBACKS = "callbacks_total" "outcome" "Callbacks";
    CONNECTIONS = "connections_total" "" "Connections accepted";
    REFUSALS = "refusals_total" "reason" "Requests that the proxy refused";
    EVICTIONS = "evictions_total" "" "Connections ended to make room for others";
    SYNCS = "log_syncs_total" "result" "Syncs of the upload log";
    KEY_FETCHES = "key_fetches_total" "result" "Fetches of OSS's public key";
    RENEWALS = "credential_renewals_total" "result" "Requests for credentials";
    CREDENTIALS_END = "credentials_end_seconds" "" "Their end, Unix time; 0: they last";
}

impl Metric {
    pub fn add(&self) {
        self.add_for("");
    }

    pub fn add_for(&self, word: &'static str) {
        *values().entry((self.name, word)).or_default() += 1;
    }

    pub fn set(&self, value: u64) {
        values().insert((self.name, ""), value);
    }
}

/// A thread that panics ends the process (`panic = "abort"`), so no lock is ever poisoned.
fn values() -> MutexGuard<'static, Values> {
    VALUES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The word of a label.
pub fn result<T, E>(result: &Result<T, E>) -> &'static str {
    if result.is_ok() { "ok" } else { "failed" }
}

fn page() -> String {
    let (mut page, mut values) = (String::new(), values());
    for Metric { name, label, help } in ALL {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        page += &format!("# HELP appserver_{name} {help}\n# TYPE appserver_{name} {kind}\n");
        if label.is_empty() {
            page += &format!("appserver_{name} {}\n", values.entry((name, "")).or_default());
            continue;
        }
        for ((_, word), value) in values.iter().filter(|((owner, _), _)| owner == name) {
            page += &format!("appserver_{name}{{{label}=\"{word}\"}} {value}\n");
        }
    }
    page
}

/// Serves `/metrics` to one client at a time.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    log::line(time::now(), &format!("metrics at http://{}/metrics", listener.local_addr()?));
    let serve = move || {
        for client in listener.incoming() {
            if client.and_then(respond).is_err() {
                thread::sleep(ERROR_PAUSE); // without a descriptor, `accept` fails at once
            }
        }
    };
    thread::Builder::new().spawn(serve).map(drop)
}

/// Answers one request, which comes in one piece from whoever may ask here.
fn respond(mut client: TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut request = [0; 4096];
    let _ = client.read(&mut request)?;
    let request = String::from_utf8_lossy(&request);
    let (status, body) = match request.split([' ', '?']).nth(1) {
        Some("/metrics") => ("200 OK", page()),
        _ => ("404 Not Found", "not found\n".to_owned()),
    };
    let (length, body) = (body.len(), if request.starts_with("HEAD ") { "" } else { &body });
    let head = "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\nConnection: close\r\n";
    let response = format!("HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\n\r\n{body}");
    client.write_all(response.as_bytes())
}
