//! Keyspaces that move from one group to another.

use std::time::Duration;

use netstate_proto::v1::{self as pb, keyspace_move::Stage};
use serde_json::json;
use tokio::time;

use crate::{commands::signals::Ends, console::talk, failure::Failure, human, session::Session};

/// Between two looks at how far a move is.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Move a keyspace to another group, with its history, while it is used
///
/// Nothing that clients hold changes: revisions, leases and watches go on. Writes wait for a moment when the last of it
/// is copied. `netstate audit ls --help` says which keyspaces there are; networks are `netstate/net/NUMBER`, what etcd's
/// clients use is `default` unless the server was told otherwise.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster move default --to g3
  netstate cluster move netstate/net/7 --to 5 --no-wait && netstate cluster moves
  netstate cluster move default --cancel")]
pub(crate) struct Args {
    /// Which keyspace
    keyspace: String,
    /// The group that it is to be in: g3, or 3
    #[arg(long, value_name = "GROUP", value_parser = group, required_unless_present = "cancel")]
    to: Option<u32>,
    /// Give up the move that is under way; the keyspace stays where it is
    #[arg(long, conflicts_with = "to")]
    cancel: bool,
    /// Return at once; it goes on by itself
    #[arg(long)]
    no_wait: bool,
}

/// List the keyspaces that are moving, and how the last move of each other one ended
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster moves
  netstate cluster moves -o json | jq '.[] | select(.stage == \"copying\")'")]
pub(crate) struct List {}

fn group(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix('g').unwrap_or(text);
    number.parse().map_err(|_| format!("{text:?} is no group; give g0, g1 and so on"))
}

/// How far a move is.
enum Progress {
    Goes(String),
    Done(String),
    GivenUp(String),
}

fn progress(found: &pb::KeyspaceMove) -> Progress {
    let (keyspace, from, to) = (&found.keyspace, found.from, found.to);
    let copied = human::bytes(found.copied_bytes);
    match found.stage() {
        Stage::Done => Progress::Done(format!("{keyspace} is in g{to}; {copied} were copied from g{from}")),
        Stage::GivenUp => Progress::GivenUp(format!("{keyspace} is still in g{from}: {}", found.reason)),
        Stage::Copying => {
            let of = human::bytes(found.of_bytes);
            Progress::Goes(format!("{keyspace} to g{to}: {copied} copied, of {of} and what is older or new"))
        }
        stage => Progress::Goes(format!("{keyspace} to g{to}: {}", words(stage))),
    }
}

fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::Unspecified => "unknown",
        Stage::Waiting => "waiting",
        Stage::Copying => "copying",
        Stage::Finishing => "finishing",
        Stage::Dropping => "dropping what is left where it was",
        Stage::GivingUp => "giving up",
        Stage::Done => "done",
        Stage::GivenUp => "given up",
    }
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let keyspace = args.keyspace.clone();
    let Some(to) = args.to else {
        session.client.stop_move(pb::StopMoveRequest { keyspace }).await?;
        talk(format_args!("the move of {} is given up", args.keyspace));
        return Ok(());
    };
    let asked = pb::MoveKeyspaceRequest { keyspace, to };
    let id = session.client.move_keyspace(asked).await?.id;
    if args.no_wait {
        talk(format_args!("{} moves to g{to}; `netstate cluster moves` says how far it is", args.keyspace));
        return Ok(());
    }
    let mut ends = Ends::listen()?;
    let line = session.console.line();
    loop {
        // The node asked may not have heard of it yet.
        let moves = session.client.list_moves(pb::ListMovesRequest {}).await?.moves;
        match moves.iter().find(|found| found.keyspace == args.keyspace && found.id >= id).map(progress) {
            Some(Progress::Done(text)) => {
                line.finish_and_clear();
                talk(text);
                return Ok(());
            }
            Some(Progress::GivenUp(text)) => {
                line.finish_and_clear();
                return Err(Failure::False(Some(text)));
            }
            Some(Progress::Goes(text)) => line.set_message(text),
            None => {}
        }
        tokio::select! {
            () = time::sleep(LOOK_EVERY) => {}
            _ = ends.arrived() => {
                line.finish_and_clear();
                talk(format_args!("{} goes on moving; `netstate cluster moves` says how far it is", args.keyspace));
                return Ok(());
            }
        }
    }
}

pub(crate) async fn list(_args: &List, session: &Session) -> Result<(), Failure> {
    let moves = session.client.list_moves(pb::ListMovesRequest {}).await?.moves;
    let shown = |found: &pb::KeyspaceMove| {
        json!({
            "keyspace": found.keyspace,
            "id": found.id,
            "from": found.from,
            "to": found.to,
            "stage": words(found.stage()),
            "reason": found.reason,
            "copied_bytes": found.copied_bytes,
            "of_bytes": found.of_bytes,
        })
    };
    let row = |found: &pb::KeyspaceMove| {
        let stage = match found.stage() {
            Stage::GivenUp => format!("given up: {}", found.reason),
            stage => words(stage).to_owned(),
        };
        let (from, to) = (format!("g{}", found.from), format!("g{}", found.to));
        vec![found.keyspace.clone(), from, to, stage, human::bytes(found.copied_bytes)]
    };
    session.console.answer(
        || moves.iter().map(shown).collect::<Vec<_>>().into(),
        || session.console.table(&["keyspace", "from", "to", "stage", "copied"], moves.iter().map(row).collect()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_with_and_without_their_letter() {
        assert_eq!((group("g3"), group("17")), (Ok(3), Ok(17)));
        assert!(group("three").unwrap_err().contains("no group"));
        assert!(group("gg3").is_err() && group("").is_err());
    }
}
