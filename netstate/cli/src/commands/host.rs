//! `netstate host`.

use netstate_proto::v1 as pb;
use serde_json::{Value, json};

use super::network::with_position;
use crate::{
    console::talk,
    failure::Failure,
    human, json,
    session::Session,
    values::{self, Label},
};

/// Register, list, show and remove hosts
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Register(Register),
    Ls(Ls),
    Show(Show),
    Rm(Rm),
}

/// Register a host, or change its registration; an agent does this by itself
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate host register h1 --underlay 10.0.0.11 --label zone=a")]
pub(crate) struct Register {
    /// Its name
    name: String,
    /// The address that other hosts send its packets to
    #[arg(long, value_name = "IP")]
    underlay: String,
    /// A label; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
    /// Why, for the audit trail
    #[arg(long, default_value = "")]
    reason: String,
}

/// List all hosts
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate host ls
  netstate host ls -o json | jq '.hosts[] | select(.connected | not)'")]
pub(crate) struct Ls {}

/// Show a host
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate host show h1-east")]
pub(crate) struct Show {
    /// Its name or id
    host: String,
}

/// Remove a host that has no endpoints
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate host rm h1-east --reason \"machine returned\"")]
pub(crate) struct Rm {
    /// Its name or id
    host: String,
    /// Why, for the audit trail
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Register(args) => register(args, session).await,
        Command::Ls(Ls {}) => list(session).await,
        Command::Show(args) => show(&args, session).await,
        Command::Rm(args) => remove(args, session).await,
    }
}

async fn register(args: Register, session: &Session) -> Result<(), Failure> {
    let request = pb::RegisterHostRequest {
        origin: session.origin(&args.reason),
        name: args.name,
        underlay: args.underlay,
        labels: values::labels(&args.labels).map_err(Failure::Usage)?,
    };
    let made = session.client.register_host(request).await?;
    let host = made.host.unwrap_or_default();
    session
        .console
        .answer(|| with_position(json::host(&host), made.position.as_ref()), || format!("{} {}", host.id, host.name))
}

async fn list(session: &Session) -> Result<(), Failure> {
    let mut found = session.client.list_hosts(pb::ListHostsRequest {}).await?;
    found.hosts.sort_by(|a, b| a.name.cmp(&b.name));
    session.console.answer(
        || {
            let hosts: Vec<Value> = found.hosts.iter().map(json::host).collect();
            json!({ "hosts": hosts, "position": json::position(found.position.as_ref()) })
        },
        || {
            let rows = found.hosts.iter().map(|host| {
                vec![
                    host.id.clone(),
                    host.name.clone(),
                    host.underlay.clone(),
                    if host.connected { "yes" } else { "no" }.to_owned(),
                    human::count(host.endpoints),
                    super::labels(&host.labels),
                ]
            });
            let header = ["id", "name", "underlay", "connected", "endpoints", "labels"];
            session.console.table(&header, rows.collect())
        },
    )
}

async fn show(args: &Show, session: &Session) -> Result<(), Failure> {
    let found = session.client.list_hosts(pb::ListHostsRequest {}).await?;
    let host = found.hosts.iter().find(|host| host.name == args.host || host.id == args.host);
    let host = host.ok_or_else(|| {
        let known = found.hosts.len();
        Failure::because(format!("host {:?} is not registered, {known} others are; see netstate host ls", args.host))
    })?;
    session.console.answer(
        || with_position(json::host(host), found.position.as_ref()),
        || {
            super::facts(&[
                ("id", host.id.clone()),
                ("name", host.name.clone()),
                ("underlay", host.underlay.clone()),
                ("connected", if host.connected { "yes" } else { "no" }.to_owned()),
                ("endpoints", human::count(host.endpoints)),
                ("labels", super::labels(&host.labels)),
                ("registered", human::moment(host.registered_at)),
            ])
        },
    )
}

async fn remove(args: Rm, session: &Session) -> Result<(), Failure> {
    let request = pb::DeleteHostRequest { origin: session.origin(&args.reason), host: args.host.clone() };
    let done = session.client.delete_host(request).await?;
    if session.console.is_json() {
        return session.console.answer(|| json!({ "position": json::position(done.position.as_ref()) }), String::new);
    }
    talk(format_args!("host {} is gone", args.host));
    Ok(())
}
