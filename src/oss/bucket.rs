//! The bucket as its owner reads it: the HEAD that confirms a callback. Implements Alibaba Cloud
//! OSS, "Signature version 4 in the Authorization header".

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::oss::credentials::Credentials;
use crate::oss::outbound::{Agent, Received, Request, agent, call, percent_encode};
use crate::oss::policy::{hex, hmac_sha256, signing_key};
use crate::reject::Reject;
use crate::sys::time;

/// In all, or but little more, so that OSS's 5 seconds hold.
const TIMEOUT: Duration = Duration::from_secs(2);

pub struct Bucket {
    agent: Agent,
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

    /// The object's content type, if it has this size and ETag (as a callback spells them).
    pub fn confirm(
        &self,
        credentials: &Credentials,
        object: &str,
        size: &str,
        etag: &str,
        now: u64,
    ) -> Result<String, Reject> {
        let begun = Instant::now();
        let mut response = self.ask("HEAD", credentials, object, now);
        // Once more at once: the bucket may have closed the connection that was kept for this.
        if response.is_err() && begun.elapsed() < TIMEOUT / 4 {
            response = self.ask("HEAD", credentials, object, now);
        }
        let response = response.map_err(|_| Reject::BUCKET_UNREACHABLE)?;
        match response.status().as_u16() {
            200 => {}
            404 => return Err(Reject::OBJECT_MISSING),
            _ => return Err(Reject::BUCKET_UNREACHABLE),
        }
        let header = |name| response.headers().get(name)?.to_str().ok();
        let plain = |etag: &str| etag.trim_matches('"').to_ascii_uppercase();
        let same_etag = header("etag").map(plain) == Some(plain(etag));
        let same_size = header("content-length") == Some(size);
        let content_type = header("content-type").unwrap_or_default().to_owned();
        if same_etag && same_size { Ok(content_type) } else { Err(Reject::OBJECT_DIFFERS) }
    }

    /// What the bucket says of a key that nobody has: a code of its own, like `NoSuchKey`.
    pub fn probe(&self, credentials: &Credentials, key: &str, now: u64) -> Result<String, String> {
        let response = self.ask("GET", credentials, key, now)?;
        if response.body().contains("specified endpoint") {
            return Err("the bucket is in another region than OSS_HOST says".to_owned());
        }
        let date = response.headers().get("date").and_then(|date| date.to_str().ok());
        // Within half of the life that policies have.
        let mut near = now.saturating_sub(15)..=now + 15;
        if let Some(date) = date.filter(|date| near.all(|second| time::http(second) != *date)) {
            return Err(format!("its clock says {date}, and ours does not (timedatectl)"));
        }
        let (_, code) = response.body().split_once("<Code>").unwrap_or_default();
        match code.split_once("</Code>") {
            Some((code, _)) => Ok(code.to_owned()),
            None => Err(format!("status {} without a code", response.status().as_u16())),
        }
    }

    /// Sends a signed request for an object.
    fn ask(&self, method: &str, signer: &Credentials, object: &str, now: u64) -> Received {
        let (path, date) = (percent_encode(object, b"/"), time::basic(now));
        let mut headers = vec![("x-oss-content-sha256", "UNSIGNED-PAYLOAD"), ("x-oss-date", &date)];
        if let Some(token) = &signer.security_token {
            headers.push(("x-oss-security-token", token.expose()));
        }
        let mut request = Request::builder().method(method).uri(format!("{}/{path}", self.host));
        let mut canonical = format!("{method}\n/{}/{path}\n\n", self.name);
        for (name, value) in headers {
            canonical += &format!("{name}:{value}\n"); // sorted, in lower case
            request = request.header(name, value);
        }
        canonical += "\n\nUNSIGNED-PAYLOAD";
        let day = date.get(..8).unwrap_or_default();
        let scope = format!("{day}/{}/oss/aliyun_v4_request", self.region);
        let digest = hex(&Sha256::digest(canonical));
        let text = format!("OSS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
        let key = signing_key(signer.access_key_secret.expose(), day, &self.region);
        let signature = hex(&hmac_sha256(&key, text.as_bytes()));
        let credential = format!("{}/{scope}", signer.access_key_id);
        let signed = format!("OSS4-HMAC-SHA256 Credential={credential},Signature={signature}");
        call(&self.agent, request.header("authorization", signed).body(()))
    }
}
