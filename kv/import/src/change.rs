//! Changes, ranges of keys, and how much of them goes into one transaction.

use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_proto::{
    etcdserverpb::{self as pb, request_op::Request as Operation},
    mvccpb::KeyValue,
};

use crate::{ImportError, LeaseId, Options};

/// Bytes that a change takes in a transaction beside its key and value.
const CHANGE_OVERHEAD_BYTES: usize = 32;
/// As many operations as any etcd accepts in a transaction.
const TXN_OPERATIONS_MAX: usize = 128;

/// One key, set or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Put { key: Bytes, value: Bytes, lease: Option<LeaseId> },
    Delete { key: Bytes },
}

impl Change {
    pub(crate) fn put(pair: KeyValue) -> Self {
        Self::Put { key: pair.key, value: pair.value, lease: LeaseId::new(pair.lease) }
    }

    pub(crate) fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    pub(crate) fn lease(&self) -> Option<LeaseId> {
        match self {
            Self::Put { lease, .. } => *lease,
            Self::Delete { .. } => None,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let value = match self {
            Self::Put { value, .. } => value.len(),
            Self::Delete { .. } => 0,
        };
        self.key().len() + value + CHANGE_OVERHEAD_BYTES
    }

    /// As an operation of a transaction, with the lease replaced by what became of it.
    pub(crate) fn operation(&self, lease: Option<LeaseId>) -> pb::RequestOp {
        let operation = match self {
            Self::Put { key, value, .. } => Operation::RequestPut(pb::PutRequest {
                key: key.clone(),
                value: value.clone(),
                lease: lease.map_or(0, LeaseId::get),
                ..Default::default()
            }),
            Self::Delete { key } => {
                Operation::RequestDeleteRange(pb::DeleteRangeRequest { key: key.clone(), ..Default::default() })
            }
        };
        pb::RequestOp { request: Some(operation) }
    }
}

/// How much goes into one transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TxnLimits {
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
}

impl TxnLimits {
    pub(crate) fn of(options: &Options) -> Result<Self, ImportError> {
        let given = options.txn_operations;
        if !(2..=TXN_OPERATIONS_MAX).contains(&given) {
            return Err(ImportError::BadOption {
                option: "the number of operations in a transaction",
                given,
                least: 2,
                most: TXN_OPERATIONS_MAX,
            });
        }
        // One operation is that on the position.
        Ok(Self { changes: given - 1, bytes: options.txn_bytes })
    }
}

/// Changes that go into one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    changes: Vec<Change>,
    bytes: usize,
}

impl Batch {
    /// Whether the change fits too. An empty batch takes anything: what is larger than the limit goes alone.
    pub(crate) fn fits(&self, change: &Change, limits: TxnLimits) -> bool {
        self.changes.is_empty() || self.changes.len() < limits.changes && self.bytes + change.bytes() <= limits.bytes
    }

    pub(crate) fn push(&mut self, change: Change) {
        self.bytes += change.bytes();
        self.changes.push(change);
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.changes.extend(other.changes);
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The changes, each key once, as its last change leaves it: a transaction may not change a key twice.
    pub(crate) fn into_changes(self) -> Vec<Change> {
        let last: BTreeMap<Bytes, usize> =
            self.changes.iter().enumerate().map(|(at, change)| (change.key().clone(), at)).collect();
        let changes = self.changes.into_iter().enumerate();
        changes.filter(|(at, change)| last.get(change.key()) == Some(at)).map(|(_, change)| change).collect()
    }
}

/// Keys from `start` up to, not including, `end`; an end of one zero byte is above all keys, as in requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) start: Bytes,
    pub(crate) end: Bytes,
}

impl KeyRange {
    /// Every key.
    pub(crate) fn all() -> Self {
        Self::of_prefix(&[])
    }

    /// The keys that begin with `prefix`.
    pub(crate) fn of_prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while end.last() == Some(&u8::MAX) {
            end.pop();
        }
        match end.last_mut() {
            Some(last) => *last += 1,
            None => end.push(0),
        }
        // No key is empty, so this is the first there can be.
        let start = if prefix.is_empty() { Bytes::from_static(&[0]) } else { Bytes::copy_from_slice(prefix) };
        Self { start, end: end.into() }
    }
}

/// The first key after this one.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> Change {
        Change::Put { key: key.into(), value: value.into(), lease: None }
    }

    #[test]
    fn prefix_ranges() {
        for (prefix, start, end) in [
            (&b""[..], &b"\0"[..], &b"\0"[..]),
            (b"a", b"a", b"b"),
            (b"a\xff", b"a\xff", b"b"),
            (b"\xff\xff", b"\xff\xff", b"\0"),
        ] {
            let range = KeyRange::of_prefix(prefix);
            assert_eq!((&range.start[..], &range.end[..]), (start, end), "{prefix:?}");
        }
    }

    #[test]
    fn batches_keep_both_limits_and_take_one_too_large() {
        let limits = TxnLimits { changes: 2, bytes: 100 };
        let mut batch = Batch::default();
        let large = Change::Put { key: "k".into(), value: vec![0; 500].into(), lease: None };
        assert!(batch.fits(&large, limits));
        batch.push(put("a", "1"));
        assert!(!batch.fits(&large, limits));
        assert!(batch.fits(&put("b", "2"), limits));
        batch.push(put("b", "2"));
        assert!(!batch.fits(&put("c", "3"), limits));
    }

    #[test]
    fn a_key_changed_twice_keeps_its_last_change() {
        let mut batch = Batch::default();
        let changes = [put("a", "1"), put("b", "1"), Change::Delete { key: "a".into() }, put("c", "1"), put("b", "2")];
        changes.into_iter().for_each(|change| batch.push(change));
        assert_eq!(batch.into_changes(), [Change::Delete { key: "a".into() }, put("c", "1"), put("b", "2")]);
    }
}
