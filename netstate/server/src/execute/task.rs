//! One keyspace's commands: decide what waits, commit it together, answer.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use kv_core::{KeyRange, Operation, Outcome, Revision, Timestamp, Txn};
use netstate_model::{Context, Directory, NetworkState, Refusal};
use tokio::sync::mpsc;

use super::{Changes, Command, Done, ExecuteError, Inner, Job};
use crate::{
    keyspaces::Home,
    view::{directory_changes, network_changes},
};

/// Commands decided together.
const BATCH_COMMANDS: usize = 256;

/// Bytes of changes after which a batch takes no more commands. One command may hold more by itself.
const BATCH_BYTES: usize = 2 * 1024 * 1024;

/// A keyspace without commands for so long needs no task.
const IDLE: Duration = Duration::from_secs(5);

/// What commands are decided against.
enum Working {
    Directory(Directory),
    Network(NetworkState),
}

/// A command that has been decided and not committed.
struct Decided {
    job: Job,
    changes: Changes,
}

pub(super) async fn run(inner: Arc<Inner>, home: Home, mut jobs: mpsc::Receiver<Job>) {
    let mut taken = Vec::with_capacity(BATCH_COMMANDS);
    loop {
        match tokio::time::timeout(IDLE, jobs.recv_many(&mut taken, BATCH_COMMANDS)).await {
            Ok(0) => return,
            Ok(_) => {
                let mut waiting: VecDeque<_> = taken.drain(..).collect();
                while !waiting.is_empty() {
                    batch(&inner, home, &mut waiting).await;
                }
            }
            Err(_) => {
                // Nobody can put a command in any more; what got in before is still carried out.
                jobs.close();
                let keyspace = home.keyspace();
                let mut queues = inner.queues.lock();
                if queues.get(&keyspace).is_some_and(mpsc::Sender::is_closed) {
                    queues.remove(&keyspace);
                }
            }
        }
    }
}

/// Decides and commits some of what waits. What has to be decided anew waits on.
async fn batch(inner: &Inner, home: Home, waiting: &mut VecDeque<Job>) {
    let keyspace = home.keyspace();
    if inner.node.leads(inner.node.group_of(&keyspace)).is_none() {
        waiting.drain(..).for_each(|job| answer(job, Err(ExecuteError::NotLeader)));
        return;
    }
    let (mut working, base) = match home {
        Home::Directory => {
            let now = inner.view.directory();
            (Working::Directory(now.state), now.revision)
        }
        Home::Network(id) => {
            let now = inner.view.network(id);
            (Working::Network(now.state), now.revision)
        }
    };
    let (mut decided, mut txns, mut bytes, mut next) = (Vec::<Decided>::new(), Vec::new(), 0, base);
    // What would be answered on the word of commands not committed yet, a refusal or the same request once more, is
    // decided when they are.
    let mut deferred = Vec::new();
    while bytes < BATCH_BYTES
        && let Some(job) = waiting.pop_front()
    {
        if decided.iter().any(|earlier| earlier.job.asked.request == job.asked.request) {
            deferred.push(job);
            continue;
        }
        match inner.node.recorded(&keyspace, &job.asked.request) {
            Ok(Some(first)) => {
                answer_repeated(inner, home, job, first.revision);
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                answer(job, Err(ExecuteError::Unavailable { message: error.to_string() }));
                continue;
            }
        }
        let now = inner.clock.now();
        match decide(&working, &job, now) {
            Err(_) if !decided.is_empty() => deferred.push(job),
            Ok(changes) if changes.is_empty() && !decided.is_empty() => deferred.push(job),
            Err(refusal) => answer(job, Err(ExecuteError::from(&refusal))),
            Ok(changes) if changes.is_empty() => answer(job, Ok(Done { revision: next, changes })),
            Ok(changes) => {
                let then = operations(&changes);
                bytes += then.iter().map(Operation::size).sum::<usize>();
                txns.push(Txn {
                    base: Some(next),
                    then,
                    actor: job.asked.actor.clone(),
                    reason: job.asked.reason.clone(),
                    request: Some(job.asked.request),
                    at: Some(now),
                    ..Txn::default()
                });
                next = next.next();
                if !waiting.is_empty() {
                    working.evolve(&changes);
                }
                decided.push(Decided { job, changes });
            }
        }
    }
    if decided.is_empty() {
        return;
    }
    match inner.node.txns_here(&keyspace, txns).await {
        Ok(outcomes) => {
            deferred.into_iter().rev().for_each(|job| waiting.push_front(job));
            // Decided against what somebody else has changed meanwhile: again, before what came later.
            for (decided, outcome) in decided.into_iter().zip(outcomes).rev() {
                match outcome {
                    Outcome::Applied(done) => {
                        answer(decided.job, Ok(Done { revision: done.revision, changes: decided.changes }));
                    }
                    Outcome::Repeated(first) => answer_repeated(inner, home, decided.job, first.revision),
                    Outcome::Stale { .. } | Outcome::Elsewhere { .. } => waiting.push_front(decided.job),
                }
            }
        }
        Err(error) => {
            let error = ExecuteError::from(error);
            let jobs = decided.into_iter().map(|decided| decided.job).chain(deferred);
            jobs.for_each(|job| answer(job, Err(error.clone())));
        }
    }
}

fn answer(job: Job, result: Result<Done, ExecuteError>) {
    // Whoever asked may have given up; what was committed stands.
    let _ = job.answer.send(result);
}

/// The first outcome of a request that was made again.
fn answer_repeated(inner: &Inner, home: Home, job: Job, revision: Revision) {
    let before = Revision::new(revision.get().saturating_sub(1));
    let read = inner.node.records(&home.keyspace(), before, 1);
    let changes = read.ok().and_then(|records| records.into_iter().next()?.changes);
    let changes = changes.and_then(|changes| match home {
        Home::Directory => directory_changes(&changes).ok().map(Changes::Directory),
        Home::Network(_) => network_changes(&changes).ok().map(Changes::Network),
    });
    let result = changes.map(|changes| Done { revision, changes }).ok_or_else(|| ExecuteError::Unavailable {
        message: format!("this was done already, as revision {revision}; what it changed is not readable any more"),
    });
    answer(job, result);
}

fn decide(working: &Working, job: &Job, now: Timestamp) -> Result<Changes, Refusal> {
    let asked = &job.asked;
    let now = netstate_model::Timestamp::from_micros(now.micros());
    let context = Context { now, actor: &asked.actor, reason: &asked.reason };
    match (working, &asked.command) {
        (Working::Directory(state), Command::Directory(command)) => {
            state.decide(command.clone(), &context).map(Changes::Directory)
        }
        (Working::Network(state), Command::Network(_, command)) => {
            state.decide(command.clone(), &context).map(Changes::Network)
        }
        _ => unreachable!("a command is queued at its own keyspace"),
    }
}

impl Working {
    fn evolve(&mut self, changes: &Changes) {
        match (self, changes) {
            (Working::Directory(state), Changes::Directory(changes)) => {
                changes.iter().for_each(|change| state.evolve(change));
            }
            (Working::Network(state), Changes::Network(changes)) => {
                changes.iter().for_each(|change| state.evolve(change));
            }
            _ => unreachable!("changes are decided against the same kind of state"),
        }
    }
}

impl Changes {
    fn is_empty(&self) -> bool {
        match self {
            Changes::Directory(changes) => changes.is_empty(),
            Changes::Network(changes) => changes.is_empty(),
        }
    }
}

/// The changes as keys and values.
pub(crate) fn records(changes: &Changes) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    match changes {
        Changes::Directory(changes) => changes.iter().map(netstate_model::DirectoryChange::to_record).collect(),
        Changes::Network(changes) => changes.iter().map(netstate_model::NetworkChange::to_record).collect(),
    }
}

fn operations(changes: &Changes) -> Vec<Operation> {
    let operation = |(key, value): (Vec<u8>, Option<Vec<u8>>)| match value {
        Some(value) => Operation::put(key, value),
        None => Operation::delete(KeyRange::Key(Bytes::from(key))),
    };
    records(changes).into_iter().map(operation).collect()
}
