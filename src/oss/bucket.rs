//! Every call to the outside, and the one that is signed: the HEAD that confirms a callback. The
//! only file that names `ureq`. Implements Alibaba Cloud OSS, "Signature version 4 in the
//! Authorization header".

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::oss::credentials::Credentials;
use crate::oss::policy::{hex, hmac_sha256, signing_key};
use crate::reject::Reject;
use crate::sys::time;

/// In all, or but little more, so that OSS's 5 seconds hold.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Keys, credentials and XML errors are shorter by far.
const MAX_ANSWER_BYTES: u64 = 16 * 1024;

/// How every call leaves this process, for `url` and what is beside it: TLS with certificates
/// checked (unless it is http, which is configured), no redirects, no proxy, bounded in time.
pub fn agent(url: &str, timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .https_only(url.starts_with("https:"))
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .build()
        .into()
}

/// Status and text of an answer, bounded in size.
pub fn read(
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<(u16, String), String> {
    let mut answer = answer.map_err(|error| error.to_string())?;
    let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES);
    let text = body.read_to_string().map_err(|error| error.to_string())?;
    Ok((answer.status().as_u16(), text))
}

/// The bucket as we reach it.
pub struct Bucket {
    agent: ureq::Agent,
    host: String,
    name: String,
    region: String,
}

impl Bucket {
    /// `host` is `https://BUCKET.ENDPOINT`.
    pub fn new(host: &str, name: &str, region: &str) -> Bucket {
        let [host, name, region] = [host, name, region].map(str::to_owned);
        Bucket { agent: agent(&host, TIMEOUT), host, name, region }
    }

    /// Whether the object is there with this size and ETag (as a callback spells them).
    pub fn confirm(
        &self,
        credentials: &Credentials,
        object: &str,
        size: &str,
        etag: &str,
        now: u64,
    ) -> Result<(), Reject> {
        let (begun, ask) = (Instant::now(), || self.ask("HEAD", credentials, object, now));
        // Once more at once: the bucket may have closed the connection that was kept for this.
        let again = |error| if begun.elapsed() < TIMEOUT / 4 { ask() } else { Err(error) };
        let response = ask().or_else(again).map_err(|_| Reject::BUCKET_UNREACHABLE)?;
        match response.status().as_u16() {
            200 => {}
            404 => return Err(Reject::OBJECT_MISSING),
            _ => return Err(Reject::BUCKET_UNREACHABLE),
        }
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let plain = |etag: &str| etag.trim_matches('"').to_ascii_uppercase();
        let same = header("content-length") == Some(size)
            && header("etag").is_some_and(|there| plain(there) == plain(etag));
        if same { Ok(()) } else { Err(Reject::OBJECT_DIFFERS) }
    }

    /// What the bucket says of a key that nobody has: a code of its own, like `NoSuchKey`.
    pub fn probe(&self, credentials: &Credentials, key: &str, now: u64) -> Result<String, String> {
        let (status, text) = read(self.ask("GET", credentials, key, now))?;
        if text.contains("specified endpoint") {
            return Err("the bucket is in another region than OSS_HOST says".to_owned());
        }
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        code.map(|(code, _)| code.to_owned()).ok_or(format!("status {status} without a code"))
    }

    /// A signed request for an object.
    fn ask(
        &self,
        method: &str,
        credentials: &Credentials,
        object: &str,
        now: u64,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let (path, date) = (percent_encode(object, b"/"), time::basic(now));
        let mut headers = vec![
            ("x-oss-content-sha256", "UNSIGNED-PAYLOAD".to_owned()),
            ("x-oss-date", date.clone()),
        ];
        if let Some(token) = &credentials.security_token {
            headers.push(("x-oss-security-token", token.expose().to_owned()));
        }
        let authorization = self.authorization(method, credentials, &path, &headers, &date);
        let url = format!("{}/{path}", self.host);
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in &headers {
            request = request.header(*name, value);
        }
        self.agent.run(request.header("authorization", authorization).body(())?)
    }

    /// `headers` are sorted, lower case, and all of them `x-oss-*`.
    fn authorization(
        &self,
        method: &str,
        credentials: &Credentials,
        path: &str,
        headers: &[(&str, String)],
        date: &str,
    ) -> String {
        let day = date.get(..8).unwrap_or_default();
        let scope = format!("{day}/{}/oss/aliyun_v4_request", self.region);
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!("{method}\n/{}/{path}\n\n{lines}\n\nUNSIGNED-PAYLOAD", self.name);
        let digest = hex(&Sha256::digest(canonical));
        let text = format!("OSS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
        let key = signing_key(credentials.access_key_secret.expose(), day, &self.region);
        let signature = hex(&hmac_sha256(&key, text.as_bytes()));
        let id = &credentials.access_key_id;
        format!("OSS4-HMAC-SHA256 Credential={id}/{scope},Signature={signature}")
    }
}

/// Encodes everything but unreserved characters (RFC 3986) and `but`.
pub fn percent_encode(text: &str, but: &[u8]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || but.contains(&b);
    let encode = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(encode).collect()
}
