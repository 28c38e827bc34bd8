//! What benchmarks need to be there first, and what they need to be told by a cluster.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use netstate_client::{Client, ClientError};
use netstate_proto::v1 as pb;
use tokio::time::{self, Instant};
use tonic::Code;

use crate::{failure::Failure, session::Session};

/// Why benchmarks do what they do, for the audit trail.
pub(super) const REASON: &str = "netstate bench";
/// Between looks at something that is awaited.
const PAUSE: Duration = Duration::from_millis(50);
/// Hosts get addresses of 198.18.0.0/15, which is set aside for benchmarks.
const UNDERLAY: u32 = 0xc612_0000;
const UNDERLAYS: u32 = 1 << 17;
/// Hosts of one load that surely have other addresses than those of the next.
const UNDERLAYS_APART: u32 = 1024;

/// Makes a network, unless it is there already.
pub(super) async fn network(
    client: &Client,
    session: &Session,
    name: &str,
    pool: &str,
    block: u32,
) -> Result<(), Failure> {
    let request = pb::CreateNetworkRequest {
        origin: session.origin(REASON),
        name: name.to_owned(),
        pools: vec![pool.to_owned()],
        block_len_v4: block,
        ..pb::CreateNetworkRequest::default()
    };
    match client.create_network(request).await {
        Ok(_) => Ok(()),
        Err(ClientError::Refused { code: Code::AlreadyExists, .. }) if exists(client, name).await => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the network is there: a taken pool is refused in the same way as a taken name.
async fn exists(client: &Client, name: &str) -> bool {
    client.get_network(pb::GetNetworkRequest { network: name.to_owned() }).await.is_ok()
}

/// Registers a host, by its number.
pub(super) async fn host(client: &Client, session: &Session, prefix: &str, number: u32) -> Result<(), Failure> {
    // Loads of different names are put beside each other, not onto each other.
    let load = prefix.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let place = load.wrapping_mul(UNDERLAYS_APART).wrapping_add(number) % UNDERLAYS;
    let request = pb::RegisterHostRequest {
        origin: session.origin(REASON),
        name: host_name(prefix, number),
        underlay: std::net::Ipv4Addr::from_bits(UNDERLAY + place).to_string(),
        ..pb::RegisterHostRequest::default()
    };
    client.register_host(request).await?;
    Ok(())
}

pub(super) fn host_name(prefix: &str, number: u32) -> String {
    format!("{prefix}-host-{number}")
}

/// Waits until every node that can be reached has this many endpoints in its picture.
pub(super) async fn settled(session: &Session, endpoints: u64) -> Result<pb::ClusterStatusResponse, Failure> {
    let patience = Instant::now() + session.patience();
    loop {
        let status = session.client.cluster_status(pb::ClusterStatusRequest {}).await?;
        let reachable = status.nodes.iter().filter(|node| node.reachable);
        if reachable.clone().all(|node| node.endpoints >= endpoints) {
            return Ok(status);
        }
        if Instant::now() > patience {
            let fewest = reachable.map(|node| node.endpoints).min().unwrap_or(0);
            return Err(Failure::because(format!(
                "a node shows {fewest} endpoints of {endpoints} and gets no further"
            )));
        }
        time::sleep(PAUSE).await;
    }
}

/// Each node at two times.
pub(super) fn nodes<'a>(
    before: &'a pb::ClusterStatusResponse,
    after: &'a pb::ClusterStatusResponse,
) -> impl Iterator<Item = (&'a pb::NodeStatus, &'a pb::NodeStatus)> {
    let earlier = |now: &pb::NodeStatus| before.nodes.iter().find(|node| node.name == now.name);
    after.nodes.iter().filter_map(move |now| Some((earlier(now)?, now)))
}

/// A bar on standard error that moves, where somebody can see it.
pub(super) fn bar(session: &Session, what: &'static str, total: u64) -> ProgressBar {
    let target = if session.console.is_live() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}
