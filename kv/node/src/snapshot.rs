//! A group's whole state, sent to a replica that is too far behind for the log.
//!
//! The leader reads a pinned view chunk by chunk and sends each chunk as a request; the answer to one asks for the next,
//! so neither side holds more than a chunk. The receiver spools to disk and installs what is complete. When the link goes
//! down the sender waits for it and goes on where the receiver is. All that a node sends together keeps to a pace, so that
//! what else it does is not slowed down.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use kv_core::{GroupId, NodeId};
use kv_proto::peer::v1::Kind;
use kv_store::{SnapshotReceiver, State};
use openraft::raft::SnapshotResponse;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    counts::{Counts, Transfers},
    link::{LinkError, Links},
    raft::{Raft, Snapshot, SnapshotData, SnapshotMeta, Types, Vote, decode, encode},
};

/// Bytes of one chunk: small beside a link's window, so that other messages get through between two.
pub(crate) const CHUNK_BYTES: usize = 512 * 1024;

/// How long one chunk may take. The last one includes installing everything.
pub(crate) const CHUNK_PATIENCE: Duration = Duration::from_secs(10);
const INSTALL_PATIENCE: Duration = Duration::from_secs(300);

/// How long a transfer waits for its link to come back.
const RESUME_PATIENCE: Duration = Duration::from_secs(60);
const RESUME_PAUSE: Duration = Duration::from_millis(50);

#[derive(Serialize, Deserialize)]
pub(crate) enum Part {
    /// A new transfer; what was received of an earlier one is dropped.
    First,
    Chunk(Bytes),
    /// Install it.
    Last(Box<(Vote, SnapshotMeta)>),
    /// The link was down: which chunk comes next?
    Resume,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum PartAnswer {
    Next,
    Installed(SnapshotResponse<Types>),
    At(u32),
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
    pace: &Pace,
    vote: Vote,
    snapshot: Snapshot,
    counts: &Transfers,
) -> Result<SnapshotResponse<Types>, SendError> {
    let sent = transfer(links, to, group, pace, vote, snapshot, counts).await;
    if sent.is_ok() {
        counts.done.add(1);
    } else {
        counts.failed.add(1);
    }
    sent
}

async fn transfer(
    links: &Links,
    to: NodeId,
    group: GroupId,
    pace: &Pace,
    vote: Vote,
    snapshot: Snapshot,
    counts: &Transfers,
) -> Result<SnapshotResponse<Types>, SendError> {
    let SnapshotData::Pinned(mut pinned) = snapshot.snapshot else { return Err(SendError::Answer) };
    tracing::info!(%group, %to, "sending a snapshot: the replica is too far behind for the log");
    let ask = async |part: &Part, patience| -> Result<PartAnswer, SendError> {
        let answer = links.request(to, Kind::SnapshotChunk, group, encode(part), patience).await?;
        decode(&answer).map_err(|_| SendError::Answer)
    };
    ask(&Part::First, CHUNK_PATIENCE).await?;
    let mut sequence = 0u32;
    loop {
        let (back, chunk) = tokio::task::spawn_blocking(move || {
            let chunk = pinned.next_chunk(CHUNK_BYTES);
            (pinned, chunk)
        })
        .await
        .map_err(|_| SendError::Answer)?;
        pinned = back;
        let Some(chunk) = chunk.map_err(SendError::Read)? else { break };
        pace.keep(chunk.len()).await;
        while let Err(error) = ask(&Part::Chunk(chunk.clone()), CHUNK_PATIENCE).await {
            tracing::info!(%group, %to, sequence, %error, "a snapshot is held up");
            reconnected(links, to).await?;
            match ask(&Part::Resume, CHUNK_PATIENCE).await {
                Ok(PartAnswer::At(at)) if at == sequence => {}
                // It had arrived, only the answer had not.
                Ok(PartAnswer::At(at)) if at == sequence + 1 => break,
                Err(SendError::Link(LinkError::Unsent | LinkError::Lost | LinkError::Timeout)) => {}
                Ok(_) | Err(_) => return Err(error),
            }
        }
        sequence += 1;
        counts.bytes.add(chunk.len() as u64);
    }
    match ask(&Part::Last(Box::new((vote, snapshot.meta))), INSTALL_PATIENCE).await? {
        PartAnswer::Installed(response) => Ok(response),
        PartAnswer::Next | PartAnswer::At(_) => Err(SendError::Answer),
    }
}

/// Returns when there is a link again.
async fn reconnected(links: &Links, to: NodeId) -> Result<(), SendError> {
    let deadline = Instant::now() + RESUME_PATIENCE;
    while !links.up(to) {
        if Instant::now() > deadline {
            return Err(SendError::Link(LinkError::Unsent));
        }
        tokio::time::sleep(RESUME_PAUSE).await;
    }
    Ok(())
}

/// Keeps all snapshots that a node sends together to so many bytes a second.
#[derive(Clone)]
pub(crate) struct Pace(Arc<Keeping>);

struct Keeping {
    bytes_per_second: u64,
    /// When the next chunk may go.
    next: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Pace(Arc::new(Keeping { bytes_per_second: bytes_per_second.max(1), next: Mutex::new(Instant::now()) }))
    }

    /// Returns when so many bytes may be sent.
    pub(crate) async fn keep(&self, bytes: usize) {
        let takes = Duration::from_secs_f64(bytes as f64 / self.0.bytes_per_second as f64);
        let turn = {
            let mut next = self.0.next.lock();
            let turn = (*next).max(Instant::now());
            *next = turn + takes;
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

/// Snapshots on their way to this node: one a group and sender at most.
pub(crate) struct Incoming {
    receivers: Mutex<HashMap<(NodeId, GroupId), SnapshotReceiver>>,
    counts: Arc<Counts>,
}

impl Incoming {
    pub(crate) fn new(counts: Arc<Counts>) -> Self {
        Incoming { receivers: Mutex::default(), counts }
    }

    /// Takes one part; installs after the last.
    pub(crate) async fn take(
        &self,
        from: NodeId,
        group: GroupId,
        state: &State,
        raft: &Raft,
        payload: &[u8],
    ) -> Result<Bytes, String> {
        let taken = self.take_part(from, group, state, raft, payload).await;
        self.counts.received.failed.add(u64::from(taken.is_err()));
        taken
    }

    async fn take_part(
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
                self.receivers.lock().remove(&(from, group));
                let receiver = state.receive(group).map_err(|error| text(&error))?;
                self.receivers.lock().insert((from, group), receiver);
                Ok(encode(&PartAnswer::Next))
            }
            Part::Chunk(bytes) => {
                let mut receiver = self.receivers.lock().remove(&(from, group)).ok_or("no such snapshot transfer")?;
                self.counts.received.bytes.add(bytes.len() as u64);
                let receiver = tokio::task::spawn_blocking(move || receiver.chunk(&bytes).map(|()| receiver));
                let receiver = receiver.await.map_err(|error| text(&error))?.map_err(|error| text(&error))?;
                self.receivers.lock().insert((from, group), receiver);
                Ok(encode(&PartAnswer::Next))
            }
            Part::Resume => {
                let expected = self.receivers.lock().get(&(from, group)).map(SnapshotReceiver::expects);
                Ok(encode(&PartAnswer::At(expected.ok_or("no such snapshot transfer")?)))
            }
            Part::Last(last) => {
                let (vote, meta) = *last;
                let receiver = self.receivers.lock().remove(&(from, group)).ok_or("no such snapshot transfer")?;
                let finishing = tokio::task::spawn_blocking(move || receiver.finish());
                let received = finishing.await.map_err(|error| text(&error))?.map_err(|error| text(&error))?;
                let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(received) };
                let installed = raft.install_full_snapshot(vote, snapshot).await.map_err(|error| text(&error))?;
                self.counts.received.done.add(1);
                Ok(encode(&PartAnswer::Installed(installed)))
            }
        }
    }
}
