//! Concurrent clients and watchers on a few keys, all drawn from one seed.
//!
//! Values are unique, so that each read names its write, and keys are few, so that clients collide.
//!
//! Must hold: every operation that was sent is recorded, whatever came of it, and one whose outcome is in doubt is recorded
//! as unknown. Clients pause between operations, so that a recording of some seconds stays small enough to be checked.
//!
//! Left to others: breaking the cluster meanwhile (the tests), watching (`watchers`), judging (`run`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use etcd_proto::etcdserverpb::kv_client::KvClient;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::doors::Doors;
use crate::guest::Guest;
use crate::history::{At, ClientId, Found, History, KeyRange, KeyState, Recorder, Revision};
use crate::watch::WatchRecord;
use crate::watchers::{self, Closing};
use crate::wire;

/// How long a patient client waits for an answer: longer than an election, so that most answers are known.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long the store may take to settle after the last fault.
pub(crate) const SETTLE_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks at a member that lags behind.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// At which number of operations clients stop by themselves: what a check handles in seconds.
pub(crate) const OPERATIONS_MAX: usize = 100_000;
/// The client that finishes the recording, a patient one; the others count from 0.
const LAST_CLIENT: ClientId = ClientId(1_000_001);
/// Guests count from here.
const FIRST_GUEST: u32 = 2_000_000;
/// How many operations must end for the load to count as working.
const SOME: usize = 50;
/// How long a cluster with a majority may take over them.
const WORKS_WITHIN: Duration = Duration::from_secs(15);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything random is drawn from it.
    pub seed: u64,
    /// How many clients.
    pub clients: u32,
    /// How many watch streams at a time, each with one to three watches.
    pub streams: u32,
    /// How many keys.
    pub keys: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { seed: rand::random(), clients: 16, streams: 6, keys: 10 }
    }
}

/// Everything that was recorded.
#[derive(Clone, Debug)]
pub struct Recording {
    /// What clients saw.
    pub history: History,
    /// What watchers saw.
    pub watches: Vec<WatchRecord>,
    /// What each member holds at the revision at the end.
    pub contents: Vec<(usize, Vec<KeyState>)>,
    /// The revision at the end.
    pub revision: Revision,
}

/// What all clients share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) doors: Doors,
    pub(crate) recorder: Recorder,
    pub(crate) keys: Vec<Bytes>,
    /// The highest revision that any client has seen.
    pub(crate) latest: Arc<AtomicU64>,
    values: Arc<AtomicU64>,
}

impl Shared {
    pub(crate) fn everything() -> KeyRange {
        KeyRange::between("k", "l")
    }

    /// A value that was never written before.
    pub(crate) fn value(&self) -> Bytes {
        format!("v{}", self.values.fetch_add(1, Ordering::Relaxed)).into()
    }
}

/// Clients and watchers at work.
pub struct Load {
    shared: Shared,
    stop: watch::Sender<bool>,
    close: watch::Sender<Option<Closing>>,
    clients: JoinSet<Result<()>>,
    guests: u32,
    watchers: JoinSet<Result<Vec<WatchRecord>>>,
}

impl Load {
    /// Starts all clients and watchers.
    pub fn start(doors: Doors, options: Options) -> Self {
        let keys = (0..options.keys).map(|key| format!("k{key:02}").into()).collect();
        let recorder = Recorder::start();
        let shared = Shared { doors, recorder, keys, latest: Arc::new(AtomicU64::new(1)), values: Arc::default() };
        let (stop, stopped) = watch::channel(false);
        let (close, closed) = watch::channel(None);
        let mut clients = JoinSet::new();
        for id in 0..options.clients {
            let rng = StdRng::seed_from_u64(options.seed.wrapping_add(u64::from(id)));
            clients.spawn(Client::new(ClientId(id), shared.clone(), rng).work(stopped.clone()));
        }
        let mut watchers = JoinSet::new();
        for id in 0..options.streams {
            let rng = StdRng::seed_from_u64(options.seed.wrapping_sub(u64::from(id) + 1));
            watchers.spawn(watchers::work(id, shared.clone(), rng, closed.clone()));
        }
        Load { shared, stop, close, clients, guests: 0, watchers }
    }

    /// Waits until the load has gone on for `time` and did something meanwhile, as it must while a majority is there.
    pub async fn works(&self, time: Duration) -> Result<()> {
        let (began, before) = (Instant::now(), self.operations());
        loop {
            let done = self.operations() - before;
            if began.elapsed() >= time && (done >= SOME || self.is_full()) {
                return Ok(());
            }
            ensure!(began.elapsed() < time + WORKS_WITHIN, "only {done} operations ended within {:?}", began.elapsed());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The time on the recording's clock.
    pub fn now(&self) -> At {
        self.shared.recorder.now()
    }

    /// A further client, whose operations are recorded like all others, and that stays at one member.
    pub fn guest(&mut self, member: usize) -> Guest {
        self.guests += 1;
        Guest::new(ClientId(FIRST_GUEST + self.guests), self.shared.clone(), member)
    }

    /// How many operations have ended so far.
    pub fn operations(&self) -> usize {
        self.shared.recorder.recorded()
    }

    /// Whether clients have stopped by themselves, because the recording is as large as it may be.
    pub fn is_full(&self) -> bool {
        self.operations() >= OPERATIONS_MAX
    }

    /// Lets the clients end, settles the store with a last write and delete of each key, and waits until every watcher that
    /// is still there has seen them.
    pub async fn finish(mut self) -> Result<Recording> {
        self.stop.send_replace(true);
        while let Some(client) = self.clients.join_next().await {
            client??;
        }
        let mut last = Client::new(LAST_CLIENT, self.shared.clone(), StdRng::seed_from_u64(0));
        let closing = last.close().await?;
        let revision = closing.revision;
        self.close.send_replace(Some(closing.clone()));
        let mut watches = Vec::new();
        for member in self.shared.doors.members() {
            watches.extend(watchers::replay(member, &self.shared, &closing).await?);
        }
        while let Some(records) = self.watchers.join_next().await {
            watches.extend(records??);
        }
        let mut contents = Vec::new();
        for member in self.shared.doors.members() {
            contents.push((member, content(&self.shared.doors, member, revision).await?));
        }
        Ok(Recording { history: self.shared.recorder.finish(), watches, contents, revision })
    }
}

/// What one member holds at a revision, as soon as it has come there.
async fn content(doors: &Doors, member: usize, revision: Revision) -> Result<Vec<KeyState>> {
    let mut kv = KvClient::new(doors.channel(member)?);
    let deadline = Instant::now() + SETTLE_WITHIN;
    loop {
        let mut request = wire::range(&Shared::everything(), true);
        request.revision = revision.get().cast_signed();
        let seen = match tokio::time::timeout(ANSWER_WITHIN, kv.range(request)).await {
            Ok(Ok(answer)) => match wire::ranged(answer.into_inner())? {
                Found::Range(keys) => return Ok(keys),
                other => bail!("a range was answered with {other}"),
            },
            Ok(Err(status)) => status.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() > deadline {
            bail!("n{} does not come to {revision}; last seen: {seen}", member + 1);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
