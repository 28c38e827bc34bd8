//! All services of the API together.

use axum::{extract::State, http::StatusCode, routing::get};
use etcd_proto::{
    etcdserverpb::{
        auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
        maintenance_server::MaintenanceServer, watch_server::WatchServer,
    },
    v3electionpb::election_server::ElectionServer,
    v3lockpb::lock_server::LockServer,
};
use kv_node::Node;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    Config,
    access::Shared,
    auth::AuthService,
    cluster::ClusterService,
    compactor,
    edge::{self, Edge},
    election::ElectionService,
    express::Express,
    kv::KvService,
    lease::LeaseService,
    lock::LockService,
    maintenance::{MaintenanceService, VERSION},
    members,
    watch::{WatchService, Watching},
};

/// What a request may have beyond the largest that is carried out: so that the refusal is this API's own.
const OVERHEAD_BYTES: usize = 512 * 1024;

/// The largest answer: that of a range of everything.
const ANSWER_BYTES: usize = usize::MAX;

/// All services of the API on one node.
#[derive(Clone)]
pub struct Services(Shared);

impl Services {
    /// Serves from this node. What runs beside the requests ends with `stop`.
    pub fn new(node: Node, config: Config, stop: CancellationToken) -> Self {
        let shared = Shared::new(node, config);
        tokio::spawn(compactor::run(shared.clone(), stop.clone()));
        tokio::spawn(members::announce(shared.clone(), stop));
        Services(shared)
    }

    /// The same for requests to another keyspace if they name none.
    #[must_use]
    pub fn for_keyspace(&self, keyspace: kv_core::Keyspace) -> Self {
        let config = Config { keyspace, ..self.0.config().clone() };
        Services(self.0.with(config))
    }

    /// Adds the gRPC services.
    pub fn add_to(&self, routes: Routes) -> Routes {
        let shared = || self.0.clone();
        let routes = routes
            .add_service(self.kv())
            .add_service(WatchServer::new(WatchService(shared())).max_encoding_message_size(ANSWER_BYTES))
            .add_service(LeaseServer::new(LeaseService(shared())).max_encoding_message_size(ANSWER_BYTES))
            .add_service(AuthServer::new(AuthService(shared())))
            .add_service(ClusterServer::new(ClusterService(shared())))
            .add_service(MaintenanceServer::new(MaintenanceService(shared())))
            .add_service(LockServer::new(LockService(shared())))
            .add_service(ElectionServer::new(ElectionService(shared())));
        let edge = axum::middleware::from_fn_with_state(self.edge(), edge::pass);
        Routes::from(routes.prepare().into_axum_router().layer(edge))
    }

    /// What serves the most frequent requests of a port, in front of its [routes](Services::add_to).
    pub fn express(&self) -> Express {
        Express { kv: self.kv(), edge: self.edge() }
    }

    /// Who watches on this node, whichever port they came by.
    pub fn watching(&self) -> Watching {
        self.0.0.hubs.watching()
    }

    fn kv(&self) -> KvServer<KvService> {
        let kv = KvServer::new(KvService(self.0.clone()));
        kv.max_decoding_message_size(self.request_bytes()).max_encoding_message_size(ANSWER_BYTES)
    }

    fn edge(&self) -> Edge {
        Edge { shared: self.0.clone(), request_bytes: self.request_bytes() }
    }

    /// Bytes of a request that is read at all.
    fn request_bytes(&self) -> usize {
        self.0.config().request_bytes + OVERHEAD_BYTES
    }

    /// Adds what is asked over plain HTTP: JSON for every service of `routes`, `/health` and `/version`.
    pub fn with_http(&self, routes: Routes) -> Result<axum::Router, kv_gateway::GatewayError> {
        let routes = routes.prepare();
        let limits = kv_gateway::Limits { request_bytes_max: self.request_bytes(), ..Default::default() };
        let gateway = kv_gateway::Gateway::with_limits(limits)?.router(routes.clone());
        let own = axum::Router::new().route("/health", get(health)).route("/version", get(version));
        Ok(routes.into_axum_router().merge(gateway).merge(own.with_state(self.0.clone())))
    }
}

/// Whether a linearizable read works, in etcd's form.
async fn health(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    match shared.node().up_to_date(&shared.config().keyspace).await {
        Ok(()) => (StatusCode::OK, r#"{"health":"true","reason":""}"#),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, r#"{"health":"false","reason":"NO LEADER"}"#),
    }
}

/// The version, in etcd's form.
async fn version() -> String {
    format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"3.5.0"}}"#)
}
