//! A group's whole state, sent to a replica that is too far behind for the log.
//!
//! The leader reads a pinned view chunk by chunk and sends each chunk as a request; the answer to one asks for the next,
//! so neither side holds more than a chunk. The receiver spools to disk and installs what is complete.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use kv_core::{GroupId, NodeId};
use kv_proto::peer::v1::Kind;
use kv_store::{SnapshotReceiver, State};
use openraft::raft::SnapshotResponse;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    link::{LinkError, Links},
    raft::{Raft, Snapshot, SnapshotData, SnapshotMeta, Types, Vote, decode, encode},
};

/// Bytes of one chunk: small beside a link's window, so that other messages get through between two.
const CHUNK_BYTES: usize = 512 * 1024;

/// How long one chunk may take. The last one includes installing everything.
const CHUNK_PATIENCE: Duration = Duration::from_secs(10);
const INSTALL_PATIENCE: Duration = Duration::from_secs(300);

#[derive(Serialize, Deserialize)]
enum Part {
    /// A new transfer; what was received of an earlier one is dropped.
    First,
    Chunk(Bytes),
    /// Install it.
    Last(Box<(Vote, SnapshotMeta)>),
}

#[derive(Serialize, Deserialize)]
enum PartAnswer {
    Next,
    Installed(SnapshotResponse<Types>),
}

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("the link failed")]
    Link(#[from] LinkError),
    #[error("the snapshot could not be read")]
    Read(#[source] kv_store::StoreError),
    #[error("the answer made no sense")]
    Answer,
}

/// Sends a whole snapshot and waits until it is installed.
pub(crate) async fn send(
    links: &Links,
    to: NodeId,
    group: GroupId,
    vote: Vote,
    snapshot: Snapshot,
) -> Result<SnapshotResponse<Types>, SendError> {
    let SnapshotData::Pinned(mut pinned) = snapshot.snapshot else { return Err(SendError::Answer) };
    tracing::info!(%group, %to, "sending a snapshot: the replica is too far behind for the log");
    let ask = async |part: &Part, patience| -> Result<PartAnswer, SendError> {
        let answer = links.request(to, Kind::SnapshotChunk, group, encode(part), patience).await?;
        decode(&answer).map_err(|_| SendError::Answer)
    };
    ask(&Part::First, CHUNK_PATIENCE).await?;
    loop {
        let (back, chunk) = tokio::task::spawn_blocking(move || {
            let chunk = pinned.next_chunk(CHUNK_BYTES);
            (pinned, chunk)
        })
        .await
        .map_err(|_| SendError::Answer)?;
        pinned = back;
        let Some(chunk) = chunk.map_err(SendError::Read)? else { break };
        ask(&Part::Chunk(chunk), CHUNK_PATIENCE).await?;
    }
    match ask(&Part::Last(Box::new((vote, snapshot.meta))), INSTALL_PATIENCE).await? {
        PartAnswer::Installed(response) => Ok(response),
        PartAnswer::Next => Err(SendError::Answer),
    }
}

/// Snapshots on their way to this node: one a group and sender at most.
#[derive(Default)]
pub(crate) struct Incoming(Mutex<HashMap<(NodeId, GroupId), SnapshotReceiver>>);

impl Incoming {
    /// Takes one part; installs after the last.
    pub(crate) async fn take(
        &self,
        from: NodeId,
        group: GroupId,
        state: &State,
        raft: &Raft,
        payload: &[u8],
    ) -> Result<Bytes, String> {
        let part: Part = decode(payload).map_err(|error| format!("malformed snapshot part: {error}"))?;
        let text = |error: &dyn std::error::Error| format!("snapshot of {group} not received: {error}");
        match part {
            Part::First => {
                self.0.lock().remove(&(from, group));
                let receiver = state.receive(group).map_err(|error| text(&error))?;
                self.0.lock().insert((from, group), receiver);
                Ok(encode(&PartAnswer::Next))
            }
            Part::Chunk(bytes) => {
                let mut receiver = self.0.lock().remove(&(from, group)).ok_or("no such snapshot transfer")?;
                let receiver = tokio::task::spawn_blocking(move || receiver.chunk(&bytes).map(|()| receiver));
                let receiver = receiver.await.map_err(|error| text(&error))?.map_err(|error| text(&error))?;
                self.0.lock().insert((from, group), receiver);
                Ok(encode(&PartAnswer::Next))
            }
            Part::Last(last) => {
                let (vote, meta) = *last;
                let receiver = self.0.lock().remove(&(from, group)).ok_or("no such snapshot transfer")?;
                let finishing = tokio::task::spawn_blocking(move || receiver.finish());
                let received = finishing.await.map_err(|error| text(&error))?.map_err(|error| text(&error))?;
                let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(received) };
                let installed = raft.install_full_snapshot(vote, snapshot).await.map_err(|error| text(&error))?;
                Ok(encode(&PartAnswer::Installed(installed)))
            }
        }
    }
}
