//! What answers and watchers let one know about a revision without knowing who wrote it.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;

use crate::history::{Answer, Found, KeyRange, KeyState, Revision};
use crate::model::Event;

/// Writes that somebody saw: at a revision, a key got a value or (none) was deleted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    seen: BTreeMap<Revision, Vec<(Bytes, Option<Bytes>)>>,
    /// What somebody saw written at whichever revision: values are unique in their history.
    written: HashSet<(Bytes, Bytes)>,
    /// Of these keys, somebody was shown all writes from one revision to another.
    whole: Vec<(KeyRange, Revision, Revision)>,
}

impl Evidence {
    pub(crate) fn note(&mut self, revision: Revision, key: Bytes, value: Option<Bytes>) {
        if let Some(value) = &value {
            self.written.insert((key.clone(), value.clone()));
        }
        let noted = self.seen.entry(revision).or_default();
        if !noted.iter().any(|(known, seen)| *known == key && *seen == value) {
            noted.push((key, value));
        }
    }

    pub(crate) fn note_answer(&mut self, answer: &Answer) {
        for found in &answer.found {
            match found {
                Found::Range(keys) => keys.iter().for_each(|state| self.note_state(state)),
                Found::Put(previous) => previous.iter().for_each(|state| self.note_state(state)),
                Found::Deleted { previous, .. } => previous.iter().for_each(|state| self.note_state(state)),
            }
        }
    }

    pub(crate) fn note_state(&mut self, state: &KeyState) {
        self.note(state.modified, state.key.clone(), Some(state.value.clone()));
    }

    pub(crate) fn note_whole(&mut self, range: KeyRange, from: Revision, upto: Revision) {
        if !self.whole.contains(&(range.clone(), from, upto)) {
            self.whole.push((range, from, upto));
        }
    }

    /// How many of `events` nobody saw at their revision; `None`: they lack something that was seen of it, or have something
    /// more that was seen of another, or that somebody would have seen.
    pub(crate) fn unseen(&self, revision: Revision, events: &[Event]) -> Option<usize> {
        let seen = self.seen.get(&revision).map(Vec::as_slice).unwrap_or_default();
        let hidden = |event: &&Event| !seen.iter().any(|(key, _)| *key == event.key);
        let shown = |event: &Event| {
            let mut whole = self.whole.iter();
            whole.any(|(range, from, upto)| (from..=upto).contains(&&revision) && range.contains(&event.key))
        };
        let elsewhere = |event: &Event| {
            let now = event.now.as_ref();
            now.is_some_and(|now| self.written.contains(&(now.key.clone(), now.value.clone())))
        };
        let mut unseen = events.iter().filter(hidden);
        let count = unseen.clone().count();
        let wrong = !self.admits(revision, events) || unseen.any(|event| shown(event) || elsewhere(event));
        (!wrong).then_some(count)
    }

    /// Whether `events` contain everything that was seen of their revision.
    pub(crate) fn admits(&self, revision: Revision, events: &[Event]) -> bool {
        self.seen.get(&revision).is_none_or(|seen| {
            seen.iter().all(|(key, value)| {
                events.iter().any(|e| e.key == *key && e.now.as_ref().map(|state| &state.value) == value.as_ref())
            })
        })
    }

    pub(crate) fn last(&self) -> Option<Revision> {
        self.seen.keys().next_back().copied()
    }
}
