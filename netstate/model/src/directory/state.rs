//! The directory's state and its indexes.

use std::{net::IpAddr, sync::Arc};

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use super::{Connection, Counters, DirectoryChange, DirectoryCommand, Host, HostPolicy, LostHost, Network};
use crate::{ConnectionId, Context, HostId, Name, NetworkId, Refusal, text::Quoted};

/// All networks, connections and hosts. Cloning takes constant time; the clones share what they have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    pub(super) counters: Counters,
    networks: OrdMap<NetworkId, Arc<Network>>,
    network_names: OrdMap<Name, NetworkId>,
    /// By first address. Disjoint, as `decide` admits no others.
    pools: OrdMap<(IpAddr, u8, NetworkId), IpNet>,
    connections: OrdMap<ConnectionId, Arc<Connection>>,
    /// The connections of each network, on either side.
    ends: OrdSet<(NetworkId, ConnectionId)>,
    /// The connections from one network to another.
    ways: OrdSet<(NetworkId, NetworkId, ConnectionId)>,
    hosts: OrdMap<HostId, Arc<Host>>,
    host_names: OrdMap<Name, HostId>,
    underlays: OrdMap<IpAddr, HostId>,
    host_policy: HostPolicy,
    lost_hosts: OrdMap<HostId, LostHost>,
}

impl Directory {
    /// A directory with nothing in it.
    pub fn new() -> Self {
        Directory::default()
    }

    /// Says what a command changes, or refuses it. The changes are to be made in order, all or none.
    pub fn decide(&self, command: DirectoryCommand, context: &Context) -> Result<Vec<DirectoryChange>, Refusal> {
        super::decide::decide(self, command, context)
    }

    /// Makes a change.
    pub fn evolve(&mut self, change: &DirectoryChange) {
        match change {
            DirectoryChange::Network(network) => self.put_network(network),
            DirectoryChange::NetworkGone(id) => self.remove_network(*id),
            DirectoryChange::Connection(connection) => self.put_connection(connection),
            DirectoryChange::ConnectionGone(id) => self.remove_connection(*id),
            DirectoryChange::Host(host) => self.put_host(host),
            DirectoryChange::HostGone(id) => self.remove_host(*id),
            DirectoryChange::HostPolicy(policy) => self.host_policy = *policy,
            DirectoryChange::HostLost(lost) => {
                self.lost_hosts.insert(lost.host, *lost);
            }
            DirectoryChange::HostFound(id) => {
                self.lost_hosts.remove(id);
            }
            DirectoryChange::Counters(counters) => self.counters = *counters,
        }
    }

    fn put_network(&mut self, network: &Network) {
        self.remove_network(network.id);
        self.network_names.insert(network.name.clone(), network.id);
        for pool in &network.pools {
            self.pools.insert((pool.network(), pool.prefix_len(), network.id), *pool);
        }
        self.networks.insert(network.id, Arc::new(network.clone()));
    }

    fn remove_network(&mut self, id: NetworkId) {
        let Some(network) = self.networks.remove(&id) else { return };
        // Another network may have the name by now, where changes come summed up by key.
        if self.network_names.get(&network.name) == Some(&id) {
            self.network_names.remove(&network.name);
        }
        for pool in &network.pools {
            self.pools.remove(&(pool.network(), pool.prefix_len(), id));
        }
    }

    fn put_connection(&mut self, connection: &Connection) {
        self.remove_connection(connection.id);
        let Connection { id, from, to, .. } = connection;
        self.ends.insert((from.network, *id));
        self.ends.insert((to.network, *id));
        self.ways.insert((from.network, to.network, *id));
        self.connections.insert(*id, Arc::new(connection.clone()));
    }

    fn remove_connection(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        let (from, to) = (connection.from.network, connection.to.network);
        self.ends.remove(&(from, id));
        self.ends.remove(&(to, id));
        self.ways.remove(&(from, to, id));
    }

    fn put_host(&mut self, host: &Host) {
        self.remove_host(host.id);
        self.host_names.insert(host.name.clone(), host.id);
        self.underlays.insert(host.underlay, host.id);
        self.hosts.insert(host.id, Arc::new(host.clone()));
    }

    fn remove_host(&mut self, id: HostId) {
        let Some(host) = self.hosts.remove(&id) else { return };
        if self.host_names.get(&host.name) == Some(&id) {
            self.host_names.remove(&host.name);
        }
        if self.underlays.get(&host.underlay) == Some(&id) {
            self.underlays.remove(&host.underlay);
        }
    }

    /// All networks, by id.
    pub fn networks(&self) -> impl ExactSizeIterator<Item = &Network> {
        self.networks.values().map(|network| &**network)
    }

    /// The network with this id.
    pub fn network(&self, id: NetworkId) -> Option<&Network> {
        self.networks.get(&id).map(|network| &**network)
    }

    /// The network with this name.
    pub fn network_named(&self, name: &str) -> Option<&Network> {
        self.network_names.get(name).and_then(|id| self.network(*id))
    }

    /// The network that a name or an id (`net7`) means.
    pub fn resolve_network(&self, wanted: &str) -> Result<&Network, Refusal> {
        let found = wanted.parse().map_or_else(|_| self.network_named(wanted), |id| self.network(id));
        found.ok_or_else(|| Refusal::UnknownNetwork { wanted: Quoted::new(wanted) })
    }

    /// A pool that overlaps this range, and whose it is.
    pub(super) fn pool_overlapping(&self, range: &IpNet) -> Option<(&Network, IpNet)> {
        // Pools are disjoint, so of those that begin no later than the range ends only the last one can reach into it.
        let ((.., id), pool) = self.pools.get_prev(&(range.broadcast(), u8::MAX, NetworkId::new(u32::MAX)))?;
        let overlaps = pool.contains(range) || range.contains(pool);
        overlaps.then(|| self.network(*id).map(|network| (network, *pool))).flatten()
    }

    /// All hosts, by id.
    pub fn hosts(&self) -> impl ExactSizeIterator<Item = &Host> {
        self.hosts.values().map(|host| &**host)
    }

    /// The host with this id.
    pub fn host(&self, id: HostId) -> Option<&Host> {
        self.hosts.get(&id).map(|host| &**host)
    }

    /// The host with this name.
    pub fn host_named(&self, name: &str) -> Option<&Host> {
        self.host_names.get(name).and_then(|id| self.host(*id))
    }

    /// The host with this underlay address.
    pub fn host_at(&self, underlay: IpAddr) -> Option<&Host> {
        self.underlays.get(&underlay).and_then(|id| self.host(*id))
    }

    /// The host that a name or an id (`h3`) means.
    pub fn resolve_host(&self, wanted: &str) -> Result<&Host, Refusal> {
        let found = wanted.parse().map_or_else(|_| self.host_named(wanted), |id| self.host(id));
        found.ok_or_else(|| Refusal::UnknownHost { wanted: Quoted::new(wanted) })
    }

    /// The same, for endpoints to be attached on it.
    pub fn resolve_host_for_endpoints(&self, wanted: &str) -> Result<&Host, Refusal> {
        let host = self.resolve_host(wanted)?;
        match self.lost_host(host.id) {
            Some(lost) => Err(Refusal::HostLost { name: host.name.clone(), since: lost.since }),
            None => Ok(host),
        }
    }

    /// What becomes of the endpoints of hosts that no server hears any more.
    pub fn host_policy(&self) -> HostPolicy {
        self.host_policy
    }

    /// The hosts that were given up, by id.
    pub fn lost_hosts(&self) -> impl ExactSizeIterator<Item = &LostHost> {
        self.lost_hosts.values()
    }

    /// The host with this id, if it was given up.
    pub fn lost_host(&self, id: HostId) -> Option<&LostHost> {
        self.lost_hosts.get(&id)
    }

    /// All connections, by id.
    pub fn connections(&self) -> impl ExactSizeIterator<Item = &Connection> {
        self.connections.values().map(|connection| &**connection)
    }

    /// The connection with this id.
    pub fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id).map(|connection| &**connection)
    }

    /// The connection that an id (`c12`) means.
    pub fn resolve_connection(&self, wanted: &str) -> Result<&Connection, Refusal> {
        let found = wanted.parse().ok().and_then(|id| self.connection(id));
        found.ok_or_else(|| Refusal::UnknownConnection { wanted: Quoted::new(wanted) })
    }

    /// The connections with this network on either side, by id.
    pub fn connections_of(&self, network: NetworkId) -> impl Iterator<Item = &Connection> {
        let range = (network, ConnectionId::new(0))..=(network, ConnectionId::new(u32::MAX));
        self.ends.range(range).filter_map(|(_, id)| self.connection(*id))
    }

    /// The connections from one network to another, by id.
    pub fn connections_between(&self, from: NetworkId, to: NetworkId) -> impl Iterator<Item = &Connection> {
        let range = (from, to, ConnectionId::new(0))..=(from, to, ConnectionId::new(u32::MAX));
        self.ways.range(range).filter_map(|(.., id)| self.connection(*id))
    }
}
