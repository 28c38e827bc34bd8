//! What is not restored, and what is left behind then: nothing.

use std::{collections::BTreeMap, fs};

use kv_core::{Effect, Revision, Timestamp};

use super::{RAISE, RESTORED, place, restore_to, save, sound};
use crate::{
    OpenError, Options, Store,
    state::backup::{Point, Restore, RestoreError, restore},
    testkit::{G0, IDENTITY, apply, commit, keyspace, some_history},
};

fn with_history() -> Store {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    some_history(store.state(), G0);
    store
}

#[test]
fn a_directory_with_something_in_it_is_left_alone() {
    let (store, dir) = (with_history(), tempfile::tempdir().unwrap());
    let (file, to) = (save(store.state(), dir.path()), dir.path().join("data"));
    fs::create_dir(&to).unwrap();
    restore_to(&file, &to, &Point::Latest).unwrap();
    let again = restore_to(&file, &to, &Point::Latest);
    assert!(matches!(again, Err(RestoreError::NotEmpty { .. })));
    assert!(to.join("IDENTITY").exists());
}

#[test]
fn a_damaged_backup_leaves_nothing_behind() {
    let (store, dir) = (with_history(), tempfile::tempdir().unwrap());
    let (file, to) = (save(store.state(), dir.path()), dir.path().join("data"));
    let contents = sound(&file);
    // It changes between being verified and being restored.
    let mut content = fs::read(&file).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 4;
    fs::write(&file, content).unwrap();
    let (options, point) = (Options::default(), Point::Latest);
    let order = |dir| Restore {
        file: &file,
        dir,
        identity: RESTORED,
        place: &place,
        raise: RAISE,
        point: &point,
        forget: &[],
        options: &options,
    };
    let error = restore(&order(&to), &contents, &mut |_| {}).unwrap_err();
    assert!(matches!(error, RestoreError::Backup(_)), "{error}");
    assert!(!to.exists());
    fs::create_dir(&to).unwrap();
    restore(&order(&to), &contents, &mut |_| {}).unwrap_err();
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
}

/// As a restore leaves it that is killed before its end.
#[test]
fn a_directory_without_its_identity_is_not_opened() {
    let (store, dir) = (with_history(), tempfile::tempdir().unwrap());
    let (file, to) = (save(store.state(), dir.path()), dir.path().join("data"));
    restore_to(&file, &to, &Point::Latest).unwrap();
    fs::remove_file(to.join("IDENTITY")).unwrap();
    let opened = Store::open(&to, &RESTORED, &Options::default());
    assert!(matches!(opened, Err(OpenError::Damaged { .. })));
}

#[test]
fn only_the_new_cluster_opens_it() {
    let (store, dir) = (with_history(), tempfile::tempdir().unwrap());
    let (file, to) = (save(store.state(), dir.path()), dir.path().join("data"));
    restore_to(&file, &to, &Point::Latest).unwrap();
    assert!(matches!(Store::open(&to, &IDENTITY, &Options::default()), Err(OpenError::Identity { .. })));
}

#[test]
fn revisions_that_would_not_fit_are_refused() {
    let (store, dir) = (with_history(), tempfile::tempdir().unwrap());
    let (file, to) = (save(store.state(), dir.path()), dir.path().join("data"));
    let (options, point) = (Options::default(), Point::Latest);
    let order = Restore {
        file: &file,
        dir: &to,
        identity: RESTORED,
        place: &place,
        raise: u64::MAX,
        point: &point,
        forget: &[],
        options: &options,
    };
    let error = restore(&order, &sound(&file), &mut |_| {}).unwrap_err();
    assert!(matches!(error, RestoreError::Raise { .. }), "{error}");
    assert!(!to.exists());
}

/// Revisions 1 to 10 of `a` and 1 to 3 of `b`; everything up to 6 of `a` is compacted.
#[test]
fn keyspaces_without_the_history_are_refused_by_name() {
    let (store, dir) = (with_history(), tempfile::tempdir().unwrap());
    let compact = Effect::Compact { to: Revision::new(6), records: false };
    let compacted = kv_core::Commit { effects: vec![compact], ..commit("a", 10, &[(b"k", Some(b"v"))]) };
    apply(store.state(), G0, 100, vec![compacted]);
    let file = save(store.state(), dir.path());
    let attempt = |point: &Point| {
        let to = dir.path().join("data");
        let done = restore_to(&file, &to, point);
        match &done {
            Ok(_) => fs::remove_dir_all(&to).unwrap(),
            Err(_) => assert!(!to.exists()),
        }
        done.map_err(|error| error.to_string())
    };
    // Base n has the time 1,000 + n.
    let at = |micros| Point::Time(Timestamp::from_micros(micros));
    let text = "nothing was restored: a is compacted and goes back no further than r6 (1970-01-01T00:00:00.001005Z)";
    assert_eq!(attempt(&at(1_004)).unwrap_err(), text);
    let restored = attempt(&at(1_005)).unwrap();
    assert_eq!(restored.keyspaces[0].revision, Revision::new(6));
    assert_eq!(restored.keyspaces[1].revision, Revision::new(3), "it had ended before");
    // Before its first commit it was empty: nothing that was compacted is needed.
    assert_eq!(attempt(&at(5)).unwrap().keyspaces[0].revision, Revision::ZERO);
    let named = |name: &str, revision| Point::Revisions(BTreeMap::from([(keyspace(name), Revision::new(revision))]));
    assert!(attempt(&named("a", 5)).unwrap_err().contains("a is compacted and goes back no further than r6"));
    assert!(attempt(&named("b", 4)).unwrap_err().contains("b ends in the backup with r3"));
    assert_eq!(attempt(&named("c", 4)).unwrap_err(), "nothing was restored: the backup has no keyspace c");
    let restored = attempt(&named("b", 2)).unwrap();
    assert_eq!(restored.keyspaces[0].revision, Revision::new(11));
    assert_eq!(restored.keyspaces[1].revision, Revision::new(2));
}
