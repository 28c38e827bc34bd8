//! One Raft group on this node.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use kv_core::{GroupId, NodeId};
use kv_store::{Store, StoreError};
use openraft::{
    Instant as _, RaftMetrics, ServerState, async_runtime::WatchReceiver, type_config::alias::WatchReceiverOf,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    barrier::Barrier,
    clock::Clock,
    config::{MemberInfo, Timing},
    counts::{Counts, GroupCounts},
    disk::Disk,
    error::StartError,
    forward::Forwarder,
    lessor::Lessor,
    link::Links,
    observer::Observer,
    proposer::Proposer,
    publish::{Feeds, Published, applied_index},
    raft::{LogStore, Machine, MemberNode, Network, Raft, Types},
    rest::Resting,
    snapshot::Pace,
    trace::Traced,
};

/// A leader that no majority has answered for so many of its leases is none any more for those who ask how the group is.
/// One would be enough if processors and disks were never busy.
const UNANSWERED_LEASES: u32 = 4;

/// Why this node must stop, once it must. The first reason stays.
#[derive(Clone)]
pub(crate) struct Failure(watch::Sender<Option<String>>);

impl Failure {
    pub(crate) fn new() -> Self {
        Failure(watch::Sender::new(None))
    }

    pub(crate) fn report(&self, reason: &str) {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                tracing::error!(reason, "this node must stop");
                *known = Some(reason.to_string());
            }
            first
        });
    }

    pub(crate) async fn wait(&self) -> String {
        let mut told = self.0.subscribe();
        match told.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}

/// How [`StoreError::Damaged`] calls a database of which no part may be readable.
const WHOLE_DATABASE: &str = "the database";

/// Whether a group's replica here is of use, and why not. A replica that has gone out of service votes no more, and serves
/// nothing until it has been repaired.
#[derive(Clone)]
pub(crate) struct Quarantine {
    group: GroupId,
    reason: Arc<OnceLock<String>>,
    entered: CancellationToken,
    /// The database itself is damaged, so all groups' replicas may be.
    whole: Arc<AtomicBool>,
    failure: Failure,
}

impl Quarantine {
    pub(crate) fn new(group: GroupId, failure: Failure) -> Self {
        Quarantine { group, reason: Arc::default(), entered: CancellationToken::new(), whole: Arc::default(), failure }
    }

    /// Why this replica serves nothing, if so.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    /// Whether not only this group's records are damaged, but the database that they are in.
    pub(crate) fn is_of_whole_database(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }

    /// Takes this replica out of service.
    pub(crate) fn enter(&self, reason: &str) {
        // The first reason stays.
        if self.reason.set(reason.to_string()).is_ok() {
            tracing::error!(group = %self.group, reason, "out of service");
        }
        self.entered.cancel();
    }

    /// The database could not even be opened.
    pub(crate) fn whole_database_failed(&self, error: &StoreError) {
        self.whole.store(true, Ordering::Relaxed);
        self.store_failed(error);
    }

    /// The local store failed: damage takes the replica out of service, anything else stops the node. Returns the reason.
    pub(crate) fn store_failed(&self, error: &StoreError) -> String {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        let reason = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        match error {
            StoreError::Damaged { key, .. } => {
                self.whole.fetch_or(key == WHOLE_DATABASE, Ordering::Relaxed);
                self.enter(&reason);
            }
            _ => self.failure.report(&reason),
        }
        reason
    }
}

/// Who leads a group, and whether this replica may serve at all.
#[derive(Clone)]
pub(crate) struct Leadership {
    metrics: WatchReceiverOf<Types, openraft::RaftMetrics<Types>>,
    pub(crate) resting: Arc<Resting>,
    pub(crate) quarantine: Quarantine,
}

impl Leadership {
    /// The term, while this node leads the group and has applied everything from before that term.
    pub(crate) fn leads(&self) -> Option<u64> {
        if self.problem().is_some() {
            return None;
        }
        let metrics = self.metrics.borrow_watched();
        let of_term = metrics.last_applied.is_some_and(|id| id.committed_leader_id().term == metrics.current_term);
        (metrics.state == ServerState::Leader && of_term).then_some(metrics.current_term)
    }

    /// Who leads, as far as this node knows.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.metrics.borrow_watched().current_leader.map(NodeId::new)
    }

    /// Changes with whatever becomes known of the group.
    pub(crate) fn changes(&self) -> WatchReceiverOf<Types, openraft::RaftMetrics<Types>> {
        self.metrics.clone()
    }

    /// The term.
    pub(crate) fn term(&self) -> u64 {
        self.metrics.borrow_watched().current_term
    }

    /// Why this replica serves nothing, if so.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.quarantine.reason()
    }

    /// The local store failed; see [`Quarantine::store_failed`].
    pub(crate) fn damaged(&self, error: &StoreError) -> String {
        self.quarantine.store_failed(error)
    }
}

/// One group and its tasks.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) raft: Raft,
    pub(crate) leadership: Leadership,
    pub(crate) proposer: Proposer,
    pub(crate) forwarder: Forwarder,
    pub(crate) lessor: Lessor,
    pub(crate) barrier: Barrier,
    pub(crate) published: Arc<Published>,
    /// Bytes appended to its log since the node started.
    pub(crate) appended: Arc<AtomicU64>,
    pub(crate) counts: Arc<GroupCounts>,
    /// For how long a leader that no majority answers is still called one.
    quorum_patience: Duration,
    /// The last term in which it was handed over.
    handed_over_in: AtomicU64,
}

/// What all groups of a node share.
pub(crate) struct Shared<'a> {
    pub(crate) own: NodeId,
    pub(crate) store: &'a Store,
    pub(crate) links: &'a Links,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) observer: &'a Arc<dyn Observer>,
    pub(crate) timing: &'a Timing,
    pub(crate) disk: &'a Disk,
    pub(crate) pace: &'a Pace,
    pub(crate) counts: &'a Arc<Counts>,
    pub(crate) stop: &'a CancellationToken,
    pub(crate) feeds: &'a Arc<Feeds>,
}

impl Group {
    /// Starts a group from what is stored of it.
    pub(crate) async fn start(id: GroupId, quarantine: Quarantine, shared: &Shared<'_>) -> Result<Self, StartError> {
        let failed = |reason: String| StartError::Group { group: id, reason };
        let state = shared.store.state().clone();
        if let Err(error @ StoreError::Damaged { .. }) = state.applied(id) {
            quarantine.store_failed(&error);
        }
        let applied = match quarantine.reason() {
            Some(_) => 0,
            None => applied_index(&state, id).map_err(|error| failed(error.to_string()))?,
        };
        let published = Arc::new(Published::new(&state, id, applied, shared.feeds.clone()));
        let appended = Arc::new(AtomicU64::new(0));
        let lessor = Lessor::new(id, state.clone());
        let traced = Traced::default();
        let leads = Arc::new(AtomicBool::new(true));
        let counts = Arc::new(GroupCounts::default());
        let start = async |out: bool| {
            let machine = Machine {
                group: id,
                out,
                state: state.clone(),
                observer: shared.observer.clone(),
                published: published.clone(),
                lessor: lessor.clone(),
                quarantine: quarantine.clone(),
                counts: shared.counts.clone(),
                traced: traced.clone(),
            };
            let log = LogStore {
                group: id,
                own: shared.own,
                out,
                log: shared.store.log().clone(),
                appended: appended.clone(),
                leads: leads.clone(),
                counts: counts.clone(),
                traced: traced.clone(),
            };
            let network = Network {
                group: id,
                links: shared.links.clone(),
                pace: shared.pace.clone(),
                counts: shared.counts.clone(),
            };
            let config = raft_config(id, shared.timing, out).validate().map_err(|error| error.to_string())?;
            let raft = Raft::new(shared.own.get(), Arc::new(config), network, log, machine).await;
            raft.map_err(|error| error.to_string())
        };
        let out = quarantine.reason().is_some();
        let raft = match start(out).await {
            // What is committed and not in the state yet was applied, and met damage. Only this replica stays out of service.
            Err(_) if !out && quarantine.reason().is_some() => start(true).await,
            started => started,
        };
        let raft = raft.map_err(failed)?;
        let leadership = Leadership { metrics: raft.metrics(), resting: Arc::default(), quarantine };
        tokio::spawn(observe(id, leadership.clone(), leads, counts.clone(), shared.observer.clone()));
        let (entered, ending) = (leadership.quarantine.entered.clone(), raft.clone());
        tokio::spawn(shared.stop.clone().run_until_cancelled_owned(async move {
            entered.cancelled().await;
            // Neither votes nor leads any more. That it has stopped by itself is as good.
            let _ = ending.shutdown().await;
        }));
        let proposer = Proposer::start(
            id,
            raft.clone(),
            state.clone(),
            shared.clock.clone(),
            leadership.clone(),
            shared.disk.clone(),
            shared.counts.clone(),
            traced,
        );
        let barrier = Barrier::start(
            id,
            shared.own,
            raft.clone(),
            shared.links.clone(),
            leadership.clone(),
            published.progress(),
            shared.timing.read_timeout,
            shared.counts.clone(),
        );
        let forwarder = Forwarder::start(id, shared.links.clone(), shared.timing.commit_timeout);
        let quorum_patience = shared.timing.election_max * UNANSWERED_LEASES;
        let ending = lessor.clone().run(leadership.clone(), proposer.clone());
        tokio::spawn(shared.stop.clone().run_until_cancelled_owned(ending));
        Ok(Group {
            id,
            raft,
            leadership,
            proposer,
            forwarder,
            lessor,
            barrier,
            published,
            appended,
            counts,
            quorum_patience,
            handed_over_in: AtomicU64::new(0),
        })
    }

    /// Has another node lead. From here on this one takes no writes and sends no heartbeats for the rest of its term, so that
    /// somebody is elected if the other does not take over.
    pub(crate) async fn hand_over(&self, to: NodeId) -> Result<(), openraft::errors::Fatal<Types>> {
        let note = || self.handed_over_in.fetch_max(self.leadership.term(), Ordering::Relaxed);
        note();
        let asked = self.raft.trigger().transfer_leader(to.get()).await;
        // It may have begun to lead in a later term meanwhile.
        note();
        asked
    }

    pub(crate) fn was_handed_over_in(&self, term: u64) -> bool {
        self.handed_over_in.load(Ordering::Relaxed) == term
    }

    /// Who leads, for people. This node itself only while a majority answers it: openraft goes on calling it the leader
    /// without one, for nobody else can be elected.
    pub(crate) fn led_by(&self, metrics: &RaftMetrics<Types>) -> Option<NodeId> {
        let patience = self.quorum_patience;
        let answered = || {
            let alone = metrics.membership_config.membership().voter_ids().count() == 1;
            let acked = || metrics.last_quorum_acked.is_some_and(|acked| acked.elapsed() < patience);
            alone || self.leadership.resting.within(patience) || acked()
        };
        metrics.current_leader.filter(|leader| *leader != metrics.id || answered()).map(NodeId::new)
    }

    /// Founds the group, if nobody has: `first` at once, the others only when it doesn't.
    pub(crate) async fn found(&self, members: &[MemberInfo], first: bool, patience: std::time::Duration) {
        if self.leadership.quarantine.reason().is_some() {
            return;
        }
        if !first {
            let known = self.raft.wait(Some(patience)).metrics(|m| m.current_leader.is_some(), "a leader").await;
            if known.is_ok() {
                return;
            }
        }
        let node = |member: &MemberInfo| {
            (member.id.get(), MemberNode { name: member.name.clone(), peer: member.peer.clone() })
        };
        let members: std::collections::BTreeMap<_, _> = members.iter().map(node).collect();
        if let Err(error) = self.raft.initialize(members).await {
            // It has been founded already, as after every restart.
            tracing::debug!(group = %self.id, %error, "not founded anew");
        }
    }
}

/// How openraft is to work. A replica that is out of service keeps still until it is shut down.
fn raft_config(group: GroupId, timing: &Timing, out: bool) -> openraft::Config {
    let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name: group.to_string(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        enable_tick: !out,
        enable_pre_vote: Some(true),
        // A leader that comes back has lost what it had applied and not flushed; it must not go on as if it had not.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        // Flushing and purging follow bytes, which openraft doesn't see: `housekeeping` does both.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // A replica is sent a snapshot only when the log that it needs has gone.
        replication_lag_threshold: u64::MAX,
        ..openraft::Config::default()
    }
}

/// Tells the observer and the log who leads, and the node when the group has died.
async fn observe(
    group: GroupId,
    leadership: Leadership,
    leads: Arc<AtomicBool>,
    counts: Arc<GroupCounts>,
    observer: Arc<dyn Observer>,
) {
    let mut metrics = leadership.metrics.clone();
    let (mut told, mut last) = (None, None);
    loop {
        let (leader, fatal) = {
            let now = metrics.borrow_watched();
            leads.store(now.state == ServerState::Leader, Ordering::Relaxed);
            (now.current_leader.map(NodeId::new), now.running_state.as_ref().err().map(ToString::to_string))
        };
        if let Some(fatal) = fatal {
            if leadership.problem().is_none() && !fatal.contains("stopped") {
                leadership.quarantine.failure.report(&format!("{group} cannot go on: {fatal}"));
            }
            return;
        }
        if told != Some(leader) {
            observer.leadership(group, leader);
            told = Some(leader);
            if leader.is_some() && leader != last {
                counts.leader_changes.add(u64::from(last.is_some()));
                last = leader;
            }
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
