//! Reads of a keyspace's history: what each revision changed.

use bytes::Bytes;
use kv_core::{Change, GroupId, Keyspace, Revision, RevisionChanges};

use super::{
    State, keys,
    read::{Reader, check_floor},
    records::{Chained, ChangedKey, KeyspaceRecord},
};
use crate::{ReadError, StoreError};

impl State {
    /// The revisions after `after`, each with the values that it wrote: as many as there are, but no more than
    /// `max_revisions`, and no more than make up `max_bytes` of keys and values unless it is one.
    pub fn changes(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        after: Revision,
        max_revisions: usize,
        max_bytes: usize,
    ) -> Result<Vec<RevisionChanges>, ReadError> {
        let _reading = self.reading(group);
        let known = self.keyspace(group, keyspace);
        check_floor(known.as_ref(), after)?;
        let Some(known) = known else { return Ok(Vec::new()) };
        Ok(self.history(group, &known, after, max_revisions, max_bytes)?)
    }

    /// The chain records after a revision, `max` at most, with the values that each revision wrote as long as they are
    /// there.
    pub fn records(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        after: Revision,
        max: usize,
    ) -> Result<Vec<RevisionChanges>, StoreError> {
        let _reading = self.reading(group);
        match self.keyspace(group, keyspace) {
            Some(known) => self.history(group, &known, after, max, usize::MAX),
            None => Ok(Vec::new()),
        }
    }

    fn history(
        &self,
        group: GroupId,
        known: &KeyspaceRecord,
        after: Revision,
        max_revisions: usize,
        max_bytes: usize,
    ) -> Result<Vec<RevisionChanges>, StoreError> {
        let database = self.database();
        let reader = Reader { database, group, number: known.number, pinned: None };
        let (mut found, mut bytes) = (Vec::new(), 0);
        if after >= known.head.revision {
            return Ok(found);
        }
        let mut expected = after.next();
        let from = keys::chain(group, known.number, expected);
        let mut cursor = database.cursor(None, &from, keys::chain(group, known.number, known.head.revision.next()));
        while expected <= known.head.revision && found.len() < max_revisions {
            let Some((key, stored)) = cursor.item() else {
                database.ended(&cursor)?;
                return Err(database.damaged(&keys::chain(group, known.number, expected), "it is missing"));
            };
            let chained: Chained<'_> = database.open_value(key, stored)?;
            if chained.record.revision != expected {
                return Err(database.damaged(&keys::chain(group, known.number, expected), "it is missing"));
            }
            let changes = match expected > known.floor {
                true => Some(reader.changes(expected, &chained.keys)?),
                false => None,
            };
            let size = |change: &Change| change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
            bytes += changes.iter().flatten().map(size).sum::<usize>();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(RevisionChanges { record: chained.record, changes });
            expected = expected.next();
            cursor.next();
        }
        Ok(found)
    }
}

impl Reader<'_> {
    /// What a revision wrote, from the keys in its record and the values that lie with the keys.
    pub(super) fn changes(&self, revision: Revision, keys: &[ChangedKey<'_>]) -> Result<Vec<Change>, StoreError> {
        keys.iter().map(|changed| self.change(revision, changed)).collect()
    }

    fn change(&self, revision: Revision, changed: &ChangedKey<'_>) -> Result<Change, StoreError> {
        let key = Bytes::copy_from_slice(changed.key.0);
        if !changed.put {
            return Ok(Change { key, value: None });
        }
        let value = self.exact(&key, revision, |version| version.value.map(|value| Bytes::copy_from_slice(value.0)))?;
        match value.flatten() {
            Some(value) => Ok(Change { key, value: Some(value) }),
            None => {
                let missing = keys::earlier(self.group, self.number, &key, revision);
                Err(self.database.damaged(&missing, "it is missing, but the chain says that it was written"))
            }
        }
    }
}
