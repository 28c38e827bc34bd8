//! The wire format between nodes, generated from `proto/`.
#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]

pub mod peer {
    pub mod v1 {
        tonic::include_proto!("kv.peer.v1");
    }
}
