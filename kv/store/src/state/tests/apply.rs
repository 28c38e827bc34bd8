use bytes::Bytes;
use kv_core::{Batch, KeyRange, Outcome, RequestId, Revision, Timestamp, TxnOutcome, limits::REQUEST_RETENTION};

use crate::{
    EntryToApply, Options, State, Store, StoreError,
    state::{Applied, apply::EXPIRY_EVERY, keys},
    testkit::{G0, G1, IDENTITY, apply, commit, keyspace, log_id, some_history, with_request},
};

fn store() -> Store {
    Store::open_temporary(&IDENTITY, &Options::default()).unwrap()
}

fn applied(revision: u64) -> Outcome {
    Outcome::Applied(TxnOutcome { succeeded: true, revision: Revision::new(revision) })
}

#[test]
fn a_commit_is_applied_stale_or_repeated() {
    let store = store();
    let state = store.state();
    let put = |base| commit("k", base, &[(b"a", Some(b"1"))]);
    let entry = apply(state, G0, 1, vec![put(0), put(0), put(1), with_request(put(2), 9), with_request(put(0), 9)]);
    let repeated = Outcome::Repeated(TxnOutcome { succeeded: true, revision: Revision::new(3) });
    let stale = Outcome::Stale { head: Revision::new(1) };
    assert_eq!(entry.outcomes, [applied(1), stale, applied(2), applied(3), repeated]);
    assert_eq!(entry.commits.iter().map(|made| made.commit).collect::<Vec<_>>(), [0, 2, 3]);
    assert_eq!(entry.commits[2].record.request, Some(RequestId::new([9; 16])));
    // The same across calls, and in another keyspace or group the id means nothing.
    let elsewhere = with_request(commit("l", 0, &[(b"a", Some(b"1"))]), 9);
    let entry = apply(state, G0, 2, vec![with_request(put(7), 9), elsewhere.clone()]);
    assert_eq!(entry.outcomes, [repeated, applied(1)]);
    assert_eq!(apply(state, G1, 1, vec![elsewhere]).outcomes, [applied(1)]);
    assert_eq!(entry.fold, state.fold(G0));
    assert_ne!(state.fold(G0), state.fold(G1));
}

#[test]
fn a_commit_without_changes_makes_no_revision_but_is_remembered() {
    let store = store();
    let state = store.state();
    let nothing = |base| commit("k", base, &[]);
    let before = apply(state, G0, 1, vec![commit("k", 0, &[(b"a", Some(b"1"))])]);
    let failed = kv_core::Commit { succeeded: false, ..with_request(nothing(1), 4) };
    let entry = apply(state, G0, 2, vec![nothing(1), failed.clone(), failed, nothing(0)]);
    let outcome = TxnOutcome { succeeded: false, revision: Revision::new(1) };
    let stale = Outcome::Stale { head: Revision::new(1) };
    assert_eq!(entry.outcomes, [applied(1), Outcome::Applied(outcome), Outcome::Repeated(outcome), stale]);
    assert_eq!((entry.commits.len(), entry.fold), (0, before.fold));
    let request = RequestId::new([4; 16]);
    assert_eq!(state.outcome(G0, &keyspace("k"), &request).unwrap(), Some(outcome));
    assert_eq!(state.outcome(G1, &keyspace("k"), &request).unwrap(), None);
    // Nor does it make a keyspace.
    apply(state, G0, 3, vec![with_request(commit("new", 0, &[]), 5)]);
    assert_eq!(state.keyspaces(G0).len(), 1);
    state.verify(G0).unwrap();
}

#[test]
fn position_and_membership_are_those_of_the_last_entry_that_had_them() {
    let store = store();
    let state = store.state();
    assert_eq!(state.applied(G0).unwrap(), None);
    let entry = |index, membership: Option<&'static str>| EntryToApply {
        index,
        log_id: log_id(index),
        membership: membership.map(Bytes::from),
        batch: None,
    };
    state.apply(G0, &[entry(1, None), entry(2, Some("m")), entry(3, None)]).unwrap();
    let membership = Some("m".into());
    assert_eq!(state.applied(G0).unwrap(), Some(Applied { log_id: log_id(3), membership }));
    assert_eq!(state.durable(G0), None);
    assert_eq!(state.flush().unwrap().into_iter().collect::<Vec<_>>(), [(G0, log_id(3))]);
    assert_eq!(state.durable(G0), Some(log_id(3)));
    assert!(matches!(state.apply(G0, &[entry(3, None)]), Err(StoreError::OutOfOrder { found: 3, .. })));
}

/// How entries are grouped into calls, and how far expired ids have been removed, changes no outcome.
#[test]
fn calls_of_any_size_come_to_the_same() {
    let step = i64::try_from(REQUEST_RETENTION.as_micros()).unwrap() / 40;
    let one_by_one = store();
    let mut batches = Vec::new();
    let mut expected = Vec::new();
    for n in 0..300u64 {
        // Ids come back: some within the retention, some behind it. Two keyspaces, whose times differ.
        let (name, behind) = if n % 3 == 0 { ("slow", 30) } else { ("fast", 0) };
        let base = one_by_one.state().head(G0, &keyspace(name)).revision.get();
        let mut one = with_request(commit(name, base, &[(&[n as u8 % 7], Some(b"v"))]), (n / 3 % 12) as u8);
        one.at = Timestamp::from_micros((n as i64 - behind) * step);
        let entry = apply(one_by_one.state(), G0, n + 1, vec![one.clone()]);
        expected.push((entry.outcomes, entry.fold));
        batches.push((n + 1, Batch { commits: vec![one] }));
    }
    let repeated = expected.iter().filter(|(outcomes, _)| matches!(outcomes[0], Outcome::Repeated(_))).count();
    assert!((10..250).contains(&repeated), "{repeated}");
    for size in [2, 7, 300] {
        let store = store();
        let mut found = Vec::new();
        for chunk in batches.chunks(size) {
            let entries: Vec<_> = chunk
                .iter()
                .map(|(index, batch)| EntryToApply {
                    index: *index,
                    log_id: log_id(*index),
                    membership: None,
                    batch: Some(batch),
                })
                .collect();
            let done = store.state().apply(G0, &entries).unwrap();
            found.extend(done.into_iter().map(|entry| (entry.outcomes, entry.fold)));
        }
        assert_eq!(found, expected, "{size} a call");
        assert_eq!(store.state().verify(G0).unwrap(), one_by_one.state().verify(G0).unwrap());
        for (name, head) in store.state().keyspaces(G0) {
            for at in (1..=head.revision.get()).map(Revision::new) {
                let read = |store: &Store| store.state().range(G0, &name, &KeyRange::All, Some(at), 10).unwrap();
                assert_eq!(read(&store), read(&one_by_one), "{name} at {at}, {size} a call");
            }
        }
    }
}

#[test]
fn expired_request_ids_are_forgotten_and_removed() {
    let store = store();
    let state = store.state();
    some_history(state, G0);
    let request = RequestId::new([0; 16]);
    let first = TxnOutcome { succeeded: true, revision: Revision::new(1) };
    assert_eq!(state.outcome(G0, &keyspace("a"), &request).unwrap(), Some(first));
    let count = || remembered(state);
    assert_eq!(count(), 20, "ten ids and when they go");
    let later = Timestamp::from_micros(1_005 + i64::try_from(REQUEST_RETENTION.as_micros()).unwrap());
    let late = |index, base| {
        let put = with_request(commit("b", base, &[(b"x", Some(b"y"))]), 100 + index as u8);
        apply(state, G0, index, vec![kv_core::Commit { at: later, ..put }]);
    };
    late(100, 3);
    assert_eq!(state.outcome(G0, &keyspace("a"), &request).unwrap(), None);
    let sixth = TxnOutcome { succeeded: true, revision: Revision::new(6) };
    assert_eq!(state.outcome(G0, &keyspace("a"), &RequestId::new([5; 16])).unwrap(), Some(sixth));
    assert_eq!(count(), 2 * (10 + 1), "nobody has looked yet");
    for n in 1..EXPIRY_EVERY as u64 {
        late(100 + n, 3 + n);
    }
    assert_eq!(count(), 2 * (5 + EXPIRY_EVERY), "five of the old ones still count");
    assert_eq!(state.outcome(G0, &keyspace("a"), &RequestId::new([5; 16])).unwrap(), Some(sixth));
}

/// Each commit may remove two.
#[test]
fn many_expired_request_ids_go_a_few_at_a_time() {
    let store = store();
    let state = store.state();
    let (before, after) = (5 * EXPIRY_EVERY as u64, 3 * EXPIRY_EVERY as u64);
    let later = Timestamp::from_micros(10_000 + i64::try_from(REQUEST_RETENTION.as_micros()).unwrap());
    for n in 0..before + after {
        let put = with_request(commit("a", n, &[(b"x", Some(b"y"))]), u8::try_from(n % 256).unwrap());
        let at = if n < before { put.at } else { later };
        apply(state, G0, n + 1, vec![kv_core::Commit { at, ..put }]);
        let looked = (n + 1).saturating_sub(before) / EXPIRY_EVERY as u64;
        let removed = (looked * 2 * EXPIRY_EVERY as u64).min(before);
        assert_eq!(remembered(state) as u64, 2 * (n + 1 - removed), "after {n}");
    }
}

/// Records of remembered request ids: two for each, its outcome and when it goes.
fn remembered(state: &State) -> usize {
    let end = keys::kind_start(G0, keys::EXPIRY + 1);
    let mut cursor = state.database().cursor(None, &keys::kind_start(G0, keys::REQUEST), end);
    let mut count = 0;
    while cursor.valid() {
        count += 1;
        cursor.next();
    }
    count
}

/// An id used again once it counts no more is not forgotten when its first use is.
#[test]
fn an_id_remembered_anew_stays() {
    let store = store();
    let state = store.state();
    some_history(state, G0);
    let later = Timestamp::from_micros(2_000 + i64::try_from(REQUEST_RETENTION.as_micros()).unwrap());
    let put = |base, request| {
        let put = with_request(commit("a", base, &[(b"x", Some(b"y"))]), request);
        kv_core::Commit { at: later, ..put }
    };
    // Nine was used in the history too; its first use is removed by one of these.
    for n in 0..EXPIRY_EVERY as u64 {
        let request = if n == 0 { 9 } else { 100 + u8::try_from(n).unwrap() };
        assert_eq!(apply(state, G0, 100 + n, vec![put(10 + n, request)]).outcomes, [applied(11 + n)]);
    }
    assert_eq!(remembered(state), 2 * EXPIRY_EVERY);
    let again = apply(state, G0, 200, vec![put(50, 9)]);
    let first = TxnOutcome { succeeded: true, revision: Revision::new(11) };
    assert_eq!(again.outcomes, [Outcome::Repeated(first)]);

    // A keyspace whose time is far behind the group's: its id counts for nothing, and is removed like the others.
    let behind = with_request(commit("b", 3, &[(b"x", Some(b"y"))]), 200);
    apply(state, G0, 201, vec![behind]);
    assert_eq!(remembered(state), 2 * (EXPIRY_EVERY + 1));
    for n in 0..EXPIRY_EVERY as u64 {
        apply(state, G0, 202 + n, vec![commit("b", 4 + n, &[(b"x", Some(b"z"))])]);
    }
    assert_eq!(remembered(state), 2 * EXPIRY_EVERY);
}

/// A commit that names a key twice is the leader's mistake. It is applied, the last value stays, and verifying tells.
#[test]
fn a_key_named_twice_does_no_harm_to_others() {
    let store = store();
    let state = store.state();
    apply(state, G0, 1, vec![commit("k", 0, &[(b"a", Some(b"1")), (b"a", Some(b"2"))])]);
    apply(state, G0, 2, vec![commit("k", 1, &[(b"a", Some(b"3"))])]);
    for (at, value) in [(1, "2"), (2, "3")] {
        let found = state.get(G0, &keyspace("k"), b"a", Some(Revision::new(at))).unwrap().unwrap();
        assert_eq!(found.value, value);
    }
    assert!(state.verify(G0).is_err());
}
