//! Watches: a cursor in a keyspace's history that moves as the history grows.
//!
//! A watch holds no queue. It reads what lies after its cursor when it is asked for more; however slow it is, it costs
//! no memory and misses nothing that is retained.

use kv_core::{GroupId, KeyRange, Keyspace, Revision, RevisionChanges};
use kv_store::State;
use tokio::sync::watch;

use crate::{
    error::{ReadError, WatchError},
    group::Leadership,
};

/// Revisions and bytes read at a time.
const READ_REVISIONS: usize = 256;
const READ_BYTES: usize = 1024 * 1024;

/// A watch on some keys of one keyspace. Dropping it ends it.
pub struct Watch {
    pub(crate) group: GroupId,
    pub(crate) keyspace: Keyspace,
    pub(crate) range: KeyRange,
    pub(crate) cursor: Revision,
    pub(crate) state: State,
    pub(crate) leadership: Leadership,
    pub(crate) revision: watch::Receiver<Revision>,
}

impl Watch {
    /// The next revisions that touch the range, each whole (as far as the range goes), in order, without gaps. Waits
    /// for one. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<RevisionChanges>, WatchError> {
        loop {
            self.revision.borrow_and_update();
            let found = self.read()?;
            if !found.is_empty() {
                return Ok(found);
            }
            if self.state.head(self.group, &self.keyspace).revision <= self.cursor {
                self.revision.changed().await.map_err(|_| WatchError::Stopped)?;
            }
        }
    }

    /// Everything up to here was returned or does not touch the range.
    pub fn cursor(&self) -> Revision {
        self.cursor
    }

    fn read(&mut self) -> Result<Vec<RevisionChanges>, WatchError> {
        if let Some(reason) = self.leadership.problem() {
            let reason = reason.to_string();
            return Err(WatchError::Read(ReadError::OutOfService { group: self.group, reason }));
        }
        let read = self.state.changes(self.group, &self.keyspace, self.cursor, READ_REVISIONS, READ_BYTES);
        let mut found = read.map_err(|error| match error {
            kv_store::ReadError::Compacted { floor, .. } => {
                WatchError::Compacted { keyspace: self.keyspace.clone(), after: self.cursor, floor }
            }
            other => WatchError::Read(crate::node::read_error(&self.leadership, self.group, other)),
        })?;
        if let Some(last) = found.last() {
            self.cursor = last.record.revision;
        }
        if self.range != KeyRange::All {
            for revision in &mut found {
                if let Some(changes) = &mut revision.changes {
                    changes.retain(|change| self.range.contains(&change.key));
                }
            }
            found.retain(|revision| revision.changes.as_ref().is_none_or(|changes| !changes.is_empty()));
        }
        Ok(found)
    }
}
