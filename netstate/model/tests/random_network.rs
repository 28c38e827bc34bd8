//! Random commands against one network, with all invariants checked after each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{collections::BTreeMap, net::IpAddr};

use netstate_model::*;
use proptest::prelude::*;
use support::invariants;

#[derive(Clone, Debug)]
enum Step {
    Attach(Vec<Wish>),
    Detach(Vec<u8>),
    Quarantine(u8, bool),
    Retire,
}

#[derive(Clone, Debug)]
struct Wish {
    name: u8,
    host: u8,
    labels: u8,
    /// Places in the pools: which pool, and how far from its beginning (or, if negative, from its end).
    addresses: Vec<(u8, i8)>,
}

const POOLS: [&[&str]; 7] = [
    &["10.1.0.0/28"],
    &["10.1.0.0/29", "fd00:1::/125"],
    &["10.1.0.0/26", "10.2.0.0/30"],
    &["10.1.0.0/30", "10.1.0.4/30", "10.1.0.8/31", "10.1.0.10/32"],
    &["fd00:1::/124", "10.1.0.0/27"],
    &["fd00:1::/126"],
    &["10.1.0.0/24", "10.1.1.0/24"],
];

fn wish() -> impl Strategy<Value = Wish> {
    let addresses = prop::collection::vec((0..4_u8, -4..20_i8), 0..3);
    let addresses = prop_oneof![3 => Just(Vec::new()), 1 => addresses];
    (0..30_u8, 1..5_u8, 0..4_u8, addresses).prop_map(|(name, host, labels, addresses)| Wish {
        name,
        host,
        labels,
        addresses,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(wish(), 1..5).prop_map(Step::Attach),
        5 => prop::collection::vec(0..60_u8, 1..4).prop_map(Step::Detach),
        1 => (0..60_u8, any::<bool>()).prop_map(|(number, on)| Step::Quarantine(number, on)),
        1 => Just(Step::Retire),
    ]
}

fn attach(config: &NetworkConfig, wish: &Wish) -> Attach {
    let address = |&(pool, place): &(u8, i8)| -> IpAddr {
        let pool = config.pools[usize::from(pool) % config.pools.len()];
        let from = if place < 0 { pool.broadcast() } else { pool.network() };
        match from {
            IpAddr::V4(from) => IpAddr::from(u32::from(from).wrapping_add_signed(place.into()).to_be_bytes()),
            IpAddr::V6(from) => IpAddr::from(u128::from(from).wrapping_add_signed(place.into()).to_be_bytes()),
        }
    };
    Attach {
        name: Name::new(&format!("n-{}", wish.name)).unwrap(),
        host: HostId::new(wish.host.into()),
        addresses: wish.addresses.iter().map(address).collect(),
        mac: None,
        labels: Labels::new((0..wish.labels).map(|at| (format!("k{at}"), "v"))).unwrap(),
        workload: String::new(),
        netns: None,
    }
}

/// A network, and its records as a store would keep them.
struct Run {
    state: NetworkState,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    attached: u32,
}

impl Run {
    fn new(pools: &[&str]) -> Self {
        let mut directory = Directory::new();
        let create = DirectoryCommand::CreateNetwork {
            name: Name::new("web").unwrap(),
            pools: pools.iter().map(|pool| pool.parse().unwrap()).collect(),
            block_len_v4: None,
            block_len_v6: None,
            labels: Labels::NONE,
        };
        for change in directory.decide(create, &context(0)).unwrap() {
            directory.evolve(&change);
        }
        let config = NetworkConfig::of(directory.network_named("web").unwrap());
        let mut run = Run { state: NetworkState::default(), records: BTreeMap::new(), attached: 0 };
        run.step(NetworkCommand::Install(config), 0).unwrap();
        run
    }

    fn step(&mut self, command: NetworkCommand, at: i64) -> Result<(), Refusal> {
        let before = self.state.clone();
        for change in before.decide(command, &context(at))? {
            let (key, value) = change.to_record();
            // What is replayed is what was read back.
            let change = NetworkChange::from_record(&key, value.as_deref()).unwrap();
            self.state.evolve(&change);
            match value {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
        Ok(())
    }

    /// A state from the records as they are now: the settings first, the rest forwards or backwards.
    fn rebuilt(&self, backwards: bool) -> NetworkState {
        let mut keys: Vec<_> = self.records.keys().collect();
        if backwards {
            keys[1..].reverse();
        }
        let mut state = NetworkState::default();
        for key in keys {
            state.evolve(&NetworkChange::from_record(key, Some(&self.records[key])).unwrap());
        }
        state
    }
}

fn context(at: i64) -> Context<'static> {
    Context { now: Timestamp::from_micros(at), actor: "ann", reason: "because" }
}

/// Whether an address for this host is free, found by trying all of them.
fn some_free(state: &NetworkState, config: &NetworkConfig, family: Family) -> bool {
    let free = |pool: &ipnet::IpNet| match pool {
        ipnet::IpNet::V4(pool) => {
            let skipped = usize::from(pool.prefix_len() < 31);
            pool.hosts().skip(skipped).any(|own| state.endpoint_at(own.into()).is_none())
        }
        ipnet::IpNet::V6(pool) => {
            let skipped = if pool.prefix_len() < 127 { 2 } else { 0 };
            pool.hosts().skip(skipped).any(|own| state.endpoint_at(own.into()).is_none())
        }
    };
    config.pools.iter().filter(|pool| Family::of(pool.addr()) == family).any(free)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn holds_after_every_step(pools in 0..POOLS.len(), steps in prop::collection::vec(step(), 1..40)) {
        let mut run = Run::new(POOLS[pools]);
        for (at, step) in steps.iter().enumerate() {
            let config = run.state.config().unwrap().clone();
            let before = run.state.clone();
            let (command, attaches) = match step {
                Step::Attach(wishes) => {
                    let batch: Vec<Attach> = wishes.iter().map(|wish| attach(&config, wish)).collect();
                    (NetworkCommand::Attach(batch), wishes.len())
                }
                Step::Detach(numbers) => (NetworkCommand::Detach(numbers.iter().map(|&own| own.into()).collect()), 0),
                Step::Quarantine(number, on) => {
                    (NetworkCommand::Quarantine { endpoint: (*number).into(), on: *on }, 0)
                }
                // Only now and then, because it ends everything.
                Step::Retire if at > 30 => (NetworkCommand::Retire, 0),
                Step::Retire => continue,
            };
            match run.step(command, at as i64) {
                Ok(()) => run.attached += attaches as u32,
                Err(Refusal::PoolExhausted { family, .. }) if attaches == 1 => {
                    prop_assert!(!some_free(&run.state, &config, family), "refused though an address is free");
                }
                Err(_) => prop_assert_eq!(&run.state, &before, "a refusal changed something"),
            }
            invariants::network(&run.state);
            prop_assert!(run.state.endpoints().all(|own| own.number() <= run.attached), "a number out of order");
        }
        prop_assert_eq!(&run.rebuilt(false), &run.state);
        prop_assert_eq!(&run.rebuilt(true), &run.state);
    }
}
