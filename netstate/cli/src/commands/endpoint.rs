//! `netstate endpoint`.

use std::path::PathBuf;

use netstate_model::EndpointId;
use netstate_proto::v1 as pb;
use serde_json::{Value, json};

use super::{attach, network::with_position};
use crate::{
    console::talk,
    failure::Failure,
    human, json,
    session::Session,
    values::{self, Label},
};

/// Attach, detach, list, show and quarantine endpoints
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Attach(Attach),
    Detach(Detach),
    Ls(Ls),
    Show(Show),
    Quarantine(Quarantine),
    Release(Release),
}

/// Attach one endpoint, or many from a file
///
/// A file holds one JSON object a line: {"network": "web", "name": "shop-1", "host": "h-east"}, and where wanted
/// "addresses", "mac", "labels", "workload" and "netns". The endpoints of one network in one call are attached together or
/// not at all.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate endpoint attach web/shop-1 --host h-east
  netstate endpoint attach web/shop-2 --host h-east --address 10.1.0.77 --label app=shop --netns shop-2
  netstate endpoint attach -f endpoints.jsonl
  generate | netstate endpoint attach -f - --batch 10000")]
pub(crate) struct Attach {
    /// The new endpoint, as network/name
    #[arg(value_name = "NETWORK/NAME", required_unless_present = "file", conflicts_with = "file", requires = "host")]
    endpoint: Option<String>,
    /// The host that it is on, by name or id
    #[arg(long, conflicts_with = "file")]
    host: Option<String>,
    /// An address that it should have; at most one of each family [default: from the host's block]
    #[arg(long = "address", value_name = "IP", conflicts_with = "file")]
    addresses: Vec<String>,
    /// A link-layer address that it should have
    #[arg(long, default_value = "", conflicts_with = "file")]
    mac: String,
    /// A label; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", conflicts_with = "file")]
    labels: Vec<Label>,
    /// What runs there
    #[arg(long, default_value = "", conflicts_with = "file")]
    workload: String,
    /// File of its network namespace, below the agent's folder of them; without, the agent makes no interface
    #[arg(long, default_value = "", conflicts_with = "file")]
    netns: String,
    /// File of endpoints, a JSON object a line; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Endpoints of a file that are sent in one call
    #[arg(long, value_name = "COUNT", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Why, for the audit trail
    #[arg(long, default_value = "")]
    reason: String,
}

/// Detach endpoints
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate endpoint detach web/shop-1 web/shop-2
  netstate endpoint detach e7.42 --reason \"container ended\"")]
pub(crate) struct Detach {
    /// Endpoints, as network/name or id
    #[arg(required = true, value_name = "ENDPOINT")]
    endpoints: Vec<String>,
    /// Why, for the audit trail
    #[arg(long, default_value = "")]
    reason: String,
}

/// List endpoints
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate endpoint ls --network web
  netstate endpoint ls --host h-east --selector app=shop
  netstate endpoint ls -o json | jq -r '.[].addresses[0]'")]
pub(crate) struct Ls {
    /// Only those of this network
    #[arg(long, default_value = "")]
    network: String,
    /// Only those on this host
    #[arg(long, default_value = "")]
    host: String,
    /// Only those with these labels: app=web,tier!=db
    #[arg(long, default_value = "")]
    selector: String,
    /// How many at most; 0: all
    #[arg(long, default_value_t = 0)]
    limit: u32,
}

/// Show an endpoint
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate endpoint show web/shop-1
  netstate endpoint show e7.42 -o json")]
pub(crate) struct Show {
    /// Endpoint, as network/name or id
    endpoint: String,
}

/// Forbid an endpoint to talk to anybody, whatever else is allowed
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate endpoint quarantine web/shop-1 --reason \"scans its neighbours\"")]
pub(crate) struct Quarantine {
    /// Endpoint, as network/name or id
    endpoint: String,
    /// Why
    #[arg(long)]
    reason: String,
}

/// End an endpoint's quarantine
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate endpoint release web/shop-1 --reason \"cleaned\"")]
pub(crate) struct Release {
    /// Endpoint, as network/name or id
    endpoint: String,
    /// Why
    #[arg(long)]
    reason: String,
}

pub(crate) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Attach(args) => attach(args, session).await,
        Command::Detach(args) => detach(args, session).await,
        Command::Ls(args) => list(args, session).await,
        Command::Show(args) => show(args, session).await,
        Command::Quarantine(args) => set_quarantine(args.endpoint, &args.reason, true, session).await,
        Command::Release(args) => set_quarantine(args.endpoint, &args.reason, false, session).await,
    }
}

async fn attach(args: Attach, session: &Session) -> Result<(), Failure> {
    if let Some(file) = &args.file {
        let items = attach::read(file)?;
        return attach::send(items, args.batch as usize, &args.reason, session).await;
    }
    let (network, name) = split(args.endpoint.as_deref().unwrap_or_default())?;
    let item = pb::AttachItem {
        network,
        name,
        host: args.host.unwrap_or_default(),
        addresses: args.addresses,
        mac: args.mac,
        labels: values::labels(&args.labels).map_err(Failure::Usage)?,
        workload: args.workload,
        netns: args.netns,
    };
    attach::send(vec![item], 1, &args.reason, session).await
}

/// `network/name` in two.
fn split(endpoint: &str) -> Result<(String, String), Failure> {
    match endpoint.split_once('/') {
        Some((network, name)) if !network.is_empty() && !name.is_empty() => Ok((network.to_owned(), name.to_owned())),
        _ => Err(Failure::usage(format!("{endpoint:?} names no endpoint; write network/name"))),
    }
}

async fn detach(args: Detach, session: &Session) -> Result<(), Failure> {
    let item = |endpoint: &String| match endpoint.parse::<EndpointId>() {
        Ok(id) => Ok(pb::DetachItem { network: id.network().to_string(), name: id.to_string() }),
        Err(_) => split(endpoint).map(|(network, name)| pb::DetachItem { network, name }),
    };
    let endpoints = args.endpoints.iter().map(item).collect::<Result<Vec<_>, _>>()?;
    let request = pb::DetachRequest { origin: session.origin(&args.reason), endpoints };
    let done = session.client.detach(request).await?;
    session.console.answer(
        || {
            let result = |result: &pb::DetachResult| {
                json!({
                    "network": result.network,
                    "detached": result.detached,
                    "position": json::position(result.position.as_ref()),
                    "refusal": result.refusal.as_ref().map(|refusal| refusal.message.clone()),
                })
            };
            json!({ "results": done.results.iter().map(result).collect::<Vec<Value>>() })
        },
        || {
            let rows = done.results.iter().map(|result| vec![result.network.clone(), result.detached.to_string()]);
            session.console.table(&["network", "detached"], rows.collect())
        },
    )?;
    let refusals = done.results.into_iter().filter_map(|result| Some((result.network, result.refusal?)));
    attach::conclude(refusals.collect())
}

async fn list(args: Ls, session: &Session) -> Result<(), Failure> {
    let request =
        pb::ListEndpointsRequest { network: args.network, host: args.host, selector: args.selector, limit: args.limit };
    let mut chunks = session.client.list_endpoints(request).await?;
    let mut found = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        found.extend(chunk.endpoints);
    }
    session.console.answer(
        || found.iter().map(json::endpoint).collect(),
        || {
            let rows = found.iter().map(row).collect();
            session.console.table(&["id", "endpoint", "host", "addresses", "labels", "state"], rows)
        },
    )
}

pub(super) fn row(endpoint: &pb::Endpoint) -> Vec<String> {
    vec![
        endpoint.id.clone(),
        format!("{}/{}", endpoint.network, endpoint.name),
        endpoint.host.clone(),
        endpoint.addresses.join(" "),
        super::labels(&endpoint.labels),
        if endpoint.quarantine.is_empty() { "attached" } else { "quarantined" }.to_owned(),
    ]
}

async fn show(args: Show, session: &Session) -> Result<(), Failure> {
    let found = session.client.get_endpoint(pb::GetEndpointRequest { endpoint: args.endpoint }).await?;
    write(&found.endpoint.unwrap_or_default(), found.position.as_ref(), session)
}

fn write(endpoint: &pb::Endpoint, position: Option<&pb::Position>, session: &Session) -> Result<(), Failure> {
    session.console.answer(
        || with_position(json::endpoint(endpoint), position),
        || {
            let quarantine = match endpoint.quarantine.as_str() {
                "" => "no".to_owned(),
                reason => format!("yes: {reason}"),
            };
            super::facts(&[
                ("id", endpoint.id.clone()),
                ("endpoint", format!("{}/{}", endpoint.network, endpoint.name)),
                ("host", endpoint.host.clone()),
                ("addresses", endpoint.addresses.join(" ")),
                ("mac", endpoint.mac.clone()),
                ("labels", super::labels(&endpoint.labels)),
                ("workload", endpoint.workload.clone()),
                ("netns", endpoint.netns.clone()),
                ("quarantine", quarantine),
                ("attached", human::moment(endpoint.attached_at)),
            ])
        },
    )
}

async fn set_quarantine(endpoint: String, reason: &str, on: bool, session: &Session) -> Result<(), Failure> {
    let request = pb::SetQuarantineRequest { origin: session.origin(reason), endpoint, quarantined: on };
    let done = session.client.set_quarantine(request).await?;
    let endpoint = done.endpoint.unwrap_or_default();
    write(&endpoint, done.position.as_ref(), session)?;
    let state = if on { "in quarantine" } else { "out of quarantine" };
    talk(format_args!("{}/{} is {state}", endpoint.network, endpoint.name));
    Ok(())
}
