//! `netstate cluster`.

mod moves;
mod nodes;
mod recover;
mod repair;
mod status;

use crate::{commands::snapshot, failure::Failure, session::Session};

/// Look at the cluster itself, and change who belongs to it
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Status(status::Args),
    Join(nodes::Join),
    Remove(nodes::Remove),
    Replace(nodes::Replace),
    Drain(nodes::Drain),
    Replicas(nodes::Replicas),
    Repair(repair::Args),
    Move(moves::Args),
    Moves(moves::List),
    Recover(recover::Args),
    #[command(subcommand)]
    Snapshot(snapshot::Command),
}

pub(crate) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Status(args) => status::run(&args, session).await,
        Command::Join(args) => nodes::join(&args, session).await,
        Command::Remove(args) => nodes::remove(&args, session).await,
        Command::Replace(args) => nodes::replace(&args, session).await,
        Command::Drain(args) => nodes::drain(&args, session).await,
        Command::Repair(args) => repair::run(&args, session).await,
        Command::Replicas(args) => nodes::replicas(&args, session).await,
        Command::Move(args) => moves::run(&args, session).await,
        Command::Moves(args) => moves::list(&args, session).await,
        Command::Recover(args) => recover::run(&args, session.console).await,
        Command::Snapshot(command) => snapshot::run(command, session).await,
    }
}
