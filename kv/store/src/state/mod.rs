//! What the applied log entries of all groups came to.
//!
//! ```text
//! entries ──► apply: one WriteBatch (versions, chain records, request ids, heads, applied log id) ──► memtable
//!                                                                                                        │ flush
//! get · range · scan · changes · records · verify · snapshot ◄── RocksDB ◄───────────────────────────────┘
//! ```
//!
//! The database has no write-ahead log: the raft log has every change already. A crash loses what no flush has reached.
//!
//! Must hold: a group's applied log id is written in the same batch as the effects, and all of it lies in one column
//! family. A batch goes into one memtable whole, and memtables are flushed in the order in which they were filled; so
//! what a crash leaves is the state after some batch, never effects without their log id or the other way round. A
//! second column family would break this, since each has memtables of its own.
//!
//! When the disk is full a flush fails, and from then on applying does, with [`StoreError::NoSpace`]. The node has to stop.
//! Nothing is lost: what no flush has reached is applied again from the log.
//!
//! Left to others: the order of entries, replaying them after a crash, and what log ids and memberships mean.

mod apply;
mod history;
mod install;
mod keys;
mod read;
mod records;
mod snapshot;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use kv_core::{Fold, GroupId, Head, Keyspace};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use self::{
    apply::Applying,
    records::{GroupRecord, KeyspaceRecord},
};
use crate::{
    StoreError,
    database::{Database, Pinned},
};

pub use apply::{AppliedCommit, AppliedEntry, EntryToApply};
pub use install::{ReceivedSnapshot, SnapshotReceiver};
pub use snapshot::GroupSnapshot;
pub use verify::Verified;

/// What the applied entries of all groups came to. Cheap to clone.
///
/// # Panics
///
/// All methods panic when given a group that the store was not opened with.
#[derive(Clone)]
pub struct State(Arc<Inner>);

/// How far a group's state is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The log id of the entry applied last.
    pub log_id: Bytes,
    /// The membership applied last.
    pub membership: Option<Bytes>,
}

struct Inner {
    database: Arc<Database>,
    /// Where received snapshots lie.
    snapshots: PathBuf,
    groups: Vec<Group>,
}

/// What of a group is kept in memory.
struct Group {
    /// Held by whoever applies or installs.
    applying: Mutex<Applying>,
    /// Held for writing while a snapshot takes the place of the state, so that no read sees half of each.
    gate: RwLock<()>,
    /// Changed by who holds `applying`.
    cache: RwLock<Cache>,
    /// The log id that a flush has reached for sure.
    durable: Mutex<Option<Bytes>>,
}

/// What the database has at the records of the group and its keyspaces.
#[derive(Clone, Default)]
struct Cache {
    /// `None`: nothing was ever applied.
    record: Option<GroupRecord>,
    keyspaces: BTreeMap<Keyspace, KeyspaceRecord>,
}

impl State {
    /// Opens the database and finishes what a crash has interrupted.
    pub(crate) fn open(
        dir: &Path,
        snapshots: &Path,
        rocks: &rocksdb::Options,
        groups: u16,
    ) -> Result<Self, StoreError> {
        let database = Arc::new(Database::open(rocks, dir, keys::render)?);
        install::finish_interrupted(&database, snapshots)?;
        let groups = (0..groups).map(|group| {
            let cache = load(&database, GroupId::new(group))?;
            // There is no other place than the disk that it could have been read from.
            let durable = Mutex::new(cache.record.as_ref().map(|record| record.log_id.clone()));
            let (applying, gate) = (Mutex::default(), RwLock::default());
            Ok(Group { applying, gate, cache: RwLock::new(cache), durable })
        });
        let groups = groups.collect::<Result<_, StoreError>>()?;
        Ok(State(Arc::new(Inner { database, snapshots: snapshots.into(), groups })))
    }

    /// How far a group's state is. `None`: nothing was ever applied.
    pub fn applied(&self, group: GroupId) -> Result<Option<Applied>, StoreError> {
        Ok(self.group(group).cache.read().record.as_ref().map(GroupRecord::applied))
    }

    /// The index of the entry applied last.
    pub(crate) fn applied_index(&self, group: GroupId) -> Option<u64> {
        self.group(group).cache.read().record.as_ref().map(|record| record.index)
    }

    /// A keyspace's head; that of an empty one if it is not known.
    pub fn head(&self, group: GroupId, keyspace: &Keyspace) -> Head {
        self.keyspace(group, keyspace).map_or_else(Head::default, |found| found.head)
    }

    /// A group's keyspaces that have a revision, by name, and their heads.
    pub fn keyspaces(&self, group: GroupId) -> Vec<(Keyspace, Head)> {
        let cache = self.group(group).cache.read();
        let written = cache.keyspaces.iter().filter(|(_, found)| found.head != Head::default());
        written.map(|(keyspace, found)| (keyspace.clone(), found.head)).collect()
    }

    /// The heads of all keyspaces of a group in one value.
    pub fn fold(&self, group: GroupId) -> Fold {
        self.group(group).cache.read().record.as_ref().map_or_else(Fold::default, |record| record.fold)
    }

    /// Puts everything applied before the call on disk. Returns how far that is for each group, as log ids. Blocks.
    pub fn flush(&self) -> Result<BTreeMap<GroupId, Bytes>, StoreError> {
        let reached: BTreeMap<_, _> = (0u16..)
            .zip(&self.0.groups)
            .filter_map(|(id, group)| Some((GroupId::new(id), group.cache.read().record.as_ref()?.log_id.clone())))
            .collect();
        self.0.database.flush()?;
        for (group, log_id) in &reached {
            *self.group(*group).durable.lock() = Some(log_id.clone());
        }
        Ok(reached)
    }

    /// The log id of an applied entry that is on disk for sure, with all before it. A later one may be too.
    pub fn durable(&self, group: GroupId) -> Option<Bytes> {
        self.group(group).durable.lock().clone()
    }

    pub(crate) fn is_empty(&self) -> Result<bool, StoreError> {
        self.0.database.is_empty()
    }

    fn group(&self, group: GroupId) -> &Group {
        &self.0.groups[usize::from(group.get())]
    }

    fn database(&self) -> &Database {
        &self.0.database
    }

    fn keyspace(&self, group: GroupId, keyspace: &Keyspace) -> Option<KeyspaceRecord> {
        self.group(group).cache.read().keyspaces.get(keyspace).copied()
    }

    /// Held while reading, or until what is read has been pinned, so that no snapshot is installed meanwhile. Never taken
    /// twice by one thread: it would wait for an installation that waits for it.
    fn reading(&self, group: GroupId) -> RwLockReadGuard<'_, ()> {
        self.group(group).gate.read()
    }

    /// What is in the database now, with no group half replaced.
    fn pinned(&self, group: GroupId) -> Pinned<'_> {
        let _reading = self.reading(group);
        self.database().pin()
    }
}

/// What the database has of a group and its keyspaces.
fn load(database: &Database, group: GroupId) -> Result<Cache, StoreError> {
    let key = keys::group(group);
    let record = match database.get(&key)? {
        Some(stored) => Some(database.open_value(&key, &stored)?),
        None => None,
    };
    let mut keyspaces = BTreeMap::new();
    let to = keys::kind_start(group, keys::KEYSPACE + 1);
    let mut cursor = database.cursor(None, &keys::kind_start(group, keys::KEYSPACE), to);
    while let Some((key, stored)) = cursor.item() {
        keyspaces.insert(keyspace_name(database, key)?, database.open_value(key, stored)?);
        cursor.next();
    }
    database.ended(&cursor)?;
    Ok(Cache { record, keyspaces })
}

/// The name in a keyspace's key.
fn keyspace_name(database: &Database, key: &[u8]) -> Result<Keyspace, StoreError> {
    let name = key.get(keys::HEAD_BYTES..).and_then(|name| std::str::from_utf8(name).ok());
    let keyspace = name.and_then(|name| Keyspace::new(name).ok());
    keyspace.ok_or_else(|| database.damaged(key, "that is no keyspace's name"))
}
