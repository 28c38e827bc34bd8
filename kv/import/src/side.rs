//! One end of an import, and the calls made to it.
//!
//! Must hold: every call carries the side's metadata, ends by a deadline, and is repeated on passing failures. All calls made here are
//! harmless to repeat; transactions are because of what they compare (see `writer`).

use std::{fmt, future::Future, time::Duration};

use etcd_proto::etcdserverpb::{self as pb, kv_client::KvClient, lease_client::LeaseClient, watch_client::WatchClient};
use futures::StreamExt as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
    transport::Channel,
};

use crate::{ImportError, LeaseId, Options, Retries, error::is_transient};

/// Answers larger than this many pages are refused by us, so that one answer can't take all memory.
const RECEIVE_PAGES: usize = 4;
/// Least limit on an answer: room for a few of the largest requests that etcd accepts.
const RECEIVE_BYTES_MIN: usize = 16 << 20;

/// Which end of the import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read from.
    Source,
    /// Written to.
    Target,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// Where one end is, and what every call to it says about the caller.
#[derive(Clone, Debug)]
pub struct Side {
    channel: Channel,
    metadata: MetadataMap,
}

/// Why a call can't carry this.
#[derive(Debug, thiserror::Error)]
#[error("the {what} has characters that a gRPC call can't carry; use visible ASCII")]
pub struct SideError {
    what: &'static str,
}

impl Side {
    /// An end without keyspace or token.
    pub fn new(channel: Channel) -> Self {
        Self { channel, metadata: MetadataMap::new() }
    }

    /// Names the keyspace, as Netstate understands it; etcd ignores it.
    pub fn with_keyspace(self, keyspace: &str) -> Result<Self, SideError> {
        self.with("netstate-keyspace", "keyspace", keyspace)
    }

    /// Adds a token as etcd's `Authenticate` gives them.
    pub fn with_token(self, token: &str) -> Result<Self, SideError> {
        self.with("token", "token", token)
    }

    fn with(mut self, key: &'static str, what: &'static str, value: &str) -> Result<Self, SideError> {
        let value = MetadataValue::try_from(value).map_err(|_| SideError { what })?;
        self.metadata.insert(key, value);
        Ok(self)
    }
}

/// A side in its role, with the patience to call it.
#[derive(Clone)]
pub(crate) struct Peer {
    role: Role,
    metadata: MetadataMap,
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    watch: WatchClient<Channel>,
    retries: Retries,
}

/// A lease as a side describes it.
#[derive(Clone, Debug)]
pub(crate) struct LeaseState {
    pub(crate) granted: i64,
    pub(crate) remaining: Duration,
    pub(crate) keys: Vec<bytes::Bytes>,
}

impl Peer {
    pub(crate) fn new(role: Role, side: &Side, options: &Options) -> Self {
        let receive = (options.page_bytes * RECEIVE_PAGES).max(RECEIVE_BYTES_MIN);
        Self {
            role,
            metadata: side.metadata.clone(),
            kv: KvClient::new(side.channel.clone()).max_decoding_message_size(receive),
            lease: LeaseClient::new(side.channel.clone()).max_decoding_message_size(receive),
            watch: WatchClient::new(side.channel.clone()).max_decoding_message_size(receive),
            retries: options.retries.clone(),
        }
    }

    pub(crate) fn retries(&self) -> &Retries {
        &self.retries
    }

    pub(crate) async fn range(
        &self,
        doing: &'static str,
        range: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, ImportError> {
        self.call(
            doing,
            || (self.kv.clone(), self.request(range.clone())),
            async |(mut kv, request)| kv.range(request).await,
        )
        .await
    }

    pub(crate) async fn txn(&self, doing: &'static str, txn: pb::TxnRequest) -> Result<pb::TxnResponse, ImportError> {
        self.call(
            doing,
            || (self.kv.clone(), self.request(txn.clone())),
            async |(mut kv, request)| kv.txn(request).await,
        )
        .await
    }

    /// The side's present revision, learned from a read that any reader of `key` may make.
    pub(crate) async fn header(&self, key: &[u8]) -> Result<pb::ResponseHeader, ImportError> {
        let doing = "tell its revision";
        let range = pb::RangeRequest { key: key.to_vec().into(), count_only: true, ..Default::default() };
        self.range(doing, range).await?.header.ok_or(ImportError::Malformed {
            side: self.role,
            doing,
            missing: "a header",
        })
    }

    pub(crate) async fn leases(&self) -> Result<Vec<LeaseId>, ImportError> {
        let request = || (self.lease.clone(), self.request(pb::LeaseLeasesRequest {}));
        let answer = self
            .call("list its leases", request, async |(mut lease, request)| lease.lease_leases(request).await)
            .await?;
        Ok(answer.leases.iter().filter_map(|status| LeaseId::new(status.id)).collect())
    }

    /// What is left of a lease; nothing if it has ended.
    pub(crate) async fn lease(&self, id: LeaseId, keys: bool) -> Result<Option<LeaseState>, ImportError> {
        let request = || (self.lease.clone(), self.request(pb::LeaseTimeToLiveRequest { id: id.get(), keys }));
        let answer = self
            .call("describe a lease", request, async |(mut lease, request)| lease.lease_time_to_live(request).await)
            .await;
        match answer {
            Ok(answer) => Ok(u64::try_from(answer.ttl).ok().map(|seconds| LeaseState {
                granted: answer.granted_ttl,
                remaining: Duration::from_secs(seconds),
                keys: answer.keys,
            })),
            Err(ImportError::Refused { source, .. }) if source.code() == tonic::Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn grant(&self, id: LeaseId, ttl: i64) -> Result<(), ImportError> {
        let request = || (self.lease.clone(), self.request(pb::LeaseGrantRequest { ttl, id: id.get() }));
        self.call("grant a lease", request, async |(mut lease, request)| lease.lease_grant(request).await)
            .await
            .map(drop)
    }

    /// Renews a lease. False: it has ended.
    pub(crate) async fn keep_alive(&self, id: LeaseId) -> Result<bool, ImportError> {
        let request = || {
            let once = tokio_stream::once(pb::LeaseKeepAliveRequest { id: id.get() });
            (self.lease.clone(), self.request(once))
        };
        let answer = self
            .call("keep a lease alive", request, async |(mut lease, request)| {
                let mut answers = lease.lease_keep_alive(request).await?.into_inner();
                let first =
                    answers.next().await.ok_or_else(|| Status::unavailable("the stream ended without an answer"))??;
                Ok(Response::new(first))
            })
            .await?;
        Ok(answer.ttl > 0)
    }

    /// Opens a watch; one attempt. The sender keeps it open.
    pub(crate) async fn watch(
        &self,
        create: pb::WatchCreateRequest,
    ) -> Result<(mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>), Status> {
        let (sender, receiver) = mpsc::channel(1);
        let create = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        sender.send(create).await.map_err(|_| Status::internal("the request queue is closed"))?;
        let mut client = self.watch.clone();
        let opened = client.watch(self.request(ReceiverStream::new(receiver)));
        match tokio::time::timeout(self.retries.attempt, opened).await {
            Ok(answer) => Ok((sender, answer?.into_inner())),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }

    async fn call<C, T, F>(
        &self,
        doing: &'static str,
        prepare: impl Fn() -> C,
        send: impl Fn(C) -> F,
    ) -> Result<T, ImportError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut outage = Outage::new(self.role, doing, self.retries.clone());
        loop {
            let status = match tokio::time::timeout(self.retries.attempt, send(prepare())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            outage.wait(status).await?;
        }
    }
}

/// A series of failures of one thing, from the first on.
pub(crate) struct Outage {
    role: Role,
    doing: &'static str,
    retries: Retries,
    began: Option<Instant>,
    failures: u32,
}

impl Outage {
    pub(crate) fn new(role: Role, doing: &'static str, retries: Retries) -> Self {
        Self { role, doing, retries, began: None, failures: 0 }
    }

    /// It works again.
    pub(crate) fn over(&mut self) {
        self.began = None;
        self.failures = 0;
    }

    /// Waits before the next attempt, or says why there is none.
    pub(crate) async fn wait(&mut self, status: Status) -> Result<(), ImportError> {
        let (side, doing, source) = (self.role, self.doing, Box::new(status));
        if !is_transient(&source) {
            return Err(ImportError::Refused { side, doing, source });
        }
        let now = Instant::now();
        let tried = now - *self.began.get_or_insert(now);
        if tried >= self.retries.patience {
            return Err(ImportError::Unreachable { side, doing, tried, source });
        }
        let pause = self.retries.pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        tracing::debug!(%side, doing, status = %source, ?pause, "will try again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
