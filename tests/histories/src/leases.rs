//! Leases that must live, because somebody keeps them alive, and one that must end, because nobody does.
//!
//! Must hold: the end of a lease that is kept alive is never recorded as possible, so that a store that ends one all the
//! same has written a revision that nothing explains.
//!
//! Left to others: leases of the ordinary load, which come and go (see `client`).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etcd_proto::etcdserverpb as pb;
use pb::lease_client::LeaseClient;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::guest::Guest;
use crate::history::{Found, LeaseId};
use crate::load::Load;

/// How long one try to keep a lease alive may take.
const TRY: Duration = Duration::from_millis(400);
/// Tries in the time of a lease.
const TRIES: u32 = 8;
/// How long a lease may outlive its time when nothing is wrong: the store looks every tenth of a second.
const LATE: Duration = Duration::from_secs(10);
/// Between two looks at a key whose lease ends.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Holders of leases at work.
pub struct Holders {
    stop: watch::Sender<bool>,
    holders: JoinSet<Result<()>>,
}

impl Holders {
    /// Grants leases of `ttl` seconds, attaches a key to each, and keeps them alive through whichever member answers.
    pub async fn start(load: &mut Load, member: usize, leases: usize, ttl: u32) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut holders = JoinSet::new();
        for number in 0..leases {
            let mut guest = load.guest(member);
            let lease = grant(&mut guest, ttl).await?;
            let key = format!("m{number}");
            guest.put(&key, Some(lease)).await?.answer("a put with a lease")?;
            holders.spawn(keep(guest, key, lease, Duration::from_secs(ttl.into()), stopped.clone()));
        }
        Ok(Holders { stop, holders })
    }

    /// Ends the keeping, after a last look at every key.
    pub async fn finish(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(holder) = self.holders.join_next().await {
            holder??;
        }
        Ok(())
    }
}

async fn grant(guest: &mut Guest, ttl: u32) -> Result<LeaseId> {
    let request = pb::LeaseGrantRequest { ttl: ttl.into(), id: 0 };
    let granted = LeaseClient::new(guest.channel()?).lease_grant(request).await?;
    Ok(LeaseId(granted.into_inner().id))
}

async fn keep(
    mut guest: Guest,
    key: String,
    lease: LeaseId,
    ttl: Duration,
    stopped: watch::Receiver<bool>,
) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(lease.0.unsigned_abs());
    // Counted from before the request, while the store counts from its answer.
    let mut alive_until = Instant::now() + ttl;
    while !*stopped.borrow() {
        let sent = Instant::now();
        match tokio::time::timeout(TRY, keep_alive(&mut guest, lease)).await {
            Ok(Ok(0)) => {
                let left = alive_until.saturating_duration_since(Instant::now());
                let how = if left.is_zero() { "because nobody answered" } else { "early although it was kept alive" };
                bail!("{lease} was ended {how} ({left:?} were left): n{} knows none", guest.member() + 1);
            }
            Ok(Ok(_)) => {
                alive_until = sent + ttl;
                tokio::time::sleep(ttl / TRIES).await;
            }
            Ok(Err(_)) | Err(_) => {
                let next = guest.doors().another(guest.member(), &mut rng);
                guest.go_to(next);
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
    let found = guest.get(&key, false).await?.answer("a read of a key with a lease")?.found;
    let there = matches!(&found[..], [Found::Range(keys)] if matches!(&keys[..], [one] if one.lease == Some(lease)));
    ensure!(there, "{key} is gone or changed although {lease} was kept alive all through: {found:?}");
    // It would end at a time that nobody knows otherwise.
    guest.revoke(lease).await
}

/// The time that the lease has, as the store says; 0 where there is none.
async fn keep_alive(guest: &mut Guest, lease: LeaseId) -> Result<i64> {
    let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id: lease.0 });
    let mut answers = LeaseClient::new(guest.channel()?).lease_keep_alive(request).await?.into_inner();
    Ok(answers.message().await?.context("a stream ended without an answer")?.ttl)
}

/// A lease that nobody keeps alive, with a key.
pub struct Forsaken {
    guest: Guest,
    key: String,
    granted: Instant,
    ttl: Duration,
}

impl Forsaken {
    /// Grants a lease of `ttl` seconds through one member and attaches a key to it.
    pub async fn grant(load: &mut Load, member: usize, key: &str, ttl: u32) -> Result<Self> {
        let mut guest = load.guest(member);
        let (granted, invoked) = (Instant::now(), guest.now());
        let lease = grant(&mut guest, ttl).await?;
        guest.may_end(lease, invoked);
        guest.put(key, Some(lease)).await?.answer("a put with a lease")?;
        Ok(Forsaken { guest, key: key.to_owned(), granted, ttl: Duration::from_secs(ttl.into()) })
    }

    /// Looks through another member from now on.
    pub fn look_at(&mut self, member: usize) {
        self.guest.go_to(member);
    }

    /// The key is there: its lease has time left.
    pub async fn lives(&mut self) -> Result<()> {
        let found = self.guest.get(&self.key, false).await?.answer("a read of a key with a lease")?.found;
        let there = matches!(&found[..], [Found::Range(keys)] if keys.len() == 1);
        let age = self.granted.elapsed();
        ensure!(there || age >= self.ttl, "{}: its lease of {:?} ended after {age:?}", self.key, self.ttl);
        ensure!(there, "{}: its lease of {:?} was to be looked at while it lives", self.key, self.ttl);
        Ok(())
    }

    /// Waits, beside everything else, until its key is gone, and tells how long after the lease's time that was. A new
    /// leader gives every lease all of its time again: `leaders` says how many new ones there may be.
    pub fn watch_its_end(self, leaders: u32) -> JoinHandle<Result<Duration>> {
        tokio::spawn(self.ends(leaders))
    }

    async fn ends(mut self, leaders: u32) -> Result<Duration> {
        let deadline = self.granted + self.ttl * (1 + leaders) + LATE;
        loop {
            let told = self.guest.get(&self.key, false).await?;
            let answered = Instant::now();
            // A member that is asked while nobody leads may say so.
            match told.answer("a read of a key with a lease").map(|answer| answer.found).unwrap_or_default().as_slice()
            {
                [Found::Range(keys)] if keys.is_empty() => {
                    let age = answered - self.granted;
                    ensure!(age >= self.ttl, "{}: its lease of {:?} ended after {age:?}", self.key, self.ttl);
                    return Ok(age - self.ttl);
                }
                _ => ensure!(answered < deadline, "{}: its lease of {:?} does not end", self.key, self.ttl),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
