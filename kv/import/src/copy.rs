//! Makes the target equal to one revision of the source.
//!
//! Must hold: all keys are read at the same revision. Where the target may have keys of its own, both sides are walked through together,
//! and only differences are written: what the source lacks is deleted.
//!
//! A source that compacts the revision before the end (etcd under Kubernetes does every five minutes) makes the walk start over at a
//! newer one. It then writes only what differs, so each attempt is quicker than the one before.

use bytes::Bytes;
use etcd_proto::etcdserverpb as pb;

use crate::{
    ImportError, Options, Position, Progress, Side, SourceRevision,
    change::{Batch, Change, KeyRange, successor},
    merge::{Merge, Pair},
    options::Report,
    pager::Pager,
    record::Stage,
    restore::restore_lost,
    session::{Purpose, Session},
    writer::Writer,
};

/// Keys after which the position is written even if none differed.
const KEYS_PER_ROUND: u64 = 10_000;

/// Copies every key under the prefix to the target, or goes on with a copy that was interrupted; returns at once if it is finished.
///
/// Dropping the future interrupts it at any point without harm.
pub async fn copy(
    source: &Side,
    target: &Side,
    options: &Options,
    report: Report<'_>,
) -> Result<Position, ImportError> {
    let session = Session::new(source, target, options, report);
    let mut writer = session.claim(Purpose::Copy).await?;
    session.keeping_leases(copy_all(&session, &mut writer)).await
}

/// Copies until the target is following.
pub(crate) async fn copy_all(session: &Session<'_>, writer: &mut Writer) -> Result<Position, ImportError> {
    loop {
        let (revision, next, sweep) = match writer.stage().clone() {
            Stage::Copying { revision, next, sweep } => (revision, next, sweep),
            // An import that ended in the middle of a revision is followed from there.
            Stage::Following { .. } => return writer.position().ok_or(ImportError::NotCopied),
        };
        match Box::pin(pass(session, writer, revision, next, sweep)).await {
            Err(error) if error.source_compacted() => start_over(session, writer, revision).await?,
            passed => passed?,
        }
    }
}

/// The source no longer has a revision: everything is compared at a newer one.
pub(crate) async fn start_over(
    session: &Session<'_>,
    writer: &mut Writer,
    compacted: SourceRevision,
) -> Result<(), ImportError> {
    (session.report)(Progress::StartedOver { compacted });
    sweep_at(session, writer, SourceRevision::default()).await
}

/// Everything is to be compared at this revision, or at the newest (zero).
pub(crate) async fn sweep_at(
    session: &Session<'_>,
    writer: &mut Writer,
    revision: SourceRevision,
) -> Result<(), ImportError> {
    let stage = Stage::Copying { revision, next: session.keys().start, sweep: true };
    writer.commit(&session.leases, &[], stage).await
}

/// Walks through the keys from `next` to the end.
async fn pass(
    session: &Session<'_>,
    writer: &mut Writer,
    revision: SourceRevision,
    next: Bytes,
    sweep: bool,
) -> Result<(), ImportError> {
    let (revision, of_keys) = choose(session, revision).await?;
    writer.commit(&session.leases, &[], Stage::Copying { revision, next: next.clone(), sweep }).await?;
    let range = KeyRange { start: next.clone(), end: session.keys().end };
    let mut merge = Merge {
        source: Pager::new(&session.source, range.clone(), revision.get(), session.options),
        // At the present revision: what this copy writes is behind the walk already.
        target: sweep.then(|| Pager::new(&session.target, range, 0, session.options)),
    };
    let mut round = Round { batches: Vec::new(), keys: 0, next };
    let (mut keys, mut bytes) = (0, 0);
    let tell = |keys, bytes| (session.report)(Progress::Copying { keys, of_keys, bytes, revision });
    tell(0, 0);
    while let Some(pair) = merge.next().await? {
        let reached = successor(pair.key());
        if let Some(change) = needed(pair) {
            if !round.takes(&change, session, writer) {
                let stage = Stage::Copying { revision, next: round.next.clone(), sweep };
                round.flush(session, writer, stage).await?;
                tell(keys, bytes);
            }
            bytes += change.bytes() as u64;
            round.push(change, writer);
        }
        keys += 1;
        round.keys += 1;
        round.next = reached;
        if round.keys >= KEYS_PER_ROUND {
            let stage = Stage::Copying { revision, next: round.next.clone(), sweep };
            round.flush(session, writer, stage).await?;
            tell(keys, bytes);
        }
    }
    round.flush(session, writer, Stage::Following { revision, part: 0 }).await?;
    tell(keys, bytes);
    Ok(())
}

/// The revision to read, and how many keys there are.
async fn choose(session: &Session<'_>, revision: SourceRevision) -> Result<(SourceRevision, u64), ImportError> {
    let KeyRange { start, end } = session.keys();
    let revision = if revision == SourceRevision::default() {
        SourceRevision::new(session.source.header(&start).await?.revision)
    } else {
        revision
    };
    let range = pb::RangeRequest {
        key: start,
        range_end: end,
        revision: revision.get(),
        count_only: true,
        ..Default::default()
    };
    let count = session.source.range("count its keys", range).await?.count;
    Ok((revision, u64::try_from(count).unwrap_or(0)))
}

/// What makes the target's key as the source's is.
fn needed(pair: Pair) -> Option<Change> {
    match pair {
        Pair::Both { source, target } if source.value == target.value && source.lease == target.lease => None,
        Pair::Source(source) | Pair::Both { source, .. } => Some(Change::put(source)),
        Pair::Target(target) => Some(Change::Delete { key: target.key }),
    }
}

/// Transactions that are sent together.
struct Round {
    batches: Vec<Batch>,
    keys: u64,
    next: Bytes,
}

impl Round {
    fn takes(&self, change: &Change, session: &Session<'_>, writer: &Writer) -> bool {
        self.batches.len() < session.options.in_flight.max(1)
            || self.batches.last().is_none_or(|batch| batch.fits(change, writer.limits()))
    }

    fn push(&mut self, change: Change, writer: &Writer) {
        match self.batches.last_mut() {
            Some(batch) if batch.fits(&change, writer.limits()) => batch.push(change),
            _ => {
                let mut batch = Batch::default();
                batch.push(change);
                self.batches.push(batch);
            }
        }
    }

    /// Sends them at once, all but one; that one, which moves the position, when the others have arrived.
    async fn flush(&mut self, session: &Session<'_>, writer: &mut Writer, stage: Stage) -> Result<(), ImportError> {
        restore_lost(&session.source, &session.leases, writer, session.options).await?;
        let mut batches = std::mem::take(&mut self.batches);
        self.keys = 0;
        let last = batches.pop().unwrap_or_default().into_changes();
        let beside: Vec<Vec<Change>> = batches.into_iter().map(Batch::into_changes).collect();
        let shared: &Writer = writer;
        futures::future::try_join_all(beside.iter().map(|changes| shared.write_beside(&session.leases, changes)))
            .await?;
        writer.commit(&session.leases, &last, stage).await
    }
}
