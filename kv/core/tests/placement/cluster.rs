//! A cluster, as far as placement goes: carries steps out, elects leaders, and knows no time.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::{
    GroupId, NodeId,
    placement::{self, Goal, Replicas, Site, Standing, Step},
};

#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) sites: Vec<Site>,
    pub(crate) groups: Vec<Replicas>,
    pub(crate) goal: Goal,
}

impl Cluster {
    /// All founders vote in all groups; the first leads them.
    pub(crate) fn found(founders: &[NodeId], groups: u16, goal: Goal) -> Self {
        let voters: BTreeSet<NodeId> = founders.iter().copied().collect();
        let group = |id| Replicas {
            group: GroupId::new(id),
            voters: voters.clone(),
            learners: BTreeMap::new(),
            joint: false,
            leader: founders.first().copied(),
            lag_ok: voters.clone(),
            broken: BTreeSet::new(),
        };
        let mut cluster = Cluster { sites: vec![], groups: (0..groups).map(group).collect(), goal };
        founders.iter().for_each(|node| cluster.join(*node, ""));
        cluster
    }

    pub(crate) fn join(&mut self, node: NodeId, zone: &str) {
        let zone = zone.to_owned();
        self.sites.push(Site { node, zone, standing: Standing::Member, up: true, settled: true });
    }

    pub(crate) fn site(&self, node: NodeId) -> Option<&Site> {
        self.sites.iter().find(|site| site.node == node)
    }

    pub(crate) fn site_mut(&mut self, node: NodeId) -> &mut Site {
        self.sites.iter_mut().find(|site| site.node == node).unwrap()
    }

    pub(crate) fn group(&self, id: GroupId) -> &Replicas {
        self.groups.iter().find(|group| group.group == id).unwrap()
    }

    pub(crate) fn group_mut(&mut self, id: GroupId) -> &mut Replicas {
        self.groups.iter_mut().find(|group| group.group == id).unwrap()
    }

    pub(crate) fn plan(&self) -> Vec<Step> {
        placement::plan(&self.sites, &self.groups, &self.goal)
    }

    pub(crate) fn up(&self, node: NodeId) -> bool {
        self.site(node).is_some_and(|site| site.up)
    }

    pub(crate) fn live(&self, group: &Replicas, node: NodeId) -> bool {
        self.up(node) && !group.broken.contains(&node)
    }

    pub(crate) fn has_majority(&self, group: &Replicas) -> bool {
        group.voters.iter().filter(|node| self.live(group, **node)).count() * 2 > group.voters.len()
    }

    /// Groups whose leader is down get the first voter that can lead, if they have a majority.
    pub(crate) fn elect(&mut self) {
        for at in 0..self.groups.len() {
            let group = &self.groups[at];
            if group.leader.is_none_or(|leader| !self.up(leader) || !group.voters.contains(&leader)) {
                let first = group.voters.iter().copied().find(|node| self.live(group, *node));
                self.groups[at].leader = first.filter(|_| self.has_majority(group));
            }
        }
    }

    /// Carries a step out, unless the group would refuse it.
    pub(crate) fn carry_out(&mut self, step: &Step) -> bool {
        let id = step.group();
        if !placement::allowed(&self.sites, self.group(id), &self.goal, step) {
            return false;
        }
        let group = self.group_mut(id);
        match step {
            Step::AddLearner { node, .. } => {
                group.learners.insert(*node, false);
            }
            Step::RemoveLearner { node, .. } => {
                group.learners.remove(node);
                group.broken.remove(node);
            }
            Step::TransferLeader { to, .. } => group.leader = Some(*to),
            Step::ChangeVoters { add, remove, .. } => {
                for node in add {
                    group.learners.remove(node);
                    group.voters.insert(*node);
                    group.lag_ok.insert(*node);
                }
                for node in remove {
                    group.voters.remove(node);
                    group.lag_ok.remove(node);
                    group.learners.insert(*node, true);
                }
            }
        }
        true
    }

    /// Every copy on a node that is up catches up, but for those that `slow` names.
    pub(crate) fn catch_up(&mut self, slow: &BTreeSet<NodeId>) {
        let up = self.sites.iter().filter(|site| site.up).map(|site| site.node);
        let fast: BTreeSet<NodeId> = up.filter(|node| !slow.contains(node)).collect();
        for group in &mut self.groups {
            for (node, caught_up) in &mut group.learners {
                *caught_up |= fast.contains(node) && !group.broken.contains(node);
            }
        }
    }
}
