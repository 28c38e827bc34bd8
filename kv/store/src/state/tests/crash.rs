use kv_core::Revision;

use crate::{
    Options, Store,
    testkit::{G0, G1, IDENTITY, apply, child_dir, commit, keyspace, log_id, open, run_child},
};

fn entry(store: &Store, index: u64) {
    let value = format!("value {index}");
    let one = commit("k", index - 1, &[(b"churn", Some(value.as_bytes())), (&[index as u8], Some(b"new"))]);
    apply(store.state(), G0, index, vec![one.clone()]);
    apply(store.state(), G1, index, vec![one]);
}

/// What was not flushed is lost with the position that says it was applied, and applying it again ends the same.
#[test]
fn a_crash_takes_effects_and_position_back_together() {
    let dir = tempfile::tempdir().unwrap();
    let status = run_child("state::tests::crash::crash", dir.path());
    assert!(!status.success() && status.code().is_none(), "it aborts: {status}");

    let store = open(dir.path());
    for group in [G0, G1] {
        assert_eq!(store.state().applied(group).unwrap().unwrap().log_id, log_id(20), "as flushed");
        assert_eq!(store.state().durable(group), Some(log_id(20)));
        assert_eq!(store.state().head(group, &keyspace("k")).revision, Revision::new(20));
        let churn = store.state().get(group, &keyspace("k"), b"churn", None).unwrap().unwrap();
        assert_eq!((&churn.value[..], churn.version), (&b"value 20"[..], 20));
        assert_eq!(store.state().get(group, &keyspace("k"), &[21], None).unwrap(), None);
        store.state().verify(group).unwrap();
    }
    let whole = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    (1..=50).for_each(|index| entry(&whole, index));
    (21..=50).for_each(|index| entry(&store, index));
    assert_eq!(store.state().keyspaces(G0), whole.state().keyspaces(G0));
    assert_eq!(store.state().verify(G0).unwrap(), whole.state().verify(G0).unwrap());
}

#[test]
#[ignore = "run by a_crash_takes_effects_and_position_back_together, in a process of its own"]
fn crash() {
    let store = open(&child_dir());
    (1..=20).for_each(|index| entry(&store, index));
    store.state().flush().unwrap();
    (21..=50).for_each(|index| entry(&store, index));
    std::process::abort();
}

/// A memtable that fills up is flushed without being asked to; a crash then leaves the state after some entry.
#[test]
fn a_crash_between_flushes_leaves_a_whole_state() {
    let dir = tempfile::tempdir().unwrap();
    let status = run_child("state::tests::crash::crash_with_small_memtables", dir.path());
    assert!(!status.success() && status.code().is_none(), "it aborts: {status}");
    let store = open(dir.path());
    let applied = store.state().applied(G0).unwrap().expect("some of it was flushed").log_id;
    let reached: u64 = std::str::from_utf8(&applied).unwrap().parse().unwrap();
    assert!((1..400).contains(&reached), "{reached}");
    assert_eq!(store.state().head(G0, &keyspace("k")).revision, Revision::new(reached));
    assert_eq!(store.state().verify(G0).unwrap().records, reached);
}

#[test]
#[ignore = "run by a_crash_between_flushes_leaves_a_whole_state, in a process of its own"]
fn crash_with_small_memtables() {
    let options = Options { state_memtable_bytes: 64 << 10, ..Options::default() };
    let store = Store::open(&child_dir(), &IDENTITY, &options).unwrap();
    for index in 1..400 {
        let changes: Vec<_> = (0..40u8).map(|key| [key, index as u8]).collect();
        let changes: Vec<(&[u8], Option<&[u8]>)> =
            changes.iter().map(|key| (&key[..], Some(&[7u8; 100][..]))).collect();
        apply(store.state(), G0, index, vec![commit("k", index - 1, &changes)]);
    }
    std::process::abort();
}
