//! One member's wall clock is an hour ahead, or behind, from its start or from one moment to the next.

use std::time::Duration;

use anyhow::Result;
use rand::RngExt;
use rand::seq::IndexedRandom;

use crate::chaos::figures::{LEADER_DEAD, LEASE_LATE, RESTARTED};
use crate::chaos::shim::Clock;
use crate::chaos::stage::{Scene, Stage};
use crate::chaos::{Needs, Row};
use crate::cluster::{Home, MEMBERS, name};
use crate::leases::{Forsaken, Holders};

const HOUR_S: i64 = 3600;
const KEPT_TTL_S: u32 = 4;
const KEPT: usize = 2;
const FORSAKEN_TTL_S: u32 = 2;
/// Ends within the hour by which clocks are wrong, and not within the row.
const LONG_TTL_S: u32 = 600;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "clock-start",
        does: "one member starts with its clock an hour ahead, one an hour behind; the leader is killed, and clocks are set \
               right while they run",
        holds: "no write is lost, no order broken, no lease ends early",
        needs: Needs::Nothing,
        play: |stage| Box::pin(play(stage, true)),
    },
    Row {
        name: "clock-jump",
        does: "the clock of the leader and of a follower jumps an hour ahead or back, and back again, while they run",
        holds: "no write is lost, no order broken, no lease ends early",
        needs: Needs::Nothing,
        play: |stage| Box::pin(play(stage, false)),
    },
];

async fn play(stage: &mut Stage, from_start: bool) -> Result<()> {
    let shifts: [i64; MEMBERS] = if from_start { [HOUR_S, -HOUR_S, 0] } else { [0; MEMBERS] };
    let scratch = stage.scratch()?;
    let clocks = (0..MEMBERS).map(|member| Clock::make(scratch, &name(member), shifts[member]));
    let clocks: Vec<_> = clocks.collect::<Result<_>>()?;
    let home = |clock: &Clock| Home { environment: clock.environment(), ..Home::default() };
    let mut scene = stage.open(clocks.iter().map(home).collect()).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            let leader = scene.leader().await?;
            let holders = Holders::start(&mut scene.load, leader, KEPT, KEPT_TTL_S).await?;
            let mut long = Forsaken::grant(&mut scene.load, leader, "n1", LONG_TTL_S).await?;
            for round in 0..stage.pick(1, 4) {
                once(stage, scene, &clocks, from_start && round == 0, &mut long).await?;
            }
            holders.finish().await
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

async fn once(stage: &mut Stage, scene: &mut Scene, clocks: &[Clock], kill: bool, long: &mut Forsaken) -> Result<()> {
    let leader = scene.leader().await?;
    let mut forsaken = Forsaken::grant(&mut scene.load, leader, "n0", FORSAKEN_TTL_S).await?;
    forsaken.look_at(scene.others(&[leader])[0]);
    let end = forsaken.watch_its_end(2);
    let sign = if stage.rng.random() { 1 } else { -1 };
    if kill {
        stage.fault("leader killed while clocks differ by two hours", &name(leader));
        let from = scene.load.now();
        scene.cluster.kill(leader)?;
        let others = scene.others(&[leader]);
        scene.cluster.leader(&others).await?;
        scene.load.works(Duration::from_millis(500)).await?;
        scene.pause_since(from, &LEADER_DEAD);
        let took = scene.restart(leader).await?;
        stage.measure(&RESTARTED, took);
        for clock in clocks {
            clock.shift(0)?;
        }
    }
    for member in [leader, *scene.others(&[leader]).choose(&mut stage.rng).unwrap_or(&leader)] {
        let whose = if member == leader { "the leader" } else { "a follower" };
        stage.fault("clock jumped", &format!("of {} ({whose}), {sign:+} h", name(member)));
        clocks[member].shift(sign * HOUR_S)?;
        scene.load.works(stage.pick(Duration::from_millis(700), Duration::from_secs(4))).await?;
        long.look_at(member);
        long.lives().await?;
    }
    let late = end.await??;
    stage.measure(&LEASE_LATE, late);
    for clock in clocks {
        stage.fault("clock set right", "");
        clock.shift(0)?;
        scene.load.works(Duration::from_millis(200)).await?;
    }
    long.lives().await
}
