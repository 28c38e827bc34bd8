//! Whether somebody may do what they ask for.
//!
//! Must hold: whatever a request can return or change is checked, in every branch and at every depth of a transaction,
//! whether or not it will be reached. A check is made against the roles that there are now.
//!
//! Left to others: refusing requests that are malformed, and looking up which keys are attached to a lease.

use etcd_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, TxnRequest, WatchCreateRequest, request_op::Request as Operation,
};

use crate::{
    AuthError, AuthRevision, AuthState,
    range::{Range, together_cover},
    record::{Access, Role, User},
    state::ROOT,
};

/// Who sends a request, as far as known; whether there is such a user is asked at every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    user: String,
    /// The user that is meant, of those who had this name one after the other; `None`: whoever has it.
    since: Option<AuthRevision>,
}

impl Identity {
    pub(crate) fn by_token(user: String, since: AuthRevision) -> Self {
        Self { user, since: Some(since) }
    }

    pub(crate) fn by_certificate(user: &str) -> Self {
        Self { user: user.to_owned(), since: None }
    }

    /// The user's name.
    pub fn user(&self) -> &str {
        &self.user
    }
}

/// What somebody may do.
enum Allowed<'a> {
    Everything,
    RolesOf(&'a AuthState, &'a User),
}

impl Allowed<'_> {
    fn check(&self, access: Access, key: &[u8], range_end: &[u8]) -> Result<(), AuthError> {
        let Self::RolesOf(state, user) = self else { return Ok(()) };
        let wanted = Range::new(key, range_end).ok_or(AuthError::PermissionDenied)?;
        let roles = || user.roles.iter().filter_map(|role| state.roles.get(role));
        let readable = || together_cover(&roles().map(Role::read).collect::<Vec<_>>(), &wanted);
        let writable = || together_cover(&roles().map(Role::write).collect::<Vec<_>>(), &wanted);
        let covered = match access {
            Access::Read => readable(),
            Access::Write => writable(),
            Access::ReadWrite => readable() && writable(),
        };
        if covered { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    fn put(&self, put: &PutRequest) -> Result<(), AuthError> {
        let access = if put.prev_kv { Access::ReadWrite } else { Access::Write };
        self.check(access, &put.key, b"")
    }

    fn delete(&self, delete: &DeleteRangeRequest) -> Result<(), AuthError> {
        let access = if delete.prev_kv { Access::ReadWrite } else { Access::Write };
        self.check(access, &delete.key, &delete.range_end)
    }

    /// The conditions and operations of one transaction, but for the transactions in it.
    fn shallow(&self, txn: &TxnRequest) -> Result<(), AuthError> {
        // The outcome of a condition tells something of the keys.
        for compare in &txn.compare {
            self.check(Access::Read, &compare.key, &compare.range_end)?;
        }
        for operation in operations(txn) {
            match operation {
                Operation::RequestRange(range) => self.check(Access::Read, &range.key, &range.range_end)?,
                Operation::RequestPut(put) => self.put(put)?,
                Operation::RequestDeleteRange(delete) => self.delete(delete)?,
                Operation::RequestTxn(_) => {}
            }
        }
        Ok(())
    }
}

impl AuthState {
    /// Whether a range may be read. An empty range is as good as the key it begins with.
    pub fn check_range(&self, who: Option<&Identity>, key: &[u8], range_end: &[u8]) -> Result<(), AuthError> {
        self.allowed(who)?.check(Access::Read, key, range_end)
    }

    /// Whether a range may be watched: whether it may be read, as events carry values. The range is that of the
    /// request, with `"\0"` as the end that means none.
    pub fn check_watch(&self, who: Option<&Identity>, watch: &WatchCreateRequest) -> Result<(), AuthError> {
        self.check_range(who, &watch.key, &watch.range_end)
    }

    /// Whether a key may be put, and read if the previous value is asked for. A put with a lease needs
    /// [`check_lease_write`](Self::check_lease_write) as well.
    pub fn check_put(&self, who: Option<&Identity>, put: &PutRequest) -> Result<(), AuthError> {
        self.allowed(who)?.put(put)
    }

    /// Whether a range may be deleted, and read if the previous values are asked for.
    pub fn check_delete(&self, who: Option<&Identity>, delete: &DeleteRangeRequest) -> Result<(), AuthError> {
        self.allowed(who)?.delete(delete)
    }

    /// Whether everything in a transaction is allowed, in both branches and at any depth: which branch is taken would
    /// tell of keys that may not be read. Its leases need [`check_lease_write`](Self::check_lease_write) as well, see
    /// [`leases_put`].
    pub fn check_txn(&self, who: Option<&Identity>, txn: &TxnRequest) -> Result<(), AuthError> {
        let allowed = self.allowed(who)?;
        nested(txn).try_for_each(|txn| allowed.shallow(txn))
    }

    /// Whether a lease may be revoked, or attached to a further key, that has these keys: who revokes it deletes them.
    pub fn check_lease_write<K: AsRef<[u8]>>(
        &self,
        who: Option<&Identity>,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<(), AuthError> {
        self.check_keys(who, Access::Write, keys)
    }

    /// Whether these keys of a lease may be told.
    pub fn check_lease_read<K: AsRef<[u8]>>(
        &self,
        who: Option<&Identity>,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<(), AuthError> {
        self.check_keys(who, Access::Read, keys)
    }

    fn check_keys<K: AsRef<[u8]>>(
        &self,
        who: Option<&Identity>,
        access: Access,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<(), AuthError> {
        // Of a lease without keys nobody is asked who they are, as in etcd.
        let mut keys = keys.into_iter().peekable();
        if keys.peek().is_none() {
            return Ok(());
        }
        let allowed = self.allowed(who)?;
        keys.try_for_each(|key| allowed.check(access, key.as_ref(), b""))
    }

    /// Whether users, roles and the cluster may be managed: whether the role `root` is there.
    ///
    /// Every [`Command`](crate::Command) needs it, the change of one's own password too, as in etcd.
    pub fn check_admin(&self, who: Option<&Identity>) -> Result<(), AuthError> {
        if !self.enabled() {
            return Ok(());
        }
        match self.asker(who)? {
            None => Err(AuthError::UserNotFound),
            Some((_, user)) if user.has(ROOT) => Ok(()),
            Some(_) => Err(AuthError::PermissionDenied),
        }
    }

    /// The user who asks, if there is such a user.
    pub(crate) fn asker<'a>(&'a self, who: Option<&'a Identity>) -> Result<Option<(&'a str, &'a User)>, AuthError> {
        let who = who.ok_or(AuthError::UserEmpty)?;
        match self.users.get(&who.user) {
            Some(user) if who.since.is_some_and(|since| since != user.since) => Err(AuthError::InvalidToken),
            found => Ok(found.map(|user| (who.user.as_str(), user))),
        }
    }

    fn allowed<'a>(&'a self, who: Option<&'a Identity>) -> Result<Allowed<'a>, AuthError> {
        if !self.enabled() {
            return Ok(Allowed::Everything);
        }
        match self.asker(who)? {
            None => Err(AuthError::PermissionDenied),
            Some((_, user)) if user.has(ROOT) => Ok(Allowed::Everything),
            Some((_, user)) => Ok(Allowed::RolesOf(self, user)),
        }
    }
}

/// The leases that a transaction attaches keys to in any branch at any depth, ascending.
pub fn leases_put(txn: &TxnRequest) -> Vec<i64> {
    let puts = nested(txn).flat_map(operations).filter_map(|operation| match operation {
        Operation::RequestPut(put) if put.lease != 0 => Some(put.lease),
        _ => None,
    });
    let mut leases: Vec<i64> = puts.collect();
    leases.sort_unstable();
    leases.dedup();
    leases
}

/// The operations of both branches.
fn operations(txn: &TxnRequest) -> impl Iterator<Item = &Operation> {
    txn.success.iter().chain(&txn.failure).filter_map(|operation| operation.request.as_ref())
}

/// A transaction and all in it. Not by recursion, so no depth can exhaust the stack.
fn nested(txn: &TxnRequest) -> impl Iterator<Item = &TxnRequest> {
    let mut pending = vec![txn];
    std::iter::from_fn(move || {
        let txn = pending.pop()?;
        pending.extend(operations(txn).filter_map(|operation| match operation {
            Operation::RequestTxn(inner) => Some(inner),
            _ => None,
        }));
        Some(txn)
    })
}
