//! Other people's tests of etcd, against this: the suites of two client libraries, unmodified, and every command of etcdctl.
//!
//! Must hold: whatever is expected here is what Debian's etcd does. The suites pass against it too
//! (`CONFORMANCE_SUBJECT=etcd`), and etcdctl's answers are compared with its answers, given in the same test. What differs on
//! purpose is listed one by one with its reason: tests of the suites in `left-out.txt`, commands in their scripts.
//!
//! Left to others: the API's details, compared request by request (crate `etcd-tests`), and concurrency and faults (crate
//! `etcd-histories`).

pub mod suite;

pub mod left_out;

pub mod check;

pub mod script;

pub mod etcdctl;

pub mod normalise;

pub mod place;

pub mod server;
