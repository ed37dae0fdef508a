//! appserver: arguments, configuration, bind, serve. A list; the logic is in the library.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;

use appserver::app::App;
use appserver::config::{self, Command, Config, ConfigError, Vars};
use appserver::sys::{log, time};
use appserver::{check, server};

const HELP: &str = "\
usage: appserver [IP] PORT     sign uploads and verify their callbacks (IP: 0.0.0.0)
       appserver unix:/PATH    the same on a Unix socket, behind a proxy that buffers requests
       appserver --check       print the configuration, secrets masked, try it, and exit
       appserver --check --online    ask STS, the key host and the bucket too
       appserver --help | --version
Configuration comes from environment variables: see README.md.
Exit status: 1 cannot listen or serve, 2 usage or configuration, or a check that failed.";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("appserver: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode, ConfigError> {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let vars: Vars = std::env::vars_os()
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .collect();
    match config::command(&arguments)? {
        Command::Serve(listen) => {
            let app = App::new(Config::from_vars(&vars)?, time::now())?;
            warn_of_secrets(&vars);
            let error = server::run(&listen, app);
            eprintln!("appserver: {error}");
            return Ok(ExitCode::FAILURE);
        }
        Command::Check { online } => {
            let (report, good) = check::run(Config::from_vars(&vars)?, online, time::now())?;
            print!("{report}");
            return Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(2) });
        }
        Command::Help => println!("{HELP}"),
        Command::Version => println!("appserver {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a process was started with can be read for as long as it runs.
fn warn_of_secrets(vars: &Vars) {
    for name in config::SECRETS.iter().filter(|name| vars.contains_key(**name)) {
        let text = format!(
            "{name} comes in the environment, where /proc/{}/environ shows it as long as this \
             process runs: better a systemd credential (LoadCredential={}:FILE)",
            std::process::id(),
            name.to_lowercase()
        );
        log::line(time::now(), &text);
    }
}
