//! The Lease service.

use etcd_proto::etcdserverpb::{self as pb, lease_server::Lease};
use futures::stream::BoxStream;
use kv_core::{Effect, Keyspace, LeaseId, Outcome, Refusal, Revision, Txn};
use kv_node::CommitError;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    access::{Shared, lease_id},
    status,
};

/// The shortest time to live, in seconds; shorter ones are made this long. A holder could hardly keep it alive otherwise.
const TTL_MIN: i64 = 2;

/// The longest, in seconds.
const TTL_MAX: i64 = 9_000_000_000;

/// How many free ids are tried for a lease without one.
const ID_ATTEMPTS: usize = 16;

/// Answers to one keep-alive stream that wait for a slow reader.
const ANSWERS: usize = 16;

/// The Lease service.
#[derive(Clone)]
pub(crate) struct LeaseService(pub(crate) Shared);

/// Grants a lease with this id, or with a free one.
pub(crate) async fn grant(
    shared: &Shared,
    keyspace: &Keyspace,
    wanted: Option<LeaseId>,
    ttl: i64,
    actor: String,
) -> Result<(LeaseId, i64), Status> {
    if ttl > TTL_MAX {
        return Err(status::lease_ttl_too_large());
    }
    let ttl = ttl.max(TTL_MIN);
    for _ in 0..ID_ATTEMPTS {
        let random = || LeaseId::new(rand::random::<i64>() & i64::MAX);
        let Some(lease) = wanted.or_else(random) else { continue };
        let effects = vec![Effect::Grant { lease, ttl: ttl.unsigned_abs() }];
        let txn = Txn { effects, actor: actor.clone(), ..Txn::default() };
        match shared.node().txn(keyspace, txn).await {
            Ok(Outcome::Applied(_)) => return Ok((lease, ttl)),
            Ok(_) => return Err(status::timeout()),
            Err(CommitError::Refused(Refusal::LeaseThere { .. })) if wanted.is_none() => {}
            Err(error) => return Err(status::commit(&error)),
        }
    }
    Err(status::lease_exists())
}

/// Ends a lease and removes its keys; many of them take several transactions.
///
/// Returns the revision after the last of them.
pub(crate) async fn revoke(
    shared: &Shared,
    keyspace: &Keyspace,
    lease: LeaseId,
    actor: &str,
) -> Result<Revision, Status> {
    loop {
        let effects = vec![Effect::Revoke { lease }];
        let txn = Txn { effects, actor: actor.into(), ..Txn::default() };
        match shared.node().txn(keyspace, txn).await {
            Ok(Outcome::Applied(done)) if done.succeeded => return Ok(done.revision),
            Ok(Outcome::Applied(_)) => {}
            Ok(_) => return Err(status::timeout()),
            Err(error) => return Err(status::commit(&error)),
        }
    }
}

/// Whole seconds of what is left, as etcd counts them.
fn seconds(left: std::time::Duration) -> i64 {
    i64::try_from(left.as_secs()).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let caller = self.0.caller(&request)?;
        caller.may_propose()?;
        self.0.room(&caller.keyspace)?;
        let request = request.into_inner();
        let granted = grant(&self.0, &caller.keyspace, LeaseId::new(request.id), request.ttl, caller.actor()).await;
        let (lease, ttl) = granted?;
        let header = self.0.header_now(&caller.keyspace);
        Ok(Response::new(pb::LeaseGrantResponse { header, id: lease.get(), ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        // Which keys go with the lease, and who may end those, is asked of a replica that has both.
        let keyspace = self.0.keyspace(request.metadata())?;
        self.0.up_to_date(&keyspace).await?;
        let caller = self.0.caller(&request)?;
        caller.may_propose()?;
        let lease = lease_id(request.into_inner().id)?;
        caller.may_revoke(&self.0.attached(&caller.keyspace, lease)?)?;
        let revision = revoke(&self.0, &caller.keyspace, lease, &caller.actor()).await?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: self.0.header(&caller.keyspace, revision) }))
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let caller = self.0.caller(&request)?;
        caller.writable()?;
        let mut asked = request.into_inner();
        let shared = self.0.clone();
        let (answers, stream) = tokio::sync::mpsc::channel(ANSWERS);
        tokio::spawn(async move {
            while let Some(request) = asked.next().await {
                let answer = match request {
                    Ok(request) => keep_alive(&shared, &caller.keyspace, request.id).await,
                    Err(error) => Err(error),
                };
                let last = answer.is_err();
                if answers.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(stream))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        let found = match LeaseId::new(request.id) {
            Some(lease) => {
                let asked = self.0.node().lease(&caller.keyspace, lease).await;
                asked.map_err(|error| status::read(&error))?.map(|state| (lease, state))
            }
            None => None,
        };
        let header = self.0.header_now(&caller.keyspace);
        let mut response =
            pb::LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..pb::LeaseTimeToLiveResponse::default() };
        if let Some((lease, state)) = found {
            response.ttl = seconds(state.left);
            response.granted_ttl = state.ttl.cast_signed();
            if request.keys {
                response.keys = self.0.attached(&caller.keyspace, lease)?;
                caller.may_list(&response.keys)?;
            }
        }
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let node = self.0.node();
        self.0.up_to_date(&caller.keyspace).await?;
        let leases = node.leases(&caller.keyspace).map_err(|error| status::read(&error))?;
        let leases = leases.into_iter().map(|lease| pb::LeaseStatus { id: lease.get() }).collect();
        let header = self.0.header_now(&caller.keyspace);
        Ok(Response::new(pb::LeaseLeasesResponse { header, leases }))
    }
}

async fn keep_alive(shared: &Shared, keyspace: &Keyspace, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
    let renewed = match LeaseId::new(id) {
        Some(lease) => shared.node().lease_renew(keyspace, lease).await.map_err(|error| status::read(&error))?,
        None => None,
    };
    let ttl = renewed.map_or(0, |state| seconds(state.left));
    Ok(pb::LeaseKeepAliveResponse { header: shared.header_now(keyspace), id, ttl })
}
