//! Scopes: which part of everything concerns a host.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Connection, ConnectionId, Directory, HostId, NetworkId, Networks};

/// What concerns one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The networks, and whether each has an endpoint on the host.
    pub networks: BTreeMap<NetworkId, bool>,
    /// The connections with an end in a network that has an endpoint on the host.
    pub connections: BTreeSet<ConnectionId>,
}

/// The scope of a host from the networks that have an endpoint on it: those, every connection with an end in one of
/// them, and the networks at the other ends.
///
/// Connections whose time is over are in it until they are taken away: they carry their end, and the agent minds it.
pub fn scope(directory: &Directory, local: impl IntoIterator<Item = NetworkId>) -> Scope {
    let mut scope = Scope::default();
    scope.networks.extend(local.into_iter().map(|network| (network, true)));
    let local: Vec<NetworkId> = scope.networks.keys().copied().collect();
    for connection in local.iter().flat_map(|network| directory.connections_of(*network)) {
        scope.connections.insert(connection.id);
        for side in [&connection.from, &connection.to] {
            scope.networks.entry(side.network).or_insert(false);
        }
    }
    scope
}

/// The hosts that a connection concerns: those with an endpoint on either of its networks.
pub fn hosts_of(connection: &Connection, networks: Networks) -> BTreeSet<HostId> {
    let sides = [&connection.from, &connection.to];
    let states = sides.into_iter().filter_map(|side| networks(side.network));
    states.flat_map(|state| state.hosts().collect::<Vec<_>>()).collect()
}
