//! appserver: arguments, configuration, bind, serve. A list; the logic is in the library.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{Write, stdout};
use std::process::ExitCode;

use appserver::app::App;
use appserver::config::{self, Config, ConfigError, Vars};
use appserver::sys::listener::Listen;
use appserver::sys::{log, time};
use appserver::{check, server};

const USAGE: &str = "\
usage: appserver [IP] PORT     sign uploads and verify their callbacks (IP: 0.0.0.0)
       appserver unix:/PATH    the same on a Unix socket, behind a proxy that buffers requests
       appserver --check       print the configuration, secrets masked, try it, and exit
       appserver --check --online    ask STS, the key host and the bucket too
       appserver --help | --version
Exit status: 1 cannot listen or serve, 2 usage or configuration, or a check that failed.
Environment variables (and their defaults; secrets may be systemd credentials instead):
";

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("appserver: {error}");
        ExitCode::from(2)
    })
}

fn run() -> Result<ExitCode, ConfigError> {
    let text = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
    let arguments: Vec<String> = std::env::args_os().skip(1).map(text).collect();
    let vars: Vars = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    let text = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--help" | "-h"] => format!("{USAGE}{}", config::help()),
        ["--version" | "-V"] => format!("appserver {}\n", env!("CARGO_PKG_VERSION")),
        ["--check"] => return check::run(&vars, false, time::now()),
        ["--check", "--online"] => return check::run(&vars, true, time::now()),
        words => {
            let listen = Listen::parse(words)?;
            let app = App::new(Config::from_vars(&vars)?, time::now())?;
            for warning in check::warnings(&app.config, &vars, false) {
                log::line(time::now(), &warning);
            }
            log::line(time::now(), &check::contract(&app.config));
            eprintln!("appserver: {}", server::run(&listen, app));
            return Ok(ExitCode::FAILURE);
        }
    };
    let _ = stdout().write_all(text.as_bytes()); // whoever reads may have seen enough
    Ok(ExitCode::SUCCESS)
}
