//! Where a row is played: its seed, its folder, the cluster under load, and what is measured.
//!
//! Must hold: a [`Scene`] that is opened and closed has been judged. Fields drop in their order: processes before the
//! mounts and namespaces that they live in.
//!
//! Left to others: what is done (the rows).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etcd_proto::etcdserverpb as pb;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pb::kv_client::KvClient;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::chaos::figures::{Figure, Played};
use crate::chaos::scratch::Scratch;
use crate::cluster::{Cluster, Home, READY_WITHIN, Subject, name};
use crate::history::{At, Freshness, Outcome};
use crate::load::{Load, Options, Recording};
use crate::run;

/// Between two questions whether a member answers again.
const ASK_EVERY: Duration = Duration::from_millis(25);

/// How thoroughly a row is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Seconds, as a test among many.
    Short,
    /// As it is measured.
    Full,
}

/// Where a row is played.
pub struct Stage {
    row: &'static str,
    length: Length,
    seed: u64,
    /// For the row's own choices.
    pub rng: StdRng,
    began: Instant,
    played: Played,
    scratch: Option<Scratch>,
}

impl Stage {
    pub(crate) fn new(row: &'static str, length: Length, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Stage { row, length, seed, rng, began: Instant::now(), played: Played::default(), scratch: None }
    }

    pub(crate) fn finish(mut self) -> Played {
        self.played.runs = 1;
        self.played.took = self.began.elapsed();
        self.played
    }

    /// One thing in a short playing and another in a full one.
    pub fn pick<T>(&self, short: T, full: T) -> T {
        if self.length == Length::Short { short } else { full }
    }

    /// The folder of this playing.
    pub fn scratch(&mut self) -> Result<&Scratch> {
        if self.scratch.is_none() {
            self.scratch = Some(Scratch::make()?);
        }
        self.scratch.as_ref().context("just made")
    }

    /// Says how it goes on.
    pub fn say(&self, what: &str) {
        eprintln!("{:>18} {:>6.1} s  {what}", self.row, self.began.elapsed().as_secs_f64());
    }

    /// Counts a fault, and says so.
    pub fn fault(&mut self, kind: &'static str, details: &str) {
        *self.played.faults.entry(kind).or_default() += 1;
        self.say(&format!("{kind}: {details}"));
    }

    /// Writes down how long something took, and says so.
    pub fn measure(&mut self, figure: &Figure, took: Duration) {
        self.say(&format!("{}: {took:.2?}", figure.name));
        self.played.measure(figure, took);
    }

    /// Starts a cluster in these homes and the load.
    pub async fn open(&mut self, homes: Vec<Home>) -> Result<Scene> {
        let subject = Subject::from_env()?;
        let cluster = Cluster::start_in(subject, homes).await?;
        let options = self.pick(Options { clients: 8, streams: 4, ..Options::default() }, Options::default());
        let load = Load::start(cluster.doors(), Options { seed: self.rng.random(), ..options });
        load.works(Duration::from_millis(300)).await?;
        Ok(Scene { cluster, load, pauses: Vec::new() })
    }

    /// Ends the load and judges what was recorded.
    pub async fn close(&mut self, scene: Scene) -> Result<Recording> {
        let Scene { cluster, load, pauses } = scene;
        let finished = load.finish().await;
        let concluded = finished.and_then(|recording| {
            let checked = run::conclude(&recording, cluster.subject(), self.seed)?;
            Ok((recording, checked))
        });
        let (recording, checked) = concluded.inspect_err(|_| self.keep_logs(&cluster))?;
        self.played.checked.add(&checked);
        for Pause { figure, from, to } in pauses {
            self.measure(figure, longest_pause(&recording, from, to)?);
        }
        Ok(recording)
    }

    /// Plays a part with the scene, and keeps the members' logs if that fails.
    pub async fn with<T>(
        &mut self,
        scene: &mut Scene,
        part: impl AsyncFnOnce(&mut Stage, &mut Scene) -> Result<T>,
    ) -> Result<T> {
        // Boxed: parts are long, and each would lie in the future of its row.
        let played = Box::pin(part(self, scene)).await;
        played.inspect_err(|_| self.keep_logs(&scene.cluster))
    }

    fn keep_logs(&self, cluster: &Cluster) {
        let folder = std::env::temp_dir().join(format!("{}-{}", self.row, self.seed));
        match cluster.keep_logs(&folder) {
            Ok(()) => self.say(&format!("the members' logs are in {}", folder.display())),
            Err(error) => self.say(&format!("the members' logs are not kept: {error:#}")),
        }
    }
}

/// A cluster under load.
pub struct Scene {
    /// The cluster.
    pub cluster: Cluster,
    /// The load.
    pub load: Load,
    pauses: Vec<Pause>,
}

/// A time in which the longest pause between two answered writes is wanted.
struct Pause {
    figure: &'static Figure,
    from: At,
    to: At,
}

impl Scene {
    /// All members.
    pub fn members(&self) -> Vec<usize> {
        self.cluster.doors().members()
    }

    /// All but these.
    pub fn others(&self, than: &[usize]) -> Vec<usize> {
        self.members().into_iter().filter(|member| !than.contains(member)).collect()
    }

    /// Who leads.
    pub async fn leader(&self) -> Result<usize> {
        self.cluster.leader(&self.members()).await
    }

    /// Measures, once all is over, the longest pause between two answered writes from `from` until now, if there was a load.
    pub fn pause_since(&mut self, from: At, figure: &'static Figure) {
        if !self.load.is_full() {
            self.pauses.push(Pause { figure, from, to: self.load.now() });
        }
    }

    /// Starts a member, and tells how long it took until it answered.
    pub async fn restart(&mut self, member: usize) -> Result<Duration> {
        self.cluster.restart(member)?;
        self.answers(member).await
    }

    /// How long it takes until a member answers a linearizable read, asked again and again without waiting for the answers.
    pub async fn answers(&mut self, member: usize) -> Result<Duration> {
        let began = Instant::now();
        let channel = self.cluster.doors().channel(member)?;
        let mut asked = FuturesUnordered::new();
        let mut seen = "no answer".to_owned();
        while began.elapsed() < READY_WITHIN {
            let mut kv = KvClient::new(channel.clone());
            asked.push(async move { kv.range(pb::RangeRequest { key: "ready".into(), ..Default::default() }).await });
            let asked_again = Instant::now() + ASK_EVERY;
            while let Ok(Some(answer)) = tokio::time::timeout_at(asked_again.into(), asked.next()).await {
                match answer {
                    Ok(_) => return Ok(began.elapsed()),
                    Err(status) => seen = status.to_string(),
                }
            }
            tokio::time::sleep_until(asked_again.into()).await;
            if self.cluster.ended(member)?.is_some() {
                break;
            }
        }
        let said = self.cluster.said(member);
        let last = said.lines().rev().take(5).collect::<Vec<_>>();
        bail!("{} does not answer; last seen: {seen}; it said, newest first: {last:#?}", name(member))
    }
}

/// The longest time without an answered write that touches the time from `from` to `to`.
fn longest_pause(recording: &Recording, from: At, to: At) -> Result<Duration> {
    let mut answers: Vec<At> = recording.history.iter().filter_map(written).collect();
    answers.sort_unstable();
    let pauses = answers.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
    pauses.map(|pair| pair[1].0 - pair[0].0).max().context("no write was answered in the time that is measured")
}

/// When a write was answered, if the operation is one.
fn written(operation: &crate::history::Operation) -> Option<At> {
    match (&operation.outcome, operation.freshness) {
        (Outcome::Answered { at, answer }, Freshness::Linearizable) if answer.wrote() => Some(*at),
        _ => None,
    }
}
