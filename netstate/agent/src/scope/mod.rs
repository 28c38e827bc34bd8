//! What a host has been told of the world: its scope, as state.
//!
//! Must hold: a frame is applied whole or not at all; applying the same frame twice changes nothing more; what is held is
//! exactly what the next Hello claims.
//!
//! Left to others: where frames come from (`source`), what follows from a scope (`plan`), and keeping it on disk (`store`).

mod parse;
mod step;
pub mod store;

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use netstate_model::{ConnectionId, EndpointId, HostId, Mac, NetnsName, NetworkId, Timestamp};
use netstate_proto::v1::host_report::{Have, Hello};
use serde::{Deserialize, Serialize};

pub use parse::FrameError;
pub use step::Step;

/// A host's scope, as of the last frame applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostScope {
    /// The host's own id; none before the first frame.
    pub host: Option<HostId>,
    /// Position of the directory that this agrees with.
    pub directory_revision: u64,
    /// Networks in scope.
    pub networks: BTreeMap<NetworkId, Network>,
    /// Connections in scope.
    pub connections: BTreeMap<ConnectionId, Connection>,
    /// Whether this is everything that the scope held at some moment. Until then, what is missing may just be on its way.
    pub complete: bool,
}

/// One network, as far as this host needs it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Its name, for people.
    pub name: String,
    /// Position of the network's keyspace up to which everything below was received.
    pub revision: u64,
    /// Its address pools; no two networks' pools overlap.
    pub pools: Vec<IpNet>,
    /// Which part of the pools was given to which host.
    pub blocks: BTreeMap<IpNet, Block>,
    /// Endpoints with an address in a block of another host than their own.
    pub strays: BTreeMap<EndpointId, Place>,
    /// Endpoints anywhere that may talk to nobody.
    pub quarantined: BTreeMap<EndpointId, Vec<IpAddr>>,
    /// Whether this host has been told of its own endpoints on the network.
    pub local: bool,
    /// Endpoints on this host.
    pub endpoints: BTreeMap<EndpointId, LocalEndpoint>,
}

/// Who has a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The host.
    pub host: HostId,
    /// Where its packets go.
    pub underlay: IpAddr,
}

/// Where a single endpoint is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Its addresses, at most one for each family.
    pub addresses: Vec<IpAddr>,
    /// Its host.
    pub host: HostId,
    /// Where that host's packets go.
    pub underlay: IpAddr,
}

/// An endpoint on this very host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalEndpoint {
    /// Its name, for people.
    pub name: String,
    /// Its addresses, at most one for each family.
    pub addresses: Vec<IpAddr>,
    /// The only link-layer address that it may send from.
    pub mac: Mac,
    /// The namespace that it lives in; none: somebody else gives it its interface.
    pub netns: Option<NetnsName>,
    /// Whether it may talk to nobody.
    pub quarantined: bool,
    /// Which of the namespace's interfaces it is: the first gets the default route. Stays when others go.
    pub slot: u16,
}

/// A permission for traffic from one network to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// Who may begin.
    pub from: Side,
    /// Who may be talked to.
    pub to: Side,
    /// On which protocol.
    pub protocol: Protocol,
    /// On which of its ports, sorted and merged; none: on all.
    pub ports: Vec<Ports>,
    /// From when on no more.
    pub expires_at: Option<Timestamp>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// The network.
    pub network: NetworkId,
    /// Those that a selector selects, with their addresses; none: the whole network.
    pub members: Option<BTreeMap<EndpointId, Vec<IpAddr>>>,
}

/// What a connection lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// Everything.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, and ICMPv6 between IPv6 addresses.
    Icmp,
    /// SCTP.
    Sctp,
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Ports {
    /// Every port.
    pub const ALL: Ports = Ports { first: 0, last: u16::MAX };
}

impl HostScope {
    /// What to tell a server when a stream begins.
    pub fn hello(&self, host: &str) -> Hello {
        let have = |(id, network): (&NetworkId, &Network)| Have {
            network_id: id.to_string(),
            revision: network.revision,
            local: network.local,
        };
        Hello {
            host: host.to_owned(),
            directory_revision: self.directory_revision,
            networks: self.networks.iter().map(have).collect(),
            connections: self.connections.keys().map(ToString::to_string).collect(),
        }
    }

    /// When the next connection expires, after `now`.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        self.connections.values().filter_map(|connection| connection.expires_at).filter(|at| *at > now).min()
    }

    /// Every endpoint on this host.
    pub fn locals(&self) -> impl Iterator<Item = (EndpointId, &Network, &LocalEndpoint)> {
        self.networks.values().flat_map(|network| network.endpoints.iter().map(move |(id, own)| (*id, network, own)))
    }
}
