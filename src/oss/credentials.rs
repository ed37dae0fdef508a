//! Who signs: an access key, with a security token when it is temporary, and where temporary ones
//! come from. A `Secret` has no `Debug` and no `Display`, so that no log line or error prints it.

use std::time::Duration;

use crate::sys::background::Task;
use crate::sys::metrics::{CREDENTIALS_END, RENEWALS, result};
use crate::sys::time;

/// After a failure.
pub const RETRY_SECONDS: u64 = 5;
const MAX_PAUSE_SECONDS: u64 = 43_200;

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

#[derive(Clone)]
pub struct Credentials {
    pub access_key_id: String,
    pub access_key_secret: Secret,
    /// Of temporary (STS) credentials.
    pub security_token: Option<Secret>,
}

/// Credentials, and when they expire (Unix seconds).
pub struct Issued {
    pub credentials: Credentials,
    pub expire: u64,
}

/// What a request for credentials came to; an error in words.
pub type Renewal = Result<Issued, String>;

/// Where the credentials that sign come from.
#[derive(Clone)]
pub enum Source {
    /// The configuration; they last.
    Fixed(Credentials),
    /// AssumeRole, asked for with `key`. `policy` narrows what the role may do.
    Role { key: Credentials, endpoint: String, arn: String, policy: String },
    /// The RAM role of the ECS instance we run on.
    Ecs { endpoint: String, role: String },
}

/// Holds the credentials in force and renews them in time.
pub struct Signer {
    source: Source,
    held: Option<Issued>,
    /// Compared by distance, so that a clock that steps back stops nothing.
    last_request: u64,
    pause_seconds: u64,
    task: Task<Renewal>,
    last_message: String,
}

impl Signer {
    pub fn new(source: Source) -> Signer {
        let held = match &source {
            Source::Fixed(key) => Some(Issued { credentials: key.clone(), expire: u64::MAX }),
            _ => None,
        };
        let pause_seconds = if held.is_some() { u64::MAX } else { 0 };
        CREDENTIALS_END.set(u64::from(held.is_none())); // 0: they last, 1: there are none yet
        let (task, last_message) = (Task::IDLE, String::new());
        Signer { source, held, last_request: 0, pause_seconds, task, last_message }
    }

    /// The credentials in force, until they expire.
    pub fn issued(&self, now: u64) -> Option<&Issued> {
        self.held.as_ref().filter(|held| held.expire > now)
    }

    /// Requests new ones when half the life of those held is over, `wait`s for the request that
    /// runs, and says what came of it.
    pub fn renew(
        &mut self,
        now: u64,
        wait: Duration,
        ask: fn(&Source, u64) -> Renewal,
    ) -> Option<String> {
        if now.abs_diff(self.last_request) >= self.pause_seconds && self.task.is_idle() {
            (self.last_request, self.pause_seconds) = (now, RETRY_SECONDS);
            let source = self.source.clone();
            self.task.start(move || ask(&source, now));
        }
        let mut renewal = self.task.result(wait)?;
        if renewal.as_ref().is_ok_and(|issued| issued.expire <= now) {
            renewal = Err("the new ones have expired".to_owned());
        }
        RENEWALS.add_for(result(&renewal));
        let message = match (renewal, self.issued(now)) {
            (Ok(issued), _) => {
                let id = &issued.credentials.access_key_id;
                let message = format!("{id:?}, valid until {}", time::iso8601(issued.expire));
                CREDENTIALS_END.set(issued.expire);
                self.pause_seconds = (issued.expire - now).div_ceil(2).min(MAX_PAUSE_SECONDS);
                self.held = Some(issued);
                message
            }
            (Err(error), Some(held)) => {
                format!("not renewed ({error}), in hand until {}", time::iso8601(held.expire))
            }
            (Err(error), None) => {
                format!("not renewed ({error}), none in hand, no policy can be signed")
            }
        };
        // The same again would only fill the log.
        let is_news = self.last_message != message;
        self.last_message.clone_from(&message);
        is_news.then(|| format!("credentials: {message}"))
    }
}
