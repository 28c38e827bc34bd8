//! `netstate cluster status`: on one screen, whether all is well and what to do if not.

use netstate_proto::v1 as pb;
use serde_json::{Value, json};

use crate::{console::talk, failure::Failure, human, session::Session};

/// Show whether all is well: nodes, groups, what moves, and what to do
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster status
  netstate cluster status --groups
  netstate cluster status -o json | jq -r '.alarms[].what'

Exits with 1 when something serious is not as it should be, or nobody has looked yet.")]
pub(crate) struct Args {
    /// List the groups one by one
    #[arg(long)]
    groups: bool,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let status = session.client.cluster_status(pb::ClusterStatusRequest {}).await?;
    session.console.answer(|| status_json(&status), || status_text(&status, args.groups, session))?;
    talk(format_args!("as {} sees it", status.answered_by));
    let serious = status.alarms.iter().any(|alarm| alarm.serious);
    if serious || !looked_over(&status) { Err(Failure::False(None)) } else { Ok(()) }
}

/// Whether a node governs, and has seen who votes in every group. Before, nothing is wrong because nobody has looked.
fn looked_over(status: &pb::ClusterStatusResponse) -> bool {
    !status.nodes.is_empty() && status.groups.iter().all(|group| !group.voters.is_empty())
}

fn status_json(status: &pb::ClusterStatusResponse) -> Value {
    let node = |node: &pb::NodeStatus| {
        json!({
            "name": node.name,
            "id": node.id,
            "peer_address": node.peer_address,
            "reachable": node.reachable,
            "resident_bytes": node.resident_bytes,
            "disk_bytes": node.disk_bytes,
            "networks": node.networks,
            "endpoints": node.endpoints,
            "watching_hosts": node.watching_hosts,
            "version": node.version,
            "zone": node.zone,
            "standing": node.standing,
            "leads": node.leads,
            "votes": node.votes,
            "copies": node.copies,
            "lag": node.lag,
            "disk_free_bytes": node.disk_free_bytes,
            "instance": node.instance,
        })
    };
    let group = |group: &pb::GroupStatus| {
        json!({
            "group": group.group,
            "leader": if group.leader.is_empty() { Value::Null } else { group.leader.clone().into() },
            "term": group.term,
            "committed": group.committed,
            "applied": group.applied,
            "keyspaces": group.keyspaces,
            "problem": group.problem,
            "voters": group.voters,
            "learners": group.learners,
        })
    };
    let alarm = |alarm: &pb::Alarm| {
        json!({
            "what": alarm.what,
            "where": alarm.r#where,
            "text": alarm.text,
            "advice": alarm.advice,
            "serious": alarm.serious,
        })
    };
    json!({
        "cluster_id": status.cluster_id,
        "answered_by": status.answered_by,
        "nodes": status.nodes.iter().map(node).collect::<Vec<_>>(),
        "groups": status.groups.iter().map(group).collect::<Vec<_>>(),
        "alarms": status.alarms.iter().map(alarm).collect::<Vec<_>>(),
        "moves": status.moves,
        "replicas": status.replicas,
    })
}

/// Moves told one by one.
const MOVES_SHOWN: usize = 8;

fn status_text(status: &pb::ClusterStatusResponse, groups: bool, session: &Session) -> String {
    let row = |node: &pb::NodeStatus| {
        let known = |text: String| if node.reachable { text } else { "-".to_owned() };
        vec![
            node.name.clone(),
            if node.reachable { node.standing.clone() } else { "down".to_owned() },
            node.peer_address.clone(),
            if node.zone.is_empty() { "-".to_owned() } else { node.zone.clone() },
            node.leads.to_string(),
            node.votes.to_string(),
            node.copies.to_string(),
            known(human::count(node.lag)),
            known(human::count(node.networks)),
            known(human::count(node.endpoints)),
            known(human::count(node.watching_hosts)),
            known(human::bytes(node.resident_bytes)),
            known(human::bytes(node.disk_bytes)),
            known(human::bytes(node.disk_free_bytes)),
            node.version.clone(),
        ]
    };
    let header = [
        "node",
        "is",
        "peer",
        "zone",
        "leads",
        "votes",
        "copies",
        "lag",
        "networks",
        "endpoints",
        "hosts",
        "memory",
        "disk",
        "free",
        "version",
    ];
    let nodes = session.console.table(&header, status.nodes.iter().map(row).collect());
    let mut text = format!(
        "cluster {}, {} groups of {} voters: {}\n\n{nodes}\n",
        status.cluster_id,
        status.groups.len(),
        status.replicas,
        verdict(status)
    );
    for alarm in &status.alarms {
        let mark = if alarm.serious { "!!" } else { "! " };
        text += &format!("\n{mark} {}: {}\n   {}\n", alarm.what, alarm.text, alarm.advice);
    }
    if !status.moves.is_empty() {
        text += "\nbeing moved:\n";
        for told in status.moves.iter().take(MOVES_SHOWN) {
            text += &format!("  {told}\n");
        }
        if status.moves.len() > MOVES_SHOWN {
            text += &format!("  and {} more\n", status.moves.len() - MOVES_SHOWN);
        }
    }
    if groups {
        text += &format!("\n{}", groups_table(status, session));
    }
    text
}

fn verdict(status: &pb::ClusterStatusResponse) -> &'static str {
    match (status.alarms.iter().any(|alarm| alarm.serious), status.alarms.is_empty()) {
        (true, _) => "NOT WELL, see below",
        _ if !looked_over(status) => "nobody has looked it over yet, ask again in a moment",
        (false, false) => "working, with something to see to",
        (false, true) => "all is well",
    }
}

fn groups_table(status: &pb::ClusterStatusResponse, session: &Session) -> String {
    let row = |group: &pb::GroupStatus| {
        let leader = if group.leader.is_empty() { "-" } else { &group.leader };
        let numbers = [group.term, group.keyspaces, group.committed, group.applied].map(human::count);
        let mut row =
            vec![format!("g{}", group.group), leader.to_owned(), group.voters.join(","), group.learners.join(",")];
        row.extend(numbers);
        row.push(group.problem.clone());
        row
    };
    let header = ["group", "leader", "voters", "copies", "term", "keyspaces", "committed", "applied", "problem"];
    session.console.table(&header, status.groups.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_well_only_if_somebody_has_looked() {
        let group = |voters: &[&str]| pb::GroupStatus {
            voters: voters.iter().map(|name| (*name).to_owned()).collect(),
            ..pb::GroupStatus::default()
        };
        let told = |nodes: usize, groups: Vec<pb::GroupStatus>| {
            let nodes = vec![pb::NodeStatus::default(); nodes];
            verdict(&pb::ClusterStatusResponse { nodes, groups, ..pb::ClusterStatusResponse::default() })
        };
        assert_eq!(told(3, vec![group(&["n1"]), group(&["n1"])]), "all is well");
        assert!(told(3, vec![group(&["n1"]), group(&[])]).contains("nobody has looked"));
        assert!(told(0, vec![group(&["n1"])]).contains("nobody has looked"), "it is being founded");
    }
}
