//! The fixture of most tests: the stand-in's bucket, a folder, and a server that signs for the
//! bucket and keeps its record in the folder.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use oss_standin::{CallbackRecord, Options, PUB_KEY_URL, Standin};
use serde_json::{Value, json};

use crate::trust::{self, JWT_SECRET, TOKEN_KEY, callback_token, now, ticket};
use crate::{Folder, Reply, Run, Server, request, run};

/// The path of the original contract, and of the one with V4 signatures.
pub const V1: &str = "/";
pub const V4: &str = "/get_post_signature_for_oss_upload";
pub const FORM: &str = "application/x-www-form-urlencoded";

/// A bucket, and the environment of servers for it. They verify callbacks with the bucket's own key
/// (`key.pem` in the folder), record under `record`, and sign for `user/`. Tokens are off, as in
/// [`Server::start`].
pub struct Site {
    pub bucket: Standin,
    pub folder: Folder,
    vars: BTreeMap<String, String>,
}

impl Site {
    /// With these variables added or put in the place of its own; an empty value removes.
    pub fn new(changes: &[(&str, &str)]) -> Site {
        Site::of(Options::default(), changes)
    }

    /// The same for a bucket that is like this.
    pub fn of(options: Options, changes: &[(&str, &str)]) -> Site {
        Site::beside(Standin::start(options).expect("a bucket"), changes)
    }

    /// The same for this bucket, which others may use too.
    pub fn beside(bucket: Standin, changes: &[(&str, &str)]) -> Site {
        let folder = Folder::new();
        std::fs::write(folder.0.join("key.pem"), bucket.public_key_pem()).expect("a key file");
        std::fs::create_dir(folder.0.join("record")).expect("a folder");
        let (key, record) = (folder.path("key.pem"), folder.path("record"));
        let own = [
            ("CALLBACK_PUBLIC_KEY_FILE", key),
            ("UPLOAD_LOG", record),
            ("UPLOAD_DIR", "user/".to_owned()),
            ("RUNTIME_DIRECTORY", folder.path("")),
        ];
        let mut vars: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in bucket.vars().into_iter().chain(own) {
            vars.insert(name.to_owned(), value);
        }
        for (name, value) in changes {
            vars.insert((*name).to_owned(), (*value).to_owned());
        }
        Site { bucket, folder, vars }
    }

    /// The environment after `changes`.
    pub fn vars<'a>(&'a self, changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own = self.vars.iter().map(|(name, value)| (&**name, &**value));
        own.chain(changes.iter().copied()).collect()
    }

    /// The same without what is empty.
    pub fn exact<'a>(&'a self, changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut vars: BTreeMap<&str, &str> = self.vars(changes).into_iter().collect();
        vars.retain(|_, value| !value.is_empty());
        vars.into_iter().collect()
    }

    /// A server that the bucket calls back at `/callback`.
    pub fn start(&self, changes: &[(&str, &str)]) -> Server {
        Server::start_called_back(&self.vars(changes))
    }

    /// Runs the binary to its end.
    pub fn run(&self, arguments: &[&str], changes: &[(&str, &str)]) -> Run {
        run(arguments, &self.exact(changes))
    }

    /// The lines of the record.
    pub fn record(&self) -> Vec<Value> {
        record(&self.folder.0.join("record"))
    }

    /// The objects in the record.
    pub fn objects(&self) -> Vec<String> {
        objects(&self.folder.0.join("record"))
    }

    /// A good callback about an object of five bytes, as the bucket sends it.
    pub fn callback(&self, target: &str, object: &str) -> Vec<u8> {
        self.bucket.callback_request(target, "example.com", body(object, 5, "E").as_bytes(), FORM)
    }

    /// A good callback about an object in `folder` with a token for it, by `TOKEN_KEY`; the
    /// connection stays open.
    pub fn callback_with_token(&self, path: &str, folder: &str, object: &str) -> Vec<u8> {
        let token = callback_token(TOKEN_KEY, path, now() + 3600, folder);
        let target = format!("{path}?token={token}");
        let body = body(&format!("{folder}{object}"), 5, "E");
        let authorization = self.bucket.sign(&target, body.as_bytes());
        trust::callback(&target, &authorization, FORM, body.as_bytes())
    }

    /// Puts an object in and gives the callback's body for it.
    pub fn put(&self, key: &str, bytes: &[u8]) -> String {
        self.bucket.put(key, bytes, "text/plain");
        let etag = self.bucket.object(key).expect("an object").etag;
        body(key, bytes.len(), &etag)
    }

    /// The callback that the bucket made last, of so many.
    pub fn last_callback(&self, count: usize) -> CallbackRecord {
        let mut callbacks = self.bucket.wait_for_callbacks(count, Duration::from_secs(30));
        assert_eq!(callbacks.len(), count);
        callbacks.pop().expect("a callback")
    }

    /// A callback that OSS's own key has signed, whoever made it do so.
    pub fn call_to(&self, server: &Server, target: &str, body: &str) -> Reply {
        let authorization = self.bucket.sign(target, body.as_bytes());
        call_with(server, target, (&authorization, PUB_KEY_URL), body)
    }
}

fn body(object: &str, size: usize, etag: &str) -> String {
    let name = object.replace('/', "%2F");
    format!("filename={name}&size={size}&bucket=examplebucket&etag={etag}")
}

/// The variables as most functions take them.
pub fn borrowed<'a>(vars: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    vars.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// The policy that a server has at this path.
pub fn policy(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Value {
    let reply = request(address, "GET", target, headers, b"");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// The lines in all files of a record, the oldest first. Each is whole.
pub fn record(folder: &Path) -> Vec<Value> {
    let files = std::fs::read_dir(folder).expect("a folder");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let mut lines = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.is_empty() || text.ends_with('\n'), "{}: torn", path.display());
        for line in text.lines() {
            let value = serde_json::from_str(line);
            lines.push(value.unwrap_or_else(|error| panic!("{error}: {line:?}")));
        }
    }
    lines
}

/// The objects in all files of a record.
pub fn objects(folder: &Path) -> Vec<String> {
    let name = |line: &Value| line["object"].as_str().expect("an object").to_owned();
    record(folder).iter().map(name).collect()
}

/// A site, and one server that runs.
pub struct World {
    pub site: Site,
    pub server: Server,
}

impl World {
    /// Starts a server with these variables added or put in the place of its own.
    pub fn new(changes: &[(&str, &str)]) -> World {
        World::of(Options::default(), changes)
    }

    /// The same for a bucket that is like this.
    pub fn of(options: Options, changes: &[(&str, &str)]) -> World {
        let site = Site::of(options, changes);
        let server = site.start(&[]);
        World { site, server }
    }

    pub fn get(&self, target: &str, headers: &[(&str, &str)]) -> Reply {
        request(self.server.address, "GET", target, headers, b"")
    }

    /// The policy that is served at this path.
    pub fn policy(&self, target: &str) -> Value {
        policy(self.server.address, target, &[])
    }

    pub fn call(&self, target: &str, body: &str) -> Reply {
        self.call_to(&self.server, target, body)
    }

    /// What who shows this ticket is told at a path.
    pub fn ask(&self, target: &str, ticket: &str) -> Reply {
        self.get(target, &[("Authorization", &format!("Bearer {ticket}"))])
    }

    /// The V4 policy for who shows this ticket.
    pub fn policy_of(&self, ticket: &str) -> Value {
        policy(self.server.address, V4, &[("Authorization", &format!("Bearer {ticket}"))])
    }

    pub fn policy_for(&self, subject: &str) -> Value {
        self.policy_of(&ticket_for(subject))
    }

    /// The line of the POST that was answered last.
    pub fn last_post(&self) -> String {
        let mut log = self.server.log().into_iter();
        log.rfind(|line| line.contains(" POST ")).expect("a POST")
    }
}

impl Deref for World {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

/// Of a server that asks for upload tokens and issues callback tokens.
pub const TOKENS: [(&str, &str); 3] = [
    ("UPLOAD_JWT_SECRET", JWT_SECRET),
    ("CALLBACK_TOKEN", "on"),
    ("CALLBACK_TOKEN_KEY", TOKEN_KEY),
];

/// A ticket of ten minutes with these claims beside `sub`.
pub fn ticket_with(subject: &str, claims: &Value) -> String {
    let mut all = json!({ "sub": subject, "exp": now() + 600 });
    for (name, value) in claims.as_object().expect("claims") {
        all[name] = value.clone();
    }
    ticket(JWT_SECRET, &all)
}

pub fn ticket_for(subject: &str) -> String {
    ticket_with(subject, &json!({}))
}

/// Posts a callback whose signature and key are as they are.
pub fn call_with(server: &Server, target: &str, signed: (&str, &str), body: &str) -> Reply {
    let (authorization, key_url) = (signed.0, STANDARD.encode(signed.1));
    let headers = [
        ("Authorization", authorization),
        ("x-oss-pub-key-url", &*key_url),
        ("Content-Type", FORM),
    ];
    request(server.address, "POST", target, &headers, body.as_bytes())
}
