//! The short way to keys and values: what is called most reaches its service past the router of all others.
//!
//! A router looks up a path, notes what it found, and boxes and moves the request several times on the way.

use std::convert::Infallible;

use bytes::Bytes;
use etcd_proto::etcdserverpb::kv_server::KvServer;
use futures::{
    FutureExt,
    future::{BoxFuture, Map},
};
use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

use crate::{
    edge::{Edge, RANGE, too_large},
    kv::KvService,
};

const KV: &str = "/etcdserverpb.KV/";

type Answer = Result<Response<Body>, Infallible>;

/// An answer under way.
pub type Served = Map<BoxFuture<'static, Answer>, fn(Answer) -> Answer>;

/// Serves the requests to the KV service among those to a port. Cheap to clone.
#[derive(Clone)]
pub struct Express {
    pub(crate) kv: KvServer<KvService>,
    pub(crate) edge: Edge,
}

impl Express {
    /// Serves a request; gives it back if it is for another service.
    #[expect(clippy::result_large_err, reason = "it is no error, and most requests are served")]
    pub fn serve<B>(&self, request: Request<B>) -> Result<Served, Request<B>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let path = request.uri().path();
        if !path.starts_with(KV) {
            return Err(request);
        }
        let mut kv = self.kv.clone();
        let served = if path == RANGE {
            let edge = self.edge.clone();
            Box::pin(async move {
                match edge.range(request).await {
                    Ok(answer) => Ok(answer),
                    Err(request) => kv.call(request).await,
                }
            })
        } else {
            kv.call(request)
        };
        Ok(served.map(too_large_answer as fn(Answer) -> Answer))
    }
}

fn too_large_answer(answer: Answer) -> Answer {
    answer.map(too_large)
}
