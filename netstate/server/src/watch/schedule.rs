//! Which streams are woken when: those whose time has come, a few at a time.
//!
//! A change that concerns a thousand hosts gives a thousand tasks something to do. Woken all at once, they would be run before
//! the tasks of the commits that come next, on each node that these have to pass. So few are woken, and then whatever else is
//! ready runs: a commit goes before what follows from those before it.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{self, Instant},
};

use super::hub::Stream;
use crate::gather::poll_others;

/// Streams woken between two looks at what else is ready, which waits for some half of a millisecond then.
pub(super) const AT_ONCE: usize = 16;

/// Streams that there is something to be told on, by when it may be.
#[derive(Default)]
pub(super) struct Schedule {
    waiting: Mutex<Waiting>,
    /// One came that is to be woken before all others.
    sooner: Notify,
}

#[derive(Default)]
struct Waiting {
    streams: BTreeMap<(Instant, u64), Weak<Stream>>,
    next_number: u64,
}

impl Schedule {
    /// Has a stream woken, not before `at`.
    pub(super) fn add(&self, at: Instant, stream: &Arc<Stream>) {
        let is_first = {
            let mut waiting = self.waiting.lock();
            let is_first = waiting.streams.first_key_value().is_none_or(|((first, _), _)| at < *first);
            waiting.next_number += 1;
            let key = (at, waiting.next_number);
            waiting.streams.insert(key, Arc::downgrade(stream));
            is_first
        };
        if is_first {
            self.sooner.notify_one();
        }
    }

    /// Wakes streams for as long as it is polled.
    pub(super) async fn run(&self) {
        loop {
            let now = Instant::now();
            match self.wake_due(now) {
                Some(next) if next <= now => others_run().await,
                // Either way there is one to be looked at.
                Some(next) => drop(time::timeout_at(next, self.sooner.notified()).await),
                None => self.sooner.notified().await,
            }
        }
    }

    /// Wakes a few of those whose time has come, and tells when that of the next one comes.
    fn wake_due(&self, now: Instant) -> Option<Instant> {
        let mut due = Vec::with_capacity(AT_ONCE);
        let next = {
            let mut waiting = self.waiting.lock();
            loop {
                let Some(first) = waiting.streams.first_entry() else { break None };
                let (at, _) = *first.key();
                if at > now || due.len() == AT_ONCE {
                    break Some(at);
                }
                due.push(first.remove());
            }
        };
        // Whoever has gone has nothing to be told.
        due.iter().filter_map(Weak::upgrade).for_each(|stream| stream.wake.notify_one());
        next
    }
}

/// Goes on after all tasks that are ready now.
pub(super) async fn others_run() {
    let mut yielded = false;
    poll_fn(|context| poll_others(&mut yielded, context)).await;
}
