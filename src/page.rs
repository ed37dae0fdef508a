//! The client page, embedded, so that the binary is all there is to install.

/// The content type and bytes of a file of the page.
pub fn file(path: &str) -> Option<(&'static str, &'static [u8])> {
    Some(match path {
        "/index.html" => ("text/html; charset=utf-8", include_bytes!("../static/index.html")),
        "/upload.js" => ("text/javascript; charset=utf-8", include_bytes!("../static/upload.js")),
        "/style.css" => ("text/css; charset=utf-8", include_bytes!("../static/style.css")),
        _ => return None,
    })
}
