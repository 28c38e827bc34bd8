//! Backups of the whole cluster, from this node's replicas.
//!
//! Must hold: a reader that is slow, or gone, costs no more memory than a few parts; one that takes nothing for long is
//! given up, since what is pinned for it keeps disk space from being given back.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use kv_node::BackupRun;
use netstate_proto::v1::{self as pb, backups_server};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Services;

/// Parts read and not taken by the transport yet.
const PARTS: usize = 2;

/// Backups that a node makes at the same time: each pins the state as it was.
const AT_ONCE: usize = 2;

/// How long a reader may take nothing.
const STALL: Duration = Duration::from_secs(60);

type Parts = Pin<Box<dyn Stream<Item = Result<pb::SaveBackupResponse, Status>> + Send>>;

/// The service.
pub(crate) struct Backups {
    services: Services,
    running: Arc<Semaphore>,
}

impl Backups {
    pub(crate) fn new(services: Services) -> Self {
        Backups { services, running: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

#[tonic::async_trait]
impl backups_server::Backups for Backups {
    type SaveBackupStream = Parts;

    async fn save_backup(&self, _: Request<pb::SaveBackupRequest>) -> Result<Response<Parts>, Status> {
        let running = self.running.clone().try_acquire_owned().map_err(|_| {
            let text =
                format!("this node makes {AT_ONCE} backups already; ask another one, or again when they are done");
            Status::resource_exhausted(text)
        })?;
        let at = self.services.clock.now();
        let begun = self.services.node.backup(env!("CARGO_PKG_VERSION"), at).await;
        let run = begun.map_err(|error| Status::unavailable(error.to_string()))?;
        let (parts, outgoing) = mpsc::channel(PARTS);
        let stop = self.services.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = send(run, &parts, running) => {}
                () = stop.cancelled() => {
                    // Whoever saves learns that the file is not whole.
                    let _ = parts.try_send(Err(Status::unavailable("this node is shutting down; ask another one")));
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

async fn send(
    mut run: BackupRun,
    parts: &mpsc::Sender<Result<pb::SaveBackupResponse, Status>>,
    _running: OwnedSemaphorePermit,
) {
    loop {
        let reading = tokio::task::spawn_blocking(move || {
            let bytes = run.next_bytes();
            (run, bytes)
        });
        let Ok((back, read)) = reading.await else { return };
        run = back;
        let (done, groups) = run.progress();
        let part = match read {
            Ok(None) => return,
            Ok(Some(part)) => Ok(pb::SaveBackupResponse { part, groups_done: done.into(), groups: groups.into() }),
            Err(error) => Err(Status::data_loss(format!("{error}; ask another node"))),
        };
        let failed = part.is_err();
        match tokio::time::timeout(STALL, parts.send(part)).await {
            Ok(Ok(())) if !failed => {}
            Ok(_) => return,
            Err(_) => {
                tracing::warn!("a backup is given up: its reader took nothing for {} s", STALL.as_secs());
                return;
            }
        }
    }
}
