//! Which keyspace should move to which group, so that no group carries far more than the others.
//!
//! A group does its work one entry after the other, so what counts is how much is written, and how much there is to be
//! kept and sent when a node joins.
//!
//! Must hold: what is decided makes the heaviest of the two groups lighter by a good part of its load, so a decision is
//! never taken back while loads are as they are; a cluster that has little to do is left alone.
//!
//! Left to others: measuring, and what else is being moved.

use std::collections::BTreeMap;

use crate::{GroupId, Keyspace};

/// Bytes of keys and values that weigh as much as one write in a second: a gigabyte as much as a thousand.
const BYTES_PER_WRITE: u64 = 1024 * 1024;

/// A group below this load is never relieved: as much as two gigabytes, or two thousand writes a second.
pub const LOAD_MIN: u64 = 2_000;

/// A group is relieved when its load is so many times the average of all, in percent …
const HEAVY_PERCENT: u64 = 150;

/// … and the two groups concerned are then both below so much of what it was, in percent.
const RELIEF_PERCENT: u64 = 85;

/// What a keyspace takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// The keyspace.
    pub keyspace: Keyspace,
    /// Where it is.
    pub group: GroupId,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Revisions in a second, lately.
    pub writes: u64,
    /// It stays where it is for now: it moves already, or did lately.
    pub settled: bool,
}

impl Weight {
    /// In writes a second, what is stored counted in.
    pub fn load(&self) -> u64 {
        self.writes.saturating_add(self.bytes / BYTES_PER_WRITE)
    }
}

/// The keyspace that should move next, and where to; `None`: all is as well as it can be.
pub fn relieve(weights: &[Weight], groups: u16) -> Option<(&Keyspace, GroupId)> {
    let mut loads: BTreeMap<GroupId, u64> = (0..groups).map(|group| (GroupId::new(group), 0)).collect();
    for weight in weights {
        let load = loads.get_mut(&weight.group)?;
        *load = load.saturating_add(weight.load());
    }
    let heaviest = loads.iter().max_by_key(|(group, load)| (**load, std::cmp::Reverse(**group)))?;
    let lightest = loads.iter().min_by_key(|(group, load)| (**load, **group))?;
    let (from, heavy, to, light) = (*heaviest.0, *heaviest.1, *lightest.0, *lightest.1);
    let all: u64 = loads.values().fold(0, |all, load| all.saturating_add(*load));
    let average = all / u64::from(groups.max(1));
    if heavy < LOAD_MIN || heavy.saturating_mul(100) < average.saturating_mul(HEAVY_PERCENT) {
        return None;
    }
    let candidates =
        weights.iter().filter(|weight| weight.group == from && !weight.settled && !weight.keyspace.stays());
    let after = |weight: &Weight| (heavy - weight.load()).max(light.saturating_add(weight.load()));
    let best = candidates.min_by(|one, two| (after(one), &one.keyspace).cmp(&(after(two), &two.keyspace)))?;
    let relieved = after(best).saturating_mul(100) <= heavy.saturating_mul(RELIEF_PERCENT);
    relieved.then_some((&best.keyspace, to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weight(name: &str, group: u16, load: u64) -> Weight {
        let keyspace = Keyspace::new(name).unwrap();
        Weight { keyspace, group: GroupId::new(group), bytes: 0, writes: load, settled: false }
    }

    fn decide(weights: &[Weight]) -> Option<(String, u16)> {
        relieve(weights, 4).map(|(keyspace, to)| (keyspace.as_str().to_owned(), to.get()))
    }

    #[test]
    fn the_heaviest_group_is_relieved_of_what_fits_best() {
        let weights = [weight("a", 1, 3_000), weight("b", 1, 2_000), weight("c", 1, 100), weight("d", 2, 500)];
        assert_eq!(decide(&weights), Some(("a".into(), 0)), "3000 and 2100 rather than 2000 and 3100");
        let settled = [Weight { settled: true, ..weights[0].clone() }, weights[1].clone(), weights[2].clone()];
        assert_eq!(decide(&settled), Some(("b".into(), 0)));
        let stored = [
            Weight { bytes: 6 << 30, writes: 0, ..weights[0].clone() },
            Weight { bytes: 4 << 30, writes: 0, ..weights[1].clone() },
        ];
        assert_eq!(decide(&stored), Some(("a".into(), 0)), "what is stored weighs, too");
    }

    #[test]
    fn what_would_help_nobody_is_left_alone() {
        assert_eq!(decide(&[]), None);
        assert_eq!(decide(&[weight("alone", 1, 50_000), weight("tiny", 1, 10)]), None, "it would only be elsewhere");
        assert_eq!(decide(&[weight("a", 1, 900), weight("b", 1, 900)]), None, "that is little");
        let even = [weight("a", 0, 5_000), weight("b", 1, 4_000), weight("c", 2, 4_500), weight("d", 3, 4_000)];
        assert_eq!(decide(&even), None);
        assert_eq!(decide(&[weight("kv/moves", 0, 9_000), weight("kv/placement", 0, 9_000)]), None);
        assert_eq!(relieve(&[weight("a", 9, 9_000)], 4), None, "a group that there is not");
        assert_eq!(relieve(&[weight("a", 0, 9_000)], 0), None);
    }

    proptest! {
        /// Followed as long as it says something, it comes to an end, and no keyspace goes back where it was.
        #[test]
        fn it_comes_to_an_end(loads in prop::collection::vec((0u16..4, 0u64..10_000), 0..40)) {
            let named = loads.iter().enumerate().map(|(at, (group, load))| weight(&format!("k{at}"), *group, *load));
            let mut weights: Vec<_> = named.collect();
            let mut been = std::collections::BTreeSet::new();
            while let Some((keyspace, to)) = relieve(&weights, 4) {
                let keyspace = keyspace.clone();
                let moved = weights.iter_mut().find(|weight| weight.keyspace == keyspace).unwrap();
                prop_assert!(been.insert((keyspace.clone(), moved.group)), "{keyspace} goes back and forth");
                moved.group = to;
            }
        }
    }
}
