//! Our end of a link: opened, kept, opened again.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kv_core::NodeId;
use kv_proto::peer::v1::{Frame, Message, peer_client::PeerClient};
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use super::{
    Admit, CONNECTION_WINDOW_BYTES, Expelled, FRAME_BYTES_MAX, Identity, LinkError, Outgoing, STREAM_WINDOW_BYTES,
    frame,
};

/// A peer that can be reached again is linked to after the sum of this and [`BACKOFF_MAX`] at most.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
const HELLO_PATIENCE: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Frames handed to the transport and not written yet.
const FRAMES: usize = 2;

/// Frames between two looks for askers who have given up, which would otherwise be remembered as long as the link is up.
const FORGET_EVERY_FRAMES: u32 = 1024;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<bytes::Bytes, LinkError>>>>>;

/// Keeps one link.
pub(super) struct Keeper {
    own: Identity,
    peer: NodeId,
    address: String,
    admit: Admit,
    expelled: Expelled,
}

/// Where it is said how a link is.
pub(super) struct Told {
    /// Since when it is down; `None`: it is up.
    pub(super) down: watch::Sender<Option<tokio::time::Instant>>,
    pub(super) times_up: Arc<AtomicU64>,
    /// Changes when any link comes up.
    pub(super) reached: watch::Sender<()>,
}

/// Why a link was not opened.
enum Closed {
    /// It may be later.
    Failed(String),
    /// This node does not belong to the cluster any more.
    Expelled(String),
}

impl From<String> for Closed {
    fn from(reason: String) -> Self {
        Closed::Failed(reason)
    }
}

impl Keeper {
    pub(super) fn new(own: Identity, peer: NodeId, address: String, (admit, expelled): (Admit, Expelled)) -> Self {
        Keeper { own, peer, address, admit, expelled }
    }

    /// Keeps the link up until nobody can ask any more.
    pub(super) async fn keep(self, mut queue: mpsc::Receiver<Outgoing>, told: Told) {
        let (peer, address) = (self.peer, &self.address);
        let mut backoff = BACKOFF_MIN;
        let mut said = String::new();
        while !queue.is_closed() {
            match self.open().await {
                Ok((frames, answers)) => {
                    tracing::info!(%peer, address, "link up");
                    backoff = BACKOFF_MIN;
                    said.clear();
                    told.times_up.fetch_add(1, Ordering::Relaxed);
                    told.down.send_replace(None);
                    told.reached.send_replace(());
                    let waiting = Waiting::default();
                    tokio::select! {
                        () = write(&mut queue, &frames, &waiting) => {}
                        () = read(answers, &waiting) => {}
                    }
                    told.down.send_replace(Some(tokio::time::Instant::now()));
                    tracing::warn!(%peer, address, "link down");
                    fail(&mut queue, &waiting);
                }
                Err(Closed::Expelled(reason)) => (self.expelled)(&reason),
                Err(Closed::Failed(reason)) if reason != said => {
                    tracing::warn!(%peer, address, reason, "no link yet");
                    said = reason;
                }
                Err(Closed::Failed(_)) => {}
            }
            fail(&mut queue, &Waiting::default());
            let jitter = rand::rng().random_range(0.5..1.0);
            tokio::time::sleep(backoff.mul_f64(jitter)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn open(&self) -> Result<(mpsc::Sender<Frame>, Streaming<Frame>), Closed> {
        let channel = connect(&self.address).await?;
        let mut client = PeerClient::new(channel)
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX);
        let (frames, outgoing) = mpsc::channel(FRAMES);
        frames.send(frame::hello(self.own, self.peer)).await.map_err(|_| "closed at once".to_string())?;
        let opening = async {
            let opened = client.link(ReceiverStream::new(outgoing)).await;
            let mut answers = opened.map_err(|status| refused(&status))?.into_inner();
            let first = answers.message().await.map_err(|status| refused(&status))?;
            let first = first.ok_or_else(|| "closed at once".to_owned())?;
            let (node, instance) = frame::check(self.own, Some(self.peer), &first)?;
            (self.admit)(node, instance)?;
            Ok::<_, Closed>(answers)
        };
        let answers = tokio::time::timeout(HELLO_PATIENCE, opening).await;
        Ok((frames, answers.map_err(|_| "no hello in time".to_string())??))
    }
}

fn refused(status: &tonic::Status) -> Closed {
    let reason = status.message().to_string();
    if status.code() == tonic::Code::PermissionDenied { Closed::Expelled(reason) } else { Closed::Failed(reason) }
}

/// A connection to a peer port.
pub(super) async fn connect(address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("{address} is no address: {error}"))?
        .connect_timeout(CONNECT_PATIENCE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    endpoint.connect().await.map_err(|error| format!("not reachable: {error}"))
}

/// Tells everybody who waits that the link is down.
fn fail(queue: &mut mpsc::Receiver<Outgoing>, waiting: &Waiting) {
    // The asker may have given up by itself.
    for (_, answer) in waiting.lock().drain() {
        let _ = answer.send(Err(LinkError::Lost));
    }
    while let Ok(outgoing) = queue.try_recv() {
        let _ = outgoing.answer.send(Err(LinkError::Unsent));
    }
}

async fn write(queue: &mut mpsc::Receiver<Outgoing>, frames: &mpsc::Sender<Frame>, waiting: &Waiting) {
    let mut id = 0;
    let mut sent = 0u32;
    let mut message = |outgoing: Outgoing| {
        id += 1;
        waiting.lock().insert(id, outgoing.answer);
        Message {
            id,
            answer: false,
            failed: false,
            kind: outgoing.kind.into(),
            group: outgoing.group.get().into(),
            payload: outgoing.payload,
        }
    };
    while let Some(frame) = frame::next(queue, &mut message).await {
        if frames.send(frame).await.is_err() {
            return;
        }
        sent = sent.wrapping_add(1);
        if sent.is_multiple_of(FORGET_EVERY_FRAMES) {
            waiting.lock().retain(|_, answer| !answer.is_closed());
        }
    }
}

async fn read(mut answers: Streaming<Frame>, waiting: &Waiting) {
    while let Ok(Some(frame)) = answers.message().await {
        for message in frame.messages {
            let Some(answer) = waiting.lock().remove(&message.id) else { continue };
            let result = if message.failed {
                Err(LinkError::Refused { reason: String::from_utf8_lossy(&message.payload).into_owned() })
            } else {
                Ok(message.payload)
            };
            // The asker may have given up.
            let _ = answer.send(result);
        }
    }
}
