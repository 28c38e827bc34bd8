//! What no step may do, looked at from outside, and what a cluster at rest has to look like.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::{
    GroupId, NodeId,
    placement::{self, Replicas, Standing, Step},
};

use crate::{cluster::Cluster, ideal};

/// The order of what a plan is made from doesn't matter.
pub(crate) fn order(cluster: &Cluster, plan: &[Step]) {
    let mut turned = cluster.clone();
    turned.sites.reverse();
    turned.groups.reverse();
    assert_eq!(turned.plan(), plan);
}

/// A plan has one step for a group, keeps to the limit, and says only what is allowed.
pub(crate) fn plan(cluster: &Cluster, plan: &[Step]) {
    let groups: BTreeSet<GroupId> = plan.iter().map(Step::group).collect();
    assert_eq!(groups.len(), plan.len(), "two steps for a group: {plan:?}");
    let changing = cluster.groups.iter().filter(|group| group.joint).count();
    let begun = plan.iter().filter(|step| !matches!(step, Step::TransferLeader { .. })).count();
    let limit = cluster.goal.moves_at_once.saturating_sub(changing);
    assert!(begun <= limit, "{begun} begun, {limit} may: {plan:?}");
    for step in plan {
        let group = cluster.group(step.group());
        assert!(placement::allowed(&cluster.sites, group, &cluster.goal, step), "planned, but not allowed: {step:?}");
    }
}

/// A step does no harm to the cluster that it meets. `late`: it was planned for an earlier one.
pub(crate) fn step(before: &Cluster, after: &Cluster, step: &Step, late: bool) {
    let (was, is) = (before.group(step.group()), after.group(step.group()));
    let leader = was.leader.expect("a step without a leader");
    assert!(!was.joint && before.up(leader) && before.has_majority(was), "a step that can't be done: {step:?}");
    let standing = |node: &NodeId| before.site(*node).map_or(Standing::Leaving, |site| site.standing);
    match step {
        Step::AddLearner { node, .. } => assert!(before.up(*node) && standing(node) != Standing::Leaving),
        Step::RemoveLearner { node, .. } => assert_eq!(standing(node), Standing::Leaving),
        Step::TransferLeader { from, to, .. } => {
            assert_eq!(*from, leader);
            assert!(was.voters.contains(to) && was.lag_ok.contains(to) && before.live(was, *to));
            assert_eq!(standing(to), Standing::Member);
        }
        Step::ChangeVoters { add, remove, .. } => {
            assert!(!remove.contains(&leader) && remove.is_subset(&was.voters));
            for node in add {
                assert!(was.learners.get(node) == Some(&true) && before.live(was, *node), "{node} isn't ready");
                assert_eq!(standing(node), Standing::Member);
            }
            assert!(after.has_majority(is), "it loses its majority: {step:?}");
            let live = |group: &Replicas| group.voters.iter().filter(|node| before.live(group, **node)).count();
            assert!(live(is) >= live(was).min(ideal::wanted(before)), "fewer live voters: {step:?}");
            assert!(remove.iter().all(|node| is.learners.contains_key(node)), "a copy was lost");
            if !late {
                planned_now(before, after, (was, is), (add, remove));
            }
        }
    }
}

fn planned_now(
    before: &Cluster,
    after: &Cluster,
    (was, is): (&Replicas, &Replicas),
    (add, remove): (&BTreeSet<NodeId>, &BTreeSet<NodeId>),
) {
    let sound = |node: &NodeId| {
        before.site(*node).is_some_and(|site| site.standing == Standing::Member) && !was.broken.contains(node)
    };
    let swap = add.len() == remove.len() && remove.iter().all(sound);
    let (crowd, crowd_then) = (crowd(before, was), crowd(after, is));
    assert!(!swap || crowd_then <= crowd, "a swap crowds a zone: {was:?} to {is:?}");
    let down = remove.iter().any(|node| sound(node) && !before.up(*node));
    assert!(!down || add.is_empty() || crowd_then < crowd, "replaced for being down: {was:?} to {is:?}");
    let good = was.voters.iter().filter(|node| sound(node)).count();
    let surplus = good.saturating_sub(ideal::wanted(before));
    let whole = remove.iter().filter(|node| !was.broken.contains(node)).count();
    let unreplaced = whole.saturating_sub(add.len());
    let spare = (was.voters.len() + add.len()).saturating_sub(ideal::wanted(before));
    assert!(unreplaced <= spare.max(surplus), "removed before it is replaced: {was:?} to {is:?}");
}

/// Less is better spread.
fn crowd(cluster: &Cluster, group: &Replicas) -> usize {
    let mut zones: BTreeMap<String, usize> = BTreeMap::new();
    for node in &group.voters {
        let zone = cluster.site(*node).map_or_else(|| format!("only {node}"), ideal::zone);
        *zones.entry(zone).or_default() += 1;
    }
    zones.values().map(|count| count * count).sum()
}

/// With nothing in its way, a cluster at rest has everything where it belongs.
pub(crate) fn at_rest(cluster: &Cluster) {
    let survey = placement::survey(&cluster.sites, &cluster.groups, &cluster.goal);
    let members: BTreeSet<NodeId> = ideal::members(cluster).iter().map(|site| site.node).collect();
    let wanted = ideal::wanted(cluster);
    for group in &cluster.groups {
        let copies: BTreeSet<NodeId> = group.voters.iter().chain(group.learners.keys()).copied().collect();
        let staying = cluster.sites.iter().filter(|site| site.standing != Standing::Leaving);
        let staying: BTreeSet<NodeId> = staying.map(|site| site.node).collect();
        assert!(staying.is_subset(&copies), "copies missing: {group:?}");
        if members.is_empty() {
            continue;
        }
        assert_eq!(copies, staying, "{group:?}");
        assert!(group.voters.is_subset(&members), "{group:?}");
        assert_eq!(group.voters.len(), wanted, "{group:?}");
        spread_over_zones(cluster, group);
        assert!(group.leader.is_some_and(|leader| group.voters.contains(&leader)), "{group:?}");
    }
    if members.is_empty() {
        return;
    }
    let count = |node: &NodeId| cluster.groups.iter().filter(|group| group.voters.contains(node)).count();
    let mut votes: Vec<usize> = members.iter().map(count).collect();
    votes.sort_unstable();
    assert_eq!(votes, ideal::votes(cluster), "votes are not as even as they can be");
    let led = |node: &NodeId| cluster.groups.iter().filter(|group| group.leader == Some(*node)).count();
    let leads: Vec<usize> = members.iter().map(led).collect();
    let (least, most) = (leads.iter().min().unwrap(), leads.iter().max().unwrap());
    if *most > least + 1 {
        let (fewer, more) = ideal::leaders_fit(cluster, least + 1, most - 1);
        assert!(!fewer && !more, "leaders are not as even as they can be: {leads:?}");
    }
    if cluster.sites.iter().all(|site| site.zone.is_empty()) {
        assert!(votes[votes.len() - 1] <= votes[0] + 1, "{votes:?}");
        assert!(*most <= least + 1, "{leads:?}");
    }
    assert!(survey.even(), "{survey:?}");
    let counted: Vec<usize> = members.iter().map(|node| survey.nodes[node].leaders).collect();
    assert_eq!(counted, leads);
}

fn spread_over_zones(cluster: &Cluster, group: &Replicas) {
    let zones = ideal::zones(cluster);
    let (level, extra) = ideal::level(&zones, ideal::wanted(cluster));
    let mut more = 0;
    for (zone, nodes) in &zones {
        let count = nodes.iter().filter(|node| group.voters.contains(node)).count();
        let least = level.min(nodes.len());
        assert!(count == least || count == least + 1, "{zone} has {count} of {group:?}");
        more += count - least;
    }
    assert_eq!(more, extra, "{group:?}");
}
