//! Names that a request may use: the `Host` of the bucket, keys of objects, addresses of callbacks.
//! Documents: "OSS domain names", "Map custom domain names", "Object naming conventions" and the
//! EC pages 0003-00001403, 0007-00000008, 0015-00000101, 0016-*.

use std::net::{IpAddr, Ipv4Addr};

use crate::Options;
use crate::callback::Url;
use crate::error::OssError;
use crate::http::Head;

/// "Object naming conventions": 1 to 1,023 bytes.
const MAX_KEY_BYTES: usize = 1023;

/// Whether the request names this bucket: by a public, internal, dual-stack or acceleration
/// endpoint, by a custom domain, or by an address of this machine, which counts as one. As real
/// buckets do it, whatever the port.
pub fn check_host(head: &Head, options: &Options) -> Result<(), OssError> {
    let mut hosts = head.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("host"));
    let (Some((_, host)), None) = (hosts.next(), hosts.next()) else {
        // RFC 9112, 3.2
        return Err(OssError::new(400, "BadRequest", "One Host header is needed."));
    };
    let host = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name).to_ascii_lowercase();
    let (bucket, region) = (&options.bucket, &options.region);
    let own = |ip: Ipv4Addr| ip == options.ip || options.ip.is_unspecified();
    let is_local = host == "localhost" || host.parse().is_ok_and(own);
    if is_local || options.domains.iter().any(|domain| domain.eq_ignore_ascii_case(&host)) {
        return Ok(());
    }
    let endpoints = [
        format!("oss-{region}"),
        format!("oss-{region}-internal"),
        format!("{region}.oss"),
        "oss-accelerate".to_string(),
        "oss-accelerate-overseas".to_string(),
    ];
    let missing = |name: &str| {
        let error = OssError::new(404, "NoSuchBucket", "The specified bucket does not exist.");
        Err(error.ec("0015-00000101").with("BucketName", name))
    };
    let Some(name) = host.strip_suffix(".aliyuncs.com") else { return missing(&host) };
    let Some((first, endpoint)) = name.split_once('.').filter(|(_, rest)| *rest != "oss") else {
        let message = "The bucket you are attempting to access must be addressed using OSS third \
                       level domain.";
        return Err(OssError::new(403, "SecondLevelDomainForbidden", message));
    };
    if first != bucket {
        return missing(first);
    }
    if endpoints.iter().any(|known| known == endpoint) {
        return Ok(());
    }
    let message = "The bucket you are attempting to access must be addressed using the specified \
                   endpoint. Please send all future requests to this endpoint.";
    let endpoint = format!("oss-{region}.aliyuncs.com");
    Err(OssError::denied("0003-00001403", message).with("Endpoint", endpoint))
}

pub fn check_key(key: &str) -> Result<(), OssError> {
    match key {
        "" => Err(invalid_key("0016-00000001", "The Object name can not be empty.")),
        key if key.len() > MAX_KEY_BYTES => {
            let message = "The Length of Object name must be less than 1024.";
            Err(invalid_key("0016-00000002", message))
        }
        key if key.starts_with(['/', '\\']) => {
            Err(invalid_key("0016-00000005", "The specified object is not valid."))
        }
        _ => Ok(()),
    }
}

/// A key that is not UTF-8.
pub fn foreign_key() -> OssError {
    invalid_key("0016-00000002", "The specified object is not valid.")
}

fn invalid_key(ec: &'static str, message: &str) -> OssError {
    OssError::new(400, "InvalidObjectName", message).ec(ec)
}

/// EC 0007-00000008. Whether one private address among public ones is refused too is not
/// documented: no test shall depend on it.
pub fn check_callback(urls: &[Url]) -> Result<(), OssError> {
    let Some(url) = urls.iter().find(|url| is_private(&url.host)) else { return Ok(()) };
    let message = "Private address is forbidden to callback.";
    let error = OssError::argument("0007-00000008", message);
    Err(error.with("ArgumentName", "callbackUrl").with("ArgumentValue", &url.text))
}

/// Other names are not resolved here: the real one refuses those that lead to such an address.
fn is_private(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(ip)) => {
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified()
        }
        Ok(IpAddr::V6(_)) => true,
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}
