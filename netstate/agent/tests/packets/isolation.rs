//! Who may talk to whom, as packets see it.

use netstate_proto::v1 as pb;

use crate::{
    probe::{Probe, reaches, server},
    world::{World, eventually, ok},
};

/// Two hosts, two networks on both of them: 1 with 10.1.0.0/24, 2 with 10.2.0.0/24.
pub(crate) fn two_networks() -> Option<World> {
    let mut world = World::new(2, false)?;
    for (id, pool) in [(1, "10.1.0"), (2, "10.2.0")] {
        let (first, second) = (format!("{pool}.0/26"), format!("{pool}.64/26"));
        world.story.network(id, &[&format!("{pool}.0/24")], &[(&first, 0), (&second, 1)]);
    }
    Some(world)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_network_talk_across_hosts_and_nobody_else_does() {
    let Some(mut world) = two_networks() else { return };
    let a = world.endpoint("e1.1", 0, &["10.1.0.5"]);
    let near = world.endpoint("e1.3", 0, &["10.1.0.6"]);
    let b = world.endpoint("e1.2", 1, &["10.1.0.70"]);
    let c = world.endpoint("e2.1", 1, &["10.2.0.70"]);
    world.start_all();
    world.tell().await;
    let _servers = [server(&b, "10.1.0.70:80"), server(&c, "10.2.0.70:80"), server(&near, "10.1.0.6:80")];
    assert!(reaches(&a, "10.1.0.70:80"), "same network, other host");
    assert!(reaches(&a, "10.1.0.6:80"), "same network, same host");
    assert!(!reaches(&a, "10.2.0.70:80"), "other network");
    assert!(!reaches(&c, "10.1.0.6:80"), "other network, backwards");

    // Neither the host itself nor other hosts are members.
    let _own = server(&world.hosts[0].netns, "192.168.77.1:80");
    assert!(!reaches(&a, "192.168.77.1:80"), "an endpoint to its host");
    assert!(reaches(&world.hosts[0].netns, "10.1.0.6:80"), "a host to its endpoint");
    assert!(!reaches(&world.hosts[0].netns, "10.1.0.70:80"), "a host to another's endpoint");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_opens_its_port_and_taking_it_back_cuts_what_runs() {
    let Some(mut world) = two_networks() else { return };
    let a = world.endpoint("e1.1", 0, &["10.1.0.5"]);
    let db = world.endpoint("e2.1", 1, &["10.2.0.70"]);
    world.start_all();
    world.tell().await;
    let _servers = [server(&db, "10.2.0.70:5432"), server(&db, "10.2.0.70:22"), server(&a, "10.1.0.5:5432")];
    assert!(!reaches(&a, "10.2.0.70:5432"));

    world.story.connect(1, 1, 2, 5432);
    world.tell().await;
    assert!(reaches(&a, "10.2.0.70:5432"), "the port, and replies to it");
    assert!(!reaches(&a, "10.2.0.70:22"), "no other port");
    assert!(!reaches(&db, "10.1.0.5:5432"), "not backwards");

    let mut flow = Probe::start(&a, "flow 10.2.0.70:5432");
    flow.until("flowing");
    world.story.connections.clear();
    world.tell().await;
    flow.until("cut");
    let known = world.on(0, &["conntrack", "-L", "-s", "10.1.0.5", "-p", "tcp", "--dport", "5432"]);
    assert!(!known.contains("ESTABLISHED"), "forgotten: {known}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selectors_open_for_members_only_and_overlapping_connections_are_one() {
    let Some(mut world) = two_networks() else { return };
    let chosen = world.endpoint("e1.1", 0, &["10.1.0.5"]);
    let other = world.endpoint("e1.2", 0, &["10.1.0.6"]);
    let db = world.endpoint("e2.1", 1, &["10.2.0.70"]);
    world.start_all();
    world.tell().await;
    let _servers = [server(&db, "10.2.0.70:80"), server(&db, "10.2.0.70:85"), server(&db, "10.2.0.70:95")];
    world.story.connect(1, 1, 2, 85);
    world.story.connect(2, 1, 2, 80);
    world.story.connections.get_mut(&2).unwrap().ports[0].last = 90;
    let members = [member("c3", "e1.1", "10.1.0.5", false), member("c3", "e2.1", "10.2.0.70", true)];
    world.story.connect(3, 1, 2, 95);
    let both = world.story.connections.get_mut(&3).unwrap();
    (both.from_selected, both.to_selected) = (true, true);
    world.story.members = members.to_vec();
    world.tell().await;
    assert!(reaches(&other, "10.2.0.70:85") && reaches(&other, "10.2.0.70:80"));
    assert!(reaches(&chosen, "10.2.0.70:95"), "selected");
    assert!(!reaches(&other, "10.2.0.70:95"), "not selected");

    world.story.connections.remove(&2);
    world.tell().await;
    assert!(reaches(&other, "10.2.0.70:85"), "still allowed by the other connection");
    assert!(!reaches(&other, "10.2.0.70:80"));
}

fn member(connection: &str, endpoint: &str, address: &str, to_side: bool) -> pb::ScopeMembers {
    let id: netstate_model::EndpointId = endpoint.parse().unwrap();
    let own = pb::ScopeAddress {
        endpoint_id: endpoint.to_owned(),
        addresses: vec![address.to_owned()],
        ..Default::default()
    };
    pb::ScopeMembers {
        connection_id: connection.to_owned(),
        to_side,
        network_id: id.network().to_string(),
        revision: 1,
        full: true,
        members: vec![own],
        members_gone: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_speaks_only_from_its_own_address_and_mac() {
    let Some(mut world) = two_networks() else { return };
    let a = world.endpoint("e1.1", 0, &["10.1.0.5"]);
    let neighbour = world.endpoint("e1.2", 0, &["10.1.0.6"]);
    let b = world.endpoint("e1.3", 1, &["10.1.0.70"]);
    world.start_all();
    world.tell().await;
    let mut ear = Probe::start(&b, "hear 10.1.0.70:9000");
    ear.until("ready");
    ok(&["ip", "-n", &a, "addr", "add", "10.1.0.6/32", "dev", "eth0"]);
    ok(&["ip", "-n", &a, "addr", "add", "10.1.0.9/32", "dev", "eth0"]);
    let say = |from: &str, word: &str| {
        Probe::start(&a, &format!("say {from}:0 10.1.0.70:9000 {word}")).line();
    };
    say("10.1.0.6", "as-neighbour");
    say("10.1.0.9", "as-nobody");
    say("10.1.0.5", "as-itself");
    assert_eq!(ear.until("as-itself"), Vec::<String>::new(), "heard before");

    // A changed MAC loses the neighbour entry's interface as well; the address stays.
    ok(&["ip", "-n", &a, "link", "set", "eth0", "address", "02:aa:aa:aa:aa:aa"]);
    say("10.1.0.5", "with-other-mac");
    let own = netstate_model::Mac::derived("e1.1".parse().unwrap()).to_string();
    ok(&["ip", "-n", &a, "link", "set", "eth0", "address", &own]);
    say("10.1.0.5", "with-own-mac");
    assert_eq!(ear.until("with-own-mac"), Vec::<String>::new(), "heard before");

    for borrowed in ["10.1.0.6/32", "10.1.0.9/32"] {
        ok(&["ip", "-n", &a, "addr", "del", borrowed, "dev", "eth0"]);
    }
    // Nor does another host's endpoint speak for one of this host: the address comes from the wrong side.
    ok(&["ip", "-n", &world.hosts[1].netns, "addr", "add", "10.1.0.5/32", "dev", "lo"]);
    let mut near = Probe::start(&neighbour, "hear 10.1.0.6:9000");
    near.until("ready");
    Probe::start(&world.hosts[1].netns, "say 10.1.0.5:0 10.1.0.6:9000 from-elsewhere").line();
    Probe::start(&a, "say 10.1.0.5:0 10.1.0.6:9000 from-here").line();
    assert_eq!(near.until("from-here"), Vec::<String>::new(), "heard before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quarantine_stops_everything_whatever_is_allowed() {
    let Some(mut world) = two_networks() else { return };
    let a = world.endpoint("e1.1", 0, &["10.1.0.5"]);
    let b = world.endpoint("e1.2", 1, &["10.1.0.70"]);
    world.start_all();
    world.tell().await;
    let _servers = [server(&a, "10.1.0.5:80"), server(&b, "10.1.0.70:80")];
    let mut flow = Probe::start(&a, "flow 10.1.0.70:80");
    flow.until("flowing");
    world.story.quarantined.insert("e1.2".to_owned());
    world.tell().await;
    flow.until("cut");
    assert!(!reaches(&a, "10.1.0.70:80") && !reaches(&b, "10.1.0.5:80"));
    assert!(!reaches(&world.hosts[1].netns, "10.1.0.70:80"), "nor with its own host");
    world.story.quarantined.clear();
    world.tell().await;
    assert!(reaches(&a, "10.1.0.70:80"), "and back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipv6_is_isolated_and_connected_alike() {
    let Some(mut world) = World::new(2, true) else { return };
    for (id, pool) in [(1, "fd01::"), (2, "fd02::")] {
        let (first, second) = (format!("{pool}/122"), format!("{pool}40/122"));
        world.story.network(id, &[&format!("{pool}/112")], &[(&first, 0), (&second, 1)]);
    }
    let a = world.endpoint("e1.1", 0, &["fd01::5"]);
    let b = world.endpoint("e1.2", 1, &["fd01::45"]);
    let c = world.endpoint("e2.1", 1, &["fd02::45"]);
    world.start_all();
    world.tell().await;
    let _servers = [server(&b, "[fd01::45]:80"), server(&c, "[fd02::45]:80"), server(&c, "[fd02::45]:22")];
    eventually("same network passes", || reaches(&a, "[fd01::45]:80")).await;
    assert!(!reaches(&a, "[fd02::45]:80"));
    world.story.connect(1, 1, 2, 80);
    world.tell().await;
    assert!(reaches(&a, "[fd02::45]:80"));
    assert!(!reaches(&a, "[fd02::45]:22"));
    world.story.connections.clear();
    world.tell().await;
    assert!(!reaches(&a, "[fd02::45]:80"));
}
