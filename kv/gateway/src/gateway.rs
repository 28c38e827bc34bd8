//! The paths, and what answers on them.

use std::{collections::HashMap, sync::Arc};

use axum::{Router, body::Body, extract::State, response::Response, routing::any};
use bytes::Bytes;
use http::{Method as HttpMethod, StatusCode};
use prost_reflect::{DescriptorError, DescriptorPool};
use tonic::Status;
use tower::{BoxError, ServiceExt as _};

use crate::{
    Limits,
    exchange::Exchange,
    failure,
    rpc::{Method, Service},
    table::{PREFIXES, ROWS},
};

/// Why there can be no gateway: the program was built with proto files that its paths don't fit.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The descriptors are damaged.
    #[error("the descriptors of the services can't be read")]
    Descriptors(#[source] DescriptorError),
    /// A path stands for a method that no service has.
    #[error("there is no method {method} of a service {service}")]
    MethodMissing {
        /// The full name of the service.
        service: &'static str,
        /// The name of the method.
        method: &'static str,
    },
}

/// JSON over HTTP for the services of the etcd v3 API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// By path, without the prefix.
    methods: Arc<HashMap<&'static str, Method>>,
    limits: Limits,
}

impl Gateway {
    /// A gateway with the default limits.
    pub fn new() -> Result<Self, GatewayError> {
        Self::with_limits(Limits::default())
    }

    /// A gateway with these limits.
    pub fn with_limits(limits: Limits) -> Result<Self, GatewayError> {
        let pool = DescriptorPool::decode(etcd_proto::DESCRIPTORS).map_err(GatewayError::Descriptors)?;
        let method_of = |service, method| {
            let described =
                pool.get_service_by_name(service)?.methods().find(|described| described.name() == method)?;
            Method::new(&described)
        };
        let methods = ROWS.iter().map(|&(path, service, method)| match method_of(service, method) {
            Some(described) => Ok((path, described)),
            None => Err(GatewayError::MethodMissing { service, method }),
        });
        Ok(Self { methods: Arc::new(methods.collect::<Result<_, _>>()?), limits })
    }

    /// Routes of everything under `/v3/` and `/v3beta/`, in front of a service that speaks gRPC, such as
    /// [`tonic::service::Routes`] or [`tonic::transport::Channel`].
    ///
    /// The service gets the extensions of the HTTP request, so it knows the peer. A method that it doesn't have is
    /// answered as unimplemented.
    pub fn router<S, B>(&self, service: S) -> Router
    where
        S: tower::Service<http::Request<tonic::body::Body>, Response = http::Response<B>>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = service
            .map_response(|response| response.map(tonic::body::Body::new))
            .map_err(|cause| Status::from_error(cause.into()));
        let mounted = Mounted { gateway: self.clone(), service: Service::new(service) };
        let routes = PREFIXES.iter().fold(Router::new(), |routes, prefix| {
            routes.route(prefix, any(Mounted::answer)).route(&format!("{prefix}{{*path}}"), any(Mounted::answer))
        });
        routes.with_state(mounted)
    }

    fn method(&self, path: &str) -> Option<&Method> {
        let path = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix))?;
        self.methods.get(path)
    }
}

/// A gateway with the service behind it.
#[derive(Clone)]
struct Mounted {
    gateway: Gateway,
    service: Service,
}

impl Mounted {
    async fn answer(State(mounted): State<Self>, request: http::Request<Body>) -> Response {
        let Some(method) = mounted.gateway.method(request.uri().path()) else {
            return failure::not_a_call(StatusCode::NOT_FOUND);
        };
        if request.method() != HttpMethod::POST {
            return failure::not_a_call(StatusCode::METHOD_NOT_ALLOWED);
        }
        match Exchange::new(request, method, &mounted.gateway.limits) {
            Ok(exchange) => exchange.run(mounted.service).await,
            Err(status) => failure::whole(&status),
        }
    }
}
