//! Upload callbacks: from headers to a claim, from claim and public key to `Verified`, and only
//! from there to the fields of the body. Pure, and the only file that names `rsa` and
//! `crypto-bigint`. Implements Alibaba Cloud OSS, "Callback" (signature, body types).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd, SquareAssign};
use md5::{Digest, Md5};
use rsa::{RsaPublicKey, pkcs8::DecodePublicKey, traits::PublicKeyParts};
use serde_json::Value;
use sha2::Sha256;

use crate::reject::Reject;

/// A 4,096-bit signature in base64: four times what a longer key than today's could need.
const MAX_AUTHORIZATION_BYTES: usize = 684;
const MAX_KEY_URL_BYTES: usize = 256;
/// The body type that is no form.
pub const JSON: &str = "application/json";
/// What stands before an MD5 digest in a signature: DigestInfo, in DER (RFC 8017, 9.2, note 1).
const MD5_INFO: &[u8] = b"\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x05\0\x04\x10";

/// What a request says of itself. Only its shape has been checked.
pub struct Claim<'a> {
    signature: Vec<u8>,
    /// The decoded `x-oss-pub-key-url`: a name to look up, never an address to visit.
    pub key_url: String,
    /// Percent-decoded.
    pub path: Vec<u8>,
    /// With its `?`; empty if there is none.
    query: &'a str,
    body: &'a [u8],
}

/// A callback whose signature is good: `fields` parses the body of no other.
pub struct Verified<'a>(Claim<'a>);

impl<'a> Claim<'a> {
    /// `target` is path and query as OSS sent them.
    pub fn new(
        authorization: &str,
        pub_key_url: &str,
        target: &'a str,
        body: &'a [u8],
    ) -> Result<Claim<'a>, Reject> {
        if authorization.len() > MAX_AUTHORIZATION_BYTES || pub_key_url.len() > MAX_KEY_URL_BYTES {
            return Err(Reject::FIELD_TOO_LONG);
        }
        let signature = BASE64.decode(authorization).map_err(|_| Reject::BAD_AUTHORIZATION)?;
        let key_url = BASE64.decode(pub_key_url).map_err(|_| Reject::BAD_KEY_URL)?;
        let key_url = String::from_utf8(key_url).map_err(|_| Reject::BAD_KEY_URL)?;
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        // With a line feed in it, the same signature would be good for another path and body.
        let path = percent_decode(path.as_bytes()).filter(|path| !path.contains(&b'\n'));
        Ok(Claim { signature, key_url, path: path.ok_or(Reject::BAD_PATH)?, query, body })
    }

    /// Decoded path, `?` and raw query if there is one, `\n`, raw body. Decoded once: `%2541` is
    /// `%41`. What OSS does with `+` and `%2F` in a path is not documented; here, as RFC 3986 has
    /// it for paths, `+` stays and `%2F` becomes `/`.
    pub fn string_to_sign(&self) -> Vec<u8> {
        [&self.path, self.query.as_bytes(), b"\n", self.body].concat()
    }

    /// RSASSA-PKCS1-v1_5 over MD5 (RFC 8017, 8.2.2): what the signature must open to is encoded
    /// anew and compared whole, so there is no padding to parse.
    pub fn verify(self, key: &PublicKey) -> Result<Verified<'a>, Reject> {
        if self.signature.len() != key.bytes {
            return Err(Reject::BAD_AUTHORIZATION);
        }
        let info = [MD5_INFO, &Md5::digest(self.string_to_sign())].concat();
        // Eight bytes of padding at least (RFC 8017, 9.2): with a shorter modulus nothing matches.
        let padding = vec![0xff; key.bytes.saturating_sub(info.len() + 3).max(8)];
        let expected = key.number(&[&[0, 1], &padding[..], &[0], &info].concat());
        match key.public_operation(&self.signature) {
            Some(opened) if Some(&opened) == expected.as_ref() => Ok(Verified(self)),
            _ => Err(Reject::SIGNATURE_MISMATCH),
        }
    }
}

impl Verified<'_> {
    /// Identifies the upload, by what is signed. OSS sends one body to several URLs, and another
    /// for the next upload if a request id is in it. If not, our token tells policies apart.
    pub fn id(&self, has_request_id: bool) -> u64 {
        let signed = if has_request_id { self.0.body.to_vec() } else { self.0.string_to_sign() };
        Sha256::digest(signed).first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }
}

/// The names and values of a verified body, or none if it does not parse as its type says.
pub fn fields(verified: &Verified, body_type: &str) -> Option<BTreeMap<String, String>> {
    parse(std::str::from_utf8(verified.0.body).ok()?, body_type)
}

/// Which `${variable}` stands under which name: a `CALLBACK_BODY` read like a body. In a JSON
/// template variables have no quotes, since OSS quotes their values.
pub fn template(body: &str, body_type: &str) -> Option<BTreeMap<String, String>> {
    if body_type != JSON {
        return parse(body, body_type);
    }
    let mut pieces = body.split("${");
    let mut text = pieces.next()?.to_owned();
    for piece in pieces {
        let (variable, rest) = piece.split_once('}')?;
        text += &format!("\"${{{variable}}}\"{rest}");
    }
    parse(&text, body_type)
}

fn parse(text: &str, body_type: &str) -> Option<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    if body_type == JSON {
        let Value::Object(object) = serde_json::from_str(text).ok()? else { return None };
        for (name, value) in object {
            let text = match value {
                Value::String(text) => text,
                Value::Null => String::new(),
                other => other.to_string(),
            };
            fields.insert(name, text);
        }
        return Some(fields);
    }
    let decode = |text: &str| {
        let decoded = percent_decode(text.replace('+', " ").as_bytes())?;
        String::from_utf8(decoded).ok()
    };
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        fields.insert(decode(name)?, decode(value)?);
    }
    Some(fields)
}

/// Decodes once; none if a `%` is not followed by two hexadecimal digits.
pub fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let hex = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => (hex(bytes.next())? * 16 + hex(bytes.next())?) as u8,
            plain => plain,
        });
    }
    Some(decoded)
}

/// Path and query that OSS asks for at a callback URL; at `http://HOST?QUERY` it is `/?QUERY`.
pub fn target(url: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap_or_default();
    let target = rest.find(['/', '?']).and_then(|at| rest.get(at..)).unwrap_or_default();
    if target.starts_with('/') { target.to_owned() } else { format!("/{target}") }
}

/// An RSA public key. 512 bits, as OSS's own has, are accepted: there is no other.
/// `rsa` 0.9 reads and judges it (odd modulus, odd exponent below 2^33). Its public operation takes
/// eight times as long as `crypto-bigint`'s, which is used here. With `rsa` 0.10, which is built on
/// `crypto-bigint`, this would be one call; but that needs Rust 1.87, and Debian 13 has 1.85.
pub struct PublicKey {
    bytes: usize,
    /// The modulus, prepared for Montgomery multiplication.
    params: Arc<BoxedMontyParams>,
    /// Of the public exponent, the highest first.
    exponent_bits: Vec<u8>,
}

impl PublicKey {
    /// From `-----BEGIN PUBLIC KEY-----` (SubjectPublicKeyInfo, RFC 7468). At most 4,096 bits.
    pub fn from_pem(pem: &str) -> Option<PublicKey> {
        let text = pem.trim().strip_prefix("-----BEGIN PUBLIC KEY-----")?;
        let mut text = text.strip_suffix("-----END PUBLIC KEY-----")?.to_owned();
        text.retain(|c| !c.is_ascii_whitespace());
        let key = RsaPublicKey::from_public_key_der(&BASE64.decode(text).ok()?).ok()?;
        let bits = u32::try_from(key.n().bits()).ok()?;
        let n = BoxedUint::from_be_slice(&key.n().to_bytes_be(), bits).ok()?;
        let params = BoxedMontyParams::new_vartime(Odd::new(n).into_option()?);
        let exponent_bits = key.e().to_radix_be(2);
        Some(PublicKey { bytes: key.size(), params: Arc::new(params), exponent_bits })
    }

    /// The number that big-endian bytes write, with as many limbs as the modulus has.
    fn number(&self, bytes: &[u8]) -> Option<BoxedUint> {
        BoxedUint::from_be_slice(bytes, self.params.bits_precision()).ok()
    }

    /// RSAVP1 (RFC 8017, 5.2.2): the signature to the power of the exponent, by squaring and
    /// multiplying. None if the signature is not below the modulus. Neither is secret, so the time
    /// that this takes may depend on them.
    fn public_operation(&self, signature: &[u8]) -> Option<BoxedUint> {
        let signature = self.number(signature)?;
        if signature >= *self.params.modulus() {
            return None;
        }
        let base = BoxedMontyForm::new_with_arc(signature, self.params.clone());
        let mut power = base.clone(); // the highest bit is 1
        for bit in self.exponent_bits.iter().skip(1) {
            power.square_assign();
            if *bit == 1 {
                power *= &base;
            }
        }
        Some(power.retrieve())
    }
}
