//! Puts to keys that many watch: first paced, then as fast as the writers can.
//!
//! Must hold: every put reaches every watcher of its key, which is checked after either phase; latency counts from the
//! moment before the put.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use etcd_proto::etcdserverpb::kv_client::KvClient;
use tokio::time::{Instant, Interval, interval_at};
use tonic::Status;
use tonic::transport::Channel;

use super::{Outcome, Setting};
use crate::client::{self, Connections};
use crate::keys::{self, Numbers};
use crate::load::{self, Client, Load};
use crate::metric::{Metric, Unit};
use crate::watchers::{Stamper, Watchers};

pub(crate) const OPENING: Metric = Metric::new("opening all watches", Unit::Seconds);
pub(crate) const PACED_PUTS: Metric = Metric::new("paced: puts", Unit::PerSecond);
pub(crate) const PACED_EVENTS: Metric = Metric::new("paced: events", Unit::PerSecond);
pub(crate) const PACED_P50: Metric = Metric::new("paced: latency to delivery, p50", Unit::Milliseconds);
pub(crate) const PACED_P99: Metric = Metric::new("paced: latency to delivery, p99", Unit::Milliseconds);
pub(crate) const FULL_PUTS: Metric = Metric::new("saturated: puts", Unit::PerSecond);
pub(crate) const FULL_EVENTS: Metric = Metric::new("saturated: events", Unit::PerSecond);
pub(crate) const FULL_P50: Metric = Metric::new("saturated: latency to delivery, p50", Unit::Milliseconds);
pub(crate) const FULL_P99: Metric = Metric::new("saturated: latency to delivery, p99", Unit::Milliseconds);
pub(crate) const DRAINED: Metric = Metric::new("saturated: last event after the last put", Unit::Seconds);
pub(crate) const CLIENT_TIME: Metric = Metric::new("saturated: processor time per event, client", Unit::Microseconds);
pub(crate) const SERVER_TIME: Metric = Metric::new("saturated: processor time per event, servers", Unit::Microseconds);

const WRITER_CONNECTIONS: usize = 16;
/// As many as keep a put each on its way while the servers are saturated.
const FULL_WRITERS: usize = 64;
/// So many that the pace holds while a put takes up to the pause of its writer, 200 ms.
const PACED_WRITERS: usize = 200;
const PACED_PUTS_PER_SECOND: usize = 1_000;

struct Writer {
    kv: KvClient<Channel>,
    pace: Option<Interval>,
    shared: Arc<Shared>,
}

struct Shared {
    keys: Vec<Bytes>,
    stamper: Stamper,
    numbers: Numbers,
    tried: AtomicU64,
    succeeded: AtomicU64,
}

impl Client for Writer {
    async fn operate(&mut self) -> Result<u64, Status> {
        if let Some(pace) = &mut self.pace {
            pace.tick().await;
        }
        let number = self.shared.numbers.next();
        let key = self.shared.keys[number as usize % self.shared.keys.len()].clone();
        self.shared.tried.fetch_add(1, Ordering::Relaxed);
        self.kv.put(client::put(key, self.shared.stamper.value(number))).await?;
        self.shared.succeeded.fetch_add(1, Ordering::Relaxed);
        Ok(1)
    }
}

pub(super) async fn run(setting: &mut Setting<'_>) -> Result<Outcome> {
    let sizes = setting.sizes;
    let endpoints = setting.cluster.endpoints();
    let keys: Vec<_> = (0..sizes.fanout_keys).map(|n| keys::key("watch/", n)).collect();
    let connections = Connections::open(&endpoints, sizes.connections).await?;
    let opening = Instant::now();
    let watchers = Watchers::open(&connections, &keys, setting.progress).await?;
    let mut outcome = Outcome::default();
    outcome.note(OPENING, opening.elapsed().as_secs_f64());

    let shared = Arc::new(Shared {
        keys,
        stamper: watchers.stamper(&setting.values),
        numbers: Numbers::default(),
        tried: AtomicU64::new(0),
        succeeded: AtomicU64::new(0),
    });
    let phases =
        Phases { setting, watchers, shared, writers: Connections::open(&endpoints, WRITER_CONNECTIONS).await? };
    phases.paced(&mut outcome).await?;
    phases.saturated(&mut outcome).await?;
    Ok(outcome)
}

struct Phases<'a, 'b> {
    setting: &'a Setting<'b>,
    watchers: Watchers,
    shared: Arc<Shared>,
    writers: Connections,
}

impl Phases<'_, '_> {
    async fn paced(&self, outcome: &mut Outcome) -> Result<()> {
        self.setting.progress.doing("putting 1,000 times a second");
        let pause = Duration::from_secs(PACED_WRITERS as u64) / PACED_PUTS_PER_SECOND as u32;
        let start = Instant::now();
        let writers = (0..PACED_WRITERS).map(|at| {
            // Spread over the pause; a writer that falls behind catches up, so that the pace holds on average.
            let first = start + pause * at as u32 / PACED_WRITERS as u32;
            self.writer(at, Some(interval_at(first, pause)))
        });
        let (load, events, _) = self.drive(writers.collect(), outcome, PACED_P50, PACED_P99).await?;
        outcome.note(PACED_PUTS, load.per_second());
        outcome.note(PACED_EVENTS, events as f64 / load.took.as_secs_f64());
        Ok(())
    }

    async fn saturated(&self, outcome: &mut Outcome) -> Result<()> {
        self.setting.progress.doing("putting as fast as 64 clients can");
        let writers = (0..FULL_WRITERS).map(|at| self.writer(at, None)).collect();
        let (load, events, drained) = self.drive(writers, outcome, FULL_P50, FULL_P99).await?;
        outcome.note(FULL_PUTS, load.per_second());
        outcome.note(FULL_EVENTS, events as f64 / load.took.as_secs_f64());
        outcome.note(DRAINED, drained.as_secs_f64());
        let per_event = |time: Duration| time.as_secs_f64() * 1e6 / events as f64;
        outcome.note(CLIENT_TIME, per_event(load.processor.client));
        outcome.note(SERVER_TIME, per_event(load.processor.servers));
        Ok(())
    }

    fn writer(&self, at: usize, pace: Option<Interval>) -> Writer {
        Writer { kv: self.writers.kv(at), pace, shared: self.shared.clone() }
    }

    /// Runs the writers and waits until every event has arrived. Latencies are those of all events that arrived since the
    /// warm-up, also of those that arrived after the writers had stopped: the slowest must not be left out.
    async fn drive(
        &self,
        writers: Vec<Writer>,
        outcome: &mut Outcome,
        p50: Metric,
        p99: Metric,
    ) -> Result<(Load, u64, Duration)> {
        let watchers = &self.watchers;
        let probe = || (watchers.events(), watchers.take_latencies());
        let span = self.setting.sizes.span;
        let (load, (before, _), (after, mut latencies)) =
            load::drive_probing(&self.setting.cluster, writers, span, probe).await?;

        let stopped = Instant::now();
        let per_put = watchers.count() / self.shared.keys.len() as u64;
        let (tried, succeeded) = (&self.shared.tried, &self.shared.succeeded);
        let expected = succeeded.load(Ordering::Relaxed) * per_put..=tried.load(Ordering::Relaxed) * per_put;
        watchers.wait_events(expected, self.setting.progress).await?;
        latencies.add(&watchers.take_latencies());
        outcome.note(p50, latencies.millis_at(0.50));
        outcome.note(p99, latencies.millis_at(0.99));
        Ok((load, after - before, stopped.elapsed()))
    }
}
