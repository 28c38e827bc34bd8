//! Stored records: what is loaded is what was evolved, and what is damaged is refused.

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_proto::authpb::permission::Type::{Read, Readwrite, Write};
use kv_auth::{AuthState, Command, LoadError, RECORDS, RecordChange};
use proptest::{prelude::*, sample::select};
use support::{
    Keyspace, change_password, role_add, role_delete, role_grant, role_revoke, user_add, user_delete, user_grant,
    user_revoke, user_without_password,
};

#[derive(Default)]
struct Records(BTreeMap<Bytes, Bytes>);

impl Records {
    fn store(&mut self, changes: Vec<RecordChange>) {
        for RecordChange { key, value } in changes {
            match value {
                Some(value) => drop(self.0.insert(key, value)),
                None => drop(self.0.remove(&key)),
            }
        }
    }

    fn load(&self) -> Result<AuthState, LoadError> {
        AuthState::load(self.0.iter().map(|(key, value)| (&key[..], &value[..])))
    }
}

fn any_command() -> impl Strategy<Value = Command> {
    let user = || select(vec!["root", "u", "v", ""]);
    let role = || select(vec!["root", "r", "s", ""]);
    let bound = || select(vec!["", "\0", "a", "b", "c"]);
    let access = || select(vec![Read, Write, Readwrite]);
    prop_oneof![
        Just(Command::Enable),
        Just(Command::Disable),
        user().prop_map(user_add),
        user().prop_map(user_without_password),
        user().prop_map(user_delete),
        user().prop_map(|user| change_password(user, "other")),
        (user(), role()).prop_map(|(user, role)| user_grant(user, role)),
        (user(), role()).prop_map(|(user, role)| user_revoke(user, role)),
        role().prop_map(role_add),
        role().prop_map(role_delete),
        (role(), access(), bound(), bound()).prop_map(|(role, access, key, end)| role_grant(role, access, key, end)),
        (role(), bound(), bound()).prop_map(|(role, key, end)| role_revoke(role, key, end)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_loaded_is_what_was_evolved(commands in prop::collection::vec(any_command(), 0..60)) {
        let (mut keyspace, mut records) = (Keyspace::new(), Records::default());
        for command in commands {
            let before = keyspace.state.revision();
            let Ok(changes) = keyspace.try_run(&command) else { continue };
            prop_assert!(changes.iter().all(|change| change.key.starts_with(RECORDS)));
            records.store(changes);
            prop_assert_eq!(&records.load().unwrap(), &keyspace.state);
            prop_assert!(before <= keyspace.state.revision());
            if keyspace.state.enabled() {
                let root = keyspace.by_certificate("root");
                prop_assert_eq!(keyspace.state.check_admin(root.as_ref()), Ok(()), "somebody stays in charge");
            }
        }
    }

    #[test]
    fn no_bytes_make_loading_panic(tail in prop::collection::vec(any::<u8>(), 0..64), format in 0..3_u8) {
        for key in [&b"auth/settings"[..], b"auth/user/u", b"auth/role/r", b"auth/role/\xff"] {
            let value = [&[format][..], &tail].concat();
            if AuthState::load([(key, &value[..])]).is_ok() {
                prop_assert_eq!(format, 1);
            }
        }
    }
}

#[test]
fn damage_is_named() {
    let damaged = |key: &str, why| LoadError::Damaged { key: key.into(), why };
    let permissions = |ranges: &[(&[u8], &[u8])]| {
        let mut value = vec![1, ranges.len() as u8];
        for (key, end) in ranges {
            value.extend([&[key.len() as u8], *key, &[end.len() as u8], *end, &[0]].concat());
        }
        value
    };
    let table: Vec<(&[u8], Vec<u8>, LoadError)> = vec![
        (b"auth/other", vec![1], LoadError::UnknownRecord { key: "auth/other".into() }),
        (b"auth/\xff", vec![1], LoadError::UnknownRecord { key: "auth/\\xff".into() }),
        (
            b"auth/settings",
            vec![2, 1, 0],
            LoadError::UnknownFormat { key: "auth/settings".into(), format: 2, known: 1 },
        ),
        (b"auth/settings", vec![], damaged("auth/settings", "it is empty")),
        (b"auth/settings", vec![1, 1], damaged("auth/settings", "its fields can't be read")),
        (b"auth/settings", vec![1, 1, 0, 0], damaged("auth/settings", "it goes on after its end")),
        (b"auth/user/", vec![1, 2, 0, 0], damaged("auth/user/", "it has no name")),
        (b"auth/user/\xff", vec![1, 2, 0, 0], damaged("auth/user/\\xff", "its name is not text")),
        (b"auth/user/u", vec![1, 2, 0, 2, 1, b'b', 1, b'a'], damaged("auth/user/u", "its roles are not ascending")),
        (b"auth/user/u", vec![1, 2, 1, 1, b'x', 0], damaged("auth/user/u", "its password hash is not one")),
        (
            b"auth/role/r",
            permissions(&[(b"b", b""), (b"a", b"")]),
            damaged("auth/role/r", "its permissions are not ascending"),
        ),
        (b"auth/role/r", permissions(&[(b"b", b"a")]), damaged("auth/role/r", "one of its permissions is for no key")),
    ];
    for (key, value, error) in table {
        assert_eq!(AuthState::load([(key, &value[..])]), Err(error));
    }
    let mut state = AuthState::default();
    let half = [
        RecordChange { key: "auth/role/r".into(), value: Some(vec![1, 0].into()) },
        RecordChange { key: "auth/role/s".into(), value: Some(vec![9].into()) },
    ];
    assert!(state.evolve(&half).is_err());
    assert_eq!(state, AuthState::default(), "half of the changes were taken");
}

/// What format 1 was when it was first written. Whoever changes the records gives them another format and keeps this.
#[test]
fn records_of_format_1_are_read() {
    let secret = [5; 32];
    let settings = [&[1, 7, 1, 3][..], &secret].concat();
    let role = [&[1, 1, 1][..], b"a", &[1], b"c", &[2]].concat();
    let user = [&[1, 6, 0, 1, 1][..], b"r"].concat();
    let records: [(&[u8], &[u8]); 3] =
        [(b"auth/settings", &settings), (b"auth/role/r", &role), (b"auth/user/u", &user)];
    let mut keyspace = Keyspace::new();
    keyspace.state = AuthState::load(records).unwrap();
    assert!(keyspace.state.enabled());
    assert_eq!(keyspace.state.revision().get(), 7);
    let who = keyspace.by_certificate("u");
    assert_eq!(keyspace.state.check_range(who.as_ref(), b"a", b"c"), Ok(()));
    assert_eq!(keyspace.state.user_get(who.as_ref(), "u").unwrap(), ["r"]);
}
