//! The leader is stopped (`kill -STOP`), and goes on later with its old idea of the world.

use std::time::Duration;

use anyhow::Result;

use crate::chaos::figures::{LEADER_ASLEEP, LEASE_LATE};
use crate::chaos::stage::{Scene, Stage};
use crate::chaos::{Needs, Row};
use crate::cluster::{Home, MEMBERS, name};
use crate::leases::{Forsaken, Holders};

/// Longer than leases take that are kept alive: the sleeper believes that their time is up when it wakes.
const SLEEP_SHORT: Duration = Duration::from_millis(3600);
const SLEEP_FULL: Duration = Duration::from_secs(10);
const KEPT_TTL_S: u32 = 3;
const KEPT: usize = 4;
const FORSAKEN_TTL_S: u32 = 2;

pub(super) const ROWS: &[Row] = &[Row {
    name: "sleep-leader",
    does: "the leader is stopped for 10 s, then goes on; leases are granted through it, and kept alive through the others",
    holds: "no stale linearizable answer; no lease that is kept alive ends; one that is not does, and not before its time",
    needs: Needs::Nothing,
    play: |stage| Box::pin(play(stage)),
}];

async fn play(stage: &mut Stage) -> Result<()> {
    let mut scene = stage.open(vec![Home::default(); MEMBERS]).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            for _ in 0..stage.pick(1, 4) {
                sleep(stage, scene).await?;
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

async fn sleep(stage: &mut Stage, scene: &mut Scene) -> Result<()> {
    scene.load.works(Duration::from_millis(300)).await?;
    let leader = scene.leader().await?;
    let others = scene.others(&[leader]);
    let holders = Holders::start(&mut scene.load, leader, KEPT, KEPT_TTL_S).await?;
    let mut forsaken = Forsaken::grant(&mut scene.load, leader, "n0", FORSAKEN_TTL_S).await?;
    forsaken.look_at(others[0]);
    let end = forsaken.watch_its_end(2);
    stage.fault("leader stopped", &name(leader));
    let from = scene.load.now();
    scene.cluster.stop(leader)?;
    scene.cluster.leader(&others).await?;
    scene.answers(others[0]).await?;
    scene.load.works(stage.pick(SLEEP_SHORT, SLEEP_FULL)).await?;
    scene.pause_since(from, &LEADER_ASLEEP);
    scene.cluster.go_on(leader)?;
    scene.answers(leader).await?;
    // Whatever the sleeper was about to do has been done by now or never will be.
    scene.load.works(Duration::from_millis(500)).await?;
    holders.finish().await?;
    let late = end.await??;
    stage.measure(&LEASE_LATE, late);
    Ok(())
}
