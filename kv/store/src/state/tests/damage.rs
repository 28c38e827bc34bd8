//! What is wrong on disk is found, and said so that somebody can do something about it.

use std::path::Path;

use kv_core::{ChainError, KeyRange, Revision};
use rocksdb::DB;

use crate::{
    ReadError, StoreError, VerifyError,
    envelope::{self, Raw, seal_value_into},
    state::{
        keys,
        records::{Chained, KeyspaceRecord, Version},
    },
    testkit::{G0, keyspace, open, some_history},
};

const NUMBER_OF_A: u32 = 0;

/// A store with some history, closed, and its record at a key edited.
fn edited(key: &[u8], edit: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path());
        some_history(store.state(), G0);
        store.state().verify(G0).expect("sound until it is edited");
    }
    edit_raw(dir.path(), key, edit);
    dir
}

fn edit_raw(dir: &Path, key: &[u8], edit: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
    let raw = DB::open_default(dir.join("state")).unwrap();
    let record = raw.get(key).unwrap().expect("a record to edit");
    match edit(record) {
        Some(record) => raw.put(key, record).unwrap(),
        None => raw.delete(key).unwrap(),
    }
    raw.flush().unwrap();
}

fn flip_last(mut record: Vec<u8>) -> Option<Vec<u8>> {
    *record.last_mut()? ^= 1;
    Some(record)
}

#[test]
fn a_flipped_byte_in_a_value_is_named() {
    let latest = keys::latest(G0, NUMBER_OF_A, b"churn");
    let dir = edited(&latest, flip_last);
    let store = open(dir.path());
    let name = keyspace("a");
    let error = store.state().get(G0, &name, b"churn", None).unwrap_err();
    let ReadError::Store(StoreError::Damaged { file, key, .. }) = &error else { panic!("{error}") };
    assert!(file.starts_with(dir.path().join("state").to_str().unwrap()) && file.contains(".sst"), "{file}");
    assert_eq!(key, "key \"churn\" of keyspace number 0 in g0");
    let text = error.to_string();
    assert!(text.contains("`netstate cluster repair` fetches it from them"), "{text}");
    // So does whoever comes by it.
    assert!(store.state().range(G0, &name, &KeyRange::All, None, 10).is_err());
    assert!(store.state().scan(G0, &name, &KeyRange::All, |_, _, _| ()).is_err());
    assert!(store.state().changes(G0, &name, Revision::new(9), 10, 1000).is_err());
    assert!(matches!(store.state().verify(G0), Err(VerifyError::Store(StoreError::Damaged { .. }))));
    let mut snapshot = store.state().snapshot(G0).unwrap();
    assert!(snapshot.next_chunk(1 << 20).is_err(), "it must not spread");
    assert_eq!(store.state().get(G0, &name, b"\0", None).unwrap().unwrap().version, 3, "others can be read");
}

#[test]
fn a_changed_value_with_a_right_checksum_does_not_match_its_record() {
    for (key, revision) in
        [(keys::latest(G0, NUMBER_OF_A, b"churn"), 10), (keys::earlier(G0, NUMBER_OF_A, b"churn", Revision::new(4)), 4)]
    {
        let dir = edited(&key, |record| {
            let version: Version<'_> = envelope::open_value(&key, &record).unwrap();
            Some(seal_value_into(&key, &Version { value: Some(Raw(b"forged")), ..version }, Vec::new()))
        });
        let error = open(dir.path()).state().verify(G0).unwrap_err();
        let VerifyError::Chain(ChainError::Changes { revision: found, .. }) = error else { panic!("{error}") };
        assert_eq!(found, Revision::new(revision));
    }
}

#[test]
fn an_edited_or_missing_chain_record_is_found() {
    let key = keys::chain(G0, NUMBER_OF_A, Revision::new(5));
    let verify = |dir: &Path| open(dir).state().verify(G0).unwrap_err();

    let error = verify(edited(&key, flip_last).path());
    assert!(error.to_string().contains("the record of r5 of keyspace number 0 in g0 is damaged"), "{error}");

    let error = verify(edited(&key, |_| None).path());
    assert!(matches!(error, VerifyError::Chain(ChainError::Gap { .. })), "{error}");

    let dir = edited(&key, |record| {
        let mut chained: Chained<'_> = envelope::open_value(&key, &record).unwrap();
        chained.record.actor = "somebody else".into();
        Some(seal_value_into(&key, &chained, Vec::new()))
    });
    let error = verify(dir.path());
    assert!(
        matches!(&error, VerifyError::Chain(ChainError::Broken { revision, .. }) if revision.get() == 6),
        "{error}"
    );

    let last = keys::chain(G0, NUMBER_OF_A, Revision::new(10));
    let dir = edited(&last, |_| None);
    let error = verify(dir.path());
    assert!(matches!(error, VerifyError::Head { .. }), "{error}");
    let changes = open(dir.path()).state().changes(G0, &keyspace("a"), Revision::new(8), 9, 1000);
    assert!(changes.unwrap_err().to_string().contains("r10"));
}

#[test]
fn keys_and_heads_that_no_record_made_are_found() {
    // A key that no commit wrote.
    let five = Revision::new(5);
    for forged in [keys::latest(G0, NUMBER_OF_A, b"forged"), keys::earlier(G0, NUMBER_OF_A, b"forged", five)] {
        let dir = edited(&keys::latest(G0, NUMBER_OF_A, b"\0"), Some);
        let raw = DB::open_default(dir.path().join("state")).unwrap();
        let version = Version {
            create: five,
            modified: five,
            until: Revision::ZERO,
            version: 1,
            lease: None,
            value: Some(Raw(b"v")),
        };
        raw.put(&forged, seal_value_into(&forged, &version, Vec::new())).unwrap();
        drop(raw);
        let error = open(dir.path()).state().verify(G0).unwrap_err();
        assert!(matches!(error, VerifyError::Keys { .. }), "{error}");
    }

    // A removal that was itself removed: the key would be back at that revision.
    let dir = edited(&keys::earlier(G0, NUMBER_OF_A, b"fl\0ap", Revision::new(5)), |_| None);
    let error = open(dir.path()).state().verify(G0).unwrap_err();
    assert!(matches!(error, VerifyError::Keys { .. }), "{error}");

    // A keyspace taken back to an earlier record, with the records behind it.
    let name = keys::keyspace(G0, &keyspace("b"));
    let dir = edited(&keys::chain(G0, 1, Revision::new(3)), |_| None);
    for (key, edit) in [(keys::latest(G0, 1, &2u64.to_be_bytes()), None), (name.clone(), Some(()))] {
        let chain = keys::chain(G0, 1, Revision::new(2));
        let raw = DB::open_default(dir.path().join("state")).unwrap();
        let second = raw.get(&chain).unwrap().unwrap();
        drop(raw);
        edit_raw(dir.path(), &key, |record| {
            edit?;
            let known: KeyspaceRecord = envelope::open_value(&name, &record).unwrap();
            let chained: Chained<'_> = envelope::open_value(&chain, &second).unwrap();
            let head = chained.record.head(&keyspace("b"));
            Some(seal_value_into(&name, &KeyspaceRecord { head, ..known }, Vec::new()))
        });
    }
    let error = open(dir.path()).state().verify(G0).unwrap_err();
    assert!(matches!(error, VerifyError::Fold { .. }), "{error}");
}
