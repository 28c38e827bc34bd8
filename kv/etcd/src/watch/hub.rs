//! The watchers of one keyspace on this node.
//!
//! ```text
//! watch of the keyspace ──► hub: index of watchers ──► outboxes ──► streams
//!                                                        │ full
//! history ──► pump (one per stream that lags) ───────────┘
//! ```
//!
//! Must hold: each watcher gets the events after its `after`, in order, each once: whoever offers it a revision does so
//! with the hub locked or owns it as its pump, and a revision is offered only if it is the next one that concerns the
//! watcher. A revision's events for a watcher travel together.

use std::{collections::HashMap, sync::Arc, time::Duration};

use etcd_proto::etcdserverpb as pb;
use kv_core::{KeyRange, Keyspace, Revision};
use kv_node::{History, Node, RevisionEvents, Watch, WatchError};
use parking_lot::Mutex;
use slab::Slab;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    index::{Index, Place},
    outbox::{Entry, Outbox, Wants, Which, kept},
};
use crate::{status, wire};

/// After so much time per watcher that a round concerned, the next round begins: what was committed meanwhile then
/// travels together. It is about what a send costs.
const PAUSE_PER_WATCHER: Duration = Duration::from_micros(20);

/// The longest such pause, and the shortest that a timer can tell from none.
const PAUSE_MAX: Duration = Duration::from_millis(2);
const PAUSE_MIN: Duration = Duration::from_micros(500);

/// What a watcher is allowed by, to be looked at again when users and roles change.
pub(super) enum Permit {
    /// This node's own.
    Own,
    /// Nobody is asked who they are.
    Open,
    /// Somebody who was asked.
    Asked(Arc<dyn Fn() -> bool + Send + Sync>),
}

/// One watcher.
pub(super) struct Watcher {
    pub(super) place: Place,
    pub(super) outbox: Arc<Outbox>,
    /// What its stream calls it.
    pub(super) id: i64,
    pub(super) range: KeyRange,
    pub(super) wants: Wants,
    /// It has got everything up to here, and everything after it is still to come.
    pub(super) after: Revision,
    /// It wants to hear now and then that nothing has happened.
    pub(super) notify: bool,
    /// Whether it may go on.
    pub(super) permit: Permit,
    pub(super) lagging: bool,
    pub(super) quiet: bool,
}

/// The watchers of one keyspace.
pub(crate) struct Hub {
    keyspace: Keyspace,
    node: Node,
    history: History,
    inner: Mutex<Inner>,
    stop: CancellationToken,
    header: pb::ResponseHeader,
}

struct Inner {
    /// What has been offered to the watchers that keep up.
    head: Revision,
    watchers: Slab<Watcher>,
    index: Index,
    /// Watchers added so far.
    added: u32,
    /// Streams that asked for progress before everything was offered that they may have been told of already, and up to
    /// where that was: their creation and the history tell of revisions before they are offered. One entry a stream.
    asked: Vec<(Revision, Arc<Outbox>)>,
    /// Why there is nothing more to come, if so.
    failed: Option<tonic::Status>,
}

/// The watcher at a place, if it is still the one that is meant.
fn at(watchers: &mut Slab<Watcher>, place: Place) -> Option<&mut Watcher> {
    watchers.get_mut(place.at as usize).filter(|watcher| watcher.place == place)
}

impl Inner {
    /// The watcher at a place, if it is this stream's.
    fn of(&mut self, outbox: &Arc<Outbox>, place: Place) -> Option<&mut Watcher> {
        at(&mut self.watchers, place).filter(|watcher| Arc::ptr_eq(&watcher.outbox, outbox))
    }

    fn remove(&mut self, place: Place) -> Option<Watcher> {
        at(&mut self.watchers, place)?;
        let watcher = self.watchers.try_remove(place.at as usize)?;
        self.index.remove(&watcher.range, place);
        Some(watcher)
    }
}

impl Hub {
    pub(super) fn start(node: &Node, keyspace: &Keyspace, header: pb::ResponseHeader, progress: Duration) -> Arc<Self> {
        let head = node.head(keyspace).revision;
        let feed = node.watch(keyspace, head);
        let (watchers, index) = (Slab::new(), Index::default());
        let hub = Arc::new(Hub {
            keyspace: keyspace.clone(),
            node: node.clone(),
            history: feed.history().clone(),
            inner: Mutex::new(Inner { head, watchers, index, added: 0, asked: Vec::new(), failed: None }),
            stop: CancellationToken::new(),
            header,
        });
        tokio::spawn(hub.clone().run(feed, progress));
        hub
    }

    /// Whether nobody watches.
    pub(super) fn idle(&self) -> bool {
        self.inner.lock().watchers.is_empty()
    }

    /// How many watch, and how many of them lag.
    pub(super) fn count(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        let lagging = inner.watchers.iter().filter(|(_, watcher)| watcher.lagging).count();
        (inner.watchers.len(), lagging)
    }

    /// Ends the hub's task.
    pub(super) fn end(&self) {
        self.stop.cancel();
    }

    /// A header with this revision.
    pub(super) fn header(&self, revision: i64) -> pb::ResponseHeader {
        let raft_term = self.node.term(self.node.group_of(&self.keyspace));
        pb::ResponseHeader { revision, raft_term, ..self.header }
    }

    /// Adds a watcher, which then gets what comes after its `after`.
    pub(super) fn add(self: &Arc<Self>, watcher: Watcher) -> Place {
        let mut inner = self.inner.lock();
        let behind = watcher.after < inner.head;
        let outbox = watcher.outbox.clone();
        inner.added = inner.added.wrapping_add(1);
        let at = u32::try_from(inner.watchers.vacant_key()).expect("fewer watchers than memory has bytes");
        let place = Place { at, nth: inner.added };
        inner.index.insert(&watcher.range, place);
        inner.watchers.insert(Watcher { place, lagging: behind, ..watcher });
        if let Some(status) = &inner.failed {
            outbox.fail(status.clone());
        } else if behind {
            self.lag(&outbox, place);
        }
        place
    }

    /// Removes a stream's watcher. Its place may be another stream's by now.
    pub(super) fn remove(&self, outbox: &Arc<Outbox>, place: Place) -> Option<Watcher> {
        let mut inner = self.inner.lock();
        inner.of(outbox, place)?;
        inner.remove(place)
    }

    /// Tells a stream how far all of its watchers are, as soon as that can be said and is no step back.
    pub(super) fn progress(&self, outbox: &Arc<Outbox>) {
        let mut inner = self.inner.lock();
        let committed = self.node.head(&self.keyspace).revision;
        if inner.head >= committed {
            self.tell_progress(inner.head, outbox);
        } else if !inner.asked.iter().any(|(_, asked)| Arc::ptr_eq(asked, outbox)) {
            inner.asked.push((committed, outbox.clone()));
        }
    }

    fn tell_progress(&self, head: Revision, outbox: &Outbox) {
        if outbox.may_tell_progress() {
            outbox.control(self.progress_response(-1, head));
        }
    }

    /// Tells the streams that have waited for what is offered by now.
    fn tell_asked(&self) {
        let mut inner = self.inner.lock();
        let head = inner.head;
        for (_, outbox) in inner.asked.extract_if(.., |(wanted, _)| *wanted <= head) {
            self.tell_progress(head, &outbox);
        }
    }

    fn progress_response(&self, id: i64, head: Revision) -> pb::WatchResponse {
        let header = Some(self.header(wire::revision(head)));
        pb::WatchResponse { header, watch_id: id, ..pb::WatchResponse::default() }
    }

    async fn run(self: Arc<Self>, mut feed: Watch, progress: Duration) {
        let mut ticks = tokio::time::interval(progress);
        ticks.tick().await;
        let mut records = self.node.records_beside();
        let mut resume = Instant::now();
        loop {
            tokio::select! {
                batch = async {
                    sleep_until(resume).await;
                    feed.next().await
                } => match batch {
                    Ok(batch) => {
                        let concerned = batch.iter().map(|revision| self.dispatch(revision)).sum();
                        self.tell_asked();
                        resume = Instant::now() + pause(concerned);
                    }
                    // Those to whom it was still to be told hear from the history that it is gone.
                    Err(WatchError::Compacted { .. }) => {
                        feed.seek(self.skip());
                        self.tell_asked();
                    }
                    Err(error) => return self.fail(&status::watch(&error)),
                },
                _ = ticks.tick() => self.notify(),
                Ok(()) = records.changed() => self.check_permits(),
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Offers a revision to the watchers that it concerns, and says how many those are.
    fn dispatch(self: &Arc<Self>, revision: &Arc<RevisionEvents>) -> u32 {
        let mut inner = self.inner.lock();
        let Inner { head, watchers, index, .. } = &mut *inner;
        *head = revision.revision;
        let mut count = 0;
        if let [event] = &revision.events[..] {
            index.each(&event.key, |place| {
                count += 1;
                self.offer(watchers, place, revision, Which::One(0));
            });
            return count;
        }
        let mut concerned: HashMap<Place, Vec<u32>> = HashMap::new();
        for (at, event) in (0u32..).zip(&revision.events) {
            index.each(&event.key, |place| concerned.entry(place).or_default().push(at));
        }
        for (place, events) in concerned {
            count += 1;
            self.offer(watchers, place, revision, Which::Many(events.into()));
        }
        count
    }

    fn offer(
        self: &Arc<Self>,
        watchers: &mut Slab<Watcher>,
        place: Place,
        revision: &Arc<RevisionEvents>,
        which: Which,
    ) {
        let Some(watcher) = at(watchers, place).filter(|watcher| !watcher.lagging) else { return };
        if !watcher.take(revision, which) {
            watcher.lagging = true;
            self.lag(&watcher.outbox, place);
        }
    }

    /// Notes that a watcher lags, and has somebody bring it up.
    fn lag(self: &Arc<Self>, outbox: &Arc<Outbox>, place: Place) {
        if outbox.lag(place) {
            tokio::spawn(super::pump::run(self.clone(), outbox.clone()));
        }
    }

    /// Goes on with what is committed next. What comes before it is everybody's own to catch up with.
    fn skip(self: &Arc<Self>) -> Revision {
        let mut inner = self.inner.lock();
        let told = std::mem::replace(&mut inner.head, self.node.head(&self.keyspace).revision);
        for (_, watcher) in inner.watchers.iter_mut().filter(|(_, watcher)| !watcher.lagging) {
            watcher.after = watcher.after.max(told);
            watcher.lagging = true;
            self.lag(&watcher.outbox, watcher.place);
        }
        inner.head
    }

    fn fail(&self, status: &tonic::Status) {
        let mut inner = self.inner.lock();
        inner.failed = Some(status.clone());
        for (_, watcher) in &inner.watchers {
            watcher.outbox.fail(status.clone());
        }
    }

    /// Tells those who want to know that nothing has happened lately.
    fn notify(&self) {
        let mut inner = self.inner.lock();
        let (head, committed) = (inner.head, self.node.head(&self.keyspace).revision);
        for (_, watcher) in &mut inner.watchers {
            // One that was brought up from the history may be further than what was offered to all.
            let further = watcher.after > head && watcher.after <= committed;
            if watcher.notify && watcher.quiet && !watcher.lagging && !further && watcher.outbox.roomy() {
                watcher.outbox.control(self.progress_response(watcher.id, head));
            }
            watcher.quiet = true;
        }
    }

    /// Ends the watchers that are allowed no more.
    fn check_permits(&self) {
        let ended: Vec<_> = {
            let asks = self.asks();
            let inner = self.inner.lock();
            let denied = |watcher: &Watcher| match &watcher.permit {
                Permit::Own => false,
                Permit::Open => asks,
                Permit::Asked(permit) => !permit(),
            };
            inner.watchers.iter().filter(|(_, watcher)| denied(watcher)).map(|(_, watcher)| watcher.place).collect()
        };
        for place in ended {
            self.cancel(place, status::permission_denied().message());
        }
    }

    /// Whether people are asked who they are by now. They are, if that cannot be read.
    fn asks(&self) -> bool {
        let Ok(records) = self.node.all_beside(&self.keyspace, kv_auth::SETTINGS_RECORD) else { return true };
        let records = records.iter().map(|(key, value)| (&key[..], &value[..]));
        kv_auth::AuthState::load(records).map_or(true, |state| state.enabled())
    }

    /// Ends a watcher and tells it why.
    pub(super) fn cancel(&self, place: Place, reason: &str) {
        let mut inner = self.inner.lock();
        let Some(watcher) = inner.remove(place) else { return };
        let head = inner.head;
        drop(inner);
        watcher.outbox.control(pb::WatchResponse {
            header: Some(self.header(wire::revision(head))),
            watch_id: watcher.id,
            canceled: true,
            cancel_reason: reason.into(),
            ..pb::WatchResponse::default()
        });
    }

    /// Ends a watcher whose next event is gone. `compacted`: the earliest revision that it could have begun at.
    pub(super) fn cancel_compacted(&self, outbox: &Arc<Outbox>, place: Place, compacted: i64) {
        let Some(watcher) = self.remove(outbox, place) else { return };
        outbox.control(pb::WatchResponse {
            header: Some(self.header(0)),
            watch_id: watcher.id,
            canceled: true,
            compact_revision: compacted,
            ..pb::WatchResponse::default()
        });
    }

    /// Ends a stream's watcher, if it has not ended by itself, and says so: the stream asked for it.
    pub(super) fn cancelled(&self, outbox: &Arc<Outbox>, place: Place, id: i64) {
        self.remove(outbox, place);
        let head = self.inner.lock().head;
        outbox.control(pb::WatchResponse {
            header: Some(self.header(wire::revision(head))),
            watch_id: id,
            canceled: true,
            ..pb::WatchResponse::default()
        });
    }

    /// Where some of a stream's watchers are: (place, after, range, whether it wants previous states).
    pub(super) fn positions(&self, outbox: &Arc<Outbox>, places: &[Place]) -> Vec<(Place, Revision, KeyRange, bool)> {
        let mut inner = self.inner.lock();
        let mut found = Vec::with_capacity(places.len());
        for place in places {
            let Some(watcher) = inner.of(outbox, *place) else { continue };
            found.push((*place, watcher.after, watcher.range.clone(), watcher.wants.previous));
        }
        found
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// Offers revisions from the history to a stream's watcher that lags, in order. Returns whether it lags still.
    pub(super) fn bring_up(&self, outbox: &Arc<Outbox>, place: Place, revisions: &[Arc<RevisionEvents>]) -> bool {
        let mut inner = self.inner.lock();
        let head = inner.head;
        let Some(watcher) = inner.of(outbox, place) else { return false };
        for revision in revisions {
            let concerned = (0u32..).zip(&revision.events).filter(|(_, event)| watcher.range.contains(&event.key));
            let concerned: Box<[u32]> = concerned.map(|(at, _)| at).collect();
            if !watcher.take(revision, Which::Many(concerned)) {
                return true;
            }
        }
        watcher.lagging = watcher.after < head;
        watcher.lagging
    }

    /// Sends the progress that a stream has asked for while its watchers lagged.
    pub(super) fn caught_up(&self, outbox: &Arc<Outbox>) {
        if outbox.take_progress() {
            self.progress(outbox);
        }
    }
}

/// How long what is committed next waits for more. Nothing, if few are concerned.
fn pause(concerned: u32) -> Duration {
    let pause = PAUSE_PER_WATCHER.saturating_mul(concerned).min(PAUSE_MAX);
    if pause < PAUSE_MIN { Duration::ZERO } else { pause }
}

impl Watcher {
    /// Takes what it wants of the next revision. `false`: there is no room, it stays where it is.
    fn take(&mut self, revision: &Arc<RevisionEvents>, which: Which) -> bool {
        if revision.revision <= self.after {
            return true;
        }
        let wanted = |event: &kv_node::Event| if event.state.is_some() { self.wants.puts } else { self.wants.deletes };
        let which = match which {
            Which::One(at) => revision.events.get(at as usize).filter(|event| wanted(event)).map(|_| Which::One(at)),
            Which::Many(places) => {
                let all = revision.events.as_slice();
                let kept = places.iter().copied().filter(|at| all.get(*at as usize).is_some_and(wanted));
                let kept: Box<[u32]> = kept.collect();
                (!kept.is_empty()).then_some(Which::Many(kept))
            }
        };
        if let Some(which) = which {
            let (kept, which) = kept(revision, which);
            let entry = Entry::Events { id: self.id, revision: kept, which, wants: self.wants };
            if !self.outbox.offer(entry) {
                // All before this revision has been offered.
                self.after = self.after.max(Revision::new(revision.revision.get() - 1));
                return false;
            }
            self.quiet = false;
        }
        self.after = revision.revision;
        true
    }
}
