//! Gzips the files of the page when the program is built, so that the server sends them small and
//! compresses nothing itself. Writes the table that src/page.rs includes: path, content type, the
//! file as it is, and gzipped.

use std::io::Write;
use std::path::{Path, absolute};
use std::{env, fs};

use flate2::{Compression, write::GzEncoder};

const SCRIPT: &str = "text/javascript; charset=utf-8";
const FILES: [(&str, &str); 6] = [
    ("index.html", "text/html; charset=utf-8"),
    ("style.css", "text/css; charset=utf-8"),
    ("page.js", SCRIPT),
    ("words.js", SCRIPT),
    ("upload.js", SCRIPT),
    ("upload.mjs", SCRIPT),
];

fn main() {
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    let mut table = String::new();
    for (name, content_type) in FILES {
        let path = absolute(Path::new("static").join(name)).expect("a path");
        println!("cargo::rerun-if-changed={}", path.display());
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&fs::read(&path).expect("a file of the page")).expect("to memory");
        let gzipped = Path::new(&out).join(format!("{name}.gz"));
        fs::write(&gzipped, encoder.finish().expect("to memory")).expect("OUT_DIR is ours");
        let target = format!("/{name}");
        table += &format!(
            "({target:?}, {content_type:?}, include_bytes!({path:?}), include_bytes!({gzipped:?})),\n"
        );
    }
    fs::write(Path::new(&out).join("files.rs"), format!("&[\n{table}]")).expect("OUT_DIR is ours");
}
