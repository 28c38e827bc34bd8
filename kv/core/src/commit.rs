//! What a transaction becomes, and what is replicated.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{GroupId, Keyspace, LeaseId, MoveId, MoveStep, RequestId, Revision, Timestamp, TxnOutcome};

/// One log entry's commits, applied in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The commits, of any keyspaces of the group.
    pub commits: Vec<Commit>,
}

/// The outcome of one transaction, worked out by the leader: nothing is left to decide but whether `base` still holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The keyspace.
    pub keyspace: Keyspace,
    /// The revision that the leader worked it out against. Anything else at apply: [`Outcome::Stale`].
    pub base: Revision,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Recognises a retry.
    pub request: Option<RequestId>,
    /// Whether the transaction's compares held.
    pub succeeded: bool,
    /// Keys written and removed, each once. Empty: no revision is made.
    pub changes: Vec<Change>,
    /// What else changes, and makes no revision.
    pub effects: Vec<Effect>,
}

/// One key's new state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Its value; `None`: removed.
    pub value: Option<Bytes>,
    /// The lease that it is attached to.
    pub lease: Option<LeaseId>,
}

/// A change of a keyspace that is not part of the history of its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// A lease begins.
    Grant {
        /// The lease.
        lease: LeaseId,
        /// How long it lasts without being kept alive, in seconds.
        ttl: u64,
    },
    /// What remains of a lease is written down, for a leader that comes later.
    Checkpoint {
        /// The lease.
        lease: LeaseId,
        /// Seconds; `None`: all of it, from when that leader begins.
        remaining: Option<u64>,
    },
    /// A lease ends. The keys attached to it are removed by the same commit's changes.
    Revoke {
        /// The lease.
        lease: LeaseId,
    },
    /// Versions that no read at this revision or a later one can see may go.
    Compact {
        /// The revision.
        to: Revision,
        /// Whether the chain's records of earlier revisions go too.
        records: bool,
    },
    /// A record beside the keys: settings and the like, without history.
    Record {
        /// Its key.
        key: Bytes,
        /// Its value; `None`: removed.
        value: Option<Bytes>,
    },
    /// A step of the keyspace's move to another group. Nothing else is in its commit.
    Move {
        /// The move.
        id: MoveId,
        /// The step.
        step: MoveStep,
    },
}

/// What applying a commit came to. The same on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Applied now.
    Applied(TxnOutcome),
    /// Its request id was applied before, with this outcome; nothing was changed.
    Repeated(TxnOutcome),
    /// The keyspace was not at `base`; nothing was changed.
    Stale {
        /// Where the keyspace is.
        head: Revision,
    },
    /// The keyspace moves to another group, or is there by now; nothing was changed.
    Elsewhere {
        /// The group.
        to: GroupId,
    },
}

impl Change {
    /// Writes a key, attached to no lease.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Change { key: key.into(), value: Some(value.into()), lease: None }
    }

    /// Removes a key.
    pub fn removal(key: impl Into<Bytes>) -> Self {
        Change { key: key.into(), value: None, lease: None }
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl Commit {
    /// Bytes of keys and values.
    pub fn size(&self) -> usize {
        let rows = self.effects.iter().map(|effect| match effect {
            Effect::Move { step, .. } => step.size(),
            _ => 0,
        });
        self.changes.iter().map(Change::size).sum::<usize>() + rows.sum::<usize>()
    }

    /// The step of a move that it is.
    pub fn step(&self) -> Option<(MoveId, &MoveStep)> {
        match self.effects.first() {
            Some(Effect::Move { id, step }) => Some((*id, step)),
            _ => None,
        }
    }
}
