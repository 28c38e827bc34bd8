//! Keyspaces that come from another group, as the layer above sees them.
//!
//! Each group is applied by itself, and a keyspace's revisions have to be shown in their order. So the group that adopts
//! one first waits until this node has shown all that the other group had when it sealed it. That is a moment as a rule:
//! the seal is committed long before. A replica of the other group that does not get on is not waited for; the keyspace
//! is then shown anew, whole.
//!
//! Must hold: of a keyspace nothing is shown but by the group where it is, by what this node has applied.

use std::{io, time::Duration};

use kv_core::{Batch, Commit, GroupId, Keyspace, MoveId, MoveStep, Outcome, Phase};
use kv_store::AppliedEntry;
use tokio::time::{Instant, timeout_at};

use super::Machine;
use crate::publish;

/// How long the other group is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The keyspaces that some batches adopt.
fn adopting(batches: &[Option<Batch>]) -> impl Iterator<Item = (&Commit, MoveId)> {
    let commits = batches.iter().flatten().flat_map(|batch| &batch.commits);
    commits.filter_map(|commit| match commit.step() {
        Some((id, MoveStep::Adopt { .. })) => Some((commit, id)),
        _ => None,
    })
}

impl Machine {
    /// Waits until all has been shown of the keyspaces that some batches adopt. Returns those of which it has not.
    pub(super) async fn await_arrivals(&self, batches: &[Option<Batch>]) -> Vec<Keyspace> {
        let mut unseen = Vec::new();
        for (commit, id) in adopting(batches) {
            let keyspace = &commit.keyspace;
            let Some(from) = self.source(batches, keyspace, id) else { continue };
            if !self.seen(keyspace, id, from).await {
                unseen.push(keyspace.clone());
            }
        }
        unseen
    }

    /// Where a keyspace that is about to be adopted comes from; `None`: it will not be, or was before.
    fn source(&self, batches: &[Option<Batch>], keyspace: &Keyspace, id: MoveId) -> Option<GroupId> {
        let standing = self.state.standing(self.group, keyspace);
        if let Some(Phase::Arriving { from, .. }) = standing.filter(|standing| standing.last == id).map(|now| now.phase)
        {
            return Some(from);
        }
        let commits = batches.iter().flatten().flat_map(|batch| &batch.commits);
        let mut fills = commits.filter(|commit| commit.keyspace == *keyspace).filter_map(Commit::step);
        fills.find_map(|(of, step)| match step {
            MoveStep::Fill { from, .. } if of == id => Some(*from),
            _ => None,
        })
    }

    async fn seen(&self, keyspace: &Keyspace, id: MoveId, from: GroupId) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut carried = self.published.feeds().carried();
        loop {
            if carried.borrow_and_update().get(keyspace) == Some(&id) {
                return true;
            }
            // It was sealed, and what was shown of it is not known: a snapshot came, or the node has started.
            let sealed = |phase| matches!(phase, Phase::Sealed { .. }) && !self.state.is_elsewhere(keyspace, from);
            let passed = self
                .state
                .standing(from, keyspace)
                .is_some_and(|standing| standing.last > id || standing.last == id && !sealed(standing.phase));
            let now = Instant::now();
            if passed || now >= deadline {
                return false;
            }
            // Whichever comes first; a snapshot tells nobody.
            let _ = timeout_at(deadline.min(now + LOOK_AGAIN), carried.changed()).await;
        }
    }

    /// Shows what has not been seen of keyspaces that came, and says which ones came at all.
    pub(super) fn show_arrivals(
        &self,
        batches: &[Option<Batch>],
        applied: &[AppliedEntry],
        unseen: &[Keyspace],
    ) -> io::Result<()> {
        if adopting(batches).next().is_none() {
            return Ok(());
        }
        for (batch, entry) in batches.iter().zip(applied) {
            let Some(batch) = batch else { continue };
            for (commit, outcome) in batch.commits.iter().zip(&entry.outcomes) {
                let taken = matches!(outcome, Outcome::Applied(done) if done.succeeded);
                if !taken || !matches!(commit.step(), Some((_, MoveStep::Adopt { .. }))) {
                    continue;
                }
                let keyspace = &commit.keyspace;
                if unseen.contains(keyspace) {
                    let _alone = self.published.feeds().showing.write();
                    if self.state.residence(keyspace).group == self.group {
                        let head = self.state.head(self.group, keyspace);
                        publish::show(&self.state, self.group, keyspace, head, self.observer.as_ref())?;
                    }
                }
                self.published.adopted(keyspace, self.state.head(self.group, keyspace).revision);
            }
        }
        Ok(())
    }

    /// Takes note of the keyspaces that were sealed: all that they had has been shown, unless this node knows from another
    /// group that they have gone on since.
    pub(super) fn carry_on(&self, batches: &[Option<Batch>], applied: &[AppliedEntry]) {
        for (batch, entry) in batches.iter().zip(applied) {
            let Some(batch) = batch else { continue };
            for (commit, outcome) in batch.commits.iter().zip(&entry.outcomes) {
                let taken = matches!(outcome, Outcome::Applied(done) if done.succeeded);
                let here = || !self.state.is_elsewhere(&commit.keyspace, self.group);
                if let Some((id, MoveStep::Seal { .. })) = commit.step().filter(|_| taken && here()) {
                    self.published.feeds().carry(&commit.keyspace, id);
                }
            }
        }
    }
}
