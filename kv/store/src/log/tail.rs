//! A group's log as its callers see it: with everything they asked for, whether written already or not.
//!
//! Must hold: what is not in the database yet is in the cache, so a read that finds an entry in neither has found
//! damage. Entries leave the cache from the front only, and only once written.

use std::collections::VecDeque;

use bytes::Bytes;

/// A group's log, in memory: its bounds, and its last entries.
#[derive(Default)]
pub(super) struct Tail {
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<(u64, Bytes)>,
    /// Indexes of the first and last entries.
    range: Option<(u64, u64)>,
    cache: VecDeque<Cached>,
    cache_bytes: usize,
    /// Everything that was asked for up to this ticket is in the database.
    written: u64,
}

struct Cached {
    index: u64,
    bytes: Bytes,
    ticket: u64,
}

/// Where the entries of a read are.
pub(super) struct Found {
    /// The entries before this one are in the database,
    pub(super) stored_to: u64,
    /// and these come after them.
    pub(super) cached: Vec<(u64, Bytes)>,
}

impl Tail {
    pub(super) fn new(
        vote: Option<Bytes>,
        committed: Option<Bytes>,
        purged: Option<(u64, Bytes)>,
        range: Option<(u64, u64)>,
    ) -> Self {
        Tail { vote, committed, purged, range, ..Tail::default() }
    }

    /// Indexes of the first and last entries.
    pub(super) fn range(&self) -> Option<(u64, u64)> {
        self.range
    }

    /// Bytes of entries in memory.
    #[cfg(test)]
    pub(super) fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// Checks that entries follow what is there and each other. An error: the index that belongs there, and what came.
    pub(super) fn follows(&self, entries: &[(u64, Bytes)]) -> Result<(), (u64, u64)> {
        let last = self.range.map(|(_, last)| last).or(self.purged.as_ref().map(|(index, _)| *index));
        let start = last.map(|last| last + 1).or(entries.first().map(|(index, _)| *index)).unwrap_or_default();
        let unlike = (start..).zip(entries).find(|(expected, (found, _))| expected != found);
        unlike.map_or(Ok(()), |(expected, (found, _))| Err((expected, *found)))
    }

    pub(super) fn append(&mut self, entries: &[(u64, Bytes)], ticket: u64) {
        for (index, bytes) in entries {
            self.cache_bytes += bytes.len();
            self.cache.push_back(Cached { index: *index, bytes: bytes.clone(), ticket });
            let first = self.range.map_or(*index, |(first, _)| first);
            self.range = Some((first, *index));
        }
    }

    /// Removes the entries behind `last_kept`. Returns the indexes removed, first and last.
    pub(super) fn truncate_after(&mut self, last_kept: Option<u64>) -> Option<(u64, u64)> {
        let (first, last) = self.range?;
        let from = last_kept.map_or(first, |kept| kept.saturating_add(1)).max(first);
        if from > last {
            return None;
        }
        while self.cache.back().is_some_and(|cached| cached.index >= from) {
            let gone = self.cache.pop_back().expect("looked at");
            self.cache_bytes -= gone.bytes.len();
        }
        self.range = (from > first).then(|| (first, from - 1));
        Some((from, last))
    }

    /// Removes the entries up to `index`. Returns the indexes removed, first and last.
    pub(super) fn purge_upto(&mut self, index: u64, log_id: Bytes) -> Option<(u64, u64)> {
        if self.purged.as_ref().is_none_or(|(before, _)| *before < index) {
            self.purged = Some((index, log_id));
        }
        let (first, last) = self.range?;
        if index < first {
            return None;
        }
        while self.cache.front().is_some_and(|cached| cached.index <= index) {
            self.forget_first();
        }
        self.range = (index < last).then(|| (index + 1, last));
        Some((first, index.min(last)))
    }

    /// Everything up to this ticket has been written: the cache may shrink to its limit.
    pub(super) fn written(&mut self, ticket: u64, limit_bytes: usize) {
        self.written = self.written.max(ticket);
        while self.cache_bytes > limit_bytes && self.cache.front().is_some_and(|first| first.ticket <= self.written) {
            self.forget_first();
        }
    }

    /// Nothing more comes: what has been written need not stay in memory.
    pub(super) fn rest(&mut self) {
        self.written(self.written, 0);
        self.cache.shrink_to_fit();
    }

    fn forget_first(&mut self) {
        if let Some(gone) = self.cache.pop_front() {
            self.cache_bytes -= gone.bytes.len();
        }
    }

    /// Where the entries from `from` to `to` (exclusive) are; `None` if the first of them is nowhere. Of those in
    /// memory, no more than fit in `max_bytes`, but one at least.
    pub(super) fn find(&self, from: u64, to: u64, max_bytes: usize) -> Option<Found> {
        let (first, last) = self.range?;
        let to = to.min(last.saturating_add(1));
        if from < first || from >= to {
            return None;
        }
        let cached_from = self.cache.front().map_or(last + 1, |front| front.index);
        let stored_to = cached_from.clamp(from, to);
        let mut bytes = 0;
        let skip = usize::try_from(stored_to - cached_from.min(stored_to)).unwrap_or(usize::MAX);
        let cached = self
            .cache
            .iter()
            .skip(skip)
            .take_while(|cached| {
                let fits = bytes == 0 || bytes + cached.bytes.len() <= max_bytes;
                bytes += cached.bytes.len().max(1);
                fits && cached.index < to
            })
            .map(|cached| (cached.index, cached.bytes.clone()))
            .collect();
        Some(Found { stored_to, cached })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(indexes: std::ops::Range<u64>) -> Vec<(u64, Bytes)> {
        indexes.map(|index| (index, Bytes::from(vec![index as u8; 10]))).collect()
    }

    fn places(tail: &Tail, from: u64, to: u64) -> Option<(u64, Vec<u64>)> {
        let found = tail.find(from, to, usize::MAX)?;
        Some((found.stored_to, found.cached.iter().map(|(index, _)| *index).collect()))
    }

    #[test]
    fn only_what_is_written_leaves_memory() {
        let mut tail = Tail::default();
        tail.append(&entries(1..5), 1);
        tail.append(&entries(5..9), 2);
        tail.written(1, 0);
        assert_eq!(places(&tail, 1, 9), Some((5, vec![5, 6, 7, 8])));
        assert_eq!(tail.cache_bytes(), 40);
        assert_eq!(places(&tail, 6, 8), Some((6, vec![6, 7])));
        assert_eq!(places(&tail, 2, 4), Some((4, vec![])));
        // Written again behind a truncation: those are other entries than the ones in the database.
        tail.written(2, usize::MAX);
        assert_eq!(tail.truncate_after(Some(6)), Some((7, 8)));
        tail.append(&entries(7..8), 3);
        tail.written(2, 0);
        assert_eq!(places(&tail, 1, 9), Some((7, vec![7])));
        tail.written(3, usize::MAX);
        tail.rest();
        assert_eq!((places(&tail, 1, 9), tail.cache_bytes()), (Some((8, vec![])), 0));
    }

    #[test]
    fn bounds_move_with_purges_and_truncations() {
        let mut tail = Tail::default();
        assert_eq!(tail.follows(&entries(7..9)), Ok(()), "an empty log may start anywhere");
        tail.append(&entries(7..9), 1);
        assert_eq!(tail.follows(&entries(10..11)), Err((9, 10)));
        assert_eq!(tail.purge_upto(6, Bytes::new()), None);
        assert_eq!(tail.purge_upto(7, Bytes::new()), Some((7, 7)));
        assert_eq!(tail.range(), Some((8, 8)));
        assert!(tail.find(7, 9, 100).is_none());
        assert_eq!(tail.truncate_after(None), Some((8, 8)));
        assert_eq!((tail.range(), tail.cache_bytes()), (None, 0));
        // A snapshot took the place of everything.
        assert_eq!(tail.purge_upto(20, Bytes::new()), None);
        assert_eq!(tail.follows(&entries(8..9)), Err((21, 8)));
        assert_eq!(tail.follows(&entries(21..23)), Ok(()));
    }
}
