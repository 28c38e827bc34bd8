//! How long programming takes, on this machine: `cargo test -p netstate-agent --test packets -- --ignored --nocapture`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use netstate_agent::{
    enforce::Enforcer,
    kernel::Kernel,
    plan::{self, Sets, Table, Wanted},
    scope::HostScope,
};
use netstate_model::Timestamp;
use netstate_proto::v1 as pb;

use crate::world::World;

const ELEMENTS: u32 = 10_000;
const FURTHER: u32 = 100;
/// Networks far away, and the id of the first of them.
const FAR_NETWORKS: u32 = 500;
const FAR: u32 = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn ten_thousand_elements_and_one_more() {
    for (kind, scope) in
        [("connections between pools", by_pools as fn(u32) -> HostScope), ("members of one", by_members)]
    {
        let Some(world) = World::new(1, false) else { return };
        let netns = world.hosts[0].netns.parse().unwrap();
        let kernel = Kernel::real(Table::new("netstate").unwrap(), Some(netns));
        let mut enforcer = Enforcer::new(kernel, world.underlays[0].parse().unwrap());
        let started = Instant::now();
        let first = wanted(&scope(ELEMENTS));
        let planned = started.elapsed();
        assert_eq!(enforcer.enforce(&first, true).await.problem, None);
        println!("{kind}: {} elements: plan {planned:.1?}, all {:.1?}", first.sets.elements(), started.elapsed());
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for further in 0..FURTHER {
            let (more, fewer) = (wanted(&scope(ELEMENTS + 1 + further)), wanted(&scope(ELEMENTS + further)));
            added.push(timed(&mut enforcer, &more).await);
            if further % 10 == 0 {
                removed.push(timed(&mut enforcer, &fewer).await);
                timed(&mut enforcer, &more).await;
            }
        }
        added.sort_unstable();
        removed.sort_unstable();
        let at = |times: &[Duration], of_hundred: usize| times[(times.len() - 1) * of_hundred / 100];
        println!("  one more: p50 {:.1?}, p99 {:.1?}", at(&added, 50), at(&added, 99));
        println!("  one less: p50 {:.1?}, worst {:.1?}", at(&removed, 50), at(&removed, 100));
        println!("  of that nft alone: p50 {:.1?}", at(&nft_alone(&enforcer).await, 50));
        let started = Instant::now();
        assert_eq!(enforcer.enforce(&wanted(&scope(ELEMENTS / 2)), false).await.problem, None);
        println!("  half of them gone: {:.1?}", started.elapsed());
    }
}

/// Transactions of one element, without planning and comparing.
async fn nft_alone(enforcer: &Enforcer) -> Vec<Duration> {
    let mut times = Vec::new();
    for port in 1..=FURTHER {
        let script = format!("add element inet netstate port_pool_pool4 {{ 12.0.0.1 . 12.0.0.2 . 6 . {port} }}\n");
        let program = plan::Program { script, removed: BTreeMap::new(), added: 1 };
        let started = Instant::now();
        enforcer.kernel().program(&program, &Sets::default()).await.unwrap();
        times.push(started.elapsed());
    }
    times.sort_unstable();
    times
}

async fn timed(enforcer: &mut Enforcer, wanted: &Wanted) -> Duration {
    let started = Instant::now();
    assert_eq!(enforcer.enforce(wanted, false).await.problem, None);
    started.elapsed()
}

fn wanted(scope: &HostScope) -> Wanted {
    plan::wanted(scope, "/run/netns", Timestamp::from_micros(0))
}

/// Many networks that may each talk to one network on some ports.
fn by_pools(elements: u32) -> HostScope {
    let connection = |at: u32| pb::ScopeConnection {
        id: format!("c{at}"),
        from_network_id: format!("net{}", FAR + at % FAR_NETWORKS),
        to_network_id: "net1".to_owned(),
        protocol: pb::Protocol::Tcp.into(),
        ports: vec![pb::PortRange { first: 1000 + at / FAR_NETWORKS * 2, last: 1000 + at / FAR_NETWORKS * 2 }],
        ..Default::default()
    };
    scope((0..elements).map(connection).collect(), &[])
}

/// Many addresses that may talk to one network.
fn by_members(elements: u32) -> HostScope {
    let member = |at: u32| pb::ScopeAddress {
        endpoint_id: format!("e2.{at}"),
        addresses: vec![format!("10.2.{}.{}", at / 256, at % 256)],
        ..Default::default()
    };
    let members = pb::ScopeMembers {
        connection_id: "c1".to_owned(),
        network_id: "net2".to_owned(),
        full: true,
        members: (0..elements).map(member).collect(),
        ..Default::default()
    };
    let connection = pb::ScopeConnection {
        id: "c1".to_owned(),
        from_network_id: "net2".to_owned(),
        to_network_id: "net1".to_owned(),
        from_selected: true,
        protocol: pb::Protocol::Tcp.into(),
        ports: vec![pb::PortRange { first: 80, last: 80 }],
        ..Default::default()
    };
    scope(vec![connection], &[members])
}

fn scope(connections: Vec<pb::ScopeConnection>, members: &[pb::ScopeMembers]) -> HostScope {
    use prost::Message as _;
    let network = |id: u32| pb::ScopeNetwork {
        network_id: format!("net{id}"),
        name: format!("network-{id}"),
        full: true,
        pools: vec![match id {
            FAR.. => format!("11.{}.{}.0/24", id / 256, id % 256),
            _ => format!("10.{id}.0.0/16"),
        }],
        ..Default::default()
    };
    let endpoint = pb::ScopeEndpoint {
        id: "e1.1".to_owned(),
        name: "one".to_owned(),
        addresses: vec!["10.1.0.5".to_owned()],
        mac: "02:00:00:00:00:01".to_owned(),
        ..Default::default()
    };
    let local =
        pb::ScopeLocal { network_id: "net1".to_owned(), full: true, endpoints: vec![endpoint], ..Default::default() };
    let frame = pb::ScopeFrame {
        connections,
        networks: [1, 2]
            .into_iter()
            .chain(FAR..FAR + FAR_NETWORKS)
            .map(|id| network(id).encode_to_vec().into())
            .collect(),
        locals: vec![local],
        members: members.iter().map(|members| members.encode_to_vec().into()).collect(),
        complete: true,
        ..Default::default()
    };
    let mut scope = HostScope::default();
    scope.apply(frame.try_into().unwrap()).unwrap();
    scope
}
