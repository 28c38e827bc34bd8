//! `netstate cluster snapshot verify`.

use std::path::PathBuf;

use kv_node::BackupContents;
use serde_json::json;

use super::{Shown, checked, contents_json, contents_text};
use crate::{
    console::{Console, talk},
    failure::Failure,
    human, json,
};

/// Heads differ by their first bytes already.
const HEAD_SHOWN: usize = 12;

/// Check a backup, without a server
///
/// Looks at every checksum and every record, and walks every keyspace's chain from its first record to its head. Exit code
/// 1 when anything is damaged, missing or too much; it says what and where.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster snapshot verify latest.backup
  netstate cluster snapshot verify latest.backup -o json | jq -r '.keyspaces[] | [.keyspace, .revision, .head] | @tsv'")]
pub(crate) struct Verify {
    /// The file
    file: PathBuf,
}

pub(crate) async fn run(args: Verify, console: Console) -> Result<(), Failure> {
    let shown = Shown::new(console);
    let checked = checked(&args.file, &shown).await;
    shown.end();
    match checked? {
        Ok(contents) => {
            console.answer(
                || {
                    let mut value = contents_json(&contents);
                    value["sound"] = true.into();
                    value
                },
                || format!("{}\n\n{}", contents_text(&contents, &[]), keyspaces(&contents, console)),
            )?;
            talk("sound: every checksum, every record, every chain");
            Ok(())
        }
        Err(error) => {
            let problem = format!("{:#}", anyhow::Error::new(error));
            if console.is_json() {
                console.answer(|| json!({ "sound": false, "problem": problem }), String::new)?;
            }
            Err(Failure::False(Some(problem)))
        }
    }
}

fn keyspaces(contents: &BackupContents, console: Console) -> String {
    let row = |keyspace: &kv_node::KeyspaceSummary| {
        let head = json::hex(keyspace.head.get());
        vec![
            keyspace.group.to_string(),
            keyspace.name.to_string(),
            keyspace.revision.to_string(),
            head.get(..HEAD_SHOWN).unwrap_or(&head).to_owned(),
            human::count(keyspace.keys),
            human::bytes(keyspace.bytes),
            if keyspace.at.micros() == 0 { "-".into() } else { human::moment(keyspace.at.micros()) },
        ]
    };
    let header = ["group", "keyspace", "revision", "head", "keys", "size", "last commit"];
    console.table(&header, contents.keyspaces.iter().map(row).collect())
}
