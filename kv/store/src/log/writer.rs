//! The one thread that writes the log of all groups.
//!
//! It takes everything that has queued up, writes it as one batch, syncs once, and tells everybody who waits. While it
//! syncs the next batch queues up, so the more there is to do, the fewer syncs each entry costs.
//!
//! Must hold: nobody is told of success before the sync. After a failed write nothing is written any more: what of it
//! is on disk is unknown, and the system may have dropped what it could not write, so a second sync that succeeds would
//! prove nothing.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use bytes::Bytes;
use kv_core::GroupId;
use parking_lot::{Condvar, Mutex};
use rocksdb::{WriteBatch, WriteOptions};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Done, Shared,
    records::{Single, entry_key, purged_payload, single_key},
};
use crate::{StoreError, database::Database, envelope::seal_bytes};

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
    /// Indexes of the first and last entries to go.
    Remove(Option<(u64, u64)>),
    /// The purged position, and the entries to go.
    Purge(u64, Bytes, Option<(u64, u64)>),
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
        self.changed.notify_one();
    }

    pub(super) fn set_committed(&self, group: GroupId, committed: Bytes) {
        let mut waiting = self.waiting.lock();
        let first = waiting.committed.is_empty();
        waiting.committed.insert(group, committed);
        if first {
            self.changed.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits for something to write. `None`: closed, and everything has been taken.
    fn take(&self) -> Option<Load> {
        let mut waiting = self.waiting.lock();
        loop {
            let committed = !waiting.committed.is_empty();
            if !waiting.orders.is_empty() || (waiting.closed && committed) {
                break;
            }
            if waiting.closed {
                return None;
            }
            if !committed {
                self.changed.wait(&mut waiting);
            } else if self.changed.wait_for(&mut waiting, COMMITTED_DELAY).timed_out() {
                break;
            }
        }
        Some(Load { orders: mem::take(&mut waiting.orders), committed: mem::take(&mut waiting.committed) })
    }
}

/// How a batch gets to disk; `true`: and is synced. Exchanged in tests, for a disk that fails.
pub(super) type Write = Box<dyn FnMut(&Database, WriteBatch, bool) -> Result<(), StoreError> + Send>;

pub(super) fn to_disk() -> Write {
    Box::new(|database, batch, sync| {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        database.write(batch, &options)
    })
}

/// Runs until the queue is closed and empty.
pub(super) fn run(shared: &Arc<Shared>, mut write: Write) {
    while let Some(load) = shared.queue.take() {
        let result = match shared.poison.get() {
            Some(first) => Err(StoreError::Poisoned { first: first.clone() }),
            None => {
                let (batch, sync) = encode(&load);
                write(&shared.database, batch, sync)
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
}

/// One batch of everything, and whether anybody needs it synced.
fn encode(load: &Load) -> (WriteBatch, bool) {
    let mut batch = WriteBatch::default();
    let mut sync = false;
    let put = |batch: &mut WriteBatch, key: Vec<u8>, payload: &[u8]| batch.put(&key, seal_bytes(&key, payload));
    for Order { group, work, .. } in &load.orders {
        let remove = |batch: &mut WriteBatch, range: &Option<(u64, u64)>| {
            if let Some((first, last)) = range {
                batch.delete_range(entry_key(*group, *first), entry_key(*group, last.saturating_add(1)));
            }
        };
        match work {
            Work::Append(entries) => {
                for (index, bytes) in entries {
                    put(&mut batch, entry_key(*group, *index), bytes);
                }
                sync = true;
            }
            Work::Vote(vote) => {
                put(&mut batch, single_key(*group, Single::Vote), vote);
                sync = true;
            }
            Work::Remove(range) => {
                remove(&mut batch, range);
                sync = true;
            }
            // Entries that come back after a crash are purged again.
            Work::Purge(index, log_id, range) => {
                remove(&mut batch, range);
                put(&mut batch, single_key(*group, Single::Purged), &purged_payload(*index, log_id));
            }
        }
    }
    for (group, committed) in &load.committed {
        put(&mut batch, single_key(*group, Single::Committed), committed);
    }
    (batch, sync)
}
