//! How many keys lie in a range, without walking over them.
//!
//! The keys of a keyspace are cut into buckets of a few hundred that lie beside each other; in memory there is where each
//! bucket starts and how many keys it has. A count adds up the buckets that lie inside the range, and walks over the
//! keys of the two that its ends cut. An index is made when a keyspace is first counted, and kept up by applying.
//!
//! Must hold: with the lock held, the buckets say what the database has after the batch that was begun last. Whether
//! that batch is in the database yet, a view of the database tells by the index of the log entry applied last.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

use bytes::Bytes;
use kv_core::{GroupId, KeyRange};
use parking_lot::Mutex;

use super::{
    keys::{self, Number},
    read::{Reader, View, stored_keyspace},
    records::{Chained, KeyspaceRecord},
    stored_group,
};
use crate::{StoreError, database::Database};

/// Keys of a bucket before it is cut in two. Tests have few keys.
const BUCKET_KEYS: u64 = if cfg!(test) { 4 } else { 512 };

/// Keys walked over before an index is asked.
const WALK_KEYS: u64 = if cfg!(test) { 3 } else { 1024 };

/// Revisions by which the latest count is corrected at most.
const CHANGED_REVISIONS: u64 = 4096;

/// The counts of one group's keyspaces.
#[derive(Default)]
pub(super) struct Counts(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Only of keyspaces that somebody has counted.
    indexes: HashMap<Number, Index>,
    /// The batch begun last: the log entry that it ends with, and the keys that came (`true`) or went.
    entry: u64,
    moved: Vec<(Number, Bytes, bool)>,
    /// Raised when all that is known has become void.
    epoch: u64,
}

enum Index {
    /// Somebody walks over the keys. What moves meanwhile is noted, with the log entry that moved it.
    Building(Vec<(u64, Bytes, bool)>),
    /// Where each bucket starts, and how many keys it has. The first starts at the empty key.
    Ready(BTreeMap<Bytes, u64>),
}

/// What is known of a range: keys in whole buckets, and the ranges that have to be walked over.
#[derive(Default)]
pub(super) struct Partial {
    pub(super) keys: u64,
    pub(super) walk: Vec<KeyRange>,
}

/// What a look at the index came to.
pub(super) enum Look {
    Found(Partial),
    /// There is no index, and the caller is to make it from what it has pinned, which is at this log entry.
    Make {
        epoch: u64,
    },
    /// Somebody else is making it.
    Making,
}

impl Counts {
    /// A batch is about to be written.
    pub(super) fn begin(&self, entry: u64, moved: Vec<(Number, Bytes, bool)>) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        for (number, key, came) in &moved {
            match inner.indexes.get_mut(number) {
                Some(Index::Ready(buckets)) => add(buckets, key, *came),
                Some(Index::Building(noted)) => noted.push((entry, key.clone(), *came)),
                None => {}
            }
        }
        inner.entry = entry;
        inner.moved = moved;
    }

    /// The batch has been written: buckets that have grown too large are cut, empty ones go.
    pub(super) fn settle(&self, database: &Database, group: GroupId) -> Result<(), StoreError> {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        for (number, key, _) in &inner.moved {
            let Some(Index::Ready(buckets)) = inner.indexes.get_mut(number) else { continue };
            let Some((start, count)) = bucket(buckets, key).map(|(start, count)| (start.clone(), *count)) else {
                continue;
            };
            if count == 0 && !start.is_empty() {
                buckets.remove(&start);
            } else if count > BUCKET_KEYS {
                let reader = Reader { database, group, number: *number, pinned: None };
                cut(buckets, &start, &reader)?;
            }
        }
        Ok(())
    }

    /// Nothing is left of these keyspaces.
    pub(super) fn forget(&self, gone: &[Number]) {
        if !gone.is_empty() {
            self.0.lock().indexes.retain(|number, _| !gone.contains(number));
        }
    }

    /// All that is known has become void.
    pub(super) fn clear(&self) {
        let mut inner = self.0.lock();
        inner.indexes.clear();
        inner.moved.clear();
        inner.epoch += 1;
    }

    /// Pins a view and looks a range up in the index as it was then. `pin` returns what it has pinned and the log entry
    /// that it has applied last.
    pub(super) fn look<P>(
        &self,
        number: Number,
        range: &KeyRange,
        pin: impl FnOnce() -> Result<(P, u64), StoreError>,
    ) -> Result<(P, Look), StoreError> {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        let (pinned, applied) = pin()?;
        let ahead = applied < inner.entry;
        let look = match inner.indexes.get(&number) {
            Some(Index::Ready(buckets)) => {
                let undo = inner.moved.iter().filter(|(of, ..)| ahead && *of == number);
                Look::Found(partial(buckets, range, undo.map(|(_, key, came)| (key, *came))))
            }
            Some(Index::Building(_)) => Look::Making,
            None => {
                let missed = inner.moved.iter().filter(|(of, ..)| ahead && *of == number);
                let missed = missed.map(|(_, key, came)| (inner.entry, key.clone(), *came)).collect();
                inner.indexes.insert(number, Index::Building(missed));
                Look::Make { epoch: inner.epoch }
            }
        };
        Ok((pinned, look))
    }

    /// Makes an index from a pinned view, which is at this log entry.
    pub(super) fn make(&self, reader: &Reader<'_>, applied: u64, epoch: u64) -> Result<(), StoreError> {
        let mut buckets = BTreeMap::from([(Bytes::new(), 0)]);
        let (mut start, mut count) = (Bytes::new(), 0);
        let walked = reader.walk(&KeyRange::All, None, |key, _| {
            if count == BUCKET_KEYS / 2 {
                buckets.insert(std::mem::replace(&mut start, Bytes::copy_from_slice(key)), count);
                count = 0;
            }
            count += 1;
            true
        });
        buckets.insert(start, count);
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        if inner.epoch != epoch {
            return Ok(());
        }
        let Some(Index::Building(noted)) = inner.indexes.remove(&reader.number) else { return walked };
        walked?;
        for (entry, key, came) in noted {
            if entry > applied {
                add(&mut buckets, &key, came);
            }
        }
        inner.indexes.insert(reader.number, Index::Ready(buckets));
        Ok(())
    }
}

fn bucket<'a>(buckets: &'a mut BTreeMap<Bytes, u64>, key: &[u8]) -> Option<(&'a Bytes, &'a mut u64)> {
    buckets.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()
}

fn add(buckets: &mut BTreeMap<Bytes, u64>, key: &[u8], came: bool) {
    if let Some((_, count)) = bucket(buckets, key) {
        *count = count.saturating_add_signed(if came { 1 } else { -1 });
    }
}

/// Cuts a bucket in two, and counts both anew.
fn cut(buckets: &mut BTreeMap<Bytes, u64>, start: &Bytes, reader: &Reader<'_>) -> Result<(), StoreError> {
    let next = buckets.range::<[u8], _>((Bound::Excluded(&start[..]), Bound::Unbounded)).next();
    let range = match next {
        Some((next, _)) => KeyRange::Span(start.clone(), next.clone()),
        None => KeyRange::From(start.clone()),
    };
    let (mut found, mut middle) = (0, None);
    reader.walk(&range, None, |key, _| {
        if found == BUCKET_KEYS / 2 {
            middle = Some(Bytes::copy_from_slice(key));
        }
        found += 1;
        true
    })?;
    if let Some(middle) = middle {
        buckets.insert(start.clone(), BUCKET_KEYS / 2);
        buckets.insert(middle, found - BUCKET_KEYS / 2);
    }
    Ok(())
}

/// Adds up the buckets inside a range, without the moves that the pinned view has not seen.
fn partial<'a>(
    buckets: &BTreeMap<Bytes, u64>,
    range: &KeyRange,
    undo: impl Iterator<Item = (&'a Bytes, bool)>,
) -> Partial {
    let (from, end) = (range.start(), range.end());
    // The buckets from the first that starts in the range to the last that ends in it are whole.
    let starts = buckets.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
    let mut starts = starts.map(|(start, count)| (start, *count)).peekable();
    let inside = |key: &Bytes| end.as_ref().is_none_or(|end| key <= end);
    let Some((first, _)) = starts.next_if(|(start, _)| inside(start)) else {
        return Partial { keys: 0, walk: vec![range.clone()] };
    };
    let first = first.clone();
    let (mut last, mut keys) = (first.clone(), 0);
    let mut pending = buckets.get(&first).copied().unwrap_or_default();
    while let Some((start, count)) = starts.next_if(|(start, _)| inside(start)) {
        keys += pending;
        (last, pending) = (start.clone(), count);
    }
    let mut walk = Vec::new();
    if from < first.as_ref() {
        walk.push(KeyRange::Span(Bytes::copy_from_slice(from), first.clone()));
    }
    let whole = match &end {
        Some(end) => {
            if last < *end {
                walk.push(KeyRange::Span(last.clone(), end.clone()));
            }
            KeyRange::Span(first, last)
        }
        None => {
            keys += pending;
            KeyRange::From(first)
        }
    };
    for (_, came) in undo.filter(|(key, _)| whole.contains(key)) {
        keys = keys.saturating_add_signed(if came { -1 } else { 1 });
    }
    Partial { keys, walk }
}

impl View<'_> {
    /// Keys in a range.
    ///
    /// What is known of the latest revision is corrected by what has changed since this one, as long as that is little.
    pub fn count(&self, range: &KeyRange) -> Result<u64, StoreError> {
        let latest = self.at.is_none_or(|at| at == self.known.head.revision);
        if latest && *range == KeyRange::All {
            return Ok(self.known.keys);
        }
        let mut walked = 0;
        let mut all = true;
        self.reader().walk(range, self.at, |_, version| {
            walked += u64::from(version.value.is_some());
            all = walked < WALK_KEYS;
            all
        })?;
        if all {
            return Ok(walked);
        }
        if let Some(count) = self.count_from_index(range)? {
            return Ok(count);
        }
        let mut count = 0;
        self.reader().walk(range, self.at, |_, version| {
            count += u64::from(version.value.is_some());
            true
        })?;
        Ok(count)
    }

    /// `None`: there is no index yet and somebody else is making it, or too much has changed.
    fn count_from_index(&self, range: &KeyRange) -> Result<Option<u64>, StoreError> {
        let (database, number) = (self.state.database(), self.known.number);
        let counts = &self.state.group(self.group).counts;
        let ((pinned, now, applied), look) = counts.look(number, range, || {
            let pinned = database.pin();
            let stored = stored_keyspace(database, &pinned, self.group, &self.keyspace)?;
            let applied = stored_group(database, &pinned, self.group)?.map_or(0, |record| record.index);
            let now = stored.filter(|stored| stored.number == number);
            Ok(((pinned, now, applied), applied))
        })?;
        let reader = Reader { database, group: self.group, number, pinned: Some(&pinned) };
        let partial = match look {
            Look::Found(partial) => partial,
            Look::Making => return Ok(None),
            Look::Make { epoch } => {
                counts.make(&reader, applied, epoch)?;
                return Ok(None);
            }
        };
        let Some(now) = now else { return Ok(None) };
        let count = partial.keys + reader.walk_count(&partial.walk)?;
        let Some(changed) = self.changed_since(range, &now, &reader)? else { return Ok(None) };
        let mut then = count;
        for key in changed {
            let there = |reader: &Reader<'_>, at| reader.version(&key, at, |version| version.value.is_some());
            let after = there(&reader, None)?.unwrap_or(false);
            let before = there(&self.reader(), self.at)?.unwrap_or(false);
            then = then.saturating_add_signed(i64::from(before) - i64::from(after));
        }
        Ok(Some(then))
    }

    /// The keys of a range written after this view's revision. `None`: too many, or nobody knows any more.
    fn changed_since(
        &self,
        range: &KeyRange,
        now: &KeyspaceRecord,
        reader: &Reader<'_>,
    ) -> Result<Option<BTreeSet<Bytes>>, StoreError> {
        let (from, to) = (self.revision().next(), now.head.revision.next());
        if to.since(from) > CHANGED_REVISIONS || from < now.forgotten {
            return Ok(None);
        }
        let mut changed = BTreeSet::new();
        let key = |revision| keys::chain(self.group, now.number, revision);
        let mut cursor = reader.database.cursor(reader.pinned, &key(from), key(to));
        while let Some((key, stored)) = cursor.item() {
            let chained: Chained<'_> = reader.database.open_value(key, stored)?;
            let inside = chained.keys.iter().filter(|changed| range.contains(changed.key.0));
            changed.extend(inside.map(|changed| Bytes::copy_from_slice(changed.key.0)));
            cursor.next();
        }
        reader.database.ended(&cursor)?;
        Ok(Some(changed))
    }
}

impl Reader<'_> {
    /// Keys in some ranges, walked over.
    pub(super) fn walk_count(&self, ranges: &[KeyRange]) -> Result<u64, StoreError> {
        let mut count = 0;
        for range in ranges {
            self.walk_keys(range, |_| {
                count += 1;
                true
            })?;
        }
        Ok(count)
    }

    /// Visits the keys of a range that exist now, in order, until told `false`.
    pub(super) fn walk_keys(&self, range: &KeyRange, mut visit: impl FnMut(&[u8]) -> bool) -> Result<(), StoreError> {
        let Some((from, to)) = self.bounds(range) else { return Ok(()) };
        let mut cursor = self.database.cursor(self.pinned, &from, to);
        while let Some(key) = cursor.key() {
            if !visit(&key[keys::NUMBERED_BYTES..]) {
                break;
            }
            cursor.next();
        }
        self.database.ended(&cursor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whole buckets and what is left to walk over make up the range, whatever the buckets.
        #[test]
        fn buckets_and_walks_make_up_the_range(
            keys in prop::collection::btree_set(0u8..60, 0..40),
            starts in prop::collection::btree_set(1u8..60, 0..8),
            from in 0u8..60,
            end in prop::option::of(0u8..60),
        ) {
            let key = |n: u8| Bytes::copy_from_slice(&[n]);
            let mut buckets: BTreeMap<Bytes, u64> = starts.iter().map(|start| (key(*start), 0)).collect();
            buckets.insert(Bytes::new(), 0);
            keys.iter().for_each(|n| add(&mut buckets, &key(*n), true));
            let range = match end {
                Some(end) => KeyRange::Span(key(from), key(end)),
                None => KeyRange::From(key(from)),
            };
            let found = partial(&buckets, &range, std::iter::empty());
            let walked = found.walk.iter().map(|range| keys.iter().filter(|n| range.contains(&[**n])).count() as u64);
            let wanted = keys.iter().filter(|n| range.contains(&[**n])).count() as u64;
            prop_assert_eq!(found.keys + walked.sum::<u64>(), wanted);
        }
    }
}
