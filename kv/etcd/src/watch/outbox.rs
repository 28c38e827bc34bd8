//! What waits to be sent on one stream.
//!
//! Must hold: an outbox takes no more than its share of memory, and all outboxes together no more than theirs. What it
//! doesn't take is not lost: the watcher then lags, and is brought up from the history when there is room again.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use etcd_proto::{etcdserverpb as pb, mvccpb};
use futures::task::AtomicWaker;
use kv_node::RevisionEvents;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::Status;

use super::index::Place;
use crate::wire;

/// Bytes that wait on one stream before its watchers lag, and below which they are brought up again.
const BYTES: usize = 1024 * 1024;
const LOW_BYTES: usize = BYTES / 4;

/// Bytes that wait on all streams together.
const BYTES_ALL: usize = 256 * 1024 * 1024;

/// What an entry takes beside the events that it shares with others, and what an answer takes.
const ENTRY_BYTES: usize = 64;
const ANSWER_BYTES: usize = 256;

/// What a watcher wants of each event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wants {
    pub(super) puts: bool,
    pub(super) deletes: bool,
    pub(super) previous: bool,
    pub(super) fragments: bool,
}

/// Which events of a revision, by their places in it.
pub(super) enum Which {
    One(u32),
    Many(Box<[u32]>),
}

/// One thing to be sent.
pub(super) enum Entry {
    Events { id: i64, revision: Arc<RevisionEvents>, which: Which, wants: Wants },
    Control(Box<pb::WatchResponse>),
}

/// What waits to be sent on one stream.
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    waker: AtomicWaker,
    /// There is room again, for those that lag.
    pub(super) room: Notify,
    /// There is room again, for answers to what is asked next.
    drained: Notify,
    all: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Inner {
    entries: VecDeque<(usize, Entry)>,
    bytes: usize,
    /// Watchers that have missed something.
    lagging: Vec<Place>,
    /// Somebody brings them up.
    pumping: bool,
    /// A progress notification has to wait until nobody lags.
    progress: bool,
    failed: Option<Status>,
    closed: bool,
}

impl Outbox {
    pub(super) fn new(all: Arc<AtomicUsize>) -> Arc<Self> {
        let (waker, room, drained) = (AtomicWaker::new(), Notify::new(), Notify::new());
        Arc::new(Outbox { inner: Mutex::default(), waker, room, drained, all })
    }

    /// Puts events in line. `false`: there is no room.
    pub(super) fn offer(&self, entry: Entry) -> bool {
        let bytes = ENTRY_BYTES + entry.bytes();
        let mut inner = self.inner.lock();
        // Whoever has nothing in line gets its turn, however many others don't read.
        let full = inner.bytes + bytes > BYTES || self.all.load(Ordering::Relaxed) + bytes > BYTES_ALL;
        if full && !inner.entries.is_empty() {
            return false;
        }
        self.push(&mut inner, bytes, entry);
        true
    }

    /// Puts an answer in line, whether there is room or not: each was asked for, after there was [room](Self::ready).
    pub(super) fn control(&self, response: pb::WatchResponse) {
        let mut inner = self.inner.lock();
        self.push(&mut inner, ANSWER_BYTES, Entry::Control(Box::new(response)));
    }

    /// Returns when more may be asked: so much is not in line any more that whoever asks and doesn't read is held up.
    pub(super) async fn ready(&self) {
        while self.full() {
            self.drained.notified().await;
        }
    }

    fn full(&self) -> bool {
        let inner = self.inner.lock();
        inner.bytes > BYTES && !inner.closed
    }

    fn push(&self, inner: &mut Inner, bytes: usize, entry: Entry) {
        if inner.closed {
            return;
        }
        inner.bytes += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed);
        inner.entries.push_back((bytes, entry));
        if inner.entries.len() == 1 {
            self.waker.wake();
        }
    }

    /// Ends the stream after what is in line.
    pub(super) fn fail(&self, status: Status) {
        self.inner.lock().failed.get_or_insert(status);
        self.waker.wake();
    }

    /// Nobody reads any more.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        self.all.fetch_sub(inner.bytes, Ordering::Relaxed);
        inner.entries.clear();
        inner.bytes = 0;
        self.room.notify_one();
        self.drained.notify_one();
    }

    /// Notes watchers that lag. `true`: nobody brings them up yet, the caller has to see to it.
    pub(super) fn lag(&self, place: Place) -> bool {
        let mut inner = self.inner.lock();
        inner.lagging.push(place);
        !std::mem::replace(&mut inner.pumping, true)
    }

    /// The watchers to bring up. Empty: there are none, and nobody brings any up from now on.
    pub(super) fn take_lagging(&self) -> Vec<Place> {
        let mut inner = self.inner.lock();
        if inner.closed {
            inner.lagging.clear();
        }
        inner.pumping = !inner.lagging.is_empty();
        std::mem::take(&mut inner.lagging)
    }

    /// Whether nobody lags; if somebody does, it is remembered that progress was asked for.
    pub(super) fn may_tell_progress(&self) -> bool {
        let mut inner = self.inner.lock();
        let behind = inner.pumping || !inner.lagging.is_empty();
        inner.progress |= behind;
        !behind
    }

    /// Whether progress was asked for while somebody lagged.
    pub(super) fn take_progress(&self) -> bool {
        std::mem::take(&mut self.inner.lock().progress)
    }

    /// Whether those that lag may be brought up.
    pub(super) fn roomy(&self) -> bool {
        let inner = self.inner.lock();
        let all = self.all.load(Ordering::Relaxed) <= BYTES_ALL;
        inner.closed || inner.entries.is_empty() || (inner.bytes <= LOW_BYTES && all)
    }

    /// The next thing to be sent. `None`: nothing comes any more.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Entry, Status>>> {
        let take = || {
            let mut inner = self.inner.lock();
            let Some((bytes, entry)) = inner.entries.pop_front() else {
                return inner.failed.take().map(Err);
            };
            let before = inner.bytes;
            inner.bytes -= bytes;
            self.all.fetch_sub(bytes, Ordering::Relaxed);
            let low = before > LOW_BYTES && inner.bytes <= LOW_BYTES;
            if low {
                self.drained.notify_one();
            }
            if (low || inner.entries.is_empty()) && inner.pumping {
                self.room.notify_one();
            }
            Some(Ok(entry))
        };
        if let Some(taken) = take() {
            return Poll::Ready(Some(taken));
        }
        self.waker.register(cx.waker());
        match take() {
            Some(taken) => Poll::Ready(Some(taken)),
            None => Poll::Pending,
        }
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Entry::Events { revision, which, .. } => which.of(revision).map(kv_node::Event::bytes).sum(),
            Entry::Control(_) => 0,
        }
    }

    /// The messages that say it.
    pub(super) fn responses(
        self,
        header: impl Fn(i64) -> pb::ResponseHeader,
        fragment: usize,
    ) -> Vec<pb::WatchResponse> {
        let (id, revision, which, wants) = match self {
            Entry::Control(response) => return vec![*response],
            Entry::Events { id, revision, which, wants } => (id, revision, which, wants),
        };
        let at = wire::revision(revision.revision);
        let response = |events| pb::WatchResponse {
            header: Some(header(at)),
            watch_id: id,
            events,
            ..pb::WatchResponse::default()
        };
        let mut responses = Vec::with_capacity(1);
        let (mut events, mut bytes) = (Vec::with_capacity(1), 0);
        for event in which.of(&revision) {
            if wants.fragments && bytes > 0 && bytes + event.bytes() > fragment {
                responses.push(pb::WatchResponse { fragment: true, ..response(std::mem::take(&mut events)) });
                bytes = 0;
            }
            bytes += event.bytes();
            events.push(message(event, at, wants.previous));
        }
        responses.push(response(events));
        responses
    }
}

/// A revision to be kept for some of its events: without the others, where those would take most of the room.
pub(super) fn kept(revision: &Arc<RevisionEvents>, which: Which) -> (Arc<RevisionEvents>, Which) {
    let wanted: usize = which.of(revision).map(kv_node::Event::bytes).sum();
    let all: usize = revision.events.iter().map(kv_node::Event::bytes).sum();
    if all <= ANSWER_BYTES || wanted >= all / 2 {
        return (revision.clone(), which);
    }
    let events: Vec<_> = which.of(revision).cloned().collect();
    let places = (0u32..).zip(&events).map(|(at, _)| at).collect();
    (Arc::new(RevisionEvents { revision: revision.revision, at: revision.at, events }), Which::Many(places))
}

impl Which {
    pub(super) fn of<'a>(&'a self, revision: &'a RevisionEvents) -> impl Iterator<Item = &'a kv_node::Event> {
        let places = match self {
            Which::One(place) => std::slice::from_ref(place),
            Which::Many(places) => places,
        };
        places.iter().filter_map(|place| revision.events.get(*place as usize))
    }
}

/// An event as etcd's message.
fn message(event: &kv_node::Event, at: i64, previous: bool) -> mvccpb::Event {
    let (kind, kv) = match &event.state {
        Some(state) => (mvccpb::event::EventType::Put, wire::key_value(event.key.clone(), state.clone())),
        None => {
            let kv = mvccpb::KeyValue { key: event.key.clone(), mod_revision: at, ..mvccpb::KeyValue::default() };
            (mvccpb::event::EventType::Delete, kv)
        }
    };
    let before = event.previous.as_ref().filter(|_| previous);
    let prev_kv = before.map(|state| wire::key_value(event.key.clone(), state.clone()));
    mvccpb::Event { r#type: kind.into(), kv: Some(kv), prev_kv }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use kv_core::{KeyState, Revision, Timestamp};

    use super::*;

    fn event(bytes: usize) -> kv_node::Event {
        let state = KeyState {
            value: vec![b'v'; bytes].into(),
            create_revision: Revision::ZERO,
            mod_revision: Revision::ZERO,
            version: 1,
            lease: None,
        };
        kv_node::Event { key: "k".into(), state: Some(state), previous: None }
    }

    fn revision(sizes: &[usize]) -> Arc<RevisionEvents> {
        let events = sizes.iter().map(|bytes| event(*bytes)).collect();
        Arc::new(RevisionEvents { revision: Revision::new(7), at: Timestamp::default(), events })
    }

    fn entry(bytes: usize) -> Entry {
        let wants = Wants { puts: true, deletes: true, previous: false, fragments: false };
        Entry::Events { id: 1, revision: revision(&[bytes]), which: Which::One(0), wants }
    }

    fn take(outbox: &Outbox) -> bool {
        outbox.poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn others_that_do_not_read_keep_nobody_from_its_turn() {
        let all = Arc::new(AtomicUsize::new(BYTES_ALL));
        let outbox = Outbox::new(all);
        assert!(outbox.roomy() && outbox.offer(entry(10)), "it has nothing in line");
        assert!(!outbox.offer(entry(10)) && !outbox.roomy(), "now it has, and all together have too much");
        assert!(take(&outbox) && outbox.offer(entry(10)));
    }

    #[test]
    fn answers_hold_up_what_is_asked_next_until_they_are_read() {
        let outbox = Outbox::new(Arc::default());
        while outbox.ready().now_or_never().is_some() {
            outbox.control(pb::WatchResponse::default());
        }
        assert_eq!(outbox.inner.lock().entries.len(), BYTES / ANSWER_BYTES + 1);
        while outbox.ready().now_or_never().is_none() {
            assert!(take(&outbox), "nothing is left to be read");
        }
        outbox.close();
        assert!(outbox.ready().now_or_never().is_some());
    }

    #[test]
    fn what_is_not_wanted_is_not_kept() {
        let large = revision(&[10, 100_000, 10]);
        let (small, which) = kept(&large, Which::Many(Box::new([0, 2])));
        assert_eq!((small.events.len(), which.of(&small).count(), small.revision), (2, 2, large.revision));
        let (same, _) = kept(&large, Which::One(1));
        assert!(Arc::ptr_eq(&same, &large));
    }
}
