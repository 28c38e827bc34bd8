use std::{
    future::Future,
    pin::pin,
    sync::{
        Condvar, Mutex as StdMutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use rocksdb::Cache;
use tempfile::TempDir;

use super::*;
use crate::testkit::{G0, G1, child_dir, run_child};

const PATIENCE: Duration = Duration::from_secs(30);

/// A disk that counts, can be held, and can fail.
#[derive(Default)]
struct Disk {
    writes: AtomicUsize,
    syncs: AtomicUsize,
    failing: AtomicBool,
    held: StdMutex<bool>,
    changed: Condvar,
}

impl Disk {
    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.changed.notify_all();
    }

    fn wait_for_writes(&self, count: usize) {
        let reached = |held: &mut bool| *held && self.writes.load(Ordering::SeqCst) < count;
        let (_held, timeout) = self.changed.wait_timeout_while(self.held.lock().unwrap(), PATIENCE, reached).unwrap();
        assert!(!timeout.timed_out(), "{} writes started, not {count}", self.writes.load(Ordering::SeqCst));
    }

    fn write(self: &Arc<Self>) -> Write {
        let disk = self.clone();
        let mut real = writer::to_disk();
        Box::new(move |database, batch, sync| {
            {
                let held = disk.held.lock().unwrap();
                disk.writes.fetch_add(1, Ordering::SeqCst);
                disk.changed.notify_all();
                drop(disk.changed.wait_while(held, |held| *held).unwrap());
            }
            if disk.failing.load(Ordering::SeqCst) {
                let source = Arc::new(std::io::Error::from(std::io::ErrorKind::StorageFull));
                return Err(StoreError::NoSpace { dir: "/data/raft-log".into(), source });
            }
            disk.syncs.fetch_add(usize::from(sync), Ordering::SeqCst);
            real(database, batch, sync)
        })
    }
}

struct Bench {
    dir: TempDir,
    disk: Arc<Disk>,
    options: Options,
}

impl Bench {
    fn new() -> Self {
        let options = Options { log_cache_bytes_per_group: 8 << 10, ..Options::default() };
        Bench { dir: tempfile::tempdir().unwrap(), disk: Arc::default(), options }
    }

    fn open(&self) -> RaftLog {
        let rocks = self.options.log(&Cache::new_lru_cache(1 << 20), true);
        RaftLog::open_with(self.dir.path(), &rocks, 2, &self.options, self.disk.write()).unwrap()
    }
}

type Told = mpsc::Receiver<Result<(), StoreError>>;

fn done() -> (Done, Told) {
    let (tell, told) = mpsc::channel();
    (Box::new(move |result| tell.send(result).unwrap()), told)
}

fn told(told: &Told) -> Result<(), StoreError> {
    told.recv_timeout(PATIENCE).expect("told in time")
}

fn now<F: Future>(future: F) -> F::Output {
    match poll_once(pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn entries(indexes: std::ops::Range<u64>) -> Vec<(u64, Bytes)> {
    indexes.map(|index| (index, Bytes::from(format!("entry {index} {}", "x".repeat(1000))))).collect()
}

fn append(log: &RaftLog, group: GroupId, indexes: std::ops::Range<u64>) -> Told {
    let (done, told) = done();
    now(log.append(group, entries(indexes), done));
    told
}

fn truncate(log: &RaftLog, group: GroupId, last_kept: Option<u64>) -> Told {
    let (done, told) = done();
    now(log.truncate_after(group, last_kept, done));
    told
}

fn purge(log: &RaftLog, group: GroupId, index: u64) -> Told {
    let (done, told) = done();
    now(log.purge_upto(group, index, format!("id {index}").into(), done));
    told
}

fn all(log: &RaftLog, group: GroupId) -> Vec<u64> {
    let Some(mut from) = log.bounds(group).unwrap().first else { return Vec::new() };
    let mut indexes = Vec::new();
    loop {
        let page = log.read(group, from, u64::MAX, 5_000).unwrap();
        let Some((last, _)) = page.last() else { return indexes };
        from = last + 1;
        for (index, bytes) in page {
            assert!(bytes.starts_with(format!("entry {index} ").as_bytes()));
            indexes.push(index);
        }
    }
}

/// Entries can be read before they are written, and all that queues up during one sync shares the next.
#[test]
fn group_commit() {
    let bench = Bench::new();
    let log = bench.open();
    bench.disk.hold(true);
    let first = append(&log, G0, 1..2);
    bench.disk.wait_for_writes(1);
    let rest: Vec<_> = (2..52).flat_map(|at| [append(&log, G0, at..at + 1), append(&log, G1, at..at + 1)]).collect();
    assert_eq!(all(&log, G0), (1..52).collect::<Vec<_>>());
    assert_eq!(all(&log, G1), (2..52).collect::<Vec<_>>());
    assert!(first.try_recv().is_err(), "told before the sync");
    bench.disk.hold(false);
    for waiting in rest.iter().chain([&first]) {
        told(waiting).unwrap();
    }
    assert_eq!(bench.disk.syncs.load(Ordering::SeqCst), 2, "for 101 appends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_appenders_share_syncs() {
    let bench = Bench::new();
    let log = bench.open();
    let appender = |group: GroupId| {
        let log = log.clone();
        async move {
            for index in 1..200 {
                let (tell, told) = tokio::sync::oneshot::channel();
                // Nobody waits for two of three.
                let done: Done = Box::new(move |result| drop(tell.send(result)));
                log.append(group, entries(index..index + 1), done).await;
                // Three are on their way at a time, as openraft does it.
                if index % 3 == 0 {
                    told.await.unwrap().unwrap();
                }
            }
        }
    };
    let both = tokio::join!(tokio::spawn(appender(G0)), tokio::spawn(appender(G1)));
    both.0.and(both.1).unwrap();
    drop(log);
    assert!(bench.disk.syncs.load(Ordering::SeqCst) < 398);
    let log = bench.open();
    assert_eq!(all(&log, G0), (1..200).collect::<Vec<_>>());
    assert_eq!(all(&log, G1), (1..200).collect::<Vec<_>>());
}

#[test]
fn truncated_and_purged_entries_are_gone_now_and_later() {
    let bench = Bench::new();
    let log = bench.open();
    let waiting = [
        append(&log, G0, 1..31),
        append(&log, G1, 5..8),
        truncate(&log, G0, Some(20)),
        append(&log, G0, 21..24),
        purge(&log, G0, 4),
        truncate(&log, G1, None),
    ];
    let check = |log: &RaftLog| {
        assert_eq!(all(log, G0), (5..24).collect::<Vec<_>>());
        let bounds = log.bounds(G0).unwrap();
        assert_eq!((bounds.purged.as_deref(), bounds.first), (Some(&b"id 4"[..]), Some(5)));
        assert_eq!(bounds.last, entries(23..24).pop());
        assert_eq!(log.bounds(G1).unwrap(), LogBounds::default());
        assert_eq!(log.read(G0, 4, 9, 100).unwrap(), [], "nothing in the place of what is gone");
        assert_eq!(log.read(G0, 30, 40, 100).unwrap(), []);
    };
    check(&log);
    for waiting in &waiting {
        told(waiting).unwrap();
    }
    check(&log);
    drop(log);
    let log = bench.open();
    check(&log);
    // A snapshot takes the place of everything, and the log goes on behind it.
    told(&purge(&log, G0, 100)).unwrap();
    assert_eq!(log.bounds(G0).unwrap(), LogBounds { purged: Some("id 100".into()), first: None, last: None });
    told(&append(&log, G0, 101..103)).unwrap();
    assert!(matches!(told(&append(&log, G0, 104..105)), Err(StoreError::OutOfOrder { found: 104, .. })));
    drop(log);
    assert_eq!(all(&bench.open(), G0), [101, 102]);
}

#[test]
fn votes_and_committed_positions_stay() {
    let bench = Bench::new();
    let log = bench.open();
    for vote in ["first", "second"] {
        let (done, saved) = done();
        now(log.save_vote(G1, vote.into(), done));
        told(&saved).unwrap();
        assert_eq!(log.vote(G1).unwrap().unwrap(), vote);
    }
    let before = bench.disk.syncs.load(Ordering::SeqCst);
    log.save_committed(G1, "far".into());
    log.save_committed(G1, "farther".into());
    assert_eq!(log.committed(G1).unwrap().unwrap(), "farther");
    drop(log);
    assert_eq!(bench.disk.syncs.load(Ordering::SeqCst), before, "a committed position needs no sync");
    let log = bench.open();
    assert_eq!((log.vote(G0).unwrap(), log.committed(G0).unwrap()), (None, None));
    assert_eq!(
        (log.vote(G1).unwrap().unwrap(), log.committed(G1).unwrap().unwrap()),
        ("second".into(), "farther".into())
    );
    // Alone it is written too, without anybody closing the log.
    bench.disk.hold(true);
    let writes = bench.disk.writes.load(Ordering::SeqCst);
    log.save_committed(G1, "farthest".into());
    bench.disk.wait_for_writes(writes + 1);
    bench.disk.hold(false);
}

#[test]
fn after_a_failed_write_nothing_is_written() {
    let bench = Bench::new();
    let log = bench.open();
    told(&append(&log, G0, 1..3)).unwrap();
    bench.disk.hold(true);
    let failing = append(&log, G0, 3..4);
    bench.disk.wait_for_writes(2);
    bench.disk.failing.store(true, Ordering::SeqCst);
    let behind = append(&log, G1, 1..2);
    bench.disk.hold(false);
    let error = told(&failing).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    assert!(error.to_string().contains("/data/raft-log: the disk is full; free some space"), "{error}");
    bench.disk.failing.store(false, Ordering::SeqCst);
    for refused in [&behind, &append(&log, G1, 2..3), &truncate(&log, G0, None), &purge(&log, G0, 1)] {
        let error = told(refused).unwrap_err();
        assert!(matches!(error, StoreError::Poisoned { .. }), "{error}");
        assert!(error.to_string().contains("the disk is full"), "{error}");
    }
    assert_eq!(bench.disk.writes.load(Ordering::SeqCst), 2, "and never tried again");
    drop(log);
    let log = bench.open();
    assert_eq!((all(&log, G0), all(&log, G1)), (vec![1, 2], vec![]));
}

#[test]
fn memory_is_bounded() {
    let mut bench = Bench::new();
    bench.options.log_queue_bytes = 64 << 10;
    let log = bench.open();
    for at in (1..500).step_by(10) {
        told(&append(&log, G0, at..at + 10)).unwrap();
    }
    let cached = log.0.shared.tail(G0).lock().cache_bytes();
    assert!(cached <= 8 << 10, "{cached} bytes cached");
    assert_eq!(all(&log, G0), (1..501).collect::<Vec<_>>(), "the others are read from disk");
    assert_eq!(log.read(G0, 1, 400, 2_500).unwrap().len(), 2);
    assert_eq!(log.read(G0, 499, 501, 1).unwrap().len(), 1, "one at least");

    bench.disk.hold(true);
    let mut waiting = vec![append(&log, G1, 1..2)];
    let full = (2..200).find_map(|at| {
        let (done, told) = done();
        let mut pushing = Box::pin(log.append(G1, entries(at..at + 1), done));
        match poll_once(pushing.as_mut()) {
            Poll::Ready(()) => {
                waiting.push(told);
                None
            }
            Poll::Pending => Some((pushing, told)),
        }
    });
    let (mut pushing, last) = full.expect("200 KB do not fit in 64");
    bench.disk.hold(false);
    for waiting in &waiting {
        told(waiting).unwrap();
    }
    while poll_once(pushing.as_mut()).is_pending() {
        std::thread::yield_now();
    }
    told(&last).unwrap();
}

/// What was acknowledged before the process died without a word is there afterwards.
#[test]
fn acknowledged_entries_survive_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let status = run_child("log::tests::crash", dir.path());
    assert!(!status.success() && status.code().is_none(), "it aborts: {status}");
    let acknowledged: u64 = std::fs::read_to_string(dir.path().join("acknowledged")).unwrap().parse().unwrap();
    let rocks = Options::default().log(&Cache::new_lru_cache(1 << 20), false);
    let log = RaftLog::open(&dir.path().join("log"), &rocks, 2, &Options::default()).unwrap();
    assert_eq!(log.vote(G0).unwrap().unwrap(), "the vote");
    let found = all(&log, G0);
    assert_eq!(acknowledged, 60);
    assert_eq!(found[..60], (1..61).collect::<Vec<_>>());
}

#[test]
#[ignore = "run by acknowledged_entries_survive_a_crash, in a process of its own"]
fn crash() {
    let dir = child_dir();
    let rocks = Options::default().log(&Cache::new_lru_cache(1 << 20), true);
    let log = RaftLog::open(&dir.join("log"), &rocks, 2, &Options::default()).unwrap();
    let (done, saved) = done();
    now(log.save_vote(G0, "the vote".into(), done));
    told(&saved).unwrap();
    for at in (1..61).step_by(3) {
        told(&append(&log, G0, at..at + 3)).unwrap();
    }
    std::fs::write(dir.join("acknowledged"), "60").unwrap();
    let _in_flight = append(&log, G0, 61..64);
    std::process::abort();
}
