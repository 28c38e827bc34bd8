//! What changed lately in a network, as far as hosts are concerned.
//!
//! A host that was sent a network at one revision is sent at a later one what lies between. Two logs hold it: one of what
//! concerns every host with the network in scope (blocks, strays, quarantine) and one of endpoints, which concern their own
//! host and those that a selector names. Both are short; who comes from further back gets the network whole.
//!
//! Must hold: a log answers for a revision only if it holds everything after it.

use std::collections::{BTreeSet, VecDeque};

use ipnet::IpNet;
use kv_core::Revision;
use netstate_model::{Endpoint, HostId, Labels, NetworkChange, NetworkState};

/// Items kept of what concerns every host, and of endpoints: so many, or one for every so many endpoints of the network. So few
/// in tests that short histories overrun them.
const CORE_ITEMS: usize = if cfg!(test) { 4 } else { 64 };
const ENDPOINT_ITEMS: usize = if cfg!(test) { 4 } else { 32 };
const ENDPOINTS_PER_ITEM: usize = 16;

/// Something that every host with the network in scope has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CoreItem {
    /// A block was given to a host or taken away.
    Block(IpNet),
    /// An endpoint began or ceased to be a stray.
    Stray(u32),
    /// An endpoint went into quarantine or came out, or is gone.
    Quarantine(u32),
}

/// An endpoint that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) number: u32,
    pub(crate) host: HostId,
    pub(crate) labels: Labels,
}

#[derive(Clone, Debug)]
enum EndpointItem {
    Changed(u32),
    Gone(Gone),
}

/// What changed between two cursors and now; `None`: more than is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touched {
    pub(crate) core: Option<BTreeSet<CoreItem>>,
    pub(crate) endpoints: Option<TouchedEndpoints>,
}

/// Endpoints that changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct TouchedEndpoints {
    /// Those that are new or different.
    pub(crate) changed: BTreeSet<u32>,
    pub(crate) gone: Vec<Gone>,
}

/// What one commit changed, for waking those concerned.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Something that every host with the network in scope has to know.
    pub(crate) core: bool,
    /// Hosts whose own endpoints changed.
    pub(crate) hosts: BTreeSet<HostId>,
    /// Label sets of the endpoints that came, changed or went.
    pub(crate) labels: BTreeSet<Labels>,
}

#[derive(Debug)]
struct Log<T> {
    items: VecDeque<(Revision, T)>,
    /// Everything after this revision is in `items`.
    floor: Revision,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Log { items: VecDeque::new(), floor: Revision::ZERO }
    }
}

impl<T> Log<T> {
    fn push(&mut self, revision: Revision, item: T, limit: usize) {
        self.items.push_back((revision, item));
        while self.items.len() > limit {
            let (gone, _) = self.items.pop_front().expect("longer than its limit");
            self.floor = gone;
        }
        // A revision is known as a whole or not at all.
        while self.items.front().is_some_and(|(first, _)| *first <= self.floor) {
            self.items.pop_front();
        }
    }

    fn forget(&mut self, revision: Revision) {
        self.items.clear();
        self.floor = revision;
    }

    fn since(&self, revision: Revision) -> Option<impl Iterator<Item = &T>> {
        let from = self.items.partition_point(|(at, _)| *at <= revision);
        (revision >= self.floor).then(|| self.items.range(from..).map(|(_, item)| item))
    }
}

/// The two logs of one network.
#[derive(Debug, Default)]
pub(crate) struct NetworkLog {
    core: Log<CoreItem>,
    endpoints: Log<EndpointItem>,
}

impl NetworkLog {
    /// Knows nothing from before this revision.
    pub(crate) fn from(floor: Revision) -> Self {
        let mut log = NetworkLog::default();
        log.core.floor = floor;
        log.endpoints.floor = floor;
        log
    }

    /// Makes changes to the state and takes note of them.
    pub(crate) fn evolve(
        &mut self,
        state: &mut NetworkState,
        revision: Revision,
        changes: &[NetworkChange],
    ) -> Outcome {
        let mut outcome = Outcome::default();
        for change in changes {
            match change {
                NetworkChange::Config(_) => {
                    state.evolve(change);
                    self.core.forget(revision);
                    self.endpoints.forget(revision);
                    outcome.core = true;
                }
                NetworkChange::Block { block, .. } | NetworkChange::BlockGone(block) => {
                    state.evolve(change);
                    outcome.core = true;
                    if state.used_in(*block) > 0 {
                        // Endpoints in it may have become strays, or ceased to be.
                        self.core.forget(revision);
                    } else {
                        self.core.push(revision, CoreItem::Block(*block), room(state, CORE_ITEMS));
                    }
                }
                NetworkChange::Endpoint(endpoint) => {
                    let number = endpoint.number();
                    let before = Marks::of(state, state.endpoint(number));
                    let elsewhere =
                        state.endpoint(number).map(|known| known.host).filter(|host| *host != endpoint.host);
                    state.evolve(change);
                    let after = Marks::of(state, state.endpoint(number));
                    self.mark(revision, number, [before, after], room(state, CORE_ITEMS), &mut outcome);
                    outcome.hosts.insert(endpoint.host);
                    outcome.hosts.extend(elsewhere);
                    outcome.labels.insert(endpoint.labels.clone());
                    self.endpoints.push(revision, EndpointItem::Changed(number), room(state, ENDPOINT_ITEMS));
                }
                NetworkChange::EndpointGone(number) => {
                    let Some(known) = state.endpoint(*number) else { continue };
                    let before = Marks::of(state, Some(known));
                    let gone = Gone { number: *number, host: known.host, labels: known.labels.clone() };
                    state.evolve(change);
                    let after = Marks::default();
                    self.mark(revision, *number, [before, after], room(state, CORE_ITEMS), &mut outcome);
                    outcome.hosts.insert(gone.host);
                    outcome.labels.insert(gone.labels.clone());
                    self.endpoints.push(revision, EndpointItem::Gone(gone), room(state, ENDPOINT_ITEMS));
                }
                NetworkChange::NextNumber(_) => state.evolve(change),
            }
        }
        outcome
    }

    fn mark(
        &mut self,
        revision: Revision,
        number: u32,
        [before, after]: [Marks; 2],
        room: usize,
        outcome: &mut Outcome,
    ) {
        if before.stray || after.stray {
            self.core.push(revision, CoreItem::Stray(number), room);
            outcome.core = true;
        }
        if before.quarantined != after.quarantined {
            self.core.push(revision, CoreItem::Quarantine(number), room);
            outcome.core = true;
        }
    }

    /// What changed after each of two revisions: in what concerns every host, and in endpoints.
    pub(crate) fn since(&self, core: Option<Revision>, endpoints: Option<Revision>) -> Touched {
        Touched {
            core: core.and_then(|at| self.core.since(at)).map(|items| items.copied().collect()),
            endpoints: endpoints.and_then(|at| self.endpoints.since(at)).map(TouchedEndpoints::of),
        }
    }
}

impl TouchedEndpoints {
    fn of<'a>(items: impl Iterator<Item = &'a EndpointItem>) -> Self {
        let mut touched = Self::default();
        for item in items {
            match item {
                EndpointItem::Changed(number) => {
                    touched.changed.insert(*number);
                }
                EndpointItem::Gone(gone) => {
                    touched.changed.remove(&gone.number);
                    touched.gone.push(gone.clone());
                }
            }
        }
        touched
    }
}

/// Items that a log of this network may have.
fn room(state: &NetworkState, least: usize) -> usize {
    least.max(state.len() / ENDPOINTS_PER_ITEM)
}

/// What other hosts have to know of an endpoint.
#[derive(Clone, Copy, Default)]
struct Marks {
    stray: bool,
    quarantined: bool,
}

impl Marks {
    fn of(state: &NetworkState, endpoint: Option<&Endpoint>) -> Self {
        endpoint.map_or_else(Marks::default, |endpoint| Marks {
            stray: state.is_stray(endpoint.number()),
            quarantined: endpoint.quarantine.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_answers_only_for_what_it_holds_whole() {
        let mut log = Log::default();
        for revision in 1..=5u64 {
            for item in 0..3 {
                log.push(Revision::new(revision), (revision, item), 7);
            }
        }
        // Seven items reach into revision 3, of which one is left: 3 is not known whole.
        assert_eq!(log.floor, Revision::new(3));
        assert!(log.since(Revision::new(2)).is_none());
        assert_eq!(log.since(Revision::new(3)).unwrap().count(), 6);
        assert_eq!(log.since(Revision::new(4)).unwrap().count(), 3);
        assert_eq!(log.since(Revision::new(9)).unwrap().count(), 0);
    }
}
