//! The record of uploads: one JSON line each in `uploads-YYYY-MM-DD.jsonl`, on disk before anybody
//! is told that it is there. What is not on disk whole is taken back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::sys::time;

/// Longer than any line, so that the end of a line is among a file's last bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

pub struct Uploads {
    folder: PathBuf,
    open: Option<(PathBuf, File)>,
    size_limit: u64,
}

impl Uploads {
    /// Mends what a crash left, and opens today's file, so that a folder that cannot be written
    /// stops the start.
    pub fn open(folder: PathBuf, now: u64) -> io::Result<Uploads> {
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("uploads-") && name.ends_with(".jsonl") {
                // An archived file may be read-only; today's is opened for certain below.
                let file = OpenOptions::new().read(true).append(true).open(folder.join(name));
                file.map_or(Ok(()), |mut file| mend(&mut file))?;
            }
        }
        let mut uploads = Uploads { folder, open: None, size_limit: size_limit() };
        uploads.file(now)?;
        Ok(uploads)
    }

    /// Appends whole lines with one write and one sync. After an error they are taken back.
    pub fn append(&mut self, lines: &[u8], now: u64) -> io::Result<()> {
        let limit = self.size_limit;
        let file = self.file(now)?;
        let length = file.metadata()?.len();
        if length + lines.len() as u64 > limit {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let written = file.write_all(lines).and_then(|()| file.sync_data());
        if written.is_err() {
            // Nothing that was refused stays. If even this fails, `mend` takes off what is torn.
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
        let held = self.open.take().filter(|(name, _)| *name == path);
        let file = match held.filter(|(_, file)| there(file).is_ok_and(|there| there)) {
            Some((_, file)) => file,
            None => {
                let options = OpenOptions::new().read(true).append(true).create(true).clone();
                let mut file = options.open(&path)?;
                mend(&mut file)?;
                file.sync_all()?;
                File::open(&self.folder)?.sync_all()?; // the file's name is on disk too
                file
            }
        };
        Ok(&mut self.open.insert((path, file)).1)
    }
}

/// Takes off part of a line that a crash left, which nobody was told of.
fn mend(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let tail = |file: &mut File, bytes: u64| {
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        file.read_to_end(&mut tail).map(|_| tail)
    };
    if length == 0 || tail(file, 1)? == b"\n" {
        return Ok(());
    }
    let torn = tail(file, MAX_LINE_BYTES)?.iter().rev().take_while(|b| **b != b'\n').count();
    file.set_len(length - torn as u64)?;
    file.sync_all()
}

/// `ulimit -f`: a write beyond it would end the process with a signal.
fn size_limit() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file size"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(u64::MAX)
}
