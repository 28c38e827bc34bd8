//! What may be done to a group, whoever thought of it and however long ago.
//!
//! Must hold: a step that passes leaves the group able to commit, with as many live voters as before or as are wanted.
//! Left to others: whether the step makes anything better.

use super::{
    Goal, Replicas, Site, Standing, Step,
    picture::{Change, Picture, Role},
};
use crate::NodeId;

/// Whether a step, perhaps planned from an older picture, does no harm in this one. `group` is the group of the step.
pub fn allowed(sites: &[Site], group: &Replicas, goal: &Goal, step: &Step) -> bool {
    let picture = Picture::new(sites, std::slice::from_ref(group), goal);
    if step.group() != group.group || !picture.steerable(0) {
        return false;
    }
    let find = |id: &NodeId| picture.nodes.iter().position(|node| node.id == *id);
    let role = |node: usize| picture.groups[0].copies[node].role;
    match step {
        Step::AddLearner { node, .. } => find(node).is_some_and(|node| {
            let known = &picture.nodes[node];
            known.up && known.standing != Standing::Leaving && role(node) == Role::Nothing
        }),
        Step::RemoveLearner { node, .. } => find(node)
            .is_some_and(|node| picture.nodes[node].standing == Standing::Leaving && role(node) == Role::Learner),
        Step::TransferLeader { from, to, .. } => {
            group.leader == Some(*from) && find(to).is_some_and(|to| picture.heir(0, to))
        }
        Step::ChangeVoters { add, remove, .. } => {
            let all = |ids: &std::collections::BTreeSet<NodeId>| ids.iter().map(find).collect::<Option<_>>();
            let (Some(add), Some(remove)) = (all(add), all(remove)) else { return false };
            picture.keeps_majority(0, &Change { add, remove })
        }
    }
}

impl Picture {
    /// A change takes in only what may vote, spares the leader, and leaves the group as many live votes as it had or
    /// wants, and a majority of them.
    pub(super) fn keeps_majority(&self, at: usize, change: &Change) -> bool {
        let group = &self.groups[at];
        let removes_voters = change.remove.iter().all(|node| group.copies[*node].role == Role::Voter);
        let spares_leader = !group.leader.is_some_and(|leader| change.remove.contains(&leader));
        if !removes_voters || !spares_leader || !change.add.iter().all(|node| self.ready(at, *node)) {
            return false;
        }
        let live = group.voters().filter(|node| self.live(at, *node)).count();
        let lost = change.remove.iter().filter(|node| self.live(at, **node)).count();
        let (live_then, all_then) =
            (live - lost + change.add.len(), group.voters().count() - change.remove.len() + change.add.len());
        // Where no node may vote there is nothing to aim at, and who votes stays.
        let floor = if self.wanted == 0 { live } else { live.min(self.wanted) };
        live_then * 2 > all_then && live_then >= floor
    }
}
