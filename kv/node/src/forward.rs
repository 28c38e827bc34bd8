//! Transactions on their way to a group's leader on another node: what has queued up travels as one message.

use std::{sync::Arc, time::Duration};

use kv_core::{Effect, GroupId, Keyspace, NodeId, Txn, limits};
use kv_proto::peer::v1::Kind;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    error::CommitError,
    link::{LinkError, Links},
    proposer::{Answer, QUEUE_REQUESTS},
    raft::{decode, encode},
};

/// Requests in one message, and bytes of keys and values after which it takes no more.
const MESSAGE_REQUESTS: usize = 256;
const MESSAGE_BYTES: usize = limits::ENTRY_BYTES;

/// Messages of one group on their way at a time.
const MESSAGES: usize = 16;

/// Transactions on one keyspace, forwarded to the leader.
#[derive(Serialize, Deserialize)]
pub(crate) struct Forwarded {
    pub(crate) keyspace: Keyspace,
    pub(crate) txns: Vec<Txn>,
}

struct Job {
    leader: NodeId,
    request: Forwarded,
    answer: oneshot::Sender<Answer>,
}

/// Forwards to whoever leads one group.
#[derive(Clone)]
pub(crate) struct Forwarder {
    group: GroupId,
    queue: mpsc::Sender<Job>,
}

impl Forwarder {
    pub(crate) fn start(group: GroupId, links: Links, patience: Duration) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_REQUESTS);
        tokio::spawn(run(group, links, patience, jobs));
        Forwarder { group, queue }
    }

    /// Has a node that should lead the group carry out transactions.
    pub(crate) async fn forward(&self, leader: NodeId, keyspace: &Keyspace, txns: Vec<Txn>) -> Answer {
        let group = self.group;
        let (answer, answered) = oneshot::channel();
        let job = Job { leader, request: Forwarded { keyspace: keyspace.clone(), txns }, answer };
        match self.queue.try_send(job) {
            Ok(()) => answered.await.unwrap_or(Err(CommitError::Unknown { group })),
            Err(mpsc::error::TrySendError::Full(_)) => Err(CommitError::Overloaded { group, limit: QUEUE_REQUESTS }),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(CommitError::NotLeader { group, leader: None }),
        }
    }
}

async fn run(group: GroupId, links: Links, patience: Duration, mut jobs: mpsc::Receiver<Job>) {
    let free = Arc::new(Semaphore::new(MESSAGES));
    let mut kept = None;
    loop {
        let Some(first) = (match kept.take() {
            Some(job) => Some(job),
            None => jobs.recv().await,
        }) else {
            return;
        };
        // Never closed.
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        let leader = first.leader;
        let mut bytes = size(&first);
        let mut message = vec![first];
        while message.len() < MESSAGE_REQUESTS && bytes < MESSAGE_BYTES {
            let Ok(job) = jobs.try_recv() else { break };
            if job.leader != leader || bytes + size(&job) > MESSAGE_BYTES {
                kept = Some(job);
                break;
            }
            bytes += size(&job);
            message.push(job);
        }
        let links = links.clone();
        tokio::spawn(async move {
            send(group, &links, leader, message, patience).await;
            drop(permit);
        });
    }
}

fn size(job: &Job) -> usize {
    let size = |txn: &Txn| {
        let operations = txn.then.iter().chain(&txn.otherwise).map(kv_core::Operation::size).sum::<usize>();
        let compares = txn.compares.iter().map(kv_core::Compare::size).sum::<usize>();
        let records = txn.effects.iter().map(|effect| match effect {
            Effect::Record { key, value } => key.len() + value.as_ref().map_or(0, bytes::Bytes::len),
            Effect::Move { step, .. } => step.size(),
            _ => 0,
        });
        operations + compares + records.sum::<usize>()
    };
    job.request.txns.iter().map(size).sum()
}

async fn send(group: GroupId, links: &Links, leader: NodeId, message: Vec<Job>, patience: Duration) {
    let (requests, askers): (Vec<_>, Vec<_>) = message.into_iter().map(|job| (job.request, job.answer)).unzip();
    let asked = links.request(leader, Kind::Txn, group, encode(&requests), patience).await;
    let answers: Result<Vec<Answer>, CommitError> = match asked {
        Ok(answer) => decode(&answer).map_err(|_| CommitError::Unknown { group }),
        // Nothing was sent, or it was refused before it was looked at.
        Err(LinkError::Unsent | LinkError::Refused { .. }) => Err(CommitError::NotLeader { group, leader: None }),
        Err(LinkError::Lost | LinkError::Timeout) => Err(CommitError::Unknown { group }),
    };
    let answers = match answers {
        Ok(answers) if answers.len() == askers.len() => answers,
        Ok(_) => askers.iter().map(|_| Err(CommitError::Unknown { group })).collect(),
        Err(error) => askers.iter().map(|_| Err(error.clone())).collect(),
    };
    for (asker, answer) in askers.into_iter().zip(answers) {
        // Whoever asked may have given up; the outcome stands all the same.
        let _ = asker.send(answer);
    }
}
