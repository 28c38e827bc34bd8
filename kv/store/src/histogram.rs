//! How values that a node measures are spread.
//!
//! Must hold: recording costs three additions and never waits; memory does not depend on how much is recorded.
//!
//! Not the recorder of a metrics library: those keep every value until somebody looks, and belong to the process, of which
//! tests have several nodes.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Bounds of times, in microseconds: from a sync of a quick disk to what nobody waits for.
const MICROS: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Bounds of small numbers.
const NUMBERS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Buckets that a histogram has at most: one more than bounds.
const BUCKETS: usize = 17;

const _: () = assert!(MICROS.len() < BUCKETS && NUMBERS.len() < BUCKETS);

/// Values, counted by the smallest bound that they don't exceed.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// As many as there are bounds, then those beyond the last.
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

/// A histogram as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// Bounds, growing.
    pub bounds: &'static [u64],
    /// How many values lie at or below each bound and above the one before it; the last: above all.
    pub counts: Vec<u64>,
    /// What the values add up to.
    pub sum: u64,
}

impl Histogram {
    /// Of times, in microseconds.
    pub const fn of_micros() -> Self {
        Self::new(MICROS)
    }

    /// Of small numbers.
    pub const fn of_numbers() -> Self {
        Self::new(NUMBERS)
    }

    const fn new(bounds: &'static [u64]) -> Self {
        Histogram { bounds, counts: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }

    /// Takes a value.
    pub fn record(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Takes a time.
    pub fn took(&self, time: Duration) {
        self.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// How it is now. What is recorded meanwhile may be in a part of it.
    pub fn buckets(&self) -> Buckets {
        let counts: [u64; BUCKETS] = array::from_fn(|at| self.counts[at].load(Ordering::Relaxed));
        Buckets {
            bounds: self.bounds,
            counts: counts[..=self.bounds.len()].to_vec(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_once_at_the_smallest_bound_that_holds_it() {
        for (value, at) in [(0, 0), (1, 0), (2, 1), (3, 2), (64, 6), (65, 7), (1024, 10), (1025, 11), (u64::MAX, 11)] {
            let histogram = Histogram::of_numbers();
            histogram.record(value);
            let found = histogram.buckets();
            assert_eq!(found.counts.len(), found.bounds.len() + 1);
            assert_eq!(found.counts.iter().position(|count| *count == 1), Some(at), "{value}");
            assert_eq!((found.counts.iter().sum::<u64>(), found.sum), (1, value));
        }
    }

    #[test]
    fn times_are_counted_in_microseconds() {
        let histogram = Histogram::of_micros();
        histogram.took(Duration::from_millis(3));
        let found = histogram.buckets();
        assert_eq!(
            (found.counts[found.bounds.iter().position(|bound| *bound == 5_000).unwrap()], found.sum),
            (1, 3_000)
        );
    }
}
