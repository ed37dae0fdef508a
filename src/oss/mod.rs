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
