//! What a client asks for.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{KeyRange, KeyState, RequestId, Revision, Timestamp};

/// A transaction on one keyspace: if all of `compares` hold (an empty list does), `then`, else `otherwise`.
///
/// It raises the keyspace's revision by one if the branch taken changes anything, and not at all if it doesn't.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// The keyspace has to be at this revision, or the transaction is answered with [`Outcome::Stale`](crate::Outcome).
    pub base: Option<Revision>,
    /// The conditions.
    pub compares: Vec<Compare>,
    /// Done when the conditions hold. A key is named at most once.
    pub then: Vec<Operation>,
    /// Done when they don't. A key is named at most once.
    pub otherwise: Vec<Operation>,
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Recognises a retry.
    pub request: Option<RequestId>,
    /// The time that the commit is to carry at least. `None`: the leader's clock.
    pub at: Option<Timestamp>,
}

/// One condition on the latest state of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// How the key's property has to relate to the operand.
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

/// A property of a key. A key that doesn't exist has version and revisions zero and no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operand {
    /// The value; no comparison with a missing one holds.
    Value(Bytes),
    /// Writes since the key was created.
    Version(u64),
    /// The revision that created the key.
    CreateRevision(Revision),
    /// The revision that wrote the key last.
    ModRevision(Revision),
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Writes a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes every key in a range.
    Delete {
        /// The range.
        range: KeyRange,
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

impl Compare {
    /// Whether the condition holds for a key in this state.
    pub fn holds(&self, state: Option<&KeyState>) -> bool {
        use std::cmp::Ordering;
        let ordering = match &self.operand {
            Operand::Value(wanted) => match state {
                Some(state) => state.value.cmp(wanted),
                None => return false,
            },
            Operand::Version(wanted) => state.map_or(0, |s| s.version).cmp(wanted),
            Operand::CreateRevision(wanted) => state.map_or(Revision::ZERO, |s| s.create_revision).cmp(wanted),
            Operand::ModRevision(wanted) => state.map_or(Revision::ZERO, |s| s.mod_revision).cmp(wanted),
        };
        match self.relation {
            Relation::Equal => ordering == Ordering::Equal,
            Relation::NotEqual => ordering != Ordering::Equal,
            Relation::Greater => ordering == Ordering::Greater,
            Relation::Less => ordering == Ordering::Less,
        }
    }
}

impl Operation {
    /// Bytes of keys and values.
    pub fn size(&self) -> usize {
        match self {
            Operation::Put { key, value } => key.len() + value.len(),
            Operation::Delete { range } => range.size(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every relation with every property, on a missing key and on one that is there.
    #[test]
    fn compares_hold_as_the_table_says() {
        let there = KeyState {
            value: Bytes::from_static(b"m"),
            create_revision: Revision::new(3),
            mod_revision: Revision::new(5),
            version: 2,
        };
        use Relation::{Equal, Greater, Less, NotEqual};
        // (operand, state is less than / equal to / greater than it)
        let table = [
            (Operand::Value("z".into()), Less),
            (Operand::Value("m".into()), Equal),
            (Operand::Value("a".into()), Greater),
            (Operand::Version(3), Less),
            (Operand::Version(2), Equal),
            (Operand::Version(0), Greater),
            (Operand::CreateRevision(Revision::new(4)), Less),
            (Operand::CreateRevision(Revision::new(3)), Equal),
            (Operand::CreateRevision(Revision::ZERO), Greater),
            (Operand::ModRevision(Revision::new(6)), Less),
            (Operand::ModRevision(Revision::new(5)), Equal),
            (Operand::ModRevision(Revision::new(4)), Greater),
        ];
        for (operand, truth) in table {
            for relation in [Equal, NotEqual, Greater, Less] {
                let compare = Compare { key: "k".into(), relation, operand: operand.clone() };
                let expected = relation == truth || (relation == NotEqual && truth != Equal);
                assert_eq!(compare.holds(Some(&there)), expected, "{compare:?}");
            }
        }
        let missing = |relation, operand| Compare { key: "k".into(), relation, operand }.holds(None);
        assert!(missing(Equal, Operand::Version(0)));
        assert!(missing(Equal, Operand::CreateRevision(Revision::ZERO)));
        assert!(missing(Equal, Operand::ModRevision(Revision::ZERO)));
        assert!(!missing(Equal, Operand::Value("".into())));
        assert!(!missing(NotEqual, Operand::Value("".into())));
    }
}
