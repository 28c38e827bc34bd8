//! `netstate bench attach`: one endpoint at a time.

use netstate_proto::v1 as pb;
use tokio::time::Instant;

use super::{latency::Latency, prepare};
use crate::{failure::Failure, session::Session};

/// Calls that are not counted: the first ones make connections.
const WARM_UP: u32 = 20;

/// Attach one endpoint after another, and measure each call
///
/// Makes a network and a host of its own if they are not there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate bench attach --count 1000
  netstate bench attach --count 200 --prefix second --pool 100.72.0.0/16 -o json")]
pub(crate) struct Args {
    /// Endpoints to attach
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    count: u32,
    /// How names begin; another run on the same cluster needs another one
    #[arg(long, default_value = "single")]
    prefix: String,
    /// Pool of the network, of which nothing else has a part
    #[arg(long, value_name = "CIDR", default_value = "100.64.0.0/16")]
    pool: String,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<(), Failure> {
    let network = format!("{}-net", args.prefix);
    prepare::network(&session.client, session, &network, &args.pool, 0).await?;
    prepare::host(&session.client, session, &args.prefix, 0).await?;
    let bar = prepare::bar(session, "endpoints", args.count.into());
    let mut latency = Latency::new();
    for number in 0..WARM_UP + args.count {
        let item = pb::AttachItem {
            network: network.clone(),
            name: format!("pod-{number}"),
            host: prepare::host_name(&args.prefix, 0),
            ..pb::AttachItem::default()
        };
        let request = pb::AttachRequest { origin: session.origin(prepare::REASON), endpoints: vec![item] };
        let began = Instant::now();
        let answer = session.client.attach(request).await?;
        let took = began.elapsed();
        if let Some(refusal) = answer.results.into_iter().find_map(|result| result.refusal) {
            return Err(Failure::because(refusal.message));
        }
        if number >= WARM_UP {
            latency.record(took);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    session.console.answer(|| latency.json(), || format!("one attach: {}", latency.text()))
}
