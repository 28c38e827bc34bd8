//! `netstate bench fleet`: many hosts at once, with connections of their own.
//!
//! ```text
//! arrive ─► change at a fifth of a rate, and at the rate ─► saturate
//!        ─► return (missed nothing, a hundredth, everything) ─► read slowly ─► lose a server
//! ```
//!
//! Must hold: what is measured of this store and of etcd is the same: the plan, the hosts, who is concerned by what.

mod changes;
mod etcd;
mod netstate;
mod outcome;
mod processes;
mod system;
mod tally;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    runtime::Runtime,
    sync::{Notify, watch},
    task::JoinSet,
    time,
};

use self::{
    changes::{Changes, Pace},
    etcd::Etcd,
    netstate::Netstate,
    outcome::{Arrival, Outcome, Return, Slow},
    processes::Processes,
    system::System,
    tally::{Order, Tally},
};
use super::{
    latency::Latency,
    plan::{Plan, Wanted},
    prepare,
};
use crate::{descriptors, failure::Failure, session::Session, values::Span};

/// Between looks at how many hosts are there.
const LOOK: Duration = Duration::from_millis(20);
/// After a phase, until the servers' memory is looked at and the next phase begins.
const SETTLE: Duration = Duration::from_secs(3);
/// Longer, where an allocator has to give back what a storm took.
const SETTLE_LONG: Duration = Duration::from_secs(15);
/// Descriptors beside those of hosts' connections.
const DESCRIPTORS: u64 = 1024;
/// Without another host that notices for so long, all have noticed that their server died.
const NOTICED: Duration = Duration::from_millis(300);
/// One host of so many stays when the others leave and come back.
const STAYS: u32 = 20;
/// One host of so many reads slowly, when some do.
const SLOW: u32 = 10;
/// Bytes a second that they read then.
const SLOW_PACE: u64 = 1024;
/// At first as many changes a second as this part of those that were asked for.
const CALM: u32 = 5;
/// Threads of those that leave and come back.
const STORM_THREADS: usize = 1;
/// Changes a second while hosts come back, and while some read slowly: fewer than the servers can do, so that what is seen
/// is what the others do to it.
const STORM_RATE: u32 = 50;
/// Of a hundred endpoints, those that change while hosts are away.
const MISSED: u64 = 100;

/// Have many hosts subscribe at once, change what concerns them, and have all of them come back
///
/// The cluster has to have been filled by `netstate bench load` with the same numbers, seed and prefix; an etcd is filled here.
/// Each host has a connection of its own and the client that agents have; it acknowledges every frame and programs nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate bench load --prefix fleet --hosts 1000 --networks 1000 --endpoints 50000
  netstate bench fleet --prefix fleet --hosts 1000 --networks 1000 --endpoints 50000 --rate 200 --time 30s
  netstate bench fleet --etcd 127.0.0.1:22379 --hosts 1000 --networks 1000 --endpoints 50000 -o json")]
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
    /// Endpoints attached and detached a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How long they go on
    #[arg(long, value_name = "SPAN", default_value = "20s")]
    time: Span,
    /// Hosts that each of them concerns, about
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=65_535))]
    concerned: u32,
    /// How long as many are attached and detached as can be
    #[arg(long, value_name = "SPAN", default_value = "10s")]
    saturate: Span,
    /// Don't attach and detach as many as can be
    #[arg(long)]
    no_saturate: bool,
    /// Don't have hosts leave and come back
    #[arg(long)]
    no_return: bool,
    /// Have a tenth of the hosts come back with nothing and read 1 KiB a second
    #[arg(long)]
    slow: bool,
    /// The servers' process ids on this machine, to tell what they use
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    pids: Vec<u32>,
    /// At last end the last of these processes, as kill -9 does
    #[arg(long, requires = "pids")]
    kill: bool,
    /// Measure this etcd instead, as host:port of its members
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    etcd: Vec<String>,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<(), Failure> {
    let wanted = Wanted {
        prefix: args.prefix.clone(),
        networks: args.networks,
        endpoints: args.endpoints,
        hosts: args.hosts,
        seed: args.seed,
        base: std::net::Ipv4Addr::new(10, 0, 0, 0),
        base_len: 8,
    };
    let plan = Arc::new(Plan::new(&wanted).map_err(|error| Failure::usage(error.to_string()))?);
    room_for(u64::from(args.hosts))?;
    if args.etcd.is_empty() {
        let system = Netstate::new(session, &args.prefix, plan.clone())?;
        measure(&args, session, system, &plan).await
    } else {
        let system = Etcd::new(&args.etcd, &args.prefix, args.hosts, plan.clone())?;
        measure(&args, session, system, &plan).await
    }
}

async fn measure<S: System>(args: &Args, session: &Session, system: S, plan: &Plan) -> Result<(), Failure> {
    let places = changes::places(plan, args.concerned);
    if places.is_empty() {
        let half = args.concerned / 2;
        return Err(Failure::usage(format!("no two networks are on about {half} hosts each; try another --concerned")));
    }
    let processes = Processes::new(&args.pids)?;
    system.prepare(&places).await?;
    time::sleep(SETTLE_LONG).await;
    let mut fleet = Fleet::gather(args, session, system, places, processes)?;
    let outcome = fleet.run().await?;
    session.console.answer(|| outcome.json(args), || outcome.text(args))
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

/// All hosts, and what they are measured by.
struct Fleet<'a, S> {
    args: &'a Args,
    session: &'a Session,
    changes: Changes<S>,
    /// To those that leave and come back, to those that stay, and to those that read slowly at last.
    moving: watch::Sender<Order>,
    staying: watch::Sender<Order>,
    slow: watch::Sender<Order>,
    hosts: JoinSet<()>,
    /// Threads for those that leave and come back: what they do at once is not to keep the others from being heard.
    storm: Option<Runtime>,
}

impl<S> Drop for Fleet<'_, S> {
    fn drop(&mut self) {
        // Waiting for its threads is not possible here, and not needed.
        if let Some(storm) = self.storm.take() {
            storm.shutdown_background();
        }
    }
}

fn stays(host: u32) -> bool {
    host.is_multiple_of(STAYS)
}

fn is_slow(host: u32) -> bool {
    host % SLOW == 1
}

impl<'a, S: System> Fleet<'a, S> {
    fn gather(
        args: &'a Args,
        session: &'a Session,
        system: S,
        places: Vec<system::Place>,
        processes: Processes,
    ) -> Result<Self, Failure> {
        let order = || watch::Sender::new(Order::Stay);
        let (places, tally, next) = (Arc::new(places), Arc::new(Tally::default()), AtomicU64::new(0));
        let changes = Changes { system, places, tally, processes, next };
        let storm = tokio::runtime::Builder::new_multi_thread().worker_threads(STORM_THREADS).enable_all().build();
        let storm = Some(storm.map_err(|error| Failure::because(format!("no threads to be had: {error}")))?);
        let (moving, staying, slow) = (order(), order(), order());
        Ok(Fleet { args, session, changes, moving, staying, slow, hosts: JoinSet::new(), storm })
    }

    fn tally(&self) -> &Arc<Tally> {
        &self.changes.tally
    }

    async fn run(&mut self) -> Result<Outcome, Failure> {
        let empty = self.changes.processes.used()?;
        let began = Instant::now();
        for host in 0..self.args.hosts {
            let orders = match host {
                host if stays(host) => &self.staying,
                host if is_slow(host) => &self.slow,
                _ => &self.moving,
            };
            let life = self.changes.system.live(host, orders.subscribe(), self.tally().clone());
            match &self.storm {
                Some(storm) if !stays(host) => self.hosts.spawn_on(life, storm.handle()),
                _ => self.hosts.spawn(life),
            };
        }
        let arrived = self.arrival(began, "hosts arrive").await?;
        time::sleep(SETTLE_LONG).await;
        let idle = self.changes.processes.used()?;
        let calm = self.change(Pace::Rate((self.args.rate / CALM).max(1)), self.args.time).await?;
        let changed = self.change(Pace::Rate(self.args.rate), self.args.time).await?;
        let mut saturated = None;
        if !self.args.no_saturate {
            saturated = Some(self.change(Pace::Saturating, self.args.saturate).await?);
        }
        let mut returns = Vec::new();
        if !self.args.no_return {
            returns.push(("nothing", self.come_back(0, false).await?));
            returns.push(("a hundredth", self.come_back(self.args.endpoints / MISSED, false).await?));
            returns.push(("everything", self.come_back(0, true).await?));
        }
        let slow = if self.args.slow { Some(self.read_slowly().await?) } else { None };
        let killed = if self.args.kill { Some(self.lose_a_server().await?) } else { None };
        self.hosts.shutdown().await;
        Ok(Outcome { empty, idle, arrived, calm, changed, saturated, returns, slow, killed })
    }

    async fn change(&self, pace: Pace, time: Span) -> Result<changes::Changed, Failure> {
        let bar = prepare::bar(self.session, "changes", time.get().as_secs());
        let stop = async {
            for _ in 0..time.get().as_secs() {
                time::sleep(Duration::from_secs(1)).await;
                bar.inc(1);
            }
        };
        let changed = self.changes.run(pace, changes::everybody, stop).await;
        bar.finish_and_clear();
        changed
    }

    fn order_to_leave(&self, order: Order) {
        for orders in [&self.moving, &self.slow] {
            orders.send_replace(order);
        }
    }

    /// All but a few leave; so many endpoints change; they come back, while the few are told of changes.
    async fn come_back(&self, missed: u64, with_nothing: bool) -> Result<Return, Failure> {
        time::sleep(SETTLE_LONG).await;
        self.order_to_leave(Order::Leave);
        self.until("hosts leave", |tally| tally.whole.load(Ordering::Relaxed) <= u64::from(self.staying())).await?;
        time::sleep(SETTLE).await;
        self.changes.system.churn(missed).await?;
        self.tally().complete.lock().clear();
        self.changes.processes.forget_peaks();
        let before = self.changes.processes.used()?;
        let all_there = Notify::new();
        let arrival = async {
            // A moment of changes alone, so that they are under way.
            time::sleep(SETTLE).await;
            let began = Instant::now();
            self.order_to_leave(Order::Come { with_nothing });
            let arrived = self.arrival(began, "hosts return").await;
            all_there.notify_one();
            arrived
        };
        let changes = self.changes.run(Pace::Rate(STORM_RATE), stays, all_there.notified());
        let (arrival, meanwhile) = tokio::join!(arrival, changes);
        Ok(Return { arrival: arrival?, meanwhile: meanwhile?, before, after: self.changes.processes.used()? })
    }

    /// Some come with nothing and read slowly; once they do, the others are told of changes as before.
    async fn read_slowly(&self) -> Result<Slow, Failure> {
        time::sleep(SETTLE).await;
        let fast = |host| !is_slow(host);
        let stop = || time::sleep(self.args.time.get());
        let alone = self.changes.run(Pace::Rate(STORM_RATE), fast, stop()).await?;
        self.changes.processes.forget_peaks();
        let before = self.changes.processes.used()?;
        self.slow.send_replace(Order::Crawl(SLOW_PACE));
        time::sleep(SETTLE).await;
        let beside = self.changes.run(Pace::Rate(STORM_RATE), fast, stop()).await?;
        let after = self.changes.processes.used()?;
        self.slow.send_replace(Order::Stay);
        self.arrival(Instant::now(), "slow hosts catch up").await?;
        Ok(Slow { alone, beside, before, after })
    }

    /// The last server is killed; its hosts find others.
    async fn lose_a_server(&mut self) -> Result<Arrival, Failure> {
        time::sleep(SETTLE_LONG).await;
        self.tally().complete.lock().clear();
        let began = Instant::now();
        self.changes.processes.kill_last()?;
        // Every host that was there notices soon, since the kernel closes its connection.
        let dropped = || self.tally().dropped.load(Ordering::Relaxed);
        let (before, mut last) = (dropped(), u64::MAX);
        while dropped() == before || dropped() != last {
            last = dropped();
            time::sleep(NOTICED).await;
        }
        self.arrival(began, "hosts find other servers").await
    }

    fn staying(&self) -> u32 {
        self.args.hosts.div_ceil(STAYS)
    }

    /// Waits for something that all hosts together do.
    async fn until(&self, what: &str, reached: impl Fn(&Tally) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + self.session.patience();
        while !reached(self.tally()) {
            if Instant::now() > deadline {
                let there = self.tally().whole.load(Ordering::Relaxed);
                return Err(Failure::because(format!("waited in vain (--timeout): {what}; {there} hosts are there")));
            }
            time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until all hosts have all of their scope.
    async fn arrival(&self, began: Instant, what: &'static str) -> Result<Arrival, Failure> {
        let (tally, hosts) = (self.tally(), u64::from(self.args.hosts));
        let (_, bytes) = tally.received();
        let lost = tally.lost.load(Ordering::Relaxed);
        let processor = self.changes.processes.used()?.processor;
        let bar = prepare::bar(self.session, what, hosts);
        loop {
            let there = tally.whole.load(Ordering::Relaxed);
            bar.set_position(there);
            if there >= hosts {
                break;
            }
            if began.elapsed() > self.session.patience() {
                return Err(Failure::because(format!(
                    "{there} of {hosts} hosts have their scope after {:.0?} (--timeout); were they loaded with the \
                     same numbers, seed and prefix?",
                    began.elapsed()
                )));
            }
            time::sleep(LOOK).await;
        }
        bar.finish_and_clear();
        let mut latency = Latency::new();
        let mut took = Duration::ZERO;
        for at in tally.complete.lock().iter() {
            let after = at.saturating_duration_since(began);
            latency.record(after);
            took = took.max(after);
        }
        Ok(Arrival {
            latency,
            took,
            bytes: tally.received().1 - bytes,
            lost: tally.lost.load(Ordering::Relaxed) - lost,
            processor: self.changes.processes.used()?.processor.saturating_sub(processor),
        })
    }
}
