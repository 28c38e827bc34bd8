//! Refusals, in etcd's codes and words: its clients compare the texts.

use kv_core::Refusal;
use kv_node::{CommitError, ReadError, WatchError};
use tonic::{Code, Status};

use crate::wire;

macro_rules! refusals {
    ($($name:ident = $code:ident, $text:literal;)*) => {
        $(pub(crate) fn $name() -> Status {
            Status::new(Code::$code, $text)
        })*
    };
}

refusals! {
    empty_key = InvalidArgument, "etcdserver: key is not provided";
    key_not_found = InvalidArgument, "etcdserver: key not found";
    value_provided = InvalidArgument, "etcdserver: value is provided";
    lease_provided = InvalidArgument, "etcdserver: lease is provided";
    invalid_sort_option = InvalidArgument, "etcdserver: invalid sort option";
    invalid_alarm_action = InvalidArgument, "etcdserver: invalid alarm action";
    bad_member_urls = InvalidArgument, "etcdserver: given member URLs are invalid";
    too_many_ops = InvalidArgument, "etcdserver: too many operations in txn request";
    duplicate_key = InvalidArgument, "etcdserver: duplicate key given in txn request";
    compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    future_revision = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    no_space = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    lease_not_found = NotFound, "etcdserver: requested lease not found";
    lease_exists = FailedPrecondition, "etcdserver: lease already exists";
    lease_ttl_too_large = OutOfRange, "etcdserver: too large lease TTL";
    request_too_large = InvalidArgument, "etcdserver: request is too large";
    too_many_requests = ResourceExhausted, "etcdserver: too many requests";
    no_leader = Unavailable, "etcdserver: no leader";
    not_leader = FailedPrecondition, "etcdserver: not leader";
    timeout = Unavailable, "etcdserver: request timed out";
    corrupt = DataLoss, "etcdserver: corrupt cluster";
    stopped = Unavailable, "etcdserver: server stopped";
    bad_transferee = FailedPrecondition, "etcdserver: bad leader transferee";
    member_not_found = NotFound, "etcdserver: member not found";
    permission_denied = PermissionDenied, "etcdserver: permission denied";
}

/// What has no counterpart in etcd.
pub(crate) fn own_keyspace(name: &str) -> Status {
    let text = format!("keyspace {name} is the store's own: it can be read here by an administrator, and not written");
    Status::permission_denied(text)
}

pub(crate) fn too_many_keyspaces(limit: usize) -> Status {
    let text = format!("there are {limit} keyspaces already where this one belongs; use one of those, or another name");
    Status::resource_exhausted(text)
}

pub(crate) fn refusal(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::KeyMissing { .. } => key_not_found(),
        Refusal::LeaseMissing { .. } => lease_not_found(),
        Refusal::LeaseThere { .. } => lease_exists(),
        Refusal::Compacted { .. } => compacted(),
        Refusal::Future { asked, .. } if *asked == wire::GONE => compacted(),
        Refusal::Future { .. } => future_revision(),
        Refusal::Guarded => timeout(),
    }
}

pub(crate) fn commit(error: &CommitError) -> Status {
    match error {
        // Where a keyspace moves to there is a leader in a moment.
        CommitError::NotLeader { .. } | CommitError::Moving { .. } => no_leader(),
        CommitError::Overloaded { .. } => {
            let mut status = too_many_requests();
            if let kv_node::Retry::After(pause) = error.retry() {
                status
                    .metadata_mut()
                    .insert("retry-after-ms", u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).into());
            }
            status
        }
        CommitError::DiskFull { .. } => no_space(),
        CommitError::TooLarge { .. } => request_too_large(),
        CommitError::KeyTwice { .. } => duplicate_key(),
        CommitError::Refused(why) => refusal(why),
        CommitError::Unknown { .. } => timeout(),
        CommitError::OutOfService { .. } => corrupt(),
    }
}

pub(crate) fn read(error: &ReadError) -> Status {
    match error {
        ReadError::Compacted { .. } => compacted(),
        ReadError::Future { .. } => future_revision(),
        ReadError::Unconfirmed { .. } => timeout(),
        ReadError::Stale { .. } | ReadError::Moving { .. } => Status::unavailable(error.to_string()),
        ReadError::OutOfService { .. } | ReadError::Store(_) => corrupt(),
    }
}

pub(crate) fn watch(error: &WatchError) -> Status {
    match error {
        WatchError::Compacted { .. } => compacted(),
        WatchError::Read(error) => read(error),
        WatchError::Stopped => stopped(),
    }
}
