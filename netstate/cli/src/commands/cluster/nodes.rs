//! Nodes that join, leave, and are worked on.

use std::time::Duration;

use netstate_proto::v1::{self as pb, change_node_request::Change};
use tokio::time::{self, Instant};

use crate::{console::talk, failure::Failure, session::Session, values::Span};

/// Between two looks at how far a change is.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a change is waited for, unless somebody says otherwise.
const PATIENCE: &str = "10m";

/// Say how a node joins, and wait until it has
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster join n4             what to run on the new machine; returns when n4 has caught up and votes
  netstate cluster join n4 --no-wait")]
pub(crate) struct Join {
    /// The new node's name
    node: String,
    #[command(flatten)]
    wait: Wait,
}

/// Take a node out of the cluster for good: its copies go to others first
///
/// A node that was removed is refused if it comes back. To have it again, empty its data directory and start it with --join:
/// it gets a new id.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster remove n4
  netstate cluster remove n4 --no-wait && netstate cluster status")]
pub(crate) struct Remove {
    /// Which node
    node: String,
    #[command(flatten)]
    wait: Wait,
}

/// Declare a node's data lost, so that an empty one can join under its name
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster replace n2          then, on n2's machine, with an empty data directory:
  netstate server --name n2 --data-dir /var/lib/netstate --listen-peer 10.0.0.2:2380 … --join 10.0.0.1:2380")]
pub(crate) struct Replace {
    /// Which node; it has to be down
    node: String,
}

/// Take votes and leaders off a node before it is worked on; it keeps its copies
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster drain n2            returns when it may be stopped
  netstate cluster drain n2 --end      gives it back its share")]
pub(crate) struct Drain {
    /// Which node
    node: String,
    /// It has been worked on
    #[arg(long)]
    end: bool,
    #[command(flatten)]
    wait: Wait,
}

/// Set how many nodes vote in each group: more survive more failures, and commit more slowly
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster replicas 5          two nodes may fail at a time")]
pub(crate) struct Replicas {
    /// How many, 1 to 7; an even number bears no more failures than the odd one below it
    count: u32,
}

#[derive(Debug, clap::Args)]
pub(super) struct Wait {
    /// Return at once; it goes on by itself
    #[arg(long)]
    no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "SPAN", default_value = PATIENCE)]
    patience: Span,
}

/// How far a change is, in words; `Ok`: done.
pub(super) type Progress = Result<String, String>;

pub(crate) async fn join(args: &Join, session: &Session) -> Result<(), Failure> {
    let status = look(session).await?;
    let peers: Vec<_> = status.nodes.iter().map(|node| node.peer_address.as_str()).collect();
    if !status.nodes.iter().any(|node| node.name == args.node) {
        let (node, peers) = (&args.node, peers.join(","));
        session.console.print(format_args!(
            "netstate server --name {node} --data-dir /var/lib/netstate --listen-client HERE:2379 --listen-peer HERE:2380 \
             --join {peers}"
        ))?;
        talk(format_args!("run this on the new machine, with its own address for HERE"));
    }
    wait(session, &args.wait, |status| has_joined(status, &args.node)).await
}

fn has_joined(status: &pb::ClusterStatusResponse, name: &str) -> Progress {
    let Some(node) = status.nodes.iter().find(|node| node.name == name) else {
        return Err(format!("{name} has not asked yet"));
    };
    let (copies, groups) = (node.votes + node.copies, status.groups.len());
    if !node.reachable || (copies as usize) < groups || !status.moves.is_empty() {
        return Err(format!("{name} has a copy of {copies} of {groups} groups, and votes in {}", node.votes));
    }
    Ok(format!("{name} has joined: it votes in {} of {groups} groups and leads {}", node.votes, node.leads))
}

pub(crate) async fn remove(args: &Remove, session: &Session) -> Result<(), Failure> {
    change(session, &args.node, Change::Remove).await?;
    let name = &args.node;
    wait(session, &args.wait, |status| match status.nodes.iter().find(|node| node.name == *name) {
        None => Ok(format!("{name} has been removed; it can be stopped")),
        Some(node) => Err(format!("{name} still votes in {} groups and has {} copies", node.votes, node.copies)),
    })
    .await
}

pub(crate) async fn replace(args: &Replace, session: &Session) -> Result<(), Failure> {
    let status = look(session).await?;
    let left = |node: &&pb::NodeStatus| node.name != args.node;
    let peers: Vec<_> = status.nodes.iter().filter(left).map(|node| node.peer_address.as_str()).collect();
    change(session, &args.node, Change::Replace).await?;
    talk(format_args!(
        "{} is being removed; start one with an empty data directory in its place: netstate server --name {} … --join {}",
        args.node,
        args.node,
        peers.join(",")
    ));
    Ok(())
}

pub(crate) async fn drain(args: &Drain, session: &Session) -> Result<(), Failure> {
    let name = &args.node;
    if args.end {
        change(session, name, Change::EndDrain).await?;
        talk(format_args!("{name} gets back its share of votes and leaders"));
        return Ok(());
    }
    change(session, name, Change::Drain).await?;
    wait(session, &args.wait, |status| match status.nodes.iter().find(|node| node.name == *name) {
        Some(node) if node.votes == 0 && node.leads == 0 => {
            Ok(format!("{name} neither votes nor leads; it can be stopped"))
        }
        // With too few others there is nobody to take over.
        Some(node) if status.moves.is_empty() && node.leads == 0 => Ok(format!(
            "{name} leads nothing and can be stopped; it still votes in {} groups, as nobody else can",
            node.votes
        )),
        Some(node) => Err(format!("{name} still leads {} groups and votes in {}", node.leads, node.votes)),
        None => Err(format!("{name} is gone")),
    })
    .await
}

pub(crate) async fn replicas(args: &Replicas, session: &Session) -> Result<(), Failure> {
    session.client.set_replicas(pb::SetReplicasRequest { replicas: args.count }).await?;
    talk(format_args!("each group gets {} voters, as far as there are nodes", args.count));
    Ok(())
}

async fn change(session: &Session, node: &str, change: Change) -> Result<(), Failure> {
    let request = pb::ChangeNodeRequest { node: node.to_owned(), change: change.into() };
    session.client.change_node(request).await?;
    Ok(())
}

async fn look(session: &Session) -> Result<pb::ClusterStatusResponse, Failure> {
    Ok(session.client.cluster_status(pb::ClusterStatusRequest {}).await?)
}

/// Looks until it is done, with a line that says how far it is.
pub(super) async fn wait(
    session: &Session,
    wait: &Wait,
    progress: impl Fn(&pb::ClusterStatusResponse) -> Progress,
) -> Result<(), Failure> {
    if wait.no_wait {
        return Ok(());
    }
    let line = session.console.line();
    let deadline = Instant::now() + wait.patience.get();
    let mut seen = 0;
    loop {
        let status = look(session).await?;
        match progress(&status) {
            // What is planned follows what is decided by a moment: it has to be seen twice.
            Ok(done) if seen > 0 => {
                line.finish_and_clear();
                talk(done);
                return Ok(());
            }
            Ok(_) => seen += 1,
            Err(text) if Instant::now() >= deadline => {
                line.finish_and_clear();
                return Err(Failure::False(Some(format!(
                    "{text}; it goes on by itself, see `netstate cluster status`"
                ))));
            }
            Err(text) => {
                seen = 0;
                line.set_message(text);
            }
        }
        time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_joined_once_it_has_everything_and_nothing_moves() {
        let mut status =
            pb::ClusterStatusResponse { groups: vec![pb::GroupStatus::default(); 4], ..Default::default() };
        assert!(has_joined(&status, "n4").unwrap_err().contains("not asked yet"));
        status.nodes = vec![pb::NodeStatus { name: "n4".into(), reachable: true, copies: 3, ..Default::default() }];
        assert_eq!(has_joined(&status, "n4").unwrap_err(), "n4 has a copy of 3 of 4 groups, and votes in 0");
        status.nodes[0].votes = 1;
        assert!(has_joined(&status, "n4").is_ok());
        status.moves = vec!["g1: n4 is catching up".into()];
        assert!(has_joined(&status, "n4").is_err());
    }
}
