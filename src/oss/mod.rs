//! What Alibaba Cloud documents: policies and their signatures, callbacks and their keys,
//! credentials and the calls that get them. Nothing else names `rsa` or `ureq`.

pub mod address;
pub mod bucket;
pub mod callback;
pub mod credentials;
pub mod keys;
pub mod outbound;
pub mod policy;
pub mod sts;

/// What Alibaba's SDKs and samples call what we have.
pub const OTHER_NAMES: [(&str, &str); 3] = [
    ("ALIBABA_CLOUD_ACCESS_KEY_ID", "OSS_ACCESS_KEY_ID"),
    ("ALIBABA_CLOUD_ECS_METADATA", "OSS_ECS_ROLE"),
    ("OSS_ENDPOINT", "OSS_HOST"),
];
