//! Hybrid logical time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch, as a hybrid logical clock: the wall clock where it moves forward, one tick more than
/// the last commit where it doesn't. So time never runs backwards within a keyspace, whoever leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A time from microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The time of a commit that follows one at `last`, when the wall clock says `self`.
    #[must_use]
    pub fn after(self, last: Timestamp) -> Self {
        Timestamp(self.0.max(last.0.saturating_add(1)))
    }

    /// This much earlier.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Timestamp(self.0.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }
}
