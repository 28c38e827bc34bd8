//! The client against servers that refuse, stall, vanish and come back.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use netstate_client::{Client, ClientError, Options, Retry, WatchEvent};
use netstate_proto::v1::{
    self as pb,
    host_report::{Hello, Report},
    hosts_server::{Hosts, HostsServer},
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};

/// When a full server wants to see a host again: far longer than the first pause of a client.
const COME_BACK: Duration = Duration::from_millis(700);

/// What a server does with a registration.
#[derive(Clone, Copy)]
enum Manner {
    Answers,
    Refuses,
    IsAway,
    /// Takes the change and never answers.
    Stalls,
    /// Has too many hosts to watch, and says when to come back.
    IsFull,
}

/// A server of hosts only, and what it was told.
#[derive(Clone)]
struct Host {
    manner: Arc<Mutex<Manner>>,
    request_ids: Arc<Mutex<Vec<String>>>,
    relays: Arc<Mutex<Vec<pb::Relay>>>,
    cluster: Arc<Mutex<String>>,
    /// How often a host came to watch.
    watches: watch::Sender<usize>,
    reports: mpsc::Sender<Report>,
}

#[tonic::async_trait]
impl Hosts for Host {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::ScopeFrame, Status>> + Send>>;

    async fn register_host(
        &self,
        request: Request<pb::RegisterHostRequest>,
    ) -> Result<Response<pb::RegisterHostResponse>, Status> {
        let manner = *self.manner.lock().unwrap();
        if !matches!(manner, Manner::IsAway) {
            self.request_ids.lock().unwrap().push(request.into_inner().origin.unwrap_or_default().request_id);
        }
        match manner {
            Manner::Answers => Ok(Response::new(pb::RegisterHostResponse::default())),
            Manner::Refuses => Err(Status::failed_precondition("host refused: its address is taken")),
            Manner::IsAway | Manner::IsFull => Err(Status::unavailable("no leader")),
            Manner::Stalls => std::future::pending().await,
        }
    }

    async fn list_hosts(&self, _: Request<pb::ListHostsRequest>) -> Result<Response<pb::ListHostsResponse>, Status> {
        Ok(Response::new(pb::ListHostsResponse::default()))
    }

    async fn delete_host(&self, _: Request<pb::DeleteHostRequest>) -> Result<Response<pb::DeleteHostResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn set_host_policy(
        &self,
        _: Request<pb::SetHostPolicyRequest>,
    ) -> Result<Response<pb::SetHostPolicyResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn find_relays(&self, _: Request<pb::FindRelaysRequest>) -> Result<Response<pb::FindRelaysResponse>, Status> {
        let relays = self.relays.lock().unwrap().clone();
        Ok(Response::new(pb::FindRelaysResponse { relays, cluster_id: self.cluster.lock().unwrap().clone() }))
    }

    async fn watch(&self, request: Request<Streaming<pb::HostReport>>) -> Result<Response<Self::WatchStream>, Status> {
        self.watches.send_modify(|times| *times += 1);
        if matches!(*self.manner.lock().unwrap(), Manner::IsAway) {
            return Err(Status::unavailable("it has not come as far as the host"));
        }
        if matches!(*self.manner.lock().unwrap(), Manner::IsFull) {
            *self.manner.lock().unwrap() = Manner::Answers;
            let mut status = Status::resource_exhausted("too many hosts");
            status.metadata_mut().insert("grpc-retry-pushback-ms", (COME_BACK.as_millis() as u32).into());
            return Err(status);
        }
        let (frames, stream) = mpsc::channel(4);
        let (mut incoming, told) = (request.into_inner(), self.reports.clone());
        tokio::spawn(async move {
            let first = pb::ScopeFrame { frame: 1, complete: true, ..Default::default() };
            let _ = frames.send(Ok(first)).await;
            while let Ok(Some(report)) = incoming.message().await {
                let _ = told.send(report.report.unwrap()).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }
}

/// A server that runs until it is dropped.
struct Running {
    address: SocketAddr,
    host: Host,
    reports: mpsc::Receiver<Report>,
    /// Its own, so that its connections end with it.
    runtime: Option<Runtime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

fn start(manner: Manner) -> Running {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (told, reports) = mpsc::channel(16);
    let host = Host {
        manner: Arc::new(Mutex::new(manner)),
        request_ids: Arc::default(),
        relays: Arc::default(),
        cluster: Arc::default(),
        watches: watch::Sender::default(),
        reports: told,
    };
    let serving = Server::builder().add_service(HostsServer::new(host.clone()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        drop(serving.serve_with_incoming(TcpListenerStream::new(listener)).await);
    });
    Running { address, host, reports, runtime: Some(runtime) }
}

/// An address where nobody listens.
async fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

fn client(addresses: &[String]) -> Client {
    let options =
        Options { deadline: Duration::from_secs(3), attempt: Duration::from_millis(300), ..Options::default() };
    Client::connect(addresses.to_vec(), options).unwrap()
}

#[tokio::test]
async fn calls_find_the_server_that_is_there() {
    let (away, there) = (start(Manner::IsAway), start(Manner::Answers));
    let client = client(&[nobody().await, away.address.to_string(), there.address.to_string()]);
    for _ in 0..5 {
        client.register_host(pb::RegisterHostRequest::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_refusal_is_final() {
    let (one, other) = (start(Manner::Refuses), start(Manner::Refuses));
    let client = client(&[one.address.to_string(), other.address.to_string()]);
    let refused = client.register_host(pb::RegisterHostRequest::default()).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused { code: Code::FailedPrecondition, .. }), "{refused:?}");
    assert_eq!(refused.to_string(), "host refused: its address is taken");
    assert_eq!(refused.retry(), Retry::No);
    let asked = [&one, &other].map(|server| server.host.request_ids.lock().unwrap().len());
    assert_eq!(asked.iter().sum::<usize>(), 1);
}

#[tokio::test]
async fn a_change_that_was_not_heard_of_is_repeated_under_its_first_id() {
    let (mute, there) = (start(Manner::Stalls), start(Manner::Stalls));
    let client = client(&[mute.address.to_string(), there.address.to_string()]);
    let unknown = client.register_host(pb::RegisterHostRequest::default()).await.unwrap_err();
    let ClientError::Unknown { request_id, tried } = &unknown else { panic!("{unknown:?}") };
    assert_eq!((tried.len(), unknown.retry()), (2, Retry::WithSameRequestId));
    let sent: BTreeSet<String> =
        [&mute, &there].iter().flat_map(|it| it.host.request_ids.lock().unwrap().clone()).collect();
    assert_eq!(sent, BTreeSet::from([request_id.clone()]));

    *there.host.manner.lock().unwrap() = Manner::Answers;
    client.register_host(pb::RegisterHostRequest::default()).await.unwrap();
}

#[tokio::test]
async fn with_nobody_there_every_address_is_told_with_its_reason() {
    let addresses = [nobody().await, nobody().await];
    let error = client(&addresses).list_hosts(pb::ListHostsRequest {}).await.unwrap_err();
    let ClientError::Unreachable { tried } = &error else { panic!("{error:?}") };
    assert_eq!(tried.iter().map(|it| it.address.clone()).collect::<BTreeSet<_>>(), addresses.into_iter().collect());
    assert!(tried.iter().all(|it| it.reason.contains("refused")), "{error}");
}

#[tokio::test]
async fn a_watch_moves_to_another_server_and_says_what_it_has_by_then() {
    let (mut one, mut other) = (start(Manner::Answers), start(Manner::Answers));
    let client = client(&[one.address.to_string(), other.address.to_string()]);
    let mut watch = client.watch_host();
    let hello = |revision| Hello { host: "h".to_owned(), directory_revision: revision, ..Default::default() };

    let WatchEvent::Frame(first) = watch.next(|| hello(1)).await else { panic!("no frame") };
    watch.ack(first.stream, first.frame.frame, String::new());
    let first_is_one = tokio::select! {
        told = one.reports.recv() => { assert_eq!(told, Some(Report::Hello(hello(1)))); true }
        told = other.reports.recv() => { assert_eq!(told, Some(Report::Hello(hello(1)))); false }
    };
    let (lost, mut left) = if first_is_one { (one, other) } else { (other, one) };
    let mut lost = lost;
    let acked = lost.reports.recv().await;
    assert_eq!(acked, Some(Report::Ack(pb::host_report::Ack { frame: 1, problem: String::new() })));

    // The host behind the address goes, and with it its connections.
    drop(lost);
    let second = loop {
        match watch.next(|| hello(2)).await {
            WatchEvent::Frame(frame) => break frame,
            WatchEvent::Lost { error, .. } => assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}"),
        }
    };
    assert_ne!(second.stream, first.stream);
    watch.ack(first.stream, 7, "of a stream that is gone".to_owned());
    watch.ack(second.stream, 1, String::new());
    assert_eq!(left.reports.recv().await, Some(Report::Hello(hello(2))));
    let acked = left.reports.recv().await;
    assert_eq!(acked, Some(Report::Ack(pb::host_report::Ack { frame: 1, problem: String::new() })));
}

#[tokio::test]
async fn a_watch_comes_back_when_it_is_told_to() {
    let full = start(Manner::IsFull);
    let mut watch = client(&[full.address.to_string()]).watch_host();
    let hello = || Hello { host: "h".to_owned(), ..Default::default() };
    let WatchEvent::Lost { error, .. } = watch.next(hello).await else { panic!("it was full") };
    assert!(error.to_string().contains("too many hosts"), "{error}");
    let refused = std::time::Instant::now();
    let WatchEvent::Frame(_) = watch.next(hello).await else { panic!("it has room now") };
    assert!(refused.elapsed() >= COME_BACK, "{:?}", refused.elapsed());
}

#[tokio::test]
async fn a_watch_goes_to_a_relay_that_takes_it_and_back() {
    let (server, mut relay, behind, other) =
        (start(Manner::Answers), start(Manner::Answers), start(Manner::IsAway), start(Manner::Answers));
    let known = |address: &str, hosts| pb::Relay { address: address.to_owned(), hosts };
    let address = |running: &Running| running.address.to_string();
    *other.host.cluster.lock().unwrap() = "another".to_owned();
    let useless = [nobody().await, address(&other), address(&behind)].map(|address| known(&address, 0));
    *server.host.relays.lock().unwrap() = useless.to_vec();
    let options = Options { find_relays_every: Duration::from_millis(5), ..Options::default() };
    let mut watch = Client::connect(vec![address(&server)], options).unwrap().watch_host();
    let hello = || Hello { host: "h".to_owned(), ..Default::default() };
    let WatchEvent::Frame(first) = watch.next(hello).await else { panic!("the server serves it") };
    let mut watches = behind.host.watches.subscribe();
    let sent_away = tokio::time::timeout(Duration::from_secs(60), watches.wait_for(|times| *times > 1));
    tokio::select! {
        event = watch.next(hello) => panic!("it was to stay where it is: {event:?}"),
        sent_away = sent_away => drop(sent_away.expect("it tries").unwrap()),
    }
    *server.host.relays.lock().unwrap() = vec![known(&address(&relay), 1)];
    let moved = tokio::time::timeout(Duration::from_secs(60), watch.next(hello)).await.expect("it finds the relay");
    let WatchEvent::Frame(second) = moved else { panic!("it was never without a stream") };
    assert!(second.stream > first.stream);
    assert_eq!(relay.reports.recv().await, Some(Report::Hello(hello())));
    server.host.relays.lock().unwrap().clear();
    drop(relay);
    let mut lost = Vec::new();
    let back = async {
        loop {
            match watch.next(hello).await {
                WatchEvent::Lost { address, .. } => lost.push(address),
                WatchEvent::Frame(received) => return received,
            }
        }
    };
    let back = tokio::time::timeout(Duration::from_secs(60), back).await.expect("the server serves as well");
    assert!(back.stream > second.stream && !lost.is_empty());
    assert!(lost.iter().all(|lost| *lost != address(&server)), "{lost:?}");
    assert_eq!(*other.host.watches.borrow(), 0);
}
