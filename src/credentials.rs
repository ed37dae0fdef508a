//! Who signs: an access key, with a security token when it is temporary. A `Secret` has no `Debug`
//! and no `Display`, so that no log line or error can print it by accident.

/// Key material. `expose` is where to look when auditing who reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// An access key as OSS signatures use it.
#[derive(Clone)]
pub struct Credentials {
    pub access_key_id: String,
    pub access_key_secret: Secret,
    /// Present for temporary (STS) credentials.
    pub security_token: Option<Secret>,
}
