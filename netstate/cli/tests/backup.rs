//! A cluster under load is backed up, lost, and founded anew from the file: what was acknowledged is there, and whoever
//! knows the old one is told so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use etcd_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseTimeToLiveRequest, WatchCreateRequest, WatchRequest, lease_client::LeaseClient,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use netstate_client::{Client, WatchEvent};
use netstate_proto::v1::{self as pb, host_report::Have, host_report::Hello};
use support::{
    Processes, channel, done, endpoints, item, led, netstate, origin, put, range, refused, register_host, until,
};
use tonic::transport::Channel;

/// Restores every server of a cluster that is not started, and starts them.
fn restore(cluster: &mut Processes, file: &Path, more: &[&str]) {
    for at in 0..cluster.size() {
        let (name, dir, founders) = (Processes::name(at), cluster.data_dir(at), cluster.founders());
        let (file, dir) = (file.to_str().unwrap(), dir.to_str().unwrap());
        let fixed = ["cluster", "snapshot", "restore", file, "--name", &name, "--data-dir", dir];
        let args = [&fixed[..], &["--initial-cluster", &founders], more].concat();
        done(&netstate(None, &args));
    }
    (0..cluster.size()).for_each(|at| cluster.spawn(at));
}

/// Attaches an endpoint, unless that was done by an attempt whose answer was lost.
async fn attached(client: &Client, endpoint: pb::AttachItem) -> Option<()> {
    let request = pb::AttachRequest { origin: origin(""), endpoints: vec![endpoint] };
    // Boxed: the future of a call is large.
    let result = Box::pin(client.attach(request)).await.ok()?.results.remove(0);
    let refusal = result.refusal.map(|refusal| refusal.code);
    (refusal.is_none() || refusal == Some(tonic::Code::AlreadyExists.into())).then_some(())
}

/// Makes a network, unless that was done by an attempt whose answer was lost.
async fn network(client: &Client, name: &str, pool: &str) {
    until("a network is made", async || {
        let request = pb::CreateNetworkRequest {
            origin: origin(""),
            name: name.into(),
            pools: vec![pool.into()],
            ..pb::CreateNetworkRequest::default()
        };
        match client.create_network(request).await {
            Ok(_) => Some(()),
            Err(error) => (error.code() == Some(tonic::Code::AlreadyExists)).then_some(()),
        }
    })
    .await;
}

/// Writes numbered keys and endpoints, one after the other, until told to stop.
async fn write(
    cluster: &Processes,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> tokio::task::JoinHandle<()> {
    let (channel, client) = (channel(cluster), cluster.client());
    tokio::spawn(async move {
        for n in 0u64.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            // Again until it is acknowledged: a busy machine may change leaders meanwhile.
            let (key, value, began) = (format!("load/{n:06}"), n.to_string(), tokio::time::Instant::now());
            while put(&channel, &key, &value, 0).await.is_none() {
                assert!(began.elapsed() < support::PATIENCE, "{key} is not acknowledged");
            }
            let endpoint = item(&format!("net-{}", n % 3), &format!("e{n}"), &format!("host-{}", n % 2));
            while attached(&client, endpoint.clone()).await.is_none() {
                assert!(began.elapsed() < support::PATIENCE, "e{n} is not acknowledged");
            }
            acknowledged.store(n + 1, Ordering::Relaxed);
        }
    })
}

/// What watching a key from a revision is answered first.
async fn compacted_at(channel: &Channel, start_revision: i64) -> i64 {
    let create = WatchCreateRequest { key: "load/".into(), start_revision, ..WatchCreateRequest::default() };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let (requests, outgoing) = tokio::sync::mpsc::channel(1);
    requests.send(request).await.unwrap();
    let outgoing = futures::stream::unfold(outgoing, async |mut requests| Some((requests.recv().await?, requests)));
    let mut answers = WatchClient::new(channel.clone()).watch(outgoing).await.unwrap().into_inner();
    let told = async {
        loop {
            let answer = answers.message().await.unwrap().unwrap();
            if answer.canceled {
                return answer.compact_revision;
            }
            assert!(answer.events.is_empty(), "events of another history");
        }
    };
    tokio::time::timeout(support::PATIENCE, told).await.expect("the watch is cancelled")
}

/// The frames that a host is sent which says that it holds something, up to the first with a connection: the server that it
/// asks may not have heard of that at first.
async fn frames_to_connection(cluster: &Processes, hello: Hello) -> Vec<pb::ScopeFrame> {
    let mut watch = cluster.client().watch_host();
    let mut frames: Vec<pb::ScopeFrame> = Vec::new();
    let connected = async {
        while frames.last().is_none_or(|frame| frame.connections.is_empty()) {
            match watch.next(|| hello.clone()).await {
                WatchEvent::Frame(received) => frames.push(received.frame),
                WatchEvent::Lost { .. } => frames.clear(),
            }
        }
    };
    tokio::time::timeout(support::PATIENCE, connected).await.expect("the host is told of a connection");
    frames
}

/// What is known of the old cluster when it is lost.
struct Lost {
    /// Keys and endpoints acknowledged before the backup began.
    before: u64,
    /// The keyspace's revision at the end.
    revision: i64,
    /// What a host held.
    hello: Hello,
}

fn connect(from: &str, to: &str) -> pb::ConnectRequest {
    pb::ConnectRequest {
        origin: origin("test"),
        from: Some(pb::Side { network: from.into(), selector: String::new() }),
        to: Some(pb::Side { network: to.into(), selector: String::new() }),
        protocol: pb::Protocol::Any.into(),
        ..pb::ConnectRequest::default()
    }
}

/// Three servers under load, backed up meanwhile, which go on for a while and are killed.
async fn lose(old: &mut Processes, file: &Path) -> Lost {
    let client = old.client();
    led(&client).await;
    for n in 0..3 {
        network(&client, &format!("net-{n}"), &format!("10.{n}.0.0/16")).await;
    }
    for n in 0..2 {
        register_host(&client, &format!("host-{n}"), &format!("192.0.2.{}", n + 1)).await;
    }
    let etcd = channel(old);
    let grant = LeaseGrantRequest { id: 77, ttl: 500 };
    until("a lease is granted", async || LeaseClient::new(etcd.clone()).lease_grant(grant).await.ok()).await;
    until("a key is leased", async || put(&etcd, "leased", "x", 77).await).await;
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = write(old, stop.clone(), acknowledged.clone()).await;
    let reached = async |goal: u64| {
        until("more load", async || (acknowledged.load(Ordering::Relaxed) >= goal).then_some(())).await;
        acknowledged.load(Ordering::Relaxed)
    };
    let before = reached(20).await;
    let saved = done(&netstate(Some(old), &["cluster", "snapshot", "save", file.to_str().unwrap(), "-o", "json"]));
    assert!(saved.contains("\"blake3\""), "{saved}");
    assert!(!old.folder().join("backup.part").exists());
    reached(acknowledged.load(Ordering::Relaxed) + 10).await;
    // A connection that the backup doesn't have: its id will stand for another.
    let lost = client.open_connection(connect("net-0", "net-1")).await.unwrap().connection.unwrap();
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    let hello = Hello { host: "host-0".into(), ..Hello::default() };
    let frame = frames_to_connection(old, hello.clone()).await.pop().unwrap();
    let have = |n: u32| Have { network_id: format!("net{n}"), revision: 1_000, local: true };
    let held = Hello {
        directory_revision: frame.directory_revision,
        networks: (1..=3).map(have).collect(),
        connections: frame.connections.iter().map(|connection| connection.id.clone()).collect(),
        ..hello
    };
    assert_eq!(held.connections, [lost.id]);
    let revision = range(&etcd, "load/").await.header.unwrap().revision;
    (0..3).for_each(|at| old.kill(at));
    Lost { before, revision, hello: held }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_cluster_is_founded_anew() {
    let mut old = Processes::start(3);
    let file = old.folder().join("backup");
    let lost = lose(&mut old, &file).await;
    let mut new = Processes::prepared(3);
    restore(&mut new, &file, &[]);
    let client = new.client();
    led(&client).await;
    check_keys(&channel(&new), &lost).await;
    check_endpoints(&endpoints(&client).await, lost.before);
    check_host(&new, &client, &lost).await;
    verify_and_log(&client).await;
    refuses_the_old(&old, &mut new, &client).await;
}

/// The keys are those that one writer had written at some moment, all acknowledged ones among them.
async fn check_keys(etcd: &Channel, lost: &Lost) {
    let found = range(etcd, "load/").await;
    let loaded = u64::try_from(found.kvs.len()).unwrap();
    assert!(loaded >= lost.before, "{loaded} keys of {} that were acknowledged before", lost.before);
    for (n, kv) in found.kvs.iter().enumerate() {
        assert_eq!((&kv.key[..], &kv.value[..]), (format!("load/{n:06}").as_bytes(), n.to_string().as_bytes()));
        assert!(kv.mod_revision <= lost.revision, "a key says when it was written");
    }
    let raised = found.header.unwrap().revision;
    assert!(raised > lost.revision + 900_000, "{raised} after {}", lost.revision);
    let lease = until("the lease is known", async || {
        let asked = LeaseTimeToLiveRequest { id: 77, keys: true };
        Some(LeaseClient::new(etcd.clone()).lease_time_to_live(asked).await.ok()?.into_inner())
    });
    let lease = lease.await;
    assert_eq!((lease.granted_ttl, &lease.keys[..]), (500, &["leased".into()][..]));
    assert!(lease.ttl > 400, "{} s left", lease.ttl);
    // A watcher of the old cluster starts over, whatever it had seen.
    for start in [1, lost.revision, lost.revision + 1, lost.revision + 500_000] {
        assert_eq!(compacted_at(etcd, start).await, raised, "from {start}");
    }
}

/// A host starts over: what it held is taken back, and what is there now is given whole.
async fn check_host(new: &Processes, client: &Client, lost: &Lost) {
    let held = &lost.hello;
    let connection = client.open_connection(connect("net-2", "net-1")).await.unwrap().connection.unwrap();
    assert_eq!(held.connections, std::slice::from_ref(&connection.id), "the id stands for another connection now");
    let frames = frames_to_connection(new, held.clone()).await;
    assert_eq!(frames[0].connections_gone, held.connections);
    assert!(frames[0].locals.iter().all(|local| local.full) && frames[0].locals.len() == 3);
    let given = &frames.last().unwrap().connections;
    assert_eq!(given.iter().map(|it| &it.id).collect::<Vec<_>>(), [&connection.id]);
    assert_eq!(given[0].from_network_id, "net3");
}

/// Endpoints are attached one after the other, so what was there before the backup began is all there.
fn check_endpoints(seen: &[pb::Endpoint], before: u64) {
    let names: BTreeMap<_, _> = seen.iter().map(|endpoint| (endpoint.name.clone(), endpoint)).collect();
    for n in 0..before {
        let endpoint = names.get(&format!("e{n}")).unwrap_or_else(|| panic!("e{n} was attached before"));
        assert_eq!(endpoint.network, format!("net-{}", n % 3));
    }
}

async fn verify_and_log(client: &Client) {
    until("all replicas verify and agree", async || {
        let mut answers = client.audit_verify(pb::AuditVerifyRequest {}).await.ok()?;
        let mut folds: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        while let Some(answer) = answers.message().await.ok()? {
            assert!(answer.sound, "{}: group {}: {}", answer.node, answer.group, answer.problem);
            folds.entry(answer.group).or_default().push(answer.fold);
        }
        let agree = folds.values().all(|folds| folds.len() == 3 && folds.iter().all(|fold| *fold == folds[0]));
        (!folds.is_empty() && agree).then_some(())
    })
    .await;
    let mut trail = client.audit_log(pb::AuditLogRequest::default()).await.unwrap();
    let mut before: Option<pb::AuditLogResponse> = None;
    let mut raises = 0;
    while let Some(record) = trail.message().await.unwrap() {
        if let Some(before) = before {
            assert_eq!(record.previous, before.hash, "the chain holds across the restore");
            if record.revision != before.revision + 1 {
                let reason = format!("restored from r{} of cluster ", before.revision);
                assert!(record.reason.starts_with(&reason) && record.changes.is_empty(), "{record:?}");
                raises += 1;
            }
        }
        before = Some(record);
    }
    assert_eq!(raises, 1);
}

/// A server with the old cluster's data is no member of the new one: it sees so itself if it had not noted yet who the
/// old one's members were, and is told so by the new one's otherwise.
async fn refuses_the_old(old: &Processes, new: &mut Processes, client: &Client) {
    new.kill(2);
    std::fs::rename(new.data_dir(2), new.folder().join("aside")).unwrap();
    std::fs::rename(old.data_dir(2), new.data_dir(2)).unwrap();
    new.spawn(2);
    until("the old server is turned away", async || new.said(2).contains("belongs to another cluster").then_some(()))
        .await;
    until("it is not among the others", async || {
        let status = client.cluster_status(pb::ClusterStatusRequest {}).await.ok()?;
        let reachable = |name: &str| status.nodes.iter().any(|node| node.name == name && node.reachable);
        (!reachable("n3") && (reachable("n1") || reachable("n2"))).then_some(())
    })
    .await;
    new.kill(2);
    std::fs::remove_dir_all(new.data_dir(2)).unwrap();
    std::fs::rename(new.folder().join("aside"), new.data_dir(2)).unwrap();
    new.spawn(2);
    until("the new server is back", async || {
        let status = client.cluster_status(pb::ClusterStatusRequest {}).await.ok()?;
        status.nodes.iter().all(|node| node.reachable).then_some(())
    })
    .await;
}

/// Everything as it was at a time, and what cannot be had any more is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_taken_back_to_a_time() {
    let mut old = Processes::start(1);
    let client = old.client();
    network(&client, "net-0", "10.0.0.0/16").await;
    register_host(&client, "host-0", "192.0.2.1").await;
    let etcd = channel(&old);
    let attach = async |name: &str| {
        let endpoints = vec![item("net-0", name, "host-0")];
        client.attach(pb::AttachRequest { origin: origin(""), endpoints }).await.unwrap();
    };
    attach("kept").await;
    until("a first key", async || put(&etcd, "a", "good", 0).await).await;
    put(&etcd, "b", "good", 0).await.unwrap();
    let micros = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
    let time = kv_core::Timestamp::from_micros(i64::try_from(micros).unwrap()).to_string();
    let head = put(&etcd, "a", "bad", 0).await.unwrap();
    put(&etcd, "c", "bad", 0).await.unwrap();
    attach("mistake").await;
    let file = old.folder().join("backup");
    let file = file.to_str().unwrap();
    done(&netstate(Some(&old), &["cluster", "snapshot", "save", file]));
    assert!(refused(&netstate(Some(&old), &["cluster", "snapshot", "save", file])).contains("--force replaces it"));
    let mut new = Processes::prepared(1);
    restore(&mut new, Path::new(file), &["--at", &time]);
    let found = range(&channel(&new), "").await;
    let kvs: Vec<_> = found.kvs.iter().map(|kv| (&kv.key[..], &kv.value[..])).collect();
    assert_eq!(kvs, [(&b"a"[..], &b"good"[..]), (b"b", b"good")]);
    assert!(found.header.unwrap().revision > head + 900_000);
    let names: Vec<_> = endpoints(&new.client()).await.into_iter().map(|endpoint| endpoint.name).collect();
    assert_eq!(names, ["kept"]);

    // The backup of a restored cluster has no history from before the restore.
    let again = new.folder().join("again");
    let again = again.to_str().unwrap();
    done(&netstate(Some(&new), &["cluster", "snapshot", "save", "--force", again]));
    let dir = new.folder().join("never");
    let args = ["cluster", "snapshot", "restore", again, "--data-dir", dir.to_str().unwrap(), "--at", &time];
    let text = refused(&netstate(None, &args));
    assert!(text.contains("default is compacted and goes back no further than r"), "{text}");
    assert!(!dir.exists());
    (0..1).for_each(|at| old.kill(at));
}

/// Whatever is wrong with a file is told, with exit code 1; nothing is restored from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_refused() {
    let old = Processes::start(1);
    network(&old.client(), "net-0", "10.0.0.0/16").await;
    let file = old.folder().join("backup");
    let name = file.to_str().unwrap();
    done(&netstate(Some(&old), &["cluster", "snapshot", "save", name]));
    let table = done(&netstate(None, &["cluster", "snapshot", "verify", name]));
    assert!(table.contains("netstate/directory"), "{table}");
    let mut content = std::fs::read(&file).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(&file, &content).unwrap();
    let output = netstate(None, &["cluster", "snapshot", "verify", name, "-o", "json"]);
    assert!(refused(&output).contains("the backup is damaged at byte "));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["sound"], false);
    let dir = old.folder().join("restored");
    let text = refused(&netstate(None, &["cluster", "snapshot", "restore", name, "--data-dir", dir.to_str().unwrap()]));
    assert!(text.contains("nothing was restored"), "{text}");
    assert!(!dir.exists());
    let missing = netstate(None, &["cluster", "snapshot", "verify", "/nowhere/at/all"]);
    assert!(refused(&missing).contains("reading the backup failed"));
}
