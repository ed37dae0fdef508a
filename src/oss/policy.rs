//! Upload policies and their V1 and V4 signatures, as JSON for the browser. Pure: what is signed
//! comes from the configuration, the upload token and the clock.
//! Implements Alibaba Cloud OSS, "PostObject" (form fields, policy) and "Signature version 4".

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::Sha256;

use crate::oss::credentials::{Credentials, Secret};
use crate::sys::time;

const V4_VERSION: &str = "OSS4-HMAC-SHA256";

/// What an upload may be: every value is pinned in the policy, so OSS enforces it.
pub struct Terms<'a> {
    /// `https://BUCKET.ENDPOINT`: where the form is posted.
    pub host: &'a str,
    pub bucket: &'a str,
    pub region: &'a str,
    /// Object keys must start with this.
    pub prefix: String,
    pub max_bytes: u64,
    /// Allowed `Content-Type`s, or `image/*` alone; empty: any.
    pub content_types: Vec<String>,
    pub forbid_overwrite: bool,
    /// The callback parameter. Unpinned, an uploader could drop it.
    pub callback: Option<String>,
    /// Unix seconds: when this is signed, and when it ends.
    pub now: u64,
    pub expire: u64,
}

/// A JSON object, or a form: names and values.
type Members = Vec<(&'static str, Value)>;

/// The response of the original samples (signature version 1).
pub fn answer_v1(terms: &Terms, credentials: &Credentials) -> Value {
    let id = credentials.access_key_id.as_str();
    let mut fields = pinned_fields(terms, credentials);
    let policy = encode(terms, &fields);
    let signature = signature_v1(credentials.access_key_secret.expose(), &policy);
    fields.push(("OSSAccessKeyId", id.into()));
    fields.push(("signature", signature.as_str().into()));
    let mut response = response(terms, &policy, &signature, fields);
    // Clients were written from samples that spell it in each of these ways.
    for name in ["accessid", "accessId", "accessKeyId", "ossAccessKeyId", "OSSAccessKeyId"] {
        response.push((name, id.into()));
    }
    if let Some(token) = &credentials.security_token {
        response.push(("security_token", token.expose().into()));
        response.push(("x-oss-security-token", token.expose().into()));
    }
    response.into_iter().collect()
}

/// The response of the samples since 2024 (signature version 4).
pub fn answer_v4(terms: &Terms, credentials: &Credentials) -> Value {
    let date = time::basic(terms.now);
    let day = date.get(..8).unwrap_or_default();
    let id = &credentials.access_key_id;
    let credential = format!("{id}/{day}/{}/oss/aliyun_v4_request", terms.region);
    let mut fields = pinned_fields(terms, credentials);
    fields.push(("x-oss-signature-version", V4_VERSION.into()));
    fields.push(("x-oss-credential", credential.as_str().into()));
    fields.push(("x-oss-date", date.as_str().into()));
    let policy = encode(terms, &fields);
    let key = signing_key(credentials.access_key_secret.expose(), day, terms.region);
    let signature = hex(&hmac_sha256(&key, policy.as_bytes()));
    fields.push(("x-oss-signature", signature.as_str().into()));
    let mut response = response(terms, &policy, &signature, fields);
    response.push(("version", V4_VERSION.into()));
    response.push(("x_oss_signature_version", V4_VERSION.into()));
    response.push(("x_oss_credential", credential.into()));
    response.push(("x_oss_date", date.into()));
    if let Some(token) = &credentials.security_token {
        response.push(("security_token", token.expose().into()));
    }
    response.into_iter().collect()
}

/// Form fields whose value the policy fixes.
fn pinned_fields(terms: &Terms, credentials: &Credentials) -> Members {
    let fields = [
        ("x-oss-forbid-overwrite", terms.forbid_overwrite.then_some("true")),
        ("callback", terms.callback.as_deref()),
        ("x-oss-security-token", credentials.security_token.as_ref().map(Secret::expose)),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name, value?.into()))).collect()
}

/// The policy as it is signed and sent: base64 of JSON.
fn encode(terms: &Terms, pinned: &Members) -> String {
    let mut conditions = vec![
        json!({ "bucket": terms.bucket }),
        json!(["starts-with", "$key", terms.prefix]),
        json!(["content-length-range", 0, terms.max_bytes]),
    ];
    match terms.content_types.as_slice() {
        [] => {}
        [one] => match one.strip_suffix('*') {
            Some(start) => conditions.push(json!(["starts-with", "$content-type", start])),
            None => conditions.push(json!(["eq", "$content-type", one])),
        },
        several => conditions.push(json!(["in", "$content-type", several])),
    }
    conditions.extend(pinned.iter().map(|(name, value)| json!({ *name: value })));
    let expiration = time::iso8601(terms.expire);
    base64_json(vec![("expiration", expiration.into()), ("conditions", conditions.into())])
}

/// Whether a list has a type, or a pattern for it.
pub fn allows(content_types: &[String], wanted: &str) -> bool {
    let fits = |one: &String| one.strip_suffix('*').is_some_and(|start| wanted.starts_with(start));
    content_types.iter().any(|one| one == wanted || fits(one))
}

/// What clients of both versions read.
fn response(terms: &Terms, policy: &str, signature: &str, mut fields: Members) -> Members {
    // OSS puts the file's name in, after it has checked the policy.
    fields.push(("key", format!("{}${{filename}}", terms.prefix).into()));
    fields.push(("policy", policy.into()));
    fields.push(("success_action_status", "200".into()));
    let is_fixed = !terms.content_types.iter().any(|one| one.ends_with('*'));
    if let ([one], true) = (terms.content_types.as_slice(), is_fixed) {
        fields.push(("Content-Type", one.as_str().into()));
    }
    vec![
        ("host", terms.host.into()),
        ("dir", terms.prefix.as_str().into()),
        ("policy", policy.into()),
        ("signature", signature.into()),
        ("callback", terms.callback.as_deref().unwrap_or_default().into()),
        ("method", "POST".into()),
        ("url", terms.host.into()),
        ("expire", terms.expire.into()),
        ("fields", fields.into_iter().collect()),
    ]
}

/// The `callback` form field: where and what OSS posts after an upload, as base64 JSON.
pub fn callback_parameter(url: &str, body: &str, body_type: &str) -> String {
    let mut parameter = vec![
        ("callbackUrl", url.into()),
        ("callbackBody", body.into()),
        ("callbackBodyType", body_type.into()),
    ];
    if url.split(';').any(|url| url.starts_with("https:")) {
        // Without it OSS names no host in the TLS handshake, and a virtual host answers 502.
        parameter.push(("callbackSNI", true.into()));
    }
    base64_json(parameter)
}

fn base64_json(members: Members) -> String {
    let object: Value = members.into_iter().collect();
    // A `Value` always serializes.
    BASE64.encode(serde_json::to_vec(&object).unwrap_or_default())
}

/// Base64 of HMAC-SHA1 over the base64 policy.
pub fn signature_v1(secret: &str, policy: &str) -> String {
    BASE64.encode(hmac_sha1(secret.as_bytes(), policy.as_bytes()))
}

/// The key that signs V4 policies of one `day` (`YYYYMMDD`) and region.
pub fn signing_key(secret: &str, day: &str, region: &str) -> [u8; 32] {
    let key = hmac_sha256(format!("aliyun_v4{secret}").as_bytes(), day.as_bytes());
    let key = hmac_sha256(&key, region.as_bytes());
    let key = hmac_sha256(&key, b"oss");
    hmac_sha256(&key, b"aliyun_v4_request")
}

pub fn hmac_sha1(key: &[u8], message: &[u8]) -> [u8; 20] {
    keyed::<Hmac<Sha1>>(key).chain_update(message).finalize().into_bytes().into()
}

pub fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    keyed::<Hmac<Sha256>>(key).chain_update(message).finalize().into_bytes().into()
}

/// An HMAC that waits for its message.
pub fn keyed<M: Mac + hmac::digest::KeyInit>(key: &[u8]) -> M {
    // Invariant: HMAC takes a key of any length (RFC 2104), so there is no error to handle.
    #[expect(clippy::expect_used)]
    <M as Mac>::new_from_slice(key).expect("HMAC takes any key length")
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}
