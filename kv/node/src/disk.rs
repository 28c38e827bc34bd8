//! Room on the disk, watched so that it never runs out under a write.
//!
//! A log or a state that meets a full disk has failed, and a failed store stops the node. Before that happens, with a reserve
//! left for what must still be written (votes, flushes, compaction), the node takes no more log entries: what it leads it
//! refuses and hands over, what others send it refuses. Reads, watches and votes go on, and writes do as soon as there is
//! room again. What only removes or compacts, and so makes room in the end, is taken until half of the reserve is gone.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// Between two looks. At full speed a node writes some ten megabytes meanwhile, far less than the reserve.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How much room is left for writes.
#[derive(Clone)]
pub(crate) struct Disk {
    folder: Arc<PathBuf>,
    reserve_bytes: u64,
    free_bytes: Arc<AtomicU64>,
}

/// Reserves that have to be free, or the disk is called nearly full.
const NEARLY_FULL_RESERVES: u64 = 4;

/// Room on the disk of a node's data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What is free.
    pub free_bytes: u64,
    /// With less than this free, writes are refused.
    pub reserve_bytes: u64,
}

impl Room {
    /// Whether writes are refused.
    pub fn is_full(self) -> bool {
        self.free_bytes < self.reserve_bytes
    }

    /// Whether they soon will be.
    pub fn is_nearly_full(self) -> bool {
        self.free_bytes < self.reserve_bytes.saturating_mul(NEARLY_FULL_RESERVES)
    }
}

/// There is too little room to take more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) folder: String,
    pub(crate) free_bytes: u64,
    pub(crate) reserve_bytes: u64,
}

impl Disk {
    /// Looks now, and from then on until `stop`.
    pub(crate) fn watch(folder: PathBuf, reserve_bytes: u64, stop: CancellationToken) -> Self {
        let disk = Disk { folder: Arc::new(folder), reserve_bytes, free_bytes: Arc::new(AtomicU64::new(u64::MAX)) };
        disk.look();
        let watching = disk.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            let mut was_full = false;
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                watching.look();
                match watching.check() {
                    Err(full) if !was_full => {
                        tracing::error!(
                            free_bytes = full.free_bytes,
                            folder = full.folder,
                            "disk full: writes refused"
                        );
                        was_full = true;
                    }
                    Ok(()) if was_full => {
                        tracing::info!(folder = %watching.folder.display(), "room again: writes are taken");
                        was_full = false;
                    }
                    _ => {}
                }
            }
        });
        disk
    }

    fn look(&self) {
        match rustix::fs::statvfs(self.folder.as_ref()) {
            Ok(found) => self.free_bytes.store(found.f_bavail * found.f_frsize, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, folder = %self.folder.display(), "cannot tell how full the disk is"),
        }
    }

    /// Whether more may be written.
    pub(crate) fn check(&self) -> Result<(), Full> {
        self.has(self.reserve_bytes)
    }

    /// Whether what only removes may be written, and what others have decided to write already.
    pub(crate) fn check_removal(&self) -> Result<(), Full> {
        self.has(self.reserve_bytes / 2)
    }

    /// How much room there is.
    pub(crate) fn room(&self) -> Room {
        Room { free_bytes: self.free_bytes.load(Ordering::Relaxed), reserve_bytes: self.reserve_bytes }
    }

    fn has(&self, wanted_bytes: u64) -> Result<(), Full> {
        let free_bytes = self.free_bytes.load(Ordering::Relaxed);
        if free_bytes >= wanted_bytes {
            return Ok(());
        }
        let folder = self.folder.display().to_string();
        Err(Full { folder, free_bytes, reserve_bytes: self.reserve_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reserve_that_is_not_there_refuses_writes() {
        let folder = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        assert_eq!(Disk::watch(folder.path().into(), 1, stop.clone()).check(), Ok(()));
        let full = Disk::watch(folder.path().into(), u64::MAX, stop.clone()).check().unwrap_err();
        assert_eq!(full.folder, folder.path().display().to_string());
        let free_bytes = full.free_bytes;
        let nearly = Disk::watch(folder.path().into(), free_bytes + free_bytes / 2, stop.clone());
        assert!(nearly.check().is_err() && nearly.check_removal().is_ok(), "{free_bytes} bytes are free");
        stop.cancel();
    }
}
