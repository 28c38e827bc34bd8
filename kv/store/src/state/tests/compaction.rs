//! What a compaction takes, and what it must leave.

use kv_core::{Commit, Effect, KeyRange, Query, Revision};
use proptest::prelude::*;

use crate::{
    Options, ReadError, Store,
    state::keys,
    testkit::{G0, IDENTITY, apply, commit, keyspace, open},
};

fn compact(base: u64, to: u64) -> Commit {
    let effects = vec![Effect::Compact { to: Revision::new(to), records: true }];
    Commit { effects, ..commit("k", base, &[]) }
}

/// Stored records of a kind.
fn stored(store: &Store, kind: u8) -> usize {
    let database = store.state().database();
    let mut cursor = database.cursor(None, &keys::kind_start(G0, kind), keys::kind_start(G0, kind + 1));
    let mut count = 0;
    while cursor.valid() {
        count += 1;
        cursor.next();
    }
    count
}

fn reclaim(store: &Store) {
    store.state().flush().unwrap();
    store.state().reclaim().unwrap();
}

type Revisions = Vec<Vec<(u8, Option<u8>)>>;

fn revisions() -> impl Strategy<Value = Revisions> {
    let revision = prop::collection::btree_map(0u8..4, prop::option::weighted(0.7, any::<u8>()), 1..3);
    prop::collection::vec(revision.prop_map(|changes| changes.into_iter().collect()), 2..16)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// All that can be read after a compaction is what could be read before it, by whoever was reading meanwhile, too.
    #[test]
    fn nothing_readable_is_lost(revisions in revisions(), to in 0.0f64..1.0, held in 0.0f64..1.0) {
        let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
        let (state, name) = (store.state(), keyspace("k"));
        for (base, changes) in (0u64..).zip(&revisions) {
            let changes: Vec<_> = changes.iter().map(|(key, value)| ([*key], value.map(|value| [value]))).collect();
            let changes: Vec<_> = changes.iter().map(|(key, value)| (&key[..], value.as_ref().map(|v| &v[..]))).collect();
            apply(state, G0, base + 1, vec![commit("k", base, &changes)]);
        }
        let head = revisions.len() as u64;
        let pick = |share: f64| Revision::new(1 + (share * (head - 1) as f64) as u64);
        let (to, held) = (pick(to), pick(held));
        let read = |at: Revision| state.range(G0, &name, &KeyRange::All, Some(at), 100);
        let before: Vec<_> = (0..=head).map(|at| read(Revision::new(at)).unwrap()).collect();
        let mut pages = state.pages(G0, &name, &Query { at: Some(held), ..Query::all(KeyRange::All) }, 1).unwrap();
        let events = |after: u64| {
            state.events(G0, &name, &KeyRange::All, Revision::new(after), true, (100, 1 << 20))
        };
        let seen = events(to.get()).unwrap();

        apply(state, G0, head + 1, vec![compact(head, to.get())]);
        reclaim(&store);

        for (at, was) in (0..).zip(&before) {
            match read(Revision::new(at)) {
                Ok(is) => prop_assert!(at >= to.get() && is == *was, "at {at}: {is:?}, was {was:?}"),
                Err(ReadError::Compacted { floor, .. }) => prop_assert!(at < to.get() && floor == to),
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
        let mut paged = Vec::new();
        while let Some(page) = pages.next_page().unwrap() {
            paged.extend(page.kvs);
        }
        prop_assert_eq!(&paged, &before[held.get() as usize].kvs);
        prop_assert_eq!(events(to.get()).unwrap(), seen);
        // A watch may begin with the revision that was compacted to.
        prop_assert_eq!(events(to.get() - 1).unwrap()[0].revision, to);
        if to.get() > 1 {
            let gone = matches!(events(to.get() - 2), Err(ReadError::Compacted { .. }));
            prop_assert!(gone);
        }
        state.verify(G0).unwrap();

        drop(pages);
        reclaim(&store);
        prop_assert_eq!(&read(Revision::new(head)).unwrap(), before.last().unwrap());
        state.verify(G0).unwrap();
    }
}

#[test]
fn space_is_given_back_and_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for base in 0..100u64 {
        let value = vec![base as u8; 1000];
        apply(store.state(), G0, base + 1, vec![commit("k", base, &[(b"churn", Some(&value))])]);
    }
    assert_eq!((stored(&store, keys::EARLIER), stored(&store, keys::CHAIN)), (99, 100));
    apply(store.state(), G0, 101, vec![compact(100, 100)]);
    reclaim(&store);
    assert_eq!((stored(&store, keys::EARLIER), stored(&store, keys::CHAIN)), (0, 1));
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.state().usage(G0, &keyspace("k")).floor, Revision::new(100));
    store.state().verify(G0).unwrap();
    // The chain goes on from where it was.
    apply(store.state(), G0, 102, vec![commit("k", 100, &[(b"churn", None)])]);
    assert_eq!(store.state().verify(G0).unwrap().records, 2);
}

/// What a crash takes back is the floor, and not what lies below it.
#[test]
fn nothing_is_dropped_before_the_floor_is_on_disk() {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    for base in 0..10u64 {
        apply(store.state(), G0, base + 1, vec![commit("k", base, &[(b"churn", Some(b"v"))])]);
    }
    store.state().flush().unwrap();
    apply(store.state(), G0, 11, vec![compact(10, 10)]);
    // A compaction of RocksDB's own, while the floor is in memory only.
    store.state().database().rewrite(&keys::kind_start(G0, keys::EARLIER)).unwrap();
    assert_eq!(stored(&store, keys::EARLIER), 9);
}
