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
    let Some(url) = urls.iter().find(|url| is_private(url.host())) else { return Ok(()) };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn host(hosts: &[&str]) -> Result<(), (u16, String)> {
        let options =
            Options { domains: vec!["files.example.com".to_string()], ..Options::default() };
        let headers = hosts.iter().map(|host| ("Host".to_string(), host.to_string())).collect();
        let (method, target) = ("GET".to_string(), "/a".to_string());
        let head = Head { method, target, headers, close: false };
        check_host(&head, &options).map_err(|error| (error.status, error.code))
    }

    #[test]
    fn hosts_that_are_the_buckets_and_hosts_that_are_not() {
        for good in [
            "examplebucket.oss-cn-hangzhou.aliyuncs.com",
            "ExampleBucket.oss-cn-hangzhou.aliyuncs.com:443",
            "examplebucket.oss-cn-hangzhou-internal.aliyuncs.com",
            "examplebucket.cn-hangzhou.oss.aliyuncs.com",
            "examplebucket.oss-accelerate.aliyuncs.com",
            "files.example.com",
            "files.example.com:8080",
            "127.0.0.1:9000",
            "localhost",
        ] {
            assert_eq!(host(&[good]), Ok(()), "{good}");
        }
        for (bad, status, code) in [
            ("oss-cn-hangzhou.aliyuncs.com", 403, "SecondLevelDomainForbidden"),
            ("cn-hangzhou.oss.aliyuncs.com", 403, "SecondLevelDomainForbidden"),
            ("examplebucket.oss-cn-beijing.aliyuncs.com", 403, "AccessDenied"),
            ("examplebucket.cn-beijing.oss.aliyuncs.com", 403, "AccessDenied"),
            ("other.oss-cn-hangzhou.aliyuncs.com", 404, "NoSuchBucket"),
            ("a.examplebucket.oss-cn-hangzhou.aliyuncs.com", 404, "NoSuchBucket"),
            ("examplebucket.oss-cn-hangzhou.aliyuncs.com.evil.example", 404, "NoSuchBucket"),
            ("www.example.com", 404, "NoSuchBucket"),
            ("127.0.0.2", 404, "NoSuchBucket"),
            ("", 404, "NoSuchBucket"),
        ] {
            assert_eq!(host(&[bad]), Err((status, code.to_string())), "{bad}");
        }
        let bad_request = Err((400, "BadRequest".to_string()));
        assert_eq!(host(&[]), bad_request);
        assert_eq!(host(&["localhost", "localhost"]), bad_request);
    }

    #[test]
    fn keys_of_the_document() {
        let ec = |key: &str| check_key(key).err().map_or("", |error| error.ec);
        for good in ["a", "图片/ü.png", "a//b/", "a\\b", " ", &"k".repeat(1023)] {
            assert_eq!(ec(good), "", "{good}");
        }
        // 1,024 bytes, 512 characters
        assert_eq!(ec(&"ü".repeat(512)), "0016-00000002");
    }

    #[test]
    fn callbacks_to_private_addresses() {
        let refused = |list: &str| {
            let urls: Vec<Url> = list.split(';').map(|url| Url::parse(url).unwrap()).collect();
            check_callback(&urls).is_err()
        };
        for private in [
            "http://127.0.0.1:8088/test.php",
            "127.1.2.3",
            "https://10.0.0.1/",
            "http://172.16.0.1/",
            "http://172.31.255.255/",
            "http://192.168.1.1/",
            "http://169.254.1.1/",
            "http://0.0.0.0/",
            "http://LocalHost:1/",
        ] {
            assert!(refused(private), "{private}");
        }
        for public in ["http://121.101.166.30/", "http://172.32.0.1/", "https://a.example/x"] {
            assert!(!refused(public), "{public}");
        }
    }
}
