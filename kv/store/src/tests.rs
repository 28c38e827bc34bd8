//! The data directory as a whole: whose it is, who has it, what is wrong with it, and what when it is full.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use kv_core::{ClusterId, NodeId};

use crate::{
    Identity, Mismatch, OpenError, Options, Store, StoreError,
    testkit::{G0, IDENTITY, child_dir, open, some_history},
};

fn refusal(dir: &Path, identity: &Identity) -> OpenError {
    Store::open(dir, identity, &Options::default()).err().expect("refused")
}

/// A directory with some flushed history and some log.
fn used() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    some_history(store.state(), G0);
    store.state().flush().unwrap();
    for from in [1, 11] {
        append(&store, from..from + 10).unwrap();
    }
    dir
}

fn append(store: &Store, indexes: std::ops::Range<u64>) -> Result<(), StoreError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let entries = indexes.map(|index| (index, Bytes::from(vec![index as u8; 10_000]))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let done = Box::new(move |result| drop(tell.send(result)));
        store.log().append(G0, entries, done).await;
        told.await.unwrap()
    })
}

fn purge(store: &Store, index: u64) {
    let (tell, told) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let done = Box::new(move |result| drop(tell.send(result)));
        store.log().purge_upto(G0, index, "id".into(), done).await;
        told.await.unwrap().unwrap();
    });
}

#[test]
fn another_identity_is_refused_and_all_differences_told() {
    let dir = used();
    let other = Identity { cluster: ClusterId::new([8; 16]), node: NodeId::new(2), groups: 5 };
    let error = refusal(dir.path(), &other);
    let OpenError::Identity { mismatches, .. } = &error else { panic!("{error}") };
    let (found, expected) = (IDENTITY, other);
    assert_eq!(
        mismatches,
        &[
            Mismatch::Cluster { found: found.cluster, expected: expected.cluster },
            Mismatch::Node { found: found.node, expected: expected.node },
            Mismatch::Groups { found: found.groups, expected: expected.groups },
        ]
    );
    let text = error.to_string();
    for part in ["another cluster (0707", "it belongs to node n1, this is n2", "founded with 4 groups", "--data-dir"] {
        assert!(text.contains(part), "{text}");
    }
    let error = refusal(dir.path(), &Identity { node: NodeId::new(3), ..IDENTITY });
    assert!(!error.to_string().contains("another cluster"), "{error}");
    open(dir.path());
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let dir = used();
    let body = "netstate data\nformat 7\nsomething new\n";
    let text = format!("{body}crc32 {:08x}\n", crc32fast::hash(body.as_bytes()));
    fs::write(dir.path().join("IDENTITY"), text).unwrap();
    let error = refusal(dir.path(), &IDENTITY);
    let OpenError::Identity { mismatches, .. } = &error else { panic!("{error}") };
    assert_eq!(mismatches, &[Mismatch::Format { found: 7, known: 1 }]);
    assert!(error.to_string().contains("install a newer one"), "{error}");
}

#[test]
fn a_damaged_or_missing_identity_is_refused() {
    let dir = used();
    let file = dir.path().join("IDENTITY");
    let sound = fs::read_to_string(&file).unwrap();
    fs::write(&file, sound.replace("node 1", "node 2")).unwrap();
    let text = refusal(dir.path(), &IDENTITY).to_string();
    assert!(text.contains("IDENTITY: it does not match its checksum; the other replicas have it"), "{text}");
    fs::remove_file(&file).unwrap();
    let text = refusal(dir.path(), &IDENTITY).to_string();
    assert!(text.contains("IDENTITY: it is missing, but there is data"), "{text}");
    fs::write(&file, sound).unwrap();
    open(dir.path());
}

/// Founding writes the identity last; a start that was cut short before is begun again.
#[test]
fn an_interrupted_founding_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    fs::remove_file(dir.path().join("IDENTITY")).unwrap();
    fs::write(dir.path().join("IDENTITY.new"), "netstate da").unwrap();
    drop(open(dir.path()));
    open(dir.path());
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = refusal(dir.path(), &IDENTITY);
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use by another process; stop that one"), "{error}");
    drop(store);
    open(dir.path());
}

fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(part)).collect()
}

fn cut(path: &Path, keep: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(keep).unwrap();
}

/// Files that are cut or gone are named, and what to do about it is said.
#[test]
fn lost_files_are_refused_by_name() {
    type Damage = fn(&Path) -> String;
    let damages: [Damage; 7] = [
        |dir| {
            let table = files(&dir.join("state"), ".sst").pop().unwrap();
            cut(&table, fs::metadata(&table).unwrap().len() / 2);
            table.file_name().unwrap().to_str().unwrap().into()
        },
        |dir| {
            let table = files(&dir.join("state"), ".sst").pop().unwrap();
            fs::remove_file(&table).unwrap();
            table.file_name().unwrap().to_str().unwrap().into()
        },
        |dir| {
            let manifest = files(&dir.join("state"), "MANIFEST").pop().unwrap();
            cut(&manifest, 10);
            "state".into()
        },
        |dir| {
            let segment = files(&dir.join("raft-log"), ".seg").pop().unwrap();
            cut(&segment, 0);
            segment.file_name().unwrap().to_str().unwrap().into()
        },
        |dir| {
            let segment = files(&dir.join("raft-log"), ".seg").pop().unwrap();
            fs::remove_file(&segment).unwrap();
            "raft-log".into()
        },
        |dir| {
            fs::remove_dir_all(dir.join("raft-log")).unwrap();
            "raft-log".into()
        },
        |dir| {
            fs::remove_dir_all(dir.join("state")).unwrap();
            "state".into()
        },
    ];
    for damage in damages {
        let dir = used();
        let named = damage(dir.path());
        let error = refusal(dir.path(), &IDENTITY);
        let text = error.to_string();
        assert!(
            matches!(
                error,
                OpenError::State(StoreError::Damaged { .. }) | OpenError::Store(StoreError::Damaged { .. })
            ),
            "{text}"
        );
        assert!(text.contains(&named) && text.contains("`netstate cluster repair`"), "{named}: {text}");
    }
}

/// The log has let go of entries that the state says it has not applied: the state has lost files.
#[test]
fn a_state_behind_the_log_is_refused() {
    let dir = used();
    let store = open(dir.path());
    purge(&store, 13);
    drop(store);
    drop(open(dir.path()));
    let store = open(dir.path());
    purge(&store, 14);
    drop(store);
    let text = refusal(dir.path(), &IDENTITY).to_string();
    assert!(text.contains("it has applied entry 13, but the log starts behind entry 14"), "{text}");
}

/// On a disk that is full writes are refused with a message that says so, none of them is there afterwards, and with
/// room again everything acknowledged is.
#[test]
fn a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=24m none \"$1\" && exec \"$2\" --exact tests::fill --ignored --nocapture";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(dir.path()).arg(std::env::current_exe().unwrap());
    let Ok(output) = command.env("KV_STORE_TEST_DIR", dir.path()).output() else {
        eprintln!("skipped: there is no unshare command, which makes a small disk for this test");
        return;
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if ["unshare:", "mount:"].iter().any(|tool| err.contains(tool)) {
        eprintln!("skipped: mounting a small disk takes root: {err}");
        return;
    }
    assert!(output.status.success() && out.contains("1 passed"), "{out}{err}");
}

#[test]
#[ignore = "run by a_full_disk, in a process with a small disk"]
fn fill() {
    let dir = child_dir();
    let store = Store::open(&dir, &IDENTITY, &Options::default()).unwrap();
    let mut acknowledged = 0;
    let error = loop {
        match append(&store, acknowledged + 1..acknowledged + 11) {
            Ok(()) => acknowledged += 10,
            Err(error) => break error,
        }
        assert!(acknowledged < 10_000, "100 MB do not fit in 24");
    };
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    assert!(error.to_string().contains("the disk is full; free some space"), "{error}");
    let again = append(&store, acknowledged + 1..acknowledged + 2).unwrap_err();
    assert!(matches!(again, StoreError::Poisoned { .. }), "{again}");
    drop(store);

    // The same disk with room again. Nothing else than the log is large on it.
    let status = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&dir).status().unwrap();
    assert!(status.success());
    let store = Store::open(&dir, &IDENTITY, &Options::default()).unwrap();
    assert_eq!(store.log().bounds(G0).unwrap().last.unwrap().0, acknowledged);
    append(&store, acknowledged + 1..acknowledged + 2).unwrap();
}
