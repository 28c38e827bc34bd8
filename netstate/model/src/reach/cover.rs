//! Pairs of classes of endpoints, by the connections that select them.

use std::collections::BTreeMap;

use super::crowd::Crowd;
use crate::{Connection, Directory, Ports, Protocol, Side, Timestamp};

/// A set of connections, by their places in a list: a bit for each.
type Bits = Box<[u64]>;

/// How many endpoints of a crowd each set of sides selects.
pub(super) fn signatures<'a>(crowd: &Crowd, sides: impl Iterator<Item = &'a Side>) -> BTreeMap<Bits, u64> {
    let sides: Vec<&Side> = sides.collect();
    let words = sides.len().div_ceil(64);
    let mut signatures = BTreeMap::new();
    for (labels, count) in &crowd.classes {
        let mut bits: Bits = vec![0; words].into();
        for (at, _) in sides.iter().enumerate().filter(|(_, side)| side.matches(labels)) {
            bits[at / 64] |= 1 << (at % 64);
        }
        *signatures.entry(bits).or_insert(0) += count;
    }
    signatures
}

/// How many pairs at least one of the connections selects on both sides.
pub(super) fn pairs(from: &Crowd, to: &Crowd, connections: &[&Connection]) -> u64 {
    let from = signatures(from, connections.iter().map(|connection| &connection.from));
    let to = signatures(to, connections.iter().map(|connection| &connection.to));
    let mut pairs = 0;
    for (bits, count) in &from {
        let meets = |other: &Bits| bits.iter().zip(other).any(|(a, b)| a & b != 0);
        pairs += count * to.iter().filter(|(other, _)| meets(other)).map(|(_, count)| count).sum::<u64>();
    }
    pairs
}

/// How many pairs of this connection other live connections do not allow on all of its protocol and ports.
pub(super) fn pairs_new(
    directory: &Directory,
    from: &Crowd,
    to: &Crowd,
    connection: &Connection,
    now: Timestamp,
) -> u64 {
    let between = directory.connections_between(from.network, to.network);
    let others: Vec<&Connection> = between.filter(|other| other.id != connection.id && other.live(now)).collect();
    let from = signatures(&narrowed(from, &connection.from), others.iter().map(|other| &other.from));
    let to = signatures(&narrowed(to, &connection.to), others.iter().map(|other| &other.to));
    let mut covered: BTreeMap<Bits, bool> = BTreeMap::new();
    let mut pairs = 0;
    for (a, from_count) in &from {
        for (b, to_count) in &to {
            let both: Bits = a.iter().zip(b).map(|(a, b)| a & b).collect();
            let allowed = *covered.entry(both).or_insert_with_key(|both| {
                let chosen = others.iter().enumerate().filter(|(at, _)| both[at / 64] >> (at % 64) & 1 == 1);
                covers(chosen.map(|(_, other)| *other), connection)
            });
            pairs += if allowed { 0 } else { from_count * to_count };
        }
    }
    pairs
}

/// Those of a crowd that a side selects.
fn narrowed(crowd: &Crowd, side: &Side) -> Crowd {
    let selected = crowd.classes.iter().filter(|(labels, _)| side.matches(labels));
    Crowd { name: crowd.name.clone(), endpoint: None, classes: selected.cloned().collect(), ..*crowd }
}

/// Whether some connections together let through all that another one does.
fn covers<'a>(others: impl Iterator<Item = &'a Connection>, wanted: &Connection) -> bool {
    let mut ports = Vec::new();
    for other in others {
        let all_ports = other.protocol == wanted.protocol && other.ports.is_empty();
        if other.protocol == Protocol::Any || all_ports {
            return true;
        }
        if other.protocol == wanted.protocol {
            ports.extend_from_slice(&other.ports);
        }
    }
    let ports = Ports::merged(ports);
    // All ports, one by one, are all ports.
    let whole = |range: &Ports| (range.first(), range.last()) == (1, u16::MAX);
    if wanted.ports.is_empty() {
        ports.iter().any(whole)
    } else {
        wanted.ports.iter().all(|range| range.within(&ports))
    }
}
