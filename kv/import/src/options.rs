//! What an import copies, within which limits, and what it tells about itself meanwhile.

use bytes::Bytes;

use crate::{Retries, SourceRevision};

/// What to import and how. [`Options::default`] imports everything, within limits that any etcd accepts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only keys that begin with this. Empty: all keys.
    pub prefix: Bytes,
    /// Key of the target under which the position is kept. It is never imported, compared or deleted, on either side, and
    /// [`finish`](crate::finish) removes it. Imports of different prefixes into one keyspace need different keys.
    pub position_key: Bytes,
    /// Whether a target that already has keys under the prefix is made equal to the source. Without it such a target is refused.
    pub overwrite: bool,
    /// Most keys to ask for at a time.
    pub page_keys: u32,
    /// Most bytes to ask for at a time, as far as the size of the keys before lets one guess.
    pub page_bytes: usize,
    /// Most operations in a transaction, that on the position included; etcd accepts 128 unless told otherwise.
    pub txn_operations: usize,
    /// Most bytes of keys and values in a transaction; etcd accepts requests of 1.5 MiB unless told otherwise. A single larger change
    /// is sent by itself.
    pub txn_bytes: usize,
    /// Most transactions under way at a time while copying, and most lease calls at any time. Changes are followed one transaction at a time,
    /// as each depends on the one before.
    pub in_flight: usize,
    /// Most revisions of the source that may share a transaction of the target when several have arrived together. One keeps every
    /// revision apart; more catches up faster, and watchers of the target then miss the values in between.
    pub merge_revisions_max: usize,
    /// Most leases to keep alive. An import that meets more ends.
    pub leases_max: usize,
    /// Most differences that [`verify`](crate::verify) lists; it counts them all.
    pub differences_max: usize,
    /// When to give up on a side that doesn't answer.
    pub retries: Retries,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: Bytes::new(),
            position_key: Bytes::from_static(b"\0netstate/import"),
            overwrite: false,
            page_keys: 1_000,
            page_bytes: 4 << 20,
            txn_operations: 128,
            txn_bytes: 1 << 20,
            in_flight: 8,
            merge_revisions_max: 1,
            leases_max: 100_000,
            differences_max: 100,
            retries: Retries::default(),
        }
    }
}

/// What an import is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Keys are being copied.
    Copying {
        /// Keys looked at since this call began; those that a sweep found equal, or gone, included.
        keys: u64,
        /// Keys that there are on the source at that revision, of which some may have been copied before a restart.
        of_keys: u64,
        /// Bytes of keys and values written since this call began.
        bytes: u64,
        /// The revision of the source that is copied.
        revision: SourceRevision,
    },
    /// The source has compacted what was still to be read: everything is compared again, and only what differs is written.
    StartedOver {
        /// The revision that can no longer be read.
        compacted: SourceRevision,
    },
    /// Changes are being followed.
    Following {
        /// The source's revision when it was last asked.
        source_revision: SourceRevision,
        /// The last revision that is on the target.
        applied_revision: SourceRevision,
        /// Revisions not known to be applied. With a prefix, those of other keys count until the source says that it has sent all.
        behind: u64,
    },
    /// The switch was asked for: everything up to this revision is awaited.
    Switching {
        /// The source's revision when the switch was asked for.
        until: SourceRevision,
    },
    /// Leases that are kept alive on the target.
    Leases {
        /// Their number.
        held: usize,
    },
    /// Both sides are being compared.
    Verifying {
        /// Keys compared.
        keys: u64,
        /// Differences found.
        differences: u64,
    },
}

/// Receives progress. Called from the import itself, a few times a second at most under load: it must not block.
pub type Report<'a> = &'a (dyn Fn(Progress) + Send + Sync);
