//! What may be asked of the directory.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Ports, Protocol, Side};
use crate::{ConnectionId, HostId, Labels, Name, NetworkId};

/// A command to the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectoryCommand {
    /// Creates a network.
    CreateNetwork {
        /// Its name.
        name: Name,
        /// Its pools: at least one.
        pools: Vec<IpNet>,
        /// Prefix length of its IPv4 blocks. None: chosen to fit the pools.
        block_len_v4: Option<u8>,
        /// Prefix length of its IPv6 blocks. None: chosen to fit the pools.
        block_len_v6: Option<u8>,
        /// Its labels.
        labels: Labels,
    },
    /// Begins to remove a network. Refused while connections refer to it. No change if it is being removed already.
    /// Next, the network's own keyspace is to be retired ([`crate::NetworkCommand::Retire`]).
    RetireNetwork {
        /// The network.
        network: NetworkId,
    },
    /// Takes the beginning of a removal back, because endpoints are attached.
    KeepNetwork {
        /// The network.
        network: NetworkId,
    },
    /// Ends the removal of a network, whose own keyspace is retired.
    RemoveNetwork {
        /// The network.
        network: NetworkId,
    },
    /// Allows `from` to open flows to `to`. Needs a reason.
    Connect {
        /// Who may open flows.
        from: Side,
        /// Who may be reached.
        to: Side,
        /// With which protocol.
        protocol: Protocol,
        /// On which ports. Empty: all.
        ports: Vec<Ports>,
        /// For how long, in whole seconds. None: until disconnected.
        lifetime: Option<Duration>,
    },
    /// Takes a connection away. Needs a reason.
    Disconnect {
        /// The connection.
        connection: ConnectionId,
    },
    /// Takes a connection away whose time is over.
    Expire {
        /// The connection.
        connection: ConnectionId,
    },
    /// Makes a host known, or updates the host of this name. No change if all is as it was.
    RegisterHost {
        /// Its name.
        name: Name,
        /// The address that other hosts route to.
        underlay: IpAddr,
        /// Its labels.
        labels: Labels,
    },
    /// Forgets a host.
    RemoveHost {
        /// The host.
        host: HostId,
        /// Endpoints that the caller sees attached on it; refused unless there are none.
        endpoints: u64,
    },
    /// Says what becomes of the endpoints of hosts that no server hears any more.
    SetHostPolicy {
        /// They are detached when the host has been silent for so long, in whole seconds. None: they stay.
        detach_after: Option<Duration>,
    },
    /// Gives a host up. Refused unless it has been silent for as long as the policy says. Next, its endpoints are to be
    /// detached ([`crate::NetworkCommand::Detach`]).
    LoseHost {
        /// The host.
        host: HostId,
        /// For how long no server has heard it.
        silent: Duration,
    },
    /// Takes a host back that was given up and is heard again.
    FindHost {
        /// The host.
        host: HostId,
        /// Endpoints that the caller sees attached on it; refused unless there are none, since they are to be detached.
        endpoints: u64,
    },
}
