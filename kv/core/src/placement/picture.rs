//! Nodes and groups by number, with what is counted per node and per zone.
//!
//! Must hold: the counts are those of the groups, also after a change. Left to others: deciding.

use std::collections::{BTreeMap, BTreeSet};

use super::{Goal, Replicas, Site, Standing};
use crate::{GroupId, NodeId};

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) zone: usize,
    pub(super) standing: Standing,
    pub(super) up: bool,
    pub(super) settled: bool,
}

impl Node {
    pub(super) fn member(&self) -> bool {
        self.standing == Standing::Member
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Role {
    #[default]
    Nothing,
    Learner,
    Voter,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Copy {
    pub(super) role: Role,
    pub(super) caught_up: bool,
    pub(super) lag_ok: bool,
    pub(super) broken: bool,
}

pub(super) struct Group {
    pub(super) id: GroupId,
    /// By node.
    pub(super) copies: Vec<Copy>,
    /// Voters by zone.
    pub(super) zones: Vec<usize>,
    pub(super) joint: bool,
    pub(super) leader: Option<usize>,
    /// The plan has a step for it.
    pub(super) taken: bool,
}

impl Group {
    pub(super) fn voters(&self) -> impl Iterator<Item = usize> {
        self.copies.iter().enumerate().filter(|(_, copy)| copy.role == Role::Voter).map(|(node, _)| node)
    }
}

/// Who is to become a voter and who is to be one no more.
#[derive(Clone, Default)]
pub(super) struct Change {
    pub(super) add: BTreeSet<usize>,
    pub(super) remove: BTreeSet<usize>,
}

impl Change {
    pub(super) fn swap(remove: usize, add: usize) -> Self {
        Change { add: [add].into(), remove: [remove].into() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

pub(super) struct Picture {
    /// By id. Those that only groups speak of are here too.
    pub(super) nodes: Vec<Node>,
    /// By id.
    pub(super) groups: Vec<Group>,
    /// By node: groups that it votes in. Where one voter is wanted, groups that it votes in and leads: a group with
    /// two is on its way from the one to the other, and it is the lead that says how far it has come.
    pub(super) votes: Vec<usize>,
    /// By node: groups that it leads.
    pub(super) leads: Vec<usize>,
    /// Voters wanted of each group; zero: no node may vote.
    pub(super) wanted: usize,
}

/// How many voters a group is to have; see the module's head for two, and for even numbers.
pub(super) fn wanted(replicas: usize, members: usize) -> usize {
    match replicas.max(1).min(members) {
        few @ 0..=2 => few,
        many => many - usize::from(many % 2 == 0),
    }
}

impl Picture {
    pub(super) fn new(sites: &[Site], groups: &[Replicas], goal: &Goal) -> Self {
        let nodes = nodes(sites, groups);
        let members = nodes.iter().filter(|node| node.member()).count();
        let zones = nodes.iter().map(|node| node.zone + 1).max().unwrap_or(0);
        let (votes, leads) = (vec![0; nodes.len()], vec![0; nodes.len()]);
        let wanted = wanted(goal.replicas, members);
        let mut picture = Picture { nodes, groups: vec![], votes, leads, wanted };
        let by_id: BTreeMap<GroupId, &Replicas> = groups.iter().map(|group| (group.group, group)).collect();
        for replicas in by_id.into_values() {
            picture.add(replicas, zones);
        }
        picture
    }

    fn add(&mut self, replicas: &Replicas, zones: usize) {
        let mut group = Group {
            id: replicas.group,
            copies: vec![Copy::default(); self.nodes.len()],
            zones: vec![0; zones],
            joint: replicas.joint,
            leader: None,
            taken: false,
        };
        for (at, node) in self.nodes.iter().enumerate() {
            let (votes, learns) = (replicas.voters.contains(&node.id), replicas.learners.get(&node.id));
            group.copies[at] = Copy {
                role: match (votes, learns) {
                    (true, _) => Role::Voter,
                    (false, Some(_)) => Role::Learner,
                    (false, None) => Role::Nothing,
                },
                caught_up: learns == Some(&true),
                lag_ok: replicas.lag_ok.contains(&node.id),
                broken: replicas.broken.contains(&node.id),
            };
            if votes {
                group.zones[node.zone] += 1;
                let alone = self.wanted != 1 || replicas.leader.is_none_or(|leader| leader == node.id);
                self.votes[at] += usize::from(alone);
            }
            if replicas.leader == Some(node.id) {
                group.leader = Some(at);
                self.leads[at] += 1;
            }
        }
        self.groups.push(group);
    }

    pub(super) fn change(&mut self, at: usize, change: &Change) {
        let group = &mut self.groups[at];
        for node in &change.remove {
            group.copies[*node] = Copy { role: Role::Learner, caught_up: true, ..group.copies[*node] };
            group.zones[self.nodes[*node].zone] -= 1;
            self.votes[*node] -= usize::from(self.wanted != 1);
        }
        for node in &change.add {
            group.copies[*node].role = Role::Voter;
            group.zones[self.nodes[*node].zone] += 1;
            self.votes[*node] += usize::from(self.wanted != 1);
        }
    }

    /// A vote is to go, in a later plan. This one counts it as gone, or it would move another.
    pub(super) fn promise(&mut self, from: usize, to: usize) {
        self.votes[from] -= 1;
        self.votes[to] += 1;
    }

    pub(super) fn lead(&mut self, at: usize, to: usize) {
        if let Some(from) = self.groups[at].leader.replace(to) {
            self.leads[from] -= 1;
            self.votes[from] -= usize::from(self.wanted == 1);
        }
        self.leads[to] += 1;
        self.votes[to] += usize::from(self.wanted == 1);
    }

    /// Its vote counts: up, and not broken.
    pub(super) fn live(&self, at: usize, node: usize) -> bool {
        self.nodes[node].up && !self.groups[at].copies[node].broken
    }

    /// It may go on voting, whether it is up or not.
    pub(super) fn sound(&self, at: usize, node: usize) -> bool {
        self.nodes[node].member() && !self.groups[at].copies[node].broken
    }

    /// It may become a voter.
    pub(super) fn ready(&self, at: usize, node: usize) -> bool {
        let copy = &self.groups[at].copies[node];
        copy.role == Role::Learner && copy.caught_up && self.live(at, node) && self.nodes[node].member()
    }

    /// It may become the leader.
    pub(super) fn heir(&self, at: usize, node: usize) -> bool {
        let (group, up) = (&self.groups[at], self.live(at, node));
        let copy = &group.copies[node];
        copy.role == Role::Voter && copy.lag_ok && up && self.nodes[node].member() && group.leader != Some(node)
    }

    /// Who would best lead next.
    pub(super) fn best_heir(&self, at: usize) -> Option<usize> {
        let heirs = (0..self.nodes.len()).filter(|node| self.heir(at, *node));
        heirs.min_by_key(|node| (!self.nodes[*node].settled, self.leads[*node]))
    }

    /// It has a leader that can carry out a change, and no change under way.
    pub(super) fn steerable(&self, at: usize) -> bool {
        let group = &self.groups[at];
        let led = group.leader.is_some_and(|node| self.nodes[node].up && group.copies[node].role == Role::Voter);
        led && !group.joint && self.majority_lives(at)
    }

    pub(super) fn majority_lives(&self, at: usize) -> bool {
        let live = self.groups[at].voters().filter(|node| self.live(at, *node)).count();
        live * 2 > self.groups[at].voters().count()
    }

    /// A copy of it is on its way to a node that is up.
    pub(super) fn copying(&self, at: usize) -> bool {
        (0..self.nodes.len()).any(|node| self.catching_up(at, node))
    }

    pub(super) fn catching_up(&self, at: usize, node: usize) -> bool {
        let copy = &self.groups[at].copies[node];
        copy.role == Role::Learner && !copy.caught_up && self.live(at, node)
    }
}

fn nodes(sites: &[Site], groups: &[Replicas]) -> Vec<Node> {
    let by_id: BTreeMap<NodeId, &Site> = sites.iter().map(|site| (site.node, site)).collect();
    let mut ids: BTreeSet<NodeId> = by_id.keys().copied().collect();
    for group in groups {
        ids.extend(group.voters.iter().chain(group.learners.keys()).chain(&group.leader));
    }
    let mut zones = BTreeMap::new();
    let nodes = ids.into_iter().map(|id| {
        let site = by_id.get(&id);
        let named = site.map(|site| site.zone.as_str()).filter(|zone| !zone.is_empty());
        // A node without a zone is a zone of its own.
        let key = (named, if named.is_some() { None } else { Some(id) });
        let free = zones.len();
        Node {
            id,
            zone: *zones.entry(key).or_insert(free),
            standing: site.map_or(Standing::Leaving, |site| site.standing),
            up: site.is_some_and(|site| site.up),
            settled: site.is_some_and(|site| site.settled),
        }
    });
    nodes.collect()
}
