//! One member's disk is slow, or its network loses packets: it is there, and hard to live with.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::chaos::figures::{DISK_SLOW, NETWORK_LOSSY};
use crate::chaos::network::Network;
use crate::chaos::shim::SlowDisk;
use crate::chaos::stage::{Scene, Stage};
use crate::chaos::{Needs, Row};
use crate::cluster::{Home, MEMBERS, name};

/// What a sync takes more: a disk of the cloud that has used up its credit.
const SYNC_MORE: Duration = Duration::from_millis(150);
/// Packets that are lost of a hundred: most requests are late by a retransmission or two.
const LOST_PERCENT: u32 = 15;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "slow-disk",
        does: "each sync of a follower's disk takes 150 ms more, then of the leader's, then of both",
        holds: "writes go on, as fast as before where one disk is slow, and the slow member catches up",
        needs: Needs::Nothing,
        play: |stage| Box::pin(disk(stage)),
    },
    Row {
        name: "slow-network",
        does: "of the packets between a follower and the others every seventh is lost, then of the leader's",
        holds: "writes go on, and the member catches up",
        needs: Needs::Root,
        play: |stage| Box::pin(network(stage)),
    },
];

async fn disk(stage: &mut Stage) -> Result<()> {
    let scratch = stage.scratch()?;
    let disks: Vec<_> = (0..MEMBERS).map(|member| SlowDisk::make(scratch, &name(member))).collect::<Result<_>>()?;
    let home = |disk: &SlowDisk| Home { environment: disk.environment(), ..Home::default() };
    let mut scene = stage.open(disks.iter().map(home).collect()).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            for _ in 0..stage.pick(1, 3) {
                let (follower, leader) = (victim(scene, false).await?, victim(scene, true).await?);
                for members in [&[follower][..], &[leader], &[follower, leader]] {
                    slow(stage, scene, &disks, members).await?;
                }
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

async fn slow(stage: &mut Stage, scene: &mut Scene, disks: &[SlowDisk], members: &[usize]) -> Result<()> {
    let names: Vec<_> = members.iter().map(|member| name(*member)).collect();
    stage.fault("slow disk", &names.join(", "));
    let from = scene.load.now();
    for member in members {
        disks[*member].slow_down(SYNC_MORE)?;
    }
    scene.load.works(stage.pick(Duration::from_secs(1), Duration::from_secs(6))).await?;
    let told = scene.load.guest(members[0]).put("p0", None).await?;
    if members.len() * 2 > MEMBERS {
        ensure!(told.took >= SYNC_MORE, "the disks of a majority are slow, and a write took {:?}", told.took);
    }
    scene.pause_since(from, &DISK_SLOW);
    for member in members {
        disks[*member].slow_down(Duration::ZERO)?;
        scene.answers(*member).await?;
    }
    Ok(())
}

async fn network(stage: &mut Stage) -> Result<()> {
    let network = Network::make(stage.scratch()?, MEMBERS)?;
    let mut scene = stage.open(network.homes()).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            for _ in 0..stage.pick(1, 3) {
                for leads in [false, true] {
                    let member = victim(scene, leads).await?;
                    stage.fault("network that loses packets", &told(member, leads));
                    let from = scene.load.now();
                    network.lose(member, LOST_PERCENT)?;
                    scene.load.works(stage.pick(Duration::from_secs(2), Duration::from_secs(8))).await?;
                    scene.pause_since(from, &NETWORK_LOSSY);
                    network.heal()?;
                    scene.answers(member).await?;
                }
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

async fn victim(scene: &Scene, leads: bool) -> Result<usize> {
    let leader = scene.leader().await?;
    Ok(if leads { leader } else { scene.others(&[leader])[0] })
}

fn told(member: usize, leads: bool) -> String {
    format!("{} ({})", name(member), if leads { "the leader" } else { "a follower" })
}
