//! Positions in a keyspace's history.
//!
//! Must hold: a [`Revision`] is compared only with another of the same keyspace.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Position in one keyspace's total order of commits. Zero: nothing written yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(u64);

impl Revision {
    /// Before the first commit.
    pub const ZERO: Revision = Revision(0);

    /// A revision from its number.
    pub const fn new(raw: u64) -> Self {
        Revision(raw)
    }

    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position of the next commit.
    #[must_use]
    pub fn next(self) -> Self {
        Revision(self.0.checked_add(1).expect("revision overflow"))
    }

    /// How many commits lie between an earlier position and this one; zero if it isn't earlier.
    pub const fn since(self, earlier: Revision) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}
