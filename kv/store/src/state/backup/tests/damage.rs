//! Whatever happens to a file, `verify` says so.

use std::{fs, io::Write as _};

use super::{bytes, save, sound};
use crate::{
    Options, Store,
    state::backup::{BackupError, verify},
    testkit::{G0, G1, IDENTITY, some_history},
};

fn small() -> Store {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    some_history(store.state(), G0);
    some_history(store.state(), G1);
    store
}

/// What `verify` says of these bytes.
fn said(content: &[u8]) -> Result<(), BackupError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    verify(file.path(), &mut |_| {}).map(drop)
}

#[test]
fn a_sound_file_says_what_is_in_it() {
    let (store, dir) = (small(), tempfile::tempdir().unwrap());
    let file = save(store.state(), dir.path());
    let mut told = Vec::new();
    let contents = verify(&file, &mut |bytes| told.push(bytes)).unwrap();
    let size = fs::metadata(&file).unwrap().len();
    assert_eq!((contents.bytes, contents.records, contents.header.groups), (size, 26, IDENTITY.groups));
    assert!(told.is_sorted() && told.last() == Some(&size));
    let names: Vec<_> =
        contents.keyspaces.iter().map(|it| format!("{} {} {}", it.group, it.name, it.revision)).collect();
    assert_eq!(names, ["g0 a r10", "g0 b r3", "g1 a r10", "g1 b r3"]);
    for keyspace in &contents.keyspaces {
        let head = store.state().head(keyspace.group, &keyspace.name);
        assert_eq!((keyspace.revision, keyspace.head, keyspace.at), (head.revision, head.hash, head.at));
    }
}

#[test]
fn every_byte_counts() {
    let sound = bytes(small().state());
    assert!(said(&sound).is_ok());
    for at in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at % 8);
        let error = said(&damaged).expect_err(&format!("a bit of byte {at} was turned"));
        if let BackupError::Damaged { offset, .. } = error {
            assert!(offset <= at as u64, "byte {at} is named as {offset}");
        }
    }
}

#[test]
fn no_end_is_taken_for_the_end() {
    let sound = bytes(small().state());
    for length in 0..sound.len() {
        match said(&sound[..length]) {
            Err(BackupError::Short { bytes, .. }) => assert_eq!(bytes, length as u64),
            Err(BackupError::NotOne { .. }) => assert!(length < 40, "cut at {length}"),
            other => panic!("cut at {length}: {other:?}"),
        }
    }
    for rubbish in [&b"\0"[..], b"rubbish", &sound] {
        let longer = [&sound[..], rubbish].concat();
        match said(&longer) {
            Err(BackupError::Damaged { offset, why, .. }) => {
                assert_eq!((offset, why.as_str()), (sound.len() as u64, "something was added behind its end"));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn other_files_and_later_formats_are_refused_by_name() {
    let sound = bytes(small().state());
    for other in [&b""[..], b"netstate data\nformat 1\n", b"netstate backup\nformat one\n"] {
        assert!(matches!(said(other), Err(BackupError::NotOne { .. })));
    }
    let text = b"netstate backup\nformat 1\n";
    assert_eq!(&sound[..text.len()], text);
    let newer = [b"netstate backup\nformat 2\n", &sound[text.len()..]].concat();
    let error = said(&newer).unwrap_err().to_string();
    assert!(
        error.contains("has format 2, and this version knows formats up to 1; use the version of netstate"),
        "{error}"
    );
}

/// A file whose checksums are all right, but whose content no store has: each record is looked at, too.
#[test]
fn a_forged_file_is_found_out() {
    let (store, dir) = (small(), tempfile::tempdir().unwrap());
    let file = save(store.state(), dir.path());
    assert_eq!(sound(&file).records, 26);
    // A record of the chain taken out of the database, which `Backup` copies as it is.
    let of_chain = crate::state::keys::chain(G0, 0, kv_core::Revision::new(4));
    let mut batch = rocksdb::WriteBatch::default();
    batch.delete(&of_chain);
    store.state().database().write(batch, &crate::state::apply::unlogged()).unwrap();
    let error = said(&bytes(store.state())).unwrap_err().to_string();
    assert!(error.contains("a: found r5 where r4 belongs"), "{error}");
}
