//! `netstate bench`: load for a cluster, and what it made of it.
//!
//! Must hold: what is sent depends on the arguments and the seed only, so that two runs can be compared; only what was
//! acknowledged is counted.

mod attach;
mod connect;
mod fleet;
mod latency;
mod load;
mod plan;
mod prepare;

use crate::{failure::Failure, session::Session};

/// Put load on a cluster and measure it
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Load(load::Args),
    Attach(attach::Args),
    Connect(connect::Args),
    Fleet(fleet::Args),
}

pub(crate) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    session.without_request_id("a benchmark")?;
    match command {
        Command::Load(args) => load::run(args, session).await,
        Command::Attach(args) => attach::run(args, session).await,
        Command::Connect(args) => connect::run(args, session).await,
        Command::Fleet(args) => fleet::run(args, session).await,
    }
}
