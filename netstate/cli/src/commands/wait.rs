//! `netstate wait`.

use netstate_proto::v1 as pb;

use crate::{
    console::talk,
    converge::{self, Awaited},
    failure::Failure,
    json,
    session::Session,
    values::{At, Span},
};

/// Wait until a change is in force on every host that it concerns
///
/// Gives up after --timeout with exit code 1, naming the hosts that lag. A host that nobody hears holds the wait as well: it
/// may go on with what it was told last. With --except-lost it is named, and not waited for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate wait --connection c12
  netstate wait --network web --timeout 5s
  netstate wait --connection c12 --except-lost --lost-after 5m
  netstate wait --revision netstate/directory@17")]
pub(crate) struct Args {
    /// A connection, by id; also one that was removed
    #[arg(long, value_name = "ID", group = "what", required_unless_present_any = ["network", "revision"])]
    connection: Option<String>,
    /// All that has been acknowledged on a network, by name or id
    #[arg(long, group = "what")]
    network: Option<String>,
    /// A position that a change returned
    #[arg(long, value_name = "KEYSPACE@REVISION", group = "what")]
    revision: Option<At>,
    /// Don't wait for hosts that have been silent for --lost-after
    #[arg(long)]
    except_lost: bool,
    /// How long a host is silent before it counts as lost
    #[arg(long, value_name = "SPAN", default_value = "60s", requires = "except_lost")]
    lost_after: Span,
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
    let except = args.except_lost.then(|| args.lost_after.get());
    let seen = converge::wait(&session.client, &awaited, session.patience(), except, session.console).await?;
    if session.console.is_json() {
        session.console.answer(|| json::convergence(&seen.answer), String::new)?;
    }
    talk(seen.conclude()?);
    Ok(())
}
