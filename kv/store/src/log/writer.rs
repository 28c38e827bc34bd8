//! Who writes the log of all groups: one at a time takes everything that has queued up, writes it as one batch, syncs once,
//! and tells everybody who waits. While it syncs the next batch queues up, so the more there is to do, the fewer syncs each
//! entry costs.
//!
//! That is a thread of the log's own; or, where the log is at rest and its disk quick, whoever appends and has nothing
//! better to do than to wait: waking a thread and being woken by it takes longer than such a sync.
//!
//! Must hold: nobody is told of success before the sync. After a failed write nothing is written any more: what of it
//! is on disk is unknown, and the system may have dropped what it could not write, so a second sync that succeeds would
//! prove nothing.

use std::{
    collections::BTreeMap,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kv_core::GroupId;
use parking_lot::{Condvar, Mutex};
use tokio::sync::OwnedSemaphorePermit;

use super::{Done, Shared, record::Record, segments::Segments};
use crate::StoreError;

/// How long a committed position may wait for another write to ride with.
const COMMITTED_DELAY: Duration = Duration::from_millis(100);

/// One thing to be written.
pub(super) struct Order {
    pub(super) group: GroupId,
    pub(super) ticket: u64,
    pub(super) work: Work,
    pub(super) done: Done,
    /// Its place in the queue, free again once it is dropped.
    pub(super) _room: OwnedSemaphorePermit,
}

pub(super) enum Work {
    Append(Vec<(u64, Bytes)>),
    Vote(Bytes),
    /// The entries from this one on go.
    Truncate {
        from: u64,
    },
    /// The purged position: the entries up to it go.
    Purge {
        index: u64,
        log_id: Bytes,
    },
}

/// What waits to be written. Its length is limited by the room that each order holds.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    orders: Vec<Order>,
    committed: BTreeMap<GroupId, Bytes>,
    last_ticket: u64,
    closed: bool,
    /// The writer waits for orders and looks for nothing else.
    asleep: bool,
}

/// What is written in one go.
struct Load {
    orders: Vec<Order>,
    committed: BTreeMap<GroupId, Bytes>,
}

impl Queue {
    /// The next ticket. Tickets of one group grow in the order in which they are drawn with its tail locked.
    pub(super) fn ticket(&self) -> u64 {
        let mut waiting = self.waiting.lock();
        waiting.last_ticket += 1;
        waiting.last_ticket
    }

    /// Queues an order. Called with the group's tail locked, so that orders queue as they change it.
    pub(super) fn push(&self, order: Order) {
        self.waiting.lock().orders.push(order);
    }

    /// Has the log's thread look at what was queued.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    pub(super) fn set_committed(&self, group: GroupId, committed: Bytes) {
        let mut waiting = self.waiting.lock();
        waiting.committed.insert(group, committed);
        // A writer that wrote lately looks by itself: woken for each commit, it would only wait again.
        if waiting.asleep {
            self.changed.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits for something to write. `false`: closed, and everything has been taken.
    fn wait(&self) -> bool {
        let mut waiting = self.waiting.lock();
        let mut rested = false;
        loop {
            let committed = !waiting.committed.is_empty();
            if !waiting.orders.is_empty() || (committed && (waiting.closed || rested)) {
                break;
            }
            if waiting.closed {
                return false;
            }
            waiting.asleep = rested;
            if rested {
                self.changed.wait(&mut waiting);
                rested = false;
            } else {
                rested = self.changed.wait_for(&mut waiting, COMMITTED_DELAY).timed_out();
            }
        }
        waiting.asleep = false;
        true
    }

    /// What there is to write. Called by who has the segments, so that what is taken first is written first.
    fn take(&self) -> Option<Load> {
        let mut waiting = self.waiting.lock();
        let load = Load { orders: mem::take(&mut waiting.orders), committed: mem::take(&mut waiting.committed) };
        (!load.orders.is_empty() || !load.committed.is_empty()).then_some(load)
    }
}

/// Runs until the queue is closed and empty.
pub(super) fn run(shared: &Arc<Shared>) {
    while shared.queue.wait() {
        let mut segments = shared.segments.lock();
        if let Some(load) = shared.queue.take() {
            write(shared, &mut segments, load);
        }
    }
}

/// Writes what is queued, if nobody else is just doing that and the disk is quick. `false`: the log's thread has to.
pub(super) fn write_here(shared: &Shared) -> bool {
    let Some(mut segments) = shared.segments.try_lock() else { return false };
    let quick = segments.quick();
    if quick && let Some(load) = shared.queue.take() {
        write(shared, &mut segments, load);
    }
    quick
}

fn write(shared: &Shared, segments: &mut Segments, mut load: Load) {
    let result = match shared.poison.get() {
        Some(first) => Err(StoreError::Poisoned { first: first.clone() }),
        None => {
            let began = Instant::now();
            let written = segments.write(load.records());
            shared.writes.took(began.elapsed());
            written
        }
    };
    if let Err(error) = &result {
        shared.poison(error);
    }
    let mut tickets = BTreeMap::new();
    for order in &load.orders {
        tickets.insert(order.group, order.ticket);
    }
    if result.is_ok() {
        for (group, ticket) in tickets {
            shared.tail(group).lock().written(ticket, shared.cache_bytes);
        }
    }
    for Order { done, _room, .. } in load.orders {
        done(result.clone());
    }
}

impl Load {
    /// What is to be written, in order.
    fn records(&mut self) -> Vec<(GroupId, Record)> {
        let mut records = Vec::with_capacity(self.orders.len() + self.committed.len());
        for Order { group, work, .. } in &mut self.orders {
            match mem::replace(work, Work::Append(Vec::new())) {
                Work::Append(entries) => {
                    let entry = |(index, bytes)| (*group, Record::Entry { index, bytes });
                    records.extend(entries.into_iter().map(entry));
                }
                Work::Vote(vote) => records.push((*group, Record::Vote(vote))),
                Work::Truncate { from } => records.push((*group, Record::Truncated { from })),
                Work::Purge { index, log_id } => records.push((*group, Record::Purged { index, log_id })),
            }
        }
        let committed = mem::take(&mut self.committed).into_iter();
        records.extend(committed.map(|(group, committed)| (group, Record::Committed(committed))));
        records
    }
}
