//! Transactions, nested, with comparisons of every kind.

use bytes::Bytes;
use etcd_proto::etcdserverpb as pb;
use pb::compare::TargetUnion;
use pb::request_op::Request as Op;

use super::Generator;

/// How deep transactions lie in each other.
const NESTING_MAX: usize = 3;
/// One more than etcd takes by default.
const TOO_MANY: usize = 129;
/// After every key.
const END: &[u8] = b"\xff\xff\xff";

impl Generator {
    pub(super) fn txn(&mut self) -> pb::TxnRequest {
        if self.percent(2) {
            return self.too_many();
        }
        let mut txn = self.nested_txn(1);
        if puts(&txn) {
            end_deletions(&mut txn);
        }
        txn
    }

    /// One without others inside: what those do etcd 3.4 allows to everybody.
    pub(super) fn flat_txn(&mut self) -> pb::TxnRequest {
        let mut txn = self.nested_txn(NESTING_MAX);
        if puts(&txn) {
            end_deletions(&mut txn);
        }
        txn
    }

    fn nested_txn(&mut self, depth: usize) -> pb::TxnRequest {
        let compares = self.pick(&[0, 0, 1, 1, 2, 3]);
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.operations(depth),
            failure: self.operations(depth),
        }
    }

    fn operations(&mut self, depth: usize) -> Vec<pb::RequestOp> {
        let count = self.pick(&[0, 1, 1, 2, 2, 3, 4]);
        (0..count).map(|_| pb::RequestOp { request: self.nested_operation(depth) }).collect()
    }

    fn nested_operation(&mut self, depth: usize) -> Option<Op> {
        Some(match self.below(100) {
            0..35 => Op::RequestRange(self.nested_range()),
            35..70 => Op::RequestPut(self.nested_put()),
            70..82 => Op::RequestDeleteRange(self.delete_range()),
            82..99 if depth < NESTING_MAX => Op::RequestTxn(self.nested_txn(depth + 1)),
            82..99 => Op::RequestRange(self.nested_range()),
            _ => return None,
        })
    }

    /// A range that mostly succeeds: one that is refused refuses the whole transaction.
    fn nested_range(&mut self) -> pb::RangeRequest {
        let mut range = self.range();
        if self.percent(80) {
            range.revision = 0;
        }
        range
    }

    /// A put that mostly succeeds, for the same reason.
    fn nested_put(&mut self) -> pb::PutRequest {
        let put = self.put();
        if self.percent(20) {
            return put;
        }
        pb::PutRequest { key: self.existing_key(), lease: 0, ignore_value: false, ignore_lease: false, ..put }
    }

    fn compare(&mut self) -> pb::Compare {
        let (key, range_end) = self.key_range();
        let range_end = if self.percent(70) { Bytes::new() } else { range_end };
        let target = self.pick(&[0, 1, 2, 3, 4]);
        // Mostly the value that belongs to the target; now and then none, or another's.
        let kind = match self.below(20) {
            0 => 5,
            1 => self.pick(&[0, 1, 2, 3, 4]),
            _ => target,
        };
        let target_union = match kind {
            0 => Some(TargetUnion::Version(self.pick(&[0, 0, 1, 2, 3, -1]))),
            1 => Some(TargetUnion::CreateRevision(self.compared_revision())),
            2 => Some(TargetUnion::ModRevision(self.compared_revision())),
            3 => Some(TargetUnion::Value(self.value())),
            4 => Some(TargetUnion::Lease(self.attached_lease())),
            _ => None,
        };
        pb::Compare { result: self.pick(&[0, 1, 2, 3]), target, key, range_end, target_union }
    }

    fn compared_revision(&mut self) -> i64 {
        if self.percent(40) { 0 } else { self.revision() }
    }

    /// More operations than are accepted, in one of the three places that are counted, or just as many.
    fn too_many(&mut self) -> pb::TxnRequest {
        let count = TOO_MANY - usize::from(self.percent(30));
        let read = pb::RangeRequest { key: self.existing_key(), count_only: true, ..Default::default() };
        let reads = vec![pb::RequestOp { request: Some(Op::RequestRange(read)) }; count];
        let compare = self.compare();
        match self.below(4) {
            0 => pb::TxnRequest { compare: vec![compare; count], ..Default::default() },
            1 => pb::TxnRequest { success: reads, ..Default::default() },
            2 => pb::TxnRequest { failure: reads, ..Default::default() },
            _ => {
                let inner = pb::TxnRequest { success: reads, ..Default::default() };
                let inner = pb::RequestOp { request: Some(Op::RequestTxn(inner)) };
                pb::TxnRequest { success: vec![inner], ..Default::default() }
            }
        }
    }
}

fn puts(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|operation| match &operation.request {
        Some(Op::RequestPut(_)) => true,
        Some(Op::RequestTxn(inner)) => puts(inner),
        _ => false,
    })
}

/// Gives an end to deletions of all keys from one on. etcd doesn't see that a put lies in such a range and carries out
/// both, on one key at one revision; here that is refused, as a key given twice.
fn end_deletions(txn: &mut pb::TxnRequest) {
    for operation in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut operation.request {
            Some(Op::RequestDeleteRange(delete)) if delete.range_end[..] == [0] => delete.range_end = END.into(),
            Some(Op::RequestTxn(inner)) => end_deletions(inner),
            _ => {}
        }
    }
}
