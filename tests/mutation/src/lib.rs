//! Fuzzing on stable Rust: inputs of a corpus, mutated at random from a printed seed, for a given time.
//!
//! Must hold: a run can be repeated: what it tries follows from the corpus and the seed alone.
//!
//! Left to others: coverage. The corpus has to have an input of each kind that the code tells apart.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// How long a run takes unless `FUZZ_SECONDS` says otherwise.
const SECONDS: u64 = 60;

/// Inputs between two looks at the clock.
const INPUTS_PER_LOOK: u32 = 256;

/// Changes to one input, at most.
const CHANGES_MAX: usize = 6;

/// Numbers at the edges of what fields and lengths can hold.
const EDGES: [u64; 9] = [0, 1, 0x7f, 0x80, 0xff, u16::MAX as u64, u32::MAX as u64, i64::MAX as u64, u64::MAX];

/// Draws inputs.
#[derive(Debug)]
pub struct Mutator {
    rng: StdRng,
}

impl Mutator {
    /// The draws that follow from a seed.
    pub fn new(seed: u64) -> Self {
        Mutator { rng: StdRng::seed_from_u64(seed) }
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.rng.random_range(0..from.len())]
    }

    /// A changed copy of an input; `other` lends parts of itself.
    pub fn mutate(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..self.rng.random_range(1..=CHANGES_MAX) {
            self.change(&mut bytes, other);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.rng.random_range(0..=bytes.len());
        match self.rng.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = self.rng.random(),
            2 => bytes.truncate(at),
            3 => {
                let end = (at + self.rng.random_range(0..8usize)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let start = self.rng.random_range(0..=other.len());
                let end = self.rng.random_range(start..=other.len());
                bytes.splice(at..at, other[start..end].iter().copied());
            }
            5 => {
                let edge = *self.pick(&EDGES);
                bytes.splice(at..at, varint(edge));
            }
            _ => {
                let mut noise = [0; 4];
                self.rng.fill_bytes(&mut noise);
                bytes.splice(at..at, noise);
            }
        }
    }
}

/// A number in the form in which protobuf and postcard write it.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Calls a target with the draws of one seed, again and again, until the time is over. `FUZZ_SEED` repeats a run.
///
/// A target that panics ends the test; what it was called with is to be told by the target.
pub fn run(mut target: impl FnMut(&mut Mutator)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seed = number("FUZZ_SEED").unwrap_or_else(|| rand::rng().random());
    let span = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(SECONDS));
    println!("FUZZ_SEED={seed}, for {} s", span.as_secs());
    let (mut mutator, began, mut inputs) = (Mutator::new(seed), Instant::now(), 0u64);
    while began.elapsed() < span {
        for _ in 0..INPUTS_PER_LOOK {
            target(&mut mutator);
        }
        inputs += u64::from(INPUTS_PER_LOOK);
    }
    println!("{inputs} inputs");
}

/// Prints the input if the value is dropped by a panic.
#[derive(Debug)]
pub struct Told<'a>(pub &'a [u8]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("the input, for the corpus: {hex}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same() {
        let draw = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..100).map(|_| mutator.mutate(b"an input", b"another")).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
