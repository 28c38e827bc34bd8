//! Transactions with reads inside, leases and compaction, on three nodes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use kv_core::{
    Attach, Branches, Compare, Delete, Done, Effect, Guard, KeyRange, LeaseId, Operand, Operation, Outcome, Put, Query,
    Refusal, Relation, Revision, Txn,
};
use kv_node::{CommitError, Consistency, ReadError};
use support::{Cluster, keyspace, put, revision, until};

fn lease(raw: i64) -> LeaseId {
    LeaseId::new(raw).unwrap()
}

fn effects(effects: Vec<Effect>) -> Txn {
    Txn { effects, ..Txn::default() }
}

fn key(key: &'static str) -> KeyRange {
    KeyRange::Key(key.into())
}

/// Each step sees what those before it did, also the ones in transactions inside, on top of what is in flight.
#[tokio::test(flavor = "multi_thread")]
async fn steps_see_the_steps_before_them() {
    let cluster = Cluster::start(3).await;
    let ks = keyspace("steps");
    let leader = cluster.leader(&ks).await;
    let before = revision(cluster.node(leader).txn(&ks, put("a", "1")).await.unwrap());
    let equals = |value: &'static str| Compare {
        range: KeyRange::Prefix("a".into()),
        relation: Relation::Equal,
        operand: Operand::Value(value.into()),
    };
    // Compared is what was there before all steps, as in etcd.
    let inner = Branches {
        compares: vec![equals("2")],
        then: vec![Operation::put("b", "never")],
        otherwise: vec![Operation::Range(Query::all(KeyRange::All))],
    };
    let txn = Txn {
        compares: vec![equals("1")],
        then: vec![
            Operation::Range(Query::all(KeyRange::All)),
            Operation::Put(Put { previous: true, ..Put::new("a", "2") }),
            Operation::Txn(inner),
            Operation::Put(Put { value: None, ..Put::new("c", "") }),
        ],
        ..Txn::default()
    };
    // The last step keeps the value of a key that isn't there: nothing at all is done.
    for node in 0..3 {
        let refused = cluster.node(node).transact(&ks, vec![txn.clone()]).await.unwrap_err();
        assert!(matches!(refused, CommitError::Refused(Refusal::KeyMissing { .. })), "{refused}");
    }
    let txn = Txn { then: txn.then[..3].to_vec(), ..txn };
    // Two at once: the second is worked out on top of the first.
    let node = cluster.node((leader + 1) % 3);
    let both = node.transact(&ks, vec![txn.clone(), txn]).await.unwrap();
    let [Done::Range(read), Done::Put { previous, .. }, Done::Txn { succeeded: false, done }] = &both[0].done[..]
    else {
        panic!("{:?}", both[0]);
    };
    assert_eq!((read.kvs.len(), read.revision), (1, before));
    assert_eq!(previous.as_ref().unwrap().value, "1");
    let [Done::Range(inside)] = &done[..] else { panic!("{done:?}") };
    assert_eq!((&inside.kvs[0].state.value[..], inside.kvs[0].state.version), (&b"2"[..], 2));
    assert_eq!((inside.revision, inside.count), (before.next(), 1));
    assert!(matches!(both[1].outcome, Outcome::Applied(done) if !done.succeeded && done.revision == before.next()));
}

/// What is read inside a transaction that waits behind others is what it would be after them, counts included.
#[tokio::test(flavor = "multi_thread")]
async fn reads_inside_see_what_is_in_flight() {
    let cluster = Cluster::start(1).await;
    let ks = keyspace("flight");
    let node = cluster.node(0);
    let mut txns = Vec::new();
    for n in 0..50 {
        let query = Query { limit: Some(3), ..Query::all(KeyRange::Prefix("k/".into())) };
        let put = Operation::put(format!("k/{n:03}"), "v");
        txns.push(Txn { then: vec![Operation::Range(query), put], ..Txn::default() });
        if n % 5 == 4 {
            let delete = Delete { range: KeyRange::Key(format!("k/{:03}", n - 2).into()), previous: true };
            txns.push(Txn { then: vec![Operation::Delete(delete)], ..Txn::default() });
        }
    }
    let answers = node.transact(&ks, txns).await.unwrap();
    let mut there = 0;
    for answered in answers {
        match &answered.done[..] {
            [Done::Range(read), Done::Put { .. }] => {
                assert_eq!((read.count, read.kvs.len(), read.more), (there, there.min(3) as usize, there > 3));
                there += 1;
            }
            [Done::Delete { deleted: 1, previous, .. }] if previous.len() == 1 => there -= 1,
            other => panic!("{other:?}"),
        }
    }
    let read = node.query(&ks, &Query::all(KeyRange::All), Consistency::Linearizable).await.unwrap();
    assert_eq!(read.count, there);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_has_changed_refuses() {
    let cluster = Cluster::start(1).await;
    let (ks, node) = (keyspace("guarded"), cluster.node(0));
    let record = |value: &'static str| Effect::Record { key: "x".into(), value: Some(value.into()) };
    let guarded = |value: Option<&'static str>, next| Txn {
        guard: Some(Guard { key: "x".into(), value: value.map(Bytes::from) }),
        ..effects(vec![record(next)])
    };
    node.txn(&ks, guarded(None, "1")).await.unwrap();
    let late = node.txn(&ks, guarded(None, "2")).await.unwrap_err();
    assert!(matches!(late, CommitError::Refused(Refusal::Guarded)));
    // In flight counts, too.
    let both = node.txns(&ks, vec![guarded(Some("1"), "2"), guarded(Some("1"), "3")]).await.unwrap_err();
    assert!(matches!(both, CommitError::Refused(Refusal::Guarded)));
    assert_eq!(node.beside(&ks, b"x").unwrap().unwrap(), "1", "a request is carried out whole or not at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_and_take_their_keys_along() {
    let cluster = Cluster::start(3).await;
    let ks = keyspace("leased");
    let (short, long) = (lease(1), lease(2));
    let node = cluster.node(0);
    let grant = |lease, ttl| Effect::Grant { lease, ttl };
    node.txn(&ks, effects(vec![grant(short, 1), grant(long, 600)])).await.unwrap();
    let again = node.txn(&ks, effects(vec![grant(long, 5)])).await.unwrap_err();
    assert!(matches!(again, CommitError::Refused(Refusal::LeaseThere { .. })));
    let attach = |key: &'static str, lease| {
        let put = Operation::Put(Put { lease: Attach::To(lease), ..Put::new(key, "v") });
        Txn { then: vec![put], ..Txn::default() }
    };
    for (key, lease) in [("a", short), ("b", short), ("c", long), ("moved", short), ("moved", long)] {
        node.txn(&ks, attach(key, lease)).await.unwrap();
    }
    let unknown = node.txn(&ks, attach("d", lease(3))).await.unwrap_err();
    assert!(matches!(unknown, CommitError::Refused(Refusal::LeaseMissing { .. })));
    // Any node renews; nobody renews for ever here, and then its keys go in one revision.
    let head = node.query(&ks, &Query::all(KeyRange::All), Consistency::Linearizable).await.unwrap().revision;
    assert_eq!(cluster.node(1).lease_renew(&ks, short).await.unwrap().unwrap().ttl, 1);
    assert_eq!(cluster.node(2).lease_renew(&ks, lease(3)).await.unwrap(), None);
    let left = until("the lease to end", async || {
        let left = cluster.node(2).query(&ks, &Query::all(KeyRange::All), Consistency::Linearizable).await.unwrap();
        (left.revision > head).then_some(left)
    })
    .await;
    let keys: Vec<_> = left.kvs.iter().map(|kv| kv.key.clone()).collect();
    assert_eq!((keys, left.revision), (vec![Bytes::from("c"), Bytes::from("moved")], head.next()));
    assert_eq!(node.lease(&ks, short).await.unwrap(), None);
    assert_eq!(node.leases(&ks).unwrap(), [long]);
    assert_eq!(node.lease_keys(&ks, long).unwrap(), ["c", "moved"]);
    node.txn(&ks, effects(vec![Effect::Revoke { lease: long }])).await.unwrap();
    let left = node.query(&ks, &Query::all(KeyRange::All), Consistency::Linearizable).await.unwrap();
    assert_eq!(left.count, 0);
}

/// What is left of a lease is known to the next leader, within what is written down; none of it is lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_knows_what_is_left_of_a_lease() {
    let mut cluster = Cluster::start(3).await;
    let ks = keyspace("handed-on");
    let id = lease(7);
    let leader = cluster.leader(&ks).await;
    cluster.node(leader).txn(&ks, effects(vec![Effect::Grant { lease: id, ttl: 6 }])).await.unwrap();
    // Half of it goes by, and is written down.
    let other = (leader + 1) % 3;
    until("half of the lease to go by", async || {
        let state = cluster.node(other).lease(&ks, id).await.unwrap().unwrap();
        (state.left < Duration::from_millis(2800)).then_some(())
    })
    .await;
    cluster.stop(leader).await;
    let state = cluster.node(other).lease(&ks, id).await.unwrap().unwrap();
    assert!(state.left <= Duration::from_secs(3) && state.left > Duration::from_secs(1), "{state:?}");
    // Kept alive, it has all of its time, and so it has with the leader after that.
    let renewed = cluster.node(other).lease_renew(&ks, id).await.unwrap().unwrap();
    assert_eq!(renewed.left, Duration::from_secs(6));
    cluster.restart(leader).await;
    let now = cluster.leader(&ks).await;
    until("the node that was stopped to follow", async || {
        let behind = cluster.node(leader).head(&ks).revision < cluster.node(now).head(&ks).revision;
        (!behind).then_some(())
    })
    .await;
    cluster.stop(now).await;
    let state = cluster.node(leader).lease(&ks, id).await.unwrap().unwrap();
    assert!(state.left > Duration::from_secs(3), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compacted_is_refused_everywhere() {
    let cluster = Cluster::start(3).await;
    let ks = keyspace("compacted");
    let node = cluster.node(0);
    for n in 0..10 {
        node.txn(&ks, put("k", &n.to_string())).await.unwrap();
    }
    let compact = |to| effects(vec![Effect::Compact { to: Revision::new(to), records: true }]);
    assert!(matches!(
        node.txn(&ks, compact(11)).await.unwrap_err(),
        CommitError::Refused(Refusal::Future { head, .. }) if head == Revision::new(10)
    ));
    node.txn(&ks, compact(6)).await.unwrap();
    assert!(matches!(node.txn(&ks, compact(6)).await.unwrap_err(), CommitError::Refused(Refusal::Compacted { .. })));
    for at in 0..3 {
        let node = cluster.node(at);
        node.read_barrier(node.group_of(&ks)).await.unwrap();
        tokio::time::timeout(support::PATIENCE, node.reclaimed()).await.unwrap();
        let read = |at| Query { at: Some(Revision::new(at)), ..Query::all(key("k")) };
        let gone = node.query(&ks, &read(5), Consistency::Serializable).await.unwrap_err();
        assert!(matches!(gone, ReadError::Compacted { floor, .. } if floor == Revision::new(6)));
        let kept = node.query(&ks, &read(6), Consistency::Serializable).await.unwrap();
        assert_eq!(kept.kvs[0].state.value, "5");
        node.verify(node.group_of(&ks)).unwrap();
    }
}

/// A leader that was replaced while it slept does nothing for the term that it had.
#[tokio::test(flavor = "multi_thread")]
async fn work_for_an_earlier_term_is_refused() {
    let cluster = Cluster::start(3).await;
    let ks = keyspace("fenced");
    let leader = cluster.leader(&ks).await;
    let node = cluster.node(leader);
    let term = node.leads(node.group_of(&ks)).unwrap();
    let fenced = |term| Txn { term: Some(term), ..put("k", "v") };
    node.txns_here(&ks, vec![fenced(term)]).await.unwrap();
    let refused = node.txns_here(&ks, vec![fenced(term - 1)]).await.unwrap_err();
    assert!(matches!(refused, CommitError::NotLeader { .. }));
}

/// Whoever keeps up is told what a compaction has overtaken, and who comes later hears that it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_takes_nothing_from_a_watch_that_keeps_up() {
    let cluster = Cluster::start(1).await;
    let (ks, node) = (keyspace("overtaken"), cluster.node(0));
    let first = revision(node.txn(&ks, put("a", "1")).await.unwrap());
    let mut watch = node.watch(&ks, first);
    let mut last = first;
    for value in ["2", "3", "4"] {
        last = revision(node.txn(&ks, put("a", value)).await.unwrap());
    }
    node.txn(&ks, effects(vec![Effect::Compact { to: last, records: true }])).await.unwrap();
    let mut told = Vec::new();
    while watch.cursor() < last {
        told.extend(watch.next().await.unwrap().iter().map(|revision| revision.revision));
    }
    assert_eq!(told, [first.next(), first.next().next(), last]);
    let late = node.watch(&ks, first).history().read(&KeyRange::All, first, false);
    assert!(matches!(late, Err(kv_node::WatchError::Compacted { .. })), "{late:?}");
}

/// What a transaction comes to may be far larger than itself; what no message could carry is refused, and the group goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_comes_to_too_much_is_refused() {
    const KEYS: usize = 5_000;
    let cluster = Cluster::start(3).await;
    let ks = keyspace("large");
    let node = cluster.node(0);
    let key = |n: usize| format!("{n:05}{}", "k".repeat(kv_core::limits::KEY_BYTES - 5));
    for from in (0..KEYS).step_by(1_000) {
        let then = (from..from + 1_000).map(|n| Operation::put(key(n), "")).collect();
        node.txn(&ks, Txn { then, ..Txn::default() }).await.unwrap();
    }
    let all = Txn { then: vec![Operation::delete(KeyRange::All)], ..Txn::default() };
    for node in 0..3 {
        let refused = cluster.node(node).txn(&ks, all.clone()).await.unwrap_err();
        assert!(matches!(refused, CommitError::TooLarge { .. }), "{refused}");
    }
    revision(node.txn(&ks, put("a", "1")).await.unwrap());
}
