//! A real etcd for each side of an import, and what the tests say to it.
//!
//! Must hold: every process that is started here ends with the test, however that ends; nothing outside a temporary directory is touched.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{
    future::Future,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use etcd_proto::{
    etcdserverpb::{
        self as pb, kv_client::KvClient, lease_client::LeaseClient, request_op::Request as Operation,
        watch_client::WatchClient, watch_request::RequestUnion,
    },
    mvccpb::KeyValue,
};
use kv_import::{Options, Position, Progress, Retries, Side, Verified};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};

pub mod proxy;

const ETCD: &str = "/usr/bin/etcd";
/// For anything that a test waits for.
pub const DEADLINE: Duration = Duration::from_secs(20);
pub const POSITION_KEY: &[u8] = b"\0netstate/import";

/// A single member, quick to elect itself, so that leases may be as short as a second.
pub struct Etcd {
    process: Child,
    _dir: tempfile::TempDir,
    pub port: u16,
    pub channel: Channel,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Etcd {
    pub async fn start() -> anyhow::Result<Self> {
        ensure!(std::path::Path::new(ETCD).exists(), "{ETCD} is missing: install the Debian package etcd-server");
        // Somebody else may take a port between its choice and its use.
        for _ in 0..5 {
            if let Some(started) = Self::try_start().await? {
                return Ok(started);
            }
        }
        bail!("etcd doesn't start on any port")
    }

    async fn try_start() -> anyhow::Result<Option<Self>> {
        let ports = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [port, peers] = [ports[0].local_addr()?.port(), ports[1].local_addr()?.port()];
        drop(ports);
        let dir = tempfile::tempdir()?;
        let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peers}"));
        let process = Command::new(ETCD)
            .args(["--name", "one", "--heartbeat-interval", "20", "--election-timeout", "200", "--log-level", "error"])
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients, "--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers, "--initial-cluster", &format!("one={peers}")])
            .arg("--data-dir")
            .arg(dir.path())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let channel = Endpoint::from_shared(clients)?.connect_lazy();
        let mut started = Self { process, _dir: dir, port, channel };
        let deadline = Instant::now() + DEADLINE;
        loop {
            if started.process.try_wait()?.is_some() {
                return Ok(None);
            }
            match started.kv().range(pb::RangeRequest { key: "x".into(), ..Default::default() }).await {
                Ok(_) => return Ok(Some(started)),
                Err(status) => ensure!(Instant::now() < deadline, "etcd doesn't answer: {status}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn side(&self) -> Side {
        Side::new(self.channel.clone())
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    /// The revision afterwards.
    pub async fn txn(&self, operations: Vec<pb::RequestOp>) -> anyhow::Result<i64> {
        let answer = self.kv().txn(pb::TxnRequest { success: operations, ..Default::default() }).await?.into_inner();
        Ok(answer.header.context("no header")?.revision)
    }

    pub async fn put(&self, key: &str, value: impl Into<Bytes>) -> anyhow::Result<i64> {
        self.txn(vec![put(key, value, 0)]).await
    }

    pub async fn delete(&self, key: &str) -> anyhow::Result<i64> {
        self.txn(vec![delete(key)]).await
    }

    pub async fn get(&self, key: &str) -> anyhow::Result<Option<KeyValue>> {
        let range = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        Ok(self.kv().range(range).await?.into_inner().kvs.into_iter().next())
    }

    /// Every key but the import's position.
    pub async fn keys(&self) -> anyhow::Result<Vec<String>> {
        let range =
            pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), keys_only: true, ..Default::default() };
        let pairs = self.kv().range(range).await?.into_inner().kvs;
        Ok(pairs
            .iter()
            .filter(|pair| pair.key != POSITION_KEY)
            .map(|pair| String::from_utf8_lossy(&pair.key).into_owned())
            .collect())
    }

    pub async fn fill(&self, prefix: &str, keys: usize) -> anyhow::Result<()> {
        for first in (0..keys).step_by(100) {
            let puts =
                (first..keys.min(first + 100)).map(|key| put(&format!("{prefix}{key:05}"), format!("value {key}"), 0));
            self.txn(puts.collect()).await?;
        }
        Ok(())
    }

    pub async fn grant(&self, id: i64, ttl: i64) -> anyhow::Result<()> {
        self.lease().lease_grant(pb::LeaseGrantRequest { id, ttl }).await?;
        Ok(())
    }

    pub async fn renew(&self, id: i64) -> anyhow::Result<()> {
        let once = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let answer = self.lease().lease_keep_alive(once).await?.into_inner().message().await?.context("no answer")?;
        ensure!(answer.ttl > 0, "lease {id} has ended");
        Ok(())
    }

    /// Granted and remaining seconds; negative if it has ended.
    pub async fn remaining(&self, id: i64) -> anyhow::Result<(i64, i64)> {
        let answer =
            self.lease().lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys: false }).await?.into_inner();
        Ok((answer.granted_ttl, answer.ttl))
    }

    pub async fn revision(&self) -> anyhow::Result<i64> {
        let range = pb::RangeRequest { key: "x".into(), ..Default::default() };
        Ok(self.kv().range(range).await?.into_inner().header.context("no header")?.revision)
    }

    pub async fn compact(&self) -> anyhow::Result<()> {
        let revision = self.revision().await?;
        self.kv().compact(pb::CompactionRequest { revision, physical: true }).await?;
        Ok(())
    }

    /// Every revision's changes after one revision up to another, the position's left out, as lines.
    pub async fn history(&self, after: i64, until: i64) -> anyhow::Result<Vec<String>> {
        let create = pb::WatchCreateRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            start_revision: after + 1,
            ..Default::default()
        };
        let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests = tokio_stream::once(request).chain(tokio_stream::pending());
        let mut client = WatchClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let mut answers = client.watch(requests).await?.into_inner();
        let (mut lines, mut last): (Vec<String>, i64) = (Vec::new(), after);
        while last < until {
            let answer = tokio::time::timeout(DEADLINE, answers.message())
                .await
                .with_context(|| format!("history ends at {last}"))??;
            let answer = answer.context("the watch ended")?;
            ensure!(!answer.canceled, "the watch was canceled: {}", answer.cancel_reason);
            for event in answer.events {
                let (sign, pair) = (if event.r#type == 0 { '+' } else { '-' }, event.kv.context("no key")?);
                if pair.mod_revision > until {
                    return Ok(lines);
                }
                if pair.key == POSITION_KEY {
                    last = pair.mod_revision;
                    continue;
                }
                let change = format!(" {sign}{}={}", pair.key.escape_ascii(), pair.value.escape_ascii());
                match lines.last_mut() {
                    Some(line) if pair.mod_revision == last => line.push_str(&change),
                    _ => lines.push(change),
                }
                last = pair.mod_revision;
            }
        }
        Ok(lines)
    }
}

pub fn put(key: &str, value: impl Into<Bytes>, lease: i64) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.to_owned().into(), value: value.into(), lease, ..Default::default() };
    pb::RequestOp { request: Some(Operation::RequestPut(put)) }
}

pub fn delete(key: &str) -> pb::RequestOp {
    let delete = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    pb::RequestOp { request: Some(Operation::RequestDeleteRange(delete)) }
}

/// Small limits, so that little data passes all of them.
pub fn options() -> Options {
    let retries = Retries {
        pause_first: Duration::from_millis(5),
        pause_max: Duration::from_millis(50),
        patience: DEADLINE,
        ..Retries::default()
    };
    Options { page_keys: 300, txn_operations: 50, in_flight: 3, retries, ..Options::default() }
}

/// Remembers what an import told.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<Vec<Progress>>>);

impl Told {
    pub fn note(&self, progress: Progress) {
        self.0.lock().expect("no holder panics").push(progress);
    }

    pub fn all(&self) -> Vec<Progress> {
        self.0.lock().expect("no holder panics").clone()
    }

    pub fn any(&self, wanted: impl Fn(&Progress) -> bool) -> bool {
        self.0.lock().expect("no holder panics").iter().any(wanted)
    }
}

/// A source and a target.
pub struct Pair {
    pub source: Etcd,
    pub target: Etcd,
}

impl Pair {
    pub async fn start() -> anyhow::Result<Self> {
        let (source, target) = tokio::try_join!(Etcd::start(), Etcd::start())?;
        Ok(Self { source, target })
    }

    pub async fn copy(&self, options: &Options) -> anyhow::Result<Position> {
        Ok(kv_import::copy(&self.source.side(), &self.target.side(), options, &|_| ()).await?)
    }

    /// Follows until everything that the source has now is applied.
    pub async fn catch_up(&self, options: &Options, from: Position) -> anyhow::Result<Position> {
        Ok(kv_import::follow(&self.source.side(), &self.target.side(), options, from, std::future::ready(()), &|_| ())
            .await?)
    }

    pub async fn verify(&self, options: &Options, at: Option<Position>) -> anyhow::Result<Verified> {
        Ok(kv_import::verify(&self.source.side(), &self.target.side(), options, at, &|_| ()).await?)
    }

    pub async fn assert_equal(&self, options: &Options, at: Option<Position>) -> anyhow::Result<u64> {
        let verified = self.verify(options, at).await?;
        ensure!(verified.differing == 0, "{verified:?}");
        Ok(verified.keys)
    }
}

/// Waits for a condition, and fails with what it last said.
pub async fn until<F: Future<Output = anyhow::Result<Result<(), String>>>>(
    condition: impl Fn() -> F,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match condition().await? {
            Ok(()) => return Ok(()),
            Err(last) => ensure!(Instant::now() < deadline, "waited in vain: {last}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
