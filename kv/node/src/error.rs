//! What can go wrong, and what a caller may do about it.

use std::time::Duration;

use kv_core::{GroupId, Keyspace, NodeId, Refusal, Revision};
use serde::{Deserialize, Serialize};

/// What a caller may do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Ask another node, this one if known.
    Elsewhere {
        /// Where it would probably work.
        hint: Option<NodeId>,
    },
    /// Ask again after a while.
    After(Duration),
    /// Ask again only if doing it twice does no harm, or with the same request id.
    IfIdempotent,
    /// Asking again won't help.
    Never,
}

/// Why a transaction was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CommitError {
    /// Not done: this node doesn't lead the group, or no longer.
    #[error("{group} is led elsewhere")]
    NotLeader {
        /// The group.
        group: GroupId,
        /// Who leads it, if known.
        leader: Option<NodeId>,
    },
    /// Not done: too many wait already.
    #[error("{limit} requests wait for {group} already; try again in a moment")]
    Overloaded {
        /// The group.
        group: GroupId,
        /// How many may wait.
        limit: usize,
    },
    /// Not done: the leader's disk has too little room.
    #[error("{folder} has {free_bytes} bytes free and {reserve_bytes} are kept in reserve; make room on that disk")]
    DiskFull {
        /// The node's data directory.
        folder: String,
        /// What is left.
        free_bytes: u64,
        /// What has to be left.
        reserve_bytes: u64,
    },
    /// Not done: larger than the limit.
    #[error("a transaction of {size} {unit}, of which {limit} are allowed; split it")]
    TooLarge {
        /// How large.
        size: usize,
        /// Bytes, operations, …
        unit: String,
        /// How large it may be.
        limit: usize,
    },
    /// Not done: it names a key twice.
    #[error("the transaction writes key {key:?} more than once; name each key once")]
    KeyTwice {
        /// The key, lossily as text.
        key: String,
    },
    /// Not done: it asks for what cannot be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It may have been done, or be done yet.
    #[error("no answer from {group} in time; the outcome is unknown, repeat with the same request id to learn it")]
    Unknown {
        /// The group.
        group: GroupId,
    },
    /// Not done: this node's replica is damaged or differs from the others.
    #[error("the replica of {group} on this node is out of service: {reason}")]
    OutOfService {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// Not done: the keyspace moves, or is in another group.
    #[error("the keyspace is moving to {to}; try again in a moment")]
    Moving {
        /// The other group.
        to: GroupId,
    },
}

impl CommitError {
    /// What the caller may do.
    pub fn retry(&self) -> Retry {
        match self {
            CommitError::NotLeader { leader, .. } => Retry::Elsewhere { hint: *leader },
            CommitError::Overloaded { .. } => Retry::After(Duration::from_millis(20)),
            CommitError::DiskFull { .. } => Retry::After(Duration::from_secs(1)),
            CommitError::TooLarge { .. } | CommitError::KeyTwice { .. } | CommitError::Refused(_) => Retry::Never,
            CommitError::Unknown { .. } => Retry::IfIdempotent,
            CommitError::OutOfService { .. } => Retry::Elsewhere { hint: None },
            CommitError::Moving { .. } => Retry::After(Duration::from_millis(20)),
        }
    }
}

/// Why a read was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The values at this revision are gone.
    #[error("revision {asked} has been compacted; the oldest readable one is {floor}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// What is still there.
        floor: Revision,
    },
    /// The revision doesn't exist yet.
    #[error("revision {asked} is not there yet; the latest is {head}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The latest.
        head: Revision,
    },
    /// Nobody could confirm that the local replica is up to date.
    #[error("no leader of {group} confirmed the read in time; is a majority of the nodes up?")]
    Unconfirmed {
        /// The group.
        group: GroupId,
    },
    /// It is being moved to another group, and this read needs it to be in one.
    #[error("{keyspace} is being moved to another group; wait until `netstate cluster moves` says that it has arrived")]
    Moving {
        /// The keyspace.
        keyspace: Keyspace,
    },
    /// The local replica may be older than the reader takes, and nobody could bring it up to date.
    #[error(
        "no leader of {group} confirmed the read in time, and what is here {}; {} ms were asked for",
        age.map_or_else(|| "was never confirmed".to_owned(), |age| format!("is up to {} ms old", age.as_millis())),
        bound.as_millis()
    )]
    Stale {
        /// The group.
        group: GroupId,
        /// How old it may be.
        bound: Duration,
        /// How old it may be here; `None`: nobody knows.
        age: Option<Duration>,
    },
    /// This node's replica is damaged or differs from the others.
    #[error("the replica of {group} on this node is out of service: {reason}")]
    OutOfService {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// The store could not be read.
    #[error("the local store could not be read")]
    Store(#[source] kv_store::StoreError),
}

impl ReadError {
    /// What the caller may do.
    pub fn retry(&self) -> Retry {
        match self {
            ReadError::Compacted { .. } | ReadError::Future { .. } => Retry::Never,
            ReadError::Unconfirmed { .. } | ReadError::Stale { .. } | ReadError::Moving { .. } => {
                Retry::After(Duration::from_millis(100))
            }
            ReadError::OutOfService { .. } | ReadError::Store(_) => Retry::Elsewhere { hint: None },
        }
    }
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// What came after the revision it was to resume from is gone.
    #[error("{keyspace}: what came after {after} has been compacted up to {floor}; read the keyspace again")]
    Compacted {
        /// The keyspace.
        keyspace: Keyspace,
        /// Where it was to resume.
        after: Revision,
        /// What is still there.
        floor: Revision,
    },
    /// As for a read.
    #[error(transparent)]
    Read(ReadError),
    /// The node is shutting down.
    #[error("this node is shutting down; resume on another one")]
    Stopped,
}

/// Why another node did not answer a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not delivered.
    #[error("{node} is not reachable from here")]
    Unreachable {
        /// The node.
        node: NodeId,
    },
    /// Delivered perhaps; no answer.
    #[error("{node} did not answer in time")]
    Timeout {
        /// The node.
        node: NodeId,
    },
    /// Answered with a refusal.
    #[error("{node} refused: {reason}")]
    Refused {
        /// The node.
        node: NodeId,
        /// Its reason.
        reason: String,
    },
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Mistakes in its configuration.
    #[error("the configuration has {} mistake(s): {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Config(Vec<crate::ConfigError>),
    /// No member of the cluster took it in, or it has another cluster's data.
    #[error("this node was not taken into the cluster: {reason}")]
    NotJoined {
        /// Why.
        reason: String,
    },
    /// Its data is not that of the member that it was started as.
    #[error("this node is no member: {reason}")]
    NotMember {
        /// Why.
        reason: String,
    },
    /// Its data could not be opened.
    #[error("the data directory could not be opened")]
    Store(#[from] kv_store::OpenError),
    /// Its data could not be read.
    #[error("the stored state could not be read")]
    Read(#[from] kv_store::StoreError),
    /// Its peer port is not to be had.
    #[error("cannot listen for other nodes on {address}; is the port taken?")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A group did not come up.
    #[error("{group} did not start: {reason}")]
    Group {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
}
