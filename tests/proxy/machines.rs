//! More than one machine: two servers that share nothing but their configuration, behind the nginx
//! of `tests/proxy` or by two callback URLs, while one of them is killed; and what rsyslog makes of
//! their records.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::documents;
use support::hostile::Random;
use support::load::beside;
use support::proxy::{self, Proxy};
use support::trust::{JWT_SECRET, TOKEN_KEY, now, ticket};
use support::world::Site;
use support::{Connection, Folder, PATIENCE, Process, Reply, Server, send, upload};

const OK: &str = r#"{"Status":"OK"}"#;

/// One bucket, and a place for machines.
struct World {
    site: Site,
    callback_url: String,
}

/// A server with a record of its own, on a Unix socket of its own; it may be down.
struct Machine {
    site: Site,
    running: Option<Server>,
}

impl World {
    fn new(callback_url: &str) -> World {
        World { site: Site::new(&[]), callback_url: callback_url.to_owned() }
    }

    /// Two machines, and the nginx of `tests/proxy` in front of them.
    fn balanced() -> (World, Machine, Machine, Proxy) {
        let mut world = World::new("");
        let (a, b) = (world.machine(), world.machine());
        let front = proxy::file("nginx.conf", &[]);
        let (single, rest) = front.split_once("upstream appserver {").expect("an upstream");
        let (_, rest) = rest.split_once("}\n").expect("its end");
        let upstream = proxy::file("nginx-machines.conf", &[]);
        let nginx = Proxy::nginx(&world.site.folder.0, 1, |ports| {
            let places = [
                ("listen 443 ssl ", &*format!("listen 127.0.0.1:{} ", ports[0])),
                ("    ssl_certificate /etc/ssl/upload.pem;\n", ""),
                ("    ssl_certificate_key /etc/ssl/upload.key;\n", ""),
                ("10.0.0.1:8080", &format!("unix:{}", a.socket().display())),
                ("10.0.0.2:8080", &format!("unix:{}", b.socket().display())),
                // A disk that others keep busy is not what is tested here.
                ("proxy_connect_timeout 1s", "proxy_connect_timeout 60s"),
                ("proxy_read_timeout 3s", "proxy_read_timeout 60s"),
            ];
            documents::moved(&format!("{single}{upstream}{rest}"), &places)
        });
        world.callback_url = format!("http://{}/upload/callback", nginx.address(0));
        (world, a, b, nginx)
    }

    fn machine(&self) -> Machine {
        let changes = [
            ("CALLBACK_TOKEN", "on"),
            ("CALLBACK_TOKEN_KEY", TOKEN_KEY),
            ("UPLOAD_JWT_SECRET", JWT_SECRET),
            ("PUBLIC_PATH_PREFIX", "/upload"),
        ];
        Machine { site: Site::beside(self.site.bucket.clone(), &changes), running: None }
    }

    /// A good callback about an object, with the token that all machines take.
    fn message(&self, object: &str) -> Vec<u8> {
        self.site.callback_with_token("/upload/callback", "user/alice/", object)
    }

    fn start(&self, machine: &mut Machine) {
        self.start_with(machine, TOKEN_KEY);
    }

    fn start_with(&self, machine: &mut Machine, token_key: &str) {
        machine.running = None;
        let changes = [("CALLBACK_URL", &*self.callback_url), ("CALLBACK_TOKEN_KEY", token_key)];
        machine.running = Some(super::on_socket(&machine.socket(), &machine.site.vars(&changes)));
    }
}

impl Machine {
    fn socket(&self) -> PathBuf {
        self.site.folder.0.join("http.sock")
    }

    fn record(&self) -> PathBuf {
        self.site.folder.0.join("record")
    }

    fn server(&self) -> &Server {
        self.running.as_ref().expect("it runs")
    }

    /// As if the power had failed.
    fn kill(&mut self) {
        self.running.as_mut().expect("it runs").kill();
        self.running = None;
    }

    fn ask(&self, message: &[u8]) -> Reply {
        super::ask(&self.socket(), message)
    }

    /// A policy for `alice`.
    fn policy(&self) -> Value {
        let ticket = ticket(JWT_SECRET, &json!({ "sub": "alice", "exp": now() + 600 }));
        let reply = self.ask(
            format!(
                "GET /upload/get_post_signature_for_oss_upload HTTP/1.1\r\nHost: x\r\n\
                 Authorization: Bearer {ticket}\r\n\r\n"
            )
            .as_bytes(),
        );
        assert_eq!(reply.status, 200, "{}", reply.text());
        serde_json::from_slice(&reply.body).unwrap()
    }

    /// The objects in the record, without their folder.
    fn objects(&self) -> Vec<String> {
        self.site.objects().iter().map(|object| object.replace("user/alice/", "")).collect()
    }
}

/// What a client has: uploads to the bucket with a policy; gives status and answer.
fn put(policy: &Value, name: &str) -> (u16, String) {
    let reply = upload(policy, name, b"hello", &[]);
    (reply.status, reply.text())
}

/// Load balancing: two servers behind nginx share a token key, so a callback may reach either.
#[test]
fn a_policy_of_one_is_called_back_at_the_other() {
    let (world, mut a, mut b, _nginx) = World::balanced();
    world.start(&mut a);
    let policy = a.policy();
    a.kill();
    world.start(&mut b);
    assert_eq!(put(&policy, "1.txt"), (200, OK.to_owned()));
    assert_eq!((a.objects().len(), b.objects()), (0, vec!["1.txt".to_owned()]));
    let policy = b.policy();
    b.kill();
    world.start(&mut a);
    // nginx has just seen A fail, and may leave it alone for its second.
    let deadline = Instant::now() + PATIENCE;
    while put(&policy, "2.txt") != (200, OK.to_owned()) {
        assert!(Instant::now() < deadline, "A is never asked again");
    }
    assert!(a.objects().contains(&"2.txt".to_owned()));

    // With another key it would not be: all must have the same.
    let raw = world.site.bucket.callbacks()[0].raw.clone();
    assert_eq!(a.ask(&raw).text(), OK);
    let mut stranger = world.machine();
    world.start_with(&mut stranger, "anotherKeyOfMoreThanThirtyTwoCharacters");
    let reply = stranger.ask(&raw);
    assert!(reply.status == 400 && reply.text().contains("token"), "{}", reply.text());
    assert_eq!(stranger.objects().len(), 0);
}

/// High availability without a proxy: OSS tries the second callback URL when the first is down.
#[test]
fn with_two_callback_urls_nothing_stands_in_between() {
    let world =
        World::new("http://a.example.com/upload/callback;http://b.example.com/upload/callback");
    let (mut a, mut b) = (world.machine(), world.machine());
    world.start(&mut a);
    world.start(&mut b);
    // The bucket calls TCP; each name leads to the socket of its machine.
    let nginx = Proxy::nginx(&world.site.folder.0, 2, |ports| {
        let server = |(port, machine): (&u16, &Machine)| {
            let socket = machine.socket();
            let socket = socket.display();
            format!(
                "server {{ listen 127.0.0.1:{port}; location / {{ \
                 proxy_pass http://unix:{socket}; }} }}\n"
            )
        };
        ports.iter().zip([&a, &b]).map(server).collect()
    });
    for (index, name) in ["a.example.com", "b.example.com"].into_iter().enumerate() {
        world.site.bucket.faults().routes.push((name.to_owned(), nginx.address(index)));
    }
    let policy = b.policy();
    assert_eq!(put(&policy, "1.txt"), (200, OK.to_owned()));
    a.kill();
    assert_eq!(put(&policy, "2.txt"), (200, OK.to_owned()));
    assert_eq!((a.objects(), b.objects()), (vec!["1.txt".to_owned()], vec!["2.txt".to_owned()]));
}

/// A client that calls back over nginx until it is over: what was answered 200, and the others.
#[derive(Default)]
struct Answers {
    acknowledged: Mutex<Vec<String>>,
    refused: Mutex<Vec<(u16, String)>>,
}

impl Answers {
    fn load(&self, world: &World, nginx: SocketAddr, client: usize, over: &AtomicBool) {
        let mut connection = Connection::open(nginx).unwrap();
        for n in 0.. {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let object = format!("{client}-{n}");
            let reply = connection.ask(&world.message(&object));
            let reply = reply.expect("nginx answers, whatever is behind it");
            match reply.status {
                200 => self.acknowledged.lock().unwrap().push(object),
                status => self.refused.lock().unwrap().push((status, reply.text())),
            }
            if reply.header("connection") == Some("close") {
                connection = Connection::open(nginx).unwrap();
            }
        }
    }
}

/// `kill -9` of one of two at random moments under load, over and over.
#[test]
fn with_one_of_two_killed_over_and_over_every_callback_is_answered_200() {
    const CLIENTS: usize = 4;
    let rounds = support::rounds(6, 2);
    let (world, mut a, mut b, nginx) = World::balanced();
    world.start(&mut a);
    world.start(&mut b);
    let answers = Answers::default();
    let mut random = Random(now() << 20 | u64::from(std::process::id()));
    println!("seed {}", random.0);
    let start = Instant::now();
    let front = nginx.address(0);
    let client = |number, over: &AtomicBool| answers.load(&world, front, number, over);
    beside(CLIENTS, client, || {
        for _ in 0..rounds {
            // The load has come back to it.
            a.server().wait_log("\" 200 callback");
            thread::sleep(Duration::from_micros(random.below(200_000) as u64));
            a.kill();
            world.start(&mut a);
        }
    });
    let (acknowledged, refused) =
        (answers.acknowledged.into_inner().unwrap(), answers.refused.into_inner().unwrap());
    let (by_a, by_b) = (a.objects(), b.objects());
    let recorded: BTreeSet<&String> = by_a.iter().chain(&by_b).collect();
    let lost = acknowledged.iter().filter(|object| !recorded.contains(object)).count();
    let twice = by_a.len() + by_b.len() - recorded.len();
    println!(
        "{rounds} kills in {:.1?}: {} acknowledged, {} refused, {lost} lost, {} recorded by one, \
         {} by the other, {twice} twice",
        start.elapsed(),
        acknowledged.len(),
        refused.len(),
        by_a.len(),
        by_b.len(),
    );
    assert_eq!(lost, 0);
    assert!(refused.is_empty(), "{refused:?}");
    assert!(by_a.len() > rounds && by_b.len() > 15 * rounds, "too little load to show anything");
    assert!(twice <= rounds * CLIENTS, "only what a kill cut off is sent again");

    // Both records as one, as the document merges them.
    let merge = documents::block("tests/proxy/README.md", "sh", "jq -sc");
    let place = Folder::new();
    for (name, machine) in [("a", &a), ("b", &b)] {
        std::os::unix::fs::symlink(machine.record(), place.0.join(name)).unwrap();
    }
    let merge = documents::moved(&merge, &[("/srv/records/", &place.path(""))]);
    let output = Command::new("sh").args(["-c", &merge]).output().unwrap();
    let merged = String::from_utf8(output.stdout).unwrap();
    assert_eq!(merged.lines().count(), recorded.len());
}

/// nginx proxy_next_upstream: a 500 or a refused connection goes to the other server, a 400 does
/// not.
#[test]
fn what_one_cannot_record_the_other_does_and_with_both_down_it_is_502() {
    let (world, mut a, mut b, nginx) = World::balanced();
    world.start(&mut a);
    world.start(&mut b);
    fs::remove_dir_all(a.record()).unwrap();
    let ask = |object: &str| send(nginx.address(0), &world.message(object), false).unwrap();
    for n in 0..10 {
        assert_eq!(ask(&n.to_string()).status, 200);
    }
    a.server().wait_log("upload log: ");
    assert_eq!(b.objects().len(), 10);
    // What is refused for what it is goes to nobody else.
    let forged = String::from_utf8(world.message("forged")).unwrap().replace("size=5", "size=6");
    assert_eq!(send(nginx.address(0), forged.as_bytes(), false).unwrap().status, 400);
    let refusals = |machine: &Machine| {
        machine.server().log().iter().filter(|line| line.contains("signature does not")).count()
    };
    assert_eq!(refusals(&a) + refusals(&b), 1);

    fs::create_dir(a.record()).unwrap();
    let policy = b.policy();
    a.kill();
    b.kill();
    assert_eq!(ask("nobody").status, 502);
    let (status, answer) = put(&policy, "unheard.txt");
    assert!(status == 203 && answer.contains("CallbackFailed"), "{status} {answer}");
    world.start(&mut a);
    world.start(&mut b);
    let deadline = Instant::now() + PATIENCE;
    while ask("back").status != 200 {
        assert!(Instant::now() < deadline, "nobody is asked again");
    }
    let all = [a.objects(), b.objects()].concat();
    assert!(all.contains(&"back".to_owned()) && !all.contains(&"nobody".to_owned()));
}

/// rsyslog in the foreground.
fn rsyslog(folder: &Folder) -> Process {
    let mut command = Command::new("rsyslogd");
    command.args(["-n", "-f", &folder.path("rsyslog.conf"), "-i", &folder.path("pid")]);
    Process::start(&mut command).unwrap_or_else(|error| {
        panic!(
            "rsyslogd does not start ({error}), and this test needs the real one; run tests/run as \
             root, or: apt-get install rsyslog"
        )
    })
}

/// `tests/proxy/rsyslog.conf`: every line of a record arrives elsewhere, whole and once, also when
/// rsyslog was away meanwhile.
#[test]
fn rsyslog_brings_each_line_of_the_record_elsewhere() {
    let folder = Folder::new();
    let place = folder.0.display().to_string();
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("port=\"{}\"", receiver.local_addr().unwrap().port());
    let places = [
        ("/var/lib/appserver/", &*format!("{place}/")),
        ("10.0.0.9", "127.0.0.1"),
        ("port=\"6514\"", &port),
    ];
    // What Debian's own rsyslog.conf says before it reads this file.
    let debian = format!("global(workDirectory=\"{place}\")\n");
    let config = debian + &proxy::file("rsyslog.conf", &places);
    fs::write(folder.0.join("rsyslog.conf"), config).unwrap();

    let line = |number: usize| {
        // The second is as long as few are.
        let body = "x".repeat(if number == 1 { 400_000 } else { 20 });
        json!({ "object": number.to_string(), "body": body }).to_string() + "\n"
    };
    let append = |number: usize| {
        let path = folder.0.join("uploads-2026-11-21.jsonl");
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(line(number).as_bytes()).unwrap();
    };
    // These lines and no other come over the next connection.
    let arrive = |mut rsyslog: Process, numbers: [usize; 2]| {
        let (stream, _) = receiver.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(stream);
        for number in numbers {
            let mut text = String::new();
            reader.read_line(&mut text).unwrap();
            assert!(text == line(number), "line {number}: {} bytes came", text.len());
        }
        rsyslog.stop();
        let mut more = Vec::new();
        reader.read_to_end(&mut more).unwrap();
        assert_eq!(more, b"");
    };
    append(0);
    append(1);
    arrive(rsyslog(&folder), [0, 1]);
    append(2);
    let again = rsyslog(&folder);
    append(3);
    arrive(again, [2, 3]);
}
