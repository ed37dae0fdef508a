//! What a program that mints tickets does, and the callback token by its description in
//! `src/README.md`: computed with `ring`, so that no mistake can hide on both sides.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::Value;

/// For `UPLOAD_JWT_SECRET` and `CALLBACK_TOKEN_KEY`.
pub const JWT_SECRET: &str = "ticketSecretOfMoreThanThirtyTwoCharacters";
pub const TOKEN_KEY: &str = "tokenKeyOfMoreThanThirtyTwoCharacters";

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

pub fn hmac_sha512(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, key), text).as_ref().to_vec()
}

/// A ticket as every JWT library writes it.
pub fn ticket(secret: &str, claims: &Value) -> String {
    ticket_of(secret, r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string())
}

/// A ticket with this header and these claims, well-formed or not, and a good HS256 signature.
pub fn ticket_of(secret: &str, header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    let mac = hmac_sha256(secret.as_bytes(), signed.as_bytes());
    format!("{signed}.{}", base64url(&mac))
}

/// The token of a policy that ends at `expire`, for objects under `prefix`, called back at `path`.
pub fn callback_token(secret: &str, path: &str, expire: u64, prefix: &str) -> String {
    let key = hmac_sha256(secret.as_bytes(), b"appserver callback token 1 examplebucket");
    let signed = format!("{expire}.{}", base64url(prefix.as_bytes()));
    let mac = hmac_sha256(&key, format!("{signed}\n{path}").as_bytes());
    format!("{signed}.{}", base64url(&mac[..16]))
}

/// A callback as it goes over the wire, on a connection that stays open.
pub fn callback(target: &str, authorization: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let key_url = STANDARD.encode("http://gosspublic.alicdn.com/callback_pub_key_v1.pem");
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\
         Content-Type: {content_type}\r\nAuthorization: {authorization}\r\n\
         x-oss-pub-key-url: {key_url}\r\nx-oss-request-id: 5F1E2D3C4B5A69788796A5B4\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
