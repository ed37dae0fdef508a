//! Upload policies and their V1 and V4 signatures, as JSON for the browser. Pure: what is signed
//! comes from the configuration and the clock, never from a request.
//! Implements Alibaba Cloud OSS, "PostObject" (form fields, policy) and "Signature version 4".

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, Mac};
use serde_json::{Map, Value, json};
use sha1::Sha1;
use sha2::Sha256;

use crate::oss::credentials::Credentials;
use crate::sys::time;

const V4_VERSION: &str = "OSS4-HMAC-SHA256";

/// What an upload may be: every value is pinned in the policy, so OSS enforces it.
pub struct Terms<'a> {
    /// `https://BUCKET.ENDPOINT`: where the form is posted.
    pub host: &'a str,
    pub bucket: &'a str,
    /// As in `cn-hangzhou`.
    pub region: &'a str,
    /// Object keys must start with this.
    pub prefix: &'a str,
    pub max_bytes: u64,
    /// Allowed `Content-Type`s; empty: any.
    pub content_types: &'a [String],
    pub forbid_overwrite: bool,
    /// The callback parameter (base64), which the policy pins: unpinned, an uploader could drop it.
    pub callback: Option<&'a str>,
    /// Unix seconds: when this is signed, and when it ends.
    pub now: u64,
    pub expire: u64,
}

/// The answer of the original samples (signature version 1).
pub fn answer_v1(terms: &Terms, credentials: &Credentials) -> Value {
    let policy = encode(terms, conditions(terms, credentials));
    let signature = signature_v1(credentials.access_key_secret.expose(), &policy);

    let mut fields = shared_fields(terms, credentials, &policy);
    insert(&mut fields, "OSSAccessKeyId", &credentials.access_key_id);
    insert(&mut fields, "signature", &signature);
    let mut answer = shared_answer(terms, fields, &policy, &signature);
    insert(&mut answer, "accessid", &credentials.access_key_id);
    Value::Object(answer)
}

/// The answer of the samples since 2024 (signature version 4).
pub fn answer_v4(terms: &Terms, credentials: &Credentials) -> Value {
    let date = time::basic(terms.now);
    let day = date.get(..8).unwrap_or_default();
    let scope = format!("{day}/{}/oss/aliyun_v4_request", terms.region);
    let credential = format!("{}/{scope}", credentials.access_key_id);
    let signing = [
        ("x-oss-signature-version", V4_VERSION),
        ("x-oss-credential", &credential),
        ("x-oss-date", &date),
    ];

    let mut conditions = conditions(terms, credentials);
    conditions.extend(signing.map(|(name, value)| json!({ name: value })));
    let policy = encode(terms, conditions);
    let key = signing_key(credentials.access_key_secret.expose(), day, terms.region);
    let signature = hex(&hmac_sha256(&key, policy.as_bytes()));

    let mut fields = shared_fields(terms, credentials, &policy);
    insert(&mut fields, "x-oss-signature", &signature);
    let mut answer = shared_answer(terms, Map::new(), &policy, &signature);
    for (name, value) in signing {
        insert(&mut fields, name, value);
        insert(&mut answer, &name.replace('-', "_"), value);
    }
    if let Some(token) = &credentials.security_token {
        insert(&mut answer, "security_token", token.expose());
    }
    answer.insert("fields".into(), fields.into());
    Value::Object(answer)
}

/// The `callback` form field: where and what OSS posts after an upload, as base64 JSON.
pub fn callback_parameter(url: &str, body: &str, body_type: &str) -> String {
    let mut parameter = Map::new();
    insert(&mut parameter, "callbackUrl", url);
    insert(&mut parameter, "callbackBody", body);
    insert(&mut parameter, "callbackBodyType", body_type);
    if url.split(';').any(|url| url.starts_with("https:")) {
        // Without it OSS names no host in the TLS handshake, and a virtual host answers 502.
        parameter.insert("callbackSNI".into(), true.into());
    }
    base64_json(&parameter.into())
}

/// Base64 of HMAC-SHA1 over the base64 policy.
pub fn signature_v1(secret: &str, policy: &str) -> String {
    BASE64.encode(hmac_sha1(secret.as_bytes(), policy.as_bytes()))
}

pub fn hmac_sha1(key: &[u8], message: &[u8]) -> [u8; 20] {
    keyed::<Hmac<Sha1>>(key).chain_update(message).finalize().into_bytes().into()
}

/// The key that signs V4 policies of one `day` (`YYYYMMDD`) and region.
pub fn signing_key(secret: &str, day: &str, region: &str) -> [u8; 32] {
    let key = hmac_sha256(format!("aliyun_v4{secret}").as_bytes(), day.as_bytes());
    let key = hmac_sha256(&key, region.as_bytes());
    let key = hmac_sha256(&key, b"oss");
    hmac_sha256(&key, b"aliyun_v4_request")
}

pub fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    keyed::<Hmac<Sha256>>(key).chain_update(message).finalize().into_bytes().into()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// An HMAC that waits for its message.
pub fn keyed<M: Mac + hmac::digest::KeyInit>(key: &[u8]) -> M {
    // Invariant: HMAC takes a key of any length (RFC 2104), so there is no error to handle.
    #[expect(clippy::expect_used)]
    <M as Mac>::new_from_slice(key).expect("HMAC takes any key length")
}

fn conditions(terms: &Terms, credentials: &Credentials) -> Vec<Value> {
    let mut conditions = vec![
        json!({ "bucket": terms.bucket }),
        json!(["starts-with", "$key", terms.prefix]),
        json!(["content-length-range", 0, terms.max_bytes]),
    ];
    match terms.content_types {
        [] => {}
        [one] => conditions.push(json!(["eq", "$content-type", one])),
        several => conditions.push(json!(["in", "$content-type", several])),
    }
    if terms.forbid_overwrite {
        conditions.push(json!({ "x-oss-forbid-overwrite": "true" }));
    }
    if let Some(callback) = terms.callback {
        conditions.push(json!({ "callback": callback }));
    }
    if let Some(token) = &credentials.security_token {
        conditions.push(json!({ "x-oss-security-token": token.expose() }));
    }
    conditions
}

fn encode(terms: &Terms, conditions: Vec<Value>) -> String {
    let expiration = time::iso8601(terms.expire);
    base64_json(&json!({ "expiration": expiration, "conditions": conditions }))
}

/// Of what always serializes: `to_vec`, unlike `to_string`, takes no detour through a formatter.
fn base64_json(value: &Value) -> String {
    BASE64.encode(serde_json::to_vec(value).unwrap_or_default())
}

/// Form fields that both versions send, under the names that PostObject reads.
fn shared_fields(terms: &Terms, credentials: &Credentials, policy: &str) -> Map<String, Value> {
    let mut fields = Map::new();
    // OSS puts the file's name in, after it has checked the policy.
    insert(&mut fields, "key", &format!("{}${{filename}}", terms.prefix));
    insert(&mut fields, "policy", policy);
    insert(&mut fields, "success_action_status", "200");
    if let [one] = terms.content_types {
        insert(&mut fields, "Content-Type", one);
    }
    if terms.forbid_overwrite {
        insert(&mut fields, "x-oss-forbid-overwrite", "true");
    }
    if let Some(callback) = terms.callback {
        insert(&mut fields, "callback", callback);
    }
    if let Some(token) = &credentials.security_token {
        insert(&mut fields, "x-oss-security-token", token.expose());
    }
    fields
}

/// What both answers say, under the names that their clients read.
fn shared_answer(
    terms: &Terms,
    fields: Map<String, Value>,
    policy: &str,
    signature: &str,
) -> Map<String, Value> {
    let mut answer = Map::new();
    insert(&mut answer, "host", terms.host);
    insert(&mut answer, "dir", terms.prefix);
    insert(&mut answer, "policy", policy);
    insert(&mut answer, "signature", signature);
    insert(&mut answer, "callback", terms.callback.unwrap_or_default());
    insert(&mut answer, "method", "POST");
    insert(&mut answer, "url", terms.host);
    answer.insert("expire".into(), terms.expire.into());
    answer.insert("fields".into(), fields.into());
    answer
}

fn insert(map: &mut Map<String, Value>, name: &str, value: &str) {
    map.insert(name.to_owned(), value.into());
}
