//! A backup: the state of all groups in one file.
//!
//! ```text
//! file   = "netstate backup\n" "format 1\n" frame*
//! frame  = kind u8, length u32, body, crc32 u32 of all before
//!
//! kind 1   header     cluster, node, version, time, number of groups: once, first
//! kind 2   chunk      of a group's snapshot, as `snapshot` makes them: all of a group's, in order
//! kind 3   keyspace   of the group whose chunks came before: its name, head and size; all of them, by name
//! kind 4   end        BLAKE3 of everything before this frame: once, last
//! ```
//!
//! Groups come in their order; one that never had anything is left out. Numbers are little endian, bodies but those of
//! chunks and the end are postcard.
//!
//! ```text
//! groups, pinned ──► Backup ──► bytes ──► … ──► a file ──► BackupReader ──► verify     every checksum, record and chain
//!                                                              └──────────► restore    a data directory, ready to start
//! ```
//!
//! Must hold: the two lines at the start mean the same in every format, so that a file of a later version is told from a
//! damaged one. No bit of a file can change, and nothing be cut off or added, without [`verify`] saying so. Each group is
//! as it was at one moment; all groups are pinned before the first is read.
//!
//! Left to others: passing the read barriers first, carrying the bytes, and what log ids and memberships mean.

mod check;
mod cut;
mod error;
mod frame;
mod read;
mod restore;
mod settle;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

use kv_core::{ClusterId, Digest, GroupId, Keyspace, NodeId, Revision, Timestamp};
use serde::{Deserialize, Serialize};

pub use check::{Contents, verify};
pub use error::{BackupError, RestoreError, Unreachable};
pub use restore::{Placed, Restore, Restored, RestoredKeyspace, restore};
pub use write::Backup;

/// The format written today.
pub const BACKUP_FORMAT: u32 = 1;

/// How far revisions are raised by a restore that doesn't say: more than a cluster writes between its last backup and its
/// end, in one keyspace.
pub const RAISE_DEFAULT: u64 = 1_000_000;

/// The most that revisions can be raised: a thousand restores later they still fit what clients of etcd count with.
pub const RAISE_MAX: u64 = 1 << 48;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The cluster that it was made of.
    pub cluster: ClusterId,
    /// The node that made it, from its own replicas.
    pub node: NodeId,
    /// That node's name.
    pub name: String,
    /// The version of netstate that it ran.
    pub version: String,
    /// When, by that node's clock.
    pub at: Timestamp,
    /// Groups of the cluster.
    pub groups: u16,
}

/// One keyspace in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyspaceSummary {
    /// Its group.
    pub group: GroupId,
    /// Its name.
    pub name: Keyspace,
    /// Its latest revision.
    pub revision: Revision,
    /// The hash of that revision's record: the head of its chain.
    pub head: Digest,
    /// That revision's time.
    pub at: Timestamp,
    /// The earliest revision that can be read.
    pub floor: Revision,
    /// Keys there are.
    pub keys: u64,
    /// Bytes of those keys and their values.
    pub bytes: u64,
}

/// Where the history of each keyspace ends after a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Point {
    /// Where it ends in the backup.
    #[default]
    Latest,
    /// With the last commit at or before this time.
    Time(Timestamp),
    /// With these revisions; that of a keyspace that isn't named where it ends in the backup.
    Revisions(BTreeMap<Keyspace, Revision>),
}
