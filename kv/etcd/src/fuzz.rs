//! Requests that nearly make sense are understood or refused, without a panic.
//!
//! The corpus is one request of each kind that is taken apart here. A finding goes into [`FOUND`], as hexadecimal digits.

use bytes::{BufMut, Bytes, BytesMut};
use etcd_proto::etcdserverpb as pb;
use mutation::Told;
use pb::request_op::Request;
use prost::Message;

use crate::{edge, wire};

/// Inputs that once went wrong.
const FOUND: &[&str] = &[];

fn corpus() -> Vec<Vec<u8>> {
    let range = pb::RangeRequest {
        key: "a".into(),
        range_end: "b".into(),
        limit: 3,
        revision: 7,
        sort_order: 2,
        sort_target: 4,
        serializable: true,
        min_mod_revision: 2,
        max_create_revision: 9,
        ..pb::RangeRequest::default()
    };
    let put = pb::PutRequest {
        key: "k".into(),
        value: "value".into(),
        lease: 77,
        prev_kv: true,
        ..pb::PutRequest::default()
    };
    let keep = pb::PutRequest { key: "k".into(), ignore_value: true, ignore_lease: true, ..put.clone() };
    let delete = pb::DeleteRangeRequest { key: "d".into(), range_end: "\0".into(), prev_kv: true };
    let compare = |target: i32, union| pb::Compare {
        result: 3,
        target,
        key: "c".into(),
        range_end: "d".into(),
        target_union: Some(union),
    };
    use pb::compare::TargetUnion;
    let compares = vec![
        compare(0, TargetUnion::Version(1)),
        compare(1, TargetUnion::CreateRevision(2)),
        compare(2, TargetUnion::ModRevision(-1)),
        compare(3, TargetUnion::Value("v".into())),
        compare(4, TargetUnion::Lease(i64::MIN)),
    ];
    let op = |request| pb::RequestOp { request: Some(request) };
    let inner = pb::TxnRequest {
        compare: compares.clone(),
        success: vec![op(Request::RequestPut(keep)), op(Request::RequestRange(range.clone()))],
        failure: vec![pb::RequestOp { request: None }],
    };
    let txn = pb::TxnRequest {
        compare: compares,
        success: vec![op(Request::RequestPut(put.clone())), op(Request::RequestTxn(inner))],
        failure: vec![op(Request::RequestDeleteRange(delete.clone()))],
    };
    let watch = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: "w".into(),
            range_end: "x".into(),
            start_revision: -3,
            filters: vec![0, 1, 7],
            watch_id: 5,
            fragment: true,
            ..pb::WatchCreateRequest::default()
        })),
    };
    let messages = [
        range.encode_to_vec(),
        put.encode_to_vec(),
        delete.encode_to_vec(),
        txn.encode_to_vec(),
        watch.encode_to_vec(),
    ];
    let found = FOUND
        .iter()
        .map(|hex| (0..hex.len()).step_by(2).filter_map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect());
    messages.into_iter().chain(found).collect()
}

#[test]
fn requests_are_understood_or_refused() {
    let corpus = corpus();
    corpus.iter().for_each(|message| understand(message));
    mutation::run(|mutator| {
        let (message, other) = (mutator.pick(&corpus), mutator.pick(&corpus));
        understand(&mutator.mutate(message, other));
    });
}

/// Takes a message for each request that it could be.
fn understand(message: &[u8]) {
    let _told = Told(message);
    let bytes = Bytes::copy_from_slice(message);
    if let Ok(range) = pb::RangeRequest::decode(bytes.clone()) {
        let _ = wire::query(&range);
    }
    if let Ok(put) = pb::PutRequest::decode(bytes.clone()) {
        let _ = wire::put(&put);
    }
    if let Ok(delete) = pb::DeleteRangeRequest::decode(bytes.clone()) {
        let _ = wire::delete(&delete);
    }
    if let Ok(txn) = pb::TxnRequest::decode(bytes.clone())
        && let Ok(branches) = wire::branches(&txn, 128, -1)
    {
        kv_core::written_twice(&branches.then);
        kv_core::written_twice(&branches.otherwise);
        kv_auth::leases_put(&txn);
    }
    let _ = pb::WatchRequest::decode(bytes.clone());
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(message);
    edge::large(&framed.freeze());
    edge::large(&bytes);
}
