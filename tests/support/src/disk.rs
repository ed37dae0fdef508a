//! A disk that hangs as long as a test wants it to: `fsync` and `fdatasync` of a server wait. Tests
//! hold a server's loop by it, since nothing that comes from the network may hold it. And a disk
//! that fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{Folder, PATIENCE};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/hang.c");

/// A disk that hangs between `hang` and `resume`, or until this is dropped.
pub struct Disk {
    library: String,
    hang: PathBuf,
    fail: PathBuf,
    /// The record of uploads.
    record: PathBuf,
    _folder: Folder,
}

/// A folder with a library that can be preloaded, made of a file in C, and an empty record.
pub(crate) fn preload(source: &str) -> (Folder, String) {
    let folder = Folder::new();
    fs::create_dir(folder.0.join("record")).expect("a new folder");
    let library = folder.path("preload.so");
    let compiler = std::env::var("CC").unwrap_or("cc".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", &library, source]);
    let status = command.status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{compiler} does not compile {source}, and this test needs it: it is the C compiler that \
         Rust links with (apt-get install gcc libc6-dev), or what CC names"
    );
    (folder, library)
}

impl Disk {
    #[expect(clippy::new_without_default, reason = "making one runs a compiler")]
    pub fn new() -> Disk {
        let (folder, library) = preload(SOURCE);
        let (hang, fail) = (folder.0.join("hang"), folder.0.join("fail"));
        Disk { library, hang, fail, record: folder.0.join("record"), _folder: folder }
    }

    /// Variables of a server that keeps its record on this disk.
    pub fn vars(&self) -> [(&str, &str); 4] {
        let [hang, fail, record] =
            [&self.hang, &self.fail, &self.record].map(|path| path.to_str().expect("plain names"));
        [
            ("LD_PRELOAD", &self.library),
            ("HANG_WHILE", hang),
            ("FAIL_WHILE", fail),
            ("UPLOAD_LOG", record),
        ]
    }

    /// Syncs fail with EIO, as when the disk has taken what it cannot keep.
    pub fn fail(&self) {
        fs::write(&self.fail, "5").expect("the file can be made");
    }

    /// All that would change a file fails with EROFS, as after a file system's error.
    pub fn make_read_only(&self) {
        fs::write(&self.fail, "r30").expect("the file can be made");
    }

    pub fn repair(&self) {
        fs::remove_file(&self.fail).expect("failing");
    }

    pub fn hang(&self) {
        fs::write(&self.hang, "").expect("the file can be made");
    }

    /// Waits until a sync waits for the disk.
    pub fn wait_for_a_sync(&self) {
        let deadline = Instant::now() + PATIENCE;
        while fs::metadata(&self.hang).expect("hanging").len() == 0 {
            assert!(Instant::now() < deadline, "nothing waits for the disk");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn resume(&self) {
        fs::remove_file(&self.hang).expect("hanging");
    }

    pub fn folder(&self) -> &Path {
        &self.record
    }

    /// What all files of the record hold.
    pub fn record(&self) -> String {
        let files = fs::read_dir(&self.record).expect("a folder").map(|file| file.expect("a file"));
        files.map(|file| fs::read_to_string(file.path()).expect("text")).collect()
    }
}
