//! What a node counts while it works.
//!
//! Must hold: counting costs a few additions and never waits; nothing is decided by what is counted here.
//!
//! Left to others: names and units for people (the layer above), by way of [`Node::figures`](crate::Node::figures).

use std::sync::atomic::{AtomicU64, Ordering};

use kv_store::Histogram;

use crate::{error::CommitError, proposer::Answer};

/// What a request to write came to, at the group's leader. Each has a word that does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposed {
    /// It was answered: applied, repeated, or found stale.
    Answered,
    /// This node did not lead the group (any more).
    NotLeader,
    /// The keyspace is, or goes, into another group.
    Moving,
    /// Too many waited.
    Overloaded,
    /// There is no room on the disk.
    DiskFull,
    /// It breaks a limit or a rule, or asks for what can't be.
    Refused,
    /// It may have been done or not.
    Unknown,
    /// The replica is out of service.
    OutOfService,
}

impl Proposed {
    /// All of them.
    pub const ALL: [Proposed; 8] = [
        Proposed::Answered,
        Proposed::NotLeader,
        Proposed::Moving,
        Proposed::Overloaded,
        Proposed::DiskFull,
        Proposed::Refused,
        Proposed::Unknown,
        Proposed::OutOfService,
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Proposed::Answered => "answered",
            Proposed::NotLeader => "not-leader",
            Proposed::Moving => "moving",
            Proposed::Overloaded => "overloaded",
            Proposed::DiskFull => "disk-full",
            Proposed::Refused => "refused",
            Proposed::Unknown => "unknown",
            Proposed::OutOfService => "out-of-service",
        }
    }

    fn of(answer: &Answer) -> Self {
        match answer {
            Ok(_) => Proposed::Answered,
            Err(CommitError::NotLeader { .. }) => Proposed::NotLeader,
            Err(CommitError::Moving { .. }) => Proposed::Moving,
            Err(CommitError::Overloaded { .. }) => Proposed::Overloaded,
            Err(CommitError::DiskFull { .. }) => Proposed::DiskFull,
            Err(CommitError::TooLarge { .. } | CommitError::KeyTwice { .. } | CommitError::Refused(_)) => {
                Proposed::Refused
            }
            Err(CommitError::Unknown { .. }) => Proposed::Unknown,
            Err(CommitError::OutOfService { .. }) => Proposed::OutOfService,
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Snapshots that went one way.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    pub(crate) done: Counter,
    pub(crate) failed: Counter,
    pub(crate) bytes: Counter,
}

/// What a node counts, all groups together.
#[derive(Debug)]
pub(crate) struct Counts {
    proposed: [Counter; Proposed::ALL.len()],
    /// From handing an entry to openraft to its being applied, where that came to be.
    pub(crate) commits: Histogram,
    /// Confirmations of reads; all reads that wait share one.
    pub(crate) barriers: Histogram,
    pub(crate) barriers_failed: Counter,
    /// Log entries applied in one write, and how long that took.
    pub(crate) applied_entries: Histogram,
    pub(crate) applied_time: Histogram,
    /// Commits that came to be.
    pub(crate) revisions: Counter,
    pub(crate) sent: Transfers,
    pub(crate) received: Transfers,
    /// Steps of placement, while this node governs.
    pub(crate) steps_taken: Counter,
    pub(crate) steps_failed: Counter,
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            proposed: Default::default(),
            commits: Histogram::of_micros(),
            barriers: Histogram::of_micros(),
            barriers_failed: Counter::default(),
            applied_entries: Histogram::of_numbers(),
            applied_time: Histogram::of_micros(),
            revisions: Counter::default(),
            sent: Transfers::default(),
            received: Transfers::default(),
            steps_taken: Counter::default(),
            steps_failed: Counter::default(),
        }
    }
}

impl Counts {
    pub(crate) fn proposed(&self, answer: &Answer) {
        self.proposed[Proposed::of(answer) as usize].add(1);
    }

    pub(crate) fn proposals(&self, outcome: Proposed) -> u64 {
        self.proposed[outcome as usize].get()
    }
}

/// What is counted of one group.
#[derive(Debug, Default)]
pub(crate) struct GroupCounts {
    /// How often somebody else than before was seen to lead.
    pub(crate) leader_changes: Counter,
    /// How often this node stood for election.
    pub(crate) elections: Counter,
}

#[cfg(test)]
mod tests {
    use kv_core::GroupId;

    use super::*;

    #[test]
    fn each_outcome_has_a_place_and_a_word_of_its_own() {
        let mut words: Vec<_> = Proposed::ALL.iter().map(|outcome| outcome.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Proposed::ALL.len());
        assert!(Proposed::ALL.iter().enumerate().all(|(at, outcome)| *outcome as usize == at));
        let counts = Counts::default();
        counts.proposed(&Ok(Vec::new()));
        counts.proposed(&Err(CommitError::Unknown { group: GroupId::new(1) }));
        let counted = Proposed::ALL.map(|outcome| counts.proposals(outcome));
        assert_eq!(counted, [1, 0, 0, 0, 0, 0, 1, 0]);
    }
}
