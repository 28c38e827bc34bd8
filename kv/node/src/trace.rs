//! Spans of requests on their way through a group, for who traces them.
//!
//! ```text
//! transact ──► propose ──► (queued) ──► log entry ──► append   writing it into the leader's log, with the sync
//!                                            └──────► apply    into the leader's state
//! ```
//!
//! Several requests travel in one log entry: its span belongs to the first of them, and follows from the others.
//!
//! Must hold: where nobody listens to [`TARGET`], no span is made, and nothing here is locked.
//!
//! Left to others: who listens, and what a client says it is part of. The context is not carried from node to node.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tracing::Span;

/// The target of all spans of requests.
pub const TARGET: &str = "netstate::request";

/// The log entries of one group that are traced, while they are on their way.
#[derive(Clone, Default)]
pub(crate) struct Traced(Arc<Inner>);

#[derive(Default)]
struct Inner {
    count: AtomicUsize,
    entries: Mutex<Vec<Entry>>,
}

struct Entry {
    span: Span,
    /// Where its bytes are: they are shared, not copied, on their way to the log.
    at: usize,
    /// Known once it is being appended.
    index: Option<u64>,
}

/// An entry on its way. It is forgotten with this.
pub(crate) struct OnItsWay {
    traced: Traced,
    at: usize,
    _span: Span,
}

impl Traced {
    /// Takes note of an entry that carries requests with these spans. `None`: none of them is traced.
    pub(crate) fn sent<'a>(&self, bytes: &[u8], requests: impl Iterator<Item = &'a Span>) -> Option<OnItsWay> {
        let mut requests = requests.filter(|span| !span.is_disabled());
        let first = requests.next()?;
        let span = tracing::debug_span!(target: TARGET, parent: first, "log entry", bytes = bytes.len());
        requests.for_each(|other| {
            span.follows_from(other);
        });
        let at = bytes.as_ptr() as usize;
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.entries.lock().push(Entry { span: span.clone(), at, index: None });
        Some(OnItsWay { traced: self.clone(), at, _span: span })
    }

    /// A span of an entry's being appended under an index, if it is traced.
    pub(crate) fn appending(&self, bytes: &[u8], index: u64) -> Option<Span> {
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let at = bytes.as_ptr() as usize;
        let mut entries = self.0.entries.lock();
        let entry = entries.iter_mut().find(|entry| entry.at == at)?;
        entry.index = Some(index);
        Some(tracing::debug_span!(target: TARGET, parent: &entry.span, "append", index))
    }

    /// Spans of the applying of those of some entries that are traced.
    pub(crate) fn applying(&self, indexes: impl Iterator<Item = u64>) -> Vec<Span> {
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let entries = self.0.entries.lock();
        let traced = indexes.filter_map(|index| entries.iter().find(|entry| entry.index == Some(index)));
        traced.map(|entry| tracing::debug_span!(target: TARGET, parent: &entry.span, "apply")).collect()
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.traced.0.entries.lock().retain(|entry| entry.at != self.at);
        self.traced.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}
