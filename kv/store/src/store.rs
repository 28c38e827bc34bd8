//! A node's data directory, open.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
};

use kv_core::GroupId;
use rocksdb::Cache;
use tempfile::TempDir;

use crate::{Identity, OpenError, Options, RaftLog, State, StoreError, files, state::Reclaim};

const LOCK: &str = "LOCK";
const LOG: &str = "raft-log";
const STATE: &str = "state";
const SNAPSHOTS: &str = "snapshots";

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
        let rocks = options.state(&cache, !founded, reclaim.clone());
        let state = State::open(&dir.join(STATE), &snapshots, &rocks, reclaim, identity.groups, directory.clone())?;
        if founded {
            check_overlap(&log, &state, dir, identity.groups)?;
        } else {
            // The file is written last. Without it there are at most empty databases, of a start that was cut short.
            if !log.is_empty() || !state.is_empty()? {
                let why = "it is missing, but there is data; nobody can tell whose".into();
                return Err(OpenError::Damaged { file: dir.join("IDENTITY"), why });
            }
            identity.write(dir)?;
        }
        Ok(Store { log, state, directory })
    }

    /// The raft log of all groups.
    pub fn log(&self) -> &RaftLog {
        &self.log
    }

    /// What the applied entries came to.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Bytes of all files in the directory.
    pub fn disk_bytes(&self) -> u64 {
        files::bytes_below(&self.directory.path)
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
            return Err(OpenError::Store(StoreError::Damaged {
                file: dir.join(STATE).display().to_string(),
                key: format!("the state of {group}"),
                why: format!("it has applied {applied}, but the log starts behind entry {purged}"),
            }));
        }
    }
    Ok(())
}
