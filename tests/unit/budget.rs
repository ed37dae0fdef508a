//! What keeps the program auditable in an afternoon, enforced.

use support::documents::{files, text};

/// What every deployment runs, and all of src/ with the parts that wait for their variable.
const MAX_CORE_LINES: usize = 3280;
const MAX_LINES: usize = 4660;
const MAX_FILE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 60;
const MAX_COLUMNS: usize = 100;

const CORE: [&str; 14] = [
    "main.rs",
    "lib.rs",
    "config.rs",
    "server.rs",
    "app.rs",
    "upload.rs",
    "http.rs",
    "reject.rs",
    "page.rs",
    "oss/policy.rs",
    "oss/callback.rs",
    "oss/keys.rs",
    "sys/log.rs",
    "sys/time.rs",
];

struct Source {
    /// Relative to src/.
    path: String,
    text: String,
}

impl Source {
    fn lines(&self) -> usize {
        self.text.lines().count()
    }

    fn is_core(&self) -> bool {
        CORE.contains(&self.path.as_str()) || self.path.starts_with("proxy/")
    }
}

fn sources() -> Vec<Source> {
    let source = |path: String| Source {
        text: text(&path),
        path: path.strip_prefix("src/").unwrap().to_owned(),
    };
    files("src", ".rs").into_iter().map(source).collect()
}

/// Line budgets: the core, and all of src/.
#[test]
fn src_stays_within_its_two_budgets() {
    let sources = sources();
    for name in CORE {
        assert!(sources.iter().any(|source| source.path == name), "{name} is gone");
    }
    let core: usize = sources.iter().filter(|one| one.is_core()).map(Source::lines).sum();
    let all: usize = sources.iter().map(Source::lines).sum();
    println!("core: {core} lines, all of src/: {all}");
    assert!(core <= MAX_CORE_LINES, "the core has {core} lines of {MAX_CORE_LINES}");
    assert!(all <= MAX_LINES, "src/ has {all} lines of {MAX_LINES}");
}

/// Line budgets: each file, each function and the width of each line.
#[test]
fn no_file_no_function_and_no_line_is_too_long() {
    for Source { path, text } in sources() {
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() <= MAX_FILE_LINES, "{path} has {} lines", lines.len());
        for (number, line) in lines.iter().enumerate() {
            assert!(line.chars().count() <= MAX_COLUMNS, "{path}:{} is too wide", number + 1);
            let code = line.trim_start();
            let words = code.trim_start_matches("pub ").trim_start_matches("pub(super) ");
            if !words.starts_with("fn ") {
                continue;
            }
            let end = format!("{}}}", &line[..line.len() - code.len()]);
            let length =
                lines[number..].iter().position(|line| *line == end).map_or(1, |at| at + 1);
            assert!(length <= MAX_FUNCTION_LINES, "{path}:{} has {length} lines", number + 1);
        }
    }
}

/// Dependencies: each crate is named in the files that own it, so that it can be audited or
/// replaced there.
#[test]
fn each_crate_is_named_in_its_own_files_only() {
    for (word, owners) in [
        ("tiny_http::", &["server.rs"][..]),
        ("ureq::", &["oss/outbound.rs"]),
        ("rsa::", &["oss/callback.rs"]),
        ("crypto_bigint::", &["oss/callback.rs"]),
        ("md5::", &["oss/callback.rs"]),
        ("sha1::", &["oss/policy.rs"]),
        ("httparse::", &["proxy/head.rs"]),
        ("listenfd::", &["sys/systemd.rs"]),
    ] {
        for Source { path, text } in sources() {
            let found = text.contains(&format!(" {word}")) || text.contains(&format!("({word}"));
            assert!(!found || owners.contains(&path.as_str()), "{word} is named in {path}");
        }
        assert!(sources().iter().any(|one| one.text.contains(word)), "{word} is named nowhere");
    }
}

/// The rooms that each part may use besides its own.
#[test]
fn arrows_go_down_only() {
    for (part, may_use) in [
        ("proxy/", &["proxy", "reject", "sys"][..]),
        ("sys/", &["sys"]),
        ("oss/", &["oss", "reject", "sys"]),
        ("trust/", &["trust", "oss", "reject", "sys"]),
        ("reject.rs", &[]),
        ("http.rs", &["reject", "oss"]),
        ("page.rs", &["http"]),
        ("config.rs", &["oss", "trust", "sys"]),
        ("upload.rs", &["http", "oss", "sys"]),
        ("app.rs", &["config", "http", "page", "upload", "reject", "oss", "trust", "sys"]),
        ("check.rs", &["config", "http", "app", "oss", "trust", "sys"]),
    ] {
        for Source { path, text } in sources().iter().filter(|one| one.path.starts_with(part)) {
            for used in text.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric()).collect();
                assert!(may_use.contains(&used.as_str()), "{path} uses {used}");
            }
        }
    }
}

/// unsafe: no file has any, and each begins with a comment that says what it is.
#[test]
fn every_file_says_what_it_is_and_none_is_unsafe() {
    for Source { path, text } in sources() {
        assert!(text.starts_with("//! "), "{path} has no opening comment");
        assert!(!text.contains("unsafe {") && !text.contains("unsafe fn"), "{path}");
        if path == "lib.rs" || path == "main.rs" {
            assert!(text.contains("#![forbid(unsafe_code)]"), "{path}");
        }
    }
}
