//! `netstate bench fleet`: many hosts at once, with connections of their own.
//!
//! ```text
//! arrive: all at once, with nothing ─► change: connects and disconnects at a rate ─► return: all at once, with what they hold
//! ```
//!
//! Must hold: a delivery is counted from before the call that caused it, at whichever server that was, until the host has the
//! whole frame in its hands.

mod changes;
mod host;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use netstate_proto::v1 as pb;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{self, Instant},
};

use self::{changes::Changed, host::Tally};
use super::{
    latency::Latency,
    plan::{Plan, Wanted},
    prepare,
};
use crate::{console::talk, descriptors, failure::Failure, human, session::Session, values::Span};

/// Between looks at how many hosts are there.
const LOOK: Duration = Duration::from_millis(20);
/// After a phase, until the servers' memory is asked for and the next phase begins.
const SETTLE: Duration = Duration::from_secs(3);
/// Descriptors beside those of hosts' connections.
const DESCRIPTORS: u64 = 1024;

/// Have many hosts subscribe at once, change what concerns them, and have all of them come back
///
/// The cluster has to have been filled by `netstate bench load` with the same numbers, seed and prefix. Each host has a
/// connection of its own and the client that agents have; it acknowledges every frame and programs nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate bench load --prefix fleet --hosts 1000 --networks 1000 --endpoints 50000
  netstate bench fleet --prefix fleet --hosts 1000 --networks 1000 --endpoints 50000 --rate 200 --time 30s")]
pub(crate) struct Args {
    /// Hosts, as in the load
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    hosts: u32,
    /// Networks, as in the load
    #[arg(long, default_value_t = 1000)]
    networks: u32,
    /// Endpoints, as in the load
    #[arg(long, default_value_t = 50_000)]
    endpoints: u64,
    /// How names begin, as in the load
    #[arg(long, default_value = "fleet")]
    prefix: String,
    /// What the load was drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Connects and disconnects a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How long they go on
    #[arg(long, value_name = "SPAN", default_value = "20s")]
    time: Span,
    /// Hosts that each of them concerns, about
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=65_535))]
    concerned: u32,
}

/// A time in which all hosts came.
struct Arrival {
    latency: Latency,
    took: Duration,
    bytes: u64,
    lost: u64,
}

/// Everything that was measured.
struct Outcome {
    before: pb::ClusterStatusResponse,
    connected: pb::ClusterStatusResponse,
    arrived: Arrival,
    changed: Changed,
    returned: Arrival,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<(), Failure> {
    let wanted = Wanted {
        prefix: args.prefix.clone(),
        networks: args.networks,
        endpoints: args.endpoints,
        hosts: args.hosts,
        seed: args.seed,
        base: std::net::Ipv4Addr::UNSPECIFIED,
        base_len: 0,
    };
    let plan = Plan::new(&wanted).map_err(|error| Failure::usage(error.to_string()))?;
    room_for(u64::from(args.hosts))?;
    let before = session.client.cluster_status(pb::ClusterStatusRequest {}).await?;

    let (tally, rounds) = (Arc::new(Tally::default()), watch::Sender::new(()));
    let mut hosts = JoinSet::new();
    let began = Instant::now();
    for number in 0..args.hosts {
        let name = prepare::host_name(&args.prefix, number);
        hosts.spawn(host::live(session.another_client()?, name, rounds.subscribe(), tally.clone()));
    }
    let arrived = arrival(session, &args, &tally, began, "hosts arrive").await?;
    time::sleep(SETTLE).await;
    let connected = session.client.cluster_status(pb::ClusterStatusRequest {}).await?;

    let changed = changes::run(&args, session, &plan, &tally).await?;

    time::sleep(SETTLE).await;
    tally.complete.lock().clear();
    let began = Instant::now();
    rounds.send_replace(());
    let returned = arrival(session, &args, &tally, began, "hosts return").await?;
    drop(rounds);
    while hosts.join_next().await.is_some() {}
    let outcome = Outcome { before, connected, arrived, changed, returned };
    session.console.answer(|| outcome.json(&args), || outcome.text(&args, session))
}

/// Waits until all hosts have all of their scope.
async fn arrival(
    session: &Session,
    args: &Args,
    tally: &Tally,
    began: Instant,
    what: &'static str,
) -> Result<Arrival, Failure> {
    let (bytes, lost) = (tally.bytes.load(Ordering::Relaxed), tally.lost.load(Ordering::Relaxed));
    let bar = prepare::bar(session, what, args.hosts.into());
    loop {
        let there = tally.complete.lock().len();
        bar.set_position(there as u64);
        if there >= args.hosts as usize {
            break;
        }
        if began.elapsed() > session.patience() {
            return Err(Failure::because(format!(
                "{there} of {} hosts have their scope after {:.0?} (--timeout); were they loaded with the same \
                 numbers, seed and prefix?",
                args.hosts,
                began.elapsed()
            )));
        }
        time::sleep(LOOK).await;
    }
    bar.finish_and_clear();
    let mut latency = Latency::new();
    let mut took = Duration::ZERO;
    for at in tally.complete.lock().iter() {
        let after = at.saturating_duration_since(began.into_std());
        latency.record(after);
        took = took.max(after);
    }
    Ok(Arrival {
        latency,
        took,
        bytes: tally.bytes.load(Ordering::Relaxed) - bytes,
        lost: tally.lost.load(Ordering::Relaxed) - lost,
    })
}

/// Every host has a connection.
fn room_for(hosts: u64) -> Result<(), Failure> {
    let needed = hosts + DESCRIPTORS;
    match descriptors::raise() {
        Some(limit) if limit < needed => Err(Failure::because(format!(
            "{hosts} hosts need {needed} open files, and {limit} may be had; raise the hard limit (`ulimit -Hn`)"
        ))),
        _ => Ok(()),
    }
}

impl Arrival {
    fn json(&self, hosts: u32) -> Value {
        json!({
            "all_after_ms": self.took.as_secs_f64() * 1000.0,
            "latency": self.latency.json(),
            "bytes": self.bytes,
            "bytes_per_host": self.bytes / u64::from(hosts),
            "streams_lost": self.lost,
        })
    }

    fn text(&self, hosts: u32) -> String {
        let each = human::bytes(self.bytes / u64::from(hosts));
        let lost = match self.lost {
            0 => String::new(),
            lost => format!(", {} lost and opened again", human::things(lost, "stream")),
        };
        format!("all after {:.2} s, {}; {each} a host{lost}", self.took.as_secs_f64(), self.latency.text())
    }
}

impl Outcome {
    /// Each node without hosts and with them.
    fn nodes(&self) -> impl Iterator<Item = (&pb::NodeStatus, &pb::NodeStatus)> {
        prepare::nodes(&self.before, &self.connected)
    }

    fn json(&self, args: &Args) -> Value {
        let node = |(before, after): (&pb::NodeStatus, &pb::NodeStatus)| {
            json!({
                "name": after.name,
                "resident_bytes_before": before.resident_bytes,
                "resident_bytes_with_hosts": after.resident_bytes,
                "hosts": after.watching_hosts,
            })
        };
        json!({
            "hosts": args.hosts,
            "networks": args.networks,
            "endpoints": args.endpoints,
            "seed": args.seed,
            "arrive": self.arrived.json(args.hosts),
            "change": self.changed.json(),
            "return": self.returned.json(args.hosts),
            "nodes": self.nodes().map(node).collect::<Vec<_>>(),
        })
    }

    fn text(&self, args: &Args, session: &Session) -> String {
        let row = |(before, after): (&pb::NodeStatus, &pb::NodeStatus)| {
            let more = after.resident_bytes.saturating_sub(before.resident_bytes);
            vec![
                after.name.clone(),
                human::count(after.watching_hosts),
                human::bytes(before.resident_bytes),
                human::bytes(after.resident_bytes),
                human::bytes(more / after.watching_hosts.max(1)),
            ]
        };
        let header = ["node", "hosts", "memory before", "with hosts", "per host"];
        let nodes = session.console.table(&header, self.nodes().map(row).collect());
        talk(
            "per host: resident memory beyond what the server had before, while all are connected and nothing changes",
        );
        format!(
            "{} hosts arrive with nothing: {}\n{}\nthey return with what they hold: {}\n\n{nodes}",
            human::count(args.hosts.into()),
            self.arrived.text(args.hosts),
            self.changed.text(),
            self.returned.text(args.hosts),
        )
    }
}
