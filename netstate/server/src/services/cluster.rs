//! The cluster itself: how it is, and who belongs to it.

use std::{collections::BTreeMap, time::Duration};

use kv_core::{GroupId, NodeId};
use kv_node::{MembershipError, NodeRecord, Replicas, Step};
use netstate_proto::v1::{self as pb, change_node_request::Change, cluster_server::Cluster};
use tonic::{Request, Response, Status};

use super::{
    ASK_PATIENCE, Services, alarms, moves,
    status::{GroupReport, PlacementReport, Report},
};
use crate::forward::{self, Call};

/// How long a node may take to fetch what it needs.
const REPAIR_PATIENCE: Duration = Duration::from_secs(600);

/// What all nodes said when they were asked.
pub(super) struct Picture {
    pub(super) nodes: BTreeMap<NodeId, NodeRecord>,
    pub(super) reports: BTreeMap<NodeId, Report>,
    /// Of the node that answers.
    pub(super) groups: Vec<GroupReport>,
    pub(super) placement: Option<PlacementReport>,
    pub(super) replicas: usize,
    /// What all reports together say of each group.
    known: BTreeMap<u16, Known>,
}

/// What several reports say of one group.
#[derive(Default)]
struct Known {
    /// With the term that it is said of.
    leader: Option<(u64, NodeId)>,
    committed: u64,
}

impl Picture {
    pub(super) fn new(
        nodes: BTreeMap<NodeId, NodeRecord>,
        reports: BTreeMap<NodeId, Report>,
        groups: Vec<GroupReport>,
        placement: Option<PlacementReport>,
        replicas: usize,
    ) -> Self {
        let mut known: BTreeMap<u16, Known> = BTreeMap::new();
        for (node, report) in &reports {
            for group in &report.groups {
                let all = known.entry(group.group).or_default();
                all.committed = all.committed.max(group.committed);
                let counts = |leader: &NodeId| leader == node || !nodes.contains_key(leader);
                all.leader = all.leader.max(group.leader.filter(counts).map(|leader| (group.term, leader)));
            }
        }
        Picture { nodes, reports, groups, placement, replicas, known }
    }

    pub(super) fn name(&self, node: NodeId) -> String {
        self.nodes.get(&node).map_or_else(|| node.to_string(), |record| record.name.clone())
    }

    pub(super) fn placed(&self, group: u16) -> Option<&Replicas> {
        self.placement.as_ref()?.groups.iter().find(|placed| placed.group.get() == group)
    }

    /// Who leads a group: who says so of itself, or, of nodes that were not asked, of whom others say so. What is said of
    /// one that did not answer doesn't count: followers name their last leader until there is another.
    pub(super) fn leader(&self, group: u16) -> Option<NodeId> {
        self.known.get(&group)?.leader.map(|(_, leader)| leader)
    }

    /// Log entries that a node's slowest replica has still to apply.
    pub(super) fn lag(&self, report: &Report) -> u64 {
        let behind = |group: &GroupReport| {
            let committed = self.known.get(&group.group).map_or(0, |known| known.committed);
            committed.saturating_sub(group.applied)
        };
        report.groups.iter().map(behind).max().unwrap_or_default()
    }

    fn node(&self, id: NodeId, record: &NodeRecord) -> pb::NodeStatus {
        let report = self.reports.get(&id);
        let placed = || self.placement.iter().flat_map(|placement| &placement.groups);
        let count = |counts: &dyn Fn(&Replicas) -> bool| placed().filter(|group| counts(group)).count() as u32;
        let known = report.cloned().unwrap_or_default();
        pb::NodeStatus {
            name: record.name.clone(),
            id: id.get(),
            peer_address: record.peer.clone(),
            reachable: report.is_some(),
            resident_bytes: known.resident_bytes,
            disk_bytes: known.disk_bytes,
            networks: known.networks,
            endpoints: known.endpoints,
            watching_hosts: known.watching_hosts,
            version: report.map_or_else(|| record.version.clone(), |report| report.version.clone()),
            zone: record.zone.clone(),
            standing: alarms::standing(record).into(),
            leads: self.groups.iter().filter(|group| self.leader(group.group) == Some(id)).count() as u32,
            votes: count(&|group| group.voters.contains(&id)),
            copies: count(&|group| group.learners.contains_key(&id)),
            lag: report.map(|report| self.lag(report)).unwrap_or_default(),
            disk_free_bytes: known.disk_free_bytes,
            instance: record.instance.clone(),
        }
    }

    fn group(&self, group: &GroupReport) -> pb::GroupStatus {
        let problem = |(node, report): (&NodeId, &Report)| {
            let found = report.groups.iter().find(|other| other.group == group.group)?;
            Some(format!("{}: {}", self.name(*node), found.problem.as_ref()?))
        };
        let names = |nodes: Option<Vec<NodeId>>| nodes.into_iter().flatten().map(|node| self.name(node)).collect();
        let placed = self.placed(group.group);
        pb::GroupStatus {
            group: group.group.into(),
            leader: self.leader(group.group).map(|leader| self.name(leader)).unwrap_or_default(),
            term: group.term,
            committed: group.committed,
            applied: group.applied,
            keyspaces: group.keyspaces,
            problem: self.reports.iter().filter_map(problem).collect::<Vec<_>>().join("; "),
            voters: names(placed.map(|placed| placed.voters.iter().copied().collect())),
            learners: names(placed.map(|placed| placed.learners.keys().copied().collect())),
        }
    }

    /// What placement is doing, for people.
    fn moves(&self) -> Vec<String> {
        let name = |node: &NodeId| self.name(*node);
        let names = |nodes: &std::collections::BTreeSet<NodeId>| nodes.iter().map(name).collect::<Vec<_>>().join(", ");
        let told = |step: &Step| match step {
            Step::AddLearner { group, node } => format!("{group}: {} gets a copy", name(node)),
            Step::RemoveLearner { group, node } => format!("{group}: {} gives up its copy", name(node)),
            Step::TransferLeader { group, from, to } => {
                format!("{group}: {} hands the lead to {}", name(from), name(to))
            }
            Step::ChangeVoters { group, add, remove } => match (add.is_empty(), remove.is_empty()) {
                (false, false) => format!("{group}: {} vote in place of {}", names(add), names(remove)),
                (false, true) => format!("{group}: {} begin to vote", names(add)),
                _ => format!("{group}: {} vote no more", names(remove)),
            },
        };
        let placement = || self.placement.iter();
        let copying = placement().flat_map(|placement| &placement.groups).flat_map(|group| {
            let behind = group.learners.iter().filter(|(_, caught_up)| !**caught_up);
            behind.map(|(node, _)| format!("{}: {} is catching up", group.group, name(node)))
        });
        copying.chain(placement().flat_map(|placement| &placement.steps).map(told)).collect()
    }
}

impl Services {
    pub(super) async fn picture(&self) -> Picture {
        let answers = self.ask_all_for_bytes(&Call::Status, ASK_PATIENCE).await;
        let parsed = answers.into_iter().filter_map(|(node, answer)| {
            let report: Report = serde_json::from_slice(&answer.ok()?).ok()?;
            Some((node, report))
        });
        let mut reports: BTreeMap<_, _> = parsed.collect();
        let placement = reports.values_mut().find_map(|report| report.placement.take());
        let catalog = self.node.catalog();
        let nodes = catalog.iter().flat_map(|catalog| catalog.nodes.clone());
        let nodes = nodes.filter(|(_, record)| record.standing != kv_node::Standing::Removed).collect();
        let replicas = catalog.map_or(0, |catalog| catalog.replicas());
        Picture::new(nodes, reports, self.own.report().groups, placement, replicas)
    }
}

fn status(error: &MembershipError) -> Status {
    let text = error.to_string();
    match error {
        MembershipError::Unknown { .. } => Status::not_found(text),
        MembershipError::Malformed { .. } | MembershipError::Replicas { .. } => Status::invalid_argument(text),
        MembershipError::NotFounded | MembershipError::NotWritten { .. } => Status::unavailable(text),
        _ => Status::failed_precondition(text),
    }
}

#[tonic::async_trait]
impl Cluster for Services {
    async fn cluster_status(
        &self,
        _request: Request<pb::ClusterStatusRequest>,
    ) -> Result<Response<pb::ClusterStatusResponse>, Status> {
        let picture = self.picture().await;
        Ok(Response::new(pb::ClusterStatusResponse {
            cluster_id: self.node.cluster().to_string(),
            answered_by: self.node.name().into(),
            nodes: picture.nodes.iter().map(|(id, record)| picture.node(*id, record)).collect(),
            groups: picture.groups.iter().map(|group| picture.group(group)).collect(),
            alarms: alarms::of(&picture),
            moves: picture.moves(),
            replicas: picture.replicas as u32,
        }))
    }

    async fn change_node(
        &self,
        request: Request<pb::ChangeNodeRequest>,
    ) -> Result<Response<pb::ChangeNodeResponse>, Status> {
        let request = request.into_inner();
        let name = request.node.as_str();
        let changed = match request.change() {
            Change::Remove => self.node.remove_node(name).await,
            Change::Replace => self.node.replace_node(name).await,
            Change::Drain => self.node.drain_node(name, true).await,
            Change::EndDrain => self.node.drain_node(name, false).await,
            Change::Unspecified => return Err(Status::invalid_argument("no change is given")),
        };
        changed.map_err(|error| status(&error))?;
        Ok(Response::new(pb::ChangeNodeResponse {}))
    }

    async fn repair(&self, request: Request<pb::RepairRequest>) -> Result<Response<pb::RepairResponse>, Status> {
        let request = request.into_inner();
        let members = self.node.members();
        let named = members.iter().find(|member| member.name == request.node);
        let node = named
            .map(|member| member.id)
            .ok_or_else(|| status(&MembershipError::Unknown { name: request.node.clone() }))?;
        let group = match request.group.map(u16::try_from) {
            None => None,
            Some(Ok(group)) if group < self.node.groups() => Some(GroupId::new(group)),
            Some(_) => {
                return Err(Status::not_found("there is no such group; `netstate cluster status --groups` lists them"));
            }
        };
        let asked = self.node.call(node, forward::encode(&Call::Repair(group)), REPAIR_PATIENCE).await;
        let answer = asked.map_err(|error| Status::unavailable(error.to_string()))?;
        let repaired: Result<Vec<GroupId>, String> = forward::decode(&answer).map_err(Status::internal)?;
        let groups = repaired.map_err(Status::failed_precondition)?;
        Ok(Response::new(pb::RepairResponse { groups: groups.into_iter().map(|group| group.get().into()).collect() }))
    }

    async fn set_replicas(
        &self,
        request: Request<pb::SetReplicasRequest>,
    ) -> Result<Response<pb::SetReplicasResponse>, Status> {
        let replicas = request.into_inner().replicas as usize;
        self.node.want_replicas(replicas).await.map_err(|error| status(&error))?;
        Ok(Response::new(pb::SetReplicasResponse {}))
    }

    async fn move_keyspace(
        &self,
        request: Request<pb::MoveKeyspaceRequest>,
    ) -> Result<Response<pb::MoveKeyspaceResponse>, Status> {
        let (keyspace, to) = moves::wanted(&request.into_inner())?;
        let id = self.node.move_keyspace(&keyspace, to).await.map_err(|error| moves::status(&error))?;
        Ok(Response::new(pb::MoveKeyspaceResponse { id: id.get() }))
    }

    async fn stop_move(&self, request: Request<pb::StopMoveRequest>) -> Result<Response<pb::StopMoveResponse>, Status> {
        let keyspace = moves::keyspace(&request.into_inner().keyspace)?;
        self.node.stop_move(&keyspace).await.map_err(|error| moves::status(&error))?;
        Ok(Response::new(pb::StopMoveResponse {}))
    }

    async fn list_moves(
        &self,
        _request: Request<pb::ListMovesRequest>,
    ) -> Result<Response<pb::ListMovesResponse>, Status> {
        let moves = self.node.moves().map_err(|error| moves::status(&error))?;
        Ok(Response::new(pb::ListMovesResponse { moves: moves.iter().map(moves::shown).collect() }))
    }
}
