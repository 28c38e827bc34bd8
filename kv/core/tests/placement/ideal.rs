//! How even a cluster can be, worked out another way than the planner does it.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::{
    NodeId,
    placement::{Site, Standing},
};

use crate::cluster::Cluster;

pub(crate) fn members(cluster: &Cluster) -> Vec<&Site> {
    cluster.sites.iter().filter(|site| site.standing == Standing::Member).collect()
}

pub(crate) fn wanted(cluster: &Cluster) -> usize {
    let most = cluster.goal.replicas.min(members(cluster).len());
    if most > 2 && most.is_multiple_of(2) { most - 1 } else { most }
}

pub(crate) fn zone(site: &Site) -> String {
    if site.zone.is_empty() { format!("only {}", site.node) } else { site.zone.clone() }
}

/// Members by zone.
pub(crate) fn zones(cluster: &Cluster) -> BTreeMap<String, Vec<NodeId>> {
    let mut zones: BTreeMap<String, Vec<NodeId>> = BTreeMap::new();
    members(cluster).into_iter().for_each(|site| zones.entry(zone(site)).or_default().push(site.node));
    zones
}

/// How many voters of a group each zone has when they are spread: filled like communicating vessels. The second number
/// is how many zones have one more than the first, of those that have room.
pub(crate) fn level(zones: &BTreeMap<String, Vec<NodeId>>, wanted: usize) -> (usize, usize) {
    let filled = |level: usize| zones.values().map(|nodes| nodes.len().min(level)).sum::<usize>();
    let level = (0..).take_while(|level| filled(*level) <= wanted && *level <= wanted).last().unwrap();
    (level, wanted - filled(level))
}

/// The votes per node, sorted, of the most even placement: each zone gets what it gets of every group anyhow, then one
/// vote at a time goes to the node with fewest whose zone has room.
pub(crate) fn votes(cluster: &Cluster) -> Vec<usize> {
    let (zones, groups) = (zones(cluster), cluster.groups.len());
    let (level, extra) = level(&zones, wanted(cluster));
    let mut loads: Vec<(usize, usize)> = vec![];
    let mut room = vec![];
    for (at, nodes) in zones.values().enumerate() {
        let start = loads.len();
        loads.extend(nodes.iter().map(|_| (0, at)));
        for _ in 0..groups * level.min(nodes.len()) {
            loads[start..].iter_mut().min().unwrap().0 += 1;
        }
        room.push(if nodes.len() > level { groups } else { 0 });
    }
    for _ in 0..groups * extra {
        let least = loads.iter_mut().filter(|(_, zone)| room[*zone] > 0).min().unwrap();
        least.0 += 1;
        room[least.1] -= 1;
    }
    let mut loads: Vec<usize> = loads.into_iter().map(|(load, _)| load).collect();
    loads.sort_unstable();
    loads
}

/// Whether leaders can be given so that no node has more than `most`, and so that each has at least `least`.
pub(crate) fn leaders_fit(cluster: &Cluster, least: usize, most: usize) -> (bool, bool) {
    let may: BTreeSet<NodeId> = members(cluster).iter().map(|site| site.node).collect();
    let groups: Vec<Vec<NodeId>> =
        cluster.groups.iter().map(|group| group.voters.intersection(&may).copied().collect()).collect();
    let at_most = matched(&groups, &may, most) == groups.len();
    (at_most, matched(&groups, &may, least) == may.len() * least)
}

/// How many groups can be given a leader of their own choice if no node takes more than `each`.
fn matched(groups: &[Vec<NodeId>], nodes: &BTreeSet<NodeId>, each: usize) -> usize {
    let mut led: BTreeMap<NodeId, Vec<usize>> = nodes.iter().map(|node| (*node, vec![])).collect();
    (0..groups.len()).filter(|group| place(*group, groups, &mut led, each, &mut BTreeSet::new())).count()
}

fn place(
    group: usize,
    groups: &[Vec<NodeId>],
    led: &mut BTreeMap<NodeId, Vec<usize>>,
    each: usize,
    asked: &mut BTreeSet<NodeId>,
) -> bool {
    for node in &groups[group] {
        if !asked.insert(*node) {
            continue;
        }
        if led[node].len() < each {
            led.get_mut(node).unwrap().push(group);
            return true;
        }
        for other in led[node].clone() {
            if place(other, groups, led, each, asked) {
                let has = led.get_mut(node).unwrap();
                has.retain(|it| *it != other);
                has.push(group);
                return true;
            }
        }
    }
    false
}
