//! Which relay a host's watch is with: found by asking, changed when there are others with fewer hosts.
//!
//! Must hold: hosts don't all do the same at once, and no list of relays is worth more than a stream that works: the watch
//! opens the next one first. Where no relay is to be reached, the servers that the client was made with serve as well.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use netstate_proto::v1::{FindRelaysRequest, Relay, hosts_client::HostsClient};
use rand::{RngExt as _, seq::SliceRandom as _};
use tokio::time::{self, Instant};

use crate::{
    Client,
    connect::{self, Server},
};

/// Hosts are spread evenly enough if no relay has this part more or less than the relays have on average, beyond a few.
const UNEVEN_PART: u64 = 4;
const UNEVEN_HOSTS: u64 = 16;

/// The relays that one watch knows.
pub(crate) struct Relays {
    /// Their addresses, in an order of this host's own. Empty: none, or none that is to be reached.
    known: Vec<String>,
    /// The one that the watch is with, or will be.
    at: usize,
    /// Attempts that failed since the last that did not.
    failed: usize,
    /// The relay that the watch is with was not listed when it was looked last.
    missed: bool,
    look_at: Instant,
    looking: Option<Looking>,
}

type Looking = Pin<Box<dyn Future<Output = Option<Found>> + Send>>;

/// What a look came to.
struct Found {
    relays: Vec<String>,
    /// The relay that the watch is with, if it is with one.
    here: Option<usize>,
    /// The relay to go to.
    to: Option<usize>,
}

impl Relays {
    /// Knows none. Watches that begin together look at different times.
    pub(crate) fn none_yet(every: Duration) -> Self {
        let look_at = Instant::now() + every.mul_f64(rand::rng().random_range(0.0..1.0));
        Relays { known: Vec::new(), at: 0, failed: 0, missed: false, look_at, looking: None }
    }

    /// The relay to open a stream at, if there is one.
    pub(crate) fn preferred(&self) -> Option<Server> {
        // What servers told that can't be an address is as good as one that does not answer.
        self.known.get(self.at).and_then(|address| connect::server(address.clone()).ok())
    }

    /// The stream was lost or could not be opened: the next relay, and once all have failed, none.
    pub(crate) fn failed(&mut self) {
        self.looking = None;
        self.failed += 1;
        if self.failed >= self.known.len() {
            self.known.clear();
        } else {
            self.at = (self.at + 1) % self.known.len();
        }
    }

    /// The watch stays with this server, because the preferred relay did not take it.
    pub(crate) fn stays_with(&mut self, server: &Server) {
        match self.known.iter().position(|address| *address == server.address) {
            Some(at) => self.at = at,
            None => self.known.clear(),
        }
    }

    /// A stream has been opened.
    pub(crate) fn answered(&mut self) {
        self.failed = 0;
    }

    /// Looks for relays from time to time, and returns when the watch had better be with the preferred one than with `current`.
    ///
    /// Cancel safe: dropped before it is done, it goes on where it was.
    pub(crate) async fn another(&mut self, client: &Client, current: &str) {
        loop {
            let looking = match &mut self.looking {
                Some(looking) => looking,
                None => {
                    time::sleep_until(self.look_at).await;
                    self.looking.insert(Box::pin(look(client.clone(), current.to_owned())))
                }
            };
            let found = looking.await;
            self.looking = None;
            let every = client.options().find_relays_every;
            self.look_at = Instant::now() + every.mul_f64(rand::rng().random_range(0.5..1.5));
            if found.is_some_and(|found| self.take(found, current)) {
                return;
            }
        }
    }

    /// Takes note of what was found, and whether the watch has to move.
    fn take(&mut self, found: Found, current: &str) -> bool {
        // A server that is cut off lists only the relays that it reaches itself, so one look is not enough.
        let unlisted = found.here.is_none() && self.known.iter().any(|address| address == current);
        self.missed = unlisted && !self.missed;
        let at = found.to.or(found.here);
        match at {
            Some(at) if !self.missed => (self.known, self.at, self.failed) = (found.relays, at, 0),
            _ => return false,
        }
        found.to.is_some()
    }
}

impl fmt::Debug for Relays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relays").field("known", &self.known).field("at", &self.at).finish_non_exhaustive()
    }
}

/// Asks which relays there are. `None`: nothing to be learned, so all stays as it is.
async fn look(client: Client, current: String) -> Option<Found> {
    let answer = client.find_relays(FindRelaysRequest {}).await.ok()?;
    let mut relays = answer.relays;
    relays.shuffle(&mut rand::rng());
    let here = relays.iter().position(|relay| relay.address == current);
    if here.is_some() {
        // Asked once in a while only; until then servers need not keep a connection.
        client.close_idle();
    }
    let to = choose(&relays, here, || rand::rng().random_range(0.0..1.0));
    if let Some(to) = to {
        // What a relay is called among servers may be something else from here.
        let mut hosts = HostsClient::new(connect::server(relays[to].address.clone()).ok()?.channel());
        let asked = time::timeout(client.options().attempt, hosts.find_relays(FindRelaysRequest {}));
        let same = asked.await.ok()?.ok()?.into_inner().cluster_id == answer.cluster_id;
        same.then_some(())?;
    }
    Some(Found { relays: relays.into_iter().map(|relay| relay.address).collect(), here, to })
}

/// Which relay to go to. `None`: to stay is as good. `draw` gives numbers from 0 to below 1.
///
/// Where hosts are spread unevenly, as many leave a relay as it has more than the average, each by chance, for relays that have
/// less. Each takes the better of two, so that not all go to the one with the fewest (Mitzenmacher, "The Power of Two Choices in
/// Randomized Load Balancing").
fn choose(relays: &[Relay], here: Option<usize>, mut draw: impl FnMut() -> f64) -> Option<usize> {
    let average = relays.iter().map(|relay| relay.hosts).sum::<u64>() / (relays.len() as u64).max(1);
    let mut to: Vec<_> = (0..relays.len()).collect();
    if let Some(here) = here {
        let tolerated = average / UNEVEN_PART + UNEVEN_HOSTS;
        let hosts = relays[here].hosts;
        let fewest = relays.iter().map(|relay| relay.hosts).min().unwrap_or_default();
        let even = hosts <= average + tolerated && fewest + tolerated >= average;
        let surplus = hosts.saturating_sub(average);
        if even || surplus == 0 || draw() >= surplus as f64 / hosts as f64 {
            return None;
        }
        to.retain(|at| relays[*at].hosts < average);
    }
    let mut drawn = || to.get((draw() * to.len() as f64) as usize).copied();
    [drawn(), drawn()].into_iter().flatten().min_by_key(|at| relays[*at].hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relays(hosts: &[u64]) -> Vec<Relay> {
        let relay = |(at, hosts): (usize, &u64)| Relay { address: format!("r{at}:1"), hosts: *hosts };
        hosts.iter().enumerate().map(relay).collect()
    }

    #[test]
    fn who_is_with_no_relay_goes_to_the_better_of_two() {
        let mut draws = [0.1, 0.5].into_iter();
        assert_eq!(choose(&relays(&[9, 4, 0]), None, || draws.next().unwrap()), Some(1));
        assert_eq!(choose(&relays(&[9]), None, || 0.99), Some(0));
        assert_eq!(choose(&[], None, || 0.0), None);
    }

    #[test]
    fn who_is_with_a_relay_stays_unless_hosts_are_spread_unevenly() {
        let goes = |hosts: &[u64], here, draw| choose(&relays(hosts), Some(here), || draw);
        assert_eq!(goes(&[100, 90], 0, 0.0), None);
        assert_eq!(goes(&[10, 0], 0, 0.0), None, "few are no matter");
        assert_eq!(goes(&[1000, 0], 1, 0.0), None);
        assert_eq!(goes(&[1000, 0], 0, 0.49), Some(1), "half of them go");
        assert_eq!(goes(&[1000, 0], 0, 0.51), None);
        assert_eq!(goes(&[0], 0, 0.0), None);
    }

    /// However many relays there are, one that is new, or comes back, gets its share, and then nobody moves any more.
    #[test]
    fn hosts_spread_over_relays() {
        let mut seed = 1_u64;
        let mut draw = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 11) as f64 / (1_u64 << 53) as f64
        };
        for before in [vec![1000, 0], vec![900, 900, 900, 900, 900, 0], vec![2000; 5], vec![500, 0, 0, 500, 2000]] {
            let (mut hosts, mut moves) = (before.clone(), u64::MAX);
            for _ in 0..20 {
                let known = relays(&hosts);
                moves = 0;
                for here in 0..hosts.len() {
                    for _ in 0..known[here].hosts {
                        if let Some(to) = choose(&known, Some(here), &mut draw) {
                            (hosts[here], hosts[to], moves) = (hosts[here] - 1, hosts[to] + 1, moves + 1);
                        }
                    }
                }
            }
            let average = hosts.iter().sum::<u64>() / hosts.len() as u64;
            let near = |hosts: &u64| hosts.abs_diff(average) <= average / UNEVEN_PART + UNEVEN_HOSTS;
            assert!(moves == 0 && hosts.iter().all(near), "{before:?} became {hosts:?}, {moves} moves at last");
        }
    }

    #[tokio::test]
    async fn relays_that_fail_one_after_the_other_are_known_no_more() {
        let mut known = Relays::none_yet(Duration::from_secs(3600));
        assert!(known.preferred().is_none());
        known.failed();
        (known.known, known.at) = (vec!["a:1".into(), "b:1".into()], 1);
        known.answered();
        assert_eq!(known.preferred().unwrap().address, "b:1");
        known.failed();
        assert_eq!(known.preferred().unwrap().address, "a:1");
        known.answered();
        known.failed();
        assert_eq!(known.preferred().unwrap().address, "b:1", "the other one answered since");
        known.failed();
        assert!(known.preferred().is_none());
    }

    #[tokio::test]
    async fn a_relay_is_left_for_not_being_listed_at_the_second_look() {
        let mut known = Relays::none_yet(Duration::from_secs(3600));
        let found = |here, to| Found { relays: vec!["a:1".into(), "b:1".into()], here, to };
        assert!(known.take(found(None, Some(0)), "n1:1"), "that one is no relay");
        assert!(!known.take(found(Some(0), None), "a:1"));
        let other = || Found { relays: vec!["c:1".into()], here: None, to: Some(0) };
        assert!(!known.take(other(), "a:1"));
        assert!(!known.take(found(Some(0), None), "a:1"), "it is back");
        assert!(!known.take(other(), "a:1"));
        assert!(known.take(other(), "a:1"));
        assert_eq!(known.preferred().unwrap().address, "c:1");
    }
}
