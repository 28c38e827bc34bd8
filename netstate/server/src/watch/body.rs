//! Streams of hosts as bodies of HTTP/2: each frame on its way out is an allocation of its own size.
//!
//! A generated service encodes into a buffer of each stream's own that stays as large as the largest frame there was: with ten
//! thousand hosts that rest, more than everything else that is kept of them. So this one method is served here.
//!
//! The format is that of gRPC over HTTP/2: a byte for no compression, the length in four bytes, the message; the status comes
//! as trailers.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{Router, body::Body, extract, response::Response, routing};
use bytes::{BufMut as _, Bytes};
use hyper::{
    HeaderMap,
    body::Frame,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use netstate_proto::v1::{
    self as pb,
    hosts_server::{Hosts, SERVICE_NAME},
};
use prost::Message as _;
use tonic::{Request, Status, Streaming, codec::BufferSettings, metadata::MetadataMap};
use tonic_prost::ProstDecoder;

use super::stream::Frames;

const METHOD: &str = "Watch";
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const HEADER_BYTES: usize = 5;

/// What reports are read into: most are acks, of a few bytes.
const REPORT_BUFFER_BYTES: usize = 256;

/// Serves the watch of these hosts. It goes before the generated service.
pub(crate) fn route<H: Hosts<WatchStream = Frames> + Clone>(hosts: H, report_bytes: usize) -> Router {
    let path = format!("/{SERVICE_NAME}/{METHOD}");
    Router::new().route(&path, routing::post(async move |request| watch(&hosts, report_bytes, request).await))
}

async fn watch<H: Hosts<WatchStream = Frames>>(hosts: &H, report_bytes: usize, request: extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    if parts.headers.get(ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Status::unimplemented("reports are not taken compressed; send them as they are").into_http();
    }
    let buffers = BufferSettings::new(REPORT_BUFFER_BYTES, REPORT_BUFFER_BYTES);
    let reports = Streaming::new_request(ProstDecoder::new(buffers), body, None, Some(report_bytes));
    let metadata = MetadataMap::from_headers(parts.headers);
    match hosts.watch(Request::from_parts(metadata, parts.extensions, reports)).await {
        Ok(frames) => {
            let mut response = Response::new(Body::new(FrameBody(Some(frames.into_inner()))));
            response.headers_mut().insert(CONTENT_TYPE, GRPC);
            response
        }
        Err(status) => status.into_http(),
    }
}

/// Frames, and then how the stream ended.
struct FrameBody(Option<Frames>);

impl hyper::body::Body for FrameBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(frames) = &mut self.0 else { return Poll::Ready(None) };
        let ended = match ready!(frames.as_mut().poll_next(cx)) {
            Some(Ok(frame)) => match encode(&frame) {
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(status) => status,
            },
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.0 = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(ended.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

fn encode(frame: &pb::ScopeFrame) -> Result<Bytes, Status> {
    let length = frame.encoded_len();
    let stated = u32::try_from(length).map_err(|_| Status::internal("a frame does not fit into a message"))?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(stated);
    frame.encode(&mut bytes).map_err(|error| Status::internal(error.to_string()))?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn frames_and_the_end_are_what_any_client_reads() {
        let large = pb::ScopeFrame { frame: 1, host_id: "h".repeat(100_000), ..pb::ScopeFrame::default() };
        let small = pb::ScopeFrame { frame: 2, complete: true, ..pb::ScopeFrame::default() };
        let told = [Ok(large.clone()), Ok(small.clone()), Err(Status::aborted("another stream"))];
        let body = FrameBody(Some(stream::iter(told).boxed()));
        let decoder = ProstDecoder::<pb::ScopeFrame>::default();
        let mut read = Streaming::new_response(decoder, body, hyper::StatusCode::OK, None, None);
        assert_eq!(read.message().await.unwrap(), Some(large));
        assert_eq!(read.message().await.unwrap(), Some(small));
        let ended = read.message().await.unwrap_err();
        assert_eq!((ended.code(), ended.message()), (Code::Aborted, "another stream"));
    }
}
