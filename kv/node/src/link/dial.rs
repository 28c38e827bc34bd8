//! Our end of a link: opened, kept, opened again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kv_core::NodeId;
use kv_proto::peer::v1::{Frame, Message, peer_client::PeerClient};
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use super::{CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, Identity, LinkError, Outgoing, STREAM_WINDOW_BYTES, frame};

const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
const HELLO_PATIENCE: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Frames handed to the transport and not written yet.
const FRAMES: usize = 2;

/// Frames between two looks for askers who have given up, which would otherwise be remembered as long as the link is up.
const FORGET_EVERY_FRAMES: u32 = 1024;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<bytes::Bytes, LinkError>>>>>;

/// Keeps a link up until nobody can ask any more.
pub(super) async fn keep(
    own: Identity,
    peer: NodeId,
    address: String,
    mut queue: mpsc::Receiver<Outgoing>,
    up: watch::Sender<bool>,
) {
    let mut backoff = BACKOFF_MIN;
    let mut told = String::new();
    while !queue.is_closed() {
        match open(own, peer, &address).await {
            Ok((frames, answers)) => {
                tracing::info!(%peer, address, "link up");
                backoff = BACKOFF_MIN;
                told.clear();
                up.send_replace(true);
                let waiting = Waiting::default();
                tokio::select! {
                    () = write(&mut queue, &frames, &waiting) => {}
                    () = read(answers, &waiting) => {}
                }
                up.send_replace(false);
                tracing::warn!(%peer, address, "link down");
                fail(&mut queue, &waiting);
            }
            Err(reason) if reason != told => {
                tracing::warn!(%peer, address, reason, "no link yet");
                told = reason;
            }
            Err(_) => {}
        }
        fail(&mut queue, &Waiting::default());
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(backoff.mul_f64(jitter)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
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

async fn open(own: Identity, peer: NodeId, address: &str) -> Result<(mpsc::Sender<Frame>, Streaming<Frame>), String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("{address} is no address: {error}"))?
        .connect_timeout(CONNECT_PATIENCE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let channel = endpoint.connect().await.map_err(|error| format!("not reachable: {error}"))?;
    let mut client =
        PeerClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX).max_encoding_message_size(FRAME_BYTES_MAX);
    let (frames, outgoing) = mpsc::channel(FRAMES);
    frames.send(frame::hello(own, peer)).await.map_err(|_| "closed at once".to_string())?;
    let opening = async {
        let opened = client.link(ReceiverStream::new(outgoing)).await;
        let mut answers = opened.map_err(|status| status.message().to_string())?.into_inner();
        let first = answers.message().await.map_err(|status| status.message().to_string())?;
        frame::check(own, Some(peer), &first.ok_or("closed at once")?)?;
        Ok::<_, String>(answers)
    };
    let answers = tokio::time::timeout(HELLO_PATIENCE, opening).await.map_err(|_| "no hello in time".to_string())??;
    Ok((frames, answers))
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
