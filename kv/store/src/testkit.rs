//! What this crate's tests share.

use std::{
    path::Path,
    process::{Command, ExitStatus},
};

use bytes::Bytes;
use kv_core::{Batch, Change, ClusterId, Commit, GroupId, Keyspace, NodeId, RequestId, Revision, Timestamp};

use crate::{AppliedEntry, EntryToApply, Identity, Options, State, Store};

pub(crate) const IDENTITY: Identity = Identity { cluster: ClusterId::new([7; 16]), node: NodeId::new(1), groups: 4 };

pub(crate) const G0: GroupId = GroupId::new(0);
pub(crate) const G1: GroupId = GroupId::new(1);

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(dir, &IDENTITY, &Options::default()).unwrap()
}

pub(crate) fn keyspace(name: &str) -> Keyspace {
    Keyspace::new(name).unwrap()
}

/// A commit of puts and, where there is no value, removals.
pub(crate) fn commit(name: &str, base: u64, changes: &[(&[u8], Option<&[u8]>)]) -> Commit {
    let change = |(key, value): &(&[u8], Option<&[u8]>)| Change {
        key: Bytes::copy_from_slice(key),
        value: value.map(Bytes::copy_from_slice),
        lease: None,
    };
    Commit {
        keyspace: keyspace(name),
        base: Revision::new(base),
        at: Timestamp::from_micros(1_000 + i64::try_from(base).unwrap()),
        actor: "ann".into(),
        reason: "to see".into(),
        request: None,
        succeeded: true,
        changes: changes.iter().map(change).collect(),
        effects: Vec::new(),
    }
}

pub(crate) fn with_request(commit: Commit, request: u8) -> Commit {
    Commit { request: Some(RequestId::new([request; 16])), ..commit }
}

/// Applies commits as one entry. The log id is the index in decimal.
pub(crate) fn apply(state: &State, group: GroupId, index: u64, commits: Vec<Commit>) -> AppliedEntry {
    let batch = Batch { commits };
    let entry = EntryToApply { index, log_id: log_id(index), membership: None, batch: Some(&batch) };
    state.apply(group, &[entry]).unwrap().pop().unwrap()
}

pub(crate) fn log_id(index: u64) -> Bytes {
    index.to_string().into()
}

/// Ten revisions of `a` and three of `b`: puts, overwrites, removals, a key made anew, keys with zero bytes.
pub(crate) fn some_history(state: &State, group: GroupId) {
    let mut index = 0;
    let mut next = |commit: Commit| {
        index += 1;
        apply(state, group, index, vec![commit]);
    };
    for base in 0..10u64 {
        let value = vec![base as u8; 20];
        let put: (&[u8], Option<&[u8]>) = (b"churn", Some(&value));
        let other: (&[u8], Option<&[u8]>) = match base % 3 {
            0 => (b"fl\0ap", Some(b"up")),
            1 => (b"fl\0ap", None),
            _ => (b"\0", Some(b"")),
        };
        next(with_request(commit("a", base, &[put, other]), base as u8));
    }
    for base in 0..3u64 {
        next(commit("b", base, &[(&base.to_be_bytes(), Some(b"v"))]));
    }
}

/// Runs one ignored test of this binary in a process of its own, with a directory to work in.
pub(crate) fn run_child(test: &str, dir: &Path) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(CHILD_DIR, dir);
    command.output().unwrap().status
}

/// The directory given to a child.
pub(crate) fn child_dir() -> std::path::PathBuf {
    std::env::var_os(CHILD_DIR).expect("run by another test").into()
}

const CHILD_DIR: &str = "KV_STORE_TEST_DIR";
