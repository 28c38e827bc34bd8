//! One node of the key-value store: its groups, its links to the other nodes, and what it serves from them.
//!
//! ```text
//!  txns ──► proposer ──► raft (openraft) ──► log (kv-store)        one per group
//!                          │      ▲ │
//!                          ▼      │ ▼
//!  reads ◄─ state ◄── machine    link ◄──► other nodes              one per pair of nodes
//!    ▲        │          │
//!  barrier  watch     observer (the layer above)
//! ```
//!
//! Must hold: nothing is acknowledged before a majority has it on stable storage; a replica that differs from the others
//! or fails a checksum serves nothing more. openraft's types do not leave the module `raft`'s users in this crate.
//!
//! Left to others: what the keys mean; who may ask.

mod alone;
mod backup;
mod barrier;
mod catalog;
mod clock;
mod config;
mod counts;
mod disk;
mod error;
mod evaluate;
mod figures;
mod forward;
mod founding;
mod govern;
mod group;
mod heads;
mod housekeeping;
mod leases;
mod lessor;
mod link;
mod members;
mod moves;
mod node;
mod observer;
mod overlay;
mod place;
mod proposer;
mod publish;
mod raft;
mod repair;
mod requests;
mod rest;
mod resume;
mod snapshot;
mod trace;
mod watch;
#[cfg(test)]
mod wire_fixture;

pub use alone::{AloneError, Extent, go_on_alone, positions};
pub use backup::{BackupRun, RestoreError, RestoreOrder, RestoredNode, restore, verify_backup};
pub use catalog::{Catalog, MembershipError, NodeRecord, PLACEMENT, REPLICAS_DEFAULT, REPLICAS_MAX, Standing};
pub use clock::{Clock, SystemClock};
pub use config::{
    Config, ConfigError, DISK_RESERVE_BYTES, FOUNDERS_MAX, GROUPS_DEFAULT, GROUPS_MAX, Member, MemberInfo, Timing,
};
pub use counts::Proposed;
pub use disk::Room;
pub use error::{CallError, CommitError, ReadError, Retry, StartError, WatchError};
pub use figures::{Figures, GroupFigures, LinkFigures, Transferred};
pub use govern::Placement;
pub use kv_core::placement::{Replicas, Step};
pub use kv_store::backup::{
    BackupError, Contents as BackupContents, KeyspaceSummary, Point, RAISE_DEFAULT, RAISE_MAX, RestoredKeyspace,
};
pub use kv_store::{Buckets, Event, Histogram, Options as StoreOptions, RevisionEvents, Usage, VerifyError, Written};
pub use leases::LeaseState;
pub use moves::{MoveError, MoveStage, MoveStatus};
pub use node::{Consistency, GroupStatus, Node, Pages, Position, Verified};
pub use observer::{AppliedCommit, CallHandler, Observer, Visit};
pub use repair::RepairError;
pub use trace::TARGET as TRACE_TARGET;
pub use watch::{History, Watch};
