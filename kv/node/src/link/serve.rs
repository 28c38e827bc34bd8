//! The other nodes' end of their links: their requests come in, our answers go out.

use std::{pin::Pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use futures::Stream;
use kv_core::{GroupId, InstanceId, NodeId};
use kv_proto::peer::v1::{
    Frame, JoinRequest, JoinResponse, Kind, Message,
    peer_server::{Peer, PeerServer},
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server as Transport};

use super::{
    ANSWERS_MESSAGES, Admit, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, Handler, Identity, Links, SERVED_AT_ONCE,
    STREAM_WINDOW_BYTES, frame,
    join::{self, Asked},
};

/// Between two looks at whether the other end still belongs here.
const ADMITTED_FOR: Duration = Duration::from_secs(1);

/// Accepts links.
pub(crate) struct Server<H> {
    own: Identity,
    admit: Admit,
    handler: Arc<H>,
    stop: CancellationToken,
}

impl<H: Handler> Server<H> {
    /// Serves until `stop`.
    pub(crate) async fn run(links: Links, handler: Arc<H>, listener: TcpListener, stop: CancellationToken) {
        let (own, admit) = (links.0.own, links.0.admit.clone());
        drop(links);
        let server = Server { own, admit, handler, stop: stop.clone() };
        let service = PeerServer::new(server)
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX);
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let served = Transport::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the peer port is closed");
        }
    }
}

#[tonic::async_trait]
impl<H: Handler> Peer for Server<H> {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn link(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::LinkStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.ok_or_else(|| Status::invalid_argument("no hello"))?;
        let (from, instance) = frame::check(self.own, None, &first).map_err(Status::failed_precondition)?;
        (self.admit)(from, instance).map_err(Status::permission_denied)?;
        let (frames, outgoing) = mpsc::channel(1);
        let hello = frame::hello(self.own, from);
        frames.send(Ok(hello)).await.map_err(|_| Status::cancelled("closed at once"))?;

        let (answers, mut queue) = mpsc::channel::<Message>(ANSWERS_MESSAGES);
        tokio::spawn(async move {
            while let Some(frame) = frame::next(&mut queue, |answer| answer).await {
                if frames.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
        });
        let serving = serve(from, requests, answers, self.handler.clone());
        let (admit, stop) = (self.admit.clone(), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = serving => {}
                () = expelled(from, instance, admit) => tracing::info!(%from, "the link of a node that is none any more ends"),
                () = stop.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let joining = match join::parse(self.own, request.into_inner())? {
            Asked::Join(candidate) => self.handler.clone().join(candidate).await,
            Asked::Belongs(candidate) => {
                self.handler.recognises(&candidate).map_err(Status::failed_precondition)?;
                return Ok(Response::new(JoinResponse::default()));
            }
        };
        match joining {
            Ok(joined) => Ok(Response::new(join::answer(self.own, joined))),
            Err(error) => Err(join::refusal(&error)),
        }
    }
}

/// Returns when a node is not to be linked to any more.
async fn expelled(node: NodeId, instance: Option<InstanceId>, admit: Admit) {
    while admit(node, instance).is_ok() {
        tokio::time::sleep(ADMITTED_FOR).await;
    }
}

async fn serve<H: Handler>(
    from: NodeId,
    mut requests: Streaming<Frame>,
    answers: mpsc::Sender<Message>,
    handler: Arc<H>,
) {
    let places = Arc::new(Semaphore::new(SERVED_AT_ONCE));
    // They end with this call, and nothing keeps the store of a node that has stopped open.
    let mut answered = JoinSet::new();
    while let Ok(Some(frame)) = requests.message().await {
        for request in frame.messages {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (answers, ordered) = (answers.clone(), request.kind() == Kind::Append);
            let mut answering = Box::pin(answer(from, request, handler.clone()));
            // Log entries have to reach their group in the order in which they were sent: the first poll hands them
            // over, the rest only waits.
            let ready = if ordered { futures::poll!(&mut answering) } else { Poll::Pending };
            while answered.try_join_next().is_some() {}
            answered.spawn(async move {
                let answer = match ready {
                    Poll::Ready(answer) => answer,
                    Poll::Pending => answering.await,
                };
                drop(place);
                // The link has gone: the asker learns it from there.
                let _ = answers.send(answer).await;
            });
        }
    }
    while answered.join_next().await.is_some() {}
}

async fn answer<H: Handler>(from: NodeId, request: Message, handler: Arc<H>) -> Message {
    let kind = request.kind();
    let answered = match u16::try_from(request.group) {
        Ok(group) => handler.handle(from, kind, GroupId::new(group), request.payload).await,
        Err(_) => Err(format!("there is no group {}", request.group)),
    };
    let (failed, payload) = match answered {
        Ok(payload) => (false, payload),
        Err(reason) => (true, Bytes::from(reason)),
    };
    Message { id: request.id, answer: true, failed, kind: Kind::into(kind), group: request.group, payload }
}
