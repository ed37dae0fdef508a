//! CORS: the rules of the bucket, preflight requests, and what other responses carry. Documents:
//! "PutBucketCors", "OptionObject" and "CORS".

use crate::error::OssError;
use crate::http::{Head, Reply};

/// One rule. Names of headers are compared in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsRule {
    /// `*`, or `https://www.example.com`; one `*` may stand within, `https://*.example.com`.
    pub origins: Vec<String>,
    /// of GET, PUT, DELETE, POST and HEAD
    pub methods: Vec<String>,
    /// What a preflight may ask for; each may hold one `*`.
    pub headers: Vec<String>,
    /// What scripts may read of a response.
    pub expose: Vec<String>,
    pub max_age_seconds: Option<u32>,
}

impl CorsRule {
    /// What a page needs that uploads by PostObject and reads the response.
    pub fn uploads_from(origin: &str) -> CorsRule {
        let own = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        CorsRule {
            origins: own(&[origin]),
            methods: own(&["POST"]),
            headers: own(&["*"]),
            expose: own(&["ETag", "x-oss-request-id"]),
            max_age_seconds: Some(600),
        }
    }

    fn fits(&self, origin: &str, method: &str) -> bool {
        let origin = self.origins.iter().any(|pattern| matches(pattern, origin));
        origin && self.methods.iter().any(|known| known == method)
    }

    fn permits(&self, header: &str) -> bool {
        let header = header.to_ascii_lowercase();
        self.headers.iter().any(|pattern| matches(&pattern.to_ascii_lowercase(), &header))
    }

    /// The headers that every response to a fitting request has.
    fn describe(&self, origin: &str, mut reply: Reply) -> Reply {
        let any = self.origins.iter().any(|pattern| pattern == "*");
        reply = reply
            .header("Access-Control-Allow-Origin", if any { "*" } else { origin })
            .header("Access-Control-Allow-Methods", self.methods.join(", "));
        if !self.expose.is_empty() {
            reply = reply.header("Access-Control-Expose-Headers", self.expose.join(", "));
        }
        if let Some(seconds) = self.max_age_seconds {
            reply = reply.header("Access-Control-Max-Age", seconds);
        }
        if any { reply } else { reply.header("Vary", "Origin") }
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == text };
    text.strip_prefix(before).is_some_and(|rest| rest.ends_with(after))
}

/// A response to anything but a preflight, with what the first rule that fits adds to it.
pub fn finish(rules: &[CorsRule], head: &Head, reply: Reply) -> Reply {
    // The response to a preflight has them already.
    let origin = head.header("origin").filter(|_| head.method != "OPTIONS");
    let Some(origin) = origin else { return reply };
    match rules.iter().find(|rule| rule.fits(origin, &head.method)) {
        Some(rule) => rule.describe(origin, reply),
        None => reply,
    }
}

/// "OptionObject": 200 with the first rule that fits, or 403 where none does.
pub fn preflight(rules: &[CorsRule], head: &Head) -> Result<Reply, OssError> {
    let missing = |what: &str| {
        let message = format!("Insufficient information. {what} header needed.");
        OssError::new(400, "BadRequest", message)
    };
    let origin = head.header("origin").ok_or_else(|| missing("Origin request"))?;
    let method = head.header("access-control-request-method");
    let method = method.ok_or_else(|| missing("Request Access-Control-Request-Method"))?;
    let wanted = head.header("access-control-request-headers");
    let mut names = wanted.unwrap_or("").split(',').map(str::trim).filter(|name| !name.is_empty());
    let rule = rules
        .iter()
        .find(|rule| rule.fits(origin, method) && names.clone().all(|name| rule.permits(name)));
    let message = "CORSResponse: This CORS request is not allowed. This is usually because the \
                   evalution of Origin, request method / Access-Control-Request-Method or \
                   Access-Control-Requet-Headers are not whitelisted by the resource's CORS spec.";
    let rule = rule.ok_or(OssError::new(403, "AccessForbidden", message))?;
    let reply = rule.describe(origin, Reply::new(200));
    Ok(match wanted {
        Some(wanted) if names.next().is_some() => {
            reply.header("Access-Control-Allow-Headers", wanted)
        }
        _ => reply,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_star_stands_for_anything() {
        for (pattern, text, fits) in [
            ("*", "null", true),
            ("https://*.example.com", "https://a.b.example.com", true),
            ("x-oss-*", "x-oss-", true),
            ("a", "a", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "http://a.example.com", false),
            ("aa*aa", "aaa", false),
            ("a", "ab", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
