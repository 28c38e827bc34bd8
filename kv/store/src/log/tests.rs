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

use tempfile::TempDir;

use super::*;
use crate::testkit::{G0, G1, child_dir, run_child};

const PATIENCE: Duration = Duration::from_secs(30);

/// A disk that counts, can be held, and can fail or be slow.
#[derive(Default)]
struct TestDisk {
    writes: AtomicUsize,
    failing: AtomicBool,
    slow: AtomicBool,
    /// Who wrote last.
    writer: StdMutex<Option<thread::ThreadId>>,
    held: StdMutex<bool>,
    changed: Condvar,
}

impl TestDisk {
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
        let mut real = segments::to_disk();
        Box::new(move |file, batch, offset| {
            {
                let held = disk.held.lock().unwrap();
                disk.writes.fetch_add(1, Ordering::SeqCst);
                *disk.writer.lock().unwrap() = Some(thread::current().id());
                disk.changed.notify_all();
                drop(disk.changed.wait_while(held, |held| *held).unwrap());
            }
            if disk.failing.load(Ordering::SeqCst) {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            real(file, batch, offset)?;
            Ok(if disk.slow.load(Ordering::SeqCst) { Duration::from_millis(2) } else { Duration::ZERO })
        })
    }
}

struct Bench {
    dir: TempDir,
    disk: Arc<TestDisk>,
    options: Options,
}

impl Bench {
    fn new() -> Self {
        let options = Options { log_cache_bytes_per_group: 8 << 10, log_segment_bytes: 64 << 10, ..Options::default() };
        Bench { dir: tempfile::tempdir().unwrap(), disk: Arc::default(), options }
    }

    fn open(&self) -> RaftLog {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<RaftLog, StoreError> {
        RaftLog::open_with(self.dir.path(), true, 2, &self.options, self.disk.write(), None)
    }

    /// The segments' files, oldest first.
    fn segments(&self) -> Vec<std::path::PathBuf> {
        let paths = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|ending| ending == "seg")).collect();
        paths.sort();
        paths
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
    assert_eq!(bench.disk.writes.load(Ordering::SeqCst), 2, "for 101 appends");
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
    assert!(bench.disk.writes.load(Ordering::SeqCst) < 398);
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
    let before = bench.disk.writes.load(Ordering::SeqCst);
    log.save_committed(G1, "far".into());
    log.save_committed(G1, "farther".into());
    assert_eq!(log.committed(G1).unwrap().unwrap(), "farther");
    drop(log);
    assert_eq!(bench.disk.writes.load(Ordering::SeqCst), before + 1, "the last of them is written, once");
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
    assert!(error.to_string().contains("the disk is full; free some space"), "{error}");
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
    let log = RaftLog::open(&dir.path().join("log"), false, 2, &Options::default(), None).unwrap();
    assert_eq!(log.vote(G0).unwrap().unwrap(), "the vote");
    let found = all(&log, G0);
    assert_eq!(acknowledged, 60);
    assert_eq!(found[..60], (1..61).collect::<Vec<_>>());
}

#[test]
#[ignore = "run by acknowledged_entries_survive_a_crash, in a process of its own"]
fn crash() {
    let dir = child_dir();
    let log = RaftLog::open(&dir.join("log"), true, 2, &Options::default(), None).unwrap();
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

fn flip(path: &std::path::Path, at: usize) {
    let mut content = std::fs::read(path).unwrap();
    content[at] ^= 1;
    std::fs::write(path, content).unwrap();
}

fn refusal(bench: &Bench) -> String {
    bench.try_open().err().expect("refused").to_string()
}

/// Many times the size of a segment goes through the log, which stays as small as what is needed of it.
#[test]
fn segments_are_used_again() {
    let bench = Bench::new();
    let log = bench.open();
    // This group's entries stay, and would keep the segment that they were written to.
    told(&append(&log, G1, 1..4)).unwrap();
    for at in 1..500 {
        told(&append(&log, G0, at * 10..at * 10 + 10)).unwrap();
        told(&purge(&log, G0, at * 10 + 4)).unwrap();
    }
    let segments = bench.segments();
    assert!(segments.len() <= 11, "{} segments", segments.len());
    assert!(segments[0] > bench.dir.path().join("00000040.seg"), "{segments:?}");
    assert_eq!((all(&log, G0), all(&log, G1)), ((4995..5000).collect(), vec![1, 2, 3]));
    drop(log);
    let log = bench.open();
    assert_eq!((all(&log, G0), all(&log, G1)), ((4995..5000).collect(), vec![1, 2, 3]));
}

/// Random orders on two groups, reopened now and then, with segments so small that they roll all the time: what is read
/// is what a list in memory has.
#[test]
fn as_a_list_in_memory() {
    #[derive(Default, Clone, PartialEq, Debug)]
    struct Model {
        purged: Option<u64>,
        entries: Vec<u64>,
    }
    for seed in 0..20u64 {
        let mut bench = Bench::new();
        bench.options.log_segment_bytes = 16 << 10;
        let mut log = bench.open();
        let mut models = [Model::default(), Model::default()];
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |limit: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % limit
        };
        for _ in 0..300 {
            let which = below(2);
            let (group, model) = (GroupId::new(which as u16), &mut models[which as usize]);
            let (first, last) = (model.entries.first().copied(), model.entries.last().copied());
            let next = last.or(model.purged).map_or(1, |last| last + 1);
            let waiting = match below(10) {
                0 if first.is_some() => {
                    let index = first.unwrap() + below(last.unwrap() - first.unwrap() + 1);
                    model.entries.retain(|entry| *entry > index);
                    model.purged = Some(index);
                    purge(&log, group, index)
                }
                1 if first.is_some() => {
                    let index = first.unwrap() + below(last.unwrap() - first.unwrap() + 1);
                    model.entries.retain(|entry| *entry <= index);
                    truncate(&log, group, Some(index))
                }
                2 if below(4) == 0 => {
                    drop(log);
                    log = bench.open();
                    continue;
                }
                _ => {
                    let end = next + 1 + below(6);
                    model.entries.extend(next..end);
                    append(&log, group, next..end)
                }
            };
            told(&waiting).unwrap();
            for (at, model) in (0u16..).zip(&models) {
                assert_eq!(all(&log, GroupId::new(at)), model.entries, "seed {seed}");
            }
        }
    }
}

/// What a crash tore at the log's end was never acknowledged and is dropped; in front of something synced it is damage.
#[test]
fn torn_or_damaged() {
    let bench = Bench::new();
    let log = bench.open();
    let mut ends = Vec::new();
    for at in 1..4 {
        told(&append(&log, G0, at * 10..at * 10 + 10)).unwrap();
        let content = std::fs::read(&bench.segments()[0]).unwrap();
        ends.push(content.len() - content.iter().rev().take_while(|byte| **byte == 0).count());
    }
    drop(log);
    let path = bench.segments().remove(0);
    let sound = std::fs::read(&path).unwrap();
    let begins = |batch: usize| ends[batch - 1].next_multiple_of(record::PAGE_BYTES);

    for at in [begins(2), begins(2) + 50, ends[2] - 1] {
        std::fs::write(&path, &sound).unwrap();
        flip(&path, at);
        assert_eq!(all(&bench.open(), G0), (10..30).collect::<Vec<_>>(), "a flip at {at} of the last batch");
    }
    for at in [0, 50, begins(1), begins(1) + 50, ends[1] - 1] {
        std::fs::write(&path, &sound).unwrap();
        flip(&path, at);
        let text = refusal(&bench);
        assert!(text.contains("00000001.seg: batch") && text.contains("`netstate cluster repair`"), "{text}");
    }
    // What was dropped is written over, and what it left behind is not taken for something.
    let mut torn = sound.clone();
    torn[begins(2)..begins(2) + record::PAGE_BYTES].fill(0);
    std::fs::write(&path, &torn).unwrap();
    let log = bench.open();
    told(&append(&log, G0, 30..31)).unwrap();
    drop(log);
    assert_eq!(all(&bench.open(), G0), (10..31).collect::<Vec<_>>());
    for length in [0, 100, record::PAGE_BYTES, sound.len() - 1] {
        std::fs::write(&path, &sound[..length]).unwrap();
        let text = refusal(&bench);
        assert!(text.contains("00000001.seg") && text.contains("cut off"), "{length}: {text}");
    }
}

/// A segment that is not the last one written was synced to its end, and each has to be there.
#[test]
fn damage_and_loss_of_earlier_segments() {
    let bench = Bench::new();
    let log = bench.open();
    for at in 1..20 {
        told(&append(&log, G0, at * 10..at * 10 + 10)).unwrap();
    }
    drop(log);
    let mut segments = bench.segments();
    segments.retain(|path| std::fs::read(path).unwrap().iter().any(|byte| *byte != 0));
    assert!(segments.len() > 2);
    let sound: Vec<_> = segments.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let used = |content: &[u8]| content.len() - content.iter().rev().take_while(|byte| **byte == 0).count();
    for (path, content) in segments.iter().zip(&sound).take(segments.len() - 1) {
        let name = path.file_name().unwrap().to_str().unwrap();
        for at in [0, 50, used(content) - 1] {
            flip(path, at);
            let text = refusal(&bench);
            assert!(text.contains(name) && text.contains("`netstate cluster repair`"), "{name} at {at}: {text}");
            std::fs::write(path, content).unwrap();
        }
    }
    std::fs::remove_file(&segments[0]).unwrap();
    let text = refusal(&bench);
    assert!(text.contains("log entry 10 of g0 is damaged: it is missing"), "{text}");
    std::fs::write(&segments[0], &sound[0]).unwrap();
    std::fs::remove_file(&segments[1]).unwrap();
    let text = refusal(&bench);
    assert!(text.contains("00000002.seg: this part of the raft log is damaged: it is missing"), "{text}");
    std::fs::write(&segments[1], &sound[1]).unwrap();
    assert_eq!(all(&bench.open(), G0), (10..200).collect::<Vec<_>>());
}

/// An entry that went bad on disk while the node ran is named and not served.
#[test]
fn a_damaged_entry_is_not_served() {
    let bench = Bench::new();
    let log = bench.open();
    for at in 1..5 {
        told(&append(&log, G0, at * 10..at * 10 + 10)).unwrap();
    }
    flip(&bench.segments()[0], 200);
    let text = log.read(G0, 10, 20, usize::MAX).unwrap_err().to_string();
    assert!(
        text.contains("log entry 10 of g0 is damaged: its checksum is wrong; the other replicas have it"),
        "{text}"
    );
}

/// An order may be larger than a segment.
#[test]
fn larger_than_a_segment() {
    let bench = Bench::new();
    let log = bench.open();
    told(&append(&log, G0, 1..2)).unwrap();
    told(&append(&log, G0, 2..202)).unwrap();
    told(&append(&log, G0, 202..210)).unwrap();
    drop(log);
    let log = bench.open();
    assert_eq!(all(&log, G0), (1..210).collect::<Vec<_>>());
    told(&purge(&log, G0, 209)).unwrap();
    for at in 210..400 {
        told(&append(&log, G0, at..at + 1)).unwrap();
        told(&purge(&log, G0, at)).unwrap();
    }
    drop(log);
    let lengths: Vec<_> = bench.segments().iter().map(|path| std::fs::metadata(path).unwrap().len()).collect();
    assert!(lengths.iter().all(|length| *length == 64 << 10), "{lengths:?}");
}

/// Where the log is at rest and the disk quick, who appends writes; where somebody is writing, or the disk was slow, the
/// log's thread does. Either way entries are written and told in order.
#[test]
fn written_by_who_appends() {
    let bench = Bench::new();
    let log = bench.open();
    let mut next = 0;
    let mut here = || {
        next += 1;
        let (done, told) = done();
        now(log.append_here(G0, entries(next..next + 1), done));
        told
    };
    let mut written_here = || {
        told(&here()).unwrap();
        *bench.disk.writer.lock().unwrap() == Some(thread::current().id())
    };
    // The thread may still be busy with what it wrote before.
    assert!((0..1_000).any(|_| written_here()));
    bench.disk.slow.store(true, Ordering::SeqCst);
    written_here();
    bench.disk.slow.store(false, Ordering::SeqCst);
    // A disk that was slow once has to show that it is not.
    assert!(!(0..60).any(|_| written_here()));
    assert!((0..1_000).any(|_| written_here()));
    bench.disk.hold(true);
    let writes = bench.disk.writes.load(Ordering::SeqCst);
    let first = append(&log, G1, 1..2);
    bench.disk.wait_for_writes(writes + 1);
    let second = here();
    assert!(second.try_recv().is_err(), "told before it is written");
    bench.disk.hold(false);
    told(&first).unwrap();
    told(&second).unwrap();
    assert_eq!(all(&log, G0), (1..next + 1).collect::<Vec<_>>());
    drop(log);
    assert_eq!(all(&bench.open(), G0), (1..next + 1).collect::<Vec<_>>());
}
