//! A node's data directory, open.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kv_core::GroupId;
use rocksdb::Cache;
use tempfile::TempDir;

use crate::{Identity, OpenError, Options, RaftLog, ReceivedSnapshot, State, StoreError, files, state::Reclaim};

const LOCK: &str = "LOCK";
const LOG: &str = "raft-log";
const STATE: &str = "state";
const SNAPSHOTS: &str = "snapshots";
const RESCUE: &str = "rescue";

/// A node's data directory, open. Cheap to clone; it stays locked until the last clone has gone, of its log and its state
/// too.
#[derive(Clone)]
pub struct Store {
    log: RaftLog,
    state: State,
    directory: Arc<Directory>,
}

/// A directory that nobody else has. Whatever writes into it holds it.
pub(crate) struct Directory {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
    /// Removes a test's directory.
    _temporary: Option<TempDir>,
}

impl Store {
    /// Opens a data directory, or founds one where there is none. Finishes what a crash has interrupted. Blocks.
    ///
    /// Refused when the directory is another node's or cluster's, of a later version, in use, or damaged.
    pub fn open(dir: &Path, identity: &Identity, options: &Options) -> Result<Store, OpenError> {
        Self::open_in(dir, None, identity, options)
    }

    /// A store in a directory of its own that goes when it does, for tests.
    pub fn open_temporary(identity: &Identity, options: &Options) -> Result<Store, OpenError> {
        let made = tempfile::tempdir();
        let dir = made.map_err(|error| files::error(&std::env::temp_dir(), "making a temporary directory", error))?;
        let path = dir.path().to_path_buf();
        Self::open_in(&path, Some(dir), identity, options)
    }

    fn open_in(
        dir: &Path,
        temporary: Option<TempDir>,
        identity: &Identity,
        options: &Options,
    ) -> Result<Store, OpenError> {
        let (store, founded) = Self::open_parts(dir, temporary, identity, options)?;
        if founded {
            check_overlap(&store.log, &store.state, dir, identity.groups)?;
        } else {
            // The file is written last. Without it there are at most empty databases, of a start that was cut short.
            if !store.log.is_empty() || !store.state.is_empty()? {
                let why = "it is missing, but there is data; nobody can tell whose".into();
                return Err(OpenError::Damaged { file: dir.join("IDENTITY"), why });
            }
            identity.write(dir)?;
        }
        Ok(store)
    }

    /// Founds a directory, which is empty, with what `fill` puts into it and makes last. It is a node's only after that.
    pub(crate) fn found<T, E: From<OpenError>>(
        dir: &Path,
        identity: &Identity,
        options: &Options,
        fill: impl FnOnce(&Store) -> Result<T, E>,
    ) -> Result<T, E> {
        let (store, _) = Self::open_parts(dir, None, identity, options)?;
        let filled = fill(&store)?;
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        files::sync_dir(parent.unwrap_or(Path::new("."))).map_err(OpenError::from)?;
        identity.write(dir)?;
        Ok(filled)
    }

    /// Opens what a directory has, and tells whether it was a node's before.
    fn open_parts(
        dir: &Path,
        temporary: Option<TempDir>,
        identity: &Identity,
        options: &Options,
    ) -> Result<(Store, bool), OpenError> {
        let snapshots = dir.join(SNAPSHOTS);
        fs::create_dir_all(&snapshots).map_err(|error| files::error(&snapshots, "creating the directory", error))?;
        let lock = lock(dir)?;
        let directory = Arc::new(Directory { path: dir.into(), _lock: lock, _temporary: temporary });
        let founded = identity.check(dir)?;
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        // Where somebody has been before, what is not there has been lost and must not be replaced by something empty:
        // a log that has forgotten its vote could vote twice.
        let log = RaftLog::open(&dir.join(LOG), !founded, identity.groups, options, Some(directory.clone()))?;
        let reclaim = Reclaim::default();
        let rebuilding = Rebuild::begin(dir, &snapshots)?;
        let rocks = options.state(&cache, !founded || rebuilding.is_some(), reclaim.clone());
        let state = State::open(&dir.join(STATE), &snapshots, &rocks, reclaim, identity.groups, directory.clone());
        let state = state.map_err(|error| match error {
            StoreError::Damaged { .. } if founded => OpenError::State(error),
            _ => OpenError::Store(error),
        })?;
        if let Some(rebuilding) = rebuilding {
            rebuilding.done()?;
        }
        if founded {
            remove(&dir.join(RESCUE))?;
        }
        Ok((Store { log, state, directory }, founded))
    }

    /// Where the directory is.
    pub(crate) fn directory_path(&self) -> &Path {
        &self.directory.path
    }

    /// An empty store beside a directory whose state cannot be opened, which stays as it is. Groups' states can be received
    /// here and [staged](Store::stage) there; nothing else must be done with it: it knows no votes.
    pub fn rescue(dir: &Path, identity: &Identity, options: &Options) -> Result<Store, OpenError> {
        let lock = lock(dir)?;
        let directory = Arc::new(Directory { path: dir.into(), _lock: lock, _temporary: None });
        identity.check(dir)?;
        let rescue = dir.join(RESCUE);
        remove(&rescue)?;
        let snapshots = rescue.join(SNAPSHOTS);
        fs::create_dir_all(&snapshots).map_err(|error| files::error(&snapshots, "creating the directory", error))?;
        let log = RaftLog::open(&rescue.join(LOG), true, identity.groups, options, Some(directory.clone()))?;
        let (cache, reclaim) = (Cache::new_lru_cache(options.block_cache_bytes), Reclaim::default());
        let rocks = options.state(&cache, true, reclaim.clone());
        let state = rescue.join(STATE);
        let state = State::open(&state, &snapshots, &rocks, reclaim, identity.groups, directory.clone())?;
        Ok(Store { log, state, directory })
    }

    /// Puts a group's received state where the next start of the node takes it in the place of the one that is there, which
    /// is void from now on.
    pub fn stage(&self, received: ReceivedSnapshot) -> Result<(), StoreError> {
        received.stage_in(&self.directory.path.join(SNAPSHOTS))
    }

    /// Makes the directory that of another cluster's node.
    pub fn belong_to(&self, identity: &Identity) -> Result<(), OpenError> {
        identity.write(&self.directory.path)
    }

    /// The raft log of all groups.
    pub fn log(&self) -> &RaftLog {
        &self.log
    }

    /// What the applied entries came to.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Has the next start of the node begin with an empty state database, into which every group's
    /// [staged](Store::stage) snapshot is put. For one that RocksDB cannot read any more.
    pub fn rebuild_state(&self) -> Result<(), StoreError> {
        let snapshots = self.directory.path.join(SNAPSHOTS);
        files::write(&snapshots.join(Rebuild::ASKED), b"")
    }

    /// Bytes of all files in the directory.
    pub fn disk_bytes(&self) -> u64 {
        files::bytes_below(&self.directory.path)
    }

    /// Bytes of the files of the raft log.
    pub fn log_bytes(&self) -> u64 {
        files::bytes_below(&self.directory.path.join(LOG))
    }

    /// Bytes of the files of the state.
    pub fn state_bytes(&self) -> u64 {
        files::bytes_below(&self.directory.path.join(STATE))
    }
}

/// A state database that is made anew. The first marker says that the old one has to go, the second that it has gone and
/// that not all groups' snapshots are in the new one yet.
struct Rebuild {
    marker: PathBuf,
}

impl Rebuild {
    const ASKED: &str = "REBUILD";
    const BEGUN: &str = "REBUILDING";

    fn begin(dir: &Path, snapshots: &Path) -> Result<Option<Self>, StoreError> {
        let (asked, marker) = (snapshots.join(Self::ASKED), snapshots.join(Self::BEGUN));
        if asked.exists() {
            let state = dir.join(STATE);
            tracing::warn!(state = %state.display(), "making the state database anew");
            remove(&state)?;
            files::sync_dir(dir)?;
            fs::rename(&asked, &marker).map_err(|error| files::error(&marker, "renaming the file", error))?;
            files::sync_dir(snapshots)?;
        }
        Ok(marker.exists().then_some(Rebuild { marker }))
    }

    fn done(self) -> Result<(), StoreError> {
        fs::remove_file(&self.marker).map_err(|error| files::error(&self.marker, "removing the file", error))?;
        files::sync_dir(self.marker.parent().unwrap_or(&self.marker))
    }
}

/// Removes a directory, if it is there.
fn remove(dir: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(files::error(dir, "removing the directory", error))
        }
        _ => Ok(()),
    }
}

/// Takes the directory's lock, which the system frees when the process ends, however that happens.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let opened = File::options().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|error| files::error(&path, "opening the file", error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.into() }),
        Err(TryLockError::Error(error)) => Err(files::error(&path, "locking the file", error).into()),
    }
}

/// Entries are purged from the log only once their effects are on disk. A state behind that has lost some of its files,
/// and nothing here could bring it up to date.
fn check_overlap(log: &RaftLog, state: &State, dir: &Path, groups: u16) -> Result<(), OpenError> {
    for group in (0..groups).map(GroupId::new) {
        let applied = state.applied_index(group);
        if let Some(purged) = log.purged_index(group)
            && applied.is_none_or(|applied| applied < purged)
        {
            let applied = applied.map_or("nothing".into(), |applied| format!("entry {applied}"));
            return Err(OpenError::State(StoreError::Damaged {
                file: dir.join(STATE).display().to_string(),
                key: format!("the state of {group}"),
                why: format!("it has applied {applied}, but the log starts behind entry {purged}"),
            }));
        }
    }
    Ok(())
}
