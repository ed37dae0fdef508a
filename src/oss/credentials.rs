//! Who signs: an access key, with a security token when it is temporary, and where temporary ones
//! come from. A `Secret` has no `Debug` and no `Display`, so that no log line or error can print it
//! by accident.

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

/// An access key as OSS signatures use it.
#[derive(Clone)]
pub struct Credentials {
    pub access_key_id: String,
    pub access_key_secret: Secret,
    /// Present for temporary (STS) credentials.
    pub security_token: Option<Secret>,
}

/// Temporary credentials, and when they end (Unix seconds).
pub struct Issued {
    pub credentials: Credentials,
    pub expire: u64,
}

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
    /// Unix seconds; compared by distance, so that a clock that steps back stops nothing.
    asked: u64,
    /// Seconds until they are asked for again.
    pause: u64,
    task: Task<Result<Issued, String>>,
    last_error: String,
}

impl Signer {
    pub fn new(source: Source) -> Signer {
        let held = match &source {
            Source::Fixed(key) => Some(Issued { credentials: key.clone(), expire: u64::MAX }),
            _ => None,
        };
        let pause = if held.is_some() { u64::MAX } else { 0 };
        CREDENTIALS_END.set(u64::from(held.is_none())); // 1970, until there are some
        Signer { source, held, asked: 0, pause, task: Task::IDLE, last_error: String::new() }
    }

    /// The credentials in force, until they end.
    pub fn issued(&self, now: u64) -> Option<&Issued> {
        self.held.as_ref().filter(|held| held.expire > now)
    }

    /// Asks for new ones when half the life of those in hand is over, and takes what was answered;
    /// at the start one may `wait` for it. Says in words what changed.
    pub fn renew(
        &mut self,
        now: u64,
        wait: Duration,
        ask: fn(&Source, u64) -> Result<Issued, String>,
    ) -> Option<String> {
        if now.abs_diff(self.asked) >= self.pause && !self.task.is_running() {
            (self.asked, self.pause) = (now, RETRY_SECONDS);
            let source = self.source.clone();
            self.task.start(move || ask(&source, now));
        }
        let answer = self.task.result(wait)?.and_then(|issued| {
            let alive = issued.expire > now;
            alive.then_some(issued).ok_or("those that came had ended already".to_owned())
        });
        RENEWALS.add_for(result(&answer));
        self.take(answer, now)
    }

    fn take(&mut self, answer: Result<Issued, String>, now: u64) -> Option<String> {
        match answer {
            Ok(issued) => {
                self.pause = (issued.expire - now).div_ceil(2).min(MAX_PAUSE_SECONDS);
                CREDENTIALS_END.set(issued.expire);
                let id = &issued.credentials.access_key_id;
                // The metadata service gives the same again until shortly before their end.
                let same = |held: &Issued| held.credentials.access_key_id == *id;
                let known = self.held.as_ref().is_some_and(same) && self.last_error.is_empty();
                let end = time::iso8601(issued.expire);
                let news = (!known).then(|| format!("credentials: {id:?}, valid until {end}"));
                self.last_error.clear();
                self.held = Some(issued);
                news
            }
            Err(error) => {
                let rest = match self.issued(now) {
                    Some(held) => format!("in hand until {}", time::iso8601(held.expire)),
                    None => "none in hand, no policy can be signed".to_owned(),
                };
                let error = format!("credentials: not renewed ({error}), {rest}");
                // The same again would only fill the log.
                let news = (error != self.last_error).then(|| error.clone());
                self.last_error = error;
                news
            }
        }
    }
}
