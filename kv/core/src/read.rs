//! What reads ask for and return.

use std::cmp::Ordering;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{ChainRecord, Change, LeaseId, Revision};

/// A set of keys that lie beside each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRange {
    /// Every key.
    All,
    /// One key.
    Key(Bytes),
    /// The keys that start so.
    Prefix(Bytes),
    /// From the first (inclusive) to the second (exclusive).
    Span(Bytes, Bytes),
    /// From this key (inclusive) to the last there is.
    From(Bytes),
}

/// A key's latest or earlier state, without the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyState {
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision that wrote it last.
    pub mod_revision: Revision,
    /// Writes since it was created.
    pub version: u64,
    /// The lease that it is attached to.
    pub lease: Option<LeaseId>,
}

/// A key and its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its state.
    pub state: KeyState,
}

/// A read of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The keys.
    pub range: KeyRange,
    /// At this revision; `None`: the latest.
    pub at: Option<Revision>,
    /// Keys returned at most; `None`: all.
    pub limit: Option<usize>,
    /// By what, if not by key, and in which direction.
    pub order: Order,
    /// Which properties of a key are returned.
    pub want: Want,
    /// Only keys written last at or after the first and at or before the second.
    pub modified: (Option<Revision>, Option<Revision>),
    /// Only keys created at or after the first and at or before the second.
    pub created: (Option<Revision>, Option<Revision>),
}

/// How the keys of a result are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The property.
    pub by: SortBy,
    /// Greatest first.
    pub descending: bool,
}

/// What the keys of a result are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortBy {
    /// The key.
    #[default]
    Key,
    /// Writes since it was created.
    Version,
    /// The revision that created it.
    Create,
    /// The revision that wrote it last.
    Mod,
    /// The value.
    Value,
}

/// How much of each key is returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// Everything.
    #[default]
    All,
    /// Everything but the value.
    Keys,
    /// Nothing but how many there are.
    Count,
}

/// What a range read found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeResult {
    /// In key order.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut it short.
    pub more: bool,
    /// Keys in the range, whatever the limit and the filters.
    pub count: u64,
    /// The revision that it is true of.
    pub revision: Revision,
}

/// One revision as a watch or an audit sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionChanges {
    /// Its record.
    pub record: ChainRecord,
    /// What it wrote; `None` where the values have been compacted.
    pub changes: Option<Vec<Change>>,
}

impl Query {
    /// Everything of a range, by key, at the latest revision.
    pub fn all(range: KeyRange) -> Self {
        Query {
            range,
            at: None,
            limit: None,
            order: Order::default(),
            want: Want::All,
            modified: (None, None),
            created: (None, None),
        }
    }

    /// Whether a key in this state passes the filters.
    pub fn admits(&self, create: Revision, modified: Revision) -> bool {
        let within = |(from, to): (Option<Revision>, Option<Revision>), revision| {
            from.is_none_or(|from| revision >= from) && to.is_none_or(|to| revision <= to)
        };
        within(self.modified, modified) && within(self.created, create)
    }

    /// Whether the first keys of the range are those of the result: it needs no look at the others.
    pub fn in_key_order(&self) -> bool {
        self.order == Order::default() && self.modified == (None, None) && self.created == (None, None)
    }

    /// Sorts found keys as asked for, cuts them to the limit, and takes away what is not wanted. Returns whether the
    /// limit cut anything.
    pub fn arrange(&self, kvs: &mut Vec<KeyValue>) -> bool {
        let compare = |a: &KeyState, b: &KeyState| match self.order.by {
            SortBy::Key => Ordering::Equal,
            SortBy::Version => a.version.cmp(&b.version),
            SortBy::Create => a.create_revision.cmp(&b.create_revision),
            SortBy::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortBy::Value => a.value.cmp(&b.value),
        };
        // They come sorted by key, and what is equal stays so in either direction.
        match (self.order.by, self.order.descending) {
            (SortBy::Key, false) => {}
            (SortBy::Key, true) => kvs.reverse(),
            (_, false) => kvs.sort_by(|a, b| compare(&a.state, &b.state)),
            (_, true) => kvs.sort_by(|a, b| compare(&b.state, &a.state)),
        }
        let more = self.limit.is_some_and(|limit| kvs.len() > limit);
        kvs.truncate(self.limit.unwrap_or(usize::MAX));
        match self.want {
            Want::All => {}
            Want::Keys => kvs.iter_mut().for_each(|kv| kv.state.value = Bytes::new()),
            Want::Count => kvs.clear(),
        }
        more
    }
}

impl KeyRange {
    /// The range of etcd's `key` and `range_end`: no end is the key alone, an end of one zero byte is all keys from it on.
    pub fn between(key: Bytes, end: Bytes) -> Self {
        match (&key[..], &end[..]) {
            (_, []) => KeyRange::Key(key),
            ([0] | [], [0]) => KeyRange::All,
            (_, [0]) => KeyRange::From(key),
            _ if end == behind(&key) => KeyRange::Prefix(key),
            _ => KeyRange::Span(key, end),
        }
    }

    /// Whether the two have a key in common.
    pub fn meets(&self, other: &KeyRange) -> bool {
        let below_end = |range: &KeyRange, key: &[u8]| range.end().is_none_or(|end| key < end.as_ref());
        let filled = |range: &KeyRange| below_end(range, range.start());
        filled(self) && filled(other) && below_end(self, other.start()) && below_end(other, self.start())
    }

    /// The first key behind the range. `None`: there is none.
    pub fn end(&self) -> Option<Bytes> {
        match self {
            KeyRange::All | KeyRange::From(_) => None,
            KeyRange::Key(key) => Some([key.as_ref(), &[0]].concat().into()),
            KeyRange::Prefix(prefix) => Some(behind(prefix).into()).filter(|end: &Bytes| !end.is_empty()),
            KeyRange::Span(_, end) => Some(end.clone()),
        }
    }
    /// Whether a key lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::All => true,
            KeyRange::Key(only) => key == only,
            KeyRange::Prefix(prefix) => key.starts_with(prefix),
            KeyRange::Span(start, end) => key >= start.as_ref() && key < end.as_ref(),
            KeyRange::From(start) => key >= start.as_ref(),
        }
    }

    /// The first key that could lie in the range.
    pub fn start(&self) -> &[u8] {
        match self {
            KeyRange::All => &[],
            KeyRange::Key(key) | KeyRange::Prefix(key) | KeyRange::Span(key, _) | KeyRange::From(key) => key,
        }
    }

    /// Bytes of the range's bounds.
    pub fn size(&self) -> usize {
        match self {
            KeyRange::All => 0,
            KeyRange::Key(key) | KeyRange::Prefix(key) | KeyRange::From(key) => key.len(),
            KeyRange::Span(start, end) => start.len() + end.len(),
        }
    }
}

/// The first key behind all that start with this prefix; empty if there is none.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let kept = prefix.iter().rposition(|byte| *byte < u8::MAX).map_or(0, |last| last + 1);
    let mut end = prefix[..kept].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::between(Bytes::from_static(key), Bytes::from_static(end))
    }

    #[test]
    fn ends_of_one_zero_byte_reach_to_the_last_key() {
        assert_eq!(range(b"a", b""), KeyRange::Key("a".into()));
        assert_eq!(range(b"a", b"\0"), KeyRange::From("a".into()));
        assert_eq!(range(b"\0", b"\0"), KeyRange::All);
        assert_eq!(range(b"ab", b"ac"), KeyRange::Prefix("ab".into()));
        assert_eq!(range(b"a\xff", b"b"), KeyRange::Prefix(Bytes::from_static(b"a\xff")));
        assert_eq!(range(b"b", b"a"), KeyRange::Span("b".into(), "a".into()));
    }

    /// Ranges meet where, and only where, some key lies in both.
    #[test]
    fn ranges_meet_where_a_key_lies_in_both() {
        let keys: [&[u8]; 7] = [b"a", b"a\0", b"ab", b"ac", b"b", b"\xff", b"\xff\xff"];
        let ranges = [
            KeyRange::All,
            KeyRange::Key("ab".into()),
            KeyRange::Prefix("a".into()),
            KeyRange::Prefix(Bytes::from_static(b"\xff")),
            KeyRange::Span("a".into(), "ab".into()),
            KeyRange::Span("b".into(), "a".into()),
            KeyRange::From("ac".into()),
        ];
        for one in &ranges {
            for two in &ranges {
                let common = keys.iter().any(|key| one.contains(key) && two.contains(key));
                assert_eq!(one.meets(two), common, "{one:?} and {two:?}");
            }
        }
    }
}
