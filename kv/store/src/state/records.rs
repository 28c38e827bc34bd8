//! Values of the state database, format 1, and format 2 of keyspaces.
//!
//! Must hold: a change to any of these types changes what is on disk. It takes a new format number, and code that still
//! reads the old one.

use bytes::Bytes;
use kv_core::{ChainRecord, Fold, Head, KeyState, LeaseId, Revision, Standing, Terms, Timestamp, TxnOutcome};
use serde::{Deserialize, Serialize};

use super::{Applied, keys::Number};
use crate::envelope::{self, Flaw, Raw};

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
pub(crate) struct KeyspaceRecord {
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
    /// Not in format 1, which those have that never took part in a move.
    #[serde(skip)]
    pub(super) standing: Standing,
}

/// The format of a keyspace that took part in a move: what format 1 has, and its standing.
const KEYSPACE_MOVED: u8 = 2;

impl KeyspaceRecord {
    /// As it is stored.
    pub(super) fn seal(&self, key: &[u8]) -> Vec<u8> {
        match self.standing == Standing::default() {
            true => envelope::seal_value_into(key, self, Vec::new()),
            false => envelope::seal_format_into(KEYSPACE_MOVED, key, &(self, &self.standing), Vec::new()),
        }
    }

    /// As it was stored.
    pub(crate) fn open(key: &[u8], record: &[u8]) -> Result<Self, Flaw> {
        let (format, payload) = envelope::open_upto(KEYSPACE_MOVED, key, record)?;
        if format == envelope::FORMAT {
            return postcard::from_bytes(payload).map_err(Flaw::Payload);
        }
        let (record, standing) = postcard::from_bytes(payload).map_err(Flaw::Payload)?;
        Ok(KeyspaceRecord { standing, ..record })
    }

    /// What it is beside its rows.
    pub(super) fn terms(&self) -> Terms {
        Terms { head: self.head, floor: self.floor, forgotten: self.forgotten, keys: self.keys, bytes: self.bytes }
    }
}

/// What of a keyspace's standing counts when replicas are compared; nothing if it never took part in a move.
pub(super) fn standing_content(standing: &Standing) -> Option<Vec<u8>> {
    let moved = *standing != Standing::default();
    moved.then(|| postcard::to_allocvec(standing).expect("only lengths unknown up front fail, and our types have none"))
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
