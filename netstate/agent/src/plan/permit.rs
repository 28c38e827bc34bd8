//! Who may talk to whom, as disjoint ranges.
//!
//! The kernel's interval sets refuse elements that overlap, while permissions do overlap: two connections between the same
//! networks on ports 80-90 and 85, or an address that one selector picks out of a network that another connection names
//! whole. So each permission goes by its *shape*: what each side is, a whole pool or a single address. Pools are disjoint and
//! so are addresses; within one shape two permissions are therefore of the same two parties or of parties that share nothing,
//! and only the ports of the same two have to be merged.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{element::PortMatch, sets::Shape};
use crate::scope::{Connection, HostScope, Network, Ports, Protocol, Side};

/// What two parties may exchange.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Grant {
    /// Everything; what follows is moot then.
    pub(super) any: bool,
    /// Unsorted until [`Grant::merged`].
    on: Vec<PortMatch>,
}

/// Every permission that matters on a host.
#[derive(Debug, Default)]
pub(super) struct Permits {
    pub(super) grants: BTreeMap<(Shape, IpNet, IpNet), Grant>,
}

/// One party to a permission, as the sets know it.
#[derive(Clone, Copy)]
struct Party {
    net: IpNet,
    /// On this host, or a range that may hold endpoints of it.
    here: bool,
}

impl Permits {
    /// Members of one network may exchange anything.
    pub(super) fn same_network(&mut self, network: &Network) {
        for from in &network.pools {
            for to in network.pools.iter().filter(|to| same_family(from, to)) {
                self.grants.entry((Shape::PoolPool, *from, *to)).or_default().any = true;
            }
        }
    }

    /// What a connection permits, as far as one of the two parties may be on this host: packets between endpoints of two other
    /// hosts are those hosts' business. More permissions than `limit` are not added at all; their number is the error.
    pub(super) fn connection(&mut self, scope: &HostScope, made: &Connection, limit: usize) -> Result<(), usize> {
        let (Some(from), Some(to)) = (parties(scope, &made.from), parties(scope, &made.to)) else { return Ok(()) };
        let shape = Shape::of(made.from.members.is_some(), made.to.members.is_some());
        let here = |parties: &[Party]| parties.iter().filter(|party| party.here).count();
        let (from_here, to_here) = (here(&from), here(&to));
        let pairs = from_here * to.len() + from.len() * to_here - from_here * to_here;
        if pairs > limit {
            return Err(pairs);
        }
        // A party elsewhere meets only those that are here, and they are few; the others are not even looked at.
        let to_near: Vec<Party> = to.iter().copied().filter(|other| other.here).collect();
        for one in &from {
            let others = if one.here { &to } else { &to_near };
            for other in others.iter().filter(|other| same_family(&one.net, &other.net)) {
                let grant = self.grants.entry((shape, one.net, other.net)).or_default();
                grant.add(made, matches!(one.net, IpNet::V6(_)));
            }
        }
        Ok(())
    }
}

impl Grant {
    fn add(&mut self, made: &Connection, v6: bool) {
        let protocol = match made.protocol {
            Protocol::Any => {
                self.any = true;
                return;
            }
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
            Protocol::Icmp if v6 => 58,
            Protocol::Icmp => 1,
        };
        if made.ports.is_empty() {
            self.on.push(PortMatch { protocol, ports: Ports::ALL });
        }
        self.on.extend(made.ports.iter().map(|ports| PortMatch { protocol, ports: *ports }));
    }

    /// The ports, sorted; ranges of one protocol that overlap or touch have become one.
    pub(super) fn merged(mut self) -> Vec<PortMatch> {
        self.on.sort_unstable();
        let mut merged: Vec<PortMatch> = Vec::with_capacity(self.on.len());
        for next in self.on {
            match merged.last_mut() {
                Some(last)
                    if last.protocol == next.protocol && next.ports.first <= last.ports.last.saturating_add(1) =>
                {
                    last.ports.last = last.ports.last.max(next.ports.last);
                }
                _ => merged.push(next),
            }
        }
        merged
    }
}

/// The parties of one side; none when its network is not held (yet).
fn parties(scope: &HostScope, side: &Side) -> Option<Vec<Party>> {
    let network = scope.networks.get(&side.network)?;
    let Some(members) = &side.members else {
        let here = !network.endpoints.is_empty();
        return Some(network.pools.iter().map(|pool| Party { net: *pool, here }).collect());
    };
    let local: BTreeSet<IpAddr> = network.endpoints.values().flat_map(|own| own.addresses.iter().copied()).collect();
    let addresses: BTreeSet<IpAddr> = members.values().flatten().copied().collect();
    // An address outside the pools would be reachable for others than the network's members.
    let own = |address: &IpAddr| network.pools.iter().any(|pool| pool.contains(address));
    let party = |address: IpAddr| Party { net: address.into(), here: local.contains(&address) };
    Some(addresses.into_iter().filter(own).map(party).collect())
}

fn same_family(one: &IpNet, other: &IpNet) -> bool {
    matches!((one, other), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)))
}
