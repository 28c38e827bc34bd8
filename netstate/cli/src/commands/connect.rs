//! `netstate connect` and `netstate disconnect`.

use std::time::Duration;

use netstate_proto::v1 as pb;
use serde_json::{Value, json};

use super::connection::sentence;
use crate::{
    console::talk,
    converge::{self, Awaited, Seen},
    failure::Failure,
    human, json,
    session::Session,
    values::{Port, Span, Traffic},
};

/// Allow traffic from one network to another
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate connect web db --port tcp/5432 --reason \"orders read the database\"
  netstate connect web db --port tcp/5432 --from-selector app=shop,tier!=test --reason \"shop only\" --for 2h --wait
  netstate connect web db --port tcp/80,8000-8080 --reason \"what would it open?\" --dry-run")]
pub(crate) struct Connect {
    /// Network that may begin to talk, by name or id
    from: String,
    /// Network that it may talk to
    to: String,
    /// What it may talk on: tcp/443, udp/5000-5010, tcp (all ports), icmp, any; may be given several times
    #[arg(long = "port", value_name = "PROTOCOL/PORTS", required = true)]
    ports: Vec<Port>,
    /// Only these endpoints of the first network: app=web,tier!=db,env in (a,b),has,!hasnt
    #[arg(long, value_name = "SELECTOR", default_value = "")]
    from_selector: String,
    /// Only these endpoints of the second network
    #[arg(long, value_name = "SELECTOR", default_value = "")]
    to_selector: String,
    /// Why; shown wherever somebody asks who may talk to whom
    #[arg(long)]
    reason: String,
    /// How long it lasts: 90s, 15m, 2h, 7d [default: until disconnect]
    #[arg(long = "for", value_name = "SPAN")]
    lifetime: Option<Span>,
    /// Check and count what it would open, and change nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Return when every host concerned has it in force
    #[arg(long)]
    wait: bool,
}

/// Take a connection back; flows that it allowed are cut
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate disconnect c12 --reason \"migration is over\" --wait")]
pub(crate) struct Disconnect {
    /// Its id
    connection: String,
    /// Why, for the audit trail
    #[arg(long)]
    reason: String,
    /// Return when every host concerned has stopped allowing it
    #[arg(long)]
    wait: bool,
}

pub(crate) async fn connect(args: Connect, session: &Session) -> Result<(), Failure> {
    let traffic = Traffic::of(&args.ports).map_err(|error| Failure::usage(format!("--port refused: {error}")))?;
    let side = |network: String, selector: String| Some(pb::Side { network, selector });
    let lifetime = args.lifetime.map(Span::get).unwrap_or_default();
    if lifetime.subsec_nanos() != 0 {
        return Err(Failure::usage("--for takes whole seconds; write 1s or longer"));
    }
    let request = pb::ConnectRequest {
        origin: session.origin(&args.reason),
        from: side(args.from, args.from_selector),
        to: side(args.to, args.to_selector),
        protocol: traffic.protocol_to_proto(),
        ports: traffic.ports_to_proto(),
        lifetime_seconds: lifetime.as_secs(),
        dry_run: args.dry_run,
    };
    let made = session.client.open_connection(request).await?;
    let connection = made.connection.clone().unwrap_or_default();
    let seen = match args.wait {
        true => Some(wait(session, &Awaited::connection(&connection.id)).await?),
        false => None,
    };
    session.console.answer(|| made_json(&made, args.dry_run, seen.as_ref()), || made_text(&made, args.dry_run))?;
    conclude(seen)
}

pub(crate) async fn disconnect(args: Disconnect, session: &Session) -> Result<(), Failure> {
    let request = pb::DisconnectRequest { origin: session.origin(&args.reason), connection: args.connection.clone() };
    let done = session.client.disconnect(request).await?;
    let id = done.connection.as_ref().map_or(args.connection, |connection| connection.id.clone());
    let seen = match args.wait {
        true => Some(wait(session, &Awaited::connection(&id)).await?),
        false => None,
    };
    session.console.answer(
        || {
            json!({
                "connection": json::connection_or_null(done.connection.as_ref()),
                "position": json::position(done.position.as_ref()),
                "convergence": convergence(seen.as_ref()),
            })
        },
        || match &done.connection {
            Some(connection) => format!("disconnected {}", sentence(connection)),
            None => format!("disconnected {id} before"),
        },
    )?;
    conclude(seen)
}

async fn wait(session: &Session, awaited: &Awaited) -> Result<Seen, Failure> {
    converge::wait(&session.client, awaited, session.patience(), None, session.console).await
}

/// Says how the waiting ended, after the answer itself was written.
fn conclude(seen: Option<Seen>) -> Result<(), Failure> {
    if let Some(seen) = seen {
        talk(seen.conclude()?);
    }
    Ok(())
}

fn convergence(seen: Option<&Seen>) -> Value {
    seen.map_or(Value::Null, |seen| {
        let mut value = json::convergence(&seen.answer);
        value["waited_micros"] = u64::try_from(seen.waited.as_micros()).unwrap_or(u64::MAX).into();
        value
    })
}

fn made_json(made: &pb::ConnectResponse, dry_run: bool, seen: Option<&Seen>) -> Value {
    json!({
        "dry_run": dry_run,
        "connection": json::connection_or_null(made.connection.as_ref()),
        "position": json::position(made.position.as_ref()),
        "from_endpoints": made.from_endpoints,
        "to_endpoints": made.to_endpoints,
        "pairs": made.pairs,
        "pairs_new": made.pairs_new,
        "hosts": made.hosts,
        "convergence": convergence(seen),
    })
}

fn made_text(made: &pb::ConnectResponse, dry_run: bool) -> String {
    let connection = made.connection.clone().unwrap_or_default();
    let counted = format!(
        "{} ({} x {} endpoints), {} of them new, on {}",
        human::things(made.pairs, "endpoint pair"),
        human::count(made.from_endpoints),
        human::count(made.to_endpoints),
        human::count(made.pairs_new),
        human::things(made.hosts, "host")
    );
    let life = match connection.expires_at {
        0 => String::new(),
        at => {
            let left = u64::try_from(at - connection.created_at).unwrap_or(0);
            format!("\nends {}, {} after it began", human::moment(at), human::span(Duration::from_micros(left)))
        }
    };
    match dry_run {
        true => format!("would open {counted}; nothing is changed"),
        false => format!("{}\nopens {counted}{life}", sentence(&connection)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_says_that_nothing_has_changed() {
        let made = pb::ConnectResponse {
            from_endpoints: 3,
            to_endpoints: 400,
            pairs: 1200,
            pairs_new: 7,
            hosts: 2,
            ..Default::default()
        };
        let expected =
            "would open 1,200 endpoint pairs (3 x 400 endpoints), 7 of them new, on 2 hosts; nothing is changed";
        assert_eq!(made_text(&made, true), expected);
    }
}
