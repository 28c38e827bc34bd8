//! `netstate server`.

use std::path::PathBuf;

use netstate_server::{Adopt, Server, ServerConfig};

use super::{logging, signals::Ends};
use crate::{
    console::talk,
    descriptors,
    failure::Failure,
    settings::{self, Collector},
};

/// Run a node of a cluster
///
/// Every option can also be given in the file of --config, by the same name without the dashes in front, or as a variable:
/// --listen-client is NETSTATE_LISTEN_CLIENT. An option on the command line goes before a variable, a variable before the
/// file. NETSTATE_LOG sets what is logged (info, debug, …).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate server                      a one-node cluster in ./netstate-data
  netstate server --config /etc/netstate/server.toml
  netstate server --name n1 --data-dir /var/lib/netstate --listen-client 10.0.0.1:2379 --listen-peer 10.0.0.1:2380 \\
      --initial-cluster n1=10.0.0.1:2380,n2=10.0.0.2:2380,n3=10.0.0.3:2380
  netstate server --name n4 --data-dir /var/lib/netstate --listen-client 10.0.0.4:2379 --listen-peer 10.0.0.4:2380 \\
      --join 10.0.0.1:2380")]
pub(crate) struct Args {
    /// This node's name, one of those in --initial-cluster [default: n1]
    #[arg(long)]
    name: Option<String>,
    /// Folder of this node's data [default: ./netstate-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Where clients and hosts connect [default: 127.0.0.1:2379]
    #[arg(long, value_name = "IP:PORT")]
    listen_client: Option<String>,
    /// Where other nodes connect [default: 127.0.0.1:2380]
    #[arg(long, value_name = "IP:PORT")]
    listen_peer: Option<String>,
    /// Where metrics and health are served [default: 127.0.0.1:2381]
    #[arg(long, value_name = "IP:PORT")]
    listen_http: Option<String>,
    /// All nodes that the cluster is founded with, as name=host:port of their peer ports [default: this node alone]
    #[arg(long, value_name = "NAME=HOST:PORT,…")]
    initial_cluster: Option<String>,
    /// Join the cluster of the node with this peer port, in place of founding one; several, and the first that answers is asked
    #[arg(long, value_name = "HOST:PORT,…")]
    join: Option<String>,
    /// Where other nodes reach this one [default: as in --initial-cluster, or --listen-peer]
    #[arg(long, value_name = "HOST:PORT")]
    advertise_peer: Option<String>,
    /// Where this node stands; copies are spread over zones, so that one may fail as a whole
    #[arg(long)]
    zone: Option<String>,
    /// voter, or relay: has a copy of everything and serves hosts, watches and reads, but never votes [default: voter]
    #[arg(long)]
    role: Option<String>,
    /// Raft groups that keyspaces are spread over; fixed when the cluster is founded [default: 16]
    #[arg(long)]
    groups: Option<String>,
    /// MiB left free on the disk: with less, writes are refused [default: 128]
    #[arg(long, value_name = "MIB")]
    disk_reserve: Option<String>,
    /// Further ports for clients of etcd, each with the keyspace that they use; on the client port that is "default"
    #[arg(long, value_name = "IP:PORT=KEYSPACE,…")]
    etcd_listen: Option<String>,
    /// MiB of keys and values that a keyspace may hold: with more, its clients' writes are refused [default: any]
    #[arg(long, value_name = "MIB")]
    etcd_quota: Option<String>,
    /// What of a keyspace's history is compacted by itself: an age (1h), a number of revisions to keep, or off [default: off]
    #[arg(long, value_name = "POLICY")]
    etcd_auto_compaction: Option<String>,
    /// How clients of etcd prove who they are: simple, or jwt,… with etcd's options [default: simple]
    #[arg(long, value_name = "SPEC")]
    etcd_auth_token: Option<String>,
    /// Send spans of requests to this OpenTelemetry collector (in a build with the feature otel)
    #[arg(long, value_name = "URL")]
    otel_endpoint: Option<String>,
    /// Share of the requests of which spans are sent; of those whose clients trace them, what they say [default: 0.01]
    #[arg(long, value_name = "SHARE")]
    otel_sample: Option<String>,
    /// File with any of these options, in TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Args {
    fn flags(self) -> Vec<(&'static str, String)> {
        let flags = [
            (settings::NAME, self.name),
            (settings::DATA_DIR, self.data_dir),
            (settings::LISTEN_CLIENT, self.listen_client),
            (settings::LISTEN_PEER, self.listen_peer),
            (settings::LISTEN_HTTP, self.listen_http),
            (settings::INITIAL_CLUSTER, self.initial_cluster),
            (settings::JOIN, self.join),
            (settings::ADVERTISE_PEER, self.advertise_peer),
            (settings::ZONE, self.zone),
            (settings::ROLE, self.role),
            (settings::GROUPS, self.groups),
            (settings::DISK_RESERVE, self.disk_reserve),
            (settings::ETCD_LISTEN, self.etcd_listen),
            (settings::ETCD_QUOTA, self.etcd_quota),
            (settings::ETCD_AUTO_COMPACTION, self.etcd_auto_compaction),
            (settings::ETCD_AUTH_TOKEN, self.etcd_auth_token),
            (settings::OTEL_ENDPOINT, self.otel_endpoint),
            (settings::OTEL_SAMPLE, self.otel_sample),
        ];
        flags.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

/// Runs until a signal, or until the node has to stop.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let config = args.config.clone();
    let variable = |name: &str| std::env::var(name).ok();
    let file = config.or_else(|| variable("NETSTATE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from));
    let text = file.as_ref().map(std::fs::read_to_string);
    let file = file.as_deref().zip(text);
    let read = settings::read(&args.flags(), &variable, file);
    let (config, collector) = read.map_err(|mistakes| Failure::usage(mistakes.to_string()))?;
    let tracing = Tracing::start(collector, &config.node.name)?;
    if let Some(files) = descriptors::raise() {
        tracing::debug!(files, "may be open at a time");
    }
    let config = ServerConfig { trace: tracing.adopt(), ..config };
    let mut ends = Ends::listen()?;
    let (name, folder) = (config.node.name.clone(), config.node.data_dir.display().to_string());
    let server = Box::pin(Server::start(config)).await.map_err(Failure::refused)?;
    talk(format_args!(
        "netstate: {name} serves clients on {}, HTTP on {}, data in {folder}",
        server.client_address(),
        server.http_address()
    ));
    let end = tokio::select! {
        reason = server.failed() => End::Failed(reason),
        () = server.restart_wanted() => End::Restart,
        signal = ends.arrived() => {
            tracing::info!(signal, "stopping");
            End::Stopped
        }
    };
    server.shutdown().await;
    tracing.end().await;
    match end {
        End::Stopped => Ok(()),
        End::Failed(reason) => Err(Failure::because(format!("{name} had to stop: {reason}"))),
        End::Restart => Err(Failure::refused(start_again())),
    }
}

/// Why a server ends.
enum End {
    Stopped,
    Failed(String),
    /// To go on with what it has on disk now.
    Restart,
}

/// Replaces this process by one like it: same arguments, same process id, so that whoever watches over it does not notice.
/// Files and locks close by themselves. Returns only if that was not possible.
fn start_again() -> std::io::Error {
    use std::os::unix::process::CommandExt;

    talk("netstate: starting again to use what was fetched");
    let mut arguments = std::env::args_os();
    let Some(program) = std::env::current_exe().ok().map(PathBuf::into_os_string).or_else(|| arguments.next()) else {
        return std::io::Error::other("nobody knows how this program was started");
    };
    std::process::Command::new(program).args(std::env::args_os().skip(1)).exec()
}

/// Logging, and spans of requests where they are wanted.
#[cfg(feature = "otel")]
struct Tracing(Option<crate::otel::Exporting>);

#[cfg(feature = "otel")]
impl Tracing {
    fn start(collector: Option<Collector>, node: &str) -> Result<Self, Failure> {
        let exporting = collector.map(|collector| crate::otel::Exporting::start(&collector, node)).transpose()?;
        match &exporting {
            Some(exporting) => logging::start_exporting(exporting)?,
            None => logging::start()?,
        }
        Ok(Tracing(exporting))
    }

    fn adopt(&self) -> Option<Adopt> {
        self.0.as_ref().map(|_| crate::otel::adopt as Adopt)
    }

    async fn end(self) {
        if let Some(exporting) = self.0 {
            // It blocks. What goes wrong it says itself.
            let _ = tokio::task::spawn_blocking(|| exporting.end()).await;
        }
    }
}

#[cfg(not(feature = "otel"))]
struct Tracing;

#[cfg(not(feature = "otel"))]
impl Tracing {
    fn start(_collector: Option<Collector>, _node: &str) -> Result<Self, Failure> {
        logging::start().map(|()| Tracing)
    }

    fn adopt(&self) -> Option<Adopt> {
        None
    }

    async fn end(self) {}
}
