//! STS: AssumeRole, on a port of its own. Documents: "AssumeRole" (version 2015-04-01), "Request
//! syntax and signature method V2 for RPC APIs", "Common error codes" of the API gateway. The
//! order of the checks is not documented; no test shall depend on it. Answers in JSON only.

use std::io::{self, Read};
use std::net::TcpStream;

use serde_json::json;

use crate::credentials::{self, AccessKey, Source};
use crate::digest::percent_decode;
use crate::http::{self, Body, Head, Reply};
use crate::session::SessionPolicy;
use crate::{CredentialFault, Shared, sign, time};

/// "Common parameters": caller and server may differ by this much.
const SKEW: u64 = 15 * 60;
/// "AssumeRole", Policy: 2,048 characters; its error speaks of bytes. It was 1,024 for years.
const MAX_POLICY_BYTES: usize = 2048;
/// Far more than a policy needs.
const MAX_BODY_BYTES: u64 = 64 << 10;

/// What every RPC request carries.
const COMMON: [&str; 8] = [
    "Action",
    "Version",
    "AccessKeyId",
    "SignatureMethod",
    "SignatureVersion",
    "SignatureNonce",
    "Timestamp",
    "Signature",
];

struct StsError {
    status: u16,
    code: String,
    message: String,
}

impl StsError {
    fn new(status: u16, code: impl Into<String>, message: impl Into<String>) -> StsError {
        StsError { status, code: code.into(), message: message.into() }
    }

    fn parameter(name: &str, message: &str) -> StsError {
        StsError::new(400, format!("InvalidParameter.{name}"), message)
    }
}

pub fn connection(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    while let Some(head) = http::read_head(stream)? {
        shared.record(|state| state.credential_requests += 1);
        let fault = shared.faults().sts.clone();
        if !shared.answers_in_time(&fault) {
            return Ok(());
        }
        http::invite_body(stream, &head)?;
        // Without a length nobody knows where the next request begins.
        let length = head.content_length().map(|length| length.unwrap_or(0));
        let length = length.ok().filter(|length| *length <= MAX_BODY_BYTES);
        let length = length.filter(|_| head.header("transfer-encoding").is_none());
        let result = if let Some(length) = length {
            let mut body = Vec::new();
            Body::new(stream, length).read_to_end(&mut body)?;
            if (body.len() as u64) < length {
                return Ok(());
            }
            answer(shared, &fault, &head, &body)
        } else {
            Err(StsError::new(411, "MissingContentLength", "A short body with a length is needed."))
        };
        let close = head.close || length.is_none();
        let reply = result.unwrap_or_else(|error| error_reply(shared, &error));
        reply.write(stream, close, head.method == "HEAD")?;
        if close {
            break;
        }
    }
    Ok(())
}

fn answer(
    shared: &Shared,
    fault: &CredentialFault,
    head: &Head,
    body: &[u8],
) -> Result<Reply, StsError> {
    match fault {
        CredentialFault::Status(status, code) => {
            return Err(StsError::new(*status, code, "Broken on purpose."));
        }
        CredentialFault::Body(text) => return Ok(Reply::new(200).body(JSON, text.clone())),
        _ => {}
    }
    let params = params(head, body)?;
    assume_role(shared, &head.method, params, *fault == CredentialFault::Expired)
}

const JSON: &str = "application/json;charset=utf-8";

/// Of the query, and of the form that a POST brings.
fn params(head: &Head, body: &[u8]) -> Result<Vec<(String, String)>, StsError> {
    let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
    if path != "/" {
        let message = "Specified api is not found, please check your url and method.";
        return Err(StsError::new(404, "InvalidAction.NotFound", message));
    }
    let mut params = decode(query.as_bytes());
    match head.method.as_str() {
        "GET" => {}
        "POST" => {
            let kind = head.header("content-type").unwrap_or("");
            let kind = kind.split(';').next().unwrap_or("").trim();
            if !body.is_empty() && kind != "application/x-www-form-urlencoded" {
                let message = "The ContentType request header must be either \"application/json\" \
                               or \"application/x-www-form-urlencoded\".";
                return Err(StsError::parameter("ContentType", message));
            }
            params.extend(decode(body));
        }
        _ => {
            let message = "This http method is not supported.";
            return Err(StsError::new(400, "UnsupportedHTTPMethod", message));
        }
    }
    for (at, (name, _)) in params.iter().enumerate() {
        if params[..at].iter().any(|(known, _)| known == name) {
            // Which of the two would count is not documented: no test shall depend on it.
            return Err(StsError::new(400, "InvalidParameter", format!("{name} is given twice.")));
        }
    }
    Ok(params)
}

/// `application/x-www-form-urlencoded`
fn decode(text: &[u8]) -> Vec<(String, String)> {
    let plain = |text: &[u8]| {
        let blanks: Vec<u8> =
            text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
        String::from_utf8_lossy(&percent_decode(&blanks)).into_owned()
    };
    let pairs = text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
            (plain(&pair[..at]), plain(pair.get(at + 1..).unwrap_or(b"")))
        })
        .collect()
}

fn assume_role(
    shared: &Shared,
    method: &str,
    params: Vec<(String, String)>,
    expired: bool,
) -> Result<Reply, StsError> {
    let value = |name: &str| {
        let mut params = params.iter();
        params.find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    };
    let key = caller(shared, method, &params)?;
    let wrong =
        |name: &str| StsError::parameter(name, &format!("The parameter {name} is wrongly formed."));
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
        return Err(StsError::parameter("DurationSeconds", message));
    };
    let policy = value("Policy").map(str::to_string);
    if let Some(policy) = &policy {
        if policy.len() > MAX_POLICY_BYTES {
            let message =
                format!("The size of Policy must be smaller than {MAX_POLICY_BYTES} bytes.");
            return Err(StsError::parameter("PolicySize", &message));
        }
        if SessionPolicy::parse(policy).is_none() {
            let message = "The parameter Policy has not passed grammar check.";
            return Err(StsError::parameter("PolicyGrammar", message));
        }
    }
    let own = role_arn.starts_with(&format!("acs:ram::{account}:"));
    if own && arn != role_arn {
        let message = "The specified Role not exists .";
        return Err(StsError::new(404, "EntityNotExist.Role", message));
    }
    if !own || !key.allows("sts:AssumeRole", role_arn) {
        let message = "You are not authorized to do this action. You should be authorized by RAM.";
        return Err(StsError::new(403, "NoPermission", message));
    }
    let user = json!({
        "AssumedRoleId": format!("300000000000000001:{session}"),
        "Arn": format!("{role_arn}/{session}"),
    });
    let issued = credentials::issue(shared, Source::Sts, policy, params, seconds, expired);
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

/// The account of `acs:ram::ACCOUNT:role/ROLE`, digits.
fn account(arn: &str) -> Option<&str> {
    let (account, role) = arn.strip_prefix("acs:ram::")?.split_once(":role/")?;
    let digits = !account.is_empty() && account.bytes().all(|byte| byte.is_ascii_digit());
    (digits && !role.is_empty()).then_some(account)
}

/// What the API gateway checks in front of every service: form, age, caller, signature, replay.
fn caller(
    shared: &Shared,
    method: &str,
    params: &[(String, String)],
) -> Result<AccessKey, StsError> {
    let value = |name: &str| {
        params.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    };
    // The real one answers XML where no format is given, which nothing here reads.
    if !value("Format").eq_ignore_ascii_case("json") {
        let message = "Specified parameter Format is not valid, this one answers in JSON only.";
        return Err(StsError::parameter("Format", message));
    }
    let mandatory = |name: &str| {
        let message = format!("{name} is mandatory for this action.");
        StsError::new(400, format!("Missing{name}"), message)
    };
    if let Some(name) = COMMON.into_iter().find(|name| value(name).is_empty()) {
        return Err(mandatory(name));
    }
    let fixed =
        [("Version", "2015-04-01"), ("SignatureMethod", "HMAC-SHA1"), ("SignatureVersion", "1.0")];
    if let Some((name, _)) = fixed.into_iter().find(|(name, known)| value(name) != *known) {
        let message = format!("Specified parameter {name} is not valid.");
        return Err(StsError::new(400, format!("Invalid{name}"), message));
    }
    if value("Action") != "AssumeRole" {
        let message = "Specified api is not found, please check your url and method.";
        return Err(StsError::new(404, "InvalidAction.NotFound", message));
    }
    let stamp = value("Timestamp");
    let stamp = time::parse_extended(stamp).filter(|_| stamp.len() == 20).ok_or_else(|| {
        let message = "Specified time stamp or date value is not well formatted.";
        StsError::new(400, "InvalidTimeStamp.Format", message)
    })?;
    let now = shared.now();
    if stamp.abs_diff(now) > SKEW {
        let message = "Specified time stamp or date value is expired.";
        return Err(StsError::new(400, "InvalidTimeStamp.Expired", message));
    }
    let issued = shared.state().issued.clone();
    let key = AccessKey::find(value("AccessKeyId"), &shared.options, &issued);
    let key = key.ok_or_else(|| {
        let message = "Specified access key is not found.";
        StsError::new(404, "InvalidAccessKeyId.NotFound", message)
    })?;
    let token = |code: &str, message: &str| {
        StsError::new(400, format!("InvalidSecurityToken.{code}"), message)
    };
    match (key.token.as_deref().unwrap_or(""), value("SecurityToken")) {
        (own, "") if !own.is_empty() => return Err(mandatory("SecurityToken")),
        (own, given) if own != given => {
            let message = "Specified SecurityToken is not matched with the AccessKey.";
            return Err(token("MismatchWithAccessKey", message));
        }
        _ if key.expired(now) => {
            return Err(token("Expired", "Specified SecurityToken is expired."));
        }
        _ => {}
    }
    let text = sign::rpc_string_to_sign(method, params);
    if sign::rpc(&key.secret, &text) != value("Signature") {
        let message = format!(
            "Specified signature is not matched with our calculation. \
             server string to sign is:{text}"
        );
        return Err(StsError::new(400, "SignatureDoesNotMatch", message));
    }
    // Only now: nobody else can use up the nonce of a caller.
    if !shared.state().nonces.insert(value("SignatureNonce").to_string()) {
        let message = "Specified signature nonce was used already.";
        return Err(StsError::new(400, "SignatureNonceUsed", message));
    }
    Ok(key)
}

fn error_reply(shared: &Shared, error: &StsError) -> Reply {
    let StsError { status, code, message } = error;
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
