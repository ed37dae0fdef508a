//! What the program takes before it has done anything: `cargo bench --bench footprint`.

use std::process::Command;
use std::time::{Duration, Instant};

use support::{Folder, Server, binary, request};

const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKs/JBGzwUB2aVht4crBx3oIPBLNsjGs
C0fTXv+nvlmklvkcolvpvXLTjaxUHR3W9LXxQ2EHXAJfCB+6H2YF1k8CAwEAAQ==
-----END PUBLIC KEY-----
";

fn main() {
    let folder = Folder::new();
    let [key, secret] = ["key.pem", "oss_access_key_secret"].map(|name| folder.path(name));
    std::fs::write(&key, KEY).expect("a key file");
    std::fs::write(&secret, "exampleAkSecret").expect("a credential");
    let credentials = folder.path("");
    let pinned = ("CALLBACK_PUBLIC_KEY_FILE", key.as_str());
    // As the unit has it; from the environment the program starts anew without it.
    let file = [pinned, ("OSS_ACCESS_KEY_SECRET", ""), ("CREDENTIALS_DIRECTORY", &*credentials)];
    for (place, vars) in [("a credential", &file[..]), ("the environment", &[pinned])] {
        let mut times: Vec<Duration> = Vec::new();
        let mut memory: Vec<u64> = Vec::new();
        for _ in 0..21 {
            let start = Instant::now();
            let mut command = Command::new(binary());
            command.args(["127.0.0.1", "0"]);
            let server = Server::spawn(command, vars);
            assert_eq!(request(server.address, "GET", "/", &[], b"").status, 200);
            times.push(start.elapsed());
            memory.push(server.status("VmRSS"));
        }
        times.sort();
        memory.sort();
        let (time, memory) = (times[10].as_secs_f64() * 1e3, memory[10] as f64 / 1e3);
        println!("secret in {place}: first answer after {time:.1} ms, then {memory:.1} MB VmRSS");
    }
    let size = std::fs::metadata(binary()).map_or(0, |metadata| metadata.len());
    println!("binary: {:.2} MB", size as f64 / 1e6);
}
