//! The KV service: reads, writes, transactions, compaction.

use std::time::Duration;

use etcd_proto::etcdserverpb::{self as pb, kv_server::Kv};
use futures::stream::BoxStream;
use kv_core::{Answered, Done, KeyRange, Keyspace, LeaseId, Operation, Outcome, Query, Revision, Txn};
use kv_node::Consistency;
use tonic::{Request, Response, Status};

use crate::{
    access::{Caller, STALENESS, Shared},
    compacted, status, wire,
};

/// Keys of one part of a streamed range, and how many parts wait for a slow reader.
const PART_KEYS: usize = 1000;
const PARTS: usize = 2;

/// How long a compaction that is to free the space before it is answered may take.
const PHYSICAL_PATIENCE: Duration = Duration::from_secs(60);

/// The KV service.
#[derive(Clone)]
pub(crate) struct KvService(pub(crate) Shared);

impl KvService {
    async fn transact(
        &self,
        caller: &Caller,
        txn: Txn,
        may: impl Fn(&Caller) -> Result<(), Status>,
    ) -> Result<(Answered, Revision), Status> {
        let answered = self.0.transact(caller, txn, may).await?.map_err(|error| status::commit(&error))?;
        match answered.outcome {
            Outcome::Applied(done) | Outcome::Repeated(done) => Ok((answered, done.revision)),
            Outcome::Stale { .. } | Outcome::Elsewhere { .. } => Err(status::timeout()),
        }
    }

    async fn one(
        &self,
        caller: &Caller,
        operation: Operation,
        may: impl Fn(&Caller) -> Result<(), Status>,
    ) -> Result<(Done, Revision), Status> {
        let txn = Txn { then: vec![operation], actor: caller.actor(), ..Txn::default() };
        let (mut answered, revision) = self.transact(caller, txn, may).await?;
        Ok((answered.done.pop().ok_or_else(status::timeout)?, revision))
    }

    async fn lease_missing(&self, keyspace: &Keyspace, lease: i64) -> Option<Status> {
        let known = self.0.node().lease(keyspace, LeaseId::new(lease)?).await;
        matches!(known, Ok(None)).then(status::lease_not_found)
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let query = wire::query(&request)?;
        let staleness = self.0.fresh(&metadata, request.serializable).await?;
        let caller = self.0.caller_of(&metadata)?;
        caller.may_range(&request.key, &request.range_end)?;
        let read = self.0.node().query(&caller.keyspace, &query, Consistency::Serializable).await;
        let mut found = read.map_err(|error| status::read(&error))?;
        if query.at.is_some() {
            found.revision = self.0.node().head(&caller.keyspace).revision;
        }
        let header = self.0.header(&caller.keyspace, found.revision);
        let mut response = Response::new(wire::range_response(found, header));
        if let Some(staleness) = staleness {
            response.metadata_mut().insert(STALENESS, staleness.into());
        }
        Ok(response)
    }

    type RangeStreamStream = BoxStream<'static, Result<pb::RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let query = wire::query(&request)?;
        let staleness = self.0.fresh(&metadata, request.serializable).await?;
        let caller = self.0.caller_of(&metadata)?;
        caller.may_range(&request.key, &request.range_end)?;
        if !query.in_key_order() || query.order.descending || query.want == kv_core::Want::Count {
            let text = "a streamed range comes by key, ascending and whole; use Range to sort, filter or count";
            return Err(Status::invalid_argument(text));
        }
        let node = self.0.node().clone();
        let turn = self.0.long_read()?;
        let pages = node.pages(&caller.keyspace, &query, PART_KEYS).map_err(|error| status::read(&error))?;
        let header = self.0.header_now(&caller.keyspace);
        let (parts, stream) = tokio::sync::mpsc::channel(PARTS);
        tokio::task::spawn_blocking(move || {
            let (_turn, mut header, mut pages) = (turn, header, pages);
            loop {
                let part = match pages.next() {
                    Ok(Some(found)) => {
                        let range_response = Some(wire::range_response(found, header.take()));
                        Ok(pb::RangeStreamResponse { range_response })
                    }
                    Ok(None) => return,
                    Err(error) => Err(status::read(&error)),
                };
                let last = part.is_err();
                // Whoever reads may have gone.
                if parts.blocking_send(part).is_err() || last {
                    return;
                }
            }
        });
        let parts: Self::RangeStreamStream = Box::pin(tokio_stream::wrappers::ReceiverStream::new(stream));
        let mut response = Response::new(parts);
        if let Some(staleness) = staleness {
            response.metadata_mut().insert(STALENESS, staleness.into());
        }
        Ok(response)
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        let put = wire::put(&request)?;
        let may = |caller: &Caller| {
            caller.may_put(&request, &|lease| self.0.attached(&caller.keyspace, lease))?;
            self.0.too_large(&request)?;
            self.0.room(&caller.keyspace)
        };
        let written = self.one(&caller, Operation::Put(put), may).await;
        let (done, revision) = match written {
            // Of what is missing etcd names the lease first here, and the key first in transactions.
            Err(missing) if missing.message() == status::key_not_found().message() => {
                return Err(self.lease_missing(&caller.keyspace, request.lease).await.unwrap_or(missing));
            }
            other => other?,
        };
        let header = self.0.header(&caller.keyspace, revision);
        Ok(Response::new(wire::put_response(done, header, &request.key)))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        let delete = wire::delete(&request)?;
        let may = |caller: &Caller| {
            caller.may_delete(&request)?;
            self.0.too_large(&request)
        };
        let (done, revision) = self.one(&caller, Operation::Delete(delete), may).await?;
        let header = self.0.header(&caller.keyspace, revision);
        Ok(Response::new(wire::delete_response(done, header)))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let caller = self.0.caller_of(&metadata)?;
        let compacted = compacted::revision(&self.0, &caller.keyspace).map_err(|error| status::read(&error))?;
        let branches = wire::branches(&request, self.0.config().txn_operations, compacted)?;
        if [&branches.then, &branches.otherwise].into_iter().any(|branch| kv_core::written_twice(branch).is_some()) {
            return Err(status::duplicate_key());
        }
        let writes = branches.then.iter().chain(&branches.otherwise).any(Operation::writes);
        let may = |caller: &Caller| {
            caller.may_txn(&request, writes, &|lease| self.0.attached(&caller.keyspace, lease))?;
            if !writes {
                return Ok(());
            }
            self.0.too_large(&request)?;
            let puts = branches.then.iter().chain(&branches.otherwise).any(puts);
            if puts { self.0.room(&caller.keyspace) } else { Ok(()) }
        };
        let (compares, then, otherwise) =
            (branches.compares.clone(), branches.then.clone(), branches.otherwise.clone());
        let txn = Txn { compares, then, otherwise, actor: caller.actor(), ..Txn::default() };
        let mut read = None;
        if !writes {
            if !only_serializable(&request) {
                self.0.up_to_date(&caller.keyspace).await?;
            }
            may(&self.0.again(&caller)?)?;
            read = self.0.node().read_only(&caller.keyspace, &txn).map_err(|error| status::commit(&error))?;
        }
        let (answered, revision) = match read {
            Some(answered) => {
                let revision = match answered.outcome {
                    Outcome::Applied(done) | Outcome::Repeated(done) => done.revision,
                    Outcome::Stale { head } => head,
                    Outcome::Elsewhere { .. } => return Err(status::timeout()),
                };
                (answered, revision)
            }
            None => self.transact(&caller, txn, may).await?,
        };
        let succeeded = matches!(answered.outcome, Outcome::Applied(done) | Outcome::Repeated(done) if done.succeeded);
        let taken = if succeeded { &branches.then } else { &branches.otherwise };
        let responses = wire::responses(answered.done, taken);
        let header = self.0.header(&caller.keyspace, revision);
        Ok(Response::new(pb::TxnResponse { header, succeeded, responses }))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        caller.may_propose()?;
        let txn = Txn { actor: caller.actor(), ..compacted::change(&self.0, &caller.keyspace, request.revision)? };
        let (_, revision) = self.transact(&caller, txn, Caller::may_propose).await?;
        if request.physical {
            let freed = tokio::time::timeout(PHYSICAL_PATIENCE, self.0.node().reclaimed());
            freed.await.map_err(|_| status::timeout())?;
        }
        let header = self.0.header(&caller.keyspace, revision);
        Ok(Response::new(pb::CompactionResponse { header }))
    }
}

fn puts(operation: &Operation) -> bool {
    let mut found = false;
    operation.visit(&mut |inner| found |= matches!(inner, Operation::Put(_)));
    found
}

/// Whether all reads of a transaction are content with the local replica.
fn only_serializable(request: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        Some(Request::RequestTxn(txn)) => only_serializable(txn),
        _ => false,
    })
}

/// A read of everything below a prefix, sorted by when it was created.
pub(crate) async fn by_creation(
    shared: &Shared,
    keyspace: &Keyspace,
    prefix: &[u8],
    limit: usize,
    descending: bool,
    newest: Option<Revision>,
) -> Result<kv_core::RangeResult, Status> {
    let order = kv_core::Order { by: kv_core::SortBy::Create, descending };
    let range = KeyRange::Prefix(bytes::Bytes::copy_from_slice(prefix));
    let query = Query { order, limit: Some(limit), created: (None, newest), ..Query::all(range) };
    let read = shared.node().query(keyspace, &query, Consistency::Linearizable).await;
    read.map_err(|error| status::read(&error))
}
