//! What format 1 looks like: `testdata/backup-1`. Today's code must open it, and write the same.
//!
//! `UPDATE=1` rewrites it, which is right only before format 1 is released; afterwards a change takes a new format, a
//! fixture of its own, and code that still opens this one.

use std::{fs, path::Path};

use kv_core::{Effect, KeyRange, LeaseId, Revision};

use super::{RAISE, bytes, open_restored, restore_to, sound};
use crate::{
    Options, Store,
    state::backup::Point,
    testkit::{G0, G1, IDENTITY, apply, commit, keyspace, some_history, with_request},
};

pub(super) const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/backup-1");

#[test]
fn what_is_written_is_format_1() {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    some_history(store.state(), G0);
    let effects = vec![
        Effect::Grant { lease: LeaseId::new(0x1234).unwrap(), ttl: 60 },
        Effect::Record { key: "beside".into(), value: Some("value".into()) },
    ];
    let with_effects = kv_core::Commit { effects, ..commit("l", 0, &[(b"key", Some(b"value"))]) };
    apply(store.state(), G1, 1, vec![with_request(with_effects, 9)]);
    let written = bytes(store.state());
    if std::env::var_os("UPDATE").is_some() {
        fs::write(FILE, &written).unwrap();
    }
    assert!(written == fs::read(FILE).unwrap(), "the format has changed");
}

#[test]
fn format_1_opens() {
    let file = Path::new(FILE);
    let contents = sound(file);
    assert_eq!((contents.header.name.as_str(), contents.header.groups, contents.records), ("n1", 4, 14));
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("data");
    restore_to(file, &to, &Point::Latest).unwrap();
    let restored = open_restored(&to);
    let (state, name) = (restored.state(), keyspace("l"));
    assert_eq!(state.head(G1, &name).revision, Revision::new(1 + RAISE));
    assert_eq!(state.range(G1, &name, &KeyRange::All, None, 9).unwrap().kvs[0].state.value, "value");
    assert_eq!(state.beside(G1, &name, b"beside").unwrap(), Some("value".into()));
    assert_eq!(state.verify(G0).unwrap().records, 15);
}
