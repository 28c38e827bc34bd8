//! Work beside the requests: flushing state, purging logs, and giving back space.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use kv_core::GroupId;
use kv_store::StoreError;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use crate::{group::Group, node::Inner};

/// Entries of one group kept after a flush, for followers that are a little behind …
const KEEP_ENTRIES: u64 = 1024;

/// … unless they are large: then as many as make up these bytes.
const KEEP_BYTES: u64 = 4 * 1024 * 1024;

/// Goes on with all of it, now and then and when asked to.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(inner.timing.housekeeping);
    let mut flushed: HashMap<GroupId, Flushed> = HashMap::new();
    let mut reclaiming: Option<JoinHandle<()>> = None;
    // Bytes appended up to the last tick, and up to when nothing was left in memory that could be on disk.
    let (mut last_appended, mut settled) = (0u64, 0u64);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = inner.reclaim.hurry.notified() => {}
        }
        let appended = inner.groups.iter().map(|group| group.appended.load(Ordering::Relaxed)).sum();
        let idle = std::mem::replace(&mut last_appended, appended) == appended && appended > settled;
        if idle || due(&inner, &flushed) {
            purge(&inner, &mut flushed).await;
        }
        if idle {
            inner.store.log().rest();
            settled = appended;
        }
        if reclaiming.as_ref().is_none_or(JoinHandle::is_finished) {
            reclaiming = reclaim(&inner);
        }
    }
}

/// How giving back space is getting on: rounds asked for, and rounds done.
#[derive(Default)]
pub(crate) struct Reclaiming {
    asked: AtomicU64,
    done: watch::Sender<u64>,
    hurry: Notify,
}

impl Reclaiming {
    /// Returns when a round that begins after the call is done.
    pub(crate) async fn done(&self) {
        let round = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        self.hurry.notify_one();
        // The sender lives as long as the node.
        let _ = self.done.subscribe().wait_for(|done| *done >= round).await;
    }
}

/// Begins to give back the space of what was compacted, if something was.
fn reclaim(inner: &Arc<Inner>) -> Option<JoinHandle<()>> {
    let asked = inner.reclaim.asked.load(Ordering::Relaxed);
    let waited_for = asked > *inner.reclaim.done.borrow();
    // All of them are asked: each that was compacted is given back now.
    let compacted = inner.groups.iter().filter(|group| group.published.take_compacted()).count();
    let inner = inner.clone();
    (compacted > 0 || waited_for).then(|| {
        tokio::task::spawn_blocking(move || {
            let state = inner.store.state();
            if let Err(error) = state.flush().and_then(|_| state.reclaim()) {
                store_failed(&inner, &error);
            }
            inner.reclaim.done.send_replace(asked);
        })
    })
}

/// The state of all groups failed.
fn store_failed(inner: &Inner, error: &StoreError) {
    inner.groups.iter().for_each(|group| {
        group.leadership.quarantine.store_failed(error);
    });
}

/// Where a group was when its state was flushed last.
#[derive(Clone, Copy, Default)]
struct Flushed {
    index: u64,
    bytes: u64,
}

impl Flushed {
    fn now(group: &Group) -> Self {
        Flushed { index: group.published.index(), bytes: group.appended.load(Ordering::Relaxed) }
    }
}

fn due(inner: &Inner, flushed: &HashMap<GroupId, Flushed>) -> bool {
    let mut bytes = 0;
    inner.groups.iter().any(|group| {
        let last = flushed.get(&group.id).copied().unwrap_or_default();
        bytes += group.appended.load(Ordering::Relaxed) - last.bytes;
        let entries = group.published.index().saturating_sub(last.index);
        bytes > inner.timing.purge_after_bytes || entries > inner.timing.purge_after_entries
    })
}

/// Makes everything applied durable, then lets go of the log before it.
async fn purge(inner: &Arc<Inner>, flushed: &mut HashMap<GroupId, Flushed>) {
    let before: Vec<_> = inner.groups.iter().map(Flushed::now).collect();
    let state = inner.store.state().clone();
    let flushing = move || state.flush().map(|_| ());
    match tokio::task::spawn_blocking(flushing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return store_failed(inner, &error),
        Err(error) => return inner.failure.report(&format!("flushing the state panicked: {error}")),
    }
    for (group, now) in inner.groups.iter().zip(before) {
        let last = flushed.get(&group.id).copied().unwrap_or_default();
        if now.index <= last.index || group.leadership.problem().is_some() {
            continue;
        }
        if group.raft.trigger().snapshot().await.is_err() {
            continue;
        }
        let built = group.raft.wait(Some(inner.timing.read_timeout));
        let reached = |metrics: &openraft::RaftMetrics<crate::raft::Types>| {
            metrics.snapshot.is_some_and(|snapshot| snapshot.index >= now.index)
        };
        if built.metrics(reached, "a snapshot").await.is_err() {
            continue;
        }
        let entries = now.index - last.index;
        let entry_bytes = ((now.bytes - last.bytes) / entries).max(1);
        let keep = KEEP_ENTRIES.min(KEEP_BYTES / entry_bytes);
        let upto = now.index.saturating_sub(keep);
        // A group that has stopped needs no purging.
        let _ = group.raft.trigger().purge_log(upto).await;
        flushed.insert(group.id, now);
    }
}
