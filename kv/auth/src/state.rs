//! All users, roles and settings of one keyspace, and what can be asked of them.
//!
//! Must hold: a state depends on the stored records alone, not on the order or the way in which they came.
//!
//! Left to others: storing the records (they come in and go out as bytes), and keeping two commands from being decided
//! by the same state (a write may depend on the settings record being unchanged).

use std::{collections::BTreeMap, time::SystemTime};

use etcd_proto::authpb;

use crate::{
    AuthError, AuthRevision, Identity, LoadError, Password, RecordChange, Tokens,
    record::{Access, Mode, Record, Role, Settings, User},
    token::{Claim, Subject},
};

/// The user without whom nobody would be in charge, and the role that allows everything.
pub(crate) const ROOT: &str = "root";

/// The whole authorisation of one keyspace. The default is that of a new keyspace: disabled, with nobody in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthState {
    pub(crate) settings: Settings,
    pub(crate) users: BTreeMap<String, User>,
    pub(crate) roles: BTreeMap<String, Role>,
}

/// How a request says who sends it.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The token in its metadata. It decides, if there is one.
    pub token: Option<&'a str>,
    /// The common name of the verified client certificate. Not to be given for requests through the JSON gateway: the
    /// certificate is the gateway's own there.
    pub certificate_name: Option<&'a str>,
}

impl AuthState {
    /// From all stored records of authorisation, as key and value.
    pub fn load<'a>(records: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<Self, LoadError> {
        let mut state = Self::default();
        for (key, value) in records {
            state.adopt(Record::read(key, Some(value))?);
        }
        Ok(state)
    }

    /// What [`load`](Self::load) returns once these changes are stored. On an error nothing has changed.
    pub fn evolve(&mut self, changes: &[RecordChange]) -> Result<(), LoadError> {
        let records: Result<Vec<Record>, LoadError> =
            changes.iter().map(|change| Record::read(&change.key, change.value.as_deref())).collect();
        records?.into_iter().for_each(|record| self.adopt(record));
        Ok(())
    }

    fn adopt(&mut self, record: Record) {
        match record {
            Record::Settings(settings) => self.settings = settings,
            Record::User(name, Some(user)) => drop(self.users.insert(name, user)),
            Record::User(name, None) => drop(self.users.remove(&name)),
            Record::Role(name, Some(role)) => drop(self.roles.insert(name, role)),
            Record::Role(name, None) => drop(self.roles.remove(&name)),
        }
    }

    /// Whether anybody is asked who they are. If not, everything is allowed to everybody.
    pub fn enabled(&self) -> bool {
        matches!(self.settings.mode, Mode::Enabled { .. })
    }

    /// Raised by every change of users and roles and by disabling; as in etcd not by enabling.
    pub fn revision(&self) -> AuthRevision {
        self.settings.revision
    }

    /// Exchanges a password for a token.
    ///
    /// Blocks for as long as hashing a password takes, some 20 ms: not for a thread that others wait for. It takes as
    /// long for a user who isn't there, so that time doesn't tell who is.
    pub fn authenticate(
        &self,
        name: &str,
        password: &Password,
        tokens: &Tokens,
        now: SystemTime,
    ) -> Result<String, AuthError> {
        let Mode::Enabled { secret, .. } = &self.settings.mode else { return Err(AuthError::NotEnabled) };
        let Some(user) = self.users.get(name) else {
            if let Some(decoy) = self.users.values().find_map(|user| user.password.as_ref()) {
                std::hint::black_box(decoy.verifies(password));
            }
            return Err(AuthError::AuthenticationFailed);
        };
        let hash = user.password.as_ref().ok_or(AuthError::NoPasswordUser)?;
        if !hash.verifies(password) {
            return Err(AuthError::AuthenticationFailed);
        }
        let subject = Subject { name, user_since: user.since, revision: self.revision() };
        tokens.issue(&subject, secret, now)
    }

    /// Who sends a request; `None` if nobody is said to. No token is good while nobody is asked.
    ///
    /// A token is void when its user was removed or got another password, and when authorisation was disabled and
    /// enabled, since it was issued. A change of roles doesn't void it: every check asks the roles that there are then,
    /// so what is revoked is gone at once without all clients logging in again. (etcd refuses web tokens after every
    /// change of any user or role.)
    pub fn identify(
        &self,
        credentials: Credentials<'_>,
        tokens: &Tokens,
        now: SystemTime,
    ) -> Result<Option<Identity>, AuthError> {
        let Some(token) = credentials.token else {
            let named = credentials.certificate_name.filter(|name| !name.is_empty() && self.enabled());
            return Ok(named.map(Identity::by_certificate));
        };
        let Mode::Enabled { since, secret } = &self.settings.mode else { return Err(AuthError::InvalidToken) };
        let (name, claim) = tokens.read(token, secret, now).ok_or(AuthError::InvalidToken)?;
        let user = self.users.get(&name).ok_or(AuthError::InvalidToken)?;
        match claim {
            Claim::UserSince(claimed) if claimed != user.since => Err(AuthError::InvalidToken),
            Claim::Revision(claimed) if claimed < user.since.max(*since) => Err(AuthError::OldRevision),
            Claim::UserSince(_) | Claim::Revision(_) => Ok(Some(Identity::by_token(name, user.since))),
        }
    }

    /// The roles of a user, ascending. For administrators, and for everybody about themselves.
    pub fn user_get(&self, who: Option<&Identity>, name: &str) -> Result<Vec<String>, AuthError> {
        // Nobody asks about nobody, as in etcd.
        if who.is_some() || !name.is_empty() {
            self.check_admin(who).or_else(|refusal| match self.asker(who)? {
                Some((asking, _)) if asking == name => Ok(()),
                _ => Err(refusal),
            })?;
        }
        self.users.get(name).map(|user| user.roles.clone()).ok_or(AuthError::UserNotFound)
    }

    /// All users, ascending. For administrators.
    pub fn user_list(&self, who: Option<&Identity>) -> Result<Vec<String>, AuthError> {
        self.check_admin(who)?;
        Ok(self.users.keys().cloned().collect())
    }

    /// The permissions of a role, ascending by range. For administrators, and for everybody who has the role.
    pub fn role_get(&self, who: Option<&Identity>, name: &str) -> Result<Vec<authpb::Permission>, AuthError> {
        self.check_admin(who).or_else(|refusal| match self.asker(who)? {
            Some((_, user)) if user.has(name) => Ok(()),
            _ => Err(refusal),
        })?;
        let role = self.roles.get(name).ok_or(AuthError::RoleNotFound)?;
        Ok(role.permissions().iter().map(Into::into).collect())
    }

    /// All roles, ascending. For administrators.
    pub fn role_list(&self, who: Option<&Identity>) -> Result<Vec<String>, AuthError> {
        self.check_admin(who)?;
        Ok(self.roles.keys().cloned().collect())
    }
}

impl From<&crate::record::Permission> for authpb::Permission {
    fn from(permission: &crate::record::Permission) -> Self {
        let perm_type = match permission.access {
            Access::Read => authpb::permission::Type::Read,
            Access::Write => authpb::permission::Type::Write,
            Access::ReadWrite => authpb::permission::Type::Readwrite,
        };
        Self { perm_type: perm_type.into(), key: permission.key.clone(), range_end: permission.range_end.clone() }
    }
}
