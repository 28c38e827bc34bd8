//! The HTTP port: is it alive, is it ready, how is it doing.

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use kv_node::Node;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{keyspaces::Home, metrics, services::status::Own};

struct Shared {
    node: Node,
    own: Arc<Own>,
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, node: Node, own: Arc<Own>, stop: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Arc::new(Shared { node: node.clone(), own: own.clone() }))
        .merge(metrics(node, own));
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the HTTP port is closed");
    }
}

/// `/metrics`, which clients of etcd look for on their own port.
pub(crate) fn metrics(node: Node, own: Arc<Own>) -> Router {
    Router::new().route("/metrics", get(rendered)).with_state(Arc::new(Shared { node, own }))
}

/// Ready: the directory has a leader, and every replica here may serve.
async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let directory = shared.node.group_of(&Home::Directory.keyspace());
    if shared.node.leader(directory).is_none() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{directory} has no leader\n"));
    }
    match shared.node.status().into_iter().find_map(|group| Some((group.group, group.problem?))) {
        Some((group, problem)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{group}: {problem}\n")),
        None => (StatusCode::OK, "ready\n".into()),
    }
}

async fn rendered(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let report = shared.own.report();
    ::metrics::gauge!(metrics::RESIDENT_BYTES).set(report.resident_bytes as f64);
    ::metrics::gauge!(metrics::DISK_BYTES).set(report.disk_bytes as f64);
    let led = report.groups.iter().filter(|group| group.leader == Some(shared.node.id())).count();
    ::metrics::gauge!(metrics::GROUPS_LED).set(led as f64);
    match metrics::recorder() {
        Some(recorder) => (StatusCode::OK, recorder.render()),
        None => (StatusCode::SERVICE_UNAVAILABLE, "another metrics recorder is installed in this process\n".into()),
    }
}
