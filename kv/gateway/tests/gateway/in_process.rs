//! What only the gateway itself can be asked: when it calls, what it passes on, and when it lets go.
//!
//! The service behind it is called as a value, with no etcd and no network in between.

use std::sync::Arc;

use anyhow::Context as _;
use axum::{Router, body::Body};
use etcd_proto::etcdserverpb::{
    self as pb,
    lease_server::{Lease, LeaseServer},
};
use http::{Request as HttpRequest, StatusCode};
use http_body_util::BodyExt as _;
use kv_gateway::{Gateway, Limits};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, service::Routes};
use tower::ServiceExt as _;

use crate::support::{PATIENCE, Served, http::Exchange};

/// Answers a message for each request, and knows how many calls it is in.
#[derive(Clone)]
struct Leases {
    calls: Arc<watch::Sender<usize>>,
}

/// One call that is going on.
struct Ongoing(Arc<watch::Sender<usize>>);

impl Leases {
    fn new() -> (Self, watch::Receiver<usize>) {
        let (calls, seen) = watch::channel(0);
        (Self { calls: Arc::new(calls) }, seen)
    }

    fn begin(&self) -> Ongoing {
        self.calls.send_modify(|calls| *calls += 1);
        Ongoing(self.calls.clone())
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Lease for Leases {
    /// Tells what came with the request.
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let mut told: Vec<String> = Vec::new();
        for key in ["authorization", "x", "content-type", "grpc-timeout"] {
            if let Some(value) = request.metadata().get(key) {
                told.push(format!("{key}={}", value.to_str().unwrap_or("?")));
            }
        }
        told.extend(request.extensions().get::<Peer>().map(|peer| format!("peer={}", peer.0)));
        let mut response =
            Response::new(pb::LeaseGrantResponse { id: i64::MIN, error: told.join(" "), ..Default::default() });
        response.metadata_mut().insert("y", "z".parse().map_err(|_| Status::internal("y"))?);
        Ok(response)
    }

    /// Never answers.
    async fn lease_revoke(
        &self,
        _request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let _ongoing = self.begin();
        std::future::pending().await
    }

    type LeaseKeepAliveStream = Answers<pb::LeaseKeepAliveResponse>;

    /// One answer a request; an id below zero is a failure.
    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (mut requests, ongoing) = (request.into_inner(), self.begin());
        let (answers, receiver) = mpsc::channel(1);
        let echo = async move {
            while let Some(request) = requests.message().await? {
                if request.id < 0 {
                    return Err(Status::unavailable("etcdserver: no leader"));
                }
                let answer = pb::LeaseKeepAliveResponse { id: request.id, ..Default::default() };
                let _ = answers.send(Ok(answer)).await;
            }
            Ok(())
        };
        let failures = futures::stream::once(echo).filter_map(|done: Result<(), Status>| done.err().map(Err));
        let answers = ReceiverStream::new(receiver).merge(failures).map(move |answer| {
            let _ = &ongoing;
            answer
        });
        Ok(Response::new(Box::pin(answers)))
    }

    /// Answers with more than the client may be sent.
    async fn lease_time_to_live(
        &self,
        _request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        Ok(Response::new(pb::LeaseTimeToLiveResponse { keys: vec![vec![0; 5000].into()], ..Default::default() }))
    }

    async fn lease_leases(
        &self,
        _request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        Err(Status::not_found(""))
    }
}

/// Something that a server knows of a connection.
#[derive(Clone)]
struct Peer(&'static str);

fn router(leases: Leases) -> anyhow::Result<Router> {
    let limits = Limits { request_bytes_max: 3000, answer_bytes_max: 4000 };
    let routes = Routes::new(LeaseServer::new(leases));
    // Both on one port, as they are mounted.
    Ok(routes.clone().into_axum_router().merge(Gateway::with_limits(limits)?.router(routes)))
}

async fn post(
    router: &Router,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<(StatusCode, Value)> {
    let mut request = HttpRequest::post(path).extension(Peer("me"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = timeout(PATIENCE, router.clone().oneshot(request.body(Body::from(body.to_owned()))?)).await??;
    let status = response.status();
    if status.is_success() && path.ends_with("grant") {
        assert_eq!(response.headers().get("grpc-metadata-y").and_then(|value| value.to_str().ok()), Some("z"));
    }
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, serde_json::from_slice(&body)?))
}

#[tokio::test]
async fn headers_become_metadata_and_the_peer_is_known() -> anyhow::Result<()> {
    let (leases, _) = Leases::new();
    let router = router(leases)?;
    let headers = [
        ("Authorization", "token"),
        ("Grpc-Metadata-X", "1"),
        ("Grpc-Metadata-Content-Type", "text/html"),
        ("Grpc-Timeout", "1M"),
        ("X", "2"),
    ];
    let (status, body) = post(&router, "/v3/lease/grant", &headers, "{}").await?;
    let told = "authorization=token x=1 content-type=application/grpc peer=me";
    assert_eq!((status, body), (StatusCode::OK, json!({"ID": "-9223372036854775808", "error": told})));
    Ok(())
}

#[tokio::test]
async fn failures_without_words_and_missing_services_have_codes() -> anyhow::Result<()> {
    let (leases, _) = Leases::new();
    let router = router(leases)?;
    assert_eq!(post(&router, "/v3/lease/leases", &[], "{}").await?, (StatusCode::NOT_FOUND, json!({"code": 5})));
    assert_eq!(post(&router, "/v3/kv/range", &[], "{}").await?, (StatusCode::NOT_IMPLEMENTED, json!({"code": 12})));
    let (status, body) = post(&router, "/v3/watch", &[], "{}").await?;
    assert_eq!((status, &body["error"]["grpc_code"]), (StatusCode::NOT_IMPLEMENTED, &json!(12)));
    Ok(())
}

#[tokio::test]
async fn messages_are_limited_in_both_directions() -> anyhow::Result<()> {
    let (leases, _) = Leases::new();
    let router = router(leases)?;
    let (status, _) = post(&router, "/v3/lease/timetolive", &[], "{}").await?;
    assert!(!status.is_success());
    let name = |length: usize| format!(r#"{{"name":"{}"}}"#, "a".repeat(length));
    let (status, body) = post(&router, "/v3/auth/user/add", &[], &name(3001)).await?;
    let expected = "grpc: received message larger than max (3004 vs. 3000)";
    assert_eq!((status, &body["error"]), (StatusCode::TOO_MANY_REQUESTS, &json!(expected)));
    let (status, body) = post(&router, "/v3/auth/user/add", &[], &name(100_000)).await?;
    let expected = "json: message larger than max (69536 bytes)";
    assert_eq!((status, &body["error"]), (StatusCode::TOO_MANY_REQUESTS, &json!(expected)));
    let (status, _) = post(&router, "/v3/auth/user/add", &[], &name(2000)).await?;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "it is passed on");
    Ok(())
}

#[tokio::test]
async fn requests_and_answers_take_turns_on_one_connection() -> anyhow::Result<()> {
    let (leases, mut calls) = Leases::new();
    let served = Served::new(router(leases)?).await?;
    let mut exchange = Exchange::open(served.address, "POST", "/v3/lease/keepalive", &[], None).await?;
    exchange.write(r#"{"ID":"#).await?;
    exchange.write(r#"1} {"ID""#).await?;
    assert_eq!(exchange.head().await?.0, 200);
    assert_eq!(exchange.next().await?, Some(json!({"result": {"ID": "1"}})));
    exchange.write(r#":2}"#).await?;
    assert_eq!(exchange.next().await?, Some(json!({"result": {"ID": "2"}})));
    exchange.write(r#"{"ID":-1}"#).await?;
    let failure = json!({"error": {
        "grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader", "http_status": "Service Unavailable",
    }});
    assert_eq!(exchange.next().await?, Some(failure));
    assert_eq!(exchange.next().await?, None);
    ended(&mut calls).await
}

#[tokio::test]
async fn a_mistake_in_a_stream_ends_the_requests() -> anyhow::Result<()> {
    let (leases, mut calls) = Leases::new();
    let served = Served::new(router(leases)?).await?;
    let mut exchange = Exchange::open(served.address, "POST", "/v3/lease/keepalive", &[], None).await?;
    exchange.write(r#"{"ID":1}{"ID":true}{"ID":3}"#).await?;
    assert_eq!(exchange.head().await?.0, 200);
    assert_eq!(exchange.next().await?, Some(json!({"result": {"ID": "1"}})));
    assert_eq!(exchange.next().await?, None);
    ended(&mut calls).await
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_call() -> anyhow::Result<()> {
    let (leases, mut calls) = Leases::new();
    let served = Served::new(router(leases)?).await?;
    let body = Some(b"{}".as_slice());
    let unary = Exchange::open(served.address, "POST", "/v3/lease/revoke", &[], body).await?;
    let mut stream = Exchange::open(served.address, "POST", "/v3/lease/keepalive", &[], None).await?;
    stream.write(r#"{"ID":1}"#).await?;
    stream.head().await?;
    timeout(PATIENCE, calls.wait_for(|calls| *calls == 2)).await.context("not both calls have begun")??;
    drop((unary, stream));
    ended(&mut calls).await
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_dropped() -> anyhow::Result<()> {
    let (leases, mut calls) = Leases::new();
    let router = router(leases)?;
    let (status, body) = post(&router, "/v3/lease/revoke", &[("Grpc-Timeout", "50m")], "{}").await?;
    assert_eq!((status, &body["error"]), (StatusCode::GATEWAY_TIMEOUT, &json!("context deadline exceeded")));
    ended(&mut calls).await?;

    // What is late before it begins isn't begun, however fast it would be.
    let (status, body) = post(&router, "/v3/lease/grant", &[("Grpc-Timeout", "1n")], "{}").await?;
    assert_eq!((status, &body["error"]), (StatusCode::GATEWAY_TIMEOUT, &json!("context deadline exceeded")));

    // After the first answer the status is out, so the failure is the last chunk.
    let served = Served::new(router).await?;
    let headers = [("Grpc-Timeout", "1S")];
    let mut exchange = Exchange::open(served.address, "POST", "/v3/lease/keepalive", &headers, None).await?;
    exchange.write(r#"{"ID":1}"#).await?;
    assert_eq!(exchange.head().await?.0, 200);
    assert_eq!(exchange.next().await?, Some(json!({"result": {"ID": "1"}})));
    let failure = exchange.next().await?.context("no failure")?;
    assert_eq!(failure["error"]["grpc_code"], json!(4));
    assert_eq!(exchange.next().await?, None);
    ended(&mut calls).await
}

/// Waits until the service is in no call.
async fn ended(calls: &mut watch::Receiver<usize>) -> anyhow::Result<()> {
    let all_ended = timeout(PATIENCE, calls.wait_for(|calls| *calls == 0)).await;
    all_ended.with_context(|| "a call goes on".to_owned())??;
    Ok(())
}
