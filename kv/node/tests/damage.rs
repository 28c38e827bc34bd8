//! A replica whose state is damaged goes out of service, and is repaired from the others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, path::Path};

use kv_core::KeyRange;
use kv_node::{Consistency, ReadError};
use support::{Cluster, keyspace, put, until, until_ok};

/// Bytes of a value: several blocks of a file of the state.
const VALUE_BYTES: usize = 32 * 1024;

/// Text that does not compress.
fn noise(seed: u64) -> String {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + u8::try_from((state >> 33) % 90).unwrap())
    };
    (0..VALUE_BYTES).map(|_| next()).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() { copy(&entry.path(), &to) } else { drop(fs::copy(entry.path(), to)) }
    }
}

/// Flips a bit of a value where it stands in a file of the state.
fn damage(state: &Path, value: &str) {
    let needle = &value.as_bytes()[VALUE_BYTES / 2..][..64];
    let mut found = 0;
    for entry in fs::read_dir(state).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            found += 1;
        }
    }
    assert!(found > 0, "the value stands in no file");
}

/// What is committed and not in the state yet is applied when a node starts. Damage that is met then is no reason for the node
/// not to start: it can be told to repair its replica.
#[tokio::test(flavor = "multi_thread")]
async fn damage_met_while_starting_takes_one_replica_out_of_service() {
    let mut cluster = Cluster::start(3).await;
    let hurt = keyspace("hurt");
    let (first, second) = (noise(101), noise(102));
    cluster.node(2).txn(&hurt, put("k", &first)).await.unwrap();
    // A node that starts reads what stands at the ends of a keyspace's keys, and with it all of the block.
    for end in ["a", "z"] {
        cluster.node(2).txn(&hurt, put(end, &noise(103))).await.unwrap();
    }
    cluster.node(2).reclaimed().await;
    cluster.node(2).txn(&hurt, put("k", &second)).await.unwrap();
    cluster.node(2).txn(&hurt, put("last", "of it is known to be committed")).await.unwrap();

    // As a machine that loses its power leaves it.
    let left = tempfile::tempdir().unwrap();
    copy(&cluster.dir(2), left.path());
    cluster.stop(2).await;
    fs::remove_dir_all(cluster.dir(2)).unwrap();
    copy(left.path(), &cluster.dir(2));
    damage(&cluster.dir(2).join("state"), &first);
    cluster.restart(2).await;

    let group = cluster.node(2).group_of(&hurt);
    until("the damage is found", async || cluster.node(2).problem(group)).await;
    let read = |at: usize| {
        let (node, hurt) = (cluster.node(at).clone(), hurt.clone());
        async move { node.range(&hurt, &KeyRange::Key("k".into()), None, 1, Consistency::Linearizable).await }
    };
    let refused = read(2).await.unwrap_err();
    assert!(matches!(refused, ReadError::OutOfService { .. }), "{refused:?}");
    let there = until_ok("the others go on", async || read(0).await).await;
    assert_eq!(&there.kvs[0].state.value[..], second.as_bytes());

    // And it is repaired.
    assert!(cluster.node(2).repair(None).await.unwrap().contains(&group));
    cluster.stop(2).await;
    cluster.restart(2).await;
    assert_eq!(cluster.node(2).problem(group), None);
    let node = cluster.node(2).clone();
    let again = until_ok("it is in service again", async || {
        node.range(&hurt, &KeyRange::Key("k".into()), None, 1, Consistency::Linearizable).await
    });
    assert_eq!(&again.await.kvs[0].state.value[..], second.as_bytes());
}
