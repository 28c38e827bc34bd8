//! The Lock service: one holder at a time, in the order in which they came.

use bytes::Bytes;
use etcd_proto::v3lockpb::{self as lockpb, lock_server::Lock};
use tonic::{Request, Response, Status};

use crate::{
    access::Shared,
    queue::{self, Waiting},
};

/// The Lock service.
#[derive(Clone)]
pub(crate) struct LockService(pub(crate) Shared);

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<lockpb::LockRequest>) -> Result<Response<lockpb::LockResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        self.0.too_large(&request)?;
        let place = queue::enter(&self.0, &caller, &request.name, request.lease, Bytes::new()).await?;
        let waiting = Waiting::new(&self.0, &caller, &place);
        let held = queue::first(&self.0, &caller.keyspace, &request.name, &place).await?;
        let header = self.0.header(&caller.keyspace, held);
        waiting.held();
        Ok(Response::new(lockpb::LockResponse { header, key: place.key }))
    }

    async fn unlock(
        &self,
        request: Request<lockpb::UnlockRequest>,
    ) -> Result<Response<lockpb::UnlockResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let revision = queue::leave(&self.0, &caller, &request.into_inner().key, None).await?;
        Ok(Response::new(lockpb::UnlockResponse { header: self.0.header(&caller.keyspace, revision) }))
    }
}
