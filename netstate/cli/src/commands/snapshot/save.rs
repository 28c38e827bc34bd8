//! `netstate cluster snapshot save`.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use netstate_proto::v1 as pb;

use super::{Shown, checked, contents_json, contents_text};
use crate::{console::talk, failure::Failure, human, session::Session};

/// How long the server may send nothing.
const STALL: Duration = Duration::from_secs(60);

/// Copy the state of a whole cluster into a file
///
/// Everything acknowledged before the command began is in it. The cluster goes on meanwhile. The file is written beside its
/// name, verified, and only then given it: what bears the name is whole.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster snapshot save /backup/cluster-$(date +%F)
  netstate cluster snapshot save --force latest.backup --servers 10.0.0.1:2379,10.0.0.2:2379
  netstate cluster snapshot save latest.backup -o json | jq -r .blake3")]
pub(crate) struct Save {
    /// The file
    file: PathBuf,
    /// Replace the file if it is there already
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(args: Save, session: &Session) -> Result<(), Failure> {
    let began = Instant::now();
    refuse_to_replace(&args)?;
    let part = beside(&args.file);
    let shown = Shown::new(session.console);
    let saved = save(&part, session, &shown).await;
    let checked = match saved {
        Ok(()) => checked(&part, &shown).await,
        Err(failure) => Err(failure),
    };
    shown.end();
    let contents = match checked {
        Ok(Ok(contents)) => contents,
        Ok(Err(error)) => return Err(abandon(&part, Failure::refused(error))),
        Err(failure) => return Err(abandon(&part, failure)),
    };
    if let Err(failure) = refuse_to_replace(&args).and_then(|()| put_in_place(&part, &args.file)) {
        return Err(abandon(&part, failure));
    }
    let took = human::span(began.elapsed());
    let more = [("file", args.file.display().to_string()), ("took", took)];
    session.console.answer(|| contents_json(&contents), || contents_text(&contents, &more))?;
    talk(format_args!("saved and verified; keep it where a fire here does not reach it"));
    Ok(())
}

fn refuse_to_replace(args: &Save) -> Result<(), Failure> {
    match !args.force && args.file.exists() {
        true => Err(Failure::because(format!("{} is there already; --force replaces it", args.file.display()))),
        false => Ok(()),
    }
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Takes away what is of no use.
fn abandon(part: &Path, failure: Failure) -> Failure {
    // If it stays, the next attempt writes over it.
    let _ = fs::remove_file(part);
    failure
}

/// Writes what the server sends, and makes it last.
async fn save(part: &Path, session: &Session, shown: &Shown) -> Result<(), Failure> {
    let unwritten = |error: io::Error| {
        Failure::refused(anyhow::Error::new(error).context(format!("{} cannot be written", part.display())))
    };
    let mut parts = session.client.save_backup(pb::SaveBackupRequest {}).await?;
    let mut file = BufWriter::new(File::create(part).map_err(unwritten)?);
    let mut bytes = 0u64;
    loop {
        let next = tokio::time::timeout(STALL, parts.message()).await;
        let next = next.map_err(|_| Failure::because(format!("the server sent nothing for {} s", STALL.as_secs())))?;
        let Some(next) = next? else { break };
        bytes += next.part.len() as u64;
        // Written here: a disk that is slow makes the server wait, through the stream's window.
        file.write_all(&next.part).map_err(unwritten)?;
        let (done, groups) = (next.groups_done, next.groups);
        shown.tell(&format!("saving: {done} of {groups} groups, {}", human::bytes(bytes)), done.into(), groups.into());
    }
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(unwritten)
}

fn put_in_place(part: &Path, file: &Path) -> Result<(), Failure> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let renamed = fs::rename(part, file).and_then(|()| File::open(folder)?.sync_all());
    renamed.map_err(|error| {
        Failure::refused(anyhow::Error::new(error).context(format!("{} cannot be put in place", file.display())))
    })
}
