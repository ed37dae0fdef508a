//! A small OSS bucket on the loopback interface, for the tests and the demo, with the two services
//! beside it that issue temporary credentials. It does what Alibaba Cloud documents of PostObject,
//! of the upload callback, of AssumeRole and of an ECS role's credentials, keeps what it was sent,
//! records what it did, and breaks on demand. It shares no code with the product.
//!
//! - `server`: listens, reads requests, routes them, adds common headers
//! - `names`: whose `Host`, which keys, which callback addresses; `cors`: the bucket's rules
//! - `post`: PostObject, from the form to the answer; `form` and `policy` are its parts
//! - `access`: whose signature it is, in a form or in an `Authorization` header
//! - `notify`: the callback after an upload; `callback` has its parameter, template and wire
//! - `read`: GET and HEAD of an object
//! - `keys`: the second listener, which serves the public key
//! - `sts`, `metadata`: the third and the fourth, which issue what `credentials` makes
//! - `session`: the policy that goes with what STS issues
//! - `sign`, `digest`, `image`, `time`, `error`, `http`: what all of them use

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fmt, io};

mod access;
mod callback;
mod cors;
mod credentials;
mod digest;
mod error;
mod form;
mod http;
mod image;
mod keys;
mod metadata;
mod names;
mod notify;
mod policy;
mod post;
mod read;
mod server;
mod session;
mod sign;
mod sts;
mod time;

#[cfg(test)]
mod tests;

pub use cors::CorsRule;
pub use credentials::{Issued, Source};
pub use keys::KEY_PATH;
pub use sign::{PRIVATE_KEY_PEM, PathDecoding, STRANGER_KEY_PEM, callback_string_to_sign};

/// The one key URL seen in the wild; the other spelling begins with `http://`.
pub const PUB_KEY_URL: &str = "https://gosspublic.alicdn.com/callback_pub_key_v1.pem";

/// The bucket, the one credential that is there from the start, and what issues further ones.
#[derive(Clone, Debug)]
pub struct Options {
    pub bucket: String,
    /// `cn-hangzhou`, without `oss-`
    pub region: String,
    pub access_key_id: String,
    pub access_key_secret: String,
    /// `Some`: the key is temporary, and requests must carry this token.
    pub security_token: Option<String>,
    /// `acs:ram::ACCOUNT:role/ROLE`: the one role that STS knows.
    pub role_arn: String,
    /// The role of the ECS instance.
    pub ecs_role: String,
    /// What the holder of the permanent key may do, a RAM policy in JSON; `None`: everything.
    pub key_policy: Option<String>,
    /// What both roles may do: the policy of a session narrows it further.
    pub role_policy: Option<String>,
    /// `MaxSessionDuration` of the role: `DurationSeconds` may be 900 up to this.
    pub max_session_seconds: u64,
    /// The life of what is issued, in place of what `DurationSeconds` says, so that tests see an
    /// end.
    pub credential_seconds: Option<u64>,
    /// Custom domains that are mapped to the bucket, without a port.
    pub domains: Vec<String>,
    /// Callbacks to this machine and to private networks are sent. The real OSS refuses them; in
    /// tests the application listens nowhere else.
    pub private_callbacks: bool,
    /// Where all four listen.
    pub ip: Ipv4Addr,
    /// Of the bucket, the key host, STS and the metadata service; 0: one that is free.
    pub ports: [u16; 4],
    /// Prints each step to stdout.
    pub verbose: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            bucket: "examplebucket".to_string(),
            region: "cn-hangzhou".to_string(),
            access_key_id: "LTAI5tExampleKeyId".to_string(),
            access_key_secret: "exampleAccessKeySecret".to_string(),
            security_token: None,
            role_arn: "acs:ram::1234567890123456:role/uploader".to_string(),
            ecs_role: "appserver".to_string(),
            key_policy: None,
            role_policy: None,
            max_session_seconds: 3600,
            credential_seconds: None,
            domains: Vec::new(),
            private_callbacks: true,
            ip: Ipv4Addr::LOCALHOST,
            ports: [0; 4],
            verbose: false,
        }
    }
}

impl Options {
    /// The name that a real bucket has in its error texts.
    pub(crate) fn host(&self) -> String {
        format!("{}.oss-{}.aliyuncs.com", self.bucket, self.region)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub bytes: Arc<Vec<u8>>,
    pub content_type: String,
    /// MD5 in upper-case hex, without the quotes of the header
    pub etag: String,
    pub crc64: u64,
    /// `x-oss-object-acl` of the upload
    pub acl: Option<String>,
    /// `x-oss-meta-*`, `Cache-Control` and the like, in the order of the form
    pub headers: Vec<(String, String)>,
}

impl Object {
    /// The object and its MD5.
    fn new(bytes: Vec<u8>, content_type: &str) -> (Object, [u8; 16]) {
        let md5 = digest::md5(&bytes);
        let object = Object {
            etag: digest::hex(&md5).to_ascii_uppercase(),
            crc64: digest::crc64(&bytes),
            bytes: Arc::new(bytes),
            content_type: content_type.to_string(),
            acl: None,
            headers: Vec::new(),
        };
        (object, md5)
    }
}

/// One POST, complete when its answer is about to leave. `status` 0: it ended without an answer.
#[derive(Clone, Debug, Default)]
pub struct PostRecord {
    pub request_id: String,
    pub headers: Vec<(String, String)>,
    /// the fields in front of the file, in order
    pub fields: Vec<(String, String)>,
    pub filename: String,
    /// Content-Type of the file's part
    pub file_type: String,
    /// with `${filename}` replaced
    pub key: String,
    /// bytes of the file that arrived
    pub size: u64,
    pub status: u16,
    /// XML code of an error, else empty
    pub code: String,
    pub message: String,
    pub ec: Option<String>,
}

/// One callback, complete when OSS stopped waiting for its answer.
#[derive(Clone, Debug, Default)]
pub struct CallbackRecord {
    pub request_id: String,
    pub url: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// the request as it went over the wire
    pub raw: Vec<u8>,
    pub status: Option<u16>,
    pub answer_headers: Vec<(String, String)>,
    pub answer: Vec<u8>,
    /// the `CallbackFailed` message, where OSS was not content
    pub error: Option<String>,
    pub duration: Duration,
}

/// One GET or HEAD of an object.
#[derive(Clone, Debug, Default)]
pub struct ReadRecord {
    pub method: String,
    pub key: String,
    pub headers: Vec<(String, String)>,
    pub status: u16,
    pub code: String,
}

/// What the next POST meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostFault {
    /// Nothing: the place in the queue of a POST that shall work.
    Pass,
    /// The whole request is read, then answered with this status and XML code; nothing is stored.
    Answer(u16, String),
    /// The connection is reset once this many bytes of the body were read; some must remain.
    Reset(u64),
    /// Reading pauses after this many bytes of the body: for a time, or until `release`.
    Stall(u64, Option<Duration>),
    /// Everything happens, the callback too, but the connection closes without an answer.
    NoAnswer,
}

/// What the key host does with every request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyFault {
    #[default]
    Serve,
    Status(u16),
    /// It accepts and says nothing until `release`.
    Hang,
    /// 302 to this URL
    Redirect(String),
    /// The key and then blanks, this many bytes together
    Oversized(usize),
    /// 200 with this text in place of the key, for any version
    Body(String),
}

/// What STS or the metadata service does with every request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CredentialFault {
    #[default]
    Serve,
    /// This status and code, whatever was asked.
    Status(u16, String),
    /// It accepts and says nothing until `release`, then closes.
    Hang,
    /// 200 with this text: STS whatever was asked, the metadata service in place of a credential.
    Body(String),
    /// A good answer with a credential that ended a minute ago.
    Expired,
}

/// Changes a callback's body.
pub type Tamper = Box<dyn Fn(Vec<u8>) -> Vec<u8> + Send>;

/// The switches. What they say holds for every request that begins afterwards.
pub struct Faults {
    /// V1 signatures are refused: 403, EC 0002-00000080.
    pub refuse_v1: bool,
    /// Each POST takes the first, as long as there is one.
    pub posts: VecDeque<PostFault>,
    /// Each GET or HEAD of an object takes the first: status and XML code.
    pub reads: VecDeque<(u16, String)>,
    /// GET and HEAD get no answer until `release`.
    pub hang_reads: bool,
    /// The bucket's CORS rules. Empty: it has none.
    pub cors: Vec<CorsRule>,
    /// No callback is sent, the browser gets 203 with this message.
    pub callback_fail: Option<String>,
    /// OSS waits this long before it sends a callback, or until `release`.
    pub callback_delay: Duration,
    /// How long OSS waits for an answer: 5 s.
    pub callback_timeout: Duration,
    /// The body changes before it is signed: a valid signature over another body.
    pub callback_tamper: Option<Tamper>,
    /// The body changes after it was signed.
    pub callback_corrupt: Option<Tamper>,
    pub callback_http10: bool,
    /// What `x-oss-pub-key-url` names: `PUB_KEY_URL`.
    pub pub_key_url: String,
    /// A blank in a form value is written `+`; what OSS does is unknown.
    pub space_as_plus: bool,
    /// How the path of a callback is decoded before it is signed.
    pub path_decoding: PathDecoding,
    /// Where hosts of callback URLs are to be found. An https URL needs one, and is sent there in
    /// clear text, as a proxy that ends TLS would pass it on.
    pub routes: Vec<(String, SocketAddr)>,
    pub key: KeyFault,
    pub sts: CredentialFault,
    pub metadata: CredentialFault,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            refuse_v1: false,
            posts: VecDeque::new(),
            reads: VecDeque::new(),
            hang_reads: false,
            cors: vec![CorsRule::uploads_from("*")],
            callback_fail: None,
            callback_delay: Duration::ZERO,
            callback_timeout: Duration::from_secs(5),
            callback_tamper: None,
            callback_corrupt: None,
            callback_http10: false,
            pub_key_url: PUB_KEY_URL.to_string(),
            space_as_plus: false,
            path_decoding: PathDecoding::default(),
            routes: Vec::new(),
            key: KeyFault::default(),
            sts: CredentialFault::default(),
            metadata: CredentialFault::default(),
        }
    }
}

impl Faults {
    /// The next `count` POSTs get this status and XML code.
    pub fn fail_posts(&mut self, count: usize, status: u16, code: &str) {
        self.posts.extend((0..count).map(|_| PostFault::Answer(status, code.to_string())));
    }
}

/// A running bucket and the hosts beside it. Clones are the same one; the last that is dropped
/// ends it.
#[derive(Clone)]
pub struct Standin(Arc<Running>);

struct Running {
    shared: Arc<Shared>,
    bucket: server::Listener,
    keys: server::Listener,
    sts: server::Listener,
    metadata: server::Listener,
}

impl fmt::Debug for Standin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Standin({})", self.url())
    }
}

impl Standin {
    pub fn start(options: Options) -> io::Result<Standin> {
        let shared = Arc::new(Shared::new(options));
        let bucket = server::listen(&shared, 0, server::bucket)?;
        let keys = server::listen(&shared, 1, keys::answer)?;
        let sts = server::listen(&shared, 2, sts::answer)?;
        let metadata = server::listen(&shared, 3, metadata::answer)?;
        let running = Running { shared: shared.clone(), bucket, keys, sts, metadata };
        let standin = Standin(Arc::new(running));
        shared.say(format_args!("bucket {} at {}", shared.options.bucket, standin.url()));
        Ok(standin)
    }

    /// `http://127.0.0.1:PORT`: the bucket.
    pub fn url(&self) -> String {
        format!("http://{}", self.0.bucket.address)
    }

    /// `http://127.0.0.1:PORT2`, which serves `/callback_pub_key_v1.pem`.
    pub fn key_origin(&self) -> String {
        format!("http://{}", self.0.keys.address)
    }

    /// `http://127.0.0.1:PORT3`: STS, which serves AssumeRole at `/`.
    pub fn sts_url(&self) -> String {
        format!("http://{}", self.0.sts.address)
    }

    /// `http://127.0.0.1:PORT4`: the metadata service of an ECS instance, in hardened mode.
    pub fn metadata_url(&self) -> String {
        format!("http://{}", self.0.metadata.address)
    }

    /// The environment of an appserver for this bucket.
    pub fn vars(&self) -> Vec<(&'static str, String)> {
        let options = self.0.shared.options.clone();
        vec![
            ("OSS_ACCESS_KEY_ID", options.access_key_id),
            ("OSS_ACCESS_KEY_SECRET", options.access_key_secret),
            ("OSS_SESSION_TOKEN", options.security_token.unwrap_or_default()),
            ("OSS_HOST", self.url()),
            ("OSS_BUCKET", options.bucket),
            ("OSS_REGION", options.region),
            ("CALLBACK_KEY_ORIGIN", self.key_origin()),
        ]
    }

    /// What changes in it for the credentials of a role, from STS or the metadata service.
    pub fn role_vars(&self, source: Source) -> Vec<(&'static str, String)> {
        let options = self.0.shared.options.clone();
        match source {
            Source::Sts => {
                vec![("OSS_STS_ROLE_ARN", options.role_arn), ("OSS_STS_ENDPOINT", self.sts_url())]
            }
            Source::Ecs => vec![
                ("OSS_ACCESS_KEY_ID", String::new()),
                ("OSS_ACCESS_KEY_SECRET", String::new()),
                ("OSS_ECS_ROLE", options.ecs_role),
                ("OSS_ECS_ENDPOINT", self.metadata_url()),
            ],
        }
    }

    pub fn public_key_pem(&self) -> &str {
        &self.0.shared.public_pem
    }

    pub fn object(&self, key: &str) -> Option<Object> {
        self.0.shared.state().objects.get(key).cloned()
    }

    pub fn keys(&self) -> Vec<String> {
        self.0.shared.state().objects.keys().cloned().collect()
    }

    /// Puts an object straight in, without a request.
    pub fn put(&self, key: &str, bytes: &[u8], content_type: &str) {
        let (object, _) = Object::new(bytes.to_vec(), content_type);
        self.0.shared.state().objects.insert(key.to_string(), object);
    }

    /// Takes an object out; whether there was one.
    pub fn remove(&self, key: &str) -> bool {
        self.0.shared.state().objects.remove(key).is_some()
    }

    pub fn posts(&self) -> Vec<PostRecord> {
        self.0.shared.state().posts.clone()
    }

    pub fn callbacks(&self) -> Vec<CallbackRecord> {
        self.0.shared.state().callbacks.clone()
    }

    pub fn reads(&self) -> Vec<ReadRecord> {
        self.0.shared.state().reads.clone()
    }

    /// The target of every request to the key host.
    pub fn key_requests(&self) -> Vec<String> {
        self.0.shared.state().key_requests.clone()
    }

    /// Every temporary credential so far, the expired too.
    pub fn issued(&self) -> Vec<Issued> {
        self.0.shared.state().issued.clone()
    }

    /// How many requests came to STS and to the metadata service, the failed included: a credential
    /// of an ECS role takes two, its token and itself.
    pub fn credential_requests(&self) -> usize {
        self.0.shared.state().credential_requests
    }

    /// Waits until there are `count` records; after `limit` it gives what there is.
    pub fn wait_for_callbacks(&self, count: usize, limit: Duration) -> Vec<CallbackRecord> {
        self.0.shared.wait(limit, |state| state.callbacks.len() >= count).callbacks.clone()
    }

    pub fn wait_for_key_requests(&self, count: usize, limit: Duration) -> Vec<String> {
        self.0.shared.wait(limit, |state| state.key_requests.len() >= count).key_requests.clone()
    }

    pub fn wait_for_credential_requests(&self, count: usize, limit: Duration) -> usize {
        let state = self.0.shared.wait(limit, |state| state.credential_requests >= count);
        state.credential_requests
    }

    /// Waits until that many requests have been held since the start; whether they were.
    pub fn wait_for_stalls(&self, count: usize, limit: Duration) -> bool {
        self.0.shared.wait(limit, |state| state.stalls >= count).stalls >= count
    }

    /// Lets everything go on that a stall, a hang or a delay holds now.
    pub fn release(&self) {
        self.0.shared.state().releases += 1;
        self.0.shared.changed.notify_all();
    }

    /// The switches, locked as long as the guard lives: requests wait for it.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.0.shared.faults()
    }

    /// The `authorization` that OSS would send with this target and body.
    pub fn sign(&self, target: &str, body: &[u8]) -> String {
        let decoding = self.faults().path_decoding;
        self.0.shared.key.sign(target, body, decoding)
    }

    /// The same by the holder of another key.
    pub fn sign_with(private_key_pem: &str, target: &str, body: &[u8]) -> Option<String> {
        let key = sign::CallbackKey::from_pem(private_key_pem)?;
        Some(key.sign(target, body, PathDecoding::default()))
    }

    /// The complete request that OSS would send; the switches for headers apply.
    pub fn callback_request(
        &self,
        target: &str,
        host: &str,
        body: &[u8],
        content_type: &str,
    ) -> Vec<u8> {
        let (shared, id) = (&self.0.shared, server::request_id());
        let body = body.to_vec();
        notify::request(shared, &self.faults(), target, host, body, content_type, &id).raw
    }

    /// Unix seconds at which the clock of all its hosts stands; `None`: the real time.
    pub fn set_clock(&self, now: Option<u64>) {
        self.0.shared.state().clock = now;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.stopped.store(true, Ordering::SeqCst);
        {
            // Under the lock, so that no thread can miss it between its look and its wait.
            let _state = shared.state();
            shared.changed.notify_all();
        }
        self.bucket.end();
        self.keys.end();
        self.sts.end();
        self.metadata.end();
        for connection in lock(&shared.connections).drain(..).filter_map(|weak| weak.upgrade()) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// What all threads of a stand-in share.
pub(crate) struct Shared {
    options: Options,
    key: sign::CallbackKey,
    public_pem: String,
    state: Mutex<State>,
    changed: Condvar,
    faults: Mutex<Faults>,
    stopped: AtomicBool,
    connections: Mutex<Vec<Weak<TcpStream>>>,
}

#[derive(Default)]
pub(crate) struct State {
    objects: BTreeMap<String, Object>,
    posts: Vec<PostRecord>,
    callbacks: Vec<CallbackRecord>,
    reads: Vec<ReadRecord>,
    key_requests: Vec<String>,
    issued: Vec<Issued>,
    credential_requests: usize,
    /// of AssumeRole, used up
    nonces: HashSet<String>,
    /// of the metadata service, and when each ends in Unix seconds
    metadata_tokens: Vec<(String, u64)>,
    clock: Option<u64>,
    stalls: usize,
    releases: usize,
}

impl Shared {
    fn new(options: Options) -> Shared {
        let key = sign::CallbackKey::from_pem(PRIVATE_KEY_PEM);
        let key = key.expect("the key in the source is a good one");
        Shared {
            options,
            public_pem: key.public_pem(),
            key,
            state: Mutex::default(),
            changed: Condvar::new(),
            faults: Mutex::default(),
            stopped: AtomicBool::new(false),
            connections: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    /// Adds a record, and wakes who waits for it.
    fn record(&self, add: impl FnOnce(&mut State)) {
        add(&mut self.state());
        self.changed.notify_all();
    }

    fn now(&self) -> u64 {
        let real = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        self.state().clock.unwrap_or_else(real)
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// What a credential host is to do with a request that has just come; `None`: it has hung.
    fn credential_fault(&self, of: fn(&Faults) -> &CredentialFault) -> Option<CredentialFault> {
        self.record(|state| state.credential_requests += 1);
        let fault = of(&self.faults()).clone();
        if fault != CredentialFault::Hang {
            return Some(fault);
        }
        self.hold(None);
        None
    }

    /// Holds the calling thread for a time, or until `release` or the end.
    fn hold(&self, limit: Option<Duration>) {
        let mut state = self.state();
        state.stalls += 1;
        let releases = state.releases;
        drop(state);
        self.changed.notify_all();
        let limit = limit.unwrap_or(Duration::from_secs(24 * 3600));
        drop(self.wait(limit, |state| state.releases != releases || self.stopped()));
    }

    fn wait(&self, limit: Duration, mut done: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        let waiting = self.changed.wait_timeout_while(self.state(), limit, |state| !done(state));
        waiting.unwrap_or_else(PoisonError::into_inner).0
    }

    fn say(&self, what: fmt::Arguments) {
        if self.options.verbose {
            println!("oss: {what}");
        }
    }
}

/// A test that panicked under a lock does not stop the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
