//! One HTTP exchange: a call with its requests and answers.
//!
//! Must hold: the answer's body asks the service for the next message only when the client has room for it, and a
//! dropped answer drops the call. The HTTP status waits for the first message, so that a failure before it is one.
//!
//! Left to others: finding the method.

use std::{convert::Infallible, future::Future};

use axum::{body::Body, response::Response};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use http::header;
use prost::Message as _;
use prost_reflect::DynamicMessage;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Status, Streaming, metadata::MetadataMap};

use crate::{
    Limits, decode,
    encode::Form,
    failure, headers,
    input::{Input, InputError},
    rpc::{self, Method, Service},
};

/// One call, before its requests are read.
pub(crate) struct Exchange {
    requests: Requests,
    call: Call,
}

impl Exchange {
    /// The exchange of a request, or why its headers allow none.
    pub(crate) fn new(request: http::Request<Body>, method: &Method, limits: &Limits) -> Result<Self, Status> {
        let (parts, body) = request.into_parts();
        let deadline = headers::timeout(&parts.headers)?.and_then(|timeout| Instant::now().checked_add(timeout));
        let requests = Requests {
            input: Input::new(body, limits.json_bytes_max()),
            method: method.clone(),
            bytes_max: limits.request_bytes_max,
        };
        let call = Call {
            method: method.clone(),
            metadata: headers::metadata(&parts.headers),
            extensions: parts.extensions,
            deadline,
            answer_bytes_max: limits.answer_bytes_max,
        };
        Ok(Self { requests, call })
    }

    /// Calls the method and answers.
    pub(crate) async fn run(self, service: Service) -> Response {
        let answered = match (self.call.method.takes_stream, self.call.method.answers_stream) {
            (false, false) => self.one_to_one(service).await,
            (false, true) => self.one_to_many(service).await,
            (true, _) => self.many_to_many(service).await,
        };
        answered.unwrap_or_else(|status| failure::whole(&status))
    }

    async fn one_to_one(mut self, service: Service) -> Result<Response, Status> {
        let request = within(self.call.deadline, self.requests.only()).await?;
        let (metadata, message, _) = self.call.one(service, request).await?.into_parts();
        let body = serde_json::to_vec(&Form(&message)).map_err(|cause| Status::internal(cause.to_string()))?;
        Ok(success(&metadata, Body::from(body)))
    }

    async fn one_to_many(mut self, service: Service) -> Result<Response, Status> {
        let request = within(self.call.deadline, self.requests.only()).await?;
        Ok(self.call.many(service, stream::iter([request])).await)
    }

    async fn many_to_many(mut self, service: Service) -> Result<Response, Status> {
        let first = within(self.call.deadline, self.requests.first()).await?;
        let later = first.is_some().then(|| self.requests.rest());
        let requests = stream::iter(first).chain(stream::iter(later).flatten());
        Ok(self.call.many(service, requests).await)
    }
}

/// The requests of a call.
struct Requests {
    input: Input,
    method: Method,
    bytes_max: usize,
}

impl Requests {
    async fn next(&mut self) -> Result<Option<DynamicMessage>, InputError> {
        let Some(text) = self.input.next().await? else { return Ok(None) };
        let message = decode::decode(&text, &self.method.input)?;
        match message.encoded_len() {
            bytes if bytes > self.bytes_max => Err(InputError::MessageTooLong { bytes, limit_bytes: self.bytes_max }),
            _ => Ok(Some(message)),
        }
    }

    /// The request of a call that has one. Without a body it is the empty one, and what follows it doesn't count.
    async fn only(&mut self) -> Result<DynamicMessage, Status> {
        let request = self.next().await.map_err(|refused| refused.status())?;
        Ok(request.unwrap_or_else(|| DynamicMessage::new(self.method.input.clone())))
    }

    /// The first request of a call that may have many.
    async fn first(&mut self) -> Result<Option<DynamicMessage>, Status> {
        self.next().await.map_err(|refused| refused.stream_status())
    }

    /// As the answers may have begun, there is nobody to be told of a mistake: it ends the requests, as in etcd.
    fn rest(self) -> impl Stream<Item = DynamicMessage> {
        stream::unfold(self, |mut requests| async move {
            match requests.next().await {
                Ok(next) => next.map(|message| (message, requests)),
                Err(refused) => {
                    tracing::debug!(method = %requests.method.path, %refused, "no more requests of a stream");
                    None
                }
            }
        })
    }
}

/// The call of a method.
struct Call {
    method: Method,
    metadata: MetadataMap,
    /// So the service knows the peer, as it does of its own connections.
    extensions: http::Extensions,
    deadline: Option<Instant>,
    answer_bytes_max: usize,
}

impl Call {
    async fn one(self, service: Service, message: DynamicMessage) -> Result<tonic::Response<DynamicMessage>, Status> {
        let request = Request::from_parts(self.metadata, self.extensions, message);
        let answered = async move {
            let mut client = rpc::client(service, self.answer_bytes_max).await?;
            client.unary(request, self.method.path.clone(), self.method.codec()).await
        };
        within(self.deadline, answered.boxed()).await
    }

    async fn many<S>(self, service: Service, requests: S) -> Response
    where
        S: Stream<Item = DynamicMessage> + Send + 'static,
    {
        let (deadline, request) = (self.deadline, Request::from_parts(self.metadata, self.extensions, requests));
        let answered = async move {
            let mut client = rpc::client(service, self.answer_bytes_max).await?;
            client.streaming(request, self.method.path.clone(), self.method.codec()).await
        };
        let (metadata, messages, _) = match within(deadline, answered.boxed()).await {
            Ok(response) => response.into_parts(),
            Err(status) => return failure::stream(&status),
        };
        let mut answers = Answers { messages, deadline };
        match answers.next().await {
            // The service's metadata came at the end, and there it stays.
            None => success(&MetadataMap::new(), Body::empty()),
            Some(Err(status)) => failure::stream(&status),
            Some(Ok(first)) => success(&metadata, Body::from_stream(answers.chunks(&first))),
        }
    }
}

/// The answers of a call that has many.
struct Answers {
    messages: Streaming<DynamicMessage>,
    deadline: Option<Instant>,
}

impl Answers {
    async fn next(&mut self) -> Option<Result<DynamicMessage, Status>> {
        within(self.deadline, self.messages.message()).await.transpose()
    }

    /// The chunks of the answer's body, each with one message, the last one with the failure if there is one.
    fn chunks(self, first: &DynamicMessage) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
        let first = chunk(first);
        let later = stream::unfold(Some(self), |answers| async move {
            let mut answers = answers?;
            match answers.next().await?.and_then(|message| chunk(&message)) {
                Ok(chunk) => Some((Ok(chunk), Some(answers))),
                Err(status) => Some((Err(status), None)),
            }
        });
        stream::iter([first]).chain(later).map(|chunk| Ok(chunk.unwrap_or_else(|status| failure::chunk(&status))))
    }
}

#[derive(Serialize)]
struct Chunk<'a> {
    result: Form<'a>,
}

fn chunk(message: &DynamicMessage) -> Result<Bytes, Status> {
    let mut text = BytesMut::new().writer();
    serde_json::to_writer(&mut text, &Chunk { result: Form(message) })
        .map_err(|cause| Status::internal(cause.to_string()))?;
    let mut text = text.into_inner();
    text.put_u8(b'\n');
    Ok(text.freeze())
}

fn success(metadata: &MetadataMap, body: Body) -> Response {
    let mut response = Response::new(body);
    headers::show(metadata, response.headers_mut());
    response.headers_mut().insert(header::CONTENT_TYPE, failure::JSON);
    response
}

/// What comes of the work if it is done in time.
async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let Some(deadline) = deadline else { return work.await };
    // The timer looks at the work first and counts in milliseconds: what is late already isn't begun.
    let done = if Instant::now() < deadline { timeout_at(deadline, work).await.ok() } else { None };
    done.unwrap_or_else(|| Err(Status::deadline_exceeded("context deadline exceeded")))
}
