//! Puts by one client on one connection to the leader: what a single write costs.

use anyhow::Result;

use super::put_many::{PUTS, Putter};
use super::{Outcome, Setting};
use crate::client;
use crate::keys::Numbers;
use crate::load;

pub(super) async fn run(setting: &mut Setting<'_>) -> Result<Outcome> {
    let leader = setting.cluster.leader().await?;
    let channel = client::connect(&setting.cluster.endpoint(leader)).await?;
    let putter = Putter { kv: client::kv(channel), numbers: Numbers::default(), values: setting.values.clone() };
    setting.progress.doing("putting");
    let load = load::drive(&setting.cluster, vec![putter], setting.sizes.span_alone).await?;
    Ok(Outcome::of_load(PUTS, &load))
}
