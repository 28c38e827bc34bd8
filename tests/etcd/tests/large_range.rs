//! Ranges of more keys than a page are answered as by etcd: as one message, whole or cut to a limit.

use anyhow::{Result, ensure};
use etcd_proto::etcdserverpb as pb;
use etcd_tests::operation::Request;
use etcd_tests::pair::Pair;
use pb::request_op::Request as Op;

const TXNS: usize = 50;
const KEYS_PER_TXN: usize = 100;
/// Together some 5 MB: several pages of as many bytes as one takes.
const VALUE_BYTES: usize = 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_keys_than_a_page() -> Result<()> {
    let mut pair = Pair::start(0).await?;
    for txn in 0..TXNS {
        let put = |at: usize| {
            let key = format!("k/{:05}", txn * KEYS_PER_TXN + at).into();
            let put = pb::PutRequest { key, value: vec![b'v'; VALUE_BYTES].into(), ..Default::default() };
            pb::RequestOp { request: Some(Op::RequestPut(put)) }
        };
        let success = (0..KEYS_PER_TXN).map(put).collect();
        pair.apply(Request::Txn(pb::TxnRequest { success, ..Default::default() })).await?;
    }
    let all = pb::RangeRequest { key: "k/".into(), range_end: "k0".into(), ..Default::default() };
    for request in [
        all.clone(),
        pb::RangeRequest { serializable: true, ..all.clone() },
        pb::RangeRequest { keys_only: true, ..all.clone() },
        pb::RangeRequest { limit: 1001, ..all.clone() },
        pb::RangeRequest { limit: 4999, ..all.clone() },
        pb::RangeRequest { limit: 5000, ..all.clone() },
        pb::RangeRequest { limit: 6000, ..all.clone() },
        pb::RangeRequest { limit: -7, ..all.clone() },
        pb::RangeRequest { revision: 20, ..all.clone() },
        pb::RangeRequest { revision: 30, limit: 1500, ..all.clone() },
        pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() },
        pb::RangeRequest { key: "x".into(), range_end: "\0".into(), ..Default::default() },
    ] {
        let response = pair.apply(Request::Range(request)).await?;
        ensure!(response.is_answer(), "{response}");
    }
    for request in
        [pb::RangeRequest { revision: 1000, ..all.clone() }, pb::RangeRequest { key: "".into(), ..all.clone() }]
    {
        let response = pair.apply(Request::Range(request)).await?;
        ensure!(!response.is_answer(), "{response}");
    }
    Ok(())
}
