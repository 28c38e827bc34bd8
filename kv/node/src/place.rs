//! Reads of a keyspace that may move while it is read.
//!
//! Must hold: a read sees all that was acknowledged before it began, whichever groups the keyspace was in meanwhile. When
//! this node has applied all of a group up to the beginning, and the keyspace is live there, nothing was acknowledged
//! elsewhere. Where it is sealed, something may have been in the group that it moves to: that group has to be asked too,
//! and if this node then does not find it adopted, it was not when the read began.

use kv_core::{GroupId, Keyspace};

use crate::{
    error::ReadError,
    group::Group,
    node::{Consistency, Node, in_service},
};

/// How often groups are asked anew because the keyspace went on meanwhile.
const ROUNDS: usize = 4;

impl Node {
    /// Returns when the local replicas have all that was acknowledged of a keyspace before the call, anywhere.
    pub async fn up_to_date(&self, keyspace: &Keyspace) -> Result<(), ReadError> {
        let mut group = GroupId::default();
        for _ in 0..ROUNDS {
            let mut passed: Vec<GroupId> = Vec::new();
            loop {
                let residence = self.0.store.state().residence(keyspace);
                let places = [Some(residence.group), residence.moving.map(|(to, _)| to)];
                let next = places.into_iter().flatten().find(|group| !passed.contains(group));
                let Some(next) = next else {
                    if residence.readable {
                        return Ok(());
                    }
                    group = residence.group;
                    break;
                };
                self.read_barrier(next).await?;
                passed.push(next);
            }
        }
        Err(ReadError::Unconfirmed { group })
    }

    /// Waits for what a read has to see.
    pub(crate) async fn ready(&self, keyspace: &Keyspace, consistency: Consistency) -> Result<(), ReadError> {
        let there = || self.0.store.state().residence(keyspace).readable;
        match consistency {
            Consistency::Serializable if there() => Ok(()),
            _ => self.up_to_date(keyspace).await,
        }
    }

    /// Reads in the group where the keyspace is, of the local replica.
    pub(crate) fn here<T>(
        &self,
        keyspace: &Keyspace,
        read: impl Fn(&Group) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        loop {
            let residence = self.0.store.state().residence(keyspace);
            let group = residence.group;
            let unconfirmed = || ReadError::Unconfirmed { group };
            let serving = in_service(self.0.group(group).ok_or_else(unconfirmed)?)?;
            if !residence.readable {
                return Err(unconfirmed());
            }
            let found = read(serving);
            // What was found where it is no more may be less than there is.
            if self.group_of(keyspace) == group {
                return found;
            }
        }
    }

    /// The same of what is in memory.
    pub(crate) fn settled<T>(&self, keyspace: &Keyspace, read: impl Fn(GroupId) -> T) -> T {
        loop {
            let group = self.group_of(keyspace);
            let found = read(group);
            if self.group_of(keyspace) == group {
                return found;
            }
        }
    }
}
