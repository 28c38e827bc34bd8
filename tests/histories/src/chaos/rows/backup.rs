//! A backup is made under load, and damaged.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::RngExt;

use crate::chaos::damage::Place;
use crate::chaos::figures::SAVED;
use crate::chaos::stage::{Scene, Stage};
use crate::chaos::{Needs, Row};
use crate::cluster::{Home, MEMBERS};

/// How a backup says that it is of no use.
const WORDS: [&str; 4] = [
    "the backup is damaged at byte",
    "the backup is cut short",
    "this is no backup of netstate",
    "the backup has format",
];

pub(super) const ROWS: &[Row] = &[Row {
    name: "damage-backup",
    does: "a backup is made; a bit of it is flipped, or its end is cut off",
    holds: "the load goes on; a sound backup verifies; a damaged one is refused, with the place, and nothing is restored \
            from it",
    needs: Needs::Nothing,
    play: |stage| Box::pin(play(stage)),
}];

async fn play(stage: &mut Stage) -> Result<()> {
    let folder = stage.scratch()?.dir().to_owned();
    let mut scene = stage.open(vec![Home::default(); MEMBERS]).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            for round in 0..stage.pick(1, 4) {
                let file = folder.join(format!("backup-{round}"));
                save(stage, scene, &file).await?;
                for cut in [false, true] {
                    damage(stage, scene, &file, cut).await?;
                }
                scene.load.works(Duration::from_millis(300)).await?;
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

async fn save(stage: &mut Stage, scene: &Scene, file: &Path) -> Result<()> {
    scene.load.works(Duration::from_millis(500)).await?;
    let (began, name) = (Instant::now(), file.to_str().context("a path of letters")?);
    scene.cluster.command_at(0, &["cluster", "snapshot", "save", name]).await?;
    stage.measure(&SAVED, began.elapsed());
    scene.cluster.command_at(0, &["cluster", "snapshot", "verify", name]).await.map(drop)
}

async fn damage(stage: &mut Stage, scene: &Scene, file: &Path, cut: bool) -> Result<()> {
    let bytes = usize::try_from(std::fs::metadata(file)?.len())?;
    let place = Place { file: file.to_owned(), at: stage.rng.random_range(0..bytes) };
    stage.fault(
        if cut { "backup cut off" } else { "bit flipped in a backup" },
        &format!("at byte {} of {bytes}", place.at),
    );
    let before = if cut { place.cut_off()? } else { place.flip()? };
    let name = file.to_str().context("a path of letters")?;
    let dir = file.with_extension("restored");
    let into = dir.to_str().context("a path of letters")?;
    let restore = ["cluster", "snapshot", "restore", name, "--name", "n1", "--data-dir", into];
    for command in [&["cluster", "snapshot", "verify", name][..], &restore] {
        let Err(error) = scene.cluster.command_at(0, command).await else {
            anyhow::bail!("a damaged backup was taken by {command:?}");
        };
        let said = error.to_string();
        ensure!(WORDS.iter().any(|words| said.contains(words)), "a damaged backup is told as: {said}");
    }
    ensure!(!dir.exists(), "something was restored from a damaged backup");
    stage.say("refused by verify and by restore");
    before.put_back()
}
