//! Members are killed (`kill -9`) and started again on what they left on disk.

use std::time::Duration;

use anyhow::Result;
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::chaos::figures::{FOLLOWER_DEAD, LEADER_DEAD, MAJORITY_DEAD, RESTARTED};
use crate::chaos::stage::{Scene, Stage};
use crate::chaos::{Needs, Row};
use crate::cluster::{Home, MEMBERS, name};
use crate::history::At;

const HOLDS: &str = "every acknowledged write is there, once; watchers are told all, in order";

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "kill-leader",
        does: "the leader is killed, and started again once another one leads",
        holds: HOLDS,
        needs: Needs::Nothing,
        play: |stage| Box::pin(play(stage, &[Whom::Leader], 2, 10)),
    },
    Row {
        name: "kill-follower",
        does: "a follower is killed and started again",
        holds: HOLDS,
        needs: Needs::Nothing,
        play: |stage| Box::pin(play(stage, &[Whom::Follower], 1, 10)),
    },
    Row {
        name: "kill-majority",
        does: "the leader and a follower are killed at once and started again",
        holds: HOLDS,
        needs: Needs::Nothing,
        play: |stage| Box::pin(play(stage, &[Whom::Majority], 1, 8)),
    },
    Row {
        name: "kill-all",
        does: "all members are killed at once and started again",
        holds: HOLDS,
        needs: Needs::Nothing,
        play: |stage| Box::pin(play(stage, &[Whom::All], 1, 8)),
    },
    Row {
        name: "kill-random",
        does: "any members, one to all, are killed at any moment, also while others just start",
        holds: HOLDS,
        needs: Needs::Nothing,
        play: |stage| Box::pin(play(stage, &[Whom::Random], 3, 20)),
    },
];

#[derive(Clone, Copy)]
enum Whom {
    Leader,
    Follower,
    Majority,
    All,
    Random,
}

async fn play(stage: &mut Stage, whom: &[Whom], short: usize, full: usize) -> Result<()> {
    let mut scene = stage.open(vec![Home::default(); MEMBERS]).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            for _ in 0..stage.pick(short, full) {
                for whom in whom {
                    if !scene.load.is_full() {
                        kill(stage, scene, *whom).await?;
                    }
                }
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

async fn kill(stage: &mut Stage, scene: &mut Scene, whom: Whom) -> Result<()> {
    if !matches!(whom, Whom::Random) {
        scene.load.works(Duration::from_millis(500)).await?;
    }
    let leader = scene.leader().await?;
    let victims = match whom {
        Whom::Leader => vec![leader],
        Whom::Follower => scene.others(&[leader])[..1].to_vec(),
        Whom::Majority => vec![leader, scene.others(&[leader])[0]],
        Whom::All => scene.members(),
        Whom::Random => {
            let mut members = scene.members();
            members.shuffle(&mut stage.rng);
            members.truncate(stage.rng.random_range(1..=members.len()));
            members
        }
    };
    let names: Vec<_> = victims.iter().map(|victim| name(*victim)).collect();
    let kind = if victims.contains(&leader) { "leader and others killed" } else { "followers killed" };
    let kind = if victims == [leader] { "leader killed" } else { kind };
    stage.fault(kind, &names.join(", "));
    let from = scene.load.now();
    for victim in &victims {
        scene.cluster.kill(*victim)?;
    }
    let others = scene.others(&victims);
    let majority = others.len() * 2 > scene.members().len();
    if majority {
        scene.cluster.leader(&others).await?;
        scene.answers(others[0]).await?;
        scene.load.works(Duration::from_millis(500)).await?;
        scene.pause_since(from, if victims == [leader] { &LEADER_DEAD } else { &FOLLOWER_DEAD });
    }
    for victim in &victims {
        if matches!(whom, Whom::Random) && stage.rng.random() {
            // The others go on or start meanwhile, without this one.
            scene.cluster.restart(*victim)?;
            continue;
        }
        scene.cluster.restart(*victim)?;
    }
    back(stage, scene, victims, (!majority).then_some(from)).await
}

/// Waits until members that were started again answer. `stalled`: since when there was no majority.
pub(super) async fn back(stage: &mut Stage, scene: &mut Scene, members: Vec<usize>, stalled: Option<At>) -> Result<()> {
    for member in members {
        let took = scene.answers(member).await?;
        stage.measure(&RESTARTED, took);
    }
    if let Some(from) = stalled {
        scene.load.works(Duration::from_millis(200)).await?;
        scene.pause_since(from, &MAJORITY_DEAD);
    }
    Ok(())
}
