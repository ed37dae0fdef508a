//! The upload log: one JSON line for each upload, in `uploads-YYYY-MM-DD.jsonl`, on disk before
//! anybody is told that it is there, and only once. What is not on disk whole is taken back.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::signal::{SigSet, Signal};
use serde_json::{Map, Value};

use crate::sys::{log, time};

/// Longer than any line, which has at most six bytes (`\u0000`) for each byte of a body.
const MAX_LINE_BYTES: u64 = 1 << 18;
/// Replays of as many uploads add no line, and of up to twice as many. Ids take 1.5 MB at the most.
const MIN_IDS: usize = 50_000;

#[derive(Default)]
pub struct UploadLog {
    folder: PathBuf,
    /// The folder: no other process may write to it.
    lock: Option<Flock<File>>,
    open: Option<File>,
    /// Ids of uploads whose line is on disk. When `recent` is full, it replaces `older`.
    recent: HashSet<u64>,
    older: HashSet<u64>,
}

impl UploadLog {
    /// Opens today's file, so that a folder that cannot be written stops the start, mends what a
    /// crash tore, and reads back which uploads were recorded last.
    pub fn open(folder: PathBuf, now: u64) -> io::Result<UploadLog> {
        // For this thread, a write beyond `ulimit -f` is an error and does not end the process.
        SigSet::from(Signal::SIGXFSZ).thread_block()?;
        let mut log = UploadLog { folder, ..UploadLog::default() };
        log.file(now)?;
        let mut paths = BTreeSet::new(); // by day
        for entry in fs::read_dir(&log.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let day = name.strip_prefix("uploads-").and_then(|name| name.strip_suffix(".jsonl"));
            let is_day = day.is_some_and(|day| time::unix(&format!("{day}T00:00:00Z")).is_some());
            if is_day && entry.file_type()?.is_file() {
                paths.insert(entry.path());
            }
        }
        for path in paths.iter().rev() {
            mend(path, now)?;
            log.read_back(path)?;
        }
        Ok(log)
    }

    /// Whether the upload's line is on disk.
    pub fn has(&self, id: u64) -> bool {
        self.recent.contains(&id) || self.older.contains(&id)
    }

    /// Appends whole lines, by id, with one write and one sync. After an error they are taken back.
    pub fn append(&mut self, lines: &BTreeMap<u64, String>, now: u64) -> io::Result<()> {
        let text = lines.values().map(String::as_str).collect::<String>();
        let file = self.file(now)?;
        let length = file.metadata()?.len();
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        if written.is_err() {
            // If even this fails, the torn line goes when the file is opened anew.
            let _ = file.set_len(length).and_then(|()| file.sync_data());
            self.open = None;
            return written;
        }
        if self.recent.len() + lines.len() > MIN_IDS {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.extend(lines.keys());
        Ok(())
    }

    /// The file of the day. It is opened anew when it was renamed or removed under us.
    fn file(&mut self, now: u64) -> io::Result<&mut File> {
        let day = time::iso8601(now).get(..10).unwrap_or_default().to_owned();
        let path = self.folder.join(format!("uploads-{day}.jsonl"));
        if let Some(file) = self.open.take().filter(|file| is_at(file, &path)) {
            return Ok(self.open.insert(file));
        }
        // The same folder stays locked.
        if !self.lock.as_ref().is_some_and(|folder| is_at(folder, &self.folder)) {
            let folder = File::open(&self.folder)?;
            let refused = "not locked: does another process write to this folder?";
            let locked = Flock::lock(folder, FlockArg::LockExclusiveNonblock);
            self.lock = Some(locked.map_err(|_| io::Error::other(refused))?);
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o640);
        let file = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path)?;
        mend(&path, now)?;
        file.sync_all()?;
        File::open(&self.folder)?.sync_all()?; // the file's name is on disk too
        Ok(self.open.insert(file))
    }

    /// Adds the last ids of a file that is older than those read before, if there is room.
    fn read_back(&mut self, path: &Path) -> io::Result<()> {
        let room = MIN_IDS.saturating_sub(self.older.len());
        let Ok(file) = File::open(path) else { return Ok(()) };
        let (mut lines, mut start, mut ids) = (BufReader::new(file), Vec::new(), VecDeque::new());
        while room > 0 && lines.by_ref().take(23).read_until(b'\n', &mut start)? > 0 {
            ids.extend(id_of(&start));
            if ids.len() > room {
                ids.pop_front();
            }
            if !start.ends_with(b"\n") {
                lines.skip_until(b'\n')?; // of any length
            }
            start.clear();
        }
        if self.older.is_empty() && !ids.is_empty() {
            lines.get_ref().sync_all()?; // who wrote the last ones may have been killed before that
        }
        self.older.extend(ids);
        Ok(())
    }
}

/// Whether this is what a path names now.
fn is_at(open: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (open.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

/// The id that a line begins with, in 23 bytes.
fn id_of(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"id\":\"")?.get(..16)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Ends a file's last line, if a crash did not let us. Part of a line, which nobody was told of, is
/// cut off. A line that only lacks its end is kept, and so is what is too long to be one of ours.
fn mend(path: &Path, now: u64) -> io::Result<()> {
    // An archived file may be read-only.
    let Ok(mut file) = OpenOptions::new().read(true).append(true).open(path) else { return Ok(()) };
    let length = file.metadata()?.len();
    let tail_bytes = length.min(MAX_LINE_BYTES);
    let mut tail = vec![0; tail_bytes as usize];
    file.read_exact_at(&mut tail, length - tail_bytes)?;
    let line = tail.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let bytes = line.len() as u64;
    let is_whole = serde_json::from_slice::<Map<String, Value>>(line).is_ok();
    if is_whole || bytes == MAX_LINE_BYTES {
        file.write_all(b"\n")?;
    } else if bytes > 0 {
        let name = path.display();
        log::line(now, &format!("upload log: {name}: {bytes} bytes of a torn line cut off"));
        file.set_len(length - bytes)?;
    } else {
        return Ok(());
    }
    file.sync_all()
}
