//! What is measured while rows are played, and what must not be exceeded.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::run::Checked;

/// A limit on a figure, for runs of the release build with nothing beside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Limit {
    /// None: it is only told.
    #[default]
    None,
    /// On the 99th percentile.
    P99(Duration),
    /// On every one.
    Max(Duration),
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// What it is, for people.
    pub name: &'static str,
    /// How large it may be.
    pub limit: Limit,
}

/// From the last write that was answered before a leader's death to the first one after.
pub const LEADER_DEAD: Figure =
    Figure { name: "without writes when the leader is killed", limit: Limit::P99(Duration::from_millis(1500)) };
/// The same for a follower.
pub const FOLLOWER_DEAD: Figure = Figure { name: "without writes when a follower is killed", limit: Limit::None };
/// The same for more than a minority, from the last write before to the first after all were started again.
pub const MAJORITY_DEAD: Figure =
    Figure { name: "without writes when a majority is killed and started again", limit: Limit::None };
/// The same for a leader that is stopped.
pub const LEADER_ASLEEP: Figure = Figure { name: "without writes when the leader is stopped", limit: Limit::None };
/// The same for a leader that is cut off.
pub const LEADER_CUT: Figure = Figure { name: "without writes when the leader is cut off", limit: Limit::None };
/// From a member's start to its first linearizable answer.
pub const RESTARTED: Figure = Figure { name: "from a member's start to its first answer", limit: Limit::None };
/// From the end of a cut to the first linearizable answer of the member that was cut off.
pub const HEALED: Figure =
    Figure { name: "from the end of a cut to the first answer", limit: Limit::Max(Duration::from_secs(3)) };
/// How long a write to a minority waits until it is refused.
pub const REFUSED: Figure = Figure { name: "until a minority refuses a write", limit: Limit::None };
/// How long the cluster is without writes when the disk of its leader is full.
pub const DISK_FULL_ONE: Figure = Figure { name: "without writes when the leader's disk is full", limit: Limit::None };
/// From room on the disk to the first write.
pub const ROOM_AGAIN: Figure = Figure { name: "from room on the disks to the first write", limit: Limit::None };
/// How long the cluster is without writes while the disk of one member is slow.
pub const DISK_SLOW: Figure = Figure { name: "without writes while a disk is slow", limit: Limit::None };
/// The same while packets to and from one member are lost.
pub const NETWORK_LOSSY: Figure = Figure { name: "without writes while a network loses packets", limit: Limit::None };
/// How late a lease ends that nobody keeps alive.
pub const LEASE_LATE: Figure = Figure { name: "how late a lease ends, new leaders included", limit: Limit::None };
/// From a flipped bit in a running member's state to the moment when it is found, with something reading it.
pub const DAMAGE_FOUND: Figure = Figure { name: "until damage is found that is read", limit: Limit::None };
/// From the start of an empty member to the moment when it has everything and its share of votes and leaders.
pub const JOINED: Figure =
    Figure { name: "until a member that joins has its share", limit: Limit::Max(Duration::from_secs(60)) };
/// From the order to remove a member to the moment when the others have its share.
pub const REMOVED: Figure = Figure { name: "until a member is removed", limit: Limit::Max(Duration::from_secs(60)) };
/// From the order to repair a member until it serves again.
pub const REPAIRED: Figure = Figure { name: "until a damaged member is repaired", limit: Limit::None };
/// How long a backup of everything takes.
pub const SAVED: Figure = Figure { name: "until a backup is made", limit: Limit::None };
/// How long a keyspace takes to another group.
pub const MOVED: Figure = Figure { name: "until a keyspace has moved", limit: Limit::None };
/// The longest pause between two answered writes while a member is stopped in order and started again.
pub const UPGRADED: Figure = Figure {
    name: "without writes while a member is restarted in order",
    limit: Limit::Max(Duration::from_millis(1500)),
};

/// What one or many playings of a row came to.
#[derive(Clone, Debug, Default)]
pub struct Played {
    /// How many playings.
    pub runs: usize,
    /// How many faults, by their kind.
    pub faults: BTreeMap<&'static str, usize>,
    /// What was measured.
    pub figures: BTreeMap<&'static str, (Limit, Vec<Duration>)>,
    /// What was checked.
    pub checked: Checked,
    /// How long it took.
    pub took: Duration,
}

impl Played {
    /// Writes down a duration.
    pub fn measure(&mut self, figure: &Figure, took: Duration) {
        self.figures.entry(figure.name).or_insert((figure.limit, Vec::new())).1.push(took);
    }

    /// Adds what other playings came to.
    pub fn add(&mut self, other: &Played) {
        self.runs += other.runs;
        self.took += other.took;
        self.checked.add(&other.checked);
        for (fault, times) in &other.faults {
            *self.faults.entry(fault).or_default() += times;
        }
        for (name, (limit, values)) in &other.figures {
            self.figures.entry(name).or_insert((*limit, Vec::new())).1.extend(values);
        }
    }

    /// The figures that exceed their limits, in words.
    pub fn exceeded(&self) -> Vec<String> {
        let over = self.figures.iter().filter_map(|(name, (limit, values))| {
            let (found, limit, what) = match limit {
                Limit::None => return None,
                Limit::P99(limit) => (percentile(values, 99)?, limit, "p99"),
                Limit::Max(limit) => (percentile(values, 100)?, limit, "max"),
            };
            (found > *limit).then(|| format!("{name}: {what} {found:?}, and {limit:?} is the limit"))
        });
        over.collect()
    }
}

/// The smallest value that so many of a hundred don't exceed.
pub fn percentile(values: &[Duration], percent: usize) -> Option<Duration> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_limits() {
        let values: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let at = |percent| percentile(&values, percent).map(|found| found.as_millis());
        assert_eq!([at(50), at(99), at(100)], [Some(100), Some(198), Some(200)]);
        assert_eq!(percentile(&[], 99), None);
        let mut played = Played::default();
        played.measure(&HEALED, Duration::from_secs(2));
        assert!(played.exceeded().is_empty());
        let mut other = Played::default();
        other.measure(&HEALED, Duration::from_secs(4));
        other.measure(&RESTARTED, Duration::from_secs(40));
        played.add(&other);
        assert_eq!(played.exceeded(), ["from the end of a cut to the first answer: max 4s, and 3s is the limit"]);
    }
}
