//! Work beside the requests: flushing state and purging logs, and spreading leaders over the nodes.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use kv_core::{GroupId, NodeId};
use openraft::async_runtime::WatchReceiver;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{group::Group, node::Inner};

/// Entries of one group kept after a flush, for followers that are a little behind …
const KEEP_ENTRIES: u64 = 1024;

/// … unless they are large: then as many as make up these bytes.
const KEEP_BYTES: u64 = 4 * 1024 * 1024;

/// A node is given leaders back only when it has been reachable for so long.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(5);

/// How far behind the log's end a follower may be to be made leader.
const TRANSFER_LAG_ENTRIES: u64 = 64;

/// The member that should lead a group: so leaders are spread evenly.
pub(crate) fn preferred(group: GroupId, members: &[crate::MemberInfo]) -> NodeId {
    members[usize::from(group.get()) % members.len()].id
}

/// Runs until the node stops.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(inner.timing.housekeeping);
    let mut flushed: HashMap<GroupId, Flushed> = HashMap::new();
    let mut up_since: HashMap<NodeId, Instant> = HashMap::new();
    let mut reclaiming: Option<JoinHandle<()>> = None;
    // Bytes appended up to the last tick, and up to when nothing was left in memory that could be on disk.
    let (mut last_appended, mut settled) = (0u64, 0u64);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = inner.reclaim.hurry.notified() => {}
            () = inner.stop.cancelled() => return,
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
        for node in inner.links.nodes() {
            if inner.links.up(node) {
                up_since.entry(node).or_insert_with(Instant::now);
            } else {
                up_since.remove(&node);
            }
        }
        for group in &inner.groups {
            spread(&inner, group, &up_since).await;
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
                inner.failure.report(&error.to_string());
            }
            inner.reclaim.done.send_replace(asked);
        })
    })
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
        Ok(Err(error)) => return inner.failure.report(&error.to_string()),
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

/// Hands a group to the member that should lead it, when that one is there and up to date.
async fn spread(inner: &Inner, group: &Group, up_since: &HashMap<NodeId, Instant>) {
    if group.leadership.leads().is_none() {
        return;
    }
    let mut target = preferred(group.id, &inner.members);
    if inner.disk.check().is_err() {
        // Nothing can be written here: somebody else may have room.
        let Some(other) = up_since.keys().copied().next() else { return };
        target = other;
    } else if target == inner.id {
        return;
    }
    if up_since.get(&target).is_none_or(|since| since.elapsed() <= SETTLED) {
        return;
    }
    let close = {
        let metrics = group.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched =
            metrics.replication.as_ref().and_then(|followers| followers.get(&target.get()).copied().flatten());
        let last = metrics.last_log_index.unwrap_or_default();
        matched.is_some_and(|matched| last.saturating_sub(matched.index) <= TRANSFER_LAG_ENTRIES)
    };
    if close {
        tracing::info!(group = %group.id, %target, "handing over the lead");
        // Should it fail, this node goes on leading.
        let _ = group.raft.trigger().transfer_leader(target.get()).await;
    }
}
