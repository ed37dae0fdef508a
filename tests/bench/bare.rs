//! The reference: tiny_http with nothing before it, in a process of its own.

use std::process::Command;

use crate::program::{Place, Program};
use crate::requests::HEALTH;

pub const NAME: &str = "bare loop";
/// Makes this very program the bare loop, at the address that the variable says.
const VARIABLE: &str = "BARE_LOOP";

pub fn start() -> Program {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    let place = Place::free_port();
    command.env_clear().env(VARIABLE, place.arguments().join(":"));
    Program::start(NAME, place, command, HEALTH)
}

/// Does not return in the process that `start` started.
pub fn run_if_asked() {
    if let Ok(address) = std::env::var(VARIABLE) {
        run(&address);
    }
}

/// Its response to GET is short, since a longer one leaves in two writes and waits 40 ms for the
/// first to be acknowledged; its response to POST is the server's, without any check.
fn run(address: &str) -> ! {
    let server = tiny_http::Server::http(address).expect("a server");
    let body = "x".repeat(800);
    loop {
        let mut request = server.recv().expect("a request");
        let text = if *request.method() == tiny_http::Method::Post {
            let _ = request.as_reader().read_to_end(&mut Vec::new());
            r#"{"Status":"OK"}"#
        } else {
            &body
        };
        let _ = request.respond(tiny_http::Response::from_string(text));
    }
}
