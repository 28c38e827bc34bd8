//! The edge: what a server sends becomes typed values here, or an error that names the field.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use netstate_model::{ConnectionId, EndpointId, Mac, Name, NetnsName, NetworkId, PackedBlocks, PlacedBlock, Timestamp};
use netstate_proto::v1 as pb;
use prost::Message;

use super::{
    Block, Connection, Place, Ports, Protocol, Side,
    step::{Change, ConnectionStep, LocalStep, Members, NetworkStep, NewEndpoint, Step},
};

/// Most addresses that one endpoint may come with. The model gives one for each family.
const ADDRESSES_MAX: usize = 2;
/// Most port ranges of one connection; the model allows as many.
const PORT_RANGES_MAX: usize = 64;

/// Why a frame was refused. Nothing of it has been applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A field does not hold what it must.
    #[error("frame refused: {field} {problem}; check that server and agent are of matching versions")]
    Field {
        /// Which field, as in the API's definition.
        field: &'static str,
        /// What is wrong with it, with the value, shortened.
        problem: String,
    },
    /// A difference to something that this host does not hold.
    #[error("frame refused: a difference for {what}, of which nothing is held; the stream has to begin again")]
    Unfounded {
        /// What it is for.
        what: String,
    },
    /// Two networks would share addresses.
    #[error(
        "frame refused: pool {pool} of {network} overlaps pool {other_pool} of {other}; one of the networks has to go"
    )]
    Overlap {
        /// The network that the frame gives.
        network: NetworkId,
        /// Its pool.
        pool: IpNet,
        /// The network that has the addresses already.
        other: NetworkId,
        /// That network's pool.
        other_pool: IpNet,
    },
}

impl TryFrom<pb::ScopeFrame> for Step {
    type Error = FrameError;

    fn try_from(frame: pb::ScopeFrame) -> Result<Self, FrameError> {
        let networks = frame.networks.iter().map(|bytes| network(message("networks", bytes)?));
        let members = frame.members.iter().map(|bytes| members(message("members", bytes)?));
        Ok(Step {
            host: optional("host_id", &frame.host_id)?,
            directory_revision: frame.directory_revision,
            networks_gone: all("networks_gone", &frame.networks_gone)?,
            connections_gone: all("connections_gone", &frame.connections_gone)?,
            connections: frame.connections.iter().map(connection).collect::<Result<_, _>>()?,
            networks: networks.collect::<Result<_, _>>()?,
            locals: frame.locals.into_iter().map(local).collect::<Result<_, _>>()?,
            members: members.collect::<Result<_, _>>()?,
            complete: frame.complete,
        })
    }
}

fn network(wire: pb::ScopeNetwork) -> Result<NetworkStep, FrameError> {
    let id: NetworkId = one("network_id", &wire.network_id)?;
    // Names are shown in messages; one that isn't a name could garble a terminal.
    let name = if wire.full { Some(one::<Name>("networks.name", &wire.name)?.to_string()) } else { None };
    let block = |block: pb::ScopeBlock| {
        let place =
            Block { host: one("blocks.host_id", &block.host_id)?, underlay: one("blocks.underlay", &block.underlay)? };
        Ok((cidr("blocks.cidr", &block.cidr)?, place))
    };
    let stray = |stray: pb::ScopeAddress| {
        let place = Place {
            addresses: addresses("strays.addresses", &stray.addresses)?,
            host: one("strays.host_id", &stray.host_id)?,
            underlay: one("strays.underlay", &stray.underlay)?,
        };
        Ok((member_of(id, "strays.endpoint_id", &stray.endpoint_id)?, place))
    };
    Ok(NetworkStep {
        id,
        name,
        revision: wire.revision,
        pools: wire.pools.iter().map(|pool| cidr("pools", pool)).collect::<Result<_, _>>()?,
        blocks: wire
            .blocks
            .into_iter()
            .map(block)
            .chain(packed_blocks(wire.packed_blocks)?.into_iter().map(Ok))
            .collect::<Result<_, _>>()?,
        blocks_gone: wire.blocks_gone.iter().map(|block| cidr("blocks_gone", block)).collect::<Result<_, _>>()?,
        strays: Change {
            full: wire.full,
            given: wire.strays.into_iter().map(stray).collect::<Result<_, _>>()?,
            gone: all("strays_gone", &wire.strays_gone)?,
        },
        quarantined: Change {
            full: wire.full,
            given: scope_addresses(id, "quarantined", wire.quarantined)?,
            gone: all("quarantined_gone", &wire.quarantined_gone)?,
        },
    })
}

/// The blocks that come in columns.
fn packed_blocks(wire: Vec<pb::ScopeBlocks>) -> Result<Vec<(IpNet, Block)>, FrameError> {
    let refused = |problem: String| FrameError::Field { field: "networks.packed_blocks", problem };
    let mut blocks = Vec::new();
    for columns in wire {
        let v6 = |bytes: &prost::bytes::Bytes| <[u8; 16]>::try_from(&**bytes).map(Into::into);
        let packed = PackedBlocks {
            first: cidr("networks.packed_blocks.first", &columns.first)?,
            runs: columns.runs,
            gaps: columns.gaps,
            hosts: columns.hosts,
            underlay_steps: columns.underlay_steps,
            underlays_v6: columns
                .underlays_v6
                .iter()
                .map(v6)
                .collect::<Result<_, _>>()
                .map_err(|_| refused("has an underlay_v6 that is not 16 bytes long".to_owned()))?,
        };
        let placed = packed.unpack().map_err(|error| refused(format!("makes no sense: {error}")))?;
        blocks.extend(placed.into_iter().map(|(cidr, host, underlay): PlacedBlock| (cidr, Block { host, underlay })));
    }
    Ok(blocks)
}

fn local(wire: pb::ScopeLocal) -> Result<LocalStep, FrameError> {
    let id: NetworkId = one("locals.network_id", &wire.network_id)?;
    let endpoint = |endpoint: pb::ScopeEndpoint| {
        let own = NewEndpoint {
            name: one::<Name>("locals.endpoints.name", &endpoint.name)?.to_string(),
            addresses: addresses("locals.endpoints.addresses", &endpoint.addresses)?,
            mac: one::<Mac>("locals.endpoints.mac", &endpoint.mac)?,
            netns: optional::<NetnsName>("locals.endpoints.netns", &endpoint.netns)?,
            quarantined: endpoint.quarantined,
        };
        Ok((member_of(id, "locals.endpoints.id", &endpoint.id)?, own))
    };
    Ok(LocalStep {
        network: id,
        revision: wire.revision,
        endpoints: Change {
            full: wire.full,
            given: wire.endpoints.into_iter().map(endpoint).collect::<Result<_, _>>()?,
            gone: all("locals.endpoints_gone", &wire.endpoints_gone)?,
        },
    })
}

fn connection(wire: &pb::ScopeConnection) -> Result<ConnectionStep, FrameError> {
    let protocol = match wire.protocol() {
        pb::Protocol::Any => Protocol::Any,
        pb::Protocol::Tcp => Protocol::Tcp,
        pb::Protocol::Udp => Protocol::Udp,
        pb::Protocol::Icmp => Protocol::Icmp,
        pb::Protocol::Sctp => Protocol::Sctp,
        pb::Protocol::Unspecified => {
            return Err(wrong("connections.protocol", format!("{} is unknown", wire.protocol)));
        }
    };
    let side = |field, network: &str, selected: bool| {
        Ok(Side { network: one(field, network)?, members: selected.then(Default::default) })
    };
    if wire.ports.len() > PORT_RANGES_MAX {
        let problem = format!("has {} ranges, {PORT_RANGES_MAX} are allowed", wire.ports.len());
        return Err(wrong("connections.ports", problem));
    }
    let made = Connection {
        from: side("connections.from_network_id", &wire.from_network_id, wire.from_selected)?,
        to: side("connections.to_network_id", &wire.to_network_id, wire.to_selected)?,
        protocol,
        ports: wire.ports.iter().map(ports).collect::<Result<_, _>>()?,
        expires_at: (wire.expires_at != 0).then(|| Timestamp::from_micros(wire.expires_at)),
    };
    if matches!(protocol, Protocol::Any | Protocol::Icmp) && !made.ports.is_empty() {
        return Err(wrong("connections.ports", "are given for a protocol without ports".to_owned()));
    }
    Ok(ConnectionStep { id: one("connections.id", &wire.id)?, connection: made })
}

fn members(wire: pb::ScopeMembers) -> Result<Members, FrameError> {
    let network: NetworkId = one("members.network_id", &wire.network_id)?;
    Ok(Members {
        connection: one::<ConnectionId>("members.connection_id", &wire.connection_id)?,
        to_side: wire.to_side,
        network,
        members: Change {
            full: wire.full,
            given: scope_addresses(network, "members.members", wire.members)?,
            gone: all("members.members_gone", &wire.members_gone)?,
        },
    })
}

fn scope_addresses(
    network: NetworkId,
    field: &'static str,
    wire: Vec<pb::ScopeAddress>,
) -> Result<Vec<(EndpointId, Vec<IpAddr>)>, FrameError> {
    wire.into_iter()
        .map(|entry| Ok((member_of(network, field, &entry.endpoint_id)?, addresses(field, &entry.addresses)?)))
        .collect()
}

fn ports(range: &pb::PortRange) -> Result<Ports, FrameError> {
    let port = |raw: u32| u16::try_from(raw).ok().filter(|port| *port != 0);
    match (port(range.first), port(range.last)) {
        (Some(first), Some(last)) if first <= last => Ok(Ports { first, last }),
        _ => Err(wrong("connections.ports", format!("{}-{} is no range of ports", range.first, range.last))),
    }
}

fn addresses(field: &'static str, wire: &[String]) -> Result<Vec<IpAddr>, FrameError> {
    let mut parsed: Vec<IpAddr> = all(field, wire)?;
    parsed.sort_unstable();
    parsed.dedup();
    // Such an address would come to mean more than one endpoint in a set or a route.
    let odd = |address: &&IpAddr| address.is_unspecified() || address.is_multicast() || address.is_loopback();
    if let Some(odd) = parsed.iter().find(odd) {
        return Err(wrong(field, format!("{odd} can't be an endpoint's address")));
    }
    if parsed.is_empty() || parsed.len() > ADDRESSES_MAX {
        return Err(wrong(field, format!("are {}; an endpoint has one or two", parsed.len())));
    }
    Ok(parsed)
}

fn member_of(network: NetworkId, field: &'static str, text: &str) -> Result<EndpointId, FrameError> {
    let id: EndpointId = one(field, text)?;
    if id.network() != network {
        return Err(wrong(field, format!("{id} is no endpoint of {network}")));
    }
    Ok(id)
}

fn cidr(field: &'static str, text: &str) -> Result<IpNet, FrameError> {
    let net: IpNet = one(field, text)?;
    if net.trunc() != net {
        return Err(wrong(field, format!("{net} has bits set beyond its prefix")));
    }
    Ok(net)
}

fn all<T: FromStr<Err: fmt::Display>>(field: &'static str, texts: &[String]) -> Result<Vec<T>, FrameError> {
    texts.iter().map(|text| one(field, text)).collect()
}

fn optional<T: FromStr<Err: fmt::Display>>(field: &'static str, text: &str) -> Result<Option<T>, FrameError> {
    if text.is_empty() { Ok(None) } else { one(field, text).map(Some) }
}

fn one<T: FromStr<Err: fmt::Display>>(field: &'static str, text: &str) -> Result<T, FrameError> {
    let shown = || text.chars().take(40).collect::<String>();
    text.parse().map_err(|error: T::Err| wrong(field, format!("{:?} is refused: {error}", shown())))
}

fn message<M: Message + Default>(field: &'static str, bytes: &[u8]) -> Result<M, FrameError> {
    M::decode(bytes).map_err(|error| wrong(field, format!("can't be decoded: {error}")))
}

fn wrong(field: &'static str, problem: String) -> FrameError {
    FrameError::Field { field, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_make_no_blocks_are_refused_by_field() {
        let columns = pb::ScopeBlocks {
            first: "10.1.0.0/26".to_owned(),
            runs: Vec::new(),
            gaps: Vec::new(),
            hosts: vec![1, 2],
            underlay_steps: vec![0xc000_0201, -0xc000_0201],
            underlays_v6: vec![vec![0xfd; 16].into()],
        };
        let blocks = packed_blocks(vec![columns.clone()]).unwrap();
        assert_eq!(blocks[0].1.underlay, IpAddr::from([192, 0, 2, 1]));
        assert_eq!((blocks[1].0.to_string(), blocks[1].1.underlay.is_ipv6()), ("10.1.0.64/26".to_owned(), true));
        let broken = [
            (pb::ScopeBlocks { first: "10.1.0.1/26".to_owned(), ..columns.clone() }, "packed_blocks.first"),
            (pb::ScopeBlocks { underlays_v6: vec![vec![0xfd; 4].into()], ..columns.clone() }, "16 bytes"),
            (pb::ScopeBlocks { runs: vec![1], gaps: vec![0], ..columns.clone() }, "leads to no block"),
            (pb::ScopeBlocks { runs: vec![2], gaps: vec![1], ..columns.clone() }, "make no such runs"),
            (pb::ScopeBlocks { underlay_steps: vec![0, -1], ..columns.clone() }, "a step of -1 from underlay"),
            (pb::ScopeBlocks { hosts: vec![1], ..columns }, "1 blocks come with 0 runs"),
        ];
        for (columns, expected) in broken {
            let refused = packed_blocks(vec![columns]).unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
    }
}
