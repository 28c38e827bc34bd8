//! `netstate bench load`: fills a cluster with networks and endpoints.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use netstate_client::Client;
use netstate_proto::v1 as pb;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use super::{
    latency::Latency,
    plan::{Member, Plan, Wanted},
    prepare,
};
use crate::{console::talk, failure::Failure, human, session::Session, values::Span};

/// Parts of an application, each with a label of its own.
const TIERS: [&str; 3] = ["web", "worker", "store"];
/// Endpoints of one workload.
const REPLICAS: u64 = 4;
/// Networks, hosts and connections that are made at a time: each is a commit of its own to the one directory.
const DIRECTORY_CALLS: usize = 64;

/// Fill a cluster with networks and endpoints, and measure it
///
/// The sizes of networks follow Zipf's law: the n-th largest has a share in proportion to 1/n, so that most are small and a
/// few very large. Everything is drawn from the seed. Nothing is removed afterwards.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate bench load --networks 2000 --endpoints 200000
  netstate bench load --networks 50 --endpoints 10000 --hosts 20 --prefix second --range 11.0.0.0/8 -o json")]
pub(crate) struct Args {
    /// Networks to make
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    networks: u32,
    /// Endpoints to attach, in all
    #[arg(long, default_value_t = 200_000)]
    endpoints: u64,
    /// Hosts to register and attach them on
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    hosts: u32,
    /// Connections to make between two networks each
    #[arg(long, default_value_t = 0)]
    connections: u32,
    /// Endpoints in a call
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Calls under way at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    concurrency: u32,
    /// What sizes and places are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How names begin; another load into the same cluster needs another one
    #[arg(long, default_value = "load")]
    prefix: String,
    /// Range of IPv4 addresses that pools are cut from
    #[arg(long, value_name = "CIDR", default_value = "10.0.0.0/8", value_parser = range)]
    range: (Ipv4Addr, u32),
    /// How long the servers are left alone before their memory is measured
    #[arg(long, value_name = "SPAN", default_value = "5s")]
    settle: Span,
}

fn range(text: &str) -> Result<(Ipv4Addr, u32), String> {
    let parsed = text.split_once('/').and_then(|(base, len)| Some((base.parse().ok()?, len.parse().ok()?)));
    match parsed {
        Some((base, len @ 4..=28)) if u64::from(Ipv4Addr::to_bits(base)).is_multiple_of(1 << (32 - len)) => {
            Ok((base, len))
        }
        _ => Err("write a range such as 10.0.0.0/8, from /4 to /28".to_owned()),
    }
}

/// What a load came to.
struct Outcome {
    took: Duration,
    latency: Latency,
    directory: Latency,
    before: pb::ClusterStatusResponse,
    after: pb::ClusterStatusResponse,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<(), Failure> {
    let wanted = Wanted {
        prefix: args.prefix.clone(),
        networks: args.networks,
        endpoints: args.endpoints,
        hosts: args.hosts,
        seed: args.seed,
        base: args.range.0,
        base_len: args.range.1,
    };
    let plan = Arc::new(Plan::new(&wanted).map_err(|error| Failure::usage(error.to_string()))?);
    let clients: Vec<Client> = (0..args.concurrency).map(|_| session.another_client()).collect::<Result<_, _>>()?;
    let before = session.client.cluster_status(pb::ClusterStatusRequest {}).await?;
    let there = before.nodes.iter().map(|node| node.endpoints).max().unwrap_or(0);
    let directory = prepare(&args, &plan, &clients, session).await?;

    let batches = plan.batches(args.batch as usize, args.seed);
    let bar = prepare::bar(session, "endpoints", args.endpoints);
    let began = Instant::now();
    let calls = batches.into_iter().enumerate().map(|(at, batch)| {
        let client = clients[at % clients.len()].clone();
        attach(client, session.clone(), plan.clone(), args.prefix.clone(), batch, bar.clone())
    });
    let mut latency = Latency::new();
    let mut acknowledged = stream::iter(calls).buffer_unordered(args.concurrency as usize);
    while let Some(took) = acknowledged.try_next().await? {
        latency.record(took);
    }
    let took = began.elapsed();
    bar.finish_and_clear();

    prepare::settled(session, there + args.endpoints).await?;
    time::sleep(args.settle.get()).await;
    let after = prepare::settled(session, there + args.endpoints).await?;
    let outcome = Outcome { took, latency, directory, before, after };
    session.console.answer(|| outcome.json(&args), || outcome.text(&args, session))
}

/// Makes what endpoints need: hosts, networks, and the connections between them.
async fn prepare(args: &Args, plan: &Plan, clients: &[Client], session: &Session) -> Result<Latency, Failure> {
    let mut latency = Latency::new();
    let client = |at: usize| &clients[at % clients.len()];
    let total = u64::from(args.hosts) + u64::from(args.networks) + u64::from(args.connections);
    let bar = prepare::bar(session, "hosts and networks", total);
    let timed = async |call: std::pin::Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + '_>>| {
        let began = Instant::now();
        call.await?;
        bar.inc(1);
        Ok::<Duration, Failure>(began.elapsed())
    };
    let hosts = (0..args.hosts)
        .map(|number| timed(Box::pin(prepare::host(client(number as usize), session, &args.prefix, number))));
    let mut made = stream::iter(hosts).buffer_unordered(DIRECTORY_CALLS);
    while let Some(took) = made.try_next().await? {
        latency.record(took);
    }
    let networks = plan.networks.iter().enumerate().map(|(at, network)| {
        timed(Box::pin(prepare::network(client(at), session, &network.name, &network.pool, network.block_len)))
    });
    let mut made = stream::iter(networks).buffer_unordered(DIRECTORY_CALLS);
    while let Some(took) = made.try_next().await? {
        latency.record(took);
    }
    let mut random = SmallRng::seed_from_u64(args.seed);
    let connections: Vec<pb::ConnectRequest> =
        (0..args.connections).map(|number| connection(plan, number, &mut random, session)).collect();
    let connections = connections.into_iter().enumerate().map(|(at, request)| {
        let client = client(at);
        timed(Box::pin(async move { Ok(client.open_connection(request).await.map(drop)?) }))
    });
    let mut made = stream::iter(connections).buffer_unordered(DIRECTORY_CALLS);
    while let Some(took) = made.try_next().await? {
        latency.record(took);
    }
    bar.finish_and_clear();
    Ok(latency)
}

fn connection(plan: &Plan, number: u32, random: &mut SmallRng, session: &Session) -> pb::ConnectRequest {
    let mut side = || {
        let network = &plan.networks[random.random_range(0..plan.networks.len())];
        Some(pb::Side { network: network.name.clone(), selector: String::new() })
    };
    let port = 1024 + number % 60_000;
    pb::ConnectRequest {
        origin: session.origin(prepare::REASON),
        from: side(),
        to: side(),
        protocol: pb::Protocol::Tcp.into(),
        ports: vec![pb::PortRange { first: port, last: port }],
        ..pb::ConnectRequest::default()
    }
}

/// Two labels, as schedulers give them: the same for all endpoints of one part of one application.
fn labels(app: String, number: u64) -> HashMap<String, String> {
    let tier = TIERS[(number % TIERS.len() as u64) as usize];
    HashMap::from([("app".to_owned(), app), ("tier".to_owned(), tier.to_owned())])
}

/// One call. Whatever is refused ends the load: a figure over half of it would mean nothing.
async fn attach(
    client: Client,
    session: Session,
    plan: Arc<Plan>,
    prefix: String,
    batch: Vec<Member>,
    bar: ProgressBar,
) -> Result<Duration, Failure> {
    let count = batch.len() as u64;
    let item = |member: &Member| {
        let network = &plan.networks[member.network];
        let host = network.hosts[(member.number % network.hosts.len() as u64) as usize];
        pb::AttachItem {
            network: network.name.clone(),
            name: format!("pod-{}", member.number),
            host: prepare::host_name(&prefix, host),
            labels: labels(network.name.clone(), member.number),
            workload: format!("{}-{}", network.name, member.number / REPLICAS),
            ..pb::AttachItem::default()
        }
    };
    let origin = session.origin(prepare::REASON);
    let request = pb::AttachRequest { origin, endpoints: batch.iter().map(item).collect() };
    let began = Instant::now();
    let answer = client.attach(request).await?;
    let took = began.elapsed();
    if let Some((network, refusal)) =
        answer.results.iter().find_map(|result| Some((&result.network, result.refusal.as_ref()?)))
    {
        return Err(Failure::because(format!("{network}: {}", refusal.message)));
    }
    bar.inc(count);
    Ok(took)
}

impl Outcome {
    fn rate(&self, args: &Args) -> f64 {
        args.endpoints as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }

    /// Each node before and after.
    fn nodes(&self) -> impl Iterator<Item = (&pb::NodeStatus, &pb::NodeStatus)> {
        prepare::nodes(&self.before, &self.after)
    }

    fn json(&self, args: &Args) -> Value {
        let node = |(before, after): (&pb::NodeStatus, &pb::NodeStatus)| {
            json!({
                "name": after.name,
                "resident_bytes_before": before.resident_bytes,
                "resident_bytes_after": after.resident_bytes,
                "resident_bytes_per_endpoint": per_endpoint(before.resident_bytes, after.resident_bytes, args.endpoints),
                "disk_bytes_before": before.disk_bytes,
                "disk_bytes_after": after.disk_bytes,
            })
        };
        json!({
            "networks": args.networks,
            "endpoints": args.endpoints,
            "hosts": args.hosts,
            "connections": args.connections,
            "batch": args.batch,
            "concurrency": args.concurrency,
            "seed": args.seed,
            "took_micros": u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX),
            "endpoints_per_second": self.rate(args).round(),
            "attach_calls": self.latency.json(),
            "directory_calls": self.directory.json(),
            "nodes": self.nodes().map(node).collect::<Vec<_>>(),
        })
    }

    fn text(&self, args: &Args, session: &Session) -> String {
        let row = |(before, after): (&pb::NodeStatus, &pb::NodeStatus)| {
            let each = per_endpoint(before.resident_bytes, after.resident_bytes, args.endpoints);
            vec![
                after.name.clone(),
                human::bytes(before.resident_bytes),
                human::bytes(after.resident_bytes),
                format!("{each:.0} B"),
                human::bytes(before.disk_bytes),
                human::bytes(after.disk_bytes),
            ]
        };
        let header = ["node", "memory before", "memory after", "per endpoint", "disk before", "disk after"];
        let nodes = session.console.table(&header, self.nodes().map(row).collect());
        talk("per endpoint: resident memory beyond what the server had before");
        format!(
            "{} endpoints on {} networks and {} hosts in {:.2} s: {} endpoints/s acknowledged\n\
             attach ({} a call): {}\nhosts, networks, connections: {}\n\n{nodes}",
            human::count(args.endpoints),
            human::count(args.networks.into()),
            human::count(args.hosts.into()),
            self.took.as_secs_f64(),
            human::count(self.rate(args) as u64),
            args.batch,
            self.latency.text(),
            self.directory.text(),
        )
    }
}

fn per_endpoint(before: u64, after: u64, endpoints: u64) -> f64 {
    after.saturating_sub(before) as f64 / endpoints.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_from_their_beginning() {
        assert_eq!(range("10.0.0.0/8"), Ok((Ipv4Addr::new(10, 0, 0, 0), 8)));
        for bad in ["", "10.0.0.0", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/2", "fd00::/8"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
