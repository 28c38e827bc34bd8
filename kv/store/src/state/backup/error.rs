//! What can be wrong with a backup, and why one was not restored.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kv_core::{Keyspace, Revision, Timestamp};

use super::BACKUP_FORMAT;
use crate::{OpenError, StoreError};

/// Why a file is no backup that can be relied on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackupError {
    /// It is something else, or its first bytes are damaged.
    #[error("{file}: this is no backup of netstate, or its first lines are damaged", file = file.display())]
    NotOne {
        /// The file.
        file: PathBuf,
    },
    /// A later version wrote it.
    #[error(
        "{file}: the backup has format {found}, and this version knows formats up to {BACKUP_FORMAT}; use the version of \
         netstate that made it, or a newer one",
        file = file.display()
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It ends before it says that it does.
    #[error("{file}: the backup is cut short: it ends after {bytes} bytes, {wanted}; use another copy", file = file.display())]
    Short {
        /// The file.
        file: PathBuf,
        /// How long it is.
        bytes: u64,
        /// Where, in words.
        wanted: String,
    },
    /// Something in it is not what was written.
    #[error("{file}: the backup is damaged at byte {offset}: {why}; use another copy", file = file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the damaged part begins.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
    /// It could not be read.
    #[error("{file}: reading the backup failed", file = file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
}

/// A keyspace that cannot be taken back as far as was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// The keyspace.
    pub keyspace: Keyspace,
    /// The earliest revision that it can be taken back to, and its time if that is known; or its last.
    pub limit: Revision,
    /// That revision's time, if its record is there.
    pub at: Option<Timestamp>,
    /// Why not further, in words.
    pub why: &'static str,
}

/// Why a backup was not restored. Nothing is left behind in the data directory.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup is no good.
    #[error("nothing was restored")]
    Backup(#[from] BackupError),
    /// There is something already.
    #[error(
        "{dir}: the data directory is not empty; restore into a new one, or remove this one if nobody needs it",
        dir = dir.display()
    )]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// History that would be needed is not there.
    #[error("nothing was restored: {}", told(.keyspaces))]
    Unreachable {
        /// All keyspaces that this is so of.
        keyspaces: Vec<Unreachable>,
    },
    /// A keyspace that is not in the backup.
    #[error("nothing was restored: the backup has no keyspace {}", .keyspaces.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Unknown {
        /// Their names.
        keyspaces: Vec<Keyspace>,
    },
    /// Revisions would not fit.
    #[error("nothing was restored: {keyspace} is at {revision} and cannot be raised by {by}; raise it by less")]
    Raise {
        /// The keyspace.
        keyspace: Keyspace,
        /// Where it is.
        revision: Revision,
        /// By how much it was to be raised.
        by: u64,
    },
    /// The data directory could not be made.
    #[error("nothing was restored: the data directory could not be made")]
    Open(#[from] OpenError),
    /// It could not be written.
    #[error("nothing was restored: writing the data directory failed")]
    Store(#[from] StoreError),
}

/// Named in a message; the others are counted.
const TOLD_MAX: usize = 20;

fn told(keyspaces: &[Unreachable]) -> String {
    let one = |it: &Unreachable| {
        let at = it.at.map_or(String::new(), |at| format!(" ({at})"));
        format!("{} {} {}{at}", it.keyspace, it.why, it.limit)
    };
    let mut text = keyspaces.iter().take(TOLD_MAX).map(one).collect::<Vec<_>>().join("; ");
    if keyspaces.len() > TOLD_MAX {
        text.push_str(&format!("; and {} more", keyspaces.len() - TOLD_MAX));
    }
    text
}

pub(super) fn unread(file: &Path, source: io::Error) -> BackupError {
    BackupError::Io { file: file.into(), source: Arc::new(source) }
}
