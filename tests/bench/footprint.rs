//! What the program takes before it has done anything: `cargo bench --bench footprint`.

use std::process::Command;
use std::time::{Duration, Instant};

use support::{Server, binary, request};

const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKs/JBGzwUB2aVht4crBx3oIPBLNsjGs
C0fTXv+nvlmklvkcolvpvXLTjaxUHR3W9LXxQ2EHXAJfCB+6H2YF1k8CAwEAAQ==
-----END PUBLIC KEY-----
";

fn main() {
    let file = std::env::temp_dir().join(format!("appserver-bench-{}.pem", std::process::id()));
    std::fs::write(&file, KEY).expect("a key file");
    let vars = [("CALLBACK_PUBLIC_KEY_FILE", file.to_str().expect("a plain path"))];
    let mut times: Vec<Duration> = Vec::new();
    let mut memory: Vec<u64> = Vec::new();
    for _ in 0..21 {
        let start = Instant::now();
        let mut command = Command::new(binary());
        command.args(["127.0.0.1", "0"]);
        let server = Server::spawn(command, &vars);
        assert_eq!(request(server.address, "GET", "/", &[], b"").status, 200);
        times.push(start.elapsed());
        memory.push(server.status("VmRSS"));
    }
    let _ = std::fs::remove_file(&file);
    times.sort();
    memory.sort();
    let size = std::fs::metadata(binary()).map_or(0, |metadata| metadata.len());
    println!("start to first answer: {:.1} ms (median of 21)", times[10].as_secs_f64() * 1e3);
    println!("memory after it:       {:.1} MB VmRSS", memory[10] as f64 / 1e3);
    println!("binary:                {:.2} MB", size as f64 / 1e6);
}
