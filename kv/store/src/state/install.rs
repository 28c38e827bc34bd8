//! Receiving a group's state and putting it in the place of the one that is there.
//!
//! ```text
//! chunks ──► snapshots/g3.<n>.part ──finish──► checked whole, synced
//!                                                  │ install: renamed, directory synced
//!                                                  ▼
//!            snapshots/g3.install ──► old keys deleted, new ones written, flushed ──► file removed
//! ```
//!
//! A replica that is being repaired has its snapshot renamed while the node runs, and installed when it starts again.
//!
//! Must hold: from the rename on the old state is void. A crash anywhere behind it leaves the `.install` file, and the next
//! start does everything after the rename again, from the file. A crash before it leaves the old state and a file that
//! is thrown away. All of a received snapshot is checked before the rename: each chunk, each record, and that the heads
//! fold to the group's value.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use kv_core::{Fold, GroupId, Keyspace};
use rocksdb::WriteBatch;

use super::{
    Applied, State,
    apply::{Applying, lease_content, unlogged},
    keys, load,
    records::{GroupRecord, KeyspaceRecord, LeaseRecord, standing_content},
    snapshot::{CHUNK_CRC_BYTES, Chunks, KEY_BYTES_MAX, RECORD_BYTES_MAX},
};
use crate::{
    StoreError,
    database::Database,
    envelope::{self, Flaw},
    files,
};

/// Bytes written to the database at a time.
const INSTALL_BATCH_BYTES: usize = 1 << 20;

/// Takes a snapshot's chunks, in order, to a file. Dropping it removes the file.
pub struct SnapshotReceiver {
    spool: Spool,
    file: BufWriter<File>,
    chunks: Chunks,
}

/// A snapshot that has arrived whole and is sound. Dropping it removes its file.
pub struct ReceivedSnapshot {
    spool: Spool,
    applied: Applied,
}

/// A file that goes unless it is put in place.
struct Spool {
    group: GroupId,
    path: PathBuf,
}

impl Drop for Spool {
    fn drop(&mut self) {
        // It is not there any more once installed; otherwise the next start removes what stays.
        let _ = fs::remove_file(&self.path);
    }
}

fn refused(group: GroupId, why: impl Into<String>) -> StoreError {
    StoreError::Snapshot { group, why: why.into() }
}

impl State {
    /// Gets ready to receive a group's state. What is there stays in use meanwhile.
    pub fn receive(&self, group: GroupId) -> Result<SnapshotReceiver, StoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.0.snapshots.join(format!("{group}.{number}.part"));
        let file = File::create(&path).map_err(|error| files::error(&path, "creating the file", error))?;
        Ok(SnapshotReceiver { spool: Spool { group, path }, file: BufWriter::new(file), chunks: Chunks::new(group) })
    }

    /// Puts a received snapshot in the place of the group's state. Reads of the group wait meanwhile; other groups are
    /// not touched. Everything is on disk when this returns. Blocks.
    pub fn install(&self, received: ReceivedSnapshot) -> Result<Applied, StoreError> {
        let ReceivedSnapshot { spool, applied } = received;
        let slot = self.group(spool.group);
        let mut applying = slot.applying.lock();
        let _alone = slot.gate.write();
        let marker = self.0.snapshots.join(format!("{}.install", spool.group));
        fs::rename(&spool.path, &marker).map_err(|error| files::error(&marker, "renaming the snapshot", error))?;
        files::sync_dir(&self.0.snapshots)?;
        replace(self.database(), spool.group, &marker)?;
        let cache = load(self.database(), spool.group)?;
        self.0.residences.replace(spool.group, &cache);
        *slot.cache.write() = cache;
        slot.moments.fetch_add(2, std::sync::atomic::Ordering::SeqCst);
        slot.counts.clear();
        slot.reclaimable.lock().clear();
        self.0.reclaim.clear(spool.group);
        *slot.durable.lock() = Some(applied.log_id.clone());
        *applying = Applying::default();
        Ok(applied)
    }
}

impl SnapshotReceiver {
    /// The number of the chunk that comes next.
    pub fn expects(&self) -> u32 {
        self.chunks.expects()
    }

    /// Takes the next chunk. After an error the transfer has to start again.
    pub fn chunk(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        let part = self.chunks.part(chunk).map_err(|why| refused(self.spool.group, why))?;
        let written = self.file.write_all(part);
        written.map_err(|error| files::error(&self.spool.path, "writing what was received", error))
    }

    /// Checks that everything has come and is sound, and puts it on disk.
    pub fn finish(mut self) -> Result<ReceivedSnapshot, StoreError> {
        let Some(crc) = self.chunks.whole() else {
            return Err(refused(self.spool.group, "it is cut short"));
        };
        let path = &self.spool.path;
        let trailer = crc.to_le_bytes();
        let synced = self.file.write_all(&trailer).and_then(|()| self.file.flush());
        synced
            .and_then(|()| self.file.get_ref().sync_all())
            .map_err(|error| files::error(path, "writing what was received", error))?;
        let applied = check(&self.spool)?;
        Ok(ReceivedSnapshot { spool: self.spool, applied })
    }
}

impl ReceivedSnapshot {
    /// Puts it where a start of the node takes it in the place of the group's state: in that node's directory for snapshots.
    pub(crate) fn stage_in(self, dir: &Path) -> Result<(), StoreError> {
        let marker = dir.join(format!("{}.install", self.spool.group));
        fs::rename(&self.spool.path, &marker).map_err(|error| files::error(&marker, "renaming the snapshot", error))?;
        files::sync_dir(dir)
    }

    /// How far the state in it is.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    #[cfg(test)]
    pub(crate) fn spool_path(&self) -> PathBuf {
        self.spool.path.clone()
    }
}

type KeyAndRecord = (Vec<u8>, Vec<u8>);

/// Reads a spool file's records.
struct Records<'a> {
    path: &'a Path,
    group: GroupId,
    file: BufReader<File>,
    /// Of the stream, not read yet.
    left: u64,
    crc: crc32fast::Hasher,
}

impl<'a> Records<'a> {
    fn open(path: &'a Path, group: GroupId) -> Result<Self, StoreError> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = opened.map_err(|error| files::error(path, "opening the file", error))?;
        let left = bytes.saturating_sub(CHUNK_CRC_BYTES as u64);
        Ok(Records { path, group, file: BufReader::new(file), left, crc: crc32fast::Hasher::new() })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), StoreError> {
        let read = self.file.read_exact(buffer);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("it is cut short"),
            _ => files::error(self.path, "reading the file", error),
        })
    }

    fn part(&mut self, limit: usize) -> Result<Vec<u8>, StoreError> {
        let mut length = [0; 4];
        self.read(&mut length)?;
        let bytes = u32::from_le_bytes(length) as usize;
        let takes = bytes as u64 + 4;
        if bytes > limit || takes > self.left {
            return Err(self.damaged("it is cut short, or a length in it is wrong"));
        }
        let mut part = vec![0; bytes];
        self.read(&mut part)?;
        self.crc.update(&length);
        self.crc.update(&part);
        self.left -= takes;
        Ok(part)
    }

    /// The next key and record; `None` after the last, if the whole file was sound.
    fn next(&mut self) -> Result<Option<KeyAndRecord>, StoreError> {
        if self.left == 0 {
            let mut crc = [0; 4];
            self.read(&mut crc)?;
            if self.crc.clone().finalize() != u32::from_le_bytes(crc) {
                return Err(self.damaged("it does not match its checksum"));
            }
            return Ok(None);
        }
        let mut key = keys::group_start(self.group.get());
        key.extend(self.part(KEY_BYTES_MAX)?);
        Ok(Some((key, self.part(RECORD_BYTES_MAX)?)))
    }

    fn damaged(&self, why: &str) -> StoreError {
        let file = self.path.display().to_string();
        StoreError::Damaged { file, key: format!("the snapshot of {}", self.group), why: why.into() }
    }

    fn flaw(&self, key: &[u8], flaw: &Flaw) -> StoreError {
        refused(self.group, format!("{}: {flaw}", keys::render(key)))
    }
}

/// Checks every record of a received snapshot. Returns how far it is.
fn check(spool: &Spool) -> Result<Applied, StoreError> {
    let mut records = Records::open(&spool.path, spool.group)?;
    let mut group: Option<GroupRecord> = None;
    let mut fold = Fold::default();
    while let Some((key, record)) = records.next()? {
        let checked = match key.get(2) {
            Some(&keys::GROUP) => envelope::open_value(&key, &record).map(|found| group = Some(found)),
            Some(&keys::KEYSPACE) => {
                let name = std::str::from_utf8(&key[keys::HEAD_BYTES..]).ok().and_then(|name| Keyspace::new(name).ok());
                let Some(name) = name else { return Err(refused(spool.group, "it has a keyspace without a name")) };
                KeyspaceRecord::open(&key, &record).map(|found| {
                    fold.toggle(&name, &found.head);
                    if let Some(content) = standing_content(&found.standing) {
                        fold.toggle_record(&key[2..], &content);
                    }
                })
            }
            Some(&keys::LEASE) => envelope::open_value(&key, &record)
                .map(|lease: LeaseRecord| fold.toggle_record(&key[2..], &lease_content(&lease))),
            Some(&keys::BESIDE) => envelope::open(&key, &record).map(|value| fold.toggle_record(&key[2..], value)),
            Some(&(keys::LATEST..=keys::EXPIRY | keys::ATTACHED)) => envelope::open(&key, &record).map(|_| ()),
            _ => return Err(refused(spool.group, format!("it has {}", keys::render(&key)))),
        };
        checked.map_err(|flaw| records.flaw(&key, &flaw))?;
    }
    let group = group.ok_or_else(|| refused(spool.group, "it does not say how far it is"))?;
    if group.fold != fold {
        return Err(refused(spool.group, "its keyspaces' heads do not fold to its own value"));
    }
    Ok(group.applied())
}

/// Puts the content of an `.install` file in the place of a group's state, and removes the file. Can be done again from
/// wherever it was interrupted.
fn replace(database: &Database, group: GroupId, marker: &Path) -> Result<(), StoreError> {
    let mut batch = WriteBatch::default();
    batch.delete_range(keys::group_start(group.get()), keys::group_start(group.get() + 1));
    let mut records = Records::open(marker, group)?;
    while let Some((key, record)) = records.next()? {
        batch.put(key, record);
        if batch.size_in_bytes() >= INSTALL_BATCH_BYTES {
            database.write(std::mem::take(&mut batch), &unlogged())?;
        }
    }
    database.write(batch, &unlogged())?;
    // The file may go once what it holds is on disk elsewhere.
    database.flush()?;
    fs::remove_file(marker).map_err(|error| files::error(marker, "removing the installed snapshot", error))?;
    files::sync_dir(marker.parent().unwrap_or(marker))
}

/// Finishes the installations that a crash has interrupted, and throws away what was only half received.
pub(super) fn finish_interrupted(database: &Arc<Database>, snapshots: &Path) -> Result<(), StoreError> {
    let unlisted = |error| files::error(snapshots, "listing the directory", error);
    for entry in fs::read_dir(snapshots).map_err(unlisted)? {
        let entry = entry.map_err(unlisted)?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let group = name.strip_suffix(".install").and_then(|name| name.strip_prefix('g')?.parse().ok());
        if let Some(group) = group.map(GroupId::new) {
            tracing::warn!(%group, "finishing the installation of a snapshot that was interrupted");
            replace(database, group, &path)?;
        } else if name.ends_with(".part") {
            fs::remove_file(&path).map_err(|error| files::error(&path, "removing a half-received snapshot", error))?;
        }
    }
    Ok(())
}
