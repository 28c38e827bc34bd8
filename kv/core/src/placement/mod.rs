//! Who votes where, and who leads: a plan from a picture of the cluster.
//!
//! Every node keeps a copy of every group. What is decided here is which of the copies vote, and which voter leads.
//! [`plan`] says what to do next; who asked carries the steps out, in any order, may lose some, and asks again with a
//! new picture. Nothing is remembered from plan to plan, so a planner may die at any moment and another go on.
//!
//! How many voters: `replicas`, but no more than there are nodes that may vote, and an odd number: a fourth voter
//! lets no further node fail and has to be waited for. Two nodes are the exception. Of their two copies both vote, so
//! that what is acknowledged is on both disks, at the price that writing stops while one of them is down: losing what
//! was acknowledged is worse than waiting. Who wants it otherwise sets `replicas` to 1.
//!
//! What comes first: leaving nodes, broken copies, draining nodes, voters that are missing, voters too many, copies
//! that are missing, voters that share a zone without need, nodes with more voters than others, nodes with more
//! leaders.
//!
//! Must hold:
//! - No step leaves a group without a majority of live voters, or with fewer live voters than it had or wants; only a
//!   copy that has caught up, is whole, and whose node is up becomes a voter; a leader is never taken out
//!   ([`allowed`]).
//! - A node that is merely down keeps its votes: it will be back.
//! - What is done in the order of the plan lowers what is wrong in the order above, and what comes earlier gets no
//!   worse: a cluster that nothing happens to comes to rest, with an empty plan, and is then as even as its zones let
//!   it be (the reason is in `shift`).
//! - Equal pictures give equal plans.
//!
//! Left to others: seeing who is up, has caught up, or is broken; and carrying steps out.

mod guard;
mod mend;
mod picture;
mod shift;
mod spread;
mod survey;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use guard::allowed;
pub use survey::{Counts, Extent, Hindrance, Survey, survey};

use crate::{GroupId, NodeId};

/// What a node may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// Votes and leads.
    Member,
    /// Keeps its copies, but neither votes nor leads: it is about to be worked on.
    Draining,
    /// Is being emptied: its votes move away, then its copies are removed, then it may be forgotten.
    Leaving,
}

/// A node, as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Which node.
    pub node: NodeId,
    /// What fails together with it; empty: nothing but itself.
    pub zone: String,
    /// What it may carry.
    pub standing: Standing,
    /// It has been reachable for some seconds.
    pub up: bool,
    /// It has been up for long enough to be given leaders.
    pub settled: bool,
}

/// A group's copies, as placement sees them. Copies on nodes that are no [`Site`] are taken to be on leaving nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicas {
    /// Which group.
    pub group: GroupId,
    /// The nodes that vote; during a change, those that will vote once it is finished.
    pub voters: BTreeSet<NodeId>,
    /// The other nodes with a copy, and whether it has caught up with the leader.
    pub learners: BTreeMap<NodeId, bool>,
    /// A change of membership is not finished.
    pub joint: bool,
    /// Who leads, where that is known.
    pub leader: Option<NodeId>,
    /// The voters that are close enough behind the leader to take over at once.
    pub lag_ok: BTreeSet<NodeId>,
    /// The copies in quarantine: damaged, and not to be counted on.
    pub broken: BTreeSet<NodeId>,
}

/// What is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// Voters of each group, if there are nodes enough.
    pub replicas: usize,
    /// How many groups may be under change at the same time, and how many groups may be copied to new learners. Copies
    /// that are slow hold up further copies and nothing else. Zero: membership stays as it is; leaders still move.
    pub moves_at_once: usize,
}

impl Default for Goal {
    fn default() -> Self {
        Goal { replicas: 3, moves_at_once: 4 }
    }
}

/// One thing to do to one group. Doing it twice does no harm, nor does leaving it out; whoever does it late asks
/// [`allowed`] first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Begin a copy on a node.
    AddLearner {
        /// Of which group.
        group: GroupId,
        /// Where.
        node: NodeId,
    },
    /// Change who votes, in one joint change. Who votes no more stays on as a learner, on a leaving node too: one
    /// change then treats all alike, and the copy goes by a [`Step::RemoveLearner`] of its own.
    ChangeVoters {
        /// Of which group.
        group: GroupId,
        /// Learners that become voters.
        add: BTreeSet<NodeId>,
        /// Voters that become learners.
        remove: BTreeSet<NodeId>,
    },
    /// Give up a copy that doesn't vote.
    RemoveLearner {
        /// Of which group.
        group: GroupId,
        /// Where.
        node: NodeId,
    },
    /// Let another voter lead.
    TransferLeader {
        /// Which group.
        group: GroupId,
        /// Who leads.
        from: NodeId,
        /// Who is to lead.
        to: NodeId,
    },
}

impl Step {
    /// The group that it is done to.
    pub fn group(&self) -> GroupId {
        match self {
            Step::AddLearner { group, .. }
            | Step::ChangeVoters { group, .. }
            | Step::RemoveLearner { group, .. }
            | Step::TransferLeader { group, .. } => *group,
        }
    }
}

/// What to do next: at most one step for each group, the most urgent first. Empty: nothing can be made better now;
/// [`survey`] says whether that is because all is well.
pub fn plan(sites: &[Site], groups: &[Replicas], goal: &Goal) -> Vec<Step> {
    let mut planner = Planner::new(picture::Picture::new(sites, groups, goal), goal.moves_at_once);
    planner.mend();
    planner.spread();
    planner.steps
}

/// A plan in the making: the picture as it will be once the steps so far are done.
struct Planner {
    picture: picture::Picture,
    moves_at_once: usize,
    /// Groups under change, by what is seen and by the steps so far.
    changing: usize,
    /// Which groups are changing or are being copied.
    busy: Vec<bool>,
    steps: Vec<Step>,
}

impl Planner {
    fn new(picture: picture::Picture, moves_at_once: usize) -> Self {
        let changing = picture.groups.iter().filter(|group| group.joint).count();
        let busy = (0..picture.groups.len()).map(|at| picture.groups[at].joint || picture.copying(at)).collect();
        Planner { picture, moves_at_once, changing, busy, steps: vec![] }
    }

    fn may_change(&self) -> bool {
        self.changing < self.moves_at_once
    }

    fn may_copy(&self, at: usize) -> bool {
        self.may_change() && (self.busy[at] || self.busy.iter().filter(|busy| **busy).count() < self.moves_at_once)
    }

    fn change(&mut self, at: usize, change: &picture::Change) {
        let ids = |nodes: &BTreeSet<usize>| nodes.iter().map(|node| self.picture.nodes[*node].id).collect();
        let (group, add, remove) = (self.picture.groups[at].id, ids(&change.add), ids(&change.remove));
        self.push(at, Step::ChangeVoters { group, add, remove });
        self.picture.change(at, change);
    }

    fn transfer(&mut self, at: usize, to: usize) {
        let Some(from) = self.picture.groups[at].leader else { return };
        let (group, nodes) = (self.picture.groups[at].id, &self.picture.nodes);
        self.steps.push(Step::TransferLeader { group, from: nodes[from].id, to: nodes[to].id });
        self.picture.lead(at, to);
        self.picture.groups[at].taken = true;
    }

    /// Adds a step that changes membership.
    fn push(&mut self, at: usize, step: Step) {
        self.steps.push(step);
        self.changing += 1;
        self.busy[at] = true;
        self.picture.groups[at].taken = true;
    }
}
