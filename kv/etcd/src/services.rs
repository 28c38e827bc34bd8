//! All services of the API together.

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
    election::ElectionService,
    kv::KvService,
    lease::LeaseService,
    lock::LockService,
    maintenance::{MaintenanceService, VERSION},
    watch::WatchService,
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
        tokio::spawn(compactor::run(shared.clone(), stop));
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
        let limit = self.0.config().request_bytes + OVERHEAD_BYTES;
        let kv = KvServer::new(KvService(shared()));
        routes
            .add_service(kv.max_decoding_message_size(limit).max_encoding_message_size(ANSWER_BYTES))
            .add_service(WatchServer::new(WatchService(shared())).max_encoding_message_size(ANSWER_BYTES))
            .add_service(LeaseServer::new(LeaseService(shared())).max_encoding_message_size(ANSWER_BYTES))
            .add_service(AuthServer::new(AuthService(shared())))
            .add_service(ClusterServer::new(ClusterService(shared())))
            .add_service(MaintenanceServer::new(MaintenanceService(shared())))
            .add_service(LockServer::new(LockService(shared())))
            .add_service(ElectionServer::new(ElectionService(shared())))
    }

    /// The answer to `/health`: whether a linearizable read works, in etcd's form.
    pub async fn health(&self) -> (bool, String) {
        let node = self.0.node();
        let group = node.group_of(&self.0.config().keyspace);
        match node.read_barrier(group).await {
            Ok(()) => (true, r#"{"health":"true"}"#.into()),
            Err(_) => (false, r#"{"health":"false"}"#.into()),
        }
    }

    /// The answer to `/version`, in etcd's form.
    pub fn version(&self) -> String {
        format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"3.5.0"}}"#)
    }
}
