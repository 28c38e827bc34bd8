//! Every row of the table of faults, played once and briefly. `make chaos` plays them for an hour and measures.
//!
//! `CHAOS_SEED` repeats a run's choices.

use anyhow::{Context, Result, bail, ensure};
use etcd_histories::chaos::stage::Length;
use etcd_histories::chaos::{Ended, rows, without_syncs};

fn seed() -> Result<u64> {
    match std::env::var("CHAOS_SEED") {
        Ok(seed) => seed.parse().context("CHAOS_SEED is no number"),
        Err(_) => Ok(rand::random()),
    }
}

/// Rows are played one at a time: two clusters at once on two cores tell of the cores and not of the store.
static STAGE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Plays the rows whose names begin so.
async fn play(prefix: &str) -> Result<()> {
    let _alone = STAGE.lock().await;
    let seed = seed()?;
    let rows: Vec<_> = rows().into_iter().filter(|row| row.name.starts_with(prefix)).collect();
    ensure!(!rows.is_empty(), "no row begins with {prefix}");
    for row in rows {
        eprintln!("{}, CHAOS_SEED={seed}", row.name);
        match row.run(Length::Short, seed).await? {
            Ended::Played(played) => {
                let checked = played.checked;
                ensure!(!played.faults.is_empty(), "{} did nothing", row.name);
                let enough = checked.operations > 100 && checked.writes > 30 && checked.events > checked.writes;
                ensure!(enough, "{}: too little: {checked:?}", row.name);
            }
            Ended::Skipped(why) => eprintln!("skipped: {}: {why}", row.name),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_killed() -> Result<()> {
    play("kill-").await
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go() -> Result<()> {
    play("members-").await
}

#[tokio::test(flavor = "multi_thread")]
async fn keyspaces_move() -> Result<()> {
    play("moves").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_sleeps() -> Result<()> {
    play("sleep-").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_cut() -> Result<()> {
    play("cut-").await
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_and_networks_are_slow() -> Result<()> {
    play("slow-").await
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_are_full() -> Result<()> {
    play("full-").await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_damaged() -> Result<()> {
    play("damage-").await
}

#[tokio::test(flavor = "multi_thread")]
async fn power_is_cut() -> Result<()> {
    play("power-").await
}

/// The net is tested, too: what is lost for want of a sync is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_sync_is_caught() -> Result<()> {
    let _alone = STAGE.lock().await;
    let (row, seed) = (without_syncs(), seed()?);
    let found = match row.run(Length::Short, seed).await {
        Ok(Ended::Skipped(why)) => {
            eprintln!("skipped: {}: {why}", row.name);
            return Ok(());
        }
        Ok(Ended::Played(played)) => bail!("nothing was found: {played:?}"),
        Err(error) => format!("{error:#}"),
    };
    // A member may also find by itself that it lacks something.
    ensure!(found.contains("HISTORIES_SEED") || found.contains("damaged"), "it failed otherwise: {found}");
    eprintln!("found: {found}");
    // It is as it should be, so nobody needs what was kept.
    let folder = std::env::temp_dir();
    let _ = std::fs::remove_file(folder.join(format!("history-{seed}.txt")));
    let _ = std::fs::remove_dir_all(folder.join(format!("{}-{seed}", row.name)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_are_wrong() -> Result<()> {
    play("clock-").await
}
