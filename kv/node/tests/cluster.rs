//! Three nodes in one process: what is acknowledged is everywhere, once, whoever comes and goes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{io::Write, time::Duration};

use bytes::Bytes;
use kv_core::{Compare, KeyRange, Operand, Operation, Outcome, Relation, Revision, Txn};
use kv_node::{CommitError, Consistency, ReadError, Retry, Timing, WatchError};
use support::{Cluster, keyspace, put, revision, until, with_request};

/// Whether a node votes in all groups.
fn votes_everywhere(cluster: &Cluster, node: kv_core::NodeId) -> Option<()> {
    let placement = cluster.nodes.iter().flatten().filter_map(kv_node::Node::placement).next()?;
    placement.groups.iter().all(|group| group.voters.contains(&node)).then_some(())
}

async fn get(cluster: &Cluster, at: usize, name: &str, key: &str) -> Option<String> {
    let range = KeyRange::Key(key.to_string().into());
    let read = cluster.node(at).range(&keyspace(name), &range, None, 1, Consistency::Linearizable).await.unwrap();
    read.kvs.first().map(|kv| String::from_utf8(kv.state.value.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_writes_and_reads_them_back_at_once() {
    let cluster = Cluster::start(3).await;
    for round in 0..30 {
        let name = format!("ks/{}", round % 7);
        let value = round.to_string();
        let written = cluster.node(round % 3).txn(&keyspace(&name), put("k", &value)).await.unwrap();
        assert!(matches!(written, Outcome::Applied(_)));
        assert_eq!(get(&cluster, (round + 1) % 3, &name, "k").await, Some(value));
    }
    assert_eq!(cluster.node(0).call(cluster.node(1).id(), "hi".into(), support::PATIENCE).await.unwrap(), "n1 said hi");
    let refused = cluster.node(0).call(cluster.node(2).id(), "refuse".into(), support::PATIENCE).await.unwrap_err();
    assert!(refused.to_string().contains("as you wish"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_compare_against_what_is_in_flight() {
    let cluster = Cluster::start(3).await;
    let counter = keyspace("counter");
    let node = cluster.node(0);
    node.txn(&counter, put("n", "0")).await.unwrap();
    let add = async |at: usize| {
        let node = cluster.node(at);
        for _ in 0..20 {
            until("my turn to count", async || {
                let read = node.range(&counter, &KeyRange::All, None, 1, Consistency::Serializable).await.unwrap();
                let state = &read.kvs.first()?.state;
                let old: u64 = std::str::from_utf8(&state.value).unwrap().parse().unwrap();
                let compare = Compare {
                    range: KeyRange::Key("n".into()),
                    relation: Relation::Equal,
                    operand: Operand::Value(state.value.clone()),
                };
                let txn = Txn { compares: vec![compare], ..put("n", &(old + 1).to_string()) };
                match node.txn(&counter, txn).await.unwrap() {
                    Outcome::Applied(done) => done.succeeded.then_some(()),
                    other => panic!("{other:?}"),
                }
            })
            .await;
        }
    };
    tokio::join!(add(0), add(1), add(2), add(0));
    assert_eq!(get(&cluster, 1, "counter", "n").await.as_deref(), Some("80"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_answered_and_not_applied() {
    let mut cluster = Cluster::start(3).await;
    let ks = keyspace("once");
    let first = revision(cluster.node(0).txn(&ks, with_request(put("a", "1"), 7)).await.unwrap());
    let again = cluster.node(1).txn(&ks, with_request(put("a", "2"), 7)).await.unwrap();
    assert_eq!(again, Outcome::Repeated(kv_core::TxnOutcome { succeeded: true, revision: first }));
    // Both in one proposal, too.
    let both = vec![with_request(put("b", "1"), 8), with_request(put("b", "2"), 8), put("c", "1")];
    let both = cluster.node(2).txns(&ks, both).await.unwrap();
    assert!(matches!(both[..], [Outcome::Applied(_), Outcome::Repeated(_), Outcome::Applied(_)]), "{both:?}");
    // And by the next leader.
    let leader = cluster.leader(&ks).await;
    cluster.stop(leader).await;
    let other = (leader + 1) % 3;
    let later = cluster.node(other).txn(&ks, with_request(put("a", "3"), 7)).await.unwrap();
    assert_eq!(revision(later), first);
    assert_eq!(get(&cluster, other, "once", "a").await.as_deref(), Some("1"));
    assert_eq!(get(&cluster, other, "once", "b").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_ranges_and_earlier_revisions() {
    let cluster = Cluster::start(3).await;
    let ks = keyspace("mvcc");
    let node = cluster.node(2);
    let keys: Vec<_> = (0..5).map(|n| put(&format!("k/{n}"), "v")).collect();
    let full = revision(*node.txns(&ks, keys).await.unwrap().last().unwrap());
    let delete = Operation::delete(KeyRange::Span("k/1".into(), "k/4".into()));
    let gone = node.txn(&ks, Txn { then: vec![delete.clone()], ..Txn::default() }).await.unwrap();
    assert_eq!(revision(gone), full.next());
    let nothing = node.txn(&ks, Txn { then: vec![delete], ..Txn::default() }).await.unwrap();
    assert_eq!(revision(nothing), full.next(), "a transaction that changes nothing makes no revision");
    let count = async |at| {
        let prefix = KeyRange::Prefix("k/".into());
        node.range(&ks, &prefix, at, 100, Consistency::Linearizable).await.map(|read| read.kvs.len())
    };
    assert_eq!(count(None).await.unwrap(), 2);
    assert_eq!(count(Some(full)).await.unwrap(), 5);
    assert_eq!(count(Some(Revision::new(2))).await.unwrap(), 2);
    assert!(matches!(count(Some(Revision::new(99))).await, Err(ReadError::Future { .. })));
    let twice = Txn { then: [put("x", "1").then, put("x", "2").then].concat(), ..Txn::default() };
    let refused = node.txn(&ks, twice).await.unwrap_err();
    assert!(matches!(refused, CommitError::KeyTwice { .. }) && refused.retry() == Retry::Never);
    let big = put("x", &"v".repeat(kv_core::limits::VALUE_BYTES + 1));
    assert!(matches!(node.txn(&ks, big).await, Err(CommitError::TooLarge { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_at_another_node_where_it_stopped() {
    let mut cluster = Cluster::start(3).await;
    let ks = keyspace("watched");
    let mut seen = Vec::new();
    let mut cursor = Revision::ZERO;
    for at in 0..3 {
        let writer = (at + 1) % 3;
        for n in 0..20 {
            let key = if n % 2 == 0 { "even" } else { "odd" };
            cluster.node(writer).txn(&ks, put(key, &format!("{at}/{n}"))).await.unwrap();
        }
        let mut watch = cluster.node(at).watch(&ks, cursor);
        while seen.len() < (at + 1) * 10 {
            let batch = tokio::time::timeout(support::PATIENCE, watch.next()).await.unwrap().unwrap();
            let events = batch.iter().flat_map(|revision| revision.events.clone());
            seen.extend(events.filter(|event| event.key == "even"));
        }
        cursor = watch.cursor();
        drop(watch);
        cluster.stop(at).await;
        cluster.restart(at).await;
    }
    let expected: Vec<_> = (0..3).flat_map(|at| (0..10).map(move |n| Bytes::from(format!("{at}/{}", 2 * n)))).collect();
    let values: Vec<_> = seen.into_iter().map(|event| event.state.unwrap().value).collect();
    assert_eq!(values, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_refuses_and_says_so() {
    let timing =
        Timing { commit_timeout: Duration::from_secs(2), read_timeout: Duration::from_secs(1), ..Timing::default() };
    let mut cluster = Cluster::start_with(3, timing).await;
    let ks = keyspace("alone");
    cluster.node(0).txn(&ks, put("k", "v")).await.unwrap();
    cluster.stop(1).await;
    cluster.stop(2).await;
    let refused = cluster.node(0).txn(&ks, put("k", "w")).await.unwrap_err();
    assert!(matches!(refused, CommitError::Unknown { .. } | CommitError::NotLeader { .. }), "{refused}");
    let read = cluster.node(0).range(&ks, &KeyRange::All, None, 1, Consistency::Linearizable).await.unwrap_err();
    assert!(matches!(read, ReadError::Unconfirmed { .. }), "{read}");
    let stale = cluster.node(0).range(&ks, &KeyRange::All, None, 1, Consistency::Serializable).await.unwrap();
    assert_eq!(&stale.kvs[0].state.value[..], b"v");
    cluster.restart(1).await;
    until("writes work again", async || cluster.node(0).txn(&ks, put("k", "x")).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_purged_and_a_replaced_node_gets_snapshots() {
    let timing = Timing {
        housekeeping: Duration::from_millis(100),
        purge_after_entries: 20,
        purge_after_bytes: 64 * 1024,
        ..Timing::default()
    };
    let mut cluster = Cluster::start_with(3, timing).await;
    let ks = keyspace("long");
    let value = "v".repeat(16 * 1024);
    for n in 0..400 {
        cluster.node(n % 3).txn(&ks, put(&format!("k{}", n % 50), &value)).await.unwrap();
    }
    cluster.stop(2).await;
    std::fs::remove_dir_all(cluster.dir(2)).unwrap();
    for n in 0..400 {
        cluster.node(n % 2).txn(&ks, put(&format!("k{}", n % 50), &value)).await.unwrap();
    }
    cluster.node(0).replace_node("n3").await.unwrap();
    cluster.join(2).await;
    let written = Revision::new(800);
    let caught_up = async || (cluster.node(2).head(&ks).revision == written).then_some(());
    until("the empty replica has caught up", caught_up).await;
    let group = cluster.node(2).group_of(&ks);
    // The group may be that of the catalog, which goes on changing as nodes come and go.
    let alike = async || {
        let fold = |at: usize| cluster.node(at).verify(group).unwrap().fold;
        (fold(2) == fold(0)).then_some(())
    };
    until("both replicas verify alike", alike).await;
    assert_eq!(get(&cluster, 2, "long", "k7").await, Some(value));
    until("snapshots are counted at both ends", async || {
        let (sent, received) =
            ([0, 1].map(|at| cluster.node(at).figures().snapshots_sent), cluster.node(2).figures().snapshots_received);
        let bytes = sent.iter().map(|sent| sent.bytes).sum::<u64>();
        (sent.iter().any(|sent| sent.done >= 1) && bytes > 0 && received.done >= 1 && received.bytes > 0).then_some(())
    })
    .await;
    // It takes part again: the other two alone would do, so one of them goes.
    let own = cluster.node(2).id();
    until("it votes everywhere", async || votes_everywhere(&cluster, own)).await;
    cluster.stop(0).await;
    until("a majority with it", async || cluster.node(2).txn(&ks, put("after", "x")).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_another_history_goes_out_of_service() {
    let mut cluster = Cluster::start(3).await;
    let ks = keyspace("true/history");
    for n in 0..5 {
        cluster.node(0).txn(&ks, put("k", &n.to_string())).await.unwrap();
    }
    let group = cluster.node(0).group_of(&ks);
    until("all have it", async || (0..3).all(|at| cluster.node(at).head(&ks).revision.get() == 5).then_some(())).await;
    // A follower, so that nothing else is applied meanwhile.
    let leader = cluster.leader(&ks).await;
    let (victim, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.stop(victim).await;
    rewrite(&cluster, victim, leader, &ks).await;
    cluster.restart(victim).await;
    let problem = until("it notices", async || {
        cluster.node(victim).status().into_iter().find(|status| status.group == group)?.problem
    })
    .await;
    let names = [leader.min(other) + 1, leader.max(other) + 1].map(|at| format!("n{at}")).join(", ");
    assert!(problem.contains(&format!("history differs from that of {names}")), "{problem}");
    let read = cluster.node(victim).range(&ks, &KeyRange::All, None, 1, Consistency::Serializable).await.unwrap_err();
    assert!(matches!(read, ReadError::OutOfService { .. }), "{read}");
    let mut watch = cluster.node(victim).watch(&ks, Revision::ZERO);
    assert!(matches!(watch.next().await, Err(WatchError::Read(ReadError::OutOfService { .. }))));
    cluster.node(leader).txn(&ks, put("k", "goes on")).await.unwrap();
}

/// Adds a commit to one replica's state behind the others' backs.
async fn rewrite(cluster: &Cluster, at: usize, other: usize, ks: &kv_core::Keyspace) {
    let node = cluster.node(other);
    let identity = kv_store::Identity {
        cluster: node.cluster(),
        node: kv_core::NodeId::new(at as u64 + 1),
        groups: support::GROUPS,
    };
    let store = until("the stopped node's store is closed", async || {
        kv_store::Store::open(&cluster.dir(at), &identity, &kv_store::Options::default()).ok()
    })
    .await;
    let (state, group) = (store.state(), node.group_of(ks));
    let head = state.head(group, ks);
    let applied = state.applied(group).unwrap().unwrap();
    let commit = kv_core::Commit {
        keyspace: ks.clone(),
        base: head.revision,
        at: head.at,
        actor: "mallory".into(),
        reason: String::new(),
        request: None,
        succeeded: true,
        changes: vec![kv_core::Change::put("k", "forged")],
        effects: Vec::new(),
    };
    let batch = kv_core::Batch { commits: vec![commit] };
    let index = node.status().into_iter().find(|status| status.group == group).unwrap().applied + 1;
    let entry =
        kv_store::EntryToApply { index, log_id: applied.log_id, membership: applied.membership, batch: Some(&batch) };
    state.apply(group, &[entry]).unwrap();
    state.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_peer_port_harms_nobody() {
    let cluster = Cluster::start(3).await;
    let ks = keyspace("calm");
    for seed in 0..20u32 {
        let noise: Vec<u8> =
            (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 13) as u8).collect();
        let mut socket = std::net::TcpStream::connect(cluster.peer(0)).unwrap();
        let preface: &[u8] = if seed % 2 == 0 { b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" } else { b"" };
        // The node may hang up on us in the middle.
        let _ = socket.write_all(preface).and_then(|()| socket.write_all(&noise));
    }
    cluster.node(0).txn(&ks, put("k", "v")).await.unwrap();
    assert_eq!(get(&cluster, 0, "calm", "k").await.as_deref(), Some("v"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_says_how_stale_it_may_be() {
    let mut cluster =
        Cluster::start_with(3, Timing { read_timeout: Duration::from_millis(300), ..Timing::default() }).await;
    let ks = keyspace("some");
    let group = cluster.node(0).group_of(&ks);
    cluster.node(0).txn(&ks, put("k", "v")).await.unwrap();
    // Nobody has asked at this node yet, so that it has to; then it is known for a while.
    let hour = Duration::from_secs(3600);
    let first =
        until("a leader confirms", async || cluster.node(2).fresh_within(group, Duration::ZERO).await.ok()).await;
    assert!(first < hour);
    assert_eq!(get(&cluster, 2, "some", "k").await.as_deref(), Some("v"));
    let before = std::time::Instant::now();
    cluster.stop(0).await;
    cluster.stop(1).await;
    // Alone it can confirm nothing, and knows since when.
    let alone = before.elapsed();
    let known = cluster.node(2).fresh_within(group, hour).await.unwrap();
    assert!(known >= alone, "{known:?} is less than {alone:?}");
    let refused = cluster.node(2).fresh_within(group, Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(refused, ReadError::Stale { age: Some(age), .. } if age >= known), "{refused}");
}

/// Waits until every replica of every group rests.
async fn all_rest(cluster: &Cluster) {
    let rests = |node: &kv_node::Node| node.status().iter().all(|group| group.resting);
    until("all to rest", async || cluster.nodes.iter().flatten().all(rests).then_some(())).await;
}

/// Three nodes that rest after a write to a keyspace.
async fn rested(name: &str) -> (Cluster, kv_core::Keyspace) {
    let (cluster, ks) = (Cluster::start(3).await, keyspace(name));
    cluster.node(0).txn(&ks, put("k", "1")).await.unwrap();
    all_rest(&cluster).await;
    (cluster, ks)
}

/// Groups in which nothing happens rest, without anybody being elected for it; who is needed wakes up, and a leader that
/// ends while its groups rest is missed.
#[tokio::test(flavor = "multi_thread")]
async fn idle_groups_rest_until_they_are_needed() {
    let (mut cluster, ks) = rested("rest").await;
    let terms = |cluster: &Cluster| cluster.node(0).status().iter().map(|group| group.term).collect::<Vec<_>>();
    let before = terms(&cluster);
    for n in 1..=3usize {
        let made = revision(cluster.node(n % 3).txn(&ks, put("k", &n.to_string())).await.unwrap());
        for node in cluster.nodes.iter().flatten() {
            let read = node.range(&ks, &KeyRange::All, None, 10, Consistency::Linearizable).await.unwrap();
            assert_eq!(read.revision, made);
        }
        all_rest(&cluster).await;
    }
    assert_eq!(terms(&cluster), before, "nobody was missed");

    let leader = cluster.leader(&ks).await;
    cluster.stop(leader).await;
    let other = cluster.node((leader + 1) % 3);
    until("another leader", async || other.txn(&ks, put("k", "4")).await.ok()).await;
    // Who is not there has not granted it.
    let ticks =
        |node: &kv_node::Node| node.status().iter().all(|group| group.leader != Some(node.id()) || !group.resting);
    until("no leader to rest", async || cluster.nodes.iter().flatten().all(ticks).then_some(())).await;
    cluster.restart(leader).await;
    all_rest(&cluster).await;
}

/// A leader that hands over to a node that does not take over leads no more, and is missed although its group rested.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_handed_to_nobody_elects_somebody() {
    let (cluster, ks) = rested("handed").await;
    let leader = cluster.leader(&ks).await;
    let group = cluster.node(leader).group_of(&ks);
    cluster.node(leader).hand_over(group, kv_core::NodeId::new(9)).await;
    until("a write to be taken", async || cluster.node(leader).txn(&ks, put("k", "2")).await.ok()).await;
    all_rest(&cluster).await;
}

/// Who joins while all rests gets its copies, and a first write after a rest is taken at the first try.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_rests_takes_writes_and_members() {
    let (mut cluster, ks) = rested("roused").await;
    let leader = cluster.leader(&ks).await;
    let proposals = || {
        let all = cluster.node(leader).figures().proposals;
        all.into_iter().filter(|(what, _)| *what != kv_node::Proposed::Answered).collect::<Vec<_>>()
    };
    let before = proposals();
    cluster.node(leader).txn(&ks, put("k", "2")).await.unwrap();
    assert_eq!(proposals(), before, "none was refused before");
    all_rest(&cluster).await;
    cluster.join(3).await;
    let joined = cluster.node(3).id();
    let has_copies = |placement: &kv_node::Placement| {
        placement.groups.iter().all(|group| group.voters.contains(&joined) || group.learners.contains_key(&joined))
    };
    let placement = || cluster.nodes.iter().flatten().find_map(kv_node::Node::placement);
    until("copies on the new node", async || placement().filter(|now| has_copies(now)).map(drop)).await;
    all_rest(&cluster).await;
}

/// The same while the group has much to send to one that was away: what it answers is no sign of a leader that works.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_handed_to_nobody_elects_somebody_while_one_catches_up() {
    let mut cluster = Cluster::start(3).await;
    let ks = keyspace("behind");
    let value = "v".repeat(64 * 1024);
    cluster.node(0).txn(&ks, put("k", "1")).await.unwrap();
    let leader = cluster.leader(&ks).await;
    let group = cluster.node(leader).group_of(&ks);
    let behind = (leader + 1) % 3;
    cluster.stop(behind).await;
    for n in 0..200 {
        cluster.node(leader).txn(&ks, put(&format!("k{}", n % 10), &value)).await.unwrap();
    }
    cluster.restart(behind).await;
    cluster.node(leader).hand_over(group, kv_core::NodeId::new(9)).await;
    until("a write to be taken", async || cluster.node(leader).txn(&ks, put("k", "2")).await.ok()).await;
    all_rest(&cluster).await;
}
