//! Brings back the keys of leases that ended on the target but not on the source.
//!
//! Must hold: a key comes back as it was at the position, never as it is now, so that the changes after it still apply in order. Keys
//! that have been deleted since, or changed, are not looked for: their events are yet to come and put them right.

use etcd_proto::etcdserverpb as pb;

use crate::{
    ImportError, LeaseId, Options, SourceRevision,
    change::{Batch, Change},
    leases::Leases,
    record::Stage,
    side::Peer,
    writer::Writer,
};

/// Restores every lease that is known to be lost. In the middle of a revision it waits: the parts of it that are applied must not be undone.
pub(crate) async fn restore_lost(
    source: &Peer,
    leases: &Leases,
    writer: &Writer,
    options: &Options,
) -> Result<(), ImportError> {
    if matches!(writer.stage(), Stage::Following { part: 1.., .. }) {
        return Ok(());
    }
    while let Some(id) = leases.take_lost() {
        let revision = match writer.stage() {
            Stage::Copying { revision, .. } | Stage::Following { revision, .. } => *revision,
        };
        // No revision has been chosen: nothing has been copied that could have been lost.
        if revision > SourceRevision::default() {
            restore(source, leases, writer, options, id, revision).await?;
        }
    }
    Ok(())
}

async fn restore(
    source: &Peer,
    leases: &Leases,
    writer: &Writer,
    options: &Options,
    id: LeaseId,
    at: SourceRevision,
) -> Result<(), ImportError> {
    let Some(lease) = source.lease(id, true).await? else { return Ok(()) };
    let mut batch = Batch::default();
    for key in lease.keys {
        if !key.starts_with(&options.prefix) || key == options.position_key {
            continue;
        }
        let range = pb::RangeRequest { key, revision: at.get(), ..Default::default() };
        let answer = source.range("read a key of a lease", range).await?;
        for pair in answer.kvs.into_iter().filter(|pair| pair.lease == id.get()) {
            let change = Change::put(pair);
            if !batch.fits(&change, writer.limits()) {
                writer.write_beside(leases, &std::mem::take(&mut batch).into_changes()).await?;
            }
            batch.push(change);
        }
    }
    writer.write_beside(leases, &batch.into_changes()).await
}
