//! One RocksDB database, whose errors say where and what to do.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use kv_core::GroupId;
use rocksdb::{
    BottommostLevelCompaction, CompactOptions, DB, DBPinnableSlice, DBRawIteratorWithThreadMode, ErrorKind,
    ReadOptions, WriteBatch, WriteOptions,
};
use serde::Deserialize;

use crate::{
    StoreError,
    envelope::{self, Flaw},
    state::KeyspaceRecord,
    store::Directory,
};

/// One database and how its keys read.
pub(crate) struct Database {
    db: DB,
    dir: PathBuf,
    render: fn(&[u8]) -> String,
    /// Declared, and so dropped, after the database is closed, which may write its last.
    _held: Arc<Directory>,
}

/// A view of a database as it was at one moment.
pub(crate) type Pinned<'a> = rocksdb::SnapshotWithThreadMode<'a, DB>;

/// An iterator over some keys, not positioned yet.
pub(crate) type Cursor<'a> = DBRawIteratorWithThreadMode<'a, DB>;

/// What a database said, by what it means for the node.
fn classify(dir: &Path, error: rocksdb::Error) -> StoreError {
    let text = error.as_ref();
    if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
        return StoreError::NoSpace { dir: dir.into(), source: std::sync::Arc::new(error) };
    }
    let missing = text.contains("does not exist") || text.contains("No such file");
    if matches!(error.kind(), ErrorKind::Corruption) || missing {
        let words = text.split(|c: char| c.is_whitespace() || "'\":,".contains(c));
        let file = words.map(|word| word.trim_end_matches('.')).find(|word| {
            let name = word.rsplit('/').next().unwrap_or(word);
            [".sst", ".log"].iter().any(|end| name.ends_with(end)) || name.starts_with("MANIFEST-") || name == "CURRENT"
        });
        let file = match file {
            Some(name) if name.starts_with('/') => name.to_string(),
            Some(name) => dir.join(name).display().to_string(),
            None => dir.display().to_string(),
        };
        return StoreError::Damaged { file, key: "the database".into(), why: text.to_string() };
    }
    StoreError::Rocks { dir: dir.into(), source: error }
}

impl Database {
    pub(crate) fn open(
        options: &rocksdb::Options,
        dir: &Path,
        render: fn(&[u8]) -> String,
        held: Arc<Directory>,
    ) -> Result<Self, StoreError> {
        let db = DB::open(options, dir).map_err(|error| classify(dir, error))?;
        Ok(Database { db, dir: dir.into(), render, _held: held })
    }

    pub(crate) fn error(&self, error: rocksdb::Error) -> StoreError {
        classify(&self.dir, error)
    }

    /// The error for a record that cannot be used, with the table files that may hold it.
    pub(crate) fn flaw(&self, key: &[u8], flaw: &Flaw) -> StoreError {
        let dir = self.dir.display();
        if let Flaw::Newer { found, known } = flaw {
            let (found, known) = (*found, *known);
            return StoreError::NewerFormat { file: dir.to_string(), key: (self.render)(key), found, known };
        }
        self.damaged(key, &flaw.to_string())
    }

    /// The error for a record that is not what it must be.
    pub(crate) fn damaged(&self, key: &[u8], why: &str) -> StoreError {
        let files = self.db.live_files().unwrap_or_default();
        let holds = |file: &&rocksdb::LiveFile| {
            file.start_key.as_ref().is_some_and(|start| start.as_slice() <= key)
                && file.end_key.as_ref().is_some_and(|end| key <= end.as_slice())
        };
        let names: Vec<_> = files.iter().filter(holds).map(|file| file.name.trim_start_matches('/')).collect();
        let dir = self.dir.display();
        let file = match names.as_slice() {
            [] => dir.to_string(),
            [name] => format!("{dir}/{name}"),
            names => format!("{dir} (one of {})", names.join(", ")),
        };
        StoreError::Damaged { file, key: (self.render)(key), why: why.into() }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, StoreError> {
        self.db.get_pinned(key).map_err(|error| self.error(error))
    }

    /// The payload of a record read here.
    pub(crate) fn open_bytes<'a>(&self, key: &[u8], record: &'a [u8]) -> Result<&'a [u8], StoreError> {
        envelope::open(key, record).map_err(|flaw| self.flaw(key, &flaw))
    }

    /// The value of a record read here.
    pub(crate) fn open_value<'a, T: Deserialize<'a>>(&self, key: &[u8], record: &'a [u8]) -> Result<T, StoreError> {
        envelope::open_value(key, record).map_err(|flaw| self.flaw(key, &flaw))
    }

    /// A keyspace's record read here.
    pub(crate) fn open_keyspace(&self, key: &[u8], record: &[u8]) -> Result<KeyspaceRecord, StoreError> {
        KeyspaceRecord::open(key, record).map_err(|flaw| self.flaw(key, &flaw))
    }

    pub(crate) fn write(&self, batch: WriteBatch, options: &WriteOptions) -> Result<(), StoreError> {
        self.db.write_opt(batch, options).map_err(|error| self.error(error))
    }

    /// Writes; while the database makes writers wait, other tasks of this thread go on elsewhere.
    pub(crate) fn write_patiently(&self, batch: WriteBatch, options: &WriteOptions) -> Result<(), StoreError> {
        let tasks = tokio::runtime::Handle::try_current()
            .is_ok_and(|handle| handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
        if tasks && self.holds_writers() {
            return tokio::task::block_in_place(|| self.write(batch, options));
        }
        self.write(batch, options)
    }

    /// Whether memtables or table files have to be written out before more is taken.
    fn holds_writers(&self) -> bool {
        let above_zero = |name| matches!(self.db.property_int_value(name), Ok(Some(1..)));
        above_zero("rocksdb.is-write-stopped") || above_zero("rocksdb.actual-delayed-write-rate")
    }

    pub(crate) fn pin(&self) -> Pinned<'_> {
        self.db.snapshot()
    }

    /// A cursor over the keys from `from` (inclusive) to `to` (exclusive), standing at the first.
    pub(crate) fn cursor(&self, pinned: Option<&Pinned<'_>>, from: &[u8], to: Vec<u8>) -> Cursor<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        if let Some(pinned) = pinned {
            options.set_snapshot(pinned);
        }
        let mut cursor = self.db.raw_iterator_opt(options);
        cursor.seek(from);
        cursor
    }

    /// Whether a cursor that stands nowhere has come to its end, and not to a block that cannot be read.
    pub(crate) fn ended(&self, cursor: &Cursor<'_>) -> Result<(), StoreError> {
        cursor.status().map_err(|error| self.error(error))
    }

    /// Whether nothing was ever written.
    pub(crate) fn is_empty(&self) -> Result<bool, StoreError> {
        let mut cursor = self.db.raw_iterator();
        cursor.seek_to_first();
        self.ended(&cursor)?;
        Ok(!cursor.valid())
    }

    /// Rewrites the table files that have keys with this prefix, so that what may go does.
    pub(crate) fn rewrite(&self, prefix: &[u8]) -> Result<(), StoreError> {
        let mut options = CompactOptions::default();
        // Automatic compactions go on beside it.
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        let mut end = prefix.to_vec();
        end.extend([u8::MAX; 8]);
        self.db.compact_range_opt(Some(prefix), Some(end), &options);
        Ok(())
    }

    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|error| self.error(error))
    }
}

/// The number of the group that a key starts with, for people.
pub(crate) fn group_of(key: &[u8]) -> String {
    match key.first_chunk::<2>() {
        Some(group) => GroupId::new(u16::from_be_bytes(*group)).to_string(),
        None => "no group".into(),
    }
}
