//! The way out when a majority of the nodes is lost for good.

use std::path::PathBuf;

use kv_node::Extent;
use serde_json::json;

use crate::{
    console::{Console, talk},
    failure::Failure,
};

/// DANGEROUS: have one surviving node go on alone when a majority is lost for good
///
/// Without --accept-loss nothing is changed: it prints how far the logs in a stopped node's directory go. Run that for each
/// survivor and take the one with the highest term, and then the highest index, for the groups that matter.
///
/// With --accept-loss that directory becomes a cluster of its own, of this one node, with a new cluster id. What a majority
/// had acknowledged and this node did not have yet is LOST; what it had and nobody acknowledged is kept. Start it, and have
/// others join it with empty directories. Nodes of the old cluster are refused if they come back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster recover --data-dir /var/lib/netstate
  netstate cluster recover --data-dir /var/lib/netstate --name n2 --peer 10.0.0.2:2380 --accept-loss")]
pub(crate) struct Args {
    /// The data directory of a node that is stopped
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The node's name
    #[arg(long, requires = "accept_loss")]
    name: Option<String>,
    /// Where other nodes reach it
    #[arg(long, value_name = "HOST:PORT", requires = "accept_loss")]
    peer: Option<String>,
    /// Do it
    #[arg(long, requires_all = ["name", "peer"])]
    accept_loss: bool,
}

pub(crate) async fn run(args: &Args, console: Console) -> Result<(), Failure> {
    let (true, Some(name), Some(peer)) = (args.accept_loss, &args.name, &args.peer) else {
        return look(args, console);
    };
    let cluster = kv_node::go_on_alone(&args.data_dir, name, peer).await.map_err(Failure::refused)?;
    talk(format_args!(
        "{name} is cluster {cluster} now, of itself; start it with netstate server --name {name} --data-dir {} \
         --listen-peer {peer} …, and have others join it, with empty directories",
        args.data_dir.display()
    ));
    Ok(())
}

fn look(args: &Args, console: Console) -> Result<(), Failure> {
    let found = kv_node::positions(&args.data_dir).map_err(Failure::refused)?;
    let as_json = |extent: &Extent| {
        let (term, index) = extent.last.unzip();
        json!({ "group": extent.group.get(), "term": term, "index": index })
    };
    let row = |extent: &Extent| {
        let told = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let (term, index) = extent.last.unzip();
        vec![extent.group.to_string(), told(term), told(index)]
    };
    console.answer(
        || found.iter().map(as_json).collect(),
        || console.table(&["group", "term", "index"], found.iter().map(row).collect()),
    )?;
    talk("nothing was changed; compare with the other survivors, then see --help");
    Ok(())
}
