//! Applying: entries go in, one batch comes out.
//!
//! Must hold: what comes out depends on the entries and the state before them, and on nothing else: not on which entries
//! are applied in one call, not on the clock, not on what of the forgotten has been removed yet. All that could be
//! refused was refused by the leader; a commit that does not fit any more is answered the same by every replica.
//!
//! Left to the leader: that a commit names each key once. Of a key named twice the last value stays, and the record then
//! does not verify.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use kv_core::{
    Batch, ChainRecord, Change, Commit, Fold, GroupId, Head, Keyspace, Outcome, RequestId, Revision, Timestamp,
    TxnOutcome, limits::REQUEST_RETENTION,
};
use rocksdb::{WriteBatch, WriteOptions};
use serde::Serialize;

use super::{
    State,
    keys::{self, Number},
    records::{Chained, ChangedKey, GroupRecord, KeyspaceRecord, Remembered, Version},
};
use crate::{
    StoreError,
    database::Database,
    envelope::{Raw, seal_value_into},
};

/// Expired request ids removed for each commit applied: more than the one that it adds, so that none are left behind, and
/// few enough not to be felt.
const EXPIRED_PER_COMMIT: usize = 2;

/// A log entry on its way into the state.
pub struct EntryToApply<'a> {
    /// Its index: greater than that of the entry before.
    pub index: u64,
    /// Its log id.
    pub log_id: Bytes,
    /// The membership that it sets, if it does.
    pub membership: Option<Bytes>,
    /// The commits that it carries, if it does.
    pub batch: Option<&'a Batch>,
}

/// What an entry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedEntry {
    /// One for each of its commits, in order.
    pub outcomes: Vec<Outcome>,
    /// Those of its commits that made a revision.
    pub commits: Vec<AppliedCommit>,
    /// The heads of the group's keyspaces after it.
    pub fold: Fold,
}

/// A commit that made a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedCommit {
    /// Which of the entry's commits.
    pub commit: usize,
    /// The record that it became.
    pub record: ChainRecord,
}

/// What applying remembers from one call to the next; none of it matters for what comes out.
pub(super) struct Applying {
    /// No request id is remembered with an earlier time, so the search for expired ones starts here.
    expiry_from: Timestamp,
}

impl Default for Applying {
    fn default() -> Self {
        Applying { expiry_from: Timestamp::from_micros(i64::MIN) }
    }
}

/// A key's version that is not in the database yet, or has just been read from it.
#[derive(Clone)]
struct Previous {
    create: Revision,
    modified: Revision,
    version: u64,
    value: Bytes,
}

/// One call's work: the batch, and what it has changed so far.
struct Work<'a> {
    database: &'a Database,
    group: GroupId,
    before: &'a BTreeMap<Keyspace, KeyspaceRecord>,
    record: GroupRecord,
    keyspaces: BTreeMap<Keyspace, KeyspaceRecord>,
    versions: HashMap<(Number, Bytes), Option<Previous>>,
    requests: HashMap<(Number, RequestId), Remembered>,
    /// The earliest time at which a request id was remembered in this call.
    remembered_from: Option<Timestamp>,
    batch: WriteBatch,
    buffer: Vec<u8>,
}

impl State {
    /// Applies entries, in order, in one write. They can be read when this returns.
    pub fn apply(&self, group: GroupId, entries: &[EntryToApply<'_>]) -> Result<Vec<AppliedEntry>, StoreError> {
        let slot = self.group(group);
        let mut applying = slot.applying.lock();
        let (done, record, keyspaces) = {
            let cache = slot.cache.read();
            let mut work = Work::new(self.database(), group, cache.record.as_ref(), &cache.keyspaces);
            let done = entries.iter().map(|entry| work.entry(entry)).collect::<Result<Vec<_>, _>>()?;
            let commits: usize = entries.iter().filter_map(|entry| entry.batch).map(|batch| batch.commits.len()).sum();
            work.expire(&mut applying, EXPIRED_PER_COMMIT * commits)?;
            let (record, keyspaces) = work.write()?;
            (done, record, keyspaces)
        };
        let mut cache = slot.cache.write();
        cache.record = Some(record);
        cache.keyspaces.extend(keyspaces);
        Ok(done)
    }
}

impl<'a> Work<'a> {
    fn new(
        database: &'a Database,
        group: GroupId,
        record: Option<&GroupRecord>,
        before: &'a BTreeMap<Keyspace, KeyspaceRecord>,
    ) -> Self {
        Work {
            database,
            group,
            before,
            record: record.cloned().unwrap_or_default(),
            keyspaces: BTreeMap::new(),
            versions: HashMap::new(),
            requests: HashMap::new(),
            remembered_from: None,
            batch: WriteBatch::default(),
            buffer: Vec::new(),
        }
    }

    fn put<T: Serialize>(&mut self, key: &[u8], value: &T) {
        let record = seal_value_into(key, value, std::mem::take(&mut self.buffer));
        self.batch.put(key, &record);
        self.buffer = record;
    }

    fn entry(&mut self, entry: &EntryToApply<'_>) -> Result<AppliedEntry, StoreError> {
        if !self.record.log_id.is_empty() && entry.index <= self.record.index {
            let expected = format!("with an index above {}", self.record.index);
            return Err(StoreError::OutOfOrder { group: self.group, expected, found: entry.index });
        }
        let (mut outcomes, mut commits) = (Vec::new(), Vec::new());
        for (at, commit) in entry.batch.iter().flat_map(|batch| &batch.commits).enumerate() {
            let (outcome, record) = self.commit(commit)?;
            outcomes.push(outcome);
            commits.extend(record.map(|record| AppliedCommit { commit: at, record }));
        }
        self.record.index = entry.index;
        self.record.log_id = entry.log_id.clone();
        if let Some(membership) = &entry.membership {
            self.record.membership = Some(membership.clone());
        }
        Ok(AppliedEntry { outcomes, commits, fold: self.record.fold })
    }

    fn commit(&mut self, commit: &Commit) -> Result<(Outcome, Option<ChainRecord>), StoreError> {
        self.record.clock = self.record.clock.max(commit.at);
        let known = self.keyspaces.get(&commit.keyspace).or_else(|| self.before.get(&commit.keyspace)).copied();
        if let (Some(known), Some(request)) = (known, &commit.request)
            && let Some(first) = self.remembered(known.number, request)?
        {
            return Ok((Outcome::Repeated(first), None));
        }
        let head = known.map_or_else(Head::default, |known| known.head);
        if commit.base != head.revision {
            return Ok((Outcome::Stale { head: head.revision }, None));
        }
        let succeeded = commit.succeeded;
        if commit.changes.is_empty() && commit.request.is_none() {
            return Ok((Outcome::Applied(TxnOutcome { succeeded, revision: head.revision }), None));
        }
        let mut keyspace = known.unwrap_or_else(|| self.found());
        let mut record = None;
        if !commit.changes.is_empty() {
            let made = ChainRecord::follow(&head, commit);
            self.revise(keyspace.number, &made, &commit.changes)?;
            keyspace.head = made.head(&commit.keyspace);
            self.record.fold.replace(&commit.keyspace, &head, &keyspace.head);
            record = Some(made);
        }
        self.keyspaces.insert(commit.keyspace.clone(), keyspace);
        let outcome = TxnOutcome { succeeded, revision: keyspace.head.revision };
        if let Some(request) = &commit.request {
            self.remember(keyspace.number, request, Remembered { outcome, at: commit.at });
        }
        Ok((Outcome::Applied(outcome), record))
    }

    /// A keyspace that was not there before.
    fn found(&mut self) -> KeyspaceRecord {
        let number = self.record.keyspaces;
        self.record.keyspaces = number.checked_add(1).expect("fewer keyspaces than four thousand million");
        KeyspaceRecord { number, head: Head::default(), floor: Revision::ZERO }
    }

    /// Writes a revision: its changes and its record.
    fn revise(&mut self, number: Number, record: &ChainRecord, changes: &[Change]) -> Result<(), StoreError> {
        for change in changes {
            self.change(number, record.revision, change)?;
        }
        let keys = changes.iter().map(|change| ChangedKey { key: Raw(&change.key), put: change.value.is_some() });
        let chained = Chained { record: record.clone(), keys: keys.collect() };
        self.put(&keys::chain(self.group, number, record.revision), &chained);
        Ok(())
    }

    /// Writes one key's new version and moves the one before to where earlier versions are.
    fn change(&mut self, number: Number, revision: Revision, change: &Change) -> Result<(), StoreError> {
        let latest = keys::latest(self.group, number, &change.key);
        let slot = (number, change.key.clone());
        let previous = match self.versions.get(&slot) {
            Some(version) => version.clone(),
            None => self.stored(&latest)?,
        };
        if let Some(Previous { create, modified, version, value }) = &previous {
            let earlier = keys::earlier(self.group, number, &change.key, *modified);
            let (create, modified, version) = (*create, *modified, *version);
            self.put(&earlier, &Version { create, modified, version, value: Some(Raw(value)) });
        }
        let next = change.value.as_ref().map(|value| Previous {
            create: previous.as_ref().map_or(revision, |previous| previous.create),
            modified: revision,
            version: previous.as_ref().map_or(0, |previous| previous.version) + 1,
            value: value.clone(),
        });
        match &next {
            Some(Previous { create, modified, version, value }) => {
                let (create, modified, version) = (*create, *modified, *version);
                self.put(&latest, &Version { create, modified, version, value: Some(Raw(value)) });
            }
            None if previous.is_some() => {
                self.batch.delete(&latest);
                let removal = Version { create: Revision::ZERO, modified: revision, version: 0, value: None };
                self.put(&keys::earlier(self.group, number, &change.key, revision), &removal);
            }
            None => {}
        }
        self.versions.insert(slot, next);
        Ok(())
    }

    /// A key's latest version in the database.
    fn stored(&self, latest: &[u8]) -> Result<Option<Previous>, StoreError> {
        let Some(stored) = self.database.get(latest)? else { return Ok(None) };
        let Version { create, modified, version, value } = self.database.open_value(latest, &stored)?;
        let value = value.ok_or_else(|| self.database.damaged(latest, "a latest version without a value"))?;
        Ok(Some(Previous { create, modified, version, value: Bytes::copy_from_slice(value.0) }))
    }

    /// What a request id came to, if that is recent enough to count.
    fn remembered(&self, number: Number, request: &RequestId) -> Result<Option<TxnOutcome>, StoreError> {
        let found = match self.requests.get(&(number, *request)) {
            Some(found) => Some(*found),
            None => stored_request(self.database, self.group, number, request)?,
        };
        Ok(found.filter(|found| counts(found, self.record.clock)).map(|found| found.outcome))
    }

    fn remember(&mut self, number: Number, request: &RequestId, remembered: Remembered) {
        let at = remembered.at;
        self.put(&keys::request(self.group, number, request), &remembered);
        self.put(&keys::expiry(self.group, at, number, request), &());
        self.requests.insert((number, *request), remembered);
        self.remembered_from = Some(self.remembered_from.map_or(at, |from| from.min(at)));
    }

    /// Removes some of the request ids that count no more.
    fn expire(&mut self, applying: &mut Applying, limit: usize) -> Result<(), StoreError> {
        let horizon = self.record.clock.minus(REQUEST_RETENTION);
        if applying.expiry_from < horizon {
            let from = keys::expiry_start(self.group, applying.expiry_from);
            let mut cursor = self.database.cursor(None, &from, keys::expiry_start(self.group, horizon));
            let mut reached = horizon;
            for removed in 0.. {
                let Some(key) = cursor.key() else { break };
                let split = keys::split_expiry(key);
                let (at, number, request) =
                    split.ok_or_else(|| self.database.damaged(key, "that is no remembered request id"))?;
                if removed == limit {
                    reached = at;
                    break;
                }
                self.batch.delete(key);
                // It may have been remembered anew since.
                let latest = match self.requests.get(&(number, request)) {
                    Some(latest) => Some(*latest),
                    None => stored_request(self.database, self.group, number, &request)?,
                };
                if latest.is_some_and(|latest| latest.at == at) {
                    self.batch.delete(keys::request(self.group, number, &request));
                }
                cursor.next();
            }
            self.database.ended(&cursor)?;
            applying.expiry_from = reached;
        }
        if let Some(from) = self.remembered_from {
            applying.expiry_from = applying.expiry_from.min(from);
        }
        Ok(())
    }

    fn write(mut self) -> Result<(GroupRecord, BTreeMap<Keyspace, KeyspaceRecord>), StoreError> {
        let (record, keyspaces) = (std::mem::take(&mut self.record), std::mem::take(&mut self.keyspaces));
        for (keyspace, changed) in &keyspaces {
            self.put(&keys::keyspace(self.group, keyspace), changed);
        }
        self.put(&keys::group(self.group), &record);
        self.database.write(self.batch, &unlogged())?;
        Ok((record, keyspaces))
    }
}

/// How the state is written: the raft log is its write-ahead log.
pub(super) fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

/// Whether a request id is still recognised, by the time that the group's commits have reached.
pub(super) fn counts(remembered: &Remembered, clock: Timestamp) -> bool {
    remembered.at >= clock.minus(REQUEST_RETENTION)
}

/// What the database has for a request id, whether it still counts or not.
pub(super) fn stored_request(
    database: &Database,
    group: GroupId,
    number: Number,
    request: &RequestId,
) -> Result<Option<Remembered>, StoreError> {
    let key = keys::request(group, number, request);
    let Some(stored) = database.get(&key)? else { return Ok(None) };
    database.open_value(&key, &stored).map(Some)
}
