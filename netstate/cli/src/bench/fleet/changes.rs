//! Connects and disconnects at a rate, and when each of them came to each host.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use netstate_client::Client;
use netstate_proto::v1 as pb;
use parking_lot::Mutex;
use rand::{SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet, time};

use super::{
    Args,
    host::{Delivered, Tally},
};
use crate::{
    bench::{
        latency::Latency,
        plan::{Network, Plan},
        prepare,
    },
    failure::Failure,
    human,
    session::Session,
};

/// Calls under way at a time, each on one of a few connections.
const AT_ONCE: usize = 256;
const CLIENTS: usize = 16;
/// How long after the last change is waited for its deliveries.
const LAST: Duration = Duration::from_secs(3);
/// Networks may concern fewer or more hosts than wanted, by a quarter.
const NEARLY: f64 = 0.25;

/// What was caused when: a connection made, or removed.
type Caused = HashMap<(String, bool), Instant>;

/// What came of it.
pub(super) struct Changed {
    changes: u64,
    took: Duration,
    call: Latency,
    delivered: Latency,
    deliveries: u64,
    bytes: u64,
    frames: u64,
}

/// Pairs of networks that together concern about as many hosts as wanted.
fn pairs(plan: &Plan, concerned: u32) -> Vec<(&Network, &Network)> {
    let half = f64::from(concerned) / 2.0;
    let near = |network: &&Network| (network.hosts.len() as f64 / half - 1.0).abs() <= NEARLY;
    let near: Vec<_> = plan.networks.iter().filter(near).collect();
    near.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

pub(super) async fn run(args: &Args, session: &Session, plan: &Plan, tally: &Tally) -> Result<Changed, Failure> {
    let pairs: Vec<_> = pairs(plan, args.concerned);
    if pairs.is_empty() {
        let half = args.concerned / 2;
        return Err(Failure::usage(format!("no two networks are on about {half} hosts each; try another --concerned")));
    }
    let clients: Vec<Client> = (0..CLIENTS).map(|_| session.another_client()).collect::<Result<_, _>>()?;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let (caused, calls) = (Arc::new(Mutex::new(Caused::new())), Arc::new(Mutex::new(Latency::new())));
    let made = Arc::new(AtomicU64::new(0));
    tally.delivered.lock().clear();
    let (bytes, frames) = (tally.bytes.load(Ordering::Relaxed), tally.frames.load(Ordering::Relaxed));
    let total = (f64::from(args.rate) * args.time.get().as_secs_f64()) as u64;
    let bar = prepare::bar(session, "changes", total);
    let mut random = SmallRng::seed_from_u64(args.seed);
    let mut ticks = time::interval(Duration::from_secs(1) / args.rate);
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    // A connection is made and removed: two changes, one after the other.
    for number in 0..total / 2 {
        ticks.tick().await;
        ticks.tick().await;
        let Some((from, to)) = pairs.choose(&mut random) else { break };
        let request = connect(session, from, to, number);
        let client = clients[number as usize % clients.len()].clone();
        let place = places.clone().acquire_owned().await;
        let (session, caused, calls, made, bar) =
            (session.clone(), caused.clone(), calls.clone(), made.clone(), bar.clone());
        tasks.spawn(async move {
            let _place = place;
            let asked = Instant::now();
            let answer = client.open_connection(request).await?;
            calls.lock().record(asked.elapsed());
            let id = answer.connection.unwrap_or_default().id;
            caused.lock().insert((id.clone(), false), asked);
            let asked = Instant::now();
            let origin = session.origin(prepare::REASON);
            client.disconnect(pb::DisconnectRequest { origin, connection: id.clone() }).await?;
            calls.lock().record(asked.elapsed());
            caused.lock().insert((id, true), asked);
            made.fetch_add(2, Ordering::Relaxed);
            bar.inc(2);
            Ok::<_, Failure>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| Failure::because(error.to_string()))??;
    }
    let took = began.elapsed();
    bar.finish_and_clear();
    time::sleep(LAST).await;
    let delivered = std::mem::take(&mut *tally.delivered.lock());
    let (latency, deliveries) = joined(&caused.lock(), &delivered);
    let call = calls.lock().clone();
    Ok(Changed {
        changes: made.load(Ordering::Relaxed),
        took,
        call,
        delivered: latency,
        deliveries,
        bytes: tally.bytes.load(Ordering::Relaxed) - bytes,
        frames: tally.frames.load(Ordering::Relaxed) - frames,
    })
}

/// How long each delivery took. What is made and removed within one frame comes to nobody.
fn joined(caused: &Caused, delivered: &[Delivered]) -> (Latency, u64) {
    let (mut latency, mut count) = (Latency::new(), 0);
    for told in delivered {
        if let Some(asked) = caused.get(&(told.connection.clone(), told.gone)) {
            latency.record(told.at.saturating_duration_since(*asked));
            count += 1;
        }
    }
    (latency, count)
}

fn connect(session: &Session, from: &Network, to: &Network, number: u64) -> pb::ConnectRequest {
    let side = |network: &Network| Some(pb::Side { network: network.name.clone(), selector: String::new() });
    // Connections of the same networks that are there at the same time need other ports.
    let port = 1024 + (number % 60_000) as u32;
    pb::ConnectRequest {
        origin: session.origin(prepare::REASON),
        from: side(from),
        to: side(to),
        protocol: pb::Protocol::Tcp.into(),
        ports: vec![pb::PortRange { first: port, last: port }],
        ..pb::ConnectRequest::default()
    }
}

impl Changed {
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "changes": self.changes,
            "changes_per_second": self.per_second(self.changes).round(),
            "calls": self.call.json(),
            "deliveries": self.deliveries,
            "deliveries_per_second": self.per_second(self.deliveries).round(),
            "delivered": self.delivered.json(),
            "frames": self.frames,
            "bytes": self.bytes,
        })
    }

    pub(super) fn text(&self) -> String {
        let each = self.bytes as f64 / self.deliveries.max(1) as f64;
        format!(
            "{} changes, {} a second, in {:.1} s; call: {}\n\
             from before the call until delivered: {}\n\
             {} deliveries a second in {} frames; {each:.0} B a delivery",
            human::count(self.changes),
            human::count(self.per_second(self.changes) as u64),
            self.took.as_secs_f64(),
            self.call.text(),
            self.delivered.text(),
            human::count(self.per_second(self.deliveries) as u64),
            human::count(self.frames),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_concern_about_as_many_hosts_as_wanted() {
        let network = |name: &str, hosts: u32| Network {
            name: name.into(),
            pool: String::new(),
            block_len: 26,
            endpoints: 1,
            hosts: (0..hosts).collect(),
        };
        let plan = Plan { networks: vec![network("a", 24), network("b", 3), network("c", 26), network("d", 90)] };
        let found = pairs(&plan, 50);
        assert_eq!(found.iter().map(|(from, to)| (&*from.name, &*to.name)).collect::<Vec<_>>(), [("a", "c")]);
        assert!(pairs(&plan, 1000).is_empty());
    }

    #[test]
    fn deliveries_are_counted_from_their_cause() {
        let asked = Instant::now();
        let caused = Caused::from([(("c1".into(), false), asked)]);
        let told = |connection: &str, gone| Delivered {
            connection: connection.into(),
            gone,
            at: asked + Duration::from_millis(5),
        };
        let (latency, count) = joined(&caused, &[told("c1", false), told("c1", true), told("c2", false)]);
        assert_eq!(count, 1);
        assert!(latency.micros(1.0).abs_diff(5000) < 50);
    }
}
