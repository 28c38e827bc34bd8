//! What users, roles and tokens are limited to, and why. etcd limits none of it but by the size of a request.

use std::time::Duration;

/// Longest name of a user or of a role, in bytes: it stands in every token and in the actor of every commit.
pub const NAME_BYTES: usize = 128;

/// Longest password, in bytes: all of it is hashed, and hashing is what an attacker would make the server do.
pub const PASSWORD_BYTES: usize = 1024;

/// Longest key or range end of a permission, in bytes: that of the longest key.
pub const KEY_BYTES: usize = 4 * 1024;

/// Permissions of one role: they are one record, written as a whole by every grant.
pub const ROLE_PERMISSIONS: usize = 4 * 1024;

/// Roles of one user: a check asks each of them.
pub const USER_ROLES: usize = 1024;

/// Users of a keyspace: all of them are in memory, and deleting a role may change every one of them in one transaction.
pub const USERS: usize = 16 * 1024;

/// Roles of a keyspace: all of them are in memory.
pub const ROLES: usize = 16 * 1024;

/// Bytes of one record. A role of many long keys reaches this before it reaches [`ROLE_PERMISSIONS`].
pub const RECORD_BYTES: usize = 512 * 1024;

/// Bytes of all records that one command writes; they have to fit one transaction.
pub const COMMAND_BYTES: usize = 4 * 1024 * 1024;

/// Longest token, in bytes, looked at before anything in it is decoded. An RSA signature of 8,192 bits takes 1.4 kB.
pub const TOKEN_BYTES: usize = 4 * 1024;

/// How long a simple token lives.
///
/// In etcd it is five minutes after its last use. A signed token does not know of its uses, so it has to outlive a
/// client that does not log in again by itself; what ends it early is a change of what it stands for.
pub const SIMPLE_TOKEN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a JSON web token lives if the option does not say; as in etcd.
pub const JWT_TTL: Duration = Duration::from_secs(5 * 60);

/// Memory of one hashing, in KiB, above which a stored hash is taken for damaged: 1 GiB.
pub(crate) const HASH_MEMORY_KIB: u32 = 1024 * 1024;

/// Passes of one hashing above which a stored hash is taken for damaged.
pub(crate) const HASH_PASSES: u32 = 64;

const _: () = assert!(RECORD_BYTES <= COMMAND_BYTES, "a command writes at least one largest record");
const _: () = assert!(NAME_BYTES * USER_ROLES <= RECORD_BYTES, "a user of most roles fits a record");
