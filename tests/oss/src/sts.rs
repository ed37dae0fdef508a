//! STS: AssumeRole, on a port of its own. Documents: "AssumeRole" (version 2015-04-01), "Request
//! syntax and signature method V2 for RPC APIs", "Common error codes" of the API gateway. The
//! order of the checks is not documented; no test shall depend on it. Answers in JSON only.

use std::io::{self, Read};
use std::net::TcpStream;

use serde_json::json;

use crate::credentials::{self, AccessKey, Source};
use crate::error::OssError;
use crate::http::{Body, Head, Reply};
use crate::session::SessionPolicy;
use crate::{CredentialFault, Shared, sign, time};

/// "Common parameters": caller and server may differ by this much.
const SKEW: u64 = 15 * 60;
/// "AssumeRole", Policy: 2,048 characters; its error speaks of bytes. It was 1,024 for years.
const MAX_POLICY_BYTES: usize = 2048;
/// Far more than a policy needs.
const MAX_BODY_BYTES: u64 = 64 << 10;

/// What every RPC request carries.
const COMMON: &str = "Action Version AccessKeyId SignatureMethod SignatureVersion SignatureNonce \
                      Timestamp Signature";

fn parameter(name: &str, message: impl Into<String>) -> OssError {
    OssError::new(400, &format!("InvalidParameter.{name}"), message)
}

fn unknown_api() -> OssError {
    let message = "Specified api is not found, please check your url and method.";
    OssError::new(404, "InvalidAction.NotFound", message)
}

pub fn answer(shared: &Shared, stream: &TcpStream, head: &Head) -> io::Result<Option<Reply>> {
    let Some(fault) = shared.credential_fault(|faults| &faults.sts) else { return Ok(None) };
    let length = head.header("content-length").unwrap_or("0").parse::<u64>();
    let length = length.ok().filter(|length| *length <= MAX_BODY_BYTES);
    let length = length.filter(|_| head.header("transfer-encoding").is_none());
    let Some(length) = length else {
        let message = "A short body with a length is needed.";
        let error = OssError::new(411, "MissingContentLength", message);
        return Ok(Some(Reply { close: true, ..error_reply(shared, &error) }));
    };
    let mut body = Vec::new();
    Body::new(stream, head)?.read_to_end(&mut body)?;
    if (body.len() as u64) < length {
        return Ok(None);
    }
    let result = match fault {
        CredentialFault::Status(status, code) => {
            Err(OssError::new(status, &code, "Broken on purpose."))
        }
        CredentialFault::Body(text) => Ok(Reply::new(200).body(JSON, text)),
        fault => params(head, &body).and_then(|params| {
            let call = Call { shared, method: &head.method, params };
            call.assume_role(fault == CredentialFault::Expired)
        }),
    };
    Ok(Some(result.unwrap_or_else(|error| error_reply(shared, &error))))
}

const JSON: &str = "application/json;charset=utf-8";

/// Of the query, and of the form that a POST brings.
fn params(head: &Head, body: &[u8]) -> Result<Vec<(String, String)>, OssError> {
    let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
    if path != "/" {
        return Err(unknown_api());
    }
    let mut params: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    match head.method.as_str() {
        "GET" => {}
        "POST" => {
            let kind = head.header("content-type").unwrap_or("");
            let kind = kind.split(';').next().unwrap_or("").trim();
            if !body.is_empty() && kind != "application/x-www-form-urlencoded" {
                let message = "The ContentType request header must be either \"application/json\" \
                               or \"application/x-www-form-urlencoded\".";
                return Err(parameter("ContentType", message));
            }
            params.extend(form_urlencoded::parse(body).into_owned());
        }
        _ => {
            let message = "This http method is not supported.";
            return Err(OssError::new(400, "UnsupportedHTTPMethod", message));
        }
    }
    for (at, (name, _)) in params.iter().enumerate() {
        if params[..at].iter().any(|(known, _)| known == name) {
            // Which of the two would count is not documented: no test shall depend on it.
            return Err(OssError::new(400, "InvalidParameter", format!("{name} is given twice.")));
        }
    }
    Ok(params)
}

struct Call<'a> {
    shared: &'a Shared,
    method: &'a str,
    params: Vec<(String, String)>,
}

impl Call<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        let mut params = self.params.iter();
        params.find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn assume_role(self, expired: bool) -> Result<Reply, OssError> {
        let (shared, value) = (self.shared, |name: &str| self.value(name));
        let key = self.caller()?;
        let wrong = |name| parameter(name, format!("The parameter {name} is wrongly formed."));
        let role_arn = &shared.options.role_arn;
        let arn = value("RoleArn").ok_or_else(|| wrong("RoleArn"))?;
        let account = account(arn).ok_or_else(|| wrong("RoleArn"))?;
        let session = value("RoleSessionName").unwrap_or("");
        let sign = |byte: u8| byte.is_ascii_alphanumeric() || b".@-_".contains(&byte);
        if !(2..=64).contains(&session.len()) || !session.bytes().all(sign) {
            return Err(wrong("RoleSessionName"));
        }
        let seconds = value("DurationSeconds").map_or(Some(3600), |text| text.parse::<u64>().ok());
        let range = 900..=shared.options.max_session_seconds;
        let Some(seconds) = seconds.filter(|seconds| range.contains(seconds)) else {
            let message = "The Min/Max value of DurationSeconds is 15min/1hr.";
            return Err(parameter("DurationSeconds", message));
        };
        let policy = value("Policy").map(str::to_string);
        if let Some(policy) = &policy {
            if policy.len() > MAX_POLICY_BYTES {
                let message =
                    format!("The size of Policy must be smaller than {MAX_POLICY_BYTES} bytes.");
                return Err(parameter("PolicySize", message));
            }
            if SessionPolicy::parse(policy).is_none() {
                let message = "The parameter Policy has not passed grammar check.";
                return Err(parameter("PolicyGrammar", message));
            }
        }
        let own = role_arn.starts_with(&format!("acs:ram::{account}:"));
        if own && arn != role_arn {
            let message = "The specified Role not exists .";
            return Err(OssError::new(404, "EntityNotExist.Role", message));
        }
        if !own || !key.allows("sts:AssumeRole", role_arn) {
            let message =
                "You are not authorized to do this action. You should be authorized by RAM.";
            return Err(OssError::new(403, "NoPermission", message));
        }
        let user = json!({
            "AssumedRoleId": format!("300000000000000001:{session}"),
            "Arn": format!("{role_arn}/{session}"),
        });
        let issued = credentials::issue(shared, Source::Sts, policy, self.params, seconds, expired);
        let answer = json!({
            "RequestId": credentials::guid(),
            "AssumedRoleUser": user,
            "Credentials": {
                "SecurityToken": issued.security_token,
                "Expiration": time::extended(issued.expire),
                "AccessKeySecret": issued.access_key_secret,
                "AccessKeyId": issued.access_key_id,
            },
        });
        Ok(Reply::new(200).body(JSON, answer.to_string()))
    }

    /// What the API gateway checks in front of every service: form, age, caller, signature, replay.
    fn caller(&self) -> Result<AccessKey, OssError> {
        let (shared, value) = (self.shared, |name: &str| self.value(name).unwrap_or(""));
        let refused = |code: &str, message: &str| Err(OssError::new(400, code, message));
        // The real one answers XML where no format is given, which nothing here reads.
        if !value("Format").eq_ignore_ascii_case("json") {
            let message = "Specified parameter Format is not valid, this one answers in JSON only.";
            return Err(parameter("Format", message));
        }
        let mandatory = |name: &str| {
            refused(&format!("Missing{name}"), &format!("{name} is mandatory for this action."))
        };
        if let Some(name) = COMMON.split(' ').find(|name| value(name).is_empty()) {
            return mandatory(name);
        }
        let fixed = [
            ("Version", "2015-04-01"),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureVersion", "1.0"),
        ];
        if let Some((name, _)) = fixed.into_iter().find(|(name, known)| value(name) != *known) {
            let message = format!("Specified parameter {name} is not valid.");
            return refused(&format!("Invalid{name}"), &message);
        }
        if value("Action") != "AssumeRole" {
            return Err(unknown_api());
        }
        let stamp = value("Timestamp");
        let Some(stamp) = time::parse_extended(stamp).filter(|_| stamp.len() == 20) else {
            let message = "Specified time stamp or date value is not well formatted.";
            return refused("InvalidTimeStamp.Format", message);
        };
        let now = shared.now();
        if stamp.abs_diff(now) > SKEW {
            let message = "Specified time stamp or date value is expired.";
            return refused("InvalidTimeStamp.Expired", message);
        }
        let key = AccessKey::find(shared, value("AccessKeyId"));
        let missing = "Specified access key is not found.";
        let key = key.ok_or(OssError::new(404, "InvalidAccessKeyId.NotFound", missing))?;
        match (key.token.as_deref().unwrap_or(""), value("SecurityToken")) {
            (own, "") if !own.is_empty() => return mandatory("SecurityToken"),
            (own, given) if own != given => {
                let message = "Specified SecurityToken is not matched with the AccessKey.";
                return refused("InvalidSecurityToken.MismatchWithAccessKey", message);
            }
            _ if key.expired(now) => {
                let message = "Specified SecurityToken is expired.";
                return refused("InvalidSecurityToken.Expired", message);
            }
            _ => {}
        }
        let text = sign::rpc_string_to_sign(self.method, &self.params);
        if sign::rpc(&key.secret, &text) != value("Signature") {
            let message = "Specified signature is not matched with our calculation.";
            let message = format!("{message} server string to sign is:{text}");
            return refused("SignatureDoesNotMatch", &message);
        }
        // Only now: nobody else can use up the nonce of a caller.
        if !shared.state().nonces.insert(value("SignatureNonce").to_string()) {
            let message = "Specified signature nonce was used already.";
            return refused("SignatureNonceUsed", message);
        }
        Ok(key)
    }
}

/// The account of `acs:ram::ACCOUNT:role/ROLE`, digits.
fn account(arn: &str) -> Option<&str> {
    let (account, role) = arn.strip_prefix("acs:ram::")?.split_once(":role/")?;
    let digits = !account.is_empty() && account.bytes().all(|byte| byte.is_ascii_digit());
    (digits && !role.is_empty()).then_some(account)
}

fn error_reply(shared: &Shared, error: &OssError) -> Reply {
    let OssError { status, code, message, .. } = error;
    shared.say(format_args!("sts refused: {status} {code}"));
    let id = credentials::guid();
    let recommend =
        format!("https://api.aliyun.com/troubleshoot?q={code}&product=Sts&requestId={id}");
    let answer = json!({
        "RequestId": id,
        "HostId": format!("sts.{}.aliyuncs.com", shared.options.region),
        "Code": code,
        "Message": message,
        "Recommend": recommend,
    });
    Reply::new(*status).body(JSON, answer.to_string())
}
