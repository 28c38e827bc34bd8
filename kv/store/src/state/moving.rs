//! Applying the steps of a keyspace's move.
//!
//! Must hold, as for all of applying: what comes out depends on the steps and the state before them alone. A step that
//! does not fit, or whose rows make no sense, changes nothing and is answered so.

use bytes::Bytes;
use kv_core::{
    ChainRecord, Commit, KeyState, Keyspace, LeaseId, MoveId, MoveStep, Outcome, Phase, RequestId, Row, Standing,
    Stepped, Terms, TxnOutcome,
};

use super::{
    apply::{Work, lease_content, stored_bytes},
    keys::{self, Number},
    records::{Chained, KeyspaceRecord, LeaseRecord, Remembered, Version, standing_content},
};
use crate::{
    StoreError,
    envelope::{FORMAT, seal_bytes},
};

/// A row that makes sense.
enum Filled {
    Latest(Option<KeyState>),
    Earlier,
    Chain(Option<ChainRecord>),
    Request(RequestId, Remembered),
    Lease(LeaseId, Option<LeaseRecord>),
    Beside,
}

/// What a row says; `None`: nothing that makes sense.
fn read(row: &Row) -> Option<Filled> {
    fn value<'a, T: serde::Deserialize<'a>>(row: &'a Row) -> Option<Option<T>> {
        row.value.as_deref().map(|value| postcard::from_bytes(value).ok()).map_or(Some(None), |read| read.map(Some))
    }
    Some(match row.kind {
        keys::LATEST => match value::<Version<'_>>(row)? {
            Some(version) => Filled::Latest(Some(version.state()?)),
            None => Filled::Latest(None),
        },
        keys::EARLIER => value::<Version<'_>>(row).map(|_| Filled::Earlier)?,
        keys::CHAIN => Filled::Chain(value::<Chained<'_>>(row)?.map(|chained| chained.record)),
        keys::REQUEST => Filled::Request(RequestId::new(row.key[..].try_into().ok()?), value(row)??),
        keys::LEASE => {
            let lease = LeaseId::new(i64::from_be_bytes(row.key[..].try_into().ok()?))?;
            Filled::Lease(lease, value(row)?)
        }
        keys::BESIDE => Filled::Beside,
        _ => return None,
    })
}

impl Work<'_> {
    /// Takes a step, or not.
    pub(super) fn step(&mut self, commit: &Commit, id: MoveId, step: &MoveStep) -> Result<Outcome, StoreError> {
        let name = &commit.keyspace;
        let known = self.known(name);
        let held = known.map_or((0, 0), |known| (known.keys, known.bytes));
        let taken = match step.decide(id, known.map(|known| known.standing), held) {
            Stepped::Before => true,
            Stepped::Refused => false,
            Stepped::Now(standing) => {
                let record = known.unwrap_or_else(|| self.found());
                self.stand(name, record, standing);
                true
            }
            Stepped::Filled { standing, begins } => {
                let record = known.filter(|_| !begins).unwrap_or_else(|| self.arriving(known));
                self.fill(name, record, standing, step)?
            }
            Stepped::Adopted(standing) => {
                let record = known.unwrap_or_default();
                let terms = match step {
                    MoveStep::Adopt { terms, .. } => *terms,
                    _ => record.terms(),
                };
                let Terms { head, floor, forgotten, keys, bytes } = terms;
                self.heads.entry(name.clone()).or_insert(record.head);
                self.stand(name, KeyspaceRecord { head, floor, forgotten, keys, bytes, ..record }, standing);
                true
            }
            Stepped::Emptied(standing) => {
                let record = known.unwrap_or_default();
                self.heads.entry(name.clone()).or_insert(record.head);
                self.empty(record.number)?;
                let number = record.number;
                let emptied = KeyspaceRecord { number, standing: record.standing, ..KeyspaceRecord::default() };
                self.stand(name, emptied, standing);
                true
            }
        };
        let revision = self.known(name).unwrap_or_default().head.revision;
        Ok(Outcome::Applied(TxnOutcome { succeeded: taken, revision }))
    }

    /// A keyspace that begins to arrive, with a number that no row had before.
    fn arriving(&mut self, known: Option<KeyspaceRecord>) -> KeyspaceRecord {
        let standing = known.map(|known| known.standing).unwrap_or_default();
        KeyspaceRecord { standing, ..self.found() }
    }

    /// Puts down what the group has of a keyspace now.
    fn stand(&mut self, name: &Keyspace, record: KeyspaceRecord, standing: Standing) {
        let place = keys::keyspace(self.group, name);
        // What is counted is what is stored, whatever `record` was made of.
        let before = self.known(name).map(|known| known.standing).unwrap_or_default();
        for one in [before, standing].iter().filter_map(standing_content) {
            self.record.fold.toggle_record(&place[2..], &one);
        }
        self.keyspaces.insert(name.clone(), KeyspaceRecord { standing, ..record });
    }

    /// Rows come. `false`: they make no sense.
    fn fill(
        &mut self,
        name: &Keyspace,
        mut record: KeyspaceRecord,
        mut standing: Standing,
        step: &MoveStep,
    ) -> Result<bool, StoreError> {
        let MoveStep::Fill { format, rows, .. } = step else { return Ok(false) };
        let read: Option<Vec<_>> = rows.iter().map(read).collect();
        let Some(read) = read.filter(|_| *format == FORMAT) else { return Ok(false) };
        for (row, filled) in rows.iter().zip(read) {
            let number = record.number;
            match filled {
                Filled::Latest(state) => self.fill_latest(&mut record, row, state)?,
                Filled::Earlier => self.fill_plain(number, row),
                Filled::Chain(chained) => {
                    self.fill_plain(number, row);
                    if let (Some(chained), Phase::Arriving { tip, .. }) = (chained, &mut standing.phase)
                        && chained.revision > tip.revision
                    {
                        *tip = chained.head(name);
                    }
                }
                Filled::Request(request, remembered) => self.remember(number, &request, remembered),
                Filled::Lease(lease, terms) => self.set_lease(number, lease, terms),
                Filled::Beside => self.set_beside(number, &row.key, row.value.as_ref())?,
            }
        }
        self.stand(name, record, standing);
        Ok(true)
    }

    fn fill_plain(&mut self, number: Number, row: &Row) {
        let place = [keys::kind_of(self.group, row.kind, number).as_slice(), &row.key].concat();
        match &row.value {
            Some(value) => self.batch.put(&place, seal_bytes(&place, value)),
            None => self.batch.delete(&place),
        }
    }

    fn fill_latest(
        &mut self,
        record: &mut KeyspaceRecord,
        row: &Row,
        next: Option<KeyState>,
    ) -> Result<(), StoreError> {
        let number = record.number;
        let slot = (number, row.key.clone());
        let previous = match self.versions.get(&slot) {
            Some(version) => version.clone(),
            None => self.stored(&keys::latest(self.group, number, &row.key))?,
        };
        self.fill_plain(number, row);
        let bytes = |state: &KeyState| (row.key.len() + state.value.len()) as u64;
        if let Some(previous) = &previous {
            record.keys -= 1;
            record.bytes -= bytes(previous);
        }
        if let Some(next) = &next {
            record.keys += 1;
            record.bytes += bytes(next);
        }
        let lease = |state: &Option<KeyState>| state.as_ref().and_then(|state| state.lease);
        self.attach(number, &row.key, lease(&previous), lease(&next));
        if previous.is_some() != next.is_some() {
            self.moved.push((number, row.key.clone(), next.is_some()));
        }
        self.versions.insert(slot, next);
        Ok(())
    }

    /// All rows of a keyspace go, those of this call among them. What tells when request ids may go stays, and goes with
    /// time.
    fn empty(&mut self, number: Number) -> Result<(), StoreError> {
        let leases: Vec<_> = self.before.leases.keys().chain(self.leases.keys()).copied().collect();
        for (_, lease) in leases.into_iter().filter(|(of, _)| *of == number) {
            if let Some(terms) = self.lease(number, lease) {
                let place = keys::lease(self.group, number, lease);
                self.record.fold.toggle_record(&place[2..], &lease_content(&terms));
                self.leases.insert((number, lease), None);
            }
        }
        for (key, value) in self.all_beside(number)? {
            let place = keys::beside(self.group, number, &key);
            self.record.fold.toggle_record(&place[2..], &value);
            self.beside.insert((number, key), None);
        }
        for kind in [keys::LATEST, keys::EARLIER, keys::CHAIN, keys::REQUEST, keys::LEASE, keys::ATTACHED, keys::BESIDE]
        {
            let from = keys::kind_of(self.group, kind, number);
            self.batch.delete_range(from.clone(), keys::behind(from));
        }
        self.versions.retain(|(of, _), _| *of != number);
        self.requests.retain(|(of, _), _| *of != number);
        self.gone.push(number);
        Ok(())
    }

    /// All records beside a keyspace's keys, as they are now.
    fn all_beside(&self, number: Number) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let from = keys::beside(self.group, number, &[]);
        let mut found = std::collections::BTreeMap::new();
        let mut cursor = self.database.cursor(None, &from, keys::behind(from.clone()));
        while let Some(key) = cursor.key() {
            if let Some(value) = stored_bytes(self.database, key)? {
                found.insert(Bytes::copy_from_slice(&key[keys::NUMBERED_BYTES..]), value);
            }
            cursor.next();
        }
        self.database.ended(&cursor)?;
        for ((_, key), value) in self.beside.iter().filter(|((of, _), _)| *of == number) {
            match value {
                Some(value) => drop(found.insert(key.clone(), value.clone())),
                None => drop(found.remove(key)),
            }
        }
        Ok(found.into_iter().collect())
    }

    /// What there is of a keyspace, after what this call has done.
    pub(super) fn known(&self, name: &Keyspace) -> Option<KeyspaceRecord> {
        self.keyspaces.get(name).or_else(|| self.before.keyspaces.get(name)).copied()
    }
}
