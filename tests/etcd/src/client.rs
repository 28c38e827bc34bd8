//! One connection to a server, with a client for each service, and calls with a body of any bytes.
//!
//! Must hold: no call waits longer than [`CALL_SECONDS_MAX`]; nothing is retried or changed on its way.
//!
//! Left to others: what the answers mean (see `normalise`).

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Buf, BufMut, Bytes};
use etcd_proto::etcdserverpb as pb;
use pb::auth_client::AuthClient;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use tokio_stream::StreamExt;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// The longest wait for one answer.
pub const CALL_SECONDS_MAX: u64 = 30;
/// The largest answer accepted: watches answer with several of the largest values at once.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A client of every service over one connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// Keys and values.
    pub kv: KvClient<Channel>,
    /// Watches.
    pub watch: WatchClient<Channel>,
    /// Leases.
    pub lease: LeaseClient<Channel>,
    /// Users and roles.
    pub auth: AuthClient<Channel>,
    /// Members.
    pub cluster: ClusterClient<Channel>,
    /// Alarms, hashes and status.
    pub maintenance: MaintenanceClient<Channel>,
    channel: Channel,
}

impl Client {
    /// A client of the server at `address`, `host:port`, that connects when first used.
    pub fn new(address: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .with_context(|| format!("{address:?} is not an address"))?
            .timeout(Duration::from_secs(CALL_SECONDS_MAX));
        let channel = endpoint.connect_lazy();
        Ok(Self {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX),
            lease: LeaseClient::new(channel.clone()),
            auth: AuthClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            channel,
        })
    }

    /// Calls `path` with one message of these bytes and ends the request there. Gives every message of the answer, or
    /// the status that ended it.
    pub async fn raw(&self, path: &'static str, body: Bytes) -> Result<Vec<Bytes>, Status> {
        let call = async {
            let mut grpc = tonic::client::Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let request = Request::new(tokio_stream::once(body));
            let path = http_path(path);
            let mut answers = grpc.streaming(request, path, BytesCodec).await?.into_inner();
            let mut received = Vec::new();
            while let Some(answer) = answers.next().await {
                received.push(answer?);
            }
            Ok(received)
        };
        let limit = Duration::from_secs(CALL_SECONDS_MAX);
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "no end")))
    }
}

fn http_path(path: &'static str) -> tonic::codegen::http::uri::PathAndQuery {
    tonic::codegen::http::uri::PathAndQuery::from_static(path)
}

/// Messages as they are on the wire, well formed or not.
#[derive(Clone, Copy, Debug)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        target.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}
