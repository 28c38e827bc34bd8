//! What a node says of itself to those who watch over it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kv_core::GroupId;
use kv_node::{GroupFigures, Node, Proposed};
use support::{Cluster, keyspace, put, until};

fn group(node: &Node, group: GroupId) -> GroupFigures {
    node.figures().groups[usize::from(group.get())].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_counted_where_it_was_done() {
    let cluster = Cluster::start(3).await;
    let ks = keyspace("counted");
    let at = cluster.leader(&ks).await;
    for n in 0..10 {
        cluster.node(at).txn(&ks, put("k", &n.to_string())).await.unwrap();
    }
    let leader = cluster.node(at);
    let id = leader.group_of(&ks);
    let figures = leader.figures();
    let answered = figures.proposals.iter().find(|(outcome, _)| *outcome == Proposed::Answered).unwrap().1;
    assert!(answered >= 10, "{figures:?}");
    assert!(figures.revisions >= 10 && figures.log_bytes > 0 && figures.state_bytes > 0, "{figures:?}");
    for spread in [&figures.commits, &figures.applied_entries, &figures.log_writes] {
        assert!(spread.counts.iter().sum::<u64>() >= 1 && spread.sum > 0, "{figures:?}");
    }
    leader.read_barrier(id).await.unwrap();
    assert!(leader.figures().barriers.counts.iter().sum::<u64>() >= 1);
    until("both others have the whole log, and have answered", async || {
        let own = group(leader, id);
        let whole = own.behind.iter().filter(|(_, behind)| *behind == 0).count() == 2;
        let links = leader.figures().links;
        let linked =
            links.iter().filter(|link| link.up && link.times_up >= 1 && link.round_trip_micros.is_some()).count();
        (own.leads && own.voters == 3 && own.learners == 0 && whole && linked == 2).then_some(())
    })
    .await;
    let stood: u64 = (0..3).map(|at| group(cluster.node(at), id).elections).sum();
    assert!(stood >= 1, "somebody was elected");
}

/// openraft goes on calling a leader one that nobody answers; whoever asks how the group is has to be told the truth.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_majority_is_said_to_be_none() {
    let mut cluster = Cluster::start(3).await;
    let ks = keyspace("alone");
    cluster.node(0).txn(&ks, put("k", "v")).await.unwrap();
    let at = cluster.leader(&ks).await;
    let id = cluster.node(at).group_of(&ks);
    let own = cluster.node(at).id();
    let led_by = |node: &Node| node.status()[usize::from(id.get())].leader;
    assert_eq!((led_by(cluster.node(at)), group(cluster.node(at), id).leads), (Some(own), true));
    for other in (0..3).filter(|other| *other != at) {
        cluster.stop(other).await;
    }
    until("it is said that nobody leads", async || {
        let node = cluster.node(at);
        (led_by(node).is_none() && !group(node, id).leads).then_some(())
    })
    .await;
    cluster.restart((at + 1) % 3).await;
    until("somebody leads again", async || led_by(cluster.node(at))).await;
}
