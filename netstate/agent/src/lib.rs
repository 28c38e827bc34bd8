//! The host agent: turns a host's scope into kernel state, and keeps it so.
//!
//! ```text
//! server ──frames──▶ source ──▶ scope ──▶ plan ──scripts──▶ kernel (nft, ip, conntrack)
//!                                 │         ▲                  │
//!                                 ▼         └── compared with ─┘
//!                               disk
//! ```
//!
//! Must hold: with no information, what comes from an endpoint is dropped; while the store is gone, the last scope goes on
//! being enforced, expiries included; a scope is on disk before it is in force, so that a restart never goes back to what
//! has been revoked; tables, routes and interfaces of others are left alone.
//!
//! Left to others: what is in scope (the server), and how containers come to be (whoever makes their namespaces).

mod config;
pub mod enforce;
pub mod kernel;
pub mod plan;
pub mod scope;
pub mod source;

mod agent;

pub use agent::{Agent, AgentError, run};
pub use config::{AgentConfig, ConfigError};
