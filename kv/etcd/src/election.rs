//! The Election service: a leader, those who would be next, and those who look on.

use bytes::Bytes;
use etcd_proto::v3electionpb::{self as electpb, election_server::Election};
use futures::stream::BoxStream;
use kv_core::{Attach, Compare, KeyRange, LeaseId, Operand, Operation, Outcome, Put, Relation, Txn};
use tonic::{Request, Response, Status};

use crate::{
    access::{Caller, Shared},
    queue::{self, Waiting},
    status, wire,
};

/// Leaders told to one observer that wait for it to read.
const TOLD: usize = 16;

/// The Election service.
#[derive(Clone)]
pub(crate) struct ElectionService(pub(crate) Shared);

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

fn missing() -> Status {
    Status::invalid_argument("\"leader\" field must be provided")
}

impl ElectionService {
    /// Gives the leader's key another value.
    async fn set(
        &self,
        caller: &Caller,
        leader: &electpb::LeaderKey,
        value: Bytes,
    ) -> Result<kv_core::Revision, Status> {
        let request = etcd_proto::etcdserverpb::PutRequest {
            key: leader.key.clone(),
            value: value.clone(),
            lease: leader.lease,
            ..etcd_proto::etcdserverpb::PutRequest::default()
        };
        caller.may_put(&request, &|lease| self.0.attached(&caller.keyspace, lease))?;
        self.0.room(&caller.keyspace)?;
        let compare = Compare {
            range: KeyRange::Key(leader.key.clone()),
            relation: Relation::Equal,
            operand: Operand::CreateRevision(queue::since(leader.rev).get().cast_signed()),
        };
        let lease = LeaseId::new(leader.lease).map_or(Attach::None, Attach::To);
        let put = Put { lease, ..Put::new(leader.key.clone(), value) };
        let txn =
            Txn { compares: vec![compare], then: vec![Operation::Put(put)], actor: caller.actor(), ..Txn::default() };
        match self.0.node().txn(&caller.keyspace, txn).await.map_err(|error| status::commit(&error))? {
            Outcome::Applied(done) if done.succeeded => Ok(done.revision),
            _ => Err(not_leader()),
        }
    }
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        request: Request<electpb::CampaignRequest>,
    ) -> Result<Response<electpb::CampaignResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        self.0.too_large(&request)?;
        let place = queue::enter(&self.0, &caller, &request.name, request.lease, request.value.clone()).await?;
        let waiting = Waiting::new(&self.0, &caller, &place);
        let leader = electpb::LeaderKey {
            name: request.name.clone(),
            key: place.key.clone(),
            rev: wire::revision(place.since),
            lease: place.lease.get(),
        };
        if place.known.as_ref().is_some_and(|known| *known != request.value) {
            self.set(&caller, &leader, request.value).await?;
        }
        let elected = queue::first(&self.0, &caller.keyspace, &request.name, &place).await?;
        waiting.held();
        let header = self.0.header(&caller.keyspace, elected);
        Ok(Response::new(electpb::CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<electpb::ProclaimRequest>,
    ) -> Result<Response<electpb::ProclaimResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        self.0.too_large(&request)?;
        let leader = request.leader.ok_or_else(missing)?;
        let revision = self.set(&caller, &leader, request.value).await?;
        Ok(Response::new(electpb::ProclaimResponse { header: self.0.header(&caller.keyspace, revision) }))
    }

    async fn leader(
        &self,
        request: Request<electpb::LeaderRequest>,
    ) -> Result<Response<electpb::LeaderResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let name = request.into_inner().name;
        caller.may_range(&queue::prefix(&name), &queue::end(&name))?;
        let (holder, revision) = queue::holder(&self.0, &caller.keyspace, &name).await?;
        let holder = holder.ok_or_else(|| Status::unknown("election: no leader"))?;
        let header = self.0.header(&caller.keyspace, revision);
        Ok(Response::new(electpb::LeaderResponse { header, kv: Some(wire::kv(holder)) }))
    }

    type ObserveStream = BoxStream<'static, Result<electpb::LeaderResponse, Status>>;

    async fn observe(&self, request: Request<electpb::LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let caller = self.0.caller(&request)?;
        let name = request.into_inner().name;
        caller.may_range(&queue::prefix(&name), &queue::end(&name))?;
        let (told, stream) = tokio::sync::mpsc::channel(TOLD);
        let shared = self.0.clone();
        tokio::spawn(async move {
            if let Err(error) = observe(&shared, &caller, &name, &told).await {
                // Whoever looked on may have gone.
                let _ = told.send(Err(error)).await;
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(stream))))
    }

    async fn resign(
        &self,
        request: Request<electpb::ResignRequest>,
    ) -> Result<Response<electpb::ResignResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let leader = request.into_inner().leader.ok_or_else(missing)?;
        let revision = queue::leave(&self.0, &caller, &leader.key, Some(queue::since(leader.rev))).await?;
        Ok(Response::new(electpb::ResignResponse { header: self.0.header(&caller.keyspace, revision) }))
    }
}

type Told = tokio::sync::mpsc::Sender<Result<electpb::LeaderResponse, Status>>;

/// Tells every leader, and every value that it proclaims, until the observer goes.
async fn observe(shared: &Shared, caller: &Caller, name: &[u8], told: &Told) -> Result<(), Status> {
    let keyspace = &caller.keyspace;
    let (mut holder, mut revision) = queue::holder(shared, keyspace, name).await?;
    let range = KeyRange::Prefix(queue::prefix(name).into());
    let mut events = shared.0.hubs.subscribe(keyspace, range, revision);
    let mut last = None;
    loop {
        if let Some(kv) = holder.take().filter(|kv| last != Some(kv.state.mod_revision)) {
            last = Some(kv.state.mod_revision);
            let header = shared.header(keyspace, revision);
            if told.send(Ok(electpb::LeaderResponse { header, kv: Some(wire::kv(kv)) })).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            changed = events.next() => drop(changed.map_err(|error| status::watch(&error))?),
            () = told.closed() => return Ok(()),
        }
        shared.again(caller)?.may_range(&queue::prefix(name), &queue::end(name))?;
        (holder, revision) = queue::holder(shared, keyspace, name).await?;
    }
}
