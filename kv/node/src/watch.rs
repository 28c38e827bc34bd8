//! Watches: a cursor in a keyspace's history that moves as the history grows.
//!
//! A watch holds no queue. It takes what lies after its cursor when it is asked for more, from memory if that is recent
//! and from the store if not; however slow it is, it costs no memory and misses nothing that is retained.

use std::{sync::Arc, time::Duration};

use kv_core::{GroupId, KeyRange, Keyspace, Revision};
use kv_store::{RevisionEvents, State};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    error::{ReadError, WatchError},
    group::Leadership,
    publish::Recent,
};

/// Revisions and bytes taken at a time.
const READ_REVISIONS: usize = 256;
const READ_BYTES: usize = 1024 * 1024;

/// Between two looks whether a keyspace that moves has come.
const ARRIVAL: Duration = Duration::from_millis(20);

/// A watch on all keys of one keyspace. Dropping it ends it.
pub struct Watch {
    pub(crate) history: History,
    pub(crate) cursor: Revision,
    pub(crate) revision: watch::Receiver<Revision>,
}

/// What a keyspace's revisions did, for as long as that has not been compacted. What is recent is in memory only while
/// somebody [watches](crate::Node::watch) the keyspace.
#[derive(Clone)]
pub struct History {
    pub(crate) keyspace: Keyspace,
    pub(crate) state: State,
    /// Of all groups: the keyspace may move.
    pub(crate) groups: Arc<[Leadership]>,
    pub(crate) recent: Arc<Mutex<Recent>>,
}

impl Watch {
    /// The next revisions, each whole, in order, without gaps. Waits for one. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<Arc<RevisionEvents>>, WatchError> {
        loop {
            self.revision.borrow_and_update();
            // Whoever keeps up is not cut off by a compaction that overtakes it: what is in memory is still there.
            let found = match self.history.recent(self.cursor)? {
                Some(recent) => recent,
                None => match self.history.read(&KeyRange::All, self.cursor, true) {
                    // It moves, and this node has not heard yet that it has come.
                    Err(WatchError::Read(ReadError::Unconfirmed { .. })) => {
                        tokio::time::sleep(ARRIVAL).await;
                        continue;
                    }
                    read => read?,
                },
            };
            if let Some(last) = found.last() {
                self.cursor = last.revision;
                return Ok(found);
            }
            self.revision.changed().await.map_err(|_| WatchError::Stopped)?;
        }
    }

    /// Everything up to here was returned.
    pub fn cursor(&self) -> Revision {
        self.cursor
    }

    /// The history of the keyspace that is watched.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Goes on after another revision.
    pub fn seek(&mut self, after: Revision) {
        self.cursor = after;
    }
}

impl History {
    /// Where the keyspace can be read now.
    fn place(&self) -> Result<(GroupId, &Leadership), WatchError> {
        let residence = self.state.residence(&self.keyspace);
        let group = residence.group;
        let unread = |error| Err(WatchError::Read(error));
        let Some(leadership) = self.groups.get(usize::from(group.get())) else {
            return unread(ReadError::Unconfirmed { group });
        };
        match leadership.problem() {
            Some(reason) => unread(ReadError::OutOfService { group, reason: reason.to_string() }),
            // Nothing is lost: whoever asks again when it has come is told all.
            None if !residence.readable => unread(ReadError::Unconfirmed { group }),
            None => Ok((group, leadership)),
        }
    }

    /// The revisions after another one that are in memory. `None`: some of them are not.
    fn recent(&self, after: Revision) -> Result<Option<Vec<Arc<RevisionEvents>>>, WatchError> {
        if let Err(WatchError::Read(error @ ReadError::OutOfService { .. })) = self.place() {
            return Err(WatchError::Read(error));
        }
        Ok(self.recent.lock().after(after, READ_REVISIONS))
    }

    /// What the revisions after another one did to some keys: some of them, in order, without gaps; none if there are no
    /// later ones. Those that did nothing to these keys are among them; recent ones come with the events of other
    /// keys, and with previous states, too. Blocks on disk.
    pub fn read(
        &self,
        range: &KeyRange,
        after: Revision,
        previous: bool,
    ) -> Result<Vec<Arc<RevisionEvents>>, WatchError> {
        loop {
            let (group, leadership) = self.place()?;
            let read = self.read_in(group, leadership, range, after, previous);
            // What was found where it is no more may be less than there is.
            if self.place()?.0 == group {
                return read;
            }
        }
    }

    fn read_in(
        &self,
        group: GroupId,
        leadership: &Leadership,
        range: &KeyRange,
        after: Revision,
        previous: bool,
    ) -> Result<Vec<Arc<RevisionEvents>>, WatchError> {
        let floor = self.state.usage(group, &self.keyspace).floor;
        if after.next() < floor {
            return Err(WatchError::Compacted { keyspace: self.keyspace.clone(), after, floor });
        }
        if let Some(recent) = self.recent.lock().after(after, READ_REVISIONS) {
            return Ok(recent);
        }
        let limits = (READ_REVISIONS, READ_BYTES);
        let read = self.state.events(group, &self.keyspace, range, after, previous, limits);
        let stored = read.map_err(|error| match error {
            kv_store::ReadError::Compacted { floor, .. } => {
                WatchError::Compacted { keyspace: self.keyspace.clone(), after, floor }
            }
            other => WatchError::Read(crate::node::read_error(leadership, group, other)),
        })?;
        Ok(stored.into_iter().map(Arc::new).collect())
    }
}
