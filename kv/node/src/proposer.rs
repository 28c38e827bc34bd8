//! One group's leader work: transactions become commits, commits become log entries.
//!
//! One task owns the overlay and works out one transaction after another against the state that it will meet. What has
//! queued up while it worked goes into one log entry, several entries are in flight at a time.
//!
//! Must hold: a transaction is answered with an outcome only after it was applied; "not done" is said only when its entry was
//! certainly never appended; anything else is [`CommitError::Unknown`].

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use kv_core::{
    Answered, Batch, Commit, Done, Effect, GroupId, Keyspace, MoveStep, Operation, Outcome, Refusal, Revision,
    Timestamp, Txn, TxnOutcome, limits,
};
use kv_store::State;
use openraft::{errors::ClientWriteError, impls::ProgressResponder};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tracing::{Instrument as _, Span};

use crate::{
    clock::Clock,
    counts::Counts,
    disk::Disk,
    error::CommitError,
    evaluate::{Evaluation, Stop},
    group::Leadership,
    overlay::Overlay,
    raft::{Applied, Proposal, Raft, Types, encode},
    rest,
    trace::{TARGET, Traced},
};

/// Requests that wait for one group. More are refused, to be tried again in a moment.
pub(crate) const QUEUE_REQUESTS: usize = 4096;

/// Requests worked out at a time.
const ROUND_REQUESTS: usize = 1024;

/// Log entries of one group in flight. A few keep disk and network busy; many would only keep entries small.
const IN_FLIGHT_ENTRIES: usize = 4;

/// How often a transaction that only reads is tried without the log.
const READ_ATTEMPTS: usize = 16;

pub(crate) type Answer = Result<Vec<Answered>, CommitError>;

struct Job {
    keyspace: Keyspace,
    txns: Vec<Txn>,
    answer: oneshot::Sender<Answer>,
    span: Span,
}

/// Hands transactions to a group's proposer.
#[derive(Clone)]
pub(crate) struct Proposer {
    group: GroupId,
    queue: mpsc::Sender<Job>,
    state: State,
    leadership: Leadership,
    counts: Arc<Counts>,
}

impl Proposer {
    /// Starts the task.
    #[expect(clippy::too_many_arguments, reason = "each is a thing of its own, named where it is passed")]
    pub(crate) fn start(
        group: GroupId,
        raft: Raft,
        state: State,
        clock: Arc<dyn Clock>,
        leadership: Leadership,
        disk: Disk,
        counts: Arc<Counts>,
        traced: Traced,
    ) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_REQUESTS);
        let task = Task {
            group,
            raft,
            state: state.clone(),
            clock,
            leadership: leadership.clone(),
            disk,
            counts: counts.clone(),
            traced,
            overlay: Overlay::default(),
            term: None,
            in_flight: FuturesUnordered::new(),
        };
        tokio::spawn(task.run(jobs));
        Proposer { group, queue, state, leadership, counts }
    }

    /// Transactions on one keyspace, if this node leads its group. Answers when they are applied.
    pub(crate) async fn propose(&self, keyspace: &Keyspace, txns: Vec<Txn>) -> Answer {
        let span = tracing::debug_span!(target: TARGET, "propose", group = %self.group);
        let answer = self.ask(keyspace, txns, span.clone()).instrument(span).await;
        self.counts.proposed(&answer);
        answer
    }

    async fn ask(&self, keyspace: &Keyspace, txns: Vec<Txn>, span: Span) -> Answer {
        check(&txns)?;
        let group = self.group;
        let (answer, answered) = oneshot::channel();
        let job = Job { keyspace: keyspace.clone(), txns, answer, span };
        match self.queue.try_send(job) {
            Ok(()) => answered.await.unwrap_or(Err(CommitError::Unknown { group })),
            Err(mpsc::error::TrySendError::Full(_)) => Err(CommitError::Overloaded { group, limit: QUEUE_REQUESTS }),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(CommitError::NotLeader { group, leader: None }),
        }
    }
}

impl Proposer {
    /// A transaction that only reads, worked out against the local replica. `None`: that changes too fast to be read
    /// at one moment like this.
    pub(crate) fn check_and_read(&self, keyspace: &Keyspace, txn: &Txn) -> Result<Option<Answered>, CommitError> {
        check(std::slice::from_ref(txn))?;
        let overlay = Overlay::default();
        for _ in 0..READ_ATTEMPTS {
            let Some(moment) = self.state.moment(self.group) else { continue };
            let base = self.state.head(self.group, keyspace).revision;
            let mut evaluation = Evaluation::new(&self.state, self.group, keyspace, &overlay, base);
            let worked = evaluation.run(&txn.compares, &txn.then, &txn.otherwise);
            // Its reads are of one moment only if nothing was applied meanwhile.
            if self.state.moment(self.group) == Some(moment) {
                let (succeeded, done) = worked.map_err(|stop| stopped(self.group, &self.leadership, stop))?;
                let outcome = Outcome::Applied(TxnOutcome { succeeded, revision: base });
                return Ok(Some(Answered { outcome, done }));
            }
        }
        Ok(None)
    }
}

/// The limits on what one request may hold.
fn check(txns: &[Txn]) -> Result<(), CommitError> {
    let limit = |size: usize, unit: &str, limit: usize| match size > limit {
        true => Err(CommitError::TooLarge { size, unit: unit.into(), limit }),
        false => Ok(()),
    };
    let (mut bytes, mut operations) = (0, txns.len());
    for txn in txns {
        for branch in [&txn.then, &txn.otherwise] {
            let mut largest = (0, 0);
            for operation in branch {
                bytes += operation.size();
                operation.visit(&mut |inner| {
                    operations += 1;
                    if let Operation::Put(put) = inner {
                        largest.0 = largest.0.max(put.key.len());
                        largest.1 = largest.1.max(put.value.as_ref().map_or(0, Bytes::len));
                    }
                });
            }
            limit(largest.0, "bytes of key", limits::KEY_BYTES)?;
            limit(largest.1, "bytes of value", limits::VALUE_BYTES)?;
            if branch.len() > 1
                && let Some(key) = kv_core::written_twice(branch)
            {
                return Err(CommitError::KeyTwice { key: String::from_utf8_lossy(&key).into_owned() });
            }
        }
        operations += txn.effects.len();
        limit(txn.actor.len(), "bytes of actor", limits::ACTOR_BYTES)?;
        limit(txn.reason.len(), "bytes of reason", limits::REASON_BYTES)?;
    }
    limit(bytes, "bytes", limits::TXN_BYTES)?;
    limit(operations, "operations", limits::TXN_OPERATIONS)
}

/// What a transaction came to when it was worked out.
enum Planned {
    /// Needs no commit.
    Known(Outcome),
    /// The n-th commit of the entry will tell whether these came to be.
    Commit(usize, Vec<Done>),
}

impl Planned {
    /// Where the keyspace was moving when it came to be applied. Then none of a request's transactions was.
    fn elsewhere(&self, outcomes: &[Outcome]) -> Option<GroupId> {
        match self {
            Planned::Commit(at, _) => match outcomes[*at] {
                Outcome::Elsewhere { to } => Some(to),
                _ => None,
            },
            Planned::Known(_) => None,
        }
    }
}

struct Planning {
    answer: oneshot::Sender<Answer>,
    slots: Vec<Planned>,
    span: Span,
}

/// A log entry that has been handed to openraft.
struct Sent {
    term: u64,
    commits: Vec<Commit>,
    waiting: Vec<Planning>,
    result: Result<Vec<Outcome>, CommitError>,
}

/// What a transaction comes to.
#[derive(Default)]
struct Worked {
    succeeded: bool,
    done: Vec<Done>,
    changes: Vec<kv_core::Change>,
    effects: Vec<Effect>,
}

struct Task {
    group: GroupId,
    raft: Raft,
    state: State,
    clock: Arc<dyn Clock>,
    leadership: Leadership,
    disk: Disk,
    counts: Arc<Counts>,
    traced: Traced,
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
        rest::rouse(&self.raft, &self.leadership).await;
        let Some(term) = self.leadership.leads() else {
            let error = CommitError::NotLeader { group: self.group, leader: self.leadership.leader() };
            jobs.into_iter().for_each(|job| tell(job.answer, Err(error.clone())));
            return;
        };
        if self.term != Some(term) {
            self.overlay.clear();
            self.term = Some(term);
        }
        let (mut commits, mut waiting, mut bytes) = (Vec::new(), Vec::new(), 0);
        for job in jobs {
            match self.plan(&job.keyspace, job.txns, &mut commits) {
                Ok((slots, size)) => {
                    bytes += size;
                    waiting.push(Planning { answer: job.answer, slots, span: job.span });
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
                Ok(Err((commit, done))) => {
                    self.overlay.push(&commit);
                    slots.push(Planned::Commit(commits.len(), done));
                    commits.push(commit);
                }
                Err(error) => {
                    commits.drain(before..).rev().for_each(|commit| self.overlay.take_back(&commit));
                    return Err(error);
                }
            }
        }
        Ok((slots, commits[before..].iter().map(Commit::size).sum()))
    }

    /// The outcome, where it is known without a commit, or the commit to make and what its steps come to.
    fn plan_one(&self, keyspace: &Keyspace, txn: Txn) -> Result<Result<Outcome, (Commit, Vec<Done>)>, CommitError> {
        if txn.term.is_some() && txn.term != self.term {
            return Err(CommitError::NotLeader { group: self.group, leader: None });
        }
        let applied = self.state.head(self.group, keyspace);
        let (base, last) = self.overlay.base(keyspace, &applied);
        if let [Effect::Move { .. }] = &txn.effects[..] {
            // Whether it fits is decided where it is applied.
            let mut worked = Worked { succeeded: true, effects: txn.effects.clone(), ..Worked::default() };
            return Ok(Err((self.commit(keyspace, txn, base, last, &mut worked)?, Vec::new())));
        }
        if let Some(request) = &txn.request
            && let Some(first) = self.read(self.state.outcome(self.group, keyspace, request))?
        {
            return Ok(Ok(Outcome::Repeated(first)));
        }
        let standing = self.state.standing(self.group, keyspace);
        if let Some(to) = standing.and_then(|standing| standing.elsewhere()) {
            return Err(CommitError::Moving { to });
        }
        let repeats = txn.request.as_ref().is_some_and(|request| self.overlay.repeats(keyspace, request));
        if !repeats && txn.base.is_some_and(|wanted| wanted != base) {
            return Ok(Ok(Outcome::Stale { head: base }));
        }
        // A repetition of what is in flight changes nothing: it only waits for the first one's outcome.
        let mut worked = Worked { succeeded: true, ..Worked::default() };
        if !repeats {
            let mut evaluation = Evaluation::new(&self.state, self.group, keyspace, &self.overlay, base);
            worked = self
                .work_out(keyspace, &txn, &mut evaluation)
                .map_err(|stop| stopped(self.group, &self.leadership, stop))?;
            worked.changes = evaluation.into_changes();
        }
        let commit = self.commit(keyspace, txn, base, last, &mut worked)?;
        Ok(Err((commit, worked.done)))
    }

    /// The commit that a transaction comes to, if there is room for it.
    fn commit(
        &self,
        keyspace: &Keyspace,
        txn: Txn,
        base: Revision,
        last: Timestamp,
        worked: &mut Worked,
    ) -> Result<Commit, CommitError> {
        let now = txn.at.map_or_else(|| self.clock.now(), |at| at.max(self.clock.now()));
        let commit = Commit {
            keyspace: keyspace.clone(),
            base,
            at: now.after(last),
            actor: txn.actor,
            reason: txn.reason,
            request: txn.request,
            succeeded: worked.succeeded,
            changes: std::mem::take(&mut worked.changes),
            effects: std::mem::take(&mut worked.effects),
        };
        let (size, limit) = (commit.size(), limits::COMMIT_BYTES);
        if size > limit {
            return Err(CommitError::TooLarge { size, unit: "bytes of changes".into(), limit });
        }
        let room = if grows(&commit) { self.disk.check() } else { self.disk.check_removal() };
        room.map_err(|full| CommitError::DiskFull {
            folder: full.folder,
            free_bytes: full.free_bytes,
            reserve_bytes: full.reserve_bytes,
        })?;
        Ok(commit)
    }

    fn work_out(&self, keyspace: &Keyspace, txn: &Txn, evaluation: &mut Evaluation<'_>) -> Result<Worked, Stop> {
        if let Some(guard) = &txn.guard {
            let stored = self.state.beside(self.group, keyspace, &guard.key)?;
            if self.overlay.beside(keyspace, &guard.key, stored) != guard.value {
                return Err(Stop::Refused(Refusal::Guarded));
            }
        }
        let (mut succeeded, done) = evaluation.run(&txn.compares, &txn.then, &txn.otherwise)?;
        let mut effects = Vec::with_capacity(txn.effects.len());
        for effect in &txn.effects {
            let there = |lease| {
                let stored = self.state.lease(self.group, keyspace, lease).is_some();
                self.overlay.lease(keyspace, lease, stored)
            };
            let keep = match effect {
                Effect::Grant { lease, .. } if there(*lease) => {
                    return Err(Stop::Refused(Refusal::LeaseThere { lease: *lease }));
                }
                Effect::Revoke { lease } if !there(*lease) => {
                    return Err(Stop::Refused(Refusal::LeaseMissing { lease: *lease }));
                }
                // One with more keys than a commit may remove ends with a later transaction.
                Effect::Revoke { lease } => {
                    succeeded = evaluation.detach(*lease)?;
                    succeeded
                }
                Effect::Checkpoint { lease, .. } => there(*lease),
                Effect::Compact { to, .. } => {
                    let head = evaluation.base();
                    let floor = self.state.usage(self.group, keyspace).floor;
                    if *to > head {
                        return Err(Stop::Refused(Refusal::Future { asked: *to, head }));
                    }
                    if *to <= floor {
                        return Err(Stop::Refused(Refusal::Compacted { asked: *to, floor }));
                    }
                    true
                }
                Effect::Grant { .. } | Effect::Record { .. } => true,
                // It stands alone.
                Effect::Move { .. } => false,
            };
            effects.extend(keep.then(|| effect.clone()));
        }
        Ok(Worked { succeeded, done, effects, changes: Vec::new() })
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
        let on_its_way = self.traced.sent(&proposal.0, waiting.iter().map(|planning| &planning.span));
        let commits = batch.commits;
        let (responder, answered) = ProgressResponder::<Types, _>::complete_only();
        let (group, counts, began) = (self.group, self.counts.clone(), Instant::now());
        if self.raft.client_write_ff(proposal, Some(responder)).await.is_err() {
            let result = Err(CommitError::NotLeader { group, leader: None });
            return self.finish(Sent { term, commits, waiting, result });
        }
        self.in_flight.push(Box::pin(async move {
            let result = match answered.await {
                Ok(Ok(response)) => {
                    counts.commits.took(began.elapsed());
                    let Applied(outcomes) = response.data;
                    Ok(outcomes)
                }
                Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
                    let leader = forward.leader_id.map(crate::raft::node_id);
                    Err(CommitError::NotLeader { group, leader })
                }
                Ok(Err(_)) | Err(_) => Err(CommitError::Unknown { group }),
            };
            drop(on_its_way);
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
                    if let Some(to) = planning.slots.iter().find_map(|slot| slot.elsewhere(&outcomes)) {
                        tell(planning.answer, Err(CommitError::Moving { to }));
                        continue;
                    }
                    let answered = |slot| match slot {
                        Planned::Known(outcome) => Answered { outcome, done: Vec::new() },
                        Planned::Commit(at, done) => {
                            let came_to_be = matches!(outcomes[at], Outcome::Applied(_));
                            Answered { outcome: outcomes[at], done: if came_to_be { done } else { Vec::new() } }
                        }
                    };
                    tell(planning.answer, Ok(planning.slots.into_iter().map(answered).collect()));
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

/// Whether a commit adds anything; one that only removes makes room in the end.
fn grows(commit: &Commit) -> bool {
    let adds = |effect: &Effect| match effect {
        Effect::Grant { .. } => true,
        Effect::Record { value, .. } => value.is_some(),
        Effect::Move { step, .. } => matches!(step, MoveStep::Fill { .. }),
        Effect::Checkpoint { .. } | Effect::Revoke { .. } | Effect::Compact { .. } => false,
    };
    commit.changes.iter().any(|change| change.value.is_some()) || commit.effects.iter().any(adds)
}

fn stopped(group: GroupId, leadership: &Leadership, stop: Stop) -> CommitError {
    match stop {
        Stop::Refused(refusal) => CommitError::Refused(refusal),
        Stop::TooManyDeleted(size) => {
            CommitError::TooLarge { size, unit: "deleted keys".into(), limit: limits::TXN_OPERATIONS }
        }
        Stop::Store(error) => CommitError::OutOfService { group, reason: leadership.damaged(&error) },
    }
}

fn tell(answer: oneshot::Sender<Answer>, result: Answer) {
    // Whoever asked may have given up; the outcome stands all the same.
    let _ = answer.send(result);
}
