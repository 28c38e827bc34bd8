//! Which watchers a key concerns.
//!
//! Watches are of one key or of a prefix, nearly all of them: those are found by looking up the key and each of its
//! beginnings of a length that some prefix has. Other ranges are looked at one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use kv_core::KeyRange;

/// A watcher's place in the hub, and which of those that were at it one after another is meant: who has ended is not
/// taken for who came after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) at: u32,
    pub(super) nth: u32,
}

#[derive(Default)]
pub(super) struct Index {
    keys: HashMap<Bytes, BTreeSet<Place>>,
    prefixes: HashMap<Bytes, BTreeSet<Place>>,
    /// How many prefixes have each length.
    lengths: BTreeMap<usize, usize>,
    others: BTreeMap<Place, KeyRange>,
}

impl Index {
    pub(super) fn insert(&mut self, range: &KeyRange, place: Place) {
        match range {
            KeyRange::Key(key) => drop(self.keys.entry(key.clone()).or_default().insert(place)),
            KeyRange::Prefix(prefix) => {
                let places = self.prefixes.entry(prefix.clone()).or_default();
                if places.is_empty() {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                }
                places.insert(place);
            }
            KeyRange::All | KeyRange::Span(..) | KeyRange::From(_) => {
                self.others.insert(place, range.clone());
            }
        }
    }

    pub(super) fn remove(&mut self, range: &KeyRange, place: Place) {
        match range {
            KeyRange::Key(key) => {
                if let Some(places) = self.keys.get_mut(key) {
                    places.remove(&place);
                    if places.is_empty() {
                        self.keys.remove(key);
                    }
                }
            }
            KeyRange::Prefix(prefix) => {
                let Some(places) = self.prefixes.get_mut(prefix) else { return };
                places.remove(&place);
                if places.is_empty() {
                    self.prefixes.remove(prefix);
                    if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                        *count -= 1;
                        if *count == 0 {
                            self.lengths.remove(&prefix.len());
                        }
                    }
                }
            }
            KeyRange::All | KeyRange::Span(..) | KeyRange::From(_) => drop(self.others.remove(&place)),
        }
    }

    /// Visits the watchers that a key concerns, each once.
    pub(super) fn each(&self, key: &[u8], mut visit: impl FnMut(Place)) {
        if let Some(places) = self.keys.get(key) {
            places.iter().for_each(|place| visit(*place));
        }
        for length in self.lengths.range(..=key.len()).map(|(length, _)| *length) {
            if let Some(places) = self.prefixes.get(&key[..length]) {
                places.iter().for_each(|place| visit(*place));
            }
        }
        for (place, range) in &self.others {
            if range.contains(key) {
                visit(*place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop::sample::select(vec![0u8, b'a', 0xff]), 0..4).prop_map(Bytes::from)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        (key(), key()).prop_map(|(key, end)| KeyRange::between(key, end))
    }

    proptest! {
        #[test]
        fn finds_what_a_look_at_every_range_finds(
            ranges in prop::collection::vec((range(), any::<bool>()), 0..12),
            keys in prop::collection::vec(key(), 1..8),
        ) {
            let place = |at: usize| Place { at: at as u32, nth: 0 };
            let mut index = Index::default();
            for (at, (range, _)) in ranges.iter().enumerate() {
                index.insert(range, place(at));
            }
            for (at, (range, _)) in ranges.iter().enumerate().filter(|(_, (_, stays))| !stays) {
                index.remove(range, place(at));
            }
            for key in keys {
                let mut found = Vec::new();
                index.each(&key, |place| found.push(place));
                found.sort_unstable();
                let there = ranges.iter().enumerate();
                let there = there.filter(|(_, (range, stays))| *stays && range.contains(&key)).map(|(at, _)| place(at));
                prop_assert_eq!(found, there.collect::<Vec<_>>());
            }
        }
    }
}
