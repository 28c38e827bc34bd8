//! The longest time in which no write succeeds while the leader is killed under load.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use etcd_proto::etcdserverpb::kv_client::KvClient;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

use super::{Outcome, Setting};
use crate::client;
use crate::keys::{self, Numbers, Values};
use crate::metric::{Metric, Unit};

pub(crate) const GAP_MEDIAN: Metric = Metric::new("without a successful write, median of the kills", Unit::Seconds);
pub(crate) const GAP_WORST: Metric = Metric::new("without a successful write, longest", Unit::Seconds);

const WRITERS: usize = 12;
/// After which a writer turns to the next member: several times what a put takes under this load, and short enough that
/// with all the writers some member is asked every few milliseconds.
const ATTEMPT: Duration = Duration::from_millis(300);
/// Before the next member is asked, lest writers spin on a closed port.
const PAUSE: Duration = Duration::from_millis(5);
/// Writes flow undisturbed for so long before a kill.
const BEFORE_KILL: Duration = Duration::from_secs(2);
/// Writes must have gone on for so long after a kill until it counts as overcome.
const AFTER_RECOVERY: Duration = Duration::from_secs(2);
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// When writes succeeded.
struct Successes {
    last: Instant,
    /// The longest time between two since it was last reset.
    gap: Duration,
}

type Shared = Arc<Mutex<Successes>>;

pub(super) async fn run(setting: &mut Setting<'_>) -> Result<Outcome> {
    let shared: Shared = Arc::new(Mutex::new(Successes { last: Instant::now(), gap: Duration::ZERO }));
    let numbers = Numbers::default();
    // Dropping the set ends the writers.
    let mut writers = JoinSet::new();
    for at in 0..WRITERS {
        let endpoints = setting.cluster.endpoints();
        let members =
            endpoints.iter().map(|e| Ok(client::kv(client::connect_lazily(e)?))).collect::<Result<Vec<_>>>()?;
        writers.spawn(write(members, at, numbers.clone(), setting.values.clone(), shared.clone()));
    }

    let mut gaps = Vec::with_capacity(setting.sizes.leader_kills);
    for kill in 0..setting.sizes.leader_kills {
        setting.progress.doing_part("killing the leader", kill as u64 + 1, setting.sizes.leader_kills as u64);
        gaps.push(kill_leader(setting, &shared).await?.as_secs_f64());
    }
    gaps.sort_by(f64::total_cmp);
    let mut outcome = Outcome::default();
    outcome.note(GAP_MEDIAN, gaps[gaps.len() / 2]);
    outcome.note(GAP_WORST, gaps[gaps.len() - 1]);
    Ok(outcome)
}

/// Kills the leader once, waits until writes go on, and starts it again.
async fn kill_leader(setting: &mut Setting<'_>, shared: &Shared) -> Result<Duration> {
    let leader = setting.cluster.leader().await?;
    sleep(BEFORE_KILL).await;
    let idle = lock(shared).last.elapsed();
    ensure!(idle < ATTEMPT, "no write succeeded for {idle:?} although nothing was killed");

    lock(shared).gap = Duration::ZERO;
    let killed = setting.cluster.kill(leader)?;
    setting.cluster.reap(leader).await?;
    let mut recovered = None;
    loop {
        sleep(LOOK_EVERY).await;
        let last = lock(shared).last;
        // A put that was acknowledged before the kill may still be on its way here, so the first after one attempt's
        // time counts; a longer gap after it starts the wait again.
        if last.elapsed() > ATTEMPT {
            recovered = None;
        } else if killed.elapsed() > ATTEMPT && recovered.is_none() {
            recovered = Some(Instant::now());
        }
        if recovered.is_some_and(|since| since.elapsed() > AFTER_RECOVERY) {
            break;
        }
        ensure!(
            killed.elapsed() < RECOVERS_WITHIN,
            "no write succeeded within {RECOVERS_WITHIN:?} of the leader's death"
        );
    }
    let gap = lock(shared).gap;
    setting.cluster.spawn(leader)?;
    setting.cluster.wait_ready().await?;
    Ok(gap)
}

/// Puts one key after the other, asking the next member whenever one fails or is silent.
async fn write(mut members: Vec<KvClient<Channel>>, first: usize, numbers: Numbers, values: Values, shared: Shared) {
    let mut at = first % members.len();
    loop {
        let number = numbers.next();
        let put = members[at].put(client::put(keys::key("kill/", number), values.get(number)));
        if let Ok(Ok(_)) = timeout(ATTEMPT, put).await {
            let mut successes = lock(&shared);
            let now = Instant::now();
            successes.gap = successes.gap.max(now - successes.last);
            successes.last = now;
        } else {
            at = (at + 1) % members.len();
            sleep(PAUSE).await;
        }
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Successes> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
