//! Reads beside writes.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use kv_core::{KeyRange, Revision};

use crate::{
    Options, State, Store,
    testkit::{G0, IDENTITY, apply, commit, keyspace},
};

/// Revision n holds the number n under every key.
fn write(state: &State, revision: u64) {
    let value = revision.to_be_bytes();
    let keys: [&[u8]; 4] = [b"a", b"b", b"c", &revision.to_be_bytes()];
    apply(state, G0, revision, vec![commit("k", revision - 1, &keys.map(|key| (key, Some(&value[..]))))]);
}

/// Whatever a read returns is true of the revision that it names, while commits are applied and a snapshot is installed.
fn check_reads(state: &State, done: &AtomicBool) {
    let name = keyspace("k");
    let churning = KeyRange::Span("a".into(), "d".into());
    while !done.load(Ordering::Relaxed) {
        let at = state.head(G0, &name).revision;
        let found = state.range(G0, &name, &churning, None, 10).unwrap();
        for kv in &found.kvs {
            assert_eq!(&kv.state.value[..], &found.revision.get().to_be_bytes(), "{:?}", kv.key);
        }
        if at.get() > 100 {
            // Behind the installed snapshot there are other revisions of these numbers, but with the same content.
            let then = state.get(G0, &name, b"b", Some(Revision::new(90))).unwrap().unwrap();
            assert_eq!(&then.value[..], &90u64.to_be_bytes());
            let old = state.range(G0, &name, &churning, Some(Revision::new(90)), 10).unwrap();
            assert_eq!((old.kvs.len(), old.kvs[2].state.mod_revision.get()), (3, 90));
            let changes = state.changes(G0, &name, Revision::new(95), 2, 1000).unwrap();
            assert_eq!(changes[1].record.revision, Revision::new(97));
            assert_eq!(changes[1].changes.as_ref().unwrap()[0].value.as_deref(), Some(&97u64.to_be_bytes()[..]));
        }
        let (mut seen, mut last) = (Vec::new(), 0);
        state
            .scan(G0, &name, &KeyRange::All, |_, value, modified| {
                assert_eq!(value, modified.get().to_be_bytes());
                last = last.max(modified.get());
                // A visitor may read what it visits.
                state.head(G0, &name);
                seen.push(modified.get());
            })
            .unwrap();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (1..=last).collect::<Vec<_>>(), "a whole state");
    }
}

#[test]
fn reads_see_whole_revisions() {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    let state = store.state();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = [0; 3].map(|_| scope.spawn(|| check_reads(state, &done)));
        (1..=100).for_each(|revision| write(state, revision));
        let mut snapshot = state.snapshot(G0).unwrap();
        (101..=200).for_each(|revision| write(state, revision));
        let mut receiver = state.receive(G0).unwrap();
        while let Some(chunk) = snapshot.next_chunk(4096).unwrap() {
            receiver.chunk(&chunk).unwrap();
        }
        state.install(receiver.finish().unwrap()).unwrap();
        (101..=250).for_each(|revision| write(state, revision));
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert_eq!(state.verify(G0).unwrap().records, 250);
}
