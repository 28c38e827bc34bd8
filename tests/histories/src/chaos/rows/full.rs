//! Disks that fill up, to where a member takes no more writes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use etcd_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use tonic::Code;

use crate::chaos::disk::SmallDisk;
use crate::chaos::figures::{DISK_FULL_ONE, ROOM_AGAIN};
use crate::chaos::stage::{Scene, Stage};
use crate::chaos::{Needs, Row};
use crate::cluster::{Home, MEMBERS, READY_WITHIN, name};
use crate::guest::Guest;
use crate::history::Outcome;

/// Of each disk. A member takes some 30 MiB for its log from the start.
const DISK_MIB: u64 = 256;
/// What members keep in reserve.
const RESERVE_MIB: u64 = 64;
/// What is left free: too little for puts, enough for what only removes, for which half of the reserve may go: the log takes
/// 8 MiB at a time.
const LEFT_MIB: u64 = 60;
/// Between two tries to write.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// What a member says that stops because it could not write.
const STOPS: &str = "the disk is full; free some space or enlarge it, then start this node again";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "full-leader",
        does: "the disk of the leader fills up, and is emptied again",
        holds: "another member leads, and writes go on; the member serves again once there is room",
        needs: Needs::Root,
        play: |stage| Box::pin(play(stage, How::Leader)),
    },
    Row {
        name: "full-all",
        does: "the disks of all members fill up, and are emptied again",
        holds: "puts are refused with NOSPACE; reads, watches, deletes and compaction go on; puts are taken again once there \
                is room",
        needs: Needs::Root,
        play: |stage| Box::pin(play(stage, How::All)),
    },
    Row {
        name: "full-brim",
        does: "the disk of the leader fills up to the last byte, the reserve included, and is emptied again",
        holds: "writes go on elsewhere; the member serves again once there is room, started again if it had to end, which it \
                says",
        needs: Needs::Root,
        play: |stage| Box::pin(play(stage, How::Brim)),
    },
];

#[derive(Clone, Copy)]
enum How {
    Leader,
    All,
    Brim,
}

async fn play(stage: &mut Stage, how: How) -> Result<()> {
    let scratch = stage.scratch()?;
    let disks: Vec<_> =
        (0..MEMBERS).map(|member| SmallDisk::make(scratch, &name(member), DISK_MIB)).collect::<Result<_>>()?;
    let home = |disk: &SmallDisk| Home {
        data_dir: Some(disk.data_dir()),
        flags: vec!["--disk-reserve".to_owned(), RESERVE_MIB.to_string()],
        ..Home::default()
    };
    let mut scene = stage.open(disks.iter().map(home).collect()).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            for _ in 0..stage.pick(1, 3) {
                match how {
                    How::Leader => fill_leader(stage, scene, &disks, LEFT_MIB << 20).await?,
                    How::All => fill_all(stage, scene, &disks).await?,
                    How::Brim => fill_leader(stage, scene, &disks, 0).await?,
                }
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

async fn fill_leader(stage: &mut Stage, scene: &mut Scene, disks: &[SmallDisk], keep_free_bytes: u64) -> Result<()> {
    scene.load.works(Duration::from_millis(500)).await?;
    let leader = scene.leader().await?;
    let others = scene.others(&[leader]);
    stage.fault("disk of the leader filled", &name(leader));
    let from = scene.load.now();
    let said = scene.cluster.said(leader).len();
    disks[leader].fill(keep_free_bytes)?;
    let deadline = Instant::now() + READY_WITHIN;
    while scene.cluster.leader(&others).await? == leader {
        ensure!(Instant::now() < deadline, "{} leads although its disk is full", name(leader));
        tokio::time::sleep(TRY_AGAIN).await;
    }
    let mut guest = scene.load.guest(others[0]);
    taken(&mut guest).await?;
    scene.load.works(stage.pick(Duration::from_secs(1), Duration::from_secs(5))).await?;
    scene.pause_since(from, &DISK_FULL_ONE);
    ensure!(scene.cluster.leader(&others).await? != leader, "{} leads although its disk is full", name(leader));
    disks[leader].make_room()?;
    // A store that has met a full disk stops, which takes a moment.
    if scene.cluster.said(leader)[said..].contains(STOPS) {
        let ended = scene.cluster.ends(leader).await?;
        stage.say(&format!("{} ended with {ended}, and said why", name(leader)));
        scene.cluster.restart(leader)?;
    }
    // A linearizable answer of the member itself: it has caught up.
    scene.answers(leader).await?;
    scene.load.works(Duration::from_millis(500)).await
}

async fn fill_all(stage: &mut Stage, scene: &mut Scene, disks: &[SmallDisk]) -> Result<()> {
    scene.load.works(Duration::from_millis(500)).await?;
    let leader = scene.leader().await?;
    let mut guest = scene.load.guest(leader);
    guest.put("p1", None).await?.answer("a put")?;
    stage.fault("all disks filled", "");
    for disk in disks {
        disk.fill(LEFT_MIB << 20)?;
    }
    let status = refused(&mut guest).await?;
    stage.say(&format!("refused: {status}"));
    guest.get("p1", false).await?.answer("a read with all disks full")?;
    guest.delete("p1").await?.answer("a delete with all disks full")?;
    // Up to the first write only, because watchers replay all of them at the end.
    let compact = pb::CompactionRequest { revision: 2, physical: false };
    match KvClient::new(guest.channel()?).compact(compact).await {
        Err(status) if status.code() != Code::OutOfRange => ensure!(false, "compaction was refused: {status}"),
        Ok(_) | Err(_) => {}
    }
    scene.load.works(stage.pick(Duration::from_secs(1), Duration::from_secs(5))).await?;
    let began = Instant::now();
    for disk in disks {
        disk.make_room()?;
    }
    taken(&mut guest).await?;
    stage.measure(&ROOM_AGAIN, began.elapsed());
    Ok(())
}

/// Writes until a write is refused for want of room, and tells in which words.
async fn refused(guest: &mut Guest) -> Result<String> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let told = guest.put("p0", None).await?;
        match (&told.outcome, &told.status) {
            (Outcome::Refused { .. }, Some(status)) if status.code() == Code::ResourceExhausted => {
                ensure!(status.message() == NO_SPACE, "a full disk is told as {status}");
                return Ok(status.message().to_owned());
            }
            (outcome, status) => {
                ensure!(Instant::now() < deadline, "no write is refused; last seen: {outcome:?} {status:?}");
            }
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// Writes until a write is taken.
async fn taken(guest: &mut Guest) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let told = guest.put("p0", None).await?;
        if let Outcome::Answered { .. } = told.outcome {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no write is taken; last seen: {:?} {:?}", told.outcome, told.status);
        tokio::time::sleep(TRY_AGAIN).await;
    }
}
