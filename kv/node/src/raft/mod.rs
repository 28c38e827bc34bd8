//! What openraft needs from us: types, the log, the state machine, the network.

mod arrival;
mod log;
mod machine;
mod network;
mod types;

pub(crate) use log::{LogStore, completion, ends, finished};
pub(crate) use machine::{Machine, SnapshotData, meta as applied_meta};
pub(crate) use network::Network;
pub(crate) use types::*;
