//! A node whose fellows are lost for good goes on alone, as a cluster of its own.
//!
//! What a majority had acknowledged and this node did not have is lost. What it had and nobody acknowledged is kept. So of
//! several survivors the one with the longest logs is to be taken ([`positions`]).
//!
//! ```text
//! stopped node ──► a new cluster's IDENTITY ──► its logs end with "I am the only voter", in a later term
//! ```
//!
//! Must hold: nothing is changed but by [`go_on_alone`]. The cluster has a new id from then on, so that nodes of the old
//! one, should they come back, are refused and no two halves go on under one name. Done twice it does no harm; interrupted,
//! it is to be done again.

use std::{collections::BTreeMap, path::Path};

use kv_core::{ClusterId, GroupId, InstanceId, NodeId};
use kv_store::{Identity, Membership as Directory, OpenError, Store};
use openraft::{
    EntryPayload,
    vote::{RaftLeaderId, RaftVote},
};
use rand::RngExt;

use crate::raft::{Entry, LogId, MemberNode, Membership, Vote, completion, decode_stored, encode, ends, finished};

/// How far a stopped node's copy of a group goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which group.
    pub group: GroupId,
    /// Term and index of its last log entry; `None`: it has none.
    pub last: Option<(u64, u64)>,
}

/// Why a node does not go on alone.
#[derive(Debug, thiserror::Error)]
pub enum AloneError {
    /// There is no node's data.
    #[error("{dir} holds no node's data")]
    Empty {
        /// The directory.
        dir: String,
    },
    /// The data could not be opened.
    #[error("the data directory could not be opened")]
    Open(#[from] OpenError),
    /// The log could not be read or written.
    #[error("the raft log could not be used")]
    Log(#[from] std::io::Error),
}

fn opened(dir: &Path) -> Result<(Identity, Store), AloneError> {
    let identity = Identity::read(dir)?.ok_or_else(|| AloneError::Empty { dir: dir.display().to_string() })?;
    Ok((identity, Store::open(dir, &identity, &kv_store::Options::default())?))
}

/// How far a stopped node's logs go, to compare survivors. Blocks.
pub fn positions(dir: &Path) -> Result<Vec<Extent>, AloneError> {
    let (identity, store) = opened(dir)?;
    let extent = |group| {
        let (_, last) = ends(store.log(), group)?;
        Ok(Extent { group, last: last.map(|id| (id.committed_leader_id().term, id.index)) })
    };
    (0..identity.groups).map(GroupId::new).map(extent).collect()
}

/// Makes a stopped node the only member of a new cluster with all that it has. `peer`: where others will reach it.
pub async fn go_on_alone(dir: &Path, name: &str, peer: &str) -> Result<ClusterId, AloneError> {
    let (identity, store) = opened(dir)?;
    let cluster = ClusterId::new(rand::rng().random());
    // First of all, so that it cannot act for the old cluster any more, whatever happens to the rest.
    store.belong_to(&Identity { cluster, ..identity })?;
    let own = (identity.node, name.to_owned(), peer.to_owned());
    Directory { instance: InstanceId::new(rand::rng().random()), peers: vec![own] }.write(dir)?;
    for group in (0..identity.groups).map(GroupId::new) {
        rule_alone(&store, group, identity.node, name, peer).await?;
    }
    Ok(cluster)
}

/// Ends a group's log with an entry that makes this node its only voter, in a term that nobody has had.
async fn rule_alone(store: &Store, group: GroupId, own: NodeId, name: &str, peer: &str) -> std::io::Result<()> {
    let (_, last) = ends(store.log(), group)?;
    let vote: Option<Vote> = store.log().vote(group)?.map(|bytes| decode_stored("vote", &bytes)).transpose()?;
    let voted = vote.map_or(0, |vote| vote.leader_id.term);
    let term = last.map_or(0, |id| id.committed_leader_id().term).max(voted) + 1;
    let index = last.map_or(0, |id| id.index + 1);
    let node = MemberNode { name: name.into(), peer: peer.into() };
    let members = Membership::new(vec![[own.get()].into()], BTreeMap::from([(own.get(), node)]));
    let members = members.map_err(std::io::Error::other)?;
    let entry = Entry { log_id: LogId::new_term_index(term, index), payload: EntryPayload::Membership(members) };
    let vote = Vote::from_leader_id(RaftLeaderId::new(term, own.get()), false);
    let entries = vec![(index, encode(&entry))];
    let (done, appended) = completion();
    store.log().append(group, entries, done).await;
    finished(appended).await?;
    let (done, saved) = completion();
    store.log().save_vote(group, encode(&vote), done).await;
    finished(saved).await
}
