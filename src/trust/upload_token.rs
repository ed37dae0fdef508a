//! Upload tokens: JWTs (RFC 7519, HS256 alone) that say who may upload, and where. The operator's
//! own application issues them. Pure. MACs are compared in constant time.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::oss::credentials::Secret;
use crate::oss::policy::keyed;
use crate::reject::Reject;

const MAX_TOKEN_BYTES: usize = 4096;
pub const MAX_SUBJECT_BYTES: usize = 128;
const LEEWAY_SECONDS: u64 = 60;

/// What a good token allows, within the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct UploadToken {
    /// One path segment: letters, digits, `.`, `_`, `-`, `@`; no dot in front.
    pub subject: String,
    pub max_bytes: Option<u64>,
    pub content_types: Option<Vec<String>>,
    /// Unix seconds.
    pub expire: u64,
}

impl UploadToken {
    pub fn verify(text: &str, secret: &Secret, now: u64) -> Result<UploadToken, Reject> {
        let claims = signed_claims(text, secret).ok_or(Reject::BAD_TICKET)?;
        let expire = claim(&claims, "exp", seconds)?.ok_or(Reject::BAD_TICKET)?;
        for name in ["nbf", "iat"] {
            let since = claim(&claims, name, seconds)?.unwrap_or_default();
            if since > now + LEEWAY_SECONDS {
                return Err(Reject::EARLY_TICKET);
            }
        }
        if expire <= now {
            return Err(Reject::EXPIRED_TICKET);
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
        let length_fits = (1..=MAX_SUBJECT_BYTES).contains(&subject.len());
        if !length_fits || subject.starts_with('.') || !subject.bytes().all(plain) {
            return Err(Reject::BAD_SUBJECT);
        }
        let max_bytes = claim(&claims, "max", |max| max.as_u64().filter(|max| *max > 0))?;
        let content_types = claim(&claims, "types", strings)?;
        Ok(UploadToken { subject, max_bytes, content_types, expire })
    }
}

/// The claims of a token that `secret` signs. Nothing is parsed before its signature is good.
fn signed_claims(text: &str, secret: &Secret) -> Option<Value> {
    let (signed, mac) = text.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    if text.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let expected = keyed::<Hmac<Sha256>>(secret.expose().as_bytes()).chain_update(signed);
    expected.verify_slice(&BASE64URL.decode(mac).ok()?).ok()?;
    let json = |part| serde_json::from_slice::<Value>(&BASE64URL.decode(part).ok()?).ok();
    let header = json(header)?;
    // `crit` names extensions that must be understood (RFC 7515, 4.1.11).
    let is_plain = header.get("alg")? == "HS256" && header.get("crit").is_none();
    if is_plain { json(claims) } else { None }
}

/// What `read` makes of a claim, if there is one. It makes nothing of a claim of another type.
fn claim<T>(
    claims: &Value,
    name: &str,
    read: fn(&Value) -> Option<T>,
) -> Result<Option<T>, Reject> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    read(value).map(Some).ok_or(Reject::BAD_TICKET)
}

/// Since 1970, perhaps with a fraction (RFC 7519, 2).
fn seconds(value: &Value) -> Option<u64> {
    Some(value.as_f64()? as u64)
}

fn strings(list: &Value) -> Option<Vec<String>> {
    // A `$` would be an escape in the policy.
    let plain = |text: &&str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'$');
    let text = |item: &Value| item.as_str().filter(plain).map(str::to_owned);
    list.as_array()?.iter().map(text).collect()
}
