//! Every call to the outside, and the one that is signed: the HEAD that confirms a callback. The
//! only file that names `ureq`. Implements Alibaba Cloud OSS, "Signature version 4 in the
//! Authorization header".

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::credentials::Credentials;
use crate::policy::{hex, hmac_sha256, signing_key};
use crate::reject::Reject;
use crate::time;

/// In all, so that OSS's 5 seconds hold.
const TIMEOUT: Duration = Duration::from_secs(2);

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
        let path = encode_path(object);
        let mut headers = vec![
            ("x-oss-content-sha256", "UNSIGNED-PAYLOAD".to_owned()),
            ("x-oss-date", time::basic(now)),
        ];
        if let Some(token) = &credentials.security_token {
            headers.push(("x-oss-security-token", token.expose().to_owned()));
        }
        let authorization = self.authorization(credentials, &path, &headers, now);
        let mut request = self.agent.head(format!("{}/{path}", self.host));
        for (name, value) in &headers {
            request = request.header(*name, value);
        }
        let response = request.header("authorization", authorization).call();
        let response = response.map_err(|_| Reject::BUCKET_UNREACHABLE)?;
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

    /// `headers` are sorted, lower case, and all of them `x-oss-*`.
    fn authorization(
        &self,
        credentials: &Credentials,
        path: &str,
        headers: &[(&str, String)],
        now: u64,
    ) -> String {
        let day = time::basic(now).get(..8).unwrap_or_default().to_owned();
        let scope = format!("{day}/{}/oss/aliyun_v4_request", self.region);
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!("HEAD\n/{}/{path}\n\n{lines}\n\nUNSIGNED-PAYLOAD", self.name);
        let digest = hex(&Sha256::digest(canonical));
        let date = time::basic(now);
        let text = format!("OSS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
        let key = signing_key(credentials.access_key_secret.expose(), &day, &self.region);
        let signature = hex(&hmac_sha256(&key, text.as_bytes()));
        let id = &credentials.access_key_id;
        format!("OSS4-HMAC-SHA256 Credential={id}/{scope},Signature={signature}")
    }
}

/// Everything but unreserved characters and `/` (RFC 3986).
fn encode_path(key: &str) -> String {
    let mut path = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                path.push(byte.into());
            }
            other => path += &format!("%{other:02X}"),
        }
    }
    path
}
