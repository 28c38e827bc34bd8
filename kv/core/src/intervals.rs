//! A set of keys, as intervals.

use std::{
    collections::BTreeMap,
    ops::Bound::{Included, Unbounded},
};

use bytes::Bytes;

use crate::KeyRange;

/// The keys of several ranges together: by where each interval starts, where it ends (exclusive; `None`: nowhere). No two
/// of them touch.
#[derive(Default)]
pub(crate) struct Intervals(BTreeMap<Bytes, Option<Bytes>>);

impl Intervals {
    /// Adds the keys of a range.
    pub(crate) fn insert(&mut self, range: &KeyRange) {
        let (mut start, mut end) = (Bytes::copy_from_slice(range.start()), range.end());
        if end.as_ref().is_some_and(|end| *end <= start) {
            return;
        }
        // The one before may reach into it, and those that start inside it or at its end become a part of it.
        if let Some((before, reach)) = self.0.range::<[u8], _>((Unbounded, Included(&start[..]))).next_back()
            && reach.as_ref().is_none_or(|reach| *reach >= start)
        {
            start = before.clone();
        }
        loop {
            let upto = end.as_ref().map_or(Unbounded, |end| Included(&end[..]));
            let Some(inside) = self.0.range::<[u8], _>((Included(&start[..]), upto)).next() else { break };
            let key = inside.0.clone();
            let reach = self.0.remove(&key).expect("it was just found");
            end = match (end, reach) {
                (Some(one), Some(other)) => Some(one.max(other)),
                _ => None,
            };
        }
        self.0.insert(start, end);
    }

    /// Adds the keys of others.
    pub(crate) fn extend(&mut self, others: Intervals) {
        for (start, end) in others.0 {
            self.insert(&match end {
                Some(end) => KeyRange::Span(start, end),
                None => KeyRange::From(start),
            });
        }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        let before = self.0.range::<[u8], _>((Unbounded, Included(key))).next_back();
        before.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < &end[..]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop::sample::select(vec![0u8, b'a', 0xff]), 0..4).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn has_the_keys_that_some_range_has(
            ranges in prop::collection::vec((key(), key(), any::<bool>()), 0..10),
            keys in prop::collection::vec(key(), 1..20),
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(key, end, plain)| match plain {
                true => KeyRange::Span(key, end),
                false => KeyRange::between(key, end),
            }).collect();
            let (mut all, mut others) = (Intervals::default(), Intervals::default());
            let half = ranges.len() / 2;
            ranges[..half].iter().for_each(|range| all.insert(range));
            ranges[half..].iter().for_each(|range| others.insert(range));
            all.extend(others);
            for key in keys {
                prop_assert_eq!(all.contains(&key), ranges.iter().any(|range| range.contains(&key)), "{:?}", key);
            }
        }
    }
}
