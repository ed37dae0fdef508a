//! Upload callbacks: from headers to a claim, from claim and public key to `Verified`, and only
//! from there to the fields of the body. Pure, and the only file that names `rsa`.
//! Implements Alibaba Cloud OSS, "Callback" (signature, body types).

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use md5::{Digest, Md5};
use rsa::{BigUint, RsaPublicKey, pkcs8::DecodePublicKey, traits::PublicKeyParts};
use serde_json::Value;

use crate::reject::Reject;

/// A 4,096-bit signature in base64: four times what a longer key than today's could need.
const MAX_AUTHORIZATION_BYTES: usize = 684;
const MAX_KEY_URL_BYTES: usize = 256;
/// What stands before an MD5 digest in a signature: DigestInfo, in DER (RFC 8017, 9.2, note 1).
const MD5_INFO: &[u8] = b"\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x05\0\x04\x10";

/// An RSA public key. 512 bits, as OSS's own has, are accepted: there is no other.
/// `rsa` reads and judges it (odd modulus, odd exponent below 2^33); what it would do anew for each
/// signature, and for secret exponents of any length, is done here once and for public ones.
pub struct PublicKey {
    bytes: usize,
    /// Limbs, the lowest first, as all numbers here.
    n: Vec<u64>,
    /// -1/n modulo 2^64.
    inverse: u64,
    /// R^2 modulo n, where R is 2^64 to the number of limbs.
    square: Vec<u64>,
    /// The exponent's bits, the highest first.
    e: Vec<u8>,
}

impl PublicKey {
    /// From `-----BEGIN PUBLIC KEY-----` (SubjectPublicKeyInfo, RFC 7468). At most 4,096 bits.
    pub fn from_pem(pem: &str) -> Option<PublicKey> {
        let text = pem.trim().strip_prefix("-----BEGIN PUBLIC KEY-----")?;
        let text = text.strip_suffix("-----END PUBLIC KEY-----")?;
        let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let der = BASE64.decode(text).ok()?;
        let key = RsaPublicKey::from_public_key_der(&der).ok()?;
        let (bytes, n) = (key.size(), limbs(&key.n().to_bytes_be()));
        let low = *n.first()?;
        // Newton's method: 3 bits are right at first, twice as many each time.
        let inverse = (0..5).fold(low, |inverse, _| {
            inverse.wrapping_mul(2u64.wrapping_sub(low.wrapping_mul(inverse)))
        });
        let mut square = limbs(&((BigUint::from(1u8) << (n.len() * 128)) % key.n()).to_bytes_be());
        square.resize(n.len(), 0);
        let e = key.e().to_radix_be(2);
        Some(PublicKey { bytes, n, inverse: inverse.wrapping_neg(), square, e })
    }

    /// What a signature opens to: its power modulo n. None of one that is not below n.
    fn open(&self, signature: &[u8]) -> Option<Vec<u64>> {
        let signature = limbs(signature);
        if signature.len() != self.n.len() || !signature.iter().rev().lt(self.n.iter().rev()) {
            return None;
        }
        let (_, bits) = self.e.split_last()?; // the last is 1
        let base = self.product(&signature, &self.square);
        let mut power = base.clone();
        for bit in bits.iter().skip(1) {
            power = self.product(&power, &power);
            if *bit == 1 {
                power = self.product(&power, &base);
            }
        }
        power = self.product(&power, &power);
        Some(self.product(&power, &signature)) // which has no factor R, so nor has this
    }

    /// a * b / R modulo n, of a and b below n (Montgomery 1985; Koç's "CIOS").
    fn product(&self, a: &[u64], b: &[u64]) -> Vec<u64> {
        let mut sum = vec![0; self.n.len() + 1];
        let low = a.first().copied().unwrap_or_default();
        for &b in b {
            let lowest = sum.first().copied().unwrap_or_default();
            let m = low.wrapping_mul(b).wrapping_add(lowest).wrapping_mul(self.inverse);
            let (mut carry, mut carry_n) = (0, 0);
            for ((sum, &a), &n) in sum.iter_mut().zip(a).zip(&self.n) {
                *sum = multiply_add(a, b, *sum, &mut carry);
                *sum = multiply_add(m, n, *sum, &mut carry_n);
            }
            sum.copy_within(1.., 0); // the lowest is 0 now: divided by 2^64
            if let [.., high, over] = sum.as_mut_slice() {
                let top = u128::from(*high) + u128::from(carry) + u128::from(carry_n);
                (*high, *over) = (top as u64, (top >> 64) as u64);
            }
        }
        let over = sum.pop() == Some(1);
        if over || !sum.iter().rev().lt(self.n.iter().rev()) {
            let mut borrow = false;
            for (sum, n) in sum.iter_mut().zip(&self.n) {
                let (limb, below) = sum.overflowing_sub(*n);
                let (limb, below_too) = limb.overflowing_sub(borrow.into());
                (*sum, borrow) = (limb, below || below_too);
            }
        }
        sum
    }
}

/// The low half of a * b + c + carry; the high half is the next carry.
fn multiply_add(a: u64, b: u64, c: u64, carry: &mut u64) -> u64 {
    let sum = u128::from(a) * u128::from(b) + u128::from(c) + u128::from(*carry);
    *carry = (sum >> 64) as u64;
    sum as u64
}

/// Of big-endian bytes.
fn limbs(bytes: &[u8]) -> Vec<u64> {
    let limb = |bytes: &[u8]| bytes.iter().fold(0, |limb, byte| limb << 8 | u64::from(*byte));
    bytes.rchunks(8).map(limb).collect()
}

/// What a request says of itself. Nothing here has been checked but its shape.
pub struct Claim<'a> {
    signature: Vec<u8>,
    /// The decoded `x-oss-pub-key-url`: a name to look up, never an address to visit.
    pub key_url: String,
    string_to_sign: Vec<u8>,
    path_bytes: usize,
    body: &'a [u8],
}

/// The body of a callback whose signature is good: the only thing that `fields` parses.
pub struct Verified<'a>(&'a [u8]);

impl<'a> Claim<'a> {
    /// `target` is the request's path and query as they came.
    pub fn new(
        authorization: &str,
        pub_key_url: &str,
        target: &str,
        body: &'a [u8],
    ) -> Result<Claim<'a>, Reject> {
        if authorization.len() > MAX_AUTHORIZATION_BYTES || pub_key_url.len() > MAX_KEY_URL_BYTES {
            return Err(Reject::FIELD_TOO_LONG);
        }
        let signature = BASE64.decode(authorization).map_err(|_| Reject::BAD_AUTHORIZATION)?;
        let key_url = BASE64.decode(pub_key_url).map_err(|_| Reject::BAD_KEY_URL)?;
        let key_url = String::from_utf8(key_url).map_err(|_| Reject::BAD_KEY_URL)?;
        let string_to_sign = string_to_sign(target, body).ok_or(Reject::BAD_PATH)?;
        let query_and_body = target.find('?').map_or(0, |at| target.len() - at) + 1 + body.len();
        let path_bytes = string_to_sign.len() - query_and_body;
        Ok(Claim { signature, key_url, string_to_sign, path_bytes, body })
    }

    /// The decoded path.
    pub fn path(&self) -> &[u8] {
        self.string_to_sign.get(..self.path_bytes).unwrap_or_default()
    }

    /// RSASSA-PKCS1-v1_5 over MD5 (RFC 8017, 8.2.2): what the signature must open to is encoded
    /// anew and compared whole, so there is no padding to parse.
    pub fn verify(self, key: &PublicKey) -> Result<Verified<'a>, Reject> {
        if self.signature.len() != key.bytes {
            return Err(Reject::BAD_AUTHORIZATION);
        }
        let info = [MD5_INFO, &Md5::digest(&self.string_to_sign)].concat();
        let padding = key.bytes.checked_sub(info.len() + 3).filter(|&bytes| bytes >= 8);
        let padding = vec![0xff; padding.ok_or(Reject::SIGNATURE_MISMATCH)?];
        let expected = limbs(&[&[0, 1], &padding[..], &[0], &info].concat());
        let opened = key.open(&self.signature).filter(|opened| *opened == expected);
        opened.map(|_| Verified(self.body)).ok_or(Reject::SIGNATURE_MISMATCH)
    }
}

/// Path and query that OSS asks for at a callback URL; at `http://HOST?QUERY` it is `/?QUERY`.
pub fn target(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let target = rest.find(['/', '?']).and_then(|at| rest.get(at..)).unwrap_or_default();
    if target.starts_with('/') { target.to_owned() } else { format!("/{target}") }
}

/// Percent-decoded path, `?` and raw query if there is one, `\n`, raw body. Decoded once: `%2541`
/// is `%41`. What OSS does with `+` and `%2F` in a path is not documented; here, as RFC 3986 has
/// it for paths, `+` stays and `%2F` becomes `/`. A broken escape has no meaning: none.
pub fn string_to_sign(target: &str, body: &[u8]) -> Option<Vec<u8>> {
    let path_end = target.find('?').unwrap_or(target.len());
    let (path, query) = target.split_at_checked(path_end)?;
    let mut text = percent_decode(path.as_bytes())?;
    text.extend([query.as_bytes(), b"\n", body].concat());
    Some(text)
}

/// The names and values of a verified body, or none if it does not parse as its type says.
pub fn fields(verified: &Verified, content_type: &str) -> Option<BTreeMap<String, String>> {
    parse(std::str::from_utf8(verified.0).ok()?, content_type)
}

/// Which `${variable}` stands under which name: a `CALLBACK_BODY` read like a body. In a JSON
/// template variables have no quotes, since OSS quotes their values.
pub fn template(body: &str, body_type: &str) -> Option<BTreeMap<String, String>> {
    if !is_json(body_type) {
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

fn is_json(content_type: &str) -> bool {
    content_type.trim_start().to_ascii_lowercase().starts_with("application/json")
}

fn parse(text: &str, content_type: &str) -> Option<BTreeMap<String, String>> {
    if is_json(content_type) {
        let Value::Object(object) = serde_json::from_str(text).ok()? else { return None };
        let plain = |value| match value {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        };
        return Some(object.into_iter().map(|(name, value)| (name, plain(value))).collect());
    }
    let decode = |text: &str| match text.contains(['%', '+']) {
        true => String::from_utf8(percent_decode(text.replace('+', " ").as_bytes())?).ok(),
        false => Some(text.to_owned()),
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        })
        .collect()
}

/// Decodes once; none if a `%` is not followed by two hexadecimal digits.
pub fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let hex = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
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
