//! The client page, embedded, so that the binary is all there is to install.

use std::hash::{DefaultHasher, Hasher};

use crate::http::{Request, Response};

/// A file of the page, or 404.
pub fn response(path: &str, request: &Request, bucket_host: &str) -> Response {
    let (content_type, bytes): (_, &'static [u8]) = match path {
        "/index.html" => ("text/html; charset=utf-8", include_bytes!("../static/index.html")),
        "/page.js" => ("text/javascript; charset=utf-8", include_bytes!("../static/page.js")),
        "/style.css" => ("text/css; charset=utf-8", include_bytes!("../static/style.css")),
        "/upload.js" => ("text/javascript; charset=utf-8", include_bytes!("../static/upload.js")),
        _ => return Response::text(404, "not found\n"),
    };
    // Of the content alone: the same on every machine that runs this version.
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    let etag = format!("\"{:016x}\"", hasher.finish());
    let known = request.header("if-none-match").unwrap_or_default();
    let is_known = known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag);
    let (status, body) = if is_known { (304, &[][..]) } else { (200, bytes) };
    // It may run its own script and style, and talk to this server and the bucket.
    let security_policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
         connect-src 'self' {bucket_host}; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    Response::new(status, body.into(), content_type)
        .with("ETag", etag)
        .with("Cache-Control", "no-cache")
        .with("Content-Security-Policy", security_policy)
        .with("Referrer-Policy", "no-referrer")
        .cacheable(true)
}
