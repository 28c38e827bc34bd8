//! The etcd v3 API over the key-value store: any client of etcd works, and each tenant has a keyspace of its own.
//!
//! ```text
//! KV · Lease · Watch · Lock · Election · Maintenance · Cluster · Auth      gRPC, and JSON by the gateway
//!          │          access: which keyspace, who asks, may they
//!          ▼
//! kv-node: transactions, reads, leases, watches
//! ```
//!
//! Must hold: a request reaches the store only after `access` has let it pass. Status codes and texts are etcd's, since
//! clients compare them. Revisions are the store's plus one: etcd's first revision is that of an empty store.
//!
//! Left to others: replication and storage (`kv-node`), who may do what (`kv-auth`), JSON (`kv-gateway`).

mod access;
mod auth;
mod cluster;
mod compacted;
mod compactor;
mod config;
mod edge;
mod election;
mod express;
#[cfg(test)]
mod fuzz;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod members;
mod queue;
mod services;
mod snapshot;
mod status;
mod watch;
mod wire;

pub use config::{AutoCompaction, AutoCompactionError, Config};
pub use express::{Express, Served};
pub use kv_auth::{TokenOptionError, Tokens};
pub use kv_gateway::GatewayError;
pub use services::Services;
pub use watch::Watching;
