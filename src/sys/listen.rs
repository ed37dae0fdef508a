//! Where the server listens.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "http://{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// What the command line says: `[IP] PORT` or `unix:/PATH`.
    pub fn parse(words: &[&str]) -> Result<Listen, String> {
        let (ip, port) = match words {
            [path] if path.starts_with("unix:/") => {
                return Ok(Listen::Unix(path.trim_start_matches("unix:").into()));
            }
            [port] => ("0.0.0.0", port),
            [ip, port] => (*ip, port),
            _ => return Err("arguments: expected [IP] PORT or unix:/PATH (try --help)".to_owned()),
        };
        let ip = ip.parse().map_err(|_| format!("argument {ip:?}: not an IP address"))?;
        let port =
            port.parse().map_err(|_| format!("argument {port:?}: not a port (try --help)"))?;
        Ok(Listen::Tcp(SocketAddr::new(ip, port)))
    }
}
