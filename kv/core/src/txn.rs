//! What a client asks for.

use std::collections::HashSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Effect, KeyRange, KeyState, KeyValue, LeaseId, Outcome, Query, RangeResult, RequestId, Revision, Timestamp,
    intervals::Intervals,
};

/// A transaction on one keyspace: if all of `compares` hold (an empty list does), `then`, else `otherwise`.
///
/// It raises the keyspace's revision by one if the branch taken changes anything, and not at all if it doesn't.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// The keyspace has to be at this revision, or the transaction is answered with [`Outcome::Stale`](crate::Outcome).
    pub base: Option<Revision>,
    /// The conditions.
    pub compares: Vec<Compare>,
    /// Done when the conditions hold. No key is put twice, or put and deleted.
    pub then: Vec<Operation>,
    /// Done when they don't. The same holds.
    pub otherwise: Vec<Operation>,
    /// Done in any case, and not part of the history of keys: leases, compaction, records beside the keys.
    pub effects: Vec<Effect>,
    /// Refused unless this record beside the keys has this value: what the client decided by still holds.
    pub guard: Option<Guard>,
    /// Refused unless the group's leader is that of this term: a leader that slept does nothing for a later one.
    pub term: Option<u64>,
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Recognises a retry.
    pub request: Option<RequestId>,
    /// The time that the commit is to carry at least. `None`: the leader's clock.
    pub at: Option<Timestamp>,
}

/// What a record beside the keys has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Its key.
    pub key: Bytes,
    /// Its value; `None`: it is not there.
    pub value: Option<Bytes>,
}

/// A transaction inside another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branches {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// Done when the conditions hold.
    pub then: Vec<Operation>,
    /// Done when they don't.
    pub otherwise: Vec<Operation>,
}

impl Branches {
    /// The branch that is taken.
    pub fn taken(&self, succeeded: bool) -> &[Operation] {
        if succeeded { &self.then } else { &self.otherwise }
    }
}

/// A condition on the latest state of every key of a range; on that of a missing key if there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The keys.
    pub range: KeyRange,
    /// How each key's property has to relate to the operand.
    pub relation: Relation,
    /// The property and what it is compared with.
    pub operand: Operand,
}

/// How a key's property relates to an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// Greater than the operand.
    Greater,
    /// Less than the operand.
    Less,
}

/// A property of a key. A key that doesn't exist has version, revisions and lease zero and no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operand {
    /// The value; no comparison with a missing one holds.
    Value(Bytes),
    /// Writes since the key was created.
    Version(i64),
    /// The revision that created the key.
    CreateRevision(i64),
    /// The revision that wrote the key last.
    ModRevision(i64),
    /// The lease that the key is attached to.
    Lease(i64),
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Writes a key.
    Put(Put),
    /// Removes every key in a range.
    Delete(Delete),
    /// Reads what the steps before have left.
    Range(Query),
    /// Does one of two lists of steps.
    Txn(Branches),
}

/// Writes a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// Its new value; `None`: the one that it has. Refused then if it has none.
    pub value: Option<Bytes>,
    /// The lease that it is attached to from now on.
    pub lease: Attach,
    /// Whether the result is to have the state before.
    pub previous: bool,
}

/// What a write does about the key's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attach {
    /// Detaches the key.
    None,
    /// Attaches it. Refused if there is no such lease.
    To(LeaseId),
    /// Leaves it as it is. Refused if there is no such key.
    Keep,
}

/// Removes every key in a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// The range.
    pub range: KeyRange,
    /// Whether the result is to have the states before.
    pub previous: bool,
}

/// What a step came to. `revision`: what the keyspace is at after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// A put.
    Put {
        /// The revision.
        revision: Revision,
        /// The state before, if asked for.
        previous: Option<KeyState>,
    },
    /// A delete.
    Delete {
        /// The revision.
        revision: Revision,
        /// Keys removed.
        deleted: u64,
        /// Their states before, if asked for.
        previous: Vec<KeyValue>,
    },
    /// A read.
    Range(RangeResult),
    /// A transaction inside.
    Txn {
        /// Whether its compares held.
        succeeded: bool,
        /// What its steps came to.
        done: Vec<Done>,
    },
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnOutcome {
    /// Whether the compares held.
    pub succeeded: bool,
    /// The revision that it made, or the keyspace's revision if it changed nothing.
    pub revision: Revision,
}

/// What a transaction came to, and each of its steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// What became of it.
    pub outcome: Outcome,
    /// What the steps of the branch taken came to; nothing for one that was repeated.
    pub done: Vec<Done>,
}

/// Why a transaction was refused when it was worked out. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// A put that keeps the value or the lease of a key that isn't there.
    #[error("key {key:?} does not exist, so it has no value or lease to keep; put both")]
    KeyMissing {
        /// The key, lossily as text.
        key: String,
    },
    /// A lease that isn't there.
    #[error("there is no lease {lease}; it may have expired, grant a new one")]
    LeaseMissing {
        /// The lease.
        lease: LeaseId,
    },
    /// A lease that is to be granted and is there.
    #[error("there is a lease {lease} already; choose another id, or none")]
    LeaseThere {
        /// The lease.
        lease: LeaseId,
    },
    /// A read, or a compaction, of what has been compacted.
    #[error("revision {asked} has been compacted; the oldest readable one is {floor}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// What is still there.
        floor: Revision,
    },
    /// A read, or a compaction, of what isn't there yet.
    #[error("revision {asked} is not there yet; the latest is {head}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The latest.
        head: Revision,
    },
    /// The guard no longer holds.
    #[error("what this request was checked against has changed; check again")]
    Guarded,
}

impl Put {
    /// A plain put: a new value, no lease.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Put { key: key.into(), value: Some(value.into()), lease: Attach::None, previous: false }
    }
}

impl Operation {
    /// A plain put: a new value, no lease.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Operation::Put(Put::new(key, value))
    }

    /// A plain delete.
    pub fn delete(range: KeyRange) -> Self {
        Operation::Delete(Delete { range, previous: false })
    }

    /// Bytes of keys and values.
    pub fn size(&self) -> usize {
        match self {
            Operation::Put(put) => put.key.len() + put.value.as_ref().map_or(0, Bytes::len),
            Operation::Delete(delete) => delete.range.size(),
            Operation::Range(query) => query.range.size(),
            Operation::Txn(branches) => {
                let compares: usize = branches.compares.iter().map(Compare::size).sum();
                compares + branches.then.iter().chain(&branches.otherwise).map(Operation::size).sum::<usize>()
            }
        }
    }

    /// Visits this step and all steps inside it.
    pub fn visit<'a>(&'a self, see: &mut impl FnMut(&'a Operation)) {
        see(self);
        if let Operation::Txn(branches) = self {
            branches.then.iter().chain(&branches.otherwise).for_each(|inner| inner.visit(see));
        }
    }

    /// Whether this step, or one inside it, may write.
    pub fn writes(&self) -> bool {
        match self {
            Operation::Put(_) | Operation::Delete(_) => true,
            Operation::Range(_) => false,
            Operation::Txn(branches) => branches.then.iter().chain(&branches.otherwise).any(Operation::writes),
        }
    }
}

/// A key that a list of steps puts twice, or puts and deletes: what it would come to depends on the order.
///
/// The two branches of a transaction inside may write the same keys, since only one of them is taken.
pub fn written_twice(operations: &[Operation]) -> Option<Bytes> {
    Written::of(operations).err()
}

/// What a list of steps may write.
struct Written<'a> {
    puts: HashSet<&'a Bytes>,
    deletes: Intervals,
}

impl<'a> Written<'a> {
    fn of(operations: &'a [Operation]) -> Result<Self, Bytes> {
        let mut all = Written { puts: HashSet::new(), deletes: Intervals::default() };
        for operation in operations {
            if let Operation::Delete(delete) = operation {
                all.deletes.insert(&delete.range);
            }
        }
        for operation in operations {
            if let Operation::Txn(branches) = operation {
                let (then, otherwise) = (Written::of(&branches.then)?, Written::of(&branches.otherwise)?);
                let puts: HashSet<_> = then.puts.union(&otherwise.puts).copied().collect();
                puts.into_iter().try_for_each(|key| all.put(key))?;
                all.deletes.extend(then.deletes);
                all.deletes.extend(otherwise.deletes);
            }
        }
        for operation in operations {
            if let Operation::Put(put) = operation {
                all.put(&put.key)?;
            }
        }
        Ok(all)
    }

    fn put(&mut self, key: &'a Bytes) -> Result<(), Bytes> {
        if self.deletes.contains(key) || !self.puts.insert(key) { Err(key.clone()) } else { Ok(()) }
    }
}

impl Txn {
    /// Whether it may change anything.
    pub fn writes(&self) -> bool {
        !self.effects.is_empty() || self.then.iter().chain(&self.otherwise).any(Operation::writes)
    }
}

impl Compare {
    /// Bytes of keys and values.
    pub fn size(&self) -> usize {
        let value = match &self.operand {
            Operand::Value(value) => value.len(),
            _ => 0,
        };
        self.range.size() + value
    }

    /// Whether the condition holds for a key in this state.
    pub fn holds(&self, state: Option<&KeyState>) -> bool {
        use std::cmp::Ordering;
        let number = |revision: Option<Revision>| revision.map_or(0, |found| found.get().cast_signed());
        let ordering = match &self.operand {
            Operand::Value(wanted) => match state {
                Some(state) => state.value.cmp(wanted),
                None => return false,
            },
            Operand::Version(wanted) => state.map_or(0, |s| s.version.cast_signed()).cmp(wanted),
            Operand::CreateRevision(wanted) => number(state.map(|s| s.create_revision)).cmp(wanted),
            Operand::ModRevision(wanted) => number(state.map(|s| s.mod_revision)).cmp(wanted),
            Operand::Lease(wanted) => state.and_then(|s| s.lease).map_or(0, LeaseId::get).cmp(wanted),
        };
        match self.relation {
            Relation::Equal => ordering == Ordering::Equal,
            Relation::NotEqual => ordering != Ordering::Equal,
            Relation::Greater => ordering == Ordering::Greater,
            Relation::Less => ordering == Ordering::Less,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_once_on_every_path() {
        let put = |key: &'static str| Operation::put(key, "v");
        let delete = |key: &'static str| Operation::delete(KeyRange::Key(key.into()));
        let txn = |then, otherwise| Operation::Txn(Branches { compares: Vec::new(), then, otherwise });
        let twice = |operations: &[Operation]| written_twice(operations).is_some();
        assert!(twice(&[put("a"), put("a")]));
        assert!(twice(&[put("a"), Operation::delete(KeyRange::All)]));
        assert!(twice(&[txn(vec![put("a")], vec![]), put("a")]));
        assert!(twice(&[delete("a"), txn(vec![], vec![put("a")])]));
        assert!(twice(&[txn(vec![put("a")], vec![]), txn(vec![put("a")], vec![])]));
        assert!(twice(&[txn(vec![txn(vec![put("a"), put("a")], vec![])], vec![])]));
        assert!(!twice(&[txn(vec![put("a")], vec![put("a")])]));
        assert!(!twice(&[delete("a"), delete("a"), put("b")]));
    }

    /// Every relation with every property, on a missing key and on one that is there.
    #[test]
    fn compares_hold_as_the_table_says() {
        let there = KeyState {
            value: Bytes::from_static(b"m"),
            create_revision: Revision::new(3),
            mod_revision: Revision::new(5),
            version: 2,
            lease: LeaseId::new(9),
        };
        use Relation::{Equal, Greater, Less, NotEqual};
        // (operand, state is less than / equal to / greater than it)
        let table = [
            (Operand::Value("z".into()), Less),
            (Operand::Value("m".into()), Equal),
            (Operand::Value("a".into()), Greater),
            (Operand::Version(3), Less),
            (Operand::Version(2), Equal),
            (Operand::Version(-1), Greater),
            (Operand::CreateRevision(4), Less),
            (Operand::CreateRevision(3), Equal),
            (Operand::CreateRevision(0), Greater),
            (Operand::ModRevision(6), Less),
            (Operand::ModRevision(5), Equal),
            (Operand::ModRevision(4), Greater),
            (Operand::Lease(10), Less),
            (Operand::Lease(9), Equal),
            (Operand::Lease(0), Greater),
        ];
        for (operand, truth) in table {
            for relation in [Equal, NotEqual, Greater, Less] {
                let compare = Compare { range: KeyRange::Key("k".into()), relation, operand: operand.clone() };
                let expected = relation == truth || (relation == NotEqual && truth != Equal);
                assert_eq!(compare.holds(Some(&there)), expected, "{compare:?}");
            }
        }
        let missing = |relation, operand| {
            let range = KeyRange::Key("k".into());
            Compare { range, relation, operand }.holds(None)
        };
        assert!(missing(Equal, Operand::Version(0)));
        assert!(missing(Equal, Operand::CreateRevision(0)));
        assert!(missing(Equal, Operand::ModRevision(0)));
        assert!(missing(Equal, Operand::Lease(0)));
        assert!(!missing(Equal, Operand::Value("".into())));
        assert!(!missing(NotEqual, Operand::Value("".into())));
    }
}
