//! The metadata service of an ECS instance, as far as the credentials of its role, on a port of its
//! own and in the hardened mode only. Document: "Instance metadata" (access in security hardening
//! mode), "Instance RAM role". What it says in an error is not documented: only the status counts.

use std::io;
use std::net::TcpStream;

use serde_json::json;

use crate::credentials::{self, Source};
use crate::http::{Body, Head, Reply};
use crate::{CredentialFault, Shared, digest, time};

const TOKEN_PATH: &str = "/latest/api/token";
const ROLES_PATH: &str = "/latest/meta-data/ram/security-credentials";
const TTL_HEADER: &str = "x-aliyun-ecs-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aliyun-ecs-metadata-token";
/// "Instance metadata": a token lives 1 to 21,600 seconds.
const MAX_TTL: u64 = 21_600;
/// What real instances were seen to get; it is not documented.
const LIFE_SECONDS: u64 = 6 * 3600;

pub fn answer(shared: &Shared, stream: &TcpStream, head: &Head) -> io::Result<Option<Reply>> {
    let Some(fault) = shared.credential_fault(|faults| &faults.metadata) else { return Ok(None) };
    Body::new(stream, head)?.drain()?;
    let (status, text) = credential(shared, fault, head);
    if status != 200 {
        shared.say(format_args!("metadata refused: {status} {text}"));
    }
    Ok(Some(Reply::new(status).body("text/plain", text)))
}

/// An error is a status and a few words.
fn credential(shared: &Shared, fault: CredentialFault, head: &Head) -> (u16, String) {
    let refused = |status, why: &str| (status, format!("{why}\n"));
    if let CredentialFault::Status(status, code) = fault {
        return refused(status, &code);
    }
    let now = shared.now();
    let token = head.target == TOKEN_PATH;
    if head.method != if token { "PUT" } else { "GET" } {
        return refused(405, "method not allowed");
    }
    if token {
        let ttl = head.header(TTL_HEADER).and_then(|text| text.trim().parse::<u64>().ok());
        let Some(ttl) = ttl.filter(|ttl| (1..=MAX_TTL).contains(ttl)) else {
            return refused(400, "no lifetime, or none from 1 to 21600");
        };
        let token = digest::base64(&credentials::random(40));
        shared.state().metadata_tokens.push((token.clone(), now + ttl));
        return (200, token);
    }
    let given = head.header(TOKEN_HEADER).unwrap_or("");
    let known = |(token, expire): &(String, u64)| token == given && now < *expire;
    if !shared.state().metadata_tokens.iter().any(known) {
        return refused(403, "no token, or none that holds");
    }
    let role = &shared.options.ecs_role;
    match head.target.strip_prefix(ROLES_PATH) {
        Some("" | "/") => return (200, role.clone()),
        Some(path) if path.strip_prefix('/') == Some(role) => {}
        _ => return refused(404, "not found"),
    }
    if let CredentialFault::Body(garbage) = fault {
        return (200, garbage);
    }
    let expired = fault == CredentialFault::Expired;
    let issued = credentials::issue(shared, Source::Ecs, None, Vec::new(), LIFE_SECONDS, expired);
    let answer = json!({
        "AccessKeyId": issued.access_key_id,
        "AccessKeySecret": issued.access_key_secret,
        "Expiration": time::extended(issued.expire),
        "SecurityToken": issued.security_token,
        "LastUpdated": time::extended(now),
        "Code": "Success",
    });
    (200, answer.to_string())
}
