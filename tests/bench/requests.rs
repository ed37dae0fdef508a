//! The requests that are measured, and the configuration of a server that accepts them.

use std::env;
use std::path::{Path, PathBuf};

use oss_standin::Standin;
use serde_json::json;
use support::trust::{JWT_SECRET, callback, callback_token, now, ticket};
use support::world::FORM;

const KEY_SECRET: &str = "exampleAkSecretNeverShown";
const BODY: &[u8] = b"filename=user%2Fphoto.jpg&size=123456&mimeType=image%2Fjpeg&height=600&\
                      width=800&bucket=examplebucket&etag=5D41402ABC4B2A76B9719D911017C592";

pub const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
pub const POLICY: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
pub const POLICY_V4: &[u8] = b"GET /get_post_signature_for_oss_upload HTTP/1.1\r\nHost: x\r\n\r\n";
/// Makes the server ask for tickets.
pub const TICKETS: (&str, &str) = ("UPLOAD_JWT_SECRET", JWT_SECRET);
pub const SECRET: (&str, &str) = ("OSS_ACCESS_KEY_SECRET", KEY_SECRET);

/// What every server is given, except for the secret of its access key.
pub fn variables(public_key_file: &str) -> [(&str, &str); 5] {
    [
        ("OSS_ACCESS_KEY_ID", "exampleAkId"),
        ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
        ("UPLOAD_DIR", "user/"),
        ("CALLBACK_URL", "http://127.0.0.1/callback"),
        ("CALLBACK_PUBLIC_KEY_FILE", public_key_file),
    ]
}

pub fn policy_with_ticket() -> Vec<u8> {
    let bearer = ticket(JWT_SECRET, &json!({ "sub": "alice", "exp": now() + 86_400 }));
    format!("GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\n\r\n").into_bytes()
}

pub fn signed_callback(bucket: &Standin) -> Vec<u8> {
    let token = callback_token(KEY_SECRET, "/callback", now() + 86_400, "user/");
    let target = format!("/callback?token={token}");
    callback(&target, &bucket.sign(&target, BODY), FORM, BODY)
}

/// The second binary to measure, if `OTHER` names one.
pub fn other_binary() -> Option<PathBuf> {
    let path = env::var_os("OTHER").filter(|path| !path.is_empty())?;
    let found = Path::new(&path).canonicalize();
    Some(found.unwrap_or_else(|error| panic!("OTHER={}: {error}", Path::new(&path).display())))
}
