//! The Watch service: many watches on one stream, from any revision that has not been compacted.

mod hub;
mod index;
mod outbox;
mod pump;
mod stream;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_proto::etcdserverpb as pb;
use kv_core::{KeyRange, Keyspace, Revision};
use kv_node::{Node, RevisionEvents, WatchError};
use parking_lot::Mutex;

use self::{
    hub::{Hub, Permit, Watcher},
    index::Place,
    outbox::{Entry, Outbox, Wants},
};
pub(crate) use stream::WatchService;

/// Who watches on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watching {
    /// Watchers of all keyspaces.
    pub watchers: usize,
    /// Those that are brought up from the history.
    pub lagging: usize,
    /// Bytes of events that wait to be sent.
    pub waiting_bytes: usize,
}

/// The hubs of all keyspaces that somebody watches here. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Hubs(Arc<Inner>);

struct Inner {
    node: Node,
    progress: Duration,
    hubs: Mutex<HashMap<Keyspace, Arc<Hub>>>,
    /// Bytes that wait on all streams.
    all: Arc<AtomicUsize>,
}

impl Hubs {
    pub(crate) fn new(node: Node, progress: Duration) -> Self {
        Hubs(Arc::new(Inner { node, progress, hubs: Mutex::default(), all: Arc::default() }))
    }

    /// Adds a watcher to a keyspace's hub.
    fn add(&self, keyspace: &Keyspace, watcher: Watcher) -> (Arc<Hub>, Place) {
        // Held so that the hub does not end between being found and being used.
        let mut hubs = self.0.hubs.lock();
        let hub = hubs.entry(keyspace.clone()).or_insert_with(|| self.start(keyspace));
        let place = hub.add(watcher);
        (hub.clone(), place)
    }

    /// A keyspace's hub, if only for what it says about itself.
    fn hub(&self, keyspace: &Keyspace) -> Arc<Hub> {
        self.0.hubs.lock().entry(keyspace.clone()).or_insert_with(|| self.start(keyspace)).clone()
    }

    fn start(&self, keyspace: &Keyspace) -> Arc<Hub> {
        let node = &self.0.node;
        let cluster = node.cluster().get();
        let header = pb::ResponseHeader {
            cluster_id: cluster.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head)),
            member_id: node.id().get(),
            ..pb::ResponseHeader::default()
        };
        Hub::start(node, keyspace, header, self.0.progress)
    }

    /// Ends a keyspace's hub if nobody watches.
    fn release(&self, keyspace: &Keyspace) {
        let mut hubs = self.0.hubs.lock();
        if hubs.get(keyspace).is_some_and(|hub| hub.idle())
            && let Some(hub) = hubs.remove(keyspace)
        {
            hub.end();
        }
    }

    /// Who watches.
    pub(crate) fn watching(&self) -> Watching {
        let hubs: Vec<_> = self.0.hubs.lock().values().cloned().collect();
        let waiting_bytes = self.0.all.load(Ordering::Relaxed);
        hubs.iter().map(|hub| hub.count()).fold(
            Watching { waiting_bytes, ..Watching::default() },
            |all, (watchers, lagging)| Watching {
                watchers: all.watchers + watchers,
                lagging: all.lagging + lagging,
                ..all
            },
        )
    }

    fn outbox(&self) -> Arc<Outbox> {
        Outbox::new(self.0.all.clone())
    }

    /// Watches some keys from within this process.
    pub(crate) fn subscribe(&self, keyspace: &Keyspace, range: KeyRange, after: Revision) -> Subscription {
        let outbox = self.outbox();
        let wants = Wants { puts: true, deletes: true, previous: false, fragments: false };
        let watcher = Watcher::new(outbox.clone(), 0, range, wants, after);
        let (hub, place) = self.add(keyspace, watcher);
        Subscription { hubs: self.clone(), keyspace: keyspace.clone(), hub, place, outbox }
    }
}

impl Watcher {
    fn new(outbox: Arc<Outbox>, id: i64, range: KeyRange, wants: Wants, after: Revision) -> Self {
        let (place, permit) = (Place { at: 0, nth: 0 }, Permit::Own);
        Watcher { place, outbox, id, range, wants, after, notify: false, permit, lagging: false, quiet: true }
    }
}

/// A watch from within this process. Dropping it ends it.
pub(crate) struct Subscription {
    hubs: Hubs,
    keyspace: Keyspace,
    hub: Arc<Hub>,
    place: Place,
    outbox: Arc<Outbox>,
}

impl Subscription {
    /// The next revision that touches the keys.
    pub(crate) async fn next(&mut self) -> Result<Arc<RevisionEvents>, WatchError> {
        match std::future::poll_fn(|cx| self.outbox.poll(cx)).await {
            Some(Ok(Entry::Events { revision, .. })) => Ok(revision),
            // Whatever else is said means that it goes on no more.
            Some(Ok(Entry::Control(_)) | Err(_)) | None => Err(WatchError::Stopped),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.remove(&self.outbox, self.place);
        self.outbox.close();
        self.hubs.release(&self.keyspace);
    }
}
