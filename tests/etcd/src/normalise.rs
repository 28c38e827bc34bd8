//! Takes out of an answer what may differ between two correct systems: who answered, and when.
//!
//! Must hold: a field is replaced, never dropped, by a value that still tells whether it was set, so that a missing header or a
//! missing identifier remains a difference.
//!
//! Left to others: wanted differences in what is answered, each with its reason, are in `allowed`.

use std::fmt::Debug;

use etcd_proto::{etcdserverpb as pb, mvccpb};
use pb::response_op;

use crate::allowed;
use crate::operation::LeaseNames;
use crate::response::Response;

/// How far a lease's remaining time may lie below what was granted and be taken as the same. Leases live far longer in
/// these tests, and the tests end far sooner.
const LEASE_SECONDS_SLACK: i64 = 3600;

/// An answer that can be put into a comparable form.
pub trait Normalise: Debug {
    /// The header, which every answer of the API has.
    fn header(&mut self) -> Option<&mut pb::ResponseHeader>;

    /// Replaces the identifiers and times outside of the header.
    fn body(&mut self, _leases: &LeaseNames) {}
}

/// The comparable form of an answer.
pub fn normalised<M: Normalise>(mut message: M, leases: &LeaseNames) -> Response {
    let mut revision = 0;
    if let Some(header) = message.header() {
        revision = header.revision;
        plain_header(header);
    }
    message.body(leases);
    Response::Answer { revision, text: format!("{message:#?}") }
}

/// Replaces the identifiers of a header, and the term, by 1, so that only their presence is compared.
pub fn plain_header(header: &mut pb::ResponseHeader) {
    presence(&mut header.cluster_id);
    presence(&mut header.member_id);
    presence(&mut header.raft_term);
}

fn presence(id: &mut u64) {
    *id = (*id).min(1);
}

/// Names the lease of a key.
pub fn key_value(kv: &mut mvccpb::KeyValue, leases: &LeaseNames) {
    kv.lease = leases.name(kv.lease);
}

fn operations(responses: &mut [pb::ResponseOp], leases: &LeaseNames) {
    for response in responses {
        match &mut response.response {
            None => {}
            Some(response_op::Response::ResponseRange(range)) => nested(range, leases),
            Some(response_op::Response::ResponsePut(put)) => nested(put, leases),
            Some(response_op::Response::ResponseDeleteRange(delete)) => nested(delete, leases),
            Some(response_op::Response::ResponseTxn(txn)) => nested(txn, leases),
        }
    }
}

fn nested(message: &mut impl Normalise, leases: &LeaseNames) {
    message.header().map(plain_header);
    message.body(leases);
}

macro_rules! normalise {
    ($($message:ident $(, |$this:ident, $leases:pat_param| $body:expr)?;)*) => { $(
        impl Normalise for pb::$message {
            fn header(&mut self) -> Option<&mut pb::ResponseHeader> {
                self.header.as_mut()
            }
            $(fn body(&mut self, $leases: &LeaseNames) {
                let $this = self;
                $body
            })?
        }
    )* };
}

normalise! {
    RangeResponse, |this, leases| this.kvs.iter_mut().for_each(|kv| key_value(kv, leases));
    PutResponse, |this, leases| this.prev_kv.iter_mut().for_each(|kv| key_value(kv, leases));
    DeleteRangeResponse, |this, leases| this.prev_kvs.iter_mut().for_each(|kv| key_value(kv, leases));
    TxnResponse, |this, leases| operations(&mut this.responses, leases);
    CompactionResponse;
    LeaseGrantResponse, |this, leases| this.id = leases.name(this.id);
    LeaseRevokeResponse;
    LeaseKeepAliveResponse, |this, leases| this.id = leases.name(this.id);
    LeaseTimeToLiveResponse, |this, leases| {
        this.id = leases.name(this.id);
        if (this.granted_ttl - LEASE_SECONDS_SLACK..=this.granted_ttl).contains(&this.ttl) && this.ttl >= 0 {
            this.ttl = this.granted_ttl;
        }
        // etcd tells them in any order.
        this.keys.sort_unstable();
    };
    LeaseLeasesResponse, |this, leases| {
        this.leases.iter_mut().for_each(|lease| lease.id = leases.name(lease.id));
        // etcd tells them by the time they have left.
        this.leases.sort_by_key(|lease| lease.id);
    };
    HashKvResponse, |this, _| allowed::erase_hash_kv(this);
    HashResponse, |this, _| allowed::erase_hash(this);
    AlarmResponse, |this, _| this.alarms.iter_mut().for_each(|alarm| presence(&mut alarm.member_id));
    StatusResponse, |this, _| {
        allowed::erase_status(this);
        presence(&mut this.leader);
        presence(&mut this.raft_term);
        presence(&mut this.raft_index);
        presence(&mut this.raft_applied_index);
    };
    DefragmentResponse;
    MoveLeaderResponse;
    MemberListResponse, |this, _| this.members.iter_mut().for_each(member);
    MemberAddResponse, |this, _| this.members.iter_mut().for_each(member);
    MemberRemoveResponse, |this, _| this.members.iter_mut().for_each(member);
    MemberUpdateResponse, |this, _| this.members.iter_mut().for_each(member);
    MemberPromoteResponse, |this, _| this.members.iter_mut().for_each(member);
    WatchResponse;
    AuthEnableResponse;
    AuthDisableResponse;
    AuthenticateResponse, |this, _| if !this.token.is_empty() { this.token = "a token".into() };
    AuthUserAddResponse;
    AuthUserGetResponse;
    AuthUserListResponse;
    AuthUserDeleteResponse;
    AuthUserChangePasswordResponse;
    AuthUserGrantRoleResponse;
    AuthUserRevokeRoleResponse;
    AuthRoleAddResponse;
    AuthRoleGetResponse, |this, _| {
        // etcd sorts them by key alone.
        this.perm.sort_by(|one, other| (&one.key, &one.range_end).cmp(&(&other.key, &other.range_end)));
    };
    AuthRoleListResponse;
    AuthRoleDeleteResponse;
    AuthRoleGrantPermissionResponse;
    AuthRoleRevokePermissionResponse;
}

/// A member's name and addresses are its own affair; how many addresses it has is compared.
fn member(member: &mut pb::Member) {
    presence(&mut member.id);
    member.name = "a member".into();
    for url in member.peer_ur_ls.iter_mut().chain(&mut member.client_ur_ls) {
        *url = "an address".into();
    }
}
