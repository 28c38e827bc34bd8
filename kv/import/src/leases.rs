//! The leases that an import holds on the target for the source.
//!
//! Must hold: while an import runs, a lease of the target ends no earlier than the source's does, and once the source's isn't renewed
//! any more, at most one of its terms later. So the target's is renewed only when the source's has been: at the switch each lease goes on
//! with about what remained of it.
//!
//! A lease that ended on the target nonetheless (the import was down for longer than it lasts) has taken its keys with it; it is reported
//! as lost, and `restore` brings it back.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;

use crate::{ImportError, LeaseId, Options, Progress, options::Report, side::Peer};

/// Shortest time between two looks at a lease. etcd's shortest leases last two seconds.
const CHECK_MIN: Duration = Duration::from_millis(300);
/// Sides tell what remains in whole seconds, rounded down.
const ROUNDING: Duration = Duration::from_secs(1);
/// Time between two reports of the number of leases.
const REPORT_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Leases {
    source: Peer,
    target: Peer,
    held_max: usize,
    in_flight: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: BTreeMap<LeaseId, Held>,
    lost: BTreeSet<LeaseId>,
    without: u64,
}

#[derive(Clone, Copy)]
struct Held {
    granted: Duration,
    ends_on_target: Instant,
    look_at: Instant,
}

impl Held {
    fn new(granted: Duration, ends_on_target: Instant, now: Instant) -> Self {
        let look_in = (ends_on_target.saturating_duration_since(now) / 2).min(granted / 2).max(CHECK_MIN);
        Self { granted, ends_on_target, look_at: now + look_in }
    }
}

impl Leases {
    pub(crate) fn new(source: &Peer, target: &Peer, options: &Options) -> Self {
        Self {
            source: source.clone(),
            target: target.clone(),
            held_max: options.leases_max,
            in_flight: options.in_flight.max(1),
            state: Mutex::default(),
        }
    }

    /// Takes up the leases of an earlier run. Those of the source that the target lacks are lost, if that run had granted them: whoever
    /// restores them finds out.
    pub(crate) async fn adopt(&self) -> Result<(), ImportError> {
        let (source, target) = tokio::try_join!(self.source.leases(), self.target.leases())?;
        let target: BTreeSet<LeaseId> = target.into_iter().collect();
        let (both, missing): (Vec<LeaseId>, Vec<LeaseId>) = source.into_iter().partition(|id| target.contains(id));
        self.state().lost.extend(missing);
        futures::stream::iter(both.into_iter().map(Ok))
            .try_for_each_concurrent(self.in_flight, |id| self.take_up(id))
            .await
    }

    async fn take_up(&self, id: LeaseId) -> Result<(), ImportError> {
        let asked = Instant::now();
        let Some(state) = self.target.lease(id, false).await? else {
            self.state().lost.insert(id);
            return Ok(());
        };
        self.hold(id, Held::new(seconds(state.granted), asked + state.remaining, asked - CHECK_MIN))
    }

    /// Sees to it that the target has the lease. Nothing: it has ended on the source, and its keys' deletion is yet to come.
    pub(crate) async fn ensure(&self, id: LeaseId) -> Result<Option<LeaseId>, ImportError> {
        if self.state().held.contains_key(&id) {
            return Ok(Some(id));
        }
        let Some(wanted) = self.source.lease(id, false).await? else {
            self.state().without += 1;
            return Ok(None);
        };
        let asked = Instant::now();
        match self.target.grant(id, wanted.granted).await {
            Err(error) if error.lease_exists() => {
                // Ended at this very moment: the transaction will find that, and ask again.
                let Some(found) = self.target.lease(id, false).await? else { return Ok(Some(id)) };
                if found.granted != wanted.granted {
                    return Err(ImportError::LeaseConflict { lease: id, wanted: wanted.granted, found: found.granted });
                }
                self.hold(id, Held::new(seconds(found.granted), asked + found.remaining, asked))?;
            }
            granted => {
                granted?;
                let granted = seconds(wanted.granted);
                self.hold(id, Held::new(granted, asked + granted, asked))?;
            }
        }
        Ok(Some(id))
    }

    /// How many changes were applied without their lease, since it had ended on the source.
    pub(crate) fn applied_without(&self) -> u64 {
        self.state().without
    }

    /// The target doesn't have it, as was just learned.
    pub(crate) fn lose(&self, id: LeaseId) {
        let mut state = self.state();
        state.held.remove(&id);
        state.lost.insert(id);
    }

    /// A lease to restore, if there is one.
    pub(crate) fn take_lost(&self) -> Option<LeaseId> {
        self.state().lost.pop_first()
    }

    /// Renews leases until something fails for good.
    pub(crate) async fn keep(&self, report: Report<'_>) -> Result<Infallible, ImportError> {
        let mut reported: Option<Instant> = None;
        loop {
            tokio::time::sleep(CHECK_MIN).await;
            let now = Instant::now();
            let due: Vec<(LeaseId, Held)> = {
                let state = self.state();
                state.held.iter().filter(|(_, held)| held.look_at <= now).map(|(id, held)| (*id, *held)).collect()
            };
            futures::stream::iter(due)
                .map(|(id, held)| self.look_at(id, held))
                .buffer_unordered(self.in_flight)
                .try_for_each(|()| std::future::ready(Ok(())))
                .await?;
            let held = self.state().held.len();
            if held > 0 && reported.is_none_or(|at| now - at >= REPORT_EVERY) {
                reported = Some(now);
                report(Progress::Leases { held });
            }
        }
    }

    async fn look_at(&self, id: LeaseId, held: Held) -> Result<(), ImportError> {
        let asked = Instant::now();
        let Some(state) = self.source.lease(id, false).await? else {
            // Its keys' deletion arrives as events; the target's lease ends by itself, with nothing attached.
            self.state().held.remove(&id);
            return Ok(());
        };
        let mut ends_on_target = held.ends_on_target;
        if ends_on_target < asked + state.remaining + ROUNDING {
            if !self.target.keep_alive(id).await? {
                self.lose(id);
                return Ok(());
            }
            ends_on_target = asked + held.granted;
        }
        self.hold(id, Held::new(held.granted, ends_on_target, Instant::now()))
    }

    fn hold(&self, id: LeaseId, held: Held) -> Result<(), ImportError> {
        let mut state = self.state();
        if state.held.len() >= self.held_max && !state.held.contains_key(&id) {
            return Err(ImportError::TooManyLeases { limit: self.held_max });
        }
        state.held.insert(id, held);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it, and every state of it is valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seconds(raw: i64) -> Duration {
    Duration::from_secs(u64::try_from(raw).unwrap_or(0))
}
