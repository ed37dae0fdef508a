//! The record of uploads: what is acknowledged is on disk, whole, whatever happens. First the
//! module with a clock of our own, then the real binary: killed, out of space, out of its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use appserver::http::MAX_BODY_BYTES;
use appserver::trust::upload_log::UploadLog;
use support::hostile::Random;
use support::trust::{TOKEN_KEY, callback, callback_token, now};
use support::world::{FORM, Site, TOKENS, objects};
use support::{Connection, Disk, Event, Folder, Order, PLAIN, Reply, Server};
use support::{binary, documents, request, run};

const DAY: u64 = 86_400;
/// 2026-11-21T12:00:00Z
const NOON: u64 = 1_795_262_400;
const TODAY: &str = "uploads-2026-11-21.jsonl";
const NO_KEY_HOST: (&str, &str) = ("CALLBACK_KEY_ORIGIN", "http://127.0.0.1:9");
const NOT_RECORDED: &str = "500 upload could not be recorded";

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

// The module.

fn open(folder: &Folder, now: u64) -> io::Result<UploadLog> {
    UploadLog::open(folder.0.clone(), now)
}

/// A record that is open, in a folder of its own.
fn new_log() -> (Folder, UploadLog) {
    let folder = Folder::new();
    let uploads = open(&folder, NOON).unwrap();
    (folder, uploads)
}

/// Appends text as the lines of an upload of its own.
fn append(uploads: &mut UploadLog, text: &str, now: u64) -> io::Result<()> {
    static ID: AtomicU64 = AtomicU64::new(0);
    uploads.append(&BTreeMap::from([(ID.fetch_add(1, Relaxed), text.to_owned())]), now)
}

/// Rotation at midnight, UTC. And a machine without a battery for its clock starts in 1970; NTP
/// moves it, and may move it back.
#[test]
fn each_day_has_its_file_whatever_the_clock_does() {
    let (folder, mut uploads) = new_log();
    assert_eq!(names(&folder.0), [TODAY]);
    for (text, now) in [
        ("1\n", NOON),
        ("2\n3\n", NOON + DAY / 2 - 1),
        ("4\n", NOON + DAY / 2),
        ("5\n", NOON + 41 * DAY),
        ("6\n", 0),
        ("7\n", 1),
        ("8\n", NOON),
        ("9\n", NOON - 2 * DAY),
        ("10\n", NOON),
        ("11\n", 0),
    ] {
        append(&mut uploads, text, now).unwrap();
    }
    drop(uploads);
    append(&mut open(&folder, 0).unwrap(), "12\n", NOON).unwrap();
    let files = [
        ("uploads-1970-01-01.jsonl", "6\n7\n11\n"),
        ("uploads-2026-11-19.jsonl", "9\n"),
        (TODAY, "1\n2\n3\n8\n10\n12\n"),
        ("uploads-2026-11-22.jsonl", "4\n"),
        ("uploads-2027-01-01.jsonl", "5\n"),
    ];
    assert_eq!(names(&folder.0), files.map(|(name, _)| name));
    for (name, text) in files {
        assert_eq!(folder.read(name), text, "{name}");
    }
}

/// A torn write at the end of a file is cut off, and a whole line without its line feed gets it: in
/// the file of today, in that of the day before (a crash before midnight, a start after it), and in
/// that of tomorrow (the clock stepped back). No other file is touched.
#[test]
fn a_torn_tail_is_taken_off_at_the_start() {
    let long = "x".repeat(200_000);
    let others = ["uploads-2026-11-20.jsonl", "uploads-2026-11-22.jsonl"];
    for (before, after) in [
        ("", ""),
        ("\n", "\n"),
        ("{}\n", "{}\n"),
        ("{}\n{}\n", "{}\n{}\n"),
        ("{}\n{\"time\":\"2026", "{}\n"),
        ("{}\n{\"a\":1}", "{}\n{\"a\":1}\n"), // only its end is missing
        ("{\"a\":1}", "{\"a\":1}\n"),
        ("{}\n1", "{}\n"),
        ("{}\n\"{}\"", "{}\n"),
        ("{}\n{\"a\":1}}", "{}\n"),
        ("{\"time\"", ""),
        ("{}\n\0\0\0\0", "{}\n"),
        ("\0", ""),
        (&format!("{{}}\n{long}"), "{}\n"),
        (&format!("{long}\n{{"), &format!("{long}\n")),
        (&format!("{long}\n{long}\n{long}"), &format!("{long}\n{long}\n")),
    ] {
        let folder = Folder::new();
        for name in [TODAY, others[0], others[1], "notes.txt"] {
            fs::write(folder.0.join(name), before).unwrap();
        }
        let mut uploads = open(&folder, NOON).unwrap();
        for name in [TODAY, others[0], others[1]] {
            assert!(folder.read(name) == after, "{name}: {} bytes", before.len());
        }
        assert!(folder.read("notes.txt") == before);
        append(&mut uploads, "new\n", NOON).unwrap();
        assert!(folder.read(TODAY) == format!("{after}new\n"));
    }
}

/// logrotate, with and without copytruncate, and a backup that is restored.
#[test]
fn a_file_that_is_renamed_removed_or_truncated_is_followed() {
    let folder = Folder::new();
    let path = folder.0.join(TODAY);
    let mut uploads = open(&folder, NOON).unwrap();
    append(&mut uploads, "1\n", NOON).unwrap();
    fs::rename(&path, folder.0.join("rotated")).unwrap();
    append(&mut uploads, "2\n", NOON).unwrap();
    fs::remove_file(&path).unwrap();
    append(&mut uploads, "3\n", NOON).unwrap();
    assert_eq!([folder.read("rotated"), folder.read(TODAY)], ["1\n", "3\n"]);
    // logrotate's copytruncate
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    append(&mut uploads, "4\n", NOON).unwrap();
    assert_eq!(folder.read(TODAY), "4\n");
    // Another file in its place, as a restored backup would be.
    fs::write(folder.0.join("other"), "0\n").unwrap();
    fs::rename(folder.0.join("other"), &path).unwrap();
    append(&mut uploads, "5\n", NOON).unwrap();
    assert_eq!(folder.read(TODAY), "0\n5\n");
}

/// A folder that is deleted, or moved away and made anew, while it is written to.
#[test]
fn a_folder_that_goes_is_an_error_until_it_is_back() {
    let (folder, mut uploads) = new_log();
    append(&mut uploads, "1\n", NOON).unwrap();
    fs::remove_dir_all(&folder.0).unwrap();
    let again = BTreeMap::from([(u64::MAX, "3\n".to_owned())]);
    for now in [NOON, NOON + 1, NOON + DAY] {
        let error = uploads.append(&again, now).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!uploads.has(u64::MAX), "what could not be written is no duplicate");
    }
    fs::create_dir(&folder.0).unwrap();
    uploads.append(&again, NOON).unwrap();
    assert!(uploads.has(u64::MAX));
    assert_eq!(folder.read(TODAY), "3\n");
    // Moved away and made anew: what comes then is in the new one.
    let away = folder.0.with_extension("away");
    fs::rename(&folder.0, &away).unwrap();
    fs::create_dir(&folder.0).unwrap();
    append(&mut uploads, "4\n", NOON).unwrap();
    assert_eq!(folder.read(TODAY), "4\n");
    assert_eq!(fs::read_to_string(away.join(TODAY)).unwrap(), "3\n");
    fs::remove_dir_all(&away).unwrap();
}

/// Missing, read-only, or with a folder where the file should be.
#[test]
fn a_folder_that_cannot_be_written_is_an_error_at_once() {
    let folder = Folder::new();
    fs::create_dir(folder.0.join(TODAY)).unwrap();
    assert!(open(&folder, NOON).is_err());
    assert!(UploadLog::open(folder.0.join("nothing"), NOON).is_err());
    assert!(UploadLog::open("/proc".into(), NOON).is_err());
}

/// A whole line, as `Upload::line` writes it: it begins with the id.
fn line_of(id: u64) -> String {
    format!("{{\"id\":\"{id:016x}\",\"object\":\"user/alice/{id}\"}}\n")
}

fn append_ids(uploads: &mut UploadLog, ids: std::ops::Range<u64>, now: u64) {
    let ids: Vec<u64> = ids.collect();
    for batch in ids.chunks(1000) {
        let lines = batch.iter().map(|id| (*id, line_of(*id))).collect();
        uploads.append(&lines, now).unwrap();
    }
}

/// The last 50,000 at least, and never more than twice as many.
#[test]
fn what_was_recorded_is_known_across_midnight_and_restarts() {
    let (folder, mut uploads) = new_log();
    assert!(!uploads.has(0));
    append_ids(&mut uploads, 0..30_000, NOON);
    append_ids(&mut uploads, 30_000..70_000, NOON + DAY);
    append_ids(&mut uploads, 70_000..80_500, NOON + 3 * DAY);
    assert!((30_500..80_500).all(|id| uploads.has(id)) && !uploads.has(80_500));
    drop(uploads);
    let uploads = open(&folder, NOON + 4 * DAY).unwrap();
    let known: Vec<u64> = (0..100_000).filter(|id| uploads.has(*id)).collect();
    assert_eq!(known, (30_500..80_500).collect::<Vec<_>>());
    drop(uploads);
    let mut uploads = open(&folder, NOON + 5 * DAY).unwrap();
    append_ids(&mut uploads, 100_000..200_000, NOON + 5 * DAY);
    append_ids(&mut uploads, 200_000..210_000, NOON + 6 * DAY);
    assert!((160_000..210_000).all(|id| uploads.has(id)));
    assert!((0..110_000).all(|id| !uploads.has(id)), "they would be without end");
}

/// Who waits for the lock of a running server's folder waits until that server ends.
#[test]
fn the_folder_stays_locked_across_midnight_and_errors() {
    let (folder, mut uploads) = new_log();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let intruder = scope.spawn(|| {
            while !is_over.load(Relaxed) {
                if open(&folder, NOON).is_ok() {
                    return true;
                }
            }
            false
        });
        for day in 1..300 {
            let written = append(&mut uploads, "1\n", NOON + day * DAY);
            assert!(written.is_ok(), "day {day}: {written:?}");
        }
        is_over.store(true, Relaxed);
        assert!(!intruder.join().unwrap(), "another process got the folder");
    });
}

/// What a killed process had written and not synced counts as recorded after a restart: it is
/// synced before, also where midnight came between.
#[test]
fn what_is_read_back_is_on_disk() {
    let (order, world) = (Order::new(), World::new());
    for day in ["2026-01-01", "2026-01-02"] {
        fs::write(format!("{}/uploads-{day}.jsonl", order.record), line_of(7)).unwrap();
    }
    let _server = world.start_with(&[], &order.vars());
    let is_sync = |event: &Event| event.what == "fsync" && event.count == 0;
    let events = order.take();
    let last = events.iter().position(|event| event.what == "listening").unwrap();
    let is_there = |event: &Event| is_sync(event) && event.name == "uploads-2026-01-02.jsonl";
    assert!(events[..last].iter().any(is_there), "{events:?}");
}

/// A line of any length takes no memory: here the hole that a crash left in a file.
#[test]
fn a_huge_line_is_read_in_little_memory() {
    let world = World::new();
    let path = world.record.join("uploads-2026-01-02.jsonl");
    fs::write(&path, line_of(1)).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.set_len(300_000_000).unwrap();
    io::Write::write_all(&mut file, format!("\n{}", line_of(2)).as_bytes()).unwrap();
    let mut server = world.start();
    assert_eq!(world.call(&server, "new").status, 200);
    let peak = server.status("VmHWM");
    assert!(peak < 20_000, "{peak} kB");
    server.kill();
    let uploads = UploadLog::open(world.record.clone(), NOON).unwrap();
    assert_eq!([1, 2, 3].map(|id| uploads.has(id)), [true, true, false]);
}

/// Only `uploads-YYYY-MM-DD.jsonl`, and only regular files of the folder itself: no symlink, no
/// FIFO.
#[test]
fn what_is_not_ours_is_left_alone() {
    let (folder, outside) = (Folder::new(), Folder::new());
    let torn = "{}\n{\"torn";
    let names = [
        "uploads-2026-11-20.jsonl.bak",
        "xuploads-2026-11-20.jsonl",
        "uploads-2026-11-31.jsonl",
        "uploads-2026-1-20.jsonl",
        "uploads-20261-120.jsonl",
        "uploads-.jsonl",
        "uploads-latest.jsonl",
        "uploads-2026-11-20.json",
    ];
    for name in names {
        fs::write(folder.0.join(name), torn).unwrap();
    }
    fs::write(outside.0.join("elsewhere"), torn).unwrap();
    let link = folder.0.join("uploads-2026-11-19.jsonl");
    std::os::unix::fs::symlink(outside.0.join("elsewhere"), &link).unwrap();
    fs::create_dir(folder.0.join("uploads-2026-11-18.jsonl")).unwrap();
    let fifo = folder.0.join("uploads-2026-11-17.jsonl");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    open(&folder, NOON).unwrap();
    for name in names {
        assert_eq!(folder.read(name), torn, "{name}");
    }
    assert_eq!(outside.read("elsewhere"), torn);
    for days in [2, 3, 4] {
        assert!(open(&folder, NOON - days * DAY).is_err(), "the day's file is not a regular one");
    }
    assert_eq!(outside.read("elsewhere"), torn);
}

/// What is longer than any line of ours is neither cut off nor continued.
#[test]
fn a_file_without_lines_is_kept_as_it_is() {
    let folder = Folder::new();
    let junk = "x".repeat(3_000_000);
    fs::write(folder.0.join(TODAY), &junk).unwrap();
    let mut uploads = open(&folder, NOON).unwrap();
    append(&mut uploads, "1\n", NOON).unwrap();
    assert!(folder.read(TODAY) == format!("{junk}\n1\n"));
}

/// A lock (flock) on the folder: a second process is refused.
#[test]
fn a_folder_has_one_writer() {
    let folder = Folder::new();
    let first = open(&folder, NOON).unwrap();
    for now in [NOON, NOON + DAY] {
        let error = open(&folder, now).err().unwrap();
        assert!(error.to_string().contains("another process"), "{error}");
    }
    drop(first);
    let mut second = open(&folder, NOON).unwrap();
    // Made anew, it is another folder, and locked like the first.
    fs::remove_dir_all(&folder.0).unwrap();
    fs::create_dir(&folder.0).unwrap();
    append(&mut second, "1\n", NOON).unwrap();
    assert!(open(&folder, NOON).is_err());
}

// The real binary.

/// A site whose servers are called back with a good token and OSS's signature.
struct World {
    site: Site,
    record: PathBuf,
}

impl Deref for World {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl World {
    fn new() -> World {
        // Only for the names in its body: nobody calls it.
        let url = ("CALLBACK_URL", "http://127.0.0.1:9/callback");
        let site = Site::new(&[url, TOKENS[1], TOKENS[2]]);
        let record = site.folder.0.join("record");
        World { site, record }
    }

    fn start(&self) -> Server {
        self.start_under(&[])
    }

    /// The server as the last of `words`, which must exec what follows them.
    fn start_under(&self, words: &[&str]) -> Server {
        self.start_with(words, &[])
    }

    fn start_with(&self, words: &[&str], changes: &[(&str, &str)]) -> Server {
        let program = binary();
        let words = [words, &[program.to_str().unwrap(), "127.0.0.1", "0"]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        Server::spawn(command, &self.vars(changes))
    }

    /// A callback about a new upload of an object, with `extra` bytes in a field of its own.
    fn message(&self, object: &str, extra: usize) -> Vec<u8> {
        static ID: AtomicU64 = AtomicU64::new(0);
        self.message_at("/callback", object, extra, &format!("{:024X}", ID.fetch_add(1, Relaxed)))
    }

    /// What OSS posts to `path` about the upload whose request had this id (empty: it is not told;
    /// a blank: it has no value).
    fn message_at(&self, path: &str, object: &str, extra: usize, request_id: &str) -> Vec<u8> {
        let token = callback_token(TOKEN_KEY, path, now() / 3600 * 3600 + 7200, "user/alice/");
        let target = format!("{path}?token={token}");
        let (name, extra) = (object.replace('/', "%2F"), "x".repeat(extra));
        let mut body = format!("filename={name}&size=5&bucket=examplebucket&etag=E&extra={extra}");
        if !request_id.is_empty() {
            body += &format!("&reqId={}", request_id.trim());
        }
        let authorization = self.bucket.sign(&target, body.as_bytes());
        callback(&target, &authorization, FORM, body.as_bytes())
    }

    fn call(&self, server: &Server, object: &str) -> Reply {
        self.call_long(server, object, 0)
    }

    fn call_long(&self, server: &Server, object: &str, extra: usize) -> Reply {
        let message = self.message(&format!("user/alice/{object}"), extra);
        Connection::open(server.address).unwrap().ask(&message).expect("an answer")
    }

    fn send(&self, server: &Server, message: &[u8]) -> u16 {
        let reply = Connection::open(server.address).unwrap().ask(message);
        reply.expect("a response").status
    }

    fn objects(&self) -> Vec<String> {
        let strip = |object: &String| object.strip_prefix("user/alice/").unwrap().to_owned();
        objects(&self.record).iter().map(strip).collect()
    }
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
    fs::rename(world.record.join(&names(&world.record)[0]), world.record.join("rotated")).unwrap();
    assert_eq!(world.call(&server, "2").status, 200);
    assert_eq!((names(&world.record).len(), world.objects().len()), (2, 2));

    fs::remove_dir_all(&world.record).unwrap();
    for n in 0..50 {
        assert_eq!(world.call(&server, &format!("lost{n}")).verdict(), NOT_RECORDED);
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

/// `UPLOAD_LOG` that is a file, missing or read-only: one line, exit status 2.
#[test]
fn what_cannot_be_a_record_stops_the_start() {
    let folder = Folder::new();
    let file = folder.0.join("file");
    fs::write(&file, "").unwrap();
    let read_only = folder.0.join("read-only");
    fs::create_dir(&read_only).unwrap();
    let disk = SmallDisk::mount(&read_only, "ro,size=64k");
    if disk.is_none() {
        // Without the right to mount, a mode is enough: it binds everybody but root.
        fs::set_permissions(&read_only, fs::Permissions::from_mode(0o555)).unwrap();
    }
    let nothing = folder.0.join("nothing");
    for path in [&file, &nothing, Path::new("/proc"), &read_only] {
        if *path == *read_only && fs::write(path.join("probe"), "").is_ok() {
            support::skip("a folder that root cannot write needs the right to mount");
            continue;
        }
        let place = [("UPLOAD_LOG", path.to_str().unwrap()), NO_KEY_HOST];
        let run = run(&["127.0.0.1", "0"], &[&PLAIN[..], &place].concat());
        assert_eq!(run.code, Some(2), "{path:?}: {}", run.stderr);
        let warns = |line: &&str| line.contains(" OSS_ACCESS_KEY_SECRET comes in the environment");
        let errors: Vec<&str> = run.stderr.lines().filter(|line| !warns(line)).collect();
        assert_eq!(errors.len(), 1, "{}", run.stderr);
        assert!(errors[0].starts_with("appserver: UPLOAD_LOG: "), "{}", run.stderr);
        println!("{}", run.stderr.trim());
    }
}

/// A small disk in memory, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, options: &str) -> Option<SmallDisk> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder);
        mount.output().is_ok_and(|output| output.status.success()).then(|| SmallDisk(folder.into()))
    }
}

impl Drop for SmallDisk {
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
            assert_eq!(reply.verdict(), NOT_RECORDED);
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
        assert_eq!(reply.verdict(), NOT_RECORDED);
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

/// Disk full (ENOSPC): part of a line fits the last page, so the first write that fails is a short
/// one.
#[test]
fn a_full_disk_is_500_until_there_is_space() {
    let world = World::new();
    let Some(_disk) = SmallDisk::mount(&world.record, "size=64k") else {
        support::skip("a full disk needs the right to mount a small one");
        return;
    };
    let mut server = world.start();
    let filler = world.record.join("filler");
    let acknowledged = fill(&world, &server);
    assert_eq!(world.objects(), acknowledged);
    let more = || {
        let mut resize = Command::new("mount");
        resize.args(["-o", "remount,size=1m"]).arg(&world.record);
        assert!(resize.status().unwrap().success());
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

/// Recovery after a crash in the middle of a write, by the real binary; not by `--check`: a running
/// server may be in the middle of that line. (Tails of all kinds:
/// `a_torn_tail_is_taken_off_at_the_start`.)
#[test]
fn a_torn_tail_of_a_crash_is_gone_before_the_first_answer() {
    let world = World::new();
    let mut server = world.start();
    assert_eq!(world.call(&server, "1").status, 200);
    server.kill();
    let path = world.record.join(&names(&world.record)[0]);
    let whole = fs::read_to_string(&path).unwrap();
    let torn = format!("{whole}{{\"time\":\"2026");
    fs::write(&path, &torn).unwrap();
    let place = [("UPLOAD_LOG", world.record.to_str().unwrap())];
    assert_eq!(run(&["--check"], &[&PLAIN[..], &place].concat()).code, Some(0));
    assert_eq!(fs::read_to_string(&path).unwrap(), torn);
    assert_eq!(names(&world.record).len(), 1);
    let server = world.start();
    server.wait_log("13 bytes of a torn line cut off");
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    assert_eq!(world.call(&server, "next").status, 200);
    assert_eq!(world.objects(), ["1", "next"]);
}

/// Kill -9 at 200 random moments under load: of what was acknowledged, nothing is lost or torn; and
/// what OSS then repeats, to the second of two URLs, is there once.
#[test]
fn kill_nine_loses_nothing_that_was_acknowledged() {
    let rounds = support::rounds(200, 50);
    const CLIENTS: u32 = 8;
    let world = World::new();
    let acknowledged = Mutex::new(Vec::new());
    let repeated: Mutex<Vec<(String, Vec<u8>)>> = Mutex::default();
    let (mut torn, mut killed_early, mut repetitions) = (0, 0, 0);
    let seed = now() << 20 | u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = Random(seed);
    let start = Instant::now();
    for round in 0.. {
        let mut server = world.start(); // takes off the last torn tail, if there is one
        let address = server.address;
        // What was not answered by the process before, OSS tells the second URL.
        for (object, message) in repeated.lock().unwrap().drain(..) {
            assert_eq!(world.send(&server, &message), 200);
            acknowledged.lock().unwrap().push(object);
            repetitions += 1;
        }
        if round == rounds {
            break;
        }
        let (told, first_answer) = mpsc::channel();
        let before = acknowledged.lock().unwrap().len();
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (world, acknowledged, told) = (&world, &acknowledged, told.clone());
                let repeated = &repeated;
                scope.spawn(move || {
                    let Some(mut connection) = Connection::open(address) else { return };
                    for n in 0.. {
                        let object = format!("user/alice/{round}-{client}-{n}");
                        // Some are longer than a page, so that a write can be cut.
                        let extra = if n % 4 == 0 { 20_000 } else { 200 };
                        let id = format!("{round:08X}{client:08X}{n:08X}");
                        let message = |path| world.message_at(path, &object, extra, &id);
                        let Some(reply) = connection.ask(&message("/callback")) else {
                            repeated.lock().unwrap().push((object.clone(), message("/second")));
                            return;
                        };
                        assert_eq!(reply.status, 200, "{}", reply.text());
                        acknowledged.lock().unwrap().push(object);
                        let _ = told.send(());
                    }
                });
            }
            // A random moment: of every fourth round's start, else of its load.
            if round % 4 != 0 {
                first_answer.recv().unwrap();
            }
            thread::sleep(Duration::from_micros(random.next() % 120_000));
            server.kill();
        });
        killed_early += u32::from(acknowledged.lock().unwrap().len() == before);
        let is_torn = |name: &String| {
            let bytes = fs::read(world.record.join(name)).unwrap();
            bytes.last().is_some_and(|byte| *byte != b'\n')
        };
        torn += u32::from(names(&world.record).iter().any(is_torn));
    }
    let took = start.elapsed();
    let recorded = objects(&world.record);
    let distinct: BTreeSet<&String> = recorded.iter().collect();
    let acknowledged = acknowledged.into_inner().unwrap();
    let lost = acknowledged.iter().filter(|object| !distinct.contains(object)).count();
    println!(
        "{rounds} kills in {took:.1?} ({killed_early} before the first answer): {} acknowledged, \
         {lost} lost, {} recorded, {repetitions} told again, {torn} torn tails",
        acknowledged.len(),
        recorded.len(),
    );
    assert_eq!(lost, 0);
    assert_eq!(distinct.len(), recorded.len(), "nothing is there twice");
    assert!(repetitions > rounds / 2, "too few were told again to show anything");
    assert!(acknowledged.len() > 1000, "too little load to show anything");
    // The folder of the private connection goes when it is open: only a kill before leaves it.
    let mut left = names(&world.folder.0);
    left.retain(|name| name != "key.pem" && name != "record");
    assert!(left.iter().all(|name| name.starts_with("appserver-")), "{left:?}");
    assert!(left.len() <= killed_early as usize, "{killed_early} kills left {left:?}");
}

// Replays, and what OSS repeats.

/// Whatever of a callback is not signed may change: the callback is the same.
#[test]
fn a_replayed_callback_is_answered_200_and_recorded_once() {
    let world = World::new();
    let mut server = world.start();
    for request_id in ["5F1E2D3C4B5A69788796A5B4", ""] {
        let object = format!("user/alice/a{request_id}");
        let message = world.message_at("/callback", &object, 0, request_id);
        let text = String::from_utf8(message.clone()).unwrap();
        let others = [
            text.replace("POST /callback", "POST /%63allback"),
            text.replace("x-oss-request-id: 5", "x-oss-request-id: 6"),
            text.replace("Content-Type: application/x-www-form-urlencoded\r\n", ""),
            text.replace("x-www-form-urlencoded", "json"),
        ];
        for _ in 0..2 {
            assert_eq!(world.send(&server, &message), 200);
            for other in &others {
                assert_ne!(*other, text);
                assert_eq!(world.send(&server, other.as_bytes()), 200, "{other}");
            }
            server.kill();
            server = world.start();
        }
    }
    assert_eq!(world.objects(), ["a5F1E2D3C4B5A69788796A5B4", "a"]);
    let again = world.message_at("/callback", "user/alice/a5", 0, "5F1E");
    for end in ["etag=\"E\" reqId=\"5F1E\" subject=\"alice\"", "subject=\"alice\" again"] {
        assert_eq!(world.send(&server, &again), 200);
        assert!(server.wait_log(end).ends_with(end));
    }
}

/// OSS tells of one upload at several URLs in turn, until one responds. The next upload of the same
/// file, with the same ETag, has another request id. Without it in the body nothing tells it from a
/// replay but the policy's token, and nothing tells OSS's second URL from the next upload: a line
/// more is better than one less.
#[test]
fn an_upload_is_recorded_once_and_the_same_file_again() {
    let world = World::new();
    let server = world.start();
    for (path, request_id, lines) in [
        ("/callback", "A1", 1),
        ("/second", "A1", 1),
        ("/second", "A2", 2),
        ("/callback", "A2", 2),
        ("/callback", "", 3),
        ("/callback", "", 3),
        ("/second", "", 4),
        // A request id that has no value tells nothing apart either.
        ("/callback", " ", 5),
        ("/callback", " ", 5),
        ("/second", " ", 6),
    ] {
        let message = world.message_at(path, "user/alice/a", 0, request_id);
        assert_eq!(world.send(&server, &message), 200);
        assert_eq!(world.objects().len(), lines, "{path} {request_id:?}");
    }
}

/// Two callbacks about one upload that come together: one line, and neither is answered before it
/// is on disk. What a failed sync loses is lost for both, and recorded when it comes again.
#[test]
fn equal_callbacks_that_come_together_share_a_line_and_its_fate() {
    let disk = Disk::new();
    let world = World::new();
    let mut server = world.start_with(&[], &disk.vars());
    let lines = || disk.record().lines().count();
    let [first, twice] =
        ["first", "twice"].map(|name| world.message(&format!("user/alice/{name}"), 0));
    for (fails, expected, recorded) in [(true, 500, 0), (false, 200, 2)] {
        disk.hang();
        thread::scope(|scope| {
            let (world, server) = (&world, &server);
            let ask = |message| scope.spawn(move || world.send(server, message));
            let first = ask(&first);
            disk.wait_for_a_sync();
            // When the sync is over, the loop takes all that has come: these are one batch.
            let twice = [ask(&twice), ask(&twice)];
            thread::sleep(Duration::from_millis(200));
            assert!(!twice.iter().any(|request| request.is_finished()));
            if fails {
                disk.fail();
            }
            disk.resume();
            for request in [first].into_iter().chain(twice) {
                assert_eq!(request.join().unwrap(), expected);
            }
        });
        assert_eq!(lines(), recorded);
        if fails {
            disk.repair();
        }
    }
    server.kill();
    server = world.start_with(&[], &disk.vars());
    assert_eq!([&first, &twice].map(|message| world.send(&server, message)), [200; 2]);
    assert_eq!(lines(), 2);
}

/// Failing fsync (EIO), read-only file system (EROFS): a disk that takes lines and cannot sync
/// them, and a file system that has become read-only: each is 500 for as long as it lasts, no
/// longer, and leaves nothing.
#[test]
fn a_disk_with_errors_loses_nothing_that_was_acknowledged() {
    let disk = Disk::new();
    let world = World::new();
    let mut server = world.start_with(&[], &disk.vars());
    assert_eq!(world.call(&server, "1").status, 200);
    let repeated = world.message("user/alice/repeated", 0);
    for (n, words) in [(2, "Input/output error"), (3, "Read-only file system")] {
        if n == 2 {
            disk.fail()
        } else {
            disk.make_read_only()
        }
        // Until the second is over in which it complained of something else.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !server.log().iter().any(|line| line.contains(&format!("upload log: {words}"))) {
            assert!(Instant::now() < deadline, "{words}: {:?}", server.log());
            let reply = world.call(&server, "refused");
            assert_eq!(reply.verdict(), NOT_RECORDED);
            if n == 2 {
                assert_eq!(world.send(&server, &repeated), 500);
            }
        }
        assert_eq!(objects(disk.folder()).len(), n - 1, "nothing is left of what was refused");
        assert_eq!(request(server.address, "GET", "/", &[], b"").status, 200);
        disk.repair();
        assert_eq!(world.call(&server, &n.to_string()).status, 200);
    }
    assert_eq!(world.send(&server, &repeated), 200);
    let expected = ["1", "2", "3", "repeated"].map(|name| format!("user/alice/{name}"));
    assert_eq!(objects(disk.folder()), expected);
    assert!(server.is_running());
    complaints(&server);
}

/// The lock between processes; file permissions 0640.
#[test]
fn a_second_server_is_refused_and_files_are_private_whatever_the_umask() {
    let world = World::new();
    let mut server = world.start_under(&["sh", "-c", "umask 0; exec \"$@\"", "sh"]);
    let file = world.record.join(&names(&world.record)[0]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
    let place = [("UPLOAD_LOG", world.record.to_str().unwrap()), NO_KEY_HOST];
    let vars = [&PLAIN[..], &place].concat();
    let mut second = Command::new("timeout"); // so that this ends if it starts all the same
    second.arg("30").arg(binary()).args(["127.0.0.1", "0"]).env_clear().envs(vars.clone());
    let second = second.output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!((second.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.starts_with("appserver: UPLOAD_LOG: ") && said.contains("another process"));
    // A check does not disturb it, nor does it the check.
    assert_eq!(run(&["--check"], &vars).code, Some(0));
    assert_eq!(world.call(&server, "1").status, 200);
    server.kill();
    assert_eq!(world.call(&world.start(), "2").status, 200);
    assert_eq!(world.objects(), ["1", "2"]);
}

/// One client replays the longest callback that there is, which as a line takes 120 kB: without a
/// memory of what is recorded, a disk of 64 MB would be full after 550. (`--long`: for a minute.)
#[test]
fn a_flood_of_replays_fills_no_disk() {
    let rounds = support::rounds(150, 6);
    const MAX_MEMORY_KB: u64 = 12 * 1024; // as in tests/hostile/main.rs
    let world = World::new();
    let disk = SmallDisk::mount(&world.record, "size=64m");
    // Without the right to mount one, a limit of the file's size does the same.
    let limit: &[&str] = if disk.is_some() { &[] } else { &["prlimit", "--fsize=67108864"] };
    let mut server = world.start_under(limit);
    let token = callback_token(TOKEN_KEY, "/callback", now() + 3600, "user/alice/");
    let target = format!("/callback?token={token}");
    let mut body = b"filename=user%2Falice%2Fflood&size=5&bucket=examplebucket&etag=E&x=".to_vec();
    body.resize(MAX_BODY_BYTES, 1);
    let flood = callback(&target, &world.bucket.sign(&target, &body), FORM, &body);
    let (mut replays, mut honest) = (0, vec!["flood".to_owned()]);
    let mut connection = Connection::open(server.address).unwrap();
    for _ in 0..rounds {
        for _ in 0..500 {
            assert_eq!(connection.ask(&flood).expect("a response").status, 200);
            replays += 1;
        }
        let object = format!("honest{}", honest.len());
        assert_eq!(world.call(&server, &object).status, 200);
        honest.push(object);
    }
    assert_eq!(world.objects(), honest);
    let peak = server.status("VmHWM");
    println!("{replays} replays, {} honest uploads, {peak} kB of memory", honest.len() - 1);
    assert!(replays > 5 * 550, "too few to fill the disk");
    assert!(server.is_running() && peak < MAX_MEMORY_KB, "memory rose to {peak} kB");
}

/// 100,000 uploads that are known take less than 2 MB.
#[test]
fn what_is_known_takes_two_megabytes() {
    let world = World::new();
    let memory = || {
        let server = world.start();
        assert_eq!(world.call(&server, "new").status, 200);
        server.status("VmHWM")
    };
    let before = memory();
    // Two days, so that the second is read when the memory of the first is there.
    for day in ["2026-01-01", "2026-01-02"] {
        let start = if day.ends_with('1') { 0 } else { 30_000 };
        let text: String = (start..start + 30_000).map(line_of).collect();
        fs::write(world.record.join(format!("uploads-{day}.jsonl")), text).unwrap();
    }
    let after = memory();
    println!("{before} kB without, {after} kB with 50,000 uploads");
    assert!(after < before + 2048, "{before} kB before, {after} kB after");
}

/// The line for `jq` in static/README.md, over what the server really writes.
#[test]
fn the_record_is_read_as_the_document_says() {
    let world = World::new();
    let server = world.start();
    for object in ["a b.txt", "中文.png"] {
        assert_eq!(world.call(&server, object).status, 200);
    }
    let line = documents::block("static/README.md", "sh", "uploads-*.jsonl");
    let record = world.record.to_str().unwrap();
    let line = documents::moved(&line, &[("/var/lib/appserver", record)]);
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.len(), 2, "{}", String::from_utf8_lossy(&output.stderr));
    for (row, object) in rows.iter().zip(["user/alice/a b.txt", "user/alice/中文.png"]) {
        assert_eq!(row[1..], ["alice", "5", object]);
        assert!(row[0].len() == 20 && row[0].ends_with('Z'), "{row:?}");
    }
}
