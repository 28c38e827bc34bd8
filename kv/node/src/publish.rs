//! What the rest of the node learns from a group's applying: how far it is, which keyspaces moved, what the heads fold to.

use std::collections::{HashMap, VecDeque};

use kv_core::{Fold, GroupId, KeyRange, Keyspace, Revision};
use kv_store::{State, StoreError};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::observer::{AppliedCommit, Observer};

/// Folds remembered per group, to compare with replicas that are a little behind: some seconds of writing at full speed.
const FOLDS: usize = 2048;

/// One group's progress.
pub(crate) struct Published {
    applied: watch::Sender<u64>,
    /// Only of keyspaces that somebody watches.
    revisions: Mutex<HashMap<Keyspace, watch::Sender<Revision>>>,
    /// By log index, consecutive.
    folds: Mutex<VecDeque<(u64, Fold)>>,
}

impl Published {
    pub(crate) fn new(state: &State, group: GroupId, applied: u64) -> Self {
        let published = Published {
            applied: watch::Sender::new(applied),
            revisions: Mutex::default(),
            folds: Mutex::new(VecDeque::with_capacity(FOLDS)),
        };
        published.folds.lock().push_back((applied, state.fold(group)));
        published
    }

    /// Entries were applied; their effects can be read.
    pub(crate) fn applied(&self, folds: impl Iterator<Item = (u64, Fold)>, commits: &[AppliedCommit<'_>]) {
        let mut last = None;
        {
            let mut remembered = self.folds.lock();
            for (index, fold) in folds {
                // The first entry of a new group has index zero, as has the state before it.
                if remembered.back().is_some_and(|(last, _)| *last >= index) {
                    remembered.pop_back();
                }
                if remembered.len() == FOLDS {
                    remembered.pop_front();
                }
                remembered.push_back((index, fold));
                last = Some(index);
            }
        }
        if !commits.is_empty() {
            let mut revisions = self.revisions.lock();
            if !revisions.is_empty() {
                revisions.retain(|_, watched| watched.receiver_count() > 0);
                for commit in commits {
                    if let Some(watched) = revisions.get(commit.keyspace) {
                        watched.send_replace(commit.record.revision);
                    }
                }
            }
        }
        if let Some(last) = last {
            self.applied.send_replace(last);
        }
    }

    /// A snapshot took the place of the state.
    pub(crate) fn replaced(&self, state: &State, group: GroupId) -> std::io::Result<()> {
        let index = applied_index(state, group)?;
        {
            let mut folds = self.folds.lock();
            folds.clear();
            folds.push_back((index, state.fold(group)));
        }
        for (keyspace, watched) in self.revisions.lock().iter() {
            watched.send_replace(state.head(group, keyspace).revision);
        }
        self.applied.send_replace(index);
        Ok(())
    }

    /// The index applied last.
    pub(crate) fn progress(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// The index applied last, now.
    pub(crate) fn index(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Changes whenever the keyspace does.
    pub(crate) fn revisions(&self, state: &State, group: GroupId, keyspace: &Keyspace) -> watch::Receiver<Revision> {
        let mut revisions = self.revisions.lock();
        let watched = revisions
            .entry(keyspace.clone())
            .or_insert_with(|| watch::Sender::new(state.head(group, keyspace).revision));
        watched.subscribe()
    }

    /// The fold right after this index was applied, if that is still remembered.
    pub(crate) fn fold_at(&self, index: u64) -> Option<Fold> {
        let folds = self.folds.lock();
        let first = folds.front()?.0;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        folds.get(at).filter(|(found, _)| *found == index).map(|(_, fold)| *fold)
    }
}

/// The log index that the group's state has applied; zero: none yet.
pub(crate) fn applied_index(state: &State, group: GroupId) -> std::io::Result<u64> {
    let Some(applied) = state.applied(group)? else { return Ok(0) };
    Ok(crate::raft::applied_meta(&applied)?.last_log_id.map_or(0, |id| id.index))
}

/// Shows every keyspace of a group to the observer.
pub(crate) fn load(state: &State, group: GroupId, observer: &dyn Observer) -> Result<(), StoreError> {
    for (keyspace, head) in state.keyspaces(group) {
        let mut outcome = Ok(());
        observer.load(&keyspace, head, &mut |visit| {
            outcome = state.scan(group, &keyspace, &KeyRange::All, |key: &[u8], value: &[u8], revision| {
                visit(key, value, revision);
            });
        });
        outcome?;
    }
    Ok(())
}
