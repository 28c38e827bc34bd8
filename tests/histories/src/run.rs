//! One experiment: a cluster, a load, faults meanwhile, and the judgement.
//!
//! Must hold: a failure names the seed and leaves the recording behind as text.
//!
//! Left to others: which faults (the tests).

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::cluster::{Cluster, Subject};
use crate::history::{Freshness, Outcome};
use crate::linear::{self, Linearization};
use crate::load::{Load, Options, Recording};
use crate::model::State;
use crate::watch::Marks;
use crate::{load, serial, watch};

/// How much was checked.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "counts of what their names say")]
pub struct Checked {
    pub operations: usize,
    pub unknown: usize,
    pub local_reads: usize,
    pub writes: usize,
    pub watches: usize,
    pub events: usize,
    pub marks: usize,
}

impl Checked {
    /// Adds what was checked of another recording.
    pub fn add(&mut self, other: &Checked) {
        let Checked { operations, unknown, local_reads, writes, watches, events, marks } = other;
        self.operations += operations;
        self.unknown += unknown;
        self.local_reads += local_reads;
        self.writes += writes;
        self.watches += watches;
        self.events += events;
        self.marks += marks;
    }
}

/// How long the load lasts when a test asks for `usual`: `HISTORIES_SECONDS` makes it longer.
pub fn duration(usual: Duration) -> Result<Duration> {
    match std::env::var("HISTORIES_SECONDS") {
        Ok(seconds) => Ok(Duration::from_secs(seconds.parse().context("HISTORIES_SECONDS is no number")?)),
        Err(_) => Ok(usual),
    }
}

/// The options of a run: `HISTORIES_SEED` repeats one.
pub fn options() -> Result<Options> {
    let mut options = load::Options::default();
    if let Ok(seed) = std::env::var("HISTORIES_SEED") {
        options.seed = seed.parse().context("HISTORIES_SEED is no number")?;
    }
    Ok(options)
}

/// Runs the load for as long as `faults` takes, and judges what was recorded.
pub async fn run(faults: impl AsyncFnOnce(&mut Cluster, &Load) -> Result<()>) -> Result<Checked> {
    let (subject, options) = (Subject::from_env()?, options()?);
    eprintln!("{subject:?}, HISTORIES_SEED={}", options.seed);
    let mut cluster = Cluster::start(subject).await?;
    let load = Load::start(cluster.doors(), options);
    let recorded = match faults(&mut cluster, &load).await {
        Ok(()) => load.finish().await,
        Err(error) => Err(error),
    };
    let recording = recorded.with_context(|| format!("HISTORIES_SEED={}", options.seed))?;
    conclude(&recording, subject, options.seed)
}

/// All checks over one recording; one that fails them is left behind as text.
pub fn conclude(recording: &Recording, subject: Subject, seed: u64) -> Result<Checked> {
    let began = std::time::Instant::now();
    let checked = judge(recording, subject.marks()).with_context(|| {
        let path = std::env::temp_dir().join(format!("history-{seed}.txt"));
        let kept = std::fs::write(&path, print(recording)).is_ok();
        let kept = if kept { format!("the recording is in {}", path.display()) } else { "not kept".to_owned() };
        format!("HISTORIES_SEED={seed}; {kept}")
    })?;
    eprintln!("{checked:?}, checked in {:?}", began.elapsed());
    Ok(checked)
}

/// All checks over one recording.
pub fn judge(recording: &Recording, marks: Marks) -> Result<Checked> {
    let Recording { history, watches, contents, revision } = recording;
    let truth = linear::check(history, watches)?;
    others_agree(recording, &truth, marks).map_err(|error| match &truth.unexplained {
        Some(why) => error.context(format!("no order was found that explains all that was seen: {why}")),
        None => error,
    })?;
    let expected = at(&truth, *revision);
    for (member, content) in contents {
        let differs = || anyhow!("n{} holds at {revision}: {content:?}, and not {expected:?}", member + 1);
        ensure!(*content == expected, differs());
    }
    let local = |op: &&crate::history::Operation| op.freshness != Freshness::Linearizable;
    Ok(Checked {
        operations: history.len(),
        unknown: history.iter().filter(|op| op.outcome == Outcome::Unknown).count(),
        local_reads: history.iter().filter(local).count(),
        writes: truth.commits.len(),
        watches: watches.len(),
        events: watches.iter().map(|watch| watch.events().count()).sum(),
        marks: watches
            .iter()
            .flat_map(|w| &w.frames)
            .filter(|(_, f)| matches!(f, watch::Frame::Progress { .. }))
            .count(),
    })
}

/// Compares local reads and watches with the order of writes.
fn others_agree(recording: &Recording, truth: &Linearization, marks: Marks) -> Result<()> {
    serial::check(&recording.history, truth)?;
    for record in &recording.watches {
        watch::check(record, truth, marks).with_context(|| format!("{:?}, ended: {}", record.wanted, record.ended))?;
    }
    Ok(())
}

fn at(truth: &Linearization, revision: crate::history::Revision) -> Vec<crate::history::KeyState> {
    let mut state = State::default();
    for commit in truth.commits.iter().take_while(|commit| commit.revision <= revision) {
        state.replay(&commit.events);
    }
    state.range(&load::Shared::everything())
}

fn print(recording: &Recording) -> String {
    let mut text = String::new();
    for (index, operation) in recording.history.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "#{index} {operation}");
    }
    for watch in &recording.watches {
        let _ = writeln!(text, "watch {}: {:?}", watch.name, watch.wanted);
        let _ = writeln!(text, "  created {:?}, until {:?}, ended: {}", watch.created, watch.until, watch.ended);
        for (at, frame) in &watch.frames {
            let _ = match frame {
                watch::Frame::Progress { revision, asked } => {
                    writeln!(text, "  {at} progress {revision} asked {asked}")
                }
                watch::Frame::Events { events, more } => {
                    writeln!(text, "  {at} more {more} [{}]", crate::history::list(events))
                }
            };
        }
    }
    text
}
