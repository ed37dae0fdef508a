//! Rare outcomes: the page says what became of each file, also when nobody can know for certain.

use super::*;

/// Longer than the page waits for a response: it is lost, though the object is stored.
const LOST: Duration = Duration::from_secs(600);

fn forbidding() -> World {
    let world = world(&[("FORBID_OVERWRITE", "on")]);
    world.browser.run("Object.assign(uploader.options, { backoff: 20, stall: 400 })", json!([]));
    world
}

#[test]
fn after_a_lost_response_a_taken_name_is_probably_ones_own() {
    let world = forbidding();
    let browser = &world.browser;
    world.bucket.faults().callback_delay = LOST;
    world.choose(&[("a.txt", "text", "text/plain")]);
    world.wait_all(1, &["unconfirmed"]);
    let said = "Unconfirmed · Probably stored: all was sent, but the confirmation was lost.";
    assert_eq!(world.statuses(), [said]);
    assert_eq!(browser.get("uploader.uploads[0].stored"), "maybe");
    assert_eq!(browser.get("uploader.uploads[0].error.code"), "ProbablyStored");
    assert_eq!(browser.text("#sum"), "0 of 1 done · Unconfirmed: 1");
    browser.wait("document.querySelector('#news').textContent.startsWith('a.txt · Unconfirmed')");
    // Asked for once more, it is not another's name all of a sudden.
    browser.run("window.before = uploader.uploads[0].error", json!([]));
    browser.click(".again");
    browser.wait("uploader.uploads[0].error && uploader.uploads[0].error !== before");
    world.wait_all(1, &["unconfirmed"]);
    assert_eq!(world.statuses(), [said]);
    world.assert_stored("user/a.txt", b"text");

    // An application that can look it up settles it.
    browser.run("uploader.options.confirm = ({ key }) => ({ found: key })", json!([]));
    browser.click(".again");
    world.wait_all(1, &["done"]);
    assert_eq!(browser.get("uploader.uploads[0].answer"), json!({ "found": "user/a.txt" }));
    world.bucket.release();
}

/// Chromium sends a request again by itself when a connection that it used before ends without a
/// response; no page learns of it.
#[test]
fn a_taken_name_is_never_said_to_be_anothers() {
    let world = forbidding();
    world.choose(&[("first.txt", "text", "")]);
    world.wait_all(1, &["done"]);
    world.bucket.faults().posts.push_back(PostFault::NoAnswer);
    world.choose(&[("a.txt", "text", "text/plain")]);
    world.wait_all(2, &["done", "failed", "unconfirmed"]);
    let status = world.statuses().remove(1);
    assert!(status.contains("may be this one") || status.contains("Probably stored"), "{status}");
    world.assert_stored("user/a.txt", b"text");
}

/// The record of an object that somebody else stored does not make an upload of it.
#[test]
fn anothers_record_is_not_ones_own() {
    let world = forbidding();
    let browser = &world.browser;
    world.choose(&[("a.txt", "last year's", "")]);
    world.wait_all(1, &["done"]);
    world.open();
    browser.run("uploader.options.confirm = () => ({ size: 11 })", json!([]));
    world.choose(&[("a.txt", "this year's", "")]);
    world.wait_all(1, &["done", "failed", "unconfirmed"]);
    assert_eq!(world.statuses(), [format!("Failed · {IS_THERE}")]);
    world.assert_stored("user/a.txt", b"last year's");
}

#[test]
fn what_was_stored_but_not_registered_stays_so() {
    let world = forbidding();
    world.bucket.faults().callback_fail = Some("Error status : 502.".to_owned());
    world.choose(&[("a.txt", "text", "text/plain")]);
    world.wait_all(1, &["unconfirmed"]);
    let said = "Unconfirmed · Stored, but not registered: the server did not confirm it.";
    assert_eq!(world.statuses(), [said]);
    world.browser.click("#retry-all");
    world.browser.wait("uploader.uploads[0].error?.status === 409");
    world.wait_all(1, &["unconfirmed"]);
    assert_eq!(world.statuses(), [said]);
    assert_eq!(world.browser.get("uploader.uploads[0].stored"), "yes");
    // Also when another try ends in another way, or in none.
    world.bucket.faults().fail_posts(1, 403, "AccessDenied");
    world.browser.click("#retry-all");
    world.browser.wait("/denies/.test(document.querySelector('.status').textContent)");
    let stored = "Stored, but not registered: the server did not confirm it.";
    assert_eq!(world.statuses(), [format!("Unconfirmed · The bucket denies access. {stored}")]);
    world.browser.run("uploader.options.parallel = 0", json!([]));
    world.browser.click("#retry-all");
    world.wait_all(1, &["waiting"]);
    world.browser.click(".stop");
    world.wait_all(1, &["cancelled"]);
    assert_eq!(world.statuses(), [format!("Cancelled · {stored}")]);
}

#[test]
fn what_is_cancelled_while_it_is_verified_may_be_stored() {
    let world = forbidding();
    let browser = &world.browser;
    browser.run("uploader.options.stall = 60000", json!([]));
    world.bucket.faults().callback_delay = LOST;
    world.choose(&[("a.txt", "text", "text/plain")]);
    world.wait_all(1, &["verifying"]);
    while world.bucket.object("user/a.txt").is_none() {
        std::thread::yield_now();
    }
    browser.click(".stop");
    world.wait_all(1, &["cancelled"]);
    assert_eq!(world.statuses(), ["Cancelled · It may be stored all the same."]);
    browser.click(".again");
    world.wait_all(1, &["unconfirmed"]);
    assert!(world.statuses()[0].contains("Probably stored"));
    // Where nothing was sent, nothing is claimed.
    browser.run("uploader.options.parallel = 0", json!([]));
    world.choose(&[("b.txt", "b", "")]);
    browser.wait("!document.querySelector('#cancel-all').hidden");
    browser.click("#cancel-all");
    world.wait_all(2, &["unconfirmed", "cancelled"]);
    assert_eq!(world.statuses()[1], "Cancelled · 1 B");
    world.bucket.release();
}

#[test]
fn names_that_repeat_get_a_number() {
    let world = world(&[]);
    let browser = &world.browser;
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
    browser.run(
        "Date.now = () => 1;
         const files = () => [new File(['a'], 'image.png', { type: 'image/png' })];
         for (const name of ['one', 'two']) {
             uploader.add([{ file: new File([name], 'x.txt'), path: 'trip/x.txt' }]);
             const clipboardData = new DataTransfer();
             clipboardData.items.add(files()[0]);
             dispatchEvent(new ClipboardEvent('paste', { clipboardData, cancelable: true }));
         }",
        json!([]),
    );
    world.wait_all(17, &["done"]);
    world.assert_stored("user/trip/x.txt", b"one");
    world.assert_stored("user/trip/x (1).txt", b"two");
    world.assert_stored("user/image-1 (1).png", b"a");

    // A name under which nothing was stored is free again; one that is in use is not.
    browser.run("uploader.options.parallel = 0", json!([]));
    world.choose(&[("late.txt", "1", "")]);
    browser.run("uploader.cancel(uploader.uploads.at(-1))", json!([]));
    world.choose(&[("late.txt", "2", "")]);
    assert_eq!(browser.get("uploader.uploads.at(-1).name"), "late.txt");
    browser.run("uploader.options.parallel = 3; uploader.retry()", json!([]));
    world.wait_all(19, &["done"]);
    world.assert_stored("user/late.txt", b"2");
    world.assert_stored("user/late (1).txt", b"1");
    assert!(world.names().contains(&"late (1).txt".to_owned()));
    world.browser.click("#clear");
    browser.wait("!uploader.uploads.length");
    world.choose(&[("image.jpg", "once more", "")]);
    world.wait_all(1, &["done"]);
    world.assert_stored("user/image.jpg", b"1");
    world.assert_clean(false);
}

#[test]
fn totals_name_what_failed_and_what_was_cancelled() {
    let world = world(&[("MAX_UPLOAD_BYTES", "3")]);
    let browser = &world.browser;
    let names: Vec<String> = (0..9).map(|number| format!("{number}.txt")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), "text", "")).collect();
    world.choose(&files);
    world.wait_all(9, &["failed"]);
    assert_eq!(browser.text("#sum"), "0 of 9 done · Failed: 9");
    let bars = "[...document.querySelectorAll('progress')].map((bar) => bar.value)";
    assert_eq!(browser.get(bars), json!(vec![0; 10]));
    browser.wait("document.querySelector('#news').textContent === '0 of 9 done · Failed: 9'");
    browser.click("#clear");

    // Cancelled ones are counted, and all come back together, with those that failed.
    world.bucket.faults().fail_posts(1, 403, "AccessDenied");
    browser.run("uploader.options.parallel = 1", json!([]));
    world.choose(&[("a", "a", "")]);
    world.wait_all(1, &["failed"]);
    browser.run("uploader.options.parallel = 0", json!([]));
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), "no", "")).collect();
    world.choose(&files);
    browser.wait("document.querySelectorAll('#rows li').length === 10");
    browser.click("#cancel-all");
    world.wait_all(10, &["failed", "cancelled"]);
    assert_eq!(browser.text("#sum"), "0 of 10 done · Failed: 1 · Cancelled: 9");
    browser.wait(
        "document.querySelector('#news').textContent === '0 of 10 done · Failed: 1 · Cancelled: 9'",
    );
    assert_eq!(browser.get("document.querySelector('#total').value"), 0);
    browser.run("uploader.options.parallel = 3", json!([]));
    browser.click("#retry-all");
    world.wait_all(10, &["done"]);
    assert_eq!(browser.text("#sum"), "10 of 10 done");
    assert_eq!(browser.get("document.querySelector('#total').value"), 1);

    // Refused by OSS after the last byte: the bar is no full one either.
    world.bucket.faults().fail_posts(1, 403, "AccessDenied");
    world.choose(&[("b", "b", "")]);
    world.wait_all(11, &["done", "failed"]);
    assert_eq!(browser.get("[...document.querySelectorAll('.bar')].at(-1).value"), 0);
    assert_eq!(browser.text("#sum"), "10 of 11 done · Failed: 1");
}

#[test]
fn a_rate_falls_when_nothing_moves() {
    let world = world(&[]);
    let browser = &world.browser;
    let path = world.write("large.bin", b"");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100 << 20).unwrap();
    browser.throttle(false, 4_000_000);
    world.bucket.faults().posts.push_back(PostFault::Stall(8_000_000, None));
    browser.send("#files", path.to_str().unwrap());
    browser.wait("uploader.uploads[0]?.rate > 1e6");
    browser.wait("/MB\\/s · .* left$/.test(document.querySelector('#sum').textContent)");
    assert!(world.bucket.wait_for_stalls(1, Duration::from_secs(60)));
    browser.wait("uploader.uploads[0].rate === 0");
    browser.wait("!/MB\\/s|sec left|min left/.test(document.querySelector('#sum').textContent)");
    assert_eq!(browser.get("uploader.uploads[0].state"), "uploading");
    world.bucket.release();
}

#[test]
fn the_header_tells_of_the_last_policy_alone() {
    let secret = "a-secret-of-the-tests-of-32-characters";
    let world = world(&[("UPLOAD_JWT_SECRET", secret)]);
    let browser = &world.browser;
    let line = "[document.querySelector('#limits').className,
        document.querySelector('#limits').textContent]";
    browser.wait("document.querySelector('#limits').textContent");
    let sign_in = "You may not upload here. Please sign in again.";
    assert_eq!(browser.get(line), json!(["bad", sign_in]));
    // A ticket comes.
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let ticket = support::trust::ticket(secret, &json!({ "sub": "bob", "exp": now + 600 }));
    browser.run(&format!("location.hash = 'ticket={ticket}'"), json!([]));
    browser.wait("document.querySelector('#limits').className === ''");
    assert_eq!(browser.get(line), json!(["", "Up to 1000 MB a file"]));
    // The server is away for a while, and comes back.
    browser
        .run("uploader.options.path = '/nothing'; uploader.refresh().catch(() => {})", json!([]));
    browser.wait("document.querySelector('#limits').className === 'bad'");
    browser.run("uploader.options.path = arguments[0]", json!([POLICY_PATH]));
    world.choose(&[("a.txt", "text", "")]);
    world.wait_all(1, &["done"]);
    assert_eq!(browser.get(line), json!(["", "Up to 1000 MB a file"]));
    // Another one signs in: no policy of the first is used any more.
    let ticket = support::trust::ticket(secret, &json!({ "sub": "eve", "exp": now + 600 }));
    browser.run(&format!("location.hash = 'ticket={ticket}'"), json!([]));
    browser.get("uploader.limits().then(() => true)");
    world.choose(&[("b.txt", "text", "")]);
    world.wait_all(2, &["done"]);
    assert_eq!(world.bucket.keys(), ["user/bob/a.txt", "user/eve/b.txt"]);
}

#[test]
fn a_missing_cors_rule_is_named_at_once() {
    let world = world(&[]);
    let rules = std::mem::take(&mut world.bucket.faults().cors);
    world.browser.run("uploader.options.backoff = 1e6", json!([]));
    world.choose(&[("a.txt", "text", "text/plain")]);
    world.wait_all(1, &["retry"]);
    let said = "Interrupted, trying again soon · The bucket is out of reach, or its CORS rule \
                refuses this page.";
    assert_eq!(world.statuses(), [said]);
    world.browser.run("uploader.options.retries = 0", json!([]));
    world.browser.click(".again");
    world.wait_all(1, &["failed"]);
    let said = "Failed · The bucket is out of reach, or its CORS rule refuses this page.";
    assert_eq!(world.statuses(), [said]);
    world.bucket.faults().cors = rules;
    world.browser.click(".again");
    world.wait_all(1, &["done"]);
    world.assert_clean(true);
}

#[test]
fn sizes_and_times_are_round() {
    let world = world(&[]);
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
        assert_eq!(world.browser.get(&format!("sizeText({bytes})")), text, "{bytes}");
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
        let texts = world.browser.get(&format!("speedTexts(1024, {seconds})"));
        assert_eq!(texts, json!(["1 KB/s", text]), "{seconds}");
    }
    assert_eq!(world.browser.get("speedTexts(0, Infinity)"), json!([]));
    assert_eq!(world.browser.get("speedTexts(0, NaN)"), json!([]));
    assert_eq!(world.browser.get("speedTexts(1, 1e9)"), json!(["1 B/s"]));
}

#[test]
fn folders_make_clean_keys() {
    let world = world(&[]);
    let browser = &world.browser;
    browser.run(
        "const file = (name) => new File([name], name);
         const folder = '/../a//./b/../';
         uploader.add(['x.txt', '..', '.', '\\\\back', 'tab\\t\\u0085'].map(file), { folder });
         // On Windows each of these is a path that leaves its folder; the last is not.
         uploader.add(['a\\\\\\\\b', 'c\\\\..\\\\d', 'e\\\\', 'f\\\\.', 'g\\\\h'].map(file));
         const paths = ['/top/../x', 'up/../../y', './z', 'trip//day/', 'half\\ud800', 'a.b/..c/...'];
         uploader.add(paths.map((path) => ({ file: file('f'), path })));
         uploader.add([file('.')], { random: true, folder: '..' });",
        json!([]),
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
