//! The directory's changes as keys and values.

use serde::de::DeserializeOwned;

use super::{Connection, DirectoryChange, Host, HostPolicy, LostHost, Network};
use crate::{
    ConnectionId, HostId, NetworkConfig, NetworkId, RecordError,
    record::{decode, encode, number, numbered},
};

// First bytes of keys. Stored: never to be used for anything else. Networks and hosts come before what refers to them.
const COUNTERS: u8 = 1;
const NETWORK: u8 = 2;
const HOST: u8 = 3;
const CONNECTION: u8 = 4;
const HOST_POLICY: u8 = 5;
const LOST_HOST: u8 = 6;

impl DirectoryChange {
    /// The change as one key and its value. None: the key is removed.
    pub fn to_record(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        match self {
            DirectoryChange::Network(network) => (numbered(NETWORK, network.id.get()), Some(encode(network))),
            DirectoryChange::NetworkGone(id) => (numbered(NETWORK, id.get()), None),
            DirectoryChange::Connection(own) => (numbered(CONNECTION, own.id.get()), Some(encode(own))),
            DirectoryChange::ConnectionGone(id) => (numbered(CONNECTION, id.get()), None),
            DirectoryChange::Host(host) => (numbered(HOST, host.id.get()), Some(encode(host))),
            DirectoryChange::HostGone(id) => (numbered(HOST, id.get()), None),
            DirectoryChange::HostPolicy(policy) => (vec![HOST_POLICY], Some(encode(policy))),
            DirectoryChange::HostLost(lost) => (numbered(LOST_HOST, lost.host.get()), Some(encode(lost))),
            DirectoryChange::HostFound(id) => (numbered(LOST_HOST, id.get()), None),
            DirectoryChange::Counters(counters) => (vec![COUNTERS], Some(encode(counters))),
        }
    }

    /// The change that a key and its value mean. No value: the key was removed.
    pub fn from_record(key: &[u8], value: Option<&[u8]>) -> Result<Self, RecordError> {
        match (key.first(), value) {
            (Some(&COUNTERS), Some(value)) if key.len() == 1 => decode("ids", value).map(DirectoryChange::Counters),
            (Some(&COUNTERS), None) if key.len() == 1 => Err(RecordError::NeverRemoved { what: "ids" }),
            (Some(&NETWORK), value) => network(NetworkId::new(number(key)?), value),
            (Some(&HOST), value) => host(HostId::new(number(key)?), value),
            (Some(&CONNECTION), value) => connection(ConnectionId::new(number(key)?), value),
            (Some(&HOST_POLICY), value) if key.len() == 1 => host_policy(value),
            (Some(&LOST_HOST), value) => lost_host(HostId::new(number(key)?), value),
            _ => Err(RecordError::key(key)),
        }
    }
}

/// What a value says of the thing that its key names. `None`: the key was removed.
fn read<T: DeserializeOwned>(
    what: &'static str,
    value: Option<&[u8]>,
    named: impl Fn(&T) -> bool,
) -> Result<Option<T>, RecordError> {
    let Some(value) = value else { return Ok(None) };
    let thing: T = decode(what, value)?;
    if named(&thing) { Ok(Some(thing)) } else { Err(RecordError::Contradiction { what, source: None }) }
}

fn network(id: NetworkId, value: Option<&[u8]>) -> Result<DirectoryChange, RecordError> {
    let what = "a network";
    let Some(network) = read(what, value, |network: &Network| network.id == id)? else {
        return Ok(DirectoryChange::NetworkGone(id));
    };
    let contradiction = |refusal| RecordError::Contradiction { what, source: Some(Box::new(refusal)) };
    NetworkConfig::of(&network).check().map_err(contradiction)?;
    Ok(DirectoryChange::Network(network))
}

fn host(id: HostId, value: Option<&[u8]>) -> Result<DirectoryChange, RecordError> {
    let host = read("a host", value, |host: &Host| host.id == id)?;
    Ok(host.map_or(DirectoryChange::HostGone(id), DirectoryChange::Host))
}

fn host_policy(value: Option<&[u8]>) -> Result<DirectoryChange, RecordError> {
    let what = "the policy for hosts";
    let policy: HostPolicy = decode(what, value.ok_or(RecordError::NeverRemoved { what })?)?;
    Ok(DirectoryChange::HostPolicy(policy))
}

fn lost_host(id: HostId, value: Option<&[u8]>) -> Result<DirectoryChange, RecordError> {
    let lost = read("a lost host", value, |lost: &LostHost| lost.host == id)?;
    Ok(lost.map_or(DirectoryChange::HostFound(id), DirectoryChange::HostLost))
}

fn connection(id: ConnectionId, value: Option<&[u8]>) -> Result<DirectoryChange, RecordError> {
    let connection = read("a connection", value, |connection: &Connection| connection.id == id)?;
    Ok(connection.map_or(DirectoryChange::ConnectionGone(id), DirectoryChange::Connection))
}
