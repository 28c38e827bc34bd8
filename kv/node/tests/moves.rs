//! Keyspaces move between groups while they are written, read and watched, and nodes come and go.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use kv_core::{
    Attach, Effect, GroupId, KeyRange, Keyspace, LeaseId, Operation, Outcome, Put, RequestId, Revision, Txn,
};
use kv_node::{Consistency, MoveError, MoveStage, MoveStatus, Node, Timing};
use support::{Cluster, GROUPS, PATIENCE, keyspace, put, revision, until, until_ok, with_request};

fn timing() -> Timing {
    Timing {
        compare_heads: Duration::from_millis(100),
        commit_timeout: Duration::from_secs(20),
        read_timeout: Duration::from_secs(20),
        ..Timing::default()
    }
}

/// Another group than the keyspace is in.
fn other_group(node: &Node, ks: &Keyspace) -> GroupId {
    GroupId::new((node.group_of(ks).get() + 1) % GROUPS)
}

fn status(node: &Node, ks: &Keyspace) -> Option<MoveStatus> {
    node.moves().ok()?.into_iter().find(|status| status.keyspace == *ks)
}

/// Waits until a move has ended well, as any of the nodes that are up sees it.
async fn moved(cluster: &Cluster, ks: &Keyspace, id: kv_core::MoveId) {
    until("the move to end", async || {
        let node = cluster.nodes.iter().flatten().next()?;
        let status = status(node, ks).filter(|status| status.id == id)?;
        match status.stage {
            MoveStage::Done => Some(()),
            MoveStage::GivenUp(why) => panic!("given up: {why}"),
            _ => None,
        }
    })
    .await;
}

/// All nodes have the same, it verifies, and nothing was shown out of order.
async fn sound(cluster: &Cluster, ks: &Keyspace) {
    let group = cluster.node(0).group_of(ks);
    for group in (0..GROUPS).map(GroupId::new) {
        until_ok("the replicas to agree", async || {
            let folds = cluster.nodes.iter().flatten().map(|node| {
                let status = node.status()[usize::from(group.get())].clone();
                (status.applied, status.fold, status.problem)
            });
            let folds: Vec<_> = folds.collect();
            folds.iter().all(|fold| *fold == folds[0] && fold.2.is_none()).then_some(()).ok_or((group, folds))
        })
        .await;
        let verified: Vec<_> = cluster.nodes.iter().flatten().map(|node| node.verify(group).unwrap().fold).collect();
        assert!(verified.iter().all(|fold| *fold == verified[0]), "{group}");
    }
    for (at, node) in cluster.nodes.iter().enumerate() {
        let Some(node) = node else { continue };
        assert_eq!(node.group_of(ks), group);
        assert_eq!(cluster.seen[at].revision(ks), node.head(ks).revision, "what n{} was shown", at + 1);
    }
    assert_eq!(cluster.flaws(), Vec::<String>::new());
}

/// Somebody who writes, each time on top of what was acknowledged before, and reads everywhere what was.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
}

impl Load {
    fn start(cluster: &Cluster, ks: &Keyspace, tag: u8) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for (at, node) in cluster.nodes.iter().enumerate() {
            let Some(node) = node.clone() else { continue };
            let (ks, stop, acknowledged) = (ks.clone(), stop.clone(), acknowledged.clone());
            tasks.push(tokio::spawn(async move {
                let mut written = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    let mut id = [tag; 16];
                    id[0] = at as u8;
                    id[8..].copy_from_slice(&written.to_be_bytes());
                    let request = Some(RequestId::new(id));
                    let txn = Txn { request, ..put(&format!("load/{at}/{}", written % 10), &written.to_string()) };
                    // A node that stops answers nobody any more.
                    let Ok(outcome) = node.txn(&ks, txn.clone()).await else { break };
                    let made = revision(outcome);
                    acknowledged.fetch_max(made.get(), Ordering::SeqCst);
                    written += 1;
                    if written.is_multiple_of(7) {
                        let Ok(again) = node.txn(&ks, txn).await else { break };
                        assert!(matches!(again, Outcome::Repeated(first) if first.revision == made), "{again:?}");
                    }
                    let before = acknowledged.load(Ordering::SeqCst);
                    let range = KeyRange::Prefix("load/".into());
                    let Ok(read) = node.range(&ks, &range, None, 100, Consistency::Linearizable).await else { break };
                    assert!(read.revision.get() >= before, "read {} after {before} was acknowledged", read.revision);
                }
                written
            }));
        }
        Load { stop, acknowledged, tasks }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let mut written = 0_u64;
        for task in self.tasks {
            written += task.await.unwrap();
        }
        written
    }
}

/// Follows a keyspace on a node: every revision once, in order.
fn follow(node: &Node, ks: &Keyspace, upto: Arc<AtomicU64>) -> tokio::task::JoinHandle<()> {
    let mut watch = node.watch(ks, Revision::ZERO);
    tokio::spawn(async move {
        let mut last = Revision::ZERO;
        while last.get() < upto.load(Ordering::SeqCst) {
            for told in watch.next().await.unwrap() {
                assert_eq!(told.revision, last.next());
                assert!(!told.events.is_empty());
                last = told.revision;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_a_keyspace_moves() {
    let cluster = Cluster::start_with(3, timing()).await;
    let ks = keyspace("moving/about");
    let node = cluster.node(0);
    let lease = LeaseId::new(7).unwrap();
    let first = revision(node.txn(&ks, with_request(put("a", "1"), 99)).await.unwrap());
    let record = Effect::Record { key: "beside".into(), value: Some("it".into()) };
    let effects = vec![Effect::Grant { lease, ttl: 3600 }, record];
    node.txn(&ks, Txn { effects, ..Txn::default() }).await.unwrap();
    let attached = Operation::Put(Put { lease: Attach::To(lease), ..Put::new("leased", "x") });
    node.txn(&ks, Txn { then: vec![attached], ..Txn::default() }).await.unwrap();
    let upto = Arc::new(AtomicU64::new(u64::MAX));
    let followers: Vec<_> = (0..3).map(|at| follow(cluster.node(at), &ks, upto.clone())).collect();
    let load = Load::start(&cluster, &ks, 1);
    for round in 0..4 {
        let node = cluster.node(round % 3);
        let before = load.acknowledged.load(Ordering::SeqCst);
        until("something to be written", async || {
            (load.acknowledged.load(Ordering::SeqCst) > before + 20).then_some(())
        })
        .await;
        let to = other_group(node, &ks);
        let id = node.move_keyspace(&ks, to).await.unwrap();
        moved(&cluster, &ks, id).await;
        node.up_to_date(&ks).await.unwrap();
        assert_eq!(node.group_of(&ks), to);
    }
    assert!(load.end().await > 80);
    let head = node.range(&ks, &KeyRange::All, None, 1, Consistency::Linearizable).await.unwrap().revision;
    upto.store(head.get(), Ordering::SeqCst);
    // They may be waiting for more than there is.
    let last = revision(node.txn(&ks, put("end", "1")).await.unwrap());
    assert_eq!(last, head.next());
    for follower in followers {
        tokio::time::timeout(PATIENCE, follower).await.unwrap().unwrap();
    }
    let again = node.txn(&ks, with_request(put("a", "2"), 99)).await.unwrap();
    assert!(matches!(again, Outcome::Repeated(outcome) if outcome.revision == first));
    assert_eq!(node.lease(&ks, lease).await.unwrap().unwrap().ttl, 3600);
    assert_eq!(node.lease_keys(&ks, lease).unwrap(), ["leased"]);
    assert_eq!(node.beside(&ks, b"beside").unwrap().unwrap(), "it");
    node.txn(&ks, Txn { effects: vec![Effect::Revoke { lease }], ..Txn::default() }).await.unwrap();
    sound(&cluster, &ks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_move_is_refused() {
    let cluster = Cluster::start_with(1, timing()).await;
    let (node, ks) = (cluster.node(0), keyspace("refused"));
    let to = other_group(node, &ks);
    assert!(matches!(node.move_keyspace(&ks, to).await, Err(MoveError::NoKeyspace { .. })));
    node.txn(&ks, put("a", "1")).await.unwrap();
    let here = node.group_of(&ks);
    assert!(matches!(node.move_keyspace(&ks, here).await, Err(MoveError::There { .. })));
    assert!(matches!(node.move_keyspace(&ks, GroupId::new(GROUPS)).await, Err(MoveError::NoGroup { .. })));
    let stays = keyspace("kv/moves");
    assert!(matches!(node.move_keyspace(&stays, GroupId::new(1)).await, Err(MoveError::Stays { .. })));
    assert!(matches!(node.stop_move(&ks).await, Err(MoveError::NotMoving { .. })));
    let id = node.move_keyspace(&ks, to).await.unwrap();
    let second = node.move_keyspace(&ks, to).await.unwrap_err();
    assert!(matches!(second, MoveError::Moving { .. } | MoveError::There { .. }), "{second}");
    moved(&cluster, &ks, id).await;
}

/// A move that is stopped leaves everything where it was, and writable; a later one succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_can_be_stopped() {
    let cluster = Cluster::start_with(3, Timing { move_bytes_per_second: 256 * 1024, ..timing() }).await;
    let (node, ks) = (cluster.node(0), keyspace("stopped"));
    let value = "v".repeat(16 * 1024);
    for n in 0..100 {
        node.txn(&ks, put(&format!("k{n}"), &value)).await.unwrap();
    }
    let (from, to) = (node.group_of(&ks), other_group(node, &ks));
    let id = node.move_keyspace(&ks, to).await.unwrap();
    until("some of it to be copied", async || {
        status(node, &ks).filter(|status| status.copied_bytes > 0 && status.stage == MoveStage::Copying)
    })
    .await;
    node.stop_move(&ks).await.unwrap();
    until("it to be given up", async || {
        let status = status(node, &ks).filter(|status| status.id == id)?;
        matches!(status.stage, MoveStage::GivenUp(_)).then_some(())
    })
    .await;
    node.up_to_date(&ks).await.unwrap();
    assert_eq!(node.group_of(&ks), from);
    node.txn(&ks, put("after", "x")).await.unwrap();
    assert_eq!(node.keyspaces(to).iter().filter(|(name, _)| *name == ks).count(), 0);
    let again = node.move_keyspace(&ks, GroupId::new((to.get() + 1) % GROUPS)).await.unwrap();
    moved(&cluster, &ks, again).await;
    sound(&cluster, &ks).await;
}

/// Leaders of either group, and of the group of moves, stop in the midst of it; writers and watchers go on elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_goes_on_whoever_stops() {
    let mut cluster = Cluster::start_with(3, Timing { move_bytes_per_second: 16 * 1024 * 1024, ..timing() }).await;
    let ks = keyspace("enduring");
    let value = "v".repeat(8 * 1024);
    for n in 0..200 {
        cluster.node(n % 3).txn(&ks, put(&format!("k{n}"), &value)).await.unwrap();
    }
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut drawn = seed;
    let mut draw = move |below: u64| {
        drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (drawn >> 33) % below
    };
    let stages = [MoveStage::Copying, MoveStage::Finishing, MoveStage::Dropping];
    let rank = |stage: &MoveStage| stages.iter().position(|known| known == stage);
    for (round, wanted) in (0u8..).zip(stages.iter().cycle().take(6)) {
        let to = other_group(cluster.node(0), &ks);
        let from = cluster.node(0).group_of(&ks);
        let victims = [from, to, GroupId::new(0)];
        let of = victims[draw(3) as usize];
        let id = cluster.node(0).move_keyspace(&ks, to).await.unwrap();
        let load = Load::start(&cluster, &ks, 10 + round);
        let victim = until("a leader to stop", async || {
            let up: Vec<_> = cluster.nodes.iter().flatten().collect();
            let status = up.iter().filter_map(|node| status(node, &ks)).find(|status| status.id == id)?;
            let reached = match status.stage {
                MoveStage::Waiting => false,
                ref stage => rank(stage).is_none_or(|at| Some(at) >= rank(wanted)),
            };
            (0..3).find(|at| reached && cluster.node(*at).leads(of).is_some())
        })
        .await;
        println!("seed {seed}, round {round}: stopping n{}, which leads {of}, when it is {wanted:?}", victim + 1);
        cluster.stop_now(victim).await;
        let before = load.acknowledged.load(Ordering::SeqCst);
        until("somebody to write", async || (load.acknowledged.load(Ordering::SeqCst) > before + 5).then_some(()))
            .await;
        load.end().await;
        cluster.restart(victim).await;
        moved(&cluster, &ks, id).await;
        cluster.node(0).up_to_date(&ks).await.unwrap();
        until("all to know", async || (0..3).all(|at| cluster.node(at).group_of(&ks) == to).then_some(())).await;
        assert_eq!(cluster.flaws(), Vec::<String>::new());
    }
    let read = cluster.node(1).range(&ks, &KeyRange::Prefix("k".into()), None, 500, Consistency::Linearizable).await;
    assert_eq!(read.unwrap().kvs.iter().filter(|kv| kv.state.value == value).count(), 200);
    sound(&cluster, &ks).await;
}

/// A node that was away for so long that it is sent whole groups finds the keyspace where it is by then, and its watchers
/// and what it shows go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_slept_through_moves_catches_up() {
    let timing = Timing {
        housekeeping: Duration::from_millis(100),
        purge_after_entries: 20,
        purge_after_bytes: 64 * 1024,
        ..timing()
    };
    let mut cluster = Cluster::start_with(3, timing).await;
    let ks = keyspace("slept");
    let value = "v".repeat(4 * 1024);
    for n in 0..20 {
        cluster.node(n % 3).txn(&ks, put(&format!("k{n}"), &value)).await.unwrap();
    }
    let asleep = (cluster.leader(&ks).await + 1) % 3;
    let (one, two) = ((asleep + 1) % 3, (asleep + 2) % 3);
    for moves in 1..=3u64 {
        cluster.stop(asleep).await;
        for n in 0..60 {
            cluster.node(one).txn(&ks, put(&format!("k{}", n % 20), &value)).await.unwrap();
        }
        for _ in 0..moves {
            let to = other_group(cluster.node(one), &ks);
            let id = cluster.node(one).move_keyspace(&ks, to).await.unwrap();
            until("the move to end", async || {
                status(cluster.node(two), &ks).filter(|status| status.id == id && status.stage == MoveStage::Done)
            })
            .await;
            for n in 0..60 {
                cluster.node(two).txn(&ks, put(&format!("k{}", n % 20), &value)).await.unwrap();
            }
        }
        cluster.restart(asleep).await;
        let upto = Arc::new(AtomicU64::new(cluster.node(one).head(&ks).revision.get()));
        let follower = follow(cluster.node(asleep), &ks, upto);
        let node = cluster.node(asleep);
        until("it to be up to date", async || node.up_to_date(&ks).await.ok()).await;
        assert_eq!(node.group_of(&ks), cluster.node(one).group_of(&ks));
        tokio::time::timeout(PATIENCE, follower).await.unwrap().unwrap();
        sound(&cluster, &ks).await;
    }
}
