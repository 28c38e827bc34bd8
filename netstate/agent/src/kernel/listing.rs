//! What `nft` and `ip` list, as JSON, read into the terms of the plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netstate_model::Mac;
use serde_json::Value;

use super::KernelError;
use crate::{
    plan::{Device, Element, Held, PortMatch, Route, Routes, SetKind, SetName, Sets, chain_names},
    scope::Ports,
};

/// The table as it was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The elements.
    pub held: Held,
    /// Definitions of sets and chains by name, and each chain's rules in their order. Equal texts mean equal rules.
    pub rules: String,
    /// Whether there is anything else in the table than the agent's sets and chains.
    pub foreign: bool,
}

impl Found {
    pub(super) fn printed(sets: Sets) -> Self {
        Found { held: Held { sets, strange: Vec::new() }, ..Found::default() }
    }
}

pub(super) fn table(json: &[u8]) -> Result<Found, KernelError> {
    let odd = |problem: &str| KernelError::Output { program: "nft".to_owned(), problem: problem.to_owned() };
    let mut listed: Value = serde_json::from_slice(json).map_err(|error| odd(&error.to_string()))?;
    let objects = listed.get_mut("nftables").and_then(Value::as_array_mut).ok_or_else(|| odd("no objects"))?;
    let (known, mut found, mut elements) = (SetName::all(), Found::default(), Vec::new());
    // Sets and chains are listed in the order of their making, which means nothing.
    let mut rules: BTreeMap<String, String> = BTreeMap::new();
    for object in objects.iter_mut().filter_map(Value::as_object_mut) {
        let Some((kind, content)) = object.iter_mut().next() else { continue };
        let name = content.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        match kind.as_str() {
            "metainfo" | "table" => continue,
            "set" => match known.iter().find(|set| set.text() == name) {
                Some(set) => {
                    let listed = content.get_mut("elem").map(Value::take);
                    for value in listed.as_ref().and_then(Value::as_array).into_iter().flatten() {
                        match element(*set, value) {
                            Some(element) => elements.push((*set, element)),
                            None => found.held.strange.push(*set),
                        }
                    }
                }
                None => found.foreign = true,
            },
            "chain" => found.foreign |= !chain_names().contains(&name.as_str()),
            "rule" => {}
            _ => found.foreign = true,
        }
        if let Some(content) = content.as_object_mut() {
            content.remove("handle");
            content.remove("elem");
        }
        let chain = content.get("chain").and_then(Value::as_str).unwrap_or(&name);
        let text = rules.entry(format!("{kind} {chain}")).or_default();
        text.push_str(&format!("{content}\n"));
    }
    found.rules = rules.into_iter().map(|(name, text)| format!("{name}\n{text}")).collect();
    found.held.strange.dedup();
    found.held.sets = elements.into_iter().collect();
    Ok(found)
}

/// An element as the agent would have put it there; anything else is strange.
fn element(set: SetName, value: &Value) -> Option<Element> {
    let parts = value.get("concat").and_then(Value::as_array);
    match (set.kind, parts.map(Vec::as_slice)) {
        (SetKind::Quarantine | SetKind::Plumbed, None) => Some(Element::Address(address(value)?)),
        (SetKind::Pools, None) => Some(Element::Range(net(value)?)),
        (SetKind::Source, Some([device, mac, own])) => Some(Element::Source {
            device: Device::named(device.as_str()?)?,
            mac: mac.as_str()?.parse::<Mac>().ok()?,
            address: address(own)?,
        }),
        (SetKind::Pair(_), Some([from, to])) => Some(Element::Pair { from: net(from)?, to: net(to)? }),
        (SetKind::Port(_), Some([from, to, protocol, ports])) => {
            let on = PortMatch { protocol: self::protocol(protocol)?, ports: self::ports(ports)? };
            Some(Element::Port { from: net(from)?, to: net(to)?, on })
        }
        _ => None,
    }
}

fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

fn net(value: &Value) -> Option<IpNet> {
    let Some(prefix) = value.get("prefix") else { return address(value).map(IpNet::from) };
    let len = prefix.get("len")?.as_u64()?.try_into().ok()?;
    IpNet::new(address(prefix.get("addr")?)?, len).ok()
}

fn protocol(value: &Value) -> Option<u8> {
    match value.as_str() {
        None => value.as_u64()?.try_into().ok(),
        Some("icmp") => Some(1),
        Some("tcp") => Some(6),
        Some("udp") => Some(17),
        Some("ipv6-icmp") => Some(58),
        Some("sctp") => Some(132),
        Some(_) => None,
    }
}

fn ports(value: &Value) -> Option<Ports> {
    let port = |value: &Value| value.as_u64()?.try_into().ok();
    match value.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        Some([first, last]) => Some(Ports { first: port(first)?, last: port(last)? }),
        Some(_) => None,
        None => port(value).map(|one| Ports { first: one, last: one }),
    }
}

pub(super) fn routes(json: &[u8]) -> Result<Routes, KernelError> {
    Ok(array(json)?.iter().filter_map(route).collect())
}

/// A route that the agent would not have made keeps its destination, so that it is replaced.
fn route(value: &Value) -> Option<(IpNet, Route)> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let dst = text("dst")?;
    let dst: IpNet = dst.parse().ok().or_else(|| dst.parse::<IpAddr>().ok().map(IpNet::from))?;
    let gateway = text("gateway").and_then(|gateway| gateway.parse().ok());
    let route = match (text("type"), gateway, text("dev").and_then(Device::named)) {
        (Some("unreachable"), ..) => Route::Unreachable,
        (None, Some(gateway), _) => Route::Via(gateway),
        (None, None, Some(device)) => Route::Device(device),
        _ => Route::Strange,
    };
    Some((dst, route))
}

pub(super) fn devices(json: &[u8]) -> Result<BTreeSet<Device>, KernelError> {
    let up = |link: &&Value| {
        let flags = link.get("flags").and_then(Value::as_array);
        flags.is_some_and(|flags| flags.iter().any(|flag| flag == "UP"))
    };
    let links = array(json)?;
    // One that is down is plumbed again, which brings it up.
    Ok(links.iter().filter(up).filter_map(|link| Device::named(link.get("ifname")?.as_str()?)).collect())
}

pub(super) fn interface(json: &[u8]) -> Result<Option<String>, KernelError> {
    let name = |link: &Value| Some(link.get("ifname")?.as_str()?.to_owned());
    Ok(array(json)?.iter().find_map(name))
}

fn array(json: &[u8]) -> Result<Vec<Value>, KernelError> {
    // Without anything to list, some versions print nothing at all.
    if json.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(json)
        .map_err(|error| KernelError::Output { program: "ip".to_owned(), problem: error.to_string() })
}
