//! Rare outcomes: the page says what became of each file, also when nobody can know for certain.

use super::*;

/// Longer than the page waits for a response: it is lost, though the object is stored.
const LOST: Duration = Duration::from_secs(600);

fn forbidding() -> World {
    let world = world(&[("FORBID_OVERWRITE", "on")]);
    world.run("Object.assign(uploader.options, { backoff: 20, stall: 400 })");
    world
}

#[test]
fn after_a_lost_response_a_taken_name_is_probably_ones_own() {
    let world = forbidding();
    world.bucket.faults().callback_delay = LOST;
    world.upload(&[("a.txt", "text", "text/plain")], &["unconfirmed"]);
    let said = "Unconfirmed · Probably stored: all was sent, but the confirmation was lost.";
    assert_eq!(world.statuses(), [said]);
    assert_eq!(world.get("uploader.uploads[0].stored"), "maybe");
    assert_eq!(world.get("uploader.uploads[0].error.code"), "ProbablyStored");
    assert_eq!(world.text("#sum"), "0 of 1 done · Unconfirmed: 1");
    world.wait("document.querySelector('#news').textContent.startsWith('a.txt · Unconfirmed')");
    // Asked for once more, it is not another's name all of a sudden.
    world.run("window.before = uploader.uploads[0].error");
    world.click(".again");
    world.wait("uploader.uploads[0].error && uploader.uploads[0].error !== before");
    world.wait_all(1, &["unconfirmed"]);
    assert_eq!(world.statuses(), [said]);
    world.assert_stored("user/a.txt", b"text");

    // An application that can look it up settles it.
    world.run("uploader.options.confirm = ({ key }) => ({ found: key })");
    world.click(".again");
    world.wait_all(1, &["done"]);
    assert_eq!(world.get("uploader.uploads[0].answer"), json!({ "found": "user/a.txt" }));
    world.bucket.release();
}

/// Chromium sends a request again by itself when a connection that it used before ends without a
/// response; no page learns of it. And the record of an object that somebody else stored does not
/// make an upload of it.
#[test]
fn a_taken_name_is_never_said_to_be_anothers_nor_is_anothers_ones_own() {
    let world = forbidding();
    world.upload(&[("first.txt", "last year's", "")], &["done"]);
    world.bucket.faults().posts.push_back(PostFault::NoAnswer);
    world.upload(&[("a.txt", "text", "text/plain")], &["done", "failed", "unconfirmed"]);
    let status = world.statuses().remove(1);
    assert!(status.contains("may be this one") || status.contains("Probably stored"), "{status}");
    world.assert_stored("user/a.txt", b"text");

    world.open();
    world.run("uploader.options.confirm = () => ({ size: 11 })");
    world.upload(&[("first.txt", "this year's", "")], &["done", "failed", "unconfirmed"]);
    assert_eq!(world.statuses(), [format!("Failed · {IS_THERE}")]);
    world.assert_stored("user/first.txt", b"last year's");
}

/// OSS says 203 where the callback failed, and 409 of the next try.
#[test]
fn what_was_stored_but_not_registered_is_no_success_and_stays_so() {
    let world = forbidding();
    world.bucket.faults().callback_fail = Some("Error status : 502.".to_owned());
    world.upload(&[("a.txt", "text", "text/plain")], &["unconfirmed"]);
    world.assert_stored("user/a.txt", b"text");
    let stored = "Stored, but not registered: the server did not confirm it.";
    let said = format!("Unconfirmed · {stored}");
    assert_eq!(world.statuses(), [said.as_str()]);
    let error =
        "(({ stored, error }) => [stored, error.stored, error.status])(uploader.uploads[0])";
    assert_eq!(world.get(error), json!(["yes", true, 203]));
    world.click(".more");
    assert!(world.text(".facts").contains("Error status : 502."));
    world.assert_clean(false);
    world.click("#retry-all");
    world.wait("uploader.uploads[0].error?.status === 409");
    world.wait_all(1, &["unconfirmed"]);
    assert_eq!(world.statuses(), [said]);
    assert_eq!(world.get(error), json!(["yes", true, 409]));
    // Also when another try ends in another way, or in none.
    world.bucket.faults().fail_posts(1, 403, "AccessDenied");
    world.click("#retry-all");
    world.wait("/denies/.test(document.querySelector('.status').textContent)");
    assert_eq!(world.statuses(), [format!("Unconfirmed · The bucket denies access. {stored}")]);
    world.run("uploader.options.parallel = 0");
    world.click("#retry-all");
    world.wait_all(1, &["waiting"]);
    world.click(".stop");
    world.wait_all(1, &["cancelled"]);
    assert_eq!(world.statuses(), [format!("Cancelled · {stored}")]);
}

#[test]
fn what_is_cancelled_while_it_is_verified_may_be_stored() {
    let world = forbidding();
    world.run("uploader.options.stall = 60000");
    world.bucket.faults().callback_delay = LOST;
    world.upload(&[("a.txt", "text", "text/plain")], &["verifying"]);
    while world.bucket.object("user/a.txt").is_none() {
        std::thread::yield_now();
    }
    world.click(".stop");
    world.wait_all(1, &["cancelled"]);
    assert_eq!(world.statuses(), ["Cancelled · It may be stored all the same."]);
    world.click(".again");
    world.wait_all(1, &["unconfirmed"]);
    assert!(world.statuses()[0].contains("Probably stored"));
    // Where nothing was sent, nothing is claimed.
    world.run("uploader.options.parallel = 0");
    world.choose(&[("b.txt", "b", "")]);
    world.wait("!document.querySelector('#cancel-all').hidden");
    world.click("#cancel-all");
    world.wait_all(2, &["unconfirmed", "cancelled"]);
    assert_eq!(world.statuses()[1], "Cancelled · 1 B");
    world.bucket.release();
}

#[test]
fn names_that_repeat_get_a_number() {
    let world = world(&[]);
    // As a phone's camera names them: one batch, and another.
    world.choose(&[("image.jpg", "1", ""), ("image.jpg", "2", ""), ("photo.tar.gz", "3", "")]);
    world.wait_all(3, &["done"]);
    world.choose(&[
        ("image.jpg", "4", ""),
        ("IMAGE.JPG", "5", ""),
        ("image (1).jpg", "6", ""),
        ("photo.tar.gz", "7", ""),
        ("no suffix", "8", ""),
        ("no suffix", "9", ""),
        (".hidden", "10", ""),
        (".hidden", "11", ""),
        ("caf\u{e9}", "12", ""),
        ("cafe\u{301}", "13", ""),
    ]);
    world.wait_all(13, &["done"]);
    let keys = world.bucket.keys();
    assert_eq!(keys.len(), 13, "one took another's place: {keys:#?}");
    for (key, text) in [
        ("image.jpg", "1"),
        ("image (1).jpg", "2"),
        ("photo.tar.gz", "3"),
        ("photo (1).tar.gz", "7"),
        ("no suffix (1)", "9"),
        (".hidden (1)", "11"),
    ] {
        world.assert_stored(&format!("user/{key}"), text.as_bytes());
    }
    // People see the names that are used.
    let shown: BTreeSet<String> =
        world.names().into_iter().map(|name| format!("user/{name}")).collect();
    assert_eq!(shown, keys.into_iter().collect());

    // In folders, and for pasted pictures of one moment.
    world.run(
        "Date.now = () => 1;
         const files = () => [new File(['a'], 'image.png', { type: 'image/png' })];
         for (const name of ['one', 'two']) {
             uploader.add([{ file: new File([name], 'x.txt'), path: 'trip/x.txt' }]);
             const clipboardData = new DataTransfer();
             clipboardData.items.add(files()[0]);
             dispatchEvent(new ClipboardEvent('paste', { clipboardData, cancelable: true }));
         }",
    );
    world.wait_all(17, &["done"]);
    world.assert_stored("user/trip/x.txt", b"one");
    world.assert_stored("user/trip/x (1).txt", b"two");
    world.assert_stored("user/image-1 (1).png", b"a");

    // A name under which nothing was stored is free again; one that is in use is not.
    world.run("uploader.options.parallel = 0");
    world.choose(&[("late.txt", "1", "")]);
    world.run("uploader.cancel(uploader.uploads.at(-1))");
    world.choose(&[("late.txt", "2", "")]);
    assert_eq!(world.get("uploader.uploads.at(-1).name"), "late.txt");
    world.run("uploader.options.parallel = 3; uploader.retry()");
    world.wait_all(19, &["done"]);
    world.assert_stored("user/late.txt", b"2");
    world.assert_stored("user/late (1).txt", b"1");
    assert!(world.names().contains(&"late (1).txt".to_owned()));
    world.click("#clear");
    world.wait("!uploader.uploads.length");
    world.upload(&[("image.jpg", "once more", "")], &["done"]);
    world.assert_stored("user/image.jpg", b"1");
    world.assert_clean(false);
}

/// And files that are refused before they are sent ask for one policy, however many they are.
#[test]
fn totals_name_what_failed_and_what_was_cancelled() {
    let world = world(&[("MAX_UPLOAD_BYTES", "3")]);
    let names: Vec<String> = (0..9).map(|number| format!("{number}.txt")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), "text", "")).collect();
    world.upload(&files, &["failed"]);
    assert_eq!(world.text("#sum"), "0 of 9 done · Failed: 9");
    let bars = "[...document.querySelectorAll('progress')].map((bar) => bar.value)";
    assert_eq!(world.get(bars), json!(vec![0; 10]));
    world.wait_text("#news", "0 of 9 done · Failed: 9");
    world.click("#clear");
    let before = world.policies();
    world.run(
        "window.bare = createUploader();
         bare.add(Array.from({ length: 12 }, (_, number) => new File(['text'], `${number}`)));",
    );
    world.get("bare.settled().then(() => true)");
    assert_eq!(world.get("bare.total().failed"), 12);
    assert_eq!(world.policies() - before, 1);

    // Cancelled ones are counted, and all come back together, with those that failed.
    world.bucket.faults().fail_posts(1, 403, "AccessDenied");
    world.run("uploader.options.parallel = 1");
    world.upload(&[("a", "a", "")], &["failed"]);
    world.run("uploader.options.parallel = 0");
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), "no", "")).collect();
    world.choose(&files);
    world.wait("document.querySelectorAll('#rows li').length === 10");
    world.click("#cancel-all");
    world.wait_all(10, &["failed", "cancelled"]);
    assert_eq!(world.text("#sum"), "0 of 10 done · Failed: 1 · Cancelled: 9");
    world.wait_text("#news", "0 of 10 done · Failed: 1 · Cancelled: 9");
    assert_eq!(world.get("document.querySelector('#total').value"), 0);
    world.run("uploader.options.parallel = 3");
    world.click("#retry-all");
    world.wait_all(10, &["done"]);
    assert_eq!(world.text("#sum"), "10 of 10 done");
    assert_eq!(world.get("document.querySelector('#total').value"), 1);

    // Refused by OSS after the last byte: the bar is no full one either.
    world.bucket.faults().fail_posts(1, 403, "AccessDenied");
    world.upload(&[("b", "b", "")], &["done", "failed"]);
    assert_eq!(world.get("[...document.querySelectorAll('.bar')].at(-1).value"), 0);
    assert_eq!(world.text("#sum"), "10 of 11 done · Failed: 1");
}

/// The page's clock is the test's here: a rate is measured over five seconds.
#[test]
fn a_rate_falls_when_nothing_moves() {
    let world = world(&[]);
    let path = world.write_sparse("large.bin", b"", 100 << 20);
    world.run("window.now = 0; performance.now = () => now");
    world.bucket.faults().posts.push_back(PostFault::Stall(8_000_000, None));
    world.send_files("#files", &[path]);
    world.wait_stalls(1);
    world.run("now = 2000");
    world.wait("uploader.uploads[0].rate > 1e6 && uploader.uploads[0].rate < 5e7");
    world.wait("/MB\\/s · .* left$/.test(document.querySelector('#sum').textContent)");
    world.run("setInterval(() => { now += 6000; }, 100)");
    world.wait("uploader.uploads[0].rate === 0");
    world.wait("!/MB\\/s|sec left|min left/.test(document.querySelector('#sum').textContent)");
    assert_eq!(world.get("uploader.uploads[0].state"), "uploading");
    world.bucket.release();
}

#[test]
fn the_header_tells_of_the_last_policy_alone() {
    let world = world(&[("UPLOAD_JWT_SECRET", SECRET)]);
    let line = "[document.querySelector('#limits').className,
        document.querySelector('#limits').textContent]";
    world.wait("document.querySelector('#limits').textContent");
    let sign_in = "You may not upload here. Please sign in again.";
    assert_eq!(world.get(line), json!(["bad", sign_in]));
    // A ticket comes.
    world.run(&format!("location.hash = 'ticket={}'", ticket("bob")));
    world.wait("document.querySelector('#limits').className === ''");
    assert_eq!(world.get(line), json!(["", "Up to 1000 MB a file"]));
    // The server is away for a while, and comes back.
    world.run("uploader.options.path = '/nothing'; uploader.refresh().catch(() => {})");
    world.wait("document.querySelector('#limits').className === 'bad'");
    world.run_with("uploader.options.path = arguments[0]", json!([POLICY_PATH]));
    world.upload(&[("a.txt", "text", "")], &["done"]);
    assert_eq!(world.get(line), json!(["", "Up to 1000 MB a file"]));
    // Another one signs in: no policy of the first is used any more.
    world.run(&format!("location.hash = 'ticket={}'", ticket("eve")));
    world.get("uploader.limits().then(() => true)");
    world.upload(&[("b.txt", "text", "")], &["done"]);
    assert_eq!(world.bucket.keys(), ["user/bob/a.txt", "user/eve/b.txt"]);
}

#[test]
fn a_missing_cors_rule_is_named_at_once() {
    let world = world(&[]);
    let rules = std::mem::take(&mut world.bucket.faults().cors);
    world.run("uploader.options.backoff = 1e6");
    world.upload(&[("a.txt", "text", "text/plain")], &["retry"]);
    let said = "Interrupted, trying again soon · The bucket is out of reach, or its CORS rule \
                refuses this page.";
    assert_eq!(world.statuses(), [said]);
    world.run("uploader.options.retries = 0");
    world.click(".again");
    world.wait_all(1, &["failed"]);
    let said = "Failed · The bucket is out of reach, or its CORS rule refuses this page.";
    assert_eq!(world.statuses(), [said]);
    world.bucket.faults().cors = rules;
    world.click(".again");
    world.wait_all(1, &["done"]);
    world.assert_clean(true);
}

#[test]
fn sizes_times_and_types_are_what_people_say() {
    let world = world(&[]);
    for (media, name) in [
        ("image/*", "Images"),
        ("image/svg+xml", "SVG"),
        ("application/vnd.ms-excel", "Excel (.xls)"),
        ("application/x-7z-compressed", "7Z-COMPRESSED"),
        ("text/csv", "CSV"),
        ("font/*", "font/*"),
    ] {
        assert_eq!(world.get(&format!("typeName('{media}')")), name, "{media}");
    }
    let sizes = [
        ("0", "0 B"),
        ("1023", "1023 B"),
        ("1024", "1 KB"),
        ("1048575", "1 MB"),
        ("1048576 - 600", "1023 KB"),
        ("10200", "10 KB"),
        ("1536", "1.5 KB"),
        ("1073741823", "1 GB"),
        ("5 * 2 ** 30", "5 GB"),
    ];
    for (bytes, text) in sizes {
        assert_eq!(world.get(&format!("sizeText({bytes})")), text, "{bytes}");
    }
    let times = [
        ("0.2", "1 sec left"),
        ("59", "59 sec left"),
        ("59.5", "1 min left"),
        ("60", "1 min left"),
        ("61", "2 min left"),
        ("3540", "59 min left"),
        ("3541", "1 hr left"),
        ("7201", "3 hr left"),
    ];
    for (seconds, text) in times {
        let texts = world.get(&format!("speedTexts(1024, {seconds})"));
        assert_eq!(texts, json!(["1 KB/s", text]), "{seconds}");
    }
    assert_eq!(world.get("speedTexts(0, Infinity)"), json!([]));
    assert_eq!(world.get("speedTexts(0, NaN)"), json!([]));
    assert_eq!(world.get("speedTexts(1, 1e9)"), json!(["1 B/s"]));
}

#[test]
fn folders_make_clean_keys() {
    let world = world(&[]);
    world.run(
        "const file = (name) => new File([name], name);
         const folder = '/../a//./b/../';
         uploader.add(['x.txt', '..', '.', '\\\\back', 'tab\\t\\u0085'].map(file), { folder });
         // On Windows each of these is a path that leaves its folder; the last is not.
         uploader.add(['a\\\\\\\\b', 'c\\\\..\\\\d', 'e\\\\', 'f\\\\.', 'g\\\\h'].map(file));
         const half = 'half\\ud800';
         const paths = ['/top/../x', 'up/../../y', './z', 'trip//day/', half, 'a.b/..c/...'];
         uploader.add(paths.map((path) => ({ file: file('f'), path })));
         uploader.add([file('.')], { random: true, folder: '..' });",
    );
    world.wait_all(17, &["done"]);
    let mut keys = world.bucket.keys();
    let random = keys.iter().position(|key| key.len() == "user/".len() + 24 && !key.contains('_'));
    keys.remove(random.expect("a random name"));
    let expected = [
        "user/a.b/..c/...",
        "user/a/b/_",
        "user/a/b/_ (1)",
        "user/a/b/_back",
        "user/a/b/tab__",
        "user/a/b/x.txt",
        "user/a__b",
        "user/c_.._d",
        "user/e_",
        "user/f_.",
        "user/g\\h",
        "user/half_",
        "user/top/x",
        "user/trip/day",
        "user/up/y",
        "user/z",
    ];
    assert_eq!(keys, expected);
    world.assert_clean(false);
}
