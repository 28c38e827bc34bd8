//! Agents that stop, start and lose the store.

use std::time::Duration;

use netstate_agent::scope::store::ScopeFile;

use crate::{
    isolation::two_networks,
    probe::{Probe, reaches, server},
    world::{eventually, run},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_agent_leaves_enforcement_and_a_started_one_brings_it_back_from_disk() {
    let Some(mut world) = two_networks() else { return };
    let a = world.endpoint("e1.1", 0, &["10.1.0.5"]);
    let b = world.endpoint("e1.2", 1, &["10.1.0.70"]);
    let c = world.endpoint("e2.1", 0, &["10.2.0.5"]);
    world.start_all();
    world.tell().await;
    let _serving = server(&a, "10.1.0.5:80");
    world.stop(0).await;
    assert!(reaches(&b, "10.1.0.5:80") && !reaches(&c, "10.1.0.5:80"), "without an agent");

    // From disk alone, on a kernel that forgot everything.
    world.on(0, &["nft", "delete", "table", "inet", "netstate"]);
    world.on(0, &["ip", "link", "del", "nse1-1"]);
    world.on(0, &["ip", "route", "del", "10.1.0.64/26"]);
    world.start(0);
    eventually("reachable again", || reaches(&b, "10.1.0.5:80")).await;
    assert!(!reaches(&c, "10.1.0.5:80"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_neither_leak_nor_lose_a_packet() {
    let Some(mut world) = two_networks() else { return };
    let a = world.endpoint("e1.1", 0, &["10.1.0.5"]);
    let b = world.endpoint("e1.2", 1, &["10.1.0.70"]);
    let c = world.endpoint("e2.1", 0, &["10.2.0.5"]);
    world.start_all();
    world.tell().await;
    let _serving = server(&a, "10.1.0.5:80");
    let mut ear = Probe::start(&a, "hear 10.1.0.5:9000");
    ear.until("ready");
    let mut flow = Probe::start(&b, "flow 10.1.0.5:80");
    flow.until("flowing");
    let mut denied = Probe::start(&c, "chatter 10.1.0.5:9000 denied");
    denied.until("ready");
    for _ in 0..5 {
        world.stop(0).await;
        world.start(0);
        // A frame is acknowledged after what is on disk is in force.
        world.tell().await;
    }
    let said = flow.so_far();
    assert!(said.last().is_some_and(|last| last.starts_with("beat")), "cut: {said:?}");
    Probe::start(&b, "say 10.1.0.70:0 10.1.0.5:9000 allowed").line();
    assert_eq!(ear.until("allowed"), Vec::<String>::new(), "leaked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_expires_with_the_store_gone() {
    let Some(mut world) = two_networks() else { return };
    let a = world.endpoint("e1.1", 0, &["10.1.0.5"]);
    let c = world.endpoint("e2.1", 0, &["10.2.0.5"]);
    world.start_all();
    world.story.connect(1, 1, 2, 80);
    let in_three_seconds = std::time::SystemTime::now() + Duration::from_secs(3);
    let at = in_three_seconds.duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
    world.story.connections.get_mut(&1).unwrap().expires_at = i64::try_from(at).unwrap();
    world.tell().await;
    let _serving = server(&c, "10.2.0.5:80");
    let mut flow = Probe::start(&a, "flow 10.2.0.5:80");
    flow.until("flowing");
    flow.until("cut");
    assert!(!reaches(&a, "10.2.0.5:80"));
    assert!(std::time::SystemTime::now() >= in_three_seconds, "too early");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_a_scope_keeps_the_table_until_it_has_one() {
    let Some(mut world) = two_networks() else { return };
    let a = world.endpoint("e1.1", 0, &["10.1.0.5"]);
    let b = world.endpoint("e1.2", 1, &["10.1.0.70"]);
    world.start_all();
    world.tell().await;
    let _serving = server(&a, "10.1.0.5:80");
    world.stop(0).await;
    std::fs::write(ScopeFile::new(&world.state_dir(0)).path(), b"netstate-scope 1 00000000 3\nabc").unwrap();
    world.start(0);
    let aside = world.state_dir(0).join("scope.damaged");
    assert!(aside.exists(), "the damaged file is kept for somebody to look at");
    assert!(reaches(&b, "10.1.0.5:80"), "what was allowed still is");

    world.story.quarantined.insert("e1.1".to_owned());
    world.tell().await;
    assert!(!reaches(&b, "10.1.0.5:80"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_information_what_comes_from_an_endpoint_is_dropped() {
    let Some(mut world) = two_networks() else { return };
    world.start(0);
    let table = ["ip", "netns", "exec", &world.hosts[0].netns.clone(), "nft", "list", "table", "inet", "netstate"];
    eventually("a table", || run(&table).status.success()).await;
    let listed = world.on(0, &["nft", "list", "chain", "inet", "netstate", "decide4"]);
    assert!(
        listed.trim_end().trim_end_matches('}').trim_end().trim_end_matches('}').trim_end().ends_with("drop"),
        "{listed}"
    );
}

#[tokio::test]
async fn a_dry_run_touches_nothing() {
    let Some(mut world) = two_networks() else { return };
    world.endpoint("e1.1", 0, &["10.1.0.5"]);
    world.dry_run = true;
    world.start(0);
    world.send().await;
    let problem = world.acked(0).await;
    assert!(problem.contains("--dry-run"), "{problem}");
    assert_eq!(world.on(0, &["nft", "list", "ruleset"]), "");
    assert!(!world.on(0, &["ip", "link"]).contains("nse"));
    assert!(!world.state_dir(0).exists());
}
