//! What can happen to a network.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Endpoint, NetworkConfig};
use crate::{HostId, directory::labels_text};

/// One change of a network's own state: one record put or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkChange {
    /// The settings are new or different.
    Config(NetworkConfig),
    /// A block belongs to a host.
    Block {
        /// The block.
        block: IpNet,
        /// Its host.
        host: HostId,
    },
    /// A block belongs to nobody.
    BlockGone(IpNet),
    /// An endpoint is new or different. Shared, because state and changes hold very many of them.
    Endpoint(Arc<Endpoint>),
    /// An endpoint is no more.
    EndpointGone(u32),
    /// The next endpoint's number is another one.
    NextNumber(u32),
}

impl NetworkChange {
    /// The change in one line, for the audit trail.
    pub fn describe(&self) -> String {
        match self {
            NetworkChange::Config(config) => {
                let retired = if config.retired { ", removed" } else { "" };
                format!("network {} ({}): pools {}{retired}", config.name, config.id, config.pools_text(None))
            }
            NetworkChange::Block { block, host } => format!("block {block} to {host}"),
            NetworkChange::BlockGone(block) => format!("block {block} free"),
            NetworkChange::Endpoint(endpoint) => describe_endpoint(endpoint),
            NetworkChange::EndpointGone(number) => format!("endpoint {number} detached"),
            NetworkChange::NextNumber(number) => format!("next endpoint number: {number}"),
        }
    }
}

fn describe_endpoint(endpoint: &Endpoint) -> String {
    let addresses: Vec<String> = endpoint.addresses.iter().map(|address| address.to_string()).collect();
    let workload = match &*endpoint.workload {
        "" => String::new(),
        workload => format!(", workload {workload}"),
    };
    let quarantine = match &endpoint.quarantine {
        Some(quarantine) => format!(", in quarantine: {:?}", quarantine.reason),
        None => String::new(),
    };
    format!(
        "endpoint {} ({}) on {}: {}, mac {}{}{workload}{quarantine}",
        endpoint.name,
        endpoint.id,
        endpoint.host,
        addresses.join(" "),
        endpoint.mac,
        labels_text(&endpoint.labels)
    )
}
