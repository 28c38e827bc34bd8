//! The HTTP port: is it alive, is it ready, how is it doing.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{keyspaces::Home, metrics::page, services::Services};

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, services: Services, stop: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(services.clone())
        .merge(metrics(services));
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the HTTP port is closed");
    }
}

/// `/metrics`, which clients of etcd look for on their own port.
pub(crate) fn metrics(services: Services) -> Router {
    Router::new().route("/metrics", get(scraped)).with_state(services)
}

/// Ready: the directory has a leader, and every replica here may serve.
async fn ready(State(services): State<Services>) -> (StatusCode, String) {
    let node = &services.node;
    let directory = node.group_of(&Home::Directory.keyspace());
    if node.leader(directory).is_none() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{directory} has no leader\n"));
    }
    match node.status().into_iter().find_map(|group| Some((group.group, group.problem?))) {
        Some((group, problem)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{group}: {problem}\n")),
        None => (StatusCode::OK, "ready\n".into()),
    }
}

async fn scraped(State(services): State<Services>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, page::CONTENT_TYPE)], services.scrape().await)
}
