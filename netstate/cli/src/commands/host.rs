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

/// Register, list, show and remove hosts, and say what becomes of lost ones
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Register(Register),
    Ls(Ls),
    Show(Show),
    Rm(Rm),
    Policy(Policy),
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

/// Say what becomes of the endpoints of hosts that no server hears any more, or show it
///
/// They stay, unless it is said after how long they are detached. A host that is given up gets no endpoints until its agent is
/// back. While more than half of the hosts are silent, none is given up: then it is the network. Hosts without endpoints don't count,
/// unless they are given up.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change"), after_help = "Examples:
  netstate host policy
  netstate host policy --detach-after 10m --reason \"a rack takes five minutes to come back\"
  netstate host policy --keep")]
pub(crate) struct Policy {
    /// Detach them when the host has been silent for so long, in whole seconds, 30s at least
    #[arg(long, value_name = "SPAN", group = "change")]
    detach_after: Option<Span>,
    /// Have them stay
    #[arg(long, group = "change")]
    keep: bool,
    /// Why, for the audit trail
    #[arg(long, default_value = "", requires = "change")]
    reason: String,
}

pub(crate) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Register(args) => register(args, session).await,
        Command::Ls(args) => list(&args, session).await,
        Command::Show(args) => show(&args, session).await,
        Command::Rm(args) => remove(args, session).await,
        Command::Policy(args) => policy(&args, session).await,
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
        (true, ..) if host.lost_since != 0 => "given up, up again".to_owned(),
        (false, silent, _) if host.lost_since != 0 => format!("given up, silent {}", human::span(silent)),
        (true, _, Duration::ZERO) => "up".to_owned(),
        (true, _, behind) => format!("up, behind {}", human::span(behind)),
        (false, silent, _) if silent < lost_after => format!("silent {}", human::span(silent)),
        (false, silent, _) => format!("lost {}", human::span(silent)),
    }
}

async fn list(args: &Ls, session: &Session) -> Result<(), Failure> {
    let mut found = session.client.list_hosts(pb::ListHostsRequest {}).await?;
    found.hosts.retain(|host| !args.behind || !host.connected || host.behind_micros > 0 || host.lost_since != 0);
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

async fn policy(args: &Policy, session: &Session) -> Result<(), Failure> {
    let (seconds, position) = if args.keep || args.detach_after.is_some() {
        let seconds = args.detach_after.map_or(0, |after| after.get().as_secs().max(1));
        let policy = Some(pb::HostPolicy { detach_after_seconds: i64::try_from(seconds).unwrap_or(i64::MAX) });
        let request = pb::SetHostPolicyRequest { origin: session.origin(&args.reason), policy };
        (seconds, session.client.set_host_policy(request).await?.position)
    } else {
        let found = session.client.list_hosts(pb::ListHostsRequest {}).await?;
        let seconds = found.policy.unwrap_or_default().detach_after_seconds;
        (u64::try_from(seconds).unwrap_or_default(), found.position)
    };
    session.console.answer(
        || {
            let after = (seconds > 0).then_some(seconds);
            with_position(json!({ "detach_after_seconds": after }), position.as_ref())
        },
        || match seconds {
            0 => "endpoints of silent hosts stay".to_owned(),
            _ => {
                let after = human::span(Duration::from_secs(seconds));
                format!("endpoints of a host that is silent for {after} are detached")
            }
        },
    )
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
        let given_up = pb::Host { silent_micros: 700_000_000, lost_since: 1, ..pb::Host::default() };
        assert_eq!(state(&given_up, Duration::from_secs(60)), "given up, silent 11m 40s");
        let back = pb::Host { connected: true, silent_micros: 0, ..given_up };
        assert_eq!(state(&back, Duration::from_secs(60)), "given up, up again");
    }
}
