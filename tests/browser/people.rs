//! Words and eyes: languages, types as people call them, details, pictures, touch, forced colours.

use super::*;

/// The first of the reader's languages that the page knows, else English.
#[test]
fn every_language_says_everything() {
    let world = world(&[]);
    for (languages, expected) in [
        ("fr-FR,zh-HK", "zh-Hant上傳檔案"),
        ("zh-TW", "zh-Hant上傳檔案"),
        ("zh-Hant-CN", "zh-Hant上傳檔案"),
        ("zh-SG", "zh-Hans上传文件"),
        ("zh-Hans-HK", "zh-Hans上传文件"),
        ("de-DE", "enUpload files"),
        ("zh-CN", "zh-Hans上传文件"),
    ] {
        world.open_in(languages);
        let said = world.get("document.documentElement.lang + document.title");
        assert_eq!(said, expected, "{languages}");
    }
    // In Chinese everything is, whatever becomes of an upload.
    let chinese = "(text) => /[\\u4e00-\\u9fff]/.test(text) && !/[a-z]{3}/i.test(text)";
    let words = "[...document.querySelectorAll('[data-text]')].map((e) => e.textContent)";
    assert!(world.truth(&format!("{words}.every({chinese})")));
    world.wait_text("#limits", "每个文件最大 1000 MB");
    world.bucket.faults().posts.push_back(PostFault::Pass);
    world.bucket.faults().fail_posts(1, 403, "AccessDenied");
    world.run("uploader.options.parallel = 1");
    world.upload(&[("一.txt", "text", ""), ("二.txt", "text", "")], &["done", "failed"]);
    let statuses = ["完成 · 4 B · 已通过服务器验证", "失败 · 存储空间拒绝访问。"];
    assert_eq!(world.statuses(), statuses);
    let labels = "[...document.querySelectorAll('li [aria-label]')].map((e) => e.ariaLabel)";
    let chinese = format!("(text) => ({chinese})(text.replace('txt', ''))");
    assert!(world.truth(&format!("{labels}.every({chinese})")));
    world.wait("/完成/.test(document.querySelector('#news').textContent)");
    world.assert_clean(true);

    let languages = world.get("Object.keys(WORDS)");
    assert_eq!(languages, json!(["en", "zh-Hans", "zh-Hant"]));
    // The same keys with as many values to fill in, and nothing left in English.
    let table = world.get(
        "Object.values(WORDS).map((words) => Object.entries(words).map(([key, text]) =>
            [key, text.split('{}').length, Boolean(text.trim())].join()))",
    );
    assert_eq!(table[0], table[1]);
    assert_eq!(table[0], table[2]);
    assert!(!table[0].to_string().contains("false"));
    let latin =
        "['zh-Hans', 'zh-Hant'].flatMap((language) => Object.values(WORDS[language]).filter(
        (text) => /[a-z]{3}/i.test(text.replace(/OSS|AccessKey/g, ''))))";
    assert_eq!(world.get(latin), json!([]));
    // Each language has characters that the other writes differently.
    let same = world.get(
        "Object.keys(WORDS.en).filter((key) => WORDS['zh-Hans'][key] === WORDS['zh-Hant'][key])",
    );
    let keys = table[0].as_array().unwrap().len();
    assert!(same.as_array().unwrap().len() < keys / 3, "{same}");
    // What stands in the page before a script runs is the table's English.
    let html = std::fs::read_to_string(static_file("index.html")).unwrap();
    for text in html.split("data-text=\"").skip(1) {
        let (key, rest) = text.split_once('"').unwrap();
        let text = rest.split_once('>').unwrap().1.split_once('<').unwrap().0;
        assert_eq!(world.get(&format!("WORDS.en['{key}']")), text);
    }
    // Every state and every word that the scripts ask for is there.
    let script = std::fs::read_to_string(static_file("page.js")).unwrap();
    for call in script.split("say('").skip(1) {
        let key = call.split('\'').next().unwrap();
        assert!(world.truth(&format!("'{key}' in WORDS.en")), "{key}");
    }
}

/// Key and link to the clipboard; and details can be closed as long as they are open, and are
/// offered where there are some.
#[test]
fn details_have_labels_and_can_be_copied_and_closed() {
    let world = world(&[]);
    world.upload(&[("a.txt", "text", "text/plain")], &["done"]);
    world.wait_text("#news", "a.txt · Done"); // nothing comes over "Copied" below
    // No code and no JSON before they are opened.
    let row = world.get("document.querySelector('li').innerText");
    assert!(!row.as_str().unwrap().contains(['{', '}']), "{row}");
    world.click(".more");
    let url = format!("{}/user/a.txt", world.bucket.url());
    let response = "Response of the server{\n  \"Status\": \"OK\"\n}";
    let facts = format!("Name in the bucketuser/a.txt CopyLink{url} Copy{response}");
    assert_eq!(world.text(".facts"), facts);
    for (number, copied) in [(0, "user/a.txt"), (1, &url)] {
        // With a clipboard, and without one, as on a page without TLS.
        let without = "Object.defineProperty(navigator, 'clipboard', { configurable: true })";
        let with = "navigator.clipboard.writeText = async (text) => { window.copied = text; }";
        for (api, after) in [(with, ""), (without, "delete navigator.clipboard")] {
            world.run(&format!(
                "window.copied = '';
                 {api};
                 document.oncopy = () => {{ window.copied = `${{getSelection()}}`; }};
                 document.querySelector('#news').textContent = '';
                 document.querySelectorAll('dd button')[{number}].focus();"
            ));
            world.press("Enter");
            world.wait_text("#news", "Copied");
            assert_eq!(world.get("window.copied"), copied, "{api}");
            world.run(after);
        }
    }
    // A browser that copies nothing is not said to have copied.
    world.run(
        "Object.defineProperty(navigator, 'clipboard', { value: undefined });
         document.execCommand = () => false;
         getSelection().empty();
         document.querySelector('#news').textContent = '';",
    );
    world.click("dd button");
    world.wait("`${getSelection()}` === 'user/a.txt'");
    assert_ne!(world.text("#news"), "Copied");
    world.assert_clean(false);

    world.open();
    world.bucket.faults().fail_posts(1, 403, "AccessDenied");
    world.upload(&[("a.txt", "text", "text/plain")], &["failed"]);
    world.click(".more");
    world.run("uploader.options.parallel = 0");
    world.click(".again");
    world.wait_all(1, &["waiting"]);
    world.click(".more");
    assert!(world.truth("document.querySelector('.facts').hidden"));
    world.run("uploader.cancel()");
    world.choose(&[("b.txt", "text", "text/plain")]);
    world.wait("document.querySelectorAll('li').length === 2");
    world.run("uploader.cancel()");
    world.wait_all(2, &["cancelled"]);
    let hidden = "[...document.querySelectorAll('.more')].map((more) => more.hidden)";
    assert_eq!(world.get(hidden), json!([false, true]));
}

/// A photograph of 12 million pixels each: the tab keeps pictures of the size that they are shown.
#[test]
fn photographs_take_little_memory() {
    let count = support::rounds(40, 12);
    let world = world_with(Browser::start_alone(), &[]);
    let make = "(async () => {
        const canvas = new OffscreenCanvas(4000, 3000);
        const context = canvas.getContext('2d');
        for (let i = 0; i < 3000; i += 1) {
            context.fillStyle = `hsl(${i * 7} 60% ${20 + (i % 60)}%)`;
            context.fillRect((i * 677) % 4000, (i * 397) % 3000, 400, 300);
        }
        const blob = await canvas.convertToBlob({ type: 'image/jpeg', quality: 0.9 });
        const bytes = new Uint8Array(await blob.arrayBuffer());
        let text = '';
        for (let i = 0; i < bytes.length; i += 32768) {
            text += String.fromCharCode(...bytes.subarray(i, i + 32768));
        }
        return btoa(text);
    })()";
    // In another tab's process, or what it leaves there would be counted below.
    let maker = Browser::start();
    let photograph = BASE64.decode(maker.get(make).as_str().unwrap()).unwrap();
    drop(maker);
    println!("a photograph has {} bytes", photograph.len());
    let paths: Vec<PathBuf> =
        (0..count).map(|i| world.write(&format!("photo {i}.jpg"), &photograph)).collect();
    // The most that the tab takes while it shows them, and what it takes then; a fresh page each
    // time, without transfers.
    let most = |type_is_known: bool| {
        let hide = "Object.defineProperty(File.prototype, 'type', { get: () => '' });";
        world.open();
        if !type_is_known {
            world.run(hide);
        }
        world.run("uploader.options.parallel = 0");
        world.devtools("HeapProfiler.collectGarbage", json!({}));
        world.send_files("#files", &paths);
        let mut most = 0;
        for row in 0..count {
            let li = format!("document.querySelectorAll('li')[{row}]");
            world.run(&format!("{li}?.scrollIntoView()"));
            most = most.max(world.tab_memory());
            if type_is_known {
                world.wait(&format!("{li}?.querySelector('canvas')"));
            } else {
                world.get("new Promise((done) => setTimeout(done, 50))");
            }
            most = most.max(world.tab_memory());
        }
        let last = world.tab_memory();
        (most >> 20, last >> 20)
    };
    let (without, _) = most(false);
    let (with, at_rest) = most(true);
    println!("without thumbnails {without} MB; with them {with} MB, at rest {at_rest} MB");
    assert!(
        at_rest * 10 <= without * 13,
        "{without} MB without thumbnails, {at_rest} MB with them"
    );
    // One picture at a time is decoded: 12 million pixels of 4 bytes.
    assert!(with <= without + 46 + 12, "{without} MB without thumbnails, {with} MB at the most");
    let size = world.get("document.querySelector('canvas').width");
    assert_eq!(size, 96);
}

/// As many people have it on Windows: the system's own colours, and nothing of ours.
#[test]
fn progress_shows_in_forced_colours() {
    let world = world(&[]);
    world.resize(800, 1200, false);
    world.media(&[("forced-colors", "active")]);
    world.run(EVERY_STATE);
    world.run("document.documentElement.style.scrollbarGutter = 'auto'");
    let shot = world.screenshot();
    // The picture as the browser reads it: how many colours a bar that is half full has in its
    // middle line, and how far the first goes.
    let script = "
        const [png, number] = arguments;
        return (async () => {
            const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
            const bitmap = await createImageBitmap(new Blob([bytes]));
            const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d');
            context.drawImage(bitmap, 0, 0);
            const bar = document.querySelectorAll('.bar')[number].getBoundingClientRect();
            const line = context.getImageData(bar.left + 4, bar.top + scrollY + bar.height / 2, bar.width - 8, 1).data;
            const pixels = [];
            for (let i = 0; i < line.length; i += 4) pixels.push(line.slice(i, i + 3).join());
            const first = pixels.findIndex((pixel) => pixel !== pixels[0]);
            return [new Set(pixels).size, first / pixels.length];
        })();";
    let png = BASE64.encode(&shot);
    let seen = world.run_with(script, json!([png, 3])); // 361 of 812 MB
    let share = seen[1].as_f64().unwrap();
    assert!(seen[0].as_u64().unwrap() >= 2 && (0.40..0.49).contains(&share), "{seen}");
    // Icons are drawn in the colour of text, and every button has a border.
    let icon = "getComputedStyle(document.querySelector('.stop svg')).stroke ===
        getComputedStyle(document.querySelector('.stop')).color";
    assert!(world.truth(icon));
    screenshot(&world, "forced-colours");
}

/// Phones store what they see lying down, and say so in EXIF.
#[test]
fn photographs_stand_upright() {
    let world = world(&[]);
    world.resize(800, 1000, false);
    world.run("uploader.options.parallel = 0");
    let add = "return (async () => {
        const canvas = new OffscreenCanvas(400, 200);
        const context = canvas.getContext('2d');
        context.fillStyle = 'red';
        context.fillRect(0, 0, 200, 200);
        context.fillStyle = 'blue';
        context.fillRect(200, 0, 200, 200);
        const blob = await canvas.convertToBlob({ type: 'image/jpeg' });
        const bytes = new Uint8Array(await blob.arrayBuffer());
        // APP1 with one tag: orientation 6, to be turned a quarter clockwise.
        const exif = [255, 225, 0, 34, 69, 120, 105, 102, 0, 0, 77, 77, 0, 42, 0, 0, 0, 8, 0, 1,
            1, 18, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0];
        const parts = [bytes.slice(0, 2), new Uint8Array(exif), bytes.slice(2)];
        uploader.add(new File(parts, 'turned.jpg', { type: 'image/jpeg' }));
    })();";
    world.run(add);
    world.wait("document.querySelector('li canvas')");
    // Red was left, and is on top now.
    let pixels = "(() => {
        const shown = document.querySelector('li canvas');
        const context = new OffscreenCanvas(shown.width, shown.height).getContext('2d');
        context.drawImage(shown, 0, 0);
        const at = (x, y) => [...context.getImageData(x, y, 1, 1).data].map((one) => Number(one > 128));
        const [x, y] = [shown.width / 2, shown.height];
        return [at(x, 4), at(x, y - 4)];
    })()";
    assert_eq!(world.get(pixels), json!([[1, 0, 0, 1], [0, 0, 1, 1]]));
}

/// Everything that a mouse does, with keys alone, in a language that the page speaks.
#[test]
fn the_keyboard_does_everything() {
    let world = world(&[]);
    world.open_in("zh-TW");
    let enter = || world.press("Enter");
    let focus = |selector: &str| {
        for _ in 0..60 {
            world.press("Tab");
            if world.truth(&format!("document.activeElement.matches('{selector}')")) {
                return;
            }
        }
        panic!("no Tab comes to {selector}: {}", world.get("document.body.innerHTML"));
    };
    let choose = |path: &Path| {
        focus("#choose");
        enter();
        let deadline = Instant::now() + Duration::from_secs(60);
        let opened = loop {
            if let Some(opened) = world.events("Page.fileChooserOpened").pop() {
                break opened;
            }
            assert!(Instant::now() < deadline, "no file chooser opens");
        };
        let files = json!({ "files": [path], "backendNodeId": opened["backendNodeId"] });
        world.devtools("DOM.setFileInputFiles", files);
    };
    world.devtools("Page.setInterceptFileChooserDialog", json!({ "enabled": true }));
    world.run(
        "window.copied = [];
         navigator.clipboard.writeText = async (text) => { copied.push(text); };",
    );

    // Choose, cancel, retry.
    let a = world.write("a.txt", b"text");
    world.stall(1);
    choose(&a);
    world.wait_stalls(1);
    focus("li .stop");
    assert_eq!(world.get("document.activeElement.ariaLabel"), "取消 a.txt");
    enter();
    world.wait_all(1, &["cancelled"]);
    world.bucket.release();
    focus("li .again");
    world.press(" ");
    world.wait_all(1, &["done"]);
    world.assert_stored("user/a.txt", b"text");
    world.wait_text("#news", "a.txt · 完成"); // nothing comes over what is told below

    // Details: key and link; then the row goes, and the focus has a place.
    focus("li .more");
    enter();
    for button in ["dd:nth-of-type(1) button", "dd:nth-of-type(2) button"] {
        focus(button);
        enter();
    }
    let url = format!("{}/user/a.txt", world.bucket.url());
    world.wait("copied.length === 2");
    assert_eq!(world.get("copied"), json!(["user/a.txt", url]));
    world.wait_text("#news", "已複製");
    focus("li .stop");
    enter();
    world.wait("!uploader.uploads.length && document.activeElement.id === 'choose'");

    // Names and folder, then all at once.
    focus("[value=local]");
    world.press("ArrowDown");
    focus("#folder");
    world.press("k");
    world.stall(1);
    choose(&a);
    world.wait_stalls(1);
    focus("#cancel-all");
    enter();
    world.wait_all(1, &["cancelled"]);
    world.bucket.release();
    focus("#retry-all");
    enter();
    world.wait_all(1, &["done"]);
    let keys = world.bucket.keys();
    assert!(keys.len() == 2 && keys[0] == "user/a.txt", "{keys:?}");
    assert!(
        keys[1].starts_with("user/k/") && keys[1].len() == "user/k/.txt".len() + 24,
        "{keys:?}"
    );
    focus("#clear");
    enter();
    world.wait("document.querySelector('#queue').hidden && !uploader.uploads.length");
}
