//! A cluster in one process, on loopback addresses and folders of its own.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kv_core::{GroupId, Head, Keyspace, NodeId, Operation, Outcome, RequestId, Revision, Txn};
use kv_node::{AppliedCommit, CallHandler, Config, Member, Node, Observer, SystemClock, Timing};

/// Groups of the test clusters: enough that keyspaces spread, few enough for a debug build.
pub(crate) const GROUPS: u16 = 4;

/// How long a condition may take to come true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) seen: Vec<Arc<Seen>>,
    dir: tempfile::TempDir,
    members: Vec<Member>,
    timing: Timing,
    /// Nodes from here on join the cluster; those before found it.
    founders: usize,
}

pub(crate) struct Deaf;

impl Observer for Deaf {
    fn load(&self, _: &Keyspace, _: Head, _: &mut dyn FnMut(&mut (dyn FnMut(&[u8], &[u8], Revision) + '_))) {}
    fn applied(&self, _: GroupId, _: &[AppliedCommit<'_>]) {}
    fn reset(&self, _: GroupId) {}
    fn leadership(&self, _: GroupId, _: Option<NodeId>) {}
}

/// Takes note of how far it has been shown each keyspace, and of what came out of order.
#[derive(Default)]
pub(crate) struct Seen {
    revisions: Mutex<BTreeMap<Keyspace, Revision>>,
    flaws: Mutex<Vec<String>>,
}

impl Seen {
    pub(crate) fn revision(&self, keyspace: &Keyspace) -> Revision {
        self.revisions.lock().unwrap().get(keyspace).copied().unwrap_or_default()
    }
}

impl Observer for Seen {
    fn load(&self, keyspace: &Keyspace, head: Head, _: &mut dyn FnMut(&mut (dyn FnMut(&[u8], &[u8], Revision) + '_))) {
        self.revisions.lock().unwrap().insert(keyspace.clone(), head.revision);
    }

    fn applied(&self, group: GroupId, commits: &[AppliedCommit<'_>]) {
        for commit in commits {
            let mut revisions = self.revisions.lock().unwrap();
            let last = revisions.entry(commit.keyspace.clone()).or_default();
            if last.next() != commit.record.revision {
                let flaw = format!("{group}: {} of {} after {last}", commit.record.revision, commit.keyspace);
                self.flaws.lock().unwrap().push(flaw);
            }
            *last = commit.record.revision;
        }
    }

    // What is loaded next takes the place of what was shown.
    fn reset(&self, _: GroupId) {}
    fn leadership(&self, _: GroupId, _: Option<NodeId>) {}
}

pub(crate) struct Echo;

impl CallHandler for Echo {
    fn call(&self, from: NodeId, request: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            match request.as_ref() {
                b"refuse" => Err("as you wish".into()),
                other => Ok([format!("{from} said ").as_bytes(), other].concat().into()),
            }
        })
    }
}

/// A loopback address that no other test of this machine uses: ports then need not be hunted for.
fn own_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let own = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("127.{}.{}.{own}", 64 + (pid >> 8) % 128, pid & 0xff)
}

impl Cluster {
    pub(crate) async fn start(size: usize) -> Self {
        Self::start_with(size, Timing { compare_heads: Duration::from_millis(200), ..Timing::default() }).await
    }

    pub(crate) async fn start_with(size: usize, timing: Timing) -> Self {
        let address = own_address();
        let member = |at| Member { name: format!("n{at}"), peer: format!("{address}:{}", 23800 + at) };
        let members = (1..=size).map(member).collect();
        let dir = tempfile::tempdir().unwrap();
        let seen = vec![Arc::default(); size];
        let mut cluster = Cluster { nodes: vec![None; size], seen, dir, members, timing, founders: size };
        for at in 0..size {
            cluster.restart(at).await;
        }
        cluster
    }

    pub(crate) fn dir(&self, at: usize) -> PathBuf {
        self.dir.path().join(&self.members[at].name)
    }

    pub(crate) fn peer(&self, at: usize) -> SocketAddr {
        self.members[at].peer.parse().unwrap()
    }

    pub(crate) fn config(&self, at: usize) -> Config {
        Config {
            name: self.members[at].name.clone(),
            data_dir: self.dir(at),
            listen_peer: self.peer(at),
            initial_cluster: self.members[..self.founders].to_vec(),
            join: Vec::new(),
            advertise_peer: None,
            zone: String::new(),
            relay: false,
            groups: GROUPS,
            timing: self.timing,
            disk_reserve_bytes: 0,
            store: kv_node::StoreOptions::default(),
        }
    }

    pub(crate) async fn restart(&mut self, at: usize) {
        self.start_as(at, self.config(at)).await;
    }

    /// Adds a node that joins the cluster of the first.
    pub(crate) async fn join(&mut self, at: usize) {
        self.join_as(at, false).await;
    }

    /// Adds a node that joins as a relay, or not.
    pub(crate) async fn join_as(&mut self, at: usize, relay: bool) {
        if at == self.members.len() {
            let peer = SocketAddr::new(self.peer(0).ip(), 23801 + at as u16);
            self.members.push(Member { name: format!("n{}", at + 1), peer: peer.to_string() });
            self.nodes.push(None);
            self.seen.push(Arc::default());
        }
        self.start_as(at, Config { relay, ..self.joining(at) }).await;
    }

    /// Why a node that wants to join is not even started.
    pub(crate) async fn join_refused(&self, at: usize) -> String {
        let started = Node::start(self.joining(at), Arc::new(SystemClock), self.seen[at].clone(), Arc::new(Echo)).await;
        started.err().expect("it is refused").to_string()
    }

    fn joining(&self, at: usize) -> Config {
        let others = self.nodes.iter().enumerate().filter(|(other, node)| *other != at && node.is_some());
        let join = others.map(|(other, _)| self.members[other].peer.clone()).collect();
        Config { join, initial_cluster: Vec::new(), ..self.config(at) }
    }

    async fn start_as(&mut self, at: usize, config: Config) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        self.seen[at] = Arc::default();
        self.nodes[at] = Some(loop {
            match Node::start(config.clone(), Arc::new(SystemClock), self.seen[at].clone(), Arc::new(Echo)).await {
                Ok(node) => break node,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "does not start: {error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        });
    }

    /// Stops a node and waits until its store is closed, which its last task does.
    pub(crate) async fn stop(&mut self, at: usize) {
        self.nodes[at].take().unwrap().shutdown().await;
        let lock = std::fs::File::open(self.dir(at).join("LOCK")).unwrap();
        until("its store is closed", async || lock.try_lock().ok()).await;
    }

    /// Stops a node that others of the test have in their hands, too.
    pub(crate) async fn stop_now(&mut self, at: usize) {
        self.nodes[at].take().unwrap().shutdown().await;
    }

    pub(crate) fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().unwrap()
    }

    /// What the nodes were shown out of order.
    pub(crate) fn flaws(&self) -> Vec<String> {
        self.seen.iter().flat_map(|seen| seen.flaws.lock().unwrap().clone()).collect()
    }

    /// Where the leader of a keyspace's group is.
    pub(crate) async fn leader(&self, keyspace: &Keyspace) -> usize {
        until("a leader", async || {
            let up = self.nodes.iter().enumerate().filter_map(|(at, node)| Some((at, node.as_ref()?)));
            up.filter(|(_, node)| node.leads(node.group_of(keyspace)).is_some()).map(|(at, _)| at).next()
        })
        .await
    }
}

/// Waits for a condition on a value.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    until_ok(what, async || condition().await.ok_or("not yet")).await
}

/// Waits for a condition that says what is in its way.
pub(crate) async fn until_ok<T, E: Debug>(what: &str, mut condition: impl AsyncFnMut() -> Result<T, E>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(why) => assert!(tokio::time::Instant::now() < deadline, "still waiting for: {what}: {why:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn keyspace(name: &str) -> Keyspace {
    Keyspace::new(name).unwrap()
}

pub(crate) fn put(key: &str, value: &str) -> Txn {
    let put = Operation::put(key.to_string(), value.to_string());
    Txn { then: vec![put], actor: "ann".into(), reason: "test".into(), ..Txn::default() }
}

pub(crate) fn with_request(txn: Txn, id: u8) -> Txn {
    Txn { request: Some(RequestId::new([id; 16])), ..txn }
}

pub(crate) fn revision(outcome: Outcome) -> Revision {
    match outcome {
        Outcome::Applied(done) | Outcome::Repeated(done) => done.revision,
        other => panic!("{other:?}"),
    }
}
