//! What URLs, host names and other values may look like, as far as OSS, browsers and this server
//! must read the same in them. Pure. Implements Alibaba Cloud OSS, "Naming conventions" and
//! "Regions and endpoints".

use crate::oss::callback::percent_decode;

/// The `HOST[:PORT]` of an http or https URL: no user info, no IPv6, nothing to be decoded.
pub fn host_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = rest.split(['/', '?']).next()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:".contains(&b);
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    let is_whole = name.split('.').all(|label| !label.is_empty());
    let good = is_whole && host.bytes().all(plain) && port.parse::<u16>().is_ok();
    (good && url.bytes().all(|byte| byte.is_ascii_graphic())).then_some(host)
}

/// True for a URL that is scheme and host alone.
pub fn is_origin(url: &str) -> bool {
    host_of(url).is_some_and(|host| url.ends_with(&format!("://{host}")))
}

/// A comma list of sites.
pub fn are_origins(text: &str) -> bool {
    text.split(',').all(|item| is_origin(item.trim()))
}

/// As browsers write it (WHATWG URL): in lower case, no default port. Apps have their own schemes,
/// and what follows them may have capitals (Safari's extensions).
pub fn is_page_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return text == "null" };
    let never = [("http", ":80"), ("https", ":443"), ("ftp", ""), ("ws", ""), ("wss", "")];
    let is_never = never.iter().any(|(one, end)| scheme == *one && host.ends_with(end));
    let is_host = host == "." || is_origin(&format!("https://{host}"));
    let lower = if scheme.starts_with("http") { text } else { scheme };
    !is_never && is_host && is_word(scheme) && lower == lower.to_ascii_lowercase()
}

/// One to five that OSS may try in turn.
pub fn are_callback_urls(text: &str) -> bool {
    let decodes = |url: &str| percent_decode(url.as_bytes()).is_some();
    let is_one = |url: &str| !url.contains(['#', '|']) && !url.contains(",http");
    let good = |url: &str| host_of(url).is_some() && is_one(url) && decodes(url);
    text.split(';').count() <= 5 && text.split(';').all(good)
}

/// Of a bucket or a region.
pub fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = text.starts_with('-') || text.ends_with('-');
    (3..=63).contains(&text.len()) && text.bytes().all(plain) && !edge
}

/// Endpoints that are not spelt like their region, whose id V4 signs; empty: they have none.
const REGIONS: [(&str, &str); 6] = [
    ("accelerate", ""),
    ("accelerate-overseas", ""),
    ("rg-china-mainland", ""),
    ("cn-hzfinance", "cn-hangzhou-finance"),
    ("cn-hzjbp", "cn-hangzhou-finance"),
    ("cn-szfinance", "cn-shenzhen-finance-1"),
];

/// Bucket and region that an origin names; a custom domain names neither. None: it is one of OSS
/// that has no valid bucket in front, or it is not in lower case.
pub fn named_by(origin: &str) -> Option<(&str, &str)> {
    let host = host_of(origin)?.split(':').next()?;
    if host != host.to_ascii_lowercase() {
        return None;
    }
    let Some(domain) = host.strip_suffix(".aliyuncs.com") else { return Some(("", "")) };
    let (bucket, endpoint) = domain.split_once('.').filter(|(bucket, _)| is_name(bucket))?;
    let classic = endpoint.strip_prefix("vpc100-").unwrap_or(endpoint).strip_prefix("oss-");
    let region = match classic.or(endpoint.strip_suffix(".oss")) {
        Some(region) if !region.contains('.') => region,
        // Access points and the like.
        _ => return endpoint.contains('.').then_some(("", "")),
    };
    let ends = ["-internal", "-vpc", "-pub", "-a", "-b"];
    let region = ends.iter().fold(region, |name, end| name.strip_suffix(end).unwrap_or(name));
    let other = REGIONS.iter().find(|(name, _)| *name == region);
    let region = other.map_or(region, |(_, region)| region);
    (region.is_empty() || is_name(region)).then_some((bucket, region))
}

/// One token of printable ASCII.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// An access key's id or a role's name.
pub fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
    !text.is_empty() && text.bytes().all(plain) && !text.contains("..")
}

/// An origin that nobody on the way can read: https, or on loopback (for tests).
pub fn is_endpoint(url: &str) -> bool {
    let private = ["https:", "http://127.0.0.1:", "http://localhost:"];
    is_origin(url) && private.iter().any(|start| url.starts_with(start))
}

/// The same, or within Alibaba's network.
pub fn is_private(host: &str) -> bool {
    is_endpoint(host) || host.ends_with("-internal.aliyuncs.com")
}

/// True for an object's key that stays in its folder where it is made a path, of Unix or Windows.
pub fn is_object_key(key: &str) -> bool {
    let is_path = !key.split(['/', '\\']).any(|segment| ["", ".", ".."].contains(&segment));
    is_path && key.len() <= 1023 && !key.contains(char::is_control)
}

/// Nothing that needs an escape in a policy, and no list.
pub fn is_prefix(text: &str) -> bool {
    let is_one = !text.contains("/,") && !text.contains("/;");
    let is_key = is_object_key(text.strip_suffix('/').unwrap_or(text));
    is_one && is_key && text.len() <= 512 && !text.contains(['$', '\\'])
}

/// As browsers give it: in lower case (W3C File API), without parameters. They say image/jpeg. Or
/// all of a kind: `image/*`.
pub fn is_content_type(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#&-^_.+".contains(&b);
    let good = |half: &str| !half.is_empty() && half.bytes().all(plain);
    let (kind, rest) = text.split_once('/').unwrap_or_default();
    good(kind) && (good(rest) || rest == "*") && text != "image/jpg"
}

pub fn is_path(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b);
    let is_whole = text.starts_with('/') && !text.ends_with('/') && !text.contains("//");
    is_whole && text.bytes().all(plain) && text != "/healthz" // which health checks ask for
}

const CALLBACK_VARIABLES: &str = "bucket object etag size mimeType imageInfo.height \
    imageInfo.width imageInfo.format crc64 contentMd5 vpcId clientIp reqId operation";

/// Whether OSS fills in a template: what it does not know it reports as it stands, or empty.
pub fn check_template(text: &str, is_json: bool) -> Result<(), String> {
    for piece in text.replace("%24", "$%").split('$').skip(1) {
        let variable = piece.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let stray = "has a $ that begins no ${variable}, or a percent-encoded one";
        let (name, after) = variable.ok_or(stray)?;
        if is_json && after.starts_with('"') {
            return Err(format!("has ${{{name}}} in quotes; in JSON, OSS quotes values itself"));
        }
        let custom = name.strip_prefix("x:").unwrap_or_default();
        let is_custom = is_word(custom) && custom == custom.to_ascii_lowercase();
        if !is_custom && CALLBACK_VARIABLES.split(' ').all(|known| known != name) {
            let others = "and x:name in lower case for a form field";
            return Err(format!("OSS has no ${{{name}}}, but {CALLBACK_VARIABLES}, {others}"));
        }
    }
    Ok(())
}

/// Length of what two words begin with in common, and of what they end with.
pub fn alike(a: &str, b: &str) -> usize {
    let before = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let after = a.bytes().rev().zip(b.bytes().rev()).take_while(|(x, y)| x == y).count();
    before + after.min(a.len().min(b.len()) - before)
}
