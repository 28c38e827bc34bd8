//! A whole server: store, view, services, ports.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kv_core::Keyspace;
use kv_node::{Clock, Node, SystemClock};
use netstate_proto::v1::{
    self as pb, backups_server::BackupsServer, cluster_server::ClusterServer, connections_server::ConnectionsServer,
    endpoints_server::EndpointsServer, hosts_server::HostsServer, networks_server::NetworksServer,
    queries_server::QueriesServer,
};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    execute::Executor,
    forward::{Answers, Parts},
    http, lost,
    metrics::Counts,
    port::{Adopt, Port},
    reconcile,
    services::{Services, backups::Backups, status::Own},
    view::View,
    watch::{self, Hub},
};

/// The largest request: ten thousand endpoints with all that they may carry.
const REQUEST_BYTES: usize = 32 * 1024 * 1024;

/// Connections that wait to be accepted, as far as the system lets (`net.core.somaxconn`). Beyond it clients notice nothing but
/// that it takes a second: all hosts of a server that died come at once.
const BACKLOG: u32 = 16_384;

/// How long requests under way may take when the server stops.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Its part in the store.
    pub node: kv_node::Config,
    /// Where it listens for clients and hosts.
    pub listen_client: SocketAddr,
    /// Where it listens for HTTP.
    pub listen_http: SocketAddr,
    /// How the etcd v3 API is served, on the client port and on `listen_etcd`.
    pub etcd: kv_etcd::Config,
    /// Further ports for that API, each for requests to a keyspace of its own.
    pub listen_etcd: Vec<(SocketAddr, Keyspace)>,
    /// Has spans made of clients' requests, for who listens to [`kv_node::TRACE_TARGET`].
    pub trace: Option<Adopt>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is not to be had.
    #[error("cannot listen for {what} on {address}; is the port taken?")]
    Listen {
        /// For what.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Its part in the store did not start.
    #[error("the store did not start")]
    Node(#[from] kv_node::StartError),
    /// Reflection could not be set up.
    #[error("the compiled API descriptions are unusable")]
    Reflection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// JSON could not be set up.
    #[error("the compiled API descriptions are unusable")]
    Gateway(#[from] kv_etcd::GatewayError),
}

/// A running server.
pub struct Server {
    node: Node,
    stop: CancellationToken,
    client: SocketAddr,
    http: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

fn listen(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    open().map_err(|source| StartError::Listen { what, address, source })
}

impl Server {
    /// Opens the store and the ports.
    pub async fn start(config: ServerConfig) -> Result<Server, StartError> {
        let (client_listener, client) = listen("clients", config.listen_client)?;
        let (http_listener, http) = listen("HTTP", config.listen_http)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let hub = Arc::new(Hub::default());
        let view = Arc::new(View::new(hub.clone()));
        let answers = Arc::new(Answers::default());
        let node = Node::start(config.node, clock.clone(), view.clone(), answers.clone()).await?;
        view.attach(node.clone());
        let executor = Executor::new(node.clone(), view.clone(), clock.clone());
        let own = Arc::new(Own::new(node.clone(), view.clone(), hub.clone(), client));
        answers.attach(Parts {
            node: node.clone(),
            executor: executor.clone(),
            hub: hub.clone(),
            view: view.clone(),
            status: own.clone(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(hub.clone().wake_streams()));
        tokio::spawn(lost::run(node.clone(), view.clone(), executor.clone(), stop.clone()));
        tokio::spawn(reconcile::run(node.clone(), view.clone(), executor.clone(), clock.clone(), stop.clone()));
        let client_url = Some(format!("http://{}", own.client_address()));
        let etcd = kv_etcd::Config { client_url, ..config.etcd };
        let etcd = kv_etcd::Services::new(node.clone(), etcd, stop.clone());
        let counts = Arc::new(Counts::default());
        let services = Services {
            node: node.clone(),
            view,
            executor,
            hub,
            clock,
            own,
            etcd,
            counts,
            relays: Arc::default(),
            stop: stop.clone(),
        };
        let etcd = &services.etcd;
        tokio::spawn(http::serve(http_listener, services.clone(), stop.clone()));
        for (address, keyspace) in config.listen_etcd {
            let (listener, _) = listen("clients of etcd", address)?;
            let etcd = etcd.for_keyspace(keyspace);
            let routes = etcd.add_to(base().await?);
            let router = etcd.with_http(routes)?.merge(http::metrics(services.clone()));
            let port = Port { express: etcd.express(), router, trace: config.trace };
            tokio::spawn(port.serve(listener, stop.clone()));
        }
        let routes = own_api(etcd.add_to(base().await?), &services);
        let router = etcd.with_http(routes)?.merge(http::metrics(services.clone()));
        let router = router.merge(watch::route(services.clone(), REQUEST_BYTES));
        let port = Port { express: etcd.express(), router, trace: config.trace };
        let serving = tokio::spawn(port.serve(client_listener, stop.clone()));
        Ok(Server { node, stop, client, http, serving })
    }

    /// Where clients and hosts connect.
    pub fn client_address(&self) -> SocketAddr {
        self.client
    }

    /// Where HTTP is served.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Resolves when this server must stop, with the reason.
    pub async fn failed(&self) -> String {
        self.node.failed().await
    }

    /// Resolves when the process has to end and start again, to use what was fetched for a repair.
    pub async fn restart_wanted(&self) {
        self.node.restart_wanted().await;
    }

    /// Stops: what it leads goes to others, then no new requests, those under way get a moment, then the store.
    pub async fn shutdown(self) {
        self.node.hand_over_all().await;
        self.stop.cancel();
        // Whoever still waits then finds another server.
        let _ = tokio::time::timeout(STOP_PATIENCE, self.serving).await;
        self.node.shutdown().await;
    }
}

/// What every port for clients has: what there is to be called, and whether it is well.
async fn base() -> Result<Routes, StartError> {
    let service = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(etcd_proto::DESCRIPTORS)
        .build_v1()
        .map_err(|error| StartError::Reflection(error.into()))?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    Ok(Routes::new(service).add_service(health_service))
}

/// Adds this store's own API.
fn own_api(routes: Routes, services: &Services) -> Routes {
    let services = || services.clone();
    routes
        .add_service(NetworksServer::new(services()).max_decoding_message_size(REQUEST_BYTES))
        .add_service(EndpointsServer::new(services()).max_decoding_message_size(REQUEST_BYTES))
        .add_service(ConnectionsServer::new(services()))
        .add_service(HostsServer::new(services()).max_decoding_message_size(REQUEST_BYTES))
        .add_service(QueriesServer::new(services()))
        .add_service(ClusterServer::new(services()))
        .add_service(BackupsServer::new(Backups::new(services())))
}
