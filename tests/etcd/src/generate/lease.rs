//! Leases: granted under chosen names and under the server's own, renewed, asked about, revoked.

use etcd_proto::etcdserverpb as pb;

use super::Generator;
use crate::operation::{LeaseNames, Request};

/// The identifiers that are chosen here.
const CHOSEN: [i64; 6] = [1, 2, 3, 4, 5, 600];
/// An identifier that is never granted.
const UNKNOWN: i64 = 99;
/// How long leases live, in seconds: far longer than a test, and so far apart that their order of expiry, in which they are
/// listed, does not depend on when each was granted.
const TTLS: [i64; 6] = [100_000, 200_000, 400_000, 800_000, 1_600_000, 9_000_000_000];
/// Too long, and refused.
const TTLS_TOO_LONG: [i64; 2] = [9_000_000_001, i64::MAX];
/// So short that the server's least is granted instead.
const TTLS_TOO_SHORT: [i64; 5] = [1, 0, -1, -100_000, i64::MIN];

impl Generator {
    /// The lease of a put: mostly none, else one that may exist.
    pub(super) fn attached_lease(&mut self) -> i64 {
        if self.percent(70) { 0 } else { self.lease() }
    }

    fn lease(&mut self) -> i64 {
        match self.below(20) {
            0 => UNKNOWN,
            1 => -1,
            2..6 if self.world.leases > 0 => {
                let index = self.below(self.world.leases);
                LeaseNames::nth(index)
            }
            _ => self.pick(&CHOSEN),
        }
    }

    pub(super) fn lease_requests(&mut self) -> Vec<Request> {
        let id = if self.percent(5) { 0 } else { self.lease() };
        match self.below(100) {
            0..40 => self.grant(),
            40..55 => vec![Request::LeaseRevoke(pb::LeaseRevokeRequest { id })],
            55..70 => vec![Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id })],
            70..90 => vec![Request::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys: self.percent(70) })],
            _ => vec![Request::LeaseLeases(pb::LeaseLeasesRequest {})],
        }
    }

    fn grant(&mut self) -> Vec<Request> {
        let mut grant = pb::LeaseGrantRequest { ttl: self.pick(&TTLS), id: 0 };
        match self.below(20) {
            0 => grant.ttl = self.pick(&TTLS_TOO_LONG),
            1 | 2 => return self.short_grant(),
            3 => grant.id = self.pick(&[-1, -7, i64::MIN]),
            4..9 => {}
            _ => grant.id = self.pick(&CHOSEN),
        }
        vec![Request::LeaseGrant(grant)]
    }

    /// A lease so short that it must be gone before anything else happens.
    fn short_grant(&mut self) -> Vec<Request> {
        let id = 7;
        let ttl = self.pick(&TTLS_TOO_SHORT);
        vec![
            Request::LeaseGrant(pb::LeaseGrantRequest { ttl, id }),
            Request::LeaseRevoke(pb::LeaseRevokeRequest { id }),
        ]
    }
}
