//! Clients that each do one operation after the other, and what that came to.
//!
//! Must hold: only operations that end between the end of the warm-up and the end of the run count; a failed operation is
//! counted apart and never as a fast one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::cluster::Cluster;
use crate::process;

/// The longest latency told apart from longer ones, in microseconds.
const LATENCY_MICROS_MAX: u64 = 600_000_000;
const LATENCY_DIGITS: u8 = 3;
/// A client whose operation failed waits this long, lest it fills the machine with failures.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);
/// More failures than this part of all operations, and there is nothing to be compared.
const FAILED_PART_MAX: f64 = 0.01;

/// One client.
pub(crate) trait Client: Send + 'static {
    /// Does one thing and says how many of what is counted that was.
    fn operate(&mut self) -> impl Future<Output = Result<u64, Status>> + Send;
}

/// How long a load runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What a load came to.
pub(crate) struct Load {
    /// Things done: keys, if an operation writes several.
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) took: Duration,
    /// Of operations.
    pub(crate) latencies: Latencies,
    pub(crate) processor: ProcessorTime,
}

/// Processor time that went into a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessorTime {
    pub(crate) client: Duration,
    /// Of all servers together.
    pub(crate) servers: Duration,
}

/// Latencies, in microseconds.
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Latencies {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, LATENCY_DIGITS);
        Latencies(histogram.expect("these bounds are within what a histogram allows"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts the others as well.
    pub(crate) fn add(&mut self, others: &Latencies) {
        self.0.add(&others.0).expect("both have the same bounds");
    }

    /// The latency in milliseconds below which that part of all is.
    pub(crate) fn millis_at(&self, part: f64) -> f64 {
        self.0.value_at_quantile(part) as f64 / 1e3
    }

    pub(crate) fn millis_mean(&self) -> f64 {
        self.0.mean() / 1e3
    }
}

impl Load {
    pub(crate) fn per_second(&self) -> f64 {
        self.done as f64 / self.took.as_secs_f64()
    }
}

impl ProcessorTime {
    /// What was used so far.
    pub(crate) fn now(cluster: &Cluster) -> Result<ProcessorTime> {
        let servers = cluster.pids().into_iter().map(process::processor_time).sum::<Result<Duration>>()?;
        Ok(ProcessorTime { client: process::processor_time("self")?, servers })
    }

    /// What was used since `earlier`, with the same servers.
    pub(crate) fn since(self, earlier: ProcessorTime) -> ProcessorTime {
        ProcessorTime {
            client: self.client.saturating_sub(earlier.client),
            servers: self.servers.saturating_sub(earlier.servers),
        }
    }
}

#[derive(Default)]
struct Signals {
    measuring: AtomicBool,
    stopped: AtomicBool,
}

struct Counts {
    done: u64,
    failed: u64,
    first_failure: Option<Status>,
    latencies: Latencies,
}

/// Runs all clients at once for the given span.
pub(crate) async fn drive<C: Client>(cluster: &Cluster, clients: Vec<C>, span: Span) -> Result<Load> {
    let (load, (), ()) = drive_probing(cluster, clients, span, || ()).await?;
    Ok(load)
}

/// As [`drive`], and returns what `probe` says at the beginning and at the end of the measured time.
pub(crate) async fn drive_probing<C: Client, T>(
    cluster: &Cluster,
    clients: Vec<C>,
    span: Span,
    probe: impl Fn() -> T,
) -> Result<(Load, T, T)> {
    let signals = Arc::new(Signals::default());
    let counts = Counts { done: 0, failed: 0, first_failure: None, latencies: Latencies::new() };
    let counts = Arc::new(Mutex::new(counts));
    // Dropping the set ends the clients, also when this future is dropped.
    let mut running = JoinSet::new();
    for client in clients {
        running.spawn(repeat(client, signals.clone(), counts.clone()));
    }

    sleep(span.warm_up).await;
    let processor_before = ProcessorTime::now(cluster)?;
    let probed_before = probe();
    let start = Instant::now();
    signals.measuring.store(true, Ordering::Relaxed);
    sleep(span.measured).await;
    signals.measuring.store(false, Ordering::Relaxed);
    let took = start.elapsed();
    let probed_after = probe();
    let processor = ProcessorTime::now(cluster)?.since(processor_before);
    signals.stopped.store(true, Ordering::Relaxed);
    while running.join_next().await.is_some() {}

    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    let Counts { done, failed, ref first_failure, .. } = *counts;
    let failure = first_failure.as_ref().map(ToString::to_string).unwrap_or_default();
    ensure!(done > 0, "no operation succeeded in {took:?}: {failure}");
    let part = failed as f64 / (failed + done) as f64;
    ensure!(part <= FAILED_PART_MAX, "{failed} operations failed and {done} did not, the first failure: {failure}");
    let latencies = std::mem::replace(&mut counts.latencies, Latencies::new());
    Ok((Load { done, failed, took, latencies, processor }, probed_before, probed_after))
}

async fn repeat<C: Client>(mut client: C, signals: Arc<Signals>, counts: Arc<Mutex<Counts>>) {
    while !signals.stopped.load(Ordering::Relaxed) {
        let start = Instant::now();
        let answer = client.operate().await;
        let latency = start.elapsed();
        let failed = answer.is_err();
        if signals.measuring.load(Ordering::Relaxed) {
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            match answer {
                Ok(done) => {
                    counts.done += done;
                    counts.latencies.record(latency);
                }
                Err(status) => {
                    counts.failed += 1;
                    counts.first_failure.get_or_insert(status);
                }
            }
        }
        if failed {
            sleep(PAUSE_AFTER_FAILURE).await;
        }
    }
}
