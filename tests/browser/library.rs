//! `upload.js` as a library: classic script and module, its types, and every example of
//! static/README.md as it stands there.

use super::*;

const DOCUMENT: &str = "static/README.md";
const SERVER: &str = "https://upload.example.com";

/// Opens a page of one's own, as a file, with a snippet of the document in it.
fn open_own(world: &World, html: &str) {
    let html = html.replace(SERVER, &world.server.url());
    let own = format!("<!doctype html><meta charset=utf-8><link rel=icon href='data:,'>{html}");
    let own = world.write("own.html", own.as_bytes());
    world.browser.open(&format!("file://{}", own.display()));
}

/// A page with `upload.js` alone.
fn bare(changes: &[(&str, &str)]) -> World {
    let world = world(changes);
    let server = format!("<script>window.server = '{SERVER}'</script>");
    open_own(&world, &format!("{server}<script src=\"{SERVER}/upload.js\"></script>"));
    world
}

/// What an expression throws, in words.
fn thrown(browser: &Browser, expression: &str) -> String {
    let script = format!("try {{ {expression} }} catch (error) {{ return `${{error}}` }}");
    browser.run(&script).as_str().unwrap_or("(nothing)").to_owned()
}

#[test]
fn the_classic_snippet_works_with_an_empty_file_too() {
    let world = world(&[]);
    open_own(&world, &documents::block(DOCUMENT, "html", "const lines = new Map()"));
    let files = [world.write("empty.txt", b""), world.write("mine.txt", b"mine")];
    world.run(
        "window.seen = [];
         const list = document.querySelector('ul');
         const observer = new MutationObserver(() => seen.push(list.textContent));
         observer.observe(list, { childList: true, subtree: true });",
    );
    world.send_files("input", &files);
    world.wait_text("li:nth-child(1)", "empty.txt: done 100 % ");
    world.wait_text("li:nth-child(2)", "mine.txt: done 100 % ");
    assert!(!world.get("seen.join()").as_str().unwrap().contains("NaN"));
    let key = world.get("uploader.uploads[1].key");
    let key = key.as_str().unwrap();
    assert!(key.starts_with("user/photos/") && !key.contains("mine"), "{key}");
    world.assert_stored(key, b"mine");
    world.assert_clean(false);
}

#[test]
fn the_module_snippet_works() {
    let world = world(&[]);
    let html = documents::block(DOCUMENT, "html", "import { createUploader }");
    assert!(html.contains("server: 'https://upload.example.com/'"), "no slash at the end");
    open_own(&world, &html);
    let paths = ["a.txt", "b.txt"].map(|name| world.write(name, b"text"));
    world.wait("document.querySelector('input').onchange");
    world.send_files("input", &paths);
    world.wait("document.querySelector('output').value === '2 of 2 files are stored'");
    assert_eq!(world.bucket.keys(), ["user/a.txt", "user/b.txt"]);
    world.assert_clean(false);
}

/// The third example: a drop with form fields, an end by a signal, and the record asked after lost
/// responses.
#[test]
fn the_snippet_of_a_whole_life_works() {
    let body = "bucket=${bucket}&object=${object}&size=${size}&etag=${etag}&album=${x:album}";
    let world = world(&[("CALLBACK_BODY", body), ("FORBID_OVERWRITE", "on")]);
    let snippet = documents::block(DOCUMENT, "js", "new AbortController()");
    let page = "<script>
        // What the snippet is given: the page's own application, and a way for the test to wait.
        const fetched = window.fetch;
        window.fetch = (url, ...more) => url.startsWith('/recorded')
            ? Promise.resolve(new Response(JSON.stringify({ asked: url })))
            : fetched(url, ...more);
    </script>";
    open_own(
        &world,
        &format!("{page}<script src=\"{SERVER}/upload.js\"></script><script>{snippet}</script>"),
    );
    let one = world.write("one.txt", b"1");
    world.drag(&[&one], true);
    world.wait("controller.signal.aborted");
    assert_eq!(world.bucket.keys(), ["user/one.txt", "user/one.txt.note"]);
    world.server.wait_log("one.txt\"");
    let log = world.bucket.callbacks();
    let bodies: Vec<_> = log.iter().map(|one| String::from_utf8_lossy(&one.body)).collect();
    assert!(bodies.iter().any(|body| body.ends_with("&album=7")), "{bodies:?}");
    // It is destroyed.
    let error = thrown(&world, "uploader.add(null)");
    assert_eq!(error, "Error: add: this uploader was destroyed");

    // `confirm`, with another uploader of the same options.
    world.bucket.faults().callback_delay = Duration::from_secs(600);
    world.run(
        "const { confirm, server } = uploader.options;
         window.second = createUploader({ confirm, server, stall: 400, backoff: 20 });
         second.add(new File(['2'], 'two & a half.txt'));",
    );
    world.wait("second.uploads[0].state === 'done'");
    let asked = json!({ "asked": "/recorded?key=user%2Ftwo%20%26%20a%20half.txt" });
    assert_eq!(world.get("second.uploads[0].answer"), asked);
    world.bucket.release();
}

/// The compiler that checks the script, its declarations, and those of the document's example.
#[test]
fn the_types_pass_the_strict_compiler() {
    let tsc = tool("typescript-5.9.3/package/lib/tsc.js");
    let folder = support::Folder::new();
    for name in ["upload.js", "upload.mjs", "upload.d.mts"] {
        std::fs::copy(static_file(name), folder.0.join(name)).unwrap();
    }
    let write = |name: &str, text: &str| std::fs::write(folder.0.join(name), text).unwrap();
    write("document.mts", &documents::block(DOCUMENT, "ts", "type Upload"));
    // Each of these lines must be an error, or the compiler says that it is none.
    write(
        "wrong.mts",
        "import { createUploader } from './upload.mjs';
         const uploader = createUploader({ onchange: undefined, ticket: async () => null });
         // @ts-expect-error
         createUploader({ paralel: 1 });
         // @ts-expect-error
         uploader.add(['name']);
         // @ts-expect-error
         uploader.uploads[0].state === 'finished';
         uploader.add(new File([], 'a')); uploader.add([new File([], 'b')]); uploader.add(null);
         const kept: typeof globalThis.createUploader = createUploader; kept({});",
    );
    // It looks at the script itself: this one has a wrong type in its middle.
    let script = std::fs::read_to_string(static_file("upload.js")).unwrap();
    write("broken.mjs", &format!("{}export {{}};", script.replacen("loaded: 0", "loaded: '0'", 1)));
    let options = "--strict --noEmit --allowJs --checkJs --skipDefaultLibCheck --target es2022 \
                   --lib esnext,dom,dom.iterable --module nodenext \
                   upload.js upload.mjs document.mts wrong.mts broken.mjs";
    let mut command = Command::new("node");
    command.arg(&tsc).args(options.split_whitespace()).current_dir(&folder.0);
    let output = command.output().expect("node runs");
    let errors = String::from_utf8_lossy(&output.stdout);
    assert!(errors.contains("error TS"), "a wrong type passes");
    let is_expected = |line: &str| line.starts_with("broken.mjs(") || line.starts_with(' ');
    assert!(errors.lines().all(is_expected), "{errors}");
}

#[test]
fn add_takes_files_in_every_shape_and_names_what_is_none() {
    let world = bare(&[]);
    let added = world.get(
        "(() => {
            window.uploader = createUploader({ server: server + '//', onchange: undefined, ticket: null });
            const file = (name) => new File([name], name);
            const transfer = new DataTransfer();
            transfer.items.add(file('list.txt'));
            const frame = document.body.appendChild(document.createElement('iframe'));
            const foreign = new frame.contentWindow.File(['foreign'], 'foreign.txt');
            return [
                uploader.add(file('one.txt')),
                uploader.add(transfer.files),
                uploader.add([file('array.txt'), { file: file('x'), path: 'in/path.txt' }]),
                uploader.add({ file: file('y'), path: 'found.txt' }),
                uploader.add(new Set([file('set.txt')])),
                uploader.add(foreign),
                uploader.add(null), uploader.add(undefined), uploader.add([]),
            ].map((uploads) => uploads.map(({ name }) => name).join());
        })()",
    );
    let expected = ["one.txt", "list.txt", "array.txt,in/path.txt", "found.txt", "set.txt"];
    let expected = [&expected[..], &["foreign.txt", "", "", ""]].concat();
    assert_eq!(added, json!(expected));
    let all_done = "uploader.settled().then((all) => all.every(({ state }) => state === 'done'))";
    assert_eq!(world.get(all_done), true);
    assert_eq!(world.bucket.keys().len(), 7);
    for (given, named) in [
        ("'name.txt'", "item 0 is no File but String"),
        ("[new File([], 'a'), new Blob([])]", "item 1 is no File but Blob"),
        ("new Blob([])", "item 0 is no File but Blob"),
        ("document.body", "item 0 is no File but HTMLBodyElement"),
        ("[null]", "item 0 is no File but Null"),
        ("{ path: 'a' }", "item 0 is no File but Object"),
        ("7", "item 0 is no File but Number"),
    ] {
        let error = thrown(&world, &format!("uploader.add({given})"));
        assert!(error.starts_with("TypeError: add: ") && error.contains(named), "{given}: {error}");
    }
    assert_eq!(world.get("uploader.uploads.length"), 7, "something of it was queued");
    world.assert_clean(false);
}

#[test]
fn exceptions_of_callbacks_are_reported_and_stop_nothing() {
    let world = world(&[]);
    // In the page itself: browsers hide what errors of a driver's script say.
    open_own(
        &world,
        &format!(
            "<script src=\"{SERVER}/upload.js\"></script><script>
             const reported = [];
             addEventListener('error', (event) => {{
                 reported.push(event.message);
                 event.preventDefault();
             }});
             const fails = (what) => () => {{ throw Error(what); }};
             const uploader = createUploader({{
                 server: '{SERVER}',
                 onchange: fails('change'),
                 onlimits: fails('limits'),
                 confirm: fails('confirm'),
             }});
             uploader.add([new File(['a'], 'a.txt'), new File(['b'], 'b.txt')]);
             </script>"
        ),
    );
    world.get("uploader.settled().then(() => true)");
    assert_eq!(world.bucket.keys(), ["user/a.txt", "user/b.txt"]);
    world.bucket.faults().callback_fail = Some("Error status : 502.".to_owned());
    world.run("uploader.add(new File(['c'], 'c.txt'))");
    world.get("uploader.settled().then(() => true)");
    assert_eq!(world.get("uploader.uploads[2].error.code"), "CallbackFailed");
    // The callback server is back: another try settles it.
    world.bucket.faults().callback_fail = None;
    world.run("uploader.retry()");
    world.get("uploader.settled().then(() => true)");
    assert_eq!(world.get("uploader.uploads[2].state"), "done");
    let reported = world.get("[...new Set(reported)]");
    for what in ["change", "limits", "confirm"] {
        assert!(reported.to_string().contains(&format!("Error: {what}\"")), "{reported}");
    }
}

/// What is changed from within a callback: nothing goes on behind it.
#[test]
fn callbacks_may_cancel_remove_and_retry() {
    let world = bare(&[]);
    world.run(
        "window.problems = [];
         addEventListener('error', (event) => problems.push(event.message));
         addEventListener('unhandledrejection', (event) => problems.push(`${event.reason}`));
         window.uploader = createUploader({ server, onchange(upload) {
             const [method, state] = upload.file.name.split(' ');
             if (upload.state !== state || upload.seen) return;
             upload.seen = true;
             uploader[method](upload);
         } });
         const states = ['waiting', 'signing', 'uploading', 'verifying', 'done'];
         const names = ['cancel', 'remove'].flatMap((method) =>
             states.map((state) => `${method} ${state}`));
         uploader.add([...names, 'retry failed', 'retry cancelled', 'none'].map((name) =>
             new File(['x'.repeat(300000)], name)));",
    );
    world.get("uploader.settled().then(() => true)");
    let states = world.get("uploader.uploads.map(({ file, state }) => `${file.name}: ${state}`)");
    let expected = [
        "cancel waiting: cancelled",
        "cancel signing: cancelled",
        "cancel uploading: cancelled",
        "cancel verifying: cancelled",
        "cancel done: done",
        "retry failed: done",
        "retry cancelled: done",
        "none: done",
    ];
    assert_eq!(states, json!(expected));
    assert_eq!(world.get("problems"), json!([]));
    for key in ["cancel waiting", "cancel signing", "cancel uploading", "remove waiting"] {
        assert!(world.bucket.object(&format!("user/{key}")).is_none(), "{key} was sent");
    }
}

#[test]
fn signals_and_destroy_end_what_is_at_work() {
    let world = bare(&[]);
    world.stall(4);
    world.run(
        "window.states = (uploader) => uploader.uploads.map(({ state }) => state).join();
         const file = (name) => new File(['x'.repeat(9e6)], name);
         window.mine = new AbortController();
         window.whole = new AbortController();
         window.uploader = createUploader({ server, parallel: 4, signal: whole.signal });
         uploader.add([file('a'), file('b')], { signal: mine.signal });
         uploader.add([file('c'), file('d')]);",
    );
    world.wait_stalls(4);
    world.run("mine.abort()");
    assert_eq!(world.get("states(uploader)"), "cancelled,cancelled,uploading,uploading");
    let late = thrown(&world, "uploader.add(new File([], 'e'), { signal: mine.signal })");
    assert!(late.starts_with("AbortError: "), "{late}");
    world.run("window.end = uploader.settled(); whole.abort()");
    assert_eq!(world.get("states(uploader)"), "cancelled,cancelled,cancelled,cancelled");
    assert_eq!(world.get("end.then((uploads) => uploads.length)"), 4);
    world.bucket.release();
    world.run("uploader.retry(); dispatchEvent(new Event('online'))");
    assert_eq!(world.get("states(uploader)"), "cancelled,cancelled,cancelled,cancelled");
    let dead = "createUploader({ server, signal: AbortSignal.abort() }).add(null)";
    assert_eq!(thrown(&world, dead), "Error: add: this uploader was destroyed");
    assert_eq!(world.bucket.keys(), Vec::<String>::new());
}

#[test]
fn a_ticket_that_fails_is_asked_for_again() {
    let world = bare(&[("UPLOAD_JWT_SECRET", SECRET)]);
    world.run_with(
        "const tries = [
             () => Promise.reject(Error('no network')),
             () => { throw Error('at once') },
             () => new Promise(() => {}), // it never ends
             async () => arguments[0],
         ];
         window.uploader = createUploader({
             server, stall: 500, backoff: 20, ticket: () => tries.shift()(), onchange: ({ error }) => {
                 if (error) window.trouble = error;
             },
         });
         uploader.add(new File(['text'], 'a.txt'));",
        json!([ticket("bob")]),
    );
    world.get("uploader.settled().then(() => true)");
    assert_eq!(world.get("uploader.uploads[0].state"), "done");
    assert_eq!(world.get("uploader.uploads[0].tries"), 3);
    assert_eq!(world.get("trouble.code"), "TicketFailed");
    world.assert_stored("user/bob/a.txt", b"text");
}

/// One type is allowed, and the form carries it: the file's own may be unknown to the browser.
#[test]
fn a_file_without_a_type_passes_where_the_form_says_it() {
    let world = world(&[("UPLOAD_CONTENT_TYPES", "application/x-measurement")]);
    world.upload(&[("a.meas", "text", ""), ("b.txt", "text", "text/plain")], &["done", "failed"]);
    assert_eq!(world.bucket.keys(), ["user/a.meas"]);
    let stored = world.bucket.object("user/a.meas").unwrap();
    assert_eq!(stored.content_type, "application/x-measurement");
}

/// The document's plain `fetch`, its mini program, and its snippet with the real Uppy, of which a
/// 203 is posted once, a lost connection again: with a callback, and without one.
#[test]
fn plain_fetch_the_mini_program_and_uppy_work() {
    let fetched = documents::block(DOCUMENT, "js", "new FormData()");
    let mini = documents::block(DOCUMENT, "js", "wx.uploadFile");
    // As WeChat documents it.
    let wechat = "const wx = {
        request({ url, success }) {
            fetch(url).then(async (answer) => success({ data: await answer.json() }));
        },
        async uploadFile({ url, filePath, name, formData, success }) {
            const form = new FormData();
            for (const field in formData) form.append(field, formData[field]);
            form.append(name, new Blob([filePath]), 'mini program');
            const answer = await fetch(url, { method: 'POST', body: form });
            try {
                success({ statusCode: answer.status, data: await answer.text() });
            } catch (error) {
                console.error(`${error}`);
            }
        },
    };";
    let script = |name: &str, world: &str, snippet: &str| {
        format!(
            "const [server] = arguments, name = '{name}', filePath = 'from a path';
             const file = new File(['text'], name);
             return new Promise((done, failed) => {{
                 const console = {{ log: done, error: (...words) => failed(words.join()) }};
                 {world}
                 (async () => {{ {snippet} }})().catch(failed);
             }});"
        )
    };
    let uppy = std::fs::read_to_string(tool("uppy-6.0.1/package/dist/uppy.min.js")).unwrap();
    let page = format!(
        "<script src=uppy.js></script><script>
             const {{ Uppy: {{ Uppy, XHRUpload }} }} = {{ Uppy: window.Uppy }};
             const server = '{SERVER}';
             {}
             const upload = async (name) => {{
                 uppy.addFile({{ name, type: 'text/plain', data: new Blob(['text']) }});
                 const {{ successful, failed }} = await uppy.upload();
                 return [successful.length, failed.length];
             }};
         </script>",
        documents::block(DOCUMENT, "js", "new Uppy()")
    );
    let none = [("CALLBACK_URL", "")];
    for (changes, said) in [(&[][..], json!({ "Status": "OK" })), (&none, json!("stored"))] {
        let world = world(changes);
        if !changes.is_empty() {
            // Nothing is called verified.
            world.upload(&[("a.txt", "text", "text/plain")], &["done"]);
            assert_eq!(world.statuses(), ["Done · 4 B · stored, no callback is set up"]);
            world.assert_clean(false);
        }
        for (name, stands_in, snippet, key, stored) in [
            ("fetched $& 中.txt", "", &fetched, "fetched $& 中.txt", "text"),
            ("${filename}.txt", "", &fetched, "${filename}.txt", "text"),
            ("mini $& 中.txt", wechat, &mini, "mini $& 中.txt", "from a path"),
            ("${filename}.mini", wechat, &mini, "_.mini", "from a path"),
        ] {
            let script = script(name, stands_in, snippet);
            assert_eq!(world.run_with(&script, json!([world.server.url()])), said, "{name}");
            world.assert_stored(&format!("user/{key}"), stored.as_bytes());
        }

        world.write("uppy.js", uppy.as_bytes());
        open_own(&world, &page);
        for (name, key) in [("a $& 中.txt", "a $& 中.txt"), ("${filename}.uppy", "_.uppy")] {
            assert_eq!(world.get(&format!("upload('{name}')")), json!([1, 0]));
            world.assert_stored(&format!("user/{key}"), b"text");
        }
        if changes.is_empty() {
            world.bucket.faults().callback_fail = Some("Error status : 502.".to_owned());
            let before = world.bucket.posts().len();
            assert_eq!(world.get("upload('b.txt')"), json!([0, 1]));
            assert_eq!(world.bucket.posts().len() - before, 1, "a 203 was sent again");
            world.bucket.faults().callback_fail = None;
        }
        world.bucket.faults().fail_posts(1, 503, "ServiceUnavailable");
        world.run("uppy.cancelAll()");
        assert_eq!(world.get("upload('c.txt')"), json!([1, 0]));
        assert_eq!(world.bucket.callbacks().is_empty(), !changes.is_empty());
    }
}

/// In the page itself: browsers do not tell of errors in scripts of another origin.
#[test]
fn nothing_is_called_after_the_end() {
    let world = world(&[]);
    world.run(
        "window.problems = [];
         addEventListener('unhandledrejection', (event) => problems.push(`${event.reason}`));
         // A function that throws at once leaves no promise of its time-out behind.
         window.one = createUploader({ retries: 0, stall: 50, ticket: () => { throw Error('no') } });
         one.add(new File(['text'], 'a.txt'));
         // A policy that comes after the end.
         window.calls = 0;
         performance.clearResourceTimings();
         window.two = createUploader({
             ticket: () => new Promise((give) => { window.give = give; }),
             onlimits: () => { calls += 1; },
         });
         two.add(new File(['text'], 'b.txt'));",
    );
    world.wait("window.give && one.uploads[0].state === 'failed'");
    world.run("two.destroy(); performance.clearResourceTimings(); give('')");
    world.wait(&format!(
        "performance.getEntriesByType('resource').some(({{ name }}) => name.endsWith('{POLICY_PATH}'))"
    ));
    world.get("new Promise((done) => setTimeout(done, 100))"); // twice the time-out
    assert_eq!(world.get("[problems.join(), calls]"), json!(["", 0]));
    assert_eq!(world.bucket.keys(), Vec::<String>::new());
}

/// An upload that was removed is not tried again. And a signal that lives as long as the application
/// holds no uploader that was destroyed, and no upload that was removed (a leak of memory).
#[test]
fn what_was_removed_is_gone() {
    let world = world(&[]);
    world.run(
        "const { signal } = (window.controller = new AbortController());
         const first = createUploader({ signal });
         window.destroyed = new WeakRef(first);
         first.destroy();
         window.second = createUploader({ parallel: 0 });
         const [upload] = second.add(new File(['text'], 'a.txt'), { signal });
         window.removed = new WeakRef(upload);
         second.remove(upload);
         second.retry(upload);
         window.state = upload.state;
         second.add(new File(['text'], 'a.txt'), { signal });",
    );
    let seen = world.get("[state, second.uploads[0].name, second.total().files]");
    assert_eq!(seen, json!(["cancelled", "a.txt", 1]));
    world.devtools("HeapProfiler.collectGarbage", json!({}));
    assert_eq!(world.get("[!destroyed.deref(), !removed.deref()]"), json!([true, true]));
    world.run("controller.abort()");
    assert_eq!(world.get("second.uploads[0].state"), "cancelled");
}
