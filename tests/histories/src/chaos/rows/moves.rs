//! Keyspaces are moved between groups while they are used.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::RngExt;
use rand::seq::IndexedRandom;

use crate::chaos::figures::{MOVED, RESTARTED};
use crate::chaos::stage::{Scene, Stage};
use crate::chaos::{Needs, Row};
use crate::cluster::{Home, MEMBERS, name};
use crate::others;

/// Keyspaces beside the one that is recorded.
const OTHERS: usize = 19;
/// Keys of each.
const KEYS: usize = 50;
/// Groups of a cluster that is founded without saying how many.
const GROUPS: u16 = 16;

pub(super) const ROWS: &[Row] = &[Row {
    name: "moves",
    does: "the keyspace that is recorded and 19 others are moved from group to group; now and then a member is killed",
    holds: "history, leases and revisions go along; watchers notice nothing",
    needs: Needs::Nothing,
    play: |stage| Box::pin(play(stage)),
}];

async fn play(stage: &mut Stage) -> Result<()> {
    let mut scene = stage.open(vec![Home::default(); MEMBERS]).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            for other in 0..OTHERS {
                others::fill(&scene.cluster.doors(), other % MEMBERS, &format!("other-{other}"), KEYS).await?;
            }
            for round in 0..stage.pick(OTHERS / 2, 3 * OTHERS) {
                if scene.load.is_full() {
                    break;
                }
                step(stage, scene, round).await?;
            }
            for other in 0..OTHERS {
                others::check(&scene.cluster.doors(), other % MEMBERS, &format!("other-{other}"), KEYS).await?;
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

async fn step(stage: &mut Stage, scene: &mut Scene, round: usize) -> Result<()> {
    let through = *scene.members().choose(&mut stage.rng).context("there are members")?;
    let (one, two) = (stage.rng.random_range(0..GROUPS), stage.rng.random_range(0..GROUPS));
    let other = format!("other-{}", round % OTHERS);
    stage.fault("keyspaces moved", &format!("default to g{one}, {other} to g{two}"));
    let began = Instant::now();
    tokio::try_join!(
        scene.cluster.move_keyspace(through, "default", one),
        scene.cluster.move_keyspace(through, &other, two)
    )?;
    stage.measure(&MOVED, began.elapsed());
    if round % 6 == 5 {
        let victim = *scene.members().choose(&mut stage.rng).context("there are members")?;
        stage.fault("member killed between moves", &name(victim));
        scene.cluster.kill(victim)?;
        let left = scene.others(&[victim]);
        scene.cluster.leader(&left).await?;
        scene.answers(left[0]).await?;
        scene.load.works(Duration::from_millis(200)).await?;
        let took = scene.restart(victim).await?;
        stage.measure(&RESTARTED, took);
    }
    Ok(())
}
