//! The main job on a local stand-in for OSS: `cargo run --release --example demo [PORT]`.
//! Open the printed address and upload a file: the page asks this server for a policy, posts the
//! file to the bucket, the bucket calls this server back, and the page shows the verified answer.

use std::net::TcpListener;

use appserver::app::App;
use appserver::config::{Config, Vars};
use appserver::{server, time};
use oss_standin::{Options, Standin};

fn main() {
    let port = std::env::args().nth(1).unwrap_or("0".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("a free port");
    let address = listener.local_addr().expect("bound");

    let options = Options { verbose: true, ..Options::default() };
    let bucket = Standin::start(options.clone()).expect("the bucket starts");

    let callback = format!("http://{address}/callback");
    let vars: Vars = [
        ("OSS_ACCESS_KEY_ID", options.access_key_id.as_str()),
        ("OSS_ACCESS_KEY_SECRET", &options.access_key_secret),
        ("OSS_HOST", &bucket.url()),
        ("OSS_BUCKET", &options.bucket),
        ("OSS_REGION", &options.region),
        ("CALLBACK_URL", &callback),
        ("CALLBACK_KEY_ORIGIN", &bucket.key_origin()),
        ("UPLOAD_DIR", "demo/"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let config = Config::from_vars(&vars).unwrap_or_else(|error| panic!("{error}"));

    let app = App::new(config, time::now()).unwrap_or_else(|error| panic!("{error}"));

    println!("the page:    http://{address}/index.html   (open it and upload a file)");
    println!("the server:  http://{address}              (its log follows, one line a request)");
    println!("the bucket:  {}              (a stand-in for OSS, in memory)", bucket.url());
    panic!("{:?}", server::run_listener(listener, app));
}
