//! The same hosts on etcd, as clusters use it that keep their endpoints there: a key for each endpoint, and each host lists
//! and watches the prefixes of the networks that concern it.
//!
//! Must hold: hosts are concerned by the same networks as with this store, and a connection each is what they have; where a
//! choice is to be made, it is in favour of etcd.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use etcd_proto::{
    etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
        WatchResponse, kv_client::KvClient, request_op::Request, watch_client::WatchClient,
        watch_request::RequestUnion,
    },
    mvccpb::event::EventType,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use prost::{Message as _, bytes::Bytes};
use serde_json::json;
use tokio::time;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::{
    system::{Place, System},
    tally::{Delivered, Order, Orders, Tally, Wholeness},
};
use crate::{
    bench::{
        plan::{Network, Plan},
        prepare,
    },
    failure::Failure,
};

const PREFIX: &str = "/netstate/endpoints";
/// Operations in a transaction: etcd's default limit. Transactions under way at a time.
const BATCH: usize = 128;
const CALLS: usize = 32;
/// Connections for changes; hosts have their own.
const CHANNELS: usize = 16;
const CONNECT: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// How long a call may take, retries included.
const PATIENCE: Duration = Duration::from_secs(60);
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// A cluster of etcd.
#[derive(Clone)]
pub(super) struct Etcd {
    servers: Arc<Vec<Endpoint>>,
    channels: Arc<Vec<Channel>>,
    prefix: String,
    plan: Arc<Plan>,
    /// Of each host, the networks that it has endpoints on.
    local: Arc<Vec<Vec<usize>>>,
    places: Arc<parking_lot::Mutex<Vec<Place>>>,
}

impl Etcd {
    pub(super) fn new(servers: &[String], prefix: &str, hosts: u32, plan: Arc<Plan>) -> Result<Self, Failure> {
        let endpoint = |server: &String| {
            Endpoint::from_shared(format!("http://{}", server.trim()))
                .map(|endpoint| endpoint.connect_timeout(CONNECT).tcp_nodelay(true))
                .map_err(|error| Failure::usage(format!("--etcd {server}: {error}; write host:port")))
        };
        let servers: Vec<Endpoint> = servers.iter().map(endpoint).collect::<Result<_, _>>()?;
        let channels = servers.iter().cycle().take(CHANNELS).map(Endpoint::connect_lazy).collect();
        let mut local = vec![Vec::new(); hosts as usize];
        for (at, network) in plan.networks.iter().enumerate() {
            network.hosts.iter().for_each(|host| local[*host as usize].push(at));
        }
        Ok(Etcd {
            servers: Arc::new(servers),
            channels: Arc::new(channels),
            prefix: prefix.to_owned(),
            plan,
            local: Arc::new(local),
            places: Arc::default(),
        })
    }

    fn kv(&self, number: u64) -> KvClient<Channel> {
        kv(self.channels[number as usize % self.channels.len()].clone())
    }

    /// As much of an endpoint as this store keeps: of one that was loaded, or of one that comes and goes.
    fn endpoint(&self, network: &Network, number: u64, host: u32, loaded: bool) -> Bytes {
        let base = network.pool.split('/').next().and_then(|base| base.parse::<std::net::Ipv4Addr>().ok());
        let address = base.map(|base| std::net::Ipv4Addr::from_bits(base.to_bits().wrapping_add(number as u32 + 2)));
        let [.., a, b, c, d] = number.to_be_bytes();
        let endpoint = json!({
            "id": format!("{}.{number}", network.name),
            "name": format!("pod-{number}"),
            "network": network.name,
            "host": prepare::host_name(&self.prefix, host),
            "addresses": address.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "mac": format!("02:4e:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
            "labels": if loaded { json!({ "app": network.name, "tier": "web" }) } else { json!({ "bench": "fleet" }) },
            "workload": if loaded { format!("{}-{}", network.name, number / 4) } else { String::new() },
        });
        Bytes::from(endpoint.to_string())
    }

    /// The prefixes that a host watches: its networks, and those that are connected with them.
    fn watched(&self, host: u32) -> Vec<String> {
        let local = self.local[host as usize].iter().map(|at| self.plan.networks[*at].name.clone());
        let places = self.places.lock();
        let concerned = places.iter().filter(|place| place.concerns(host));
        let connected = concerned.flat_map(|place| [place.network.name.clone(), place.other.name.clone()]);
        let networks: BTreeSet<String> = local.chain(connected).collect();
        networks.iter().map(|network| format!("{PREFIX}/{network}/")).collect()
    }

    /// Does all of it, in transactions.
    async fn all_done(&self, mut operations: impl Iterator<Item = RequestOp> + Send) -> Result<(), Failure> {
        let requests = std::iter::from_fn(|| {
            let success: Vec<_> = operations.by_ref().take(BATCH).collect();
            (!success.is_empty()).then(|| TxnRequest { success, ..TxnRequest::default() })
        });
        let calls = requests.zip(0..).map(|(request, number)| {
            let kv = self.kv(number);
            again(move || {
                let (mut kv, request) = (kv.clone(), request.clone());
                async move { kv.txn(request).await }
            })
        });
        stream::iter(calls).buffer_unordered(CALLS).try_collect().await
    }
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Calls until it is answered, as this store's client does. Whatever is called here may be done twice.
async fn again<T, C>(call: impl Fn() -> C) -> Result<(), Failure>
where
    C: Future<Output = Result<T, Status>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Ok(_) => return Ok(()),
            Err(status) if Instant::now() > deadline => {
                return Err(Failure::because(format!("etcd: {}", status.message())));
            }
            Err(_) => time::sleep(AGAIN_AFTER).await,
        }
    }
}

fn put(key: String, value: Bytes) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(PutRequest { key: key.into(), value, ..PutRequest::default() })) }
}

fn delete(key: String) -> RequestOp {
    let request = DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() };
    RequestOp { request: Some(Request::RequestDeleteRange(request)) }
}

fn key(network: &Network, name: &str) -> String {
    format!("{PREFIX}/{}/{name}", network.name)
}

/// What comes after all keys that begin so.
fn end(prefix: &str) -> Bytes {
    // It ends with a slash; the byte after it is a zero.
    format!("{}0", prefix.trim_end_matches('/')).into()
}

impl System for Etcd {
    /// Loads the plan.
    async fn prepare(&self, places: &[Place]) -> Result<(), Failure> {
        *self.places.lock() = places.to_vec();
        let endpoints = self.plan.networks.iter().flat_map(|network| {
            (0..network.endpoints).map(move |number| {
                let host = network.hosts[(number % network.hosts.len() as u64) as usize];
                put(key(network, &format!("pod-{number}")), self.endpoint(network, number, host, true))
            })
        });
        self.all_done(endpoints).await
    }

    fn live(&self, host: u32, orders: Orders, tally: Arc<Tally>) -> impl Future<Output = ()> + Send + 'static {
        let (servers, prefixes) = (self.servers.clone(), self.watched(host));
        async move { live(&servers, host, &prefixes, orders, &tally).await }
    }

    async fn attach(&self, place: &Place, number: u64) -> Result<String, Failure> {
        let key = key(&place.network, &format!("fleet-{number}"));
        let value = self.endpoint(&place.network, number, place.host(number), false);
        let request = PutRequest { key: key.clone().into(), value, ..PutRequest::default() };
        let put = || {
            let (mut kv, request) = (self.kv(number), request.clone());
            async move { kv.put(request).await }
        };
        again(put).await?;
        Ok(key)
    }

    async fn detach(&self, place: &Place, number: u64) -> Result<String, Failure> {
        let key = key(&place.network, &format!("fleet-{number}"));
        let request = DeleteRangeRequest { key: key.clone().into(), ..DeleteRangeRequest::default() };
        let delete = || {
            let (mut kv, request) = (self.kv(number), request.clone());
            async move { kv.delete_range(request).await }
        };
        again(delete).await?;
        Ok(key)
    }

    async fn churn(&self, endpoints: u64) -> Result<(), Failure> {
        let churned = |number: u64| {
            let (network, host) = self.plan.anywhere(number);
            (key(network, &format!("churn-{number}")), self.endpoint(network, number, host, false))
        };
        self.all_done((0..endpoints).map(churned).map(|(key, value)| put(key, value))).await?;
        self.all_done((0..endpoints).map(churned).map(|(key, _)| delete(key))).await
    }
}

/// Up to which revision a host has everything; 0: it has nothing.
type Held = i64;

async fn live(servers: &[Endpoint], host: u32, prefixes: &[String], mut orders: Orders, tally: &Tally) {
    let (mut held, mut attempt) = (0, u64::from(host));
    let mut whole = Wholeness::none_yet(tally);
    let mut away = false;
    let mut pace = None;
    loop {
        let server = &servers[attempt as usize % servers.len()];
        let stay = !away;
        tokio::select! {
            changed = orders.changed() => {
                if changed.is_err() {
                    return;
                }
                match *orders.borrow_and_update() {
                    Order::Stay => pace = None,
                    Order::Crawl(bytes) => {
                        (held, pace) = (0, Some(bytes));
                        whole.lost();
                    }
                    Order::Leave => {
                        away = true;
                        whole.lost();
                    }
                    Order::Come { with_nothing } => {
                        away = false;
                        held = if with_nothing { 0 } else { held };
                    }
                }
            }
            ended = watch(server, host, prefixes, &mut held, &mut whole, pace, tally), if stay => {
                if ended.is_err() {
                    tally.lost.fetch_add(1, Ordering::Relaxed);
                    whole.lost();
                    attempt += 1;
                    time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }
}

/// Lists what the host lacks, then watches until the stream ends.
async fn watch(
    server: &Endpoint,
    host: u32,
    prefixes: &[String],
    held: &mut Held,
    whole: &mut Wholeness<'_>,
    pace: Option<u64>,
    tally: &Tally,
) -> Result<(), Status> {
    let channel = server.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    if prefixes.is_empty() {
        // No network concerns it. It is connected, and etcd answers a stream only once something is to be watched.
        whole.reached(Instant::now());
        return std::future::pending().await;
    }
    let from_nothing = *held == 0;
    let mut oldest = i64::MAX;
    let mut after = Vec::with_capacity(prefixes.len());
    for prefix in prefixes {
        if from_nothing {
            let request =
                RangeRequest { key: prefix.clone().into(), range_end: end(prefix), ..RangeRequest::default() };
            let listed = kv(channel.clone()).range(request).await?.into_inner();
            tally.bytes.fetch_add(listed.encoded_len() as u64, Ordering::Relaxed);
            after.push(listed.header.map_or(0, |header| header.revision));
        } else {
            after.push(*held);
        }
        oldest = oldest.min(after.last().copied().unwrap_or(0));
    }
    *held = oldest;
    let created = prefixes.iter().zip(&after).map(|(prefix, after)| WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: prefix.clone().into(),
            range_end: end(prefix),
            start_revision: after + 1,
            ..WatchCreateRequest::default()
        })),
    });
    // The stream of requests stays open as long as the watches do.
    let requests = stream::iter(created.collect::<Vec<_>>()).chain(stream::pending());
    let mut client = WatchClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let responses = client.watch(requests).await?.into_inner();
    take(responses, host, prefixes.len(), held, whole, pace, tally).await
}

async fn take(
    mut responses: Streaming<WatchResponse>,
    host: u32,
    watches: usize,
    held: &mut Held,
    whole: &mut Wholeness<'_>,
    pace: Option<u64>,
    tally: &Tally,
) -> Result<(), Status> {
    let mut created = 0;
    while let Some(response) = responses.message().await? {
        let at = Instant::now();
        let bytes = response.encoded_len() as u64;
        tally.frames.fetch_add(1, Ordering::Relaxed);
        tally.bytes.fetch_add(bytes, Ordering::Relaxed);
        if response.created {
            created += 1;
            if created == watches {
                whole.reached(at);
            }
        } else if created == watches {
            *held = (*held).max(response.header.map_or(0, |header| header.revision));
        }
        tally.delivered(response.events.iter().filter_map(|event| {
            let key = &event.kv.as_ref()?.key;
            Some(Delivered { endpoint: tally.key(key), gone: event.r#type() == EventType::Delete, host, at })
        }));
        if let Some(pace) = pace {
            time::sleep(Duration::from_secs_f64(bytes as f64 / pace as f64)).await;
        }
    }
    Err(Status::unavailable("the server ended the stream"))
}
