//! What the rest of the node learns from a group's applying: how far it is, which keyspaces moved, what the heads fold to.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kv_core::{Effect, Fold, GroupId, KeyRange, Keyspace, Revision};
use kv_store::{Event, RevisionEvents, State, StoreError};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::observer::{AppliedCommit, Observer};

/// Folds remembered per group, to compare with replicas that are a little behind: some seconds of writing at full speed.
const FOLDS: usize = 2048;

/// Bytes of keys and values of recent revisions kept in memory for each keyspace that somebody watches: those who keep up
/// then never read the disk.
const RECENT_BYTES: usize = 4 * 1024 * 1024;

/// The latest revisions of one keyspace, consecutive.
#[derive(Default)]
pub(crate) struct Recent {
    revisions: VecDeque<Arc<RevisionEvents>>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, revision: RevisionEvents) {
        self.bytes += bytes(&revision);
        self.revisions.push_back(Arc::new(revision));
        while self.bytes > RECENT_BYTES && self.revisions.len() > 1 {
            self.bytes -= self.revisions.pop_front().map_or(0, |oldest| bytes(&oldest));
        }
    }

    /// The revisions after this one, `max` at most. `None`: some of them are not here.
    pub(crate) fn after(&self, after: Revision, max: usize) -> Option<Vec<Arc<RevisionEvents>>> {
        let first = self.revisions.front()?.revision;
        let skip = after.get().checked_sub(first.get() - 1)?;
        Some(self.revisions.iter().skip(usize::try_from(skip).ok()?).take(max).cloned().collect())
    }
}

fn bytes(revision: &RevisionEvents) -> usize {
    let overhead = size_of::<RevisionEvents>() + revision.events.len() * size_of::<Event>();
    overhead + revision.events.iter().map(Event::bytes).sum::<usize>()
}

/// One keyspace that somebody watches.
struct Watched {
    revision: watch::Sender<Revision>,
    recent: Arc<Mutex<Recent>>,
}

/// One group's progress.
pub(crate) struct Published {
    applied: watch::Sender<u64>,
    /// Only of keyspaces that somebody watches.
    revisions: Mutex<HashMap<Keyspace, Watched>>,
    /// How often a record beside the keys has changed.
    records: watch::Sender<u64>,
    /// Something was compacted whose space was not given back yet.
    compacted: AtomicBool,
    /// By log index, consecutive.
    folds: Mutex<VecDeque<(u64, Fold)>>,
}

impl Published {
    pub(crate) fn new(state: &State, group: GroupId, applied: u64) -> Self {
        let published = Published {
            applied: watch::Sender::new(applied),
            revisions: Mutex::default(),
            records: watch::Sender::new(0),
            // What a start before this one left behind is looked for, too.
            compacted: AtomicBool::new(true),
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
                revisions.retain(|_, watched| watched.revision.receiver_count() > 0);
                for commit in commits {
                    if let Some(watched) = revisions.get(commit.keyspace) {
                        watched.recent.lock().push(events(commit));
                        watched.revision.send_replace(commit.record.revision);
                    }
                }
            }
        }
        if let Some(last) = last {
            self.applied.send_replace(last);
        }
    }

    /// Effects were applied.
    pub(crate) fn effects(&self, effects: &[Effect]) {
        if effects.iter().any(|effect| matches!(effect, Effect::Compact { .. })) {
            self.compacted.store(true, Ordering::Relaxed);
        }
        if effects.iter().any(|effect| matches!(effect, Effect::Record { .. })) {
            self.records.send_modify(|times| *times += 1);
        }
    }

    /// Changes whenever a record beside the keys does.
    /// How often records beside the keys have changed, or may have, since the node started.
    pub(crate) fn record_changes(&self) -> u64 {
        *self.records.borrow()
    }

    pub(crate) fn records(&self) -> watch::Receiver<u64> {
        self.records.subscribe()
    }

    /// Whether something was compacted since this was asked last.
    pub(crate) fn take_compacted(&self) -> bool {
        self.compacted.swap(false, Ordering::Relaxed)
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
            *watched.recent.lock() = Recent::default();
            watched.revision.send_replace(state.head(group, keyspace).revision);
        }
        self.records.send_modify(|times| *times += 1);
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

    /// What changes whenever the keyspace does, and what it did lately.
    pub(crate) fn watched(
        &self,
        state: &State,
        group: GroupId,
        keyspace: &Keyspace,
    ) -> (watch::Receiver<Revision>, Arc<Mutex<Recent>>) {
        let mut revisions = self.revisions.lock();
        let watched = revisions.entry(keyspace.clone()).or_insert_with(|| Watched {
            revision: watch::Sender::new(state.head(group, keyspace).revision),
            recent: Arc::default(),
        });
        (watched.revision.subscribe(), watched.recent.clone())
    }

    /// The fold right after this index was applied, if that is still remembered.
    pub(crate) fn fold_at(&self, index: u64) -> Option<Fold> {
        let folds = self.folds.lock();
        let first = folds.front()?.0;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        folds.get(at).filter(|(found, _)| *found == index).map(|(_, fold)| *fold)
    }
}

fn events(commit: &AppliedCommit<'_>) -> RevisionEvents {
    let event = |(change, written): (&kv_core::Change, &kv_store::Written)| Event {
        key: change.key.clone(),
        state: written.state.clone(),
        previous: written.previous.clone(),
    };
    let events = commit.changes.iter().zip(commit.written).map(event).collect();
    RevisionEvents { revision: commit.record.revision, at: commit.record.at, events }
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
