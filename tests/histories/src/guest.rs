//! A client that a test leads by the hand: it stays at one member and tells what it was told there.
//!
//! Must hold: its operations are recorded like those of all others.
//!
//! Left to others: sending and recording (see `client`).

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tonic::Status;
use tonic::transport::Channel;

use crate::client::Client;
use crate::doors::Doors;
use crate::history::{Action, Answer, At, ClientId, Freshness, KeyRange, LeaseId, Operation, Outcome, Request};
use crate::load::{SETTLE_WITHIN, Shared};

/// How long a guest waits for an answer: longer than the store, which is to say no by itself.
const GUEST_PATIENCE: Duration = Duration::from_secs(8);

/// A client that stays at one member and tells what it was told there.
pub struct Guest(Client);

/// What came of one operation.
#[derive(Debug)]
pub struct Told {
    /// As it was recorded.
    pub outcome: Outcome,
    /// The store's error; none with an answer, and none without any word.
    pub status: Option<Status>,
    /// From the request to the end.
    pub took: Duration,
}

impl Told {
    /// What was answered, or an error that tells what was not.
    pub fn answer(self, what: &str) -> Result<Answer> {
        match self.outcome {
            Outcome::Answered { answer, .. } => Ok(answer),
            other => bail!("{what} was not answered after {:?}: {other:?} {:?}", self.took, self.status),
        }
    }
}

impl Guest {
    pub(crate) fn new(id: ClientId, shared: Shared, member: usize) -> Self {
        let mut client = Client::new(id, shared, StdRng::seed_from_u64(u64::from(id.0)));
        (client.member, client.stays, client.patience) = (member, true, GUEST_PATIENCE);
        Guest(client)
    }

    /// How long it waits for each of its next answers.
    #[must_use]
    pub fn patient_for(mut self, patience: Duration) -> Self {
        self.0.patience = patience;
        self
    }

    /// Goes to another member.
    pub fn go_to(&mut self, member: usize) {
        (self.0.member, self.0.channel) = (member, None);
    }

    /// A put with a new value.
    pub async fn put(&mut self, key: &str, lease: Option<LeaseId>) -> Result<Told> {
        let value = self.0.shared.value();
        self.put_value(key, value, lease).await
    }

    /// A put with a value that was never written before, which the caller sees to.
    pub async fn put_value(&mut self, key: &str, value: Bytes, lease: Option<LeaseId>) -> Result<Told> {
        self.ask(Action::Put { key: Bytes::copy_from_slice(key.as_bytes()), value, lease, prev_kv: true }, false).await
    }

    /// A read of one key, linearizable or local.
    pub async fn get(&mut self, key: &str, local: bool) -> Result<Told> {
        self.ask(Action::Range(KeyRange::one(Bytes::copy_from_slice(key.as_bytes()))), local).await
    }

    /// A delete of one key.
    pub async fn delete(&mut self, key: &str) -> Result<Told> {
        let range = KeyRange::one(Bytes::copy_from_slice(key.as_bytes()));
        self.ask(Action::Delete { range, prev_kv: true }, false).await
    }

    /// Ends a lease, trying until that is answered.
    pub async fn revoke(&mut self, lease: LeaseId) -> Result<()> {
        let deadline = Instant::now() + SETTLE_WITHIN;
        loop {
            match self.0.perform(Request::Revoke(lease), false).await? {
                Outcome::Answered { .. } => return Ok(()),
                other => ensure!(Instant::now() < deadline, "{lease} cannot be revoked: {other:?}"),
            }
        }
    }

    async fn ask(&mut self, action: Action, local: bool) -> Result<Told> {
        let began = Instant::now();
        let outcome = self.0.perform(Request::One(action), local).await?;
        Ok(Told { outcome, status: self.0.told.clone(), took: began.elapsed() })
    }

    /// Records that a lease may end at any time from `invoked` on.
    pub(crate) fn may_end(&self, lease: LeaseId, invoked: At) {
        self.0.shared.recorder.record(Operation {
            client: self.0.id,
            invoked,
            request: Request::Revoke(lease),
            freshness: Freshness::Linearizable,
            outcome: Outcome::Unknown,
        });
    }

    pub(crate) fn now(&self) -> At {
        self.0.shared.recorder.now()
    }

    pub(crate) fn member(&self) -> usize {
        self.0.member
    }

    pub(crate) fn doors(&self) -> &Doors {
        &self.0.shared.doors
    }

    /// The connection to its member.
    pub fn channel(&mut self) -> Result<Channel> {
        self.0.channel()
    }
}
