//! Concurrent load on a real cluster, alone and while members are killed and stopped.
//!
//! `HISTORIES_SUBJECT=etcd` checks an installed etcd instead of Netstate, `HISTORIES_SECONDS` lengthens the load, and
//! `HISTORIES_SEED` repeats a run's choices.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use etcd_histories::cluster::{Cluster, MEMBERS};
use etcd_histories::load::Load;
use etcd_histories::run::{duration, run};

fn another(than: usize) -> usize {
    (than + 1) % MEMBERS
}

#[tokio::test(flavor = "multi_thread")]
async fn without_faults() -> Result<()> {
    let time = duration(Duration::from_secs(4))?;
    let checked = run(async |_: &mut Cluster, load: &Load| load.works(time).await).await?;
    ensure!(checked.writes > 100 && checked.events > checked.writes && checked.marks > 0, "too little: {checked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_killed() -> Result<()> {
    let time = duration(Duration::from_secs(5))?;
    let checked = run(async |cluster: &mut Cluster, load: &Load| {
        let end = Instant::now() + time;
        while Instant::now() < end {
            for kill_leader in [true, false] {
                load.works(Duration::from_millis(500)).await?;
                let leader = cluster.leader(&[0, 1, 2]).await?;
                let victim = if kill_leader { leader } else { another(leader) };
                cluster.kill(victim)?;
                let others: Vec<_> = (0..MEMBERS).filter(|member| *member != victim).collect();
                cluster.leader(&others).await?;
                cluster.serves(others[0]).await?;
                load.works(Duration::from_millis(500)).await?;
                cluster.restart(victim)?;
                cluster.serves(victim).await?;
            }
        }
        Ok(())
    })
    .await?;
    ensure!(checked.writes > 100 && checked.unknown > 0, "too little: {checked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_stopped() -> Result<()> {
    let time = duration(Duration::from_secs(4))?;
    let checked = run(async |cluster: &mut Cluster, load: &Load| {
        let end = Instant::now() + time;
        while Instant::now() < end {
            load.works(Duration::from_millis(500)).await?;
            let leader = cluster.leader(&[0, 1, 2]).await?;
            cluster.stop(leader)?;
            let others: Vec<_> = (0..MEMBERS).filter(|member| *member != leader).collect();
            cluster.leader(&others).await?;
            cluster.serves(others[0]).await?;
            // The others write while reads wait at the old leader, which believes that it still leads when it goes on.
            load.works(Duration::from_millis(800)).await?;
            cluster.go_on(leader)?;
            cluster.serves(leader).await?;
        }
        Ok(())
    })
    .await?;
    ensure!(checked.writes > 100, "too little: {checked:?}");
    Ok(())
}
