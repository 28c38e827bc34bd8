//! A keyspace that is full takes no more, says so before, and takes more again by itself when there is room.

use anyhow::{Result, ensure};
use etcd_proto::etcdserverpb as pb;
use etcd_tests::client::Client;
use etcd_tests::server::{Kind, Server};
use tonic::Code;

const VALUE_BYTES: usize = 16 * 1024;
/// More than the quota of one mebibyte has room for.
const PUTS: usize = 100;

async fn put(client: &mut Client, key: usize) -> Result<(), tonic::Status> {
    let put = pb::PutRequest {
        key: format!("k/{key:03}").into(),
        value: vec![b'v'; VALUE_BYTES].into(),
        ..pb::PutRequest::default()
    };
    client.kv.put(put).await.map(|_| ())
}

async fn alarms(client: &mut Client) -> Result<Vec<i32>> {
    let answer = client.maintenance.alarm(pb::AlarmRequest::default()).await?.into_inner();
    Ok(answer.alarms.into_iter().map(|alarm| alarm.alarm).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_keyspace_refuses_puts_until_there_is_room() -> Result<()> {
    let server = Server::start_with(Kind::Netstate, &["--etcd-quota", "1"]).await?;
    let mut client = Client::new(server.address())?;
    let nospace = i32::from(pb::AlarmType::Nospace);
    let (mut taken, mut warned) = (0, false);
    let refused = loop {
        ensure!(taken < PUTS, "nothing is refused");
        match put(&mut client, taken).await {
            Ok(()) => taken += 1,
            Err(status) => break status,
        }
        warned |= alarms(&mut client).await?.contains(&nospace);
    };
    ensure!(warned, "no alarm before the first refusal");
    ensure!(refused.code() == Code::ResourceExhausted, "{refused:?}");
    ensure!(refused.message() == "etcdserver: mvcc: database space exceeded", "{refused:?}");

    let op = pb::request_op::Request::RequestPut(pb::PutRequest { key: "k/000".into(), ..Default::default() });
    let txn = pb::TxnRequest { success: vec![pb::RequestOp { request: Some(op) }], ..Default::default() };
    ensure!(client.kv.txn(txn).await.is_err_and(|status| status.code() == Code::ResourceExhausted));
    client.kv.compact(pb::CompactionRequest { revision: 10, ..Default::default() }).await?;
    let half = pb::DeleteRangeRequest { key: "k/000".into(), range_end: "k/032".into(), ..Default::default() };
    ensure!(client.kv.delete_range(half).await?.into_inner().deleted == 32);
    ensure!(alarms(&mut client).await?.is_empty(), "the alarm stays");
    put(&mut client, 0).await?;
    Ok(())
}
