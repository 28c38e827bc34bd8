//! A network's changes as keys and values.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{Endpoint, NetworkChange, NetworkConfig};
use crate::{
    RecordError,
    record::{decode, encode, number, numbered},
};

// First bytes of keys. Stored: never to be used for anything else. The settings come before what they give a meaning
// to.
const CONFIG: u8 = 1;
const NEXT_NUMBER: u8 = 2;
const BLOCK: u8 = 3;
const ENDPOINT: u8 = 4;

impl NetworkChange {
    /// The change as one key and its value. None: the key is removed.
    pub fn to_record(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        match self {
            NetworkChange::Config(config) => (vec![CONFIG], Some(encode(config))),
            NetworkChange::NextNumber(number) => (vec![NEXT_NUMBER], Some(encode(number))),
            NetworkChange::Block { block, host } => (block_key(block), Some(encode(host))),
            NetworkChange::BlockGone(block) => (block_key(block), None),
            NetworkChange::Endpoint(endpoint) => (numbered(ENDPOINT, endpoint.number()), Some(encode(&**endpoint))),
            NetworkChange::EndpointGone(number) => (numbered(ENDPOINT, *number), None),
        }
    }

    /// The change that a key and its value mean. No value: the key was removed.
    pub fn from_record(key: &[u8], value: Option<&[u8]>) -> Result<Self, RecordError> {
        match (key, value) {
            ([CONFIG], Some(value)) => config(value),
            ([CONFIG], None) => Err(RecordError::NeverRemoved { what: "a network's settings" }),
            ([NEXT_NUMBER], Some(value)) => decode("numbers", value).map(NetworkChange::NextNumber),
            ([NEXT_NUMBER], None) => Err(RecordError::NeverRemoved { what: "numbers" }),
            ([BLOCK, ..], value) => {
                let block = block_of(key)?;
                let owned = |value| decode("a block", value).map(|host| NetworkChange::Block { block, host });
                value.map_or(Ok(NetworkChange::BlockGone(block)), owned)
            }
            ([ENDPOINT, ..], value) => endpoint(number(key)?, value),
            _ => Err(RecordError::key(key)),
        }
    }
}

fn config(value: &[u8]) -> Result<NetworkChange, RecordError> {
    let what = "a network's settings";
    let config: NetworkConfig = decode(what, value)?;
    config.check().map_err(|refusal| RecordError::Contradiction { what, source: Some(Box::new(refusal)) })?;
    Ok(NetworkChange::Config(config))
}

fn endpoint(number: u32, value: Option<&[u8]>) -> Result<NetworkChange, RecordError> {
    let what = "an endpoint";
    let Some(value) = value else { return Ok(NetworkChange::EndpointGone(number)) };
    let endpoint: Endpoint = decode(what, value)?;
    if endpoint.number() == number {
        Ok(NetworkChange::Endpoint(Arc::new(endpoint)))
    } else {
        Err(RecordError::Contradiction { what, source: None })
    }
}

/// Family (4 or 6), first address, prefix length.
fn block_key(block: &IpNet) -> Vec<u8> {
    let mut key = vec![BLOCK];
    match block.network() {
        IpAddr::V4(first) => {
            key.push(4);
            key.extend(first.octets());
        }
        IpAddr::V6(first) => {
            key.push(6);
            key.extend(first.octets());
        }
    }
    key.push(block.prefix_len());
    key
}

fn block_of(key: &[u8]) -> Result<IpNet, RecordError> {
    let block = match key {
        [BLOCK, 4, octets @ .., len] => <[u8; 4]>::try_from(octets).ok().map(|octets| (IpAddr::from(octets), *len)),
        [BLOCK, 6, octets @ .., len] => <[u8; 16]>::try_from(octets).ok().map(|octets| (IpAddr::from(octets), *len)),
        _ => None,
    };
    let block = block.and_then(|(first, len)| IpNet::new(first, len).ok());
    block.filter(|block| block.addr() == block.network()).ok_or_else(|| RecordError::key(key))
}
