//! How long calls took.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::human;

/// The longest time that is told from a longer one.
const MICROS_MAX: u64 = 10 * 60 * 1_000_000;

/// Points of a curve: ten for each digit of its quantiles, up to 99.99 %.
const CURVE_POINTS: u32 = 40;

/// Times of many calls.
#[derive(Clone, Debug)]
pub(super) struct Latency(Histogram<u64>);

impl Latency {
    pub(super) fn new() -> Self {
        Latency(Histogram::new_with_max(MICROS_MAX, 3).expect("three digits up to ten minutes is a valid histogram"))
    }

    pub(super) fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_micros()).unwrap_or(MICROS_MAX));
    }

    pub(super) fn calls(&self) -> u64 {
        self.0.len()
    }

    pub(super) fn micros(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "calls": self.calls(),
            "p50_ms": self.millis(0.5),
            "p90_ms": self.millis(0.9),
            "p99_ms": self.millis(0.99),
            "max_ms": self.millis(1.0),
        })
    }

    /// How large a part took how long at most, in milliseconds: points of a curve.
    pub(super) fn curve(&self) -> Vec<(f64, f64)> {
        let points = (0..=CURVE_POINTS).map(|at| 1.0 - 0.1_f64.powf(f64::from(at) / 10.0));
        points.map(|part| (part, self.millis(part))).collect()
    }

    /// Milliseconds to three digits after the point: as exact as what was recorded.
    fn millis(&self, quantile: f64) -> f64 {
        self.micros(quantile) as f64 / 1000.0
    }

    pub(super) fn text(&self) -> String {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|quantile| human::millis(self.micros(quantile)));
        let max = human::millis(self.0.max());
        format!("p50 {p50}, p90 {p90}, p99 {p99}, longest {max} of {} calls", human::count(self.calls()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut latency = Latency::new();
        (1..=100).for_each(|millis| latency.record(Duration::from_millis(millis)));
        assert!(latency.micros(0.5).abs_diff(50_000) < 100);
        // Longer than can be told: still counted.
        latency.record(Duration::from_secs(1_000_000));
        assert_eq!(latency.calls(), 101);
    }
}
