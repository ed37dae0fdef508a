//! The program from outside: the commands of README.md, `--help`, and arguments that are wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use support::{Folder, documents};

const README: &str = "tests/oss/README.md";
const PROGRAM: &str = env!("CARGO_BIN_EXE_oss-standin");
/// Far longer than anything waited for takes, so that a loaded machine fails no test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running program; ended when dropped.
struct Running {
    child: Child,
    /// What it has printed so far, up to the last of the four addresses.
    printed: Vec<String>,
}

impl Running {
    /// None if it ended: one of the ports was taken.
    fn start(command: &str) -> Option<Running> {
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let (sender, receiver) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        // Reads on to the end, so that the program can always print.
        std::thread::spawn(move || stdout.lines().try_for_each(|line| sender.send(line).ok()));
        let mut running = Running { child, printed: Vec::new() };
        while !running.printed.last().is_some_and(|line| line.starts_with("metadata ")) {
            match receiver.recv_timeout(PATIENCE) {
                Ok(line) => running.printed.push(line.expect("text")),
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(error) => panic!("{error}: {:?}", running.printed),
            }
        }
        std::thread::spawn(move || while receiver.recv().is_ok() {});
        Some(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs commands of the README to their end, in a folder.
fn shell(folder: &Folder, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(&folder.0)
        .output()
        .expect("a shell, curl and openssl");
    let (text, errors) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{script}\n{errors}");
    String::from_utf8(text).expect("text")
}

/// Answers one callback, and gives what came.
fn application(listener: &TcpListener) -> String {
    let (mut stream, _) = listener.accept().expect("a callback");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut request = String::new();
    let mut byte = [0];
    while !request.ends_with("&size=6") {
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error}: {request}"));
        request.push(byte[0].into());
    }
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n\
                  {\"mine\":42}";
    stream.write_all(answer.as_bytes()).expect("the bucket reads");
    request
}

#[test]
fn the_commands_of_the_readme_work() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let application_port = listener.local_addr().unwrap().port().to_string();
    let start = documents::block(README, "sh", "cargo run");
    // Another process may take one of the four in between: then others.
    let tries = (0..20).find_map(|_| {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let base = free.min(u16::MAX - 3);
        let places = [
            ("cargo run --release -p oss-standin --", PROGRAM),
            ("--port 9000", &*format!("--port {base}")),
            (":8080", &*format!(":{application_port}")),
        ];
        Some((base, Running::start(&documents::moved(&start, &places))?))
    });
    let (base, running) = tries.expect("four free ports in a row");
    let ports: Vec<(String, String)> = (0..4)
        .map(|at| (format!("127.0.0.1:900{at}"), format!("127.0.0.1:{}", base + at)))
        .collect();
    let moved = |text: String| {
        ports.iter().fold(text, |text, (documented, ours)| text.replace(documented, ours))
    };
    let printed = moved(documents::block(README, "", "key host"));
    for line in printed.lines() {
        assert!(running.printed.iter().any(|have| have == line), "{line}: {:?}", running.printed);
    }

    let folder = Folder::new();
    let upload = moved(documents::block(README, "sh", "signature="));
    let response = std::thread::scope(|scope| {
        let callback = scope.spawn(|| application(&listener));
        let response = shell(&folder, &upload);
        let callback = callback.join().unwrap();
        assert!(callback.starts_with("POST /callback HTTP/1.1\r\n"), "{callback}");
        assert!(callback.ends_with("object=dir%2Fhello.txt&size=6"), "{callback}");
        response
    });
    assert!(response.contains("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.ends_with("{\"mine\":42}"), "{response}");
    // What the README says of other callbacks.
    let other = |from: &str, to: &str| shell(&folder, &documents::moved(&upload, &[(from, to)]));
    let private = other("http://app.example.com/callback", "http://127.0.0.1:8080/");
    assert!(private.contains("HTTP/1.1 400 ") && private.contains("0007-00000008"), "{private}");
    drop(listener);
    let failed = shell(&folder, &upload);
    assert!(failed.contains("HTTP/1.1 203 ") && failed.contains("CallbackFailed"), "{failed}");
    let plain = other("-F callback=\"$callback\" ", "");
    assert!(plain.contains("HTTP/1.1 204 "), "{plain}");

    let key = shell(&folder, &moved(documents::block(README, "sh", "pub_key")));
    assert!(key.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{key}");
    let issued = shell(&folder, &moved(documents::block(README, "sh", "token=")));
    assert!(issued.contains("\"AccessKeyId\":\"STS."), "{issued}");
}

#[test]
fn help_names_every_option_and_others_are_refused() {
    let run = |arguments: &[&str]| Command::new(PROGRAM).args(arguments).output().unwrap();
    let help = run(&["--help"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    // The names in the program, as `"--name" =>`, are those of the help.
    let source = documents::text("tests/oss/src/main.rs");
    let mut read: Vec<&str> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" =>"))
        .map(|(name, _)| name)
        .chain(["--help"])
        .collect();
    let mut shown: Vec<&str> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|word| word.starts_with("--"))
        .collect();
    read.sort_unstable();
    shown.sort_unstable();
    assert_eq!(read, shown);
    for arguments in [
        &["--nonsense"][..],
        &["nonsense"],
        &["--port"],
        &["--port", "65533"],
        &["--port", "http"],
        &["--ip", "::1"],
        &["--route", "app.example.com"],
        &["--route", "app.example.com=192.0.2.1:80"],
        &["--object", "a=/nonexistent/file"],
    ] {
        let output = run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.starts_with("oss-standin: ") && error.lines().count() == 1, "{error}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn options_reach_the_bucket() {
    let folder = Folder::new();
    std::fs::write(folder.path("seed"), "seed").unwrap();
    let command = format!(
        "{PROGRAM} --quiet --bucket other --domain files.example.com \
         --cors-origin https://a.example --cors-method GET --object dir/a={}",
        folder.path("seed")
    );
    let running = Running::start(&command).expect("free ports");
    assert_eq!(running.printed.len(), 4);
    let address = running.printed[0].strip_prefix("bucket    http://").unwrap().parse().unwrap();
    let ask = |host: &str, method: &str, headers: &str| {
        let request = format!("{method} /dir/a HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        let reply = support::send(address, request.as_bytes(), false).expect("a response");
        (reply.status, reply.text())
    };
    assert!(ask("files.example.com", "GET", "").1.contains("<EC>0003-00000001</EC>"));
    assert!(ask("x.example.com", "GET", "").1.contains("<Code>NoSuchBucket</Code>"));
    let asked = "Origin: https://a.example\r\nAccess-Control-Request-Method: ";
    assert_eq!(ask("localhost", "OPTIONS", &format!("{asked}GET\r\n")).0, 200);
    assert_eq!(ask("localhost", "OPTIONS", &format!("{asked}POST\r\n")).0, 403);
}
