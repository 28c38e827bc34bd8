//! Disks lose their power: what was not flushed is gone.

use std::time::Duration;

use anyhow::Result;
use rand::RngExt;
use rand::seq::IndexedRandom;

use crate::chaos::disk::PowerDisk;
use crate::chaos::figures::LEADER_DEAD;
use crate::chaos::shim;
use crate::chaos::stage::{Scene, Stage};
use crate::chaos::{Needs, Row};
use crate::cluster::{Home, MEMBERS, name};

/// Of each disk.
const DISK_MIB: u64 = 256;
/// What members keep in reserve, so that they never come near it here.
const RESERVE_MIB: u64 = 16;

const HOLDS: &str = "nothing acknowledged is lost; members start on what is there";

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "power-one",
        does: "the power of one member is cut, and comes back",
        holds: HOLDS,
        needs: Needs::Root,
        play: |stage| Box::pin(play(stage, Whose::One, Syncs::Done)),
    },
    Row {
        name: "power-majority",
        does: "the power of the leader and of a follower is cut at the same moment, and comes back",
        holds: HOLDS,
        needs: Needs::Root,
        play: |stage| Box::pin(play(stage, Whose::Majority, Syncs::Done)),
    },
    Row {
        name: "power-all",
        does: "the power of all members is cut at the same moment, and comes back",
        holds: HOLDS,
        needs: Needs::Root,
        play: |stage| Box::pin(play(stage, Whose::All, Syncs::Done)),
    },
];

/// Not one of the rows: it has to fail, or the rows above could not be trusted.
pub(in crate::chaos) const WITHOUT_SYNCS: Row = Row {
    name: "power-unsynced",
    does: "the power of all members is cut, and the log's writes were not synced",
    holds: "the check finds that acknowledged writes are lost",
    needs: Needs::Root,
    play: |stage| Box::pin(play(stage, Whose::All, Syncs::Dropped)),
};

#[derive(Clone, Copy)]
enum Syncs {
    Done,
    Dropped,
}

#[derive(Clone, Copy)]
enum Whose {
    One,
    Majority,
    All,
}

async fn play(stage: &mut Stage, whose: Whose, syncs: Syncs) -> Result<()> {
    let scratch = stage.scratch()?;
    let disks: Vec<_> =
        (0..MEMBERS).map(|member| PowerDisk::make(scratch, &name(member), DISK_MIB)).collect::<Result<_>>()?;
    let environment = match syncs {
        Syncs::Done => Vec::new(),
        Syncs::Dropped => shim::without_syncs(scratch)?,
    };
    let home = |disk: &PowerDisk| Home {
        data_dir: Some(disk.data_dir()),
        environment: environment.clone(),
        flags: vec!["--disk-reserve".to_owned(), RESERVE_MIB.to_string()],
        ..Home::default()
    };
    let mut scene = stage.open(disks.iter().map(home).collect()).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            for _ in 0..stage.pick(1, 8) {
                if !scene.load.is_full() {
                    cut(stage, scene, &disks, whose).await?;
                }
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

async fn cut(stage: &mut Stage, scene: &mut Scene, disks: &[PowerDisk], whose: Whose) -> Result<()> {
    scene.load.works(Duration::from_millis(stage.rng.random_range(500..1000))).await?;
    let leader = scene.leader().await?;
    let victims = match whose {
        Whose::One => scene.members().choose(&mut stage.rng).copied().into_iter().collect(),
        Whose::Majority => vec![leader, scene.others(&[leader])[0]],
        Whose::All => scene.members(),
    };
    let names: Vec<_> = victims.iter().map(|victim| name(*victim)).collect();
    stage.fault("power cut", &names.join(", "));
    let from = scene.load.now();
    for victim in &victims {
        disks[*victim].cut_power()?;
    }
    for victim in &victims {
        // It may have ended by itself, because it cannot write any more.
        if scene.cluster.ended(*victim)?.is_none() {
            scene.cluster.kill(*victim)?;
        }
    }
    let others = scene.others(&victims);
    let majority = others.len() * 2 > scene.members().len();
    if majority {
        scene.cluster.leader(&others).await?;
        scene.load.works(Duration::from_millis(500)).await?;
        if victims == [leader] {
            scene.pause_since(from, &LEADER_DEAD);
        }
    }
    for victim in &victims {
        disks[*victim].power_on()?;
        scene.cluster.restart(*victim)?;
    }
    super::kill::back(stage, scene, victims, (!majority).then_some(from)).await
}
