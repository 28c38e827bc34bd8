//! A damaged replica fetches its group's state from another node.
//!
//! ```text
//! quarantined ──► whole state fetched from a peer, checked ──► staged ──► process starts again ──► installed, in service
//! ```
//!
//! A state database that cannot even be opened is left where it is, and the node starts beside it with all groups out of
//! service, so that it can be told to fetch.
//!
//! Must hold: what is fetched has all that was acknowledged before it was asked for, so it never ends before the log here
//! begins. The log and the vote stay, so the replica may be a voter all the while: it has forgotten nothing that it has
//! promised. Until everything is staged nothing has changed.
//!
//! Left to others: a damaged log, which takes another node's place ([`Node::replace_node`]).

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use kv_core::{GroupId, NodeId};
use kv_proto::peer::v1::Kind;
use kv_store::{GroupSnapshot, ReceivedSnapshot, StoreError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    Node,
    group::Group,
    node::Inner,
    raft::{decode, encode},
    snapshot::{CHUNK_BYTES, CHUNK_PATIENCE, Pace},
};

/// How long what a node has begun to fetch is kept for it.
const KEPT_FOR: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fetch {
    /// The state as it is now, from its beginning.
    First,
    Next,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Fetched {
    Chunk(Bytes),
    /// That was all.
    End,
    /// Nothing was ever written in this group.
    Nothing,
}

/// Why a node's replicas were not repaired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepairError {
    /// There is nothing to repair.
    #[error("{what} on this node is in service; there is nothing to repair")]
    Sound {
        /// A group, or everything.
        what: String,
    },
    /// Nobody had it.
    #[error("the state of {group} could not be fetched: {reason}")]
    NotFetched {
        /// The group.
        group: GroupId,
        /// What each peer said.
        reason: String,
    },
    /// What was fetched could not be put on disk.
    #[error("the state of {group} was fetched and not stored: {reason}")]
    NotStored {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
}

/// What other nodes are fetching.
pub(crate) struct Outgoing {
    pace: Pace,
    pinned: Mutex<HashMap<(NodeId, GroupId), (GroupSnapshot, Instant)>>,
}

impl Outgoing {
    pub(crate) fn new(pace: Pace) -> Self {
        Outgoing { pace, pinned: Mutex::default() }
    }
}

impl Inner {
    /// The next part of a group's state, for a node that fetches it.
    pub(crate) async fn fetched(&self, from: NodeId, group: &Group, payload: &[u8]) -> Result<Bytes, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let asked: Fetch = decode(payload).map_err(|error| format!("malformed: {error}"))?;
        let (key, state) = ((from, group.id), self.store.state().clone());
        self.outgoing.pinned.lock().retain(|_, (_, since)| since.elapsed() < KEPT_FOR);
        let mut pinned = match asked {
            Fetch::First => {
                // With all that was acknowledged before.
                group.barrier.pass().await.map_err(|error| text(&error))?;
                if state.applied(group.id).map_err(|error| text(&error))?.is_none() {
                    return Ok(encode(&Fetched::Nothing));
                }
                state.snapshot(group.id).map_err(|error| group.leadership.damaged(&error))?
            }
            Fetch::Next => self.outgoing.pinned.lock().remove(&key).ok_or("nothing was begun")?.0,
        };
        let reading = tokio::task::spawn_blocking(move || (pinned.next_chunk(CHUNK_BYTES), pinned));
        let (chunk, pinned) = reading.await.map_err(|error| text(&error))?;
        let Some(chunk) = chunk.map_err(|error| group.leadership.damaged(&error))? else {
            return Ok(encode(&Fetched::End));
        };
        self.outgoing.pinned.lock().insert(key, (pinned, Instant::now()));
        self.outgoing.pace.keep(chunk.len()).await;
        Ok(encode(&Fetched::Chunk(chunk)))
    }
}

impl Node {
    /// Fetches the state of a group whose replica here is out of service, or of all such groups, from the other nodes. When
    /// this returns, [`restart_wanted`](Node::restart_wanted) resolves: the process has to start again to use it.
    pub async fn repair(&self, group: Option<GroupId>) -> Result<Vec<GroupId>, RepairError> {
        let broken = |group: &&Group| group.leadership.problem().is_some();
        let groups = &self.0.groups;
        // Of a database that cannot be read nothing is kept.
        let whole = groups.iter().filter(broken).any(|group| group.leadership.quarantine.is_of_whole_database());
        let wanted = |found: &&Group| whole || (broken(found) && group.is_none_or(|group| found.id == group));
        let wanted: Vec<_> = groups.iter().filter(wanted).collect();
        if wanted.is_empty() {
            let what = group.map_or_else(|| "everything".to_owned(), |group| group.to_string());
            return Err(RepairError::Sound { what });
        }
        let mut received = Vec::new();
        for group in &wanted {
            received.extend(self.fetch(group).await?.map(|state| (group.id, state)));
        }
        let stored = |group, error: &StoreError| RepairError::NotStored { group, reason: error.to_string() };
        for (group, state) in received {
            self.0.store.stage(state).map_err(|error| stored(group, &error))?;
        }
        if whole {
            self.0.store.rebuild_state().map_err(|error| stored(wanted[0].id, &error))?;
        }
        self.0.restart.cancel();
        Ok(wanted.iter().map(|group| group.id).collect())
    }

    /// A group's state from whichever other node has it, the leader first.
    async fn fetch(&self, group: &Group) -> Result<Option<ReceivedSnapshot>, RepairError> {
        let leader = group.leadership.leader();
        let mut peers: Vec<_> = self.peers().into_iter().filter(|(_, up)| *up).map(|(node, _)| node).collect();
        peers.sort_by_key(|node| Some(*node) != leader);
        let mut said = Vec::new();
        for peer in peers {
            match self.fetch_from(peer, group.id).await {
                Ok(state) => return Ok(state),
                Err(reason) => said.push(format!("{}: {reason}", self.name_of(peer))),
            }
        }
        let reason = if said.is_empty() { "no other node is reachable".into() } else { said.join("; ") };
        Err(RepairError::NotFetched { group: group.id, reason })
    }

    async fn fetch_from(&self, peer: NodeId, group: GroupId) -> Result<Option<ReceivedSnapshot>, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let mut receiver = self.0.store.state().receive(group).map_err(|error| text(&error))?;
        let mut next = Fetch::First;
        loop {
            let asked = self.0.links.request(peer, Kind::Fetch, group, encode(&next), CHUNK_PATIENCE).await;
            let answer = decode(&asked.map_err(|error| text(&error))?).map_err(|error| text(&error))?;
            next = Fetch::Next;
            match answer {
                Fetched::Nothing => return Ok(None),
                Fetched::End => break,
                Fetched::Chunk(chunk) => {
                    let taking = tokio::task::spawn_blocking(move || receiver.chunk(&chunk).map(|()| receiver));
                    receiver = taking.await.map_err(|error| text(&error))?.map_err(|error| text(&error))?;
                }
            }
        }
        let finishing = tokio::task::spawn_blocking(move || receiver.finish());
        let received = finishing.await.map_err(|error| text(&error))?.map_err(|error| text(&error))?;
        Ok(Some(received))
    }
}
