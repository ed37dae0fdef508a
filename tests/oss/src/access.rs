//! Whose request it is. Documents: "PostObject" (V1 and V4), "Include a V4 signature in the
//! Authorization header", "STS", and the EC pages 0002-* and 0003-00000301.

use crate::credentials::{AccessKey, Issued};
use crate::digest::{percent_decode, percent_encode};
use crate::error::OssError;
use crate::http::Head;
use crate::policy::Fields;
use crate::sign::{self, V4_ALGORITHM, V4_REQUEST};
use crate::time::{self, DAY};
use crate::{Options, digest};

/// The clocks of signer and bucket may differ by this much.
const SKEW: u64 = 15 * 60;
/// A V4 signature of a policy holds no longer than this.
const MAX_AGE: u64 = 7 * DAY;

/// Who signed a form, and how.
#[derive(Debug, PartialEq, Eq)]
pub enum Signer {
    V1,
    V4,
}

/// Checks the signature of a form over its field `policy`; what its key may do is left to the
/// caller, who knows the object. Errors: `OssError`, 400 and 403.
pub fn form(
    fields: &Fields,
    options: &Options,
    issued: &[Issued],
    refuse_v1: bool,
    now: u64,
) -> Result<(Signer, AccessKey), OssError> {
    let version = fields.get("x-oss-signature-version");
    let v4 = version.is_some() || fields.get("x-oss-signature").is_some();
    let names = ["policy", "signature", "OSSAccessKeyId", "x-oss-credential"];
    if !v4 && names.iter().all(|name| fields.get(name).is_none()) {
        return Err(anonymous());
    }
    if !v4 && refuse_v1 {
        return Err(OssError::denied("V1 signature is forbidden.").ec("0002-00000080"));
    }
    if v4 && version != Some(V4_ALGORITHM) {
        let error = OssError::argument("Invalid signature version in x-oss-signature-version.");
        return Err(error.ec("0002-00000701"));
    }
    let policy = fields.get("policy").ok_or_else(|| {
        OssError::argument("Bucket POST must contain a field named 'policy'.").ec("0002-00000702")
    })?;
    if policy.is_empty() {
        return Err(OssError::argument("Empty policy.").ec("0006-00000205"));
    }
    let name = if v4 { "x-oss-signature" } else { "Signature" };
    let signature = fields.get(name).ok_or_else(|| {
        OssError::argument(format!("Bucket POST must contain a field named '{name}'."))
            .ec("0002-00000703")
    })?;
    if signature.is_empty() {
        let error = OssError::argument(format!("Empty field '{name}'."));
        return Err(error.ec("0002-00000704"));
    }
    let token = fields.get("x-oss-security-token");
    let (id, date) = if v4 {
        let credential = Credential::parse(fields.get("x-oss-credential").unwrap_or(""), options)?;
        let date = fields.get("x-oss-date").and_then(time::parse_basic);
        let date = date.ok_or_else(|| OssError::argument("Invalid x-oss-date."))?;
        credential.same_day(date)?;
        if date > now + SKEW {
            return Err(skewed());
        }
        if now > date + MAX_AGE {
            return Err(OssError::denied("Request has expired."));
        }
        (credential.id, Some(credential.date))
    } else {
        let id = fields.get("OSSAccessKeyId").ok_or_else(|| {
            OssError::argument("Bucket POST must contain a field named 'OSSAccessKeyId'.")
                .ec("0002-00000706")
        })?;
        if id.is_empty() {
            return Err(OssError::argument("Empty field 'OSSAccessKeyId'.").ec("0002-00000707"));
        }
        (id.to_string(), None)
    };
    let key = known(&id, token, options, issued, now)?;
    let expected = match date {
        Some(date) => sign::v4(&key.secret, &date, &options.region, policy),
        None => sign::post_v1(&key.secret, policy),
    };
    if signature != expected {
        return Err(mismatch(&id, signature, policy).ec("0002-00000705"));
    }
    Ok((if v4 { Signer::V4 } else { Signer::V1 }, key))
}

/// Checks the `Authorization` of a request that reads the object `key`, and whether its holder may
/// read it. Errors: `OssError`, 400 and 403.
pub fn header(
    head: &Head,
    key: &str,
    options: &Options,
    issued: &[Issued],
    now: u64,
) -> Result<(), OssError> {
    let authorization = head.header("authorization").ok_or_else(anonymous)?;
    let malformed = || OssError::argument("Invalid Authorization header.");
    let parameters = authorization.strip_prefix(V4_ALGORITHM).ok_or_else(malformed)?;
    let parameter = |wanted: &str| {
        parameters.split(',').find_map(|parameter| {
            let (name, value) = parameter.trim().split_once('=')?;
            (name == wanted).then_some(value)
        })
    };
    let credential = parameter("Credential").ok_or_else(malformed)?;
    let credential = Credential::parse(credential, options)?;
    let signature = parameter("Signature").ok_or_else(malformed)?;
    let stamp = head.header("x-oss-date").unwrap_or("");
    let date = time::parse_basic(stamp)
        .ok_or_else(|| OssError::denied("OSS authentication requires a valid Date."))?;
    credential.same_day(date)?;
    if date.abs_diff(now) > SKEW {
        return Err(skewed().ec("0002-00000504"));
    }
    let payload = head.header("x-oss-content-sha256");
    let payload = payload.filter(|payload| *payload == "UNSIGNED-PAYLOAD").ok_or_else(|| {
        OssError::argument("Invalid x-oss-content-sha256, it must be UNSIGNED-PAYLOAD.")
    })?;
    let token = head.header("x-oss-security-token");
    let access_key = known(&credential.id, token, options, issued, now)?;
    let request = canonical_request(
        head,
        key,
        options,
        parameter("AdditionalHeaders").unwrap_or(""),
        payload,
    );
    let scope = format!("{}/{}/oss/{V4_REQUEST}", credential.date, options.region);
    let hash = sign::sha256_hex(request.as_bytes());
    let text = format!("{V4_ALGORITHM}\n{stamp}\n{scope}\n{hash}");
    if sign::v4(&access_key.secret, &credential.date, &options.region, &text) != signature {
        let error = mismatch(&credential.id, signature, &text).ec("0002-00000040");
        return Err(error.with("CanonicalRequest", request));
    }
    authorize(&access_key, "oss:GetObject", key, options)
}

/// EC 0003-00000301: whether the policy of a temporary key's session allows the action.
pub fn authorize(
    access_key: &AccessKey,
    action: &str,
    key: &str,
    options: &Options,
) -> Result<(), OssError> {
    let account = options.role_arn.split(':').nth(3).unwrap_or("");
    let resource = format!("acs:oss:oss-{}:{account}:{}/{key}", options.region, options.bucket);
    if access_key.allows(action, &resource) {
        return Ok(());
    }
    Err(OssError::denied("Access denied by authorizer's policy.").ec("0003-00000301"))
}

fn canonical_request(
    head: &Head,
    key: &str,
    options: &Options,
    additional: &str,
    payload: &str,
) -> String {
    let path = percent_encode(&format!("/{}/{key}", options.bucket), b"/");
    let query = head.target.split_once('?').map_or("", |(_, query)| query);
    let recode = |text: &str| {
        percent_encode(&String::from_utf8_lossy(&percent_decode(text.as_bytes())), b"")
    };
    let mut parameters: Vec<String> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| match parameter.split_once('=') {
            Some((name, "")) => recode(name),
            Some((name, value)) => format!("{}={}", recode(name), recode(value)),
            None => recode(parameter),
        })
        .collect();
    parameters.sort();
    let mut additional: Vec<String> =
        additional.split(';').map(|name| name.trim().to_ascii_lowercase()).collect();
    additional.retain(|name| !name.is_empty());
    additional.sort();
    let mut headers: Vec<(String, &str)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .filter(|(name, _)| {
            ["content-type", "content-md5"].contains(&name.as_str())
                || name.starts_with("x-oss-")
                || additional.contains(name)
        })
        .collect();
    headers.sort();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let (method, query, additional) = (&head.method, parameters.join("&"), additional.join(";"));
    format!("{method}\n{path}\n{query}\n{headers}\n{additional}\n{payload}")
}

/// `AKID/YYYYMMDD/REGION/oss/aliyun_v4_request`
struct Credential {
    id: String,
    date: String,
}

impl Credential {
    fn parse(text: &str, options: &Options) -> Result<Credential, OssError> {
        let wrong = |what: &str| OssError::argument(format!("Invalid {what} in x-oss-credential."));
        let parts: Vec<&str> = text.split('/').collect();
        let [id, date, region, product, request] = parts[..] else {
            return Err(wrong("format").ec("0002-00000710"));
        };
        if product != "oss" || request != V4_REQUEST {
            return Err(wrong("signing product or request").ec("0002-00000710"));
        }
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("access key id").ec("0002-00000708"));
        }
        if time::parse_basic(&format!("{date}T000000Z")).is_none() {
            return Err(wrong("signing date").ec("0002-00000709"));
        }
        if region != options.region {
            return Err(wrong("signing region"));
        }
        Ok(Credential { id: id.to_string(), date: date.to_string() })
    }

    fn same_day(&self, date: u64) -> Result<(), OssError> {
        if time::basic(date).starts_with(&self.date) {
            return Ok(());
        }
        let error = OssError::argument("Invalid signing date in x-oss-credential.");
        Err(error.ec("0002-00000709"))
    }
}

/// "STS": a temporary key goes with its token, a permanent one with none.
fn known(
    id: &str,
    token: Option<&str>,
    options: &Options,
    issued: &[Issued],
    now: u64,
) -> Result<AccessKey, OssError> {
    let unknown = || {
        let message = "The OSS Access Key Id you provided does not exist in our records.";
        OssError::new(403, "InvalidAccessKeyId", message).with("OSSAccessKeyId", id)
    };
    let key = AccessKey::find(id, options, issued);
    let key = key.ok_or_else(|| unknown().ec("0002-00000902"))?;
    match (&key.token, token) {
        (None, None) => Ok(key),
        // The real one gives the token away here: what prints an answer may not print all of it.
        (Some(own), Some(token)) if own == token && key.expired(now) => {
            let message = "The security token you provided has expired.";
            let error = OssError::new(403, "SecurityTokenExpired", message).ec("0002-00000007");
            Err(error.with("SecurityToken", token))
        }
        (Some(own), Some(token)) if own == token => Ok(key),
        // Documented under "The OSS Access Key Id you provided does not exist in our records".
        (Some(_), None) => Err(unknown().ec("0002-00000902")),
        (None, Some(_)) => Err(unknown().ec("0002-00000002")),
        (Some(_), Some(_)) => {
            let message = "The security token you provided is invalid.";
            Err(OssError::new(403, "InvalidSecurityToken", message).ec("0002-00000006"))
        }
    }
}

pub fn anonymous() -> OssError {
    OssError::denied("You have no right to access this object because of bucket acl.")
        .ec("0003-00000001")
}

fn skewed() -> OssError {
    let message = "The difference between the request time and the current time is too large.";
    OssError::new(403, "RequestTimeTooSkewed", message)
}

/// Names the signature that came and what it should have covered, never the right signature.
fn mismatch(id: &str, signature: &str, text: &str) -> OssError {
    let message = "The request signature we calculated does not match the signature you provided. \
                   Check your key and signing method.";
    OssError::new(403, "SignatureDoesNotMatch", message)
        .with("OSSAccessKeyId", id)
        .with("SignatureProvided", signature)
        .with("StringToSign", text)
        .with("StringToSignBytes", digest::hex(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the official SDKs' own tests (`signer v4`, Go v2 and others): a PUT by `ak`
    /// with the secret `sk` of `1234+-/123/1.txt` in `bucket`.
    #[test]
    fn headers_that_the_official_sdks_signed() {
        let cases = [
            (
                1_702_743_657,
                None,
                "",
                "e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe",
            ),
            (
                1_702_784_856,
                Some("token"),
                "",
                "b94a3f999cf85bcdc00d332fbd3734ba03e48382c36fa4d5af5df817395bd9ea",
            ),
            (
                1_702_747_512,
                None,
                "AdditionalHeaders=abc;zabc,",
                "4a4183c187c07c8947db7620deb0a6b38d9fbdd34187b6dbaccb316fa251212f",
            ),
        ];
        for (now, token, additional, signature) in cases {
            let stamp = time::basic(now);
            let day = &stamp[..8];
            let authorization = format!(
                "OSS4-HMAC-SHA256 Credential=ak/{day}/cn-hangzhou/oss/aliyun_v4_request,\
                 {additional}Signature={signature}"
            );
            let mut headers = vec![
                ("x-oss-head1", "value"),
                ("abc", "value"),
                ("ZAbc", "value"),
                ("XYZ", "value"),
                ("Content-Type", "text/plain"),
                ("x-oss-content-sha256", "UNSIGNED-PAYLOAD"),
                ("x-oss-date", &stamp),
                ("Authorization", &authorization),
            ];
            headers.extend(token.map(|token| ("x-oss-security-token", token)));
            let own = |(name, value): (&str, &str)| (name.to_string(), value.to_string());
            let head = Head {
                method: "PUT".to_string(),
                target:
                    "/1234+-/123/1.txt?param1=value1&%2Bparam1=value3&%7Cparam1=value4&%2Bparam2=\
                         &%7Cparam2&param2"
                        .to_string(),
                headers: headers.into_iter().map(own).collect(),
                close: false,
            };
            let options = Options {
                bucket: "bucket".to_string(),
                access_key_id: "ak".to_string(),
                access_key_secret: "sk".to_string(),
                security_token: token.map(str::to_string),
                ..Options::default()
            };
            assert_eq!(
                header(&head, "1234+-/123/1.txt", &options, &[], now),
                Ok(()),
                "{signature}"
            );
            let other = header(&head, "1234+-/123/2.txt", &options, &[], now).unwrap_err();
            assert_eq!((other.status, other.code.as_str()), (403, "SignatureDoesNotMatch"));
            let late = header(&head, "1234+-/123/1.txt", &options, &[], now + 901).unwrap_err();
            assert_eq!((late.status, late.code.as_str()), (403, "RequestTimeTooSkewed"));
        }
    }
}
