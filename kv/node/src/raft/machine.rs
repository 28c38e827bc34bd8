//! One group's state, as openraft sees it: entries go in, outcomes come out, and the rest of the node learns of both.
//!
//! Must hold: a snapshot's log id is on disk before openraft hears of it, since logs up to there may then be purged.

use std::{io, sync::Arc, time::Instant};

use futures::{Stream, StreamExt};
use kv_core::{Batch, GroupId, Keyspace, Outcome};
use kv_store::{EntryToApply, GroupSnapshot, ReceivedSnapshot, State};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};

use super::{Applied, LogId, Snapshot, SnapshotMeta, StoredMembership, Types, decode_stored, encode};
use crate::{
    counts::Counts,
    group::Quarantine,
    lessor::Lessor,
    observer::{AppliedCommit, Observer},
    publish::Published,
    trace::Traced,
};

/// Entries applied in one write.
const APPLY_ENTRIES: usize = 64;

/// A group's state machine.
pub(crate) struct Machine {
    pub(crate) group: GroupId,
    /// The replica is out of service: nothing of it is shown, and nothing is changed.
    pub(crate) out: bool,
    pub(crate) state: State,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) published: Arc<Published>,
    pub(crate) lessor: Lessor,
    pub(crate) quarantine: Quarantine,
    pub(crate) counts: Arc<Counts>,
    pub(crate) traced: Traced,
}

/// A group's whole state: to be sent, or received.
pub(crate) enum SnapshotData {
    /// Read from a pinned view of the local state.
    Pinned(GroupSnapshot),
    /// Received completely, not installed yet.
    Received(ReceivedSnapshot),
}

/// Makes what is applied durable, so that the log before it can go.
pub(crate) struct Builder {
    group: GroupId,
    state: State,
}

/// Position and membership, out of the bytes that the store keeps for us.
pub(crate) fn meta(applied: &kv_store::Applied) -> io::Result<SnapshotMeta> {
    let last_log_id: LogId = decode_stored("applied log id", &applied.log_id)?;
    let last_membership = match &applied.membership {
        Some(bytes) => decode_stored("membership", bytes)?,
        None => StoredMembership::default(),
    };
    Ok(SnapshotMeta { last_log_id: Some(last_log_id), last_membership })
}

impl Machine {
    fn pin(&self) -> io::Result<Option<Snapshot>> {
        if self.out || self.state.applied(self.group)?.is_none() {
            return Ok(None);
        }
        let pinned = self.state.snapshot(self.group)?;
        let meta = meta(pinned.applied())?;
        Ok(Some(Snapshot { meta, snapshot: SnapshotData::Pinned(pinned) }))
    }

    /// Applies entries. A step of a move ends what is applied in one write: where its keyspace is changes with it, and what
    /// came before it has to be shown from there.
    async fn apply_chunk(&self, chunk: Vec<EntryResponder<Types>>) -> io::Result<()> {
        let (mut entries, mut batches) = (Vec::with_capacity(chunk.len()), Vec::with_capacity(chunk.len()));
        for (entry, responder) in chunk {
            let batch = match &entry.payload {
                EntryPayload::Normal(proposal) => Some(decode_stored::<Batch>("log entry", &proposal.0)?),
                EntryPayload::Blank | EntryPayload::Membership(_) => None,
            };
            let step = batch.iter().flat_map(|batch| &batch.commits).any(|commit| commit.step().is_some());
            entries.push((entry, responder));
            batches.push(batch);
            if step {
                self.apply_batches(std::mem::take(&mut entries), std::mem::take(&mut batches)).await?;
            }
        }
        if entries.is_empty() { Ok(()) } else { self.apply_batches(entries, batches).await }
    }

    async fn apply_batches(&self, chunk: Vec<EntryResponder<Types>>, batches: Vec<Option<Batch>>) -> io::Result<()> {
        let unseen = self.await_arrivals(&batches).await;
        self.apply_now(chunk, &batches, &unseen)
    }

    fn apply_now(
        &self,
        chunk: Vec<EntryResponder<Types>>,
        batches: &[Option<Batch>],
        unseen: &[Keyspace],
    ) -> io::Result<()> {
        let entries: Vec<_> = chunk
            .iter()
            .zip(batches)
            .map(|((entry, _), batch)| EntryToApply {
                index: entry.log_id.index,
                log_id: encode(&entry.log_id),
                membership: match &entry.payload {
                    EntryPayload::Membership(members) => {
                        Some(encode(&StoredMembership::new(Some(entry.log_id), members.clone())))
                    }
                    _ => None,
                },
                batch: batch.as_ref(),
            })
            .collect();
        let _spans = self.traced.applying(entries.iter().map(|entry| entry.index));
        let began = Instant::now();
        let applied = self.state.apply(self.group, &entries).inspect_err(|error| {
            self.quarantine.store_failed(error);
        })?;
        self.counts.applied_time.took(began.elapsed());
        self.counts.applied_entries.record(entries.len() as u64);
        self.show_arrivals(batches, &applied, unseen)?;
        let showing = self.published.feeds().showing.read();
        let commits: Vec<_> = applied
            .iter()
            .zip(batches)
            .filter_map(|(entry, batch)| Some((entry, batch.as_ref()?)))
            .flat_map(|(entry, batch)| {
                entry.commits.iter().map(|made| {
                    let commit = &batch.commits[made.commit];
                    let (record, changes, written) = (&made.record, &commit.changes[..], &made.written[..]);
                    AppliedCommit { keyspace: &commit.keyspace, record, changes, written }
                })
            })
            .filter(|commit| !self.state.is_elsewhere(commit.keyspace, self.group))
            .collect();
        for (entry, batch) in applied.iter().zip(batches) {
            let Some(batch) = batch else { continue };
            let done = batch.commits.iter().zip(&entry.outcomes);
            for (commit, _) in done.filter(|(_, outcome)| matches!(outcome, Outcome::Applied(_))) {
                self.lessor.applied(&commit.keyspace, &commit.effects);
                self.published.effects(&commit.effects);
            }
        }
        self.counts.revisions.add(commits.len() as u64);
        if unseen.is_empty() && !commits.is_empty() {
            self.observer.applied(self.group, &commits);
        } else if !commits.is_empty() {
            // What was shown anew has them already.
            let seen = commits.iter().filter(|commit| !unseen.contains(commit.keyspace)).copied();
            self.observer.applied(self.group, &seen.collect::<Vec<_>>());
        }
        self.carry_on(batches, &applied);
        drop(showing);
        self.published.applied(entries.iter().zip(&applied).map(|(entry, done)| (entry.index, done.fold)), &commits);
        drop(commits);
        for ((_, responder), done) in chunk.into_iter().zip(applied) {
            if let Some(responder) = responder {
                responder.send(Applied(done.outcomes));
            }
        }
        Ok(())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        if self.out {
            return Ok((None, StoredMembership::default()));
        }
        match self.state.applied(self.group)? {
            Some(applied) => {
                let meta = meta(&applied)?;
                Ok((meta.last_log_id, meta.last_membership))
            }
            None => Ok((None, StoredMembership::default())),
        }
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_ENTRIES);
        while let Some(chunk) = chunks.next().await {
            self.apply_chunk(chunk.into_iter().collect::<io::Result<Vec<_>>>()?).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { group: self.group, state: self.state.clone() }
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        let SnapshotData::Received(received) = data else {
            return Err(io::Error::other("only a received snapshot can be installed"));
        };
        let (state, observer, group) = (self.state.clone(), self.observer.clone(), self.group);
        let published = self.published.clone();
        let installing = tokio::task::spawn_blocking(move || {
            state.install(received)?;
            let _alone = published.feeds().showing.write();
            observer.reset(group);
            crate::publish::load(&state, group, observer.as_ref(), published.feeds())
        });
        installing.await.map_err(io::Error::other)??;
        self.published.replaced(&self.state, self.group)?;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.pin()
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (group, state) = (self.group, self.state.clone());
        let building = tokio::task::spawn_blocking(move || -> io::Result<Snapshot> {
            if state.durable(group).is_none() {
                state.flush()?;
            }
            let pinned = state.snapshot(group)?;
            let durable = state.durable(group).ok_or_else(|| io::Error::other("nothing is applied yet"))?;
            // What is pinned may be newer. openraft only takes note of the position; whoever is to be sent a snapshot is
            // sent one that is pinned then.
            let applied = kv_store::Applied { log_id: durable, membership: pinned.applied().membership.clone() };
            Ok(Snapshot { meta: meta(&applied)?, snapshot: SnapshotData::Pinned(pinned) })
        });
        building.await.map_err(io::Error::other)?
    }
}
