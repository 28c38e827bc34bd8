//! Counts against what is there.

use kv_core::{KeyRange, Query, Revision, Want};
use proptest::prelude::*;

use crate::{
    Options, Store,
    testkit::{G0, IDENTITY, apply, commit, keyspace},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// At the latest revision, at earlier ones, and in a view that others have overtaken.
    #[test]
    fn counts_are_those_of_the_keys(
        changes in prop::collection::vec(prop::collection::btree_map(0u8..40, any::<bool>(), 1..6), 1..40),
        ranges in prop::collection::vec((0u8..41, prop::option::of(0u8..41)), 1..5),
        look_at in 0usize..40,
    ) {
        let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
        let (state, name) = (store.state(), keyspace("k"));
        let ranges: Vec<_> = ranges.into_iter().map(|(from, end)| match end {
            Some(end) => KeyRange::Span(vec![from].into(), vec![end].into()),
            None => KeyRange::From(vec![from].into()),
        }).collect();
        let count = |range: &KeyRange, at| {
            let query = Query { want: Want::Count, at, ..Query::all(range.clone()) };
            state.query(G0, &name, &query).unwrap().count
        };
        let mut there = vec![std::collections::BTreeSet::<u8>::new()];
        let mut overtaken = None;
        for (base, changes) in (0u64..).zip(&changes) {
            let keys: Vec<_> = changes.iter().map(|(key, put)| ([*key], *put)).collect();
            let keys: Vec<_> = keys.iter().map(|(key, put)| (&key[..], put.then_some(&b"v"[..]))).collect();
            apply(state, G0, base + 1, vec![commit("k", base, &keys)]);
            let mut now = there.last().unwrap().clone();
            for (key, put) in changes {
                if *put { now.insert(*key) } else { now.remove(key) };
            }
            there.push(now);
            if base as usize == look_at % changes.len().max(1) {
                overtaken = state.view(G0, &name, None).unwrap();
            }
            let expected = |range: &KeyRange, at: usize| there[at].iter().filter(|k| range.contains(&[**k])).count() as u64;
            for range in &ranges {
                prop_assert_eq!(count(range, None), expected(range, there.len() - 1));
                let earlier = look_at % there.len();
                prop_assert_eq!(count(range, Some(Revision::new(earlier as u64))), expected(range, earlier));
                if let Some(view) = &overtaken {
                    prop_assert_eq!(view.count(range).unwrap(), expected(range, view.revision().get() as usize));
                }
            }
        }
    }
}
