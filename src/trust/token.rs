//! Trust that we issue ourselves. A ticket (JWT, RFC 7519, HS256 alone) says who may upload, and
//! where; the callback token, a MAC in the callback URL, says that a policy of ours asked for the
//! callback. Pure. MACs are compared in constant time.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::oss::credentials::Secret;
use crate::oss::policy::{hmac_sha256, keyed};
use crate::reject::Reject;

const MAC_BYTES: usize = 16;
const LEEWAY_SECONDS: u64 = 60;
const MAX_TICKET_BYTES: usize = 4096;
pub const MAX_SUBJECT_BYTES: usize = 128;

/// What a good ticket allows, within the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    /// One path segment: letters, digits, `.`, `_`, `-`, `@`; no dot in front.
    pub subject: String,
    pub max_bytes: Option<u64>,
    pub content_types: Option<Vec<String>>,
    /// Unix seconds.
    pub expire: u64,
}

/// Checks a ticket. Its signature comes before anything it says.
pub fn ticket(text: &str, secret: &Secret, now: u64) -> Result<Ticket, Reject> {
    let (signed, mac) = text.rsplit_once('.').ok_or(Reject::BAD_TICKET)?;
    let (header, claims) = signed.split_once('.').ok_or(Reject::BAD_TICKET)?;
    let mac = BASE64URL.decode(mac).map_err(|_| Reject::BAD_TICKET)?;
    if text.len() > MAX_TICKET_BYTES || mac.len() != 32 {
        return Err(Reject::BAD_TICKET);
    }
    let ours = keyed::<Hmac<Sha256>>(secret.expose().as_bytes()).chain_update(signed);
    ours.verify_slice(&mac).map_err(|_| Reject::BAD_TICKET)?;
    let json = |part: &str| -> Option<Value> {
        serde_json::from_slice(&BASE64URL.decode(part).ok()?).ok()
    };
    let header = json(header).ok_or(Reject::BAD_TICKET)?;
    if header.get("alg").and_then(Value::as_str) != Some("HS256") || header.get("crit").is_some() {
        return Err(Reject::BAD_TICKET);
    }
    let claims = json(claims).ok_or(Reject::BAD_TICKET)?;
    let seconds = |name: &str| claims.get(name).map(|value| value.as_f64().map(|s| s as u64));
    let Some(Some(expire)) = seconds("exp") else { return Err(Reject::BAD_TICKET) };
    for since in [seconds("nbf"), seconds("iat")].into_iter().flatten() {
        if since.ok_or(Reject::BAD_TICKET)? > now + LEEWAY_SECONDS {
            return Err(Reject::EARLY_TICKET);
        }
    }
    if expire <= now {
        return Err(Reject::EXPIRED_TICKET);
    }
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
    if subject.is_empty()
        || subject.len() > MAX_SUBJECT_BYTES
        || subject.starts_with('.')
        || !subject.bytes().all(plain)
    {
        return Err(Reject::BAD_SUBJECT);
    }
    let max_bytes = match claims.get("max") {
        None => None,
        Some(max) => Some(max.as_u64().filter(|max| *max > 0).ok_or(Reject::BAD_TICKET)?),
    };
    // A `$` would be an escape in the policy.
    let plain = |item: &&str| item.bytes().all(|b| b.is_ascii_graphic() && b != b'$');
    let strings = |list: &Value| -> Option<Vec<String>> {
        let strings = list.as_array()?.iter().map(|item| item.as_str().filter(plain));
        strings.map(|item| item.map(str::to_owned)).collect()
    };
    let content_types = match claims.get("types") {
        None => None,
        Some(types) => Some(strings(types).ok_or(Reject::BAD_TICKET)?),
    };
    Ok(Ticket { subject: subject.to_owned(), max_bytes, content_types, expire })
}

/// Issues and checks callback tokens: `EXPIRY.PREFIX.MAC`, bound to the path they were issued for.
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

    /// For objects under `prefix`, uploaded with a policy that ends at `expire`. `path` is decoded.
    pub fn issue(&self, path: &[u8], expire: u64, prefix: &str) -> String {
        let signed = format!("{expire}.{}", BASE64URL.encode(prefix));
        let mac = self.mac.clone().chain_update(bind(&signed, path)).finalize().into_bytes();
        format!("{signed}.{}", BASE64URL.encode(mac.get(..MAC_BYTES).unwrap_or_default()))
    }

    /// The prefix that a good token in the raw query was issued for.
    pub fn check(&self, path: &[u8], query: &str, now: u64) -> Result<String, Reject> {
        let mut tokens = query.split('&').filter_map(|pair| pair.strip_prefix("token="));
        let (Some(token), None) = (tokens.next(), tokens.next()) else {
            return Err(Reject::TOKEN_MISSING);
        };
        let (signed, mac) = token.rsplit_once('.').ok_or(Reject::TOKEN_FORGED)?;
        let mac = BASE64URL.decode(mac).ok().filter(|mac| mac.len() == MAC_BYTES);
        let mac = mac.ok_or(Reject::TOKEN_FORGED)?;
        let ours = self.mac.clone().chain_update(bind(signed, path));
        ours.verify_truncated_left(&mac).map_err(|_| Reject::TOKEN_FORGED)?;
        let (expire, prefix) = signed.split_once('.').ok_or(Reject::TOKEN_FORGED)?;
        let expire: u64 = expire.parse().map_err(|_| Reject::TOKEN_FORGED)?;
        if now > expire.saturating_add(self.ttl_seconds) {
            return Err(Reject::TOKEN_EXPIRED);
        }
        let prefix = BASE64URL.decode(prefix).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        prefix.ok_or(Reject::TOKEN_FORGED)
    }
}

/// `signed` holds no line feed, so no two pairs read the same.
fn bind(signed: &str, path: &[u8]) -> Vec<u8> {
    [signed.as_bytes(), b"\n", path].concat()
}
