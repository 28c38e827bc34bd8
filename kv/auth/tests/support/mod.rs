//! A keyspace that commands are run on, with costs of hashing that tests can bear.
#![allow(dead_code, reason = "each test file uses its part")]

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use etcd_proto::authpb::{Permission, permission::Type};
use kv_auth::{AuthError, AuthState, Command, Credentials, Hashing, Identity, Password, RecordChange, Tokens};
use rand::{SeedableRng as _, rngs::StdRng};

/// When tests begin.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

pub(crate) struct Keyspace {
    pub(crate) state: AuthState,
    pub(crate) tokens: Tokens,
    entropy: StdRng,
}

impl Keyspace {
    pub(crate) fn new() -> Self {
        Self { state: AuthState::default(), tokens: Tokens::default(), entropy: StdRng::seed_from_u64(1) }
    }

    /// With `root`, and authorisation enabled; passwords are the users' names.
    pub(crate) fn enabled() -> Self {
        let mut keyspace = Self::new();
        keyspace.run([user_add("root"), user_grant("root", "root"), Command::Enable]);
        keyspace
    }

    pub(crate) fn try_run(&mut self, command: &Command) -> Result<Vec<RecordChange>, AuthError> {
        let cheap = Hashing::new(8, 1).expect("the least that is possible");
        let changes = self.state.decide(command, &cheap, &mut self.entropy)?;
        self.state.evolve(&changes).expect("what was decided can be read");
        Ok(changes)
    }

    pub(crate) fn run(&mut self, commands: impl IntoIterator<Item = Command>) {
        for command in commands {
            self.try_run(&command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        }
    }

    pub(crate) fn log_in(&self, name: &str, password: &str) -> Result<String, AuthError> {
        self.state.authenticate(name, &Password::new(password), &self.tokens, now())
    }

    pub(crate) fn by_token(&self, token: &str, at: SystemTime) -> Result<Option<Identity>, AuthError> {
        self.state.identify(Credentials { token: Some(token), certificate_name: None }, &self.tokens, at)
    }

    pub(crate) fn by_certificate(&self, name: &str) -> Option<Identity> {
        let credentials = Credentials { token: None, certificate_name: Some(name) };
        self.state.identify(credentials, &self.tokens, now()).expect("a certificate is never refused")
    }
}

pub(crate) fn user_add(name: &str) -> Command {
    Command::UserAdd { name: name.into(), password: Password::new(name), no_password: false }
}

pub(crate) fn user_without_password(name: &str) -> Command {
    Command::UserAdd { name: name.into(), password: Password::default(), no_password: true }
}

pub(crate) fn user_delete(name: &str) -> Command {
    Command::UserDelete { name: name.into() }
}

pub(crate) fn change_password(name: &str, password: &str) -> Command {
    Command::UserChangePassword { name: name.into(), password: Password::new(password) }
}

pub(crate) fn user_grant(user: &str, role: &str) -> Command {
    Command::UserGrantRole { user: user.into(), role: role.into() }
}

pub(crate) fn user_revoke(user: &str, role: &str) -> Command {
    Command::UserRevokeRole { user: user.into(), role: role.into() }
}

pub(crate) fn role_add(name: &str) -> Command {
    Command::RoleAdd { name: name.into() }
}

pub(crate) fn role_delete(name: &str) -> Command {
    Command::RoleDelete { name: name.into() }
}

pub(crate) fn permission(access: Type, key: &[u8], range_end: &[u8]) -> Permission {
    Permission {
        perm_type: access.into(),
        key: Bytes::copy_from_slice(key),
        range_end: Bytes::copy_from_slice(range_end),
    }
}

pub(crate) fn role_grant(role: &str, access: Type, key: &str, range_end: &str) -> Command {
    let permission = permission(access, key.as_bytes(), range_end.as_bytes());
    Command::RoleGrantPermission { role: role.into(), permission: Some(permission) }
}

pub(crate) fn role_revoke(role: &str, key: &str, range_end: &str) -> Command {
    let (key, range_end) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(range_end.as_bytes()));
    Command::RoleRevokePermission { role: role.into(), key, range_end }
}
