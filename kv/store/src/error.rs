//! What can go wrong with stored data, and what to do about it.

use std::{io, path::PathBuf, sync::Arc};

use kv_core::{ChainError, GroupId, Keyspace, Revision};

use crate::identity::Mismatch;

/// What to do about damaged data. The other replicas have it all.
const HEAL: &str = "the other replicas have it: `netstate cluster repair` fetches it from them while the node is up; if the \
                    node does not start, replace it with `netstate cluster replace`";

/// Why the store could not read or write. None of these is worth a retry: the node has to stop.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Something stored is not what was written.
    #[error("{file}: {key} is damaged: {why}; {HEAL}")]
    Damaged {
        /// The database directory, with the files in it that can hold the record where they are known.
        file: String,
        /// Which record, for people.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A record of a format that this version does not know.
    #[error(
        "{file}: {key} has format {found}, and this version knows formats up to {known}; start the version of netstate \
         that wrote it, or a newer one"
    )]
    NewerFormat {
        /// The database directory.
        file: String,
        /// Which record, for people.
        key: String,
        /// Its format.
        found: u8,
        /// The newest format known here.
        known: u8,
    },
    /// The disk is full. What was to be written was not.
    #[error("{dir}: the disk is full; free some space or enlarge it, then start this node again", dir = dir.display())]
    NoSpace {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// An earlier write failed, so nobody knows what of it is on disk; nothing more is written.
    #[error(
        "the raft log takes no more writes since one has failed ({first}); put that right, then start this node again"
    )]
    Poisoned {
        /// The first failure.
        first: String,
    },
    /// Entries that do not continue what is there. A bug of the caller.
    #[error("{group}: entry {found} was given where one {expected} belongs; nothing was written, report this as a bug")]
    OutOfOrder {
        /// The group.
        group: GroupId,
        /// What belongs there, in words.
        expected: String,
        /// The index given.
        found: u64,
    },
    /// A snapshot's part that cannot be used. The snapshot has to be sent again.
    #[error("{group}: a received snapshot was refused: {why}; it has to be sent again from its start")]
    Snapshot {
        /// The group.
        group: GroupId,
        /// What is wrong with it.
        why: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {doing} failed; see to the disk and its permissions, then start this node again", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// The database refused.
    #[error("{dir}: the database failed; see to the disk and its permissions, then start this node again", dir = dir.display())]
    Rocks {
        /// The database directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: rocksdb::Error,
    },
}

/// Why a read was not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Its values are gone.
    #[error("{asked} has been compacted; read at {floor} or later")]
    Compacted {
        /// The revision asked for.
        asked: Revision,
        /// The earliest that can be read.
        floor: Revision,
    },
    /// Not written yet.
    #[error("{asked} does not exist yet, the latest is {head}; read at that or wait for it")]
    Future {
        /// The revision asked for.
        asked: Revision,
        /// The latest.
        head: Revision,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a group's history does not verify. All but a failing disk mean that somebody or something has changed it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum VerifyError {
    /// A chain does not hold together.
    #[error("the history does not verify; {HEAL}")]
    Chain(#[from] ChainError),
    /// A chain ends elsewhere than its keyspace says.
    #[error("{keyspace}: the records end at {walked}, the keyspace says {stored}; {HEAL}")]
    Head {
        /// The keyspace.
        keyspace: Keyspace,
        /// What the keyspace's record says.
        stored: Revision,
        /// Where the records end.
        walked: Revision,
    },
    /// Versions of keys are there that the chain did not make, or the other way round.
    #[error("{keyspace}: the keys stored are not those that its history made; {HEAL}")]
    Keys {
        /// The keyspace.
        keyspace: Keyspace,
    },
    /// The heads do not fold to what the group says.
    #[error("{group}: its keyspaces' heads do not fold to the stored value; {HEAL}")]
    Fold {
        /// The group.
        group: GroupId,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a data directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not this node's.
    #[error(
        "{dir}: {}; point --data-dir at this node's own directory, or start the node that this one belongs to",
        .mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join(", and "),
        dir = dir.display()
    )]
    Identity {
        /// The data directory.
        dir: PathBuf,
        /// All that differs.
        mismatches: Vec<Mismatch>,
    },
    /// Another process has it.
    #[error("{dir}: in use by another process; stop that one, or give this one a --data-dir of its own", dir = dir.display())]
    Locked {
        /// The data directory.
        dir: PathBuf,
    },
    /// There is data, but nothing says whose.
    #[error("{file}: {why}; {HEAL}", file = file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The state is damaged, the log is not: the state can be [had from others](crate::Store::rescue).
    #[error(transparent)]
    State(StoreError),
    /// The stored data could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> io::Error {
        let kind = match &error {
            StoreError::Damaged { .. } | StoreError::NewerFormat { .. } => io::ErrorKind::InvalidData,
            StoreError::NoSpace { .. } => io::ErrorKind::StorageFull,
            StoreError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// An error with its causes in one line, for where only text goes.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
