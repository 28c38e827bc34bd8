//! Users, roles and settings as they are stored beside the keys of a keyspace.
//!
//! A record's key is one of `auth/settings`, `auth/user/NAME` and `auth/role/NAME`; its value is a format byte and then
//! postcard.
//!
//! Must hold: what is read has been checked, so that the rest of the crate relies on it; a record that isn't
//! understood in whole is refused, since half of a permission is a wrong permission.

use bytes::Bytes;
use rand::CryptoRng;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    LoadError, limits,
    password::PasswordHash,
    range::{self, Cover, Range},
    secret::Secret,
};

/// What the key of every record of authorisation begins with.
pub const RECORDS: &[u8] = b"auth/";

/// The key of the settings record. Every command that changes anything changes this record, so whoever decided by a
/// state can make the write depend on this record being unchanged.
pub const SETTINGS_RECORD: &[u8] = b"auth/settings";

const USER_RECORDS: &[u8] = b"auth/user/";
const ROLE_RECORDS: &[u8] = b"auth/role/";

/// The format that is written.
const FORMAT: u8 = 1;

/// Counts the changes of users and roles of one keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AuthRevision(u64);

impl AuthRevision {
    /// Where etcd begins to count.
    pub const FIRST: Self = Self(1);

    /// From a raw number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// As it stands in messages and tokens.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after this.
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for AuthRevision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a{}", self.0)
    }
}

/// One record to write or to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordChange {
    /// The record's key.
    pub key: Bytes,
    /// What it becomes; `None`: it is removed.
    pub value: Option<Bytes>,
}

/// What belongs to no user and no role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) revision: AuthRevision,
    pub(crate) mode: Mode,
}

impl Default for Settings {
    fn default() -> Self {
        Self { revision: AuthRevision::FIRST, mode: Mode::Disabled }
    }
}

/// Whether anybody is asked who they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    Disabled,
    Enabled {
        /// The revision at which it was enabled. Web tokens from before are void.
        since: AuthRevision,
        /// Signs simple tokens. A new one whenever it is enabled, so those from before are void.
        secret: Secret,
    },
}

impl Mode {
    pub(crate) fn enabled(since: AuthRevision, entropy: &mut dyn CryptoRng) -> Self {
        Self::Enabled { since, secret: Secret::generate(entropy) }
    }
}

/// Somebody who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    /// The revision at which the user was added or got this password. Tokens from before are void.
    pub(crate) since: AuthRevision,
    /// `None`: the user logs in with a certificate only.
    pub(crate) password: Option<PasswordHash>,
    /// Ascending, each once. A role that isn't there grants nothing; only `root` may be missing.
    pub(crate) roles: Vec<String>,
}

impl User {
    pub(crate) fn has(&self, role: &str) -> bool {
        self.roles.binary_search_by(|have| have.as_str().cmp(role)).is_ok()
    }
}

/// What a permission allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Access {
    Read,
    Write,
    ReadWrite,
}

/// What may be done with a range of keys. The range is kept in the wire's form: it is listed and revoked by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Permission {
    pub(crate) key: Bytes,
    pub(crate) range_end: Bytes,
    pub(crate) access: Access,
}

/// A named list of permissions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Role {
    permissions: Vec<Permission>,
    read: Cover,
    write: Cover,
}

impl Role {
    /// The permissions have to be ascending by range, each range once.
    pub(crate) fn new(permissions: Vec<Permission>) -> Self {
        let cover = |access| {
            let allowing = permissions.iter().filter(|one| one.access == access || one.access == Access::ReadWrite);
            allowing.filter_map(|one| Range::new(&one.key, &one.range_end)).collect()
        };
        Self { read: cover(Access::Read), write: cover(Access::Write), permissions }
    }

    /// Ascending by range.
    pub(crate) fn permissions(&self) -> &[Permission] {
        &self.permissions
    }

    /// All that may be read.
    pub(crate) fn read(&self) -> &Cover {
        &self.read
    }

    /// All that may be written.
    pub(crate) fn write(&self) -> &Cover {
        &self.write
    }
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Settings(Settings),
    User(String, Option<User>),
    Role(String, Option<Role>),
}

impl Record {
    /// Reads a record; without a value it is about a removal.
    pub(crate) fn read(key: &[u8], value: Option<&[u8]>) -> Result<Self, LoadError> {
        if key == SETTINGS_RECORD {
            let settings = value.map(|value| decode(key, value)).transpose()?;
            Ok(Self::Settings(settings.unwrap_or_default()))
        } else if let Some(name) = key.strip_prefix(USER_RECORDS) {
            let user = value.map(|value| read_user(key, value)).transpose()?;
            Ok(Self::User(read_name(key, name)?, user))
        } else if let Some(name) = key.strip_prefix(ROLE_RECORDS) {
            let role = value.map(|value| read_role(key, value)).transpose()?;
            Ok(Self::Role(read_name(key, name)?, role))
        } else {
            Err(LoadError::UnknownRecord { key: key.escape_ascii().to_string() })
        }
    }

    /// What has to be written for it.
    pub(crate) fn change(&self) -> RecordChange {
        match self {
            Self::Settings(settings) => {
                RecordChange { key: Bytes::from_static(SETTINGS_RECORD), value: Some(encode(settings)) }
            }
            Self::User(name, user) => {
                RecordChange { key: key_of(USER_RECORDS, name), value: user.as_ref().map(encode) }
            }
            Self::Role(name, role) => RecordChange {
                key: key_of(ROLE_RECORDS, name),
                value: role.as_ref().map(|role| encode(&role.permissions)),
            },
        }
    }
}

fn read_user(key: &[u8], value: &[u8]) -> Result<User, LoadError> {
    let user: User = decode(key, value)?;
    if !user.roles.is_sorted_by(|one, next| one < next) {
        return Err(damaged(key, "its roles are not ascending"));
    }
    if !user.password.as_ref().is_none_or(PasswordHash::is_sound) {
        return Err(damaged(key, "its password hash is not one"));
    }
    Ok(user)
}

fn read_role(key: &[u8], value: &[u8]) -> Result<Role, LoadError> {
    let permissions: Vec<Permission> = decode(key, value)?;
    if !permissions.is_sorted_by(|one, next| (&one.key, &one.range_end) < (&next.key, &next.range_end)) {
        return Err(damaged(key, "its permissions are not ascending"));
    }
    if !permissions.iter().all(|one| range::is_grantable(&one.key, &one.range_end)) {
        return Err(damaged(key, "one of its permissions is for no key"));
    }
    Ok(Role::new(permissions))
}

fn read_name(key: &[u8], name: &[u8]) -> Result<String, LoadError> {
    match std::str::from_utf8(name) {
        Ok("") => Err(damaged(key, "it has no name")),
        Ok(name) => Ok(name.to_owned()),
        Err(_) => Err(damaged(key, "its name is not text")),
    }
}

fn key_of(prefix: &[u8], name: &str) -> Bytes {
    [prefix, name.as_bytes()].concat().into()
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_extend(value, vec![FORMAT]).expect("values without maps or borrowed parts always encode").into()
}

fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, LoadError> {
    if value.len() > limits::RECORD_BYTES {
        return Err(damaged(key, "it is larger than any record"));
    }
    match value.split_first() {
        None => Err(damaged(key, "it is empty")),
        Some((&FORMAT, body)) => match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            Ok(_) => Err(damaged(key, "it goes on after its end")),
            Err(_) => Err(damaged(key, "its fields can't be read")),
        },
        Some((&format, _)) => {
            Err(LoadError::UnknownFormat { key: key.escape_ascii().to_string(), format, known: FORMAT })
        }
    }
}

fn damaged(key: &[u8], why: &'static str) -> LoadError {
    LoadError::Damaged { key: key.escape_ascii().to_string(), why }
}
