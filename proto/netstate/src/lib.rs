//! The public API `netstate.v1`, generated from `proto/`.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]

pub mod v1 {
    tonic::include_proto!("netstate.v1");

    /// The compiled .proto files, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
