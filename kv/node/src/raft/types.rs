//! openraft, told which types to use.

use std::fmt;

use bytes::Bytes;
use kv_core::{NodeId, Outcome};
use openraft::impls::leader_id_std;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

openraft::declare_raft_types!(
    /// One leader a term, as in the Raft paper: log ids are then (term, index).
    pub(crate) Types:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = MemberNode,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type Raft = openraft::Raft<Types, super::Machine>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, MemberNode>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<Types, super::SnapshotData>;

/// An encoded [`kv_core::Batch`]: encoded once by the leader, carried as bytes through log and network.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Proposal(pub(crate) Bytes);

/// What became of each commit of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied(pub(crate) Vec<Outcome>);

/// A member as the group's own configuration holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberNode {
    pub(crate) name: String,
    pub(crate) peer: String,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} outcomes", self.0.len())
    }
}

impl fmt::Display for MemberNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.peer)
    }
}

/// The form of everything that this crate stores or sends.
pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_allocvec(value).expect("only lengths unknown up front fail, and our types have none").into()
}

/// Reads what [`encode`] wrote, here or elsewhere.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes(bytes)
}

/// The same for what storage returns, whose checksum has been checked: only another version can have written it.
pub(crate) fn decode_stored<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> std::io::Result<T> {
    decode(bytes).map_err(|error| {
        let text = format!("{what}: {error}; it was written by another version of netstate, start that one");
        std::io::Error::new(std::io::ErrorKind::InvalidData, text)
    })
}

pub(crate) fn node_id(raw: u64) -> NodeId {
    NodeId::new(raw)
}
