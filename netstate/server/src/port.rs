//! One port for clients: its connections, and which service each request goes to.
//!
//! Must hold: whatever a client sends, the port stays open; a connection that is not answered on is closed.

use std::{convert::Infallible, pin::pin, sync::Arc};

use axum::Router;
use futures::{
    FutureExt,
    future::{Either, Map},
};
use hyper::{HeaderMap, Request, Response, body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use kv_etcd::{Express, Served};
use kv_node::TRACE_TARGET;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service as _;
use tracing::{Instrument as _, Span, instrument::Instrumented};

use crate::gather::Gathering;

/// Requests and streams on one connection.
const STREAMS_PER_CONNECTION: u32 = 1024;

/// What one client connection may have on its way to this server, per stream and in all.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(10);

/// Connections that have asked for nothing yet, at a time: when thousands come at once, those that are there are served
/// between them. One that asks for nothing makes way for others after a while, so 640 of those are taken in a second.
const NEWCOMERS: usize = 64;
const NEWCOMER_PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);

/// After an accept that failed, such as for want of file descriptors.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// What is served on a port. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Port {
    /// What is asked for most.
    pub(crate) express: Express,
    /// Everything else.
    pub(crate) router: Router,
    /// Who traces requests, if somebody does.
    pub(crate) trace: Option<Adopt>,
}

/// Gives a request's span what its client sent along of its own trace.
pub type Adopt = fn(&HeaderMap, &Span);

type Routed = Map<axum::routing::future::RouteFuture<Infallible>, fn(RouterAnswer) -> Answer>;
type RouterAnswer = Result<axum::response::Response, Infallible>;
type Answer = Result<Response<Body>, Infallible>;

/// One connection: the port, and its place among newcomers until it asks for something.
struct Connection {
    port: Port,
    newcomer: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Service<Request<Incoming>> for Connection {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Either<Served, Routed>, Instrumented<Either<Served, Routed>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.newcomer.lock().take();
        self.port.call(request)
    }
}

impl Port {
    fn call(&self, request: Request<Incoming>) -> <Connection as Service<Request<Incoming>>>::Future {
        let Some(adopt) = self.trace else { return Either::Left(self.route(request)) };
        let path = request.uri().path();
        let span = tracing::debug_span!(target: TRACE_TARGET, "request", otel.name = path, otel.kind = "server");
        adopt(request.headers(), &span);
        Either::Right(self.route(request).instrument(span))
    }

    fn route(&self, request: Request<Incoming>) -> Either<Served, Routed> {
        match self.express.serve(request) {
            Ok(served) => Either::Left(served),
            Err(request) => {
                let routed = self.router.clone().call(request.map(axum::body::Body::new));
                Either::Right(routed.map(answer as fn(RouterAnswer) -> Answer))
            }
        }
    }
}

fn answer(answer: RouterAnswer) -> Answer {
    answer.map(|response| response.map(Body::new))
}

impl Port {
    /// Serves until `stop`, and then until what is under way is done.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        let newcomers = Arc::new(Semaphore::new(NEWCOMERS));
        let next = async || {
            let place = newcomers.clone().acquire_owned().await.map_err(std::io::Error::other)?;
            listener.accept().await.map(|(stream, _)| (stream, place))
        };
        loop {
            let accepted = tokio::select! {
                accepted = next() => accepted,
                // Those that have ended are forgotten.
                Some(_) = connections.join_next() => continue,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, place)) => {
                    let newcomer = Arc::new(Mutex::new(Some(place)));
                    let connection = Connection { port: self.clone(), newcomer };
                    drop(connections.spawn(connection.serve(stream, stop.clone())));
                }
                Err(error) => {
                    tracing::warn!(%error, "a client could not connect");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        connections.join_all().await;
    }
}

impl Connection {
    async fn serve(self, stream: TcpStream, stop: CancellationToken) {
        // Without it answers come later, and as they should.
        let _ = stream.set_nodelay(true);
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let newcomer = self.newcomer.clone();
        let mut connection = pin!(builder.serve_connection(TokioIo::new(Gathering::new(stream)), self));
        let makes_way = async {
            tokio::time::sleep(NEWCOMER_PATIENCE).await;
            drop(newcomer.lock().take());
            std::future::pending().await
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            never = makes_way => never,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a client's connection broke");
        }
    }
}
