//! How often, and for how long, a call that failed for passing reasons is repeated.
//!
//! Must hold: pauses grow to a limit and are spread by chance, so that many callers don't come back at once; chance is an argument.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

/// Repetition of calls.
#[derive(Clone)]
pub struct Retries {
    /// Pause after the first failure; each further one doubles it.
    pub pause_first: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// How long one attempt may take.
    pub attempt: Duration,
    /// For how long a call is attempted before the import ends.
    pub patience: Duration,
    /// Gives numbers in 0..1, of which each pause takes one.
    pub chance: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl Retries {
    /// The pause after so many failures in a row (from 0): between half of the step and all of it.
    pub fn pause(&self, failures: u32) -> Duration {
        let step = self.pause_first.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.pause_max);
        step.mul_f64(0.5 + (self.chance)().clamp(0.0, 1.0) / 2.0)
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            pause_first: Duration::from_millis(50),
            pause_max: Duration::from_secs(5),
            attempt: Duration::from_secs(15),
            patience: Duration::from_secs(300),
            chance: Arc::new(|| f64::from((random() >> 32) as u32) / f64::from(u32::MAX)),
        }
    }
}

impl fmt::Debug for Retries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retries")
            .field("pause_first", &self.pause_first)
            .field("pause_max", &self.pause_max)
            .field("attempt", &self.attempt)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// A number that no other process will have: every hasher of the standard library has a key of its own.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(chance: f64) -> Retries {
        Retries {
            pause_first: Duration::from_millis(100),
            pause_max: Duration::from_secs(1),
            chance: Arc::new(move || chance),
            ..Retries::default()
        }
    }

    #[test]
    fn pauses_double_up_to_the_limit() {
        let pauses = [0, 1, 2, 3, 4, 31, 32, 1000].map(|failures| retries(1.0).pause(failures).as_millis());
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000, 1000, 1000]);
    }

    #[test]
    fn chance_takes_up_to_half() {
        assert_eq!(retries(0.0).pause(1).as_millis(), 100);
        assert_eq!(retries(0.5).pause(1).as_millis(), 150);
    }

    #[test]
    fn default_chance_stays_in_range_and_varies() {
        let chance = Retries::default().chance;
        let drawn: Vec<f64> = (0..100).map(|_| chance()).collect();
        assert!(drawn.iter().all(|number| (0.0..=1.0).contains(number)), "{drawn:?}");
        assert!(drawn.iter().any(|number| number != &drawn[0]), "{drawn:?}");
    }
}
