//! Reach, exposure and what a connection opens, against going through all pairs, ports and connections.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{collections::BTreeMap, fmt::Write as _};

use netstate_model::*;
use proptest::prelude::*;
use support::world::World;

const LABELS: [&str; 4] = ["", "labels app=a", "labels app=b", "labels app=a,tier=x"];
const SELECTORS: [&str; 5] = ["", "[app=a]", "[app!=a]", "[tier]", "[app=none]"];
const TRAFFIC: [&str; 8] = ["any", "tcp", "tcp/1-4", "tcp/5-65535", "tcp/3,8", "udp/1-4", "udp", "icmp"];

/// A protocol and port of each kind that the connections above tell apart. None: a protocol without a name here.
const FLOWS: [(Option<Protocol>, u16); 9] = [
    (None, 0),
    (Some(Protocol::Icmp), 0),
    (Some(Protocol::Tcp), 1),
    (Some(Protocol::Tcp), 3),
    (Some(Protocol::Tcp), 5),
    (Some(Protocol::Tcp), 8),
    (Some(Protocol::Tcp), 65535),
    (Some(Protocol::Udp), 3),
    (Some(Protocol::Udp), 9),
];

#[derive(Clone, Debug)]
struct Link {
    from: usize,
    to: usize,
    selectors: [usize; 2],
    traffic: usize,
    short: bool,
}

fn link() -> impl Strategy<Value = Link> {
    let selectors = [0..SELECTORS.len(), 0..SELECTORS.len()];
    let ends = (0..3_usize, 0..3_usize);
    (ends, selectors, 0..TRAFFIC.len(), prop::bool::weighted(0.2))
        .prop_map(|((from, to), selectors, traffic, short)| Link { from, to, selectors, traffic, short })
}

fn words(link: &Link) -> String {
    let Link { from, to, selectors: [a, b], traffic, .. } = link;
    format!("n-{from}{} to n-{to}{} on {}", SELECTORS[*a], SELECTORS[*b], TRAFFIC[*traffic])
}

/// A world of three networks. After it was made, connections with a short life are over.
fn world(endpoints: &[(usize, usize, bool)], links: &[Link]) -> World {
    let mut world = World::default();
    world.run("host host-a at 192.0.2.1");
    for network in 0..3 {
        world.run(&format!("network n-{network} pool 10.{network}.0.0/16"));
        world.run(&format!("install n-{network}"));
    }
    for (at, (network, labels, quarantined)) in endpoints.iter().enumerate() {
        world.run(&format!("attach n-{network} w-{at} on host-a {}", LABELS[*labels]));
        if *quarantined {
            world.run(&format!("quarantine n-{network}/w-{at} because x"));
        }
    }
    for link in links {
        let life = if link.short { " for 5" } else { "" };
        world.run(&format!("connect {}{life} because x", words(link)));
    }
    world.run("clock 5");
    world
}

fn lets_through(connection: &Connection, (protocol, port): (Option<Protocol>, u16)) -> bool {
    let named = protocol == Some(connection.protocol);
    let on_port =
        connection.ports.is_empty() || connection.ports.iter().any(|own| own.first() <= port && port <= own.last());
    connection.protocol == Protocol::Any || (named && on_port)
}

fn live(world: &World) -> Vec<&Connection> {
    world.directory.connections().filter(|own| own.expires_at.is_none_or(|end| end > world.now)).collect()
}

fn members<'a>(world: &'a World, subject: &Subject) -> Vec<&'a Endpoint> {
    match subject {
        Subject::Network(id) => world.networks[id].endpoints().collect(),
        Subject::Endpoint(id) => world.networks[&id.network()].endpoint(id.number()).into_iter().collect(),
    }
}

fn selects(side: &Side, endpoint: &Endpoint) -> bool {
    let matches = side.selector.as_ref().is_none_or(|selector| selector.matches(&endpoint.labels));
    side.network == endpoint.id.network() && matches && endpoint.quarantine.is_none()
}

fn allows(connection: &Connection, from: &Endpoint, to: &Endpoint) -> bool {
    selects(&connection.from, from) && selects(&connection.to, to)
}

fn check_reach(world: &World, from: &Subject, to: &Subject) -> Result<(), TestCaseError> {
    let mut possible = 0;
    let mut pairs = 0;
    let mut by: BTreeMap<Option<ConnectionId>, u64> = BTreeMap::new();
    for a in members(world, from) {
        for b in members(world, to).into_iter().filter(|b| b.id != a.id) {
            possible += 1;
            let mut causes: Vec<Option<ConnectionId>> =
                live(world).iter().filter(|own| allows(own, a, b)).map(|own| Some(own.id)).collect();
            if a.id.network() == b.id.network() && a.quarantine.is_none() && b.quarantine.is_none() {
                causes.push(None);
            }
            pairs += u64::from(!causes.is_empty());
            causes.into_iter().for_each(|cause| *by.entry(cause).or_default() += 1);
        }
    }
    let answer = reach(&world.directory, &|id| world.networks.get(&id).cloned(), from, to, world.now).unwrap();
    prop_assert_eq!((answer.pairs, answer.pairs_possible), (pairs, possible));
    let cause = |permit: &Permit| match permit {
        Permit::SameNetwork { .. } => None,
        Permit::Connection { connection, .. } => Some(connection.id),
    };
    let found: BTreeMap<_, _> = answer.permits.iter().map(|permit| (cause(permit), permit.pairs())).collect();
    if possible > 0 {
        prop_assert_eq!(found, by);
        let verdict = match pairs {
            0 => Verdict::Denied,
            _ if pairs == possible => Verdict::Allowed,
            _ => Verdict::Partly,
        };
        prop_assert_eq!(answer.verdict, verdict);
    }
    let mut text = String::new();
    write!(text, "{} {:?}", answer.explanation, answer.verdict).unwrap();
    prop_assert_eq!(text.contains("may not reach"), answer.verdict == Verdict::Denied, "{}", text);
    Ok(())
}

fn check_exposure(world: &World, target: &Subject) -> Result<(), TestCaseError> {
    let entries = exposure(&world.directory, &|id| world.networks.get(&id).cloned(), target, world.now).unwrap();
    let Subject::Endpoint(_) = target else { return Ok(()) };
    let own = members(world, target)[0];
    let everybody: Vec<&Endpoint> = world.networks.values().flat_map(NetworkState::endpoints).collect();
    for connection in live(world) {
        let count = everybody.iter().filter(|other| allows(connection, other, own)).count() as u64;
        let told = entries.iter().find(|entry| entry.connection.as_ref() == Some(connection));
        prop_assert_eq!(told.map_or(0, |entry| entry.endpoints), count);
    }
    let same = everybody.iter().filter(|other| other.id.network() == own.id.network() && other.id != own.id);
    let active = same.filter(|other| other.quarantine.is_none() && own.quarantine.is_none()).count() as u64;
    let told = entries.iter().find(|entry| entry.connection.is_none());
    prop_assert_eq!(told.map_or(0, |entry| entry.endpoints), active);
    Ok(())
}

fn check_opened(world: &World, wanted: &Connection) -> Result<(), TestCaseError> {
    let everybody: Vec<&Endpoint> = world.networks.values().flat_map(NetworkState::endpoints).collect();
    let (mut pairs, mut fresh) = (0, 0);
    for a in &everybody {
        for b in everybody.iter().filter(|b| allows(wanted, a, b)) {
            pairs += 1;
            let others: Vec<_> =
                live(world).into_iter().filter(|own| own.id != wanted.id && allows(own, a, b)).collect();
            let flows = FLOWS.iter().filter(|flow| lets_through(wanted, **flow));
            let allowed = flows.clone().all(|flow| others.iter().any(|own| lets_through(own, *flow)));
            fresh += u64::from(!allowed);
        }
    }
    let opened = opened_pairs(&world.directory, &|id| world.networks.get(&id).cloned(), wanted, world.now).unwrap();
    prop_assert_eq!((opened.pairs, opened.pairs_new), (pairs, fresh));
    prop_assert_eq!(opened.from_endpoints, everybody.iter().filter(|own| selects(&wanted.from, own)).count() as u64);
    prop_assert_eq!(opened.to_endpoints, everybody.iter().filter(|own| selects(&wanted.to, own)).count() as u64);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn counts_as_by_hand(
        endpoints in prop::collection::vec((0..3_usize, 0..LABELS.len(), prop::bool::weighted(0.15)), 0..14),
        links in prop::collection::vec(link(), 0..10),
    ) {
        let world = world(&endpoints, &links);
        let networks = world.networks.keys().map(|id| Subject::Network(*id));
        let single = world.networks.values().flat_map(NetworkState::endpoints).map(|own| Subject::Endpoint(own.id));
        let subjects: Vec<Subject> = networks.chain(single).collect();
        for from in &subjects {
            check_exposure(&world, from)?;
            for to in &subjects {
                check_reach(&world, from, to)?;
            }
        }
        for connection in world.directory.connections() {
            check_opened(&world, connection)?;
        }
    }
}
