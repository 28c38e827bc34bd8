//! Connections to a cluster over the etcd v3 API.
//!
//! Must hold: both systems are reached in exactly the same way.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use etcd_proto::etcdserverpb::kv_client::KvClient;
use etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use etcd_proto::etcdserverpb::watch_client::WatchClient;
use etcd_proto::etcdserverpb::{PutRequest, RangeRequest};
use futures::{StreamExt, TryStreamExt, stream};
use tonic::transport::{Channel, Endpoint};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Connections being opened at the same time.
const CONNECTING_MAX: usize = 16;
/// Large enough that a server is never held up by flow control while this program has processor time to read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// The largest answer taken. All of a million keys is some 320 MB.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Some connections, spread evenly over the members of a cluster.
pub(crate) struct Connections(Vec<Channel>);

impl Connections {
    /// Opens `count` connections, the first to the first endpoint, the second to the second, and round again.
    pub(crate) async fn open(endpoints: &[String], count: usize) -> Result<Connections> {
        let targets: Vec<String> = endpoints.iter().cycle().take(count).cloned().collect();
        let channels = stream::iter(targets).map(|target| async move { connect(&target).await });
        Ok(Connections(channels.buffered(CONNECTING_MAX).try_collect().await?))
    }

    /// A client for keys on the connection of that number, starting again after the last.
    pub(crate) fn kv(&self, number: usize) -> KvClient<Channel> {
        kv(self.0[number % self.0.len()].clone())
    }

    /// A client for watches on each of the connections.
    pub(crate) fn watches(&self) -> impl Iterator<Item = WatchClient<Channel>> {
        self.0.iter().map(|channel| WatchClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX))
    }
}

/// A client for keys that takes large answers.
pub(crate) fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX).max_encoding_message_size(ANSWER_BYTES_MAX)
}

/// A client for the health of one member, on a connection of its own.
pub(crate) async fn maintenance(endpoint: &str) -> Result<MaintenanceClient<Channel>> {
    Ok(MaintenanceClient::new(connect(endpoint).await?))
}

/// Connects now.
pub(crate) async fn connect(endpoint: &str) -> Result<Channel> {
    prepare(endpoint)?.connect().await.with_context(|| format!("cannot connect to {endpoint}"))
}

/// Connects when first used, and again after the connection was lost.
pub(crate) fn connect_lazily(endpoint: &str) -> Result<Channel> {
    Ok(prepare(endpoint)?.connect_lazy())
}

fn prepare(endpoint: &str) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(endpoint.to_owned())?
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// The put of one value.
pub(crate) fn put(key: Bytes, value: Bytes) -> PutRequest {
    PutRequest { key, value, ..PutRequest::default() }
}

/// The get of one key; `serializable` lets a member answer from what it has.
pub(crate) fn get(key: Bytes, serializable: bool) -> RangeRequest {
    RangeRequest { key, serializable, ..RangeRequest::default() }
}

/// The range of all keys that begin with `prefix`, which must not end with the byte 255.
pub(crate) fn all_with(prefix: &str) -> RangeRequest {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    RangeRequest { key: Bytes::copy_from_slice(prefix.as_bytes()), range_end: end.into(), ..RangeRequest::default() }
}
