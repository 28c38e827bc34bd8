//! Checks of requests by users, and by transactions of any shape.

mod support;

use std::iter;

use bytes::Bytes;
use etcd_proto::{
    authpb::permission::Type::{Read, Readwrite, Write},
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
        request_op::Request as Operation,
    },
};
use kv_auth::{AuthError, AuthState, Identity, leases_put};
use proptest::{prelude::*, sample::select};
use support::{Keyspace, role_add, role_delete, role_grant, role_revoke, user_add, user_delete, user_grant};

/// `u` reads `r*`, writes `w*` and does both with `b*`.
fn keyspace() -> Keyspace {
    let mut keyspace = Keyspace::enabled();
    keyspace.run([user_add("u"), user_add("bare"), role_add("one"), role_add("two"), role_add("other")]);
    keyspace.run([user_grant("u", "one"), user_grant("u", "two")]);
    keyspace.run([
        role_grant("one", Read, "r", "s"),
        role_grant("one", Write, "w", "x"),
        role_grant("two", Readwrite, "b", "c"),
    ]);
    keyspace
}

fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(at: &str, prev_kv: bool) -> PutRequest {
    PutRequest { key: key(at), prev_kv, ..Default::default() }
}

fn delete(at: &str, end: &str, prev_kv: bool) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key(at), range_end: key(end), prev_kv }
}

#[test]
fn everything_is_allowed_while_disabled() {
    let state = AuthState::default();
    assert_eq!(state.check_admin(None), Ok(()));
    assert_eq!(state.check_range(None, b"", b"\0"), Ok(()));
    assert_eq!(state.check_put(None, &put("k", true)), Ok(()));
    assert_eq!(state.user_get(None, "u"), Err(AuthError::UserNotFound));
}

#[test]
fn nobody_and_users_who_are_not_there_are_refused() {
    let mut keyspace = keyspace();
    let token = keyspace.log_in("u", "u").unwrap();
    let who = keyspace.by_token(&token, support::now()).unwrap();
    keyspace.run([user_delete("u")]);
    let (state, ghost) = (&keyspace.state, keyspace.by_certificate("u"));
    for (who, range, admin) in [
        (None, AuthError::UserEmpty, AuthError::UserEmpty),
        (ghost.as_ref(), AuthError::PermissionDenied, AuthError::UserNotFound),
        (who.as_ref(), AuthError::PermissionDenied, AuthError::UserNotFound),
    ] {
        assert_eq!(state.check_range(who, b"r", b""), Err(range.clone()), "{who:?}");
        assert_eq!(state.check_put(who, &put("w", false)), Err(range.clone()), "{who:?}");
        assert_eq!(state.check_delete(who, &delete("w", "", false)), Err(range.clone()), "{who:?}");
        assert_eq!(state.check_txn(who, &TxnRequest::default()), Err(range.clone()), "{who:?}");
        assert_eq!(state.check_lease_write(who, [b"w"]), Err(range), "{who:?}");
        assert_eq!(state.check_lease_write(who, iter::empty::<&[u8]>()), Ok(()), "{who:?}");
        assert_eq!(state.check_admin(who), Err(admin.clone()), "{who:?}");
        assert_eq!(state.user_list(who), Err(admin.clone()), "{who:?}");
        assert_eq!(state.role_list(who), Err(admin), "{who:?}");
    }
    // Somebody else of the same name is not who logged in.
    keyspace.run([user_add("u"), user_grant("u", "root")]);
    assert_eq!(keyspace.state.check_range(who.as_ref(), b"r", b""), Err(AuthError::InvalidToken));
    assert_eq!(keyspace.state.check_admin(who.as_ref()), Err(AuthError::InvalidToken));
    assert_eq!(keyspace.state.user_get(who.as_ref(), "u"), Err(AuthError::InvalidToken));
}

#[test]
fn an_empty_common_name_is_nobody() {
    assert_eq!(keyspace().by_certificate(""), None);
}

#[test]
fn root_may_do_everything() {
    let keyspace = keyspace();
    let root = keyspace.by_certificate("root");
    assert_eq!(keyspace.state.check_admin(root.as_ref()), Ok(()));
    assert_eq!(keyspace.state.check_range(root.as_ref(), b"", b"\0"), Ok(()));
    assert_eq!(keyspace.state.check_delete(root.as_ref(), &delete("\0", "\0", true)), Ok(()));
}

#[test]
fn users_see_themselves_and_their_roles() {
    let keyspace = keyspace();
    let (state, who) = (&keyspace.state, keyspace.by_certificate("u"));
    let denied = AuthError::PermissionDenied;
    assert_eq!(state.user_get(who.as_ref(), "u").unwrap(), ["one", "two"]);
    assert_eq!(state.user_get(who.as_ref(), "root"), Err(denied.clone()));
    assert_eq!(state.user_get(who.as_ref(), "nobody"), Err(denied.clone()));
    assert_eq!(state.role_get(who.as_ref(), "two").unwrap().len(), 1);
    assert_eq!(state.role_get(who.as_ref(), "other"), Err(denied.clone()));
    assert_eq!(state.role_get(who.as_ref(), "none"), Err(denied.clone()));
    assert_eq!(state.user_list(who.as_ref()), Err(denied.clone()));
    assert_eq!(state.role_list(who.as_ref()), Err(denied));
}

#[test]
fn previous_values_need_reading_too() {
    let keyspace = keyspace();
    let (state, who) = (&keyspace.state, keyspace.by_certificate("u"));
    let denied = Err(AuthError::PermissionDenied);
    for (at, plain, with_previous) in
        [("w", Ok(()), denied.clone()), ("b", Ok(()), Ok(())), ("r", denied.clone(), denied)]
    {
        assert_eq!(state.check_put(who.as_ref(), &put(at, false)), plain, "{at}");
        assert_eq!(state.check_put(who.as_ref(), &put(at, true)), with_previous, "{at}");
        assert_eq!(state.check_delete(who.as_ref(), &delete(at, "", false)), plain, "{at}");
        assert_eq!(state.check_delete(who.as_ref(), &delete(at, "", true)), with_previous, "{at}");
    }
}

#[test]
fn what_is_revoked_is_gone_at_once() {
    let mut keyspace = keyspace();
    let token = keyspace.log_in("u", "u").unwrap();
    let who = keyspace.by_token(&token, support::now()).unwrap();
    assert_eq!(keyspace.state.check_range(who.as_ref(), b"r", b"s"), Ok(()));
    keyspace.run([role_revoke("one", "r", "s")]);
    assert_eq!(keyspace.state.check_range(who.as_ref(), b"r", b"s"), Err(AuthError::PermissionDenied));
    assert_eq!(keyspace.state.check_range(who.as_ref(), b"b", b""), Ok(()));
    keyspace.run([role_delete("two"), role_add("two"), role_grant("two", Readwrite, "b", "c")]);
    assert_eq!(keyspace.state.check_range(who.as_ref(), b"b", b""), Err(AuthError::PermissionDenied));
    assert_eq!(keyspace.by_token(&token, support::now()).unwrap(), who);
}

#[test]
fn adjacent_permissions_of_several_roles_cover_together() {
    let mut keyspace = keyspace();
    keyspace.run([role_grant("two", Read, "s", ""), role_grant("one", Read, "s\0", "t")]);
    let (state, who) = (&keyspace.state, keyspace.by_certificate("u"));
    assert_eq!(state.check_range(who.as_ref(), b"r", b"t"), Ok(()));
    assert_eq!(state.check_range(who.as_ref(), b"q", b"t"), Err(AuthError::PermissionDenied));
    assert_eq!(state.check_range(who.as_ref(), b"r", b"t\0"), Err(AuthError::PermissionDenied));
    assert_eq!(state.check_range(who.as_ref(), b"r", b"\0"), Err(AuthError::PermissionDenied));
    let watch = |at, end| WatchCreateRequest { key: key(at), range_end: key(end), ..Default::default() };
    assert_eq!(state.check_watch(who.as_ref(), &watch("r", "t")), Ok(()));
    assert_eq!(state.check_watch(who.as_ref(), &watch("r", "\0")), Err(AuthError::PermissionDenied));
    assert_eq!(state.check_watch(who.as_ref(), &watch("", "")), Err(AuthError::PermissionDenied));
}

#[test]
fn leases_need_all_their_keys() {
    let keyspace = keyspace();
    let (state, who) = (&keyspace.state, keyspace.by_certificate("u"));
    let denied = Err(AuthError::PermissionDenied);
    assert_eq!(state.check_lease_write(who.as_ref(), ["w1", "b1"]), Ok(()));
    assert_eq!(state.check_lease_write(who.as_ref(), ["w1", "r1"]), denied);
    assert_eq!(state.check_lease_read(who.as_ref(), ["r1", "b1"]), Ok(()));
    assert_eq!(state.check_lease_read(who.as_ref(), ["r1", "w1"]), denied);
    let bare = keyspace.by_certificate("bare");
    assert_eq!(state.check_lease_write(bare.as_ref(), iter::empty::<&[u8]>()), Ok(()));
}

fn nest(depth: usize, innermost: Operation) -> TxnRequest {
    let mut operation = innermost;
    for level in 0..depth {
        let inner = vec![RequestOp { request: Some(operation) }];
        let txn = if level % 2 == 0 {
            TxnRequest { success: inner, ..Default::default() }
        } else {
            TxnRequest { failure: inner, ..Default::default() }
        };
        operation = Operation::RequestTxn(txn);
    }
    TxnRequest { failure: vec![RequestOp { request: Some(operation) }], ..Default::default() }
}

#[test]
fn the_depth_of_a_transaction_hides_nothing() {
    let keyspace = keyspace();
    let who = keyspace.by_certificate("u");
    for depth in [0, 1, 2, 50] {
        let check = |operation| keyspace.state.check_txn(who.as_ref(), &nest(depth, operation));
        let range =
            |at, end| Operation::RequestRange(RangeRequest { key: key(at), range_end: key(end), ..Default::default() });
        assert_eq!(check(range("r", "s")), Ok(()), "{depth}");
        assert_eq!(check(range("r", "t")), Err(AuthError::PermissionDenied), "{depth}");
        assert_eq!(check(range("r", "\0")), Err(AuthError::PermissionDenied), "{depth}");
        assert_eq!(check(Operation::RequestPut(put("w", false))), Ok(()), "{depth}");
        assert_eq!(check(Operation::RequestPut(put("w", true))), Err(AuthError::PermissionDenied), "{depth}");
        assert_eq!(check(Operation::RequestDeleteRange(delete("w", "x", false))), Ok(()), "{depth}");
        assert_eq!(
            check(Operation::RequestDeleteRange(delete("w", "x", true))),
            Err(AuthError::PermissionDenied),
            "{depth}"
        );
        let compare =
            |at| TxnRequest { compare: vec![Compare { key: key(at), ..Default::default() }], ..Default::default() };
        assert_eq!(check(Operation::RequestTxn(compare("r"))), Ok(()), "{depth}");
        assert_eq!(check(Operation::RequestTxn(compare("w"))), Err(AuthError::PermissionDenied), "{depth}");
        let leased = Operation::RequestPut(PutRequest { lease: 7, ..put("w", false) });
        assert_eq!(leases_put(&nest(depth, leased)), [7], "{depth}");
    }
}

#[test]
fn operations_without_content_ask_for_nothing() {
    let keyspace = keyspace();
    let txn = TxnRequest { success: vec![RequestOp { request: None }], ..Default::default() };
    assert_eq!(keyspace.state.check_txn(keyspace.by_certificate("bare").as_ref(), &txn), Ok(()));
}

fn any_key() -> impl Strategy<Value = Bytes> {
    select(vec!["", "\0", "b", "b1", "c", "r", "r1", "s", "w", "w1", "x"]).prop_map(key)
}

fn any_compare() -> impl Strategy<Value = Compare> {
    (any_key(), any_key()).prop_map(|(key, range_end)| Compare { key, range_end, ..Default::default() })
}

fn any_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (any_key(), any_key()).prop_map(|(key, range_end)| Operation::RequestRange(RangeRequest {
            key,
            range_end,
            ..Default::default()
        })),
        (any_key(), any::<bool>()).prop_map(|(key, prev_kv)| Operation::RequestPut(PutRequest {
            key,
            prev_kv,
            ..Default::default()
        })),
        (any_key(), any_key(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| {
            Operation::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv })
        }),
    ]
}

fn any_txn() -> impl Strategy<Value = TxnRequest> {
    let branch = |operation: BoxedStrategy<Operation>| {
        prop::collection::vec(operation.prop_map(|operation| RequestOp { request: Some(operation) }), 0..2)
    };
    let txn = move |operation: BoxedStrategy<Operation>| {
        (prop::collection::vec(any_compare(), 0..2), branch(operation.clone()), branch(operation))
            .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
    };
    let operation = any_operation()
        .boxed()
        .prop_recursive(3, 16, 2, move |inner| prop_oneof![inner.clone(), txn(inner).prop_map(Operation::RequestTxn)]);
    txn(operation.boxed())
}

/// Whether each part by itself is allowed, found by recursion.
fn every_part(state: &AuthState, who: Option<&Identity>, txn: &TxnRequest) -> bool {
    txn.compare.iter().all(|compare| state.check_range(who, &compare.key, &compare.range_end).is_ok())
        && txn.success.iter().chain(&txn.failure).all(|operation| match &operation.request {
            None => true,
            Some(Operation::RequestRange(range)) => state.check_range(who, &range.key, &range.range_end).is_ok(),
            Some(Operation::RequestPut(put)) => state.check_put(who, put).is_ok(),
            Some(Operation::RequestDeleteRange(delete)) => state.check_delete(who, delete).is_ok(),
            Some(Operation::RequestTxn(inner)) => every_part(state, who, inner),
        })
}

#[test]
fn a_transaction_is_allowed_just_when_all_its_parts_are() {
    let keyspace = keyspace();
    let who = keyspace.by_certificate("u");
    proptest!(|(txn in any_txn())| {
        let allowed = keyspace.state.check_txn(who.as_ref(), &txn);
        prop_assert_eq!(allowed.is_ok(), every_part(&keyspace.state, who.as_ref(), &txn));
    });
}
