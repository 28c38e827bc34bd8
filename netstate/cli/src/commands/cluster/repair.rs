//! A node's damaged replicas, fetched anew from the others.

use netstate_proto::v1 as pb;

use super::nodes::{self, Wait};
use crate::{console::talk, failure::Failure, session::Session};

/// How long fetching may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(600);

/// Have a node fetch what is damaged at it from the others
///
/// `netstate cluster status` says which replicas are out of service and why. The node fetches the state of those groups from
/// its peers, starts again by itself, and serves them again. The others go on meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster repair n2
  netstate cluster repair n2 --group 7")]
pub(crate) struct Args {
    /// Which node
    node: String,
    /// This group only [default: all that are out of service]
    #[arg(long)]
    group: Option<u32>,
    #[command(flatten)]
    wait: Wait,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let client = session.patient(PATIENCE)?;
    let request = pb::RepairRequest { node: args.node.clone(), group: args.group };
    let fetched = client.repair(request).await?.groups;
    let names: Vec<_> = fetched.iter().map(|group| format!("g{group}")).collect();
    talk(format_args!("{} has fetched {} and starts again", args.node, names.join(", ")));
    nodes::wait(session, &args.wait, |status| {
        let node = status.nodes.iter().find(|node| node.name == args.node);
        let broken = |group: &&pb::GroupStatus| fetched.contains(&group.group) && group.problem.contains(&args.node);
        match (node, status.groups.iter().find(broken)) {
            (Some(node), None) if node.reachable => Ok(format!("{} serves all of it again", args.node)),
            (Some(node), Some(group)) if node.reachable => Err(group.problem.clone()),
            _ => Err(format!("{} is starting", args.node)),
        }
    })
    .await
}
