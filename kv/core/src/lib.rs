//! Keyspaces and their history, without I/O.
//!
//! A keyspace is a named key-value history with one total order of commits. This crate has its words: ids, positions,
//! transactions, the commits that they become, the chain that the commits form, and what a read returns. And it plans
//! which nodes vote in which groups, and lead them ([`placement`]).
//!
//! Must hold: nothing here reads a clock, draws a random number, or blocks. What is replicated is a [`Commit`], an
//! outcome; nothing in it is left to be decided when it is applied.
//!
//! Left to others: storing (`kv-store`), replicating and serving (`kv-node`).

mod chain;
mod commit;
mod id;
mod intervals;
mod keyspace;
pub mod limits;
mod moving;
pub mod placement;
mod read;
mod revision;
pub mod spread;
mod time;
mod txn;

pub use chain::{ChainError, ChainRecord, Digest, Fold, Head};
pub use commit::{Batch, Change, Commit, Effect, Outcome};
pub use id::{ClusterId, GroupId, InstanceId, LeaseId, NodeId, NotHex, RequestId};
pub use keyspace::{Keyspace, KeyspaceError};
pub use moving::{Mark, MoveId, MoveStep, Phase, Row, Standing, Stepped, Terms};
pub use read::{KeyRange, KeyState, KeyValue, Order, Query, RangeResult, RevisionChanges, SortBy, Want};
pub use revision::Revision;
pub use time::Timestamp;
pub use txn::{
    Answered, Attach, Branches, Compare, Delete, Done, Guard, Operand, Operation, Put, Refusal, Relation, Txn,
    TxnOutcome, written_twice,
};
