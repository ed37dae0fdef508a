//! A real Chromium, driven through Debian's chromedriver: JSON over plain HTTP (W3C WebDriver, and
//! the DevTools protocol through `goog/cdp/execute`). A missing browser fails the test that needs
//! it, in words that say what to install.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use crate::{Folder, PATIENCE, read_reply};

const CHROMIUM: &str = "/usr/bin/chromium";
const CHROMEDRIVER: &str = "/usr/bin/chromedriver";
/// Chromedriver ends when this program does, however that ends, and so does Chromium, by its pipe;
/// which still writes into its profile for a while.
const DRIVER: &str = r#"
    "$1" --port=0 &
    read -r _
    kill $!
    wait $!
    for pause in 0.1 1 4; do sleep $pause; rm -rf "$HOME"; done"#;
const ARGUMENTS: [&str; 15] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--lang=en-US",
    "--accept-lang=en-US",
    // The next test's tab goes on in the process of the last.
    "--renderer-process-limit=1",
    "--process-per-site",
];

/// Browsers that a test has ended with, to be taken over by the next.
static IDLE: Mutex<Vec<Process>> = Mutex::new(Vec::new());

/// Chromium with its driver; ended when dropped.
struct Process {
    driver: Child,
    address: SocketAddr,
    session: String,
    profile: Folder,
}

/// A browser with one new tab, which has all that a test changes: emulation, scripts, network
/// conditions. Its process may have run other tests before.
pub struct Browser {
    process: Option<Process>,
    is_alone: bool,
    /// Empty; for files that a test needs.
    pub folder: Folder,
}

impl Browser {
    pub fn start() -> Browser {
        let idle = IDLE.lock().expect("no test panics with it").pop();
        Browser::of(idle.unwrap_or_else(Process::start), false)
    }

    /// A process that no other test had or gets, whose memory can be measured.
    pub fn start_alone() -> Browser {
        Browser::of(Process::start(), true)
    }

    fn of(process: Process, is_alone: bool) -> Browser {
        let browser = Browser { process: Some(process), is_alone, folder: Folder::new() };
        let handle = browser.command("/window/new", &json!({ "type": "tab" }))["handle"].clone();
        let window = format!("{}/window", browser.process().session);
        browser.process().call("DELETE", &window, &json!({}));
        browser.command("/window", &json!({ "handle": handle }));
        for kind in ["browser", "performance"] {
            browser.log(kind);
        }
        browser
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("taken when it is dropped alone")
    }
}

impl Process {
    fn start() -> Process {
        for program in [CHROMIUM, CHROMEDRIVER] {
            assert!(
                Path::new(program).exists(),
                "{program} is missing, and these tests drive a real browser; run \
                 tests/browser/install as root, or: apt-get install chromium chromium-driver"
            );
        }
        let profile = Folder::new();
        let mut command = Command::new("sh");
        command.args(["-c", DRIVER, "sh", CHROMEDRIVER]);
        command.env("HOME", &profile.0).env("LANGUAGE", "en-US");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().expect("chromedriver starts");
        let stdout = driver.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let port = port.expect("chromedriver says its port");
        std::thread::spawn(move || lines.for_each(drop)); // a full pipe would stop it

        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut process = Process { driver, address, session: String::new(), profile };
        let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={}", process.profile.path("profile")));
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "binary": CHROMIUM, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            "timeouts": { "script": 120_000 },
        } } });
        let answer = process.call("POST", "/session", &capabilities);
        let id = answer["sessionId"].as_str().expect("a session").to_owned();
        process.session = format!("/session/{id}");
        process
    }
}

impl Browser {
    /// Opens a page and waits until it is loaded.
    pub fn open(&self, url: &str) {
        self.command("/url", &json!({ "url": url }));
    }

    /// Runs the body of a function in the page.
    pub fn run(&self, script: &str) -> Value {
        self.run_with(script, json!([]))
    }

    /// The same with what `arguments` holds then.
    pub fn run_with(&self, script: &str, arguments: Value) -> Value {
        self.command("/execute/sync", &json!({ "script": script, "args": arguments }))
    }

    /// The value of an expression in the page; a promise is waited for.
    pub fn get(&self, expression: &str) -> Value {
        self.run(&format!("return ({expression})"))
    }

    pub fn text(&self, selector: &str) -> String {
        let text = format!("document.querySelector({selector:?})?.textContent ?? '(none)'");
        self.get(&text).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the expression is true, or fails with what `document.body` shows then. It is the
    /// page that looks again and again: a command takes more than a hundred looks.
    pub fn wait(&self, expression: &str) {
        let script = format!(
            "let looks = 0;
             return new Promise(function look(done, failed) {{
                 try {{
                     if ({expression}) return done(true);
                 }} catch (error) {{
                     return failed(error);
                 }}
                 looks += 1;
                 if (looks === 50) done(false);
                 else setTimeout(look, 10, done, failed);
             }})"
        );
        let deadline = Instant::now() + PATIENCE;
        while self.run(&script) != true {
            if Instant::now() > deadline {
                let page = self.get("document.body.innerText");
                panic!("never true: {expression}; the page: {page}");
            }
        }
    }

    /// Waits until an element has exactly this text.
    pub fn wait_text(&self, selector: &str, text: &str) {
        self.wait(&format!("document.querySelector({selector:?})?.textContent === {text:?}"));
    }

    pub fn truth(&self, expression: &str) -> bool {
        self.get(&format!("Boolean({expression})")) == json!(true)
    }

    /// Clicks as a person does: it must be there, visible, and not covered.
    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.command(&format!("/element/{element}/click"), &json!({}));
    }

    /// Chooses files in a file input.
    pub fn send_files(&self, selector: &str, paths: &[PathBuf]) {
        let paths: Vec<&str> = paths.iter().map(|path| path.to_str().expect("UTF-8")).collect();
        self.send(selector, &paths.join("\n"));
    }

    /// Types into an element.
    pub fn send(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.command(&format!("/element/{element}/value"), &json!({ "text": text }));
    }

    fn element(&self, selector: &str) -> String {
        let query = json!({ "using": "css selector", "value": selector });
        let found = self.command("/element", &query);
        let id = found.as_object().and_then(|object| object.values().next()?.as_str());
        id.expect("an element").to_owned()
    }

    /// A command of the DevTools protocol.
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.command("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// What was logged since the last call: `browser` (the console) or `performance` (DevTools).
    pub fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.command("/se/log", &json!({ "type": kind }));
        entries.as_array().cloned().unwrap_or_default()
    }

    /// What DevTools told of since the last call: the parameters of all events of this name.
    pub fn events(&self, method: &str) -> Vec<Value> {
        let mut found = Vec::new();
        for entry in self.log("performance") {
            let text = entry["message"].as_str().expect("JSON");
            let mut event: Value = serde_json::from_str(text).expect("JSON");
            if event["message"]["method"] == method {
                found.push(event["message"]["params"].take());
            }
        }
        found
    }

    /// What its user prefers to read, as in `fr-FR,zh-HK`; for pages that are opened then.
    pub fn language(&self, languages: &str) {
        let agent = self.get("navigator.userAgent");
        let change = json!({ "userAgent": agent, "acceptLanguage": languages });
        self.devtools("Emulation.setUserAgentOverride", change);
    }

    pub fn resize(&self, width: u32, height: u32, phone: bool) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Sets media features, as in `prefers-color-scheme`.
    pub fn media(&self, features: &[(&str, &str)]) {
        let feature = |(name, value): &(&str, &str)| json!({ "name": name, "value": value });
        let features: Vec<Value> = features.iter().map(feature).collect();
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Presses and releases a key: `Tab`, `Enter`, `ArrowDown`, or what types itself.
    pub fn press(&self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "ArrowDown" => (40, ""),
            letter => (letter.to_ascii_uppercase().as_bytes()[0], letter),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event =
                json!({ "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code });
            self.devtools("Input.dispatchKeyEvent", event);
        }
    }

    /// Drags files and folders over the page's middle; `drop` also lets them go.
    pub fn drag(&self, paths: &[&Path], drop: bool) {
        let files: Vec<_> = paths.iter().map(|path| path.to_str().expect("UTF-8")).collect();
        let data = json!({ "items": [], "files": files, "dragOperationsMask": 1 });
        let kinds = ["dragEnter", "dragOver", "drop"];
        for kind in &kinds[..if drop { 3 } else { 2 }] {
            let event = json!({ "type": kind, "x": 200, "y": 300, "data": data });
            self.devtools("Input.dispatchDragEvent", event);
        }
    }

    /// Cuts the tab off the network, or gives it back.
    pub fn offline(&self, offline: bool) {
        self.throttle(offline, -1);
    }

    /// How fast it may send, in bytes per second; -1: as fast as it can.
    pub fn throttle(&self, offline: bool, bytes_per_second: i64) {
        self.devtools("Network.enable", json!({}));
        let conditions = json!({
            "offline": offline, "latency": 0,
            "downloadThroughput": -1, "uploadThroughput": bytes_per_second,
        });
        self.devtools("Network.emulateNetworkConditions", conditions);
    }

    /// The whole page as a PNG, however long it is.
    pub fn screenshot(&self) -> Vec<u8> {
        let width = self.get("innerWidth").as_u64().expect("a number") as u32;
        let height = self.get("document.documentElement.scrollHeight").as_u64().expect("a number");
        self.resize(width, height as u32, width < 600);
        self.get("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))");
        let shot = self.devtools("Page.captureScreenshot", json!({ "format": "png" }));
        BASE64.decode(shot["data"].as_str().expect("a picture")).expect("base64")
    }

    /// The largest resident memory of the browser's tabs, in bytes; Chromium's own pages are none.
    pub fn tab_memory(&self) -> u64 {
        let profile = self.process().profile.path("profile");
        let mut largest = 0;
        for process in std::fs::read_dir("/proc").expect("Linux").flatten() {
            // One that ends meanwhile has neither.
            let read = |name: &str| std::fs::read_to_string(process.path().join(name));
            let (Ok(line), Ok(status)) = (read("cmdline"), read("status")) else { continue };
            let is_tab = line.contains("--type=renderer") && !line.contains("--top-chrome-webui");
            if is_tab && line.contains(&profile) {
                let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
                let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
                largest = largest.max(kilobytes.unwrap_or(0) * 1024);
            }
        }
        largest
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        self.process().call("POST", &format!("{}{path}", self.process().session), body)
    }
}

impl Process {
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        match self.try_call(method, path, body) {
            Some(answer) if answer["value"]["error"].is_string() => {
                let shown: String = body.to_string().chars().take(600).collect();
                let value = &answer["value"];
                panic!("{path} {shown}: {}: {}", value["error"], value["message"])
            }
            Some(answer) => answer["value"].clone(),
            None => panic!("chromedriver gives no answer to {path}"),
        }
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Option<Value> {
        let body = body.to_string();
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(2 * PATIENCE)).ok()?;
        let (address, length) = (self.address, body.len());
        let message = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(message.as_bytes()).ok()?;
        let reply = read_reply(&mut BufReader::new(stream), false)?;
        serde_json::from_slice(&reply.body).ok()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let process = self.process.take();
        if self.is_alone || std::thread::panicking() {
            return;
        }
        if let (Some(process), Ok(mut idle)) = (process, IDLE.lock()) {
            // A page that still uploads would ask whether it may be closed.
            let script = json!({ "script": "window.onbeforeunload = null", "args": [] });
            process.try_call("POST", &format!("{}/execute/sync", process.session), &script);
            idle.push(process);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            // Ends Chromium, which would outlive its driver.
            self.try_call("DELETE", &self.session, &json!({}));
        }
        drop(self.driver.stdin.take()); // ends it
    }
}
