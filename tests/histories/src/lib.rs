//! Recorded histories of concurrent clients, checked for linearizability and for the promises of the watch.
//!
//! A [`cluster`] is started, [`load`] runs clients and watchers against it while a test breaks its members, and what they
//! recorded ([`history`], [`watch`]) is judged afterwards: [`linear`] finds the one order of writes that explains every
//! answer, and [`watch`] and [`serial`] compare watchers and local reads with that order.
//!
//! Must hold: the checks never look at the store, only at recordings, so that a doctored recording tests the checks.
//!
//! Left to others: what the API answers to malformed requests, and every part of it that is no key, watch or lease.

pub mod history;
pub mod linear;
pub mod model;
pub mod serial;
pub mod watch;

pub mod chaos;

pub mod cluster;
pub mod doors;
pub mod guest;
pub mod leases;
pub mod load;
pub mod others;
pub mod run;

mod client;
mod evidence;
mod places;
mod watchers;
mod wire;
