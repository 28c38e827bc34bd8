//! What all hosts of a fleet count together, and what they are told to do.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Deliveries are noted in so many places, so that hosts don't wait for each other.
const SHARDS: usize = 16;

/// What hosts do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Stay connected, take what comes.
    Stay,
    /// Drop the stream and keep what is held.
    Leave,
    /// Come back.
    Come {
        /// As if nothing had been held.
        with_nothing: bool,
    },
    /// Come back as if nothing had been held, and read no faster than so many bytes a second.
    Crawl(u64),
}

/// How a host learns of orders. They end with the fleet.
pub(super) type Orders = watch::Receiver<Order>;

/// An endpoint that came to a host or left it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivered {
    pub(super) endpoint: u64,
    pub(super) gone: bool,
    pub(super) host: u32,
    pub(super) at: Instant,
}

/// What hosts count.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) frames: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Streams that were lost or could not be opened.
    pub(super) lost: AtomicU64,
    /// Hosts that have all of their scope on an open stream.
    pub(super) whole: AtomicU64,
    /// Times that one ceased to.
    pub(super) dropped: AtomicU64,
    /// When they came to have it.
    pub(super) complete: Mutex<Vec<Instant>>,
    delivered: [Mutex<Vec<Delivered>>; SHARDS],
    hasher: RandomState,
}

impl Tally {
    /// What an endpoint is noted as.
    pub(super) fn key(&self, endpoint: &[u8]) -> u64 {
        self.hasher.hash_one(endpoint)
    }

    pub(super) fn delivered(&self, delivered: impl IntoIterator<Item = Delivered>) {
        let mut delivered = delivered.into_iter().peekable();
        if let Some(first) = delivered.peek() {
            self.delivered[first.host as usize % SHARDS].lock().extend(delivered);
        }
    }

    /// Everything delivered since the last call.
    pub(super) fn take_delivered(&self) -> Vec<Delivered> {
        self.delivered.iter().flat_map(|shard| std::mem::take(&mut *shard.lock())).collect()
    }

    /// Frames and bytes so far.
    pub(super) fn received(&self) -> (u64, u64) {
        (self.frames.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// Whether one host has all of its scope.
pub(super) struct Wholeness<'a> {
    tally: &'a Tally,
    whole: bool,
}

impl<'a> Wholeness<'a> {
    pub(super) fn none_yet(tally: &'a Tally) -> Self {
        Wholeness { tally, whole: false }
    }

    pub(super) fn reached(&mut self, at: Instant) {
        if !self.whole {
            self.whole = true;
            self.tally.complete.lock().push(at);
            self.tally.whole.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn lost(&mut self) {
        if self.whole {
            self.whole = false;
            self.tally.whole.fetch_sub(1, Ordering::Relaxed);
            self.tally.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
