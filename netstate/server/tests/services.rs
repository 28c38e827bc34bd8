//! The API against servers in this process, one and three.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use netstate_client::{Client, ClientError, HostWatch, Options, WatchEvent};
use netstate_proto::v1::{self as pb, convergence_request::What, host_report::Hello};
use netstate_server::{Server, ServerConfig};
use prost::Message;

const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    servers: Vec<Server>,
    client: Client,
    _dir: tempfile::TempDir,
}

/// A loopback address that no other test of this machine uses: ports then need not be hunted for.
fn own_address() -> std::net::Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let own = NEXT.fetch_add(1, Ordering::Relaxed);
    std::net::Ipv4Addr::new(127, 64 + (pid >> 8) as u8 % 128, pid as u8, own)
}

impl Cluster {
    async fn start(size: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = own_address();
        let at = |port: u16| std::net::SocketAddr::from((address, port));
        let member = |n: u16| kv_node::Member { name: format!("n{n}"), peer: at(23800 + n).to_string() };
        let config = |n: u16| ServerConfig {
            node: kv_node::Config {
                name: format!("n{n}"),
                data_dir: dir.path().join(format!("n{n}")),
                listen_peer: at(23800 + n),
                initial_cluster: (1..=size).map(member).collect(),
                join: Vec::new(),
                advertise_peer: None,
                zone: String::new(),
                relay: false,
                groups: 4,
                timing: kv_node::Timing::default(),
                disk_reserve_bytes: 0,
                store: kv_node::StoreOptions::default(),
            },
            listen_client: at(23790 + n * 100),
            listen_http: at(0),
            etcd: kv_etcd::Config::new(kv_core::Keyspace::new("default").unwrap()),
            listen_etcd: Vec::new(),
            trace: None,
        };
        let mut servers = Vec::new();
        for n in 1..=size {
            servers.push(Server::start(config(n)).await.unwrap());
        }
        let addresses = servers.iter().map(|server| server.client_address().to_string()).collect();
        let client = Client::connect(addresses, Options { deadline: PATIENCE, ..Options::default() }).unwrap();
        Cluster { servers, client, _dir: dir }
    }

    /// A client of one server only.
    fn of(&self, at: usize) -> Client {
        Client::connect(vec![self.servers[at].client_address().to_string()], Options::default()).unwrap()
    }

    async fn network(&self, name: &str, pool: &str) -> pb::Network {
        let (name, pools) = (name.into(), vec![pool.into()]);
        let request = pb::CreateNetworkRequest { origin: origin(""), name, pools, ..Default::default() };
        self.client.create_network(request).await.unwrap().network.unwrap()
    }

    async fn host(&self, name: &str, underlay: &str) {
        let (name, underlay) = (name.into(), underlay.into());
        let request = pb::RegisterHostRequest { origin: origin(""), name, underlay, ..Default::default() };
        self.client.register_host(request).await.unwrap();
    }

    async fn attach(&self, items: Vec<pb::AttachItem>) -> Vec<pb::AttachResult> {
        self.client.attach(pb::AttachRequest { origin: origin(""), endpoints: items }).await.unwrap().results
    }

    async fn connect(&self, from: &str, to: &str, port: u32) -> pb::ConnectResponse {
        self.client.open_connection(connect(from, to, port)).await.unwrap()
    }
}

fn origin(reason: &str) -> Option<pb::Origin> {
    Some(pb::Origin { actor: "ann".into(), reason: reason.into(), request_id: String::new() })
}

fn item(network: &str, name: &str, host: &str) -> pb::AttachItem {
    pb::AttachItem { network: network.into(), name: name.into(), host: host.into(), ..Default::default() }
}

fn connect(from: &str, to: &str, port: u32) -> pb::ConnectRequest {
    let side = |network: &str| Some(pb::Side { network: network.into(), selector: String::new() });
    pb::ConnectRequest {
        origin: origin("orders read the database"),
        from: side(from),
        to: side(to),
        protocol: pb::Protocol::Tcp.into(),
        ports: vec![pb::PortRange { first: port, last: port }],
        ..Default::default()
    }
}

async fn frame(watch: &mut HostWatch, host: &str) -> pb::ScopeFrame {
    let hello = || Hello { host: host.into(), ..Default::default() };
    loop {
        match tokio::time::timeout(PATIENCE, watch.next(hello)).await.expect("a frame") {
            WatchEvent::Frame(received) => {
                watch.ack(received.stream, received.frame.frame, String::new());
                return received.frame;
            }
            WatchEvent::Lost { error, .. } => eprintln!("{error}"),
        }
    }
}

fn networks(frame: &pb::ScopeFrame) -> Vec<pb::ScopeNetwork> {
    frame.networks.iter().map(|part| pb::ScopeNetwork::decode(part.clone()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_network_to_a_flow_and_back() {
    let cluster = Cluster::start(3).await;
    let web = cluster.network("web", "10.1.0.0/16").await;
    cluster.network("db", "10.2.0.0/16").await;
    cluster.host("host-a", "192.0.2.1").await;
    cluster.host("host-b", "192.0.2.2").await;

    let results = cluster.attach(vec![item("web", "web-1", "host-a"), item("db", "db-1", "host-b")]).await;
    assert_eq!(results.iter().map(|result| result.refusal.clone()).collect::<Vec<_>>(), [None, None]);
    assert_eq!(results[0].endpoints[0].network_id, web.id);

    let mut watch = cluster.client.watch_host();
    let first = frame(&mut watch, "host-a").await;
    assert!(first.complete && first.connections.is_empty());
    assert_eq!(networks(&first).iter().map(|network| network.name.as_str()).collect::<Vec<_>>(), ["web"]);
    assert_eq!(first.locals[0].endpoints[0].addresses, results[0].endpoints[0].addresses);

    let denied = reach(&cluster, "web/web-1", "db/db-1").await;
    assert_eq!(denied.verdict(), pb::Verdict::Denied);
    let mut dry = connect("web", "db", 5432);
    dry.dry_run = true;
    let dry = cluster.client.open_connection(dry).await.unwrap();
    assert_eq!((dry.pairs, dry.pairs_new, dry.hosts, dry.position), (1, 1, 2, None));
    let made = cluster.connect("web", "db", 5432).await.connection.unwrap();
    let second = frame(&mut watch, "host-a").await;
    assert_eq!(second.connections[0].id, made.id);
    assert_eq!(networks(&second).iter().map(|network| network.name.as_str()).collect::<Vec<_>>(), ["db"]);
    assert!(second.locals.is_empty(), "another host's endpoints are none of its business");

    let allowed = reach(&cluster, "web", "db").await;
    assert_eq!((allowed.verdict(), allowed.pairs), (pb::Verdict::Allowed, 1));
    assert!(allowed.explanation.contains("orders read the database"), "{}", allowed.explanation);
    let what = Some(What::Connection(made.id.clone()));
    let converged = loop {
        let state = cluster.client.convergence(pb::ConvergenceRequest { what: what.clone() }).await.unwrap();
        if state.programmed == 1 {
            break state;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let silent: Vec<_> = converged.hosts.iter().filter(|host| !host.programmed).collect();
    assert_eq!((silent.len(), silent[0].host.as_str(), silent[0].connected), (1, "host-b", false));

    let gone = pb::DisconnectRequest { origin: origin("no more"), connection: made.id.clone() };
    cluster.client.disconnect(gone).await.unwrap();
    let third = frame(&mut watch, "host-a").await;
    assert_eq!((third.connections_gone, third.networks_gone.len()), (vec![made.id], 1));

    // It concerned two hosts. One has taken it out, the other can't be asked and may still allow it.
    let removed = loop {
        let state = cluster.client.convergence(pb::ConvergenceRequest { what: what.clone() }).await.unwrap();
        if state.programmed == 1 {
            break state;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!((removed.pending, removed.hosts.len()), (1, 2), "{removed:?}");

    let mut log = cluster.client.audit_log(pb::AuditLogRequest::default()).await.unwrap();
    let mut lines = Vec::new();
    while let Some(record) = log.message().await.unwrap() {
        lines
            .extend(record.changes.into_iter().map(|change| format!("{}: {change} ({})", record.actor, record.reason)));
    }
    assert!(
        lines.iter().any(|line| line.starts_with("ann: connection c1: ") && line.contains("orders read")),
        "{lines:#?}"
    );
    assert!(lines.iter().any(|line| line.contains("connection c1 removed (no more)")), "{lines:#?}");
    let mut walks = cluster.client.audit_verify(pb::AuditVerifyRequest {}).await.unwrap();
    let mut seen = 0;
    while let Some(walk) = walks.message().await.unwrap() {
        assert!(walk.sound, "{}", walk.problem);
        seen += 1;
    }
    assert_eq!(seen, 3 * 4, "every node, every group");
}

async fn reach(cluster: &Cluster, from: &str, to: &str) -> pb::ReachResponse {
    cluster.client.reach(pb::ReachRequest { from: from.into(), to: to.into() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_first_answer_from_any_server() {
    let cluster = Cluster::start(3).await;
    cluster.network("web", "10.1.0.0/16").await;
    cluster.host("host-a", "192.0.2.1").await;
    let request_id = uuid::Uuid::now_v7().to_string();
    let request = pb::AttachRequest {
        origin: Some(pb::Origin { actor: "ann".into(), reason: String::new(), request_id }),
        endpoints: (0..100).map(|n| item("web", &format!("w-{n}"), "host-a")).collect(),
    };
    let first = cluster.client.attach(request.clone()).await.unwrap();
    assert_eq!(first.results[0].endpoints.len(), 100);
    for at in 0..3 {
        assert_eq!(cluster.of(at).attach(request.clone()).await.unwrap(), first);
    }
    let mut other = connect("web", "web", 80);
    other.origin.as_mut().unwrap().request_id = "not a uuid".into();
    let refused = cluster.client.open_connection(other).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused { message, .. } if message.contains("UUID")), "{refused}");
}

/// A server that dies leaves its request under way with the leader, and the client asks another one: both are decided in
/// one batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_repeated_while_the_first_is_under_way_gets_its_answer() {
    let cluster = Cluster::start(1).await;
    cluster.network("web", "10.1.0.0/16").await;
    cluster.host("host-a", "192.0.2.1").await;
    let attach = |name: String, request_id: String| {
        let origin = Some(pb::Origin { actor: "ann".into(), reason: String::new(), request_id });
        cluster.client.attach(pb::AttachRequest { origin, endpoints: vec![item("web", &name, "host-a")] })
    };
    for round in 0..20 {
        let other = attach(format!("other-{round}"), uuid::Uuid::now_v7().to_string());
        let request_id = uuid::Uuid::now_v7().to_string();
        let same = (0..16).map(|_| attach(format!("same-{round}"), request_id.clone()));
        let (other, same) = tokio::join!(other, futures::future::try_join_all(same));
        assert_eq!(other.unwrap().results[0].refusal, None);
        let same = same.unwrap();
        assert_eq!(same[0].results[0].refusal, None);
        assert!(same.iter().all(|answer| *answer == same[0]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_end_when_nothing_is_in_them() {
    let cluster = Cluster::start(1).await;
    cluster.network("web", "10.1.0.0/16").await;
    cluster.host("host-a", "192.0.2.1").await;
    cluster.attach(vec![item("web", "web-1", "host-a")]).await;
    let delete = pb::DeleteNetworkRequest { origin: origin(""), network: "web".into() };
    let refused = cluster.client.delete_network(delete.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("detach them first"), "{refused}");
    let detach = pb::DetachItem { network: "web".into(), name: "web-1".into() };
    let repeatable = || Some(pb::Origin { request_id: uuid::Uuid::now_v7().to_string(), ..origin("").unwrap() });
    let request = pb::DetachRequest { origin: repeatable(), endpoints: vec![detach] };
    let detached = cluster.client.detach(request.clone()).await.unwrap();
    assert_eq!(detached.results[0].detached, 1);
    assert_eq!(cluster.client.detach(request).await.unwrap(), detached, "done before, and answered as it was then");
    let delete = pb::DeleteNetworkRequest { origin: repeatable(), ..delete };
    cluster.client.delete_network(delete.clone()).await.unwrap();
    cluster.client.delete_network(delete).await.unwrap();
    let left = cluster.client.list_networks(pb::ListNetworksRequest {}).await.unwrap().networks;
    assert_eq!(left, []);
    // Its name and its addresses are free again.
    cluster.network("web", "10.1.0.0/16").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_when_its_time_is_over() {
    let cluster = Cluster::start(1).await;
    cluster.network("web", "10.1.0.0/16").await;
    cluster.network("db", "10.2.0.0/16").await;
    let brief = pb::ConnectRequest { lifetime_seconds: 1, ..connect("web", "db", 80) };
    cluster.client.open_connection(brief).await.unwrap();
    let list =
        async || cluster.client.list_connections(pb::ListConnectionsRequest::default()).await.unwrap().connections;
    assert_eq!(list().await.len(), 1);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !list().await.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
