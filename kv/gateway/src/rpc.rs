//! Calls of gRPC methods whose messages are known by their descriptors only.
//!
//! Left to others: framing, statuses and trailers, which are tonic's.

use bytes::Buf;
use http::uri::PathAndQuery;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor};
use tonic::{
    Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tower::util::BoxCloneSyncService;

/// What speaks gRPC behind the gateway. That it can't be called is a status like those that it answers with.
pub(crate) type Service =
    BoxCloneSyncService<http::Request<tonic::body::Body>, http::Response<tonic::body::Body>, Status>;

/// A method, as far as calling it needs.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    pub(crate) path: PathAndQuery,
    pub(crate) input: MessageDescriptor,
    pub(crate) takes_stream: bool,
    pub(crate) answers_stream: bool,
    output: MessageDescriptor,
}

impl Method {
    /// `None` if the names make no path, which those of a compiled proto file always do.
    pub(crate) fn new(method: &MethodDescriptor) -> Option<Self> {
        Some(Self {
            path: format!("/{}/{}", method.parent_service().full_name(), method.name()).parse().ok()?,
            input: method.input(),
            output: method.output(),
            takes_stream: method.is_client_streaming(),
            answers_stream: method.is_server_streaming(),
        })
    }

    /// How the messages of a call are written and read.
    pub(crate) fn codec(&self) -> Dynamic {
        Dynamic { output: self.output.clone() }
    }
}

/// A client of the service, ready for one call.
pub(crate) async fn client(service: Service, answer_bytes_max: usize) -> Result<Grpc<Service>, Status> {
    let mut client = Grpc::new(service).max_decoding_message_size(answer_bytes_max);
    client.ready().await?;
    Ok(client)
}

/// The codec of messages that are known by their descriptors.
#[derive(Clone, Debug)]
pub(crate) struct Dynamic {
    output: MessageDescriptor,
}

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|cause| Status::internal(cause.to_string()))
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = buffer.copy_to_bytes(buffer.remaining());
        let decoded = DynamicMessage::decode(self.output.clone(), message);
        decoded.map(Some).map_err(|cause| Status::internal(cause.to_string()))
    }
}
