//! A host that is silent for longer than the policy allows is given up, whoever leads, and taken back when it is heard again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use netstate_client::Client;
use netstate_proto::v1 as pb;
use support::{
    Processes, create_network, done, endpoints, item, live, netstate, origin, refused, register_host, until,
};
use tokio::task::JoinHandle;

/// Each a commit of its own when its endpoint goes.
const NETWORKS: usize = 40;
const HOSTS: usize = 3;

/// Waits until a host is in some state.
async fn until_host(client: &Client, what: &str, name: &str, is: impl Fn(&pb::Host) -> bool) {
    until(what, async || {
        let hosts = client.list_hosts(pb::ListHostsRequest {}).await.ok()?.hosts;
        hosts.iter().any(|host| host.name == name && is(host)).then_some(())
    })
    .await;
}

/// Why it was refused, if it was.
async fn attach(client: &Client, endpoint: pb::AttachItem) -> Option<pb::Refusal> {
    let request = pb::AttachRequest { origin: origin(""), endpoints: vec![endpoint] };
    client.attach(request).await.unwrap().results.remove(0).refusal
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_is_given_up_and_taken_back() {
    let mut cluster = Processes::start(3);
    let client = cluster.client();
    for n in 0..NETWORKS {
        create_network(&client, &format!("net-{n}"), &format!("10.{n}.0.0/16")).await;
    }
    for n in 0..HOSTS {
        register_host(&client, &format!("host-{n}"), &format!("192.0.2.{}", n + 1)).await;
    }
    let on = |host: usize| {
        (0..NETWORKS).map(move |n| item(&format!("net-{n}"), &format!("e{host}"), &format!("host-{host}")))
    };
    let all = (0..HOSTS).flat_map(on).collect();
    let attached = client.attach(pb::AttachRequest { origin: origin(""), endpoints: all }).await.unwrap();
    assert!(attached.results.iter().all(|result| result.refusal.is_none()));
    let mut hosts: Vec<_> = (0..HOSTS).map(|n| live(&client, &format!("host-{n}"))).collect();
    for n in 0..HOSTS {
        until_host(&client, "a host is up", &format!("host-{n}"), |host| host.connected).await;
    }

    assert_eq!(done(&netstate(Some(&cluster), &["host", "policy"])), "endpoints of silent hosts stay\n");
    let soon = refused(&netstate(Some(&cluster), &["host", "policy", "--detach-after", "29s"]));
    assert!(soon.contains("can't be detached; choose 30 s"), "{soon}");
    let said = done(&netstate(Some(&cluster), &["host", "policy", "--detach-after", "30s", "--reason", "a test"]));
    assert_eq!(said, "endpoints of a host that is silent for 30s are detached\n");

    hosts[0].abort();
    until_host(&client, "it is given up", "host-0", |host| host.lost_since != 0).await;
    // Whoever leads now has heard of none of them, and goes on with what was decided.
    (0..3).for_each(|at| cluster.kill(at));
    (0..3).for_each(|at| cluster.spawn(at));
    until_host(&client, "its endpoints are detached", "host-0", |host| host.endpoints == 0).await;
    assert_eq!(endpoints(&client).await.len(), (HOSTS - 1) * NETWORKS);
    let listed = done(&netstate(Some(&cluster), &["host", "ls"]));
    assert!(listed.contains("given up, silent"), "{listed}");
    let refusal = attach(&client, item("net-0", "again", "host-0")).await.expect("it is not there");
    assert_eq!(refusal.code, i32::from(tonic::Code::FailedPrecondition));
    assert!(refusal.message.contains("host-0 was silent and given up at"), "{}", refusal.message);

    hosts[0] = live(&client, "host-0");
    until_host(&client, "it is taken back", "host-0", |host| host.lost_since == 0).await;
    assert_eq!(attach(&client, item("net-0", "again", "host-0")).await, None);
    let mut trail = client.audit_log(pb::AuditLogRequest::default()).await.unwrap();
    let mut why = Vec::new();
    while let Some(record) = trail.message().await.unwrap() {
        why.extend(record.changes.into_iter().map(|change| (change, record.reason.clone())));
    }
    for (change, reason) in [
        ("endpoints of hosts", "a test"),
        ("host h1 given up at", "silent for "),
        ("host h1 given up no more", "it is heard"),
    ] {
        let there = why.iter().any(|(what, why)| what.starts_with(change) && why.starts_with(reason));
        assert!(there, "{change}, {reason}: {why:?}");
    }
    hosts.iter().for_each(JoinHandle::abort);
}
