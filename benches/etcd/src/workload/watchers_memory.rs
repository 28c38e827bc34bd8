//! The memory of servers with very many watchers, all of which receive events.

use anyhow::Result;
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::{Outcome, Setting};
use crate::client::{self, Connections};
use crate::keys;
use crate::metric::{Metric, Unit};
use crate::process::Memory;
use crate::watchers::Watchers;

pub(crate) const PEAK_SUM: Metric = Metric::new("peak memory, all members", Unit::Mebibytes);
pub(crate) const PEAK_MAX: Metric = Metric::new("peak memory, the largest member", Unit::Mebibytes);
pub(crate) const IDLE_SUM: Metric = Metric::new("memory before the first event, all members", Unit::Mebibytes);
pub(crate) const EMPTY_SUM: Metric = Metric::new("memory before the first watcher, all members", Unit::Mebibytes);
pub(crate) const OPENING: Metric = Metric::new("opening all watches", Unit::Seconds);
pub(crate) const DELIVERING: Metric = Metric::new("delivering all events", Unit::Seconds);

const WRITERS: usize = 16;
const PUTS_TO_EACH_KEY: u64 = 5;

pub(super) async fn run(setting: &mut Setting<'_>) -> Result<Outcome> {
    let sizes = setting.sizes;
    let endpoints = setting.cluster.endpoints();
    let mut outcome = Outcome::default();
    let resident = |memory: Vec<Memory>| memory.iter().map(|m| m.resident).sum::<f64>();
    outcome.note(EMPTY_SUM, resident(setting.cluster.memory()?));

    let keys: Vec<_> = (0..sizes.memory_keys).map(|n| keys::key("watch/", n)).collect();
    let connections = Connections::open(&endpoints, sizes.connections).await?;
    let opening = Instant::now();
    let watchers = Watchers::open(&connections, &keys, setting.progress).await?;
    outcome.note(OPENING, opening.elapsed().as_secs_f64());
    outcome.note(IDLE_SUM, resident(setting.cluster.memory()?));

    let delivering = Instant::now();
    put_to_all(setting, &watchers, &endpoints, &keys).await?;
    let expected = watchers.count() * PUTS_TO_EACH_KEY;
    watchers.wait_events(expected..=expected, setting.progress).await?;
    outcome.note(DELIVERING, delivering.elapsed().as_secs_f64());

    let memory = setting.cluster.memory()?;
    outcome.note(PEAK_SUM, memory.iter().map(|m| m.peak).sum());
    outcome.note(PEAK_MAX, memory.iter().map(|m| m.peak).fold(0.0, f64::max));
    Ok(outcome)
}

async fn put_to_all(setting: &Setting<'_>, watchers: &Watchers, endpoints: &[String], keys: &[Bytes]) -> Result<()> {
    setting.progress.doing("putting");
    let connections = Connections::open(endpoints, WRITERS).await?;
    let stamper = watchers.stamper(&setting.values);
    let puts = (0..PUTS_TO_EACH_KEY * keys.len() as u64).map(|number| {
        let at = number as usize;
        let (mut kv, key, stamper) = (connections.kv(at), keys[at % keys.len()].clone(), stamper.clone());
        async move { kv.put(client::put(key, stamper.value(number))).await }
    });
    stream::iter(puts).buffer_unordered(WRITERS).try_for_each(|_| async { Ok(()) }).await?;
    Ok(())
}
