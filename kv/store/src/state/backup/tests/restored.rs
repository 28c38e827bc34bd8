//! What a restored store answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_core::{Change, Commit, Effect, KeyRange, LeaseId, Outcome, RequestId, Revision, Timestamp};

use super::{RAISE, RESTORED, open_restored, place, restore_to, save, sound};
use crate::{
    Options, ReadError, State, Store,
    state::backup::{Point, Restore, restore},
    testkit::{G0, G1, IDENTITY, apply, commit, keyspace, some_history, with_request},
};

fn with_history() -> Store {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    some_history(store.state(), G0);
    store
}

#[test]
fn the_chain_goes_on_across_the_raise() {
    let (store, dir) = (with_history(), tempfile::tempdir().unwrap());
    let (file, to) = (save(store.state(), dir.path()), dir.path().join("data"));
    restore_to(&file, &to, &Point::Latest).unwrap();
    let restored = open_restored(&to);
    let (state, name) = (restored.state(), keyspace("a"));
    let raised = Revision::new(10 + RAISE);
    assert_eq!(state.head(G0, &name).revision, raised);
    // Ten records and the raise of `a`, three and the raise of `b`.
    assert_eq!(state.verify(G0).unwrap().records, 15);
    let records = state.records(G0, &name, Revision::ZERO, 100).unwrap();
    let old = store.state().records(G0, &name, Revision::ZERO, 100).unwrap();
    assert_eq!(records.len(), 11);
    let same = records.iter().zip(&old).all(|(new, old)| new.record == old.record);
    assert!(same, "what lies before the raise is what it was");
    let raise = &records[10].record;
    assert_eq!(raise.previous, old[9].record.hash(&name));
    let text = format!("restored from r10 of cluster {} and raised to r1010", IDENTITY.cluster);
    assert_eq!((raise.reason.as_str(), raise.actor.as_str()), (text.as_str(), "netstate restore"));
    // From anywhere in the gap the next record is the raise.
    for after in [10, 11, 500, 1009] {
        let next = state.records(G0, &name, Revision::new(after), 1).unwrap();
        assert_eq!(next[0].record.revision, raised, "after {after}");
    }
    // A commit that was worked out against what the old cluster had is refused; one on top of the raise is made.
    let stale = apply(state, G0, 100, vec![commit("a", 10, &[(b"k", Some(b"v"))])]);
    assert_eq!(stale.outcomes, [Outcome::Stale { head: raised }]);
    apply(state, G0, 101, vec![commit("a", raised.get(), &[(b"k", Some(b"v"))])]);
    assert_eq!(state.head(G0, &name).revision, raised.next());
    assert_eq!(state.verify(G0).unwrap().records, 16);
}

#[test]
fn who_knows_an_earlier_revision_is_told_to_start_over() {
    let (store, dir) = (with_history(), tempfile::tempdir().unwrap());
    let (file, to) = (save(store.state(), dir.path()), dir.path().join("data"));
    restore_to(&file, &to, &Point::Latest).unwrap();
    let restored = open_restored(&to);
    let (state, name, raised) = (restored.state(), keyspace("a"), Revision::new(10 + RAISE));
    let events = |after: u64| state.events(G0, &name, &KeyRange::All, Revision::new(after), false, (100, 1 << 20));
    for after in [0, 5, 10, 11, 400, 1008] {
        let told = events(after);
        assert!(matches!(told, Err(ReadError::Compacted { floor, .. }) if floor == raised), "after {after}: {told:?}");
    }
    // The first revision that can be asked for is the raise, which did nothing to any key.
    let first = events(1009).unwrap();
    assert_eq!((first.len(), first[0].revision, first[0].events.len()), (1, raised, 0));
    assert!(events(1010).unwrap().is_empty());
    for at in [1, 10, 1009] {
        let read = state.range(G0, &name, &KeyRange::All, Some(Revision::new(at)), 9);
        assert!(matches!(read, Err(ReadError::Compacted { .. })), "at {at}");
    }
    let old = store.state().range(G0, &name, &KeyRange::All, None, 9).unwrap().kvs;
    for at in [None, Some(raised)] {
        assert_eq!(state.range(G0, &name, &KeyRange::All, at, 9).unwrap().kvs, old);
    }
}

#[test]
fn all_founders_come_out_alike_and_their_logs_begin_there() {
    let (store, dir) = (with_history(), tempfile::tempdir().unwrap());
    let file = save(store.state(), dir.path());
    let restored: Vec<_> = ["one", "two"].map(|name| dir.path().join(name)).into_iter().collect();
    for to in &restored {
        restore_to(&file, to, &Point::Latest).unwrap();
    }
    let stores: Vec<_> = restored.iter().map(|to| open_restored(to)).collect();
    for group in super::groups() {
        assert_eq!(stores[0].state().verify(group).unwrap(), stores[1].state().verify(group).unwrap());
        let applied = stores[0].state().applied(group).unwrap().unwrap();
        // Groups that never had anything begin behind entry zero.
        let index = if group == G0 { 3 + 10 } else { 0 };
        assert_eq!(applied.log_id, place(index).log_id);
        assert_eq!(applied.membership, Some("founders".into()));
        let bounds = stores[0].log().bounds(group).unwrap();
        assert_eq!((bounds.purged, bounds.first, bounds.last), (Some(applied.log_id), None, None));
        assert_eq!(stores[0].log().vote(group).unwrap(), None);
    }
}

/// A restored cluster is backed up and restored again; the chain verifies across both raises.
#[test]
fn restored_twice() {
    let (store, dir) = (with_history(), tempfile::tempdir().unwrap());
    let mut state: State = store.state().clone();
    let mut kept = vec![];
    for round in 1..3u64 {
        let file = save(&state, dir.path());
        let to = dir.path().join(format!("data-{round}"));
        restore_to(&file, &to, &Point::Latest).unwrap();
        let restored = open_restored(&to);
        state = restored.state().clone();
        let head = state.head(G0, &keyspace("a")).revision;
        apply(&state, G0, 1_000 + round, vec![commit("a", head.get(), &[(b"round", Some(b"x"))])]);
        assert_eq!(state.head(G0, &keyspace("a")).revision, Revision::new(10 + round * (RAISE + 1)));
        assert_eq!(state.verify(G0).unwrap().records, 13 + round * 3);
        kept.push(restored);
    }
    let file = save(&state, dir.path());
    assert_eq!(sound(&file).records, 19);
    // Taken back across the second raise: the history before it is compacted.
    let named = Point::Revisions(BTreeMap::from([(keyspace("a"), Revision::new(11 + RAISE))]));
    let error = restore_to(&file, &dir.path().join("back"), &named).unwrap_err().to_string();
    assert!(error.contains("a is compacted and goes back no further than r2011"), "{error}");
}

fn lease(number: i64) -> LeaseId {
    LeaseId::new(number).unwrap()
}

fn leased(base: u64, key: &'static str, of: i64, effects: Vec<Effect>) -> Commit {
    let change = Change { lease: Some(lease(of)), ..Change::put(key, "v") };
    Commit { changes: vec![change], effects, ..commit("l", base, &[]) }
}

/// Leases with all their time, request ids and records beside the keys, at the latest and at an earlier revision.
#[test]
fn what_is_beside_the_keys_comes_along() {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    let grant = |of| Effect::Grant { lease: lease(of), ttl: 60 };
    let beside = Effect::Record { key: "users".into(), value: Some("ann".into()) };
    apply(store.state(), G1, 1, vec![with_request(leased(0, "one", 1, vec![grant(1), beside]), 1)]);
    apply(store.state(), G1, 2, vec![with_request(leased(1, "two", 2, vec![grant(2)]), 2)]);
    let checkpoint = Effect::Checkpoint { lease: lease(1), remaining: Some(3) };
    let revoke = Effect::Revoke { lease: lease(2) };
    let end =
        Commit { changes: vec![Change::removal("two")], effects: vec![checkpoint, revoke], ..commit("l", 2, &[]) };
    apply(store.state(), G1, 3, vec![end]);
    let dir = tempfile::tempdir().unwrap();
    let (file, name) = (save(store.state(), dir.path()), keyspace("l"));
    assert_eq!(sound(&file).leases, 1);
    let restored = |to: &str, point: Point| {
        let to = dir.path().join(to);
        let done = restore_to(&file, &to, &point).unwrap();
        (open_restored(&to), done.keyspaces[0].clone())
    };
    let outcome =
        |store: &Store, request: u8| store.state().outcome(G1, &name, &RequestId::new([request; 16])).unwrap();

    let (latest, told) = restored("latest", Point::Latest);
    let terms = latest.state().lease(G1, &name, lease(1)).unwrap();
    assert_eq!((terms.ttl, terms.remaining, told.leases_ended), (60, None, 0));
    assert_eq!(latest.state().lease(G1, &name, lease(2)), None);
    assert_eq!(latest.state().attached(G1, &name, lease(1), 9).unwrap(), ["one"]);
    assert_eq!(latest.state().beside(G1, &name, b"users").unwrap(), Some("ann".into()));
    assert!(outcome(&latest, 1).is_some() && outcome(&latest, 2).is_some());
    latest.state().verify(G1).unwrap();

    // The second lease has ended since: its key is there again, and so is the lease, for a while.
    let (earlier, told) = restored("r2", Point::Revisions(BTreeMap::from([(name.clone(), Revision::new(2))])));
    assert_eq!((told.revision.get(), told.head.get(), told.raised.get()), (2, 3, 3 + RAISE));
    assert_eq!((told.leases_ended, told.keys), (1, 2));
    assert_eq!(earlier.state().lease(G1, &name, lease(2)).unwrap().ttl, 600);
    assert_eq!(earlier.state().attached(G1, &name, lease(2), 9).unwrap(), ["two"]);
    assert_eq!(earlier.state().usage(G1, &name).bytes, 8);
    earlier.state().verify(G1).unwrap();

    // What the second request came to is undone: made again, it is carried out.
    let (first, _) = restored("r1", Point::Time(Timestamp::from_micros(1_000)));
    assert!(outcome(&first, 1).is_some() && outcome(&first, 2).is_none());
    let keys = first.state().range(G1, &name, &KeyRange::All, None, 9).unwrap();
    assert_eq!(keys.kvs.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(), [Bytes::from("one")]);
    let again = with_request(leased(3 + RAISE, "two", 1, vec![]), 2);
    let done = apply(first.state(), G1, 9, vec![again]);
    assert!(matches!(done.outcomes[0], Outcome::Applied(_)));
    first.state().verify(G1).unwrap();
}

/// Records that speak of the old cluster's nodes don't come along, and replicas still agree on what is left.
#[test]
fn what_speaks_of_the_old_nodes_is_left_out() {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    for name in ["members", "users"] {
        let beside = Effect::Record { key: "record".into(), value: Some(name.into()) };
        let index = if name == "members" { 1 } else { 2 };
        apply(store.state(), G0, index, vec![Commit { effects: vec![beside], ..commit(name, 0, &[]) }]);
    }
    let dir = tempfile::tempdir().unwrap();
    let (file, to) = (save(store.state(), dir.path()), dir.path().join("data"));
    let (options, forget) = (Options::default(), [keyspace("members")]);
    let order = Restore {
        file: &file,
        dir: &to,
        identity: RESTORED,
        place: &place,
        raise: RAISE,
        point: &Point::Latest,
        forget: &forget,
        options: &options,
    };
    restore(&order, &sound(&file), &mut |_| {}).unwrap();
    let restored = open_restored(&to);
    assert_eq!(restored.state().beside(G0, &keyspace("members"), b"record").unwrap(), None);
    assert_eq!(restored.state().beside(G0, &keyspace("users"), b"record").unwrap(), Some("users".into()));
    restored.state().verify(G0).unwrap();
}
