//! The client page in a real Chromium, against the real binary and the stand-in bucket, which is
//! another origin, so that CORS is real. `SCREENSHOTS=FOLDER` also writes what the page looks like.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use appserver::config::Config;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use oss_standin::{Options, PostFault, Standin};
use serde_json::{Value, json};
use support::documents;
use support::proxy::{self, Proxy};
use support::webdriver::Browser;
use support::{Server, binary, request};

mod library;
mod outcomes;
mod people;

const POLICY_PATH: &str = "/get_post_signature_for_oss_upload";
const IS_THERE: &str = "A file of this name is there, and may not be replaced. After an \
     interruption it may be this one.";
const PAGE: [&str; 5] = ["index.html", "page.js", "style.css", "upload.js", "words.js"];
/// One transparent pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// A bucket, the server that signs for it, and a browser with the page open.
struct World {
    bucket: Standin,
    server: Server,
    vars: Vec<(String, String)>,
    browser: Browser,
}

fn world(changes: &[(&str, &str)]) -> World {
    world_with(Browser::start(), changes)
}

fn world_with(browser: Browser, changes: &[(&str, &str)]) -> World {
    let options = Options::default();
    let bucket = Standin::start(options.clone()).unwrap();
    let key_file = browser.folder.0.join("key.pem");
    std::fs::write(&key_file, bucket.public_key_pem()).unwrap();
    let url = bucket.url();
    let mut vars = vec![
        ("OSS_ACCESS_KEY_ID", options.access_key_id.as_str()),
        ("OSS_ACCESS_KEY_SECRET", &options.access_key_secret),
        ("OSS_HOST", &url),
        ("OSS_BUCKET", &options.bucket),
        ("OSS_REGION", &options.region),
        ("CALLBACK_PUBLIC_KEY_FILE", key_file.to_str().unwrap()),
        ("UPLOAD_DIR", "user/"),
    ];
    vars.extend(changes);
    let server = Server::start_called_back(&vars);
    let vars = vars.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let world = World { bucket, server, vars, browser };
    world.open();
    world
}

/// What is asked of a world is asked of its page.
impl std::ops::Deref for World {
    type Target = Browser;

    fn deref(&self) -> &Browser {
        &self.browser
    }
}

impl World {
    fn open(&self) {
        self.browser.open(&format!("{}/index.html", self.server.url()));
    }

    /// Opens the page for one who prefers another language.
    fn open_in(&self, languages: &str) {
        self.browser.language(languages);
        self.open();
    }

    /// Puts files that a script makes into the page's own file input: name, content, type. Gives
    /// how many uploads there are then.
    fn choose(&self, files: &[(&str, &str, &str)]) -> usize {
        let script = "
            const transfer = new DataTransfer();
            for (const [name, text, type] of arguments) {
                transfer.items.add(new File([text], name, { type }));
            }
            const before = uploader.uploads.length;
            const input = document.querySelector('#files');
            input.files = transfer.files;
            input.dispatchEvent(new Event('change'));
            return [before, uploader.uploads.length];";
        let counts = self.run_with(script, json!(files));
        let [before, after] = serde_json::from_value(counts).unwrap();
        assert_eq!(before + files.len(), after, "the page did not take {files:?}");
        after
    }

    /// The same, and waits until all that the page has are in one of these states.
    fn upload(&self, files: &[(&str, &str, &str)], states: &[&str]) {
        let count = self.choose(files);
        self.wait_all(count, states);
    }

    /// The bucket reads nothing of the next uploads, until it is released.
    fn stall(&self, count: usize) {
        self.bucket.faults().posts.extend(vec![PostFault::Stall(0, None); count]);
    }

    fn wait_stalls(&self, count: usize) {
        assert!(self.bucket.wait_for_stalls(count, Duration::from_secs(60)), "no upload came");
    }

    /// A file on disk, beside the browser's profile.
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.browser.folder.0.join("files").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// One that begins with these bytes and goes on with zeros.
    fn write_sparse(&self, name: &str, bytes: &[u8], length: usize) -> PathBuf {
        let path = self.write(name, bytes);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(length as u64).unwrap();
        path
    }

    /// Waits until every upload is in one of these states, and the page says so too.
    fn wait_all(&self, count: usize, states: &[&str]) {
        let states = json!(states);
        self.wait(&format!(
            "uploader.uploads.length === {count} &&
             [...document.querySelectorAll('#rows li')].filter(
                 (row) => {states}.includes(row.dataset.state)).length === {count}"
        ));
    }

    /// What the rows say of their state, in words.
    fn statuses(&self) -> Vec<String> {
        self.texts(".status")
    }

    /// The names that the rows show, from the first to the last.
    fn names(&self) -> Vec<String> {
        self.texts(".name")
    }

    fn texts(&self, selector: &str) -> Vec<String> {
        let all = format!("[...document.querySelectorAll({selector:?})].map((e) => e.textContent)");
        serde_json::from_value(self.get(&all)).unwrap()
    }

    fn policies(&self) -> usize {
        self.server.log().iter().filter(|line| line.contains(POLICY_PATH)).count()
    }

    /// No request left for anywhere else, nothing broke the security policy, and the console holds
    /// no error; `troubled`: but for those that Chromium itself writes of failed requests.
    fn assert_clean(&self, troubled: bool) {
        for entry in self.log("browser") {
            let message = entry["message"].as_str().unwrap();
            let network = ["Failed to load resource", "blocked by CORS policy", "net::ERR_"];
            let expected = troubled && network.iter().any(|text| message.contains(text));
            assert!(expected, "the console says: {message}");
        }
        // The last is what a new tab loads from within the browser.
        let (server, bucket) = (self.server.url(), self.bucket.url());
        let known = [&*server, &*bucket, "data:", "blob:", "file:", "chrome:"];
        let requests = self.events("Network.requestWillBeSent");
        assert!(!requests.is_empty(), "no request was seen at all");
        for event in requests {
            let url = event["request"]["url"].as_str().unwrap();
            assert!(known.iter().any(|known| url.starts_with(known)), "a request for {url}");
        }
    }

    fn assert_stored(&self, key: &str, bytes: &[u8]) {
        let object = self.bucket.object(key);
        let object = object.unwrap_or_else(|| panic!("no {key:?} in {:?}", self.bucket.keys()));
        assert!(object.bytes[..] == *bytes, "{key:?}: the bytes differ");
    }
}

/// What an application signs its tickets with.
const SECRET: &str = "a-secret-of-the-tests-of-32-characters";

fn ticket(subject: &str) -> String {
    let claims = json!({ "sub": subject, "exp": support::trust::now() + 600 });
    support::trust::ticket(SECRET, &claims)
}

/// Bytes that repeat late, so that a lost or doubled block shows.
fn bytes(length: u32) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn static_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("static").join(name)
}

#[test]
fn ones_own_site_may_embed_the_page_if_it_is_listed() {
    let browser = Browser::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let site = format!("http://{}", listener.local_addr().unwrap());
    let list = format!("https://www.example.com, {site}");
    let servers = [Server::start(&[]), Server::start(&[("FRAME_ANCESTORS", &list)])];
    let page = format!(
        "<link rel=icon href='data:,'><iframe src='{}/index.html'></iframe>\
         <iframe src='{}/index.html'></iframe>",
        servers[0].url(),
        servers[1].url()
    );
    // A site of two frames.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 8192]);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(format!("{head}{page}").as_bytes());
        }
    });
    browser.open(&site);
    servers[1].wait_log(POLICY_PATH); // its scripts run
    let log = format!("{:?}", browser.log("browser"));
    assert!(log.contains(&servers[0].url()) && log.contains("frame-ancestors 'none'"), "{log}");
    assert!(!log.contains(&servers[1].url()), "{log}");
    assert!(!servers[0].log().concat().contains("page.js"));
    let reply = request(servers[1].address, "GET", "/index.html", &[], b"");
    let policy = reply.header("content-security-policy").unwrap();
    let expected = format!("frame-ancestors https://www.example.com  {site}");
    assert!(policy.ends_with(&expected), "{policy}");
    for wrong in ["*", "www.example.com", "https://a.example;script-src *"] {
        let vars = [
            ("OSS_ACCESS_KEY_ID", "id"),
            ("OSS_ACCESS_KEY_SECRET", "secret"),
            ("OSS_HOST", "https://examplebucket.oss-cn-hangzhou.aliyuncs.com"),
            ("FRAME_ANCESTORS", wrong),
        ];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let error = Config::from_vars(&vars).err().unwrap_or_default();
        assert!(error.starts_with("FRAME_ANCESTORS: "), "{wrong}: {error}");
    }
}

#[test]
fn one_image_is_sent_verified_and_shown() {
    let world = world(&[]);
    let image = [BASE64.decode(PNG).unwrap(), bytes(3_000_000)].concat();
    let photo = [world.write("photo.png", &image)];
    world.run(
        "window.seen = [];
         const { onchange } = uploader.options;
         uploader.options.onchange = (upload) => {
             seen.push([upload.state, upload.loaded, upload.rate, upload.left]);
             onchange(upload);
         };",
    );
    world.throttle(false, 2_000_000);
    world.send_files("#files", &photo);
    world.wait("document.querySelector('#rows li canvas')");
    world.wait("/^\\d+% · /.test(document.title)");
    world.wait("/\\/s · \\d+ sec left/.test(document.querySelector('.status').textContent)");
    world.wait_all(1, &["done"]);

    world.assert_stored("user/photo.png", &image);
    assert_eq!(world.bucket.object("user/photo.png").unwrap().content_type, "image/png");
    assert_eq!(world.bucket.callbacks().len(), 1);
    let log = world.server.wait_log("photo.png");
    assert!(log.contains("callback bucket="), "{log}");
    let statuses = world.statuses();
    assert_eq!(statuses, ["Done · 2.9 MB · verified by the server"]);
    assert_eq!(world.text("#sum"), "1 of 1 done");

    let seen = serde_json::from_value(world.get("seen")).unwrap();
    let seen: Vec<(String, u64, f64, Option<f64>)> = seen;
    let mut states: Vec<&str> = seen.iter().map(|(state, ..)| state.as_str()).collect();
    states.dedup();
    assert_eq!(states, ["waiting", "signing", "uploading", "verifying", "done"]);
    assert!(seen.is_sorted_by_key(|(_, loaded, ..)| loaded), "{seen:?}");
    let steps: BTreeSet<u64> = seen.iter().map(|(_, loaded, ..)| *loaded).collect();
    assert!(steps.len() > 4 && steps.contains(&(image.len() as u64)), "{steps:?}");
    let mut rates = 0;
    for (state, _, rate, left) in &seen {
        if state == "uploading" && *rate > 0.0 {
            assert!(*rate < 6e6 && left.unwrap() < 60.0, "{seen:?}");
            rates += 1;
        }
    }
    assert!(rates > 2, "{seen:?}");

    // Screen readers are told.
    world.wait_text("#news", "photo.png · Done");
    world.assert_clean(false);
}

/// Ten files in the natural order of their names, three at once.
#[test]
fn ten_files_at_once_three_at_a_time() {
    let world = world(&[]);
    let name = |number: u32| format!("{} {number}.bin", if number % 2 == 0 { "B" } else { "a" });
    let content = |number: u32| bytes((number - 2) * 70_000);
    let paths = (2..12).rev().map(|number| world.write(&name(number), &content(number)));
    world.stall(3);
    world.send_files("#files", &paths.collect::<Vec<_>>());
    world.wait_stalls(3);
    world.wait("document.querySelectorAll('#rows li[data-state=waiting]').length === 7");
    assert_eq!(world.get("uploader.total().active"), 10);
    world.bucket.release();
    world.wait_all(10, &["done"]);
    assert_eq!(world.names(), [3, 5, 7, 9, 11, 2, 4, 6, 8, 10].map(name));
    for number in 2..12 {
        world.assert_stored(&format!("user/{}", name(number)), &content(number));
    }
    assert_eq!(world.text("#sum"), "10 of 10 done");
    assert_eq!(world.get("document.querySelector('#total').value"), 1);
    assert!(world.policies() <= 2, "{} policies for ten files", world.policies());
    world.assert_clean(false);
}

#[test]
fn files_and_folders_are_dropped_chosen_and_pasted() {
    let world = world(&[]);
    let one = world.write("one.txt", b"1");
    world.write("trip/two.txt", b"22");
    let three = world.write("trip/day 1/three.txt", b"333");
    let trip = three.parent().unwrap().parent().unwrap();

    world.drag(&[&one, trip], false);
    world.wait("document.body.classList.contains('dragging')");
    world.drag(&[&one, trip], true);
    world.wait_all(3, &["done"]);
    assert!(!world.truth("document.body.classList.contains('dragging')"));
    let dropped = ["user/one.txt", "user/trip/day 1/three.txt", "user/trip/two.txt"];
    assert_eq!(world.bucket.keys(), dropped);
    world.assert_stored("user/trip/day 1/three.txt", b"333");

    // A folder by the button's own input, into another folder of the bucket.
    world.send("#folder", "/2026//albums/");
    world.send_files("#folder-files", &[trip.to_owned()]);
    world.wait_all(5, &["done"]);
    world.assert_stored("user/2026/albums/trip/day 1/three.txt", b"333");

    // The same file a second time is a change as well.
    let one = [one];
    world.send_files("#files", &one);
    world.send_files("#files", &one);
    world.wait_all(7, &["done"]);

    world.run(
        "const transfer = new DataTransfer();
         transfer.items.add(new File(['picture'], 'image.png', { type: 'image/png' }));
         const event = { clipboardData: transfer, bubbles: true, cancelable: true };
         window.pasted = document.body.dispatchEvent(new ClipboardEvent('paste', event));",
    );
    world.wait_all(8, &["done"]);
    assert_eq!(world.get("pasted"), false, "the paste was not taken");
    let keys = world.bucket.keys();
    let pasted = keys.iter().find(|key| key.contains("image-")).expect("a name of its own");
    assert!(pasted.starts_with("user/2026/albums/image-") && pasted.ends_with(".png"));
    world.assert_clean(false);
}

#[test]
fn names_arrive_exactly() {
    let world = world(&[]);
    let long = format!("{}.txt", "长".repeat(338)); // with user/ 1,023 bytes
    assert_eq!("user/".len() + long.len(), 1023);
    let names = [
        "plain.txt",
        "中文 文件名.txt",
        "emoji 👩‍🚀🏖️.txt",
        "a#b?c&d=e;f.txt",
        "100%25+%zz.txt",
        "'single' \"double\" `back`.txt",
        "$& $1 $$ $` \\$ ${name}.txt",
        "${filename} and ${filename}.txt",
        "<img src=x onerror=alert(1)>.txt",
        " spaces  inside .txt",
        "e\u{301} decomposed.txt",
        "שלום עולם.txt",
        ".hidden",
        "no suffix",
        &long,
    ];
    let files: Vec<_> = names.iter().map(|name| (*name, *name, "text/plain")).collect();
    world.upload(&files, &["done"]);
    for name in names {
        world.assert_stored(&format!("user/{name}"), name.as_bytes());
    }
    assert_eq!(world.bucket.keys().len(), names.len());
    assert_eq!(world.names().into_iter().collect::<BTreeSet<_>>(), names.map(str::to_owned).into());
    assert!(world.truth("!document.querySelector('#rows img, #rows [onerror]')"));
    // Line breaks, which a form cannot carry as they are.
    world.upload(&[("line\r\nbreak\n.txt", "x", "")], &["done"]);
    world.assert_stored("user/line__break_.txt", b"x");

    // Random names: only the suffix stays.
    world.open();
    world.click("[value=random]");
    world.send("#folder", "随机");
    let before: BTreeSet<String> = world.bucket.keys().into_iter().collect();
    world.choose(&[("报告.final.PDF", "1", ""), ("photo.jpg", "2", ""), ("none", "3", "")]);
    world.wait_all(3, &["done"]);
    let after: BTreeSet<String> = world.bucket.keys().into_iter().collect();
    let fresh: Vec<&String> = after.difference(&before).collect();
    let mut suffixes = BTreeSet::new();
    for key in &fresh {
        let name = key.strip_prefix("user/随机/").unwrap();
        assert!(name.is_char_boundary(24), "{name}");
        let (random, suffix) = name.split_at(24);
        let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
        assert!(random.chars().all(plain), "{name}");
        suffixes.insert(suffix);
    }
    assert_eq!(suffixes, BTreeSet::from(["", ".PDF", ".jpg"]));
    world.assert_clean(false);
}

/// The tab's memory does not grow with the file.
#[test]
fn a_large_file_moves_and_the_tab_stays_small() {
    let size = support::rounds(200, 100) << 20;
    let world = world_with(Browser::start_alone(), &[]);
    let path = world.write_sparse("large.bin", b"begin", size);
    let before = world.tab_memory();
    assert!(before > 0, "no tab was found");
    world.run(
        "window.seen = new Set();
         const { onchange } = uploader.options;
         uploader.options.onchange = (upload) => { seen.add(upload.loaded); onchange(upload); };",
    );
    world.send_files("#files", &[path]);
    let mut most = 0;
    while !world.truth("['done', 'failed'].includes(uploader.uploads[0]?.state)") {
        most = most.max(world.tab_memory());
        std::thread::sleep(Duration::from_millis(100));
    }
    world.wait_all(1, &["done"]);
    let object = world.bucket.object("user/large.bin").unwrap();
    assert_eq!(object.bytes.len(), size);
    assert!(object.bytes.starts_with(b"begin\0") && object.bytes.ends_with(b"\0"));
    let steps = world.get("seen.size").as_u64().unwrap();
    assert!(steps > 2, "{steps} steps of progress"); // a browser tells of them every 50 ms at most
    let grown = most.saturating_sub(before) >> 20;
    assert!(grown < 60, "the tab grew by {grown} MB");
    println!("{size} bytes: the tab grew by {grown} MB, {steps} steps");
    world.assert_clean(false);
}

#[test]
fn a_queue_outlives_its_policy_whatever_the_visitors_clock_says() {
    let world = world(&[("EXPIRE_TIME", "3")]);
    let wrong_clock = "globalThis.Date = class extends Date {
        constructor(...a) { super(...(a.length ? a : [Date.now()])); }
        static now() { return super.now() + 4e11; }
    };";
    let script = json!({ "source": wrong_clock });
    world.devtools("Page.addScriptToEvaluateOnNewDocument", script);
    world.open();
    assert!(world.truth("new Date().getFullYear() > 2035"));
    // Slow behind the fields, as a long upload is.
    let slow = PostFault::Stall(10_000, Some(Duration::from_millis(1200)));
    world.bucket.faults().posts.extend(vec![slow; 9]);
    let text = "text".repeat(5000);
    let names: Vec<String> = (0..9).map(|number| format!("{number}.txt")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), text.as_str(), "")).collect();
    world.upload(&files, &["done"]);
    let statuses: Vec<u16> = world.bucket.posts().iter().map(|post| post.status).collect();
    assert_eq!(statuses, [200; 9], "one was tried with an old policy");
    assert!((2..=6).contains(&world.policies()), "{} policies", world.policies());
    world.assert_clean(false);
}

/// Each error of OSS, after as many tries as it is worth, and in every detail that it came with.
#[test]
fn errors_of_oss_become_sentences() {
    let world = world(&[]);
    // One after the other, so that each meets its own error.
    world.run("Object.assign(uploader.options, { backoff: 1, retries: 2, parallel: 1 })");
    // Status, code, how often it is tried, and what the page says.
    let table = [
        (403, "AccessDenied", 1, "The bucket denies access."),
        (400, "EntityTooLarge", 1, "Too large: 1000 MB at most."),
        (400, "EntityTooSmall", 1, "Too small: 0 B at least."),
        (403, "InvalidAccessKeyId", 1, "OSS does not know the server’s access key."),
        (403, "SignatureDoesNotMatch", 1, "The server’s access key secret is wrong."),
        (403, "SecurityTokenExpired", 2, "The server’s credentials ran out."),
        (403, "RequestTimeTooSkewed", 2, "The server’s clock is wrong."),
        (409, "FileAlreadyExists", 1, IS_THERE),
        (404, "NoSuchBucket", 1, "The bucket does not exist."),
        (403, "QuotaExceeded", 1, "The bucket is full."),
        (400, "InvalidArgument", 1, "The server’s region or callback address is wrong."),
        (400, "NeverHeardOf", 1, "OSS refused the upload."),
        // What tables of words have beside errors.
        (400, "constructor", 1, "OSS refused the upload."),
        (400, "title", 1, "OSS refused the upload."),
        (500, "InternalError", 3, "OSS has a problem. Try again later."),
        (503, "ServiceUnavailable", 3, "OSS has a problem. Try again later."),
    ];
    let mut names = Vec::new();
    for (number, (status, code, tries, _)) in table.iter().enumerate() {
        world.bucket.faults().fail_posts(*tries, *status, code);
        names.push(format!("{number}.txt"));
    }
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), "text", "text/plain")).collect();
    world.upload(&files, &["failed", "unconfirmed"]);
    world.run("document.querySelectorAll('.more').forEach((more) => more.click())");
    let (statuses, facts) = (world.statuses(), world.texts(".facts"));
    let mut posts = world.bucket.posts().into_iter();
    for (number, (status, code, tries, sentence)) in table.into_iter().enumerate() {
        // After an error of its own OSS may have stored the file.
        let said = match status {
            ..500 => format!("Failed · {sentence}"),
            _ => format!("Unconfirmed · {sentence} It may be stored all the same."),
        };
        assert_eq!(statuses[number], said);
        let posts: Vec<_> = posts.by_ref().take(tries).collect();
        assert!(posts.iter().all(|post| post.code == code), "{code}: {posts:?}");
        let facts = &facts[number];
        assert!(facts.starts_with("Name in the bucketuser/"), "{code}: {facts}");
        assert!(
            facts.contains(&format!("Error{code}MessageBroken on purpose.")),
            "{code}: {facts}"
        );
        assert!(facts.contains(&posts[tries - 1].request_id), "{code}: {facts}");
    }
    assert_eq!(posts.next().map(|post| post.key), None, "there was one try more");
    world.click("#clear");
    world.wait("!uploader.uploads.length");

    // A policy that is over by OSS's clock: a fresh one at once, and no more than that.
    let day = 86_400 + std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    world.bucket.set_clock(Some(day));
    let (posts, policies) = (world.bucket.posts().len(), world.policies());
    world.upload(&[("a.txt", "text", "text/plain")], &["failed"]);
    assert_eq!(world.statuses(), ["Failed · The permission to upload ran out."]);
    assert_eq!((world.bucket.posts().len() - posts, world.policies() - policies), (2, 2));
    world.bucket.set_clock(None);
    world.click(".again");
    world.wait_all(1, &["done"]);
    world.assert_clean(true);
}

#[test]
fn the_bucket_goes_stalls_and_comes_back() {
    let world = world(&[]);
    world.run("Object.assign(uploader.options, { backoff: 20, stall: 400 })");
    let text = "0123456789".repeat(200_000);
    // Reset in the middle, no answer at all, silence in the middle; then it works.
    let silent = PostFault::Stall(1000, None);
    let faults = [PostFault::Reset(1000), PostFault::NoAnswer, silent.clone(), PostFault::Reset(9)];
    world.bucket.faults().posts.extend(faults);
    world.upload(&[("a.txt", &text, "text/plain")], &["done"]);
    assert!(world.bucket.faults().posts.is_empty(), "it did not meet them all");
    // Chromium itself sends again what failed on a connection that it used before.
    assert!(world.truth("uploader.uploads[0].tries >= 3"));
    world.assert_stored("user/a.txt", text.as_bytes());
    assert_eq!(world.get("uploader.uploads[0].error"), Value::Null);

    // It never comes back: the tries are counted, and the last trouble is told.
    world.run("uploader.options.retries = 1");
    world.bucket.faults().posts.extend([silent.clone(), silent]);
    world.upload(&[("b.txt", &text, "text/plain")], &["done", "unconfirmed"]);
    let said = "Unconfirmed · The transfer came to a halt. It may be stored all the same.";
    assert_eq!(world.statuses()[1], said);
    world.bucket.release();
    world.assert_clean(true);
}

#[test]
fn the_network_and_the_server_go_and_come_back() {
    let mut world = world(&[("EXPIRE_TIME", "1")]);
    world.run("Object.assign(uploader.options, { backoff: 20 })");
    world.wait("document.querySelector('#limits').textContent");
    world.offline(true);
    world.wait("!navigator.onLine");
    world.upload(&[("a.txt", "text", "")], &["offline"]);
    assert!(world.statuses()[0].starts_with("Waiting for the network · 4 B"));
    world.offline(false);
    world.wait_all(1, &["done"]);
    assert_eq!(world.get("uploader.uploads[0].tries"), 0);

    // The server is gone for a while: no bucket is asked, and the queue goes on by itself.
    world.run("window.begin = performance.now()");
    world.wait("performance.now() > begin + 1000"); // no policy in hand outlives that
    let address = world.server.address;
    world.server.kill();
    world.run("uploader.options.retries = 1000");
    world.choose(&[("b.txt", "text", "")]);
    world.wait("uploader.uploads[1].tries > 1");
    let posts = world.bucket.posts().len();
    let mut command = Command::new(binary());
    command.args(["127.0.0.1", &address.port().to_string()]);
    let callback = format!("http://{address}/callback");
    let vars = world.vars.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let vars: Vec<_> = vars.chain([("CALLBACK_URL", callback.as_str())]).collect();
    world.server = Server::spawn(command, &vars);
    assert_eq!(world.server.address, address);
    world.wait_all(2, &["done"]);
    assert_eq!(world.bucket.posts().len(), posts + 1);
    world.assert_clean(true);
}

#[test]
fn cancel_retry_and_remove() {
    let world = world(&[]);
    // More than sockets hold, so that it cannot be all sent already.
    let large = bytes(16_000_000);
    let path = world.write("a.txt", &large);
    world.bucket.faults().posts.push_back(PostFault::Stall(10_000, None));
    world.send_files("#files", &[path]);
    world.wait_stalls(1);
    world.choose(&[("b.txt", "b", ""), ("c.txt", "c", "")]);
    world.wait("document.querySelectorAll('[data-state=done]').length === 2");
    world.wait("uploader.uploads[0].state === 'uploading'");
    let asks = "!dispatchEvent(new Event('beforeunload', { cancelable: true }))";
    assert!(world.truth(asks), "the page may be closed while it uploads");
    assert_eq!(world.get("document.querySelector('.stop').ariaLabel"), "Cancel a.txt");
    world.click(".stop");
    world.wait_all(3, &["done", "cancelled"]);
    world.bucket.release();
    world.wait("document.title === 'Upload files'");
    assert!(!world.truth(asks));
    assert_eq!(world.bucket.keys(), ["user/b.txt", "user/c.txt"]);
    assert_eq!(world.text("#sum"), "2 of 3 done · Cancelled: 1");

    // Again, by the keyboard; the focus stays in the row when its button goes.
    world.run("document.querySelector('.again').focus()");
    world.press(" ");
    world.wait_all(3, &["done"]);
    world.assert_stored("user/a.txt", &large);
    assert_eq!(world.get("document.activeElement.ariaLabel"), "Remove a.txt");
    for left in [2, 1, 0] {
        world.click(".stop");
        world.wait(&format!("document.querySelectorAll('#rows li').length === {left}"));
        assert!(world.truth("document.activeElement.matches('.stop, #choose')"));
    }
    world.wait("document.querySelector('#queue').hidden");

    // All at once.
    world.stall(3);
    world.choose(&[("d", "d", ""), ("e", "e", ""), ("f", "f", ""), ("g", "g", "")]);
    world.wait("document.querySelectorAll('[data-state=waiting]').length === 1");
    world.click("#cancel-all");
    world.wait_all(4, &["cancelled"]);
    world.bucket.release();
    world.assert_clean(false);
}

/// By size and type, which are called what people call them.
#[test]
fn what_the_policy_forbids_is_refused_before_sending() {
    let office = "application/vnd.openxmlformats-officedocument";
    let types = format!("application/pdf,{office}.spreadsheetml.sheet,image/png,text/plain");
    let world = world(&[("MAX_UPLOAD_BYTES", "1000"), ("UPLOAD_CONTENT_TYPES", &types)]);
    world.wait("document.querySelector('#limits').textContent");
    let only = "PDF, Excel (.xlsx), PNG, TXT only";
    assert_eq!(world.text("#limits"), format!("Up to 1000 B a file · {only}"));
    assert_eq!(world.get("document.querySelector('#files').accept"), types);
    let large = "x".repeat(1001);
    world.choose(&[
        ("large.txt", &large, "text/plain"),
        ("page.html", "<p>", "text/html"),
        ("unknown", "?", ""),
        ("fits.txt", &large[1..], "text/plain"),
        ("a.docx", "x", &format!("{office}.wordprocessingml.document")),
        ("b.heic", "x", ""),
        ("d.mov", "x", "video/quicktime"),
    ]);
    world.wait_all(7, &["done", "failed"]);
    let other = |seen: &str| format!("Failed · Not allowed: {seen}. {only}");
    // In natural order of the names.
    let expected = [
        other("Word (.docx)"),
        other("HEIC"),
        other("MOV"),
        "Done · 1000 B · verified by the server".to_owned(),
        "Failed · Too large: 1000 B at most.".to_owned(),
        other("HTML"),
        other("Unknown type"),
    ];
    assert_eq!(world.statuses(), expected);
    assert_eq!(world.bucket.posts().len(), 1);
    assert_eq!(world.bucket.object("user/fits.txt").unwrap().content_type, "text/plain");
    assert!(world.truth("!document.querySelector('.again:not([hidden])')"), "no use to retry");
    let bars = world.get("[...document.querySelectorAll('.bar')].map((bar) => bar.value)");
    assert_eq!(bars, json!([0, 0, 0, 1, 0, 0, 0]));
    assert!(world.truth("document.querySelector('#retry-all').hidden"));
    world.assert_clean(false);

    // A page that does not look is stopped by the bucket.
    world.get("uploader.limits().then((limits) => Object.assign(limits, { max: 1e9, types: [] }))");
    world.upload(&[("z.html", "<p>", "text/html")], &["done", "failed"]);
    let said = "Failed · The server’s policy does not allow this upload.";
    assert_eq!(world.statuses()[7], said);
    assert_eq!(world.bucket.posts()[1].status, 403);
    assert_eq!(world.bucket.keys(), ["user/fits.txt"]);
    world.assert_clean(true);
}

/// One row in each state there is, without any transfer.
const EVERY_STATE: &str = r#"
    const MB = 1048576;
    uploader.options.parallel = 0;
    const picture = async (name, ...colours) => {
        const canvas = new OffscreenCanvas(96, 96);
        const context = canvas.getContext('2d');
        const shade = context.createLinearGradient(0, 0, 60, 96);
        colours.forEach((colour, i) => shade.addColorStop(i / (colours.length - 1), colour));
        context.fillStyle = shade;
        context.fillRect(0, 0, 96, 96);
        return new File([await canvas.convertToBlob()], name, { type: 'image/png' });
    };
    const sized = (size, name) =>
        Object.defineProperty(new File(['x'], name), 'size', { value: size * MB });
    const done = { state: 'done', answer: { Status: 'OK' } };
    const error = (code, more) =>
        ({ error: { code, status: 403, requestId: '5C3D9175B6FC201293AD4890', ...more } });
    const failed = (...why) => ({ state: 'failed', loaded: 0, ...error(...why) });
    const long = 'budget-of-the-next-five-years-with-all-appendices-final.xlsx';
    const unregistered = error('CallbackFailed', { message: 'Error status : 502.' });
    return (async () => {
        const lake = await picture('sunrise at the lake.png', '#27408b', '#f6a04d', '#fbe3a6');
        const wood = await picture('森林小路 🌲.png', '#9fd3c7', '#2f6f4f', '#16321f');
        const moving = { state: 'uploading', loaded: 361 * MB, rate: 11.4 * MB, left: 39.2 };
        const tooLarge = failed('EntityTooLarge', { limit: 1000 * MB, refused: true });
        const lost = failed('ProbablyStored', { status: 409 });
        const unconfirmed = failed('CallbackFailed', { status: 203 });
        const all = [
            [lake, done],
            [wood, done],
            [sized(4.2, 'Quarterly report 2026.pdf'), { state: 'verifying' }],
            [sized(812, 'conference-recording.mp4'), moving],
            [sized(64, 'measurements.zip'), { state: 'signing', loaded: 0 }],
            [sized(3, 'notes.docx'), { pause: 'retry', loaded: 0, ...error('NetworkError') }],
            [sized(5, 'song.flac'), { pause: 'offline', loaded: 0, ...error('ServerGone') }],
            [sized(1700, 'backup.tar'), tooLarge],
            [sized(22, long), { state: 'failed', stored: 'yes', ...unregistered }],
            [sized(9, 'draft.key'), { state: 'cancelled', loaded: 3 * MB }],
            [sized(2, 'contract.pdf'), { ...lost, stored: 'maybe' }],
            [sized(3, 'plan.dwg'), failed('AccessDenied')],
            [sized(1, 'letter.txt'), { loaded: 0 }],
            [sized(2, 'voice memo.m4a'), { state: 'cancelled', stored: 'maybe' }],
            [sized(2, 'scan.tiff'), { ...unconfirmed, state: 'cancelled', stored: 'yes' }],
        ];
        uploader.add(all.map(([file]) => file));
        all.forEach(([, state], i) => {
            const upload = uploader.uploads[i];
            const key = `user/${upload.target}`;
            const url = `https://bucket.example.com/${encodeURI(key)}`;
            const stored = state.state === 'done' ? 'yes' : 'no';
            Object.assign(upload, { key, url, stored, loaded: upload.file.size }, state);
            changed(upload);
        });
        await new Promise((then) => setTimeout(then, 400));
    })();"#;

/// Only what is finished, for the picture in `static/README.md`.
const FINISHED: &str = "
    for (const upload of [...uploader.uploads].slice(4)) rows.get(upload).remove();
    Object.assign(uploader.uploads[2], { state: 'done', answer: { Status: 'OK' } });
    changed(uploader.uploads[2]);
    document.querySelector('#news').textContent = '';
    return new Promise((then) => setTimeout(then, 400));";

fn screenshot(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("SCREENSHOTS") {
        let folder = PathBuf::from(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), browser.screenshot()).unwrap();
    }
}

/// What tests/browser/install fetches.
fn tool(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(path);
    assert!(path.exists(), "{} is missing: run tests/browser/install", path.display());
    path
}

/// What axe finds, which must be on the page.
fn assert_accessible(browser: &Browser, what: &str) {
    // Nothing is told of what passes, which takes most of the time.
    let violations = browser.run(
        "const why = (nodes) => nodes.map(({ html, failureSummary }) => html + failureSummary);
         return axe.run({ resultTypes: ['violations'], selectors: false }).then(
             ({ violations }) => violations.map(({ id, nodes }) => `${id}: ${why(nodes)}`));",
    );
    assert_eq!(violations, json!([]), "{what}");
}

const SCHEMES: [(&str, &str, &str); 3] = [
    ("prefers-color-scheme", "dark", "-dark"),
    ("forced-colors", "active", "-forced"),
    ("prefers-color-scheme", "light", ""),
];

/// Accessibility: axe finds nothing, in any state, language, size and colour scheme. On a phone all
/// that a finger touches is large enough (44 pixels), and the queue is in sight.
#[test]
fn everybody_can_use_it() {
    let axe = std::env::var_os("AXE_JS").map(PathBuf::from);
    let axe = axe.unwrap_or_else(|| tool("axe/axe.min.js"));
    let axe = format!("{}; window.axe = axe", std::fs::read_to_string(axe).unwrap());
    let click_all = |selector: &str| {
        format!("document.querySelectorAll('{selector}').forEach((one) => one.click())")
    };
    let details = click_all(".more:not([hidden])");
    for language in ["en-US", "zh-CN", "zh-TW"] {
        let world = world(&[]);
        world.open_in(language);
        let look = |name: &str| {
            assert_accessible(&world, &format!("{language}: {name}"));
            screenshot(&world, &format!("{language}-{name}"));
        };
        // Contrast takes long, and no colour depends on the language.
        let is_whole = language == "en-US" || support::rounds(1, 0) == 1;
        let look_in_schemes = |name: &str| {
            for (feature, value, suffix) in if is_whole { &SCHEMES[..] } else { &SCHEMES[2..] } {
                world.media(&[(feature, value)]);
                look(&format!("{name}{suffix}"));
            }
        };
        world.wait("document.querySelector('#limits').textContent");
        world.run(&axe);
        world.resize(1280, 800, false);
        look("empty");
        world.drag(&[&world.write("over.txt", b"over the page")], false);
        world.wait("document.body.classList.contains('dragging')");
        look_in_schemes("dragging");
        world.run("dispatchEvent(new DragEvent('dragleave'))");
        assert!(!world.truth("document.body.classList.contains('dragging')"));
        world.run(EVERY_STATE);
        look_in_schemes("states");
        world.run(&details);
        look("details");
        world.resize(320, 640, true);
        world.wait("innerWidth === 320");
        look("small");
        assert_eq!(world.get("document.documentElement.scrollWidth"), 320);
        world.run(&details);
        world.resize(900, 600, false);
        world.run(FINISHED);
        screenshot(&world, &format!("{language}-finished"));
        world.run("uploader.limits = null; showLimits(null, { code: 'NotAllowed', status: 401 })");
        look("no-permission");

        // As it is opened on a phone.
        world.run("window.onbeforeunload = null");
        world.devtools("Emulation.setTouchEmulationEnabled", json!({ "enabled": true }));
        world.resize(390, 844, true);
        world.open();
        assert!(world.truth("matchMedia('(pointer: coarse)').matches"));
        let visible = world.get("document.body.innerText").to_string();
        for word in ["Drop", "paste", "Names in the bucket"] {
            assert!(!visible.contains(word), "{word}");
        }
        world.run(&axe);
        world.run(EVERY_STATE);
        let top = world.get("document.querySelector('#rows').getBoundingClientRect().top");
        assert!(top.as_f64().unwrap() < 844.0 * 0.6, "the first row begins at {top}");
        look_in_schemes("phone");
        world.resize(390, 844, true);
        world.run(&click_all(".more:not([hidden]), summary"));
        let small = world.get(
            "[...document.querySelectorAll('button, summary, input:not([hidden]), label')]
                .filter((one) => one.checkVisibility() &&
                    !one.closest('label:not(:has(#folder))')?.contains(one.parentElement))
                .map((one) => [one.outerHTML.slice(0, 80), one.getBoundingClientRect()])
                .filter(([, box]) => box.width < 44 || box.height < 44)
                .map(([html, box]) => `${html} ${box.width} x ${box.height}`)",
        );
        assert_eq!(small, json!([]), "{language}");
        assert_eq!(world.get("document.documentElement.scrollWidth"), 390);
        world.assert_clean(false);
    }
}

#[test]
fn keyboard_motion_and_layout() {
    let world = world(&[]);
    world.media(&[("prefers-reduced-motion", "reduce")]);
    // Everything is reached in the order it is read, and shows that it has the focus.
    let mut reached = Vec::new();
    for _ in 0..4 {
        world.press("Tab");
        let focused = "document.activeElement.id || document.activeElement.value ||
            document.activeElement.dataset.text";
        reached.push(world.get(focused));
        let outline = "getComputedStyle(document.activeElement).outlineStyle";
        assert_eq!(world.get(outline), "solid", "{reached:?}");
    }
    assert_eq!(json!(reached), json!(["local", "folder", "choose", "chooseFolder"]));
    world.run(
        "window.shifts = [];
         const note = (list) => list.getEntries().forEach((entry) => shifts.push(entry.value));
         new PerformanceObserver(note).observe({ type: 'layout-shift', buffered: true });",
    );
    world.throttle(false, 1_000_000);
    let text = "x".repeat(400_000);
    world.choose(&[("a.txt", &text, ""), ("b.txt", &text, ""), ("c.txt", "c", ""), ("d", "d", "")]);
    world.wait_all(4, &["done"]);
    let still = "getComputedStyle(document.querySelector('.bar'), '::-webkit-progress-value')
        .transitionProperty + getComputedStyle(document.querySelector('.bar')).transitionProperty";
    assert!(world.get(still).as_str().unwrap().contains("none"));
    world.get("new Promise((then) => requestAnimationFrame(() => setTimeout(then, 200)))");
    let shift = world.get("shifts.reduce((a, b) => a + b, 0)").as_f64().unwrap();
    assert!(shift < 0.01, "the layout shifts by {shift}");
    // Neither script holds up the first picture.
    let blocking = "[...document.scripts].filter((script) => !script.defer).length";
    assert_eq!(world.get(blocking), 0);
    world.assert_clean(false);
}

/// The page works under its Content-Security-Policy, and what an attacker injects (XSS) does not.
#[test]
fn the_security_policy_holds() {
    let world = world(&[]);
    world.upload(&[("a.txt", "text", "")], &["done"]);
    world.assert_clean(false);
    // What an attacker who found a hole would try: none of it runs or leaves.
    world.run(
        "const script = document.createElement('script');
         script.textContent = 'window.ran = true';
         const image = '<img src=x onerror=\"window.ran = true\">';
         document.body.append(script);
         document.body.insertAdjacentHTML('beforeend', image);",
    );
    let elsewhere = "fetch('http://127.0.0.1:9/').then(() => 'left', () => 'refused')";
    assert_eq!(world.get(elsewhere), "refused");
    assert!(world.truth("window.ran === undefined"));
    let log = format!("{:?}", world.log("browser"));
    for directive in ["script-src 'self'", "connect-src 'self'"] {
        assert!(log.contains(directive), "{directive} stopped nothing: {log}");
    }
}

/// From the disk, with the server's address in its `meta` element.
#[test]
fn it_works_as_a_file() {
    let world = world(&[]);
    for name in PAGE {
        let text = std::fs::read_to_string(static_file(name)).unwrap();
        let server = format!("name=\"server\" content=\"{}\"", world.server.url());
        let text = text.replace("name=\"server\" content=\"\"", &server);
        world.write(name, text.as_bytes());
    }
    let page = world.browser.folder.0.join("files/index.html");
    world.browser.open(&format!("file://{}", page.display()));
    world.upload(&[("from a file.txt", "text", "")], &["done"]);
    world.assert_stored("user/from a file.txt", b"text");
    world.assert_clean(false);
}

/// What the client of 2014 did: the answer of `GET /` evaluated, its parts put in a form.
#[test]
fn the_original_clients_contract_holds() {
    let world = world(&[]);
    let script = "
        const request = new XMLHttpRequest();
        request.open('GET', '/', false);
        request.send(null);
        const got = JSON.parse(request.responseText);
        const now = Date.parse(new Date()) / 1000;
        if (got.expire < now + 3) throw Error('expired at once');
        const form = new FormData();
        form.append('name', 'photo.jpg');
        form.append('key', got.dir + '${filename}');
        form.append('policy', got.policy);
        form.append('OSSAccessKeyId', got.accessid);
        form.append('success_action_status', '200');
        form.append('callback', got.callback);
        form.append('signature', got.signature);
        form.append('file', new Blob(['picture']), 'photo.jpg');
        return fetch(got.host, { method: 'POST', body: form }).then(async (answer) =>
            [answer.status, await answer.text()]);";
    let answer = world.run(script);
    assert_eq!(answer, json!([200, "{\"Status\":\"OK\"}"]));
    world.assert_stored("user/photo.jpg", b"picture");
}

/// However it ends: by Ctrl-C, by systemd's signal, or killed.
#[test]
fn the_demo_leaves_nothing_in_the_temporary_folder() {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--locked", "--offline", "--example", "demo", "--message-format=json"]);
    // What cargo tells tests of their package would have dependencies built anew.
    for (name, _) in std::env::vars() {
        if name == "OUT_DIR"
            || name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
        {
            build.env_remove(name);
        }
    }
    let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let messages = String::from_utf8(built.stdout).unwrap();
    let messages = messages.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut demo = messages.filter_map(|message| message["executable"].as_str().map(str::to_owned));
    let demo =
        demo.next_back().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&built.stderr)));
    let folder = support::Folder::new();
    let left = || std::fs::read_dir(&folder.0).unwrap().count();
    for signal in ["INT", "TERM", "KILL"] {
        let mut command = Command::new(&demo);
        command.env("TMPDIR", &folder.0).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let page = lines.find(|line| line.as_ref().unwrap().starts_with("the page: "));
        let page = page.unwrap().unwrap();
        let address = page.split('/').nth(2).unwrap().parse().unwrap();
        lines.find(|line| line.as_ref().unwrap().starts_with("the record: ")).unwrap().unwrap();
        assert_eq!(request(address, "GET", "/healthz", &[], b"").status, 200); // it is up
        assert_eq!(left(), 1, "the record is not there");
        let kill = Command::new("kill").args(["-s", signal, &process.id().to_string()]).status();
        assert!(kill.unwrap().success());
        process.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while left() > 0 {
            assert!(Instant::now() < deadline, "{signal} leaves something behind");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Ticket (a JWT in the page's address), policy, callback token, confirmation and record together,
/// as the demo has them. The ticket goes to the server and nowhere else, and into no log.
#[test]
fn with_every_check_on_an_upload_is_verified_and_recorded() {
    let record = support::Folder::new();
    let world = world(&[
        ("UPLOAD_JWT_SECRET", SECRET),
        ("CALLBACK_TOKEN", "on"),
        ("CONFIRM_UPLOADS", "on"),
        ("UPLOAD_LOG", record.0.to_str().unwrap()),
    ]);
    let ticket = ticket("alice");
    world.browser.open(&format!("{}/index.html?#ticket={ticket}", world.server.url()));
    let files = [("中文 1.txt", "hello", "text/plain"), ("b.txt", "world", "text/plain")];
    world.upload(&files, &["done"]);
    world.assert_stored("user/alice/中文 1.txt", b"hello");
    let file = std::fs::read_dir(&record.0).unwrap().next().unwrap().unwrap().path();
    let mut recorded = Vec::new();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        recorded.push(format!("{} {}", line["subject"], line["object"]));
    }
    recorded.sort();
    let expected = [r#""alice" "user/alice/b.txt""#, r#""alice" "user/alice/中文 1.txt""#];
    assert_eq!(recorded, expected);

    let mut seen = 0;
    for event in world.events("Network.requestWillBeSent") {
        let request = &event["request"];
        let url = request["url"].as_str().unwrap();
        let sent = &request["headers"]["Authorization"];
        if url.ends_with(POLICY_PATH) && *sent == json!(format!("Bearer {ticket}")) {
            seen += 1;
        } else {
            assert!(sent.is_null(), "{url} got {sent}");
        }
    }
    assert!(seen > 0);
    assert!(!world.server.log().concat().contains(&ticket));
}

/// `tests/proxy/nginx.conf`, with TLS and under a path: the page comes through it, and so does the
/// callback, by a client that names no host in its handshake (another server of nginx's, since the
/// stand-in speaks no TLS).
#[test]
fn through_nginx_with_tls_the_page_uploads_and_the_callback_comes_back() {
    let callback_url = format!("https://{}/upload/callback", proxy::HOST);
    let prefix = ("PUBLIC_PATH_PREFIX", "/upload");
    let world = world(&[prefix, ("CALLBACK_URL", &callback_url), ("CALLBACK_TOKEN", "on")]);
    proxy::certificate(&world.browser.folder.0);
    let pem = world.browser.folder.0.join("upload.pem").display().to_string();
    let nginx = Proxy::nginx(&world.browser.folder.0, 2, |ports| {
        let places = [
            ("listen 443 ", &*format!("listen 127.0.0.1:{} ", ports[0])),
            ("/etc/ssl/upload.pem", &pem),
            ("/etc/ssl/upload.key", &pem.replace(".pem", ".key")),
            ("unix:/run/appserver.sock", &world.server.address.to_string()),
        ];
        let block = proxy::file("nginx.conf", &places);
        format!(
            "{block}\nserver {{\nlisten 127.0.0.1:{};\nlocation / {{\n\
             proxy_pass https://127.0.0.1:{};\nproxy_set_header Host $http_host;\n\
             proxy_ssl_server_name off;\nproxy_ssl_verify on;\n\
             proxy_ssl_trusted_certificate {pem};\nproxy_ssl_name {};\n}}\n}}",
            ports[1],
            ports[0],
            proxy::HOST
        )
    });
    world.bucket.faults().routes.push((proxy::HOST.to_owned(), nginx.address(1)));

    // The certificate is nobody's that a browser knows.
    world.devtools("Security.setIgnoreCertificateErrors", json!({ "ignore": true }));
    world.browser.open("about:blank");
    world.log("performance");
    let front = format!("https://{}/upload/", nginx.address(0));
    world.browser.open(&format!("{front}index.html"));
    let image = [BASE64.decode(PNG).unwrap(), bytes(1_000_000)].concat();
    let photo = [world.write("photo.png", &image)];
    world.send_files("#files", &photo);
    world.wait_all(1, &["done"]);
    world.assert_stored("user/photo.png", &image);
    let statuses = world.statuses();
    assert_eq!(statuses, ["Done · 977 KB · verified by the server"]);
    let callbacks = world.bucket.callbacks();
    assert!(callbacks.len() == 1 && callbacks[0].url.starts_with(&callback_url), "{callbacks:?}");
    world.server.wait_log(" 127.0.0.1 POST \"/upload/callback\" 200 callback bucket=");

    // No warning of mixed content either: the bucket of this test has no TLS, but is on loopback.
    let console = world.log("browser");
    assert!(world.truth("isSecureContext") && console.is_empty(), "{console:?}");
    let mut seen = BTreeSet::new();
    for event in world.events("Network.requestWillBeSent") {
        let url = event["request"]["url"].as_str().unwrap();
        if !["data:", "blob:", "about:"].iter().any(|scheme| url.starts_with(scheme)) {
            let name = url.strip_prefix(&front).or(url.strip_prefix(&world.bucket.url()));
            seen.insert(name.unwrap_or(url).to_owned());
        }
    }
    let expected = PAGE.map(str::to_owned);
    let expected = expected.into_iter().chain([POLICY_PATH[1..].to_owned(), "/".to_owned()]);
    assert_eq!(seen, expected.collect());
}
