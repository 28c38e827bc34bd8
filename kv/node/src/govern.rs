//! Carries out placement: whoever leads group 0 looks at all groups, plans, and has their leaders take the steps.
//!
//! ```text
//! survey every node ──► picture ──► kv_core::placement::plan ──► steps ──► leaders of the groups
//!        ▲                                                                       │
//!        └─────────────────────── after a pause, or at once while moving ◄──────┘
//! ```
//!
//! Must hold: every step can be taken twice and given up anywhere; nothing is remembered between two rounds but how long
//! nodes have been up, so another node can go on at any moment.
//!
//! Left to others: what is a good step (the planner), and whether a step may be taken now (openraft, at the group's leader).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use kv_core::{
    GroupId, NodeId,
    placement::{self, Goal, Replicas, Site, Step},
};
use kv_proto::peer::v1::Kind;
use openraft::{ChangeMembers, async_runtime::WatchReceiver};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    Node,
    catalog::{Catalog, GROUP, Standing},
    group::Group,
    link::Links,
    node::Inner,
    raft::{MemberNode, decode, encode},
    rest,
};

/// A node is given leaders back only when it has been reachable for so long.
const SETTLED: Duration = Duration::from_secs(5);

/// How far behind the log's end a voter may be to be made leader, and a learner to be made a voter.
const TRANSFER_LAG_ENTRIES: u64 = 64;
const PROMOTE_LAG_ENTRIES: u64 = 512;

/// Groups whose members change at a time, in the whole cluster.
const MOVES_AT_ONCE: usize = 4;

/// Between two rounds while something moves.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// How long a node may take to say what it has, and a group to change its members.
const SURVEY_PATIENCE: Duration = Duration::from_secs(2);
const STEP_PATIENCE: Duration = Duration::from_secs(10);

/// What a node says of one group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Surveyed {
    pub(crate) group: GroupId,
    /// Its replica here is out of service.
    pub(crate) broken: bool,
    /// Said by the leader only.
    pub(crate) led: Option<Led>,
}

/// What a leader knows of its group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Led {
    pub(crate) term: u64,
    /// During a change: those that vote after it.
    pub(crate) voters: BTreeSet<NodeId>,
    pub(crate) learners: BTreeSet<NodeId>,
    pub(crate) joint: bool,
    pub(crate) last: u64,
    /// How far each other replica's log is known to be the same.
    pub(crate) matched: BTreeMap<NodeId, Option<u64>>,
}

/// What a node says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Survey {
    /// Its disk takes no more writes.
    pub(crate) full: bool,
    pub(crate) groups: Vec<Surveyed>,
}

/// How the cluster is placed, as whoever leads group 0 saw it last.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Each group's voters, learners, and leader.
    pub groups: Vec<Replicas>,
    /// What is being done.
    pub steps: Vec<Step>,
}

/// Shared with those who ask how it is going.
#[derive(Default)]
pub(crate) struct Governing {
    seen: Mutex<Option<Arc<Placement>>>,
    hurry: tokio::sync::Notify,
}

impl Group {
    fn survey(&self) -> Surveyed {
        let broken = self.leadership.problem().is_some();
        let led = self.leadership.leads().map(|term| {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            let matched = metrics.replication.iter().flatten();
            let voters: BTreeSet<_> =
                membership.get_joint_config().last().into_iter().flatten().copied().map(NodeId::new).collect();
            let all = membership.nodes().map(|(node, _)| NodeId::new(*node));
            Led {
                term,
                learners: all.filter(|node| !voters.contains(node)).collect(),
                voters,
                joint: membership.get_joint_config().len() > 1,
                last: metrics.last_log_index.unwrap_or_default(),
                matched: matched.map(|(node, log)| (NodeId::new(*node), log.map(|log| log.index))).collect(),
            }
        });
        Surveyed { group: self.id, broken, led }
    }

    /// Who could lead the group at once in place of this node, which leads it.
    pub(crate) fn heir(&self, links: &Links) -> Option<NodeId> {
        let led = self.survey().led?;
        let close = |node: &&NodeId| {
            let matched = led.matched.get(node).copied().flatten();
            links.up(**node) && matched.is_some_and(|matched| led.last.saturating_sub(matched) <= TRANSFER_LAG_ENTRIES)
        };
        // The one that has most of the log.
        led.voters.iter().filter(close).max_by_key(|node| led.matched.get(node).copied().flatten()).copied()
    }

    /// Takes a step, as the group's leader. Returns when the group has agreed on it.
    async fn step(&self, step: &Step, catalog: Option<&Catalog>) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let ids = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.get()).collect::<BTreeSet<_>>();
        rest::rouse(&self.raft, &self.leadership).await;
        match step {
            Step::AddLearner { node, .. } => {
                let record =
                    catalog.and_then(|catalog| catalog.nodes.get(node)).ok_or("the node is not known here yet")?;
                let member = MemberNode { name: record.name.clone(), peer: record.peer.clone() };
                self.raft.add_learner(node.get(), member, false).await.map_err(|error| text(&error))?;
            }
            Step::ChangeVoters { add, remove, .. } => {
                let changes = [ChangeMembers::AddVoterIds(ids(add)), ChangeMembers::RemoveVoters(ids(remove))];
                // They stay as learners.
                let changed = self.raft.change_membership(ChangeMembers::Batch(changes.into()), true).await;
                changed.map_err(|error| text(&error))?;
            }
            Step::RemoveLearner { node, .. } => {
                let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.get()]));
                self.raft.change_membership(change, true).await.map_err(|error| text(&error))?;
            }
            Step::TransferLeader { to, .. } => {
                self.hand_over(*to).await.map_err(|error| text(&error))?;
            }
        }
        Ok(())
    }

    /// Ends a change of members whose leader died halfway.
    async fn settle(&self) {
        let Some(led) = self.survey().led.filter(|led| led.joint) else { return };
        let target = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().get_joint_config().last().cloned().unwrap_or_default()
        };
        tracing::info!(group = %self.id, voters = ?led.voters, ?target, "finishing a change of members");
        rest::rouse(&self.raft, &self.leadership).await;
        if let Err(error) = self.raft.change_membership(target, true).await {
            tracing::debug!(group = %self.id, %error, "not finished yet");
        }
    }
}

impl Inner {
    /// What this node has.
    pub(crate) fn survey(&self) -> Survey {
        let groups = self.groups.iter().map(Group::survey).collect();
        Survey { full: self.disk.check().is_err(), groups }
    }

    /// Takes a step that the node that governs has planned.
    pub(crate) async fn take_step(&self, group: &Group, payload: &[u8]) -> Result<(), String> {
        let step: Step = decode(payload).map_err(|error| format!("malformed step: {error}"))?;
        // A node whose disk was full from the start has no catalog, and has leaders to hand over.
        group.step(&step, self.catalog.get().as_deref()).await
    }
}

/// Acts only while this node leads group 0.
pub(crate) async fn run(node: Node) {
    let inner = node.0.clone();
    let mut up_since: HashMap<NodeId, Instant> = HashMap::new();
    let mut joint: BTreeSet<GroupId> = BTreeSet::new();
    let mut pause = BUSY_PAUSE.min(inner.timing.housekeeping);
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = inner.governing.hurry.notified() => {}
        }
        settle(&inner, &mut joint).await;
        note(&inner, &mut up_since);
        pause = inner.timing.housekeeping;
        if inner.group(GROUP).is_none_or(|group| group.leadership.leads().is_none()) {
            *inner.governing.seen.lock() = None;
            continue;
        }
        let Some(catalog) = inner.catalog.get() else {
            match roomier(&inner).await {
                // Nothing can be founded where nothing can be written.
                Some((group, heir)) => _ = group.hand_over(heir).await,
                None => {
                    if let Err(error) = found(&node).await {
                        tracing::debug!(%error, "the catalog is not there yet");
                    }
                }
            }
            // Until it is, a node that lost its disk could come back unnoticed.
            pause = BUSY_PAUSE.min(inner.timing.housekeeping);
            continue;
        };
        if round(&node, &catalog, &up_since).await {
            pause = BUSY_PAUSE.min(inner.timing.housekeeping);
        }
    }
}

/// Finishes changes of members that have been halfway since the round before.
async fn settle(inner: &Inner, joint: &mut BTreeSet<GroupId>) {
    let now = inner.groups.iter().filter(|group| group.survey().led.is_some_and(|led| led.joint));
    let now: BTreeSet<_> = now.map(|group| group.id).collect();
    for group in inner.groups.iter().filter(|group| now.contains(&group.id) && joint.contains(&group.id)) {
        let _ = tokio::time::timeout(STEP_PATIENCE, group.settle()).await;
    }
    *joint = now;
}

fn note(inner: &Inner, up_since: &mut HashMap<NodeId, Instant>) {
    for member in inner.catalog.members().iter() {
        if member.id == inner.id || inner.links.up(member.id) {
            up_since.entry(member.id).or_insert_with(Instant::now);
        } else {
            up_since.remove(&member.id);
        }
    }
}

/// Group 0, and who could lead it in place of this node, if this one's disk takes no more writes and the other's does.
async fn roomier(inner: &Inner) -> Option<(&Group, NodeId)> {
    inner.disk.check().err()?;
    let group = inner.group(GROUP)?;
    let heir = group.heir(&inner.links)?;
    let survey = survey(inner, heir).await?;
    (!survey.full).then_some((group, heir))
}

/// Writes the catalog of a cluster that has none yet.
async fn found(node: &Node) -> Result<(), crate::MembershipError> {
    let founders = {
        let group = node.0.group(GROUP).expect("a cluster has a group");
        let metrics = group.raft.metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        let info = |(id, member): (&u64, &MemberNode)| crate::MemberInfo {
            id: NodeId::new(*id),
            name: member.name.clone(),
            peer: member.peer.clone(),
        };
        nodes.map(info).collect::<Vec<_>>()
    };
    node.found_catalog(&founders).await
}

/// Surveys, plans and acts once. Whether anything is moving.
async fn round(node: &Node, catalog: &Catalog, up_since: &HashMap<NodeId, Instant>) -> bool {
    let inner = &node.0;
    let members = inner.catalog.members();
    let surveys = members.iter().map(|member| async move { (member.id, survey(inner, member.id).await) });
    let surveys: BTreeMap<_, _> = futures::future::join_all(surveys).await.into_iter().collect();
    let up = |node: &NodeId| surveys.get(node).is_some_and(Option::is_some);
    let full = |node: &NodeId| surveys.get(node).is_some_and(|survey| survey.as_ref().is_some_and(|s| s.full));
    let site = |(id, record): (&NodeId, &crate::NodeRecord)| {
        let since = up_since.get(id).is_some_and(|since| since.elapsed() > SETTLED);
        Some(Site {
            node: *id,
            zone: record.zone.clone(),
            standing: record.placed()?,
            up: up(id),
            settled: since && up(id) && !full(id),
        })
    };
    let sites: Vec<_> = catalog.nodes.iter().filter_map(site).collect();
    let groups = picture(inner, &surveys);
    let goal = Goal { replicas: catalog.replicas(), moves_at_once: MOVES_AT_ONCE };
    let mut steps = placement::plan(&sites, &groups, &goal);
    steps.extend(relieve(&groups, &sites, &full));
    *inner.governing.seen.lock() = Some(Arc::new(Placement { groups: groups.clone(), steps: steps.clone() }));
    if steps.is_empty() {
        return forget(node, catalog, &groups).await;
    }
    let leaders: HashMap<_, _> = groups.iter().filter_map(|group| Some((group.group, group.leader?))).collect();
    let taking = steps.iter().filter_map(|step| {
        let leader = *leaders.get(&step.group())?;
        Some(take(inner, leader, step))
    });
    futures::future::join_all(taking).await;
    true
}

/// Groups led where nothing can be written any more go to somebody who has room.
fn relieve(groups: &[Replicas], sites: &[Site], full: &dyn Fn(&NodeId) -> bool) -> Vec<Step> {
    let led_badly = groups.iter().filter_map(|group| Some((group, group.leader.filter(|leader| full(leader))?)));
    led_badly
        .filter_map(|(group, from)| {
            let fits =
                |node: &&NodeId| group.lag_ok.contains(node) && sites.iter().any(|s| s.node == **node && s.settled);
            let to = *group.voters.iter().find(fits)?;
            Some(Step::TransferLeader { group: group.group, from, to })
        })
        .collect()
}

async fn survey(inner: &Inner, of: NodeId) -> Option<Survey> {
    if of == inner.id {
        return Some(inner.survey());
    }
    let asked = inner.links.request(of, Kind::Survey, GROUP, bytes::Bytes::new(), SURVEY_PATIENCE).await;
    decode(&asked.ok()?).ok()
}

/// Every group as its leader describes it.
fn picture(inner: &Inner, surveys: &BTreeMap<NodeId, Option<Survey>>) -> Vec<Replicas> {
    let said = |group: GroupId| {
        let of_group = move |(node, survey): (&NodeId, &Option<Survey>)| {
            let found = survey.as_ref()?.groups.iter().find(|said| said.group == group)?;
            Some((*node, found.clone()))
        };
        surveys.iter().filter_map(of_group)
    };
    let replicas = |group: GroupId| {
        let broken = said(group).filter(|(_, said)| said.broken).map(|(node, _)| node).collect();
        let led = said(group).filter_map(|(node, said)| Some((node, said.led?))).max_by_key(|(_, led)| led.term);
        let Some((leader, led)) = led else {
            let (voters, learners, lag_ok) = Default::default();
            return Replicas { group, voters, learners, joint: false, leader: None, lag_ok, broken };
        };
        let within = |node: &NodeId, entries: u64| {
            let matched = led.matched.get(node).copied().flatten();
            *node == leader || matched.is_some_and(|matched| led.last.saturating_sub(matched) <= entries)
        };
        Replicas {
            group,
            learners: led.learners.iter().map(|node| (*node, within(node, PROMOTE_LAG_ENTRIES))).collect(),
            lag_ok: led.voters.iter().copied().filter(|node| within(node, TRANSFER_LAG_ENTRIES)).collect(),
            voters: led.voters.clone(),
            joint: led.joint,
            leader: Some(leader),
            broken,
        }
    };
    (0..inner.groups.len()).map(|group| replicas(GroupId::new(group as u16))).collect()
}

async fn take(inner: &Arc<Inner>, leader: NodeId, step: &Step) {
    tracing::info!(?step, %leader, "placement");
    let (group, payload) = (step.group(), encode(step));
    let taken = if leader == inner.id {
        let Some(group) = inner.group(group) else { return };
        tokio::time::timeout(STEP_PATIENCE, inner.take_step(group, &payload)).await.unwrap_or(Err("no answer".into()))
    } else {
        let asked = inner.links.request(leader, Kind::Step, group, payload, STEP_PATIENCE).await;
        asked.map(|_| ()).map_err(|error| error.to_string())
    };
    if let Err(reason) = taken {
        // It is planned again if it is still wanted.
        inner.counts.steps_failed.add(1);
        tracing::warn!(?step, %leader, reason, "a step of placement was not taken");
    } else {
        inner.counts.steps_taken.add(1);
    }
}

/// Takes note of nodes that were leaving and have nothing left.
async fn forget(node: &Node, catalog: &Catalog, groups: &[Replicas]) -> bool {
    let has = |group: &Replicas, id: &NodeId| group.voters.contains(id) || group.learners.contains_key(id);
    let empty = |id: &NodeId| groups.iter().all(|group| group.leader.is_some() && !has(group, id));
    let leaving = catalog.nodes.iter().filter(|(_, record)| record.standing == Standing::Leaving);
    let mut moved = false;
    for (id, record) in leaving.filter(|(id, _)| empty(id)) {
        tracing::info!(node = record.name, "removed");
        match node.note_removed(*id).await {
            Ok(()) => moved = true,
            Err(error) => tracing::warn!(node = record.name, %error, "not noted as removed"),
        }
    }
    moved
}

impl Node {
    /// How the cluster is placed and what is being moved, if this node leads group 0.
    pub fn placement(&self) -> Option<Arc<Placement>> {
        self.0.governing.seen.lock().clone()
    }

    /// Has placement look at once for what there is to do, if this node governs.
    pub(crate) fn hurry_placement(&self) {
        self.0.governing.hurry.notify_one();
    }
}
