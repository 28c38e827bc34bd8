//! Linearizable reads by read-index: one confirmation for all the reads that wait at that moment.

use std::{sync::Arc, time::Duration};

use kv_core::{GroupId, NodeId};
use kv_proto::peer::v1::Kind;
use openraft::raft::ReadPolicy;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    counts::Counts,
    error::ReadError,
    group::Leadership,
    link::Links,
    raft::{Raft, decode},
};

/// Reads that wait for one confirmation.
const QUEUE_READS: usize = 4096;

/// Between two attempts to find a leader that confirms.
const PAUSE: Duration = Duration::from_millis(20);

type Told = oneshot::Sender<bool>;

/// One group's read barrier.
#[derive(Clone)]
pub(crate) struct Barrier {
    group: GroupId,
    queue: mpsc::Sender<Told>,
    /// When the last confirmation that was given was asked for.
    confirmed: Arc<Mutex<Option<Instant>>>,
}

struct Task {
    group: GroupId,
    own: NodeId,
    raft: Raft,
    links: Links,
    leadership: Leadership,
    progress: watch::Receiver<u64>,
    patience: Duration,
    confirmed: Arc<Mutex<Option<Instant>>>,
    counts: Arc<Counts>,
}

impl Barrier {
    #[expect(clippy::too_many_arguments, reason = "each is a thing of its own, named where it is passed")]
    pub(crate) fn start(
        group: GroupId,
        own: NodeId,
        raft: Raft,
        links: Links,
        leadership: Leadership,
        progress: watch::Receiver<u64>,
        patience: Duration,
        counts: Arc<Counts>,
    ) -> Self {
        let (queue, reads) = mpsc::channel(QUEUE_READS);
        let confirmed = Arc::default();
        let task =
            Task { group, own, raft, links, leadership, progress, patience, confirmed: Arc::clone(&confirmed), counts };
        tokio::spawn(task.run(reads));
        Barrier { group, queue, confirmed }
    }

    /// Returns when the local replica has applied all that was acknowledged so long before the call, or later; says how
    /// long before. Asks the leader only if nobody has done so lately.
    pub(crate) async fn pass_within(&self, bound: Duration) -> Result<Duration, ReadError> {
        let age = || (*self.confirmed.lock()).map(|at| at.elapsed());
        if let Some(age) = age().filter(|age| *age <= bound) {
            return Ok(age);
        }
        match self.pass().await {
            Ok(()) => Ok(age().unwrap_or_default()),
            Err(_) => Err(ReadError::Stale { group: self.group, bound, age: age() }),
        }
    }

    /// Returns when the local replica has applied all that was acknowledged before the call.
    pub(crate) async fn pass(&self) -> Result<(), ReadError> {
        let (tell, told) = oneshot::channel();
        let unconfirmed = || ReadError::Unconfirmed { group: self.group };
        self.queue.send(tell).await.map_err(|_| unconfirmed())?;
        match told.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(unconfirmed()),
        }
    }
}

/// The log index up to which a replica must have applied to answer as of now. Only a leader can say.
pub(crate) async fn read_index(raft: &Raft) -> Option<u64> {
    let linearizer = raft.get_read_linearizer(ReadPolicy::ReadIndex).await.ok()?;
    Some(linearizer.read_log_id().log_id().index)
}

impl Task {
    async fn run(mut self, mut reads: mpsc::Receiver<Told>) {
        let mut waiting = Vec::new();
        // Who comes while a confirmation is under way waits for the next one: it may have seen a later commit.
        while reads.recv_many(&mut waiting, QUEUE_READS).await > 0 {
            let asked = Instant::now();
            let confirmed = self.confirm().await;
            if confirmed {
                *self.confirmed.lock() = Some(asked);
                self.counts.barriers.took(asked.elapsed());
            } else {
                self.counts.barriers_failed.add(1);
            }
            for tell in waiting.drain(..) {
                // The reader may have given up.
                let _ = tell.send(confirmed);
            }
        }
    }

    async fn confirm(&mut self) -> bool {
        let deadline = Instant::now() + self.patience;
        while Instant::now() < deadline {
            let asked = timeout_at(deadline, self.ask_leader()).await;
            if let Ok(Some(index)) = asked {
                return matches!(timeout_at(deadline, self.progress.wait_for(|at| *at >= index)).await, Ok(Ok(_)));
            }
            sleep_until(deadline.min(Instant::now() + PAUSE)).await;
        }
        false
    }

    async fn ask_leader(&self) -> Option<u64> {
        let leader = self.leadership.leader()?;
        if leader == self.own {
            return read_index(&self.raft).await;
        }
        let asked = self.links.request(leader, Kind::ReadIndex, self.group, bytes::Bytes::new(), self.patience);
        decode(&asked.await.ok()?).ok()
    }
}
