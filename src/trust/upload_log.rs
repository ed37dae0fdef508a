//! The upload log: one JSON line for each upload, in `uploads-YYYY-MM-DD.jsonl`, on disk before
//! anybody is told that it is there. What is not on disk whole is taken back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use nix::sys::signal::{SigSet, Signal};

use crate::sys::time;

/// Longer than any line, so that the end of a line is among a file's last bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

pub struct UploadLog {
    folder: PathBuf,
    open: Option<File>,
}

impl UploadLog {
    /// Truncates what a crash tore, and opens today's file, so that a folder that cannot be written
    /// stops the start.
    pub fn open(folder: PathBuf, now: u64) -> io::Result<UploadLog> {
        // For this thread, a write beyond `ulimit -f` is an error and does not end the process.
        SigSet::from(Signal::SIGXFSZ).thread_block()?;
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("uploads-") && name.ends_with(".jsonl") {
                // An archived file may be read-only; today's is opened for certain below.
                if let Ok(file) = OpenOptions::new().read(true).append(true).open(folder.join(name))
                {
                    truncate_torn_line(&file)?;
                }
            }
        }
        let mut log = UploadLog { folder, open: None };
        log.file(now)?;
        Ok(log)
    }

    /// Appends whole lines with one write and one sync. After an error they are taken back.
    pub fn append(&mut self, lines: &[u8], now: u64) -> io::Result<()> {
        let file = self.file(now)?;
        let length = file.metadata()?.len();
        let written = file.write_all(lines).and_then(|()| file.sync_data());
        if written.is_err() {
            // If even this fails, the torn line goes when the file is opened anew.
            let _ = file.set_len(length).and_then(|()| file.sync_data());
            self.open = None;
        }
        written
    }

    /// The file of the day. It is opened anew when it was renamed or removed under us.
    fn file(&mut self, now: u64) -> io::Result<&mut File> {
        let day = time::iso8601(now).get(..10).unwrap_or_default().to_owned();
        let path = self.folder.join(format!("uploads-{day}.jsonl"));
        if let (Some(file), Ok(named)) = (self.open.take(), fs::metadata(&path)) {
            let held = file.metadata()?;
            if (held.dev(), held.ino()) == (named.dev(), named.ino()) {
                return Ok(self.open.insert(file));
            }
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        truncate_torn_line(&file)?;
        file.sync_all()?;
        File::open(&self.folder)?.sync_all()?; // the file's name is on disk too
        Ok(self.open.insert(file))
    }
}

/// Takes off part of a line that a crash left, which nobody was told of.
fn truncate_torn_line(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut last = *b"\n";
    file.read_at(&mut last, length.saturating_sub(1))?;
    if last == *b"\n" {
        return Ok(());
    }
    let tail_bytes = length.min(MAX_LINE_BYTES);
    let mut tail = vec![0; tail_bytes as usize];
    file.read_exact_at(&mut tail, length - tail_bytes)?;
    let torn = tail.iter().rev().take_while(|byte| **byte != b'\n').count();
    file.set_len(length - torn as u64)?;
    file.sync_all()
}
