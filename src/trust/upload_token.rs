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
/// From the year 5138 on, a time is one in milli-, micro- or nanoseconds.
const NOT_SECONDS: std::ops::Range<u64> = 100_000_000_000..10_000_000_000_000_000_000;

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
        let claims = signed_claims(text, secret)?;
        let expire = seconds(claims.get("exp").ok_or(Reject::NO_EXP)?).ok_or(Reject::BAD_EXP)?;
        if expire <= now || NOT_SECONDS.contains(&expire) {
            return Err(if expire > now { Reject::LONG_EXP } else { Reject::EXPIRED_TICKET });
        }
        for name in ["nbf", "iat"] {
            let since = claims.get(name).map_or(Some(0), seconds).ok_or(Reject::BAD_BEGIN)?;
            if since > now + LEEWAY_SECONDS {
                return Err(Reject::EARLY_TICKET);
            }
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
        let length_fits = (1..=MAX_SUBJECT_BYTES).contains(&subject.len());
        if !length_fits || subject.starts_with('.') || !subject.bytes().all(plain) {
            return Err(Reject::BAD_SUBJECT);
        }
        let positive = |max: &Value| max.as_u64().filter(|max| *max > 0).ok_or(Reject::BAD_MAX);
        let max_bytes = claims.get("max").map(positive).transpose()?;
        let content_types = claims.get("types").map(types).transpose()?;
        Ok(UploadToken { subject, max_bytes, content_types, expire })
    }
}

/// The claims of a token that `secret` signs. Nothing is parsed before its signature is good.
fn signed_claims(text: &str, secret: &Secret) -> Result<Value, Reject> {
    let decode = |part: &str| BASE64URL.decode(part).map_err(|_| Reject::BAD_TICKET);
    let json = |part: &[u8]| serde_json::from_slice(part).map_err(|_| Reject::BAD_TICKET);
    let (signed, mac) = text.rsplit_once('.').ok_or(Reject::BAD_TICKET)?;
    let (header, claims) = signed.split_once('.').ok_or(Reject::BAD_TICKET)?;
    if text.len() > MAX_TOKEN_BYTES {
        return Err(Reject::BAD_TICKET);
    }
    let header = decode(header)?;
    let expected = keyed::<Hmac<Sha256>>(secret.expose().as_bytes()).chain_update(signed);
    // The header may say why the MAC differs: another algorithm. It decides nothing else here.
    let is_hs256 = header.windows(5).any(|word| word == b"HS256");
    let reject = if is_hs256 { Reject::BAD_MAC } else { Reject::BAD_ALGORITHM };
    expected.verify_slice(&decode(mac)?).map_err(|_| reject)?;
    let header: Value = json(&header)?;
    // `crit` names extensions that must be understood (RFC 7515, 4.1.11).
    let is_plain = header.get("alg") == Some(&"HS256".into()) && header.get("crit").is_none();
    if is_plain { json(&decode(claims)?) } else { Err(Reject::BAD_ALGORITHM) }
}

/// Since 1970, perhaps with a fraction (RFC 7519, 2).
fn seconds(value: &Value) -> Option<u64> {
    Some(value.as_f64()? as u64)
}

fn types(list: &Value) -> Result<Vec<String>, Reject> {
    // A `$` would be an escape in the policy, and a `*` stands for all that follows.
    let plain = |text: &&str| {
        let fixed = text.strip_suffix("/*").unwrap_or(text);
        fixed.bytes().all(|b| b.is_ascii_graphic() && b != b'$' && b != b'*')
    };
    let text = |item: &Value| item.as_str().filter(plain).map(str::to_owned);
    let types = list.as_array().and_then(|list| list.iter().map(text).collect());
    let types: Vec<String> = types.ok_or(Reject::BAD_TYPES)?;
    let is_mixed = types.len() > 1 && types.iter().any(|one| one.ends_with('*'));
    if is_mixed { Err(Reject::MIXED_TYPES) } else { Ok(types) }
}
