//! One group's part of the node's raft log, as openraft sees it.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures::{Stream, StreamExt, stream};
use kv_core::{GroupId, NodeId};
use kv_store::RaftLog;
use openraft::{
    EntryPayload, OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use tokio::sync::oneshot;

use super::{Entry, LogId, Types, Vote, decode_stored, encode};
use crate::{counts::GroupCounts, trace::Traced};

/// Bytes read from the log at a time, to send to a follower or to apply.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// The log of one group.
#[derive(Clone)]
pub(crate) struct LogStore {
    pub(crate) group: GroupId,
    pub(crate) own: NodeId,
    /// The replica is out of service: nothing of it is shown, and nothing is changed.
    pub(crate) out: bool,
    pub(crate) log: RaftLog,
    /// Bytes appended since the node started.
    pub(crate) appended: Arc<AtomicU64>,
    /// Whether this node leads the group, or did a moment ago.
    pub(crate) leads: Arc<AtomicBool>,
    pub(crate) counts: Arc<GroupCounts>,
    pub(crate) traced: Traced,
}

impl LogStore {
    fn changeable(&self) -> io::Result<()> {
        if self.out { Err(io::Error::other("the replica is out of service")) } else { Ok(()) }
    }

    fn read(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let stored = self.log.read(self.group, from, to, max_bytes)?;
        stored
            .iter()
            .map(|(index, bytes)| decode_stored(&format!("log entry {index} of {}", self.group), bytes))
            .collect()
    }
}

/// The last entry that was purged of a group's log, and the last there is.
pub(crate) fn ends(log: &RaftLog, group: GroupId) -> io::Result<(Option<LogId>, Option<LogId>)> {
    let bounds = log.bounds(group)?;
    let purged: Option<LogId> = bounds.purged.map(|bytes| decode_stored("purged log id", &bytes)).transpose()?;
    let last = match bounds.last {
        Some((_, bytes)) => Some(decode_stored::<Entry>("last log entry", &bytes)?.log_id),
        None => purged,
    };
    Ok((purged, last))
}

/// A range with both ends known: from (inclusive), to (exclusive).
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(&at) => at,
        Bound::Excluded(&at) => at.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(&at) => at.saturating_add(1),
        Bound::Excluded(&at) => at,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<Types> for LogStore {
    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        let log = self.clone();
        let pages = stream::unfold(Some(from), move |next| {
            let page = next.filter(|&from| from < to).map(|from| (from, log.read(from, to, READ_BYTES)));
            async move {
                match page? {
                    (_, Ok(entries)) if entries.is_empty() => None,
                    (from, Ok(entries)) => {
                        let next = from + entries.len() as u64;
                        Some((entries.into_iter().map(Ok).collect::<Vec<_>>(), Some(next)))
                    }
                    (_, Err(error)) => Some((vec![Err(error)], None)),
                }
            }
        });
        Box::pin(pages.flat_map(stream::iter))
    }

    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<Entry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut from, to) = bounds(&range);
        let mut entries = Vec::new();
        while from < to {
            let page = self.read(from, to, READ_BYTES)?;
            let Some(last) = page.last() else { break };
            from = last.log_id.index + 1;
            entries.extend(page);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.log.vote(self.group)?.map(|bytes| decode_stored("vote", &bytes)).transpose()
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        if self.out {
            return Ok(LogState::default());
        }
        let (purged, last) = ends(&self.log, self.group)?;
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.changeable()?;
        // A vote for oneself that others have not granted yet: this node stands for election.
        if !vote.committed && vote.leader_id.voted_for == self.own.get() {
            self.counts.elections.add(1);
        }
        let (done, saved) = completion();
        self.log.save_vote(self.group, encode(vote), done).await;
        finished(saved).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log.save_committed(self.group, encode(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        if self.out {
            return Ok(None);
        }
        self.log.committed(self.group)?.map(|bytes| decode_stored("committed log id", &bytes)).transpose()
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.changeable()?;
        let mut spans = Vec::new();
        let encoded = entries.into_iter().map(|entry| {
            if let EntryPayload::Normal(proposal) = &entry.payload {
                spans.extend(self.traced.appending(&proposal.0, entry.log_id.index));
            }
            (entry.log_id.index, encode(&entry))
        });
        let encoded: Vec<_> = encoded.collect();
        let bytes: usize = encoded.iter().map(|(_, bytes)| bytes.len()).sum();
        self.appended.fetch_add(bytes as u64, Ordering::Relaxed);
        let done = Box::new(move |result: Result<(), kv_store::StoreError>| {
            drop(spans);
            callback.io_completed(result.map_err(io::Error::from));
        });
        // A leader has its followers to see to meanwhile; a follower can only wait.
        if self.leads.load(Ordering::Relaxed) {
            self.log.append(self.group, encoded, done).await;
        } else {
            self.log.append_here(self.group, encoded, done).await;
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.changeable()?;
        let (done, truncated) = completion();
        self.log.truncate_after(self.group, last_log_id.map(|id| id.index), done).await;
        finished(truncated).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.changeable()?;
        let (done, purged) = completion();
        self.log.purge_upto(self.group, log_id.index, encode(&log_id), done).await;
        finished(purged).await
    }
}

pub(crate) type Finished = oneshot::Receiver<Result<(), kv_store::StoreError>>;

/// What is called when something is on disk, and what waits for that.
pub(crate) fn completion() -> (kv_store::Done, Finished) {
    let (tell, told) = oneshot::channel();
    let done = Box::new(move |result| {
        // Nobody waits any more only if the group has been shut down.
        let _ = tell.send(result);
    });
    (done, told)
}

pub(crate) async fn finished(told: Finished) -> io::Result<()> {
    match told.await {
        Ok(result) => result.map_err(io::Error::from),
        Err(_) => Err(io::Error::other("the raft log's writer has stopped")),
    }
}
