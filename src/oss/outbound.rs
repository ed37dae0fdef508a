//! Every call to the outside: to the key host, STS, the metadata service and the bucket. Each goes
//! where the configuration says, and is bounded in time and size. The only file that names `ureq`.

use std::time::Duration;

pub use ureq::Agent;
pub use ureq::http::Request;
use ureq::{AsSendBody, http};

pub type Response = http::Response<String>;
pub type Received = Result<Response, String>;

/// Keys, credentials and XML errors are shorter by far.
const MAX_BODY_BYTES: u64 = 16 * 1024;

/// For `url` and what is beside it: TLS with certificates checked (unless it is http, which is
/// configured), no redirects, no proxy.
pub fn agent(url: &str, timeout: Duration) -> Agent {
    let config = Agent::config_builder()
        .https_only(url.starts_with("https:"))
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(timeout))
        .http_status_as_error(false);
    config.build().into()
}

/// Sends a request and receives its response, of whatever status.
pub fn call(agent: &Agent, request: http::Result<Request<impl AsSendBody>>) -> Received {
    let call = || -> Result<Response, ureq::Error> {
        let (parts, mut body) = agent.run(request?)?.into_parts();
        let text = body.with_config().limit(MAX_BODY_BYTES).read_to_string()?;
        Ok(Response::from_parts(parts, text))
    };
    call().map_err(|error| error.to_string())
}

/// Encodes everything but unreserved characters (RFC 3986) and `but`.
pub fn percent_encode(text: &str, but: &[u8]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || but.contains(&b);
    let encode = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(encode).collect()
}
