//! `netstate host`.

use std::time::Duration;

use netstate_proto::v1 as pb;
use serde_json::{Value, json};

use super::network::with_position;
use crate::{
    console::talk,
    converge::LOST_AFTER,
    failure::Failure,
    human, json,
    session::Session,
    values::{self, Label, Span},
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
  netstate host register h1-east --underlay 10.0.0.11 --label zone=a")]
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

/// List all hosts, and how each of them is
///
/// A host is up as long as it has a watch stream, and behind as long as it has not reported all of its scope in force. One that
/// no server hears is silent, and lost after a while. Servers remember since when only as long as they run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate host ls
  netstate host ls --behind
  netstate host ls -o json | jq '.hosts[] | select(.connected | not)'")]
pub(crate) struct Ls {
    /// Only those that are not up, or behind
    #[arg(long)]
    behind: bool,
    /// How long a host is silent before it counts as lost
    #[arg(long, value_name = "SPAN", default_value = "60s")]
    lost_after: Span,
}

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
        Command::Ls(args) => list(&args, session).await,
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

/// How a host is, in a word, and for how long where that matters.
fn state(host: &pb::Host, lost_after: Duration) -> String {
    match (host.connected, human::micros(host.silent_micros), human::micros(host.behind_micros)) {
        (true, _, Duration::ZERO) => "up".to_owned(),
        (true, _, behind) => format!("up, behind {}", human::span(behind)),
        (false, silent, _) if silent < lost_after => format!("silent {}", human::span(silent)),
        (false, silent, _) => format!("lost {}", human::span(silent)),
    }
}

async fn list(args: &Ls, session: &Session) -> Result<(), Failure> {
    let mut found = session.client.list_hosts(pb::ListHostsRequest {}).await?;
    found.hosts.retain(|host| !args.behind || !host.connected || host.behind_micros > 0);
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
                    state(host, args.lost_after.get()),
                    human::count(host.endpoints),
                    super::labels(&host.labels),
                ]
            });
            let header = ["id", "name", "underlay", "state", "endpoints", "labels"];
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
                ("state", state(host, LOST_AFTER.get())),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_up_behind_silent_or_lost() {
        let host = |connected, silent_micros, behind_micros| {
            let host = pb::Host { connected, silent_micros, behind_micros, ..pb::Host::default() };
            state(&host, Duration::from_secs(60))
        };
        assert_eq!(host(true, 0, 0), "up");
        assert_eq!(host(true, 0, 1_200_000), "up, behind 1s");
        assert_eq!(host(false, 5_000_000, 0), "silent 5s");
        assert_eq!(host(false, 3_600_000_000, 0), "lost 1h");
    }
}
