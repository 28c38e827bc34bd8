//! Waiting in line: what locks and elections have in common.
//!
//! Whoever wants something puts a key of its own below a prefix, attached to a lease. The oldest key is first in line; the
//! others wait until all older ones have gone.

use std::time::Duration;

use bytes::Bytes;
use etcd_proto::etcdserverpb as pb;
use kv_core::{
    Attach, Compare, Done, KeyRange, Keyspace, LeaseId, Operand, Operation, Outcome, Put, Query, Relation, Revision,
    Txn,
};
use kv_node::Consistency;
use tonic::Status;

use crate::{
    access::{Caller, Shared},
    kv, lease, status, wire,
};

/// The time to live of a lease made for somebody who brought none, in seconds.
const SESSION_TTL: i64 = 60;

/// Between two renewals of such a lease while its place is not first.
const SESSION_RENEWAL: Duration = Duration::from_secs(20);

/// A place in line.
pub(crate) struct Place {
    pub(crate) key: Bytes,
    pub(crate) lease: LeaseId,
    /// When the key was made.
    pub(crate) since: Revision,
    /// The value that it has, if it was there already.
    pub(crate) known: Option<Bytes>,
    /// Whether the lease was granted for this place, and has to be kept alive while it waits.
    session: bool,
}

/// Somebody in line. If they go before they are first, so does their key: nobody should wait for it.
pub(crate) struct Waiting {
    shared: Shared,
    keyspace: Keyspace,
    key: Option<Bytes>,
}

impl Waiting {
    pub(crate) fn new(shared: &Shared, caller: &Caller, place: &Place) -> Self {
        Waiting { shared: shared.clone(), keyspace: caller.keyspace.clone(), key: Some(place.key.clone()) }
    }

    /// They are first: the key stays.
    pub(crate) fn held(mut self) {
        self.key = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let (shared, keyspace) = (self.shared.clone(), self.keyspace.clone());
        tokio::spawn(async move {
            let then = vec![Operation::delete(KeyRange::Key(key))];
            // Should it fail, the lease's end removes the key.
            let _ = shared.node().txn(&keyspace, Txn { then, ..Txn::default() }).await;
        });
    }
}

/// Takes a place below `name`, with a value. `lease` zero: one is granted.
pub(crate) async fn enter(
    shared: &Shared,
    caller: &Caller,
    name: &[u8],
    lease: i64,
    value: Bytes,
) -> Result<Place, Status> {
    shared.room(&caller.keyspace)?;
    let session = lease == 0;
    let lease = match LeaseId::new(lease) {
        Some(lease) => lease,
        None => lease::grant(shared, &caller.keyspace, None, SESSION_TTL, caller.actor()).await?.0,
    };
    let key = Bytes::from([name, format!("/{:x}", lease.get()).as_bytes()].concat());
    let put =
        pb::PutRequest { key: key.clone(), value: value.clone(), lease: lease.get(), ..pb::PutRequest::default() };
    caller.may_put(&put, &|lease| shared.attached(&caller.keyspace, lease))?;
    caller.may_range(&prefix(name), &end(name))?;
    let range = KeyRange::Key(key.clone());
    let missing = Compare { range: range.clone(), relation: Relation::Equal, operand: Operand::CreateRevision(0) };
    let put = Put { lease: Attach::To(lease), ..Put::new(key.clone(), value) };
    let txn = Txn {
        compares: vec![missing],
        then: vec![Operation::Put(put)],
        otherwise: vec![Operation::Range(Query::all(range))],
        actor: caller.actor(),
        ..Txn::default()
    };
    let mut answers =
        shared.node().transact(&caller.keyspace, vec![txn]).await.map_err(|error| status::commit(&error))?;
    let answered = answers.pop().ok_or_else(status::timeout)?;
    let there = answered.done.into_iter().find_map(|done| match done {
        Done::Range(found) => found.kvs.into_iter().next(),
        _ => None,
    });
    match (answered.outcome, there) {
        (_, Some(kv)) => {
            Ok(Place { key, lease, since: kv.state.create_revision, known: Some(kv.state.value), session })
        }
        (Outcome::Applied(done), None) if done.succeeded => {
            Ok(Place { key, lease, since: done.revision, known: None, session })
        }
        _ => Err(status::timeout()),
    }
}

/// Waits until a place is first in line. Returns a revision at which it was; refused when the place itself has gone.
pub(crate) async fn first(
    shared: &Shared,
    keyspace: &Keyspace,
    name: &[u8],
    place: &Place,
) -> Result<Revision, Status> {
    let older = Revision::new(place.since.get().saturating_sub(1));
    loop {
        let found = kv::by_creation(shared, keyspace, &prefix(name), 1, true, Some(older)).await?;
        let Some(before) = found.kvs.into_iter().next() else { break };
        let mut gone = std::pin::pin!(gone(shared, keyspace, before.key, found.revision));
        loop {
            tokio::select! {
                gone = &mut gone => break gone?,
                () = tokio::time::sleep(SESSION_RENEWAL), if place.session => {
                    // That it has ended shows when it is this place's turn.
                    let _ = shared.node().lease_renew(keyspace, place.lease).await;
                }
            }
        }
    }
    let own = Query::all(KeyRange::Key(place.key.clone()));
    let own = shared.node().query(keyspace, &own, Consistency::Linearizable).await;
    let own = own.map_err(|error| status::read(&error))?;
    match own.kvs.first().is_some_and(|kv| kv.state.create_revision == place.since) {
        true => Ok(own.revision),
        false => Err(Status::unknown("mutex: session is expired")),
    }
}

/// Waits until a key that was there at a revision has gone.
async fn gone(shared: &Shared, keyspace: &Keyspace, key: Bytes, at: Revision) -> Result<(), Status> {
    let mut events = shared.0.hubs.subscribe(keyspace, KeyRange::Key(key), at);
    loop {
        let revision = events.next().await.map_err(|error| status::watch(&error))?;
        if revision.events.iter().any(|event| event.state.is_none()) {
            return Ok(());
        }
    }
}

/// Leaves the line: removes a key, if it is still the one that was made at this revision.
pub(crate) async fn leave(
    shared: &Shared,
    caller: &Caller,
    key: &Bytes,
    since: Option<Revision>,
) -> Result<Revision, Status> {
    caller.may_delete(&pb::DeleteRangeRequest { key: key.clone(), ..pb::DeleteRangeRequest::default() })?;
    let range = KeyRange::Key(key.clone());
    let made = |since: Revision| Compare {
        range: range.clone(),
        relation: Relation::Equal,
        operand: Operand::CreateRevision(since.get().cast_signed()),
    };
    let compares = since.map(made).into_iter().collect();
    let then = vec![Operation::delete(range.clone())];
    let txn = Txn { compares, then, actor: caller.actor(), ..Txn::default() };
    match shared.node().txn(&caller.keyspace, txn).await.map_err(|error| status::commit(&error))? {
        Outcome::Applied(done) | Outcome::Repeated(done) => Ok(done.revision),
        Outcome::Stale { .. } | Outcome::Elsewhere { .. } => Err(status::timeout()),
    }
}

/// Who is first in line.
pub(crate) async fn holder(
    shared: &Shared,
    keyspace: &Keyspace,
    name: &[u8],
) -> Result<(Option<kv_core::KeyValue>, Revision), Status> {
    let found = kv::by_creation(shared, keyspace, &prefix(name), 1, false, None).await?;
    Ok((found.kvs.into_iter().next(), found.revision))
}

pub(crate) fn prefix(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

pub(crate) fn end(name: &[u8]) -> Vec<u8> {
    [name, b"0"].concat()
}

/// A place as elections name it.
pub(crate) fn since(revision: i64) -> Revision {
    wire::from_revision(revision)
}
