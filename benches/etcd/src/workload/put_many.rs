//! Puts of distinct keys by many clients on many connections to all members.

use anyhow::Result;
use etcd_proto::etcdserverpb::kv_client::KvClient;
use tonic::Status;
use tonic::transport::Channel;

use super::{Outcome, Setting};
use crate::client::{self, Connections};
use crate::keys::{self, Numbers, Values};
use crate::load::{self, Client};
use crate::metric::{Metric, Unit};

pub(crate) const PUTS: Metric = Metric::new("puts", Unit::PerSecond);

/// Puts one distinct key after the other.
pub(super) struct Putter {
    pub(super) kv: KvClient<Channel>,
    pub(super) numbers: Numbers,
    pub(super) values: Values,
}

impl Client for Putter {
    async fn operate(&mut self) -> Result<u64, Status> {
        let number = self.numbers.next();
        self.kv.put(client::put(keys::key("put/", number), self.values.get(number))).await?;
        Ok(1)
    }
}

pub(super) async fn run(setting: &mut Setting<'_>) -> Result<Outcome> {
    let sizes = setting.sizes;
    let connections = Connections::open(&setting.cluster.endpoints(), sizes.connections).await?;
    let numbers = Numbers::default();
    let putter = |at| Putter { kv: connections.kv(at), numbers: numbers.clone(), values: setting.values.clone() };
    setting.progress.doing("putting");
    let load = load::drive(&setting.cluster, (0..sizes.clients).map(putter).collect(), sizes.span).await?;
    Ok(Outcome::of_load(PUTS, &load))
}
