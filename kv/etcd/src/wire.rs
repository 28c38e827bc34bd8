//! Between the store's words and etcd's messages.
//!
//! Revisions: etcd counts from one, which is the revision of a store that nothing was written to; the store counts from
//! zero. Where etcd has zero for "none", so has the store.

use bytes::Bytes;
use etcd_proto::{etcdserverpb as pb, mvccpb};
use kv_core::{
    Attach, Branches, Compare, Delete, Done, KeyRange, KeyState, KeyValue, LeaseId, Operand, Operation, Order, Put,
    Query, RangeResult, Relation, Revision, SortBy, Want,
};
use tonic::Status;

use crate::status;

/// The store's revision as etcd has it.
pub(crate) fn revision(revision: Revision) -> i64 {
    i64::try_from(revision.get()).map_or(i64::MAX, |raw| raw.saturating_add(1))
}

/// etcd's revision as the store has it; what is not above zero is that of nothing.
pub(crate) fn from_revision(revision: i64) -> Revision {
    Revision::new(u64::try_from(revision.saturating_sub(1)).unwrap_or(0))
}

/// A revision that no read finds. Stands for those before the first, where etcd calls them compacted.
pub(crate) const GONE: Revision = Revision::new(u64::MAX);

/// The revision that a read names, if it names one.
fn at(revision: i64) -> Option<Revision> {
    (revision > 0).then(|| from_revision(revision))
}

pub(crate) fn key_value(key: Bytes, state: KeyState) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key,
        create_revision: revision(state.create_revision),
        mod_revision: revision(state.mod_revision),
        version: state.version.cast_signed(),
        value: state.value,
        lease: state.lease.map_or(0, LeaseId::get),
    }
}

pub(crate) fn kv(kv: KeyValue) -> mvccpb::KeyValue {
    key_value(kv.key, kv.state)
}

/// A header inside a transaction's responses: only its revision is set.
fn inner_header(at: Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: revision(at), ..pb::ResponseHeader::default() })
}

pub(crate) fn query(request: &pb::RangeRequest) -> Result<Query, Status> {
    if request.key.is_empty() {
        return Err(status::empty_key());
    }
    if pb::range_request::SortTarget::try_from(request.sort_target).is_err() && request.sort_order != 0 {
        return Err(status::invalid_sort_option());
    }
    let bound = |bound: i64| (bound != 0).then(|| from_revision(bound));
    let by = match request.sort_target() {
        pb::range_request::SortTarget::Key => SortBy::Key,
        pb::range_request::SortTarget::Version => SortBy::Version,
        pb::range_request::SortTarget::Create => SortBy::Create,
        pb::range_request::SortTarget::Mod => SortBy::Mod,
        pb::range_request::SortTarget::Value => SortBy::Value,
    };
    let descending = request.sort_order() == pb::range_request::SortOrder::Descend;
    Ok(Query {
        range: KeyRange::between(request.key.clone(), request.range_end.clone()),
        at: at(request.revision),
        limit: usize::try_from(request.limit).ok().filter(|limit| *limit > 0),
        order: Order { by, descending },
        want: match (request.count_only, request.keys_only) {
            (true, _) => Want::Count,
            (false, true) => Want::Keys,
            (false, false) => Want::All,
        },
        modified: (bound(request.min_mod_revision), bound(request.max_mod_revision)),
        created: (bound(request.min_create_revision), bound(request.max_create_revision)),
    })
}

pub(crate) fn put(request: &pb::PutRequest) -> Result<Put, Status> {
    if request.key.is_empty() {
        return Err(status::empty_key());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(status::value_provided());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(status::lease_provided());
    }
    let lease = match (request.ignore_lease, LeaseId::new(request.lease)) {
        (true, _) => Attach::Keep,
        (false, Some(lease)) => Attach::To(lease),
        (false, None) => Attach::None,
    };
    let value = (!request.ignore_value).then(|| request.value.clone());
    Ok(Put { key: request.key.clone(), value, lease, previous: request.prev_kv })
}

pub(crate) fn delete(request: &pb::DeleteRangeRequest) -> Result<Delete, Status> {
    if request.key.is_empty() {
        return Err(status::empty_key());
    }
    let range = KeyRange::between(request.key.clone(), request.range_end.clone());
    Ok(Delete { range, previous: request.prev_kv })
}

/// A transaction of at most so many operations along its longest path.
///
/// A read at a negative revision is one of the latest, unless the keyspace is `compacted` beyond: only transactions look.
pub(crate) fn branches(request: &pb::TxnRequest, operations: usize, compacted: i64) -> Result<Branches, Status> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = operations.checked_sub(longest).ok_or_else(status::too_many_ops)?;
    let compares = request.compare.iter().map(compare).collect::<Result<_, _>>()?;
    let steps =
        |ops: &[pb::RequestOp]| ops.iter().map(|op| operation(op, left, compacted)).collect::<Result<Vec<_>, _>>();
    Ok(Branches { compares, then: steps(&request.success)?, otherwise: steps(&request.failure)? })
}

fn operation(op: &pb::RequestOp, operations: usize, compacted: i64) -> Result<Operation, Status> {
    use pb::request_op::Request;
    match &op.request {
        Some(Request::RequestRange(request)) => {
            let gone = request.revision < 0 && request.revision < compacted;
            let query = query(request)?;
            Ok(Operation::Range(if gone { Query { at: Some(GONE), ..query } } else { query }))
        }
        Some(Request::RequestPut(request)) => Ok(Operation::Put(put(request)?)),
        Some(Request::RequestDeleteRange(request)) => Ok(Operation::Delete(delete(request)?)),
        Some(Request::RequestTxn(request)) => Ok(Operation::Txn(branches(request, operations, compacted)?)),
        None => Err(status::key_not_found()),
    }
}

fn compare(request: &pb::Compare) -> Result<Compare, Status> {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    if request.key.is_empty() {
        return Err(status::empty_key());
    }
    let relation = match request.result() {
        CompareResult::Equal => Relation::Equal,
        CompareResult::Greater => Relation::Greater,
        CompareResult::Less => Relation::Less,
        CompareResult::NotEqual => Relation::NotEqual,
    };
    // What is compared with is that of the target, or zero.
    let operand = match (request.target(), &request.target_union) {
        (CompareTarget::Version, Some(TargetUnion::Version(wanted))) => Operand::Version(*wanted),
        (CompareTarget::Version, _) => Operand::Version(0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(wanted))) => {
            Operand::CreateRevision(compared(*wanted, relation))
        }
        (CompareTarget::Create, _) => Operand::CreateRevision(0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(wanted))) => {
            Operand::ModRevision(compared(*wanted, relation))
        }
        (CompareTarget::Mod, _) => Operand::ModRevision(0),
        (CompareTarget::Value, Some(TargetUnion::Value(wanted))) => Operand::Value(wanted.clone()),
        (CompareTarget::Value, _) => Operand::Value(Bytes::new()),
        (CompareTarget::Lease, Some(TargetUnion::Lease(wanted))) => Operand::Lease(*wanted),
        (CompareTarget::Lease, _) => Operand::Lease(0),
    };
    let range = KeyRange::between(request.key.clone(), request.range_end.clone());
    Ok(Compare { range, relation, operand })
}

/// The store's number that compares with a key's revision as etcd's number does. No key has etcd's revision one, nor has
/// a missing one: it lies between the store's zero and one.
fn compared(wanted: i64, relation: Relation) -> i64 {
    match (wanted, relation) {
        (1, Relation::Equal | Relation::NotEqual) => -1,
        (1, Relation::Less) => 1,
        (1, Relation::Greater) => 0,
        (2.., _) => wanted - 1,
        (..=0, _) => wanted,
    }
}

pub(crate) fn range_response(found: RangeResult, header: Option<pb::ResponseHeader>) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: found.kvs.into_iter().map(kv).collect(),
        more: found.more,
        count: found.count.cast_signed(),
    }
}

pub(crate) fn put_response(done: Done, header: Option<pb::ResponseHeader>, key: &Bytes) -> pb::PutResponse {
    let previous = match done {
        Done::Put { previous, .. } => previous,
        _ => None,
    };
    pb::PutResponse { header, prev_kv: previous.map(|state| key_value(key.clone(), state)) }
}

pub(crate) fn delete_response(done: Done, header: Option<pb::ResponseHeader>) -> pb::DeleteRangeResponse {
    match done {
        Done::Delete { deleted, previous, .. } => {
            let prev_kvs = previous.into_iter().map(kv).collect();
            pb::DeleteRangeResponse { header, deleted: deleted.cast_signed(), prev_kvs }
        }
        _ => pb::DeleteRangeResponse { header, ..pb::DeleteRangeResponse::default() },
    }
}

/// The responses of a transaction's steps, of which `taken` is the branch that was taken.
pub(crate) fn responses(done: Vec<Done>, taken: &[Operation]) -> Vec<pb::ResponseOp> {
    use pb::response_op::Response;
    let response = |(done, operation): (Done, &Operation)| {
        let response = match (done, operation) {
            (Done::Range(found), _) => {
                let header = inner_header(found.revision);
                Response::ResponseRange(range_response(found, header))
            }
            (done @ Done::Put { revision, .. }, Operation::Put(put)) => {
                Response::ResponsePut(put_response(done, inner_header(revision), &put.key))
            }
            (Done::Txn { succeeded, done }, Operation::Txn(branches)) => {
                let taken = if succeeded { &branches.then } else { &branches.otherwise };
                let header = Some(pb::ResponseHeader::default());
                Response::ResponseTxn(pb::TxnResponse { header, succeeded, responses: responses(done, taken) })
            }
            (done, _) => {
                let revision = match &done {
                    Done::Delete { revision, .. } | Done::Put { revision, .. } => *revision,
                    Done::Range(_) | Done::Txn { .. } => Revision::ZERO,
                };
                Response::ResponseDeleteRange(delete_response(done, inner_header(revision)))
            }
        };
        pb::ResponseOp { response: Some(response) }
    };
    done.into_iter().zip(taken).map(response).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A comparison with etcd's number holds as it would there, for a missing key (0) and for the revisions from 2 on.
    #[test]
    fn revisions_compare_as_they_do_in_etcd() {
        use Relation::{Equal, Greater, Less, NotEqual};
        for theirs in [0i64, 2, 3, 4] {
            let ours = if theirs == 0 { 0 } else { theirs - 1 };
            for wanted in -2i64..6 {
                for relation in [Equal, NotEqual, Greater, Less] {
                    let holds = |one: i64, two: i64| match relation {
                        Equal => one == two,
                        NotEqual => one != two,
                        Greater => one > two,
                        Less => one < two,
                    };
                    let translated = holds(ours, compared(wanted, relation));
                    assert_eq!(translated, holds(theirs, wanted), "{theirs} {relation:?} {wanted}");
                }
            }
        }
    }
}
