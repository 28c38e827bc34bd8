//! Reads against a model that keeps every revision's whole state.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_core::{Change, KeyRange, KeyState, Revision};
use proptest::prelude::*;

use crate::{
    Options, ReadError, Store,
    testkit::{G0, G1, IDENTITY, apply, commit, keyspace},
};

type Keys = BTreeMap<Vec<u8>, KeyState>;
type Commits = Vec<BTreeMap<Vec<u8>, Option<Vec<u8>>>>;

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', 0xfe, 0xff]), 0..4)
}

fn commits() -> impl Strategy<Value = Commits> {
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..4));
    prop::collection::vec(prop::collection::btree_map(key(), value, 1..5), 1..12)
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        Just(KeyRange::All),
        key().prop_map(|key| KeyRange::Key(key.into())),
        key().prop_map(|prefix| KeyRange::Prefix(prefix.into())),
        (key(), key()).prop_map(|(from, to)| KeyRange::Span(from.into(), to.into())),
    ]
}

/// The state after each revision; the first is before any.
fn states(commits: &Commits) -> Vec<Keys> {
    let mut states = vec![Keys::new()];
    for (revision, changes) in (1..).zip(commits) {
        let mut state = states.last().unwrap().clone();
        for (key, value) in changes {
            match value {
                Some(value) => {
                    let before = state.get(key);
                    let next = KeyState {
                        value: value.clone().into(),
                        create_revision: before.map_or(Revision::new(revision), |before| before.create_revision),
                        mod_revision: Revision::new(revision),
                        version: before.map_or(0, |before| before.version) + 1,
                        lease: None,
                    };
                    state.insert(key.clone(), next);
                }
                None => drop(state.remove(key)),
            }
        }
        states.push(state);
    }
    states
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_read_at_every_revision(
        commits in commits(),
        ranges in prop::collection::vec((range(), 0usize..6), 6),
        flush_after in 0usize..12,
    ) {
        let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
        let (state, name) = (store.state(), keyspace("k"));
        for (base, changes) in (0u64..).zip(&commits) {
            let changes: Vec<_> = changes.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
            // The same keys in a neighbour, which nothing here must see.
            let neighbour = commit("neighbour", base, &[(changes[0].0, Some(b"not this"))]);
            apply(state, G0, base + 1, vec![commit("k", base, &changes), neighbour.clone()]);
            apply(state, G1, base + 1, vec![neighbour]);
            if base == flush_after as u64 {
                state.flush().unwrap();
            }
        }
        let states = states(&commits);
        let head = Revision::new(commits.len() as u64);
        for (revision, expected) in (0u64..).zip(&states).map(|(at, keys)| (Revision::new(at), keys)) {
            let mut ats = vec![Some(revision)];
            ats.extend((revision == head).then_some(None));
            for at in ats {
                for (range, limit) in &ranges {
                    let inside: Vec<_> = expected.iter().filter(|(key, _)| range.contains(key)).collect();
                    let found = state.range(G0, &name, range, at, *limit).unwrap();
                    let kvs: Vec<_> = found.kvs.iter().map(|kv| (&kv.key[..], &kv.state)).collect();
                    let wanted: Vec<_> = inside.iter().take(*limit).map(|(key, state)| (&key[..], *state)).collect();
                    prop_assert_eq!(kvs, wanted, "{:?} at {:?}", range, at);
                    prop_assert_eq!((found.more, found.revision), (inside.len() > *limit, revision));
                }
                for key in commits.iter().flat_map(BTreeMap::keys) {
                    let found = state.get(G0, &name, key, at).unwrap();
                    prop_assert_eq!(found.as_ref(), expected.get(key));
                }
            }
        }
        let future = state.get(G0, &name, b"a", Some(head.next()));
        let refused = matches!(future, Err(ReadError::Future { head: at, .. }) if at == head);
        prop_assert!(refused);
        let mut scanned = Vec::new();
        let visit = |key: &[u8], value: &[u8], modified| scanned.push((key.to_vec(), value.to_vec(), modified));
        state.scan(G0, &name, &KeyRange::All, visit).unwrap();
        let latest = states.last().unwrap().iter();
        let latest: Vec<_> = latest.map(|(key, at)| (key.clone(), at.value.to_vec(), at.mod_revision)).collect();
        prop_assert_eq!(scanned, latest);

        // History, in pages of whatever size, is what was committed.
        let mut after = Revision::ZERO;
        while after < head {
            let page = state.changes(G0, &name, after, 3, 10).unwrap();
            prop_assert!(!page.is_empty() && page.len() <= 3);
            for found in page {
                after = after.next();
                prop_assert_eq!(found.record.revision, after);
                let committed = &commits[after.get() as usize - 1];
                let change = |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| {
                    Change { key: key.clone().into(), value: value.clone().map(Bytes::from), lease: None }
                };
                prop_assert_eq!(found.changes, Some(committed.iter().map(change).collect::<Vec<_>>()));
            }
        }
        prop_assert_eq!(state.records(G0, &name, Revision::ZERO, 5).unwrap().len(), commits.len().min(5));
        prop_assert_eq!(state.verify(G0).unwrap().records, 2 * commits.len() as u64);
    }
}
