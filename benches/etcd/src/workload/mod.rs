//! The workloads, each in a file of its own.
//!
//! Must hold: a workload starts with a fresh cluster and sends the same to either system.
//!
//! Left to others: starting the cluster, and judging what came out (see `rows`).

pub(crate) mod get_many;
pub(crate) mod leader_kill;
pub(crate) mod load_txn;
pub(crate) mod million_keys;
pub(crate) mod put_many;
pub(crate) mod put_one;
pub(crate) mod watch_fanout;
pub(crate) mod watchers_memory;

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::keys::Values;
use crate::load::{Load, Span};
use crate::metric::{Metric, Unit};
use crate::progress::Progress;

/// What is done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Puts of distinct keys by 1,000 clients on 100 connections.
    PutMany,
    /// Puts by one client on one connection to the leader.
    PutOne,
    /// Linearizable gets of existing keys by 1,000 clients on 100 connections.
    GetMany,
    /// Transactions of 100 puts by 16 clients.
    LoadTxn,
    /// Puts to keys that 10,000 watchers on 100 connections watch.
    WatchFanout,
    /// The servers' memory with 100,000 watchers.
    WatchersMemory,
    /// Memory, restarts and a listing with 1,000,000 keys.
    MillionKeys,
    /// The time without a successful write when the leader is killed.
    LeaderKill,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Of loads by many clients.
    pub(crate) span: Span,
    /// Of the load by one client.
    pub(crate) span_alone: Span,
    pub(crate) clients: usize,
    pub(crate) connections: usize,
    /// Keys that exist before gets begin.
    pub(crate) keys_to_get: u64,
    pub(crate) fanout_keys: u64,
    /// Each of as many connections watches all of the keys.
    pub(crate) memory_keys: u64,
    pub(crate) many_keys: u64,
    pub(crate) leader_kills: usize,
}

impl Sizes {
    /// What the figures are for.
    pub(crate) const FULL: Sizes = Sizes {
        span: Span { warm_up: Duration::from_secs(2), measured: Duration::from_secs(10) },
        span_alone: Span { warm_up: Duration::from_secs(1), measured: Duration::from_secs(5) },
        clients: 1_000,
        connections: 100,
        keys_to_get: 100_000,
        fanout_keys: 100,
        memory_keys: 1_000,
        many_keys: 1_000_000,
        leader_kills: 3,
    };

    /// Enough to see that everything works, in seconds.
    pub(crate) const QUICK: Sizes = Sizes {
        span: Span { warm_up: Duration::from_millis(500), measured: Duration::from_secs(2) },
        span_alone: Span { warm_up: Duration::from_millis(200), measured: Duration::from_secs(1) },
        clients: 200,
        connections: 20,
        keys_to_get: 5_000,
        fanout_keys: 20,
        memory_keys: 50,
        many_keys: 20_000,
        leader_kills: 1,
    };
}

/// What a workload has to work with.
pub(crate) struct Setting<'a> {
    pub(crate) cluster: Cluster,
    pub(crate) sizes: Sizes,
    pub(crate) values: Values,
    pub(crate) progress: &'a Progress,
}

/// What a workload measured.
#[derive(Default)]
pub(crate) struct Outcome(pub(crate) Vec<(Metric, f64)>);

/// Common to the loads.
pub(crate) const P50: Metric = Metric::new("latency, p50", Unit::Milliseconds);
pub(crate) const P99: Metric = Metric::new("latency, p99", Unit::Milliseconds);
pub(crate) const MEAN: Metric = Metric::new("latency, mean", Unit::Milliseconds);
pub(crate) const CLIENT_TIME: Metric = Metric::new("processor time per operation, client", Unit::Microseconds);
pub(crate) const SERVER_TIME: Metric = Metric::new("processor time per operation, servers", Unit::Microseconds);
pub(crate) const FAILED: Metric = Metric::new("failed operations", Unit::Count);

impl Outcome {
    pub(crate) fn note(&mut self, metric: Metric, value: f64) {
        self.0.push((metric, value));
    }

    /// Notes what is common to all loads, with `throughput` as the name of their rate.
    pub(crate) fn of_load(throughput: Metric, load: &Load) -> Outcome {
        let per_operation = |time: Duration| time.as_secs_f64() * 1e6 / load.done as f64;
        Outcome(vec![
            (throughput, load.per_second()),
            (P50, load.latencies.millis_at(0.50)),
            (P99, load.latencies.millis_at(0.99)),
            (MEAN, load.latencies.millis_mean()),
            (CLIENT_TIME, per_operation(load.processor.client)),
            (SERVER_TIME, per_operation(load.processor.servers)),
            (FAILED, load.failed as f64),
        ])
    }
}

impl Workload {
    /// All, in the order in which they run.
    pub(crate) const ALL: [Workload; 8] = [
        Workload::PutMany,
        Workload::PutOne,
        Workload::GetMany,
        Workload::LoadTxn,
        Workload::WatchFanout,
        Workload::WatchersMemory,
        Workload::MillionKeys,
        Workload::LeaderKill,
    ];

    /// As on the command line and in file names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::PutMany => "put-many",
            Workload::PutOne => "put-one",
            Workload::GetMany => "get-many",
            Workload::LoadTxn => "load-txn",
            Workload::WatchFanout => "watch-fanout",
            Workload::WatchersMemory => "watchers-memory",
            Workload::MillionKeys => "million-keys",
            Workload::LeaderKill => "leader-kill",
        }
    }

    /// What is done, in words for the report.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Workload::PutMany => "put, 1,000 clients on 100 connections to all members, distinct keys",
            Workload::PutOne => "put, 1 client on 1 connection to the leader",
            Workload::GetMany => "linearizable get of 100,000 existing keys, 1,000 clients on 100 connections",
            Workload::LoadTxn => "load by transactions of 100 puts, 16 clients",
            Workload::WatchFanout => "watch fan-out: 10,000 watchers on 100 connections, 100 to a key",
            Workload::WatchersMemory => "100,000 watchers on 100 connections, 1,000 keys, 5 puts to each",
            Workload::MillionKeys => "1,000,000 keys",
            Workload::LeaderKill => "kill -9 of the leader under puts to all members",
        }
    }

    /// Runs it once.
    pub(crate) async fn run(self, setting: &mut Setting<'_>) -> Result<Outcome> {
        match self {
            Workload::PutMany => put_many::run(setting).await,
            Workload::PutOne => put_one::run(setting).await,
            Workload::GetMany => get_many::run(setting).await,
            Workload::LoadTxn => load_txn::run(setting).await,
            Workload::WatchFanout => watch_fanout::run(setting).await,
            Workload::WatchersMemory => watchers_memory::run(setting).await,
            Workload::MillionKeys => million_keys::run(setting).await,
            Workload::LeaderKill => leader_kill::run(setting).await,
        }
    }
}
