//! What others change in the agent's table is put right; what is not the agent's is left alone.

use std::time::Duration;

use crate::{
    isolation::two_networks,
    probe::{reaches, server},
    world::{World, eventually, ok, run},
};

const FOREIGN: &str = "table ip others {
    chain keep {
        type filter hook forward priority 5; policy accept;
        counter
    }
}";

/// Two endpoints of different networks on two hosts, with agents; what the second may not reach is `10.1.0.5:80`.
async fn apart() -> Option<(World, String, crate::probe::Probe)> {
    let mut world = two_networks()?;
    let a = world.endpoint("e1.1", 0, &["10.1.0.5"]);
    let c = world.endpoint("e2.1", 0, &["10.2.0.5"]);
    world.on(0, &["nft", FOREIGN]);
    world.start_all();
    world.tell().await;
    let serving = server(&a, "10.1.0.5:80");
    assert!(!reaches(&c, "10.1.0.5:80"));
    Some((world, c, serving))
}

/// The words of the table, without what counts packets. Sorted, because the kernel lists a set in any order.
fn table(world: &World) -> Vec<String> {
    let netns = &world.hosts[0].netns;
    let listed = run(&["ip", "netns", "exec", netns, "nft", "-s", "list", "table", "inet", "netstate"]);
    let text = String::from_utf8_lossy(&listed.stdout);
    let mut words: Vec<String> = text.split([' ', ',', '\n', '\t']).map(str::to_owned).collect();
    words.sort_unstable();
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_changed_in_the_table_comes_back() {
    let Some((world, c, _serving)) = apart().await else { return };
    let before = table(&world);
    let changes = [
        "add element inet netstate pair_pool_pool4 { 10.2.0.0/24 . 10.1.0.0/24 }",
        "delete element inet netstate pools4 { 10.1.0.0/24 }",
        "insert rule inet netstate forward accept",
        "flush chain inet netstate decide4",
        "add chain inet netstate forward { policy drop; }",
        "add set inet netstate strange { type mark; }",
        "add element inet netstate quarantine4 { 10.1.0.5 comment \"strange\" }",
        "delete table inet netstate",
    ];
    for change in changes {
        world.on(0, &["nft", change]);
        eventually(change, || table(&world) == before).await;
    }
    assert!(!reaches(&c, "10.1.0.5:80"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interfaces_and_routes_come_back_at_the_next_comparison() {
    let Some(mut world) = two_networks() else { return };
    let a = world.endpoint("e1.1", 0, &["10.1.0.5"]);
    let b = world.endpoint("e1.2", 1, &["10.1.0.70"]);
    world.compare_every = Duration::from_millis(200);
    world.start_all();
    world.tell().await;
    let _serving = server(&a, "10.1.0.5:80");
    assert!(reaches(&b, "10.1.0.5:80"));
    world.on(0, &["ip", "route", "del", "10.1.0.64/26"]);
    world.on(0, &["ip", "route", "add", "10.99.0.0/24", "via", "192.168.77.2", "proto", "86"]);
    world.on(0, &["ip", "route", "add", "10.98.0.0/24", "via", "192.168.77.2"]);
    world.on(0, &["ip", "link", "del", "nse1-1"]);
    eventually("reachable again", || reaches(&b, "10.1.0.5:80")).await;
    let routes = world.on(0, &["ip", "route"]);
    assert!(!routes.contains("10.99.0.0/24"), "a stale route of ours goes: {routes}");
    assert!(routes.contains("10.98.0.0/24"), "a route of others stays: {routes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_tables_are_left_alone() {
    let Some((mut world, _, _serving)) = apart().await else { return };
    let before = world.on(0, &["nft", "-s", "list", "table", "ip", "others"]);
    world.story.connect(1, 2, 1, 80);
    world.tell().await;
    world.on(0, &["nft", "delete", "table", "inet", "netstate"]);
    eventually("back", || table(&world).len() > 1).await;
    assert_eq!(world.on(0, &["nft", "-s", "list", "table", "ip", "others"]), before);
    let tables = world.on(0, &["nft", "list", "tables"]);
    assert_eq!(tables.lines().collect::<Vec<_>>(), ["table ip others", "table inet netstate"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_comes_late_gets_its_interface_and_holds_nothing_up() {
    let Some(mut world) = two_networks() else { return };
    let late = world.late_namespace("late");
    world.endpoint_in("e1.1", 0, &["10.1.0.5"], &late);
    let b = world.endpoint("e1.2", 1, &["10.1.0.70"]);
    world.start_all();
    world.tell().await;
    world.make(&late);
    let address = || run(&["ip", "-n", &late, "addr", "show", "dev", "eth0", "to", "10.1.0.5"]).stdout;
    eventually("an interface", || !address().is_empty()).await;
    let _serving = server(&late, "10.1.0.5:80");
    eventually("reachable", || reaches(&b, "10.1.0.5:80")).await;

    // And when the endpoint goes, so does the interface.
    world.story.endpoints.retain(|endpoint| endpoint.id != "e1.1");
    world.tell().await;
    let links = ok(&["ip", "-n", &world.hosts[0].netns, "link"]);
    assert!(!links.contains("nse1-1"), "{links}");
}
