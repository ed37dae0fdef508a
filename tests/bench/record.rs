//! What it costs that every callback is on disk before it is answered: `cargo bench --bench record`.
//! The folder is beside the binary, so on a disk that syncs, not in memory.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use oss_standin::Standin;
use support::load::beside;
use support::trust::{TOKEN_KEY, callback, callback_token, now};
use support::world::{FORM, Site};
use support::{Connection, Server, binary};

const BODY: &str = "filename=user%2Falice%2Fphoto.jpg&size=123456&mimeType=image%2Fjpeg&height=600&\
    width=800&bucket=examplebucket&etag=5D41402ABC4B2A76B9719D911017C592&reqId=";
/// More than are answered in a turn; when they are used up, it ends.
const MESSAGES: usize = 30_000;
const TIME: Duration = Duration::from_secs(1);
const TURNS: usize = 5;
const CLIENTS: [usize; 2] = [1, 32];

/// Each per second.
struct Turn {
    alone: f64,
    recorded: [f64; 2],
    bare: [f64; 2],
}

fn main() {
    let folder = binary().with_file_name(format!("bench-record-{}", std::process::id()));
    let record = folder.join("record");
    fs::create_dir_all(&record).expect("a folder");
    let site = Site::new(&[
        ("CALLBACK_URL", "http://127.0.0.1:9/callback"),
        ("CALLBACK_TOKEN", "on"),
        ("CALLBACK_TOKEN_KEY", TOKEN_KEY),
    ]);
    let start = |record: &str| Server::start(&site.vars(&[("UPLOAD_LOG", record)]));
    let with = start(record.to_str().expect("a plain path"));
    let without = start("");
    callbacks(&with, &site.bucket, 1);
    let line = first_line(&record);

    // In turns, since disks have moods.
    let mut turns = [(); TURNS].map(|()| {
        let alone = synced_alone(&folder.join("alone"), &line);
        let recorded = CLIENTS.map(|clients| callbacks(&with, &site.bucket, clients));
        let bare = CLIENTS.map(|clients| callbacks(&without, &site.bucket, clients));
        Turn { alone, recorded, bare }
    });
    drop((with, without));
    fs::remove_dir_all(&folder).expect("the folder goes");

    let mut median = |of: &dyn Fn(&Turn) -> f64| {
        turns.sort_by(|a, b| of(a).total_cmp(&of(b)));
        of(&turns[TURNS / 2])
    };
    println!("per second, medians of {TURNS} turns; a line of the record has {} bytes", line.len());
    let alone = median(&|turn| turn.alone);
    println!("write and fdatasync one by one, nothing else:   {alone:.0}");
    for (at, clients) in CLIENTS.iter().enumerate() {
        let (with, without) = (median(&|turn| turn.recorded[at]), median(&|turn| turn.bare[at]));
        // What one loop would reach that did all this and then synced before the next.
        let each = 1.0 / (1.0 / without + 1.0 / alone);
        println!(
            "callbacks of {clients:>2} clients: {with:.0} with UPLOAD_LOG, {without:.0} without; \
             {each:.0} if each were synced alone: {:.1} times",
            with / each
        );
    }
}

/// Callbacks about one upload each: another callback about the same upload is not recorded again.
fn messages(bucket: &Standin) -> Vec<Vec<u8>> {
    static ID: AtomicUsize = AtomicUsize::new(0);
    let token = callback_token(TOKEN_KEY, "/callback", now() + 3600, "user/alice/");
    let target = format!("/callback?token={token}");
    let message = |_| {
        let body = format!("{BODY}{:024X}", ID.fetch_add(1, Relaxed)).into_bytes();
        callback(&target, &bucket.sign(&target, &body), FORM, &body)
    };
    (0..MESSAGES).map(message).collect()
}

/// The callbacks that are answered per second when so many clients wait for one each.
fn callbacks(server: &Server, bucket: &Standin, clients: usize) -> f64 {
    let (messages, next) = (messages(bucket), AtomicUsize::new(0));
    let start = Instant::now();
    let client = |_, _: &_| {
        let mut connection = Connection::open(server.address).expect("a connection");
        let mut answered = 0;
        while start.elapsed() < TIME {
            let Some(message) = messages.get(next.fetch_add(1, Relaxed)) else { break };
            let reply = connection.ask(message).expect("an answer");
            assert_eq!(reply.status, 200, "{}", reply.text());
            answered += 1;
        }
        answered
    };
    let (answered, ()) = beside(clients, client, || ());
    f64::from(answered.iter().sum::<u32>()) / start.elapsed().as_secs_f64()
}

fn first_line(record: &Path) -> Vec<u8> {
    let mut files = fs::read_dir(record).expect("the record").filter_map(Result::ok);
    let text = fs::read(files.next().expect("a file").path()).expect("lines");
    let end = text.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    text[..end].to_vec()
}

/// The same line written and synced again and again, each alone, by nobody but this loop.
fn synced_alone(path: &Path, line: &[u8]) -> f64 {
    let mut file = OpenOptions::new().append(true).create(true).open(path).expect("a file");
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        file.write_all(line).and_then(|()| file.sync_data()).expect("a synced line");
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}
