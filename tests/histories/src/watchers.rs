//! Clients that open watches of all kinds at all revisions, close them, lose them and take them up again elsewhere.
//!
//! Must hold: everything that a stream delivers is recorded before the stream is given up, under the watch it is for.
//!
//! Left to others: whether it is right (see `watch`).

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use etcd_proto::etcdserverpb as pb;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::history::{KeyRange, Revision};
use crate::load::Shared;
use crate::watch::{Frame, Kinds, Wanted, WatchRecord};
use crate::wire;

/// Requests that wait to be sent on a stream: the creations and some requests for progress.
const REQUESTS_MAX: usize = 16;
/// How long a store may take to open a stream.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// How long a watch may lag behind when all is quiet.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(15);
/// Before a stream is opened again.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest life of a stream that is closed on purpose.
const LIFE_MAX: Duration = Duration::from_secs(3);
/// How often, at most, a stream asks for progress.
const ASK_EVERY: Duration = Duration::from_millis(150);
/// How far into the future a watch may start.
const AHEAD_MAX: u64 = 30;

/// How far in the past a watch may start, so that what all watches record stays small in long runs.
const BEHIND_MAX: u64 = 2_000;

/// The last writes of a recording: what a watcher must have seen before it may go.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    /// Revision, key, and whether it is a put.
    pub(crate) marks: Vec<(Revision, Bytes, bool)>,
    /// The last revision.
    pub(crate) revision: Revision,
}

impl Closing {
    /// Whether a watch has got the last of what it is to get.
    fn reached(&self, record: &WatchRecord) -> bool {
        // A watch without a start gets what follows its creation, which may lie behind the first of the last writes.
        let start = record.wanted.start.or(record.created.map(Revision::next)).unwrap_or(Revision::EMPTY);
        let last = self.marks.iter().filter(|(at, key, is_put)| *at >= start && record.wanted.wants(key, *is_put));
        let Some(last) = last.map(|(at, ..)| *at).max() else { return true };
        record.events().last().is_some_and(|event| event.state.modified >= last)
    }
}

/// Opens streams one after another until the recording is closed, and returns what all their watches got.
pub(crate) async fn work(
    id: u32,
    shared: Shared,
    mut rng: StdRng,
    mut closed: watch::Receiver<Option<Closing>>,
) -> Result<Vec<WatchRecord>> {
    let mut records: Vec<WatchRecord> = Vec::new();
    for round in 0_u32.. {
        if closed.borrow().is_some() {
            break;
        }
        let member = shared.doors.any(&mut rng);
        let mut watches: Vec<_> = (0..rng.random_range(1..=3)).map(|_| draw(&shared, &mut rng)).collect();
        if let Some((resumed, first)) = records.last().zip(watches.first_mut()) {
            // The first watch of a stream goes on where the last of the stream before ended.
            let last = resumed.events().last().map(|event| event.state.modified.next());
            let created = resumed.created.map(Revision::next);
            let from = last.or(resumed.wanted.start).or(created);
            *first = Wanted { start: from, ..resumed.wanted.clone() };
        }
        // Every third stream is kept until it breaks.
        let life = (!id.is_multiple_of(3)).then(|| LIFE_MAX.mul_f64(rng.random()));
        let mut stream = Stream::new(&shared, &format!("s{id}.{round} on n{}", member + 1), watches);
        stream.run(member, &mut rng, life, &mut closed).await?;
        records.extend(stream.records);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(records)
}

/// Gets the whole history from one member, from the first write to the last.
pub(crate) async fn replay(member: usize, shared: &Shared, closing: &Closing) -> Result<Vec<WatchRecord>> {
    let wanted = Wanted {
        range: Shared::everything(),
        start: Some(Revision::EMPTY.next()),
        kinds: Kinds::All,
        prev_kv: true,
        fragment: true,
        progress_notify: true,
    };
    let mut stream = Stream::new(shared, &format!("replay on n{}", member + 1), vec![wanted]);
    let mut requests = stream.open(member).await?;
    stream.catch_up(&mut requests, closing).await?;
    Ok(stream.records)
}

fn draw(shared: &Shared, rng: &mut StdRng) -> Wanted {
    let key = |rng: &mut StdRng| shared.keys[rng.random_range(0..shared.keys.len())].clone();
    let range = match rng.random_range(0..3) {
        0 => Shared::everything(),
        1 => KeyRange::one(key(rng)),
        _ => KeyRange::between(key(rng), "l"),
    };
    let latest = shared.latest.load(Ordering::Relaxed);
    let start = match rng.random_range(0..4) {
        0 => None,
        1 => Some(latest + rng.random_range(0..AHEAD_MAX)),
        2 => Some(rng.random_range(latest.saturating_sub(BEHIND_MAX).max(1)..=latest)),
        _ => Some(latest.saturating_sub(rng.random_range(0..AHEAD_MAX)).max(1)),
    };
    let kinds = match rng.random_range(0..4) {
        0 => Kinds::Puts,
        1 => Kinds::Deletes,
        _ => Kinds::All,
    };
    Wanted {
        range,
        start: start.map(Revision::new),
        kinds,
        prev_kv: rng.random(),
        fragment: rng.random(),
        progress_notify: rng.random(),
    }
}

/// Both ends of an open stream.
struct Open {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

struct Stream<'a> {
    shared: &'a Shared,
    records: Vec<WatchRecord>,
}

impl<'a> Stream<'a> {
    fn new(shared: &'a Shared, name: &str, watches: Vec<Wanted>) -> Self {
        let record = |(index, wanted)| WatchRecord {
            name: format!("{name} #{}", index + 1),
            wanted,
            created: None,
            frames: Vec::new(),
            until: None,
            ended: String::new(),
        };
        Stream { shared, records: watches.into_iter().enumerate().map(record).collect() }
    }

    async fn open(&self, member: usize) -> Result<Open> {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        for (index, record) in self.records.iter().enumerate() {
            let create = RequestUnion::CreateRequest(wire::watch(&record.wanted, watch_id(index)));
            requests.send(pb::WatchRequest { request_union: Some(create) }).await?;
        }
        let mut client = WatchClient::new(self.shared.doors.channel(member)?);
        let opened = tokio::time::timeout(OPEN_WITHIN, client.watch(ReceiverStream::new(receiver))).await??;
        Ok(Open { requests, responses: opened.into_inner() })
    }

    /// Reads until the stream breaks, its life is over, or the recording is closed and everything has come.
    async fn run(
        &mut self,
        member: usize,
        rng: &mut StdRng,
        life: Option<Duration>,
        closed: &mut watch::Receiver<Option<Closing>>,
    ) -> Result<()> {
        let mut open = match self.open(member).await {
            Ok(open) => open,
            Err(error) => return self.end(&format!("not opened: {error:#}")),
        };
        let end = life.map(|life| Instant::now() + life);
        let mut ask = Instant::now() + ASK_EVERY.mul_f64(rng.random());
        loop {
            tokio::select! {
                response = open.responses.message() => match response {
                    Ok(Some(response)) => self.take(response)?,
                    Ok(None) => return self.end("the store ended the stream"),
                    Err(status) => return self.end(&status.to_string()),
                },
                () = tokio::time::sleep_until(ask) => {
                    ask = Instant::now() + ASK_EVERY.mul_f64(rng.random::<f64>() + 0.5);
                    let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    // A stream that takes no more requests is about to end, and says so itself.
                    let _ = open.requests.try_send(pb::WatchRequest { request_union: Some(progress) });
                }
                () = tokio::time::sleep_until(end.unwrap_or(ask + LIFE_MAX)), if end.is_some() => {
                    return self.end("closed by its client");
                }
                _ = closed.changed() => {
                    let closing = closed.borrow_and_update().clone();
                    let Some(closing) = closing else { return self.end("the recording was given up") };
                    return self.catch_up(&mut open, &closing).await;
                }
            }
        }
    }

    /// Reads on until every watch has got the last of what it is to get.
    async fn catch_up(&mut self, open: &mut Open, closing: &Closing) -> Result<()> {
        let deadline = Instant::now() + CATCH_UP_WITHIN;
        let mut ended = "everything came";
        while self.records.iter().any(|record| record.created.is_none() || !closing.reached(record)) {
            match tokio::time::timeout_at(deadline, open.responses.message()).await {
                Ok(Ok(Some(response))) => self.take(response)?,
                Ok(Ok(None)) => return self.end("the store ended the stream"),
                Ok(Err(status)) => return self.end(&status.to_string()),
                Err(_) => {
                    ended = "not everything came in time";
                    break;
                }
            }
        }
        self.records.iter_mut().for_each(|record| record.until = Some(closing.revision));
        self.end(ended)
    }

    fn take(&mut self, response: pb::WatchResponse) -> Result<()> {
        let at = self.shared.recorder.now();
        let revision = wire::revision(response.header.as_ref())?;
        let is_progress = response.events.is_empty() && !response.created && !response.canceled;
        if is_progress && response.watch_id == -1 {
            let created = self.records.iter_mut().filter(|record| record.created.is_some());
            created.for_each(|record| record.frames.push((at, Frame::Progress { revision, asked: true })));
            return Ok(());
        }
        let ids = 0..self.records.len();
        let index = ids.into_iter().find(|index| watch_id(*index) == response.watch_id);
        ensure!(index.is_some(), "a response names watch {}, which was not asked for", response.watch_id);
        let Some(record) = index.and_then(|index| self.records.get_mut(index)) else { return Ok(()) };
        ensure!(!response.canceled, "watch {} was cancelled: {}", record.name, response.cancel_reason);
        if response.created {
            ensure!(record.created.is_none(), "watch {} was created twice", record.name);
            record.created = Some(revision);
        }
        ensure!(record.created.is_some(), "watch {} was answered before it was created", record.name);
        if is_progress {
            record.frames.push((at, Frame::Progress { revision, asked: false }));
        } else if !response.events.is_empty() {
            let events = response.events.into_iter().map(wire::event).collect::<Result<_>>()?;
            record.frames.push((at, Frame::Events { events, more: response.fragment }));
        }
        Ok(())
    }

    fn end(&mut self, how: &str) -> Result<()> {
        self.records.iter_mut().for_each(|record| record.ended = how.to_owned());
        Ok(())
    }
}

/// Watch ids are the client's choice; 0 would leave the choice to the store.
fn watch_id(index: usize) -> i64 {
    i64::try_from(index).map_or(i64::MAX, |index| index + 1)
}
