//! `netstate agent`.

use std::{net::IpAddr, path::PathBuf};

use netstate_agent::{AgentConfig, AgentError};
use netstate_model::NetnsName;
use tokio_util::sync::CancellationToken;

use super::{logging, signals::Ends};
use crate::{
    failure::Failure,
    session::hostname,
    values::{self, Label, Span},
};

/// Run the agent of a host: programs the kernel with what the cluster says about this host
///
/// What it has programmed stays in force when it ends. It needs root, nft, ip and conntrack, unless --dry-run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate agent --underlay 10.0.0.11 --servers 10.0.0.1:2379,10.0.0.2:2379
  netstate agent --host h1 --underlay 10.0.0.11 --label zone=a --dry-run")]
pub(crate) struct Args {
    /// This host's name in the cluster [default: the hostname]
    #[arg(long, env = "NETSTATE_HOST")]
    host: Option<String>,
    /// The address that other hosts send this host's packets to
    #[arg(long, env = "NETSTATE_UNDERLAY", value_name = "IP")]
    underlay: IpAddr,
    /// A label of this host; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
    /// Where the last scope is kept, for when no server answers
    #[arg(long, env = "NETSTATE_STATE_DIR", value_name = "DIR", default_value = "/var/lib/netstate-agent")]
    state_dir: PathBuf,
    /// Where the files of endpoints' network namespaces are
    #[arg(long, env = "NETSTATE_NETNS_DIR", value_name = "DIR", default_value = "/run/netns")]
    netns_dir: String,
    /// Name of the nftables table that the agent owns
    #[arg(long, value_name = "NAME", default_value = "netstate")]
    table: String,
    /// How often the kernel is compared with what it should hold, even when nothing seems to have changed
    #[arg(long, value_name = "SPAN", default_value = "10s")]
    compare_every: Span,
    /// Network namespace to work in, instead of the agent's own
    #[arg(long, value_name = "NAME")]
    host_netns: Option<NetnsName>,
    /// Print what would be programmed, and touch nothing on this host
    #[arg(long)]
    dry_run: bool,
}

/// Runs until a signal.
pub(crate) async fn run(args: Args, servers: Vec<String>) -> Result<(), Failure> {
    let host = args.host.or_else(hostname).ok_or_else(|| Failure::usage("this machine has no name; pass --host"))?;
    let config = AgentConfig {
        labels: values::labels(&args.labels).map_err(Failure::Usage)?,
        state_dir: args.state_dir,
        table: args.table,
        netns_dir: args.netns_dir,
        dry_run: args.dry_run,
        compare_every: args.compare_every.get(),
        host_netns: args.host_netns,
        ..AgentConfig::new(host, args.underlay, servers)
    };
    logging::start()?;
    let mut ends = Ends::listen()?;
    let shutdown = CancellationToken::new();
    let running = Box::pin(netstate_agent::run(config, shutdown.clone()));
    tokio::pin!(running);
    let ended = tokio::select! {
        ended = &mut running => ended,
        signal = ends.arrived() => {
            tracing::info!(signal, "stopping; what is programmed stays in force");
            shutdown.cancel();
            running.await
        }
    };
    ended.map_err(|error| match error {
        AgentError::Config(_) | AgentError::Servers(_) => Failure::usage(format!("{:#}", anyhow::Error::new(error))),
        AgentError::State(_) => Failure::refused(error),
    })
}
