//! The client page, embedded, so that the binary is all there is to install.

use std::hash::{DefaultHasher, Hasher};

use crate::http::{Request, Response};

/// Path, content type, the file as it is, and gzipped: static/build.rs lists and compresses them.
type File = (&'static str, &'static str, &'static [u8], &'static [u8]);
const FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// A file of the page, or 404. `ancestors` are the origins that may embed it, joined by commas.
pub fn response(path: &str, request: &Request, bucket_host: &str, ancestors: &str) -> Response {
    let Some((_, content_type, plain, gzipped)) = FILES.iter().find(|file| file.0 == path) else {
        return Response::text(404, "not found\n");
    };
    let codings = request.header("accept-encoding").unwrap_or_default();
    let is_gzipped = codings.split(',').any(allows_gzip);
    let bytes = if is_gzipped { *gzipped } else { *plain };
    // Of the content alone: the same on every machine that runs this version.
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    let etag = format!("\"{:016x}\"", hasher.finish());
    let known = request.header("if-none-match").unwrap_or_default();
    let is_known = known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag);
    let (status, body) = if is_known { (304, &[][..]) } else { (200, bytes) };
    let ancestors = if ancestors.is_empty() { "'none'" } else { &ancestors.replace(',', " ") };
    // It may run its own script and style, and talk to this server and the bucket.
    let security_policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
         connect-src 'self' {bucket_host}; base-uri 'none'; form-action 'none'; \
         frame-ancestors {ancestors}"
    );
    let response = Response::new(status, body.into(), content_type)
        .with("ETag", etag)
        .with("Vary", "Accept-Encoding")
        .with("Cache-Control", "no-cache")
        .with("Content-Security-Policy", security_policy)
        .with("Referrer-Policy", "no-referrer")
        .cacheable(true);
    if is_gzipped { response.with("Content-Encoding", "gzip") } else { response }
}

/// One item of `Accept-Encoding` (RFC 9110, 12.5.3). `*` does not count.
fn allows_gzip(item: &str) -> bool {
    let (coding, weight) = item.split_once(';').unwrap_or((item, ""));
    let weight = weight.trim_start_matches([' ', 'q', 'Q', '=']).trim();
    coding.trim().eq_ignore_ascii_case("gzip") && weight.parse::<f32>() != Ok(0.0)
}
