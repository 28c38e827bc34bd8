//! Values of the state database, format 1.
//!
//! Must hold: a change to any of these types changes what is on disk. It takes a new format number, and code that still
//! reads the old one.

use bytes::Bytes;
use kv_core::{ChainRecord, Fold, Head, KeyState, LeaseId, Revision, Timestamp, TxnOutcome};
use serde::{Deserialize, Serialize};

use super::{Applied, keys::Number};
use crate::envelope::Raw;

/// A group: one for each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupRecord {
    /// The entry applied last: its index, and its log id as the layer above writes it.
    pub(super) index: u64,
    pub(super) log_id: Bytes,
    pub(super) membership: Option<Bytes>,
    /// Of the heads of all keyspaces.
    pub(super) fold: Fold,
    /// Keyspaces there have been, so also the number of the next.
    pub(super) keyspaces: Number,
    /// The latest time that any commit has carried. Request ids expire by it.
    pub(super) clock: Timestamp,
}

impl GroupRecord {
    pub(super) fn applied(&self) -> Applied {
        Applied { log_id: self.log_id.clone(), membership: self.membership.clone() }
    }
}

/// A keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyspaceRecord {
    pub(super) number: Number,
    pub(super) head: Head,
    /// What only reads of earlier revisions could see has been compacted.
    pub(super) floor: Revision,
    /// The chain's records up to this one may have gone.
    pub(super) forgotten: Revision,
    /// Keys there are.
    pub(super) keys: u64,
    /// Bytes of those keys and their values.
    pub(super) bytes: u64,
}

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaseRecord {
    /// How long it lasts without being kept alive, in seconds.
    pub(super) ttl: u64,
    /// What was left of it when that was last written down.
    pub(super) remaining: Option<u64>,
}

/// A key's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version<'a> {
    pub(super) create: Revision,
    pub(super) modified: Revision,
    /// The revision that took its place; its own for a removal. A compaction up to there takes it. Zero: none has yet.
    pub(super) until: Revision,
    pub(super) version: u64,
    pub(super) lease: Option<LeaseId>,
    /// `None`: removed. Never so in a latest version.
    #[serde(borrow)]
    pub(super) value: Option<Raw<'a>>,
}

impl Version<'_> {
    pub(super) fn state(&self) -> Option<KeyState> {
        let value = Bytes::copy_from_slice(self.value?.0);
        Some(KeyState {
            value,
            create_revision: self.create,
            mod_revision: self.modified,
            version: self.version,
            lease: self.lease,
        })
    }
}

/// A revision: its chain record, and which keys it changed, in order. The values lie with the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chained<'a> {
    pub(super) record: ChainRecord,
    #[serde(borrow)]
    pub(super) keys: Vec<ChangedKey<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChangedKey<'a> {
    #[serde(borrow)]
    pub(super) key: Raw<'a>,
    /// Or else removed.
    pub(super) put: bool,
}

/// What a request id came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) outcome: TxnOutcome,
    /// The time of its commit.
    pub(super) at: Timestamp,
}
