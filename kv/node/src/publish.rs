//! What the rest of the node learns from a group's applying: how far it is, which keyspaces moved, what the heads fold to.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kv_core::{Effect, Fold, GroupId, Head, KeyRange, Keyspace, MoveId, Revision};
use kv_store::{Event, RevisionEvents, State, StoreError};
use parking_lot::{Mutex, RwLock};
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
    /// Takes the next revision. One that is known already is left out, and one behind a gap begins anew: the two groups
    /// between which a keyspace moves are not applied in step.
    fn push(&mut self, revision: RevisionEvents) {
        let last = self.revisions.back().map(|last| last.revision);
        if last.is_some_and(|last| last >= revision.revision) {
            return;
        }
        if last.is_some_and(|last| last.next() != revision.revision) {
            *self = Recent::default();
        }
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

/// What is told of keyspaces, in whatever group they are: a watch does not notice that its keyspace moves. Shared by all
/// groups of a node.
pub(crate) struct Feeds {
    /// Only of keyspaces that somebody watches.
    revisions: Mutex<HashMap<Keyspace, Watched>>,
    /// How often a record beside the keys has changed.
    records: watch::Sender<u64>,
    /// Of keyspaces that move: the observer has seen all that there was when they were sealed.
    carried: watch::Sender<HashMap<Keyspace, MoveId>>,
    /// Held while the observer is shown something, and alone by who shows it a keyspace anew.
    pub(crate) showing: RwLock<()>,
}

/// Watched keyspaces among which those are looked for that nobody watches any more.
const SWEEP_KEYSPACES: usize = 64;

impl Feeds {
    pub(crate) fn new() -> Self {
        Feeds {
            revisions: Mutex::default(),
            records: watch::Sender::new(0),
            carried: watch::Sender::new(HashMap::new()),
            showing: RwLock::new(()),
        }
    }

    /// Commits were applied in the group where their keyspace is.
    fn applied(&self, commits: &[AppliedCommit<'_>]) {
        if commits.is_empty() {
            return;
        }
        let mut revisions = self.revisions.lock();
        for commit in commits {
            let Some(watched) = revisions.get(commit.keyspace) else { continue };
            if watched.revision.receiver_count() == 0 {
                revisions.remove(commit.keyspace);
                continue;
            }
            watched.recent.lock().push(events(commit));
            watched.reach(commit.record.revision);
        }
    }

    /// A keyspace came with all that it had.
    pub(crate) fn adopted(&self, keyspace: &Keyspace, head: Revision) {
        if let Some(watched) = self.revisions.lock().get(keyspace) {
            watched.reach(head);
        }
        self.records.send_modify(|times| *times += 1);
        self.carried.send_if_modified(|carried| carried.remove(keyspace).is_some());
    }

    /// The observer has seen all that a keyspace had when it was sealed.
    pub(crate) fn carry(&self, keyspace: &Keyspace, id: MoveId) {
        self.carried.send_modify(|carried| {
            carried.insert(keyspace.clone(), id);
        });
    }

    /// What changes when the observer has seen all of a keyspace.
    pub(crate) fn carried(&self) -> watch::Receiver<HashMap<Keyspace, MoveId>> {
        self.carried.subscribe()
    }

    /// What changes whenever the keyspace does, and what it did lately.
    pub(crate) fn watched(
        &self,
        state: &State,
        keyspace: &Keyspace,
    ) -> (watch::Receiver<Revision>, Arc<Mutex<Recent>>) {
        let mut revisions = self.revisions.lock();
        if !revisions.contains_key(keyspace) && revisions.len() >= SWEEP_KEYSPACES && revisions.len().is_power_of_two()
        {
            revisions.retain(|_, watched| watched.revision.receiver_count() > 0);
        }
        let watched = revisions.entry(keyspace.clone()).or_insert_with(|| {
            let head = state.head(state.residence(keyspace).group, keyspace);
            Watched { revision: watch::Sender::new(head.revision), recent: Arc::default() }
        });
        (watched.revision.subscribe(), watched.recent.clone())
    }

    /// A snapshot took the place of a group's state.
    fn replaced(&self, state: &State, group: GroupId) {
        for (keyspace, watched) in self.revisions.lock().iter() {
            if state.residence(keyspace).group == group {
                *watched.recent.lock() = Recent::default();
                watched.revision.send_replace(state.head(group, keyspace).revision);
            }
        }
        self.records.send_modify(|times| *times += 1);
    }

    /// How often records beside the keys have changed, or may have, since the node started.
    pub(crate) fn record_changes(&self) -> u64 {
        *self.records.borrow()
    }

    /// Changes whenever a record beside the keys does.
    pub(crate) fn records(&self) -> watch::Receiver<u64> {
        self.records.subscribe()
    }
}

impl Watched {
    fn reach(&self, revision: Revision) {
        self.revision.send_if_modified(|known| {
            let later = revision > *known;
            *known = revision.max(*known);
            later
        });
    }
}

/// One group's progress.
pub(crate) struct Published {
    applied: watch::Sender<u64>,
    feeds: Arc<Feeds>,
    /// Something was compacted whose space was not given back yet.
    compacted: AtomicBool,
    /// By log index, consecutive.
    folds: Mutex<VecDeque<(u64, Fold)>>,
}

impl Published {
    pub(crate) fn new(state: &State, group: GroupId, applied: u64, feeds: Arc<Feeds>) -> Self {
        let published = Published {
            applied: watch::Sender::new(applied),
            feeds,
            // What a start before this one left behind is looked for, too.
            compacted: AtomicBool::new(true),
            folds: Mutex::new(VecDeque::with_capacity(FOLDS)),
        };
        published.folds.lock().push_back((applied, state.fold(group)));
        published
    }

    /// Entries were applied; their effects can be read. `commits`: those of keyspaces that are in this group.
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
        self.feeds.applied(commits);
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
            self.feeds.records.send_modify(|times| *times += 1);
        }
    }

    /// A keyspace came with all that it had, some of which may have been compacted since.
    pub(crate) fn adopted(&self, keyspace: &Keyspace, head: Revision) {
        self.compacted.store(true, Ordering::Relaxed);
        self.feeds.adopted(keyspace, head);
    }

    pub(crate) fn feeds(&self) -> &Feeds {
        &self.feeds
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
        self.feeds.replaced(state, group);
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

/// Shows every keyspace that is in a group to the observer.
pub(crate) fn load(state: &State, group: GroupId, observer: &dyn Observer, feeds: &Feeds) -> Result<(), StoreError> {
    for (keyspace, head) in state.keyspaces(group) {
        let residence = state.residence(&keyspace);
        if residence.group == group {
            show(state, group, &keyspace, head, observer)?;
            if let Some((_, id)) = residence.moving {
                feeds.carry(&keyspace, id);
            }
        }
    }
    Ok(())
}

/// Shows a keyspace to the observer.
pub(crate) fn show(
    state: &State,
    group: GroupId,
    keyspace: &Keyspace,
    head: Head,
    observer: &dyn Observer,
) -> Result<(), StoreError> {
    let mut outcome = Ok(());
    observer.load(keyspace, head, &mut |visit| {
        outcome = state.scan(group, keyspace, &KeyRange::All, |key: &[u8], value: &[u8], revision| {
            visit(key, value, revision);
        });
    });
    outcome
}

#[cfg(test)]
mod tests {
    use kv_core::Timestamp;

    use super::*;

    fn revision(number: u64) -> RevisionEvents {
        RevisionEvents { revision: Revision::new(number), at: Timestamp::default(), events: Vec::new() }
    }

    fn after(recent: &Recent, number: u64) -> Option<Vec<u64>> {
        let found = recent.after(Revision::new(number), 100)?;
        Some(found.iter().map(|found| found.revision.get()).collect())
    }

    /// What is told is consecutive, whichever of two groups is ahead while a keyspace moves.
    #[test]
    fn what_is_recent_has_no_gaps_and_no_doubles() {
        let mut recent = Recent::default();
        [5, 6, 7, 6, 7].into_iter().for_each(|number| recent.push(revision(number)));
        assert_eq!(after(&recent, 4), Some(vec![5, 6, 7]));
        assert_eq!(after(&recent, 3), None, "an earlier one is on disk");
        recent.push(revision(10));
        assert_eq!(after(&recent, 7), None, "what came in between is on disk");
        assert_eq!(after(&recent, 9), Some(vec![10]));
        [8, 9, 11].into_iter().for_each(|number| recent.push(revision(number)));
        assert_eq!(after(&recent, 9), Some(vec![10, 11]));
    }
}
