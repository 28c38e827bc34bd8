//! Reads of keys: the latest version, or the one at an earlier revision.

use bytes::Bytes;
use kv_core::{GroupId, KeyRange, KeyState, KeyValue, Keyspace, RangeResult, RequestId, Revision, TxnOutcome};

use super::{
    State,
    apply::{counts, stored_request},
    keys::{self, Number},
    records::{KeyspaceRecord, Version},
};
use crate::{
    ReadError, StoreError,
    database::{Cursor, Database, Pinned},
};

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
        let Some(known) = self.known_at(group, keyspace, at)? else { return Ok(None) };
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
        let reading = self.reading(group);
        let Some(mut known) = self.known_at(group, keyspace, at)? else { return Ok(RangeResult::default()) };
        let pinned = self.database().pin();
        drop(reading);
        if at.is_none() {
            // The cache may be a commit behind what is pinned, and the result says which revision it is true of.
            known = stored_keyspace(self.database(), &pinned, group, keyspace)?.unwrap_or(known);
        }
        let revision = at.unwrap_or(known.head.revision);
        let reader = Reader { database: self.database(), group, number: known.number, pinned: Some(&pinned) };
        let mut found = RangeResult { kvs: Vec::new(), more: false, revision };
        reader.walk(range, at, |key, version| {
            let Some(state) = version.state() else { return true };
            found.more = found.kvs.len() == limit;
            if !found.more {
                found.kvs.push(KeyValue { key: Bytes::copy_from_slice(key), state });
            }
            !found.more
        })?;
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

    /// A keyspace that can be read at a revision. `None`: it is empty.
    fn known_at(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        at: Option<Revision>,
    ) -> Result<Option<KeyspaceRecord>, ReadError> {
        let known = self.keyspace(group, keyspace);
        if let Some(asked) = at {
            let head = known.map_or(Revision::ZERO, |known| known.head.revision);
            if asked > head {
                return Err(ReadError::Future { asked, head });
            }
            check_floor(known.as_ref(), asked)?;
        }
        Ok(known)
    }
}

/// Refuses what has been compacted.
pub(super) fn check_floor(known: Option<&KeyspaceRecord>, asked: Revision) -> Result<(), ReadError> {
    match known.map(|known| known.floor) {
        Some(floor) if asked < floor => Err(ReadError::Compacted { asked, floor }),
        _ => Ok(()),
    }
}

fn stored_keyspace(
    database: &Database,
    pinned: &Pinned<'_>,
    group: GroupId,
    keyspace: &Keyspace,
) -> Result<Option<KeyspaceRecord>, StoreError> {
    let key = keys::keyspace(group, keyspace);
    let Some(stored) = pinned.get_pinned(&key).map_err(|error| database.error(error))? else { return Ok(None) };
    database.open_value(&key, &stored).map(Some)
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
    fn bounds(&self, range: &KeyRange) -> Option<(Vec<u8>, Vec<u8>)> {
        let latest = |key: &[u8]| keys::latest(self.group, self.number, key);
        let from = latest(range.start());
        let to = match range {
            KeyRange::All | KeyRange::Prefix(_) => keys::behind(from.clone()),
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
