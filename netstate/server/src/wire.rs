//! The API's messages to and from the model's types. Everything from outside is checked here, once.

use std::time::Duration;

use ipnet::IpNet;
use kv_core::{RequestId, Revision};
use netstate_model::{
    Attach, Connection, Directory, Endpoint, Host, HostPolicy, Labels, Name, NetnsName, Network, Ports, Protocol,
    Refusal, Selector, Side,
};
use netstate_proto::v1 as pb;
use tonic::{Code, Status};

use crate::{
    execute::{ExecuteError, Kind},
    keyspaces::Home,
    watch::presence::Presence,
};

/// Bytes of a text from outside that an error repeats.
const QUOTED_BYTES: usize = 80;

/// Who asks, why, and under which id.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) actor: String,
    pub(crate) reason: String,
    pub(crate) request: RequestId,
}

/// A text from outside, short enough to be repeated.
pub(crate) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(QUOTED_BYTES).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
}

fn invalid(what: &str, error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{what}: {error}"))
}

/// A refusal as a status.
pub(crate) fn refused(refusal: &Refusal) -> Status {
    status(&ExecuteError::from(refusal))
}

/// What a command failed with, as a code and a message.
pub(crate) fn failure(error: &ExecuteError) -> (Code, String) {
    let code = match error {
        ExecuteError::Refused { kind, .. } => match kind {
            Kind::Invalid => Code::InvalidArgument,
            Kind::NotFound => Code::NotFound,
            Kind::AlreadyExists => Code::AlreadyExists,
            Kind::Precondition => Code::FailedPrecondition,
            Kind::Exhausted => Code::ResourceExhausted,
            Kind::NotReady => Code::Unavailable,
        },
        ExecuteError::NotLeader | ExecuteError::Unavailable { .. } => Code::Unavailable,
        ExecuteError::Exhausted { .. } => Code::ResourceExhausted,
        ExecuteError::Unknown => Code::DeadlineExceeded,
    };
    (code, error.to_string())
}

/// The same as a status.
pub(crate) fn status(error: &ExecuteError) -> Status {
    let (code, message) = failure(error);
    Status::new(code, message)
}

/// Who asks. Without a request id one is drawn; a retry is then not recognised.
pub(crate) fn origin(origin: Option<pb::Origin>) -> Result<Origin, Status> {
    let origin = origin.unwrap_or_default();
    let request = match origin.request_id.as_str() {
        "" => uuid::Uuid::now_v7(),
        text => uuid::Uuid::parse_str(text)
            .map_err(|_| Status::invalid_argument(format!("request id {} is no UUID", quoted(text))))?,
    };
    Ok(Origin { actor: origin.actor, reason: origin.reason, request: RequestId::new(request.into_bytes()) })
}

pub(crate) fn labels(labels: std::collections::HashMap<String, String>) -> Result<Labels, Status> {
    Labels::new(labels).map_err(|error| invalid("labels", error))
}

pub(crate) fn name(what: &str, text: &str) -> Result<Name, Status> {
    Name::new(text).map_err(|error| invalid(what, error))
}

pub(crate) fn pools(texts: &[String]) -> Result<Vec<IpNet>, Status> {
    let pool = |text: &String| {
        text.parse().map_err(|_| {
            Status::invalid_argument(format!(
                "pool {} is no address range; write one such as 10.1.0.0/16",
                quoted(text)
            ))
        })
    };
    texts.iter().map(pool).collect()
}

/// A block's prefix length; zero: chosen by the model.
pub(crate) fn block_len(len: u32) -> Result<Option<u8>, Status> {
    match len {
        0 => Ok(None),
        len => u8::try_from(len).map(Some).map_err(|_| invalid("block length", format!("{len} is more than 128"))),
    }
}

/// An endpoint to be attached.
pub(crate) fn attach(item: pb::AttachItem, directory: &Directory) -> Result<Attach, Status> {
    let what = || format!("endpoint {}", quoted(&item.name));
    let address =
        |text: &String| text.parse().map_err(|_| invalid(&what(), format!("{} is no IP address", quoted(text))));
    Ok(Attach {
        name: name("endpoint's name", &item.name)?,
        host: directory.resolve_host_for_endpoints(&item.host).map_err(|refusal| refused(&refusal))?.id,
        addresses: item.addresses.iter().map(address).collect::<Result<_, _>>()?,
        mac: match item.mac.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|error| invalid(&what(), error))?),
        },
        netns: match item.netns.as_str() {
            "" => None,
            text => Some(NetnsName::new(text).map_err(|error| invalid(&format!("{}: netns", what()), error))?),
        },
        labels: labels(item.labels)?,
        workload: item.workload,
    })
}

/// One side of a connection.
pub(crate) fn side(what: &str, side: Option<pb::Side>, directory: &Directory) -> Result<Side, Status> {
    let side = side.unwrap_or_default();
    if side.network.is_empty() {
        return Err(Status::invalid_argument(format!(
            "the {what} side names no network; a selector selects within one"
        )));
    }
    let network = directory.resolve_network(&side.network).map_err(|refusal| refused(&refusal))?.id;
    Ok(Side { network, selector: selector(&side.selector)? })
}

/// A selector; an empty text is none.
pub(crate) fn selector(text: &str) -> Result<Option<Selector>, Status> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|error| invalid("selector", error)),
    }
}

pub(crate) fn protocol(protocol: i32) -> Result<Protocol, Status> {
    match pb::Protocol::try_from(protocol) {
        Ok(pb::Protocol::Any) => Ok(Protocol::Any),
        Ok(pb::Protocol::Tcp) => Ok(Protocol::Tcp),
        Ok(pb::Protocol::Udp) => Ok(Protocol::Udp),
        Ok(pb::Protocol::Icmp) => Ok(Protocol::Icmp),
        Ok(pb::Protocol::Sctp) => Ok(Protocol::Sctp),
        Ok(pb::Protocol::Unspecified) | Err(_) => {
            Err(Status::invalid_argument("a connection names its protocol: tcp, udp, icmp, sctp or any"))
        }
    }
}

pub(crate) fn ports(ranges: &[pb::PortRange]) -> Result<Vec<Ports>, Status> {
    ranges.iter().map(|range| Ports::new(range.first, range.last).map_err(|error| invalid("ports", error))).collect()
}

pub(crate) fn lifetime(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

pub(crate) fn position(home: Home, revision: Revision) -> pb::Position {
    pb::Position { keyspace: home.keyspace().as_str().into(), revision: revision.get() }
}

fn labels_to_proto(labels: &Labels) -> std::collections::HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.into(), value.into())).collect()
}

pub(crate) fn network_to_proto(network: &Network, installed: bool, endpoints: u64) -> pb::Network {
    let state = match (network.retiring, installed) {
        (true, _) => pb::NetworkState::Retiring,
        (false, true) => pb::NetworkState::Active,
        (false, false) => pb::NetworkState::Preparing,
    };
    pb::Network {
        id: network.id.to_string(),
        name: network.name.to_string(),
        pools: network.pools.iter().map(ToString::to_string).collect(),
        block_len_v4: network.block_len_v4.into(),
        block_len_v6: network.block_len_v6.into(),
        labels: labels_to_proto(&network.labels),
        created_at: network.created_at.micros(),
        created_by: network.created_by.clone(),
        state: state.into(),
        endpoints,
    }
}

pub(crate) fn endpoint_to_proto(endpoint: &Endpoint, directory: &Directory) -> pb::Endpoint {
    let network = endpoint.id.network();
    let host = directory.host(endpoint.host).map_or_else(|| endpoint.host.to_string(), |host| host.name.to_string());
    pb::Endpoint {
        id: endpoint.id.to_string(),
        network: directory.network(network).map_or_else(|| network.to_string(), |network| network.name.to_string()),
        name: endpoint.name.to_string(),
        host,
        addresses: endpoint.addresses.iter().map(|address| address.to_string()).collect(),
        mac: endpoint.mac.to_string(),
        labels: labels_to_proto(&endpoint.labels),
        workload: endpoint.workload.to_string(),
        netns: endpoint.netns.as_ref().map(|netns| netns.as_str().into()).unwrap_or_default(),
        attached_at: endpoint.attached_at.micros(),
        quarantine: endpoint.quarantine.as_ref().map(|quarantine| quarantine.reason.clone()).unwrap_or_default(),
        network_id: network.to_string(),
    }
}

fn protocol_to_proto(protocol: Protocol) -> pb::Protocol {
    match protocol {
        Protocol::Any => pb::Protocol::Any,
        Protocol::Tcp => pb::Protocol::Tcp,
        Protocol::Udp => pb::Protocol::Udp,
        Protocol::Icmp => pb::Protocol::Icmp,
        Protocol::Sctp => pb::Protocol::Sctp,
    }
}

fn ports_to_proto(ports: &[Ports]) -> Vec<pb::PortRange> {
    ports.iter().map(|range| pb::PortRange { first: range.first().into(), last: range.last().into() }).collect()
}

fn side_to_proto(side: &Side, directory: &Directory) -> pb::Side {
    let network = directory.network(side.network);
    pb::Side {
        network: network.map_or_else(|| side.network.to_string(), |network| network.name.to_string()),
        selector: side.selector.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

pub(crate) fn connection_to_proto(connection: &Connection, directory: &Directory) -> pb::Connection {
    pb::Connection {
        id: connection.id.to_string(),
        from: Some(side_to_proto(&connection.from, directory)),
        to: Some(side_to_proto(&connection.to, directory)),
        protocol: protocol_to_proto(connection.protocol).into(),
        ports: ports_to_proto(&connection.ports),
        reason: connection.reason.clone(),
        created_by: connection.created_by.clone(),
        created_at: connection.created_at.micros(),
        expires_at: connection.expires_at.map_or(0, netstate_model::Timestamp::micros),
    }
}

/// A host; without its presence where nobody asked for it.
pub(crate) fn host_to_proto(
    directory: &Directory,
    host: &Host,
    endpoints: u64,
    presence: Option<Presence>,
) -> pb::Host {
    let (silent_micros, behind_micros) = presence.map(Presence::to_proto).unwrap_or_default();
    pb::Host {
        id: host.id.to_string(),
        name: host.name.to_string(),
        underlay: host.underlay.to_string(),
        labels: labels_to_proto(&host.labels),
        registered_at: host.registered_at.micros(),
        endpoints,
        connected: matches!(presence, Some(Presence::Up(_))),
        silent_micros,
        behind_micros,
        lost_since: directory.lost_host(host.id).map_or(0, |lost| lost.since.micros()),
    }
}

pub(crate) fn host_policy_to_proto(policy: HostPolicy) -> pb::HostPolicy {
    let seconds = policy.detach_after_seconds.unwrap_or_default();
    pb::HostPolicy { detach_after_seconds: seconds.try_into().unwrap_or(i64::MAX) }
}

pub(crate) fn host_policy(policy: &pb::HostPolicy) -> Result<Option<Duration>, Status> {
    match u64::try_from(policy.detach_after_seconds) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
        Err(_) => Err(Status::invalid_argument("detach_after_seconds is negative; 0 has endpoints stay")),
    }
}

pub(crate) fn scope_connection(connection: &Connection) -> pb::ScopeConnection {
    pb::ScopeConnection {
        id: connection.id.to_string(),
        from_network_id: connection.from.network.to_string(),
        to_network_id: connection.to.network.to_string(),
        from_selected: connection.from.selector.is_some(),
        to_selected: connection.to.selector.is_some(),
        protocol: protocol_to_proto(connection.protocol).into(),
        ports: ports_to_proto(&connection.ports),
        expires_at: connection.expires_at.map_or(0, netstate_model::Timestamp::micros),
    }
}

pub(crate) fn scope_endpoint(endpoint: &Endpoint) -> pb::ScopeEndpoint {
    pb::ScopeEndpoint {
        id: endpoint.id.to_string(),
        name: endpoint.name.to_string(),
        addresses: endpoint.addresses.iter().map(|address| address.to_string()).collect(),
        mac: endpoint.mac.to_string(),
        netns: endpoint.netns.as_ref().map(|netns| netns.as_str().into()).unwrap_or_default(),
        workload: endpoint.workload.to_string(),
        quarantined: endpoint.quarantine.is_some(),
    }
}
