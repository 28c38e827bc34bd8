//! Makes what a backup's records say true of a new cluster: histories cut, revisions raised, leases whole again.
//!
//! Must hold: what comes out depends on the backup and the orders, and on nothing else, so that all founders of the new
//! cluster come out alike.

use std::collections::BTreeSet;

use kv_core::{ChainRecord, Fold, GroupId, Head, Keyspace, LeaseId, Revision};
use rocksdb::WriteBatch;
use serde::Serialize;

use super::{Header, Placed, RestoredKeyspace};
use crate::{
    StoreError,
    database::Database,
    envelope::seal_value_into,
    state::{
        apply::{lease_content, unlogged},
        keys::{self, Number},
        records::{
            Chained, ChangedKey, GroupRecord, KeyspaceRecord, LeaseRecord, Remembered, Version, standing_content,
        },
    },
};

/// Bytes written to the database at a time.
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// Seconds for which a lease is granted anew that has ended since the point that is restored: its owner can take it up
/// again, or its keys go as they did before.
pub(super) const ENDED_LEASE_SECONDS: u64 = 600;

/// Changes one group's records in the database.
pub(super) struct Settler<'a> {
    database: &'a Database,
    group: GroupId,
    batch: WriteBatch,
    buffer: Vec<u8>,
}

impl<'a> Settler<'a> {
    pub(super) fn new(database: &'a Database, group: GroupId) -> Self {
        Settler { database, group, batch: WriteBatch::default(), buffer: Vec::new() }
    }

    /// Settles a keyspace whose history ends at `cut`. Returns what became of it.
    pub(super) fn keyspace(
        &mut self,
        name: &Keyspace,
        known: &KeyspaceRecord,
        cut: &Head,
        raise: u64,
        header: &Header,
    ) -> Result<(KeyspaceRecord, RestoredKeyspace), StoreError> {
        let (number, head) = (known.number, known.head.revision);
        let mut settled = *known;
        let mut leases_ended = 0;
        if cut.revision < head {
            self.rewind(number, cut.revision)?;
            (settled.keys, settled.bytes, leases_ended) = self.recount(number)?;
        }
        self.delete_kind(keys::EARLIER, number);
        let to = Revision::new(head.get().checked_add(raise).expect("looked at before"));
        let record = ChainRecord::raise(cut, head, to, header.at, header.cluster);
        settled.head = record.head(name);
        settled.floor = to;
        let no_keys: Vec<ChangedKey<'_>> = Vec::new();
        self.put(&keys::chain(self.group, number, to), &Chained { record, keys: no_keys })?;
        let key = keys::keyspace(self.group, name);
        self.batch.put(&key, settled.seal(&key));
        let restored = RestoredKeyspace {
            group: self.group,
            name: name.clone(),
            revision: cut.revision,
            at: cut.at,
            head,
            raised: to,
            keys: settled.keys,
            leases_ended,
        };
        Ok((settled, restored))
    }

    /// Settles the group itself, once its keyspaces are.
    pub(super) fn group(
        mut self,
        record: &GroupRecord,
        settled: &[(Keyspace, KeyspaceRecord)],
        placed: Placed,
    ) -> Result<(), StoreError> {
        self.write()?;
        let (mut fold, mut clock) = (Fold::default(), record.clock);
        for (name, known) in settled {
            fold.toggle(name, &known.head);
            if let Some(content) = standing_content(&known.standing) {
                fold.toggle_record(&keys::keyspace(self.group, name)[2..], &content);
            }
            clock = clock.max(known.head.at);
        }
        self.leases(&mut fold)?;
        self.beside(&mut fold)?;
        let (log_id, membership) = (placed.log_id, Some(placed.membership));
        let (index, keyspaces) = (record.index, record.keyspaces);
        let record = GroupRecord { index, log_id, membership, fold, keyspaces, clock };
        self.put(&keys::group(self.group), &record)?;
        self.write()
    }

    fn put<T: Serialize>(&mut self, key: &[u8], value: &T) -> Result<(), StoreError> {
        let record = seal_value_into(key, value, std::mem::take(&mut self.buffer));
        self.batch.put(key, &record);
        self.buffer = record;
        self.spill()
    }

    fn spill(&mut self) -> Result<(), StoreError> {
        if self.batch.size_in_bytes() >= BATCH_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), StoreError> {
        self.database.write(std::mem::take(&mut self.batch), &unlogged())
    }

    /// Removes all records of a kind that a keyspace has.
    pub(super) fn delete_kind(&mut self, kind: u8, number: Number) {
        let from = keys::kind_of(self.group, kind, number);
        self.batch.delete_range(from.clone(), keys::behind_number(from));
    }

    /// Takes a keyspace back to an earlier revision, at or above its floor.
    fn rewind(&mut self, number: Number, cut: Revision) -> Result<(), StoreError> {
        let (database, group) = (self.database, self.group);
        let range = |kind| {
            let from = keys::kind_of(group, kind, number);
            database.cursor(None, &from, keys::behind_number(from.clone()))
        };
        let mut cursor = range(keys::LATEST);
        while let Some((key, stored)) = cursor.item() {
            let version: Version<'_> = database.open_value(key, stored)?;
            if version.modified > cut {
                self.batch.delete(key);
                self.spill()?;
            }
            cursor.next();
        }
        database.ended(&cursor)?;
        // The versions of a key come latest first: the first one at or before the cut is the one that was seen there,
        // unless the latest of all was.
        let mut cursor = range(keys::EARLIER);
        let mut decided: Option<Vec<u8>> = None;
        while let Some((full, stored)) = cursor.item() {
            let split = keys::split_earlier(full);
            let (key, revision) = split.ok_or_else(|| database.damaged(full, "that is no version's key"))?;
            if revision <= cut && decided.as_ref() != Some(&key) {
                let version: Version<'_> = database.open_value(full, stored)?;
                if version.value.is_some() && version.until > cut {
                    let latest = Version { until: Revision::ZERO, ..version };
                    self.put(&keys::latest(group, number, &key), &latest)?;
                }
                decided = Some(key);
            }
            cursor.next();
        }
        database.ended(&cursor)?;
        self.forget_requests(number, cut)?;
        let chain = keys::kind_of(group, keys::CHAIN, number);
        self.batch.delete_range(keys::chain(group, number, cut.next()), keys::behind_number(chain));
        self.delete_kind(keys::ATTACHED, number);
        self.write()
    }

    /// Forgets the requests that came to something behind the cut: made again, they are carried out.
    fn forget_requests(&mut self, number: Number, cut: Revision) -> Result<(), StoreError> {
        let (database, group) = (self.database, self.group);
        let (from, to) = (keys::kind_start(group, keys::EXPIRY), keys::kind_start(group, keys::EXPIRY + 1));
        let mut cursor = database.cursor(None, &from, to);
        while let Some(key) = cursor.key() {
            let split = keys::split_expiry(key);
            let (_, of, request) = split.ok_or_else(|| database.damaged(key, "that is no remembered request id"))?;
            if of == number {
                let place = keys::request(group, number, &request);
                let stored = database.get(&place)?;
                let remembered: Option<Remembered> =
                    stored.map(|stored| database.open_value(&place, &stored)).transpose()?;
                if remembered.is_none_or(|remembered| remembered.outcome.revision > cut) {
                    self.batch.delete(&place);
                    self.batch.delete(key);
                }
            }
            cursor.next();
        }
        database.ended(&cursor)
    }

    /// Counts a keyspace's keys and their bytes, attaches them to their leases again, and grants the leases anew that
    /// have ended since. Returns keys, bytes, and how many leases those were.
    fn recount(&mut self, number: Number) -> Result<(u64, u64, u64), StoreError> {
        let (database, group) = (self.database, self.group);
        let from = keys::kind_of(group, keys::LATEST, number);
        let mut cursor = database.cursor(None, &from, keys::behind_number(from.clone()));
        let (mut found, mut bytes) = (0, 0);
        let mut ended: BTreeSet<LeaseId> = BTreeSet::new();
        while let Some((key, stored)) = cursor.item() {
            let version: Version<'_> = database.open_value(key, stored)?;
            let name = &key[keys::NUMBERED_BYTES..];
            found += 1;
            bytes += (name.len() + version.value.map_or(0, |value| value.0.len())) as u64;
            if let Some(lease) = version.lease {
                self.put(&keys::attached(group, number, lease, name), &())?;
                let place = keys::lease(group, number, lease);
                if database.get(&place)?.is_none() && ended.insert(lease) {
                    self.put(&place, &LeaseRecord { ttl: ENDED_LEASE_SECONDS, remaining: None })?;
                }
            }
            cursor.next();
        }
        database.ended(&cursor)?;
        Ok((found, bytes, ended.len() as u64))
    }

    /// Gives every lease its full time.
    fn leases(&mut self, fold: &mut Fold) -> Result<(), StoreError> {
        let (database, group) = (self.database, self.group);
        let (from, to) = (keys::kind_start(group, keys::LEASE), keys::kind_start(group, keys::LEASE + 1));
        let mut cursor = database.cursor(None, &from, to);
        while let Some((key, stored)) = cursor.item() {
            let lease: LeaseRecord = database.open_value(key, stored)?;
            let whole = LeaseRecord { remaining: None, ..lease };
            fold.toggle_record(&key[2..], &lease_content(&whole));
            self.put(key, &whole)?;
            cursor.next();
        }
        database.ended(&cursor)
    }

    fn beside(&mut self, fold: &mut Fold) -> Result<(), StoreError> {
        let (from, to) = (keys::kind_start(self.group, keys::BESIDE), keys::kind_start(self.group, keys::BESIDE + 1));
        let mut cursor = self.database.cursor(None, &from, to);
        while let Some((key, stored)) = cursor.item() {
            fold.toggle_record(&key[2..], self.database.open_bytes(key, stored)?);
            cursor.next();
        }
        self.database.ended(&cursor)
    }
}
