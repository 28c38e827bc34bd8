//! What is not as it should be in a cluster, and what to do about it.
//!
//! Must hold: pure; each kind of alarm has a word of its own that does not change, which `docs/operations.md` explains and
//! the metrics carry.

use std::collections::{BTreeMap, BTreeSet};

use kv_node::{NodeRecord, Standing};
use netstate_proto::v1 as pb;

use super::{cluster::Picture, status::Report};

/// Log entries that a replica may be behind before somebody is told.
const LAG_ENTRIES: u64 = 100_000;

/// The word of every alarm there is.
pub const ALARMS: &[&str] = &[
    "node-down",
    "disk-full",
    "disk-nearly-full",
    "replica-behind",
    "node-draining",
    "no-leader",
    "replica-damaged",
    "too-few-voters",
    "versions-differ",
];

/// How a node may stand.
pub(super) const STANDINGS: [&str; 5] = ["member", "relay", "draining", "leaving", "removed"];

/// How a node stands.
pub(super) fn standing(record: &NodeRecord) -> &'static str {
    match record.standing {
        Standing::Member if record.relay => "relay",
        Standing::Member => "member",
        Standing::Draining => "draining",
        Standing::Leaving => "leaving",
        Standing::Removed => "removed",
    }
}

fn alarm(what: &str, place: &str, text: String, advice: &str, serious: bool) -> pb::Alarm {
    pb::Alarm { what: what.into(), r#where: place.into(), text, advice: advice.into(), serious }
}

/// All that is not well, the serious first.
pub(super) fn of(picture: &Picture) -> Vec<pb::Alarm> {
    let mut alarms = nodes(picture);
    alarms.extend(picture.reports.iter().flat_map(|(node, report)| damaged(&picture.name(*node), report)));
    alarms.extend(groups(picture));
    let versions: BTreeSet<_> = picture.reports.values().map(|report| report.version.as_str()).collect();
    if versions.len() > 1 {
        let text = format!("nodes run {}", versions.into_iter().collect::<Vec<_>>().join(" and "));
        alarms.push(alarm(
            "versions-differ",
            "",
            text,
            "finish the upgrade: restart the older nodes, one by one",
            false,
        ));
    }
    alarms.sort_by_key(|alarm| !alarm.serious);
    alarms
}

fn nodes(picture: &Picture) -> Vec<pb::Alarm> {
    let mut alarms = Vec::new();
    for (id, record) in &picture.nodes {
        let name = record.name.as_str();
        let Some(report) = picture.reports.get(id) else {
            let text = format!("{name} at {} does not answer", record.peer);
            let advice = format!(
                "start it again; if its disk is lost: `netstate cluster replace {name}`, then start it with an empty data \
                 directory and --join"
            );
            alarms.push(alarm("node-down", name, text, &advice, true));
            continue;
        };
        if report.disk_full {
            let text = format!("{name} has {} free and refuses writes", mebibytes(report));
            let advice = "make room or enlarge the disk; compacting and deleting go on meanwhile";
            alarms.push(alarm("disk-full", name, text, advice, true));
        } else if report.disk_nearly_full {
            let text = format!("{name} has {} free; writes will be refused", mebibytes(report));
            alarms.push(alarm("disk-nearly-full", name, text, "make room or enlarge the disk", false));
        }
        let lag = picture.lag(report);
        if lag > LAG_ENTRIES {
            let text = format!("{name} is {lag} log entries behind");
            let advice = "see whether its disk, its processor or its network is slow; it catches up by itself";
            alarms.push(alarm("replica-behind", name, text, advice, false));
        }
        if record.standing == Standing::Draining {
            let advice = format!("when it has been worked on: `netstate cluster drain {name} --end`");
            alarms.push(alarm("node-draining", name, format!("{name} neither votes nor leads"), &advice, false));
        }
    }
    alarms
}

/// The replicas of a node that are out of service, those for one reason together.
fn damaged(name: &str, report: &Report) -> Vec<pb::Alarm> {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for group in &report.groups {
        if let Some(problem) = &group.problem {
            reasons.entry(problem).or_default().push(format!("g{}", group.group));
        }
    }
    let told = |(reason, groups): (&str, Vec<String>)| {
        let which = if groups.len() > 4 { format!("{} groups", groups.len()) } else { groups.join(", ") };
        let text = format!("{name} serves {which} no more: {reason}");
        alarm("replica-damaged", name, text, &format!("`netstate cluster repair {name}`"), true)
    };
    reasons.into_iter().map(told).collect()
}

fn mebibytes(report: &Report) -> String {
    format!("{} MiB", report.disk_free_bytes >> 20)
}

fn groups(picture: &Picture) -> Vec<pb::Alarm> {
    let mut alarms = Vec::new();
    for group in &picture.groups {
        let place = format!("g{}", group.group);
        if picture.leader(group.group).is_none() {
            let text = format!("{place} has no leader: its keyspaces take no writes");
            alarms.push(alarm("no-leader", &place, text, "see to it that a majority of its voters is up", true));
        }
        let wanted = picture.replicas.min(picture.nodes.len());
        if let Some(placed) = picture.placed(group.group).filter(|placed| placed.leader.is_some())
            && placed.voters.len() < wanted
        {
            let text = format!("{place} has {} of {wanted} voters", placed.voters.len());
            alarms.push(alarm("too-few-voters", &place, text, "more follow by themselves once nodes are up", false));
        }
    }
    alarms
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use kv_core::NodeId;

    use super::*;
    use crate::services::status::GroupReport;

    /// Whoever adds an alarm adds its word to [`ALARMS`], and with it a rule and a page for operators.
    #[test]
    fn every_alarm_has_its_word_in_the_list() {
        let source = include_str!("alarms.rs");
        let source = source.split("#[cfg(test)]").next().unwrap();
        let given = source.split("alarm(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
        let given: BTreeSet<_> = given.filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(given, ALARMS.iter().copied().collect());
    }

    /// Alarms of group 0 in a picture of these nodes, by what some of them say of who leads it.
    fn of_leader(nodes: &[u64], said: &[(u64, Option<u64>)]) -> Vec<String> {
        let record = |node: &u64| {
            let record = serde_json::json!({"name": format!("n{node}"), "peer": "a:1", "standing": "member"});
            (NodeId::new(*node), serde_json::from_value(record).unwrap())
        };
        let report = |(node, leader): &(u64, Option<u64>)| {
            let group = GroupReport { leader: leader.map(NodeId::new), ..GroupReport::default() };
            (NodeId::new(*node), Report { groups: vec![group], ..Report::default() })
        };
        let reports: BTreeMap<_, _> = said.iter().map(report).collect();
        let groups = vec![GroupReport::default()];
        let picture = Picture::new(nodes.iter().map(record).collect(), reports, groups, None, 3);
        super::groups(&picture).into_iter().map(|alarm| alarm.what).collect()
    }

    #[test]
    fn a_leader_counts_that_says_so_itself_or_was_not_asked() {
        let none = Vec::<String>::new();
        assert_eq!(of_leader(&[1, 2, 3], &[(1, Some(2)), (2, Some(2)), (3, None)]), none);
        assert_eq!(of_leader(&[1], &[(1, Some(2))]), none, "a node that looks at itself only");
        assert_eq!(of_leader(&[1, 2, 3], &[(1, Some(2)), (3, Some(2))]), ["no-leader"], "it is down");
        assert_eq!(of_leader(&[1, 2, 3], &[(1, Some(2)), (2, None)]), ["no-leader"], "it has lost its majority");
        assert_eq!(of_leader(&[1], &[(1, None)]), ["no-leader"]);
    }
}
