//! One network's own state: its endpoints, their addresses, and which host has which block of its pools.
//!
//! Must hold: no two endpoints have one address or one name; every address is in a pool and not reserved; numbers are
//! never used twice. `decide` sees to it. `evolve` makes any change; the indexes follow from the records alone and not
//! from the order in which they came, as long as the settings come first.
//!
//! An endpoint's address comes from a block of its host, so that other hosts need to know of blocks only. Where that is
//! not possible (the address was asked for, or no block is left) it is a *stray*, for which each host needs a route of
//! its own.
//!
//! Left to others: whether a host exists (the directory), whether endpoints may talk (`reach`).

mod address;
mod allocate;
mod blocks;
mod change;
mod command;
mod config;
mod decide;
mod endpoint;
mod indexes;
mod record;
mod shape;
mod state;

pub use address::Family;
pub use change::NetworkChange;
pub use command::{Attach, NetworkCommand};
pub use config::NetworkConfig;
pub use endpoint::{Addresses, Endpoint, Quarantine};
pub use state::NetworkState;
