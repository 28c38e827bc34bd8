//! Very many keys: what they occupy, how long a killed member takes to serve them again, and what listing them costs.
//!
//! Must hold: every restarted member has all keys; a listing returns all keys.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use etcd_proto::etcdserverpb::RangeRequest;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::{Outcome, Setting, load_txn};
use crate::client;
use crate::cluster::MEMBERS;
use crate::metric::{Metric, Unit};
use crate::process;

pub(crate) const LOADING: Metric = Metric::new("loading", Unit::PerSecond);
pub(crate) const RESIDENT_SUM: Metric = Metric::new("resident memory, all members", Unit::Mebibytes);
pub(crate) const RESIDENT_MAX: Metric = Metric::new("resident memory, the largest member", Unit::Mebibytes);
pub(crate) const LIST: Metric = Metric::new("listing by Range", Unit::Seconds);
pub(crate) const LIST_GROWTH: Metric = Metric::new("listing by Range: growth of a server's memory", Unit::Mebibytes);
pub(crate) const STREAM: Metric = Metric::new("listing by RangeStream", Unit::Seconds);
pub(crate) const STREAM_GROWTH: Metric =
    Metric::new("listing by RangeStream: growth of a server's memory", Unit::Mebibytes);
pub(crate) const ONE_SERIALIZABLE: Metric = Metric::new("a follower's restart to a serializable get", Unit::Seconds);
pub(crate) const ONE_LINEARIZABLE: Metric = Metric::new("a follower's restart to a linearizable get", Unit::Seconds);
pub(crate) const ALL_SERIALIZABLE: Metric = Metric::new("restart of all to serializable gets from each", Unit::Seconds);
pub(crate) const ALL_LINEARIZABLE: Metric = Metric::new("restart of all to linearizable gets from each", Unit::Seconds);

const PREFIX: &str = "many/";
/// One attempt to read from a member that is starting. Short: an attempt that was made too early may wait for long.
const ATTEMPT: Duration = Duration::from_millis(250);
const ATTEMPT_EVERY: Duration = Duration::from_millis(5);
const SERVES_WITHIN: Duration = Duration::from_secs(120);

pub(super) async fn run(setting: &mut Setting<'_>) -> Result<Outcome> {
    let count = setting.sizes.many_keys;
    let mut outcome = Outcome::default();
    let start = Instant::now();
    load_txn::preload(&setting.cluster.endpoints(), PREFIX, count, &setting.values, setting.progress).await?;
    outcome.note(LOADING, count as f64 / start.elapsed().as_secs_f64());

    setting.progress.doing("waiting until memory has settled");
    let resident: Vec<_> = setting.cluster.settle().await?.iter().map(|m| m.resident).collect();
    outcome.note(RESIDENT_SUM, resident.iter().sum());
    outcome.note(RESIDENT_MAX, resident.iter().copied().fold(0.0, f64::max));

    list(setting, &mut outcome).await?;
    restart_follower(setting, &mut outcome).await?;
    restart_all(setting, &mut outcome).await?;
    Ok(outcome)
}

async fn list(setting: &mut Setting<'_>, outcome: &mut Outcome) -> Result<()> {
    let count = setting.sizes.many_keys;
    let leader = setting.cluster.leader().await?;
    let channel = client::connect(&setting.cluster.endpoint(leader)).await?;
    let mut kv = client::kv(channel);

    setting.progress.doing("listing all keys by Range");
    let before = reset_peaks(setting)?;
    let start = Instant::now();
    let listed = kv.range(client::all_with(PREFIX)).await?.into_inner().kvs.len() as u64;
    outcome.note(LIST, start.elapsed().as_secs_f64());
    ensure!(listed == count, "{listed} keys were listed, {count} were written");
    outcome.note(LIST_GROWTH, growth(setting, &before)?);

    setting.progress.doing("listing all keys by RangeStream");
    setting.cluster.settle().await?;
    let before = reset_peaks(setting)?;
    let start = Instant::now();
    let mut answers = match kv.range_stream(client::all_with(PREFIX)).await {
        Ok(answers) => answers.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => return Ok(()),
        Err(status) => return Err(status.into()),
    };
    let mut listed = 0;
    while let Some(answer) = answers.message().await? {
        listed += answer.range_response.map_or(0, |r| r.kvs.len() as u64);
    }
    outcome.note(STREAM, start.elapsed().as_secs_f64());
    ensure!(listed == count, "{listed} keys were streamed, {count} were written");
    outcome.note(STREAM_GROWTH, growth(setting, &before)?);
    Ok(())
}

/// Makes peaks start again and returns what is resident now.
fn reset_peaks(setting: &Setting<'_>) -> Result<Vec<f64>> {
    setting.cluster.pids().into_iter().try_for_each(process::reset_peak)?;
    Ok(setting.cluster.memory()?.iter().map(|m| m.resident).collect())
}

/// The most by which any member's memory was above what it had `before`.
fn growth(setting: &Setting<'_>, before: &[f64]) -> Result<f64> {
    let now = setting.cluster.memory()?;
    Ok(now.iter().zip(before).map(|(now, before)| now.peak - before).fold(0.0, f64::max))
}

async fn restart_follower(setting: &mut Setting<'_>, outcome: &mut Outcome) -> Result<()> {
    setting.progress.doing("restarting a follower");
    let follower = (setting.cluster.leader().await? + 1) % MEMBERS;
    setting.cluster.kill(follower)?;
    setting.cluster.reap(follower).await?;
    let start = Instant::now();
    setting.cluster.spawn(follower)?;
    let serves = Serves::wait(setting, &[follower], start).await?;
    outcome.note(ONE_SERIALIZABLE, serves.serializable.as_secs_f64());
    outcome.note(ONE_LINEARIZABLE, serves.linearizable.as_secs_f64());
    check_counts(setting, &[follower]).await
}

async fn restart_all(setting: &mut Setting<'_>, outcome: &mut Outcome) -> Result<()> {
    setting.progress.doing("restarting all members");
    setting.cluster.wait_ready().await?;
    let all: Vec<_> = (0..MEMBERS).collect();
    for &at in &all {
        setting.cluster.kill(at)?;
    }
    for &at in &all {
        setting.cluster.reap(at).await?;
    }
    let start = Instant::now();
    for &at in &all {
        setting.cluster.spawn(at)?;
    }
    let serves = Serves::wait(setting, &all, start).await?;
    outcome.note(ALL_SERIALIZABLE, serves.serializable.as_secs_f64());
    outcome.note(ALL_LINEARIZABLE, serves.linearizable.as_secs_f64());
    check_counts(setting, &all).await
}

/// When restarted members served, counted from their start.
struct Serves {
    serializable: Duration,
    linearizable: Duration,
}

impl Serves {
    /// Waits until each of the members has answered both kinds of get.
    async fn wait(setting: &mut Setting<'_>, members: &[usize], start: Instant) -> Result<Serves> {
        let endpoints: Vec<_> = members.iter().map(|&at| setting.cluster.endpoint(at)).collect();
        let serves = |serializable| {
            let each = endpoints.iter().map(move |endpoint| first_answer(endpoint, serializable, start));
            async move { futures::future::try_join_all(each).await.map(|times| times.into_iter().max().unwrap_or_default()) }
        };
        let (serializable, linearizable) = match futures::try_join!(serves(true), serves(false)) {
            Ok(times) => times,
            Err(error) => {
                setting.cluster.check_alive()?;
                return Err(error);
            }
        };
        Ok(Serves { serializable, linearizable })
    }
}

/// Asks a member for a key until it answers with it, and returns how long after `start` that was.
async fn first_answer(endpoint: &str, serializable: bool, start: Instant) -> Result<Duration> {
    let key = crate::keys::key(PREFIX, 0);
    loop {
        let ask = async {
            let mut kv = client::kv(client::connect(endpoint).await?);
            Ok::<_, anyhow::Error>(kv.range(client::get(key.clone(), serializable)).await?.into_inner().kvs.len())
        };
        match timeout(ATTEMPT, ask).await {
            Ok(Ok(1)) => return Ok(start.elapsed()),
            answer if start.elapsed() > SERVES_WITHIN => {
                bail!("{endpoint} does not serve {SERVES_WITHIN:?} after its start; its last answer: {answer:?}")
            }
            _ => sleep(ATTEMPT_EVERY).await,
        }
    }
}

async fn check_counts(setting: &Setting<'_>, members: &[usize]) -> Result<()> {
    for &at in members {
        let endpoint = setting.cluster.endpoint(at);
        let mut kv = client::kv(client::connect(&endpoint).await?);
        let request = RangeRequest { count_only: true, ..client::all_with(PREFIX) };
        let answer = kv.range(request).await.with_context(|| format!("{endpoint} does not count its keys"))?;
        let (found, written) = (answer.into_inner().count as u64, setting.sizes.many_keys);
        ensure!(found == written, "{endpoint} has {found} keys after its restart, {written} were written");
    }
    Ok(())
}
