//! What members send to each other is lost, while clients still reach all of them.

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::RngExt;
use rand::seq::IndexedRandom;

use crate::chaos::figures::{HEALED, LEADER_CUT, REFUSED};
use crate::chaos::network::Network;
use crate::chaos::stage::{Scene, Stage};
use crate::chaos::{Needs, Row};
use crate::cluster::{MEMBERS, name};
use crate::guest::Guest;

const HOLDS: &str = "the minority refuses writes and linearizable reads, in words and in time, and answers local reads; the \
                     majority goes on; it heals by itself";
/// How long a minority may take to refuse what it cannot do: the store's own patience is 5 s.
const REFUSED_WITHIN: Duration = Duration::from_secs(7);
/// What it may say then.
const WORDS: [&str; 2] = ["etcdserver: request timed out", "etcdserver: no leader"];

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "cut-leader",
        does: "the leader and the others don't hear each other",
        holds: HOLDS,
        needs: Needs::Root,
        play: |stage| Box::pin(play(stage, Cut::Leader)),
    },
    Row {
        name: "cut-follower",
        does: "a follower and the others don't hear each other",
        holds: HOLDS,
        needs: Needs::Root,
        play: |stage| Box::pin(play(stage, Cut::Follower)),
    },
    Row {
        name: "cut-one-way",
        does: "what one member sends to the others is lost, or what they send to it; it may be the leader",
        holds: "as when both ways are cut",
        needs: Needs::Root,
        play: |stage| Box::pin(play(stage, Cut::OneWay)),
    },
    Row {
        name: "cut-pair",
        does: "two members don't hear each other, and both hear the third",
        holds: "the cluster goes on, and heals by itself",
        needs: Needs::Root,
        play: |stage| Box::pin(play(stage, Cut::Pair)),
    },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Leader,
    Follower,
    OneWay,
    Pair,
}

async fn play(stage: &mut Stage, cut: Cut) -> Result<()> {
    let network = Network::make(stage.scratch()?, MEMBERS)?;
    let mut scene = stage.open(network.homes()).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            for _ in 0..stage.pick(1, 5) {
                cut_once(stage, scene, &network, cut).await?;
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

async fn cut_once(stage: &mut Stage, scene: &mut Scene, network: &Network, cut: Cut) -> Result<()> {
    scene.load.works(Duration::from_millis(500)).await?;
    let leader = scene.leader().await?;
    let followers = scene.others(&[leader]);
    let follower = *followers.choose(&mut stage.rng).unwrap_or(&leader);
    let lone = match cut {
        Cut::Leader => leader,
        Cut::Follower => follower,
        Cut::OneWay => *scene.members().choose(&mut stage.rng).unwrap_or(&leader),
        Cut::Pair => follower,
    };
    let others = scene.others(&[lone]);
    let from = scene.load.now();
    let (sends, hears) = match cut {
        Cut::OneWay if stage.rng.random() => (true, false),
        Cut::OneWay => (false, true),
        _ => (false, false),
    };
    let apart = if cut == Cut::Pair { vec![leader] } else { others.clone() };
    for other in &apart {
        if !sends {
            network.cut(lone, *other)?;
        }
        if !hears {
            network.cut(*other, lone)?;
        }
    }
    let whom = if lone == leader { "the leader" } else { "a follower" };
    let way = if sends { ", which is still heard" } else { "" };
    let way = if hears { ", which still hears" } else { way };
    stage.fault(
        if cut == Cut::OneWay { "cut one way" } else { "cut both ways" },
        &format!("{} ({whom}){way}", name(lone)),
    );
    if cut == Cut::Pair {
        scene.load.works(stage.pick(Duration::from_secs(2), Duration::from_secs(6))).await?;
    } else {
        scene.cluster.leader(&others).await?;
        refuses(stage, scene.load.guest(lone)).await?;
        scene.load.works(stage.pick(Duration::from_millis(200), Duration::from_secs(3))).await?;
    }
    if lone == leader {
        scene.pause_since(from, &LEADER_CUT);
    }
    network.heal()?;
    let took = scene.answers(lone).await?;
    stage.measure(&HEALED, took);
    Ok(())
}

/// The minority says no to a write, in time, and answers a local read.
async fn refuses(stage: &mut Stage, guest: Guest) -> Result<()> {
    let mut guest = guest.patient_for(REFUSED_WITHIN);
    // A write that was on its way when the cut came may still be answered.
    let mut told = guest.put("p0", None).await?;
    if told.status.is_none() {
        told = guest.put("p0", None).await?;
    }
    let Some(status) = told.status else { anyhow::bail!("a minority said {:?} to a write", told.outcome) };
    let known = status.code() == tonic::Code::Unavailable && WORDS.contains(&status.message());
    ensure!(known, "a minority refused a write with {status}");
    stage.say(&format!("refused: {}", status.message()));
    stage.measure(&REFUSED, told.took);
    guest.get("p0", true).await?.answer("a local read at a minority")?;
    Ok(())
}
