//! Links between nodes: one bidirectional gRPC stream to each other node, shared by all groups.
//!
//! A node opens a stream to every other node and sends its requests on it; the answers come back on the same stream. What
//! has queued up while the last frame was being written travels as one frame.
//!
//! Must hold: a request is answered, or its asker learns that the link is down or that time is up; nothing is queued for a
//! node that is not there.

mod dial;
mod frame;
mod serve;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use kv_core::{ClusterId, GroupId, NodeId};
use kv_proto::peer::v1::Kind;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use serve::Server;

/// The version of the protocol between nodes.
const PROTOCOL: u32 = 1;

/// Requests that wait to be written to one link. Askers wait beyond that.
const OUTBOX_MESSAGES: usize = 1024;

/// Answers that wait to be written back on one link.
const ANSWERS_MESSAGES: usize = 1024;

/// Requests of one link that are being answered at a time.
const SERVED_AT_ONCE: usize = 1024;

/// Messages in one frame, and bytes after which it takes no more.
const FRAME_MESSAGES: usize = 256;
const FRAME_BYTES: usize = 1024 * 1024;

/// The largest frame accepted: a transaction at its limit, in a log entry, among others.
const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Flow control: what may be on its way on one stream, and on its connection.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

const _: () = assert!(FRAME_BYTES_MAX > kv_core::limits::COMMIT_BYTES + kv_core::limits::ENTRY_BYTES + 2 * FRAME_BYTES);

/// Who is at an end of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
}

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    /// Nothing was sent.
    #[error("there is no link")]
    Unsent,
    /// It was sent, and the link went down before the answer.
    #[error("the link went down")]
    Lost,
    #[error("no answer in time")]
    Timeout,
    #[error("refused: {reason}")]
    Refused { reason: String },
}

/// Answers the requests of other nodes.
pub(crate) trait Handler: Send + Sync + 'static {
    fn handle(
        self: Arc<Self>,
        from: NodeId,
        kind: Kind,
        group: GroupId,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>>;
}

struct Outgoing {
    kind: Kind,
    group: GroupId,
    payload: Bytes,
    answer: oneshot::Sender<Result<Bytes, LinkError>>,
}

struct Link {
    outbox: mpsc::Sender<Outgoing>,
    up: watch::Receiver<bool>,
}

/// The links to all other nodes. Cheap to clone; they close when the last clone has gone.
#[derive(Clone)]
pub(crate) struct Links(Arc<BTreeMap<NodeId, Link>>);

impl Links {
    /// Starts to keep a link to each of these nodes (id and address).
    pub(crate) fn dial(identity: Identity, peers: impl IntoIterator<Item = (NodeId, String)>) -> Self {
        let links = peers.into_iter().map(|(node, address)| {
            let (outbox, queue) = mpsc::channel(OUTBOX_MESSAGES);
            let (tell_up, up) = watch::channel(false);
            tokio::spawn(dial::keep(identity, node, address, queue, tell_up));
            (node, Link { outbox, up })
        });
        Links(Arc::new(links.collect()))
    }

    /// Asks another node and waits for its answer.
    pub(crate) async fn request(
        &self,
        to: NodeId,
        kind: Kind,
        group: GroupId,
        payload: Bytes,
        patience: Duration,
    ) -> Result<Bytes, LinkError> {
        let link = self.0.get(&to).filter(|link| *link.up.borrow()).ok_or(LinkError::Unsent)?;
        let asking = async {
            let (answer, answered) = oneshot::channel();
            let sent = link.outbox.send(Outgoing { kind, group, payload, answer }).await;
            sent.map_err(|_| LinkError::Unsent)?;
            answered.await.unwrap_or(Err(LinkError::Lost))
        };
        tokio::time::timeout(patience, asking).await.unwrap_or(Err(LinkError::Timeout))
    }

    /// Whether the link to a node is up.
    pub(crate) fn up(&self, node: NodeId) -> bool {
        self.0.get(&node).is_some_and(|link| *link.up.borrow())
    }

    /// The nodes that links are kept to.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.keys().copied()
    }
}
