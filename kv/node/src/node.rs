//! The node: what the layer above holds.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use kv_core::{
    Answered, ClusterId, Fold, GroupId, Head, InstanceId, KeyRange, Keyspace, NodeId, Outcome, Query, RangeResult,
    RequestId, Revision, RevisionChanges, Txn, TxnOutcome, limits,
};
use kv_proto::peer::v1::Kind;
use kv_store::{Identity, OpenError, Store, StoreError, Usage, VerifyError};
use openraft::async_runtime::WatchReceiver;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    catalog::{self, Catalog, CatalogWatch},
    clock::Clock,
    config::{Config, MemberInfo, Timing},
    counts::Counts,
    disk::{Disk, Room},
    error::{CallError, CommitError, ReadError, Retry, StartError},
    founding,
    govern::{self, Governing},
    group::{Failure, Group, Leadership, Quarantine, Shared},
    heads::{self, Heads},
    housekeeping::{self, Reclaiming},
    link::{self, LinkError, Links},
    members, moves,
    observer::{CallHandler, Observer},
    proposer::Answer,
    publish::{self, Feeds},
    raft,
    repair::Outgoing,
    rest::{self, Rest},
    resume,
    snapshot::{Incoming, Pace},
    trace::TARGET as TRACE_TARGET,
    watch::{History, Watch},
};

/// How long a node that should not found a group by itself waits for the one that should.
const FOUND_PATIENCE: Duration = Duration::from_secs(2);

/// How long a group may take to be led by somebody else.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);

/// Between two attempts to find a leader.
const LEADER_PAUSE: Duration = Duration::from_millis(20);

/// One node. Cheap to clone.
#[derive(Clone)]
pub struct Node(pub(crate) Arc<Inner>);

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees everything acknowledged before it began.
    Linearizable,
    /// Sees what the local replica has.
    Serializable,
}

/// One group, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Who leads it; this node only while a majority answers it.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: u64,
    /// Log index known to be committed.
    pub committed: u64,
    /// Log index applied here.
    pub applied: u64,
    /// Keyspaces in it.
    pub keyspaces: u64,
    /// Of their heads, at `applied` or a moment later.
    pub fold: Fold,
    /// Nothing is to be done in it, so nothing of it wakes up.
    pub resting: bool,
    /// Why this replica serves nothing, if so.
    pub problem: Option<String>,
}

/// Where a group is, as one node sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Who leads it.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: u64,
    /// The last log index.
    pub last: u64,
    /// Log index applied here.
    pub applied: u64,
}

/// A range being read page by page.
pub struct Pages {
    pages: kv_store::Pages,
    group: GroupId,
    leadership: Leadership,
}

impl Pages {
    /// The next page; `None` after the last. Blocks on disk.
    #[expect(clippy::should_implement_trait, reason = "an iterator does not fail")]
    pub fn next(&mut self) -> Result<Option<RangeResult>, ReadError> {
        self.pages.next_page().map_err(|error| read_error(&self.leadership, self.group, error.into()))
    }

    /// Begins again with the first page, as it was.
    pub fn rewind(&mut self) {
        self.pages.rewind();
    }
}

/// What a walk over a group's chains found sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Keyspaces walked.
    pub keyspaces: u64,
    /// Records walked.
    pub records: u64,
    /// Of all heads.
    pub fold: Fold,
    /// The log index that this is true of.
    pub applied: u64,
}

pub(crate) struct Inner {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) cluster: ClusterId,
    /// Its data directory.
    pub(crate) instance: InstanceId,
    pub(crate) data_dir: PathBuf,
    pub(crate) catalog: CatalogWatch,
    pub(crate) governing: Governing,
    pub(crate) store: Store,
    pub(crate) groups: Vec<Group>,
    pub(crate) links: Links,
    pub(crate) calls: Arc<dyn CallHandler>,
    pub(crate) timing: Timing,
    pub(crate) counts: Arc<Counts>,
    pub(crate) failure: Failure,
    pub(crate) stop: CancellationToken,
    pub(crate) disk: Disk,
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
    /// Cancelled when the process has to start again, to finish a repair.
    pub(crate) restart: CancellationToken,
    pub(crate) heads: Heads,
    pub(crate) rest: Rest,
    pub(crate) reclaim: Reclaiming,
    pub(crate) feeds: Arc<Feeds>,
}

impl Inner {
    pub(crate) fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(usize::from(id.get()))
    }

    /// Runs a task that is dropped, wherever it waits, when the node stops. All that these tasks do can be interrupted.
    fn until_stop(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(task));
    }
}

/// The store's read error as ours; damage stops the node.
pub(crate) fn read_error(leadership: &Leadership, group: GroupId, error: kv_store::ReadError) -> ReadError {
    match error {
        kv_store::ReadError::Compacted { asked, floor } => ReadError::Compacted { asked, floor },
        kv_store::ReadError::Future { asked, head } => ReadError::Future { asked, head },
        kv_store::ReadError::Store(error) => {
            let reason = leadership.damaged(&error);
            ReadError::OutOfService { group, reason }
        }
    }
}

impl Node {
    /// Opens the store, shows the observer what is in it, and starts the groups and links.
    pub async fn start(
        config: Config,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
        calls: Arc<dyn CallHandler>,
    ) -> Result<Node, StartError> {
        let mistakes = config.mistakes();
        if !mistakes.is_empty() {
            return Err(StartError::Config(mistakes));
        }
        let listener = TcpListener::bind(config.listen_peer)
            .await
            .map_err(|source| StartError::Listen { address: config.listen_peer, source })?;
        let origin = founding::establish(&config).await?;
        let identity = origin.identity;
        let (own, cluster) = (identity.node, identity.cluster);
        let (dir, options) = (config.data_dir.clone(), config.store.clone());
        let loading = observer.clone();
        let failure = Failure::new();
        let quarantines: Vec<_> =
            (0..identity.groups).map(|group| Quarantine::new(GroupId::new(group), failure.clone())).collect();
        let fates = quarantines.clone();
        let feeds = Arc::new(Feeds::new());
        let loaded = feeds.clone();
        let opened = tokio::task::spawn_blocking(move || -> Result<Store, StartError> {
            let store = match Store::open(&dir, &identity, &options) {
                Err(OpenError::State(error)) => {
                    fates.iter().for_each(|quarantine| quarantine.whole_database_failed(&error));
                    return Ok(Store::rescue(&dir, &identity, &options)?);
                }
                opened => opened?,
            };
            for (group, quarantine) in (0..identity.groups).map(GroupId::new).zip(fates) {
                match publish::load(store.state(), group, loading.as_ref(), &loaded) {
                    Ok(()) => {}
                    Err(error @ StoreError::Damaged { .. }) => {
                        loading.reset(group);
                        quarantine.store_failed(&error);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(store)
        });
        let store = opened.await.expect("opening a store does not panic")?;

        let catalog = match Catalog::load(store.state(), cluster) {
            Ok(catalog) => catalog,
            Err(error @ StoreError::Damaged { .. }) => {
                quarantines[usize::from(catalog::GROUP.get())].store_failed(&error);
                None
            }
            Err(error) => return Err(error.into()),
        };
        founding::check(&config, &origin, catalog.as_ref())?;
        let catalog = CatalogWatch::new(cluster, origin.members.clone(), catalog);
        let links = links(&identity, origin.instance, &catalog, &failure);
        links.set(founding::addresses(&catalog.members()));
        let stop = CancellationToken::new();
        let disk = Disk::watch(config.data_dir.clone(), config.disk_reserve_bytes, stop.clone());
        let pace = Pace::new(config.timing.snapshot_bytes_per_second);
        let counts = Arc::new(Counts::default());
        let shared = Shared {
            own,
            store: &store,
            links: &links,
            clock: &clock,
            observer: &observer,
            timing: &config.timing,
            disk: &disk,
            pace: &pace,
            counts: &counts,
            stop: &stop,
            feeds: &feeds,
        };
        let mut groups = Vec::with_capacity(identity.groups.into());
        for (group, quarantine) in (0..identity.groups).map(GroupId::new).zip(quarantines) {
            groups.push(Group::start(group, quarantine, &shared).await?);
        }
        let inner = Arc::new(Inner {
            id: own,
            name: config.name.clone(),
            cluster,
            instance: origin.instance,
            data_dir: config.data_dir.clone(),
            catalog,
            governing: Governing::default(),
            store,
            groups,
            links,
            calls,
            timing: config.timing,
            incoming: Incoming::new(counts.clone()),
            counts,
            failure,
            stop,
            disk,
            outgoing: Outgoing::new(pace),
            restart: CancellationToken::new(),
            heads: Heads::default(),
            rest: Rest::default(),
            reclaim: Reclaiming::default(),
            feeds,
        });
        let node = Node(inner.clone());
        tokio::spawn(link::Server::run(inner.links.clone(), inner.clone(), listener, inner.stop.clone()));
        inner.until_stop(inner.catalog.clone().follow(inner.clone()));
        inner.until_stop(members::follow(inner.clone()));
        inner.until_stop(members::introduce(node.clone(), founding::candidate(&config, origin.instance)));
        inner.until_stop(resume::run(inner.clone()));
        inner.until_stop(heads::run(inner.clone()));
        inner.until_stop(rest::run(inner.clone()));
        inner.until_stop(housekeeping::run(inner.clone()));
        inner.until_stop(govern::run(node.clone()));
        inner.until_stop(moves::run(node.clone()));
        inner.until_stop(moves::spread::run(node.clone()));
        if config.join.is_empty() {
            let candidate = founding::candidate(&config, origin.instance);
            inner.until_stop(founding::compare(inner.clone(), config.initial_cluster.clone(), candidate));
        }
        let sound = inner.groups.iter().all(|group| group.leadership.problem().is_none());
        if origin.founder && sound {
            inner.until_stop(found(inner.clone(), origin.members));
        }
        Ok(node)
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// This node's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The cluster that it belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.0.cluster
    }

    /// How many groups the cluster has.
    pub fn groups(&self) -> u16 {
        u16::try_from(self.0.groups.len()).expect("checked at start")
    }

    /// The group that holds a keyspace, as far as this node knows.
    pub fn group_of(&self, keyspace: &Keyspace) -> GroupId {
        self.0.store.state().residence(keyspace).group
    }

    fn group(&self, keyspace: &Keyspace) -> &Group {
        self.0.group(self.group_of(keyspace)).expect("a keyspace's group is below the number of groups")
    }

    /// Who leads a group, as far as this node knows.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.0.group(group)?.leadership.leader()
    }

    /// The term, while this node leads the group and has applied everything from before that term.
    pub fn leads(&self, group: GroupId) -> Option<u64> {
        self.0.group(group)?.leadership.leads()
    }

    /// Transactions on one keyspace, in order, worked out and answered by the group's leader, wherever it is.
    ///
    /// One that was worked out against a state that did not come to be is worked out again, unless it names its base.
    pub async fn transact(&self, keyspace: &Keyspace, txns: Vec<Txn>) -> Result<Vec<Answered>, CommitError> {
        let span = tracing::debug_span!(target: TRACE_TARGET, "transact", %keyspace, txns = txns.len());
        self.carry_out(keyspace, txns).instrument(span).await
    }

    async fn carry_out(&self, keyspace: &Keyspace, txns: Vec<Txn>) -> Result<Vec<Answered>, CommitError> {
        let deadline = tokio::time::Instant::now() + self.0.timing.commit_timeout;
        let mut answers = vec![None; txns.len()];
        let mut hint = None;
        loop {
            let group = hint.take().and_then(|group| self.0.group(group)).unwrap_or_else(|| self.group(keyspace));
            let open: Vec<_> = (0..txns.len()).filter(|at| answers[*at].is_none()).collect();
            let asked = open.iter().map(|at| txns[*at].clone()).collect();
            let attempt = tokio::time::timeout_at(deadline, self.attempt(group, keyspace, asked)).await;
            match attempt {
                Ok(Ok(found)) => {
                    for (at, answer) in open.into_iter().zip(found) {
                        let again = txns[at].base.is_none() && matches!(answer.outcome, Outcome::Stale { .. });
                        answers[at] = (!again).then_some(answer);
                    }
                    if answers.iter().all(Option::is_some) {
                        return Ok(answers.into_iter().flatten().collect());
                    }
                }
                Ok(Err(error @ (CommitError::NotLeader { .. } | CommitError::Overloaded { .. }))) => {
                    if tokio::time::Instant::now() + LEADER_PAUSE > deadline {
                        return Err(error);
                    }
                }
                Ok(Err(error @ CommitError::Moving { to })) => {
                    if tokio::time::Instant::now() + LEADER_PAUSE > deadline {
                        return Err(error);
                    }
                    // The leader knows what this node may not have applied yet.
                    hint = Some(to);
                }
                // With request ids on all of them asking again is safe, and tells what came of the first time.
                Ok(Err(CommitError::Unknown { .. })) if txns.iter().all(|txn| txn.request.is_some()) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(CommitError::Unknown { group: group.id }),
            }
            tokio::time::sleep(LEADER_PAUSE).await;
        }
    }

    /// The outcomes of transactions; see [`transact`](Node::transact).
    pub async fn txns(&self, keyspace: &Keyspace, txns: Vec<Txn>) -> Result<Vec<Outcome>, CommitError> {
        Ok(self.transact(keyspace, txns).await?.into_iter().map(|answered| answered.outcome).collect())
    }

    /// The outcome of one transaction; see [`transact`](Node::transact).
    pub async fn txn(&self, keyspace: &Keyspace, txn: Txn) -> Result<Outcome, CommitError> {
        Ok(self.txns(keyspace, vec![txn]).await?[0])
    }

    pub(crate) async fn attempt(&self, group: &Group, keyspace: &Keyspace, txns: Vec<Txn>) -> Answer {
        if let Some(reason) = group.leadership.problem() {
            return Err(CommitError::OutOfService { group: group.id, reason: reason.into() });
        }
        match group.leadership.leader() {
            None => Err(CommitError::NotLeader { group: group.id, leader: None }),
            Some(leader) if leader == self.0.id => group.proposer.propose(keyspace, txns).await,
            Some(leader) => group.forwarder.forward(leader, keyspace, txns).await,
        }
    }

    /// As [`txns`](Node::txns), but only if this node leads the group, and never worked out twice.
    pub async fn txns_here(&self, keyspace: &Keyspace, txns: Vec<Txn>) -> Result<Vec<Outcome>, CommitError> {
        let group = self.group(keyspace);
        let proposed = tokio::time::timeout(self.0.timing.commit_timeout, group.proposer.propose(keyspace, txns));
        let answers = proposed.await.unwrap_or(Err(CommitError::Unknown { group: group.id }))?;
        Ok(answers.into_iter().map(|answered| answered.outcome).collect())
    }

    /// The outcome that the local replica remembers for a request id.
    pub fn recorded(&self, keyspace: &Keyspace, request: &RequestId) -> Result<Option<TxnOutcome>, ReadError> {
        self.here(keyspace, |group| {
            let read = self.0.store.state().outcome(group.id, keyspace, request);
            read.map_err(|error| read_error(&group.leadership, group.id, kv_store::ReadError::Store(error)))
        })
    }

    /// Returns when the local replica of the group has applied all that was acknowledged anywhere before the call.
    pub async fn read_barrier(&self, group: GroupId) -> Result<(), ReadError> {
        let group = self.0.group(group).ok_or(ReadError::Unconfirmed { group })?;
        in_service(group)?.barrier.pass().await
    }

    /// As [`read_barrier`](Node::read_barrier) for what was acknowledged at least so long before the call. Returns how long
    /// before: reads of the local replica that begin now are no staler than that.
    pub async fn fresh_within(&self, group: GroupId, bound: Duration) -> Result<Duration, ReadError> {
        let group = self.0.group(group).ok_or(ReadError::Unconfirmed { group })?;
        in_service(group)?.barrier.pass_within(bound).await
    }

    /// Keys and values of one keyspace, at the latest or an earlier revision. `limit`: keys at most, and at most
    /// [`limits::RANGE_KEYS`].
    pub async fn range(
        &self,
        keyspace: &Keyspace,
        range: &KeyRange,
        at: Option<Revision>,
        limit: usize,
        consistency: Consistency,
    ) -> Result<RangeResult, ReadError> {
        self.ready(keyspace, consistency).await?;
        self.here(keyspace, |group| {
            let read = self.0.store.state().range(group.id, keyspace, range, at, limit.min(limits::RANGE_KEYS));
            read.map_err(|error| read_error(&group.leadership, group.id, error))
        })
    }

    /// The keys that a query asks for, without any limit but its own. Blocks on disk.
    pub async fn query(
        &self,
        keyspace: &Keyspace,
        query: &Query,
        consistency: Consistency,
    ) -> Result<RangeResult, ReadError> {
        self.ready(keyspace, consistency).await?;
        self.here(keyspace, |group| {
            let read = self.0.store.state().query(group.id, keyspace, query);
            read.map_err(|error| read_error(&group.leadership, group.id, error))
        })
    }

    /// A transaction that only reads, in the local replica. `None`: it may write, or the replica changes too fast; it has
    /// to be [carried out](Node::transact) then.
    pub fn read_only(&self, keyspace: &Keyspace, txn: &Txn) -> Result<Option<Answered>, CommitError> {
        if txn.writes() {
            return Ok(None);
        }
        loop {
            let residence = self.0.store.state().residence(keyspace);
            let group = self.group(keyspace);
            if let Some(reason) = group.leadership.problem() {
                return Err(CommitError::OutOfService { group: group.id, reason: reason.into() });
            }
            if !residence.readable {
                return Ok(None);
            }
            let read = group.proposer.check_and_read(keyspace, txn);
            if self.group_of(keyspace) == residence.group && group.id == residence.group {
                return read;
            }
        }
    }

    /// A keyspace, in figures, in the local replica.
    pub fn usage(&self, keyspace: &Keyspace) -> Usage {
        self.settled(keyspace, |group| self.0.store.state().usage(group, keyspace))
    }

    /// A record beside the keys, in the local replica.
    pub fn beside(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.here(keyspace, |group| {
            let read = self.0.store.state().beside(group.id, keyspace, key);
            read.map_err(|error| read_error(&group.leadership, group.id, error.into()))
        })
    }

    /// All records beside the keys that start so, by key, in the local replica.
    pub fn all_beside(&self, keyspace: &Keyspace, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.here(keyspace, |group| {
            let read = self.0.store.state().all_beside(group.id, keyspace, prefix);
            read.map_err(|error| read_error(&group.leadership, group.id, error.into()))
        })
    }

    /// Watches a keyspace, from the revision after `after`.
    pub fn watch(&self, keyspace: &Keyspace, after: Revision) -> Watch {
        let state = self.0.store.state();
        let (revision, recent) = self.0.feeds.watched(state, keyspace);
        let groups = self.0.groups.iter().map(|group| group.leadership.clone()).collect();
        let history = History { keyspace: keyspace.clone(), state: state.clone(), groups, recent };
        Watch { history, cursor: after, revision }
    }

    /// Changes whenever a record beside the keys of any keyspace does.
    pub fn records_beside(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.feeds.records()
    }

    /// Grows with every change of records beside the keys, of whatever keyspace, before the change is told to anybody:
    /// what was read while it had this value is still so.
    pub fn record_changes(&self) -> u64 {
        self.0.feeds.record_changes()
    }

    /// The keys of a query, a page of at most so many at a time, all of one revision however long it takes.
    pub fn pages(&self, keyspace: &Keyspace, query: &Query, keys: usize) -> Result<Pages, ReadError> {
        self.here(keyspace, |group| {
            let pages = self.0.store.state().pages(group.id, keyspace, query, keys);
            let pages = pages.map_err(|error| read_error(&group.leadership, group.id, error))?;
            Ok(Pages { pages, group: group.id, leadership: group.leadership.clone() })
        })
    }

    /// Why this node's replica of a group serves nothing, if so.
    pub fn problem(&self, group: GroupId) -> Option<String> {
        self.0.group(group)?.leadership.problem().map(str::to_string)
    }

    /// Where a group is, as this node sees it.
    pub fn position(&self, group: GroupId) -> Position {
        let Some(group) = self.0.group(group) else { return Position::default() };
        let metrics = group.raft.metrics();
        let metrics = metrics.borrow_watched();
        Position {
            leader: metrics.current_leader.map(NodeId::new),
            term: metrics.current_term,
            last: metrics.last_log_index.unwrap_or_default(),
            applied: group.published.index(),
        }
    }

    /// The term that a group is in.
    pub fn term(&self, group: GroupId) -> u64 {
        self.0.group(group).map_or(0, |group| group.leadership.term())
    }

    /// Returns when the space of all that was compacted before the call has been given back here.
    pub async fn reclaimed(&self) {
        self.0.reclaim.done().await;
    }

    /// Hands a group to another node, if this one leads it. Whether that worked shows in [`leader`](Node::leader).
    pub async fn hand_over(&self, group: GroupId, to: NodeId) {
        if let Some(group) = self.0.group(group) {
            // Should it fail, this node goes on leading.
            let _ = group.hand_over(to).await;
        }
    }

    /// A group's whole state, as chunks that another store can take.
    pub fn snapshot(&self, group: GroupId) -> Result<kv_store::GroupSnapshot, kv_store::StoreError> {
        self.0.store.state().snapshot(group)
    }

    /// The chain's records after a revision, as the local replica has them. Blocks on disk.
    pub fn records(&self, keyspace: &Keyspace, after: Revision, max: usize) -> Result<Vec<RevisionChanges>, ReadError> {
        self.here(keyspace, |group| {
            let read = self.0.store.state().records(group.id, keyspace, after, max);
            read.map_err(|error| read_error(&group.leadership, group.id, kv_store::ReadError::Store(error)))
        })
    }

    /// Walks every chain of a group in the local replica, from the first record. Blocks on disk, perhaps for long.
    pub fn verify(&self, group: GroupId) -> Result<Verified, VerifyError> {
        let walked = self.0.store.state().verify(group)?;
        let applied = walked.applied.as_ref().and_then(|applied| raft::applied_meta(applied).ok());
        Ok(Verified {
            keyspaces: walked.keyspaces,
            records: walked.records,
            fold: walked.fold,
            applied: applied.and_then(|meta| meta.last_log_id).map_or(0, |id| id.index),
        })
    }

    /// A keyspace's head, in the local replica.
    pub fn head(&self, keyspace: &Keyspace) -> Head {
        self.settled(keyspace, |group| self.0.store.state().head(group, keyspace))
    }

    /// How many keyspaces a group has, in the local replica.
    pub fn keyspaces_in(&self, group: GroupId) -> usize {
        self.0.store.state().keyspace_count(group)
    }

    /// A group's keyspaces and their heads, in the local replica.
    pub fn keyspaces(&self, group: GroupId) -> Vec<(Keyspace, Head)> {
        let found = self.0.store.state().keyspaces(group);
        found.into_iter().filter(|(keyspace, _)| self.group_of(keyspace) == group).collect()
    }

    /// Has another node's upper layer (or this one's) answer a call. `patience`: how long to wait.
    pub async fn call(&self, node: NodeId, request: Bytes, patience: Duration) -> Result<Bytes, CallError> {
        let refused = |reason| CallError::Refused { node, reason };
        if node == self.0.id {
            let answered = tokio::time::timeout(patience, self.0.calls.call(node, request)).await;
            return answered.map_err(|_| CallError::Timeout { node })?.map_err(refused);
        }
        let asked = self.0.links.request(node, Kind::Call, GroupId::new(0), request, patience).await;
        asked.map_err(|error| match error {
            LinkError::Unsent => CallError::Unreachable { node },
            LinkError::Lost | LinkError::Timeout => CallError::Timeout { node },
            LinkError::Refused { reason } => refused(reason),
        })
    }

    /// The other nodes, and whether the link to each is up.
    pub fn peers(&self) -> Vec<(NodeId, bool)> {
        self.0.links.nodes().into_iter().map(|node| (node, self.0.links.up(node))).collect()
    }

    /// For how long the link to another node has been down; zero if it is up.
    pub fn down_for(&self, node: NodeId) -> Duration {
        self.0.links.down_for(node)
    }

    /// Every group, as this node sees it.
    pub fn status(&self) -> Vec<GroupStatus> {
        let state = self.0.store.state();
        let status = |group: &Group| {
            let metrics = group.raft.metrics();
            let metrics = metrics.borrow_watched();
            GroupStatus {
                group: group.id,
                leader: group.led_by(&metrics),
                term: metrics.current_term,
                committed: metrics.cluster_committed.map_or(0, |id| id.index),
                applied: group.published.index(),
                keyspaces: state.keyspace_count(group.id) as u64,
                fold: state.fold(group.id),
                resting: group.leadership.resting.now(),
                problem: group.leadership.problem().map(str::to_string),
            }
        };
        self.0.groups.iter().map(status).collect()
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.0.store.disk_bytes()
    }

    /// Room on the disk.
    pub fn disk_room(&self) -> Room {
        self.0.disk.room()
    }

    /// Stops this node for a reason of the layer above (a record that makes no sense, say): [`failed`](Node::failed)
    /// then resolves with it.
    pub fn fail(&self, reason: &str) {
        self.0.failure.report(reason);
    }

    /// Resolves when this node must stop, with the reason.
    pub async fn failed(&self) -> String {
        self.0.failure.wait().await
    }

    /// Resolves when the process has to end and start again, with what it has on disk.
    pub async fn restart_wanted(&self) {
        self.0.restart.cancelled().await;
    }

    /// Hands what this node leads to others, so that its end is not noticed. Returns when nothing is led here any more, or
    /// nobody takes it in time.
    pub async fn hand_over_all(&self) {
        let handing = self.0.groups.iter().filter(|group| group.leadership.leads().is_some()).map(|group| async move {
            let Some(to) = group.heir(&self.0.links) else { return };
            self.hand_over(group.id, to).await;
            let ends = async {
                while group.leadership.leads().is_some() || group.leadership.leader().is_none() {
                    tokio::time::sleep(LEADER_PAUSE).await;
                }
            };
            // Whoever waits for longer finds the next leader by an election.
            let _ = tokio::time::timeout(HAND_OVER_PATIENCE, ends).await;
        });
        futures::future::join_all(handing).await;
    }

    /// Stops the groups and the peer port. What is acknowledged is on disk already.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        for group in &self.0.groups {
            // One that has stopped by itself is as good.
            let _ = group.raft.shutdown().await;
        }
    }
}

pub(crate) fn in_service(group: &Group) -> Result<&Group, ReadError> {
    match group.leadership.problem() {
        Some(reason) => Err(ReadError::OutOfService { group: group.id, reason: reason.into() }),
        None => Ok(group),
    }
}

/// Founds every group that has not been founded.
async fn found(inner: Arc<Inner>, founders: Vec<MemberInfo>) {
    let founding = inner.groups.iter().map(|group| {
        // So leaders are spread evenly from the start.
        let first = founders[usize::from(group.id.get()) % founders.len()].id == inner.id;
        group.found(&founders, first, FOUND_PATIENCE)
    });
    futures::future::join_all(founding).await;
}

/// Links that are made with members only.
fn links(identity: &Identity, instance: InstanceId, catalog: &CatalogWatch, failure: &Failure) -> Links {
    let own = link::Identity { cluster: identity.cluster, node: identity.node, instance: Some(instance) };
    let (catalog, failure) = (catalog.clone(), failure.clone());
    let admit = move |node, instance| catalog.get().map_or(Ok(()), |catalog| catalog.admits(node, instance));
    Links::new(own, Arc::new(admit), Arc::new(move |reason| failure.report(reason)))
}

impl CommitError {
    /// Whether nothing was done, certainly.
    pub fn not_done(&self) -> bool {
        self.retry() != Retry::IfIdempotent
    }
}
