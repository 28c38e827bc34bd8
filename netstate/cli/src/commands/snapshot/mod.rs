//! `netstate cluster snapshot`: a copy of a whole cluster in a file, and a new cluster from it.

mod restore;
mod save;
mod verify;

use std::{path::Path, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kv_node::{BackupContents, BackupError};
use serde_json::{Value, json};

use crate::{commands, console::Console, failure::Failure, human, json, session::Session};

/// Back a whole cluster up, and found a new one from a backup
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Save(save::Save),
    Verify(verify::Verify),
    Restore(restore::Restore),
}

pub(crate) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Save(args) => save::run(args, session).await,
        Command::Verify(args) => verify::run(args, session.console).await,
        Command::Restore(args) => restore::run(args, session.console).await,
    }
}

/// Progress on standard error, where somebody sees it.
#[derive(Clone)]
struct Shown(Option<ProgressBar>);

impl Shown {
    fn new(console: Console) -> Self {
        Shown(console.is_live().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        }))
    }

    /// Shows how much of something countable is done.
    fn tell(&self, what: &str, done: u64, of: u64) {
        let Some(bar) = &self.0 else { return };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} [{bar:30}] {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_length(of.max(done));
        bar.set_position(done);
        bar.set_message(what.to_owned());
    }

    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Work that blocks, in a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::refused)
}

/// Checks a file with a progress bar.
async fn checked(file: &Path, shown: &Shown) -> Result<Result<BackupContents, BackupError>, Failure> {
    let (file, shown) = (file.to_owned(), shown.clone());
    let size = std::fs::metadata(&file).map_or(0, |metadata| metadata.len());
    blocking(move || {
        kv_node::verify_backup(&file, &mut |read| {
            shown.tell(&format!("verifying: {} of {}", human::bytes(read), human::bytes(size)), read, size);
        })
    })
    .await
}

/// What a backup says of itself, for people.
fn contents_text(contents: &BackupContents, more: &[(&str, String)]) -> String {
    let header = &contents.header;
    let keys = contents.keyspaces.iter().map(|keyspace| keyspace.keys).sum();
    let mut lines = vec![
        ("cluster", header.cluster.to_string()),
        ("made at", human::moment(header.at.micros())),
        ("made by", format!("{} ({}), netstate {}", header.name, header.node, header.version)),
        ("groups", header.groups.to_string()),
        ("keyspaces", human::count(contents.keyspaces.len() as u64)),
        ("keys", human::count(keys)),
        ("records", human::count(contents.records)),
        ("leases", human::count(contents.leases)),
        ("size", human::bytes(contents.bytes)),
        ("blake3", json::hex(contents.digest.get())),
    ];
    lines.extend(more.iter().cloned());
    commands::facts(&lines)
}

/// The same for programs.
fn contents_json(contents: &BackupContents) -> Value {
    let header = &contents.header;
    let keyspace = |keyspace: &kv_node::KeyspaceSummary| {
        json!({
            "group": keyspace.group.get(),
            "keyspace": keyspace.name.as_str(),
            "revision": keyspace.revision.get(),
            "head": json::hex(keyspace.head.get()),
            "at": json::time(keyspace.at.micros()),
            "floor": keyspace.floor.get(),
            "keys": keyspace.keys,
            "bytes": keyspace.bytes,
        })
    };
    json!({
        "cluster_id": header.cluster.to_string(),
        "node": header.name,
        "node_id": header.node.get(),
        "version": header.version,
        "at": json::time(header.at.micros()),
        "groups": header.groups,
        "records": contents.records,
        "leases": contents.leases,
        "bytes": contents.bytes,
        "blake3": json::hex(contents.digest.get()),
        "keyspaces": contents.keyspaces.iter().map(keyspace).collect::<Vec<_>>(),
    })
}
