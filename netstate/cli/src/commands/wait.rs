//! `netstate wait`.

use netstate_proto::v1 as pb;

use crate::{
    console::talk,
    converge::{self, Awaited},
    failure::Failure,
    json,
    session::Session,
    values::At,
};

/// Wait until a change is in force on every host that it concerns
///
/// Gives up after --timeout with exit code 1, naming the hosts that lag.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate wait --connection c12
  netstate wait --network web --timeout 5s
  netstate wait --revision netstate/directory@17")]
#[group(required = true, multiple = false)]
pub(crate) struct Args {
    /// A connection, by id; also one that was removed
    #[arg(long, value_name = "ID")]
    connection: Option<String>,
    /// All that has been acknowledged on a network, by name or id
    #[arg(long)]
    network: Option<String>,
    /// A position that a change returned
    #[arg(long, value_name = "KEYSPACE@REVISION")]
    revision: Option<At>,
}

pub(crate) async fn run(args: Args, session: &Session) -> Result<(), Failure> {
    let awaited = match (args.connection, args.network, args.revision) {
        (Some(connection), _, _) => Awaited::connection(&connection),
        (_, Some(network), _) => {
            let found = session.client.get_network(pb::GetNetworkRequest { network }).await?;
            Awaited::position(found.position.unwrap_or_default())
        }
        (_, _, Some(at)) => Awaited::position(pb::Position { keyspace: at.keyspace, revision: at.revision }),
        (None, None, None) => return Err(Failure::usage("say what to wait for")),
    };
    let seen = converge::wait(&session.client, &awaited, session.patience(), session.console).await?;
    if session.console.is_json() {
        session.console.answer(|| json::convergence(&seen.answer), String::new)?;
    }
    talk(seen.conclude()?);
    Ok(())
}
