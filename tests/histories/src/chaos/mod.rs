//! Faults of machines, disks, networks and clocks under load: rows of a table, each with what is done and what must hold.
//!
//! A [`Row`] is a value: what it is called, what it does, what must hold, what it needs, and the function that plays it on a
//! [`Stage`]. The tests play each row once and briefly; the binary `chaos` plays all of them in turn for as long as it is
//! told, and writes down what it measured.
//!
//! Must hold: every choice of a row is drawn from its stage's seed; every recording is judged; whatever is made of mounts,
//! namespaces and processes is gone afterwards, also when the row fails.
//!
//! Left to others: clients, watchers and judgement (`load`, `run`).

pub mod damage;
pub mod disk;
pub mod figures;
pub mod network;
pub mod report;
pub mod scratch;
pub mod shim;
pub mod stage;

mod rows;

use std::pin::Pin;

use anyhow::{Context, Result};

use figures::Played;
use stage::{Length, Stage};

/// What a row needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Mounts, namespaces: root.
    Root,
}

/// How a row is played.
pub type Play = for<'a> fn(&'a mut Stage) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// One kind of fault.
#[derive(Clone, Copy)]
pub struct Row {
    /// Short, without spaces.
    pub name: &'static str,
    /// What is done to the cluster, a sentence.
    pub does: &'static str,
    /// What must hold beside that every history is linearizable and every watch keeps its promises.
    pub holds: &'static str,
    /// What it needs of the machine.
    pub needs: Needs,
    /// How it is played.
    pub play: Play,
}

/// All rows, in the order in which they are played.
pub fn rows() -> Vec<Row> {
    rows::all()
}

/// A row that has to fail: a store that acknowledges what it has not synced loses it with the power.
pub fn without_syncs() -> Row {
    rows::WITHOUT_SYNCS
}

/// What came of a row.
pub enum Ended {
    /// Everything held.
    Played(Played),
    /// It was not played, and why.
    Skipped(String),
}

impl Row {
    /// Plays the row once. `keep`: where the members' logs are put if it fails.
    pub async fn run(&self, length: Length, seed: u64) -> Result<Ended> {
        if self.needs == Needs::Root
            && let Err(why) = scratch::root()
        {
            return Ok(Ended::Skipped(why));
        }
        let mut stage = Stage::new(self.name, length, seed);
        let failed = || format!("{} failed; repeat it with CHAOS_SEED={seed} make chaos ONLY={}", self.name, self.name);
        match (self.play)(&mut stage).await {
            Ok(()) => Ok(Ended::Played(stage.finish())),
            Err(error) => Err(error).with_context(failed),
        }
    }
}
