//! What is where, whether that is even, and what stands in the way.
//!
//! Must hold: what is called even here is where [`super::plan`] comes to rest once nothing stands in the way.
//! Left to others: saying it in words.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Goal, Replicas, Site, Standing,
    picture::{Picture, Role},
    shift::shift,
};
use crate::{GroupId, NodeId};

/// What a node carries, in groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// It votes in them.
    pub voters: usize,
    /// It leads them; each is one that it votes in too.
    pub leaders: usize,
    /// It has a copy of them that doesn't vote.
    pub learners: usize,
}

/// From the node with least to the node with most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// What the node with least has.
    pub least: usize,
    /// What the node with most has.
    pub most: usize,
}

/// Something that keeps the cluster from being as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hindrance {
    /// Fewer nodes may vote than voters are wanted.
    FewNodes {
        /// How many may.
        members: usize,
        /// How many voters each group was to have.
        replicas: usize,
    },
    /// A node is down: nothing is moved to it or away from it.
    NodeDown(NodeId),
    /// A node has not been up for long enough to be given leaders.
    NodeUnsettled(NodeId),
    /// A node that is leaving still has copies.
    NotEmpty {
        /// The node.
        node: NodeId,
        /// Groups that it has a copy of.
        copies: usize,
    },
    /// More than half of a group's voters are down or broken. Nothing can be done to it.
    NoMajority(GroupId),
    /// A group has no leader that is known and up. Nothing can be done to it.
    NoLeader(GroupId),
    /// A change of a group's membership is not finished.
    Changing(GroupId),
    /// A copy is damaged.
    Broken {
        /// Of which group.
        group: GroupId,
        /// On which node.
        node: NodeId,
    },
    /// A group has not as many voters as it should.
    Voters {
        /// Which group.
        group: GroupId,
        /// Voters that may stay voters.
        voters: usize,
        /// How many there should be.
        wanted: usize,
    },
    /// A group's leader should hand over, and no voter is close enough behind it.
    NoHeir(GroupId),
    /// A copy has not caught up.
    Copying {
        /// Of which group.
        group: GroupId,
        /// On which node.
        node: NodeId,
    },
    /// Zones differ in size, so that some nodes have to have more than others.
    Zones,
}

/// What is where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// What each node carries; nodes that no site stands for too, if they still have copies.
    pub nodes: BTreeMap<NodeId, Counts>,
    /// Voters of the nodes that may vote.
    pub voters: Extent,
    /// Leaders of the nodes that may lead now.
    pub leaders: Extent,
    /// Voters are as even as zones allow.
    pub voters_even: bool,
    /// Leaders are as even as voters allow.
    pub leaders_even: bool,
    /// The groups with more voters in a zone than need be.
    pub crowded: Vec<GroupId>,
    /// What stands in the way.
    pub hindrances: BTreeSet<Hindrance>,
}

impl Survey {
    /// All is spread as far as it can be.
    pub fn even(&self) -> bool {
        self.voters_even && self.leaders_even && self.crowded.is_empty()
    }

    /// A node has no copy of anything, and may be forgotten.
    pub fn empty(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_none_or(|counts| counts.voters + counts.learners == 0)
    }
}

/// Looks at what is where.
pub fn survey(sites: &[Site], groups: &[Replicas], goal: &Goal) -> Survey {
    let picture = Picture::new(sites, groups, goal);
    let nodes: Vec<Counts> = (0..picture.nodes.len()).map(|node| picture.counts(node)).collect();
    let may_vote: Vec<bool> = picture.nodes.iter().map(super::picture::Node::member).collect();
    let may_lead: Vec<bool> = picture.nodes.iter().map(|node| node.member() && node.up && node.settled).collect();
    let votes: Vec<usize> = nodes.iter().map(|counts| counts.voters).collect();
    let (voters, leaders) = (extent(&votes, &may_vote), extent(&picture.leads, &may_lead));
    let (votes_move, leads_move) = (picture.votes_move(), picture.leads_move());
    let count = picture.nodes.len();
    let voters_even = shift(&picture.votes, &may_vote, |from, to| votes_move[from * count + to]).is_none();
    let leaders_even = shift(&picture.leads, &may_lead, |from, to| leads_move[from * count + to]).is_none();
    let crowded: Vec<usize> = (0..picture.groups.len()).filter(|at| picture.crowded(*at)).collect();
    let mut hindrances = BTreeSet::new();
    picture.hindered_nodes(goal, &nodes, &mut hindrances);
    for at in 0..picture.groups.len() {
        picture.hindered_group(at, &mut hindrances);
    }
    if voters_even && voters.most > voters.least + 1 {
        hindrances.insert(Hindrance::Zones);
    }
    Survey {
        nodes: picture.nodes.iter().map(|node| node.id).zip(nodes).collect(),
        voters,
        leaders,
        voters_even,
        leaders_even,
        crowded: crowded.into_iter().map(|at| picture.groups[at].id).collect(),
        hindrances,
    }
}

fn extent(loads: &[usize], among: &[bool]) -> Extent {
    let loads = || loads.iter().zip(among).filter(|(_, among)| **among).map(|(load, _)| *load);
    Extent { least: loads().min().unwrap_or(0), most: loads().max().unwrap_or(0) }
}

impl Picture {
    fn counts(&self, node: usize) -> Counts {
        let count = |role| self.groups.iter().filter(|group| group.copies[node].role == role).count();
        Counts { voters: count(Role::Voter), leaders: self.leads[node], learners: count(Role::Learner) }
    }

    /// From which node to which a vote could go if nothing hindered it.
    fn votes_move(&self) -> Vec<bool> {
        let count = self.nodes.len();
        let mut moves = vec![false; count * count];
        for group in &self.groups {
            for from in group.voters() {
                let free = |to: &usize| group.copies[*to].role != Role::Voter;
                for to in (0..count).filter(free) {
                    let (zone, other) = (self.nodes[from].zone, self.nodes[to].zone);
                    moves[from * count + to] |= zone == other || group.zones[other] < group.zones[zone];
                }
            }
        }
        moves
    }

    /// From which node to which leadership could go if nothing hindered it.
    fn leads_move(&self) -> Vec<bool> {
        let count = self.nodes.len();
        let mut moves = vec![false; count * count];
        for group in &self.groups {
            if let Some(from) = group.leader {
                group.voters().for_each(|to| moves[from * count + to] = true);
            }
        }
        moves
    }

    fn hindered_nodes(&self, goal: &Goal, counts: &[Counts], found: &mut BTreeSet<Hindrance>) {
        let members = self.nodes.iter().filter(|node| node.member()).count();
        if members < goal.replicas {
            found.insert(Hindrance::FewNodes { members, replicas: goal.replicas });
        }
        for (node, counts) in self.nodes.iter().zip(counts) {
            let copies = counts.voters + counts.learners;
            if node.standing == Standing::Leaving && copies > 0 {
                found.insert(Hindrance::NotEmpty { node: node.id, copies });
            }
            if !node.up {
                found.insert(Hindrance::NodeDown(node.id));
            } else if !node.settled && node.member() {
                found.insert(Hindrance::NodeUnsettled(node.id));
            }
        }
    }

    fn hindered_group(&self, at: usize, found: &mut BTreeSet<Hindrance>) {
        let group = &self.groups[at];
        if !self.majority_lives(at) {
            found.insert(Hindrance::NoMajority(group.id));
        } else if group.joint {
            found.insert(Hindrance::Changing(group.id));
        } else if !self.steerable(at) {
            found.insert(Hindrance::NoLeader(group.id));
        } else if group.leader.is_some_and(|leader| !self.sound(at, leader)) && self.best_heir(at).is_none() {
            found.insert(Hindrance::NoHeir(group.id));
        }
        let voters = group.voters().filter(|node| self.sound(at, *node)).count();
        if voters != self.wanted {
            found.insert(Hindrance::Voters { group: group.id, voters, wanted: self.wanted });
        }
        for (node, copy) in group.copies.iter().enumerate().filter(|(_, copy)| copy.role != Role::Nothing) {
            let (id, group) = (self.nodes[node].id, group.id);
            if copy.broken {
                found.insert(Hindrance::Broken { group, node: id });
            } else if self.catching_up(at, node) {
                found.insert(Hindrance::Copying { group, node: id });
            }
        }
    }
}
