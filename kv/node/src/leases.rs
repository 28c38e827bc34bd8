//! Leases, as a client sees them: any node answers, the group's leader decides.

use std::time::Duration;

use kv_core::{Effect, Keyspace, LeaseId, Txn};
use kv_proto::peer::v1::Kind;
use serde::{Deserialize, Serialize};

use crate::{
    error::ReadError,
    group::Group,
    lessor::Renewed,
    link::LinkError,
    node::{Node, in_service},
    raft::{decode, encode},
};

/// Between two attempts to find a leader.
const PAUSE: Duration = Duration::from_millis(20);

/// A lease, and how long it has yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseState {
    /// How long it lasts without being kept alive, in seconds.
    pub ttl: u64,
    /// How long it has yet. Nothing: its end is under way.
    pub left: Duration,
}

/// What is asked of a group's leader about a lease.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum LeaseCall {
    /// To give it all of its time again.
    Renew(Keyspace, LeaseId),
    /// How long it has yet.
    Remaining(Keyspace, LeaseId),
}

/// The leader's answer: `Err` says that it is not the leader, or cannot confirm that it is.
pub(crate) type LeaseAnswer = Result<Option<LeaseState>, ()>;

impl Group {
    /// Answers as the leader.
    pub(crate) async fn lease_call(&self, call: LeaseCall) -> LeaseAnswer {
        let Some(term) = self.leadership.leads() else { return Err(()) };
        // It may have begun to lead a moment ago.
        self.lessor.follow(Some(term));
        // Whoever asks while the keyspace moves asks again, and gets all of the time where it comes to.
        let (LeaseCall::Renew(of, _) | LeaseCall::Remaining(of, _)) = &call;
        if !self.lessor.counts(of) {
            return Err(());
        }
        let state = match &call {
            LeaseCall::Renew(keyspace, lease) => match self.lessor.renew(keyspace, *lease) {
                Renewed::Done { ttl } => Some(LeaseState { ttl, left: Duration::from_secs(ttl) }),
                Renewed::Written { ttl } => {
                    let effects = vec![Effect::Checkpoint { lease: *lease, remaining: None }];
                    let txn = Txn { effects, term: Some(term), ..Txn::default() };
                    self.proposer.propose(keyspace, vec![txn]).await.map_err(|_| ())?;
                    Some(LeaseState { ttl, left: Duration::from_secs(ttl) })
                }
                Renewed::Missing => None,
            },
            LeaseCall::Remaining(keyspace, lease) => {
                let remaining = self.lessor.remaining(keyspace, *lease);
                remaining.map(|found| LeaseState { ttl: found.ttl, left: found.left })
            }
        };
        // A leader that slept may have been replaced, and the lease ended by its successor.
        self.barrier.pass().await.map_err(|_| ())?;
        if self.leadership.leads() == Some(term) && self.lessor.counts(of) { Ok(state) } else { Err(()) }
    }
}

impl Node {
    /// Gives a lease all of its time again. `None`: there is no such lease, or its time is up.
    pub async fn lease_renew(&self, keyspace: &Keyspace, lease: LeaseId) -> Result<Option<LeaseState>, ReadError> {
        self.ask_lease(keyspace, LeaseCall::Renew(keyspace.clone(), lease)).await
    }

    /// How long a lease has yet. `None`: there is no such lease.
    pub async fn lease(&self, keyspace: &Keyspace, lease: LeaseId) -> Result<Option<LeaseState>, ReadError> {
        self.ask_lease(keyspace, LeaseCall::Remaining(keyspace.clone(), lease)).await
    }

    /// The keys attached to a lease, in the local replica, in order. Blocks on disk.
    pub fn lease_keys(&self, keyspace: &Keyspace, lease: LeaseId) -> Result<Vec<bytes::Bytes>, ReadError> {
        self.here(keyspace, |group| {
            let read = self.0.store.state().attached(group.id, keyspace, lease, usize::MAX);
            read.map_err(|error| crate::node::read_error(&group.leadership, group.id, error.into()))
        })
    }

    /// The leases of a keyspace, in the local replica, by id.
    pub fn leases(&self, keyspace: &Keyspace) -> Result<Vec<LeaseId>, ReadError> {
        let all = self.here(keyspace, |group| Ok(self.0.store.state().leases_of(group.id, keyspace)))?;
        let mut found: Vec<_> = all.into_iter().map(|(lease, _)| lease).collect();
        found.sort_unstable();
        Ok(found)
    }

    async fn ask_lease(&self, keyspace: &Keyspace, call: LeaseCall) -> Result<Option<LeaseState>, ReadError> {
        let deadline = tokio::time::Instant::now() + self.0.timing.read_timeout;
        loop {
            // It may move meanwhile.
            let id = self.group_of(keyspace);
            let unconfirmed = || ReadError::Unconfirmed { group: id };
            let group = in_service(self.0.group(id).ok_or_else(unconfirmed)?)?;
            let asking = async {
                let leader = group.leadership.leader()?;
                if leader == self.0.id {
                    return group.lease_call(call.clone()).await.ok();
                }
                let patience = self.0.timing.read_timeout;
                match self.0.links.request(leader, Kind::Lease, group.id, encode(&call), patience).await {
                    Ok(answer) => decode::<LeaseAnswer>(&answer).ok()?.ok(),
                    Err(LinkError::Unsent | LinkError::Lost | LinkError::Timeout | LinkError::Refused { .. }) => None,
                }
            };
            match tokio::time::timeout_at(deadline, asking).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) if tokio::time::Instant::now() + PAUSE < deadline => tokio::time::sleep(PAUSE).await,
                Ok(None) | Err(_) => return Err(unconfirmed()),
            }
        }
    }
}
