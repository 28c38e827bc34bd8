//! Commands: every refusal with its code and text, and what the others change.

mod support;

use etcd_proto::authpb::permission::Type::{Read, Readwrite, Write};
use kv_auth::{AuthError, Command, Password, limits};
use support::{
    Keyspace, change_password, permission, role_add, role_delete, role_grant, role_revoke, user_add, user_delete,
    user_grant, user_revoke, user_without_password,
};
use tonic::Code;

#[test]
fn refusals_have_the_code_and_text_of_etcd() {
    let disabled = || Keyspace::new();
    let enabled = || {
        let mut keyspace = Keyspace::enabled();
        keyspace.run([user_add("u"), role_add("r"), role_add("root"), role_grant("r", Read, "a", "c")]);
        keyspace
    };
    let only_user = || {
        let mut keyspace = Keyspace::new();
        keyspace.run([user_add("root")]);
        keyspace
    };
    let nameless = || Command::RoleGrantPermission { role: "r".into(), permission: None };
    let unknown_type = || {
        let mut unknown = permission(Read, b"k", b"");
        unknown.perm_type = 7;
        Command::RoleGrantPermission { role: "r".into(), permission: Some(unknown) }
    };
    let long = "n".repeat(limits::NAME_BYTES + 1);
    let long_key = "k".repeat(limits::KEY_BYTES + 1);
    let long_password = "p".repeat(limits::PASSWORD_BYTES + 1);
    use Code::{FailedPrecondition, InvalidArgument};
    let management = "etcdserver: invalid auth management";
    let no_user = "etcdserver: user name not found";
    let no_role = "etcdserver: role name not found";
    let table: Vec<(&dyn Fn() -> Keyspace, Command, Code, &str)> = vec![
        (&disabled, Command::Enable, FailedPrecondition, "etcdserver: root user does not exist"),
        (&only_user, Command::Enable, FailedPrecondition, "etcdserver: root user does not have root role"),
        (&enabled, user_add("u"), FailedPrecondition, "etcdserver: user name already exists"),
        (&enabled, user_add(""), InvalidArgument, "etcdserver: user name is empty"),
        (&enabled, user_delete("nobody"), FailedPrecondition, no_user),
        (&enabled, user_delete(""), FailedPrecondition, no_user),
        (&enabled, change_password("nobody", "x"), FailedPrecondition, no_user),
        (&enabled, user_grant("nobody", "r"), FailedPrecondition, no_user),
        (&enabled, user_grant("u", "none"), FailedPrecondition, no_role),
        (&enabled, user_revoke("nobody", "r"), FailedPrecondition, no_user),
        (&enabled, user_revoke("u", "r"), FailedPrecondition, "etcdserver: role is not granted to the user"),
        (&enabled, role_add("r"), FailedPrecondition, "etcdserver: role name already exists"),
        (&enabled, role_add(""), InvalidArgument, "etcdserver: role name is empty"),
        (&enabled, role_delete("none"), FailedPrecondition, no_role),
        (&enabled, role_grant("none", Read, "a", ""), FailedPrecondition, no_role),
        (&enabled, nameless(), InvalidArgument, "etcdserver: permission not given"),
        (&enabled, role_grant("r", Read, "", ""), InvalidArgument, management),
        (&enabled, role_grant("r", Read, "", "\0"), InvalidArgument, management),
        (&enabled, role_grant("r", Read, "b", "a"), InvalidArgument, management),
        (&enabled, role_grant("r", Read, "b", "b"), InvalidArgument, management),
        (&enabled, unknown_type(), InvalidArgument, management),
        (&enabled, role_revoke("none", "a", "c"), FailedPrecondition, no_role),
        (&enabled, role_revoke("r", "a", ""), FailedPrecondition, "etcdserver: permission is not granted to the role"),
        (&enabled, user_delete("root"), InvalidArgument, management),
        (&enabled, user_revoke("root", "root"), InvalidArgument, management),
        (&enabled, role_delete("root"), InvalidArgument, management),
        (
            &enabled,
            user_add(&long),
            InvalidArgument,
            "etcdserver: user name is too long, at most 128 bytes are allowed",
        ),
        (
            &enabled,
            role_add(&long),
            InvalidArgument,
            "etcdserver: role name is too long, at most 128 bytes are allowed",
        ),
        (
            &enabled,
            change_password("u", &long_password),
            InvalidArgument,
            "etcdserver: password is too long, at most 1024 bytes are allowed",
        ),
        (
            &enabled,
            role_grant("r", Read, &long_key, ""),
            InvalidArgument,
            "etcdserver: permission's key or range end is too long, at most 4096 bytes are allowed",
        ),
    ];
    for (given, command, code, text) in table {
        let mut keyspace = given();
        let before = keyspace.state.clone();
        let status = keyspace.try_run(&command).expect_err(text).status();
        assert_eq!((status.code(), status.message()), (code, text), "{command:?}");
        assert_eq!(keyspace.state, before, "{command:?} was refused and changed something");
    }
}

#[test]
fn the_other_refusals_have_the_code_and_text_of_etcd() {
    for (error, code, text) in [
        (
            AuthError::AuthenticationFailed,
            Code::InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
        ),
        (
            AuthError::NoPasswordUser,
            Code::Unknown,
            "auth: authentication failed, password was given for no password user",
        ),
        (AuthError::PermissionDenied, Code::PermissionDenied, "etcdserver: permission denied"),
        (AuthError::NotEnabled, Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
        (AuthError::InvalidToken, Code::Unauthenticated, "etcdserver: invalid auth token"),
        (AuthError::OldRevision, Code::InvalidArgument, "etcdserver: revision of auth store is old"),
        (AuthError::VerifyOnly, Code::Unknown, "auth: token signing attempted with verify-only key"),
    ] {
        assert_eq!((error.status().code(), error.status().message()), (code, text));
    }
}

#[test]
fn root_is_like_others_while_disabled() {
    let mut keyspace = Keyspace::new();
    keyspace.run([
        user_add("root"),
        role_add("root"),
        user_grant("root", "root"),
        user_revoke("root", "root"),
        role_delete("root"),
        user_delete("root"),
    ]);
    assert_eq!(keyspace.state.user_list(None).unwrap(), Vec::<String>::new());
}

#[test]
fn the_revision_counts_changes_and_disabling() {
    let mut keyspace = Keyspace::new();
    assert_eq!(keyspace.state.revision().to_string(), "a1");
    for (command, revision) in [
        (user_add("root"), 2),
        (user_grant("root", "root"), 3),
        (user_grant("root", "root"), 3),
        (Command::Disable, 3),
        (Command::Enable, 3),
        (Command::Enable, 3),
        (role_add("r"), 4),
        (role_grant("r", Read, "a", ""), 5),
        (role_grant("r", Read, "a", ""), 6),
        (change_password("root", "new"), 7),
        (Command::Disable, 8),
        (role_revoke("r", "a", ""), 9),
        (role_delete("r"), 10),
        (user_revoke("root", "root"), 11),
        (user_delete("root"), 12),
    ] {
        let before = keyspace.state.clone();
        let changes = keyspace.try_run(&command).unwrap();
        assert_eq!(keyspace.state.revision().get(), revision, "{command:?}");
        let settings = changes.iter().any(|change| change.key == kv_auth::SETTINGS_RECORD);
        assert_eq!(settings, before != keyspace.state, "{command:?}: any change is one of the settings record");
        assert_eq!(changes.is_empty(), before == keyspace.state, "{command:?}");
    }
}

#[test]
fn lists_are_sorted_and_a_second_grant_replaces_the_first() {
    let mut keyspace = Keyspace::new();
    keyspace.run(["c", "a", "b"].map(role_add));
    keyspace.run(["z", "x", "y"].map(user_without_password));
    keyspace.run(["c", "a", "b", "a"].map(|role| user_grant("x", role)));
    keyspace.run([
        role_grant("a", Read, "k2", ""),
        role_grant("a", Read, "k1", "k3"),
        role_grant("a", Write, "k1", ""),
        role_grant("a", Readwrite, "k1", "k3"),
    ]);
    let state = &keyspace.state;
    assert_eq!(state.role_list(None).unwrap(), ["a", "b", "c"]);
    assert_eq!(state.user_list(None).unwrap(), ["x", "y", "z"]);
    assert_eq!(state.user_get(None, "x").unwrap(), ["a", "b", "c"]);
    let permissions =
        [permission(Write, b"k1", b""), permission(Readwrite, b"k1", b"k3"), permission(Read, b"k2", b"")];
    assert_eq!(state.role_get(None, "a").unwrap(), permissions);
    keyspace.run([role_delete("b")]);
    assert_eq!(keyspace.state.user_get(None, "x").unwrap(), ["a", "c"]);
}

#[test]
fn the_root_role_is_listed_with_what_was_granted() {
    let mut keyspace = Keyspace::new();
    assert_eq!(keyspace.state.role_get(None, "root"), Err(AuthError::RoleNotFound));
    keyspace.run([role_add("root"), role_grant("root", Read, "a", "")]);
    assert_eq!(keyspace.state.role_get(None, "root").unwrap(), [permission(Read, b"a", b"")]);
}

#[test]
fn a_user_without_password_stays_without() {
    let mut keyspace = Keyspace::enabled();
    keyspace.run([user_without_password("u"), change_password("u", "secret")]);
    assert_eq!(keyspace.log_in("u", "secret"), Err(AuthError::NoPasswordUser));
}

#[test]
fn a_role_has_no_more_permissions_than_fit_its_record() {
    let mut keyspace = Keyspace::new();
    keyspace.run([role_add("r")]);
    let mut granted = 0;
    let refusal = loop {
        let key = format!("{granted:0>4000}");
        match keyspace.try_run(&role_grant("r", Read, &key, &format!("{key}x"))) {
            Ok(_) => granted += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal, AuthError::TooMany { what: "bytes in one user or role", limit: limits::RECORD_BYTES });
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(granted > 50, "{granted}");
}

#[test]
fn nothing_secret_is_shown() {
    let mut keyspace = Keyspace::enabled();
    keyspace.run([Command::UserAdd { name: "u".into(), password: Password::new("hush"), no_password: false }]);
    let shown = format!("{:?} {:?}", keyspace.state, change_password("u", "hush"));
    assert!(!shown.contains("hush") && !shown.contains("argon2"), "{shown}");
    assert!(shown.contains("Secret(..)") && shown.contains("Password(..)"), "{shown}");
}
