//! JSON over HTTP in front of gRPC services, with the paths and forms of the etcd v3 gateway.
//!
//! [`Gateway`] knows the paths, the messages and the limits; [`Gateway::router`] puts it in front of a service that
//! speaks gRPC, which is called as a value and not over the network.
//!
//! ```text
//! HTTP request -> headers -> JSON messages -> protobuf messages -> gRPC service
//! HTTP answer  <- headers <- JSON messages <- protobuf messages <-
//! ```
//!
//! Must hold: a client of etcd's gateway gets the same statuses, names, values and error texts here. What a request
//! can make the gateway remember is bounded by [`Limits`]. Nothing outlives the HTTP exchange: dropping the answer
//! drops the gRPC call.
//!
//! Left to others: what the calls mean, who may make them, TLS, cross-origin headers, and how many connections there
//! may be.

mod gateway;
mod limits;

mod exchange;
mod failure;
mod headers;
mod rpc;
mod table;

mod decode;
mod encode;
mod input;
mod json;
mod malformed;
mod scanner;

pub use gateway::{Gateway, GatewayError};
pub use limits::Limits;
