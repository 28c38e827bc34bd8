//! One stream of watches.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use etcd_proto::etcdserverpb::{
    self as pb, watch_create_request::FilterType, watch_request::RequestUnion, watch_server::Watch,
};
use futures::Stream;
use kv_core::{KeyRange, Revision};
use parking_lot::Mutex;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Hubs,
    hub::{Hub, Permit, Watcher},
    index::Place,
    outbox::{Outbox, Wants},
};
use crate::{
    access::{Caller, Shared},
    compacted, status, wire,
};

/// Watches on one stream.
const WATCHES: usize = 100_000;

/// Bytes of events in one message to a watch that takes fragments.
const FRAGMENT_BYTES: usize = 1536 * 1024;

/// The Watch service.
#[derive(Clone)]
pub(crate) struct WatchService(pub(crate) Shared);

/// One stream's watches.
struct Watches {
    shared: Shared,
    caller: Arc<Caller>,
    outbox: Arc<Outbox>,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    hub: Option<Arc<Hub>>,
    by_id: HashMap<i64, Place>,
    next: i64,
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Responses;

    async fn watch(&self, request: Request<Streaming<pb::WatchRequest>>) -> Result<Response<Responses>, Status> {
        let caller = Arc::new(self.0.caller(&request)?);
        let mut asked = request.into_inner();
        let outbox = self.0.0.hubs.outbox();
        let watches =
            Arc::new(Watches { shared: self.0.clone(), caller, outbox: outbox.clone(), places: Mutex::default() });
        let gone = CancellationToken::new();
        let responses = Responses {
            watches: watches.clone(),
            ready: VecDeque::new(),
            hub: self.0.0.hubs.hub(&watches.caller.keyspace),
            _gone: gone.clone().drop_guard(),
        };
        tokio::spawn(async move {
            loop {
                let next = async {
                    watches.outbox.ready().await;
                    asked.next().await
                };
                let next = tokio::select! {
                    next = next => next,
                    () = gone.cancelled() => return,
                };
                match next {
                    Some(Ok(request)) => watches.request(request),
                    Some(Err(error)) => return watches.outbox.fail(error),
                    // The client has nothing more to ask for; what it watches goes on.
                    None => return gone.cancelled().await,
                }
            }
        });
        Ok(Response::new(responses))
    }
}

impl Watches {
    fn request(&self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(&create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.hubs().hub(&self.caller.keyspace).progress(&self.outbox),
            None => {}
        }
    }

    fn hubs(&self) -> &Hubs {
        &self.shared.0.hubs
    }

    fn create(&self, request: &pb::WatchCreateRequest) {
        let head = self.shared.node().head(&self.caller.keyspace).revision;
        let header = self.shared.header(&self.caller.keyspace, head);
        let refuse = |reason: &str| {
            self.outbox.control(pb::WatchResponse {
                header,
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason: reason.into(),
                ..pb::WatchResponse::default()
            });
        };
        // An empty key with an empty end is the smallest key, as in etcd.
        let key = if request.key.is_empty() { bytes::Bytes::from_static(&[0]) } else { request.key.clone() };
        // Users and roles may have changed since the stream was opened.
        let caller = match self.shared.again(&self.caller) {
            Ok(caller) => caller,
            Err(error) => return refuse(error.message()),
        };
        if let Err(denied) = caller.may_watch(request) {
            return refuse(&format!("rpc error: code = {:?} desc = {}", denied.code(), denied.message()));
        }
        let end = &request.range_end;
        if !end.is_empty() && end[..] != [0] && *end <= key {
            return refuse("mvcc: watcher range is empty");
        }
        let mut places = self.places.lock();
        if places.by_id.len() >= WATCHES {
            return refuse("too many watches on one stream; open another");
        }
        let id = match request.watch_id {
            0 => {
                while places.by_id.contains_key(&places.next) {
                    places.next += 1;
                }
                places.next += 1;
                places.next - 1
            }
            chosen if places.by_id.contains_key(&chosen) => {
                return refuse("mvcc: duplicate watch ID provided on the WatchStream");
            }
            chosen => chosen,
        };
        self.outbox.control(pb::WatchResponse { header, watch_id: id, created: true, ..pb::WatchResponse::default() });
        let filtered = |kind: FilterType| request.filters.contains(&kind.into());
        let wants = Wants {
            puts: !filtered(FilterType::Noput),
            deletes: !filtered(FilterType::Nodelete),
            previous: request.prev_kv,
            fragments: request.fragment,
        };
        let after = match request.start_revision {
            0 => head,
            start => Revision::new(wire::from_revision(start).get().saturating_sub(1)),
        };
        let range = KeyRange::between(key.clone(), end.clone());
        let mut watcher = Watcher::new(self.outbox.clone(), id, range, wants, after);
        watcher.notify = request.progress_notify;
        watcher.permit = self.permit(&caller, request);
        let (hub, place) = self.hubs().add(&self.caller.keyspace, watcher);
        // A change that came before it was added was not compared with it.
        if self.shared.again(&caller).and_then(|now| now.may_watch(request)).is_err() {
            hub.cancel(place, status::permission_denied().message());
        }
        // Before the first revision lies what only a compaction at it takes away.
        if request.start_revision < 0
            && let Ok(compacted) = compacted::revision(&self.shared, &self.caller.keyspace)
            && request.start_revision < compacted
        {
            hub.cancel_compacted(&self.outbox, place, compacted);
        }
        places.by_id.insert(id, place);
        places.hub = Some(hub);
    }

    /// What lets the watch go on when users and roles change.
    fn permit(&self, caller: &Caller, request: &pb::WatchCreateRequest) -> Permit {
        if !caller.auth.enabled() {
            return Permit::Open;
        }
        let (shared, caller, request) = (self.shared.clone(), caller.clone(), request.clone());
        Permit::Asked(Arc::new(move || shared.again(&caller).is_ok_and(|now| now.may_watch(&request).is_ok())))
    }

    fn cancel(&self, id: i64) {
        let mut places = self.places.lock();
        let Some(place) = places.by_id.remove(&id) else { return };
        if let Some(hub) = &places.hub {
            hub.cancelled(&self.outbox, place, id);
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        let places = self.places.get_mut();
        if let Some(hub) = &places.hub {
            for place in places.by_id.values() {
                hub.remove(&self.outbox, *place);
            }
        }
        self.outbox.close();
        self.shared.0.hubs.release(&self.caller.keyspace);
    }
}

/// What is sent on a stream. Dropping it ends its watches.
pub(crate) struct Responses {
    watches: Arc<Watches>,
    ready: VecDeque<pb::WatchResponse>,
    hub: Arc<Hub>,
    _gone: tokio_util::sync::DropGuard,
}

impl Stream for Responses {
    type Item = Result<pb::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(response)));
            }
            match std::task::ready!(self.watches.outbox.poll(cx)) {
                Some(Ok(entry)) => {
                    let responses = entry.responses(|at| self.hub.header(at), FRAGMENT_BYTES);
                    self.ready.extend(responses);
                }
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}
