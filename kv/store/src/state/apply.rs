//! Applying: entries go in, one batch comes out.
//!
//! Must hold: what comes out depends on the entries and the state before them, and on nothing else: not on which entries
//! are applied in one call, not on the clock, not on what of the forgotten has been removed yet. All that could be
//! refused was refused by the leader; a commit that does not fit any more is answered the same by every replica.
//!
//! Left to the leader: that a commit names each key once. Of a key named twice the last value stays, and the record then
//! does not verify.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering,
};

use bytes::Bytes;
use kv_core::{
    Batch, ChainRecord, Change, Commit, Effect, Fold, GroupId, Head, KeyState, Keyspace, LeaseId, Outcome, RequestId,
    Revision, Standing, Timestamp, TxnOutcome, limits::REQUEST_RETENTION,
};
use rocksdb::{WriteBatch, WriteOptions};
use serde::Serialize;

use super::{
    Cache, State,
    keys::{self, Number},
    records::{Chained, ChangedKey, GroupRecord, KeyspaceRecord, LeaseRecord, Remembered, Version},
};
use crate::{
    StoreError,
    database::Database,
    envelope::{Raw, seal_bytes, seal_value_into},
};

type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Expired request ids removed for each commit applied: more than the one that it adds, so that none are left behind, and
/// few enough not to be felt.
const EXPIRED_PER_COMMIT: usize = 2;

/// Commits after which expired request ids are looked for again: to look costs a third of what applying a commit does.
pub(super) const EXPIRY_EVERY: usize = 32;

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
    /// What became of each of its changes, in their order.
    pub written: Vec<Written>,
}

/// A key's states around one change of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The state before.
    pub previous: Option<KeyState>,
    /// The state after.
    pub state: Option<KeyState>,
}

/// What applying remembers from one call to the next; none of it matters for what comes out.
pub(super) struct Applying {
    /// No request id is remembered with an earlier time, so the search for expired ones starts here.
    expiry_from: Timestamp,
    /// Commits since the last search.
    commits: usize,
}

impl Default for Applying {
    fn default() -> Self {
        Applying { expiry_from: Timestamp::from_micros(i64::MIN), commits: 0 }
    }
}

/// One call's work: the batch, and what it has changed so far.
pub(super) struct Work<'a> {
    pub(super) database: &'a Database,
    pub(super) group: GroupId,
    pub(super) before: &'a Cache,
    pub(super) record: GroupRecord,
    pub(super) keyspaces: BTreeMap<Keyspace, KeyspaceRecord>,
    /// Of the keyspaces changed by the current entry: where they were before it.
    pub(super) heads: FastMap<Keyspace, Head>,
    pub(super) versions: FastMap<(Number, Bytes), Option<KeyState>>,
    /// Leases changed in this call; `None`: ended.
    pub(super) leases: HashMap<(Number, LeaseId), Option<LeaseRecord>>,
    /// Records beside the keys changed in this call.
    pub(super) beside: HashMap<(Number, Bytes), Option<Bytes>>,
    /// Keys that came to be (`true`) or went.
    pub(super) moved: Vec<(Number, Bytes, bool)>,
    /// Keyspaces of which nothing is left.
    pub(super) gone: Vec<Number>,
    pub(super) requests: HashMap<(Number, RequestId), Remembered>,
    /// The earliest time at which a request id was remembered in this call.
    remembered_from: Option<Timestamp>,
    pub(super) batch: WriteBatch,
    buffer: Vec<u8>,
}

impl State {
    /// Applies entries, in order, in one write. They can be read when this returns.
    pub fn apply(&self, group: GroupId, entries: &[EntryToApply<'_>]) -> Result<Vec<AppliedEntry>, StoreError> {
        let slot = self.group(group);
        let mut applying = slot.applying.lock();
        let (done, changed) = {
            let cache = slot.cache.read();
            let mut work = Work::new(self.database(), group, &cache);
            let done = entries.iter().map(|entry| work.entry(entry)).collect::<Result<Vec<_>, _>>()?;
            let commits: usize = entries.iter().filter_map(|entry| entry.batch).map(|batch| batch.commits.len()).sum();
            work.expire(&mut applying, commits)?;
            work.seal();
            let moved = std::mem::take(&mut work.moved);
            slot.counts.begin(work.record.index, moved);
            // Readers have to know before the rows go.
            let standings = work.standings();
            self.0.residences.tell(group, standings.filter(|(_, standing)| !standing.readable()));
            slot.moments.fetch_add(1, Ordering::SeqCst);
            (done, work.write()?)
        };
        slot.counts.forget(&changed.gone);
        let mut cache = slot.cache.write();
        cache.record = Some(changed.record);
        let arrived: Vec<_> = changed.standings;
        cache.keyspaces.extend(changed.keyspaces);
        for (lease, record) in changed.leases {
            match record {
                Some(record) => drop(cache.leases.insert(lease, record)),
                None => drop(cache.leases.remove(&lease)),
            }
        }
        drop(cache);
        self.0.residences.tell(group, arrived.iter().map(|(keyspace, standing)| (keyspace, *standing)));
        slot.moments.fetch_add(1, Ordering::SeqCst);
        slot.counts.settle(self.database(), group)?;
        Ok(done)
    }
}

/// What a call has changed of what is kept in memory.
struct Changed {
    record: GroupRecord,
    keyspaces: BTreeMap<Keyspace, KeyspaceRecord>,
    leases: HashMap<(Number, LeaseId), Option<LeaseRecord>>,
    standings: Vec<(Keyspace, Standing)>,
    gone: Vec<Number>,
}

impl<'a> Work<'a> {
    fn new(database: &'a Database, group: GroupId, before: &'a Cache) -> Self {
        Work {
            database,
            group,
            before,
            record: before.record.clone().unwrap_or_default(),
            keyspaces: BTreeMap::new(),
            heads: FastMap::default(),
            versions: FastMap::default(),
            leases: HashMap::new(),
            beside: HashMap::new(),
            moved: Vec::new(),
            gone: Vec::new(),
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
        self.heads.clear();
        for (at, commit) in entry.batch.iter().flat_map(|batch| &batch.commits).enumerate() {
            let (outcome, made) = self.commit(commit)?;
            outcomes.push(outcome);
            commits.extend(made.map(|(record, written)| AppliedCommit { commit: at, record, written }));
        }
        for (keyspace, before) in self.heads.drain() {
            let after = self.keyspaces.get(&keyspace).map_or(before, |known| known.head);
            self.record.fold.replace(&keyspace, &before, &after);
        }
        self.record.index = entry.index;
        self.record.log_id = entry.log_id.clone();
        if let Some(membership) = &entry.membership {
            self.record.membership = Some(membership.clone());
        }
        Ok(AppliedEntry { outcomes, commits, fold: self.record.fold })
    }

    fn commit(&mut self, commit: &Commit) -> Result<(Outcome, Option<Made>), StoreError> {
        self.record.clock = self.record.clock.max(commit.at);
        if let Some((id, step)) = commit.step() {
            return self.step(commit, id, step).map(|outcome| (outcome, None));
        }
        let known = self.known(&commit.keyspace);
        if let (Some(known), Some(request)) = (known.filter(|known| known.standing.readable()), &commit.request)
            && let Some(first) = self.remembered(known.number, request)?
        {
            return Ok((Outcome::Repeated(first), None));
        }
        if let Some(to) = known.and_then(|known| known.standing.elsewhere()) {
            return Ok((Outcome::Elsewhere { to }, None));
        }
        let head = known.map_or_else(Head::default, |known| known.head);
        if commit.base != head.revision {
            return Ok((Outcome::Stale { head: head.revision }, None));
        }
        let succeeded = commit.succeeded;
        if commit.changes.is_empty() && commit.effects.is_empty() && commit.request.is_none() {
            return Ok((Outcome::Applied(TxnOutcome { succeeded, revision: head.revision }), None));
        }
        let mut keyspace = known.unwrap_or_else(|| self.found());
        let mut made = None;
        if !commit.changes.is_empty() {
            let record = ChainRecord::follow(&head, commit);
            let written = self.revise(&mut keyspace, &record, &commit.changes)?;
            keyspace.head = record.head(&commit.keyspace);
            self.heads.entry(commit.keyspace.clone()).or_insert(head);
            made = Some((record, written));
        }
        for effect in &commit.effects {
            self.effect(&mut keyspace, effect)?;
        }
        self.keyspaces.insert(commit.keyspace.clone(), keyspace);
        let outcome = TxnOutcome { succeeded, revision: keyspace.head.revision };
        if let Some(request) = &commit.request {
            self.remember(keyspace.number, request, Remembered { outcome, at: commit.at });
        }
        Ok((Outcome::Applied(outcome), made))
    }

    /// A keyspace that was not there before.
    pub(super) fn found(&mut self) -> KeyspaceRecord {
        let number = self.record.keyspaces;
        self.record.keyspaces = number.checked_add(1).expect("fewer keyspaces than four thousand million");
        KeyspaceRecord { number, ..KeyspaceRecord::default() }
    }

    /// Writes a revision: its changes and its record.
    fn revise(
        &mut self,
        keyspace: &mut KeyspaceRecord,
        record: &ChainRecord,
        changes: &[Change],
    ) -> Result<Vec<Written>, StoreError> {
        let written = changes.iter().map(|change| self.change(keyspace, record.revision, change));
        let written = written.collect::<Result<_, _>>()?;
        let keys = changes.iter().map(|change| ChangedKey { key: Raw(&change.key), put: change.value.is_some() });
        let chained = Chained { record: record.clone(), keys: keys.collect() };
        self.put(&keys::chain(self.group, keyspace.number, record.revision), &chained);
        Ok(written)
    }

    /// Writes one key's new version and moves the one before to where earlier versions are.
    fn change(
        &mut self,
        keyspace: &mut KeyspaceRecord,
        revision: Revision,
        change: &Change,
    ) -> Result<Written, StoreError> {
        let number = keyspace.number;
        let latest = keys::latest(self.group, number, &change.key);
        let slot = (number, change.key.clone());
        let previous = match self.versions.get(&slot) {
            Some(version) => version.clone(),
            None => self.stored(&latest)?,
        };
        let bytes = |value: &Bytes| (change.key.len() + value.len()) as u64;
        if let Some(previous) = &previous {
            let earlier = keys::earlier(self.group, number, &change.key, previous.mod_revision);
            self.put(&earlier, &version(previous, revision));
            keyspace.keys -= 1;
            keyspace.bytes -= bytes(&previous.value);
        }
        let next = change.value.as_ref().map(|value| KeyState {
            value: value.clone(),
            create_revision: previous.as_ref().map_or(revision, |previous| previous.create_revision),
            mod_revision: revision,
            version: previous.as_ref().map_or(0, |previous| previous.version) + 1,
            lease: change.lease,
        });
        match &next {
            Some(next) => {
                self.put(&latest, &version(next, Revision::ZERO));
                keyspace.keys += 1;
                keyspace.bytes += bytes(&next.value);
            }
            None if previous.is_some() => {
                self.batch.delete(&latest);
                let removal = Version {
                    create: Revision::ZERO,
                    modified: revision,
                    until: revision,
                    version: 0,
                    lease: None,
                    value: None,
                };
                self.put(&keys::earlier(self.group, number, &change.key, revision), &removal);
            }
            None => {}
        }
        self.attach(number, &change.key, previous.as_ref().and_then(|state| state.lease), change.lease);
        if previous.is_some() != next.is_some() {
            self.moved.push((number, change.key.clone(), next.is_some()));
        }
        self.versions.insert(slot, next.clone());
        Ok(Written { previous, state: next })
    }

    pub(super) fn attach(&mut self, number: Number, key: &[u8], before: Option<LeaseId>, after: Option<LeaseId>) {
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.batch.delete(keys::attached(self.group, number, before, key));
        }
        if let Some(after) = after {
            self.put(&keys::attached(self.group, number, after, key), &());
        }
    }

    /// Carries out what makes no revision.
    fn effect(&mut self, keyspace: &mut KeyspaceRecord, effect: &Effect) -> Result<(), StoreError> {
        let number = keyspace.number;
        match effect {
            Effect::Grant { lease, ttl } => {
                self.set_lease(number, *lease, Some(LeaseRecord { ttl: *ttl, remaining: None }));
            }
            Effect::Checkpoint { lease, remaining } => {
                if let Some(known) = self.lease(number, *lease) {
                    self.set_lease(number, *lease, Some(LeaseRecord { remaining: *remaining, ..known }));
                }
            }
            Effect::Revoke { lease } => self.set_lease(number, *lease, None),
            Effect::Compact { to, records } => {
                keyspace.floor = keyspace.floor.max(*to).min(keyspace.head.revision);
                if *records {
                    keyspace.forgotten = keyspace.forgotten.max(keyspace.floor);
                }
            }
            Effect::Record { key, value } => self.set_beside(number, key, value.as_ref())?,
            // It stands alone in its commit, or is not looked at.
            Effect::Move { .. } => {}
        }
        Ok(())
    }

    pub(super) fn lease(&self, number: Number, lease: LeaseId) -> Option<LeaseRecord> {
        let slot = (number, lease);
        self.leases.get(&slot).copied().unwrap_or_else(|| self.before.leases.get(&slot).copied())
    }

    pub(super) fn set_lease(&mut self, number: Number, lease: LeaseId, record: Option<LeaseRecord>) {
        let place = keys::lease(self.group, number, lease);
        for one in [self.lease(number, lease), record].iter().flatten() {
            self.record.fold.toggle_record(&place[2..], &lease_content(one));
        }
        match &record {
            Some(record) => self.put(&place, record),
            None => self.batch.delete(&place),
        }
        self.leases.insert((number, lease), record);
    }

    pub(super) fn set_beside(&mut self, number: Number, key: &Bytes, value: Option<&Bytes>) -> Result<(), StoreError> {
        let place = keys::beside(self.group, number, key);
        let slot = (number, key.clone());
        let before = match self.beside.get(&slot) {
            Some(before) => before.clone(),
            None => stored_bytes(self.database, &place)?,
        };
        for one in [before.as_ref(), value].into_iter().flatten() {
            self.record.fold.toggle_record(&place[2..], one);
        }
        match value {
            Some(value) => self.batch.put(&place, seal_bytes(&place, value)),
            None => self.batch.delete(&place),
        }
        self.beside.insert(slot, value.cloned());
        Ok(())
    }

    /// A key's latest version in the database.
    pub(super) fn stored(&self, latest: &[u8]) -> Result<Option<KeyState>, StoreError> {
        let Some(stored) = self.database.get(latest)? else { return Ok(None) };
        let version: Version<'_> = self.database.open_value(latest, &stored)?;
        match version.state() {
            Some(state) => Ok(Some(state)),
            None => Err(self.database.damaged(latest, "a latest version without a value")),
        }
    }

    /// What a request id came to, if that is recent enough to count.
    fn remembered(&self, number: Number, request: &RequestId) -> Result<Option<TxnOutcome>, StoreError> {
        let found = match self.requests.get(&(number, *request)) {
            Some(found) => Some(*found),
            None => stored_request(self.database, self.group, number, request)?,
        };
        Ok(found.filter(|found| counts(found, self.record.clock)).map(|found| found.outcome))
    }

    pub(super) fn remember(&mut self, number: Number, request: &RequestId, remembered: Remembered) {
        let at = remembered.at;
        self.put(&keys::request(self.group, number, request), &remembered);
        self.put(&keys::expiry(self.group, at, number, request), &());
        self.requests.insert((number, *request), remembered);
        self.remembered_from = Some(self.remembered_from.map_or(at, |from| from.min(at)));
    }

    /// Removes some of the request ids that count no more, from time to time.
    fn expire(&mut self, applying: &mut Applying, commits: usize) -> Result<(), StoreError> {
        applying.commits += commits;
        if applying.commits >= EXPIRY_EVERY {
            let commits = std::mem::take(&mut applying.commits);
            self.remove_expired(applying, EXPIRED_PER_COMMIT * commits)?;
        }
        if let Some(from) = self.remembered_from {
            applying.expiry_from = applying.expiry_from.min(from);
        }
        Ok(())
    }

    /// Removes request ids that count no more, so many at most.
    fn remove_expired(&mut self, applying: &mut Applying, limit: usize) -> Result<(), StoreError> {
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
        Ok(())
    }

    /// Puts what is kept in memory too into the batch.
    fn seal(&mut self) {
        let keyspaces = std::mem::take(&mut self.keyspaces);
        for (keyspace, changed) in &keyspaces {
            let place = keys::keyspace(self.group, keyspace);
            self.batch.put(&place, changed.seal(&place));
        }
        self.keyspaces = keyspaces;
        let record = self.record.clone();
        self.put(&keys::group(self.group), &record);
    }

    /// The keyspaces that stand otherwise than before.
    fn standings(&self) -> impl Iterator<Item = (&Keyspace, Standing)> {
        self.keyspaces.iter().filter_map(|(keyspace, record)| {
            let before = self.before.keyspaces.get(keyspace).map(|known| known.standing).unwrap_or_default();
            (record.standing != before).then_some((keyspace, record.standing))
        })
    }

    fn write(mut self) -> Result<Changed, StoreError> {
        let standings = self.standings().map(|(keyspace, standing)| (keyspace.clone(), standing)).collect();
        self.database.write_patiently(std::mem::take(&mut self.batch), &unlogged())?;
        let Work { record, keyspaces, leases, gone, .. } = self;
        Ok(Changed { record, keyspaces, leases, standings, gone })
    }
}

/// What a commit made: its record, and what became of its keys.
type Made = (ChainRecord, Vec<Written>);

/// A state as it is stored.
fn version(state: &KeyState, until: Revision) -> Version<'_> {
    Version {
        create: state.create_revision,
        modified: state.mod_revision,
        until,
        version: state.version,
        lease: state.lease,
        value: Some(Raw(&state.value)),
    }
}

/// What of a lease counts when replicas are compared.
pub(super) fn lease_content(record: &LeaseRecord) -> [u8; 16] {
    let remaining = record.remaining.map_or(u64::MAX, |seconds| seconds);
    let mut content = [0; 16];
    content[..8].copy_from_slice(&record.ttl.to_le_bytes());
    content[8..].copy_from_slice(&remaining.to_le_bytes());
    content
}

/// The payload of a record of bytes.
pub(super) fn stored_bytes(database: &Database, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
    let Some(stored) = database.get(key)? else { return Ok(None) };
    Ok(Some(Bytes::copy_from_slice(database.open_bytes(key, &stored)?)))
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
