//! Conformance with the etcd v3 API: the same operations against etcd and against this.
//!
//! Must hold: whatever is compared with etcd also passes when a second etcd takes the place of the system under test
//! (`ETCD_TESTS_SUBJECT=etcd`), so that a difference is one of the systems and not of the test.
//!
//! Left to others: concurrency and faults, which are the business of recorded histories. Here both systems are driven by
//! one client, one operation after the other.

pub mod server;

pub mod client;
pub mod rpcs;

pub mod operation;

pub mod generate;

pub mod apply;
pub mod response;

pub mod allowed;
pub mod normalise;

pub mod difference;
pub mod pair;

pub mod run;
pub mod watching;
