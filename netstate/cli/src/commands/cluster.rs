//! `netstate cluster`.

use std::collections::BTreeMap;

use netstate_proto::v1 as pb;
use serde_json::{Value, json};

use crate::{console::talk, failure::Failure, human, session::Session};

/// Look at the cluster itself
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Status(Status),
}

/// Show nodes, their memory and disk, and who leads which groups
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster status
  netstate cluster status --groups
  netstate cluster status -o json | jq -r '.groups[0].leader'")]
pub(crate) struct Status {
    /// List the groups one by one
    #[arg(long)]
    groups: bool,
}

pub(crate) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let Command::Status(args) = command;
    let status = session.client.cluster_status(pb::ClusterStatusRequest {}).await?;
    session.console.answer(|| status_json(&status), || status_text(&status, args.groups, session))?;
    talk(format_args!("as {} sees it", status.answered_by));
    let problems: Vec<String> = status
        .groups
        .iter()
        .filter(|group| !group.problem.is_empty())
        .map(|group| format!("group {}: {}", group.group, group.problem))
        .collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Failure::False(Some(problems.join("\n")))),
    }
}

pub(crate) fn status_json(status: &pb::ClusterStatusResponse) -> Value {
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
        })
    };
    json!({
        "cluster_id": status.cluster_id,
        "answered_by": status.answered_by,
        "nodes": status.nodes.iter().map(node).collect::<Vec<_>>(),
        "groups": status.groups.iter().map(group).collect::<Vec<_>>(),
    })
}

fn status_text(status: &pb::ClusterStatusResponse, groups: bool, session: &Session) -> String {
    let mut leads: BTreeMap<&str, u64> = BTreeMap::new();
    for group in &status.groups {
        *leads.entry(&group.leader).or_default() += 1;
    }
    let row = |node: &pb::NodeStatus| {
        let known = |text: String| if node.reachable { text } else { "-".to_owned() };
        vec![
            node.name.clone(),
            node.peer_address.clone(),
            if node.reachable { "yes" } else { "no" }.to_owned(),
            leads.get(node.name.as_str()).copied().unwrap_or(0).to_string(),
            known(human::count(node.networks)),
            known(human::count(node.endpoints)),
            known(human::count(node.watching_hosts)),
            known(human::bytes(node.resident_bytes)),
            known(human::bytes(node.disk_bytes)),
            known(node.version.clone()),
        ]
    };
    let header = ["node", "peer", "reachable", "leads", "networks", "endpoints", "hosts", "memory", "disk", "version"];
    let nodes = session.console.table(&header, status.nodes.iter().map(row).collect());
    let leaderless = match leads.get("") {
        Some(count) => format!("\n{count} groups have no leader that this node knows of"),
        None => String::new(),
    };
    let head = format!("cluster {}, {} groups{leaderless}\n\n{nodes}", status.cluster_id, status.groups.len());
    if !groups {
        return head;
    }
    let row = |group: &pb::GroupStatus| {
        let leader = if group.leader.is_empty() { "-" } else { &group.leader };
        let numbers = [group.term, group.keyspaces, group.committed, group.applied].map(human::count);
        let mut row = vec![format!("g{}", group.group), leader.to_owned()];
        row.extend(numbers);
        row.push(group.problem.clone());
        row
    };
    let header = ["group", "leader", "term", "keyspaces", "committed", "applied", "problem"];
    format!("{head}\n\n{}", session.console.table(&header, status.groups.iter().map(row).collect()))
}
