//! `netstate bench connect`: from the acknowledgement of a connection to the rule in force on every host.

use std::time::Duration;

use netstate_proto::v1 as pb;
use tokio::time::{self, Instant};

use super::{latency::Latency, prepare};
use crate::{
    converge::{self, Awaited},
    failure::Failure,
    session::Session,
};

/// Between two looks at how far the hosts are. What is measured is up to one look too long.
const LOOK: Duration = Duration::from_millis(1);

/// Connect and disconnect two networks again and again, and measure how soon hosts have it in force
///
/// Measured from the answer to the change until every host concerned has reported it programmed. Both networks have to be
/// there, with endpoints on hosts whose agents run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate bench connect --from web --to db --count 200
  netstate bench connect --from web --to db --port 6000 -o json")]
pub(crate) struct Args {
    /// Network to connect from, by name or id
    #[arg(long)]
    from: String,
    /// Network to connect to
    #[arg(long)]
    to: String,
    /// How often
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// TCP port of the connections
    #[arg(long, default_value_t = 6000, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<(), Failure> {
    let bar = prepare::bar(session, "connections", args.count.into());
    let side = |network: &str| Some(pb::Side { network: network.to_owned(), selector: String::new() });
    let ports = vec![pb::PortRange { first: args.port.into(), last: args.port.into() }];
    let (mut call, mut connected, mut disconnected) = (Latency::new(), Latency::new(), Latency::new());
    let mut hosts = 0;
    for _ in 0..args.count {
        let request = pb::ConnectRequest {
            origin: session.origin(prepare::REASON),
            from: side(&args.from),
            to: side(&args.to),
            protocol: pb::Protocol::Tcp.into(),
            ports: ports.clone(),
            ..pb::ConnectRequest::default()
        };
        let began = Instant::now();
        let made = session.client.open_connection(request).await?;
        call.record(began.elapsed());
        let id = made.connection.unwrap_or_default().id;
        let in_force = in_force(session, &Awaited::connection(&id)).await;
        let request = pb::DisconnectRequest { origin: session.origin(prepare::REASON), connection: id.clone() };
        session.client.disconnect(request).await?;
        // Only now: whatever went wrong before, the connection is not left behind.
        let (took, concerned) = in_force?;
        connected.record(took);
        hosts = concerned;
        disconnected.record(self::in_force(session, &Awaited::connection(&id)).await?.0);
        bar.inc(1);
    }
    bar.finish_and_clear();
    session.console.answer(
        || {
            let mut value = connected.json();
            value["hosts"] = hosts.into();
            value["revoked"] = disconnected.json();
            value["round_trip"] = call.json();
            value
        },
        || {
            format!(
                "connect, call: {}\nacknowledged until in force on {hosts} hosts: {}\ndisconnect, the same: {}",
                call.text(),
                connected.text(),
                disconnected.text()
            )
        },
    )
}

/// How long until no host lacks it, and how many it concerns.
async fn in_force(session: &Session, awaited: &Awaited) -> Result<(Duration, usize), Failure> {
    let began = Instant::now();
    loop {
        let answer = converge::look(&session.client, awaited).await?;
        let waited = began.elapsed();
        if answer.hosts.is_empty() {
            let text = "no host is concerned: attach endpoints of both networks on hosts whose agents run";
            return Err(Failure::because(text));
        }
        if answer.pending == 0 {
            return Ok((waited, answer.hosts.len()));
        }
        if waited > session.patience() {
            let late = answer.hosts.iter().filter(|host| !host.programmed).map(|host| host.host.as_str());
            let late = late.collect::<Vec<_>>().join(", ");
            return Err(Failure::because(format!("not in force on {late} within {waited:.0?}; do their agents run?")));
        }
        time::sleep(LOOK).await;
    }
}
