//! Files of one member are damaged. Values that are known to stand in them say where.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use etcd_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use rand::RngExt;
use rand::seq::IndexedRandom;

use crate::chaos::damage::{Place, Undamaged, find};
use crate::chaos::figures::{DAMAGE_FOUND, JOINED, REPAIRED, RESTARTED};
use crate::chaos::stage::{Scene, Stage};
use crate::chaos::{Needs, Row};
use crate::cluster::{Home, MEMBERS, READY_WITHIN, name};

/// Bytes of a value that is looked for: several pages of the log and blocks of the state.
const VALUE_BYTES: usize = 16 * 1024;
/// Of it, those that are looked for: as many as surely stand together.
const LOOKED_FOR_BYTES: usize = 512;
/// A keyspace beside the one that is recorded.
const BESIDE: &str = "beside";
/// What the store advises.
const ADVICE: &str = "`netstate cluster repair`";
/// How long a running member is asked for what it may still have in memory.
const CACHED_FOR: Duration = Duration::from_secs(2);
/// Between two looks at a damaged value.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

const HOLDS: &str = "the member names the file and what to do, and never serves what is damaged; the others go on";

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "damage-log",
        does: "a bit of a segment of the raft log is flipped, or the segment is cut off, while the member is down",
        holds: HOLDS,
        needs: Needs::Nothing,
        play: |stage| Box::pin(play(stage, &[Damage::LogFlip, Damage::LogCut])),
    },
    Row {
        name: "damage-identity",
        does: "a bit of the file IDENTITY is flipped, or the file is cut off, while the member is down",
        holds: HOLDS,
        needs: Needs::Nothing,
        play: |stage| Box::pin(play(stage, &[Damage::IdentityFlip, Damage::IdentityCut])),
    },
    Row {
        name: "damage-state",
        does: "a bit of a file of the state is flipped, or the file is cut off, while the member is down",
        holds: HOLDS,
        needs: Needs::Nothing,
        play: |stage| Box::pin(play(stage, &[Damage::StateFlip, Damage::StateCut])),
    },
    Row {
        name: "damage-running",
        does: "a bit of a file of the state is flipped while the member runs",
        holds: HOLDS,
        needs: Needs::Nothing,
        play: |stage| Box::pin(play(stage, &[Damage::RunningFlip])),
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    LogFlip,
    LogCut,
    IdentityFlip,
    IdentityCut,
    StateFlip,
    StateCut,
    RunningFlip,
}

impl Damage {
    fn kind(self) -> &'static str {
        match self {
            Damage::LogFlip => "bit flipped in the log",
            Damage::LogCut => "segment of the log cut off",
            Damage::IdentityFlip => "bit flipped in IDENTITY",
            Damage::IdentityCut => "IDENTITY cut off",
            Damage::StateFlip => "bit flipped in the state",
            Damage::StateCut => "file of the state cut off",
            Damage::RunningFlip => "bit flipped in the state of a running member",
        }
    }

    fn is_cut(self) -> bool {
        matches!(self, Damage::LogCut | Damage::IdentityCut | Damage::StateCut)
    }
}

async fn play(stage: &mut Stage, damages: &[Damage]) -> Result<()> {
    let mut scene = stage.open(vec![Home::default(); MEMBERS]).await?;
    stage
        .with(&mut scene, async |stage, scene| {
            for round in 0..stage.pick(1, 3) {
                for damage in damages {
                    let key = format!("q{round}-{damage:?}");
                    damage_once(stage, scene, *damage, &key).await?;
                }
            }
            Ok(())
        })
        .await?;
    stage.close(scene).await?;
    Ok(())
}

async fn damage_once(stage: &mut Stage, scene: &mut Scene, damage: Damage, key: &str) -> Result<()> {
    let victim = *scene.members().choose(&mut stage.rng).context("there are members")?;
    let mut value = vec![0; VALUE_BYTES];
    stage.rng.fill(&mut value[..]);
    let mut guest = scene.load.guest(scene.others(&[victim])[0]);
    guest.put_value(key, Bytes::from(value.clone()), None).await?.answer("a put of a value to be found")?;
    // The victim has it, and others behind it, which tell damage from what a crash tore.
    scene.answers(victim).await?;
    scene.load.works(Duration::from_millis(500)).await?;
    let needle = &value[VALUE_BYTES / 2..][..LOOKED_FOR_BYTES];
    if matches!(damage, Damage::StateFlip | Damage::StateCut | Damage::RunningFlip) {
        flush(scene, victim).await?;
    }
    if damage != Damage::RunningFlip {
        scene.cluster.kill(victim)?;
    }
    let place = place(scene, victim, damage, needle)?;
    stage.fault(damage.kind(), &format!("{} of {}", place.file.display(), name(victim)));
    let looks = Looks { victim, key, file: place.file.clone(), said: scene.cluster.said(victim).len() };
    let began = Instant::now();
    let before = if damage.is_cut() { place.cut_off()? } else { place.flip()? };
    if damage != Damage::RunningFlip {
        scene.cluster.restart(victim)?;
    }
    let mut words =
        looks.found(stage, scene, if damage == Damage::RunningFlip { CACHED_FOR } else { READY_WITHIN }).await?;
    if words.is_none() && damage == Damage::RunningFlip && looks.file.exists() {
        stage.say("it answers from memory what it wrote; started again, it has to read");
        scene.cluster.kill(victim)?;
        scene.cluster.restart(victim)?;
        words = looks.found(stage, scene, READY_WITHIN).await?;
    }
    let file = looks.file.display();
    match words {
        Some(words) => {
            stage.measure(&DAMAGE_FOUND, began.elapsed());
            stage.say(&format!("it said: {words}"));
            let named = looks.file.file_name().is_some_and(|name| words.contains(&*name.to_string_lossy()));
            ensure!(named && words.contains(ADVICE), "{file} is damaged, and the member said: {words}");
        }
        None if !looks.file.exists() => {
            stage.say("the file was replaced by another one before anybody read it");
            return Ok(());
        }
        None => bail!("{file} is damaged, and nobody finds it"),
    }
    // The others go on, as they have all along.
    scene.load.works(Duration::from_millis(300)).await?;
    mend(stage, scene, victim, damage, before).await
}

/// Has a member write its state to files: a compaction that waits until space is given back does, of whatever keyspace.
async fn flush(scene: &Scene, member: usize) -> Result<()> {
    fn beside<T>(message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("netstate-keyspace", tonic::metadata::MetadataValue::from_static(BESIDE));
        request
    }
    let mut kv = KvClient::new(scene.cluster.doors().channel(member)?);
    let put = pb::PutRequest { key: "flush".into(), ..Default::default() };
    let revision = kv.put(beside(put)).await?.into_inner().header.context("an answer has a header")?.revision;
    kv.compact(beside(pb::CompactionRequest { revision, physical: true })).await?;
    Ok(())
}

fn place(scene: &Scene, victim: usize, damage: Damage, needle: &[u8]) -> Result<Place> {
    let dir = scene.cluster.data_dir(victim);
    let (folder, ending) = match damage {
        Damage::LogFlip | Damage::LogCut => (dir.join("raft-log"), "seg"),
        Damage::StateFlip | Damage::StateCut | Damage::RunningFlip => (dir.join("state"), "sst"),
        Damage::IdentityFlip | Damage::IdentityCut => {
            let file: PathBuf = dir.join("IDENTITY");
            let bytes = std::fs::metadata(&file)?.len();
            return Ok(Place { file, at: usize::try_from(bytes)? / 2 });
        }
    };
    find(&folder, ending, needle)?.with_context(|| format!("the value does not stand in {}", folder.display()))
}

/// Where damage is looked for.
struct Looks<'a> {
    victim: usize,
    /// A key whose value is damaged.
    key: &'a str,
    file: PathBuf,
    /// How much the member had said before.
    said: usize,
}

impl Looks<'_> {
    /// Waits until the member ends because of the damage, or refuses what is damaged, with a client asking for it all the
    /// time; gives the line in which it says so.
    async fn found(&self, stage: &mut Stage, scene: &mut Scene, within: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + within;
        let mut guest = scene.load.guest(self.victim).patient_for(Duration::from_secs(2));
        loop {
            let ended = scene.cluster.ended(self.victim)?;
            let told = guest.get(self.key, true).await?;
            let all = scene.cluster.said(self.victim);
            let new = all.get(self.said..).unwrap_or_default();
            if let Some(words) = new.lines().find(|line| line.contains(ADVICE)) {
                match (ended, told.status) {
                    (Some(status), _) => ensure!(!status.success(), "the member ended with {status} over its damage"),
                    (None, Some(status)) => stage.say(&format!("who asks is told: {}", status.message())),
                    (None, None) => {}
                }
                return Ok(Some(words.to_owned()));
            }
            ensure!(ended.is_none(), "the member ended with {ended:?} and said no more than: {new}");
            if Instant::now() > deadline || !self.file.exists() {
                return Ok(None);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Puts the file back, or does what the store advises: a member that is up fetches what is damaged, another is replaced.
async fn mend(stage: &mut Stage, scene: &mut Scene, victim: usize, damage: Damage, before: Undamaged) -> Result<()> {
    let up = scene.cluster.ended(victim)?.is_none() && scene.cluster.runs(victim);
    let advised: bool = stage.rng.random();
    match (advised, up) {
        (true, true) => {
            let through = scene.others(&[victim])[0];
            let began = Instant::now();
            let repair = ["cluster", "repair", &name(victim), "--patience", "90s"];
            scene.cluster.command_at(through, &repair).await?;
            scene.answers(victim).await?;
            stage.measure(&REPAIRED, began.elapsed());
        }
        (true, false) => {
            let took = super::members::renew(scene, victim).await?;
            stage.measure(&JOINED, took);
        }
        (false, _) => {
            if up {
                scene.cluster.kill(victim)?;
            }
            before.put_back()?;
            let took = scene.restart(victim).await?;
            stage.measure(&RESTARTED, took);
        }
    }
    stage.say(&format!("{}: mended, {}", damage.kind(), if advised { "as advised" } else { "by putting it back" }));
    scene.load.works(Duration::from_millis(300)).await
}
