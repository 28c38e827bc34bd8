//! Making a node's data directory from a backup, without a server.
//!
//! ```text
//! backup, verified ──► records into an empty database ──► cut, raised, settled ──► flushed ──► log begins ──► IDENTITY
//! ```
//!
//! Must hold: the directory is a node's only once everything in it is on stable storage, since `IDENTITY` is written last.
//! A restore that fails leaves nothing behind; one that was killed leaves a directory that no server opens. Every keyspace
//! goes on with a revision that nobody has seen, and all before it counts as compacted but the latest state, so that
//! whoever knows an earlier one is told to start over.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use kv_core::{GroupId, Head, Keyspace, Phase, Revision, Timestamp};
use rocksdb::WriteBatch;

use super::{
    Contents, Point, RestoreError, Unreachable, cut,
    read::{BackupReader, Part},
    settle::{BATCH_BYTES, Settler},
};
use crate::{
    Identity, Options, Store, StoreError,
    database::Database,
    files,
    state::{apply::unlogged, keys, keyspaces_in, records::KeyspaceRecord, stored_group},
};

/// Beyond this revisions are not raised: clients of etcd count in 63 bits.
const REVISION_MAX: u64 = 1 << 62;

/// Where the log of a restored group begins, as the layer above writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The log id of the last entry, of which only the effects are there.
    pub log_id: Bytes,
    /// The membership that it set.
    pub membership: Bytes,
}

/// What to restore, and where.
pub struct Restore<'a> {
    /// The backup.
    pub file: &'a Path,
    /// The data directory to be made.
    pub dir: &'a Path,
    /// Whose it will be. The number of groups is the backup's.
    pub identity: Identity,
    /// Where each group's log begins, given the index of its last entry.
    pub place: &'a dyn Fn(u64) -> Placed,
    /// By how much revisions are raised: at least one.
    pub raise: u64,
    /// Where histories end.
    pub point: &'a Point,
    /// Keyspaces whose records beside the keys are left out: they speak of the nodes of the cluster that is no more.
    pub forget: &'a [Keyspace],
    /// How the directory is set up.
    pub options: &'a Options,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// By group and name.
    pub keyspaces: Vec<RestoredKeyspace>,
}

/// What became of a keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredKeyspace {
    /// Its group.
    pub group: GroupId,
    /// Its name.
    pub name: Keyspace,
    /// The last revision that was restored.
    pub revision: Revision,
    /// That revision's time.
    pub at: Timestamp,
    /// Where it was in the backup.
    pub head: Revision,
    /// The revision that it goes on from.
    pub raised: Revision,
    /// Keys there are.
    pub keys: u64,
    /// Leases that had ended since that revision, and were granted anew.
    pub leases_ended: u64,
}

/// Restores a backup that was found sound. `progress` is told how many bytes of it have been read. Blocks.
///
/// # Panics
/// When `raise` is zero, or the number of groups is not the backup's.
pub fn restore(
    order: &Restore<'_>,
    contents: &Contents,
    progress: &mut dyn FnMut(u64),
) -> Result<Restored, RestoreError> {
    assert!(order.raise > 0 && order.identity.groups == contents.header.groups, "the caller sees to it");
    check(order, contents)?;
    let vacant = Vacant::claim(order.dir)?;
    let filling = |store: &Store| fill(order, contents, store, progress);
    let restored = Store::found(order.dir, &order.identity, order.options, filling)?;
    vacant.keep();
    Ok(restored)
}

/// What can be told from the backup's contents alone.
fn check(order: &Restore<'_>, contents: &Contents) -> Result<(), RestoreError> {
    for known in &contents.keyspaces {
        if known.revision.get().checked_add(order.raise).is_none_or(|raised| raised > REVISION_MAX) {
            let (keyspace, revision) = (known.name.clone(), known.revision);
            return Err(RestoreError::Raise { keyspace, revision, by: order.raise });
        }
    }
    let Point::Revisions(named) = order.point else { return Ok(()) };
    let there = |name: &&Keyspace| contents.keyspaces.iter().any(|known| known.name == **name);
    let keyspaces: Vec<_> = named.keys().filter(|name| !there(name)).cloned().collect();
    if keyspaces.is_empty() { Ok(()) } else { Err(RestoreError::Unknown { keyspaces }) }
}

fn fill(
    order: &Restore<'_>,
    contents: &Contents,
    store: &Store,
    progress: &mut dyn FnMut(u64),
) -> Result<Restored, RestoreError> {
    let database = store.state().database();
    load(order, contents, database, progress)?;
    let groups = || (0..contents.header.groups).map(GroupId::new);
    let (mut cuts, mut unreachable) = (Vec::new(), Vec::new());
    for group in groups() {
        let of_group = cuts_of(database, group, order.point, &mut unreachable)?;
        cuts.push(of_group);
    }
    if !unreachable.is_empty() {
        return Err(RestoreError::Unreachable { keyspaces: unreachable });
    }
    let mut restored = Restored { keyspaces: Vec::new() };
    let mut begins = Vec::new();
    for (group, cuts) in groups().zip(&cuts) {
        let record = stored_group(database, &database.pin(), group)?.unwrap_or_default();
        let placed = (order.place)(record.index);
        begins.push((group, record.index, placed.log_id.clone()));
        let mut settler = Settler::new(database, group);
        let mut settled = Vec::new();
        for (name, known, cut) in cuts {
            let Some(cut) = cut else {
                // It only says where the keyspace went.
                settled.push((name.clone(), *known));
                continue;
            };
            if order.forget.contains(name) {
                settler.delete_kind(keys::BESIDE, known.number);
            }
            let (record, keyspace) = settler.keyspace(name, known, cut, order.raise, &contents.header)?;
            settled.push((name.clone(), record));
            restored.keyspaces.push(keyspace);
        }
        settler.group(&record, &settled, placed)?;
    }
    database.flush()?;
    for (group, index, log_id) in begins {
        begin(store, group, index, log_id)?;
    }
    Ok(restored)
}

/// Puts the backup's records into an empty database, as they are.
fn load(
    order: &Restore<'_>,
    contents: &Contents,
    database: &Database,
    progress: &mut dyn FnMut(u64),
) -> Result<(), RestoreError> {
    let mut reader = BackupReader::open(order.file)?;
    let mut batch = WriteBatch::default();
    let mut told = 0;
    loop {
        match reader.next()? {
            // Earlier versions are needed only to find an earlier state.
            Part::Record(key, _) if *order.point == Point::Latest && key.get(2) == Some(&keys::EARLIER) => {}
            Part::Record(key, record) => {
                batch.put(key, record);
                if batch.size_in_bytes() >= BATCH_BYTES {
                    database.write(std::mem::take(&mut batch), &unlogged())?;
                }
            }
            Part::GroupEnds(_) | Part::Keyspace(_) => {}
            Part::End(digest) if digest == *contents.digest.get() => break,
            Part::End(_) => return Err(reader.damaged("it has changed since it was verified").into()),
        }
        if reader.offset() != told {
            told = reader.offset();
            progress(told);
        }
    }
    Ok(database.write(batch, &unlogged())?)
}

/// Each keyspace of a group and where its history is cut; `None`: it is not here any more.
type Cuts = Vec<(Keyspace, KeyspaceRecord, Option<Head>)>;

fn cuts_of(
    database: &Database,
    group: GroupId,
    point: &Point,
    unreachable: &mut Vec<Unreachable>,
) -> Result<Cuts, StoreError> {
    let mut cuts = Vec::new();
    for (name, known) in keyspaces_in(database, None, group)? {
        if known.standing.phase != Phase::Live {
            cuts.push((name, known, None));
            continue;
        }
        match cut::find(database, group, &name, &known, point)? {
            Ok(cut) => cuts.push((name, known, Some(cut))),
            Err(refused) => unreachable.push(refused),
        }
    }
    Ok(cuts)
}

/// Begins a group's log behind an entry of which only the effects are there.
fn begin(store: &Store, group: GroupId, index: u64, log_id: Bytes) -> Result<(), RestoreError> {
    let (tell, told) = std::sync::mpsc::channel();
    let done = Box::new(move |result: Result<(), StoreError>| drop(tell.send(result)));
    // Nobody else writes to this log, so there is room and nothing to wait for but the disk.
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let path = store.directory_path();
    let runtime = runtime.map_err(|error| files::error(path, "starting to write the raft log", error))?;
    runtime.block_on(store.log().purge_upto(group, index, log_id, done));
    let stopped = || files::error(path, "writing the raft log", std::io::Error::other("the log's writer has stopped"));
    Ok(told.recv().map_err(|_| stopped())??)
}

/// A directory that is empty and will be a node's, or empty again.
struct Vacant {
    dir: PathBuf,
    existed: bool,
    kept: bool,
}

impl Vacant {
    fn claim(dir: &Path) -> Result<Self, RestoreError> {
        let listed = |error| RestoreError::Store(files::error(dir, "listing the directory", error));
        let existed = match fs::read_dir(dir) {
            Ok(mut entries) => match entries.next() {
                None => true,
                Some(Ok(_)) => return Err(RestoreError::NotEmpty { dir: dir.into() }),
                Some(Err(error)) => return Err(listed(error)),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(listed(error)),
        };
        Ok(Vacant { dir: dir.into(), existed, kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Vacant {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // What stays is told by the next attempt, which finds the directory not empty.
        if let (true, Ok(entries)) = (self.existed, fs::read_dir(&self.dir)) {
            for entry in entries.flatten() {
                let path = entry.path();
                let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            }
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
