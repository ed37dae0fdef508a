//! The main job on a local stand-in for OSS: `cargo run --release --example demo [PORT]`.
//! Open the printed address and upload a file: the page shows its ticket and gets a policy, posts
//! the file to the bucket, the bucket calls this server back, the server checks signature and
//! token, asks the bucket for the object, records the upload, and the page shows the answer.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use appserver::app::App;
use appserver::config::{Config, Vars};
use appserver::server;
use appserver::sys::time;
use oss_standin::{Options, Standin};
use serde_json::json;
use support::trust::ticket;

const JWT_SECRET: &str = "a secret of this demo, which a real one must not be";

/// What the process that tidies up is called with, before the folder.
const TIDY: &str = "--tidy";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, TIDY, folder] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return tidy(Path::new(folder));
    }
    let port = arguments.get(1).map_or("0", String::as_str);
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let record = record();

    let options = Options { verbose: true, ..Options::default() };
    let bucket = Standin::start(options).expect("the bucket starts");
    let jwt_secret = JWT_SECRET.replace(' ', "-");
    let own = [
        ("CALLBACK_URL", format!("http://{address}/callback")),
        ("UPLOAD_DIR", "demo/".to_owned()),
        ("UPLOAD_JWT_SECRET", jwt_secret.clone()),
        ("CONFIRM_UPLOADS", "on".to_owned()),
        ("UPLOAD_LOG", record.display().to_string()),
    ];
    let all = bucket.vars().into_iter().filter(|(_, value)| !value.is_empty()).chain(own);
    let vars: Vars = all.map(|(name, value)| (name.to_owned(), value)).collect();
    let config = Config::from_vars(&vars).unwrap_or_else(|error| panic!("{error}"));
    let app = App::new(config, time::now()).unwrap_or_else(|error| panic!("{error}"));

    // What a user's own application would mint (`static/README.md` shows it in other languages).
    let claims = json!({ "sub": "visitor", "exp": time::now() + 86_400 });
    let ticket = ticket(&jwt_secret, &claims);
    println!("the page:    http://{address}/index.html#ticket={ticket}");
    println!("             (open it and upload a file; each step shows here)");
    println!("policies:    http://{address}/get_post_signature_for_oss_upload?ticket={ticket}");
    println!("the bucket:  {}  (a stand-in for OSS, in memory)", bucket.url());
    println!("the record:  {}", record.display());
    panic!("{:?}", server::run_on(listener.into(), app));
}

/// A folder for the record. However this process ends, the pipe to another one ends with it, and
/// that removes the folder; it has a process group of its own, so that Ctrl-C does not reach it.
fn record() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("appserver-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the record");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg(TIDY).arg(&folder).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
    std::mem::forget(command.spawn().expect("the process that tidies up"));
    folder
}

/// Waits until the pipe ends, and removes the folder.
fn tidy(folder: &Path) {
    let _ = std::io::stdin().read(&mut [0]);
    let _ = std::fs::remove_dir_all(folder);
}
