//! The record of uploads: one JSON line each in `uploads-YYYY-MM-DD.jsonl`, on disk before anybody
//! is told that it is there. What is not on disk whole is taken back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::time;

/// Longer than any line, so that the end of a line is among a file's last bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

pub struct Uploads {
    folder: PathBuf,
    open: Option<(PathBuf, File)>,
}

impl Uploads {
    /// Opens today's file, so that a folder that cannot be written stops the start.
    pub fn open(folder: PathBuf, now: u64) -> io::Result<Uploads> {
        let mut uploads = Uploads { folder, open: None };
        uploads.file(now)?;
        Ok(uploads)
    }

    /// Appends whole lines with one write and one sync. An error means that none of them is there.
    pub fn append(&mut self, lines: &[u8], now: u64) -> io::Result<()> {
        let file = self.file(now)?;
        let length = file.metadata()?.len();
        let written = file.write_all(lines).and_then(|()| file.sync_data());
        if written.is_err() {
            // No torn line, and nothing that was refused. If even this fails, `file` does it next.
            let _ = file.set_len(length).and_then(|()| file.sync_data());
            self.open = None;
        }
        written
    }

    /// The file of the day. It is opened anew when it was renamed or removed under us.
    fn file(&mut self, now: u64) -> io::Result<&mut File> {
        let day = time::iso8601(now).get(..10).unwrap_or_default().to_owned();
        let path = self.folder.join(format!("uploads-{day}.jsonl"));
        let there = |file: &File| -> io::Result<bool> {
            let (named, held) = (fs::metadata(&path)?, file.metadata()?);
            Ok((named.dev(), named.ino()) == (held.dev(), held.ino()))
        };
        let held =
            self.open.take().filter(|(held, file)| *held == path && there(file).is_ok_and(|y| y));
        let file = match held {
            Some((_, file)) => file,
            None => self.reopen(&path)?,
        };
        Ok(&mut self.open.insert((path, file)).1)
    }

    fn reopen(&self, path: &PathBuf) -> io::Result<File> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let length = file.metadata()?.len();
        // A crash may have left part of a line, which nobody was told of.
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(length.saturating_sub(MAX_LINE_BYTES)))?;
        file.read_to_end(&mut tail)?;
        let torn = tail.iter().rev().take_while(|byte| **byte != b'\n').count();
        if torn > 0 {
            file.set_len(length - torn as u64)?;
        }
        file.sync_all()?;
        File::open(&self.folder)?.sync_all()?; // the file's name is on disk too
        Ok(file)
    }
}
