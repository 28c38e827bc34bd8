//! Linearizable gets of existing keys by many clients on many connections to all members.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use etcd_proto::etcdserverpb::kv_client::KvClient;
use tonic::Status;
use tonic::transport::Channel;

use super::{Outcome, Setting, load_txn};
use crate::client::{self, Connections};
use crate::keys::{self, Numbers};
use crate::load::{self, Client};
use crate::metric::{Metric, Unit};

pub(crate) const GETS: Metric = Metric::new("gets", Unit::PerSecond);
const PREFIX: &str = "get/";
/// Between two keys that are read one after the other; a large prime, so that all are read and no neighbours.
const STRIDE: u64 = 15_485_863;

struct Getter {
    kv: KvClient<Channel>,
    numbers: Numbers,
    keys: Arc<Vec<Bytes>>,
}

impl Client for Getter {
    async fn operate(&mut self) -> Result<u64, Status> {
        let at = self.numbers.next().wrapping_mul(STRIDE) % self.keys.len() as u64;
        let key = self.keys[at as usize].clone();
        let answer = self.kv.range(client::get(key, false)).await?.into_inner();
        match &answer.kvs[..] {
            [found] if found.value.len() == keys::VALUE_BYTES => Ok(1),
            _ => Err(Status::data_loss("a key that was written is not there")),
        }
    }
}

pub(super) async fn run(setting: &mut Setting<'_>) -> Result<Outcome> {
    let sizes = setting.sizes;
    let endpoints = setting.cluster.endpoints();
    load_txn::preload(&endpoints, PREFIX, sizes.keys_to_get, &setting.values, setting.progress).await?;

    let connections = Connections::open(&endpoints, sizes.connections).await?;
    let keys: Arc<Vec<_>> = Arc::new((0..sizes.keys_to_get).map(|n| keys::key(PREFIX, n)).collect());
    let numbers = Numbers::default();
    let getter = |at| Getter { kv: connections.kv(at), numbers: numbers.clone(), keys: keys.clone() };
    setting.progress.doing("getting");
    let load = load::drive(&setting.cluster, (0..sizes.clients).map(getter).collect(), sizes.span).await?;
    Ok(Outcome::of_load(GETS, &load))
}
