//! What everything is limited to, and why.

use std::time::Duration;

/// Longest keyspace name, in bytes: it stands in every commit.
pub const KEYSPACE_NAME_BYTES: usize = 128;

/// Longest key, in bytes: keys are compared on every step of a read.
pub const KEY_BYTES: usize = 4 * 1024;

/// Largest value, in bytes.
pub const VALUE_BYTES: usize = 1536 * 1024;

/// Operations in one transaction: ten thousand endpoints with their blocks, attached in one commit.
pub const TXN_OPERATIONS: usize = 32 * 1024;

/// Bytes of keys and values in one transaction. It has to fit one log entry, and an entry one peer message.
pub const TXN_BYTES: usize = 8 * 1024 * 1024;

/// Bytes of the keys and values that one transaction comes to: what it removes or keeps is not among its own bytes. It has
/// to fit one log entry, and an entry one peer message.
pub const COMMIT_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of the commits packed into one log entry; a transaction larger than this travels alone.
pub const ENTRY_BYTES: usize = 1024 * 1024;

/// Longest actor, in bytes.
pub const ACTOR_BYTES: usize = 128;

/// Longest reason, in bytes.
pub const REASON_BYTES: usize = 1024;

/// How long a request id is remembered. A client that retries later than this may apply its change twice.
pub const REQUEST_RETENTION: Duration = Duration::from_secs(600);

/// Keys that one range returns at most.
pub const RANGE_KEYS: usize = 10_000;

const _: () = assert!(KEY_BYTES + VALUE_BYTES <= TXN_BYTES, "a transaction holds at least one largest key and value");
