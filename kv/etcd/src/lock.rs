//! The Lock service: one holder at a time, in the order in which they came.

use bytes::Bytes;
use etcd_proto::v3lockpb::{self as lockpb, lock_server::Lock};
use tonic::{Request, Response, Status};

use crate::{access::Shared, queue};

/// The Lock service.
#[derive(Clone)]
pub(crate) struct LockService(pub(crate) Shared);

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<lockpb::LockRequest>) -> Result<Response<lockpb::LockResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        let place = queue::enter(&self.0, &caller, &request.name, request.lease, Bytes::new()).await?;
        let waiting = Waiting { shared: self.0.clone(), caller, key: Some(place.key.clone()) };
        let held = queue::first(&self.0, &waiting.caller.keyspace, &request.name, &place).await?;
        let header = self.0.header(&waiting.caller.keyspace, held);
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

/// Somebody in line. If they go before they are first, so does their key: nobody should wait for it.
struct Waiting {
    shared: Shared,
    caller: crate::access::Caller,
    key: Option<Bytes>,
}

impl Waiting {
    fn held(mut self) {
        self.key = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let (shared, keyspace) = (self.shared.clone(), self.caller.keyspace.clone());
        tokio::spawn(async move {
            let then = vec![kv_core::Operation::delete(kv_core::KeyRange::Key(key))];
            // Should it fail, the lease's end removes the key.
            let _ = shared.node().txn(&keyspace, kv_core::Txn { then, ..kv_core::Txn::default() }).await;
        });
    }
}
