//! Reads of a keyspace's history: what each revision changed.

use bytes::Bytes;
use kv_core::{Change, GroupId, KeyRange, KeyState, Keyspace, Revision, RevisionChanges, Timestamp};

use super::{
    State, keys,
    read::{Reader, check_floor, stored_keyspace},
    records::{Chained, ChangedKey, KeyspaceRecord},
};
use crate::{ReadError, StoreError, database::Pinned};

/// One revision, as a watch sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionEvents {
    /// The revision.
    pub revision: Revision,
    /// Its time.
    pub at: Timestamp,
    /// Its changes, in order; those outside the range asked for are left out.
    pub events: Vec<Event>,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// Its state after; `None`: removed.
    pub state: Option<KeyState>,
    /// Its state before, if there was one, it was asked for, and it has not been compacted.
    pub previous: Option<KeyState>,
}

impl State {
    /// What the revisions after `after` did to some keys: as many revisions as there are, but no more than
    /// `max_revisions`, and no more than make up `max_bytes` of keys and values unless it is one. Revisions that did
    /// nothing to those keys are among them, without events. `after` may be one before the earliest readable revision.
    pub fn events(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        range: &KeyRange,
        after: Revision,
        previous: bool,
        limits: (usize, usize),
    ) -> Result<Vec<RevisionEvents>, ReadError> {
        let _hold = self.hold(group, keyspace, after);
        let Some((known, pinned)) = self.pinned_keyspace(group, keyspace)? else { return Ok(Vec::new()) };
        check_floor(&known, after.next())?;
        let reader = self.pinned_reader(group, &known, &pinned);
        let (max_revisions, max_bytes) = limits;
        let (mut found, mut bytes) = (Vec::new(), 0);
        reader.walk_history(&known, after, |chained| {
            let revision = chained.record.revision;
            let mut events = Vec::new();
            for changed in chained.keys.iter().filter(|changed| range.contains(changed.key.0)) {
                let event = reader.event(revision, changed, previous && revision > known.floor)?;
                bytes += event.bytes();
                events.push(event);
            }
            let fits = found.is_empty() || bytes <= max_bytes;
            if fits {
                found.push(RevisionEvents { revision, at: chained.record.at, events });
            }
            Ok(fits && found.len() < max_revisions)
        })?;
        Ok(found)
    }

    /// The revisions after `after`, each with the values that it wrote: as many as there are, but no more than
    /// `max_revisions`, and no more than make up `max_bytes` of keys and values unless it is one.
    pub fn changes(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        after: Revision,
        max_revisions: usize,
        max_bytes: usize,
    ) -> Result<Vec<RevisionChanges>, ReadError> {
        let _hold = self.hold(group, keyspace, after);
        let Some((known, pinned)) = self.pinned_keyspace(group, keyspace)? else { return Ok(Vec::new()) };
        check_floor(&known, after)?;
        Ok(self.pinned_reader(group, &known, &pinned).history(&known, after, max_revisions, max_bytes)?)
    }

    /// The chain records after a revision, `max` at most, with the values that each revision wrote as long as they are
    /// there.
    pub fn records(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        after: Revision,
        max: usize,
    ) -> Result<Vec<RevisionChanges>, StoreError> {
        let _hold = self.hold(group, keyspace, after);
        match self.pinned_keyspace(group, keyspace)? {
            Some((known, pinned)) => {
                let reader = self.pinned_reader(group, &known, &pinned);
                reader.history(&known, after.max(known.forgotten), max, usize::MAX)
            }
            None => Ok(Vec::new()),
        }
    }

    /// A keyspace that can be read, and its rows as they are at one moment, for it may move away while they are read.
    fn pinned_keyspace(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
    ) -> Result<Option<(KeyspaceRecord, Pinned<'_>)>, StoreError> {
        let _reading = self.reading(group);
        let Some(known) = self.keyspace(group, keyspace) else { return Ok(None) };
        let pinned = self.database().pin();
        // Its rows go before the cache is told.
        let stored = stored_keyspace(self.database(), &pinned, group, keyspace)?;
        let there = stored.is_some_and(|stored| stored.standing.readable() && stored.number == known.number);
        Ok(there.then_some((known, pinned)))
    }

    fn pinned_reader<'a>(&'a self, group: GroupId, known: &KeyspaceRecord, pinned: &'a Pinned<'a>) -> Reader<'a> {
        Reader { database: self.database(), group, number: known.number, pinned: Some(pinned) }
    }
}

impl Event {
    /// Bytes of key and values.
    pub fn bytes(&self) -> usize {
        let value = |state: &Option<KeyState>| state.as_ref().map_or(0, |state| state.value.len());
        self.key.len() + value(&self.state) + value(&self.previous)
    }
}

impl Reader<'_> {
    fn history(
        &self,
        known: &KeyspaceRecord,
        after: Revision,
        max_revisions: usize,
        max_bytes: usize,
    ) -> Result<Vec<RevisionChanges>, StoreError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        self.walk_history(known, after, |chained| {
            let revision = chained.record.revision;
            let changes = match revision > known.floor {
                true => Some(self.changes(revision, &chained.keys)?),
                false => None,
            };
            bytes += changes.iter().flatten().map(Change::size).sum::<usize>();
            let fits = found.is_empty() || bytes <= max_bytes;
            if fits {
                found.push(RevisionChanges { record: chained.record, changes });
            }
            Ok(fits && found.len() < max_revisions)
        })?;
        Ok(found)
    }

    /// Visits the chain's records after a revision, in order, until told `false`. Each has to be there, but those that a
    /// raise has left out.
    fn walk_history(
        &self,
        known: &KeyspaceRecord,
        after: Revision,
        mut visit: impl FnMut(Chained<'_>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        if after >= known.head.revision {
            return Ok(());
        }
        let database = self.database;
        let key = |revision| keys::chain(self.group, self.number, revision);
        let missing = |revision| database.damaged(&key(revision), "it is missing");
        let mut expected = after.next();
        let mut cursor = database.cursor(self.pinned, &key(expected), key(known.head.revision.next()));
        while expected <= known.head.revision {
            let Some((key, stored)) = cursor.item() else {
                database.ended(&cursor)?;
                return Err(missing(expected));
            };
            let chained: Chained<'_> = database.open_value(key, stored)?;
            let found = chained.record.revision;
            if found != expected && !chained.record.is_raise() {
                return Err(missing(expected));
            }
            if !visit(chained)? {
                break;
            }
            expected = found.next();
            cursor.next();
        }
        Ok(())
    }

    /// What a revision wrote, from the keys in its record and the values that lie with the keys.
    pub(super) fn changes(&self, revision: Revision, keys: &[ChangedKey<'_>]) -> Result<Vec<Change>, StoreError> {
        keys.iter().map(|changed| self.change(revision, changed)).collect()
    }

    fn change(&self, revision: Revision, changed: &ChangedKey<'_>) -> Result<Change, StoreError> {
        let key = Bytes::copy_from_slice(changed.key.0);
        if !changed.put {
            return Ok(Change::removal(key));
        }
        let state = self.written(&key, revision)?;
        Ok(Change { key, value: Some(state.value), lease: state.lease })
    }

    /// The state that a revision has given a key.
    fn written(&self, key: &[u8], revision: Revision) -> Result<KeyState, StoreError> {
        match self.exact(key, revision, |version| version.state())?.flatten() {
            Some(state) => Ok(state),
            None => {
                let missing = keys::earlier(self.group, self.number, key, revision);
                Err(self.database.damaged(&missing, "it is missing, but the chain says that it was written"))
            }
        }
    }

    fn event(&self, revision: Revision, changed: &ChangedKey<'_>, previous: bool) -> Result<Event, StoreError> {
        let key = Bytes::copy_from_slice(changed.key.0);
        let state = match changed.put {
            true => Some(self.written(&key, revision)?),
            false => None,
        };
        let before = Revision::new(revision.get() - 1);
        let previous = match previous {
            true => self.version(&key, Some(before), |version| version.state())?.flatten(),
            false => None,
        };
        Ok(Event { key, state, previous })
    }
}
