//! Tests of backups, against the stores that they were made of.

mod damage;
mod fixture;
mod fuzz;
mod random;
mod refusals;
mod restored;

use std::path::{Path, PathBuf};

use kv_core::{ClusterId, GroupId, NodeId, Timestamp};

use super::{Backup, Contents, Header, Placed, Point, Restore, RestoreError, Restored, restore, verify};
use crate::{Identity, Options, State, Store, testkit::IDENTITY};

/// Of the clusters that are restored here: another one, with as many groups.
pub(super) const RESTORED: Identity = Identity { cluster: ClusterId::new([9; 16]), node: NodeId::new(2), ..IDENTITY };

pub(super) const MADE_AT: Timestamp = Timestamp::from_micros(5_000);

pub(super) const RAISE: u64 = 1_000;

pub(super) fn header() -> Header {
    let (cluster, node) = (IDENTITY.cluster, IDENTITY.node);
    Header { cluster, node, name: "n1".into(), version: "0.1.0".into(), at: MADE_AT, groups: 0 }
}

pub(super) fn bytes(state: &State) -> Vec<u8> {
    let mut backup: Backup = state.backup(header()).unwrap();
    let mut file = Vec::new();
    while let Some(bytes) = backup.next_bytes().unwrap() {
        file.extend_from_slice(&bytes);
    }
    assert_eq!(backup.progress(), (IDENTITY.groups, IDENTITY.groups));
    file
}

pub(super) fn save(state: &State, dir: &Path) -> PathBuf {
    let file = dir.join("backup");
    std::fs::write(&file, bytes(state)).unwrap();
    file
}

pub(super) fn sound(file: &Path) -> Contents {
    verify(file, &mut |_| {}).unwrap()
}

/// What the layer above would say of a log that begins behind an entry.
pub(super) fn place(index: u64) -> Placed {
    Placed { log_id: format!("restored {index}").into(), membership: "founders".into() }
}

pub(super) fn restore_to(file: &Path, dir: &Path, point: &Point) -> Result<Restored, RestoreError> {
    let options = Options::default();
    let order =
        Restore { file, dir, identity: RESTORED, place: &place, raise: RAISE, point, forget: &[], options: &options };
    restore(&order, &sound(file), &mut |_| {})
}

pub(super) fn open_restored(dir: &Path) -> Store {
    Store::open(dir, &RESTORED, &Options::default()).unwrap()
}

pub(super) fn groups() -> impl Iterator<Item = GroupId> {
    (0..IDENTITY.groups).map(GroupId::new)
}
