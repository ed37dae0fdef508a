//! The host of the public key, on a port of its own so that tests can count and break it.

use std::io;
use std::net::TcpStream;

use crate::http::{self, Reply};
use crate::{KeyFault, Shared};

/// The path of the key at the real host.
pub const KEY_PATH: &str = "/callback_pub_key_v1.pem";

pub fn connection(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    while let Some(head) = http::read_head(stream)? {
        shared.record(|state| state.key_requests.push(head.target.clone()));
        shared.say(format_args!("key asked for: {}", head.target));
        let fault = shared.faults().key.clone();
        if fault == KeyFault::Hang {
            shared.hold(None);
            return Ok(());
        }
        let reply = answer(shared, fault, &head.target);
        reply.write(stream, head.close, head.method == "HEAD")?;
        if head.close {
            break;
        }
    }
    Ok(())
}

fn answer(shared: &Shared, fault: KeyFault, target: &str) -> Reply {
    let pem = |text: String| Reply::new(200).body("application/x-x509-ca-cert", text);
    match fault {
        KeyFault::Status(status) => Reply::new(status).body("text/plain", "broken on purpose\n"),
        KeyFault::Redirect(url) => Reply::new(302).header("Location", url),
        KeyFault::Body(text) => pem(text),
        _ if target != KEY_PATH => Reply::new(404).body("text/plain", "no such key\n"),
        KeyFault::Oversized(bytes) => {
            let blanks = bytes.saturating_sub(shared.public_pem.len());
            pem(shared.public_pem.clone() + &"\n".repeat(blanks))
        }
        KeyFault::Serve | KeyFault::Hang => pem(shared.public_pem.clone()),
    }
}
