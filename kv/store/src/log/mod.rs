//! The raft log of all groups of a node.
//!
//! ```text
//! append ──► tail (in memory, readable at once) ──► queue ──► writer thread: one batch, one sync ──► done
//!                        │                                             │
//!   read ◄───────────────┴─────────────────── segments ◄───────────────┘
//! ```
//!
//! Must hold: orders of one group take effect, are written, and are told in the order in which they were given. What is
//! told is on stable storage. The queue and the cache have limits in bytes: who appends faster than the disk writes
//! waits. When a write fails, because the disk is full or broken, that write and all later ones are refused: a part of
//! the batch may be on disk, which the next start discards as torn, so nothing half-done is left once the node has been
//! started again.
//!
//! Not on RocksDB, whose write-ahead files grow as they are written: a sync then takes twice as long as in blocks that
//! were written before, and an entry would be written twice more, to its memtable and by its compactions.
//!
//! Left to others: what entries, votes and log ids mean, and that one task at a time writes to a group's log.

mod record;
mod segments;
mod stored;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    thread,
};

use bytes::Bytes;
use kv_core::GroupId;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use self::{
    segments::{Disk, Segments, Write},
    tail::{Found, Tail},
    writer::{Order, Queue, Work},
};
use crate::{Buckets, Histogram, Options, StoreError, error::with_causes, store::Directory};

#[cfg(test)]
pub(crate) use record::fuzz;

/// Told once what was asked for is on stable storage, or that it failed. Called on the log's own thread: must neither
/// block nor panic.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What an order costs of the queue's room beside its entries, so that the number of orders is limited too.
const ORDER_BYTES: usize = 256;

/// The raft log of all groups. Cheap to clone. The last clone that goes waits until everything queued is written.
///
/// # Panics
///
/// All methods panic when given a group that the store was not opened with.
#[derive(Clone)]
pub struct RaftLog(Arc<Handle>);

/// What of a group's log there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// The log id up to which entries were purged.
    pub purged: Option<Bytes>,
    /// Index of the first entry.
    pub first: Option<u64>,
    /// The last entry and its index.
    pub last: Option<(u64, Bytes)>,
}

struct Handle {
    shared: Arc<Shared>,
    writer: Option<thread::JoinHandle<()>>,
}

/// What the callers and the writer share.
struct Shared {
    disk: Arc<Disk>,
    segments: Mutex<Segments>,
    tails: Vec<Mutex<Tail>>,
    queue: Queue,
    /// In bytes.
    room: Arc<Semaphore>,
    room_bytes: usize,
    cache_bytes: usize,
    /// The first failure.
    poison: OnceLock<String>,
    /// How long each write with its sync took.
    writes: Histogram,
    _held: Option<Arc<Directory>>,
}

impl Shared {
    fn tail(&self, group: GroupId) -> &Mutex<Tail> {
        &self.tails[usize::from(group.get())]
    }

    /// Entries on disk; as many as fit in `max_bytes`, but one at least. `None`: the first of them is not there any more.
    fn read_stored(
        &self,
        group: GroupId,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Option<Vec<(u64, Bytes)>>, StoreError> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for index in from..to {
            let Some(place) = self.disk.stored(group).lock().place(index) else { break };
            bytes += place.bytes as usize;
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            let Some(entry) = self.disk.read(group, index, place)? else { break };
            entries.push((index, entry));
        }
        Ok((!entries.is_empty()).then_some(entries))
    }

    fn poison(&self, error: &StoreError) {
        let first = with_causes(error);
        if self.poison.set(first.clone()).is_ok() {
            tracing::error!(error = first, "the raft log failed and takes no more writes");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != thread::current().id()
        {
            // A writer that panicked has told so on standard error.
            let _ = writer.join();
        }
    }
}

impl RaftLog {
    /// Opens the log in a directory. `may_begin`: begins one where there is none. `held`: what nobody else may have
    /// until the log is closed.
    pub(crate) fn open(
        dir: &Path,
        may_begin: bool,
        groups: u16,
        options: &Options,
        held: Option<Arc<Directory>>,
    ) -> Result<Self, StoreError> {
        Self::open_with(dir, may_begin, groups, options, segments::to_disk(), held)
    }

    fn open_with(
        dir: &Path,
        may_begin: bool,
        groups: u16,
        options: &Options,
        write: Write,
        held: Option<Arc<Directory>>,
    ) -> Result<Self, StoreError> {
        let segments = Segments::open(dir, may_begin, groups, options.log_segment_bytes, write)?;
        let disk = segments.disk().clone();
        let tails = (0..groups).map(|group| load(&disk, GroupId::new(group)).map(Mutex::new));
        let tails = tails.collect::<Result<_, _>>()?;
        let room_bytes = options.log_queue_bytes.clamp(ORDER_BYTES, u32::MAX as usize);
        let shared = Arc::new(Shared {
            disk,
            segments: Mutex::new(segments),
            tails,
            queue: Queue::default(),
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            cache_bytes: options.log_cache_bytes_per_group,
            poison: OnceLock::new(),
            writes: Histogram::of_micros(),
            _held: held,
        });
        let writing = shared.clone();
        let writer = thread::Builder::new().name("raft-log".into()).spawn(move || writer::run(&writing));
        let writer = writer.map_err(|source| StoreError::Io {
            path: dir.into(),
            doing: "starting the log's thread",
            source: Arc::new(source),
        })?;
        Ok(RaftLog(Arc::new(Handle { shared, writer: Some(writer) })))
    }

    /// How long its writes took, each with its sync.
    pub fn writes(&self) -> Buckets {
        self.0.shared.writes.buckets()
    }

    /// Gives back the memory of what is written. For when nothing more comes.
    pub fn rest(&self) {
        for tail in &self.0.shared.tails {
            tail.lock().rest();
        }
    }

    /// Appends entries, each with its index; they follow the last one. They can be read when this returns, and are on
    /// stable storage when `done` is told so. Waits while the queue is full; a call dropped while it waits has done
    /// nothing.
    pub async fn append(&self, group: GroupId, entries: Vec<(u64, Bytes)>, done: Done) {
        self.queue_entries(group, entries, done).await;
        self.0.shared.queue.wake();
    }

    /// As [`append`](RaftLog::append), for who has nothing to do meanwhile: where the log is at rest and its disk quick, it
    /// is all done when this returns, and the calling thread did it.
    pub async fn append_here(&self, group: GroupId, entries: Vec<(u64, Bytes)>, done: Done) {
        self.queue_entries(group, entries, done).await;
        if !writer::write_here(&self.0.shared) {
            self.0.shared.queue.wake();
        }
    }

    async fn queue_entries(&self, group: GroupId, entries: Vec<(u64, Bytes)>, done: Done) {
        let bytes = entries.iter().map(|(_, bytes)| bytes.len()).sum();
        let order = |tail: &mut Tail, ticket| {
            if let Err((expected, found)) = tail.follows(&entries) {
                let expected = expected.to_string();
                return Err(StoreError::OutOfOrder { group, expected, found });
            }
            tail.append(&entries, ticket);
            Ok(Work::Append(entries))
        };
        self.order(group, bytes, order, done).await;
    }

    /// Replaces the vote.
    pub async fn save_vote(&self, group: GroupId, vote: Bytes, done: Done) {
        let order = |tail: &mut Tail, _| {
            tail.vote = Some(vote.clone());
            Ok(Work::Vote(vote))
        };
        self.order(group, 0, order, done).await;
        self.0.shared.queue.wake();
    }

    /// Replaces the committed position. It is written with the next order of any group, or soon: a crash may take it
    /// back a little.
    pub fn save_committed(&self, group: GroupId, committed: Bytes) {
        let shared = &self.0.shared;
        let mut tail = shared.tail(group).lock();
        tail.committed = Some(committed.clone());
        shared.queue.set_committed(group, committed);
    }

    /// Removes the entries behind `last_kept`; all of them if that is `None`.
    pub async fn truncate_after(&self, group: GroupId, last_kept: Option<u64>, done: Done) {
        let from = last_kept.map_or(0, |kept| kept.saturating_add(1));
        let order = |tail: &mut Tail, _| {
            tail.truncate_after(last_kept);
            Ok(Work::Truncate { from })
        };
        self.order(group, 0, order, done).await;
        self.0.shared.queue.wake();
    }

    /// Removes the entries up to `index` and remembers its log id.
    pub async fn purge_upto(&self, group: GroupId, index: u64, log_id: Bytes, done: Done) {
        let order = |tail: &mut Tail, _| {
            tail.purge_upto(index, log_id);
            let (index, log_id) = tail.purged.clone().expect("purging has set it");
            Ok(Work::Purge { index, log_id })
        };
        self.order(group, 0, order, done).await;
        self.0.shared.queue.wake();
    }

    /// Entries from `from` on, one behind the other, up to `to` (exclusive): as many as fit in `max_bytes`, but one at
    /// least. Nothing if the first of them is not there.
    pub fn read(
        &self,
        group: GroupId,
        from: u64,
        to_exclusive: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let shared = &self.0.shared;
        // A second look, because entries may be purged or replaced between the look at the tail and the read.
        for _ in 0..2 {
            let found = shared.tail(group).lock().find(from, to_exclusive, max_bytes);
            let Some(Found { stored_to, cached }) = found else { return Ok(Vec::new()) };
            if from == stored_to {
                return Ok(cached);
            }
            let Some(mut entries) = shared.read_stored(group, from, stored_to, max_bytes)? else { continue };
            if from + entries.len() as u64 == stored_to {
                let mut bytes: usize = entries.iter().map(|(_, bytes)| bytes.len()).sum();
                entries.extend(cached.into_iter().take_while(|(_, cached)| {
                    bytes += cached.len();
                    bytes <= max_bytes
                }));
            }
            return Ok(entries);
        }
        Err(shared.disk.missing(group, from, "it is missing"))
    }

    /// The vote saved last.
    pub fn vote(&self, group: GroupId) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.shared.tail(group).lock().vote.clone())
    }

    /// The committed position saved last.
    pub fn committed(&self, group: GroupId) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.shared.tail(group).lock().committed.clone())
    }

    /// What of a group's log there is.
    pub fn bounds(&self, group: GroupId) -> Result<LogBounds, StoreError> {
        let (range, purged) = {
            let tail = self.0.shared.tail(group).lock();
            (tail.range(), tail.purged.clone())
        };
        let last = match range {
            Some((_, last)) => self.read(group, last, last.saturating_add(1), usize::MAX)?.pop(),
            None => None,
        };
        let purged = purged.map(|(_, log_id)| log_id);
        Ok(LogBounds { purged, first: range.map(|(first, _)| first), last })
    }

    /// The index up to which a group's log was purged.
    pub(crate) fn purged_index(&self, group: GroupId) -> Option<u64> {
        self.0.shared.tail(group).lock().purged.as_ref().map(|(index, _)| *index)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.shared.disk.is_empty()
    }

    /// Changes the tail and queues what is to be written of it, in one step. Somebody has to see to its being written.
    async fn order(
        &self,
        group: GroupId,
        bytes: usize,
        change: impl FnOnce(&mut Tail, u64) -> Result<Work, StoreError>,
        done: Done,
    ) {
        let shared = &self.0.shared;
        let cost = bytes.saturating_add(ORDER_BYTES).min(shared.room_bytes);
        let cost = u32::try_from(cost).expect("the room is limited to that");
        let room = shared.room.clone().acquire_many_owned(cost).await.expect("never closed");
        if let Some(first) = shared.poison.get() {
            return done(Err(StoreError::Poisoned { first: first.clone() }));
        }
        let mut tail = shared.tail(group).lock();
        let ticket = shared.queue.ticket();
        match change(&mut tail, ticket) {
            Ok(work) => shared.queue.push(Order { group, ticket, work, done, _room: room }),
            Err(error) => {
                drop(tail);
                done(Err(error));
            }
        }
    }
}

/// A group's log, as far as it is kept in memory.
fn load(disk: &Disk, group: GroupId) -> Result<Tail, StoreError> {
    let stored = disk.stored(group).lock();
    let expected = stored.purged.as_ref().map(|(index, _)| index + 1);
    if let (Some(expected), Some((first, _))) = (expected, stored.range())
        && first != expected
    {
        return Err(disk.missing(group, expected, &format!("it is missing; the log starts at {first}")));
    }
    Ok(Tail::new(stored.vote.clone(), stored.committed.clone(), stored.purged.clone(), stored.range()))
}
