//! The record of uploads: what is acknowledged is on disk, whole, whatever happens. First the
//! module with a clock of our own, then the real binary: killed, out of space, out of its folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use appserver::trust::upload_log::UploadLog;
use oss_standin::{Options, Standin};
use serde_json::Value;
use support::trust::{Connection, callback, callback_token, now};
use support::{Folder, Reply, Server, binary, request, run};

const DAY: u64 = 86_400;
/// 2026-11-21T12:00:00Z
const NOON: u64 = 1_795_262_400;
const TOKEN_KEY: &str = "tokenKeyOfMoreThanThirtyTwoCharacters";
const NOT_RECORDED: &str = "upload could not be recorded";

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The objects in all files of a record; every line is whole and parses.
fn objects(folder: &Path) -> Vec<String> {
    let mut objects = Vec::new();
    for name in names(folder) {
        let text = fs::read_to_string(folder.join(&name)).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{name} is torn");
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| {
                panic!("{name}: {error}: {line:?}");
            });
            objects.push(line["object"].as_str().unwrap().to_owned());
        }
    }
    objects
}

// The module.

#[test]
fn each_day_has_its_file() {
    let folder = Folder::new();
    let mut uploads = UploadLog::open(folder.0.clone(), NOON).unwrap();
    assert_eq!(names(&folder.0), ["uploads-2026-11-21.jsonl"]);
    uploads.append(b"1\n", NOON).unwrap();
    uploads.append(b"2\n3\n", NOON + DAY / 2 - 1).unwrap();
    uploads.append(b"4\n", NOON + DAY / 2).unwrap();
    uploads.append(b"5\n", NOON + 41 * DAY).unwrap();
    assert_eq!(folder.read("uploads-2026-11-21.jsonl"), "1\n2\n3\n");
    assert_eq!(folder.read("uploads-2026-11-22.jsonl"), "4\n");
    assert_eq!(folder.read("uploads-2027-01-01.jsonl"), "5\n");
    assert_eq!(names(&folder.0).len(), 3);
}

/// A machine without a battery for its clock starts in 1970; NTP moves it, and may move it back.
#[test]
fn the_clock_at_1970_and_stepping_back() {
    let folder = Folder::new();
    let mut uploads = UploadLog::open(folder.0.clone(), 0).unwrap();
    for (line, now) in [
        ("a\n", 0),
        ("b\n", 1),
        ("c\n", NOON),
        ("d\n", NOON - 2 * DAY),
        ("e\n", NOON),
        ("f\n", 0),
        ("g\n", NOON),
    ] {
        uploads.append(line.as_bytes(), now).unwrap();
    }
    assert_eq!(folder.read("uploads-1970-01-01.jsonl"), "a\nb\nf\n");
    assert_eq!(folder.read("uploads-2026-11-19.jsonl"), "d\n");
    assert_eq!(folder.read("uploads-2026-11-21.jsonl"), "c\ne\ng\n");
}

#[test]
fn a_torn_tail_is_taken_off_at_the_start() {
    let long = "x".repeat(900_000);
    for (before, after) in [
        ("", ""),
        ("\n", "\n"),
        ("{}\n", "{}\n"),
        ("{}\n{}\n", "{}\n{}\n"),
        ("{}\n{\"time\":\"2026", "{}\n"),
        ("{}\n{}", "{}\n"), // whole by chance: nobody was told of it
        ("{\"time\"", ""),
        ("{}\n\0\0\0\0", "{}\n"),
        ("\0", ""),
        (&format!("{{}}\n{long}"), "{}\n"),
        (&format!("{long}\n{{"), &format!("{long}\n")),
        (&format!("{long}\n{long}\n{long}"), &format!("{long}\n{long}\n")),
    ] {
        let folder = Folder::new();
        let path = folder.0.join("uploads-2026-11-21.jsonl");
        fs::write(&path, before).unwrap();
        let mut uploads = UploadLog::open(folder.0.clone(), NOON).unwrap();
        assert!(fs::read_to_string(&path).unwrap() == after, "{} bytes", before.len());
        uploads.append(b"new\n", NOON).unwrap();
        assert!(fs::read_to_string(&path).unwrap() == format!("{after}new\n"));
    }
}

/// A crash before midnight, a start after it: the file of the day before has the torn line.
#[test]
fn a_torn_tail_of_another_day_is_taken_off_too() {
    let folder = Folder::new();
    for (name, text) in [
        ("uploads-2026-11-20.jsonl", "{}\n{\"time\":"),
        ("uploads-2026-11-21.jsonl", "{}\n{"),
        ("uploads-2026-11-22.jsonl", "{}\n{"), // the clock stepped back
        ("notes.txt", "not\nours"),
    ] {
        fs::write(folder.0.join(name), text).unwrap();
    }
    UploadLog::open(folder.0.clone(), NOON).unwrap();
    assert_eq!(folder.read("uploads-2026-11-20.jsonl"), "{}\n");
    assert_eq!(folder.read("uploads-2026-11-21.jsonl"), "{}\n");
    assert_eq!(folder.read("uploads-2026-11-22.jsonl"), "{}\n");
    assert_eq!(folder.read("notes.txt"), "not\nours");
}

#[test]
fn a_file_that_is_renamed_removed_or_truncated_is_followed() {
    let folder = Folder::new();
    let path = folder.0.join("uploads-2026-11-21.jsonl");
    let mut uploads = UploadLog::open(folder.0.clone(), NOON).unwrap();
    uploads.append(b"1\n", NOON).unwrap();
    fs::rename(&path, folder.0.join("rotated")).unwrap();
    uploads.append(b"2\n", NOON).unwrap();
    fs::remove_file(&path).unwrap();
    uploads.append(b"3\n", NOON).unwrap();
    assert_eq!(
        (folder.read("rotated"), fs::read_to_string(&path).unwrap()),
        ("1\n".into(), "3\n".into())
    );
    // logrotate's copytruncate
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    uploads.append(b"4\n", NOON).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "4\n");
    // Another file in its place, as a restored backup would be.
    fs::write(folder.0.join("other"), "0\n").unwrap();
    fs::rename(folder.0.join("other"), &path).unwrap();
    uploads.append(b"5\n", NOON).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "0\n5\n");
}

#[test]
fn a_folder_that_goes_is_an_error_until_it_is_back() {
    let folder = Folder::new();
    let mut uploads = UploadLog::open(folder.0.clone(), NOON).unwrap();
    uploads.append(b"1\n", NOON).unwrap();
    fs::remove_dir_all(&folder.0).unwrap();
    for now in [NOON, NOON + 1, NOON + DAY] {
        let error = uploads.append(b"2\n", now).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
    fs::create_dir(&folder.0).unwrap();
    uploads.append(b"3\n", NOON).unwrap();
    assert_eq!(folder.read("uploads-2026-11-21.jsonl"), "3\n");
    // Moved away and made anew: what comes then is in the new one.
    let away = folder.0.with_extension("away");
    fs::rename(&folder.0, &away).unwrap();
    fs::create_dir(&folder.0).unwrap();
    uploads.append(b"4\n", NOON).unwrap();
    assert_eq!(folder.read("uploads-2026-11-21.jsonl"), "4\n");
    assert_eq!(fs::read_to_string(away.join("uploads-2026-11-21.jsonl")).unwrap(), "3\n");
    fs::remove_dir_all(&away).unwrap();
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_at_once() {
    let folder = Folder::new();
    fs::create_dir(folder.0.join("uploads-2026-11-21.jsonl")).unwrap();
    assert!(UploadLog::open(folder.0.clone(), NOON).is_err());
    assert!(UploadLog::open(folder.0.join("nothing"), NOON).is_err());
    assert!(UploadLog::open("/proc".into(), NOON).is_err());
}

// The real binary.

/// A server with a record, and who can call it back: with a good token and OSS's signature.
struct World {
    bucket: Standin,
    folder: Folder,
    record: PathBuf,
}

impl World {
    fn new() -> World {
        let bucket = Standin::start(Options::default()).unwrap();
        let folder = Folder::new();
        fs::write(folder.0.join("key.pem"), bucket.public_key_pem()).unwrap();
        let record = folder.0.join("record");
        fs::create_dir(&record).unwrap();
        World { bucket, folder, record }
    }

    fn start(&self) -> Server {
        self.start_under(&[])
    }

    /// The server as the last of `words`, which must exec what follows them.
    fn start_under(&self, words: &[&str]) -> Server {
        let program = binary();
        let program = program.to_str().unwrap();
        let words: Vec<&str> = words.iter().copied().chain([program, "127.0.0.1", "0"]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        let key = self.folder.0.join("key.pem");
        Server::spawn(
            command,
            &[
                ("CALLBACK_PUBLIC_KEY_FILE", key.to_str().unwrap()),
                // Only for the names in its body: nobody calls it.
                ("CALLBACK_URL", "http://127.0.0.1:9/callback"),
                ("CALLBACK_TOKEN", "on"),
                ("CALLBACK_TOKEN_KEY", TOKEN_KEY),
                ("UPLOAD_DIR", "user/"),
                ("UPLOAD_LOG", self.record.to_str().unwrap()),
                ("RUNTIME_DIRECTORY", self.folder.0.to_str().unwrap()),
            ],
        )
    }

    /// A callback about an object, with `extra` bytes in a field of its own.
    fn message(&self, object: &str, extra: usize) -> Vec<u8> {
        let token = callback_token(TOKEN_KEY, "/callback", now() + 3600, "user/alice/");
        let target = format!("/callback?token={token}");
        let (name, extra) = (object.replace('/', "%2F"), "x".repeat(extra));
        let body = format!("filename={name}&size=5&bucket=examplebucket&etag=E&extra={extra}");
        let authorization = self.bucket.sign(&target, body.as_bytes());
        callback(&target, &authorization, "application/x-www-form-urlencoded", body.as_bytes())
    }

    fn call(&self, server: &Server, object: &str) -> Reply {
        self.call_long(server, object, 0)
    }

    fn call_long(&self, server: &Server, object: &str, extra: usize) -> Reply {
        let message = self.message(&format!("user/alice/{object}"), extra);
        Connection::open(server.address).unwrap().ask(&message).expect("an answer")
    }

    fn objects(&self) -> Vec<String> {
        let strip = |object: &String| object.strip_prefix("user/alice/").unwrap().to_owned();
        objects(&self.record).iter().map(strip).collect()
    }
}

/// 500, and the words.
fn is_not_recorded(reply: &Reply) -> bool {
    reply.status == 500 && reply.text().contains(NOT_RECORDED)
}

/// Once in a second at most, however many callbacks fail in it.
fn complaints(server: &Server) -> Vec<String> {
    let complaints: Vec<String> =
        server.log().into_iter().filter(|line| line.contains("upload log: ")).collect();
    let seconds: BTreeSet<&str> = complaints.iter().map(|line| &line[..20]).collect();
    assert_eq!(seconds.len(), complaints.len(), "{complaints:#?}");
    complaints
}

/// A folder that was removed while we run, a file that was rotated away: no restart is needed.
#[test]
fn the_server_goes_on_without_its_folder_and_writes_again_when_it_is_back() {
    let world = World::new();
    let mut server = world.start();
    assert_eq!(world.call(&server, "1").status, 200);
    let file = world.record.join(&names(&world.record)[0]);
    fs::rename(&file, world.record.join("rotated")).unwrap();
    assert_eq!(world.call(&server, "2").status, 200);
    assert_eq!(world.objects().len(), 2);
    fs::remove_file(&file).unwrap();
    assert_eq!(world.call(&server, "3").status, 200);
    assert_eq!(world.objects(), ["1", "3"]);

    fs::remove_dir_all(&world.record).unwrap();
    for n in 0..50 {
        assert!(is_not_recorded(&world.call(&server, &format!("lost{n}"))));
    }
    assert!(complaints(&server)[0].contains("No such file"), "{:?}", complaints(&server));
    // What needs no record goes on.
    for target in ["/", "/healthz"] {
        assert_eq!(request(server.address, "GET", target, &[], b"").status, 200);
    }
    fs::create_dir(&world.record).unwrap();
    assert_eq!(world.call(&server, "4").status, 200);
    assert_eq!(world.objects(), ["4"]);
    assert!(server.is_running());
    complaints(&server);
}

#[test]
fn what_cannot_be_a_record_stops_the_start() {
    let folder = Folder::new();
    let file = folder.0.join("file");
    fs::write(&file, "").unwrap();
    let read_only = folder.0.join("read-only");
    fs::create_dir(&read_only).unwrap();
    let disk = Disk::mount(&read_only, "ro,size=64k");
    if disk.is_none() {
        // Without the right to mount, a mode is enough: it binds everybody but root.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&read_only, fs::Permissions::from_mode(0o555)).unwrap();
    }
    let nothing = folder.0.join("nothing");
    for path in [&file, &nothing, Path::new("/proc"), &read_only] {
        if *path == *read_only && fs::write(path.join("probe"), "").is_ok() {
            println!("skipped: root without the right to mount");
            continue;
        }
        let run = run(
            &["127.0.0.1", "0"],
            &[
                ("OSS_ACCESS_KEY_ID", "exampleAkId"),
                ("OSS_ACCESS_KEY_SECRET", "exampleAkSecretNeverShown"),
                ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
                ("CALLBACK_KEY_ORIGIN", "http://127.0.0.1:9"),
                ("UPLOAD_LOG", path.to_str().unwrap()),
            ],
        );
        assert_eq!(run.code, Some(2), "{path:?}: {}", run.stderr);
        let warns = |line: &&str| line.contains(" OSS_ACCESS_KEY_SECRET comes in the environment");
        let errors: Vec<&str> = run.stderr.lines().filter(|line| !warns(line)).collect();
        assert_eq!(errors.len(), 1, "{}", run.stderr);
        assert!(errors[0].starts_with("appserver: UPLOAD_LOG: "), "{}", run.stderr);
        println!("{}", run.stderr.trim());
    }
}

/// A small disk in memory, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path, options: &str) -> Option<Disk> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder);
        mount.output().is_ok_and(|output| output.status.success()).then(|| Disk(folder.into()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Calls until a callback is refused for want of space; gives the names of those acknowledged.
fn fill(world: &World, server: &Server) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0..1000 {
        let reply = world.call_long(server, &n.to_string(), 1000);
        if reply.status != 200 {
            assert!(is_not_recorded(&reply), "{}", reply.text());
            return acknowledged;
        }
        acknowledged.push(n.to_string());
    }
    panic!("the disk is never full");
}

/// The record is whole, and stays so while nothing fits; then there is space again.
fn survive(world: &World, server: &mut Server, acknowledged: &[String], more: impl FnOnce()) {
    assert!(!acknowledged.is_empty());
    assert_eq!(world.objects(), acknowledged);
    for n in 0..50 {
        let reply = world.call_long(server, &format!("refused{n}"), 5000);
        assert!(is_not_recorded(&reply), "{}", reply.text());
    }
    assert_eq!(world.objects(), acknowledged);
    let complaints = complaints(server);
    assert!(!complaints.is_empty());
    println!("{} refused, {} complaints: {}", 51, complaints.len(), complaints[0]);
    assert_eq!(request(server.address, "GET", "/", &[], b"").status, 200);
    more();
    assert_eq!(world.call(server, "again").status, 200);
    let all: Vec<&str> = acknowledged.iter().map(String::as_str).chain(["again"]).collect();
    assert_eq!(world.objects(), all);
    assert!(server.is_running());
}

/// The kernel's limit on the size of a file (`ulimit -f`, `LimitFSIZE=`) comes with a signal that
/// ends who does not expect it.
#[test]
fn a_file_size_limit_does_not_end_the_server() {
    let world = World::new();
    let mut server = world.start_under(&["prlimit", "--fsize=10000:unlimited"]);
    let acknowledged = fill(&world, &server);
    let pid = server.pid().to_string();
    survive(&world, &mut server, &acknowledged, || {
        let more = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
        assert!(more.unwrap().success());
    });
}

/// Part of a line fits the last page, so the first write that fails is a short one.
#[test]
fn a_full_disk_is_500_until_there_is_space() {
    let world = World::new();
    let Some(_disk) = Disk::mount(&world.record, "size=64k") else {
        println!("skipped: no right to mount a small disk");
        return;
    };
    let mut server = world.start();
    let filler = world.folder.0.join("record").join("filler");
    let acknowledged = fill(&world, &server);
    assert_eq!(world.objects(), acknowledged);
    let more = || {
        let resize =
            Command::new("mount").args(["-o", "remount,size=1m"]).arg(&world.record).status();
        assert!(resize.unwrap().success());
    };
    survive(&world, &mut server, &acknowledged, more);
    // Full because of somebody else, and again not.
    let _ = fs::write(&filler, vec![0; 2 << 20]);
    let refused =
        (0..50).find(|n| world.call_long(&server, &format!("full{n}"), 9000).status == 500);
    assert!(refused.is_some());
    fs::remove_file(&filler).unwrap();
    assert_eq!(world.call(&server, "last").status, 200);
    assert_eq!(world.objects().last().unwrap(), "last");
}

#[test]
fn a_torn_tail_of_a_crash_is_gone_before_the_first_answer() {
    let world = World::new();
    let mut server = world.start();
    assert_eq!(world.call(&server, "1").status, 200);
    server.kill();
    for tail in ["{\"time\":\"2026", "{", "\0\0\0\0", "{}"] {
        let path = world.record.join(&names(&world.record)[0]);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}{tail}")).unwrap();
        let mut server = world.start();
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        assert_eq!(world.call(&server, "next").status, 200);
        server.kill();
    }
    assert_eq!(world.objects(), ["1", "next", "next", "next", "next"]);
}

/// Each callback is recorded before it is answered, and the folder's own entries are whole: what
/// several clients are told at once, they find.
#[test]
fn callbacks_that_come_together_are_all_there_when_they_are_answered() {
    let world = World::new();
    let server = world.start();
    thread::scope(|scope| {
        for client in 0..16 {
            let (world, server) = (&world, &server);
            scope.spawn(move || {
                let mut connection = Connection::open(server.address).unwrap();
                for n in 0..10 {
                    let object = format!("{client}-{n}");
                    let message = world.message(&format!("user/alice/{object}"), 100);
                    assert_eq!(connection.ask(&message).unwrap().status, 200);
                    assert!(world.objects_now().contains(&object), "{object}");
                }
            });
        }
    });
    let all = world.objects();
    assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (160, 160));
}

impl World {
    /// While others write: what stands in whole lines.
    fn objects_now(&self) -> Vec<String> {
        let name = &names(&self.record)[0];
        let text = fs::read_to_string(self.record.join(name)).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let object = |line: &str| -> String {
            let line: Value = serde_json::from_str(line).unwrap();
            line["object"].as_str().unwrap().replace("user/alice/", "")
        };
        whole.lines().map(object).collect()
    }
}

/// Kill -9 at 200 random moments under load: of what was acknowledged, nothing is lost or torn.
#[test]
fn kill_nine_loses_nothing_that_was_acknowledged() {
    const ROUNDS: u32 = 200;
    const CLIENTS: u32 = 8;
    let world = World::new();
    let acknowledged = Mutex::new(Vec::new());
    let (mut torn, mut killed_early) = (0, 0);
    let mut seed = now() << 20 | u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let start = Instant::now();
    for round in 0..ROUNDS {
        let mut server = world.start();
        let address = server.address;
        let delay = Duration::from_micros(random() % 120_000);
        let (told, first_answer) = mpsc::channel();
        let before = acknowledged.lock().unwrap().len();
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (world, acknowledged, told) = (&world, &acknowledged, told.clone());
                scope.spawn(move || {
                    let Some(mut connection) = Connection::open(address) else { return };
                    for n in 0.. {
                        let object = format!("user/alice/{round}-{client}-{n}");
                        // Some are longer than a page, so that a write can be cut.
                        let extra = if n % 4 == 0 { 20_000 } else { 200 };
                        match connection.ask(&world.message(&object, extra)) {
                            Some(reply) => assert_eq!(reply.status, 200, "{}", reply.text()),
                            None => return,
                        }
                        acknowledged.lock().unwrap().push(object);
                        let _ = told.send(());
                    }
                });
            }
            // A random moment: of every fourth round's start, else of its load.
            if round % 4 != 0 {
                first_answer.recv().unwrap();
            }
            thread::sleep(delay);
            server.kill();
        });
        killed_early += u32::from(acknowledged.lock().unwrap().len() == before);
        let whole = |name: &String| {
            let bytes = fs::read(world.record.join(name)).unwrap();
            bytes.last().is_none_or(|byte| *byte == b'\n')
        };
        torn += u32::from(!names(&world.record).iter().all(whole));
    }
    let took = start.elapsed();
    drop(world.start()); // takes off the last torn tail, if there is one
    let recorded = objects(&world.record);
    let distinct: BTreeSet<&String> = recorded.iter().collect();
    let acknowledged = acknowledged.into_inner().unwrap();
    let lost = acknowledged.iter().filter(|object| !distinct.contains(object)).count();
    println!(
        "{ROUNDS} kills in {took:.1?} ({killed_early} before the first answer): {} acknowledged, \
         {lost} lost, {} recorded (the rest was killed before its answer), {torn} torn tails",
        acknowledged.len(),
        recorded.len(),
    );
    assert_eq!(lost, 0);
    assert_eq!(distinct.len(), recorded.len(), "nothing was sent twice, so nothing is there twice");
    assert!(acknowledged.len() > 1000, "too little load to show anything");
    // The folder of the private connection goes when it is open: only a kill before leaves it.
    let mut left = names(&world.folder.0);
    left.retain(|name| name != "key.pem" && name != "record");
    assert!(left.iter().all(|name| name.starts_with("appserver-")), "{left:?}");
    assert!(left.len() <= killed_early as usize, "{killed_early} kills left {left:?}");
}
