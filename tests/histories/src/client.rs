//! One sequential client: what it asks for, and what it makes of the answers.
//!
//! Must hold: an operation is recorded exactly once, after its end, and an error counts as "nothing happened" only if the
//! store says so or the request never left.
//!
//! Left to others: how many clients there are and for how long (see `load`).

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use etcd_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::history::{
    Action, Answer, ClientId, Found, Freshness, Guard, KeyRange, LeaseId, Operation, Outcome, Request, Revision,
};
use crate::load::{ANSWER_WITHIN, OPERATIONS_MAX, SETTLE_WITHIN, Shared};
use crate::watchers::Closing;
use crate::wire;

/// The longest pause between two operations of a client.
const PAUSE_MAX: Duration = Duration::from_millis(10);
/// How long half of the clients wait for an answer: they go on elsewhere while the patient ones wait at a stopped member
/// and read its answers when it goes on.
const IMPATIENT: Duration = Duration::from_millis(700);
/// Before a client tries another member.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// The shortest life of a lease that expires during the load; etcd grants none that is shorter.
const LEASE_SHORT_S: i64 = 2;
/// The life of a lease that does not expire meanwhile.
const LEASE_LONG_S: i64 = 600;

/// A sequential client.
pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) shared: Shared,
    rng: StdRng,
    pub(crate) member: usize,
    pub(crate) channel: Option<Channel>,
    /// When the client last saw each key written; none: it saw that there is none.
    known: HashMap<Bytes, Option<Revision>>,
    lease: Option<LeaseId>,
    pub(crate) patience: Duration,
    /// Stays at its member, whatever happens there.
    pub(crate) stays: bool,
    /// What the last operation that was not answered was told.
    pub(crate) told: Option<Status>,
}

impl Client {
    pub(crate) fn new(id: ClientId, shared: Shared, rng: StdRng) -> Self {
        let members = shared.doors.members();
        let member = members.get(id.0 as usize % members.len().max(1)).copied().unwrap_or_default();
        let patience = if id.0.is_multiple_of(2) { IMPATIENT } else { ANSWER_WITHIN };
        let known = HashMap::new();
        Client { id, shared, rng, member, channel: None, known, lease: None, patience, stays: false, told: None }
    }

    pub(crate) async fn work(mut self, stopped: watch::Receiver<bool>) -> Result<()> {
        while !*stopped.borrow() && self.shared.recorder.recorded() < OPERATIONS_MAX {
            match self.rng.random_range(0..100) {
                0..4 if self.lease.is_none() => self.grant().await?,
                0..4 => {
                    let lease = self.lease.take().context("just seen")?;
                    self.perform(Request::Revoke(lease), false).await?;
                }
                _ => {
                    let (request, local) = self.draw();
                    self.perform(request, local).await?;
                }
            }
            tokio::time::sleep(PAUSE_MAX.mul_f64(self.rng.random())).await;
        }
        Ok(())
    }

    fn key(&mut self) -> Bytes {
        self.shared.keys[self.rng.random_range(0..self.shared.keys.len())].clone()
    }

    fn put(&mut self, key: Bytes) -> Action {
        let lease = self.lease.filter(|_| self.rng.random_ratio(1, 4));
        Action::Put { key, value: self.shared.value(), lease, prev_kv: self.rng.random() }
    }

    /// A request, and whether it is a local read.
    fn draw(&mut self) -> (Request, bool) {
        let key = self.key();
        match self.rng.random_range(0..100) {
            0..25 => (Request::One(self.put(key)), false),
            25..45 => (Request::One(Action::Range(KeyRange::one(key))), false),
            45..55 => (Request::One(Action::Range(KeyRange::one(key))), true),
            55..60 => (Request::One(Action::Range(Shared::everything())), false),
            60..65 => (Request::One(Action::Range(Shared::everything())), true),
            65..82 => (self.compare_and_swap(key), false),
            82..91 => (Request::One(Action::Delete { range: KeyRange::one(key), prev_kv: self.rng.random() }), false),
            91 => (Request::One(Action::Delete { range: KeyRange::between(key, "l"), prev_kv: true }), false),
            _ => (self.several(), false),
        }
    }

    fn compare_and_swap(&mut self, key: Bytes) -> Request {
        let at = self.known.get(&key).copied().flatten();
        let then = match self.rng.random_ratio(4, 5) {
            true => self.put(key.clone()),
            false => Action::Delete { range: KeyRange::one(key.clone()), prev_kv: true },
        };
        let otherwise = vec![Action::Range(KeyRange::one(key.clone()))];
        Request::Txn { guards: vec![Guard::Modified { key, at }], then: vec![then], otherwise }
    }

    /// Two puts, a delete and reads as one; the keys differ, because the store refuses to write one twice.
    fn several(&mut self) -> Request {
        let first = self.rng.random_range(0..self.shared.keys.len());
        let key = |offset: usize| self.shared.keys[(first + offset) % self.shared.keys.len()].clone();
        let (one, two, three, four) = (key(0), key(1), key(2), key(3));
        let then = vec![
            Action::Range(Shared::everything()),
            self.put(one.clone()),
            self.put(two),
            Action::Delete { range: KeyRange::one(three), prev_kv: true },
            Action::Range(KeyRange::one(one)),
        ];
        let at = self.known.get(&four).copied().flatten();
        let guards = if self.rng.random() { Vec::new() } else { vec![Guard::Modified { key: four, at }] };
        Request::Txn { guards, then, otherwise: vec![Action::Range(Shared::everything())] }
    }

    pub(crate) fn channel(&mut self) -> Result<Channel> {
        match &self.channel {
            Some(channel) => Ok(channel.clone()),
            None => Ok(self.channel.insert(self.shared.doors.channel(self.member)?).clone()),
        }
    }

    /// Sends a request once and records what came of it.
    pub(crate) async fn perform(&mut self, request: Request, local: bool) -> Result<Outcome> {
        let channel = self.channel()?;
        let life = self.shared.doors.life(self.member);
        let invoked = self.shared.recorder.now();
        let sent = tokio::time::timeout(self.patience, send(channel, &request, local)).await;
        let at = self.shared.recorder.now();
        let (outcome, told) = match sent {
            Ok(Ok(answer)) => (Outcome::Answered { at, answer: answer? }, None),
            Ok(Err(status)) if took_no_effect(&status) => {
                (Outcome::Refused { at, why: status.to_string() }, Some(status))
            }
            Ok(Err(status)) => (Outcome::Unknown, Some(status)),
            Err(_) => (Outcome::Unknown, None),
        };
        self.told = told;
        let life = Some(life).filter(|life| *life == self.shared.doors.life(life.member));
        let freshness = if local { Freshness::Serializable { life } } else { Freshness::Linearizable };
        match &outcome {
            Outcome::Answered { answer, .. } => self.learn(&request, answer),
            Outcome::Refused { .. } => self.lease = None,
            Outcome::Unknown => {}
        }
        let operation = Operation { client: self.id, invoked, request, freshness, outcome: outcome.clone() };
        self.shared.recorder.record(operation);
        if !matches!(outcome, Outcome::Answered { .. }) {
            self.move_on().await;
        }
        Ok(outcome)
    }

    /// After an error, to another member.
    async fn move_on(&mut self) {
        if self.stays {
            return;
        }
        tokio::time::sleep(PAUSE_AFTER_ERROR).await;
        self.member = self.shared.doors.another(self.member, &mut self.rng);
        self.channel = None;
    }

    fn learn(&mut self, request: &Request, answer: &Answer) {
        self.shared.latest.fetch_max(answer.revision.get(), Ordering::Relaxed);
        match request {
            Request::One(Action::Put { key, .. }) => {
                self.known.insert(key.clone(), Some(answer.revision));
            }
            Request::One(Action::Delete { range, .. }) => self.known.retain(|key, _| !range.contains(key)),
            _ => {}
        }
        for state in answer.found.iter().flat_map(|found| match found {
            Found::Range(keys) => keys.as_slice(),
            Found::Put(_) | Found::Deleted { .. } => &[],
        }) {
            self.known.insert(state.key.clone(), Some(state.modified));
        }
    }

    /// A lease. Its expiry is a write that nobody asks for at any known time: a revocation of unknown outcome.
    async fn grant(&mut self) -> Result<()> {
        let ttl = if self.rng.random() { LEASE_SHORT_S } else { LEASE_LONG_S };
        let mut leases = LeaseClient::new(self.channel()?);
        let invoked = self.shared.recorder.now();
        let granted = leases.lease_grant(pb::LeaseGrantRequest { ttl, id: 0 });
        let Ok(Ok(granted)) = tokio::time::timeout(self.patience, granted).await else {
            // A lease that nobody knows of can have no keys.
            self.move_on().await;
            return Ok(());
        };
        let lease = LeaseId(granted.into_inner().id);
        self.lease = Some(lease);
        self.shared.recorder.record(Operation {
            client: self.id,
            invoked,
            request: Request::Revoke(lease),
            freshness: Freshness::Linearizable,
            outcome: Outcome::Unknown,
        });
        Ok(())
    }

    /// The last writes: each key is put, deleted and put, without a lease, so that nothing happens of itself afterwards.
    pub(crate) async fn close(&mut self) -> Result<Closing> {
        let mut marks = Vec::new();
        for key in self.shared.keys.clone() {
            for is_put in [true, false, true] {
                let action = match is_put {
                    true => Action::Put { key: key.clone(), value: Bytes::new(), lease: None, prev_kv: true },
                    false => Action::Delete { range: KeyRange::one(key.clone()), prev_kv: true },
                };
                let answer = self.insist(action).await?;
                marks.push((answer.revision, key.clone(), is_put));
            }
        }
        let answer = self.insist(Action::Range(Shared::everything())).await?;
        Ok(Closing { marks, revision: answer.revision })
    }

    /// Sends an action until it is answered, a put with a new value each time.
    async fn insist(&mut self, mut action: Action) -> Result<Answer> {
        let deadline = Instant::now() + SETTLE_WITHIN;
        loop {
            if let Action::Put { value, .. } = &mut action {
                *value = self.shared.value();
            }
            match self.perform(Request::One(action.clone()), false).await? {
                Outcome::Answered { answer, .. } => return Ok(answer),
                other if Instant::now() > deadline => {
                    bail!("the store does not settle: {action} is not answered; last seen: {other:?}")
                }
                Outcome::Refused { .. } | Outcome::Unknown => {}
            }
        }
    }
}

/// The answer, or that it makes no sense, or the store's error.
async fn send(channel: Channel, request: &Request, local: bool) -> Result<Result<Answer>, Status> {
    let answer = |header: Option<&pb::ResponseHeader>, found: Result<Found>| {
        Ok(Answer { revision: wire::revision(header)?, succeeded: true, found: vec![found?] })
    };
    let mut kv = KvClient::new(channel.clone());
    Ok(match request {
        Request::One(Action::Range(keys)) => {
            let read = kv.range(wire::range(keys, local)).await?.into_inner();
            answer(read.header.clone().as_ref(), wire::ranged(read))
        }
        Request::One(action) => match wire::op(action) {
            pb::request_op::Request::RequestPut(put) => {
                let done = kv.put(put).await?.into_inner();
                answer(done.header.clone().as_ref(), wire::put(done))
            }
            pb::request_op::Request::RequestDeleteRange(delete) => {
                let done = kv.delete_range(delete).await?.into_inner();
                answer(done.header.clone().as_ref(), wire::deleted(done))
            }
            other => Err(anyhow::anyhow!("{other:?} is not a step")),
        },
        Request::Txn { guards, then, otherwise } => {
            wire::txn_answer(kv.txn(wire::txn(guards, then, otherwise)).await?.into_inner())
        }
        Request::Revoke(lease) => {
            let revoke = pb::LeaseRevokeRequest { id: lease.0 };
            let done = LeaseClient::new(channel).lease_revoke(revoke).await?.into_inner();
            let revision = wire::revision(done.header.as_ref());
            revision.map(|revision| Answer { revision, succeeded: true, found: Vec::new() })
        }
    })
}

/// Whether an error says for certain that the request did nothing.
fn took_no_effect(status: &Status) -> bool {
    let by_code = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::AlreadyExists
            | Code::ResourceExhausted
    );
    let mut cause = status.source();
    while let Some(error) = cause {
        let refused = |io: &std::io::Error| io.kind() == std::io::ErrorKind::ConnectionRefused;
        if error.downcast_ref::<std::io::Error>().is_some_and(refused) {
            return true;
        }
        cause = error.source();
    }
    by_code
}
