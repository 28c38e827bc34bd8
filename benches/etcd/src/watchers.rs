//! Many watches on few streams, and what they received.
//!
//! Must hold: every event counts, and a watch that the server cancels is an error, never silence.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use etcd_proto::etcdserverpb::watch_client::WatchClient;
use etcd_proto::etcdserverpb::watch_request::RequestUnion;
use etcd_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::client::Connections;
use crate::keys::{VALUE_BYTES, Values};
use crate::load::Latencies;
use crate::progress::Progress;

/// Requests for watches on their way into one stream.
const REQUESTS_WAITING_MAX: usize = 64;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Without any progress for so long, watches or events are missing.
const STALLED_AFTER: Duration = Duration::from_secs(30);
const STAMP_BYTES: usize = 8;

/// Open watches.
pub(crate) struct Watchers {
    state: Arc<State>,
    count: u64,
    /// Dropping it ends the streams.
    _streams: JoinSet<()>,
}

struct State {
    epoch: Instant,
    created: AtomicU64,
    events: AtomicU64,
    latencies: Mutex<Latencies>,
    failure: Mutex<Option<String>>,
}

impl Watchers {
    /// Opens a stream on each connection that watches each of the keys, and waits until all watches exist.
    pub(crate) async fn open(connections: &Connections, keys: &[Bytes], progress: &Progress) -> Result<Watchers> {
        let state = Arc::new(State {
            epoch: Instant::now(),
            created: AtomicU64::new(0),
            events: AtomicU64::new(0),
            latencies: Mutex::new(Latencies::new()),
            failure: Mutex::new(None),
        });
        let keys: Arc<[Bytes]> = keys.into();
        let mut streams = JoinSet::new();
        let mut count = 0;
        for client in connections.watches() {
            count += keys.len() as u64;
            let (state, keys) = (state.clone(), keys.clone());
            streams.spawn(async move {
                let Err(failure) = watch(client, &keys, &state).await;
                lock(&state.failure).get_or_insert(failure.to_string());
            });
        }
        let watchers = Watchers { state, count, _streams: streams };
        watchers.wait_for("opening watches", &watchers.state.created, count, progress).await?;
        Ok(watchers)
    }

    /// How many watches there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How many events were received since the watches were opened.
    pub(crate) fn events(&self) -> u64 {
        self.state.events.load(Ordering::Relaxed)
    }

    /// Forgets the latencies so far and returns them.
    pub(crate) fn take_latencies(&self) -> Latencies {
        std::mem::replace(&mut *lock(&self.state.latencies), Latencies::new())
    }

    /// Waits until so many events in all were received as the range allows: a put whose outcome is unknown may or may
    /// not have made some. Fewer or more are an error.
    pub(crate) async fn wait_events(&self, expected: RangeInclusive<u64>, progress: &Progress) -> Result<()> {
        self.wait_for("waiting for events", &self.state.events, *expected.start(), progress).await?;
        let events = self.events();
        ensure!(expected.contains(&events), "{events} events were received where {expected:?} were expected");
        Ok(())
    }

    /// What makes values that carry the moment of their making.
    pub(crate) fn stamper(&self, values: &Values) -> Stamper {
        Stamper { epoch: self.state.epoch, values: values.clone() }
    }

    async fn wait_for(&self, what: &str, count: &AtomicU64, expected: u64, progress: &Progress) -> Result<()> {
        let (mut last, mut changed) = (0, Instant::now());
        loop {
            if let Some(failure) = &*lock(&self.state.failure) {
                bail!("a watch stream ended while {what}: {failure}");
            }
            let now = count.load(Ordering::Relaxed);
            if now >= expected {
                return Ok(());
            }
            if now > last {
                (last, changed) = (now, Instant::now());
            }
            ensure!(changed.elapsed() < STALLED_AFTER, "{what}: stuck at {now} of {expected} for {STALLED_AFTER:?}");
            progress.doing_part(what, now, expected);
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Makes values that begin with the moment of their making.
#[derive(Clone)]
pub(crate) struct Stamper {
    epoch: Instant,
    values: Values,
}

impl Stamper {
    pub(crate) fn value(&self, number: u64) -> Bytes {
        let mut value = BytesMut::with_capacity(VALUE_BYTES);
        value.put_u64(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX));
        value.extend_from_slice(&self.values.get(number)[STAMP_BYTES..]);
        value.freeze()
    }
}

/// Asks for a watch on each key and counts what comes, until something goes wrong.
async fn watch(
    mut client: WatchClient<Channel>,
    keys: &[Bytes],
    state: &State,
) -> Result<std::convert::Infallible, Status> {
    let (requests, waiting) = mpsc::channel(REQUESTS_WAITING_MAX);
    let create = async {
        for key in keys {
            let create = WatchCreateRequest { key: key.clone(), ..WatchCreateRequest::default() };
            let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
            requests.send(request).await.map_err(|_| Status::cancelled("the server ended the stream of requests"))?;
        }
        Ok::<_, Status>(())
    };
    let receive = async {
        let mut responses = client.watch(ReceiverStream::new(waiting)).await?.into_inner();
        while let Some(response) = responses.message().await? {
            state.take(&response)?;
        }
        Err::<std::convert::Infallible, _>(Status::unavailable("the server ended the stream of events"))
    };
    // `requests` lives on beside `receive`: dropping it would tell the server that no more requests come.
    let ((), never) = futures::try_join!(create, receive)?;
    Ok(never)
}

impl State {
    fn take(&self, response: &WatchResponse) -> Result<(), Status> {
        if response.canceled {
            return Err(Status::aborted(format!("the server canceled a watch: {}", response.cancel_reason)));
        }
        if response.created {
            self.created.fetch_add(1, Ordering::Relaxed);
        }
        if response.events.is_empty() {
            return Ok(());
        }
        let now = self.epoch.elapsed();
        let mut latencies = lock(&self.latencies);
        for event in &response.events {
            let value = event.kv.as_ref().map_or(&b""[..], |kv| &kv.value);
            let stamp = value.first_chunk::<STAMP_BYTES>().ok_or_else(|| Status::data_loss("an event has no value"))?;
            latencies.record(now.saturating_sub(Duration::from_nanos(u64::from_be_bytes(*stamp))));
        }
        self.events.fetch_add(response.events.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
