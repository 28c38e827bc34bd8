//! The API's messages as programs read them with `-o json`.
//!
//! Must hold: names are those of the API; times are microseconds since the Unix epoch and null when not set; nothing is
//! left out because it is empty.

use netstate_proto::v1 as pb;
use serde_json::{Value, json};

use crate::values;

pub(crate) fn time(micros: i64) -> Value {
    if micros == 0 { Value::Null } else { micros.into() }
}

pub(crate) fn position(position: Option<&pb::Position>) -> Value {
    position.map_or(Value::Null, |position| json!({ "keyspace": position.keyspace, "revision": position.revision }))
}

pub(crate) fn positions(positions: &[pb::Position]) -> Value {
    positions.iter().map(|one| position(Some(one))).collect()
}

pub(crate) fn network_state(state: i32) -> &'static str {
    match pb::NetworkState::try_from(state) {
        Ok(pb::NetworkState::Preparing) => "preparing",
        Ok(pb::NetworkState::Active) => "active",
        Ok(pb::NetworkState::Retiring) => "retiring",
        Ok(pb::NetworkState::Unspecified) | Err(_) => "unknown",
    }
}

pub(crate) fn network(network: &pb::Network) -> Value {
    json!({
        "id": network.id,
        "name": network.name,
        "pools": network.pools,
        "block_len_v4": network.block_len_v4,
        "block_len_v6": network.block_len_v6,
        "labels": network.labels,
        "created_at": time(network.created_at),
        "created_by": network.created_by,
        "state": network_state(network.state),
        "endpoints": network.endpoints,
    })
}

pub(crate) fn block(block: &pb::Block) -> Value {
    json!({ "cidr": block.cidr, "host": block.host, "used": block.used })
}

pub(crate) fn endpoint(endpoint: &pb::Endpoint) -> Value {
    json!({
        "id": endpoint.id,
        "network": endpoint.network,
        "network_id": endpoint.network_id,
        "name": endpoint.name,
        "host": endpoint.host,
        "addresses": endpoint.addresses,
        "mac": endpoint.mac,
        "labels": endpoint.labels,
        "workload": endpoint.workload,
        "netns": endpoint.netns,
        "attached_at": time(endpoint.attached_at),
        "quarantine": if endpoint.quarantine.is_empty() { Value::Null } else { endpoint.quarantine.clone().into() },
    })
}

fn side(side: Option<&pb::Side>) -> Value {
    side.map_or(Value::Null, |side| json!({ "network": side.network, "selector": side.selector }))
}

pub(crate) fn connection(connection: &pb::Connection) -> Value {
    let range = |range: &pb::PortRange| json!({ "first": range.first, "last": range.last });
    json!({
        "id": if connection.id.is_empty() { Value::Null } else { connection.id.clone().into() },
        "from": side(connection.from.as_ref()),
        "to": side(connection.to.as_ref()),
        "protocol": values::protocol(connection.protocol),
        "ports": connection.ports.iter().map(range).collect::<Vec<_>>(),
        "reason": connection.reason,
        "created_by": connection.created_by,
        "created_at": time(connection.created_at),
        "expires_at": time(connection.expires_at),
    })
}

pub(crate) fn connection_or_null(connection: Option<&pb::Connection>) -> Value {
    connection.map_or(Value::Null, self::connection)
}

pub(crate) fn host(host: &pb::Host) -> Value {
    json!({
        "id": host.id,
        "name": host.name,
        "underlay": host.underlay,
        "labels": host.labels,
        "registered_at": time(host.registered_at),
        "endpoints": host.endpoints,
        "connected": host.connected,
        "silent_micros": host.silent_micros,
        "behind_micros": host.behind_micros,
        "lost_since": (host.lost_since != 0).then(|| time(host.lost_since)),
    })
}

pub(crate) fn convergence(answer: &pb::ConvergenceResponse) -> Value {
    let host = |host: &pb::HostConvergence| {
        json!({
            "host": host.host,
            "programmed": host.programmed,
            "connected": host.connected,
            "silent_micros": host.silent_micros,
            "problem": host.problem,
        })
    };
    json!({
        "programmed": answer.programmed,
        "pending": answer.pending,
        "hosts": answer.hosts.iter().map(host).collect::<Vec<_>>(),
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
