//! What is answered otherwise than tonic would: requests too large to be read, and ranges too large for memory.
//!
//! The answer to `Range` is one message, whatever its size, and starts with its length. So a large range is read twice, of
//! one pinned state: once for the length, and once while it is sent, a page at a time, as fast as the client takes it.

use std::convert::Infallible;

use axum::{extract::State, middleware::Next};
use bytes::{BufMut, Bytes, BytesMut};
use etcd_proto::etcdserverpb as pb;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use kv_core::{Query, RangeResult, Revision, Want};
use kv_node::{Consistency, Pages, ReadError};
use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    body::Body,
    codegen::http::{HeaderMap, HeaderValue, header::CONTENT_TYPE},
    metadata::MetadataMap,
};

use crate::{
    access::{STALENESS, Shared},
    status, wire,
};

pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";

/// What tonic says of a message beyond the limit, as it is encoded in a header.
const TOO_LARGE: &[u8] = b"Error,%20decoded%20message%20length%20too%20large";

/// Before each message: whether it is compressed, and its length in four bytes.
const PREFIX_BYTES: usize = 5;

/// Keys of one page, and pages that wait for a slow reader.
const PAGE_KEYS: usize = 1000;
const PAGES: usize = 2;

/// Beside the services of a keyspace's port.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) shared: Shared,
    /// Bytes of a request that is read at all.
    pub(crate) request_bytes: usize,
}

/// Passes requests on, except for those named above.
pub(crate) async fn pass(
    State(edge): State<Edge>,
    request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    if request.uri().path() != RANGE {
        return too_large(next.run(request).await);
    }
    match edge.range(request).await {
        Ok(answer) => answer.map(axum::body::Body::new),
        Err(request) => too_large(next.run(request.map(axum::body::Body::new)).await),
    }
}

impl Edge {
    /// Answers a range that may be large; gives back any other request, whole.
    pub(crate) async fn range<B>(&self, request: Request<B>) -> Result<Response<Body>, Request<Body>>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, self.request_bytes + PREFIX_BYTES).collect().await else {
            return Ok(refused(&Status::resource_exhausted("grpc: received message larger than max")));
        };
        let body = body.to_bytes();
        let Some(range) = large(&body) else {
            return Err(Request::from_parts(parts, Body::new(Full::new(body))));
        };
        match answer(&self.shared, &MetadataMap::from_headers(parts.headers), range).await {
            Ok((body, staleness)) => {
                let mut response = Response::new(body);
                response.headers_mut().insert(CONTENT_TYPE, GRPC);
                if let Some(staleness) = staleness {
                    response.headers_mut().insert(STALENESS, staleness.into());
                }
                Ok(response)
            }
            Err(status) => Ok(refused(&status)),
        }
    }
}

fn refused(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    // A status has no text that a header cannot hold: it is encoded.
    let _ = status.add_header(response.headers_mut());
    response
}

/// A request that was too large to be read, in the code of etcd's gRPC library.
pub(crate) fn too_large<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    let is =
        |name, value: &[u8]| headers.get(name).is_some_and(|header: &HeaderValue| header.as_bytes().starts_with(value));
    if is(GRPC_STATUS, b"11") && is(GRPC_MESSAGE, TOO_LARGE) {
        headers.insert(GRPC_STATUS, HeaderValue::from_static("8"));
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static("grpc: received message larger than max"));
    }
    response
}

/// The range that is asked for, if it may have more keys than a page.
pub(crate) fn large(body: &Bytes) -> Option<pb::RangeRequest> {
    let (prefix, message) = body.split_at_checked(PREFIX_BYTES)?;
    let plain = prefix[0] == 0 && prefix[1..] == u32::try_from(message.len()).ok()?.to_be_bytes();
    let request = pb::RangeRequest::decode(body.slice(PREFIX_BYTES..)).ok().filter(|_| plain)?;
    let many = !request.range_end.is_empty() && (request.limit <= 0 || request.limit > PAGE_KEYS as i64);
    let query = wire::query(&request).ok().filter(|_| many)?;
    (query.in_key_order() && query.want != Want::Count).then_some(request)
}

/// What a range has, and how long all of it is as a message.
struct Found {
    pages: Pages,
    keys: u64,
    bytes: usize,
    more: bool,
    revision: Revision,
}

fn find(mut pages: Pages) -> Result<Found, ReadError> {
    let (mut keys, mut bytes, mut more, mut revision) = (0, 0, false, Revision::ZERO);
    while let Some(page) = pages.next()? {
        keys += page.count;
        more = page.more;
        revision = page.revision;
        bytes += encoded(page).len();
    }
    pages.rewind();
    Ok(Found { pages, keys, bytes, more, revision })
}

/// A page's keys as they stand in the message.
fn encoded(page: RangeResult) -> Vec<u8> {
    let kvs = page.kvs.into_iter().map(wire::kv).collect();
    pb::RangeResponse { kvs, ..pb::RangeResponse::default() }.encode_to_vec()
}

/// A message that fits into memory.
fn whole(message: &pb::RangeResponse) -> Body {
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    bytes.put_bytes(0, PREFIX_BYTES);
    // A page is far smaller than a length can say.
    message.encode_raw(&mut bytes);
    let length = u32::try_from(bytes.len() - PREFIX_BYTES).unwrap_or(u32::MAX);
    bytes[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    let frames = [Ok::<_, Infallible>(Frame::data(bytes.freeze())), Ok(end())];
    Body::new(StreamBody::new(futures::stream::iter(frames)))
}

/// What follows the message of a call that went well.
fn end() -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    Frame::trailers(trailers)
}

async fn answer(
    shared: &Shared,
    metadata: &MetadataMap,
    request: pb::RangeRequest,
) -> Result<(Body, Option<u64>), Status> {
    let query = wire::query(&request)?;
    let node = shared.node();
    let staleness = shared.fresh(metadata, request.serializable).await?;
    let caller = shared.caller_of(metadata)?;
    caller.may_range(&request.key, &request.range_end)?;
    let mut pages = node.pages(&caller.keyspace, &query, PAGE_KEYS).map_err(|error| status::read(&error))?;
    let at = |found: Revision| if query.at.is_some() { node.head(&caller.keyspace).revision } else { found };
    let first = pages.next().map_err(|error| status::read(&error))?.unwrap_or_default();
    if !first.more {
        let header = shared.header(&caller.keyspace, at(first.revision));
        return Ok((whole(&wire::range_response(first, header)), staleness));
    }
    let turn = shared.long_read()?;
    pages.rewind();
    let found = tokio::task::spawn_blocking(move || find(pages)).await.map_err(|_| status::stopped())?;
    let found = found.map_err(|error| status::read(&error))?;
    let mut count = found.keys;
    if found.more {
        let all = Query { want: Want::Count, limit: None, at: Some(found.revision), ..query.clone() };
        let counted = node.query(&caller.keyspace, &all, Consistency::Serializable).await;
        count = counted.map_err(|error| status::read(&error))?.count;
    }
    let header = shared.header(&caller.keyspace, at(found.revision));
    let head = pb::RangeResponse { header, ..pb::RangeResponse::default() };
    let tail = pb::RangeResponse { more: found.more, count: count.cast_signed(), ..pb::RangeResponse::default() };
    let length = u32::try_from(head.encoded_len() + found.bytes + tail.encoded_len()).map_err(|_| {
        Status::resource_exhausted("the range is larger than a message can be; use RangeStream or limits")
    })?;
    let first = [&[0][..], &length.to_be_bytes(), &head.encode_to_vec()].concat();

    let (frames, stream) = tokio::sync::mpsc::channel(PAGES);
    tokio::task::spawn_blocking(move || {
        let (_turn, mut pages) = (turn, found.pages);
        let send = |bytes: Bytes| frames.blocking_send(Ok(Frame::data(bytes))).is_ok();
        // Whoever reads may have gone.
        let mut going = send(first.into());
        while going {
            match pages.next() {
                Ok(Some(page)) => going = send(encoded(page).into()),
                Ok(None) => break,
                Err(error) => return drop(frames.blocking_send(Err(error))),
            }
        }
        if going && send(tail.encode_to_vec().into()) {
            drop(frames.blocking_send(Ok(end())));
        }
    });
    Ok((Body::new(StreamBody::new(ReceiverStream::new(stream))), staleness))
}
