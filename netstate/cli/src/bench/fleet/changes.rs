//! Endpoints that come and go, and when each of them came to each host.
//!
//! Must hold: a delivery is counted from before the call that caused it, at whichever server that was, until the host has the
//! whole frame in its hands.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet, time};

use super::{
    processes::Processes,
    system::{Place, System},
    tally::{Delivered, Tally},
};
use crate::{
    bench::{
        latency::Latency,
        plan::{Network, Plan},
    },
    failure::Failure,
    human,
};

/// Calls under way at a time, when they come at a rate, and when there are as many as can be.
const AT_ONCE: usize = 256;
const SATURATING: usize = 512;
/// Endpoints that are there before the first goes again, so that no host misses one because it was gone at once.
const ALIVE: usize = 64;
/// How long after the last change is waited for its deliveries.
const LAST: Duration = Duration::from_secs(3);
/// Networks may concern fewer or more hosts than wanted, by a quarter.
const NEARLY: f64 = 0.25;

/// What was caused when: an endpoint attached, or detached.
type Caused = HashMap<(u64, bool), Instant>;

/// How changes come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// So many a second.
    Rate(u32),
    /// As many as can be.
    Saturating,
}

/// Whom deliveries are counted for.
pub(super) type Counted = fn(u32) -> bool;

/// Every host.
pub(super) fn everybody(_: u32) -> bool {
    true
}

/// What came of it.
pub(super) struct Changed {
    changes: u64,
    took: Duration,
    call: Latency,
    delivered: Latency,
    deliveries: u64,
    /// As many as there would be if every host that is counted were told of every change.
    expected: u64,
    /// From the first change to the last delivery.
    delivering: Duration,
    /// What all hosts and servers used, if all hosts are counted.
    spent: Option<Spent>,
}

/// What all hosts got and all servers used.
struct Spent {
    bytes: u64,
    frames: u64,
    processor: Duration,
}

/// Pairs of networks that together concern about as many hosts as wanted; no network is in two of them.
pub(super) fn places(plan: &Plan, concerned: u32) -> Vec<Place> {
    let mut networks: Vec<&Network> = plan.networks.iter().collect();
    networks.sort_by_key(|network| network.hosts.len());
    let (mut places, mut low, mut high) = (Vec::new(), 0, networks.len().saturating_sub(1));
    // A small one and a large one, or two of the same size.
    while low < high {
        // Endpoints come to the larger one, whose pool has more room.
        let place = Place { network: networks[high].clone(), other: networks[low].clone() };
        match place.hosts().len() as f64 / f64::from(concerned) - 1.0 {
            off if off > NEARLY => high -= 1,
            off if off < -NEARLY => low += 1,
            _ => {
                places.push(place);
                (low, high) = (low + 1, high - 1);
            }
        }
    }
    places
}

/// Where changes come from.
pub(super) struct Changes<S> {
    pub(super) system: S,
    pub(super) places: Arc<Vec<Place>>,
    pub(super) tally: Arc<Tally>,
    pub(super) processes: Processes,
    /// Endpoints are numbered through the whole run.
    pub(super) next: AtomicU64,
}

/// Of one run.
struct Run<S> {
    system: S,
    places: Arc<Vec<Place>>,
    tally: Arc<Tally>,
    alive: Mutex<VecDeque<u64>>,
    caused: Mutex<Caused>,
    calls: Mutex<Latency>,
    expected: AtomicU64,
    /// How many hosts that are counted each place concerns.
    concerned: Vec<usize>,
    made: AtomicU64,
}

impl<S: System> Changes<S> {
    /// Makes changes until told to stop, waits for the last, and takes away what is left.
    pub(super) async fn run(
        &self,
        pace: Pace,
        counted: Counted,
        stop: impl Future<Output = ()>,
    ) -> Result<Changed, Failure> {
        let run = Arc::new(Run {
            system: self.system.clone(),
            places: self.places.clone(),
            tally: self.tally.clone(),
            alive: Mutex::default(),
            caused: Mutex::default(),
            calls: Mutex::new(Latency::new()),
            expected: AtomicU64::new(0),
            concerned: self
                .places
                .iter()
                .map(|place| place.hosts().into_iter().filter(|it| counted(*it)).count())
                .collect(),
            made: AtomicU64::new(0),
        });
        self.tally.take_delivered();
        let (frames, bytes) = self.tally.received();
        let processor = self.processes.used()?.processor;
        let at_once = match pace {
            Pace::Rate(_) => AT_ONCE,
            Pace::Saturating => SATURATING,
        };
        // Half of it for those that are there, half for those that are being attached.
        let room = self.places.iter().map(|place| place.network.room() / 2).min().unwrap_or_default();
        let room = room.max(1) * self.places.len();
        let calls = Arc::new(Semaphore::new(at_once.min(room)));
        let mut ticks = match pace {
            Pace::Rate(rate) => Some(time::interval(Duration::from_secs(1) / rate.max(1))),
            Pace::Saturating => None,
        };
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let next = async {
                if let Some(ticks) = &mut ticks {
                    ticks.tick().await;
                }
                calls.clone().acquire_owned().await
            };
            let place = tokio::select! {
                () = &mut stop => break,
                place = next => place.map_err(|error| Failure::because(error.to_string()))?,
            };
            let oldest = {
                let mut alive = run.alive.lock();
                if alive.len() >= ALIVE.min(room) { alive.pop_front() } else { None }
            };
            let (run, number) = (run.clone(), oldest.unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed)));
            tasks.spawn(async move {
                let _place = place;
                if oldest.is_some() { run.detach(number).await } else { run.attach(number).await }
            });
            while let Some(done) = tasks.try_join_next() {
                done.map_err(|error| Failure::because(error.to_string()))??;
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| Failure::because(error.to_string()))??;
        }
        let took = began.elapsed();
        time::sleep(LAST).await;
        let delivered = self.tally.take_delivered();
        let (frames_after, bytes_after) = self.tally.received();
        let processor = self.processes.used()?.processor.saturating_sub(processor);
        let (latency, deliveries, last) = joined(&run.caused.lock(), &delivered, counted);
        // A part of what all got and used is nobody's in particular.
        let whole = std::ptr::fn_addr_eq(counted, everybody as Counted);
        let spent = Spent { bytes: bytes_after - bytes, frames: frames_after - frames, processor };
        let (call, made) = (run.calls.lock().clone(), run.made.load(Ordering::Relaxed));
        let expected = run.expected.load(Ordering::Relaxed);
        let left = std::mem::take(&mut *run.alive.lock());
        for number in left {
            run.detach(number).await?;
        }
        Ok(Changed {
            changes: made,
            took,
            call,
            delivered: latency,
            deliveries,
            expected,
            delivering: last.map_or(took, |last| last.saturating_duration_since(began)),
            spent: whole.then_some(spent),
        })
    }
}

impl<S: System> Run<S> {
    /// Which place an endpoint comes to.
    fn at(&self, number: u64) -> usize {
        (number % self.places.len() as u64) as usize
    }

    fn place(&self, number: u64) -> &Place {
        &self.places[self.at(number)]
    }

    async fn attach(&self, number: u64) -> Result<(), Failure> {
        let asked = Instant::now();
        let id = self.system.attach(self.place(number), number).await?;
        self.made(number, &id, false, asked);
        self.alive.lock().push_back(number);
        Ok(())
    }

    async fn detach(&self, number: u64) -> Result<(), Failure> {
        let asked = Instant::now();
        let id = self.system.detach(self.place(number), number).await?;
        self.made(number, &id, true, asked);
        Ok(())
    }

    fn made(&self, number: u64, id: &str, gone: bool, asked: Instant) {
        self.calls.lock().record(asked.elapsed());
        self.caused.lock().insert((self.tally.key(id.as_bytes()), gone), asked);
        self.expected.fetch_add(self.concerned[self.at(number)] as u64, Ordering::Relaxed);
        self.made.fetch_add(1, Ordering::Relaxed);
    }
}

/// How long each delivery took, how many there were, and when the last was.
fn joined(caused: &Caused, delivered: &[Delivered], counted: Counted) -> (Latency, u64, Option<Instant>) {
    let (mut latency, mut count, mut last) = (Latency::new(), 0, None);
    for told in delivered.iter().filter(|told| counted(told.host)) {
        if let Some(asked) = caused.get(&(told.endpoint, told.gone)) {
            latency.record(told.at.saturating_duration_since(*asked));
            count += 1;
            last = last.max(Some(told.at));
        }
    }
    (latency, count, last)
}

impl Changed {
    fn changes_per_second(&self) -> f64 {
        self.changes as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }

    fn deliveries_per_second(&self) -> f64 {
        self.deliveries as f64 / self.delivering.as_secs_f64().max(f64::EPSILON)
    }

    fn per_delivery(&self, amount: impl Fn(&Spent) -> f64) -> Option<f64> {
        self.spent.as_ref().map(|spent| amount(spent) / self.deliveries.max(1) as f64)
    }

    fn bytes_per_delivery(&self) -> Option<f64> {
        self.per_delivery(|spent| spent.bytes as f64)
    }

    fn micros_per_delivery(&self) -> Option<f64> {
        self.per_delivery(|spent| spent.processor.as_secs_f64() * 1e6)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "changes": self.changes,
            "changes_per_second": self.changes_per_second().round(),
            "calls": self.call.json(),
            "deliveries": self.deliveries,
            "deliveries_if_each_host_were_told_of_each_change": self.expected,
            "deliveries_per_second": self.deliveries_per_second().round(),
            "delivered": self.delivered.json(),
            "delivered_curve": self.delivered.curve(),
            "frames": self.spent.as_ref().map(|spent| spent.frames),
            "bytes": self.spent.as_ref().map(|spent| spent.bytes),
            "bytes_per_delivery": self.bytes_per_delivery(),
            "server_micros_per_delivery": self.micros_per_delivery(),
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{} changes, {} a second, in {:.1} s; call: {}\n\
             from before the call until delivered: {}\n\
             {} deliveries a second, {:.1} % of all",
            human::count(self.changes),
            human::count(self.changes_per_second() as u64),
            self.took.as_secs_f64(),
            self.call.text(),
            self.delivered.text(),
            human::count(self.deliveries_per_second() as u64),
            self.deliveries as f64 / self.expected.max(1) as f64 * 100.0,
        );
        if let (Some(spent), Some(bytes)) = (&self.spent, self.bytes_per_delivery()) {
            let _ = write!(text, ", in {} frames; {bytes:.0} B", human::count(spent.frames));
            if !spent.processor.is_zero() {
                let _ = write!(text, ", {:.1} µs of the servers", self.micros_per_delivery().unwrap_or_default());
            }
            text += " a delivery";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_concern_about_as_many_hosts_as_wanted() {
        let network = |name: &str, hosts: u32| Network {
            name: name.into(),
            pool: String::new(),
            block_len: 26,
            endpoints: 1,
            hosts: (0..hosts).collect(),
        };
        let plan = Plan { networks: vec![network("a", 24), network("b", 3), network("c", 26), network("d", 90)] };
        let found = places(&plan, 26);
        let names: Vec<_> = found.iter().map(|place| (&*place.network.name, &*place.other.name)).collect();
        assert_eq!(names, [("c", "b")], "they share hosts, each of which is counted once");
        assert!(places(&plan, 1000).is_empty());
    }

    #[test]
    fn deliveries_are_counted_from_their_cause() {
        let asked = Instant::now();
        let caused = Caused::from([((1, false), asked)]);
        let told = |endpoint, gone, host| Delivered { endpoint, gone, host, at: asked + Duration::from_millis(5) };
        let delivered = [told(1, false, 0), told(1, true, 0), told(2, false, 0), told(1, false, 7)];
        let (latency, count, last) = joined(&caused, &delivered, |host| host < 5);
        assert_eq!((count, last), (1, Some(asked + Duration::from_millis(5))));
        assert!(latency.micros(1.0).abs_diff(5000) < 50);
    }
}
