//! Draws operations from a seeded source of chance, over a space so small that they meet each other.
//!
//! Must hold: the same seed and the same answers draw the same operations; no lease granted here may expire while a test
//! runs, since the two systems' clocks would not agree on the moment.
//!
//! Left to others: which operations make up a test (see `run`).

mod auth;
mod kv;
mod lease;
mod txn;
mod watch;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::operation::Request;
use crate::response::Response;

/// The keys that operations name, few and with shared prefixes. No more than twelve: etcd sorts up to twelve keys so that
/// those with equal values stay in the order of their keys, and more of them in no order that it promises.
pub const KEYS: [&[u8]; 12] =
    [b"\0", b"a", b"a\0", b"ab", b"abc", b"b", b"b\xff", b"b\xff\xff", b"dir/x", b"dir/y", b"\xff", b"\xff\xff"];

/// What is known of both systems, to draw operations that come near the edges of what exists.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// The last revision told by the reference.
    pub revision: i64,
    /// The last revision up to which history was compacted, 0 before the first.
    pub compacted: i64,
    /// How many leases the reference named by itself.
    pub leases: usize,
}

/// A source of operations.
#[derive(Debug)]
pub struct Generator {
    rng: StdRng,
    values: u64,
    /// What the answers told.
    pub world: World,
    /// Ranges end after they begin: what permission others need is an accident of how etcd looks them up.
    forward: bool,
}

impl Generator {
    /// The source that this seed stands for.
    pub fn new(seed: u64) -> Self {
        let world = World { revision: 1, compacted: 0, leases: 0 };
        Self { rng: StdRng::seed_from_u64(seed), values: 0, world, forward: false }
    }

    /// Takes note of what the reference answered.
    pub fn learn(&mut self, request: &Request, response: &Response) {
        let Some(revision) = response.revision() else { return };
        self.world.revision = self.world.revision.max(revision);
        match request {
            Request::Compact(compact) => self.world.compacted = self.world.compacted.max(compact.revision),
            Request::LeaseGrant(grant) if grant.id == 0 => self.world.leases += 1,
            _ => {}
        }
    }

    /// Requests of the services for keys, values and leases. Mostly one; more where the first needs the others.
    pub fn requests(&mut self) -> Vec<Request> {
        match self.below(1000) {
            0..250 => vec![Request::Range(self.range())],
            250..500 => vec![Request::Put(self.put())],
            500..580 => vec![Request::DeleteRange(self.delete_range())],
            580..800 => vec![Request::Txn(self.txn())],
            800..830 => vec![Request::Compact(self.compact())],
            830..970 => self.lease_requests(),
            970..985 => vec![self.hash_kv()],
            985..995 => vec![self.alarm()],
            _ => vec![self.too_large()],
        }
    }

    /// Requests that leave history as it is, so that open watches can be compared event by event.
    pub fn requests_without_compaction(&mut self) -> Vec<Request> {
        loop {
            let requests = self.requests();
            if !requests.iter().any(|request| matches!(request, Request::Compact(_))) {
                return requests;
            }
        }
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.rng.random_range(0..limit)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// A key, now and then none at all.
    fn key(&mut self) -> Bytes {
        if self.percent(3) { Bytes::new() } else { self.existing_key() }
    }

    fn existing_key(&mut self) -> Bytes {
        Bytes::from_static(self.pick(&KEYS))
    }

    /// A range of keys, as a key and the end of the range: one key, those with a prefix, all from a key on, everything, or
    /// any two ends in either order.
    fn key_range(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.below(10) {
            0..4 => Bytes::new(),
            4 => Bytes::from_static(b"\0"),
            5 | 6 => prefix_end(&key),
            7 => return (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            _ => self.existing_key(),
        };
        if self.forward && end <= key && !end.is_empty() && end[..] != [0] {
            return (key, Bytes::new());
        }
        (key, end)
    }

    /// A value: none, one of a few that return, or one that is never used again.
    fn value(&mut self) -> Bytes {
        match self.below(10) {
            0 => Bytes::new(),
            1..4 => Bytes::from_static(self.pick(&[b"x", b"y", b"z"])),
            _ => {
                self.values += 1;
                Bytes::from(format!("value {}", self.values))
            }
        }
    }

    /// A revision of history, mostly one that exists, and now and then far outside.
    fn revision(&mut self) -> i64 {
        let World { revision, compacted, .. } = self.world;
        match self.below(20) {
            0 => 0,
            1 => -1,
            2 => revision + 1,
            3 => revision + 1000,
            4 => self.pick(&[i64::MAX, i64::MIN]),
            5 => revision,
            6 => compacted,
            7 => compacted - 1,
            8 => compacted + 1,
            9 => 1,
            _ => self.rng.random_range(compacted.min(revision)..=revision),
        }
    }
}

/// The end of the range of keys that start with `prefix`; for a prefix that has no end, the mark for "all from here on".
fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|byte| *byte < 0xff) {
        None => Bytes::from_static(b"\0"),
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
    }
}
