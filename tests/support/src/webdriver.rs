//! A real Chromium, driven through Debian's chromedriver: JSON over plain HTTP (W3C WebDriver, and
//! the DevTools protocol through `goog/cdp/execute`). A missing browser fails the test that needs
//! it, in words that say what to install.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use crate::http::read_reply;

const CHROMIUM: &str = "/usr/bin/chromium";
const CHROMEDRIVER: &str = "/usr/bin/chromedriver";
/// Far longer than anything waited for takes, so that a loaded machine fails no test.
const PATIENCE: Duration = Duration::from_secs(60);
const ARGUMENTS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
];

/// A browser of its own, with an empty profile and one tab; ended when dropped.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    /// Its profile; files that a test needs may be put beside it.
    pub folder: PathBuf,
}

impl Browser {
    /// `language` is what its user prefers, as in `zh-CN`.
    pub fn start(language: &str) -> Browser {
        for program in [CHROMIUM, CHROMEDRIVER] {
            assert!(
                Path::new(program).exists(),
                "{program} is missing, and these tests drive a real browser; run \
                 tests/browser/install as root, or: apt-get install chromium chromium-driver"
            );
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("appserver-browser-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder for the profile");

        let mut command = Command::new(CHROMEDRIVER);
        command.arg("--port=0").env("HOME", &folder).env("LANGUAGE", language);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
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
        let mut browser = Browser { driver, address, session: String::new(), folder };
        let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={}", browser.folder.join("profile").display()));
        arguments.push(format!("--lang={language}"));
        arguments.push(format!("--accept-lang={language}"));
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "binary": CHROMIUM, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            "timeouts": { "script": 120_000 },
        } } });
        let answer = browser.call("POST", "/session", &capabilities);
        let id = answer["sessionId"].as_str().expect("a session").to_owned();
        browser.session = format!("/session/{id}");
        browser
    }

    /// Opens a page and waits until it is loaded.
    pub fn open(&self, url: &str) {
        self.command("/url", &json!({ "url": url }));
    }

    /// Runs the body of a function in the page; `arguments` holds what is given.
    pub fn run(&self, script: &str, arguments: Value) -> Value {
        let arguments = if arguments.is_array() { arguments } else { json!([arguments]) };
        self.command("/execute/sync", &json!({ "script": script, "args": arguments }))
    }

    /// The value of an expression in the page; a promise is waited for.
    pub fn get(&self, expression: &str) -> Value {
        self.run(&format!("return ({expression})"), json!([]))
    }

    pub fn text(&self, selector: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.textContent ?? '(none)'";
        self.run(script, json!([selector])).as_str().unwrap_or_default().to_owned()
    }

    /// Asks until the expression is true, or fails with what `document.body` shows then.
    pub fn wait(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.truth(expression) {
            if Instant::now() > deadline {
                panic!(
                    "never true: {expression}; the page: {}",
                    self.get("document.body.innerText")
                );
            }
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    pub fn truth(&self, expression: &str) -> bool {
        self.get(&format!("Boolean({expression})")) == json!(true)
    }

    /// Clicks as a person does: it must be there, visible, and not covered.
    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.command(&format!("/element/{element}/click"), &json!({}));
    }

    /// Types into an element, or chooses files (paths, one a line) in a file input.
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

    /// Presses and releases a key, as in `("Tab", 9)`.
    pub fn press(&self, key: &str, code: u32) {
        for kind in ["rawKeyDown", "keyUp"] {
            let event = json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code });
            self.devtools("Input.dispatchKeyEvent", event);
        }
    }

    /// The same for a key that types something, as in `("Enter", 13, "\r")`.
    pub fn press_with_text(&self, key: &str, code: u32, text: &str) {
        let event = json!({
            "type": "keyDown", "key": key, "text": text, "windowsVirtualKeyCode": code,
        });
        self.devtools("Input.dispatchKeyEvent", event);
        let event = json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code });
        self.devtools("Input.dispatchKeyEvent", event);
    }

    /// Drags files and folders over the page's middle; `drop` also lets them go.
    pub fn drag(&self, paths: &[&Path], drop: bool) {
        let files: Vec<_> = paths.iter().map(|path| path.to_str().expect("UTF-8")).collect();
        let data = json!({ "items": [], "files": files, "dragOperationsMask": 1 });
        let kinds: &[&str] =
            if drop { &["dragEnter", "dragOver", "drop"] } else { &["dragEnter", "dragOver"] };
        for kind in kinds {
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

    /// The largest resident memory of the browser's tabs, in bytes.
    pub fn tab_memory(&self) -> u64 {
        let mut largest = 0;
        let mut family = vec![self.driver.id()];
        while let Some(pid) = family.pop() {
            let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
            if read("cmdline").is_ok_and(|line| line.contains("--type=renderer")) {
                let status = read("status").unwrap_or_default();
                let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
                let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
                largest = largest.max(kilobytes.unwrap_or(0) * 1024);
            }
            for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten() {
                let Ok(task) = task else { continue };
                let children = std::fs::read_to_string(task.path().join("children"));
                let children = children.unwrap_or_default();
                family
                    .extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        largest
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        self.call("POST", &format!("{}{path}", self.session), body)
    }

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
        if !self.session.is_empty() {
            // Ends Chromium, which would outlive its driver.
            self.try_call("DELETE", &self.session, &json!({}));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
