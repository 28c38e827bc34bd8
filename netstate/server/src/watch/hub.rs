//! Who watches, and what there is for whom.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, atomic::AtomicU64},
};

use kv_core::Revision;
use netstate_model::{ConnectionId, Directory, HostId, NetworkId, Scope};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::encoded::Encoded;
use crate::{
    forward::{HostProgress, Question},
    view::Outcome,
};

/// Streams that one node serves at most.
const STREAMS: usize = 20_000;

/// What waits for one stream: marks, no events.
#[derive(Default)]
pub(super) struct Marks {
    /// Networks in which something changed for it.
    pub(super) networks: BTreeSet<NetworkId>,
    /// Networks that have to be sent whole again: a host's underlay address changed.
    pub(super) whole: BTreeSet<NetworkId>,
    /// Its scope may have changed.
    pub(super) rescope: bool,
}

impl Marks {
    pub(super) fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.whole.is_empty() && !self.rescope
    }
}

/// What was sent and what came back.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) last_frame: u64,
    pub(super) acked: u64,
    pub(super) problem: String,
    /// The directory revision of the last scope.
    pub(super) directory: Revision,
    /// What the host holds once all frames are acknowledged.
    pub(super) scope: Scope,
    /// The last frame that said something of a network or a connection. Of what is out of scope only until acknowledged.
    pub(super) of_network: BTreeMap<NetworkId, u64>,
    pub(super) of_connection: BTreeMap<ConnectionId, u64>,
}

/// One host's stream.
pub(super) struct Stream {
    pub(super) host: HostId,
    pub(super) marks: Mutex<Marks>,
    pub(super) wake: Notify,
    pub(super) progress: Mutex<Progress>,
}

impl Stream {
    pub(super) fn mark(&self, mark: impl FnOnce(&mut Marks)) {
        mark(&mut self.marks.lock());
        self.wake.notify_one();
    }

    fn acknowledged(progress: &Progress, frame: Option<&u64>) -> bool {
        progress.problem.is_empty() && frame.is_none_or(|frame| *frame <= progress.acked)
    }

    fn progress(&self, question: Question) -> HostProgress {
        let (settled, marked) = {
            let marks = self.marks.lock();
            let marked = |id: NetworkId| marks.networks.contains(&id) || marks.whole.contains(&id) || marks.rescope;
            (
                marks.is_empty(),
                match question {
                    Question::Network(id, _) => marked(id),
                    _ => marks.rescope,
                },
            )
        };
        let progress = self.progress.lock();
        let (concerned, programmed) = match question {
            Question::Connection { id, there } => {
                let (held, frame) = (progress.scope.connections.contains(&id), progress.of_connection.get(&id));
                let pending = frame.is_some_and(|frame| *frame > progress.acked);
                (held || pending, held == there && Self::acknowledged(&progress, frame))
            }
            Question::Directory(_) => (true, settled && Self::acknowledged(&progress, Some(&progress.last_frame))),
            Question::Network(id, _) => {
                let held = progress.scope.networks.contains_key(&id);
                (held, !marked && Self::acknowledged(&progress, progress.of_network.get(&id)))
            }
        };
        HostProgress { host: self.host, concerned, programmed, problem: progress.problem.clone() }
    }
}

#[derive(Default)]
struct Streams {
    by_host: HashMap<HostId, Arc<Stream>>,
    /// Which hosts have a network in scope, and for which of them it is local.
    by_network: HashMap<NetworkId, BTreeMap<HostId, bool>>,
    by_connection: HashMap<ConnectionId, BTreeSet<HostId>>,
}

/// All streams of this node.
#[derive(Default)]
pub(crate) struct Hub {
    streams: Mutex<Streams>,
    pub(super) encoded: Encoded,
    /// Frames sent since the start.
    pub(crate) frames: AtomicU64,
}

impl Hub {
    /// Takes a host's stream in, in place of an earlier one of the same host. `None`: there are too many.
    pub(super) fn enter(&self, host: HostId) -> Option<Arc<Stream>> {
        let stream = Arc::new(Stream {
            host,
            marks: Mutex::new(Marks { rescope: true, ..Marks::default() }),
            wake: Notify::new(),
            progress: Mutex::default(),
        });
        let mut streams = self.streams.lock();
        if streams.by_host.len() >= STREAMS && !streams.by_host.contains_key(&host) {
            return None;
        }
        if let Some(earlier) = streams.by_host.insert(host, stream.clone()) {
            let scope = earlier.progress.lock().scope.clone();
            streams.index(host, &scope, &Scope::default());
            // It notices that it is not the host's stream any more.
            earlier.wake.notify_one();
        }
        stream.wake.notify_one();
        Some(stream)
    }

    /// Whether this is still the host's stream.
    pub(super) fn current(&self, stream: &Arc<Stream>) -> bool {
        self.streams.lock().by_host.get(&stream.host).is_some_and(|known| Arc::ptr_eq(known, stream))
    }

    /// Takes a stream out.
    pub(super) fn leave(&self, stream: &Arc<Stream>) {
        let mut streams = self.streams.lock();
        if streams.by_host.get(&stream.host).is_some_and(|known| Arc::ptr_eq(known, stream)) {
            streams.by_host.remove(&stream.host);
            let scope = stream.progress.lock().scope.clone();
            streams.index(stream.host, &scope, &Scope::default());
        }
    }

    /// Takes note of a stream's new scope, before the frame that tells the host.
    pub(super) fn rescoped(&self, stream: &Arc<Stream>, new: &Scope) {
        let mut streams = self.streams.lock();
        if !streams.by_host.get(&stream.host).is_some_and(|known| Arc::ptr_eq(known, stream)) {
            return;
        }
        let old = std::mem::replace(&mut stream.progress.lock().scope, new.clone());
        streams.index(stream.host, &old, new);
    }

    /// A network's commit was applied.
    pub(crate) fn touched(&self, network: NetworkId, outcome: &Outcome, rescoped: &[HostId], directory: &Directory) {
        let streams = self.streams.lock();
        if streams.by_host.is_empty() {
            return;
        }
        for host in rescoped {
            streams.wake(host, |marks| marks.rescope = true);
        }
        if outcome.core {
            for host in streams.by_network.get(&network).into_iter().flat_map(BTreeMap::keys) {
                streams.wake(host, |marks| {
                    marks.networks.insert(network);
                });
            }
            return;
        }
        let mut concerned = outcome.hosts.clone();
        for connection in directory.connections_of(network) {
            let sides = [&connection.from, &connection.to].into_iter().filter(|side| side.network == network);
            let named = |side: &netstate_model::Side| {
                side.selector.is_some() && outcome.labels.iter().any(|labels| side.matches(labels))
            };
            if sides.into_iter().any(named) {
                concerned.extend(streams.by_connection.get(&connection.id).into_iter().flatten());
            }
        }
        for host in &concerned {
            streams.wake(host, |marks| {
                marks.networks.insert(network);
            });
        }
    }

    /// A connection between these networks came or went.
    pub(crate) fn rescope(&self, networks: &[NetworkId]) {
        let streams = self.streams.lock();
        let local: BTreeSet<_> = networks
            .iter()
            .flat_map(|network| streams.by_network.get(network).into_iter().flatten())
            .filter_map(|(host, local)| local.then_some(*host))
            .collect();
        for host in &local {
            streams.wake(host, |marks| marks.rescope = true);
        }
    }

    /// A host with blocks in this network is reached differently now.
    pub(crate) fn moved(&self, network: NetworkId) {
        self.encoded.forget();
        let streams = self.streams.lock();
        for host in streams.by_network.get(&network).into_iter().flat_map(BTreeMap::keys) {
            streams.wake(host, |marks| {
                marks.whole.insert(network);
            });
        }
    }

    /// Anything may have changed.
    pub(crate) fn everything(&self) {
        self.encoded.forget();
        let streams = self.streams.lock();
        for (host, stream) in &streams.by_host {
            let held: Vec<_> = stream.progress.lock().scope.networks.keys().copied().collect();
            streams.wake(host, |marks| {
                marks.rescope = true;
                marks.whole.extend(held);
            });
        }
    }

    /// How far the hosts served here are.
    pub(crate) fn progress(&self, question: Question) -> Vec<HostProgress> {
        let streams: Vec<_> = self.streams.lock().by_host.values().cloned().collect();
        streams.iter().map(|stream| stream.progress(question)).collect()
    }

    /// The hosts served here.
    pub(crate) fn connected(&self) -> BTreeSet<HostId> {
        self.streams.lock().by_host.keys().copied().collect()
    }
}

impl Streams {
    fn wake(&self, host: &HostId, mark: impl FnOnce(&mut Marks)) {
        if let Some(stream) = self.by_host.get(host) {
            stream.mark(mark);
        }
    }

    fn index(&mut self, host: HostId, old: &Scope, new: &Scope) {
        for network in old.networks.keys().filter(|id| !new.networks.contains_key(id)) {
            if let Some(hosts) = self.by_network.get_mut(network) {
                hosts.remove(&host);
                if hosts.is_empty() {
                    self.by_network.remove(network);
                }
            }
        }
        for (network, local) in &new.networks {
            self.by_network.entry(*network).or_default().insert(host, *local);
        }
        for connection in old.connections.difference(&new.connections) {
            if let Some(hosts) = self.by_connection.get_mut(connection) {
                hosts.remove(&host);
                if hosts.is_empty() {
                    self.by_connection.remove(connection);
                }
            }
        }
        for connection in &new.connections {
            self.by_connection.entry(*connection).or_default().insert(host);
        }
    }
}
