//! `netstate connection`.

use netstate_proto::v1 as pb;
use serde_json::{Value, json};

use super::network::with_position;
use crate::{failure::Failure, human, json, session::Session, values};

/// List and show connections; see also connect and disconnect
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Ls(Ls),
    Show(Show),
}

/// List connections
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate connection ls
  netstate connection ls --network db")]
pub(crate) struct Ls {
    /// Only those from or to this network, by name or id
    #[arg(long, default_value = "")]
    network: String,
}

/// Show a connection
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate connection show c12")]
pub(crate) struct Show {
    /// Its id
    connection: String,
}

pub(crate) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Ls(args) => list(args, session).await,
        Command::Show(args) => show(args, session).await,
    }
}

async fn list(args: Ls, session: &Session) -> Result<(), Failure> {
    let found = session.client.list_connections(pb::ListConnectionsRequest { network: args.network }).await?;
    session.console.answer(
        || {
            let connections: Vec<Value> = found.connections.iter().map(json::connection).collect();
            json!({ "connections": connections, "position": json::position(found.position.as_ref()) })
        },
        || {
            let now = human::now_micros();
            let rows = found.connections.iter().map(|connection| row(connection, now)).collect();
            session.console.table(&["id", "from", "to", "traffic", "expires", "by", "age", "reason"], rows)
        },
    )
}

fn row(connection: &pb::Connection, now: i64) -> Vec<String> {
    vec![
        connection.id.clone(),
        side(connection.from.as_ref()),
        side(connection.to.as_ref()),
        values::traffic(connection),
        human::until(connection.expires_at, now),
        connection.created_by.clone(),
        human::ago(connection.created_at, now),
        connection.reason.clone(),
    ]
}

/// One side as people write it: `web` or `web{app=shop}`.
pub(crate) fn side(side: Option<&pb::Side>) -> String {
    match side {
        Some(pb::Side { network, selector }) if selector.is_empty() => network.clone(),
        Some(pb::Side { network, selector }) => format!("{network}{{{selector}}}"),
        None => "-".to_owned(),
    }
}

/// A whole connection in one line, with who made it and why.
pub(crate) fn sentence(connection: &pb::Connection) -> String {
    let (from, to) = (side(connection.from.as_ref()), side(connection.to.as_ref()));
    let traffic = values::traffic(connection);
    format!("{} {from} -> {to} {traffic}, by {}: {}", connection.id, connection.created_by, connection.reason)
}

async fn show(args: Show, session: &Session) -> Result<(), Failure> {
    let found = session.client.get_connection(pb::GetConnectionRequest { connection: args.connection }).await?;
    let connection = found.connection.unwrap_or_default();
    session.console.answer(
        || with_position(json::connection(&connection), found.position.as_ref()),
        || {
            super::facts(&[
                ("id", connection.id.clone()),
                ("from", side(connection.from.as_ref())),
                ("to", side(connection.to.as_ref())),
                ("traffic", values::traffic(&connection)),
                ("reason", connection.reason.clone()),
                ("created", format!("{} by {}", human::moment(connection.created_at), connection.created_by)),
                ("expires", human::until(connection.expires_at, human::now_micros())),
            ])
        },
    )
}
