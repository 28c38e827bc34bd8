//! Copies a live etcd into a keyspace and follows its changes, so that a backend can be replaced without an outage.
//!
//! An import is three calls. [`copy`] reads every key at one revision of the source and writes it to the target. [`follow`] watches the
//! source from the next revision on and repeats each of its revisions on the target, until it is told to stop; it then catches up with
//! whatever the source had at that moment, and returns. [`verify`] compares both sides key by key. Both sides speak etcd's v3 API.
//!
//! Must hold:
//! - A revision of the source becomes one transaction of the target, in the source's order, exactly once, however often the connection
//!   or the process is lost in between. Two exceptions: a revision with more changes than a transaction may carry is split, and after the
//!   source has compacted what was still to be read, the target is brought up to date by comparison, without the steps in between.
//! - The position is written in the same transaction as the changes that lead to it, under [`Options::position_key`] of the target. Each
//!   transaction is conditional on the position before it, which is what makes a repeated request harmless and a second import of the
//!   same keys impossible: the older one ends with [`ImportError::Superseded`].
//! - A key's lease is on the target, under the same id, before the key; it doesn't end there before it ends on the source while an
//!   import runs.
//! - Memory is bounded by [`Options`], whatever the number and size of the keys.
//! - Nothing is written to the source.
//!
//! Left to others: making the connections (with HTTP/2 keep-alive, or a silently lost connection is noticed late), choosing the moment
//! of the switch, and keeping other writers away from the target until then.

mod copy;
mod error;
mod follow;
mod options;
mod position;
mod side;
mod verify;

mod assemble;
mod change;
mod leases;
mod merge;
mod pager;
mod record;
mod restore;
mod retry;
mod session;
mod writer;

pub use copy::copy;
pub use error::{Advice, ImportError};
pub use follow::follow;
pub use options::{Options, Progress, Report};
pub use position::{LeaseId, Position, SourceRevision, TargetRevision};
pub use retry::Retries;
pub use session::finish;
pub use side::{Role, Side, SideError};
pub use verify::{Difference, Verified, verify};
