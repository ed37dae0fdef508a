//! appserver: arguments, configuration, bind, serve. A list; the logic is in the library.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::net::TcpListener;
use std::process::ExitCode;

use appserver::app::App;
use appserver::config::{self, Command, Config, ConfigError, Vars};
use appserver::{log, server, time};

const HELP: &str = "\
usage: appserver [IP] PORT    sign uploads and verify their callbacks (IP: 0.0.0.0)
       appserver --check      print the configuration, secrets masked, and exit
       appserver --help | --version
Configuration comes from environment variables: see README.md.
Exit status: 1 cannot bind or serve, 2 usage or configuration.";

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
    let address = match config::command(&arguments)? {
        Command::Serve(address) => address,
        Command::Check => {
            print!("{}", Config::from_vars(&vars)?.report());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Help => {
            println!("{HELP}");
            return Ok(ExitCode::SUCCESS);
        }
        Command::Version => {
            println!("appserver {}", env!("CARGO_PKG_VERSION"));
            return Ok(ExitCode::SUCCESS);
        }
    };
    let app = App::new(Config::from_vars(&vars)?);
    let listener = match TcpListener::bind(address) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("appserver: cannot listen on {address}: {error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let bound = listener.local_addr().unwrap_or(address);
    log::line(time::now(), &format!("appserver listening on http://{bound}"));
    let error = server::run_tcp(listener, app);
    eprintln!("appserver: {error}");
    Ok(ExitCode::FAILURE)
}
