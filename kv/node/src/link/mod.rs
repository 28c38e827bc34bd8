//! Links between nodes: one bidirectional gRPC stream to each other node, shared by all groups.
//!
//! A node opens a stream to every other node and sends its requests on it; the answers come back on the same stream. What
//! has queued up while the last frame was being written travels as one frame.
//!
//! Must hold: a request is answered, or its asker learns that the link is down or that time is up; nothing is queued for a
//! node that is not there.

mod dial;
mod frame;
pub(crate) mod join;
mod serve;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kv_core::{ClusterId, GroupId, InstanceId, NodeId};
use kv_proto::peer::v1::Kind;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use serve::Server;

use crate::{
    LinkFigures,
    catalog::{Candidate, MembershipError},
};

/// The version of the protocol between nodes, and the oldest that is still spoken. A node speaks those of the release
/// before it, so that a cluster can be upgraded node by node.
pub(crate) const PROTOCOL: u32 = 1;
const PROTOCOL_OLDEST: u32 = 1;

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
    /// Its data directory; `None`: one of a version that has none.
    pub(crate) instance: Option<InstanceId>,
}

/// Decides whether a node with this data may be linked to. Asked whenever a link is made.
pub(crate) type Admit = Arc<dyn Fn(NodeId, Option<InstanceId>) -> Result<(), String> + Send + Sync>;

/// Called with the reason when another node says that this one does not belong to the cluster.
pub(crate) type Expelled = Arc<dyn Fn(&str) + Send + Sync>;

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

    /// Whether a node is one of the cluster as far as is known here, by its name and its data directory.
    fn recognises(&self, candidate: &Candidate) -> Result<(), String>;

    /// Takes a node into the cluster.
    fn join(self: Arc<Self>, candidate: Candidate) -> BoxFuture<'static, Result<join::Joined, MembershipError>>;
}

struct Outgoing {
    kind: Kind,
    group: GroupId,
    payload: Bytes,
    answer: oneshot::Sender<Result<Bytes, LinkError>>,
}

struct Link {
    address: String,
    outbox: mpsc::Sender<Outgoing>,
    /// Since when it is down; `None`: it is up.
    down: watch::Receiver<Option<tokio::time::Instant>>,
    times_up: Arc<AtomicU64>,
    /// Of the last small request; zero: there was none yet.
    round_trip_micros: AtomicU64,
    /// Ends the task that keeps it.
    _kept: DropGuard,
}

impl Link {
    fn is_up(&self) -> bool {
        self.down.borrow().is_none()
    }
}

/// The links to all other nodes. Cheap to clone; they close when the last clone has gone.
#[derive(Clone)]
pub(crate) struct Links(Arc<Inner>);

struct Inner {
    own: Identity,
    admit: Admit,
    expelled: Expelled,
    links: RwLock<BTreeMap<NodeId, Link>>,
    /// Changes whenever a link has come up.
    reached: watch::Sender<()>,
}

impl Links {
    /// Links to nobody yet.
    pub(crate) fn new(own: Identity, admit: Admit, expelled: Expelled) -> Self {
        Links(Arc::new(Inner { own, admit, expelled, links: RwLock::default(), reached: watch::channel(()).0 }))
    }

    /// Keeps links to these nodes (id and address) and to no others.
    pub(crate) fn set(&self, peers: impl IntoIterator<Item = (NodeId, String)>) {
        let wanted: BTreeMap<_, _> = peers.into_iter().filter(|(node, _)| *node != self.0.own.node).collect();
        let mut links = self.0.links.write();
        links.retain(|node, link| wanted.get(node) == Some(&link.address));
        for (node, address) in wanted {
            links.entry(node).or_insert_with(|| {
                let (outbox, queue) = mpsc::channel(OUTBOX_MESSAGES);
                let (tell_down, down) = watch::channel(Some(tokio::time::Instant::now()));
                let ended = CancellationToken::new();
                let ends = (self.0.admit.clone(), self.0.expelled.clone());
                let times_up = Arc::<AtomicU64>::default();
                let keeper = dial::Keeper::new(self.0.own, node, address.clone(), ends);
                let told = dial::Told { down: tell_down, times_up: times_up.clone(), reached: self.0.reached.clone() };
                let keeping = keeper.keep(queue, told);
                tokio::spawn(ended.clone().run_until_cancelled_owned(keeping));
                let round_trip_micros = AtomicU64::default();
                Link { address, outbox, down, times_up, round_trip_micros, _kept: ended.drop_guard() }
            });
        }
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
        let outbox = {
            let links = self.0.links.read();
            let link = links.get(&to).filter(|link| link.is_up()).ok_or(LinkError::Unsent)?;
            link.outbox.clone()
        };
        let asking = async {
            let (answer, answered) = oneshot::channel();
            let sent = outbox.send(Outgoing { kind, group, payload, answer }).await;
            sent.map_err(|_| LinkError::Unsent)?;
            answered.await.unwrap_or(Err(LinkError::Lost))
        };
        tokio::time::timeout(patience, asking).await.unwrap_or(Err(LinkError::Timeout))
    }

    /// Whether the link to a node is up.
    pub(crate) fn up(&self, node: NodeId) -> bool {
        self.0.links.read().get(&node).is_some_and(Link::is_up)
    }

    /// Changes whenever a link has come up.
    pub(crate) fn reached(&self) -> watch::Receiver<()> {
        self.0.reached.subscribe()
    }

    /// For how long the link to a node has been down.
    pub(crate) fn down_for(&self, node: NodeId) -> Duration {
        let since = self.0.links.read().get(&node).and_then(|link| *link.down.borrow());
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Takes note of how long a node took to answer a request that is nothing to it.
    pub(crate) fn took(&self, node: NodeId, time: Duration) {
        if let Some(link) = self.0.links.read().get(&node) {
            let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            link.round_trip_micros.store(micros.max(1), Ordering::Relaxed);
        }
    }

    /// Each link in figures.
    pub(crate) fn figures(&self) -> Vec<LinkFigures> {
        let figures = |(node, link): (&NodeId, &Link)| LinkFigures {
            node: *node,
            up: link.is_up(),
            times_up: link.times_up.load(Ordering::Relaxed),
            round_trip_micros: Some(link.round_trip_micros.load(Ordering::Relaxed)).filter(|micros| *micros > 0),
        };
        self.0.links.read().iter().map(figures).collect()
    }

    /// The nodes that links are kept to.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.0.links.read().keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Has nothing to say.
    struct Silent;

    impl Handler for Silent {
        fn handle(
            self: Arc<Self>,
            _from: NodeId,
            _kind: Kind,
            _group: GroupId,
            _payload: Bytes,
        ) -> BoxFuture<'static, Result<Bytes, String>> {
            Box::pin(std::future::pending())
        }

        fn recognises(&self, _candidate: &Candidate) -> Result<(), String> {
            Ok(())
        }

        fn join(self: Arc<Self>, _candidate: Candidate) -> BoxFuture<'static, Result<join::Joined, MembershipError>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn it_is_told_whenever_a_link_comes_up() {
        let links = |node| {
            let own = Identity { cluster: ClusterId::new([1; 16]), node: NodeId::new(node), instance: None };
            Links::new(own, Arc::new(|_, _| Ok(())), Arc::new(|_| {}))
        };
        let (here, there) = (links(1), links(2));
        let peer = NodeId::new(2);
        let mut reached = here.reached();
        let mut address = "127.0.0.1:0".to_owned();
        for _ in 0..2 {
            let listener = TcpListener::bind(&address).await.unwrap();
            address = listener.local_addr().unwrap().to_string();
            let stop = CancellationToken::new();
            let serving = tokio::spawn(Server::run(there.clone(), Arc::new(Silent), listener, stop.clone()));
            here.set([(peer, address.clone())]);
            reached.changed().await.unwrap();
            assert!(here.up(peer), "who is told finds it up");
            stop.cancel();
            serving.await.unwrap();
            let mut down = here.0.links.read()[&peer].down.clone();
            down.wait_for(Option::is_some).await.unwrap();
        }
    }
}
