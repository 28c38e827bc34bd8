//! One stream of watches to one system.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use etcd_proto::etcdserverpb as pb;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::transcript::Transcript;
use crate::client::Client;
use crate::generate::KEYS;

/// How long a stream may take to bring what is waited for.
const WAIT_SECONDS_MAX: u64 = 20;
/// How many requests wait to be sent.
const QUEUED_REQUESTS_MAX: usize = 16;
/// How many responses wait to be read.
const QUEUED_RESPONSES_MAX: usize = 64;
/// The identifier in a response that is of no watch.
const NO_WATCH: i64 = -1;

/// An open stream and what it has brought.
pub(super) struct Stream {
    requests: Option<mpsc::Sender<pb::WatchRequest>>,
    responses: mpsc::Receiver<Result<pb::WatchResponse, Status>>,
    transcript: Transcript,
}

impl Stream {
    /// Opens a stream. The call goes on beside its requests, since etcd does not answer it before the first of them.
    pub(super) fn open(client: Client) -> Self {
        let (requests, queue) = mpsc::channel(QUEUED_REQUESTS_MAX);
        let (sender, responses) = mpsc::channel(QUEUED_RESPONSES_MAX);
        tokio::spawn(receive(client, queue, sender));
        Self { requests: Some(requests), responses, transcript: Transcript::default() }
    }

    pub(super) async fn send(&mut self, request: RequestUnion) -> Result<()> {
        let request = pb::WatchRequest { request_union: Some(request) };
        let requests = self.requests.as_ref().context("the stream of requests has ended")?;
        requests.send(request).await.context("the stream of requests is closed")
    }

    /// Sends no more requests, and says so. Responses go on.
    pub(super) fn end_requests(&mut self) {
        self.requests = None;
    }

    /// Receives until `done`, or fails after [`WAIT_SECONDS_MAX`] or at the stream's end.
    pub(super) async fn drain(&mut self, done: &impl Fn(&Self) -> bool) -> Result<()> {
        let receive = async {
            while !done(self) {
                match self.responses.recv().await {
                    None => bail!("the stream of responses ended"),
                    Some(response) => self.transcript.push(response.context("the stream of responses failed")?),
                }
            }
            Ok(())
        };
        let waited = tokio::time::timeout(Duration::from_secs(WAIT_SECONDS_MAX), receive).await;
        waited.unwrap_or_else(|_| bail!("not everything arrived within {WAIT_SECONDS_MAX} s"))
    }

    pub(super) fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// How many requests to create a watch were answered, well or not.
    pub(super) fn created(&self) -> usize {
        self.transcript.created().len()
    }

    /// How many answers told the progress of the whole stream.
    pub(super) fn progress(&self) -> usize {
        let of_stream =
            |response: &&pb::WatchResponse| response.watch_id == NO_WATCH && !response.created && !response.canceled;
        self.transcript.responses().iter().filter(of_stream).count()
    }

    /// The watches that were created and not cancelled since.
    pub(super) fn live(&self) -> Vec<i64> {
        let mut live = Vec::new();
        for response in self.transcript.responses() {
            if response.canceled {
                live.retain(|id| *id != response.watch_id);
            } else if response.created && response.watch_id != NO_WATCH {
                live.push(response.watch_id);
            }
        }
        live
    }

    /// Whether each live watch was told of the last change to every key that it can be told of.
    pub(super) fn saw_mark(&self, creates: &[pb::WatchCreateRequest], put_at: i64, deleted_at: i64) -> bool {
        let live = self.live();
        let mut open = self
            .transcript
            .created()
            .into_iter()
            .zip(creates)
            .filter(|(created, _)| !created.canceled && live.contains(&created.watch_id));
        open.all(|(created, create)| {
            let mark = match (create.filters.contains(&0), create.filters.contains(&1)) {
                (true, true) => return true,
                (_, false) => deleted_at,
                (false, true) => put_at,
            };
            let told = KEYS.iter().any(|key| covers(create, key)) && create.start_revision <= mark;
            !told || self.transcript.last_revision(created.watch_id) >= mark
        })
    }
}

/// Passes responses on until the stream ends or nobody reads them any more.
async fn receive(
    mut client: Client,
    requests: mpsc::Receiver<pb::WatchRequest>,
    sender: mpsc::Sender<Result<pb::WatchResponse, Status>>,
) {
    match client.watch.watch(ReceiverStream::new(requests)).await {
        // Fails only if nobody reads.
        Err(status) => drop(sender.send(Err(status)).await),
        Ok(call) => {
            let mut responses = call.into_inner();
            while let Some(response) = responses.next().await {
                if sender.send(response).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether a watch is of this key. A watch of no key is of the first one.
fn covers(create: &pb::WatchCreateRequest, key: &[u8]) -> bool {
    let first: &[u8] = if create.key.is_empty() { b"\0" } else { &create.key };
    match &create.range_end[..] {
        [] => first == key,
        [0] => key >= first,
        end => key >= first && key < end,
    }
}
