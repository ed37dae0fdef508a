//! Callback tokens: a MAC in the callback URL says that a policy of ours asked for the callback.
//! Pure. MACs are compared in constant time.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::oss::callback::{percent_decode, target};
use crate::oss::credentials::Secret;
use crate::oss::policy::{hmac_sha256, keyed};
use crate::reject::Reject;

const MAC_BYTES: usize = 16;

/// Issues and checks callback tokens: `EXPIRE.PREFIX.MAC`, bound to the path they are issued for.
pub struct CallbackTokens {
    /// Keyed once, and cloned for every token.
    mac: Hmac<Sha256>,
    /// How long after the policy's end a callback may come: an upload that began in time may last.
    ttl_seconds: u64,
}

impl CallbackTokens {
    /// The key is derived, so that `secret` may serve for other things and other buckets too.
    pub fn new(secret: &Secret, bucket: &str, ttl_seconds: u64) -> CallbackTokens {
        let label = format!("appserver callback token 1 {bucket}");
        let key = hmac_sha256(secret.expose().as_bytes(), label.as_bytes());
        CallbackTokens { mac: keyed(&key), ttl_seconds }
    }

    /// A callback URL with a token for its path.
    pub fn sign_url(&self, url: &str, expire: u64, prefix: &str) -> String {
        let target = target(url);
        let path = target.split('?').next().unwrap_or_default();
        let path = percent_decode(path.as_bytes()).unwrap_or_default();
        let join = if url.contains('?') { '&' } else { '?' };
        format!("{url}{join}token={}", self.issue(&path, expire, prefix))
    }

    /// For objects under `prefix`, uploaded with a policy that ends at `expire`. `path` is decoded.
    pub fn issue(&self, path: &[u8], expire: u64, prefix: &str) -> String {
        let signed = format!("{expire}.{}", BASE64URL.encode(prefix));
        let mac = self.mac_of(&signed, path).finalize().into_bytes();
        format!("{signed}.{}", BASE64URL.encode(mac.get(..MAC_BYTES).unwrap_or_default()))
    }

    /// The prefix that the one token in a raw query was issued for.
    pub fn check(&self, path: &[u8], query: &str, now: u64) -> Result<String, Reject> {
        let mut tokens = query.split('&').filter_map(|pair| pair.strip_prefix("token="));
        let (Some(token), None) = (tokens.next(), tokens.next()) else {
            return Err(Reject::TOKEN_MISSING);
        };
        let (signed, mac) = token.rsplit_once('.').ok_or(Reject::TOKEN_FORGED)?;
        let mac = BASE64URL.decode(mac).map_err(|_| Reject::TOKEN_FORGED)?;
        // One length alone, so that a token has one spelling.
        if mac.len() != MAC_BYTES || self.mac_of(signed, path).verify_truncated_left(&mac).is_err()
        {
            return Err(Reject::TOKEN_FORGED);
        }
        let (expire, prefix) = signed.split_once('.').ok_or(Reject::TOKEN_FORGED)?;
        let expire: u64 = expire.parse().map_err(|_| Reject::TOKEN_FORGED)?;
        if now > expire.saturating_add(self.ttl_seconds) {
            return Err(Reject::TOKEN_EXPIRED);
        }
        let prefix = BASE64URL.decode(prefix).map_err(|_| Reject::TOKEN_FORGED)?;
        String::from_utf8(prefix).map_err(|_| Reject::TOKEN_FORGED)
    }

    /// `signed` holds no line feed, so no two pairs have the same MAC.
    fn mac_of(&self, signed: &str, path: &[u8]) -> Hmac<Sha256> {
        self.mac.clone().chain_update(signed).chain_update(b"\n").chain_update(path)
    }
}
