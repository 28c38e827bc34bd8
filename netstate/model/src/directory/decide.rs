//! Decisions on the directory.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use super::{
    Connection, Counters, Directory, DirectoryChange, DirectoryCommand, Host, HostPolicy, LostHost, Network, Ports,
    Protocol, Side, pools,
};
use crate::{ConnectionId, Context, Family, HostId, Labels, Name, NetworkId, Refusal, Timestamp, limits, text::Quoted};

type Decision = Result<Vec<DirectoryChange>, Refusal>;

pub(super) fn decide(directory: &Directory, command: DirectoryCommand, context: &Context) -> Decision {
    context.check()?;
    match command {
        DirectoryCommand::CreateNetwork { name, pools, block_len_v4, block_len_v6, labels } => {
            create_network(directory, context, name, pools, [block_len_v4, block_len_v6], labels)
        }
        DirectoryCommand::RetireNetwork { network } => retire_network(directory, network),
        DirectoryCommand::KeepNetwork { network } => {
            let network = known(directory, network)?;
            let kept =
                network.retiring.then(|| DirectoryChange::Network(Network { retiring: false, ..network.clone() }));
            Ok(kept.into_iter().collect())
        }
        DirectoryCommand::RemoveNetwork { network } => {
            let network = known(directory, network)?;
            if !network.retiring {
                return Err(Refusal::NetworkNotRetiring { name: network.name.clone() });
            }
            unconnected(directory, network)?;
            Ok(vec![DirectoryChange::NetworkGone(network.id)])
        }
        DirectoryCommand::Connect { from, to, protocol, ports, lifetime } => {
            connect(directory, context, from, to, protocol, ports, lifetime)
        }
        DirectoryCommand::Disconnect { connection } => {
            context.required_reason("disconnecting")?;
            Ok(vec![DirectoryChange::ConnectionGone(known_connection(directory, connection)?.id)])
        }
        DirectoryCommand::Expire { connection } => {
            let connection = known_connection(directory, connection)?;
            if connection.live(context.now) {
                return Err(Refusal::NotExpired { id: connection.id });
            }
            Ok(vec![DirectoryChange::ConnectionGone(connection.id)])
        }
        DirectoryCommand::RegisterHost { name, underlay, labels } => {
            register_host(directory, context, name, underlay, labels)
        }
        DirectoryCommand::RemoveHost { host, endpoints } => remove_host(directory, host, endpoints),
        DirectoryCommand::SetHostPolicy { detach_after } => set_host_policy(directory, detach_after),
        DirectoryCommand::LoseHost { host, silent } => lose_host(directory, context, host, silent),
        DirectoryCommand::FindHost { host, endpoints } => find_host(directory, host, endpoints),
    }
}

fn create_network(
    directory: &Directory,
    context: &Context,
    name: Name,
    pools: Vec<IpNet>,
    [block_len_v4, block_len_v6]: [Option<u8>; 2],
    labels: Labels,
) -> Decision {
    if let Some(there) = directory.network_named(name.as_str()) {
        return Err(Refusal::NetworkNameTaken { name, id: there.id });
    }
    room(directory.networks().len(), "networks", limits::NETWORKS_MAX)?;
    pools::check(directory, &pools)?;
    let block_len_v4 = pools::block_len(&pools, Family::V4, block_len_v4)?;
    let block_len_v6 = pools::block_len(&pools, Family::V6, block_len_v6)?;
    let (id, next) = draw(directory.counters.network, "networks")?;
    let network = Network {
        id: NetworkId::new(id),
        name,
        pools,
        block_len_v4,
        block_len_v6,
        labels,
        created_at: context.now,
        created_by: context.actor.to_owned(),
        retiring: false,
    };
    let counters = Counters { network: next, ..directory.counters };
    Ok(vec![DirectoryChange::Network(network), DirectoryChange::Counters(counters)])
}

fn retire_network(directory: &Directory, network: NetworkId) -> Decision {
    let network = known(directory, network)?;
    unconnected(directory, network)?;
    let retired = (!network.retiring).then(|| DirectoryChange::Network(Network { retiring: true, ..network.clone() }));
    Ok(retired.into_iter().collect())
}

fn connect(
    directory: &Directory,
    context: &Context,
    from: Side,
    to: Side,
    protocol: Protocol,
    ports: Vec<Ports>,
    lifetime: Option<Duration>,
) -> Decision {
    let reason = context.required_reason("connecting")?;
    for side in [&from, &to] {
        let network = known(directory, side.network)?;
        if network.retiring {
            return Err(Refusal::NetworkRetiring { name: network.name.clone() });
        }
    }
    if from.network == to.network {
        return Err(Refusal::SameNetwork { name: known(directory, from.network)?.name.clone() });
    }
    if !ports.is_empty() && !protocol.has_ports() {
        return Err(Refusal::PortsWithoutProtocol { protocol });
    }
    let ports = Ports::merged(ports);
    if ports.len() > limits::PORT_RANGES_MAX {
        return Err(Refusal::TooManyPorts { found: ports.len() });
    }
    room(directory.connections().len(), "connections", limits::CONNECTIONS_MAX)?;
    let (id, next) = draw(directory.counters.connection, "connections")?;
    let connection = Connection {
        id: ConnectionId::new(id),
        from,
        to,
        protocol,
        ports,
        reason: reason.to_owned(),
        created_by: context.actor.to_owned(),
        created_at: context.now,
        expires_at: lifetime.map(|lifetime| end(context.now, lifetime)).transpose()?,
    };
    let mut between = directory.connections_between(connection.from.network, connection.to.network);
    if let Some(same) = between.find(|other| other.live(context.now) && other.same_permission(&connection)) {
        return Err(Refusal::Connected { id: same.id });
    }
    let counters = Counters { connection: next, ..directory.counters };
    Ok(vec![DirectoryChange::Connection(connection), DirectoryChange::Counters(counters)])
}

/// When something ends that begins now.
fn end(now: Timestamp, lifetime: Duration) -> Result<Timestamp, Refusal> {
    let seconds = lifetime.as_secs();
    if !(1..=limits::LIFETIME_SECONDS_MAX).contains(&seconds) {
        return Err(Refusal::Lifetime { seconds });
    }
    let micros = i64::try_from(lifetime.as_micros()).unwrap_or(i64::MAX);
    Ok(Timestamp::from_micros(now.micros().saturating_add(micros)))
}

fn register_host(directory: &Directory, context: &Context, name: Name, underlay: IpAddr, labels: Labels) -> Decision {
    if underlay.is_unspecified() || underlay.is_multicast() || underlay == IpAddr::from([255; 4]) {
        return Err(Refusal::Underlay { underlay });
    }
    let before = directory.host_named(name.as_str());
    if let Some(other) = directory.host_at(underlay).filter(|other| other.name != name) {
        return Err(Refusal::UnderlayTaken { underlay, id: other.id, name: other.name.clone() });
    }
    if let Some(before) = before {
        let host = Host { underlay, labels, ..before.clone() };
        return Ok(if host == *before { Vec::new() } else { vec![DirectoryChange::Host(host)] });
    }
    room(directory.hosts().len(), "hosts", limits::HOSTS_MAX)?;
    let (id, next) = draw(directory.counters.host, "hosts")?;
    let host = Host { id: HostId::new(id), name, underlay, labels, registered_at: context.now };
    let counters = Counters { host: next, ..directory.counters };
    Ok(vec![DirectoryChange::Host(host), DirectoryChange::Counters(counters)])
}

fn remove_host(directory: &Directory, host: HostId, endpoints: u64) -> Decision {
    let host = known_host(directory, host)?;
    unused(host, endpoints)?;
    let found = directory.lost_host(host.id).map(|lost| DirectoryChange::HostFound(lost.host));
    Ok(found.into_iter().chain([DirectoryChange::HostGone(host.id)]).collect())
}

fn set_host_policy(directory: &Directory, detach_after: Option<Duration>) -> Decision {
    let detach_after_seconds = detach_after.map(|after| after.as_secs());
    let allowed = limits::DETACH_AFTER_SECONDS_MIN..=limits::DETACH_AFTER_SECONDS_MAX;
    if let Some(seconds) = detach_after_seconds.filter(|seconds| !allowed.contains(seconds)) {
        return Err(Refusal::DetachAfter { seconds });
    }
    let policy = HostPolicy { detach_after_seconds };
    Ok(if policy == directory.host_policy() { Vec::new() } else { vec![DirectoryChange::HostPolicy(policy)] })
}

fn lose_host(directory: &Directory, context: &Context, host: HostId, silent: Duration) -> Decision {
    let host = known_host(directory, host)?;
    if directory.lost_host(host.id).is_some() {
        return Ok(Vec::new());
    }
    if directory.host_policy().detach_after().is_none_or(|after| silent < after) {
        return Err(Refusal::HostKept { name: host.name.clone(), seconds: silent.as_secs() });
    }
    Ok(vec![DirectoryChange::HostLost(LostHost { host: host.id, since: context.now })])
}

fn find_host(directory: &Directory, host: HostId, endpoints: u64) -> Decision {
    let host = known_host(directory, host)?;
    unused(host, endpoints)?;
    let lost = directory.lost_host(host.id);
    Ok(lost.map(|lost| DirectoryChange::HostFound(lost.host)).into_iter().collect())
}

fn known_host(directory: &Directory, id: HostId) -> Result<&Host, Refusal> {
    directory.host(id).ok_or_else(|| Refusal::UnknownHost { wanted: Quoted::new(&id.to_string()) })
}

/// Refuses where endpoints are attached on the host.
fn unused(host: &Host, endpoints: u64) -> Result<(), Refusal> {
    if endpoints == 0 { Ok(()) } else { Err(Refusal::HostInUse { name: host.name.clone(), count: endpoints }) }
}

fn known(directory: &Directory, id: NetworkId) -> Result<&Network, Refusal> {
    directory.network(id).ok_or_else(|| Refusal::UnknownNetwork { wanted: Quoted::new(&id.to_string()) })
}

fn known_connection(directory: &Directory, id: ConnectionId) -> Result<&Connection, Refusal> {
    directory.connection(id).ok_or_else(|| Refusal::UnknownConnection { wanted: Quoted::new(&id.to_string()) })
}

/// Refuses where connections refer to the network, over ones included: whoever watches still sees them.
fn unconnected(directory: &Directory, network: &Network) -> Result<(), Refusal> {
    let mut connections = directory.connections_of(network.id);
    match connections.next() {
        Some(first) => Err(Refusal::NetworkConnected {
            name: network.name.clone(),
            count: connections.count() + 1,
            first: first.id,
        }),
        None => Ok(()),
    }
}

fn room(there: usize, what: &'static str, limit: usize) -> Result<(), Refusal> {
    if there < limit { Ok(()) } else { Err(Refusal::Full { what, limit }) }
}

/// A number and the one that comes after it.
fn draw(next: u32, what: &'static str) -> Result<(u32, u32), Refusal> {
    Ok((next, next.checked_add(1).ok_or(Refusal::NumbersUsed { what })?))
}
