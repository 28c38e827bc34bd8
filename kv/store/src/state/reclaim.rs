//! Giving back the space of what has been compacted, while everything goes on.
//!
//! A compaction only raises a keyspace's floor. What lies below goes when RocksDB next rewrites the files that it is in:
//! a filter drops an earlier version once the revision that took its place is at or below the floor. Each record says
//! so by itself, so nothing is searched for.
//!
//! ```text
//! commit raises the floor ──► flush makes that durable ──► horizon ──► filter of RocksDB's compactions
//!                                 readers hold revisions ──┘
//! ```
//!
//! Must hold: nothing is dropped that a crash could bring back into reach, so the horizon follows floors that are on
//! disk; and nothing that somebody reads, so it stays below the revisions that are held. Who reads an earlier revision
//! first takes a hold on it and then looks at the floor.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::CStr,
    sync::Arc,
};

use kv_core::{GroupId, Revision};
use parking_lot::Mutex;
use rocksdb::{
    CompactionDecision,
    compaction_filter::CompactionFilter,
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};

use super::{
    keys::{self, Number},
    records::Version,
};
use crate::envelope;

/// One keyspace of one group.
type Place = (u16, Number);

/// Up to where what is superseded may go.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Horizon {
    versions: Revision,
    records: Revision,
}

/// What may go, and what somebody reads. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Reclaim(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    horizons: Arc<HashMap<Place, Horizon>>,
    held: BTreeMap<(u16, Number, Revision), usize>,
}

/// Keeps what a read at a revision can see. Dropping it lets go.
pub(super) struct Hold {
    reclaim: Reclaim,
    of: (u16, Number, Revision),
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut inner = self.reclaim.0.lock();
        if let Some(count) = inner.held.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                inner.held.remove(&self.of);
            }
        }
    }
}

impl Reclaim {
    /// Keeps what a read at a revision can see, if it can still be seen: the caller has to look at the floor afterwards.
    pub(super) fn hold(&self, group: GroupId, number: Number, revision: Revision) -> Hold {
        let of = (group.get(), number, revision);
        *self.0.lock().held.entry(of).or_default() += 1;
        Hold { reclaim: self.clone(), of }
    }

    /// Floors that are on disk: (number, floor, records forgotten before). Returns the keyspaces that have more to give
    /// back than before.
    pub(super) fn raise(&self, group: GroupId, floors: &[(Number, Revision, Revision)]) -> Vec<Number> {
        let mut inner = self.0.lock();
        let mut horizons: Option<HashMap<Place, Horizon>> = None;
        let mut raised = Vec::new();
        for (number, floor, forgotten) in floors {
            let place = (group.get(), *number);
            let from = (place.0, place.1, Revision::ZERO);
            let held =
                inner.held.range(from..).next().filter(|((g, n, _), _)| (*g, *n) == place).map(|((.., at), _)| *at);
            let known = inner.horizons.get(&place).copied().unwrap_or_default();
            let upto = |revision: Revision| held.map_or(revision, |held| held.min(revision));
            let next =
                Horizon { versions: upto(*floor).max(known.versions), records: upto(*forgotten).max(known.records) };
            if next != known {
                horizons.get_or_insert_with(|| (*inner.horizons).clone()).insert(place, next);
                raised.push(*number);
            }
        }
        if let Some(horizons) = horizons {
            inner.horizons = Arc::new(horizons);
        }
        raised
    }

    /// Forgets a group: other data takes its place.
    pub(super) fn clear(&self, group: GroupId) {
        let mut inner = self.0.lock();
        let mut horizons = (*inner.horizons).clone();
        horizons.retain(|(of, _), _| *of != group.get());
        inner.horizons = Arc::new(horizons);
    }
}

const NAME: &CStr = c"netstate.reclaim";

impl CompactionFilterFactory for Reclaim {
    type Filter = Filter;

    fn create(&mut self, _: CompactionFilterContext) -> Filter {
        Filter { horizons: self.0.lock().horizons.clone() }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

/// Drops what lies behind the horizon that there was when the compaction began.
pub(crate) struct Filter {
    horizons: Arc<HashMap<Place, Horizon>>,
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _: u32, key: &[u8], record: &[u8]) -> CompactionDecision {
        match self.gone(key, record) {
            Some(true) => CompactionDecision::Remove,
            // What cannot be read is left for those who read it to find.
            Some(false) | None => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

impl Filter {
    fn gone(&self, key: &[u8], record: &[u8]) -> Option<bool> {
        if self.horizons.is_empty() {
            return Some(false);
        }
        let (head, rest) = key.split_first_chunk::<{ keys::NUMBERED_BYTES }>()?;
        let [g0, g1, kind, number @ ..] = *head;
        let place = (u16::from_be_bytes([g0, g1]), Number::from_be_bytes(number));
        match kind {
            keys::EARLIER => {
                let horizon = self.horizons.get(&place)?;
                let version: Version<'_> = envelope::peek_value(record)?;
                // A removal made by the floor's own revision stays: a watch may begin with that revision.
                Some(match version.value {
                    Some(_) => version.until <= horizon.versions,
                    None => version.modified < horizon.versions,
                })
            }
            keys::CHAIN => {
                let horizon = self.horizons.get(&place)?;
                Some(u64::from_be_bytes(rest.try_into().ok()?) < horizon.records.get())
            }
            _ => Some(false),
        }
    }
}
