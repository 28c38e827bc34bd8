//! Nodes that join, leave, come back when they should not, and are placed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use kv_core::{GroupId, NodeId};
use kv_node::{Consistency, MembershipError, Node, StartError, Timing};
use support::{Cluster, keyspace, put, until};

fn timing() -> Timing {
    Timing { housekeeping: Duration::from_millis(100), ..Timing::default() }
}

/// The governor's picture, if nothing is to be done any more.
fn at_rest(cluster: &Cluster) -> Option<std::sync::Arc<kv_node::Placement>> {
    let up = cluster.nodes.iter().flatten();
    let placement = up.filter_map(Node::placement).next()?;
    let led = placement.groups.iter().all(|group| group.leader.is_some());
    (led && placement.steps.is_empty() && !placement.groups.is_empty()).then_some(placement)
}

fn voters(placement: &kv_node::Placement, node: NodeId) -> usize {
    placement.groups.iter().filter(|group| group.voters.contains(&node)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_is_given_its_share_and_leaves() {
    let mut cluster = Cluster::start_with(3, timing()).await;
    let ks = keyspace("some");
    cluster.node(0).txn(&ks, put("before", "x")).await.unwrap();
    cluster.join(3).await;
    let n4 = cluster.node(3).id();
    assert_eq!(n4, NodeId::new(4));
    let shared = |now: &kv_node::Placement| {
        let leaders: BTreeSet<_> = now.groups.iter().filter_map(|group| group.leader).collect();
        voters(now, n4) == 3 && leaders.len() == 4
    };
    until("four nodes lead and vote as often", async || at_rest(&cluster).filter(|now| shared(now))).await;
    // It has a copy of everything and serves from it, also of groups that it does not vote in.
    cluster.node(0).txn(&ks, put("after", "y")).await.unwrap();
    let read = cluster.node(3).range(&ks, &kv_core::KeyRange::All, None, 9, Consistency::Linearizable).await.unwrap();
    assert_eq!(read.kvs.len(), 2);

    cluster.node(1).remove_node("n4").await.unwrap();
    let removed = until("n4 is told that it is out", async || {
        tokio::time::timeout(Duration::from_millis(100), cluster.node(3).failed()).await.ok()
    });
    let reason = removed.await;
    assert!(reason.contains("was removed from this cluster"), "{reason}");
    let rest = until("the others have it all", async || at_rest(&cluster).filter(|now| voters(now, n4) == 0)).await;
    assert!(rest.groups.iter().all(|group| group.voters.len() == 3 && group.learners.is_empty()), "{:?}", rest.groups);
    assert_eq!(cluster.node(0).members().len(), 3);
    // It doesn't come back with what it has.
    cluster.stop(3).await;
    let again = cluster.join_refused(3).await;
    assert!(again.contains("was removed from this cluster"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_has_a_copy_of_everything_and_never_votes() {
    let mut cluster = Cluster::start_with(3, timing()).await;
    let ks = keyspace("some");
    cluster.join_as(3, true).await;
    let relay = cluster.node(3).id();
    let copies = |now: &kv_node::Placement| now.groups.iter().all(|group| group.learners.contains_key(&relay));
    let rest = until("it has a copy of everything", async || at_rest(&cluster).filter(|now| copies(now))).await;
    assert_eq!(voters(&rest, relay), 0, "others have a share of the votes, a relay has none");
    cluster.node(0).txn(&ks, put("k", "x")).await.unwrap();
    let read = cluster.node(3).range(&ks, &kv_core::KeyRange::All, None, 9, Consistency::Linearizable).await.unwrap();
    assert_eq!(read.kvs.len(), 1);
    // It can't found anything, and can be made a voter.
    let mistakes = kv_node::Config { relay: true, ..cluster.config(0) }.mistakes();
    assert!(matches!(mistakes[..], [kv_node::ConfigError::Relay]), "{mistakes:?}");
    cluster.stop(3).await;
    cluster.join_as(3, false).await;
    until("it has its share of votes", async || at_rest(&cluster).filter(|now| voters(now, relay) == 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_its_disk_is_refused_until_it_is_replaced() {
    let mut cluster = Cluster::start_with(3, timing()).await;
    let ks = keyspace("some");
    cluster.node(0).txn(&ks, put("k", "x")).await.unwrap();
    let n3 = cluster.node(2).id();
    let known = async || {
        let catalog = cluster.node(0).catalog()?;
        (!catalog.nodes.get(&n3)?.instance.is_empty()).then_some(())
    };
    until("n3 is known by its directory", known).await;
    assert_eq!(cluster.node(0).replace_node("n3").await, Err(MembershipError::Up { name: "n3".into() }));
    cluster.stop(2).await;
    std::fs::remove_dir_all(cluster.dir(2)).unwrap();
    cluster.restart(2).await;
    let reason = tokio::time::timeout(support::PATIENCE, cluster.node(2).failed()).await.expect("it is refused");
    assert!(reason.contains("cluster replace n3"), "{reason}");
    cluster.stop(2).await;
    std::fs::remove_dir_all(cluster.dir(2)).unwrap();
    let joining = Node::start(
        kv_node::Config { join: vec![cluster.peer(0).to_string()], ..cluster.config(2) },
        std::sync::Arc::new(kv_node::SystemClock),
        std::sync::Arc::new(support::Deaf),
        std::sync::Arc::new(support::Echo),
    );
    let refused = joining.await.err().expect("a name is not given away");
    assert!(matches!(&refused, StartError::NotJoined { reason } if reason.contains("cluster replace n3")), "{refused}");

    until("n3 is down", async || cluster.node(0).peers().iter().all(|(id, up)| *id != n3 || !up).then_some(())).await;
    cluster.node(0).replace_node("n3").await.unwrap();
    cluster.join(2).await;
    let own = cluster.node(2).id();
    assert_ne!(own, n3);
    until("it votes everywhere", async || at_rest(&cluster).filter(|now| voters(now, own) == now.groups.len())).await;
    let read = cluster.node(2).range(&ks, &kv_core::KeyRange::All, None, 9, Consistency::Linearizable).await.unwrap();
    assert_eq!(read.kvs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_clusters_data_is_refused() {
    let mut one = Cluster::start_with(1, timing()).await;
    let other = Cluster::start_with(1, timing()).await;
    until("it is founded", async || one.node(0).catalog()).await;
    one.stop(0).await;
    let start = async |config| {
        let (clock, observer) = (std::sync::Arc::new(kv_node::SystemClock), std::sync::Arc::new(support::Deaf));
        Node::start(config, clock, observer, std::sync::Arc::new(support::Echo)).await
    };
    let refuse = async |config| start(config).await.err().expect("it is refused");
    let join = vec![other.peer(0).to_string()];
    let refused = refuse(kv_node::Config { join, ..one.config(0) }).await;
    assert!(
        matches!(&refused, StartError::NotJoined { reason } if reason.contains("belongs to another cluster")),
        "{refused}"
    );
    let named = kv_node::Config { name: "n9".into(), ..one.config(0) };
    let initial_cluster = vec![kv_node::Member { name: "n9".into(), peer: one.peer(0).to_string() }];
    let refused = refuse(kv_node::Config { initial_cluster, ..named }).await;
    assert!(matches!(&refused, StartError::NotMember { reason } if reason.contains("node \"n1\"")), "{refused}");
    // A founder whose others never came knows no more of its cluster than what it was started with.
    let founder = |others: [u16; 2]| {
        let address = |at: u16| std::net::SocketAddr::new(one.peer(0).ip(), 23800 + at).to_string();
        let named = |at| kv_node::Member { name: format!("n{at}"), peer: address(at) };
        let initial_cluster = [1].into_iter().chain(others).map(named).collect();
        kv_node::Config { data_dir: one.dir(0).with_file_name("early"), initial_cluster, ..one.config(0) }
    };
    start(founder([2, 3])).await.unwrap().shutdown().await;
    let turned_away = async || match start(founder([4, 5])).await.err()? {
        StartError::NotMember { reason } if reason.contains("belongs to another cluster") => Some(()),
        _ => None,
    };
    until("its store is closed, and its directory refused", turned_away).await;
    one.restart(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_neither_votes_nor_leads() {
    let mut cluster = Cluster::start_with(3, timing()).await;
    cluster.join(3).await;
    let n2 = cluster.node(1).id();
    until("all is even", async || at_rest(&cluster).filter(|now| voters(now, n2) == 3)).await;
    cluster.node(0).drain_node("n2", true).await.unwrap();
    let drained = until("n2 is drained", async || at_rest(&cluster).filter(|now| voters(now, n2) == 0)).await;
    assert!(drained.groups.iter().all(|group| group.learners.contains_key(&n2) && group.leader != Some(n2)));
    cluster.node(0).drain_node("n2", false).await.unwrap();
    until("all is even again", async || at_rest(&cluster).filter(|now| voters(now, n2) == 3)).await;
    let leads = |group| cluster.node(1).leads(GroupId::new(group));
    until("it leads a group again", async || (0..support::GROUPS).find_map(leads)).await;
}
