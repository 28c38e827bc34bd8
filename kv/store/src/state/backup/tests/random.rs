//! Whatever a history, what is restored is what was there: at the end, or at any time that can be reached.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_core::{Change, Commit, Effect, KeyRange, KeyValue, Keyspace, LeaseId, Revision, Timestamp};
use proptest::prelude::*;

use super::{MADE_AT, RAISE, groups, open_restored, restore_to, save, sound};
use crate::{
    Options, State, Store,
    state::backup::Point,
    testkit::{G0, IDENTITY, apply, commit, keyspace},
};

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    /// Puts and removals of one keyspace, attached to a lease or not.
    Commit {
        name: usize,
        changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
        lease: Option<i64>,
    },
    Compact {
        name: usize,
        share: f64,
        records: bool,
    },
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let key = prop::collection::vec(prop::sample::select(vec![0u8, b'a', 0xff]), 0..3);
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..4));
    let changes = prop::collection::btree_map(key, value, 1..4);
    prop_oneof![
        8 => (0..3usize, changes, prop::option::weighted(0.3, 1i64..4))
            .prop_map(|(name, changes, lease)| Step::Commit { name, changes, lease }),
        1 => (0..3usize, 0.0..1.0f64, any::<bool>()).prop_map(|(name, share, records)| Step::Compact { name, share, records }),
        1 => Just(Step::Flush),
    ]
}

/// What a history came to: the times of each keyspace's revisions, and whether the first of them have been forgotten.
#[derive(Default)]
struct Played {
    times: [Vec<Timestamp>; 3],
    forgotten: [bool; 3],
}

/// Carries out a history in one group. Commits have their index as their time.
fn play(state: &State, steps: &[Step]) -> Played {
    let mut played = Played::default();
    for (index, step) in (1..).zip(steps) {
        let at = Timestamp::from_micros(index);
        let index = u64::try_from(index).unwrap();
        let base = |name: usize| state.head(G0, &keyspace(NAMES[name])).revision;
        match step {
            Step::Commit { name, changes, lease } => {
                let lease = lease.and_then(LeaseId::new);
                let change = |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| Change {
                    key: Bytes::copy_from_slice(key),
                    value: value.clone().map(Bytes::from),
                    lease: lease.filter(|_| value.is_some()),
                };
                let changes = changes.iter().map(change).collect();
                let effects = lease.map(|lease| Effect::Grant { lease, ttl: 9 }).into_iter().collect();
                let blank = commit(NAMES[*name], base(*name).get(), &[]);
                apply(state, G0, index, vec![Commit { at, changes, effects, ..blank }]);
                played.times[*name].push(at);
            }
            Step::Compact { name, share, records } => {
                let to = Revision::new((share * base(*name).get() as f64) as u64);
                let effects = vec![Effect::Compact { to, records: *records }];
                let blank = commit(NAMES[*name], base(*name).get(), &[]);
                apply(state, G0, index, vec![Commit { at, effects, ..blank }]);
                played.forgotten[*name] |= *records && state.usage(G0, &keyspace(NAMES[*name])).floor > Revision::ZERO;
            }
            Step::Flush => {
                state.flush().unwrap();
                state.reclaim().unwrap();
            }
        }
    }
    played
}

impl Played {
    /// The last revision of a keyspace at or before a time, if its state is still there.
    fn reach(&self, state: &State, name: &Keyspace, time: Timestamp) -> Option<(Keyspace, Revision)> {
        let at = NAMES.iter().position(|known| *known == name.as_str()).unwrap();
        let cut = Revision::new(self.times[at].iter().filter(|revision| **revision <= time).count() as u64);
        let there = cut == state.head(G0, name).revision
            || if cut == Revision::ZERO { !self.forgotten[at] } else { cut >= state.usage(G0, name).floor };
        there.then(|| (name.clone(), cut))
    }
}

fn keys(state: &State, name: &Keyspace, at: Option<Revision>) -> Vec<KeyValue> {
    state.range(G0, name, &KeyRange::All, at, 1_000).unwrap().kvs
}

fn check_restored(source: &State, restored: &State, cuts: &BTreeMap<Keyspace, Revision>) {
    for group in groups() {
        restored.verify(group).unwrap();
    }
    for (name, cut) in cuts {
        let head = source.head(G0, name).revision;
        let expected = match cut {
            cut if *cut == head => keys(source, name, None),
            cut if *cut == Revision::ZERO => Vec::new(),
            cut => keys(source, name, Some(*cut)),
        };
        assert_eq!(keys(restored, name, None), expected, "{name} at {cut}");
        assert_eq!(restored.usage(G0, name).keys, expected.len() as u64);
        assert_eq!(restored.head(G0, name).revision, Revision::new(head.get() + RAISE));
        assert!(restored.head(G0, name).at >= MADE_AT, "time goes on");
        for kv in &expected {
            let Some(lease) = kv.state.lease else { continue };
            assert!(restored.attached(G0, name, lease, 1_000).unwrap().contains(&kv.key));
            assert_eq!(restored.lease(G0, name, lease).map(|terms| terms.ttl), Some(9));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_restored_is_what_was_there(steps in prop::collection::vec(step(), 1..40), share in 0.0..1.0f64) {
        let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
        let played = play(store.state(), &steps);
        let dir = tempfile::tempdir().unwrap();
        let file = save(store.state(), dir.path());
        let contents = sound(&file);
        let state = store.state();
        let known: Vec<_> = contents.keyspaces.iter().map(|it| it.name.clone()).collect();

        let to = dir.path().join("latest");
        restore_to(&file, &to, &Point::Latest).unwrap();
        let cuts = known.iter().map(|name| (name.clone(), state.head(G0, name).revision)).collect();
        check_restored(state, open_restored(&to).state(), &cuts);

        let time = Timestamp::from_micros((share * steps.len() as f64) as i64 + 1);
        let to = dir.path().join("earlier");
        let done = restore_to(&file, &to, &Point::Time(time));
        match known.iter().map(|name| played.reach(state, name, time)).collect::<Option<BTreeMap<_, _>>>() {
            Some(cuts) => {
                for (told, (name, cut)) in done.unwrap().keyspaces.iter().zip(&cuts) {
                    prop_assert_eq!((&told.name, told.revision), (name, *cut));
                }
                check_restored(state, open_restored(&to).state(), &cuts);
            }
            None => {
                let error = done.unwrap_err().to_string();
                prop_assert!(error.contains("is compacted and goes back no further than"), "{}", error);
            }
        }
    }
}
