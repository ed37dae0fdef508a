//! Temporary credentials: AssumeRole of Alibaba Cloud STS ("RPC signature", version 2015-04-01) and
//! the RAM role of an ECS instance (instance metadata, hardened mode). What they answer is never
//! part of an error: it may hold what was sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use crate::oss::bucket::{agent, percent_encode, read};
use crate::oss::credentials::{Credentials, Issued, Secret, Source};
use crate::oss::policy::hmac_sha1;
use crate::sys::time;

/// Of the ECS metadata service (`OSS_ECS_ENDPOINT`).
pub const METADATA: &str = "http://100.100.100.200";
const TIMEOUT: Duration = Duration::from_secs(3);
/// What every role allows.
const LIFE_SECONDS: &str = "3600";

/// Asks for credentials; an error says who refused and why, in words without a secret.
pub fn ask(source: &Source, now: u64) -> Result<Issued, String> {
    match source {
        Source::Fixed(_) => Err("there is nobody to ask".to_owned()),
        Source::Role { key, endpoint, arn, policy } => {
            assume_role(endpoint, key, arn, policy, now).map_err(|error| format!("sts: {error}"))
        }
        Source::Ecs { endpoint, role } => {
            ecs_role(endpoint, role).map_err(|error| format!("ecs metadata: {error}"))
        }
    }
}

/// What AssumeRole shall leave of a role: uploads under the prefix (and a look at them, to
/// `confirm`). A `*` or `?` in the prefix counts as a wildcard here; the upload policy pins it.
pub fn session_policy(bucket: &str, prefix: &str, confirm: bool) -> String {
    let actions = ["oss:PutObject", "oss:GetObject"];
    let actions = if confirm { &actions[..] } else { actions.split_at(1).0 };
    let resource = format!("acs:oss:*:*:{bucket}/{prefix}*");
    let statement = json!({ "Effect": "Allow", "Action": actions, "Resource": [resource] });
    json!({ "Version": "1", "Statement": [statement] }).to_string()
}

fn assume_role(
    endpoint: &str,
    key: &Credentials,
    arn: &str,
    policy: &str,
    now: u64,
) -> Result<Issued, String> {
    let nanos =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos());
    let nonce = format!("{}-{nanos}", std::process::id());
    let timestamp = time::iso8601(now);
    let mut parameters = vec![
        ("AccessKeyId", key.access_key_id.as_str()),
        ("Action", "AssumeRole"),
        ("DurationSeconds", LIFE_SECONDS),
        ("Format", "JSON"),
        ("Policy", policy),
        ("RoleArn", arn),
        ("RoleSessionName", "appserver"),
    ];
    if let Some(token) = &key.security_token {
        parameters.push(("SecurityToken", token.expose()));
    }
    parameters.extend([
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureNonce", &nonce),
        ("SignatureVersion", "1.0"),
        ("Timestamp", &timestamp),
        ("Version", "2015-04-01"),
    ]);
    let signature = rpc_signature("POST", &parameters, &key.access_key_secret);
    parameters.push(("Signature", &signature));
    let request = agent(endpoint, TIMEOUT).post(endpoint);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let answer = json_of(read(request.send(canonical(&parameters)))?)?;
    issued(answer.get("Credentials").unwrap_or(&Value::Null))
}

/// `parameters` are sorted by name.
pub fn rpc_signature(method: &str, parameters: &[(&str, &str)], secret: &Secret) -> String {
    let query = percent_encode(&canonical(parameters), b"");
    let text = format!("{method}&%2F&{query}");
    BASE64.encode(hmac_sha1(format!("{}&", secret.expose()).as_bytes(), text.as_bytes()))
}

fn canonical(parameters: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| format!("{name}={}", percent_encode(value, b""));
    parameters.iter().map(pair).collect::<Vec<_>>().join("&")
}

fn ecs_role(endpoint: &str, role: &str) -> Result<Issued, String> {
    let agent = agent(endpoint, TIMEOUT);
    let request = agent.put(format!("{endpoint}/latest/api/token"));
    let request = request.header("x-aliyun-ecs-metadata-token-ttl-seconds", "60");
    let (status, token) = read(request.send_empty())?;
    if status != 200 {
        return Err(format!("status {status} for a token"));
    }
    let role = percent_encode(role, b"");
    let url = format!("{endpoint}/latest/meta-data/ram/security-credentials/{role}");
    let request = agent.get(url).header("x-aliyun-ecs-metadata-token", token.trim());
    let answer = json_of(read(request.call())?)?;
    match answer.get("Code").and_then(Value::as_str) {
        Some("Success") => issued(&answer),
        _ => Err("no success".to_owned()),
    }
}

/// The JSON of a 200; else the status and the code, which is one of Alibaba's words.
fn json_of((status, body): (u16, String)) -> Result<Value, String> {
    let value: Option<Value> = serde_json::from_str(&body).ok();
    if status == 200 {
        return value.ok_or("not JSON".to_owned());
    }
    let code = value.as_ref().and_then(|value| value.get("Code")?.as_str()).unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'.';
    let code = if code.len() <= 100 && code.bytes().all(plain) { code } else { "" };
    Err(format!("status {status} {code}").trim_end().to_owned())
}

fn issued(answer: &Value) -> Result<Issued, String> {
    let text = |name: &str| {
        let text = answer.get(name).and_then(Value::as_str);
        // They become form fields, header fields and parts of a credential.
        let text =
            text.filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()));
        text.map(str::to_owned).ok_or(format!("an answer without {name}"))
    };
    let credentials = Credentials {
        access_key_id: text("AccessKeyId")?,
        access_key_secret: Secret::new(text("AccessKeySecret")?),
        security_token: Some(Secret::new(text("SecurityToken")?)),
    };
    let expire = time::unix(&text("Expiration")?).ok_or("an Expiration that is no UTC time")?;
    Ok(Issued { credentials, expire })
}
