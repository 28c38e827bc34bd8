//! The table's sets: which there are, and what a scope puts into them.

use std::{collections::BTreeMap, net::IpAddr};

use netstate_model::Timestamp;

use super::{
    element::{Device, Element},
    permit::Permits,
};
use crate::scope::HostScope;

/// Most permissions that one connection may come to on one host, from selectors on both sides: members here times members
/// there. Beyond, the connection stays closed and the agent says so; a million elements would stall the kernel for seconds.
const PERMITS_PER_CONNECTION_MAX: usize = 100_000;

/// A set's name: what it is for, and for which family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName {
    /// What it is for.
    pub kind: SetKind,
    /// For which addresses.
    pub family: Family,
}

/// What a set is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Who may talk to nobody.
    Quarantine,
    /// Who may send from which interface.
    Source,
    /// Who has an interface of ours: nobody else may speak for it.
    Plumbed,
    /// The addresses of all networks in scope.
    Pools,
    /// Who may exchange anything.
    Pair(Shape),
    /// Who may exchange something.
    Port(Shape),
}

/// What the two sides of a permission are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// Whole pools.
    PoolPool,
    /// From single addresses to whole pools.
    HostPool,
    /// From whole pools to single addresses.
    PoolHost,
    /// Single addresses.
    HostHost,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What the sets hold: sorted, without duplicates. A set without elements is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sets(BTreeMap<SetName, Vec<Element>>);

impl Shape {
    const ALL: [Shape; 4] = [Shape::PoolPool, Shape::HostPool, Shape::PoolHost, Shape::HostHost];

    pub(super) fn of(from_members: bool, to_members: bool) -> Self {
        match (from_members, to_members) {
            (false, false) => Shape::PoolPool,
            (true, false) => Shape::HostPool,
            (false, true) => Shape::PoolHost,
            (true, true) => Shape::HostHost,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Shape::PoolPool => "pool_pool",
            Shape::HostPool => "host_pool",
            Shape::PoolHost => "pool_host",
            Shape::HostHost => "host_host",
        }
    }
}

impl SetName {
    /// Every set of the table, in the order of their definition.
    pub fn all() -> Vec<SetName> {
        let plain = [SetKind::Quarantine, SetKind::Source, SetKind::Plumbed, SetKind::Pools];
        let kinds = plain.into_iter().chain(Shape::ALL.map(SetKind::Pair)).chain(Shape::ALL.map(SetKind::Port));
        kinds.flat_map(|kind| [Family::V4, Family::V6].map(|family| SetName { kind, family })).collect()
    }

    /// The name in the kernel.
    pub fn text(self) -> String {
        let digit = match self.family {
            Family::V4 => '4',
            Family::V6 => '6',
        };
        match self.kind {
            SetKind::Quarantine => format!("quarantine{digit}"),
            SetKind::Source => format!("source{digit}"),
            SetKind::Plumbed => format!("plumbed{digit}"),
            SetKind::Pools => format!("pools{digit}"),
            SetKind::Pair(shape) => format!("pair_{}{digit}", shape.suffix()),
            SetKind::Port(shape) => format!("port_{}{digit}", shape.suffix()),
        }
    }

    /// The set's type and flags, in nft's notation.
    pub fn definition(self) -> String {
        let address = match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let (kind, intervals) = match self.kind {
            SetKind::Quarantine | SetKind::Plumbed => (address.to_owned(), false),
            SetKind::Source => (format!("ifname . ether_addr . {address}"), false),
            SetKind::Pools => (address.to_owned(), true),
            SetKind::Pair(shape) => (format!("{address} . {address}"), shape != Shape::HostHost),
            SetKind::Port(_) => (format!("{address} . {address} . inet_proto . inet_service"), true),
        };
        format!("type {kind};{}", if intervals { " flags interval;" } else { "" })
    }

    /// Whether deleting an element costs time in proportion to the set's size, as it does in concatenated interval sets: a
    /// hundredth of a second in a set of 10,000.
    pub fn deletes_slowly(self) -> bool {
        matches!(self.kind, SetKind::Port(_) | SetKind::Pair(Shape::PoolPool | Shape::HostPool | Shape::PoolHost))
    }
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl Sets {
    /// What one set holds.
    pub fn get(&self, name: SetName) -> &[Element] {
        self.0.get(&name).map_or(&[], Vec::as_slice)
    }

    /// How many elements there are in all.
    pub fn elements(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

impl FromIterator<(SetName, Element)> for Sets {
    fn from_iter<I: IntoIterator<Item = (SetName, Element)>>(elements: I) -> Self {
        let mut sets: BTreeMap<SetName, Vec<Element>> = BTreeMap::new();
        for (name, element) in elements {
            sets.entry(name).or_default().push(element);
        }
        for elements in sets.values_mut() {
            elements.sort_unstable();
            elements.dedup();
        }
        Sets(sets)
    }
}

pub(super) fn of_scope(scope: &HostScope, now: Timestamp, problems: &mut Vec<String>) -> Sets {
    let mut elements = Vec::new();
    let mut add =
        |kind, address: IpAddr, element| elements.push((SetName { kind, family: Family::of(address) }, element));
    for network in scope.networks.values() {
        for pool in &network.pools {
            add(SetKind::Pools, pool.addr(), Element::Range(*pool));
        }
        for address in network.quarantined.values().flatten() {
            add(SetKind::Quarantine, *address, Element::Address(*address));
        }
    }
    for (id, network, endpoint) in scope.locals() {
        for address in &endpoint.addresses {
            if endpoint.quarantined {
                add(SetKind::Quarantine, *address, Element::Address(*address));
            }
            // An address outside its network's pools would be somebody else's.
            if endpoint.netns.is_some() && network.pools.iter().any(|pool| pool.contains(address)) {
                let source = Element::Source { device: Device::of(id), mac: endpoint.mac, address: *address };
                add(SetKind::Source, *address, source);
                add(SetKind::Plumbed, *address, Element::Address(*address));
            }
        }
    }
    for ((shape, from, to), grant) in permits(scope, now, problems).grants {
        if grant.any {
            add(SetKind::Pair(shape), from.addr(), Element::Pair { from, to });
        } else {
            for on in grant.merged() {
                add(SetKind::Port(shape), from.addr(), Element::Port { from, to, on });
            }
        }
    }
    elements.into_iter().collect()
}

fn permits(scope: &HostScope, now: Timestamp, problems: &mut Vec<String>) -> Permits {
    let mut permits = Permits::default();
    for network in scope.networks.values() {
        // Members elsewhere of a network that nobody here is on are no business of this host.
        if !network.endpoints.is_empty() {
            permits.same_network(network);
        }
    }
    for (id, connection) in &scope.connections {
        if connection.expires_at.is_some_and(|at| at <= now) {
            continue;
        }
        if let Err(pairs) = permits.connection(scope, connection, PERMITS_PER_CONNECTION_MAX) {
            problems.push(format!(
                "{id} comes to {pairs} pairs of endpoints on this host, {PERMITS_PER_CONNECTION_MAX} are possible; it stays \
                 closed here; use wider selectors on fewer endpoints, or a network of their own"
            ));
        }
    }
    permits
}
