//! A disk that hangs as long as a test wants it to: `fsync` and `fdatasync` of a server wait. Tests
//! hold a server's loop by it, since nothing that comes from the network may hold it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Folder;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/hang.c");
/// Far longer than a request takes, so that a loaded machine fails no test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A disk that hangs between `hang` and `resume`, or until this is dropped.
pub struct Disk {
    library: String,
    hang: PathBuf,
    /// The record of uploads.
    record: PathBuf,
    _folder: Folder,
}

/// Makes a library that can be preloaded of a file in C.
pub(crate) fn compile(source: &str, library: &str) {
    let compiler = std::env::var("CC").unwrap_or("cc".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source]);
    let status = command.status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{compiler} does not compile {source}, and this test needs it: it is the C compiler that \
         Rust links with (apt-get install gcc libc6-dev), or what CC names"
    );
}

impl Disk {
    #[expect(clippy::new_without_default, reason = "making one runs a compiler")]
    pub fn new() -> Disk {
        let folder = Folder::new();
        let library = folder.path("hang.so");
        compile(SOURCE, &library);
        let record = folder.0.join("record");
        fs::create_dir(&record).expect("a new folder");
        Disk { library, hang: folder.0.join("hang"), record, _folder: folder }
    }

    /// Variables of a server that keeps its record on this disk.
    pub fn vars(&self) -> [(&str, &str); 3] {
        let hang = self.hang.to_str().expect("plain names");
        let record = self.record.to_str().expect("plain names");
        [("LD_PRELOAD", &self.library), ("HANG_WHILE", hang), ("UPLOAD_LOG", record)]
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

    /// What all files of the record hold.
    pub fn record(&self) -> String {
        let files = fs::read_dir(&self.record).expect("a folder").map(|file| file.expect("a file"));
        files.map(|file| fs::read_to_string(file.path()).expect("text")).collect()
    }
}
