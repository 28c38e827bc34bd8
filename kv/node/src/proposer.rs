//! One group's leader work: transactions become commits, commits become log entries.
//!
//! One task owns the overlay and works out one transaction after another against the state that it will meet. What has
//! queued up while it worked goes into one log entry, several entries are in flight at a time.
//!
//! Must hold: a transaction is answered with an outcome only after it was applied; "not done" is said only when its entry was
//! certainly never appended; anything else is [`CommitError::Unknown`].

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use kv_core::{Batch, Change, Commit, GroupId, KeyState, Keyspace, Operation, Outcome, Txn, limits};
use kv_store::State;
use openraft::{errors::ClientWriteError, impls::ProgressResponder};
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::Clock,
    disk::Disk,
    error::CommitError,
    group::Leadership,
    overlay::Overlay,
    raft::{Applied, Proposal, Raft, Types, encode},
};

/// Requests that wait for one group. More are refused, to be tried again in a moment.
pub(crate) const QUEUE_REQUESTS: usize = 4096;

/// Requests worked out at a time.
const ROUND_REQUESTS: usize = 1024;

/// Log entries of one group in flight. A few keep disk and network busy; many would only keep entries small.
const IN_FLIGHT_ENTRIES: usize = 4;

type Answer = Result<Vec<Outcome>, CommitError>;

struct Job {
    keyspace: Keyspace,
    txns: Vec<Txn>,
    answer: oneshot::Sender<Answer>,
}

/// Hands transactions to a group's proposer.
#[derive(Clone)]
pub(crate) struct Proposer {
    group: GroupId,
    queue: mpsc::Sender<Job>,
}

impl Proposer {
    /// Starts the task.
    pub(crate) fn start(
        group: GroupId,
        raft: Raft,
        state: State,
        clock: Arc<dyn Clock>,
        leadership: Leadership,
        disk: Disk,
    ) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_REQUESTS);
        let task = Task {
            group,
            raft,
            state,
            clock,
            leadership,
            disk,
            overlay: Overlay::default(),
            term: None,
            in_flight: FuturesUnordered::new(),
        };
        tokio::spawn(task.run(jobs));
        Proposer { group, queue }
    }

    /// Transactions on one keyspace, if this node leads its group. Answers when they are applied.
    pub(crate) async fn propose(&self, keyspace: &Keyspace, txns: Vec<Txn>) -> Answer {
        check(&txns)?;
        let group = self.group;
        let (answer, answered) = oneshot::channel();
        let job = Job { keyspace: keyspace.clone(), txns, answer };
        match self.queue.try_send(job) {
            Ok(()) => answered.await.unwrap_or(Err(CommitError::Unknown { group })),
            Err(mpsc::error::TrySendError::Full(_)) => Err(CommitError::Overloaded { group, limit: QUEUE_REQUESTS }),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(CommitError::NotLeader { group, leader: None }),
        }
    }
}

/// The limits on what one request may hold.
fn check(txns: &[Txn]) -> Result<(), CommitError> {
    let limit = |size: usize, unit: &str, limit: usize| match size > limit {
        true => Err(CommitError::TooLarge { size, unit: unit.into(), limit }),
        false => Ok(()),
    };
    let operations = || txns.iter().flat_map(|txn| txn.then.iter().chain(&txn.otherwise));
    limit(operations().map(Operation::size).sum(), "bytes", limits::TXN_BYTES)?;
    limit(operations().count() + txns.len(), "operations", limits::TXN_OPERATIONS)?;
    for operation in operations() {
        if let Operation::Put { key, value } = operation {
            limit(key.len(), "bytes of key", limits::KEY_BYTES)?;
            limit(value.len(), "bytes of value", limits::VALUE_BYTES)?;
        }
    }
    for txn in txns {
        limit(txn.actor.len(), "bytes of actor", limits::ACTOR_BYTES)?;
        limit(txn.reason.len(), "bytes of reason", limits::REASON_BYTES)?;
    }
    Ok(())
}

/// What a transaction came to when it was worked out.
enum Planned {
    /// Needs no commit.
    Known(Outcome),
    /// The n-th commit of the entry will tell.
    Commit(usize),
}

struct Planning {
    answer: oneshot::Sender<Answer>,
    slots: Vec<Planned>,
}

/// A log entry that has been handed to openraft.
struct Sent {
    term: u64,
    commits: Vec<Commit>,
    waiting: Vec<Planning>,
    result: Result<Vec<Outcome>, CommitError>,
}

struct Task {
    group: GroupId,
    raft: Raft,
    state: State,
    clock: Arc<dyn Clock>,
    leadership: Leadership,
    disk: Disk,
    overlay: Overlay,
    /// The term that the overlay is of.
    term: Option<u64>,
    in_flight: FuturesUnordered<BoxFuture<'static, Sent>>,
}

impl Task {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut round = Vec::with_capacity(ROUND_REQUESTS);
        loop {
            tokio::select! {
                biased;
                Some(sent) = self.in_flight.next(), if !self.in_flight.is_empty() => self.finish(sent),
                taken = jobs.recv_many(&mut round, ROUND_REQUESTS), if self.in_flight.len() < IN_FLIGHT_ENTRIES => {
                    if taken == 0 {
                        return;
                    }
                    self.work(std::mem::take(&mut round)).await;
                }
            }
        }
    }

    /// Works out requests and proposes what they come to.
    async fn work(&mut self, jobs: Vec<Job>) {
        let Some(term) = self.leadership.leads() else {
            let error = CommitError::NotLeader { group: self.group, leader: self.leadership.leader() };
            jobs.into_iter().for_each(|job| tell(job.answer, Err(error.clone())));
            return;
        };
        if let Err(full) = self.disk.check() {
            let error = CommitError::DiskFull {
                folder: full.folder,
                free_bytes: full.free_bytes,
                reserve_bytes: full.reserve_bytes,
            };
            jobs.into_iter().for_each(|job| tell(job.answer, Err(error.clone())));
            return;
        }
        if self.term != Some(term) {
            self.overlay.clear();
            self.term = Some(term);
        }
        let (mut commits, mut waiting, mut bytes) = (Vec::new(), Vec::new(), 0);
        for job in jobs {
            match self.plan(&job.keyspace, job.txns, &mut commits) {
                Ok((slots, size)) => {
                    bytes += size;
                    waiting.push(Planning { answer: job.answer, slots });
                }
                Err(error) => tell(job.answer, Err(error)),
            }
            if bytes >= limits::ENTRY_BYTES {
                self.send(term, std::mem::take(&mut commits), std::mem::take(&mut waiting)).await;
                bytes = 0;
            }
        }
        if !waiting.is_empty() {
            self.send(term, commits, waiting).await;
        }
    }

    /// Works out one request's transactions; on an error none of them leaves a trace.
    fn plan(
        &mut self,
        keyspace: &Keyspace,
        txns: Vec<Txn>,
        commits: &mut Vec<Commit>,
    ) -> Result<(Vec<Planned>, usize), CommitError> {
        let before = commits.len();
        let mut slots = Vec::with_capacity(txns.len());
        for txn in txns {
            match self.plan_one(keyspace, txn) {
                Ok(Ok(known)) => slots.push(Planned::Known(known)),
                Ok(Err(commit)) => {
                    self.overlay.push(&commit);
                    slots.push(Planned::Commit(commits.len()));
                    commits.push(commit);
                }
                Err(error) => {
                    commits.drain(before..).for_each(|commit| self.overlay.pop(&commit));
                    return Err(error);
                }
            }
        }
        Ok((slots, commits[before..].iter().map(Commit::size).sum()))
    }

    /// The outcome, where it is known without a commit, or the commit to make.
    fn plan_one(&self, keyspace: &Keyspace, txn: Txn) -> Result<Result<Outcome, Commit>, CommitError> {
        let applied = self.state.head(self.group, keyspace);
        let (base, last) = self.overlay.base(keyspace, &applied);
        if let Some(request) = &txn.request
            && let Some(first) = self.read(self.state.outcome(self.group, keyspace, request))?
        {
            return Ok(Ok(Outcome::Repeated(first)));
        }
        let repeats = txn.request.as_ref().is_some_and(|request| self.overlay.repeats(keyspace, request));
        if !repeats && txn.base.is_some_and(|wanted| wanted != base) {
            return Ok(Ok(Outcome::Stale { head: base }));
        }
        let mut succeeded = true;
        for compare in &txn.compares {
            let state = self.key(keyspace, &compare.key)?;
            succeeded &= compare.holds(state.as_ref());
        }
        // A repetition of what is in flight changes nothing: it only waits for the first one's outcome.
        let changes = match repeats {
            true => Vec::new(),
            false => self.changes(keyspace, if succeeded { txn.then } else { txn.otherwise })?,
        };
        let now = txn.at.map_or_else(|| self.clock.now(), |at| at.max(self.clock.now()));
        Ok(Err(Commit {
            keyspace: keyspace.clone(),
            base,
            at: now.after(last),
            actor: txn.actor,
            reason: txn.reason,
            request: txn.request,
            succeeded,
            changes,
        }))
    }

    /// What operations come to, each key once.
    fn changes(&self, keyspace: &Keyspace, operations: Vec<Operation>) -> Result<Vec<Change>, CommitError> {
        let mut named = HashSet::with_capacity(operations.len());
        let mut changes = Vec::with_capacity(operations.len());
        let mut add = |key: Bytes, value: Option<Bytes>| {
            if !named.insert(key.clone()) {
                return Err(CommitError::KeyTwice { key: String::from_utf8_lossy(&key).into_owned() });
            }
            changes.push(Change { key, value });
            Ok(())
        };
        for operation in operations {
            match operation {
                Operation::Put { key, value } => add(key, Some(value))?,
                Operation::Delete { range } => {
                    let stored = self.state.range(self.group, keyspace, &range, None, limits::TXN_OPERATIONS + 1);
                    let stored = self.read(stored.map_err(crate::node::store_error))?;
                    let mut keys: Vec<Bytes> = stored.kvs.into_iter().map(|kv| kv.key).collect();
                    keys.extend(self.overlay.keys(keyspace).filter(|key| range.contains(key)).cloned());
                    keys.sort_unstable();
                    keys.dedup();
                    if keys.len() > limits::TXN_OPERATIONS {
                        let (size, limit) = (keys.len(), limits::TXN_OPERATIONS);
                        return Err(CommitError::TooLarge { size, unit: "deleted keys".into(), limit });
                    }
                    for key in keys {
                        if self.key(keyspace, &key)?.is_some() {
                            add(key, None)?;
                        }
                    }
                }
            }
        }
        Ok(changes)
    }

    /// A key's state once everything in flight is applied.
    fn key(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<KeyState>, CommitError> {
        let stored = self.state.get(self.group, keyspace, key, None).map_err(crate::node::store_error);
        Ok(self.overlay.state(keyspace, key, self.read(stored)?))
    }

    /// A read of the local store that failed: nothing was done.
    fn read<T>(&self, result: Result<T, kv_store::StoreError>) -> Result<T, CommitError> {
        result.map_err(|error| {
            let reason = self.leadership.damaged(&error);
            CommitError::OutOfService { group: self.group, reason }
        })
    }

    async fn send(&mut self, term: u64, commits: Vec<Commit>, waiting: Vec<Planning>) {
        if commits.is_empty() {
            return self.finish(Sent { term, commits, waiting, result: Ok(Vec::new()) });
        }
        let batch = Batch { commits };
        let proposal = Proposal(encode(&batch));
        let commits = batch.commits;
        let (responder, answered) = ProgressResponder::<Types, _>::complete_only();
        let group = self.group;
        if self.raft.client_write_ff(proposal, Some(responder)).await.is_err() {
            let result = Err(CommitError::NotLeader { group, leader: None });
            return self.finish(Sent { term, commits, waiting, result });
        }
        self.in_flight.push(Box::pin(async move {
            let result = match answered.await {
                Ok(Ok(response)) => {
                    let Applied(outcomes) = response.data;
                    Ok(outcomes)
                }
                Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
                    let leader = forward.leader_id.map(crate::raft::node_id);
                    Err(CommitError::NotLeader { group, leader })
                }
                Ok(Err(_)) | Err(_) => Err(CommitError::Unknown { group }),
            };
            Sent { term, commits, waiting, result }
        }));
    }

    /// An entry has been applied, or its fate is not known: tells those who wait.
    fn finish(&mut self, sent: Sent) {
        if self.term == Some(sent.term) {
            sent.commits.iter().for_each(|commit| self.overlay.pop(commit));
            if sent.result.is_err() {
                // What is in flight behind it builds on it; what comes now builds on what is known.
                self.overlay.clear();
                self.term = None;
            }
        }
        match sent.result {
            Ok(outcomes) if outcomes.len() == sent.commits.len() => {
                for planning in sent.waiting {
                    let outcome = |slot| match slot {
                        Planned::Known(outcome) => outcome,
                        Planned::Commit(at) => outcomes[at],
                    };
                    tell(planning.answer, Ok(planning.slots.into_iter().map(outcome).collect()));
                }
            }
            Ok(_) => {
                let error = CommitError::Unknown { group: self.group };
                sent.waiting.into_iter().for_each(|planning| tell(planning.answer, Err(error.clone())));
            }
            Err(error) => sent.waiting.into_iter().for_each(|planning| tell(planning.answer, Err(error.clone()))),
        }
    }
}

fn tell(answer: oneshot::Sender<Answer>, result: Answer) {
    // Whoever asked may have given up; the outcome stands all the same.
    let _ = answer.send(result);
}
