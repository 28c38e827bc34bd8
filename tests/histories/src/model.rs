//! The key-value store as it should be: a sequential model, small enough to be believed.
//!
//! Must hold: one request changes the revision by one or not at all, and every answer follows from the state alone.
//!
//! Left to others: time, concurrency, and whether a lease is alive; a revocation deletes what is attached, and that is all.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

use crate::history::{Action, Answer, Found, Guard, KeyRange, KeyState, LeaseId, Request, Revision, text};

/// What a write did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// Its state after a put; none after a delete.
    pub now: Option<KeyState>,
    /// Its state before; none if it was not there.
    pub before: Option<KeyState>,
    /// The revision at which it happened.
    pub revision: Revision,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.now {
            Some(now) => write!(f, "put {now}")?,
            None => write!(f, "delete {}@{}", text(&self.key), self.revision)?,
        }
        self.before.as_ref().map_or(Ok(()), |before| write!(f, " over {before}"))
    }
}

/// A whole store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    revision: Revision,
    keys: BTreeMap<Bytes, KeyState>,
}

impl Default for State {
    fn default() -> Self {
        State { revision: Revision::EMPTY, keys: BTreeMap::new() }
    }
}

impl State {
    /// The revision of the last write.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// A short name of the whole content.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// The keys of a range, in order.
    pub fn range(&self, range: &KeyRange) -> Vec<KeyState> {
        self.keys.values().filter(|state| range.contains(&state.key)).cloned().collect()
    }

    /// Executes a request; the events are those of the new revision, and none leave the state as it was.
    pub fn apply(&mut self, request: &Request) -> (Answer, Vec<Event>) {
        let (succeeded, actions) = match request {
            Request::One(action) => (true, std::slice::from_ref(action)),
            Request::Txn { guards, then, otherwise } => {
                let holds = guards.iter().all(|guard| self.holds(guard));
                (holds, if holds { then.as_slice() } else { otherwise.as_slice() })
            }
            Request::Revoke(lease) => return self.revoke(*lease),
        };
        let mut events = Vec::new();
        let found = actions.iter().map(|action| self.act(action, &mut events)).collect();
        self.close(&events);
        (Answer { revision: self.revision, succeeded, found }, events)
    }

    /// Repeats what a write did.
    pub fn replay(&mut self, events: &[Event]) {
        for event in events {
            match &event.now {
                Some(now) => self.keys.insert(event.key.clone(), now.clone()),
                None => self.keys.remove(&event.key),
            };
        }
        self.close(events);
    }

    fn close(&mut self, events: &[Event]) {
        if !events.is_empty() {
            self.revision = self.revision.next();
        }
    }

    fn holds(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Modified { key, at } => self.keys.get(key).map(|state| state.modified) == *at,
            Guard::Value { key, value } => self.keys.get(key).is_some_and(|state| state.value == *value),
        }
    }

    fn revoke(&mut self, lease: LeaseId) -> (Answer, Vec<Event>) {
        let attached: Vec<_> = self.keys.values().filter(|s| s.lease == Some(lease)).map(|s| s.key.clone()).collect();
        let mut events = Vec::new();
        for key in attached {
            self.delete(&KeyRange::one(key), &mut events);
        }
        self.close(&events);
        (Answer { revision: self.revision, succeeded: true, found: Vec::new() }, events)
    }

    fn act(&mut self, action: &Action, events: &mut Vec<Event>) -> Found {
        match action {
            Action::Range(range) => Found::Range(self.range(range)),
            Action::Put { key, value, lease, prev_kv } => {
                let before = self.put(key, value, *lease, events);
                Found::Put(before.filter(|_| *prev_kv))
            }
            Action::Delete { range, prev_kv } => {
                let removed = self.delete(range, events);
                let count = removed.len() as u64;
                Found::Deleted { count, previous: if *prev_kv { removed } else { Vec::new() } }
            }
        }
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, lease: Option<LeaseId>, events: &mut Vec<Event>) -> Option<KeyState> {
        let revision = self.revision.next();
        let before = self.keys.get(key).cloned();
        let now = KeyState {
            key: key.clone(),
            value: value.clone(),
            created: before.as_ref().map_or(revision, |state| state.created),
            modified: revision,
            version: before.as_ref().map_or(1, |state| state.version + 1),
            lease,
        };
        self.keys.insert(key.clone(), now.clone());
        events.push(Event { key: key.clone(), now: Some(now), before: before.clone(), revision });
        before
    }

    fn delete(&mut self, range: &KeyRange, events: &mut Vec<Event>) -> Vec<KeyState> {
        let revision = self.revision.next();
        let removed = self.range(range);
        for state in &removed {
            self.keys.remove(&state.key);
            events.push(Event { key: state.key.clone(), now: None, before: Some(state.clone()), revision });
        }
        removed
    }
}
