//! Ranges of keys, and whether several of them together cover one.
//!
//! A key is a non-empty byte string; `"\0"` is the smallest. On the wire a range is a key and a range end: no end means
//! the key alone, the end `"\0"` means from the key on, any other end is the first key that no longer belongs.
//!
//! Must hold: the ranges of a [`Cover`] are ascending and neither overlap nor touch, so a range that is covered at all
//! by one cover lies in a single one of them.

use std::cmp::Ordering;

/// The range end that means: no end.
const FROM_KEY_ON: &[u8] = b"\0";

/// The smallest key.
const FIRST_KEY: &[u8] = b"\0";

/// Where a range ends. Excluded is the end itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Before this key.
    Before(Vec<u8>),
    /// Nowhere.
    Open,
}

impl Ord for End {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Before(one), Self::Before(other)) => one.cmp(other),
            (Self::Before(_), Self::Open) => Ordering::Less,
            (Self::Open, Self::Before(_)) => Ordering::Greater,
            (Self::Open, Self::Open) => Ordering::Equal,
        }
    }
}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl End {
    /// Whether a range from `key` up to here has `key` in it.
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end.as_slice(),
            Self::Open => true,
        }
    }
}

/// All keys from `begin` up to `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    begin: Vec<u8>,
    end: End,
}

impl Range {
    /// From the wire's form. `None`: no key is one, as an empty key alone is none.
    ///
    /// An empty key with an end begins with the first key, so that nothing depends on whether somebody has put `"\0"`
    /// in its place before.
    pub(crate) fn new(key: &[u8], range_end: &[u8]) -> Option<Self> {
        let begin = if key.is_empty() { FIRST_KEY } else { key };
        let end = match range_end {
            [] if key.is_empty() => return None,
            [] => End::Before(successor(key)),
            FROM_KEY_ON => End::Open,
            end => End::Before(end.to_vec()),
        };
        Some(Self { begin: begin.to_vec(), end })
    }

    fn is_empty(&self) -> bool {
        !self.end.is_after(&self.begin)
    }
}

/// The smallest key greater than this one.
fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// Whether a permission may be given for these: an end, if there is one, has to be after the key.
pub(crate) fn is_grantable(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && Range::new(key, range_end).is_some_and(|range| !range.is_empty())
}

/// A set of keys: the union of ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cover {
    ranges: Vec<Range>,
}

impl FromIterator<Range> for Cover {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        let mut sorted: Vec<Range> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        sorted.sort_by(|one, other| one.begin.cmp(&other.begin));
        let mut merged: Vec<Range> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if touches(last, &range) => {
                    if range.end > last.end {
                        last.end = range.end;
                    }
                }
                _ => merged.push(range),
            }
        }
        Self { ranges: merged }
    }
}

/// Whether nothing lies between the two, of which `later` doesn't begin before `earlier`.
fn touches(earlier: &Range, later: &Range) -> bool {
    match &earlier.end {
        End::Before(end) => later.begin <= *end,
        End::Open => true,
    }
}

impl Cover {
    /// How far all keys from `key` on are in this set, if `key` itself is.
    fn reaches(&self, key: &[u8]) -> Option<&End> {
        let after = self.ranges.partition_point(|range| range.begin.as_slice() <= key);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        range.end.is_after(key).then_some(&range.end)
    }
}

/// Whether the covers together have every key of `wanted`; of an empty range, whether they have the key it begins with.
///
/// Each turn moves to where the covers' ranges around one key end. A range of any cover is left behind by a turn, so
/// there are no more turns than ranges.
pub(crate) fn together_cover(covers: &[&Cover], wanted: &Range) -> bool {
    let mut reached = wanted.begin.as_slice();
    loop {
        let Some(furthest) = covers.iter().filter_map(|cover| cover.reaches(reached)).max() else { return false };
        if *furthest >= wanted.end {
            return true;
        }
        match furthest {
            End::Before(end) => reached = end,
            End::Open => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// All keys of up to three letters of an alphabet of two, of which one is the zero byte. Between two of them that
    /// a range begins or ends with there is a key exactly if there is one among these.
    fn keys() -> Vec<Vec<u8>> {
        let mut keys = vec![Vec::new()];
        for at in 0..7 {
            for letter in [0, b'a'] {
                let longer = [&keys[at][..], &[letter]].concat();
                keys.push(longer);
            }
        }
        keys
    }

    /// The wire's definition, word by word.
    fn is_in(key: &[u8], begin: &[u8], end: &[u8]) -> bool {
        match end {
            [] => key == begin,
            [0] => key >= begin,
            end => key >= begin && key < end,
        }
    }

    /// Keys of up to two letters, so that the successor of each is among the keys too.
    fn bound() -> impl Strategy<Value = Vec<u8>> {
        select(keys().into_iter().filter(|key| key.len() < 3).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn covers_equal_sets_of_keys(
            granted in vec((bound(), bound(), 0..2_usize), 0..6),
            (begin, end) in (bound(), bound()),
        ) {
            let all: Vec<Vec<u8>> = keys().into_iter().filter(|key| !key.is_empty()).collect();
            let granted: Vec<_> = granted.into_iter().filter(|(key, end, _)| is_grantable(key, end)).collect();
            let covers: Vec<Cover> = (0..2)
                .map(|role| {
                    let of_role = granted.iter().filter(|(_, _, owner)| *owner == role);
                    of_role.filter_map(|(key, end, _)| Range::new(key, end)).collect()
                })
                .collect();
            let allowed = |key: &[u8]| granted.iter().any(|(begin, end, _)| is_in(key, begin, end));
            let mut wanted = all.iter().filter(|key| is_in(key, &begin, &end)).peekable();
            let expected = match wanted.peek() {
                Some(_) => wanted.all(|key| allowed(key)),
                None => !begin.is_empty() && allowed(&begin),
            };
            let found = Range::new(&begin, &end).is_some_and(|range| together_cover(&covers.iter().collect::<Vec<_>>(), &range));
            prop_assert_eq!(found, expected, "{:?} {:?} of {:?}", begin, end, granted);
        }
    }

    #[test]
    fn only_ranges_with_a_first_key_are_grantable() {
        for (key, end, grantable) in [
            ("", "", false),
            ("", "\0", false),
            ("", "b", false),
            ("a", "", true),
            ("a", "\0", true),
            ("\0", "\0", true),
            ("a", "b", true),
            ("a", "a", false),
            ("b", "a", false),
        ] {
            assert_eq!(is_grantable(key.as_bytes(), end.as_bytes()), grantable, "{key:?} {end:?}");
        }
    }
}
