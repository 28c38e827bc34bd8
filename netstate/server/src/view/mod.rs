//! The picture of all networks that this node answers from and serves hosts with.
//!
//! It is built by the same `evolve` that decisions are made with, from the commits that the local replicas apply, inside
//! their applying: whatever this node has acknowledged is in it. Reading takes a snapshot, which is a clone in constant time.
//!
//! Must hold: a record that makes no sense stops the node; nothing is skipped.

mod changes;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use kv_core::{GroupId, Head, Keyspace, NodeId, Revision};
use kv_node::{AppliedCommit, Node, Observer, Visit};
use netstate_model::{Directory, DirectoryChange, HostId, NetworkChange, NetworkId, NetworkState, RecordError};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub(crate) use changes::{CoreItem, NetworkLog, Outcome, Touched, TouchedEndpoints};

use crate::{keyspaces::Home, watch::Hub};

/// The directory at some revision.
#[derive(Clone, Default)]
pub(crate) struct DirectoryAt {
    pub(crate) state: Directory,
    pub(crate) revision: Revision,
    /// The last revision at which a host with endpoints got another underlay address, as far as this node knows: what was
    /// sent of blocks before that may be wrong.
    pub(crate) moved: Revision,
}

/// A network at some revision.
#[derive(Clone, Default)]
pub(crate) struct NetworkAt {
    pub(crate) state: NetworkState,
    pub(crate) revision: Revision,
}

/// A network, and what changed in it lately.
#[derive(Default)]
struct NetworkView {
    now: NetworkAt,
    log: NetworkLog,
}

/// All that this node knows.
pub(crate) struct View {
    directory: RwLock<DirectoryAt>,
    networks: RwLock<HashMap<NetworkId, Arc<RwLock<NetworkView>>>>,
    /// The networks that have endpoints on a host.
    presence: Mutex<HashMap<HostId, BTreeSet<NetworkId>>>,
    /// Counts what was applied, so that whoever waits for a revision looks again.
    applied: watch::Sender<u64>,
    hub: Arc<Hub>,
    /// Told of damage. Set once the node is there; what was damaged before is kept here.
    node: OnceLock<Node>,
    damage: OnceLock<String>,
}

impl View {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        View {
            directory: RwLock::default(),
            networks: RwLock::default(),
            presence: Mutex::default(),
            applied: watch::Sender::new(0),
            hub,
            node: OnceLock::new(),
            damage: OnceLock::new(),
        }
    }

    /// From now on damage stops this node.
    pub(crate) fn attach(&self, node: Node) {
        if let Some(damage) = self.damage.get() {
            node.fail(damage);
        }
        // Called once.
        let _ = self.node.set(node);
    }

    /// The directory now.
    pub(crate) fn directory(&self) -> DirectoryAt {
        self.directory.read().clone()
    }

    /// The directory's revision now.
    pub(crate) fn directory_revision(&self) -> Revision {
        self.directory.read().revision
    }

    /// The directory's revision now, and [`DirectoryAt::moved`].
    pub(crate) fn directory_revisions(&self) -> (Revision, Revision) {
        let directory = self.directory.read();
        (directory.revision, directory.moved)
    }

    /// A network now; empty at revision zero if there is nothing of it here.
    pub(crate) fn network(&self, id: NetworkId) -> NetworkAt {
        self.networks.read().get(&id).map(|view| view.read().now.clone()).unwrap_or_default()
    }

    /// A network now, and what has changed in it since a revision: in what concerns every host, and in endpoints.
    pub(crate) fn network_since(
        &self,
        id: NetworkId,
        core: Option<Revision>,
        endpoints: Option<Revision>,
    ) -> (NetworkAt, Touched) {
        let Some(view) = self.networks.read().get(&id).cloned() else { return Default::default() };
        let view = view.read();
        // Who is further than this node comes from another history.
        let known = |at: &Revision| *at <= view.now.revision;
        (view.now.clone(), view.log.since(core.filter(known), endpoints.filter(known)))
    }

    /// A network's revision now.
    pub(crate) fn revision(&self, home: Home) -> Revision {
        match home {
            Home::Directory => self.directory_revision(),
            Home::Network(id) => self.networks.read().get(&id).map(|view| view.read().now.revision).unwrap_or_default(),
        }
    }

    /// The earliest revision of a keyspace that still means something. A restore raises it above all that anybody has seen.
    pub(crate) fn floor(&self, home: Home) -> Revision {
        self.node.get().map(|node| node.usage(&home.keyspace()).floor).unwrap_or_default()
    }

    /// The networks that have endpoints on a host.
    pub(crate) fn networks_on(&self, host: HostId) -> BTreeSet<NetworkId> {
        self.presence.lock().get(&host).cloned().unwrap_or_default()
    }

    /// Whether a host has endpoints.
    pub(crate) fn has_endpoints(&self, host: HostId) -> bool {
        self.presence.lock().get(&host).is_some_and(|networks| !networks.is_empty())
    }

    /// How many endpoints a host has.
    pub(crate) fn endpoints_on(&self, host: HostId) -> u64 {
        self.networks_on(host).into_iter().map(|id| self.network(id).state.count_on(host) as u64).sum()
    }

    /// Networks and endpoints there are.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let networks = self.networks.read();
        let endpoints = networks.values().map(|view| view.read().now.state.len() as u64).sum();
        (self.directory.read().state.networks().len() as u64, endpoints)
    }

    /// Waits until the view has come this far.
    pub(crate) async fn reached(&self, home: Home, revision: Revision) {
        let mut applied = self.applied.subscribe();
        while self.revision(home) < revision {
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    fn damaged(&self, keyspace: &Keyspace, error: &RecordError) {
        let reason = format!("keyspace {keyspace}: {error}");
        match self.node.get() {
            Some(node) => node.fail(&reason),
            None => {
                // The first one is enough.
                let _ = self.damage.set(reason);
            }
        }
    }

    fn view_of(&self, id: NetworkId) -> Arc<RwLock<NetworkView>> {
        if let Some(view) = self.networks.read().get(&id) {
            return view.clone();
        }
        self.networks.write().entry(id).or_default().clone()
    }

    /// Streams are marked while nobody can read the directory, so that what can be seen has been marked.
    fn apply_directory(&self, commit: &AppliedCommit<'_>, changes: &[DirectoryChange]) {
        let mut directory = self.directory.write();
        for change in changes {
            match change {
                DirectoryChange::Connection(connection) => {
                    self.hub.rescope(&[connection.from.network, connection.to.network]);
                }
                DirectoryChange::ConnectionGone(id) => {
                    if let Some(connection) = directory.state.connection(*id) {
                        self.hub.rescope(&[connection.from.network, connection.to.network]);
                    }
                }
                DirectoryChange::Host(host) => {
                    let moved = directory.state.host(host.id).is_none_or(|known| known.underlay != host.underlay);
                    let networks = self.networks_on(host.id);
                    if moved && !networks.is_empty() {
                        directory.moved = commit.record.revision;
                        networks.into_iter().for_each(|network| self.hub.moved(network));
                    }
                }
                DirectoryChange::HostGone(host) => self.hub.forget(*host),
                DirectoryChange::Network(_) | DirectoryChange::NetworkGone(_) | DirectoryChange::Counters(_) => {}
                DirectoryChange::HostPolicy(_) | DirectoryChange::HostLost(_) | DirectoryChange::HostFound(_) => {}
            }
            directory.state.evolve(change);
        }
        directory.revision = commit.record.revision;
    }

    /// Streams are marked while nobody can read the network, so that what can be seen has been marked.
    fn apply_network(&self, id: NetworkId, commit: &AppliedCommit<'_>, changes: &[NetworkChange]) {
        let view = self.view_of(id);
        let mut view = view.write();
        let NetworkView { now, log } = &mut *view;
        now.revision = commit.record.revision;
        let outcome = log.evolve(&mut now.state, commit.record.revision, changes);
        let mut rescoped = Vec::new();
        if !outcome.hosts.is_empty() {
            let mut presence = self.presence.lock();
            for host in &outcome.hosts {
                let there = now.state.count_on(*host) > 0;
                let networks = presence.entry(*host).or_default();
                if if there { networks.insert(id) } else { networks.remove(&id) } {
                    rescoped.push(*host);
                }
                if networks.is_empty() {
                    presence.remove(host);
                }
            }
        }
        self.hub.touched(id, &outcome, &rescoped, &self.directory.read().state);
    }
}

/// The changes that key-value changes stand for.
fn read_all<T>(
    changes: impl IntoIterator<Item = (Bytes, Option<Bytes>)>,
    read: impl Fn(&[u8], Option<&[u8]>) -> Result<T, RecordError>,
) -> Result<Vec<T>, RecordError> {
    changes.into_iter().map(|(key, value)| read(&key, value.as_deref())).collect()
}

/// What a directory commit changed.
pub(crate) fn directory_changes(changes: &[kv_core::Change]) -> Result<Vec<DirectoryChange>, RecordError> {
    let pairs = changes.iter().map(|change| (change.key.clone(), change.value.clone()));
    read_all(pairs, DirectoryChange::from_record)
}

/// What a network's commit changed.
pub(crate) fn network_changes(changes: &[kv_core::Change]) -> Result<Vec<NetworkChange>, RecordError> {
    let pairs = changes.iter().map(|change| (change.key.clone(), change.value.clone()));
    read_all(pairs, NetworkChange::from_record)
}

impl Observer for View {
    fn load(&self, keyspace: &Keyspace, head: Head, scan: &mut dyn FnMut(&mut Visit<'_>)) {
        let Some(home) = Home::of(keyspace) else { return };
        let mut failed = None;
        match home {
            Home::Directory => {
                let mut state = Directory::new();
                scan(&mut |key, value, _| match DirectoryChange::from_record(key, Some(value)) {
                    Ok(change) => state.evolve(&change),
                    Err(error) => failed = Some(error),
                });
                *self.directory.write() = DirectoryAt { state, revision: head.revision, moved: head.revision };
            }
            Home::Network(id) => {
                let mut state = NetworkState::default();
                scan(&mut |key, value, _| match NetworkChange::from_record(key, Some(value)) {
                    Ok(change) => state.evolve(&change),
                    Err(error) => failed = Some(error),
                });
                {
                    let mut presence = self.presence.lock();
                    for host in state.hosts() {
                        presence.entry(host).or_default().insert(id);
                    }
                }
                let log = NetworkLog::from(head.revision);
                *self.view_of(id).write() = NetworkView { now: NetworkAt { state, revision: head.revision }, log };
            }
        }
        if let Some(error) = failed {
            self.damaged(keyspace, &error);
        }
        self.hub.everything();
        self.applied.send_modify(|count| *count += 1);
    }

    fn applied(&self, _group: GroupId, commits: &[AppliedCommit<'_>]) {
        for commit in commits {
            let read = match Home::of(commit.keyspace) {
                None => continue,
                Some(Home::Directory) => {
                    directory_changes(commit.changes).map(|changes| self.apply_directory(commit, &changes))
                }
                Some(Home::Network(id)) => {
                    network_changes(commit.changes).map(|changes| self.apply_network(id, commit, &changes))
                }
            };
            if let Err(error) = read {
                self.damaged(commit.keyspace, &error);
            }
        }
        self.applied.send_modify(|count| *count += 1);
    }

    fn reset(&self, group: GroupId) {
        let Some(node) = self.node.get() else { return };
        let of_group = |home: Home| node.group_of(&home.keyspace()) == group;
        if of_group(Home::Directory) {
            *self.directory.write() = DirectoryAt::default();
        }
        let gone: Vec<_> = self.networks.read().keys().copied().filter(|id| of_group(Home::Network(*id))).collect();
        for id in &gone {
            self.networks.write().remove(id);
        }
        self.presence.lock().values_mut().for_each(|networks| networks.retain(|id| !gone.contains(id)));
        self.hub.everything();
    }

    fn leadership(&self, _group: GroupId, _leader: Option<NodeId>) {
        self.applied.send_modify(|count| *count += 1);
    }
}
