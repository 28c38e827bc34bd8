//! The files of the log.
//!
//! ```text
//! raft-log/00000007.seg   free: nothing in it is needed any more; it becomes the next segment
//!          00000008.seg   ┐
//!          00000009.seg   ┘ whole batches, one behind the other
//!          00000010.seg   the segment that is written, from its start to the last batch
//!          00000011.seg   the next one, made ready once that is half full
//!          spare          zeros, to become a segment where none is free
//! ```
//!
//! A segment has its full size, in blocks that were written before, when it is begun, and what is written into it goes to
//! the disk directly, past the system's cache: that takes half as long as in a file that grows, half of the processor time,
//! and never waits for what others have written. What an earlier use left in a segment names another one, and counts for
//! nothing.
//!
//! Must hold: each segment begins with what is known of every group, so that the log can be read from the oldest one on.
//! Segments go oldest first, and only once none of their entries is needed. A batch that a crash tore is the last one:
//! anything else that cannot be read is damage, and named.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kv_core::GroupId;
use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::{
    record::{BATCH_HEAD_BYTES, Batch, BatchHead, FORMAT, PAGE_BYTES, Place, RECORD_HEAD_BYTES, Record, Segment},
    stored::Stored,
};
use crate::{StoreError, files};

const SPARE: &str = "spare";
const ENDING: &str = ".seg";

/// Segments that may be free; more are removed.
const FREE_SEGMENTS: usize = 4;

/// Segments beyond which entries that are still needed are taken out of the oldest …
const CROWDED_SEGMENTS: usize = 8;

/// … if they make up less than one part in so many of all.
const CROWDED_PARTS: u64 = 4;

/// A disk is quick if a batch takes no longer than this, and has to show it so often after one that did.
const QUICK: Duration = Duration::from_millis(1);
const SLOW_BATCHES: u32 = 64;

/// Zeros written at a time.
const ZEROS_BYTES: usize = 1 << 20;

/// Memory for batches that is kept for the next one.
const BUFFER_BYTES: usize = 2 << 20;

/// Puts bytes into a file, makes them last, and says how long that took. Exchanged in tests, for a disk that fails or is slow.
pub(super) type Write = Box<dyn FnMut(&File, &[u8], u64) -> io::Result<Duration> + Send>;

pub(super) fn to_disk() -> Write {
    // What is written directly has to lie at a page's start in memory too.
    let mut aligned: Vec<u8> = Vec::new();
    Box::new(move |file, bytes, offset| {
        aligned.clear();
        aligned.reserve(bytes.len() + PAGE_BYTES);
        let padding = aligned.as_ptr().align_offset(PAGE_BYTES);
        aligned.resize(padding, 0);
        aligned.extend_from_slice(bytes);
        let began = Instant::now();
        let written = file.write_all_at(&aligned[padding..], offset);
        if aligned.capacity() > BUFFER_BYTES {
            aligned = Vec::new();
        }
        written.map(|()| began.elapsed())
    })
}

/// What of the log is on disk, for everybody who reads it.
pub(super) struct Disk {
    dir: PathBuf,
    files: Mutex<BTreeMap<Segment, Arc<File>>>,
    pub(super) groups: Vec<Mutex<Stored>>,
}

/// Where the log goes on. Whoever has this writes.
pub(super) struct Segments {
    disk: Arc<Disk>,
    write: Write,
    /// Of a new one.
    segment_bytes: u64,
    current: Segment,
    /// The current one, to be written to.
    file: Option<File>,
    /// Of the current one's file when it was begun.
    current_bytes: u64,
    /// Where the next batch goes.
    offset: u64,
    /// The next batch's.
    number: u64,
    /// The segment after the current one, once it was seen to that it will be there.
    next: Option<Next>,
    /// When the last batch was written, and how long that took.
    last: Option<(Instant, Duration)>,
    /// Batches to be written before the disk counts as quick again.
    slow: u32,
    buffer: Vec<u8>,
}

/// A segment that is not written yet.
enum Next {
    /// It is being made, beside what is written meanwhile: names that last take as long as many batches.
    Making(thread::JoinHandle<Result<(), StoreError>>),
    Ready,
}

fn name(segment: Segment) -> String {
    format!("{:08}{ENDING}", segment.0)
}

fn readable(path: &Path) -> Result<File, StoreError> {
    File::open(path).map_err(|error| files::error(path, "opening the file", error))
}

/// A file whose writes are on stable storage when they return.
fn writable(path: &Path) -> Result<File, StoreError> {
    let open = |flags: OFlags| {
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        File::options().write(true).custom_flags(flags).open(path)
    };
    let file = match open(OFlags::DSYNC | OFlags::DIRECT) {
        // Some file systems know no direct writes.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(OFlags::DSYNC),
        other => other,
    };
    file.map_err(|error| files::error(path, "opening the file", error))
}

/// Makes a file of zeros. Those of a start that was cut short are written again.
fn make_spare(path: &Path, bytes: u64) -> Result<(), StoreError> {
    let zeros = vec![0; ZEROS_BYTES];
    let made = File::create(path).and_then(|mut file| {
        let mut left = bytes;
        while left > 0 {
            let part = left.min(ZEROS_BYTES as u64);
            file.write_all(&zeros[..usize::try_from(part).unwrap_or(ZEROS_BYTES)])?;
            left -= part;
        }
        file.sync_all()
    });
    made.map_err(|error| files::error(path, "writing the file", error))
}

/// Whether a batch stands somewhere behind: then what is here was synced before it, and not torn.
fn is_followed(content: &Bytes, segment: Segment, from: usize) -> bool {
    let pages = (from..content.len()).step_by(PAGE_BYTES);
    pages.filter_map(|at| BatchHead::read(&content[at..])).any(|head| head.segment == segment)
}

/// Gives a file another name, for good.
fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| files::error(to, "renaming the file", error))?;
    files::sync_dir(to.parent().unwrap_or(to))
}

impl Disk {
    fn path(&self, segment: Segment) -> PathBuf {
        self.dir.join(name(segment))
    }

    fn damaged(&self, segment: Segment, what: String, why: &str) -> StoreError {
        StoreError::Damaged { file: self.path(segment).display().to_string(), key: what, why: why.into() }
    }

    /// The error for an entry that should be there.
    pub(super) fn missing(&self, group: GroupId, index: u64, why: &str) -> StoreError {
        StoreError::Damaged {
            file: self.dir.display().to_string(),
            key: format!("log entry {index} of {group}"),
            why: why.into(),
        }
    }

    pub(super) fn stored(&self, group: GroupId) -> &Mutex<Stored> {
        &self.groups[usize::from(group.get())]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.lock().is_empty())
    }

    /// An entry at the place that it is said to have. `None`: it is not there any more.
    pub(super) fn read(&self, group: GroupId, index: u64, place: Place) -> Result<Option<Bytes>, StoreError> {
        let Some(file) = self.files.lock().get(&place.segment).cloned() else { return Ok(None) };
        let mut record = vec![0; RECORD_HEAD_BYTES + place.bytes as usize];
        let read = file.read_exact_at(&mut record, place.offset.into());
        let taken = match read {
            Ok(()) => Record::take(&mut record.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err("it is cut off"),
            Err(error) => return Err(files::error(&self.path(place.segment), "reading the file", error)),
        };
        let why = match taken {
            Ok((found, Record::Entry { index: at, bytes } | Record::Moved { index: at, bytes }))
                if (found, at) == (group, index) =>
            {
                return Ok(Some(bytes));
            }
            Ok(_) => "another record stands there",
            Err(why) => why,
        };
        // It may have been purged meanwhile, and its segment be written anew.
        if self.stored(group).lock().place(index) != Some(place) {
            return Ok(None);
        }
        Err(self.damaged(place.segment, format!("log entry {index} of {group}"), why))
    }
}

impl Segments {
    /// Opens the log in a directory, or begins one if there is none and `may_begin`.
    pub(super) fn open(
        dir: &Path,
        may_begin: bool,
        groups: u16,
        segment_bytes: u64,
        write: Write,
    ) -> Result<Self, StoreError> {
        if may_begin {
            fs::create_dir_all(dir).map_err(|error| files::error(dir, "creating the directory", error))?;
        }
        let disk = Arc::new(Disk {
            dir: dir.into(),
            files: Mutex::default(),
            groups: (0..groups).map(|_| Mutex::default()).collect(),
        });
        let mut segments = Segments {
            disk,
            write,
            segment_bytes: segment_bytes.next_multiple_of(PAGE_BYTES as u64),
            current: Segment(1),
            file: None,
            current_bytes: 0,
            offset: 0,
            number: 0,
            last: None,
            slow: 0,
            next: None,
            buffer: Vec::new(),
        };
        let mut found = segments.find(may_begin)?;
        if let [.., _, next] = found[..]
            && segments.is_unwritten(next)?
        {
            found.pop();
            segments.next = Some(Next::Ready);
        }
        match found.last() {
            Some(last) => segments.current = *last,
            None if may_begin => {
                let (spare, first) = (dir.join(SPARE), segments.disk.path(Segment(1)));
                make_spare(&spare, segments.segment_bytes)?;
                rename(&spare, &first)?;
                segments.begin(Segment(1))?;
            }
            None => {
                let (file, key) = (dir.display().to_string(), "the raft log".into());
                return Err(StoreError::Damaged { file, key, why: "it has no segments".into() });
            }
        }
        for (at, segment) in found.iter().enumerate() {
            segments.load(*segment, at == 0)?;
        }
        for group in (0..groups).map(GroupId::new) {
            if let Some(index) = segments.disk.stored(group).lock().missing() {
                return Err(segments.disk.missing(group, index, "it is missing"));
            }
        }
        Ok(segments)
    }

    /// The segments that there are, in order.
    fn find(&self, may_begin: bool) -> Result<Vec<Segment>, StoreError> {
        let dir = &self.disk.dir;
        let entries = match fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !may_begin => return Ok(Vec::new()),
            Err(error) => return Err(files::error(dir, "reading the directory", error)),
        };
        let names = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let numbers = names.filter_map(|name| name.strip_suffix(ENDING)?.parse().ok());
        let mut found: Vec<_> = numbers.map(Segment).collect();
        found.sort_unstable();
        for pair in found.windows(2) {
            let before = Segment(pair[1].0.saturating_sub(1));
            if pair[0] != before {
                return Err(self.disk.damaged(before, "this part of the raft log".into(), "it is missing"));
            }
        }
        Ok(found)
    }

    /// Whether nothing was written to a segment yet. One that is cut off is none such.
    fn is_unwritten(&self, segment: Segment) -> Result<bool, StoreError> {
        let path = self.disk.path(segment);
        let content = fs::read(&path).map_err(|error| files::error(&path, "reading the file", error))?;
        Ok(content.len() >= PAGE_BYTES && !is_followed(&content.into(), segment, 0))
    }

    /// Reads a segment; the oldest one may begin with any batch.
    fn load(&mut self, segment: Segment, oldest: bool) -> Result<(), StoreError> {
        let path = self.disk.path(segment);
        let content = fs::read(&path).map_err(|error| files::error(&path, "reading the file", error))?;
        let content = Bytes::from(content);
        let damaged = |number: u64, why: &str| self.disk.damaged(segment, format!("batch {number} of the log"), why);
        let last = segment == self.current;
        let (mut offset, mut torn_bytes) = (0, 0);
        let mut number = self.number;
        while let Some(head) = content.get(offset..).and_then(BatchHead::read).filter(|head| head.segment == segment) {
            if head.format != FORMAT {
                let file = path.display().to_string();
                let key = format!("batch {number} of the log");
                return Err(StoreError::NewerFormat { file, key, found: head.format, known: FORMAT });
            }
            if oldest && offset == 0 {
                number = head.number;
            }
            if head.number != number {
                let at = if offset == 0 { Segment(segment.0.saturating_sub(1)) } else { segment };
                return Err(self.disk.damaged(at, format!("batch {number} of the log"), "it cannot be read"));
            }
            if (content.len() as u64) < head.segment_bytes {
                return Err(damaged(number, "the file is cut off"));
            }
            let mut records = match head.records(&content, offset) {
                Ok(records) => records,
                Err(why) if !last || is_followed(&content, segment, offset + head.extent()) => {
                    return Err(damaged(number, why));
                }
                // Torn by a crash, before anybody was told of it.
                Err(_) => {
                    torn_bytes = head.extent();
                    break;
                }
            };
            let end = offset + BATCH_HEAD_BYTES + records.len();
            while !records.is_empty() {
                let taken = Record::take(&mut records);
                let (group, record) = taken.map_err(|why| damaged(number, why))?;
                let bytes = match &record {
                    Record::Entry { bytes, .. } | Record::Moved { bytes, .. } => bytes.len(),
                    _ => 0,
                };
                let stands = end - records.len() - RECORD_HEAD_BYTES - bytes;
                let (Ok(at), Ok(bytes)) = (u32::try_from(stands), u32::try_from(bytes)) else {
                    return Err(damaged(number, "it is larger than any"));
                };
                let Some(stored) = self.disk.groups.get(usize::from(group.get())) else {
                    return Err(damaged(number, "it is of a group that is not there"));
                };
                let place = Place { segment, offset: at, bytes };
                stored.lock().apply(&record, place).map_err(|why| damaged(number, why))?;
            }
            offset += head.extent();
            number += 1;
        }
        if content.len() < PAGE_BYTES {
            return Err(damaged(number, "the file is cut off"));
        }
        if (!last && offset == 0) || is_followed(&content, segment, offset + torn_bytes) {
            return Err(damaged(number, "it cannot be read"));
        }
        self.disk.files.lock().insert(segment, Arc::new(readable(&path)?));
        if last {
            self.file = Some(writable(&path)?);
        }
        (self.offset, self.number, self.current_bytes) = (offset as u64, number, content.len() as u64);
        Ok(())
    }

    pub(super) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Writes records as one batch. They are on stable storage when this returns.
    pub(super) fn write(&mut self, records: Vec<(GroupId, Record)>) -> Result<(), StoreError> {
        let bytes: usize = records.iter().map(|(_, record)| record.size()).sum();
        if self.offset > 0 && self.offset + (BATCH_HEAD_BYTES + bytes) as u64 > self.segment_bytes {
            self.roll()?;
        }
        let offset = u32::try_from(self.offset).expect("a segment is far smaller");
        let mut batch = Batch::new(self.current, offset, std::mem::take(&mut self.buffer));
        if self.offset == 0 {
            self.begin_with(&mut batch)?;
        }
        records.into_iter().for_each(|(group, record)| batch.add(group, record));
        let (buffer, placed) = batch.finish(self.number, self.current_bytes);
        let file = self.file.as_ref().expect("the current segment is open");
        let written = (self.write)(file, &buffer, self.offset);
        let took = written.map_err(|error| files::error(&self.disk.path(self.current), "writing the file", error))?;
        self.last = Some((Instant::now(), took));
        self.slow = if took > QUICK { SLOW_BATCHES } else { self.slow.saturating_sub(1) };
        self.offset += buffer.len() as u64;
        self.number += 1;
        if buffer.capacity() <= BUFFER_BYTES {
            self.buffer = buffer;
        }
        for (group, record, place) in placed {
            let applied = self.disk.stored(group).lock().apply(&record, place);
            applied.expect("the tail has seen to it that it follows");
        }
        if self.next.is_none() && self.offset > self.segment_bytes / 2 {
            self.provide()?;
        }
        Ok(())
    }

    /// Whether a batch is likely to be written before anybody misses the thread that writes it: the last ones were, and
    /// nothing has come since for longer than that takes.
    pub(super) fn quick(&self) -> bool {
        self.slow == 0 && self.last.is_some_and(|(end, took)| end.elapsed() >= took)
    }

    /// What a segment begins with: what is known of every group, and entries that would keep the oldest segment.
    fn begin_with(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let groups = || (0u16..).map(GroupId::new).zip(&self.disk.groups);
        for (group, stored) in groups() {
            stored.lock().summary().for_each(|record| batch.add(group, record));
        }
        let Some(oldest) = self.crowded() else { return Ok(()) };
        for (group, stored) in groups() {
            let there: Vec<_> = stored.lock().places().filter(|(_, place)| place.segment == oldest).collect();
            for (index, place) in there {
                // Nobody else changes what is stored.
                if let Some(bytes) = self.disk.read(group, index, place)? {
                    batch.add(group, Record::Moved { index, bytes });
                }
            }
        }
        Ok(())
    }

    /// The oldest segment, if there are more than the entries that are needed should take.
    fn crowded(&self) -> Option<Segment> {
        let (count, oldest) = {
            let files = self.disk.files.lock();
            (files.len(), *files.keys().next()?)
        };
        let needed: u64 = self.disk.groups.iter().map(|group| group.lock().bytes()).sum();
        let crowded = count > CROWDED_SEGMENTS && needed < count as u64 * self.segment_bytes / CROWDED_PARTS;
        (crowded && oldest != self.current).then_some(oldest)
    }

    /// How many segments have nothing that is needed: the oldest ones.
    fn free(&self) -> usize {
        let groups = self.disk.groups.iter().filter_map(|group| group.lock().oldest());
        let needed = groups.min().unwrap_or(self.current).min(self.current);
        self.disk.files.lock().keys().take_while(|segment| **segment < needed).count()
    }

    /// Begins to make the next segment: out of the oldest, if that is free.
    fn provide(&mut self) -> Result<(), StoreError> {
        let (dir, bytes) = (self.disk.dir.clone(), self.segment_bytes);
        let next = self.disk.path(self.current.next());
        let mut gone = Vec::new();
        let free = self.free();
        // One is used now; of the others some stay, to be used later.
        for _ in 0..free.saturating_sub(FREE_SEGMENTS).max(free.min(1)) {
            gone.extend(self.disk.files.lock().pop_first().map(|(oldest, _)| self.disk.path(oldest)));
        }
        let make = move || {
            let mut gone = gone.into_iter();
            match gone.next() {
                Some(oldest) => rename(&oldest, &next)?,
                None => {
                    let spare = dir.join(SPARE);
                    make_spare(&spare, bytes)?;
                    rename(&spare, &next)?;
                }
            }
            // One after the other: none may be missing between others.
            for path in gone {
                fs::remove_file(&path).map_err(|error| files::error(&path, "removing the file", error))?;
                files::sync_dir(&dir)?;
            }
            Ok(())
        };
        let making = thread::Builder::new().name("raft-log-next".into()).spawn(make);
        let making =
            making.map_err(|error| files::error(&self.disk.dir, "starting a thread for the next file", error))?;
        self.next = Some(Next::Making(making));
        Ok(())
    }

    /// Goes on with the next segment.
    fn roll(&mut self) -> Result<(), StoreError> {
        if self.next.is_none() {
            self.provide()?;
        }
        if let Some(Next::Making(making)) = self.next.take() {
            making.join().unwrap_or_else(|_| {
                let stopped = io::Error::other("the thread that makes it has panicked");
                Err(files::error(&self.disk.path(self.current.next()), "making the file", stopped))
            })?;
        }
        self.begin(self.current.next())
    }

    /// Goes on at the start of a segment.
    fn begin(&mut self, segment: Segment) -> Result<(), StoreError> {
        let path = self.disk.path(segment);
        let file = writable(&path)?;
        let failed = |error| files::error(&path, "setting the file's length", error);
        let mut bytes = file.metadata().map_err(failed)?.len();
        if bytes > self.segment_bytes {
            file.set_len(self.segment_bytes).map_err(failed)?;
            bytes = self.segment_bytes;
        }
        self.disk.files.lock().insert(segment, Arc::new(readable(&path)?));
        self.file = Some(file);
        (self.current, self.current_bytes, self.offset, self.next) = (segment, bytes, 0, None);
        Ok(())
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        if let Some(Next::Making(making)) = self.next.take() {
            // That it could not be made shows when it is needed.
            let _ = making.join();
        }
    }
}
