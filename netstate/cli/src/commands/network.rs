//! `netstate network`.

use netstate_proto::v1 as pb;
use serde_json::{Value, json};

use crate::{
    console::talk,
    failure::Failure,
    human, json,
    session::Session,
    values::{self, Label},
};

/// Make, list, show and remove networks
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Create(Create),
    Ls(Ls),
    Show(Show),
    Rm(Rm),
}

/// Make a network
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate network create web --pool 10.1.0.0/16
  netstate network create db --pool 10.2.0.0/20 --pool fd00:2::/64 --label team=storage --reason \"new database\"")]
pub(crate) struct Create {
    /// Its name
    name: String,
    /// A range of addresses for its endpoints, that no other network has; may be given several times
    #[arg(long = "pool", value_name = "CIDR", required = true)]
    pools: Vec<String>,
    /// Prefix length of the blocks of IPv4 addresses that hosts are given [default: chosen to fit the pools]
    #[arg(long, value_name = "LENGTH", value_parser = clap::value_parser!(u32).range(1..=32))]
    block_len_v4: Option<u32>,
    /// The same for IPv6
    #[arg(long, value_name = "LENGTH", value_parser = clap::value_parser!(u32).range(1..=128))]
    block_len_v6: Option<u32>,
    /// A label; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
    /// Why, for the audit trail
    #[arg(long, default_value = "")]
    reason: String,
}

/// List all networks
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate network ls
  netstate network ls -o json | jq -r '.networks[].name'")]
pub(crate) struct Ls {}

/// Show a network and which host has which block of its addresses
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate network show web
  netstate network show net7")]
pub(crate) struct Show {
    /// Its name or id
    network: String,
}

/// Remove a network that has neither endpoints nor connections
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate network rm web --reason \"moved to web2\"")]
pub(crate) struct Rm {
    /// Its name or id
    network: String,
    /// Why, for the audit trail
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create(args, session).await,
        Command::Ls(Ls {}) => list(session).await,
        Command::Show(args) => show(args, session).await,
        Command::Rm(args) => remove(args, session).await,
    }
}

async fn create(args: Create, session: &Session) -> Result<(), Failure> {
    let request = pb::CreateNetworkRequest {
        origin: session.origin(&args.reason),
        name: args.name,
        pools: args.pools,
        block_len_v4: args.block_len_v4.unwrap_or(0),
        block_len_v6: args.block_len_v6.unwrap_or(0),
        labels: values::labels(&args.labels).map_err(Failure::Usage)?,
    };
    let made = session.client.create_network(request).await?;
    let network = made.network.unwrap_or_default();
    session.console.answer(
        || with_position(json::network(&network), made.position.as_ref()),
        || format!("{} {}", network.id, network.name),
    )
}

async fn list(session: &Session) -> Result<(), Failure> {
    let mut found = session.client.list_networks(pb::ListNetworksRequest {}).await?;
    found.networks.sort_by(|a, b| a.name.cmp(&b.name));
    session.console.answer(
        || {
            let networks: Vec<Value> = found.networks.iter().map(json::network).collect();
            json!({ "networks": networks, "position": json::position(found.position.as_ref()) })
        },
        || {
            let now = human::now_micros();
            let rows = found.networks.iter().map(|network| row(network, now)).collect();
            session.console.table(&["id", "name", "pools", "endpoints", "state", "labels", "age"], rows)
        },
    )
}

fn row(network: &pb::Network, now: i64) -> Vec<String> {
    vec![
        network.id.clone(),
        network.name.clone(),
        network.pools.join(" "),
        human::count(network.endpoints),
        json::network_state(network.state).to_owned(),
        super::labels(&network.labels),
        human::ago(network.created_at, now),
    ]
}

async fn show(args: Show, session: &Session) -> Result<(), Failure> {
    let found = session.client.get_network(pb::GetNetworkRequest { network: args.network }).await?;
    let network = found.network.unwrap_or_default();
    session.console.answer(
        || {
            let mut value = with_position(json::network(&network), found.position.as_ref());
            value["blocks"] = found.blocks.iter().map(json::block).collect();
            value
        },
        || {
            let facts = [
                ("id", network.id.clone()),
                ("name", network.name.clone()),
                ("state", json::network_state(network.state).to_owned()),
                ("pools", network.pools.join(" ")),
                ("blocks", format!("/{} of IPv4, /{} of IPv6", network.block_len_v4, network.block_len_v6)),
                ("labels", super::labels(&network.labels)),
                ("endpoints", human::count(network.endpoints)),
                ("created", format!("{} by {}", human::moment(network.created_at), network.created_by)),
            ];
            let rows =
                found.blocks.iter().map(|block| vec![block.cidr.clone(), block.host.clone(), block.used.to_string()]);
            let blocks = session.console.table(&["block", "host", "used"], rows.collect());
            format!("{}\n\n{blocks}", super::facts(&facts))
        },
    )
}

async fn remove(args: Rm, session: &Session) -> Result<(), Failure> {
    let request = pb::DeleteNetworkRequest { origin: session.origin(&args.reason), network: args.network.clone() };
    let done = session.client.delete_network(request).await?;
    if session.console.is_json() {
        return session.console.answer(|| json!({ "position": json::position(done.position.as_ref()) }), String::new);
    }
    talk(format_args!("network {} is gone", args.network));
    Ok(())
}

/// An answer with the position that it is true of.
pub(crate) fn with_position(mut value: Value, position: Option<&pb::Position>) -> Value {
    value["position"] = json::position(position);
    value
}
