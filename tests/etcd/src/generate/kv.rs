//! Ranges, puts, deletions and compactions.

use bytes::Bytes;
use etcd_proto::etcdserverpb as pb;

use super::Generator;
use crate::operation::Request;

/// Sizes of values on both sides of etcd's limit of 1.5 MiB for a request, and beyond what its gRPC library takes.
const LARGE_VALUE_BYTES: [usize; 3] = [(1 << 20) + 1, (3 << 19) + 1, 3 << 20];

impl Generator {
    pub(super) fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.key_range();
        let mut range = pb::RangeRequest { key, range_end, ..Default::default() };
        if self.percent(40) {
            range.revision = self.revision();
        }
        if self.percent(30) {
            range.limit = self.pick(&[1, 2, 3, 5, 12, 100, -1, -5, i64::MAX, i64::MIN]);
        }
        if self.percent(40) {
            range.sort_order = self.pick(&[0, 1, 2]);
            range.sort_target = self.pick(&[0, 1, 2, 3, 4]);
        }
        // What is to be sorted in no order etcd cuts to the limit first and sorts then; here it is sorted first.
        if range.sort_order == 0 && range.limit > 0 {
            range.sort_target = 0;
        }
        range.serializable = self.percent(20);
        range.keys_only = self.percent(15);
        range.count_only = self.percent(10);
        for filter in [
            &mut range.min_mod_revision,
            &mut range.max_mod_revision,
            &mut range.min_create_revision,
            &mut range.max_create_revision,
        ] {
            if self.percent(8) {
                *filter = self.revision();
            }
        }
        range
    }

    pub(super) fn put(&mut self) -> pb::PutRequest {
        let mut put = pb::PutRequest {
            key: self.key(),
            value: self.value(),
            lease: self.attached_lease(),
            prev_kv: self.percent(25),
            ignore_value: self.percent(10),
            ignore_lease: self.percent(10),
        };
        // Half of them in the combination that is accepted.
        if put.ignore_value && self.percent(60) {
            put.value = Bytes::new();
        }
        if put.ignore_lease && self.percent(60) {
            put.lease = 0;
        }
        put
    }

    pub(super) fn delete_range(&mut self) -> pb::DeleteRangeRequest {
        let (mut key, mut range_end) = self.key_range();
        if self.percent(50) {
            (key, range_end) = (self.existing_key(), Bytes::new());
        }
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.percent(40) }
    }

    pub(super) fn compact(&mut self) -> pb::CompactionRequest {
        let mut revision = self.revision();
        if self.percent(50) {
            // Leaves some history for the operations that follow.
            revision = revision.min(self.world.revision - 20);
        }
        pb::CompactionRequest { revision, physical: self.percent(50) }
    }

    pub(super) fn hash_kv(&mut self) -> Request {
        Request::HashKv(pb::HashKvRequest { revision: self.revision() })
    }

    pub(super) fn alarm(&mut self) -> Request {
        Request::Alarm(pb::AlarmRequest { alarm: self.pick(&[0, 1, 2]), ..Default::default() })
    }

    pub(super) fn too_large(&mut self) -> Request {
        let value = Bytes::from(vec![b'x'; self.pick(&LARGE_VALUE_BYTES)]);
        let put = pb::PutRequest { key: self.existing_key(), value, ..Default::default() };
        if self.percent(50) {
            return Request::Put(put);
        }
        let put = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
        Request::Txn(pb::TxnRequest { success: vec![put], ..Default::default() })
    }
}
