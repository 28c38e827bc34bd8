//! Keys written by transactions of many puts.

use anyhow::Result;
use etcd_proto::etcdserverpb::kv_client::KvClient;
use etcd_proto::etcdserverpb::request_op::Request;
use etcd_proto::etcdserverpb::{RequestOp, TxnRequest};
use futures::TryStreamExt;
use futures::stream::{self, StreamExt};
use tonic::Status;
use tonic::transport::Channel;

use super::{Outcome, Setting};
use crate::client::{self, Connections};
use crate::keys::{self, Numbers, Values};
use crate::load::{self, Client};
use crate::metric::{Metric, Unit};
use crate::progress::Progress;

pub(crate) const KEYS: Metric = Metric::new("keys", Unit::PerSecond);
/// etcd allows 128 operations in a transaction.
const PUTS_IN_TRANSACTION: u64 = 100;
const CLIENTS: usize = 16;

struct Loader {
    kv: KvClient<Channel>,
    numbers: Numbers,
    values: Values,
}

impl Client for Loader {
    async fn operate(&mut self) -> Result<u64, Status> {
        let first = self.numbers.take(PUTS_IN_TRANSACTION);
        let puts = first..first + PUTS_IN_TRANSACTION;
        transact(&mut self.kv, "txn/", puts, &self.values).await
    }
}

pub(super) async fn run(setting: &mut Setting<'_>) -> Result<Outcome> {
    let connections = Connections::open(&setting.cluster.endpoints(), CLIENTS).await?;
    let numbers = Numbers::default();
    let loader = |at| Loader { kv: connections.kv(at), numbers: numbers.clone(), values: setting.values.clone() };
    setting.progress.doing("loading");
    let load = load::drive(&setting.cluster, (0..CLIENTS).map(loader).collect(), setting.sizes.span).await?;
    Ok(Outcome::of_load(KEYS, &load))
}

/// Writes `count` keys that begin with `prefix` before another workload begins.
pub(super) async fn preload(
    endpoints: &[String],
    prefix: &str,
    count: u64,
    values: &Values,
    progress: &Progress,
) -> Result<()> {
    let connections = Connections::open(endpoints, CLIENTS).await?;
    let firsts = (0..count).step_by(PUTS_IN_TRANSACTION as usize);
    let transactions = firsts.enumerate().map(|(at, first)| {
        let (mut kv, values) = (connections.kv(at), values.clone());
        async move { transact(&mut kv, prefix, first..count.min(first + PUTS_IN_TRANSACTION), &values).await }
    });
    let mut answers = stream::iter(transactions).buffer_unordered(CLIENTS);
    let mut loaded = 0;
    while let Some(keys) = answers.try_next().await? {
        loaded += keys;
        progress.doing_part("loading keys", loaded, count);
    }
    Ok(())
}

async fn transact(
    kv: &mut KvClient<Channel>,
    prefix: &str,
    numbers: std::ops::Range<u64>,
    values: &Values,
) -> Result<u64, Status> {
    let count = numbers.end - numbers.start;
    let put = |n| RequestOp { request: Some(Request::RequestPut(client::put(keys::key(prefix, n), values.get(n)))) };
    let success = numbers.map(put).collect();
    kv.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
    Ok(count)
}
