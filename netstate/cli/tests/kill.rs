//! Three server processes under load, killed without warning: what was acknowledged is there, once; a host's watch misses
//! nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use netstate_client::{Client, ClientError, WatchEvent};
use netstate_proto::v1::{self as pb, host_report::Have};
use support::{Processes, create_network, endpoints, item, origin, register_host, until};

const NETWORKS: usize = 6;
const WRITERS: usize = 8;

/// What the writers know to be true.
#[derive(Default)]
struct Ledger {
    /// `network/name` to addresses.
    attached: BTreeMap<String, Vec<String>>,
    detached: BTreeSet<String>,
    /// Ended without an answer: may be there or not.
    unknown: BTreeSet<String>,
}

/// Attaches one endpoint after another, and detaches every fifth again, until told to stop.
async fn write(client: Client, writer: usize, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) -> Ledger {
    let mut ledger = Ledger::default();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let network = format!("net-{}", (writer + n) % NETWORKS);
        let name = format!("w{writer}-{n}");
        let key = format!("{network}/{name}");
        let request = pb::AttachRequest {
            origin: origin(""),
            endpoints: vec![item(&network, &name, &format!("host-{}", n % 3))],
        };
        match client.attach(request).await {
            Ok(response) => {
                let result = &response.results[0];
                assert_eq!(result.refusal, None, "{key}");
                ledger.attached.insert(key.clone(), result.endpoints[0].addresses.clone());
            }
            Err(ClientError::Unknown { .. } | ClientError::Unreachable { .. }) => {
                ledger.unknown.insert(key);
                continue;
            }
            Err(other) => panic!("{key}: {other}"),
        }
        acknowledged.fetch_add(1, Ordering::Relaxed);
        if n % 5 == 4 {
            let request = pb::DetachRequest { origin: origin(""), endpoints: vec![pb::DetachItem { network, name }] };
            match client.detach(request).await {
                Ok(response) => {
                    assert_eq!(response.results[0].refusal, None, "{key}");
                    ledger.detached.insert(key);
                }
                Err(ClientError::Unknown { .. } | ClientError::Unreachable { .. }) => {
                    ledger.unknown.insert(key);
                }
                Err(other) => panic!("{key}: {other}"),
            }
        }
    }
    ledger
}

/// A host as the watch describes it.
#[derive(Default)]
struct Watched {
    directory: u64,
    /// Network id to revision, and whether the host has endpoints there.
    networks: BTreeMap<String, (u64, bool)>,
    connections: BTreeSet<String>,
    /// Endpoint id to name.
    locals: BTreeMap<String, String>,
}

impl Watched {
    fn hello(&self) -> pb::host_report::Hello {
        let have = |(id, (revision, local)): (&String, &(u64, bool))| Have {
            network_id: id.clone(),
            revision: *revision,
            local: *local,
        };
        pb::host_report::Hello {
            host: "host-0".into(),
            directory_revision: self.directory,
            networks: self.networks.iter().map(have).collect(),
            connections: self.connections.iter().cloned().collect(),
        }
    }

    fn apply(&mut self, frame: &pb::ScopeFrame) {
        self.directory = frame.directory_revision;
        for gone in &frame.networks_gone {
            self.networks.remove(gone);
            let prefix = format!("e{}.", gone.trim_start_matches("net"));
            self.locals.retain(|id, _| !id.starts_with(&prefix));
        }
        frame.connections_gone.iter().for_each(|id| {
            self.connections.remove(id);
        });
        self.connections.extend(frame.connections.iter().map(|connection| connection.id.clone()));
        for encoded in &frame.networks {
            let network: pb::ScopeNetwork = prost::Message::decode(encoded.clone()).unwrap();
            let entry = self.networks.entry(network.network_id).or_default();
            assert!(network.revision >= entry.0, "revisions never go back");
            entry.0 = network.revision;
        }
        for local in &frame.locals {
            let entry = self.networks.entry(local.network_id.clone()).or_default();
            *entry = (local.revision.max(entry.0), true);
            if local.full {
                let prefix = format!("e{}.", local.network_id.trim_start_matches("net"));
                self.locals.retain(|id, _| !id.starts_with(&prefix));
            }
            local.endpoints_gone.iter().for_each(|id| {
                self.locals.remove(id);
            });
            self.locals.extend(local.endpoints.iter().map(|endpoint| (endpoint.id.clone(), endpoint.name.clone())));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_no_watcher_is_left_behind() {
    let mut cluster = Processes::start(3);
    let client = cluster.client();
    for n in 0..NETWORKS {
        create_network(&client, &format!("net-{n}"), &format!("10.{n}.0.0/16")).await;
    }
    for n in 0..3 {
        register_host(&client, &format!("host-{n}"), &format!("192.0.2.{}", n + 1)).await;
    }

    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> =
        (0..WRITERS).map(|n| tokio::spawn(write(cluster.client(), n, stop.clone(), acknowledged.clone()))).collect();
    let (tell_names, watched_names) = tokio::sync::watch::channel(BTreeSet::new());
    let watching = tokio::spawn(follow(cluster.client(), tell_names));

    let progress = async |more: u64| {
        let goal = acknowledged.load(Ordering::Relaxed) + more;
        until("writers get on", async || (acknowledged.load(Ordering::Relaxed) >= goal).then_some(())).await;
    };
    progress(50).await;
    for round in 0..4 {
        let leader = cluster.leader(&client).await;
        let victim = if round % 2 == 0 { leader } else { (leader + 1) % 3 };
        cluster.kill(victim);
        progress(100).await;
        cluster.spawn(victim);
        progress(50).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut ledgers = Vec::new();
    for writer in writers {
        ledgers.push(writer.await.unwrap());
    }

    for at in 0..3 {
        let server = cluster.client_of(at);
        let seen = until("the server answers", async || Some(endpoints(&server).await)).await;
        check(&ledgers, &seen);
    }
    let expected: BTreeSet<_> =
        endpoints(&client).await.into_iter().filter(|e| e.host == "host-0").map(|e| e.name).collect();
    let mut names = watched_names.clone();
    let caught_up = tokio::time::timeout(support::PATIENCE, names.wait_for(|names| *names == expected)).await;
    assert!(caught_up.is_ok(), "the watch ended at {} endpoints of {}", watched_names.borrow().len(), expected.len());
    watching.abort();
    verify(&client).await;
}

/// Follows host-0's scope, acknowledging every frame.
async fn follow(client: Client, tell: tokio::sync::watch::Sender<BTreeSet<String>>) {
    let mut watch = client.watch_host();
    let mut watched = Watched::default();
    loop {
        match watch.next(|| watched.hello()).await {
            WatchEvent::Frame(received) => {
                watched.apply(&received.frame);
                watch.ack(received.stream, received.frame.frame, String::new());
                tell.send_replace(watched.locals.values().cloned().collect());
            }
            WatchEvent::Lost { .. } => {}
        }
    }
}

fn check(ledgers: &[Ledger], seen: &[pb::Endpoint]) {
    let mut by_name = BTreeMap::new();
    let mut addresses = BTreeSet::new();
    for endpoint in seen {
        let key = format!("{}/{}", endpoint.network, endpoint.name);
        assert!(by_name.insert(key.clone(), &endpoint.addresses).is_none(), "{key} is there twice");
        for address in &endpoint.addresses {
            assert!(addresses.insert(address), "{address} is given twice");
        }
    }
    for ledger in ledgers {
        for (key, given) in &ledger.attached {
            if ledger.unknown.contains(key) {
                continue;
            }
            let found = by_name.get(key);
            if ledger.detached.contains(key) {
                assert_eq!(found, None, "{key} was detached");
            } else {
                assert_eq!(found, Some(&given), "{key} was acknowledged");
            }
        }
    }
}

/// Every replica's chains hold together, and replicas agree.
async fn verify(client: &Client) {
    until("all replicas verify and agree", async || {
        let mut answers = client.audit_verify(pb::AuditVerifyRequest {}).await.ok()?;
        let mut groups: BTreeMap<u32, Vec<pb::AuditVerifyResponse>> = BTreeMap::new();
        while let Some(answer) = answers.message().await.ok()? {
            assert!(answer.sound, "{}: group {}: {}", answer.node, answer.group, answer.problem);
            groups.entry(answer.group).or_default().push(answer);
        }
        let agree = |answers: &Vec<pb::AuditVerifyResponse>| {
            answers.len() == 3 && answers.iter().all(|answer| answer.fold == answers[0].fold)
        };
        (!groups.is_empty() && groups.values().all(agree)).then_some(())
    })
    .await;
}
