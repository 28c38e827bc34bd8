//! What format 1 looks like on disk, byte by byte: `testdata/format-1/`.
//!
//! Today's code must open it, and write the same. `UPDATE=1` rewrites it, which is right only before format 1 is released;
//! afterwards a change takes a new format, a fixture of its own, and code that still opens this one.

use std::{fmt::Write, fs, path::Path};

use bytes::Bytes;
use kv_core::{KeyRange, MoveId, Phase, RequestId, Revision, Standing};
use rocksdb::{DB, IteratorMode};

use crate::{
    OpenError, Options, Store, StoreError,
    state::{KeyspaceRecord, keys},
    testkit::{G0, IDENTITY, apply, commit, keyspace, log_id, open, with_request},
};

const RECORDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/format-1/records.txt");
const MOVED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/format-2/keyspaces.txt");
const SEGMENT: &str = "00000001.seg";
const PAGE_BYTES: usize = 4096;
const IDENTITY_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/format-1/IDENTITY");

/// One line of the fixture: the database (or `chunk`, of a snapshot; or `raft-log`, of a segment), the key (or where in the
/// file a page is), the record (or the page without the zeros at its end).
type Line = (String, Vec<u8>, Vec<u8>);

/// At least one record of every kind.
fn write_history(dir: &Path) -> Vec<Bytes> {
    let store = open(dir);
    apply(store.state(), G0, 1, vec![with_request(commit("k", 0, &[(b"a\0b", Some(b"1"))]), 7)]);
    apply(store.state(), G0, 2, vec![commit("k", 1, &[(b"a\0b", Some(b"2")), (b"c", Some(b"3"))])]);
    apply(store.state(), G0, 3, vec![commit("k", 2, &[(b"c", None)])]);
    let lease = kv_core::LeaseId::new(0x1234).unwrap();
    let granted = kv_core::Effect::Grant { lease, ttl: 60 };
    let beside = kv_core::Effect::Record { key: "beside".into(), value: Some("value".into()) };
    let attached = kv_core::Change { lease: Some(lease), ..kv_core::Change::put("leased", "4") };
    let leased = kv_core::Commit { changes: vec![attached], effects: vec![granted, beside], ..commit("l", 0, &[]) };
    apply(store.state(), G0, 4, vec![leased]);
    let entry = crate::EntryToApply { index: 5, log_id: log_id(5), membership: Some("members".into()), batch: None };
    store.state().apply(G0, &[entry]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let log = store.log();
    let done = || {
        let (tell, told) = tokio::sync::oneshot::channel();
        (Box::new(|result: Result<(), StoreError>| drop(tell.send(result))) as crate::Done, told)
    };
    // One after the other, so that each is a batch of its own.
    runtime.block_on(async {
        let entries = (1..6).map(|index| (index, format!("entry {index}").into())).collect();
        let (tell, told) = done();
        log.append(G0, entries, tell).await;
        told.await.unwrap().unwrap();
        let (tell, told) = done();
        log.save_vote(G0, "vote".into(), tell).await;
        told.await.unwrap().unwrap();
        log.save_committed(G0, "committed".into());
        let (tell, told) = done();
        log.purge_upto(G0, 2, "purged".into(), tell).await;
        told.await.unwrap().unwrap();
    });
    let mut snapshot = store.state().snapshot(G0).unwrap();
    std::iter::from_fn(|| snapshot.next_chunk(1 << 20).unwrap()).collect()
}

fn dump(dir: &Path, chunks: &[Bytes]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut text = String::new();
    let raw = DB::open_default(dir.join("state")).unwrap();
    for item in raw.iterator(IteratorMode::Start) {
        let (key, record) = item.unwrap();
        writeln!(text, "# {}\nstate {} {}", keys::render(&key), hex(&key), hex(&record)).unwrap();
    }
    let segment = fs::read(dir.join("raft-log").join(SEGMENT)).unwrap();
    for (at, page) in segment.chunks(PAGE_BYTES).enumerate() {
        let Some(end) = page.iter().rposition(|byte| *byte != 0) else { continue };
        let offset = hex(&u32::try_from(at * PAGE_BYTES).unwrap().to_be_bytes());
        writeln!(text, "# a page of a segment of the log\nraft-log {offset} {}", hex(&page[..=end])).unwrap();
    }
    for chunk in chunks {
        writeln!(text, "# a part of a snapshot\nchunk - {}", hex(chunk)).unwrap();
    }
    text
}

pub(super) fn fixture() -> Vec<Line> {
    let bytes = |hex: &str| -> Vec<u8> {
        let digits = hex.as_bytes().chunks_exact(2);
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    };
    let text = fs::read_to_string(RECORDS).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parts = lines.map(|line| line.split(' ').collect::<Vec<_>>());
    parts.map(|parts| (parts[0].into(), bytes(parts[1].trim_matches('-')), bytes(parts[2]))).collect()
}

/// A data directory with the fixture's records, of which some may be exchanged.
fn restored(exchange: impl Fn(&[u8], Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(IDENTITY_FILE, dir.path().join("IDENTITY")).unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    let raw = DB::open(&options, dir.path().join("state")).unwrap();
    let mut segment = vec![0; usize::try_from(Options::default().log_segment_bytes).unwrap()];
    for (of, key, record) in fixture().into_iter().filter(|(of, ..)| of != "chunk") {
        let record = exchange(&key, record);
        if of == "state" {
            raw.put(key, record).unwrap();
        } else {
            let offset = u32::from_be_bytes(key.try_into().unwrap()) as usize;
            segment[offset..offset + record.len()].copy_from_slice(&record);
        }
    }
    raw.flush().unwrap();
    fs::create_dir(dir.path().join("raft-log")).unwrap();
    fs::write(dir.path().join("raft-log").join(SEGMENT), segment).unwrap();
    dir
}

#[test]
fn what_is_written_is_format_1() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = write_history(dir.path());
    let (records, identity) = (dump(dir.path(), &chunks), fs::read(dir.path().join("IDENTITY")).unwrap());
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(Path::new(RECORDS).parent().unwrap()).unwrap();
        fs::write(RECORDS, &records).unwrap();
        fs::write(IDENTITY_FILE, &identity).unwrap();
    }
    assert_eq!(records, fs::read_to_string(RECORDS).unwrap());
    assert_eq!(identity, fs::read(IDENTITY_FILE).unwrap());
    for kind in 0..=9 {
        assert!(fixture().iter().any(|(of, key, _)| of == "state" && key[2] == kind), "no record of kind {kind}");
    }
}

fn check_state(store: &Store) {
    let (state, name) = (store.state(), keyspace("k"));
    assert_eq!(state.verify(G0).unwrap().records, 4);
    let applied = state.applied(G0).unwrap().unwrap();
    assert_eq!((applied.log_id, applied.membership), (log_id(5), Some("members".into())));
    for (at, key, value) in [(1, "a\0b", Some("1")), (2, "a\0b", Some("2")), (2, "c", Some("3")), (3, "c", None)] {
        let found = state.get(G0, &name, key.as_bytes(), Some(Revision::new(at))).unwrap();
        assert_eq!(found.map(|found| found.value), value.map(Bytes::from), "{key} at {at}");
    }
    assert_eq!(state.range(G0, &name, &KeyRange::All, None, 10).unwrap().kvs.len(), 1);
    assert!(state.outcome(G0, &name, &RequestId::new([7; 16])).unwrap().is_some());
    let leased = keyspace("l");
    let lease = kv_core::LeaseId::new(0x1234).unwrap();
    assert_eq!(state.lease(G0, &leased, lease).unwrap().ttl, 60);
    assert_eq!(state.attached(G0, &leased, lease, 9).unwrap(), ["leased"]);
    assert_eq!(state.beside(G0, &leased, b"beside").unwrap(), Some("value".into()));
}

#[test]
fn format_1_opens() {
    let store = open(restored(|_, record| record).path());
    check_state(&store);
    let log = store.log();
    assert_eq!(log.vote(G0).unwrap().unwrap(), "vote");
    assert_eq!(log.committed(G0).unwrap().unwrap(), "committed");
    let bounds = log.bounds(G0).unwrap();
    assert_eq!((bounds.purged.unwrap(), bounds.first), ("purged".into(), Some(3)));
    assert_eq!(log.read(G0, 3, 9, 1000).unwrap().last(), Some(&(5, "entry 5".into())));
}

#[test]
fn a_snapshot_of_format_1_installs() {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    let mut receiver = store.state().receive(G0).unwrap();
    for (_, _, chunk) in fixture().into_iter().filter(|(of, ..)| of == "chunk") {
        receiver.chunk(&chunk).unwrap();
    }
    store.state().install(receiver.finish().unwrap()).unwrap();
    check_state(&store);
}

/// A record of a version to come is told from damage, wherever it is met.
#[test]
fn format_99_is_refused_by_name() {
    let newer = |key: &[u8], mut record: Vec<u8>| {
        if record.starts_with(b"NSRL") {
            record[4] = 99;
            let crc = crc32fast::hash(&record[..33]);
            record[33..37].copy_from_slice(&crc.to_le_bytes());
            return record;
        }
        record[0] = 99;
        let crc = crc32fast::hash(&[&[99], key, &record[5..]].concat());
        record[1..5].copy_from_slice(&crc.to_le_bytes());
        record
    };
    let check = |error: StoreError| {
        let text = error.to_string();
        let newest = if text.contains("the head of keyspace") { 2 } else { 1 };
        assert!(matches!(error, StoreError::NewerFormat { found: 99, known, .. } if known == newest), "{text}");
        let expected = format!("has format 99, and this version knows formats up to {newest}; start the version of");
        assert!(text.contains(&expected), "{text}");
    };
    for (database, at_open, _) in fixture().into_iter().filter(|(of, ..)| of != "chunk") {
        let dir = restored(|key, record| if key == at_open { newer(key, record) } else { record });
        let opened = Store::open(dir.path(), &IDENTITY, &Options::default());
        let store = match opened {
            Err(OpenError::Store(error)) => {
                check(error);
                continue;
            }
            Err(other) => panic!("{other}"),
            Ok(store) => store,
        };
        let (state, name) = (store.state(), keyspace("k"));
        assert_eq!(database, "state", "a segment is read when it is opened");
        let met = match at_open[2] {
            keys::REQUEST => state.outcome(G0, &name, &RequestId::new([7; 16])).map(drop),
            // Only a snapshot looks into these: of an expiry and of a removal's place the key says it all.
            keys::EXPIRY | keys::ATTACHED => state.snapshot(G0).unwrap().next_chunk(1 << 20).map(drop),
            _ => match state.verify(G0) {
                Err(crate::VerifyError::Store(error)) => Err(error),
                other => panic!("{other:?}"),
            },
        };
        // An entry behind one that cannot be read is not looked at.
        check(met.expect_err(&keys::render(&at_open)));
    }
}

/// A keyspace that took part in a move: what format 1 has, and how it stands. Byte by byte, as everything else here.
#[test]
fn keyspaces_that_moved_are_format_2() {
    let head = kv_core::Head { revision: Revision::new(300), ..kv_core::Head::default() };
    let to = kv_core::GroupId::new(3);
    let mark = Some(kv_core::Mark { revision: Revision::new(5), at: kv_core::Timestamp::from_micros(6) });
    let arriving = Phase::Arriving { from: to, epoch: 1, number: 2, tip: head, mark };
    let phases = [Phase::Live, Phase::Sealed { to }, arriving, Phase::Gone { to }, Phase::Absent { at: to }];
    let mut text = String::new();
    for phase in phases {
        let standing = Standing { phase, last: MoveId::new(7) };
        let record = KeyspaceRecord { number: 1, head, keys: 2, bytes: 3, standing, ..KeyspaceRecord::default() };
        let sealed = record.seal(b"key");
        assert_eq!(KeyspaceRecord::open(b"key", &sealed).unwrap(), record);
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{hex}").unwrap();
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(Path::new(MOVED).parent().unwrap()).unwrap();
        fs::write(MOVED, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(MOVED).unwrap());
}
