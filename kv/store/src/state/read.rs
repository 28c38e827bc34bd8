//! Reads of keys: the latest version, or the one at an earlier revision.

use bytes::Bytes;
use kv_core::{
    GroupId, KeyRange, KeyState, KeyValue, Keyspace, LeaseId, Query, RangeResult, RequestId, Revision, TxnOutcome, Want,
};

use super::{
    State,
    apply::{counts, stored_bytes, stored_request},
    keys::{self, Number},
    reclaim::Hold,
    records::{KeyspaceRecord, Version},
};
use crate::{
    ReadError, StoreError,
    database::{Cursor, Database, Pinned},
};

/// A keyspace, in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Keys there are.
    pub keys: u64,
    /// Bytes of those keys and their values.
    pub bytes: u64,
    /// The earliest revision that can be read.
    pub floor: Revision,
}

/// A lease, as it was last written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// How long it lasts without being kept alive, in seconds.
    pub ttl: u64,
    /// What was left of it, if that was written down.
    pub remaining: Option<u64>,
}

impl State {
    /// A key, as it is or as it was at a revision. `None`: it does not exist (then).
    pub fn get(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        key: &[u8],
        at: Option<Revision>,
    ) -> Result<Option<KeyState>, ReadError> {
        let _reading = self.reading(group);
        let Some((known, _hold)) = self.known_at(group, keyspace, at)? else { return Ok(None) };
        let reader = Reader { database: self.database(), group, number: known.number, pinned: None };
        Ok(reader.version(key, at, |version| version.state())?.flatten())
    }

    /// The keys of a range, as they are or as they were at a revision; `limit` of them at most.
    pub fn range(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        range: &KeyRange,
        at: Option<Revision>,
        limit: usize,
    ) -> Result<RangeResult, ReadError> {
        self.query(group, keyspace, &Query { at, limit: Some(limit), ..Query::all(range.clone()) })
    }

    /// The keys that a query asks for.
    pub fn query(&self, group: GroupId, keyspace: &Keyspace, query: &Query) -> Result<RangeResult, ReadError> {
        match self.view(group, keyspace, query.at)? {
            Some(view) => Ok(view.query(query)?),
            None => Ok(RangeResult::default()),
        }
    }

    /// Pins a keyspace as it is, or as it was at a revision. `None`: it is empty.
    pub fn view(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        at: Option<Revision>,
    ) -> Result<Option<View<'_>>, ReadError> {
        let reading = self.reading(group);
        let Some((mut known, hold)) = self.known_at(group, keyspace, at)? else { return Ok(None) };
        let pinned = self.database().pin();
        drop(reading);
        if at.is_none() {
            // The cache may be a commit behind what is pinned, and the result says which revision it is true of.
            // Its rows may be gone by then: nothing is found, and who asks sees that it is elsewhere.
            known = stored_keyspace(self.database(), &pinned, group, keyspace)?.unwrap_or(known);
        }
        Ok(Some(View { state: self, group, keyspace: keyspace.clone(), known, at, pinned, _hold: hold }))
    }

    /// A keyspace, in figures.
    pub fn usage(&self, group: GroupId, keyspace: &Keyspace) -> Usage {
        let known = self.keyspace(group, keyspace);
        known.map_or_else(Usage::default, |known| Usage { keys: known.keys, bytes: known.bytes, floor: known.floor })
    }

    /// A lease of a keyspace.
    pub fn lease(&self, group: GroupId, keyspace: &Keyspace, lease: LeaseId) -> Option<LeaseTerms> {
        let cache = self.group(group).cache.read();
        let number = cache.keyspaces.get(keyspace).filter(|known| known.standing.readable())?.number;
        let found = cache.leases.get(&(number, lease))?;
        Some(LeaseTerms { ttl: found.ttl, remaining: found.remaining })
    }

    /// All leases of a keyspace, in no order.
    pub fn leases_of(&self, group: GroupId, keyspace: &Keyspace) -> Vec<(LeaseId, LeaseTerms)> {
        let cache = self.group(group).cache.read();
        let Some(known) = cache.keyspaces.get(keyspace).filter(|known| known.standing.readable()) else {
            return Vec::new();
        };
        let leases = cache.leases.iter().filter(|((number, _), _)| *number == known.number);
        leases.map(|((_, lease), found)| (*lease, LeaseTerms { ttl: found.ttl, remaining: found.remaining })).collect()
    }

    /// All leases of a group, in no order.
    pub fn leases(&self, group: GroupId) -> Vec<(Keyspace, LeaseId, LeaseTerms)> {
        let cache = self.group(group).cache.read();
        let here = cache.keyspaces.iter().filter(|(_, known)| known.standing.readable());
        let names: std::collections::HashMap<_, _> = here.map(|(name, known)| (known.number, name)).collect();
        let named = cache.leases.iter().filter_map(|((number, lease), found)| {
            let terms = LeaseTerms { ttl: found.ttl, remaining: found.remaining };
            Some(((*names.get(number)?).clone(), *lease, terms))
        });
        named.collect()
    }

    /// The keys attached to a lease, in order; `limit` of them at most.
    pub fn attached(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        lease: LeaseId,
        limit: usize,
    ) -> Result<Vec<Bytes>, StoreError> {
        let _reading = self.reading(group);
        let Some(known) = self.keyspace(group, keyspace) else { return Ok(Vec::new()) };
        let from = keys::attached(group, known.number, lease, &[]);
        let mut cursor = self.database().cursor(None, &from, keys::behind(from.clone()));
        let mut found = Vec::new();
        while let Some(key) = cursor.key().filter(|_| found.len() < limit) {
            found.push(Bytes::copy_from_slice(&key[keys::ATTACHED_BYTES..]));
            cursor.next();
        }
        self.database().ended(&cursor)?;
        Ok(found)
    }

    /// A record beside the keys.
    pub fn beside(&self, group: GroupId, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let _reading = self.reading(group);
        let Some(known) = self.keyspace(group, keyspace) else { return Ok(None) };
        stored_bytes(self.database(), &keys::beside(group, known.number, key))
    }

    /// All records beside the keys that start so, by key.
    pub fn all_beside(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        prefix: &[u8],
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let _reading = self.reading(group);
        let Some(known) = self.keyspace(group, keyspace) else { return Ok(Vec::new()) };
        let from = keys::beside(group, known.number, prefix);
        let pinned = self.database().pin();
        let mut cursor = self.database().cursor(Some(&pinned), &from, keys::behind(from.clone()));
        let mut found = Vec::new();
        while let Some((key, stored)) = cursor.item() {
            let value = self.database().open_bytes(key, stored)?;
            found.push((Bytes::copy_from_slice(&key[keys::NUMBERED_BYTES..]), Bytes::copy_from_slice(value)));
            cursor.next();
        }
        self.database().ended(&cursor)?;
        Ok(found)
    }

    /// Visits the latest state of the keys of a range, in order: key, value, and the revision that wrote it last.
    /// However many there are, it takes no more memory than one.
    pub fn scan(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        range: &KeyRange,
        mut visit: impl FnMut(&[u8], &[u8], Revision),
    ) -> Result<(), StoreError> {
        let reading = self.reading(group);
        let Some(known) = self.keyspace(group, keyspace) else { return Ok(()) };
        let pinned = self.database().pin();
        drop(reading);
        let reader = Reader { database: self.database(), group, number: known.number, pinned: Some(&pinned) };
        reader.walk(range, None, |key, version| {
            if let Some(value) = version.value {
                visit(key, value.0, version.modified);
            }
            true
        })
    }

    /// What a request id came to, if it was applied and not too long ago.
    pub fn outcome(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        request: &RequestId,
    ) -> Result<Option<TxnOutcome>, StoreError> {
        let _reading = self.reading(group);
        let Some(known) = self.keyspace(group, keyspace) else { return Ok(None) };
        let found = stored_request(self.database(), group, known.number, request)?;
        let clock = self.group(group).cache.read().record.as_ref().map(|record| record.clock).unwrap_or_default();
        Ok(found.filter(|found| counts(found, clock)).map(|found| found.outcome))
    }

    /// A keyspace that can be read at a revision, and what keeps that so. `None`: it is empty.
    pub(super) fn known_at(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        at: Option<Revision>,
    ) -> Result<Option<(KeyspaceRecord, Option<Hold>)>, ReadError> {
        let Some(asked) = at else { return Ok(self.keyspace(group, keyspace).map(|known| (known, None))) };
        let hold = self.hold(group, keyspace, asked);
        let known = self.keyspace(group, keyspace);
        let head = known.map_or(Revision::ZERO, |known| known.head.revision);
        if asked > head {
            return Err(ReadError::Future { asked, head });
        }
        if let Some(known) = &known {
            check_floor(known, asked)?;
        }
        Ok(known.map(|known| (known, hold)))
    }

    /// Keeps what a read at a revision can see. The floor has to be looked at afterwards.
    pub(super) fn hold(&self, group: GroupId, keyspace: &Keyspace, revision: Revision) -> Option<Hold> {
        let known = self.keyspace(group, keyspace)?;
        Some(self.0.reclaim.hold(group, known.number, revision))
    }
}

/// A keyspace as it was at one moment, or at one revision.
pub struct View<'a> {
    pub(super) state: &'a State,
    pub(super) group: GroupId,
    pub(super) keyspace: Keyspace,
    pub(super) known: KeyspaceRecord,
    pub(super) at: Option<Revision>,
    pinned: Pinned<'a>,
    _hold: Option<Hold>,
}

impl View<'_> {
    /// The revision that it is true of.
    pub fn revision(&self) -> Revision {
        self.at.unwrap_or(self.known.head.revision)
    }

    pub(super) fn reader(&self) -> Reader<'_> {
        let database = self.state.database();
        Reader { database, group: self.group, number: self.known.number, pinned: Some(&self.pinned) }
    }

    /// One key.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyState>, StoreError> {
        Ok(self.reader().version(key, self.at, |version| version.state())?.flatten())
    }

    /// The keys that a query asks for; its own revision is not looked at.
    pub fn query(&self, query: &Query) -> Result<RangeResult, StoreError> {
        let mut found = RangeResult { revision: self.revision(), ..RangeResult::default() };
        if query.want == Want::Count {
            found.count = self.count(&query.range)?;
            return Ok(found);
        }
        if let KeyRange::Key(key) = &query.range {
            found.kvs.extend(self.get(key)?.map(|state| KeyValue { key: key.clone(), state }));
            found.count = found.kvs.len() as u64;
            found.kvs.retain(|kv| query.admits(kv.state.create_revision, kv.state.mod_revision));
            found.more = query.arrange(&mut found.kvs);
            return Ok(found);
        }
        let limit = query.limit.unwrap_or(usize::MAX);
        if query.in_key_order() {
            self.reader().walk(&query.range, self.at, |key, version| {
                let Some(kv) = wanted(query, key, &version) else { return true };
                found.more = found.kvs.len() == limit;
                if !found.more {
                    found.kvs.push(kv);
                }
                !found.more
            })?;
            found.count = match found.more {
                true => self.count(&query.range)?,
                false => found.kvs.len() as u64,
            };
            return Ok(found);
        }
        // One more than is wanted tells that there are more; beyond some, the worst are thrown away at once.
        let keep = limit.saturating_add(1);
        let crowd = keep.saturating_mul(2).max(SORTED_KEYS);
        let pruning = Query { limit: Some(keep), want: Want::All, ..query.clone() };
        let mut count = 0;
        self.reader().walk(&query.range, self.at, |key, version| {
            count += u64::from(version.value.is_some());
            if query.admits(version.create, version.modified) {
                found.kvs.extend(wanted(query, key, &version));
            }
            if found.kvs.len() >= crowd {
                pruning.arrange(&mut found.kvs);
                found.kvs.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            }
            true
        })?;
        found.count = count;
        found.more = query.arrange(&mut found.kvs);
        Ok(found)
    }
}

/// Keys sorted at a time when the result is a few of many.
const SORTED_KEYS: usize = 4096;

/// What a query takes of a version; nothing of a removal.
pub(super) fn wanted(query: &Query, key: &[u8], version: &Version<'_>) -> Option<KeyValue> {
    version.value?;
    let state = match query.want == Want::Keys && query.order.by != kv_core::SortBy::Value {
        true => Version { value: Some(crate::envelope::Raw(&[])), ..version.clone() }.state()?,
        false => version.state()?,
    };
    Some(KeyValue { key: Bytes::copy_from_slice(key), state })
}

/// Refuses what has been compacted.
pub(super) fn check_floor(known: &KeyspaceRecord, asked: Revision) -> Result<(), ReadError> {
    match asked < known.floor {
        true => Err(ReadError::Compacted { asked, floor: known.floor }),
        false => Ok(()),
    }
}

pub(super) fn stored_keyspace(
    database: &Database,
    pinned: &Pinned<'_>,
    group: GroupId,
    keyspace: &Keyspace,
) -> Result<Option<KeyspaceRecord>, StoreError> {
    let key = keys::keyspace(group, keyspace);
    let Some(stored) = pinned.get_pinned(&key).map_err(|error| database.error(error))? else { return Ok(None) };
    database.open_keyspace(&key, &stored).map(Some)
}

/// Reads one keyspace's versions.
pub(super) struct Reader<'a> {
    pub(super) database: &'a Database,
    pub(super) group: GroupId,
    pub(super) number: Number,
    pub(super) pinned: Option<&'a Pinned<'a>>,
}

impl Reader<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<rocksdb::DBPinnableSlice<'_>>, StoreError> {
        match self.pinned {
            Some(pinned) => pinned.get_pinned(key).map_err(|error| self.database.error(error)),
            None => self.database.get(key),
        }
    }

    /// A key's version at a revision, or its latest. Reading the latest first and then the earlier ones needs no pinned
    /// view: what moves from there to here in between is later than the revision asked for, or here already.
    pub(super) fn version<T>(
        &self,
        key: &[u8],
        at: Option<Revision>,
        take: impl FnOnce(Version<'_>) -> T,
    ) -> Result<Option<T>, StoreError> {
        let latest = keys::latest(self.group, self.number, key);
        if let Some(stored) = self.get(&latest)? {
            let version: Version<'_> = self.database.open_value(&latest, &stored)?;
            if at.is_none_or(|at| version.modified <= at) {
                return Ok(Some(take(version)));
            }
        }
        let Some(at) = at else { return Ok(None) };
        let from = keys::earlier(self.group, self.number, key, at);
        let cursor = self.database.cursor(self.pinned, &from, keys::earlier_end(self.group, self.number, key));
        let Some((earlier, stored)) = cursor.item() else { return self.database.ended(&cursor).map(|()| None) };
        self.database.open_value(earlier, stored).map(|version| Some(take(version)))
    }

    /// The version that exactly this revision wrote.
    pub(super) fn exact<T>(
        &self,
        key: &[u8],
        revision: Revision,
        take: impl FnOnce(Version<'_>) -> T,
    ) -> Result<Option<T>, StoreError> {
        let latest = keys::latest(self.group, self.number, key);
        if let Some(stored) = self.get(&latest)? {
            let version: Version<'_> = self.database.open_value(&latest, &stored)?;
            if version.modified == revision {
                return Ok(Some(take(version)));
            }
        }
        let earlier = keys::earlier(self.group, self.number, key, revision);
        let Some(stored) = self.get(&earlier)? else { return Ok(None) };
        self.database.open_value(&earlier, &stored).map(|version| Some(take(version)))
    }

    /// Visits the versions of a range's keys at a revision, or their latest, in key order, removals among them. Stops
    /// when told `false`.
    pub(super) fn walk(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
        mut visit: impl FnMut(&[u8], Version<'_>) -> bool,
    ) -> Result<(), StoreError> {
        let Some((from, to)) = self.bounds(range) else { return Ok(()) };
        let mut latest = self.database.cursor(self.pinned, &from, to);
        match at {
            None => {
                while let Some((key, stored)) = latest.item() {
                    let version = self.database.open_value(key, stored)?;
                    if !visit(&key[keys::NUMBERED_BYTES..], version) {
                        break;
                    }
                    latest.next();
                }
                self.database.ended(&latest)
            }
            Some(at) => self.walk_at(range, latest, at, visit),
        }
    }

    /// The same at a revision: latest and earlier versions merged by key.
    fn walk_at(
        &self,
        range: &KeyRange,
        mut latest: Cursor<'_>,
        at: Revision,
        mut visit: impl FnMut(&[u8], Version<'_>) -> bool,
    ) -> Result<(), StoreError> {
        let from = keys::earlier_start(self.group, self.number, range.start());
        let mut to = keys::earlier_start(self.group, self.number, &[]);
        to = keys::behind(to);
        let mut earlier = self.database.cursor(self.pinned, &from, to);
        loop {
            let now = latest.key().map(|key| key[keys::NUMBERED_BYTES..].to_vec());
            let then = earlier.key().map(|key| {
                let split = keys::split_earlier(key);
                split.ok_or_else(|| self.database.damaged(key, "that is no version's key")).map(|(key, _)| key)
            });
            let then = then.transpose()?.filter(|key| before_end(range, key));
            let key = match (&now, &then) {
                (Some(now), Some(then)) => now.min(then).clone(),
                (Some(only), None) | (None, Some(only)) => only.clone(),
                (None, None) => break,
            };
            let mut go_on = true;
            let mut settled = false;
            if now.as_ref() == Some(&key) {
                if let Some((full, stored)) = latest.item() {
                    let version: Version<'_> = self.database.open_value(full, stored)?;
                    if version.modified <= at {
                        settled = true;
                        go_on = visit(&key, version);
                    }
                }
                latest.next();
            }
            if then.as_ref() == Some(&key) {
                let end = keys::earlier_end(self.group, self.number, &key);
                if !settled {
                    earlier.seek(keys::earlier(self.group, self.number, &key, at));
                    if let Some((full, stored)) = earlier.item().filter(|(full, _)| *full < end.as_slice()) {
                        go_on = visit(&key, self.database.open_value(full, stored)?);
                    }
                }
                earlier.seek(&end);
            }
            if !go_on {
                break;
            }
        }
        self.database.ended(&latest)?;
        self.database.ended(&earlier)
    }

    /// Where a range's latest versions start and end. `None`: there can be none.
    pub(super) fn bounds(&self, range: &KeyRange) -> Option<(Vec<u8>, Vec<u8>)> {
        let latest = |key: &[u8]| keys::latest(self.group, self.number, key);
        let from = latest(range.start());
        let to = match range {
            KeyRange::Prefix(_) => keys::behind(from.clone()),
            KeyRange::All | KeyRange::From(_) => keys::behind(latest(&[])),
            KeyRange::Key(key) => latest(&[key.as_ref(), &[0]].concat()),
            KeyRange::Span(_, end) => latest(end),
        };
        (from < to).then_some((from, to))
    }
}

/// Whether a key at or behind a range's start lies in it; keys behind one that doesn't lie outside too.
fn before_end(range: &KeyRange, key: &[u8]) -> bool {
    range.contains(key)
}
