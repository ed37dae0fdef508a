//! The host of the public key, on a port of its own so that tests can count and break it.

use std::io;
use std::net::TcpStream;

use crate::http::{Head, Reply};
use crate::{KeyFault, Shared};

/// The path of the key at the real host.
pub const KEY_PATH: &str = "/callback_pub_key_v1.pem";

pub fn answer(shared: &Shared, _: &TcpStream, head: &Head) -> io::Result<Option<Reply>> {
    shared.record(|state| state.key_requests.push(head.target.clone()));
    shared.say(format_args!("key asked for: {}", head.target));
    let fault = shared.faults().key.clone();
    let text = |status, text: &str| Reply::new(status).body("text/plain", text);
    let pem = |text: String| Reply::new(200).body("application/x-x509-ca-cert", text);
    Ok(Some(match fault {
        KeyFault::Hang => {
            shared.hold(None);
            return Ok(None);
        }
        KeyFault::Status(status) => text(status, "broken on purpose\n"),
        KeyFault::Redirect(url) => Reply::new(302).header("Location", url),
        KeyFault::Body(text) => pem(text),
        _ if head.target != KEY_PATH => text(404, "no such key\n"),
        KeyFault::Oversized(bytes) => {
            let blanks = bytes.saturating_sub(shared.public_pem.len());
            pem(shared.public_pem.clone() + &"\n".repeat(blanks))
        }
        KeyFault::Serve => pem(shared.public_pem.clone()),
    }))
}
