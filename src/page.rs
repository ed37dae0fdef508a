//! The client page, embedded, so that the binary is all there is to install.

use sha2::{Digest, Sha256};

use crate::oss::policy::hex;

const FILES: [(&str, &str, &[u8]); 4] = [
    ("/index.html", "text/html; charset=utf-8", include_bytes!("../static/index.html")),
    ("/page.js", "text/javascript; charset=utf-8", include_bytes!("../static/page.js")),
    ("/style.css", "text/css; charset=utf-8", include_bytes!("../static/style.css")),
    ("/upload.js", "text/javascript; charset=utf-8", include_bytes!("../static/upload.js")),
];

/// One file of the page, as it is served.
pub struct File {
    pub path: &'static str,
    pub content_type: &'static str,
    pub bytes: &'static [u8],
    /// Quoted, of the content alone: the same on every machine that runs this version.
    pub etag: String,
}

pub fn files() -> Vec<File> {
    let file = |(path, content_type, bytes): (_, _, &'static [u8])| {
        let etag: String = hex(&Sha256::digest(bytes)).chars().take(16).collect();
        File { path, content_type, bytes, etag: format!("\"{etag}\"") }
    };
    FILES.map(file).into()
}

/// What the page may do: run its own script and style, and talk to this server and the bucket.
pub fn security_policy(bucket_host: &str) -> String {
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
         connect-src 'self' {bucket_host}; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
}
