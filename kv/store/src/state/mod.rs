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
pub mod backup;
mod counts;
mod history;
mod install;
mod keys;
mod moving;
mod pages;
mod read;
mod reclaim;
mod records;
mod residence;
mod snapshot;
#[cfg(test)]
mod tests;
mod transfer;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use kv_core::{Fold, GroupId, Head, Keyspace, LeaseId, Revision};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use self::{
    apply::Applying,
    counts::Counts,
    keys::Number,
    records::{GroupRecord, LeaseRecord},
    residence::Residences,
};
use crate::{
    StoreError,
    database::{Database, Pinned},
    store::Directory,
};

pub use apply::{AppliedCommit, AppliedEntry, EntryToApply, Written};
pub use history::{Event, RevisionEvents};
pub use install::{ReceivedSnapshot, SnapshotReceiver};
pub use pages::Pages;
pub use read::{LeaseTerms, Usage, View};
pub(crate) use reclaim::Reclaim;
pub(crate) use records::KeyspaceRecord;
pub use residence::Residence;
pub use snapshot::GroupSnapshot;
pub use transfer::{ROW_FORMAT, Transfer};
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
    residences: Residences,
    reclaim: Reclaim,
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
    counts: Counts,
    /// Grows when a change of the database begins, and again when the cache has it too.
    moments: AtomicU64,
    /// Keyspaces with more to give back than was given back.
    reclaimable: Mutex<BTreeSet<Number>>,
}

/// What the database has at the records of the group and its keyspaces.
#[derive(Clone, Default)]
struct Cache {
    /// `None`: nothing was ever applied.
    record: Option<GroupRecord>,
    keyspaces: BTreeMap<Keyspace, KeyspaceRecord>,
    leases: HashMap<(Number, LeaseId), LeaseRecord>,
}

impl State {
    /// Opens the database and finishes what a crash has interrupted.
    pub(crate) fn open(
        dir: &Path,
        snapshots: &Path,
        rocks: &rocksdb::Options,
        reclaim: Reclaim,
        groups: u16,
        held: Arc<Directory>,
    ) -> Result<Self, StoreError> {
        let database = Arc::new(Database::open(rocks, dir, keys::render, held)?);
        install::finish_interrupted(&database, snapshots)?;
        let groups = (0..groups).map(|group| {
            let cache = load(&database, GroupId::new(group))?;
            // There is no other place than the disk that it could have been read from.
            let durable = Mutex::new(cache.record.as_ref().map(|record| record.log_id.clone()));
            let (applying, gate) = (Mutex::default(), RwLock::default());
            Ok(Group {
                applying,
                gate,
                cache: RwLock::new(cache),
                durable,
                counts: Counts::default(),
                moments: AtomicU64::new(0),
                reclaimable: Mutex::default(),
            })
        });
        let groups = groups.collect::<Result<Vec<_>, StoreError>>()?;
        let residences = Residences::default();
        for (id, group) in (0u16..).map(GroupId::new).zip(&groups) {
            residences.replace(id, &group.cache.read());
        }
        Ok(State(Arc::new(Inner { database, snapshots: snapshots.into(), groups, residences, reclaim })))
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

    /// How many keyspaces a group has.
    pub fn keyspace_count(&self, group: GroupId) -> usize {
        self.group(group).cache.read().keyspaces.values().filter(|known| known.standing.readable()).count()
    }

    /// A group's keyspaces that have a revision, by name, and their heads. One that moves may be in two.
    pub fn keyspaces(&self, group: GroupId) -> Vec<(Keyspace, Head)> {
        let cache = self.group(group).cache.read();
        let written = cache.keyspaces.iter().filter(|(_, found)| found.head != Head::default());
        written.map(|(keyspace, found)| (keyspace.clone(), found.head)).collect()
    }

    /// Reads between two calls that return the same are of one moment. `None`: something is just being written.
    pub fn moment(&self, group: GroupId) -> Option<u64> {
        let moments = self.group(group).moments.load(Ordering::SeqCst);
        moments.is_multiple_of(2).then_some(moments)
    }

    /// The heads of all keyspaces of a group in one value.
    pub fn fold(&self, group: GroupId) -> Fold {
        self.group(group).cache.read().record.as_ref().map_or_else(Fold::default, |record| record.fold)
    }

    /// Puts everything applied before the call on disk. Returns how far that is for each group, as log ids. Blocks.
    pub fn flush(&self) -> Result<BTreeMap<GroupId, Bytes>, StoreError> {
        let mut reached = BTreeMap::new();
        let mut floors = Vec::new();
        for (id, group) in (0u16..).map(GroupId::new).zip(&self.0.groups) {
            let cache = group.cache.read();
            reached.extend(cache.record.as_ref().map(|record| (id, record.log_id.clone())));
            let compacted = cache.keyspaces.values().filter(|known| known.floor > Revision::ZERO);
            let of_group: Vec<_> = compacted.map(|known| (known.number, known.floor, known.forgotten)).collect();
            floors.extend((!of_group.is_empty()).then_some((id, of_group)));
        }
        self.0.database.flush()?;
        for (group, log_id) in &reached {
            *self.group(*group).durable.lock() = Some(log_id.clone());
        }
        for (group, floors) in floors {
            let raised = self.0.reclaim.raise(group, &floors);
            self.group(group).reclaimable.lock().extend(raised);
        }
        Ok(reached)
    }

    /// Gives back the space of what has been compacted and flushed, for everything of which that was not done yet.
    /// Blocks, perhaps for long; reads and writes go on meanwhile.
    pub fn reclaim(&self) -> Result<(), StoreError> {
        for (id, group) in (0u16..).map(GroupId::new).zip(&self.0.groups) {
            let numbers = std::mem::take(&mut *group.reclaimable.lock());
            for number in numbers {
                for kind in [keys::EARLIER, keys::CHAIN] {
                    self.0.database.rewrite(&keys::kind_of(id, kind, number))?;
                }
            }
        }
        Ok(())
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
        self.group(group).cache.read().keyspaces.get(keyspace).copied().filter(|known| known.standing.readable())
    }

    /// Held while reading, or until what is read has been pinned, so that no snapshot is installed meanwhile. Never taken
    /// twice by one thread: it would wait for an installation that waits for it.
    fn reading(&self, group: GroupId) -> RwLockReadGuard<'_, ()> {
        self.group(group).gate.read()
    }

    /// Keeps all that can be read of a group now.
    fn hold_all(&self, group: GroupId) -> Vec<reclaim::Hold> {
        let cache = self.group(group).cache.read();
        let compacted = cache.keyspaces.values();
        compacted.map(|known| self.0.reclaim.hold(group, known.number, known.forgotten.min(known.floor))).collect()
    }

    /// What is in the database now, with no group half replaced.
    fn pinned(&self, group: GroupId) -> Pinned<'_> {
        let _reading = self.reading(group);
        self.database().pin()
    }
}

/// What the database has of a group and its keyspaces.
fn load(database: &Database, group: GroupId) -> Result<Cache, StoreError> {
    let pinned = database.pin();
    let record = stored_group(database, &pinned, group)?;
    let keyspaces = keyspaces_in(database, None, group)?.into_iter().collect();
    let mut leases = HashMap::new();
    let from = keys::kind_start(group, keys::LEASE);
    let mut cursor = database.cursor(None, &from, keys::kind_start(group, keys::LEASE + 1));
    while let Some((key, stored)) = cursor.item() {
        let lease = keys::split_lease(key).ok_or_else(|| database.damaged(key, "that is no lease"))?;
        leases.insert(lease, database.open_value(key, stored)?);
        cursor.next();
    }
    database.ended(&cursor)?;
    Ok(Cache { record, keyspaces, leases })
}

/// What a view of the database has of a group.
fn stored_group(database: &Database, pinned: &Pinned<'_>, group: GroupId) -> Result<Option<GroupRecord>, StoreError> {
    let key = keys::group(group);
    let stored = pinned.get_pinned(&key).map_err(|error| database.error(error))?;
    stored.map(|stored| database.open_value(&key, &stored)).transpose()
}

/// The keyspaces that a view of the database has of a group, by name.
fn keyspaces_in(
    database: &Database,
    pinned: Option<&Pinned<'_>>,
    group: GroupId,
) -> Result<Vec<(Keyspace, KeyspaceRecord)>, StoreError> {
    let (from, to) = (keys::kind_start(group, keys::KEYSPACE), keys::kind_start(group, keys::KEYSPACE + 1));
    let mut cursor = database.cursor(pinned, &from, to);
    let mut found = Vec::new();
    while let Some((key, stored)) = cursor.item() {
        found.push((keyspace_name(database, key)?, database.open_keyspace(key, stored)?));
        cursor.next();
    }
    database.ended(&cursor)?;
    Ok(found)
}

/// The name in a keyspace's key.
fn keyspace_name(database: &Database, key: &[u8]) -> Result<Keyspace, StoreError> {
    let name = key.get(keys::HEAD_BYTES..).and_then(|name| std::str::from_utf8(name).ok());
    let keyspace = name.and_then(|name| Keyspace::new(name).ok());
    keyspace.ok_or_else(|| database.damaged(key, "that is no keyspace's name"))
}
