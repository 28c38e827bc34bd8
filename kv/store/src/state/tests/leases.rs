//! Leases, the keys attached to them, and records beside the keys.

use bytes::Bytes;
use kv_core::{Change, Commit, Effect, LeaseId};

use crate::{
    LeaseTerms, Options, Store,
    testkit::{G0, G1, IDENTITY, apply, commit, keyspace, open},
};

fn lease(raw: i64) -> LeaseId {
    LeaseId::new(raw).unwrap()
}

fn effects(base: u64, effects: Vec<Effect>) -> Commit {
    Commit { effects, ..commit("k", base, &[]) }
}

fn put(base: u64, key: &'static str, attached: Option<LeaseId>) -> Commit {
    let changes = vec![Change { lease: attached, ..Change::put(key, "v") }];
    Commit { changes, ..commit("k", base, &[]) }
}

/// Grants two leases, moves keys between them, and leaves both with one key.
fn some_leases(store: &Store, group: kv_core::GroupId) {
    let commits = [
        effects(0, vec![Effect::Grant { lease: lease(7), ttl: 60 }, Effect::Grant { lease: lease(-7), ttl: 5 }]),
        put(0, "a", Some(lease(7))),
        put(1, "b", Some(lease(7))),
        put(2, "c", Some(lease(7))),
        put(3, "b", Some(lease(-7))),
        put(4, "c", None),
        effects(5, vec![Effect::Checkpoint { lease: lease(7), remaining: Some(30) }]),
        effects(5, vec![Effect::Record { key: "x/1".into(), value: Some("one".into()) }]),
        effects(5, vec![Effect::Record { key: "x/1".into(), value: Some("two".into()) }]),
        effects(5, vec![Effect::Record { key: "y".into(), value: Some("gone".into()) }]),
        effects(5, vec![Effect::Record { key: "y".into(), value: None }]),
    ];
    for (index, commit) in (1..).zip(commits) {
        apply(store.state(), group, index, vec![commit]);
    }
}

#[test]
fn keys_follow_their_leases() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    some_leases(&store, G0);
    store.state().flush().unwrap();
    drop(store);
    let store = open(dir.path());
    let (state, name) = (store.state(), keyspace("k"));
    let attached = |id| state.attached(G0, &name, lease(id), 10).unwrap();
    assert_eq!(attached(7), [Bytes::from("a")]);
    assert_eq!(attached(-7), [Bytes::from("b")]);
    assert_eq!(state.lease(G0, &name, lease(7)), Some(LeaseTerms { ttl: 60, remaining: Some(30) }));
    assert_eq!(state.get(G0, &name, b"b", None).unwrap().unwrap().lease, Some(lease(-7)));
    assert_eq!(state.all_beside(G0, &name, b"").unwrap(), [("x/1".into(), Bytes::from("two"))]);
    assert_eq!(state.head(G0, &name).revision.get(), 5, "leases and records make no revisions");
    state.verify(G0).unwrap();
    let end = Commit { changes: vec![Change::removal("a")], ..effects(5, vec![Effect::Revoke { lease: lease(7) }]) };
    apply(state, G0, 20, vec![end]);
    assert_eq!((state.lease(G0, &name, lease(7)), attached(7).len()), (None, 0));
    state.verify(G0).unwrap();
}

/// Replicas that differ only in a lease, or only in a record beside the keys, are told apart.
#[test]
fn heads_tell_leases_and_records_apart() {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    some_leases(&store, G0);
    some_leases(&store, G1);
    let fold = |group| store.state().fold(group);
    assert_eq!(fold(G0), fold(G1));
    let same = fold(G0);
    apply(store.state(), G0, 20, vec![effects(5, vec![Effect::Grant { lease: lease(9), ttl: 5 }])]);
    assert_ne!(fold(G0), same);
    apply(store.state(), G0, 21, vec![effects(5, vec![Effect::Revoke { lease: lease(9) }])]);
    assert_eq!(fold(G0), same);
    apply(store.state(), G0, 22, vec![effects(5, vec![Effect::Record { key: "x/1".into(), value: None }])]);
    assert_ne!(fold(G0), same);
}

#[test]
fn a_snapshot_carries_leases_and_records() {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    some_leases(&store, G0);
    let other = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    let mut receiver = other.state().receive(G0).unwrap();
    let mut snapshot = store.state().snapshot(G0).unwrap();
    while let Some(chunk) = snapshot.next_chunk(1 << 16).unwrap() {
        receiver.chunk(&chunk).unwrap();
    }
    other.state().install(receiver.finish().unwrap()).unwrap();
    assert_eq!(other.state().fold(G0), store.state().fold(G0));
    let name = keyspace("k");
    assert_eq!(other.state().attached(G0, &name, lease(-7), 10).unwrap(), [Bytes::from("b")]);
    assert!(other.state().lease(G0, &name, lease(7)).is_some());
}
