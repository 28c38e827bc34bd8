//! What a node keeps on disk.
//!
//! ```text
//! <data dir>/IDENTITY    whose data this is, and in which format
//!            MEMBERSHIP  which of its node's directories this is, and who the members are
//!            LOCK        held while a process has the directory open
//!            raft-log/   segments: entries, votes and positions of all groups
//!            state/      RocksDB with its write-ahead log off: what the applied entries came to, by group
//!            rescue/     while the state cannot be opened: an empty store to receive it anew
//!            snapshots/  what is being received, and what is being put in the place of a group's state
//! ```
//!
//! Must hold: what the log has called done is on stable storage. A group's state is always that after some applied
//! entry, whole, and says after which; a crash may take it back to an earlier one, never to a mixture. Every record
//! carries its format and a checksum over itself and its key, and none is used whose checksum fails.
//!
//! Left to others: what log entries, log ids, votes and memberships mean (`kv-node`); they are bytes here.

mod database;
mod envelope;
mod error;
mod files;
mod histogram;
mod identity;
mod log;
mod membership;
mod options;
mod sealed;
mod state;
mod store;
#[cfg(test)]
mod testkit;
#[cfg(test)]
mod tests;

pub use error::{OpenError, ReadError, StoreError, VerifyError};
pub use histogram::{Buckets, Histogram};
pub use identity::{Identity, Mismatch};
pub use log::{Done, LogBounds, RaftLog};
pub use membership::Membership;
pub use options::Options;
pub use state::backup;
pub use state::{
    Applied, AppliedCommit, AppliedEntry, EntryToApply, Event, GroupSnapshot, LeaseTerms, Pages, ROW_FORMAT,
    ReceivedSnapshot, Residence, RevisionEvents, SnapshotReceiver, State, Transfer, Usage, Verified, View, Written,
};
pub use store::Store;
