//! Endpoints.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{EndpointId, HostId, Labels, Mac, Name, NetnsName, Timestamp};

/// One interface of one container, machine or service on one network.
///
/// There are a great many of these: fields are chosen for size, and what most endpoints lack costs a pointer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Its name, unique in its network.
    pub name: Name,
    /// The host that it is on.
    pub host: HostId,
    /// Its addresses: one for each family that its network has pools of.
    pub addresses: Addresses,
    /// Its MAC address.
    pub mac: Mac,
    /// Its labels.
    pub labels: Labels,
    /// What it belongs to, as its runtime calls it. May be empty.
    pub workload: Box<str>,
    /// The network namespace to put it into. None: the agent enforces, and leaves the interface to others.
    pub netns: Option<NetnsName>,
    /// When it was attached.
    pub attached_at: Timestamp,
    /// Set while it is in quarantine.
    pub quarantine: Option<Box<Quarantine>>,
}

impl Endpoint {
    /// Its number in its network.
    pub fn number(&self) -> u32 {
        self.id.number()
    }
}

/// Why an endpoint talks to nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The reason given.
    pub reason: String,
    /// Who put it there.
    pub by: String,
    /// Since when.
    pub at: Timestamp,
}

/// At most one address of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Addresses {
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// Both, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::from).into_iter().chain(self.v6.map(IpAddr::from))
    }

    /// Whether this is one of them.
    pub fn contains(self, address: IpAddr) -> bool {
        self.iter().any(|own| own == address)
    }

    /// Sets the address of its family and returns the one that was there.
    pub(super) fn set(&mut self, address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(address) => self.v4.replace(address).map(IpAddr::from),
            IpAddr::V6(address) => self.v6.replace(address).map(IpAddr::from),
        }
    }
}
