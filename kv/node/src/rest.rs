//! Idle groups rest: nothing of them ticks, and one message per pair of nodes stands in for all their heartbeats.
//!
//! ```text
//! leader, nothing written for a while          replica, has all of that log
//!   every heartbeat: claims of all such groups ──►  rests for as long as claims go on
//!   rests once all replicas have granted it    ◄──  what is granted
//! ```
//!
//! Must hold: a leader ticks again before a replica stops resting for want of claims, so that nobody is elected who need
//! not be ([`grant_lasts`], [`claim_lasts`]). A leader that was handed over claims nothing for the rest of its term: it
//! takes no writes any more, and has to be missed. Resting only decides when nobody has to wake up; who is elected, and what
//! is committed, is decided as ever.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kv_core::{GroupId, NodeId};
use kv_proto::peer::v1::Kind;
use openraft::{ServerState, async_runtime::watch::WatchReceiver};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    barrier,
    config::Timing,
    group::{Group, Leadership},
    node::Inner,
    raft::{Raft, decode, encode},
};

/// Heartbeats for which nothing may have been written.
const IDLE_HEARTBEATS: u32 = 10;

/// From when the timers of a group go on until a majority has surely answered a heartbeat, as a rule.
const WAKES_WITHIN: Duration = Duration::from_millis(250);

/// Replicas of a group that stop resting do so one after the other, not all at once.
const SLOTS: u32 = 8;

/// A leader's word that it leads a group in a term, and that its log ends at an index, all of it applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) group: GroupId,
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// Whether a group's timers are stopped here.
#[derive(Default)]
pub(crate) struct Resting {
    now: AtomicBool,
    /// When they went on.
    ended: Mutex<Option<Instant>>,
    /// Something is about to be done.
    stirred: AtomicBool,
}

impl Resting {
    /// Whether they are.
    pub(crate) fn now(&self) -> bool {
        self.now.load(Ordering::Relaxed)
    }

    /// Whether they are, or were so short a time ago.
    pub(crate) fn within(&self, time: Duration) -> bool {
        self.now() || self.ended.lock().is_some_and(|at| at.elapsed() < time)
    }

    /// Has them stopped, or go on. Not by two at a time: whoever holds the words does.
    fn set(&self, raft: &Raft, rests: bool) {
        if self.now.swap(rests, Ordering::Relaxed) != rests {
            raft.runtime_config().tick(!rests);
            *self.ended.lock() = (!rests).then(Instant::now);
        }
    }
}

/// What this node claims, and what it has granted to others.
#[derive(Default)]
pub(crate) struct Rest(Mutex<Words>);

#[derive(Default)]
struct Words {
    claimed: HashMap<GroupId, Claimed>,
    granted: HashMap<GroupId, Granted>,
}

struct Claimed {
    claim: Claim,
    since: Instant,
    /// When the last claim was sent that a replica has granted.
    grants: HashMap<NodeId, Instant>,
}

struct Granted {
    claim: Claim,
    leader: NodeId,
    until: Instant,
}

/// How long a leader rests without another grant of a replica.
fn grant_lasts(timing: &Timing) -> Duration {
    timing.election_min
}

/// How long a replica rests without another claim: as long as it would hear no heartbeat until it stands for election.
fn claim_lasts(timing: &Timing, own: NodeId, group: GroupId) -> Duration {
    let slot = (own.get().wrapping_add(group.get().into()) % u64::from(SLOTS)) as u32;
    timing.election_max + timing.election_min + timing.election_max.saturating_sub(timing.election_min) * slot / SLOTS
}

impl Rest {
    /// Decides which groups rest here, and returns what is to be claimed of whom.
    fn look(&self, inner: &Inner, now: Instant) -> HashMap<NodeId, Vec<Claim>> {
        let (mut words, mut claims) = (self.0.lock(), HashMap::<_, Vec<_>>::new());
        for group in &inner.groups {
            let Some((claim, others)) = claimable(group) else {
                words.claimed.remove(&group.id);
                group.leadership.resting.set(&group.raft, words.goes_on(group, now));
                continue;
            };
            words.granted.remove(&group.id);
            let claimed = words.claim(group, claim, now);
            let idle = now - claimed.since >= inner.timing.heartbeat * IDLE_HEARTBEATS;
            let rests = idle && others.iter().all(|node| claimed.is_granted(node, now, &inner.timing));
            group.leadership.resting.set(&group.raft, rests);
            if idle {
                others.into_iter().for_each(|node| claims.entry(node).or_default().push(claim));
            }
        }
        claims
    }

    /// Another node's claims. Returns the groups that rest here from now on.
    pub(crate) fn hear(&self, inner: &Inner, from: NodeId, payload: &[u8]) -> Result<Vec<GroupId>, String> {
        let claims: Vec<Claim> = decode(payload).map_err(|error| format!("malformed claims: {error}"))?;
        let (mut words, now) = (self.0.lock(), Instant::now());
        let mut rest = Vec::new();
        for claim in claims {
            let Some(group) = inner.group(claim.group).filter(|group| follows(group, from, claim)) else { continue };
            let until = now + claim_lasts(&inner.timing, inner.id, claim.group);
            words.granted.insert(claim.group, Granted { claim, leader: from, until });
            group.leadership.resting.set(&group.raft, true);
            rest.push(claim.group);
        }
        Ok(rest)
    }

    fn granted(&self, by: NodeId, claims: &[Claim], groups: &[GroupId], sent: Instant) {
        let mut words = self.0.lock();
        for claim in claims.iter().filter(|claim| groups.contains(&claim.group)) {
            if let Some(claimed) = words.claimed.get_mut(&claim.group).filter(|claimed| claimed.claim == *claim) {
                // Answers may overtake each other.
                let last = claimed.grants.entry(by).or_insert(sent);
                *last = sent.max(*last);
            }
        }
    }
}

impl Words {
    /// What is claimed, from when on.
    fn claim(&mut self, group: &Group, claim: Claim, now: Instant) -> &Claimed {
        let anew = || Claimed { claim, since: now, grants: HashMap::new() };
        let stirred = group.leadership.resting.stirred.swap(false, Ordering::Relaxed);
        match self.claimed.entry(group.id) {
            Entry::Occupied(known) if known.get().claim == claim && !stirred => known.into_mut(),
            Entry::Occupied(known) => {
                let known = known.into_mut();
                *known = anew();
                known
            }
            Entry::Vacant(place) => place.insert(anew()),
        }
    }

    /// Whether a replica rests on, by what was granted.
    fn goes_on(&mut self, group: &Group, now: Instant) -> bool {
        let holds = |granted: &Granted| now < granted.until && follows(group, granted.leader, granted.claim);
        let goes_on = self.granted.get(&group.id).is_some_and(holds);
        if !goes_on {
            self.granted.remove(&group.id);
        }
        goes_on
    }
}

impl Claimed {
    fn is_granted(&self, by: &NodeId, now: Instant, timing: &Timing) -> bool {
        self.grants.get(by).is_some_and(|sent| now - *sent < grant_lasts(timing))
    }
}

/// What this node can claim of a group, and which other nodes have replicas of it.
fn claimable(group: &Group) -> Option<(Claim, Vec<NodeId>)> {
    let term = group.leadership.leads().filter(|term| !group.was_handed_over_in(*term))?;
    let metrics = group.raft.metrics();
    let metrics = metrics.borrow_watched();
    let index = metrics.last_log_index?;
    let membership = metrics.membership_config.membership();
    let settled = metrics.last_applied.as_ref().is_some_and(|applied| applied.index == index);
    let votes = membership.voter_ids().any(|voter| voter == metrics.id);
    if !settled || !votes || metrics.current_term != term || membership.get_joint_config().len() > 1 {
        return None;
    }
    let others = membership.nodes().map(|(node, _)| NodeId::new(*node)).filter(|node| node.get() != metrics.id);
    Some((Claim { group: group.id, term, index }, others.collect()))
}

/// Whether this replica has all that a claim speaks of.
fn follows(group: &Group, leader: NodeId, claim: Claim) -> bool {
    let metrics = group.raft.metrics();
    let metrics = metrics.borrow_watched();
    group.leadership.problem().is_none()
        && metrics.state != ServerState::Leader
        && metrics.current_leader == Some(leader.get())
        && metrics.current_term == claim.term
        && metrics.last_log_index == Some(claim.index)
        && metrics.last_applied.as_ref().is_some_and(|applied| applied.index == claim.index)
}

/// Has a leader that rests hear from a majority, and stay awake for a while: it may write only for as long after that as its
/// lease lasts.
pub(crate) async fn rouse(raft: &Raft, leadership: &Leadership) {
    if leadership.resting.within(WAKES_WITHIN) {
        leadership.resting.stirred.store(true, Ordering::Relaxed);
        // Who hears from no majority is told so by what it does next.
        let _ = barrier::read_index(raft).await;
    }
}

/// Claims and looks, every heartbeat.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(inner.timing.heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent = Instant::now();
        for (node, claims) in inner.rest.look(&inner, sent) {
            let inner = inner.clone();
            tokio::spawn(inner.stop.clone().run_until_cancelled_owned(async move {
                let (payload, patience) = (encode(&claims), inner.timing.heartbeat);
                let asked = inner.links.request(node, Kind::Rest, GroupId::new(0), payload, patience).await;
                // Without an answer the leaders go on as before, or go on again.
                if let Some(groups) = asked.ok().and_then(|answer| decode::<Vec<GroupId>>(&answer).ok()) {
                    inner.rest.granted(node, &claims, &groups, sent);
                }
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_ticks_before_a_replica_stops_resting() {
        let timing = Timing::default();
        for node in (1..10).map(NodeId::new) {
            for group in (0..256).map(GroupId::new) {
                // The grant gets old, the next look sees it, and the first tick comes.
                let ticks = grant_lasts(&timing) + timing.heartbeat * 2;
                let lasts = claim_lasts(&timing, node, group);
                assert!(ticks < lasts && lasts < timing.election_max * 2);
            }
        }
    }
}
