//! What keeps the program auditable in an afternoon, enforced.

use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 4379;
const MAX_COLUMNS: usize = 100;

fn sources() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "rs"));
    files.sort();
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn src_stays_within_its_budget() {
    let lines: usize = sources().iter().map(|(_, text)| text.lines().count()).sum();
    assert!(lines <= MAX_LINES, "src/ has {lines} lines of {MAX_LINES}");
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            assert!(line.chars().count() <= MAX_COLUMNS, "{name}:{} is too wide", number + 1);
        }
    }
}

#[test]
fn each_crate_is_named_in_its_own_files_only() {
    for (word, owners) in [
        ("tiny_http::", &["server.rs"][..]),
        ("ureq::", &["oss.rs"]),
        ("rsa::", &["callback.rs"]),
        ("crypto_bigint::", &["callback.rs"]),
        ("md5::", &["callback.rs"]),
        ("sha1::", &["policy.rs"]),
        ("httparse::", &["head.rs"]),
        ("socket2::", &["server.rs", "door.rs", "client.rs", "service.rs"]),
        ("mio::", &["door.rs"]),
        ("listenfd::", &["service.rs"]),
        ("signal_hook::", &["service.rs"]),
    ] {
        for (name, text) in sources() {
            let found = text.contains(&format!(" {word}")) || text.contains(&format!("({word}"));
            assert!(!found || owners.contains(&name.as_str()), "{word} is named in {name}");
        }
        let found = sources().iter().any(|(_, text)| text.contains(word));
        assert!(found, "{word} is named nowhere");
    }
}

#[test]
fn every_file_says_what_it_is_and_none_is_unsafe() {
    for (name, text) in sources() {
        assert!(text.starts_with("//! "), "{name} has no opening comment");
        assert!(!text.contains("unsafe {") && !text.contains("unsafe fn"), "{name}");
        if name == "lib.rs" || name == "main.rs" {
            assert!(text.contains("#![forbid(unsafe_code)]"), "{name}");
        }
    }
}
