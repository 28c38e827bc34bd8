//! Carries out one move.

use std::time::Duration;

use kv_core::{Effect, GroupId, Keyspace, MoveStep, Outcome, Phase, Row, Standing, Terms, Txn};
use kv_store::{ROW_FORMAT, State, Transfer};
use tokio::time::{Instant, sleep, timeout};

use super::{MoveError, MoveStage, MoveStatus, book::Record, run::AT_ONCE};
use crate::{
    error::{CommitError, ReadError, Retry},
    node::Node,
};

/// Bytes of rows in one log entry: small beside what an entry may have, so that others get through between two.
const CHUNK_BYTES: usize = 256 * 1024;

/// What is left to be copied when the keyspace is sealed, as a rule: as much as takes a few entries.
const SEAL_BYTES: u64 = 512 * 1024;

/// Rounds after which it is sealed whatever is left: it is written as fast as it is copied.
const ROUNDS: usize = 8;

/// Between two attempts at a step.
const PAUSE: Duration = Duration::from_millis(20);

/// Between two attempts at a move that has come to an obstacle, and how often it is tried before it is given up.
const PAUSE_ANEW: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 30;

/// The same while it takes no writes.
const ATTEMPTS_SEALED: usize = 3;

/// How long what is left stays where the keyspace was: other nodes, which may be behind, are still reading it.
const GRACE: Duration = Duration::from_secs(1);

/// How often it is told how far a move is.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Why a move does not go on now.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    #[error("a step was not confirmed")]
    Commit(#[from] CommitError),
    #[error("a group could not be read")]
    Read(#[from] ReadError),
    #[error("the local store could not be read")]
    Store(#[from] kv_store::StoreError),
    #[error("how far it is could not be told")]
    Tell(#[from] MoveError),
    #[error("somebody else carries it out, or it has ended")]
    Overtaken,
    #[error("what was copied is not what there is")]
    Differs,
    #[error("reading was interrupted")]
    Task(#[from] tokio::task::JoinError),
}

/// What is to be done next.
enum Next {
    Copy,
    Finish,
    Drop,
    Discard(String),
    /// Nothing: it ended before.
    Ended(MoveStage),
}

/// Carries out a move.
pub(super) struct Carrier {
    node: Node,
    keyspace: Keyspace,
    record: Record,
    epoch: u64,
    /// The number of the next step that fills.
    number: u64,
    status: MoveStatus,
    told: Option<Instant>,
    since: Instant,
}

/// What a round came to.
struct Round {
    bytes: u64,
    terms: Terms,
    standing: Standing,
}

impl Carrier {
    /// The n-th move begun by who leads in a term.
    pub(super) fn new(node: Node, keyspace: Keyspace, record: Record, term: u64, nth: u64) -> Self {
        let status = record.status(&keyspace, MoveStage::Copying);
        // Each attempt has an epoch of its own: fewer than a million of them fit a term.
        let epoch = (term << 32) + (nth << 12);
        Carrier { node, keyspace, record, epoch, number: 0, status, told: None, since: Instant::now() }
    }

    /// Runs until the move has ended, or cannot go on.
    pub(super) async fn run(mut self) {
        for attempt in 1.. {
            match self.go_on().await {
                Ok(()) => return,
                Err(error) => {
                    let limit = match error {
                        Obstacle::Differs => 0,
                        _ if self.sealed() => ATTEMPTS_SEALED,
                        _ => ATTEMPTS,
                    };
                    let error = &error as &dyn std::error::Error;
                    let causes = std::iter::successors(Some(error), |error| error.source());
                    let why = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
                    tracing::warn!(keyspace = %self.keyspace, id = %self.record.id, %why, "a move does not go on");
                    if attempt >= limit && self.record.given_up.is_none() {
                        self.record.given_up = Some(why);
                    }
                }
            }
            sleep(PAUSE_ANEW).await;
            self.epoch += 1;
        }
    }

    fn state(&self) -> &State {
        self.node.0.store.state()
    }

    fn sealed(&self) -> bool {
        let standing = self.state().standing(self.record.from, &self.keyspace);
        standing.is_some_and(|standing| matches!(standing.phase, Phase::Sealed { .. }))
    }

    fn way(&self) -> (GroupId, GroupId) {
        (self.record.from, self.record.to)
    }

    /// Takes all steps that are left.
    async fn go_on(&mut self) -> Result<(), Obstacle> {
        loop {
            match self.next().await? {
                Next::Copy => {
                    self.tell(MoveStage::Copying).await?;
                    self.begin().await?;
                    if !self.copy().await? {
                        continue;
                    }
                    self.tell(MoveStage::Finishing).await?;
                    self.must(self.record.from, MoveStep::Seal { to: self.record.to }).await?;
                    self.finish().await?;
                }
                Next::Finish => {
                    self.tell(MoveStage::Finishing).await?;
                    self.begin().await?;
                    self.finish().await?;
                }
                Next::Drop => {
                    self.tell(MoveStage::Dropping).await?;
                    sleep(GRACE).await;
                    self.must(self.record.from, MoveStep::Drop).await?;
                    return self.end(MoveStage::Done).await;
                }
                Next::Discard(why) => {
                    self.tell(MoveStage::GivingUp).await?;
                    // The target decides: what it has adopted is not taken back.
                    if self.step(self.record.to, MoveStep::Discard { from: self.record.from }).await? {
                        self.must(self.record.from, MoveStep::Unseal).await?;
                        return self.end(MoveStage::GivenUp(why)).await;
                    }
                }
                Next::Ended(stage) => return self.end(stage).await,
            }
        }
    }

    /// Decides by how the keyspace stands in its two groups, after all that was done.
    async fn next(&mut self) -> Result<Next, Obstacle> {
        let (from, to) = self.way();
        self.node.read_barrier(from).await?;
        self.node.read_barrier(to).await?;
        let id = self.record.id;
        let source = self.state().standing(from, &self.keyspace);
        let target = self.state().standing(to, &self.keyspace).filter(|target| target.last == id);
        let target = target.map(|target| target.phase);
        let ended = |why: &str| Next::Ended(MoveStage::GivenUp(why.into()));
        Ok(match (source.map(|source| (source.phase, source.last == id)), target) {
            (Some((Phase::Gone { .. }, true)), _) => Next::Ended(MoveStage::Done),
            (Some((Phase::Sealed { .. }, true)), Some(Phase::Live)) => Next::Drop,
            (Some((Phase::Live, true)), Some(Phase::Absent { .. })) => {
                ended(self.record.given_up.as_deref().unwrap_or("it was given up"))
            }
            (Some((Phase::Live | Phase::Sealed { .. }, _)), Some(Phase::Absent { .. })) => {
                Next::Discard(self.record.given_up.clone().unwrap_or_else(|| "it was given up".into()))
            }
            (Some((Phase::Sealed { .. }, true) | (Phase::Live, false)), _) if self.given_up()?.is_some() => {
                Next::Discard(self.record.given_up.clone().unwrap_or_default())
            }
            (Some((Phase::Sealed { .. }, true)), _) => Next::Finish,
            (Some((Phase::Live, false)), _) => Next::Copy,
            _ => ended("the keyspace is not where it was to be moved from"),
        })
    }

    /// Whether somebody has stopped it.
    fn given_up(&mut self) -> Result<Option<&str>, Obstacle> {
        if self.record.given_up.is_none()
            && let Some(record) = self.node.book()?.records.get(&self.keyspace)
            && record.id == self.record.id
        {
            self.record.given_up.clone_from(&record.given_up);
        }
        Ok(self.record.given_up.as_deref())
    }

    /// From here on nobody else fills.
    async fn begin(&mut self) -> Result<(), Obstacle> {
        self.number = 0;
        self.epoch += 1;
        self.fill(None, Vec::new(), ROW_FORMAT).await?;
        let usage = self.state().usage(self.record.from, &self.keyspace);
        self.status.of_bytes = usage.bytes;
        Ok(())
    }

    /// Copies until little is left. `false`: it was given up meanwhile.
    async fn copy(&mut self) -> Result<bool, Obstacle> {
        for _ in 0..ROUNDS {
            let round = self.round(true, false).await?;
            if self.given_up()?.is_some() {
                return Ok(false);
            }
            if round.bytes <= SEAL_BYTES {
                break;
            }
        }
        Ok(true)
    }

    /// Copies what is left of a keyspace that is sealed, and has it adopted.
    async fn finish(&mut self) -> Result<(), Obstacle> {
        for whole in [false, true] {
            let round = self.round(false, whole).await?;
            if !matches!(round.standing.phase, Phase::Sealed { .. }) || round.standing.last != self.record.id {
                return Err(Obstacle::Overtaken);
            }
            let adopt = MoveStep::Adopt { epoch: self.epoch, number: self.number - 1, terms: round.terms };
            if self.step(self.record.to, adopt).await? {
                return Ok(());
            }
            // Something is amiss with what was known to have come: everything is compared.
            self.begin().await?;
        }
        Err(Obstacle::Differs)
    }

    /// Sends what differs now.
    async fn round(&mut self, paced: bool, whole: bool) -> Result<Round, Obstacle> {
        let (from, to) = self.way();
        self.node.read_barrier(from).await?;
        self.node.read_barrier(to).await?;
        let (state, keyspace) = (self.state().clone(), self.keyspace.clone());
        let begun = tokio::task::spawn_blocking(move || state.transfer(&keyspace, (from, to), whole)).await??;
        let mut transfer = begun.ok_or(Obstacle::Overtaken)?;
        let mut round = Round { bytes: 0, terms: transfer.terms(), standing: transfer.standing() };
        let mut rows;
        (transfer, rows) = next_rows(transfer).await?;
        loop {
            let now = rows.unwrap_or_default();
            (transfer, rows) = next_rows(transfer).await?;
            let bytes = now.iter().map(Row::size).sum::<usize>() as u64;
            let mark = rows.is_none().then(|| transfer.mark());
            let began = Instant::now();
            self.fill(mark, now, ROW_FORMAT).await?;
            round.bytes += bytes;
            self.status.copied_bytes += bytes;
            if paced {
                self.tell(MoveStage::Copying).await?;
                let rate = (self.node.0.timing.move_bytes_per_second / AT_ONCE as u64).max(1);
                let pace = Duration::from_secs_f64(bytes as f64 / rate as f64);
                sleep(pace.saturating_sub(began.elapsed())).await;
            }
            if rows.is_none() {
                return Ok(round);
            }
        }
    }

    async fn fill(&mut self, mark: Option<kv_core::Mark>, rows: Vec<Row>, format: u8) -> Result<(), Obstacle> {
        let (epoch, number) = (self.epoch, self.number);
        let step = MoveStep::Fill { from: self.record.from, epoch, number, format, mark, rows };
        self.must(self.record.to, step).await?;
        self.number += 1;
        Ok(())
    }

    /// A step that has to be taken.
    async fn must(&self, group: GroupId, step: MoveStep) -> Result<(), Obstacle> {
        if self.step(group, step).await? { Ok(()) } else { Err(Obstacle::Overtaken) }
    }

    /// Takes a step, or says that it does not fit. All can be taken twice, so whatever is not known is asked again.
    async fn step(&self, group: GroupId, step: MoveStep) -> Result<bool, Obstacle> {
        let (node, id) = (&self.node, self.record.id);
        let patience = node.0.timing.commit_timeout;
        let deadline = Instant::now() + patience;
        let at = node.0.group(group).ok_or(CommitError::Unknown { group })?;
        loop {
            let effects = vec![Effect::Move { id, step: step.clone() }];
            let reason = format!("move {id} of {}", self.keyspace);
            let txn = Txn { effects, actor: "mover".into(), reason, ..Txn::default() };
            let attempt = timeout(patience, node.attempt(at, &self.keyspace, vec![txn])).await;
            let error = match attempt {
                Ok(Ok(answers)) => match answers.first().map(|answer| answer.outcome) {
                    Some(Outcome::Applied(done)) => return Ok(done.succeeded),
                    _ => CommitError::Unknown { group },
                },
                Ok(Err(error)) => error,
                Err(_) => CommitError::Unknown { group },
            };
            if error.retry() == Retry::Never || Instant::now() > deadline {
                return Err(error.into());
            }
            sleep(PAUSE).await;
        }
    }

    /// Tells how far it is, now and then.
    async fn tell(&mut self, stage: MoveStage) -> Result<(), Obstacle> {
        let news = stage != self.status.stage;
        if news || self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.status.stage = stage;
            self.node.tell(&self.status, false).await?;
            self.told = Some(Instant::now());
        }
        Ok(())
    }

    async fn end(&mut self, stage: MoveStage) -> Result<(), Obstacle> {
        let (MoveStatus { keyspace, id, from, to, copied_bytes, .. }, took) = (&self.status, self.since.elapsed());
        tracing::info!(%keyspace, %id, %from, %to, copied_bytes, ?took, ?stage, "a move has ended");
        self.status.stage = stage;
        Ok(self.node.tell(&self.status, true).await?)
    }
}

/// The next rows that differ, read beside the tasks.
async fn next_rows(mut transfer: Transfer) -> Result<(Transfer, Option<Vec<Row>>), Obstacle> {
    let read = tokio::task::spawn_blocking(move || {
        let rows = transfer.next_rows(CHUNK_BYTES);
        (transfer, rows)
    });
    let (transfer, rows) = read.await?;
    Ok((transfer, rows?))
}
