//! A majority is lost for good: a survivor goes on alone, others join it, and what comes back of the old cluster is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use etcd_proto::etcdserverpb::{RangeRequest, kv_client::KvClient};
use support::{Processes, done, led, netstate, put, refused, until};
use tonic::transport::{Channel, Endpoint};

const KEYS: usize = 20;

/// Only one server, which need not be able to reach others.
fn channel_of(cluster: &Processes, at: usize) -> Channel {
    Endpoint::from_shared(format!("http://{}", cluster.client_address(at))).unwrap().connect_lazy()
}

/// How many of the keys a server has.
async fn keys(cluster: &Processes, at: usize, serializable: bool) -> Option<usize> {
    let (key, range_end) = ("k".into(), "l".into());
    let request = RangeRequest { key, range_end, serializable, ..RangeRequest::default() };
    Some(KvClient::new(channel_of(cluster, at)).range(request).await.ok()?.into_inner().kvs.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_goes_on_alone() {
    let mut cluster = Processes::start(3);
    led(&cluster.client()).await;
    let survivor = channel_of(&cluster, 1);
    for n in 0..KEYS {
        until("a key is written", async || put(&survivor, &format!("k{n:02}"), "v", 0).await).await;
    }
    until("the survivor has them", async || (keys(&cluster, 1, true).await? == KEYS).then_some(())).await;
    (0..3).for_each(|at| cluster.kill(at));
    std::fs::remove_dir_all(cluster.data_dir(0)).unwrap();

    let (dir, peer) = (cluster.data_dir(1), cluster.peer_address(1));
    let recover = ["cluster", "recover", "--data-dir", dir.to_str().unwrap()];
    let look = done(&netstate(None, &[&recover[..], &["-o", "json"]].concat()));
    let groups: Vec<serde_json::Value> = serde_json::from_str(&look).unwrap();
    assert!(groups.len() > 1 && groups.iter().all(|group| group["index"].is_u64()), "{look}");
    let accept = ["--accept-loss", "--name", "n2", "--peer", &peer];
    let mut nobody = recover;
    let empty = cluster.folder().join("empty");
    std::fs::create_dir(&empty).unwrap();
    nobody[3] = empty.to_str().unwrap();
    assert!(refused(&netstate(None, &[&nobody[..], &accept].concat())).contains("holds no node's data"));
    // Interrupted, it is done again.
    for _ in 0..2 {
        done(&netstate(None, &[&recover[..], &accept].concat()));
    }

    cluster.spawn(1);
    until("the survivor answers alone", async || (keys(&cluster, 1, false).await? == KEYS).then_some(())).await;
    until("it takes writes", async || put(&survivor, "k-after", "v", 0).await).await;
    // One of the old cluster comes back with what it had, and one with nothing.
    cluster.spawn(2);
    let turned_away = async || cluster.said(2).contains("belongs to another cluster").then_some(());
    until("the old one is turned away", turned_away).await;
    cluster.spawn_joining(0, 1);
    until("the new one has all", async || (keys(&cluster, 0, false).await? == KEYS + 1).then_some(())).await;
    // Not the old one, which takes calls and sees neither.
    let servers = [1, 0].map(|at| cluster.client_address(at)).join(",");
    let table = done(&netstate(None, &["cluster", "status", "--servers", &servers]));
    assert!(table.contains("n1") && table.contains("n2") && !table.contains("n3"), "{table}");
}
