//! One node's network layer: it decides commands, keeps the picture of all networks, tells hosts what concerns them and
//! answers questions.
//!
//! ```text
//!  services ──► executor ──► kv-node ──► (every node) view ──► watch ──► hosts
//!      │                                      ▲
//!      └────────── questions ─────────────────┘
//! ```
//!
//! Must hold: a command is decided on the node that leads its keyspace, against everything committed before it; the view is
//! never behind what this node has acknowledged; a host is sent nothing outside its scope.
//!
//! Left to others: what commands mean (`netstate-model`), replication and storage (`kv`).

mod execute;
mod forward;
mod gather;
mod http;
mod keyspaces;
mod lost;
mod metrics;
mod port;
mod reconcile;
mod server;
mod services;
mod view;
mod watch;
mod wire;

pub use hyper::HeaderMap;
pub use metrics::{Kind, METRICS, Metric};
pub use port::Adopt;
pub use server::{Server, ServerConfig, StartError};
pub use services::ALARMS;
