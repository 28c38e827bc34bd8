//! Members join and leave, are replaced, and are restarted one after the other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::seq::IndexedRandom;

use crate::chaos::figures::{JOINED, REMOVED, UPGRADED};
use crate::chaos::stage::{Scene, Stage};
use crate::chaos::{Needs, Row};
use crate::cluster::{Home, MEMBERS, name};

/// Members that come and go.
const GUESTS: usize = 2;

/// How long a command waits for what it has ordered.
const PATIENCE: &str = "90s";

/// How long the others may take to see that a member is down.
const SEEN_DOWN_WITHIN: Duration = Duration::from_secs(20);

/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "members-grow",
        does: "two members join three, and are removed again",
        holds: "each has its share of votes and leaders within a minute, and the others have it again when it is removed; \
                who was removed ends and says so",
        needs: Needs::Nothing,
        play: |stage| Box::pin(grow(stage)),
    },
    Row {
        name: "members-replace",
        does: "a member is killed, its directory wiped, and an empty one put in its place",
        holds: "it is refused until it is replaced; then it catches up by itself",
        needs: Needs::Nothing,
        play: |stage| Box::pin(replace(stage)),
    },
    Row {
        name: "members-restart",
        does: "all members are stopped in order and started again, one after the other, as in an upgrade",
        holds: "writes hardly pause",
        needs: Needs::Nothing,
        play: |stage| Box::pin(restart(stage)),
    },
];

async fn grow(stage: &mut Stage) -> Result<()> {
    let mut scene = stage.open(vec![Home::default(); MEMBERS]).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            for _ in 0..stage.pick(1, 2) {
                let mut guests = Vec::new();
                for _ in 0..GUESTS {
                    let guest = scene.cluster.add(Home::default())?;
                    let through = *scene.others(&[guest]).choose(&mut stage.rng).context("there are members")?;
                    scene.cluster.join_by(guest, through);
                    stage.fault("member joins", &format!("{} by {}", name(guest), name(through)));
                    let began = Instant::now();
                    scene.cluster.restart(guest)?;
                    joined(scene, guest, through).await?;
                    stage.measure(&JOINED, began.elapsed());
                    guests.push(guest);
                }
                scene.load.works(Duration::from_millis(500)).await?;
                for guest in guests {
                    let through = scene.others(&[guest])[0];
                    stage.fault("member is removed", &name(guest));
                    let began = Instant::now();
                    let remove = ["cluster", "remove", &name(guest), "--patience", PATIENCE];
                    scene.cluster.command_at(through, &remove).await?;
                    stage.measure(&REMOVED, began.elapsed());
                    scene.cluster.doors().close(guest);
                    scene.cluster.ends(guest).await?;
                    let said = scene.cluster.said(guest);
                    ensure!(said.contains("was removed from this cluster"), "{} said: {said}", name(guest));
                }
                even(scene, 0).await?;
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

async fn replace(stage: &mut Stage) -> Result<()> {
    let mut scene = stage.open(vec![Home::default(); MEMBERS]).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            known(scene).await?;
            for _ in 0..stage.pick(1, 3) {
                let victim = *scene.members().choose(&mut stage.rng).context("there are members")?;
                stage.fault("member loses its disk", &name(victim));
                scene.cluster.kill(victim)?;
                std::fs::remove_dir_all(scene.cluster.data_dir(victim))?;
                scene.cluster.restart(victim)?;
                scene.cluster.ends(victim).await?;
                let said = scene.cluster.said(victim);
                ensure!(said.contains("cluster replace"), "{} said: {said}", name(victim));
                let took = renew(scene, victim).await?;
                stage.measure(&JOINED, took);
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

/// Puts an empty member in the place of one that is down, and tells how long that took until it had its share.
pub(super) async fn renew(scene: &mut Scene, member: usize) -> Result<Duration> {
    let through = scene.others(&[member])[0];
    let began = Instant::now();
    // The others have to see that it is down.
    let deadline = Instant::now() + SEEN_DOWN_WITHIN;
    while let Err(error) = scene.cluster.command_at(through, &["cluster", "replace", &name(member)]).await {
        ensure!(Instant::now() < deadline && error.to_string().contains("is up"), "{error:#}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let dir = scene.cluster.data_dir(member);
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    scene.cluster.join_by(member, through);
    scene.cluster.restart(member)?;
    joined(scene, member, through).await?;
    Ok(began.elapsed())
}

async fn restart(stage: &mut Stage) -> Result<()> {
    let mut scene = stage.open(vec![Home::default(); MEMBERS]).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            for _ in 0..stage.pick(1, 4) {
                for member in scene.members() {
                    if scene.load.is_full() {
                        break;
                    }
                    stage.fault("member restarted in order", &name(member));
                    scene.load.works(Duration::from_millis(300)).await?;
                    let from = scene.load.now();
                    scene.cluster.terminate(member).await?;
                    scene.restart(member).await?;
                    even(scene, scene.others(&[member])[0]).await?;
                    scene.pause_since(from, &UPGRADED);
                }
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

/// Waits until a member has joined.
async fn joined(scene: &mut Scene, member: usize, through: usize) -> Result<()> {
    let join = ["cluster", "join", &name(member), "--patience", PATIENCE];
    scene.cluster.command_at(through, &join).await?;
    scene.answers(member).await?;
    Ok(())
}

/// Waits until the cluster knows each member by its data directory.
async fn known(scene: &Scene) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = scene.cluster.command_at(0, &["cluster", "status", "-o", "json"]).await;
        match status {
            Ok(status) if status.contains("\"instance\": \"") && !status.contains("\"instance\": \"\"") => {
                return Ok(());
            }
            seen => ensure!(Instant::now() < deadline, "not all members are known: {seen:?}"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until nothing is moved any more, as one member sees it, and all is well.
async fn even(scene: &Scene, through: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = scene.cluster.command_at(through, &["cluster", "status", "-o", "json"]).await;
        let seen = match status {
            Ok(status) if status.contains("\"moves\": []") => return Ok(()),
            Ok(status) => status,
            Err(error) => format!("{error:#}"),
        };
        ensure!(Instant::now() < deadline, "the cluster does not come to rest: {seen}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
