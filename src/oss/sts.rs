//! Temporary credentials: AssumeRole of Alibaba Cloud STS ("RPC signature", version 2015-04-01) and
//! the RAM role of an ECS instance (instance metadata, hardened mode). A response is never part of
//! an error: it may hold what was sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use crate::oss::credentials::{Credentials, Issued, Renewal, Secret, Source};
use crate::oss::outbound::{Request, Response, agent, call, percent_encode};
use crate::oss::policy::hmac_sha1;
use crate::sys::time;

/// Of the ECS metadata service (`OSS_ECS_ENDPOINT`).
pub const METADATA: &str = "http://100.100.100.200";
const TIMEOUT: Duration = Duration::from_secs(3);
const FORM: &str = "application/x-www-form-urlencoded";

/// Asks for credentials; an error says who refused and why, in words without a secret.
pub fn ask(source: &Source, now: u64) -> Renewal {
    let (who, renewal) = match source {
        Source::Fixed(_) => ("credentials", Err("there is nobody to ask".to_owned())),
        Source::Role { key, endpoint, arn, policy } => {
            ("sts", assume_role(endpoint, key, arn, policy, now))
        }
        Source::Ecs { endpoint, role } => ("ecs metadata", ecs_role(endpoint, role)),
    };
    renewal.map_err(|error| format!("{who}: {error}"))
}

/// What AssumeRole shall leave of a role: uploads under the prefix (and a look at them, to
/// `confirm`). A `*` or `?` in the prefix counts as a wildcard here; the upload policy pins it.
pub fn session_policy(bucket: &str, prefix: &str, confirm: bool) -> String {
    let mut actions = vec!["oss:PutObject"];
    if confirm {
        actions.push("oss:GetObject");
    }
    let resource = format!("acs:oss:*:*:{bucket}/{prefix}*");
    let statement = json!({ "Effect": "Allow", "Action": actions, "Resource": [resource] });
    json!({ "Version": "1", "Statement": [statement] }).to_string()
}

fn assume_role(url: &str, key: &Credentials, arn: &str, policy: &str, now: u64) -> Renewal {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nonce = format!("{}-{}", std::process::id(), since_1970.as_nanos());
    let timestamp = time::iso8601(now);
    let mut parameters = vec![
        ("AccessKeyId", key.access_key_id.as_str()),
        ("Action", "AssumeRole"),
        ("DurationSeconds", "3600"), // what every role allows
        ("Format", "JSON"),
        ("Policy", policy),
        ("RoleArn", arn),
        ("RoleSessionName", "appserver"),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureNonce", &nonce),
        ("SignatureVersion", "1.0"),
        ("Timestamp", &timestamp),
        ("Version", "2015-04-01"),
    ];
    if let Some(token) = &key.security_token {
        parameters.push(("SecurityToken", token.expose()));
    }
    parameters.sort();
    let signature = rpc_signature("POST", &parameters, &key.access_key_secret);
    parameters.push(("Signature", &signature));
    let request = Request::post(url).header("content-type", FORM);
    let response = call(&agent(url, TIMEOUT), request.body(canonical(&parameters)))?;
    issued(json_of(&response)?.get("Credentials").unwrap_or(&Value::Null))
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

fn ecs_role(endpoint: &str, role: &str) -> Renewal {
    let agent = agent(endpoint, TIMEOUT);
    let request = Request::put(format!("{endpoint}/latest/api/token"));
    let request = request.header("x-aliyun-ecs-metadata-token-ttl-seconds", "60");
    let response = call(&agent, request.body(""))?;
    if response.status() != 200 {
        return Err(format!("status {} for a token", response.status().as_u16()));
    }
    let role = percent_encode(role, b"");
    let url = format!("{endpoint}/latest/meta-data/ram/security-credentials/{role}");
    let request = Request::get(url).header("x-aliyun-ecs-metadata-token", response.body().trim());
    let json = json_of(&call(&agent, request.body(()))?)?;
    match json.get("Code").and_then(Value::as_str) {
        Some("Success") => issued(&json),
        _ => Err("no success".to_owned()),
    }
}

/// The JSON of a 200; else the status and the code, which is one of Alibaba's words.
fn json_of(response: &Response) -> Result<Value, String> {
    let json: Value = serde_json::from_str(response.body()).unwrap_or_default();
    let code = json.get("Code").and_then(Value::as_str).unwrap_or_default();
    let is_word = code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
    match response.status().as_u16() {
        200 => Ok(json),
        status if is_word && !code.is_empty() && code.len() <= 100 => {
            Err(format!("status {status} {code}"))
        }
        status => Err(format!("status {status}")),
    }
}

fn issued(json: &Value) -> Renewal {
    let text = |name: &str| {
        let text = json.get(name).and_then(Value::as_str).unwrap_or_default();
        // They become form fields, headers and parts of a credential.
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if plain { Ok(text.to_owned()) } else { Err(format!("a response without {name}")) }
    };
    let credentials = Credentials {
        access_key_id: text("AccessKeyId")?,
        access_key_secret: Secret::new(text("AccessKeySecret")?),
        security_token: Some(Secret::new(text("SecurityToken")?)),
    };
    let expire = time::unix(&text("Expiration")?).ok_or("an Expiration that is no UTC time")?;
    Ok(Issued { credentials, expire })
}
