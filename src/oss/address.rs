//! What URLs and host names say, as far as OSS, browsers and this server must read the same in
//! them. Pure. Implements Alibaba Cloud OSS, "Naming conventions" and "Regions and endpoints".

use crate::oss::callback::percent_decode;

/// The `HOST[:PORT]` of an http or https URL: no user info, no IPv6, nothing to be decoded.
pub fn host_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = rest.split(['/', '?']).next()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:".contains(&b);
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    let good = !name.is_empty() && host.bytes().all(plain) && port.parse::<u16>().is_ok();
    (good && url.bytes().all(|byte| byte.is_ascii_graphic())).then_some(host)
}

/// True for a URL that is scheme and host alone.
pub fn is_origin(url: &str) -> bool {
    host_of(url).is_some_and(|host| url.ends_with(&format!("://{host}")))
}

/// One to five that OSS may try in turn.
pub fn are_callback_urls(text: &str) -> bool {
    let decodes = |url: &str| percent_decode(url.as_bytes()).is_some();
    let good = |url: &str| host_of(url).is_some() && !url.contains('#') && decodes(url);
    text.split(';').count() <= 5 && text.split(';').all(good)
}

/// Of a bucket or a region.
pub fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = text.starts_with('-') || text.ends_with('-');
    (3..=63).contains(&text.len()) && text.bytes().all(plain) && !edge
}

/// Bucket and region that a host names. A custom domain names neither; an acceleration endpoint
/// names no region.
pub fn named_by(host: &str) -> (&str, &str) {
    let domain = host_of(host).and_then(|domain| domain.strip_suffix(".aliyuncs.com"));
    let (bucket, region) = domain.and_then(|rest| rest.split_once(".oss-")).unwrap_or_default();
    let region = region.strip_suffix("-internal").unwrap_or(region);
    if region.starts_with("accelerate") { (bucket, "") } else { (bucket, region) }
}
