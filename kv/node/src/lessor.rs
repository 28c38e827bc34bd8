//! One group's leases: how long each has yet, and their end.
//!
//! Which leases there are, how long each lasts and which keys are attached is in the replicated state. How long each has
//! yet is known to the leader alone, in memory: keeping a lease alive moves a deadline and nothing else.
//!
//! ```text
//! grant, revoke ──► log ──► applied ──► deadlines (leader) ──expired──► revoke ──► log
//! keep alive ──► deadlines, then a confirmation that this is still the leader
//! ```
//!
//! A leader that takes over gives every lease all of its time, or what was last written down of it. That is written down
//! when half of it has gone, and then now and then: leases that are kept alive never get there. One that is kept alive
//! after all has it taken back before the answer.
//!
//! Must hold: no lease ends before its time, counted from the last answer to its holder, whoever leads; only the leader
//! of the term in which a lease expired ends it; leases that expire together end some at a time.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use kv_core::{Effect, GroupId, Keyspace, LeaseId, Phase, Txn};
use kv_store::State;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{group::Leadership, proposer::Proposer};

/// Between two looks at the deadlines, unless one is nearer.
const TICK: Duration = Duration::from_millis(100);

/// Leases ended, or written down, in one go. The next follow when these are done.
const AT_ONCE: usize = 256;

/// Between two times that the rest of one lease is written down, at least.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(5);

/// Who acts when a lease expires.
const ACTOR: &str = "lease";

/// How long a lease has yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remaining {
    pub(crate) ttl: u64,
    pub(crate) left: Duration,
}

/// One group's leases. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lessor(Arc<Inner>);

struct Inner {
    group: GroupId,
    state: State,
    table: Mutex<Table>,
    /// Something has become due that was not.
    news: Notify,
}

#[derive(Default)]
struct Table {
    /// The term of which the deadlines are; `None`: this node does not lead, and knows of none.
    term: Option<u64>,
    leases: HashMap<(Keyspace, LeaseId), Lease>,
    /// When something is to be done about a lease: its deadline, or its next checkpoint if that is earlier.
    due: BTreeSet<(Instant, Keyspace, LeaseId)>,
}

#[derive(Clone, Copy)]
struct Lease {
    ttl: u64,
    deadline: Instant,
    due: Instant,
    /// What is left of it has been written down.
    written: bool,
}

impl Lease {
    fn new(ttl: u64, left: Duration, written: bool, now: Instant) -> Self {
        let deadline = now + left.min(FOREVER);
        let mut lease = Lease { ttl, deadline, due: deadline, written };
        lease.due = lease.next_due(now);
        lease
    }

    /// When half has gone, and then every tenth, unless the end is nearer.
    fn next_due(&self, now: Instant) -> Instant {
        let whole = Duration::from_secs(self.ttl).min(FOREVER);
        let half = self.deadline - (whole / 2).min(self.deadline - now);
        let next = if now < half { half } else { now + (whole / 10).max(CHECKPOINT_PAUSE) };
        next.min(self.deadline)
    }
}

/// Deadlines further away than this are as good as none, and an instant cannot be much further.
const FOREVER: Duration = Duration::from_secs(300 * 365 * 24 * 3600);

impl Table {
    fn set(&mut self, keyspace: &Keyspace, id: LeaseId, lease: Lease) {
        self.remove(keyspace, id);
        self.due.insert((lease.due, keyspace.clone(), id));
        self.leases.insert((keyspace.clone(), id), lease);
    }

    fn remove(&mut self, keyspace: &Keyspace, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&(keyspace.clone(), id)) {
            self.due.remove(&(lease.due, keyspace.clone(), id));
        }
    }
}

/// What a lease's holder has to do next, or the node for it.
pub(crate) enum Renewed {
    /// It has all of its time again.
    Done { ttl: u64 },
    /// It has, but a later leader would not know: what was written down has to be taken back first.
    Written { ttl: u64 },
    /// There is no such lease, or its time is up.
    Missing,
}

impl Lessor {
    pub(crate) fn new(group: GroupId, state: State) -> Self {
        Lessor(Arc::new(Inner { group, state, table: Mutex::default(), news: Notify::new() }))
    }

    /// Effects were applied.
    pub(crate) fn applied(&self, keyspace: &Keyspace, effects: &[Effect]) {
        if effects.is_empty() {
            return;
        }
        let mut table = self.0.table.lock();
        if table.term.is_none() {
            return;
        }
        let now = Instant::now();
        for effect in effects {
            match effect {
                Effect::Grant { lease, ttl } => {
                    table.set(keyspace, *lease, Lease::new(*ttl, Duration::from_secs(*ttl), false, now));
                }
                Effect::Revoke { lease } => table.remove(keyspace, *lease),
                Effect::Checkpoint { lease, remaining } => {
                    if let Some(known) = table.leases.get_mut(&(keyspace.clone(), *lease)) {
                        known.written = remaining.is_some();
                    }
                }
                Effect::Move { .. } => self.moved(&mut table, keyspace, now),
                Effect::Compact { .. } | Effect::Record { .. } => {}
            }
        }
        self.0.news.notify_one();
    }

    /// Begins to count a keyspace's leases when it is here, and stops when it moves away. All begin with all of their time:
    /// who has kept one alive elsewhere in the meantime is not known here.
    fn moved(&self, table: &mut Table, keyspace: &Keyspace, now: Instant) {
        let counted: Vec<_> = table.leases.keys().filter(|(of, _)| of == keyspace).map(|(_, lease)| *lease).collect();
        if !self.counts(keyspace) {
            counted.into_iter().for_each(|lease| table.remove(keyspace, lease));
        } else if counted.is_empty() {
            for (lease, terms) in self.0.state.leases_of(self.0.group, keyspace) {
                let written = terms.remaining.is_some();
                table.set(keyspace, lease, Lease::new(terms.ttl, Duration::from_secs(terms.ttl), written, now));
            }
        }
    }

    /// Whether a keyspace's leases are this group's: not while it moves, for then nobody's leases end.
    pub(crate) fn counts(&self, keyspace: &Keyspace) -> bool {
        let standing = self.0.state.standing(self.0.group, keyspace);
        standing.is_none_or(|standing| matches!(standing.phase, Phase::Live))
    }

    /// Gives a lease all of its time again.
    pub(crate) fn renew(&self, keyspace: &Keyspace, id: LeaseId) -> Renewed {
        let mut table = self.0.table.lock();
        let now = Instant::now();
        let Some(known) = table.leases.get(&(keyspace.clone(), id)).copied().filter(|known| known.deadline > now)
        else {
            return Renewed::Missing;
        };
        table.set(keyspace, id, Lease::new(known.ttl, Duration::from_secs(known.ttl), known.written, now));
        match known.written {
            true => Renewed::Written { ttl: known.ttl },
            false => Renewed::Done { ttl: known.ttl },
        }
    }

    /// How long a lease has yet; nothing left: its end is under way.
    pub(crate) fn remaining(&self, keyspace: &Keyspace, id: LeaseId) -> Option<Remaining> {
        let table = self.0.table.lock();
        let known = table.leases.get(&(keyspace.clone(), id))?;
        Some(Remaining { ttl: known.ttl, left: known.deadline.saturating_duration_since(Instant::now()) })
    }

    /// Ends what expires while this node leads the group.
    pub(crate) async fn run(self, leadership: Leadership, proposer: Proposer) {
        let mut changes = leadership.changes();
        loop {
            let leads = leadership.leads();
            self.follow(leads);
            if let Some(term) = leads {
                self.act(term, &proposer).await;
            }
            let now = Instant::now();
            let due = self.0.table.lock().due.first().map_or(now + FOREVER, |(due, ..)| *due);
            // However much changes, it is not looked at more often.
            sleep_until(due.clamp(now + TICK / 4, now + TICK)).await;
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.0.news.notified() => {}
                // Once the group has ended there is nothing left to do.
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Begins to count when this node begins to lead, and stops when it does no more.
    pub(crate) fn follow(&self, leads: Option<u64>) {
        let mut table = self.0.table.lock();
        if table.term == leads {
            return;
        }
        *table = Table { term: leads, ..Table::default() };
        if leads.is_none() {
            return;
        }
        let now = Instant::now();
        for (keyspace, id, terms) in self.0.state.leases(self.0.group) {
            if !self.counts(&keyspace) {
                continue;
            }
            let left = Duration::from_secs(terms.remaining.unwrap_or(terms.ttl));
            table.set(&keyspace, id, Lease::new(terms.ttl, left, terms.remaining.is_some(), now));
        }
    }

    /// Ends what has expired, and writes down what is left of what is due for that.
    async fn act(&self, term: u64, proposer: &Proposer) {
        let (mut expired, mut checkpoints) = (HashMap::new(), HashMap::new());
        {
            let mut table = self.0.table.lock();
            let now = Instant::now();
            let due: Vec<_> = table.due.iter().take_while(|(due, ..)| *due <= now).take(AT_ONCE).cloned().collect();
            for (_, keyspace, id) in due {
                let Some(known) = table.leases.get(&(keyspace.clone(), id)).copied() else { continue };
                if known.deadline <= now {
                    expired.entry(keyspace).or_insert_with(Vec::new).push(id);
                    continue;
                }
                let left = (known.deadline - now).as_secs().max(1);
                table.set(&keyspace, id, Lease { due: known.next_due(now), ..known });
                let checkpoint = Effect::Checkpoint { lease: id, remaining: Some(left) };
                checkpoints.entry(keyspace).or_insert_with(Vec::new).push(checkpoint);
            }
        }
        for (keyspace, effects) in checkpoints {
            let txn = Txn { effects, actor: ACTOR.into(), term: Some(term), ..Txn::default() };
            // Without it a later leader only gives these leases more time than they have.
            let _ = proposer.propose(&keyspace, vec![txn]).await;
        }
        let ends = expired
            .into_iter()
            .flat_map(|(keyspace, leases)| leases.into_iter().map(move |lease| (keyspace.clone(), lease)));
        let ends = ends.map(|(keyspace, lease)| async move {
            let effects = vec![Effect::Revoke { lease }];
            let reason = format!("lease {lease} expired");
            let txn = Txn { effects, reason, actor: ACTOR.into(), term: Some(term), ..Txn::default() };
            // Whatever became of it, what is still there is due again on the next round.
            if let Err(error) = proposer.propose(&keyspace, vec![txn]).await {
                tracing::debug!(%keyspace, %lease, %error, "an expired lease has not ended yet");
            }
        });
        futures::future::join_all(ends).await;
    }
}
