//! What a transaction becomes, and what is replicated.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Keyspace, RequestId, Revision, Timestamp, TxnOutcome};

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
}

/// One key's new state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Its value; `None`: removed.
    pub value: Option<Bytes>,
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
}

impl Commit {
    /// Bytes of keys and values.
    pub fn size(&self) -> usize {
        self.changes.iter().map(|change| change.key.len() + change.value.as_ref().map_or(0, Bytes::len)).sum()
    }
}
