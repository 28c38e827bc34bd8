//! How much of anything there may be. Units come last in the names.

/// Bytes in a name of a network, endpoint or host: what a DNS label may have, so that names can become labels.
pub const NAME_BYTES_MAX: usize = 63;

/// Labels on one thing.
pub const LABELS_MAX: usize = 64;

/// Bytes in a label's key (at least one).
pub const LABEL_KEY_BYTES_MAX: usize = 63;

/// Bytes in a label's value.
pub const LABEL_VALUE_BYTES_MAX: usize = 63;

/// Bytes in a selector's text.
pub const SELECTOR_BYTES_MAX: usize = 1024;

/// Bytes in the name of who asks.
pub const ACTOR_BYTES_MAX: usize = 128;

/// Bytes in a reason.
pub const REASON_BYTES_MAX: usize = 1024;

/// Bytes in the name of the workload that an endpoint belongs to.
pub const WORKLOAD_BYTES_MAX: usize = 253;

/// Bytes in the file name of a network namespace.
pub const NETNS_BYTES_MAX: usize = 255;

/// Address pools of one network.
pub const POOLS_MAX: usize = 16;

/// Addresses in one block. An index over a block's addresses is copied when one of them changes, so blocks stay small.
pub const BLOCK_ADDRESSES_MAX: u32 = 1 << BLOCK_ADDRESS_BITS_MAX;

/// The same as a number of address bits.
pub(crate) const BLOCK_ADDRESS_BITS_MAX: u8 = 10;

/// Port ranges of one connection, after ranges that touch were merged.
pub const PORT_RANGES_MAX: usize = 64;

/// Seconds that a temporary connection may last: ten years. Longer is meant to be without an end.
pub const LIFETIME_SECONDS_MAX: u64 = 10 * 365 * 24 * 3600;

/// Seconds that a host has to be silent, at least, before its endpoints may be detached. When a server's machine dies, agents
/// notice within fifteen seconds and are at another one within three.
pub const DETACH_AFTER_SECONDS_MIN: u64 = 30;

/// Seconds that a host may be silent, at most, before its endpoints are detached: a year. Longer is meant to be never.
pub const DETACH_AFTER_SECONDS_MAX: u64 = 365 * 24 * 3600;

/// Endpoints attached by one command: one commit has to carry them all.
pub const ATTACH_MAX: usize = 10_000;

/// Endpoints detached by one command.
pub const DETACH_MAX: usize = 10_000;

/// Endpoints attached to one network at a time.
pub const ENDPOINTS_MAX: usize = 1_000_000;

/// Networks in the directory.
pub const NETWORKS_MAX: usize = 1_000_000;

/// Hosts in the directory.
pub const HOSTS_MAX: usize = 100_000;

/// Connections in the directory.
pub const CONNECTIONS_MAX: usize = 1_000_000;

/// Bytes of a text from outside that a refusal repeats. The rest is cut: a refusal of a megabyte must not be one
/// itself.
pub const QUOTED_BYTES_MAX: usize = 80;

// A place in a block is kept in 16 bits.
const _: () = assert!(BLOCK_ADDRESS_BITS_MAX <= 16);
// A full batch fits into an empty network.
const _: () = assert!(ATTACH_MAX <= ENDPOINTS_MAX);
