//! Random commands against the directory, with all invariants checked after each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{collections::BTreeMap, time::Duration};

use netstate_model::*;
use proptest::prelude::*;
use support::invariants;

const POOLS: [&str; 9] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.0/30",
    "10.2.0.0/16",
    "10.128.0.0/9",
    "fd00::/16",
    "fd00:1::/32",
    "fd01::/64",
];

const SELECTORS: [&str; 3] = ["app=a", "app!=a,tier in (x,y)", "has"];

fn network() -> impl Strategy<Value = NetworkId> {
    (1..8_u32).prop_map(NetworkId::new)
}

fn side() -> impl Strategy<Value = Side> {
    (network(), prop::option::of(prop::sample::select(&SELECTORS[..])))
        .prop_map(|(network, selector)| Side { network, selector: selector.map(|text| text.parse().unwrap()) })
}

fn command() -> impl Strategy<Value = DirectoryCommand> {
    let name = |kind: &'static str| (0..5_u8).prop_map(move |at| Name::new(&format!("{kind}-{at}")).unwrap());
    let pools = prop::collection::vec(prop::sample::select(&POOLS[..]), 0..3);
    let create = (name("n"), pools).prop_map(|(name, pools)| DirectoryCommand::CreateNetwork {
        name,
        pools: pools.into_iter().map(|pool| pool.parse().unwrap()).collect(),
        block_len_v4: None,
        block_len_v6: None,
        labels: Labels::NONE,
    });
    let protocol = prop::sample::select(vec![Protocol::Any, Protocol::Tcp, Protocol::Icmp]);
    let ports = prop::collection::vec((1..9_u32, 0..3_u32), 0..2);
    let connect = (side(), side(), protocol, ports, prop::option::of(1..9_u64)).prop_map(
        |(from, to, protocol, ports, lifetime)| DirectoryCommand::Connect {
            from,
            to,
            protocol,
            ports: ports.into_iter().map(|(first, more)| Ports::new(first, first + more).unwrap()).collect(),
            lifetime: lifetime.map(Duration::from_secs),
        },
    );
    let connection = || (1..20_u32).prop_map(ConnectionId::new);
    let underlay = (1..5_u8).prop_map(|at| [192, 0, 2, at].into());
    let register = (name("host"), underlay).prop_map(|(name, underlay)| DirectoryCommand::RegisterHost {
        name,
        underlay,
        labels: Labels::NONE,
    });
    let host = || (1..8_u32).prop_map(HostId::new);
    let seconds = || (20..60_u64).prop_map(Duration::from_secs);
    prop_oneof![
        4 => create,
        2 => network().prop_map(|network| DirectoryCommand::RetireNetwork { network }),
        1 => network().prop_map(|network| DirectoryCommand::KeepNetwork { network }),
        2 => network().prop_map(|network| DirectoryCommand::RemoveNetwork { network }),
        6 => connect,
        2 => connection().prop_map(|connection| DirectoryCommand::Disconnect { connection }),
        2 => connection().prop_map(|connection| DirectoryCommand::Expire { connection }),
        3 => register,
        1 => (host(), 0..2_u64).prop_map(|(host, endpoints)| DirectoryCommand::RemoveHost { host, endpoints }),
        1 => prop::option::of(seconds()).prop_map(|detach_after| DirectoryCommand::SetHostPolicy { detach_after }),
        2 => (host(), seconds()).prop_map(|(host, silent)| DirectoryCommand::LoseHost { host, silent }),
        1 => (host(), 0..2_u64).prop_map(|(host, endpoints)| DirectoryCommand::FindHost { host, endpoints }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn holds_after_every_command(commands in prop::collection::vec(command(), 1..60)) {
        let mut directory = Directory::new();
        let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut drawn = 0;
        for (at, command) in commands.into_iter().enumerate() {
            let context = Context { now: Timestamp::from_micros(at as i64 * 500_000), actor: "ann", reason: "because" };
            let before = directory.clone();
            for change in before.decide(command, &context).unwrap_or_default() {
                let (key, value) = change.to_record();
                directory.evolve(&DirectoryChange::from_record(&key, value.as_deref()).unwrap());
                match value {
                    Some(value) => records.insert(key, value),
                    None => records.remove(&key),
                };
                if let DirectoryChange::Network(network) = &change && before.network(network.id).is_none() {
                    prop_assert!(network.id.get() > drawn, "an id was used twice");
                    drawn = network.id.get();
                }
            }
            invariants::directory(&directory);
        }
        let read = |(key, value): (&Vec<u8>, &Vec<u8>)| DirectoryChange::from_record(key, Some(value)).unwrap();
        let (mut forwards, mut backwards) = (Directory::new(), Directory::new());
        records.iter().map(read).for_each(|change| forwards.evolve(&change));
        records.iter().rev().map(read).for_each(|change| backwards.evolve(&change));
        prop_assert_eq!(&forwards, &directory);
        prop_assert_eq!(&backwards, &directory);
    }
}
