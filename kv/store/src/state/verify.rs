//! Walking every chain of a group from its first record, against what is stored beside it.

use kv_core::{ChainError, Digest, Fold, GroupId, Head, KeyRange, Keyspace, Revision};

use super::{
    Applied, State,
    apply::lease_content,
    keys, keyspace_name,
    read::Reader,
    records::{Chained, KeyspaceRecord, standing_content},
    stored_group,
};
use crate::{StoreError, VerifyError, database::Pinned};

/// What [`State::verify`] walked over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Keyspaces that have a revision.
    pub keyspaces: u64,
    /// Chain records.
    pub records: u64,
    /// Of their heads.
    pub fold: Fold,
    /// How far the group's state was.
    pub applied: Option<Applied>,
}

/// A set of (key, revision) pairs in 32 bytes: equal if and only if the sets are, whatever the order.
#[derive(Default, PartialEq, Eq)]
struct Pairs([u8; 32]);

impl Pairs {
    fn toggle(&mut self, key: &[u8], revision: Revision) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&revision.get().to_le_bytes());
        hasher.update(key);
        for (byte, with) in self.0.iter_mut().zip(hasher.finalize().as_bytes()) {
            *byte ^= with;
        }
    }
}

impl State {
    /// Walks every chain of a group from its first record: checks that each record follows from the one before, that the
    /// stored values are those it was made of, that no version is stored that no record made, that the chain ends at the
    /// keyspace's head, and that the heads fold to the group's stored value. Sees one moment's state, however long
    /// it takes, and needs no more memory than the largest commit. Blocks.
    pub fn verify(&self, group: GroupId) -> Result<Verified, VerifyError> {
        let database = self.database();
        let (_holds, pinned) = (self.hold_all(group), self.pinned(group));
        let stored = stored_group(database, &pinned, group)?.unwrap_or_default();
        let applied = (!stored.log_id.is_empty()).then(|| stored.applied());
        let mut verified = Verified { keyspaces: 0, records: 0, fold: Fold::default(), applied };
        let from = keys::kind_start(group, keys::KEYSPACE);
        let mut cursor = database.cursor(Some(&pinned), &from, keys::kind_start(group, keys::KEYSPACE + 1));
        while let Some((key, record)) = cursor.item() {
            let keyspace = keyspace_name(database, key)?;
            let known = database.open_keyspace(key, record)?;
            // What arrives is whole only when it is adopted; of what is gone there is nothing.
            if known.standing.readable() {
                verified.records += self.verify_keyspace(group, &keyspace, &known, &pinned)?;
            }
            if let Some(content) = standing_content(&known.standing) {
                verified.fold.toggle_record(&key[2..], &content);
            }
            verified.fold.toggle(&keyspace, &known.head);
            verified.keyspaces += u64::from(known.head != Head::default());
            cursor.next();
        }
        database.ended(&cursor)?;
        self.fold_beside(group, &pinned, &mut verified.fold)?;
        if verified.fold != stored.fold {
            return Err(VerifyError::Fold { group });
        }
        Ok(verified)
    }

    /// Adds leases and records beside the keys.
    fn fold_beside(&self, group: GroupId, pinned: &Pinned<'_>, fold: &mut Fold) -> Result<(), StoreError> {
        let database = self.database();
        for kind in [keys::LEASE, keys::BESIDE] {
            let (from, to) = (keys::kind_start(group, kind), keys::kind_start(group, kind + 1));
            let mut cursor = database.cursor(Some(pinned), &from, to);
            while let Some((key, stored)) = cursor.item() {
                match kind {
                    keys::LEASE => fold.toggle_record(&key[2..], &lease_content(&database.open_value(key, stored)?)),
                    _ => fold.toggle_record(&key[2..], database.open_bytes(key, stored)?),
                }
                cursor.next();
            }
            database.ended(&cursor)?;
        }
        Ok(())
    }

    /// Returns how many records there are.
    fn verify_keyspace(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        known: &KeyspaceRecord,
        pinned: &Pinned<'_>,
    ) -> Result<u64, VerifyError> {
        let database = self.database();
        let reader = Reader { database, group, number: known.number, pinned: Some(pinned) };
        let unlike = || VerifyError::Keys { keyspace: keyspace.clone() };
        let (mut head, mut pairs, mut records) = (Head::default(), Pairs::default(), 0);
        let from = keys::chain(group, known.number, known.forgotten);
        let end = keys::behind(from[..keys::NUMBERED_BYTES].to_vec());
        let mut cursor = database.cursor(Some(pinned), &from, end);
        while let Some((key, stored)) = cursor.item() {
            let chained: Chained<'_> = database.open_value(key, stored)?;
            if records == 0 && known.forgotten > Revision::ZERO {
                // What came before has gone; what is left of it is the hash that this record names.
                let revision = Revision::new(known.forgotten.get() - 1);
                head = Head { revision, hash: chained.record.previous, at: chained.record.at };
            }
            head = head.step(keyspace, &chained.record)?;
            // A raise wrote nothing, and says so itself.
            if head.revision > known.floor && !chained.record.is_raise() {
                let changes = reader.changes(head.revision, &chained.keys)?;
                if Digest::of(&changes) != chained.record.digest {
                    return Err(ChainError::Changes { keyspace: keyspace.clone(), revision: head.revision }.into());
                }
                for changed in &chained.keys {
                    let there = changed.put || reader.removal(changed.key.0, head.revision)?.ok_or_else(unlike)?;
                    if there {
                        pairs.toggle(changed.key.0, head.revision);
                    }
                }
            }
            records += 1;
            cursor.next();
        }
        database.ended(&cursor)?;
        if head != known.head {
            let (stored, walked) = (known.head.revision, head.revision);
            return Err(VerifyError::Head { keyspace: keyspace.clone(), stored, walked });
        }
        reader.each_version(|key, revision| {
            if revision > known.floor {
                pairs.toggle(key, revision);
            }
        })?;
        if pairs != Pairs::default() {
            return Err(unlike());
        }
        Ok(records)
    }
}

impl Reader<'_> {
    /// Whether a removal is stored that was made at a revision; there is none if there was nothing to remove. `None`: the
    /// key is not removed then.
    fn removal(&self, key: &[u8], revision: Revision) -> Result<Option<bool>, StoreError> {
        let found = self.version(key, Some(revision), |version| (version.value.is_none(), version.modified))?;
        Ok(match found {
            Some((true, modified)) => Some(modified == revision),
            Some((false, _)) => None,
            None => Some(false),
        })
    }

    /// Visits every version, latest or earlier, and every removal: the key and the revision that made it.
    fn each_version(&self, mut visit: impl FnMut(&[u8], Revision)) -> Result<(), StoreError> {
        self.walk(&KeyRange::All, None, |key, version| {
            visit(key, version.modified);
            true
        })?;
        let from = keys::earlier_start(self.group, self.number, &[]);
        let mut cursor = self.database.cursor(self.pinned, &from, keys::behind(from.clone()));
        while let Some(full) = cursor.key() {
            let split = keys::split_earlier(full);
            let (key, revision) = split.ok_or_else(|| self.database.damaged(full, "that is no version's key"))?;
            visit(&key, revision);
            cursor.next();
        }
        self.database.ended(&cursor)
    }
}
