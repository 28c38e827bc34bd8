//! What can happen to the directory.

use serde::{Deserialize, Serialize};

use super::{Connection, Host, HostPolicy, LostHost, Network, ports::Traffic};
use crate::{ConnectionId, HostId, NetworkId};

/// One change of the directory: one record put or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryChange {
    /// A network is new or different.
    Network(Network),
    /// A network is no more.
    NetworkGone(NetworkId),
    /// A connection is new.
    Connection(Connection),
    /// A connection is no more.
    ConnectionGone(ConnectionId),
    /// A host is new or different.
    Host(Host),
    /// A host is no more.
    HostGone(HostId),
    /// Another policy for hosts that are not heard any more.
    HostPolicy(HostPolicy),
    /// A host was given up.
    HostLost(LostHost),
    /// A host is given up no more.
    HostFound(HostId),
    /// The next ids are other ones.
    Counters(Counters),
}

/// The ids that come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// The next network's number.
    pub network: u32,
    /// The next connection's number.
    pub connection: u32,
    /// The next host's number.
    pub host: u32,
}

impl Default for Counters {
    fn default() -> Self {
        Counters { network: 1, connection: 1, host: 1 }
    }
}

impl DirectoryChange {
    /// The change in one line, for the audit trail.
    pub fn describe(&self) -> String {
        match self {
            DirectoryChange::Network(network) => {
                let pools: Vec<String> = network.pools.iter().map(ToString::to_string).collect();
                let retiring = if network.retiring { ", being removed" } else { "" };
                let labels = labels_text(&network.labels);
                format!(
                    "network {} ({}): pools {}, blocks /{} and /{}{labels}{retiring}",
                    network.name,
                    network.id,
                    pools.join(" "),
                    network.block_len_v4,
                    network.block_len_v6
                )
            }
            DirectoryChange::NetworkGone(id) => format!("network {id} removed"),
            DirectoryChange::Connection(connection) => {
                let side = |side: &super::Side| match &side.selector {
                    Some(selector) => format!("{}[{selector}]", side.network),
                    None => side.network.to_string(),
                };
                let traffic = Traffic { protocol: connection.protocol, ports: &connection.ports };
                let end = connection.expires_at.map_or_else(String::new, |end| format!(" until {end}"));
                format!(
                    "connection {}: {} to {} on {traffic}{end}",
                    connection.id,
                    side(&connection.from),
                    side(&connection.to)
                )
            }
            DirectoryChange::ConnectionGone(id) => format!("connection {id} removed"),
            DirectoryChange::Host(host) => {
                format!("host {} ({}): underlay {}{}", host.name, host.id, host.underlay, labels_text(&host.labels))
            }
            DirectoryChange::HostGone(id) => format!("host {id} removed"),
            DirectoryChange::HostPolicy(policy) => match policy.detach_after_seconds {
                Some(seconds) => format!("endpoints of hosts silent for {seconds} s are detached"),
                None => "endpoints of silent hosts stay".to_owned(),
            },
            DirectoryChange::HostLost(lost) => format!("host {} given up at {}", lost.host, lost.since),
            DirectoryChange::HostFound(id) => format!("host {id} given up no more"),
            DirectoryChange::Counters(Counters { network, connection, host }) => {
                format!("next ids: net{network}, c{connection}, h{host}")
            }
        }
    }
}

/// Labels behind other things, or nothing.
pub(crate) fn labels_text(labels: &crate::Labels) -> String {
    if labels.is_empty() { String::new() } else { format!(", labels {labels}") }
}
