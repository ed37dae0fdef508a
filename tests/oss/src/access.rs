//! Whose request it is. Documents: "PostObject" (V1 and V4), "Include a V4 signature in the
//! Authorization header", "STS", and the EC pages 0002-* and 0003-00000301.

use crate::credentials::AccessKey;
use crate::digest::{percent_decode, percent_encode, percent_encode_path};
use crate::error::OssError;
use crate::http::{self, Head, Pairs};
use crate::sign::{self, V4_ALGORITHM, V4_REQUEST};
use crate::time::{self, DAY};
use crate::{Options, Shared, digest};

/// The clocks of signer and bucket may differ by this much.
const SKEW: u64 = 15 * 60;
/// A V4 signature of a policy holds no longer than this.
const MAX_AGE: u64 = 7 * DAY;
/// The only `x-oss-content-sha256` that is taken.
const PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// Checks the signature of a form over its field `policy`; what its key may do is left to the
/// caller, who knows the object. Whether it is a V4 signature, and the key.
pub fn form(shared: &Shared, fields: Pairs) -> Result<(bool, AccessKey), OssError> {
    let get = |name: &str| http::header(fields, name);
    let now = shared.now();
    let version = get("x-oss-signature-version");
    let v4 = version.is_some() || get("x-oss-signature").is_some();
    let names = ["policy", "signature", "OSSAccessKeyId", "x-oss-credential"];
    if !v4 && names.iter().all(|name| get(name).is_none()) {
        return Err(anonymous());
    }
    if !v4 && shared.faults().refuse_v1 {
        return Err(OssError::denied("0002-00000080", "V1 signature is forbidden."));
    }
    if v4 && version != Some(V4_ALGORITHM) {
        let message = "Invalid signature version in x-oss-signature-version.";
        return Err(OssError::argument("0002-00000701", message));
    }
    // Of the two EC numbers one is for a field that is missing, one for an empty one.
    let needed = |name: &str, missing, empty| match get(name) {
        None => {
            let message = format!("Bucket POST must contain a field named '{name}'.");
            Err(OssError::argument(missing, message))
        }
        Some("") => Err(OssError::argument(empty, format!("Empty field '{name}'."))),
        Some(value) => Ok(value),
    };
    let policy = needed("policy", "0002-00000702", "0006-00000205")?;
    let name = if v4 { "x-oss-signature" } else { "Signature" };
    let signature = needed(name, "0002-00000703", "0002-00000704")?;
    let (id, date) = if v4 {
        let credential = get("x-oss-credential").unwrap_or("");
        let credential = Credential::parse(credential, &shared.options)?;
        let date = get("x-oss-date").and_then(time::parse_basic);
        let date = date.ok_or(OssError::argument("", "Invalid x-oss-date."))?;
        credential.same_day(date)?;
        if date > now + SKEW {
            return Err(skewed());
        }
        if now > date + MAX_AGE {
            return Err(OssError::denied("", "Request has expired."));
        }
        (credential.id, Some(credential.date))
    } else {
        let id = needed("OSSAccessKeyId", "0002-00000706", "0002-00000707")?;
        (id.to_string(), None)
    };
    let key = known(shared, &id, get("x-oss-security-token"))?;
    let expected = match date {
        Some(date) => sign::v4(&key.secret, &date, &shared.options.region, policy),
        None => sign::post_v1(&key.secret, policy),
    };
    if signature != expected {
        return Err(mismatch(&id, signature, policy).ec("0002-00000705"));
    }
    Ok((v4, key))
}

/// Checks the `Authorization` of a request that reads the object `key`, and whether its holder may
/// read it.
pub fn header(shared: &Shared, head: &Head, key: &str) -> Result<(), OssError> {
    let region = &shared.options.region;
    let authorization = head.header("authorization").ok_or_else(anonymous)?;
    let malformed = || OssError::argument("", "Invalid Authorization header.");
    let parameters = authorization.strip_prefix(V4_ALGORITHM).ok_or_else(malformed)?;
    let parameter = |wanted: &str| {
        parameters.split(',').find_map(|parameter| {
            let (name, value) = parameter.trim().split_once('=')?;
            (name == wanted).then_some(value)
        })
    };
    let credential = parameter("Credential").ok_or_else(malformed)?;
    let credential = Credential::parse(credential, &shared.options)?;
    let signature = parameter("Signature").ok_or_else(malformed)?;
    let stamp = head.header("x-oss-date").unwrap_or("");
    let no_date = OssError::denied("", "OSS authentication requires a valid Date.");
    let date = time::parse_basic(stamp).ok_or(no_date)?;
    credential.same_day(date)?;
    if date.abs_diff(shared.now()) > SKEW {
        return Err(skewed().ec("0002-00000504"));
    }
    if head.header("x-oss-content-sha256") != Some(PAYLOAD) {
        let message = "Invalid x-oss-content-sha256, it must be UNSIGNED-PAYLOAD.";
        return Err(OssError::argument("", message));
    }
    let access_key = known(shared, &credential.id, head.header("x-oss-security-token"))?;
    let additional = parameter("AdditionalHeaders").unwrap_or("");
    let request = canonical_request(head, key, &shared.options.bucket, additional);
    let scope = format!("{}/{region}/oss/{V4_REQUEST}", credential.date);
    let hash = sign::sha256_hex(request.as_bytes());
    let text = format!("{V4_ALGORITHM}\n{stamp}\n{scope}\n{hash}");
    if sign::v4(&access_key.secret, &credential.date, region, &text) != signature {
        let error = mismatch(&credential.id, signature, &text).ec("0002-00000040");
        return Err(error.with("CanonicalRequest", request));
    }
    authorize(shared, &access_key, "oss:GetObject", key)
}

/// EC 0003-00000301: whether the policy of a temporary key's session allows the action.
pub fn authorize(
    shared: &Shared,
    access_key: &AccessKey,
    action: &str,
    key: &str,
) -> Result<(), OssError> {
    let Options { role_arn, region, bucket, .. } = &shared.options;
    let account = role_arn.split(':').nth(3).unwrap_or("");
    if access_key.allows(action, &format!("acs:oss:oss-{region}:{account}:{bucket}/{key}")) {
        return Ok(());
    }
    Err(OssError::denied("0003-00000301", "Access denied by authorizer's policy."))
}

fn canonical_request(head: &Head, key: &str, bucket: &str, additional: &str) -> String {
    let path = percent_encode_path(&format!("/{bucket}/{key}"));
    let query = head.target.split_once('?').map_or("", |(_, query)| query);
    let recode = |text: &str| percent_encode(&String::from_utf8_lossy(&percent_decode(text)));
    let mut parameters = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let equals = if value.is_empty() { "" } else { "=" };
        parameters.push(format!("{}{equals}{}", recode(name), recode(value)));
    }
    parameters.sort();
    let mut additional: Vec<String> =
        additional.split(';').map(|name| name.trim().to_ascii_lowercase()).collect();
    additional.retain(|name| !name.is_empty());
    additional.sort();
    let mut headers: Vec<(String, &str)> = Vec::new();
    for (name, value) in &head.headers {
        let name = name.to_ascii_lowercase();
        let signed = name == "content-type" || name == "content-md5" || name.starts_with("x-oss-");
        if signed || additional.contains(&name) {
            headers.push((name, value.trim()));
        }
    }
    headers.sort();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let (method, query, additional) = (&head.method, parameters.join("&"), additional.join(";"));
    format!("{method}\n{path}\n{query}\n{headers}\n{additional}\n{PAYLOAD}")
}

/// `AKID/YYYYMMDD/REGION/oss/aliyun_v4_request`
struct Credential {
    id: String,
    date: String,
}

impl Credential {
    fn parse(text: &str, options: &Options) -> Result<Credential, OssError> {
        let wrong = |ec, what: &str| {
            Err(OssError::argument(ec, format!("Invalid {what} in x-oss-credential.")))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let [id, date, region, product, request] = parts[..] else {
            return wrong("0002-00000710", "format");
        };
        if product != "oss" || request != V4_REQUEST {
            return wrong("0002-00000710", "signing product or request");
        }
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("0002-00000708", "access key id");
        }
        if time::parse_basic(&format!("{date}T000000Z")).is_none() {
            return wrong("0002-00000709", "signing date");
        }
        if region != options.region {
            return wrong("", "signing region");
        }
        Ok(Credential { id: id.to_string(), date: date.to_string() })
    }

    fn same_day(&self, date: u64) -> Result<(), OssError> {
        if time::basic(date).starts_with(&self.date) {
            return Ok(());
        }
        Err(OssError::argument("0002-00000709", "Invalid signing date in x-oss-credential."))
    }
}

/// "STS": a temporary key goes with its token, a permanent one with none.
fn known(shared: &Shared, id: &str, token: Option<&str>) -> Result<AccessKey, OssError> {
    let unknown = |ec| {
        let message = "The OSS Access Key Id you provided does not exist in our records.";
        OssError::new(403, "InvalidAccessKeyId", message).ec(ec).with("OSSAccessKeyId", id)
    };
    let key = AccessKey::find(shared, id).ok_or_else(|| unknown("0002-00000902"))?;
    match (&key.token, token) {
        (None, None) => Ok(key),
        // The real one gives the token away here: what prints an answer may not print all of it.
        (Some(own), Some(token)) if own == token && key.expired(shared.now()) => {
            let message = "The security token you provided has expired.";
            let error = OssError::new(403, "SecurityTokenExpired", message).ec("0002-00000007");
            Err(error.with("SecurityToken", token))
        }
        (Some(own), Some(token)) if own == token => Ok(key),
        // Documented under "The OSS Access Key Id you provided does not exist in our records".
        (Some(_), None) => Err(unknown("0002-00000902")),
        (None, Some(_)) => Err(unknown("0002-00000002")),
        (Some(_), Some(_)) => {
            let message = "The security token you provided is invalid.";
            Err(OssError::new(403, "InvalidSecurityToken", message).ec("0002-00000006"))
        }
    }
}

fn anonymous() -> OssError {
    let message = "You have no right to access this object because of bucket acl.";
    OssError::denied("0003-00000001", message)
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
        let target = "/1234+-/123/1.txt?param1=value1&%2Bparam1=value3&%7Cparam1=value4&%2Bparam2=\
                      &%7Cparam2&param2";
        let plain = "e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe";
        let with_token = "b94a3f999cf85bcdc00d332fbd3734ba03e48382c36fa4d5af5df817395bd9ea";
        let with_more = "4a4183c187c07c8947db7620deb0a6b38d9fbdd34187b6dbaccb316fa251212f";
        for (now, token, additional, signature) in [
            (1_702_743_657, None, "", plain),
            (1_702_784_856, Some("token"), "", with_token),
            (1_702_747_512, None, "AdditionalHeaders=abc;zabc,", with_more),
        ] {
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
            let headers = headers.into_iter().map(own).collect();
            let (method, target) = ("PUT".to_string(), target.to_string());
            let head = Head { method, target, headers, close: false };
            let shared = Shared::new(Options {
                bucket: "bucket".to_string(),
                access_key_id: "ak".to_string(),
                access_key_secret: "sk".to_string(),
                security_token: token.map(str::to_string),
                ..Options::default()
            });
            for (late, key, code) in [
                (0, "1234+-/123/1.txt", None),
                (0, "1234+-/123/2.txt", Some("SignatureDoesNotMatch")),
                (901, "1234+-/123/1.txt", Some("RequestTimeTooSkewed")),
            ] {
                shared.state().clock = Some(now + late);
                let error = header(&shared, &head, key).err().map(|e| (e.status, e.code));
                assert_eq!(error, code.map(|code| (403, code.to_string())), "{signature}");
            }
        }
    }
}
