//! Keys and values to be written: distinct keys, values that cannot be compressed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// The size of every value.
pub(crate) const VALUE_BYTES: usize = 256;
/// From which values are cut. Large enough that neighbouring records share nothing that a compressor would find.
const NOISE_BYTES: usize = 4 << 20;
/// Between the beginnings of two values; odd, so that it takes long until one returns.
const NOISE_STRIDE: usize = 7919;

/// Values cut from one block of noise without copying.
#[derive(Clone)]
pub(crate) struct Values(Bytes);

impl Values {
    pub(crate) fn new() -> Values {
        // Marsaglia's xorshift: what is wanted is bytes without pattern, the same in every run.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let words = (0..NOISE_BYTES / size_of::<u64>()).flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        Values(words.collect())
    }

    pub(crate) fn get(&self, number: u64) -> Bytes {
        let places = (NOISE_BYTES - VALUE_BYTES) as u64;
        let at = (number.wrapping_mul(NOISE_STRIDE as u64) % places) as usize;
        self.0.slice(at..at + VALUE_BYTES)
    }
}

/// Numbers, each given out once to whichever client asks.
#[derive(Clone, Default)]
pub(crate) struct Numbers(Arc<AtomicU64>);

impl Numbers {
    pub(crate) fn next(&self) -> u64 {
        self.take(1)
    }

    /// Takes `count` numbers and returns the first.
    pub(crate) fn take(&self, count: u64) -> u64 {
        self.0.fetch_add(count, Ordering::Relaxed)
    }
}

/// The key of a number, in the order of numbers.
pub(crate) fn key(prefix: &str, number: u64) -> Bytes {
    format!("{prefix}{number:012}").into()
}
