//! What is asked of both systems.
//!
//! Must hold: an operation is the same for both. Identifiers that a server chooses by itself are named here by the order
//! in which they were given (see [`LeaseNames`]) and translated on the way to each system.
//!
//! Left to others: which operations are drawn (`generate`), how they are sent (`apply`).

use std::fmt;

use etcd_proto::etcdserverpb as pb;
use pb::request_op;

/// Who asks, as shown by the call's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// No token at all.
    Nobody,
    /// The last token that this user was given, in the metadata key `token`; a token of nobody's if there was none.
    Token(String),
    /// The same in the metadata key `authorization`.
    Authorization(String),
}

/// One operation: a request and who makes it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Whose token it carries.
    pub caller: Caller,
    /// What is asked.
    pub request: Request,
}

impl From<Request> for Operation {
    fn from(request: Request) -> Self {
        Self { caller: Caller::Nobody, request }
    }
}

/// A request to one of the services.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each is named after the RPC that it calls")]
pub enum Request {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    LeaseKeepAlive(pb::LeaseKeepAliveRequest),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    LeaseLeases(pb::LeaseLeasesRequest),
    HashKv(pb::HashKvRequest),
    Alarm(pb::AlarmRequest),
    Status(pb::StatusRequest),
    MemberList(pb::MemberListRequest),
    MemberAdd(pb::MemberAddRequest),
    MemberRemove(pb::MemberRemoveRequest),
    MemberUpdate(pb::MemberUpdateRequest),
    MemberPromote(pb::MemberPromoteRequest),
    MoveLeader(pb::MoveLeaderRequest),
    /// Opens a watch and waits for its first answer only.
    WatchCreate(pb::WatchCreateRequest),
    AuthEnable(pb::AuthEnableRequest),
    AuthDisable(pb::AuthDisableRequest),
    Authenticate(pb::AuthenticateRequest),
    UserAdd(pb::AuthUserAddRequest),
    UserGet(pb::AuthUserGetRequest),
    UserList(pb::AuthUserListRequest),
    UserDelete(pb::AuthUserDeleteRequest),
    UserChangePassword(pb::AuthUserChangePasswordRequest),
    UserGrantRole(pb::AuthUserGrantRoleRequest),
    UserRevokeRole(pb::AuthUserRevokeRoleRequest),
    RoleAdd(pb::AuthRoleAddRequest),
    RoleGet(pb::AuthRoleGetRequest),
    RoleList(pb::AuthRoleListRequest),
    RoleDelete(pb::AuthRoleDeleteRequest),
    RoleGrantPermission(pb::AuthRoleGrantPermissionRequest),
    RoleRevokePermission(pb::AuthRoleRevokePermissionRequest),
}

impl Request {
    /// The RPC that it calls.
    pub fn name(&self) -> String {
        let text = format!("{self:?}");
        text.split('(').next().unwrap_or_default().to_owned()
    }

    /// Replaces the names of leases by the identifiers that this system gave them.
    pub fn with_lease_ids(mut self, names: &LeaseNames) -> Self {
        match &mut self {
            Self::Put(put) => put.lease = names.id(put.lease),
            Self::Txn(txn) => translate_txn(txn, names),
            Self::LeaseRevoke(revoke) => revoke.id = names.id(revoke.id),
            Self::LeaseKeepAlive(keep) => keep.id = names.id(keep.id),
            Self::LeaseTimeToLive(time) => time.id = names.id(time.id),
            Self::LeaseGrant(grant) => grant.id = names.id(grant.id),
            _ => {}
        }
        self
    }
}

fn translate_txn(txn: &mut pb::TxnRequest, names: &LeaseNames) {
    for compare in &mut txn.compare {
        if let Some(pb::compare::TargetUnion::Lease(lease)) = &mut compare.target_union {
            *lease = names.id(*lease);
        }
    }
    for operation in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut operation.request {
            Some(request_op::Request::RequestPut(put)) => put.lease = names.id(put.lease),
            Some(request_op::Request::RequestTxn(inner)) => translate_txn(inner, names),
            _ => {}
        }
    }
}

/// The first name of a lease whose identifier was chosen by the server. Above every identifier that operations choose,
/// as the servers' own are, so that comparisons by size come out alike.
const LEASE_NAMES_START: i64 = 1_000_000_000;

/// The leases whose identifiers one system chose by itself, in the order in which it gave them.
#[derive(Clone, Debug, Default)]
pub struct LeaseNames {
    ids: Vec<i64>,
}

impl LeaseNames {
    /// The name of the `index`-th lease given.
    pub fn nth(index: usize) -> i64 {
        LEASE_NAMES_START + i64::try_from(index).unwrap_or(i64::MAX - LEASE_NAMES_START)
    }

    /// Notes one more, and gives its name.
    pub fn learn(&mut self, id: i64) -> i64 {
        self.ids.push(id);
        Self::nth(self.ids.len() - 1)
    }

    /// The identifier that a name stands for. What is no name stands for itself.
    pub fn id(&self, name: i64) -> i64 {
        let index = name.checked_sub(LEASE_NAMES_START).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.ids.get(index).copied()).unwrap_or(name)
    }

    /// The name of an identifier. What was not chosen by the server is its own name.
    pub fn name(&self, id: i64) -> i64 {
        self.ids.iter().position(|known| *known == id).map_or(id, Self::nth)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.caller {
            Caller::Nobody => {}
            caller => write!(f, "as {caller:?}: ")?,
        }
        f.write_str(&shortened(&format!("{:?}", self.request)))
    }
}

/// The longest text shown of one operation: requests that are refused for their size would fill the screen.
const SHOWN_CHARACTERS_MAX: usize = 4000;

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} bytes of text)", &text[..end], text.len()),
    }
}
