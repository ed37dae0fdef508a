//! Access keys: the one of the options, and those that STS and the metadata service issue.
//! Document: "What is STS".

use ring::rand::{SecureRandom, SystemRandom};

use crate::session::SessionPolicy;
use crate::{Shared, digest};

/// Who issued a temporary credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Sts,
    Ecs,
}

/// One temporary credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    pub source: Source,
    /// begins with `STS.`
    pub access_key_id: String,
    pub access_key_secret: String,
    /// 660 characters of base64
    pub security_token: String,
    /// Unix seconds
    pub issued_at: u64,
    /// Unix seconds; from then on it is of no use
    pub expire: u64,
    /// JSON, as it came; `None`: every right
    pub policy: Option<String>,
    /// of an AssumeRole, all of them, decoded, in the order of the request; empty for ECS
    pub params: Vec<(String, String)>,
}

/// How much earlier than now a credential ends that is to be expired already, in seconds.
const LATE: u64 = 60;

/// Makes a credential and records it: from then on the bucket knows it.
pub fn issue(
    shared: &Shared,
    source: Source,
    policy: Option<String>,
    params: Vec<(String, String)>,
    seconds: u64,
    expired: bool,
) -> Issued {
    let now = shared.now();
    let life = shared.options.credential_seconds.unwrap_or(seconds);
    let issued = Issued {
        source,
        access_key_id: format!("STS.N{}", letters(24)),
        access_key_secret: letters(44),
        // 490 bytes leave a padding: base64 with all its signs, which a form has to escape.
        security_token: format!("CAIS{}", digest::base64(&random(490))),
        issued_at: now,
        expire: if expired { now.saturating_sub(LATE) } else { now + life },
        policy,
        params,
    };
    shared.say(format_args!("{source:?} issued {}", issued.access_key_id));
    shared.record(|state| state.issued.push(issued.clone()));
    issued
}

/// A key as its owner proves it.
#[derive(Debug)]
pub struct AccessKey {
    pub secret: String,
    /// `Some`: the key is temporary, and goes with this token.
    pub token: Option<String>,
    expire: Option<u64>,
    /// Each of them must allow what the key is used for.
    policies: Vec<String>,
}

impl AccessKey {
    pub fn find(shared: &Shared, id: &str) -> Option<AccessKey> {
        let options = &shared.options;
        if id == options.access_key_id {
            return Some(AccessKey {
                secret: options.access_key_secret.clone(),
                token: options.security_token.clone(),
                expire: None,
                policies: options.key_policy.iter().cloned().collect(),
            });
        }
        let state = shared.state();
        let issued = state.issued.iter().find(|issued| issued.access_key_id == id)?;
        Some(AccessKey {
            secret: issued.access_key_secret.clone(),
            token: Some(issued.security_token.clone()),
            expire: Some(issued.expire),
            policies: options.role_policy.iter().chain(&issued.policy).cloned().collect(),
        })
    }

    pub fn expired(&self, now: u64) -> bool {
        self.expire.is_some_and(|expire| now >= expire)
    }

    /// "AssumeRole", Policy: what a session may do is what both its role and its own policy allow.
    /// Without any policy a key has every right.
    pub fn allows(&self, action: &str, resource: &str) -> bool {
        self.policies.iter().all(|policy| {
            SessionPolicy::parse(policy).is_some_and(|policy| policy.allows(action, resource))
        })
    }
}

/// `6894B13B-6D71-4EF5-88FA-F32781734A7F`, as `RequestId` of STS.
pub fn guid() -> String {
    let hex = digest::hex(&random(16)).to_ascii_uppercase();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

pub fn random(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    SystemRandom::new().fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

fn letters(count: usize) -> String {
    const SIGNS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    random(count).iter().map(|byte| char::from(SIGNS[usize::from(*byte) % SIGNS.len()])).collect()
}
