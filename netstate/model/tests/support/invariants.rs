//! What must hold of any state, worked out the slow way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netstate_model::*;

/// A change reads back as it was written.
pub(crate) fn directory_record(change: &DirectoryChange) {
    let (key, value) = change.to_record();
    assert_eq!(DirectoryChange::from_record(&key, value.as_deref()).as_ref(), Ok(change));
}

/// A change reads back as it was written.
pub(crate) fn network_record(change: &NetworkChange) {
    let (key, value) = change.to_record();
    assert_eq!(NetworkChange::from_record(&key, value.as_deref()).as_ref(), Ok(change));
}

/// All of a directory's invariants.
pub(crate) fn directory(directory: &Directory) {
    let networks: Vec<&Network> = directory.networks().collect();
    let names: BTreeSet<&str> = networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(names.len(), networks.len(), "two networks of one name");
    for network in &networks {
        assert_eq!(directory.network_named(network.name.as_str()), Some(*network));
        assert_eq!(directory.network(network.id), Some(*network));
    }
    let pools: Vec<&IpNet> = networks.iter().flat_map(|network| &network.pools).collect();
    for (at, pool) in pools.iter().enumerate() {
        for other in &pools[..at] {
            assert!(!pool.contains(*other) && !other.contains(*pool), "{pool} and {other} overlap");
        }
    }
    for network in &networks {
        let of: Vec<ConnectionId> = directory.connections_of(network.id).map(|connection| connection.id).collect();
        let ends = |own: &&Connection| own.from.network == network.id || own.to.network == network.id;
        let naive: Vec<ConnectionId> = directory.connections().filter(ends).map(|connection| connection.id).collect();
        assert_eq!(of, naive);
    }
    for connection in directory.connections() {
        let (from, to) = (connection.from.network, connection.to.network);
        assert_ne!(from, to);
        for id in [from, to] {
            assert!(directory.network(id).is_some_and(|network| !network.retiring), "{} dangles", connection.id);
        }
        assert!(directory.connections_between(from, to).any(|own| own == connection));
        assert!(!connection.reason.is_empty());
    }
    let hosts: Vec<&Host> = directory.hosts().collect();
    let underlays: BTreeSet<IpAddr> = hosts.iter().map(|host| host.underlay).collect();
    assert_eq!(underlays.len(), hosts.len(), "two hosts at one address");
    for host in hosts {
        assert_eq!(directory.host_named(host.name.as_str()), Some(host));
        assert_eq!(directory.host_at(host.underlay), Some(host));
    }
    for lost in directory.lost_hosts() {
        assert!(directory.host(lost.host).is_some(), "{} is lost and not there", lost.host);
    }
}

/// All of a network's invariants.
pub(crate) fn network(state: &NetworkState) {
    let Some(config) = state.config() else {
        assert!(state.is_empty());
        return;
    };
    addresses(state, config);
    let naive = |keep: &dyn Fn(&&Endpoint) -> bool| -> Vec<u32> {
        state.endpoints().filter(|own| keep(own)).map(Endpoint::number).collect()
    };
    let stray = |own: &&Endpoint| own.addresses.iter().any(|address| state.block_owner(address) != Some(own.host));
    assert_eq!(state.strays().map(Endpoint::number).collect::<Vec<_>>(), naive(&stray));
    let quarantined = |own: &&Endpoint| own.quarantine.is_some();
    assert_eq!(state.quarantined().map(Endpoint::number).collect::<Vec<_>>(), naive(&quarantined));
    let mut labels: BTreeMap<&Labels, usize> = BTreeMap::new();
    let mut hosts: BTreeSet<HostId> = BTreeSet::new();
    for endpoint in state.endpoints() {
        *labels.entry(&endpoint.labels).or_default() += 1;
        hosts.insert(endpoint.host);
        assert_eq!(state.endpoint_named(endpoint.name.as_str()), Some(endpoint), "two endpoints of one name");
        assert_eq!(state.resolve(&endpoint.id.to_string()), Ok(endpoint));
    }
    assert_eq!(state.label_sets().collect::<BTreeMap<_, _>>(), labels);
    assert_eq!(state.hosts().collect::<BTreeSet<_>>(), hosts);
    for host in hosts {
        let on = naive(&|own| own.host == host);
        assert_eq!(state.on_host(host).map(Endpoint::number).collect::<Vec<_>>(), on);
        assert_eq!(state.count_on(host), on.len());
    }
}

fn addresses(state: &NetworkState, config: &NetworkConfig) {
    let mut held: BTreeMap<IpAddr, u32> = BTreeMap::new();
    let blocks: Vec<(IpNet, HostId)> = state.blocks().collect();
    for endpoint in state.endpoints() {
        for family in Family::ALL {
            let there = endpoint.addresses.iter().filter(|own| Family::of(*own) == family).count();
            assert_eq!(there, usize::from(config.has(family)), "{} in {family}", endpoint.name);
        }
        for address in endpoint.addresses.iter() {
            let before = held.insert(address, endpoint.number());
            assert_eq!(before, None, "{address} is held twice");
            let pool = config.pool_of(address).expect("an address in a pool");
            assert!(!reserved(&pool, address), "{address} is reserved in {pool}");
            assert_eq!(state.endpoint_at(address), Some(endpoint));
            let owner = blocks.iter().find(|(block, _)| block.contains(&address)).map(|(_, host)| *host);
            assert!(owner.is_some(), "{address} is in a block that nobody has");
            assert_eq!(state.block_owner(address), owner);
        }
    }
    for (at, (block, host)) in blocks.iter().enumerate() {
        assert!(config.pools.iter().any(|pool| pool.contains(block)), "{block} is in no pool");
        assert!(blocks[..at].iter().all(|(other, _)| !other.contains(block)), "{block} twice");
        let used = held.keys().filter(|address| block.contains(*address)).count();
        assert_eq!(state.used_in(*block) as usize, used);
        assert!(used > 0 || state.count_on(*host) > 0, "{block} is of no use to {host}");
    }
}

/// As the documentation has it, in other words than the code.
fn reserved(pool: &IpNet, address: IpAddr) -> bool {
    let (longest, broadcast) = if pool.addr().is_ipv4() { (31, Some(pool.broadcast())) } else { (127, None) };
    if pool.prefix_len() >= longest {
        return false;
    }
    let hosts: Vec<IpAddr> = match pool {
        IpNet::V4(pool) => pool.hosts().take(1).map(IpAddr::from).collect(),
        IpNet::V6(pool) => pool.hosts().take(2).map(IpAddr::from).collect(),
    };
    address == pool.network() || Some(address) == broadcast || hosts.contains(&address)
}
