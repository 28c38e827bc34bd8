//! Networks and hosts, as the directory records them.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{HostId, Labels, Name, NetworkId, Timestamp};

/// A network: a segment with address pools of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Its name, unique among networks.
    pub name: Name,
    /// Its address pools, in the order given; none overlaps another one anywhere.
    pub pools: Vec<IpNet>,
    /// Prefix length of the blocks that IPv4 pools are cut into.
    pub block_len_v4: u8,
    /// Prefix length of the blocks that IPv6 pools are cut into.
    pub block_len_v6: u8,
    /// Its labels.
    pub labels: Labels,
    /// When it was created.
    pub created_at: Timestamp,
    /// Who created it.
    pub created_by: String,
    /// Whether it is being removed.
    pub retiring: bool,
}

/// A host: a machine with an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// Its name, unique among hosts.
    pub name: Name,
    /// The address that other hosts route to, unique among hosts.
    pub underlay: IpAddr,
    /// Its labels.
    pub labels: Labels,
    /// When it was registered first.
    pub registered_at: Timestamp,
}

/// What becomes of the endpoints of hosts that no server hears any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPolicy {
    /// They are detached when the host has been silent for so many seconds. None: they stay.
    pub detach_after_seconds: Option<u64>,
}

impl HostPolicy {
    /// For how long a host is silent before its endpoints are detached. None: they stay.
    pub fn detach_after(self) -> Option<Duration> {
        self.detach_after_seconds.map(Duration::from_secs)
    }
}

/// A host that was given up: it has no endpoints until it is heard again, or they are just being detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostHost {
    /// The host.
    pub host: HostId,
    /// When that was decided.
    pub since: Timestamp,
}
