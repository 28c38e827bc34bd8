//! Working out a transaction: what its steps come to, given what is stored and what is in flight.
//!
//! Must hold: nothing is changed here. What is compared is the state before the transaction, what a step reads that after
//! the steps before it, on top of everything in flight; what comes out is each changed key once, in the order in which it was first changed.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_core::{
    Attach, Change, Compare, Delete, Done, GroupId, KeyRange, KeyState, KeyValue, Keyspace, LeaseId, Operation, Put,
    Query, RangeResult, Refusal, Revision, Want, limits,
};
use kv_store::{State, StoreError, View};

use crate::overlay::{FastMap, Overlay};

/// Why a transaction cannot be worked out.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It asks for what cannot be.
    Refused(Refusal),
    /// It deletes more keys than one transaction may.
    TooManyDeleted(usize),
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Store(error)
    }
}

impl From<kv_store::ReadError> for Stop {
    fn from(error: kv_store::ReadError) -> Self {
        match error {
            kv_store::ReadError::Compacted { asked, floor } => Stop::Refused(Refusal::Compacted { asked, floor }),
            kv_store::ReadError::Future { asked, head } => Stop::Refused(Refusal::Future { asked, head }),
            kv_store::ReadError::Store(error) => Stop::Store(error),
        }
    }
}

/// Whether a key is in the view, and its state by now.
type States<'a> = dyn Fn(&Option<View<'_>>, &[u8]) -> Result<(bool, Option<KeyState>), Stop> + 'a;

/// One transaction being worked out.
pub(crate) struct Evaluation<'a> {
    state: &'a State,
    group: GroupId,
    keyspace: &'a Keyspace,
    overlay: &'a Overlay,
    /// What the keyspace is at before it.
    base: Revision,
    /// What its own steps have written.
    own: FastMap<Bytes, Option<KeyState>>,
    /// Those keys, in the order in which they were first written.
    order: Vec<Bytes>,
}

impl<'a> Evaluation<'a> {
    pub(crate) fn new(
        state: &'a State,
        group: GroupId,
        keyspace: &'a Keyspace,
        overlay: &'a Overlay,
        base: Revision,
    ) -> Self {
        Evaluation { state, group, keyspace, overlay, base, own: FastMap::default(), order: Vec::new() }
    }

    /// Takes one of two branches. Returns whether the compares held, and what each step came to.
    ///
    /// As in etcd all compares, of nested transactions too, are about what was there before the transaction, and of what
    /// cannot be done on the way taken the puts are refused before the reads.
    pub(crate) fn run(
        &mut self,
        compares: &[Compare],
        then: &[Operation],
        otherwise: &[Operation],
    ) -> Result<(bool, Vec<Done>), Stop> {
        let mut way = Vec::new();
        let taken = self.find_way(compares, then, otherwise, &mut way)?;
        let succeeded = way[0];
        let mut steps = way[1..].iter().copied();
        self.check(taken, &mut way[1..].iter().copied(), &mut |this, operation| match operation {
            Operation::Put(put) => this.check_put(put),
            _ => Ok(()),
        })?;
        self.check(taken, &mut way[1..].iter().copied(), &mut |this, operation| match operation {
            Operation::Range(Query { at: Some(at), .. }) => this.check_revision(*at),
            _ => Ok(()),
        })?;
        let done = self.steps(taken, &mut steps)?;
        Ok((succeeded, done))
    }

    /// Which branches are taken: the outer transaction's, then those of the ones inside it, in order.
    fn find_way<'t>(
        &self,
        compares: &[Compare],
        then: &'t [Operation],
        otherwise: &'t [Operation],
        way: &mut Vec<bool>,
    ) -> Result<&'t [Operation], Stop> {
        let mut succeeded = true;
        for compare in compares {
            succeeded = succeeded && self.holds(compare)?;
        }
        way.push(succeeded);
        let taken = if succeeded { then } else { otherwise };
        for operation in taken {
            if let Operation::Txn(inner) = operation {
                self.find_way(&inner.compares, &inner.then, &inner.otherwise, way)?;
            }
        }
        Ok(taken)
    }

    /// Applies a check to all steps on the way.
    fn check(
        &self,
        taken: &[Operation],
        way: &mut dyn Iterator<Item = bool>,
        check: &mut dyn FnMut(&Self, &Operation) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        for operation in taken {
            match operation {
                Operation::Txn(inner) => self.check(inner.taken(next(way)), way, check)?,
                other => check(self, other)?,
            }
        }
        Ok(())
    }

    fn steps(&mut self, taken: &[Operation], way: &mut dyn Iterator<Item = bool>) -> Result<Vec<Done>, Stop> {
        let mut done = Vec::with_capacity(taken.len());
        for operation in taken {
            done.push(match operation {
                Operation::Put(put) => self.put(put)?,
                Operation::Delete(delete) => self.delete(delete)?,
                Operation::Range(query) => Done::Range(self.query(query)?),
                Operation::Txn(inner) => {
                    let succeeded = next(way);
                    Done::Txn { succeeded, done: self.steps(inner.taken(succeeded), way)? }
                }
            });
        }
        Ok(done)
    }

    /// The changes that all of it comes to.
    pub(crate) fn into_changes(mut self) -> Vec<Change> {
        let change = |key: Bytes| {
            let state = self.own.remove(&key).flatten();
            let lease = state.as_ref().and_then(|state| state.lease);
            Change { key, value: state.map(|state| state.value), lease }
        };
        self.order.drain(..).map(change).collect()
    }

    /// What the keyspace is at before the transaction.
    pub(crate) fn base(&self) -> Revision {
        self.base
    }

    /// Removes the keys attached to a lease, up to the limits on deletes. Returns whether those were all.
    pub(crate) fn detach(&mut self, lease: LeaseId) -> Result<bool, Stop> {
        let mut keys = self.state.attached(self.group, self.keyspace, lease, limits::TXN_OPERATIONS + 1)?;
        let whole = keys.len() <= limits::TXN_OPERATIONS;
        keys.extend(self.overlay.keys(self.keyspace, &KeyRange::All).cloned());
        keys.sort_unstable();
        keys.dedup();
        let (mut removed, mut bytes) = (0, 0);
        for key in keys {
            if self.key(&key)?.is_some_and(|state| state.lease == Some(lease)) {
                if removed == limits::TXN_OPERATIONS || bytes + key.len() > limits::TXN_BYTES {
                    return Ok(false);
                }
                removed += 1;
                bytes += key.len();
                self.write(key, None);
            }
        }
        Ok(whole)
    }

    fn revision(&self) -> Revision {
        if self.own.is_empty() { self.base } else { self.base.next() }
    }

    fn check_put(&self, put: &Put) -> Result<(), Stop> {
        if keeps(put) && self.key(&put.key)?.is_none() {
            return Err(missing(put));
        }
        match put.lease {
            Attach::To(lease) if !self.has_lease(lease) => Err(Stop::Refused(Refusal::LeaseMissing { lease })),
            _ => Ok(()),
        }
    }

    fn has_lease(&self, lease: LeaseId) -> bool {
        let stored = self.state.lease(self.group, self.keyspace, lease).is_some();
        self.overlay.lease(self.keyspace, lease, stored)
    }

    fn check_revision(&self, at: Revision) -> Result<(), Stop> {
        if at > self.base {
            return Err(Stop::Refused(Refusal::Future { asked: at, head: self.base }));
        }
        let head = self.state.head(self.group, self.keyspace).revision;
        self.state.view(self.group, self.keyspace, Some(at.min(head)))?;
        Ok(())
    }

    fn put(&mut self, put: &Put) -> Result<Done, Stop> {
        let before = match keeps(put) || put.previous || self.own.contains_key(&put.key) {
            true => self.key(&put.key)?,
            false => None,
        };
        // It may have been deleted by a step before.
        if keeps(put) && before.is_none() {
            return Err(missing(put));
        }
        let lease = match put.lease {
            Attach::None => None,
            Attach::Keep => before.as_ref().and_then(|state| state.lease),
            Attach::To(lease) => Some(lease),
        };
        let kept = || before.as_ref().map(|state| state.value.clone()).unwrap_or_default();
        let value = put.value.clone().unwrap_or_else(kept);
        // What the state counts from before is filled in when a later step reads it: most do not.
        let revision = self.base.next();
        let next = KeyState { value, create_revision: revision, mod_revision: revision, version: 0, lease };
        self.write(put.key.clone(), Some(next));
        Ok(Done::Put { revision: self.revision(), previous: before.filter(|_| put.previous) })
    }

    fn delete(&mut self, delete: &Delete) -> Result<Done, Stop> {
        let (mut deleted, mut previous) = (0, Vec::new());
        let mut remove = |this: &mut Self, key: Bytes, state: KeyState| {
            deleted += 1;
            if delete.previous {
                previous.push(KeyValue { key: key.clone(), state });
            }
            this.write(key, None);
        };
        if let KeyRange::Key(key) = &delete.range {
            if let Some(state) = self.key(key)? {
                remove(self, key.clone(), state);
            }
        } else {
            let want = if delete.previous { Want::All } else { Want::Keys };
            let limit = Some(limits::TXN_OPERATIONS + 1);
            let found = self.query(&Query { want, limit, ..Query::all(delete.range.clone()) })?;
            if found.more || found.kvs.len() > limits::TXN_OPERATIONS {
                return Err(Stop::TooManyDeleted(usize::try_from(found.count).unwrap_or(usize::MAX)));
            }
            for kv in found.kvs {
                remove(self, kv.key, kv.state);
            }
        }
        Ok(Done::Delete { revision: self.revision(), deleted, previous })
    }

    fn write(&mut self, key: Bytes, state: Option<KeyState>) {
        if self.own.insert(key.clone(), state).is_none() {
            self.order.push(key);
        }
    }

    /// A key's state after the steps so far.
    fn key(&self, key: &[u8]) -> Result<Option<KeyState>, Stop> {
        let stored = self.state.get(self.group, self.keyspace, key, None)?;
        let before = self.overlay.state(self.keyspace, key, stored);
        Ok(self.after_own(key, before))
    }

    /// A key's state after the steps so far, given that before them.
    fn after_own(&self, key: &[u8], before: Option<KeyState>) -> Option<KeyState> {
        match self.own.get(key) {
            None => before,
            Some(None) => None,
            Some(Some(own)) => Some(KeyState {
                create_revision: before.as_ref().map_or(own.create_revision, |state| state.create_revision),
                version: before.map_or(0, |state| state.version) + 1,
                ..own.clone()
            }),
        }
    }

    fn holds(&self, compare: &Compare) -> Result<bool, Stop> {
        if let KeyRange::Key(key) = &compare.range {
            return Ok(compare.holds(self.key(key)?.as_ref()));
        }
        let found = self.query(&Query::all(compare.range.clone()))?;
        Ok(match found.kvs.as_slice() {
            [] => compare.holds(None),
            kvs => kvs.iter().all(|kv| compare.holds(Some(&kv.state))),
        })
    }

    /// A read after the steps so far.
    fn query(&self, query: &Query) -> Result<RangeResult, Stop> {
        if let Some(at) = query.at {
            return self.query_at(query, at);
        }
        let mut touched: Vec<_> = self.overlay.keys(self.keyspace, &query.range).collect();
        touched.extend(self.own.keys().filter(|key| query.range.contains(key)));
        let states = |view: &Option<View<'_>>, key: &[u8]| -> Result<_, Stop> {
            let stored = view.as_ref().map(|view| view.get(key)).transpose()?.flatten();
            Ok((stored.is_some(), self.after_own(key, self.overlay.state(self.keyspace, key, stored))))
        };
        let mut found = self.merge(query, touched, None, &states)?;
        found.revision = self.revision();
        Ok(found)
    }

    /// A read of an earlier revision, which the transaction's own steps don't change.
    fn query_at(&self, query: &Query, at: Revision) -> Result<RangeResult, Stop> {
        let head = self.state.head(self.group, self.keyspace).revision;
        let stored_at = at.min(head);
        let touched: Vec<_> = match at > head {
            true => self.overlay.keys(self.keyspace, &query.range).collect(),
            false => Vec::new(),
        };
        let states = |view: &Option<View<'_>>, key: &[u8]| -> Result<_, Stop> {
            let stored = view.as_ref().map(|view| view.get(key)).transpose()?.flatten();
            Ok((stored.is_some(), self.overlay.state_at(self.keyspace, key, stored, at)))
        };
        let mut found = self.merge(query, touched, Some(stored_at), &states)?;
        found.revision = self.revision();
        Ok(found)
    }

    /// What is stored, with the keys that are different by now exchanged.
    fn merge(
        &self,
        query: &Query,
        touched: Vec<&Bytes>,
        at: Option<Revision>,
        states: &States<'_>,
    ) -> Result<RangeResult, Stop> {
        let view = self.state.view(self.group, self.keyspace, at)?;
        if touched.is_empty() {
            return Ok(match &view {
                Some(view) => view.query(query)?,
                None => RangeResult::default(),
            });
        }
        let mut differing = BTreeMap::new();
        for key in touched {
            if !differing.contains_key(key) {
                differing.insert(key.clone(), states(&view, key)?);
            }
        }
        let whole = !query.in_key_order() || query.order.descending;
        let limit = query.limit.filter(|_| !whole).map(|limit| limit.saturating_add(1 + differing.len()));
        let stored = match &view {
            Some(view) => view.query(&Query { at: None, limit, ..Query::all(query.range.clone()) })?,
            None => RangeResult::default(),
        };
        let mut kvs: BTreeMap<_, _> = stored.kvs.into_iter().map(|kv| (kv.key, kv.state)).collect();
        let mut count = stored.count;
        for (key, (before, state)) in differing {
            count = count.saturating_add_signed(i64::from(state.is_some()) - i64::from(before));
            match state {
                Some(state) => drop(kvs.insert(key, state)),
                None => drop(kvs.remove(&key)),
            }
        }
        let admitted = kvs.into_iter().filter(|(_, state)| query.admits(state.create_revision, state.mod_revision));
        let mut kvs: Vec<_> = admitted.map(|(key, state)| KeyValue { key, state }).collect();
        let more = query.arrange(&mut kvs) && query.want != Want::Count;
        Ok(RangeResult { kvs, more, count, revision: self.base })
    }
}

/// Whether a put keeps something of what is there.
fn keeps(put: &Put) -> bool {
    put.value.is_none() || put.lease == Attach::Keep
}

fn missing(put: &Put) -> Stop {
    Stop::Refused(Refusal::KeyMissing { key: String::from_utf8_lossy(&put.key).into_owned() })
}

/// The next branch on the way: there is one for every transaction that is met.
fn next(way: &mut dyn Iterator<Item = bool>) -> bool {
    way.next().unwrap_or_default()
}
