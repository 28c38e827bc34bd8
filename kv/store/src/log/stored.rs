//! A group's log as it is on disk.
//!
//! Must hold: what this says is there can be read, and is there again after a crash.

use std::collections::VecDeque;

use bytes::Bytes;

use super::record::{Flaw, Place, Record, Segment};

/// Entries of one group that a segment may say there are: they are purged long before there are as many.
const ENTRIES_MAX: u64 = 1 << 24;

/// A group's log on disk.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<(u64, Bytes)>,
    /// Index of the first entry.
    first: u64,
    /// Where the entries are, from the first on. `None`: not met yet, while a log is being opened.
    places: VecDeque<Option<Place>>,
}

impl Stored {
    /// Indexes of the first and last entries.
    pub(super) fn range(&self) -> Option<(u64, u64)> {
        let count = self.places.len() as u64;
        (count > 0).then(|| (self.first, self.first + count - 1))
    }

    /// Whether nothing was ever written.
    pub(super) fn is_empty(&self) -> bool {
        self.vote.is_none() && self.committed.is_none() && self.purged.is_none() && self.places.is_empty()
    }

    /// Where an entry is.
    pub(super) fn place(&self, index: u64) -> Option<Place> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.places.get(at).copied().flatten()
    }

    /// The first entry that should be there and was not met.
    pub(super) fn missing(&self) -> Option<u64> {
        let at = self.places.iter().position(Option::is_none)?;
        Some(self.first + at as u64)
    }

    /// All entries, by index.
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, Place)> {
        (self.first..).zip(&self.places).filter_map(|(index, place)| Some((index, (*place)?)))
    }

    /// Takes note of a record that was written, or read again, at a place.
    pub(super) fn apply(&mut self, record: &Record, place: Place) -> Result<(), Flaw> {
        match record {
            Record::Entry { index, .. } => {
                match self.range() {
                    Some((_, last)) if last.checked_add(1) != Some(*index) => return Err("it doesn't follow the last"),
                    Some(_) => {}
                    None => self.first = *index,
                }
                self.places.push_back(Some(place));
            }
            Record::Moved { index, .. } => {
                let at = index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
                *at.and_then(|at| self.places.get_mut(at)).ok_or("it is a copy of what is gone")? = Some(place);
            }
            Record::Vote(vote) => self.vote = Some(vote.clone()),
            Record::Committed(committed) => self.committed = Some(committed.clone()),
            Record::Purged { index, log_id } => {
                while self.range().is_some_and(|(first, _)| first <= *index) {
                    self.places.pop_front();
                    self.first += 1;
                }
                self.purged = Some((*index, log_id.clone()));
            }
            Record::Truncated { from } => {
                while self.range().is_some_and(|(_, last)| last >= *from) {
                    self.places.pop_back();
                }
            }
            Record::Range { first, last } => match self.range() {
                None if self.first == 0 && first <= last && last - first < ENTRIES_MAX => {
                    self.first = *first;
                    self.places = (*first..=*last).map(|_| None).collect();
                }
                range if range == Some((*first, *last)) => {}
                _ => return Err("it names other entries than those before it"),
            },
        }
        Ok(())
    }

    /// What a segment begins with.
    pub(super) fn summary(&self) -> impl Iterator<Item = Record> {
        let purged = self.purged.clone().map(|(index, log_id)| Record::Purged { index, log_id });
        let range = self.range().map(|(first, last)| Record::Range { first, last });
        let single = [self.vote.clone().map(Record::Vote), self.committed.clone().map(Record::Committed)];
        single.into_iter().chain([purged, range]).flatten()
    }

    /// The first segment that has an entry of this group.
    pub(super) fn oldest(&self) -> Option<Segment> {
        self.places.iter().flatten().map(|place| place.segment).min()
    }

    /// Bytes of all entries.
    pub(super) fn bytes(&self) -> u64 {
        self.places.iter().flatten().map(|place| u64::from(place.bytes)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(segment: u32) -> Place {
        Place { segment: Segment(segment), offset: 0, bytes: 10 }
    }

    fn entry(index: u64) -> Record {
        Record::Entry { index, bytes: Bytes::new() }
    }

    #[test]
    fn entries_come_move_and_go() {
        let mut stored = Stored::default();
        for index in 5..10 {
            stored.apply(&entry(index), place(1)).unwrap();
        }
        assert!(stored.apply(&entry(11), place(1)).is_err());
        stored.apply(&Record::Truncated { from: 9 }, place(2)).unwrap();
        stored.apply(&Record::Purged { index: 5, log_id: "id".into() }, place(2)).unwrap();
        assert_eq!((stored.range(), stored.oldest(), stored.bytes()), (Some((6, 8)), Some(Segment(1)), 30));
        for index in 6..9 {
            stored.apply(&Record::Moved { index, bytes: Bytes::new() }, place(3)).unwrap();
        }
        assert_eq!(stored.oldest(), Some(Segment(3)));
        assert!(stored.apply(&Record::Moved { index: 9, bytes: Bytes::new() }, place(3)).is_err());
        assert!(stored.apply(&Record::Moved { index: 5, bytes: Bytes::new() }, place(3)).is_err());
        stored.apply(&Record::Truncated { from: 0 }, place(3)).unwrap();
        assert_eq!(stored.range(), None);
        stored.apply(&entry(20), place(4)).unwrap();
        assert_eq!(stored.range(), Some((20, 20)));
    }

    /// Who begins to read with a later segment knows which entries there have to be, and which of them were not met.
    #[test]
    fn a_summary_says_what_is_there() {
        let mut stored = Stored::default();
        stored.apply(&Record::Vote("vote".into()), place(1)).unwrap();
        stored.apply(&entry(1), place(1)).unwrap();
        stored.apply(&entry(2), place(1)).unwrap();
        let mut later = Stored::default();
        for record in stored.summary() {
            later.apply(&record, place(2)).unwrap();
        }
        assert_eq!((later.range(), later.missing()), (Some((1, 2)), Some(1)));
        later.apply(&Record::Moved { index: 1, bytes: Bytes::new() }, place(2)).unwrap();
        assert_eq!(later.missing(), Some(2));
        later.apply(&Record::Purged { index: 2, log_id: "id".into() }, place(2)).unwrap();
        assert_eq!(later.missing(), None);
        for record in stored.summary().filter(|record| matches!(record, Record::Range { .. })) {
            assert!(later.apply(&record, place(3)).is_err(), "what was before is known");
        }
    }
}
