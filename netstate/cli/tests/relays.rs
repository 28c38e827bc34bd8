//! Hosts find relays by themselves, and do without when there is none.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use netstate_client::{Client, Options};
use netstate_proto::v1 as pb;
use support::{Processes, led, live, register_host, until};

/// Waits until a node serves the only host.
async fn serves(client: &Client, node: &str) {
    until(node, async || {
        let status = client.cluster_status(pb::ClusterStatusRequest {}).await.ok()?;
        status.nodes.iter().any(|it| it.name == node && it.watching_hosts == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_finds_a_relay_and_does_without() {
    let mut cluster = Processes::start(3);
    let client = cluster.client();
    led(&client).await;
    register_host(&client, "host-0", "192.0.2.1").await;
    // It is told of one server only.
    let options = Options { find_relays_every: Duration::from_millis(100), ..Options::default() };
    let host = live(&Client::connect(vec![cluster.client_address(0)], options).unwrap(), "host-0");
    serves(&client, "n1").await;
    let relay = cluster.add_relay();
    serves(&client, "n4").await;
    cluster.kill(relay);
    serves(&client, "n1").await;
    host.abort();
}
