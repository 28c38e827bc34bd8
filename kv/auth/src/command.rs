//! Changes of users, roles and settings: what a command would change, or why it is refused.
//!
//! Must hold: a command that changes anything changes the settings record too. A command refused changes nothing.
//!
//! Left to others: asking [`check_admin`](AuthState::check_admin) first. It is a step of its own since the asker is
//! known where a request comes in, and the state to decide by only where it is written.

use bytes::Bytes;
use etcd_proto::{authpb, etcdserverpb as pb};
use rand::CryptoRng;

use crate::{
    AuthError, AuthState, Hashing, Password, RecordChange, limits,
    password::PasswordHash,
    range,
    record::{Access, Mode, Permission, Record, Role, Settings, User},
    state::ROOT,
};

/// What an administrator wants changed. Names and permissions are as they came; deciding checks them.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// From now on everybody is asked who they are. Needs a user `root` with the role `root`.
    Enable,
    /// From now on everything is allowed to everybody.
    Disable,
    /// Adds a user without roles.
    UserAdd {
        /// The new user.
        name: String,
        /// What the user logs in with; of no meaning with `no_password`.
        password: Password,
        /// The user logs in with a certificate only.
        no_password: bool,
    },
    /// Removes a user.
    UserDelete {
        /// Who.
        name: String,
    },
    /// Gives a user another password. A user without password stays without.
    UserChangePassword {
        /// Whose.
        name: String,
        /// The new one.
        password: Password,
    },
    /// Gives a user a role. The role `root` need not have been added.
    UserGrantRole {
        /// To whom.
        user: String,
        /// Which.
        role: String,
    },
    /// Takes a role from a user.
    UserRevokeRole {
        /// From whom.
        user: String,
        /// Which.
        role: String,
    },
    /// Adds a role without permissions.
    RoleAdd {
        /// The new role.
        name: String,
    },
    /// Removes a role, from all its users too.
    RoleDelete {
        /// Which.
        name: String,
    },
    /// Gives a role a permission, in place of the one for the same range if there is one.
    RoleGrantPermission {
        /// To which.
        role: String,
        /// What it may do; a request may lack it.
        permission: Option<authpb::Permission>,
    },
    /// Takes from a role the permission for exactly this range.
    RoleRevokePermission {
        /// From which.
        role: String,
        /// The key of the permission's range.
        key: Bytes,
        /// The end of the permission's range.
        range_end: Bytes,
    },
}

impl AuthState {
    /// What the command changes; nothing at all if it asks for what is already so.
    ///
    /// Adding a user with a password and changing one block for as long as hashing takes, some 20 ms.
    pub fn decide(
        &self,
        command: &Command,
        hashing: &Hashing,
        entropy: &mut dyn CryptoRng,
    ) -> Result<Vec<RecordChange>, AuthError> {
        match command {
            Command::Enable => self.enable(entropy),
            Command::Disable => self.disable(),
            Command::UserAdd { name, password, no_password } => self.user_add(name, || match no_password {
                true => Ok(None),
                false => PasswordHash::create(password, hashing, entropy).map(Some),
            }),
            Command::UserDelete { name } => self.user_delete(name),
            Command::UserChangePassword { name, password } => {
                self.user_change_password(name, || PasswordHash::create(password, hashing, entropy))
            }
            Command::UserGrantRole { user, role } => self.user_grant_role(user, role),
            Command::UserRevokeRole { user, role } => self.user_revoke_role(user, role),
            Command::RoleAdd { name } => self.role_add(name),
            Command::RoleDelete { name } => self.role_delete(name),
            Command::RoleGrantPermission { role, permission } => self.role_grant_permission(role, permission.as_ref()),
            Command::RoleRevokePermission { role, key, range_end } => self.role_revoke_permission(role, key, range_end),
        }
    }

    fn enable(&self, entropy: &mut dyn CryptoRng) -> Result<Vec<RecordChange>, AuthError> {
        if self.enabled() {
            return Ok(Vec::new());
        }
        let root = self.users.get(ROOT).ok_or(AuthError::RootUserMissing)?;
        if !root.has(ROOT) {
            return Err(AuthError::RootRoleMissing);
        }
        let revision = self.revision();
        let settings = Settings { revision, mode: Mode::enabled(revision, entropy) };
        Ok(vec![Record::Settings(settings).change()])
    }

    fn disable(&self) -> Result<Vec<RecordChange>, AuthError> {
        if !self.enabled() {
            return Ok(Vec::new());
        }
        let settings = Settings { revision: self.revision().next(), mode: Mode::Disabled };
        Ok(vec![Record::Settings(settings).change()])
    }

    fn user_add(
        &self,
        name: &str,
        hash: impl FnOnce() -> Result<Option<PasswordHash>, AuthError>,
    ) -> Result<Vec<RecordChange>, AuthError> {
        new_name(name, "user name", AuthError::UserEmpty)?;
        if self.users.contains_key(name) {
            return Err(AuthError::UserExists);
        }
        at_most(limits::USERS, self.users.len() + 1, "users")?;
        let user = User { since: self.revision().next(), password: hash()?, roles: Vec::new() };
        self.change([Record::User(name.to_owned(), Some(user))])
    }

    fn user_delete(&self, name: &str) -> Result<Vec<RecordChange>, AuthError> {
        self.keep_root(name)?;
        self.user(name)?;
        self.change([Record::User(name.to_owned(), None)])
    }

    fn user_change_password(
        &self,
        name: &str,
        hash: impl FnOnce() -> Result<PasswordHash, AuthError>,
    ) -> Result<Vec<RecordChange>, AuthError> {
        let user = self.user(name)?;
        let password = user.password.as_ref().map(|_| hash()).transpose()?;
        let changed = User { since: self.revision().next(), password, roles: user.roles.clone() };
        self.change([Record::User(name.to_owned(), Some(changed))])
    }

    fn user_grant_role(&self, name: &str, role: &str) -> Result<Vec<RecordChange>, AuthError> {
        let mut user = self.user(name)?.clone();
        if role != ROOT {
            self.role(role)?;
        }
        let Err(place) = user.roles.binary_search_by(|have| have.as_str().cmp(role)) else { return Ok(Vec::new()) };
        at_most(limits::USER_ROLES, user.roles.len() + 1, "roles of one user")?;
        user.roles.insert(place, role.to_owned());
        self.change([Record::User(name.to_owned(), Some(user))])
    }

    fn user_revoke_role(&self, name: &str, role: &str) -> Result<Vec<RecordChange>, AuthError> {
        if role == ROOT {
            self.keep_root(name)?;
        }
        let user = self.user(name)?;
        if !user.has(role) {
            return Err(AuthError::RoleNotGranted);
        }
        self.change([Record::User(name.to_owned(), Some(without(user, role)))])
    }

    fn role_add(&self, name: &str) -> Result<Vec<RecordChange>, AuthError> {
        new_name(name, "role name", AuthError::RoleEmpty)?;
        if self.roles.contains_key(name) {
            return Err(AuthError::RoleExists);
        }
        at_most(limits::ROLES, self.roles.len() + 1, "roles")?;
        self.change([Record::Role(name.to_owned(), Some(Role::default()))])
    }

    fn role_delete(&self, name: &str) -> Result<Vec<RecordChange>, AuthError> {
        self.keep_root(name)?;
        self.role(name)?;
        let users = self.users.iter().filter(|(_, user)| user.has(name));
        let users = users.map(|(user, had)| Record::User(user.clone(), Some(without(had, name))));
        self.change(users.chain([Record::Role(name.to_owned(), None)]))
    }

    fn role_grant_permission(
        &self,
        name: &str,
        permission: Option<&authpb::Permission>,
    ) -> Result<Vec<RecordChange>, AuthError> {
        let mut permissions = self.role(name)?.permissions().to_vec();
        let permission = read_permission(permission.ok_or(AuthError::PermissionNotGiven)?)?;
        match place_of(&permissions, &permission.key, &permission.range_end) {
            Ok(same) => permissions[same] = permission,
            Err(place) => {
                at_most(limits::ROLE_PERMISSIONS, permissions.len() + 1, "permissions of one role")?;
                permissions.insert(place, permission);
            }
        }
        self.change([Record::Role(name.to_owned(), Some(Role::new(permissions)))])
    }

    fn role_revoke_permission(&self, name: &str, key: &[u8], end: &[u8]) -> Result<Vec<RecordChange>, AuthError> {
        let mut permissions = self.role(name)?.permissions().to_vec();
        let place = place_of(&permissions, key, end).map_err(|_| AuthError::PermissionNotGranted)?;
        permissions.remove(place);
        self.change([Record::Role(name.to_owned(), Some(Role::new(permissions)))])
    }

    fn user(&self, name: &str) -> Result<&User, AuthError> {
        self.users.get(name).ok_or(AuthError::UserNotFound)
    }

    fn role(&self, name: &str) -> Result<&Role, AuthError> {
        self.roles.get(name).ok_or(AuthError::RoleNotFound)
    }

    /// Refuses what would leave nobody in charge, if this is about `root`.
    fn keep_root(&self, name: &str) -> Result<(), AuthError> {
        if self.enabled() && name == ROOT { Err(AuthError::InvalidManagement) } else { Ok(()) }
    }

    /// These records, and the settings with the next revision.
    fn change(&self, records: impl IntoIterator<Item = Record>) -> Result<Vec<RecordChange>, AuthError> {
        let settings = Settings { revision: self.revision().next(), mode: self.settings.mode.clone() };
        let mut changes: Vec<RecordChange> = records.into_iter().map(|record| record.change()).collect();
        changes.push(Record::Settings(settings).change());
        let sizes = || changes.iter().filter_map(|change| change.value.as_ref()).map(Bytes::len);
        at_most(limits::RECORD_BYTES, sizes().max().unwrap_or(0), "bytes in one user or role")?;
        at_most(limits::COMMAND_BYTES, sizes().sum(), "bytes to be changed at once")?;
        Ok(changes)
    }
}

fn new_name(name: &str, what: &'static str, if_empty: AuthError) -> Result<(), AuthError> {
    match name.len() {
        0 => Err(if_empty),
        1..=limits::NAME_BYTES => Ok(()),
        _ => Err(AuthError::TooLong { what, limit_bytes: limits::NAME_BYTES }),
    }
}

fn at_most(limit: usize, count: usize, what: &'static str) -> Result<(), AuthError> {
    if count <= limit { Ok(()) } else { Err(AuthError::TooMany { what, limit }) }
}

fn without(user: &User, role: &str) -> User {
    let mut user = user.clone();
    user.roles.retain(|have| have != role);
    user
}

fn place_of(permissions: &[Permission], key: &[u8], range_end: &[u8]) -> Result<usize, usize> {
    permissions.binary_search_by(|one| (&one.key[..], &one.range_end[..]).cmp(&(key, range_end)))
}

fn read_permission(permission: &authpb::Permission) -> Result<Permission, AuthError> {
    let access = match authpb::permission::Type::try_from(permission.perm_type) {
        Ok(authpb::permission::Type::Read) => Access::Read,
        Ok(authpb::permission::Type::Write) => Access::Write,
        Ok(authpb::permission::Type::Readwrite) => Access::ReadWrite,
        Err(_) => return Err(AuthError::InvalidManagement),
    };
    if permission.key.len().max(permission.range_end.len()) > limits::KEY_BYTES {
        return Err(AuthError::TooLong { what: "permission's key or range end", limit_bytes: limits::KEY_BYTES });
    }
    if !range::is_grantable(&permission.key, &permission.range_end) {
        return Err(AuthError::InvalidManagement);
    }
    Ok(Permission { key: permission.key.clone(), range_end: permission.range_end.clone(), access })
}

impl From<pb::AuthUserAddRequest> for Command {
    fn from(request: pb::AuthUserAddRequest) -> Self {
        let no_password = request.options.is_some_and(|options| options.no_password);
        Self::UserAdd { name: request.name, password: request.password.into(), no_password }
    }
}

impl From<pb::AuthUserDeleteRequest> for Command {
    fn from(request: pb::AuthUserDeleteRequest) -> Self {
        Self::UserDelete { name: request.name }
    }
}

impl From<pb::AuthUserChangePasswordRequest> for Command {
    fn from(request: pb::AuthUserChangePasswordRequest) -> Self {
        Self::UserChangePassword { name: request.name, password: request.password.into() }
    }
}

impl From<pb::AuthUserGrantRoleRequest> for Command {
    fn from(request: pb::AuthUserGrantRoleRequest) -> Self {
        Self::UserGrantRole { user: request.user, role: request.role }
    }
}

impl From<pb::AuthUserRevokeRoleRequest> for Command {
    fn from(request: pb::AuthUserRevokeRoleRequest) -> Self {
        Self::UserRevokeRole { user: request.name, role: request.role }
    }
}

impl From<pb::AuthRoleAddRequest> for Command {
    fn from(request: pb::AuthRoleAddRequest) -> Self {
        Self::RoleAdd { name: request.name }
    }
}

impl From<pb::AuthRoleDeleteRequest> for Command {
    fn from(request: pb::AuthRoleDeleteRequest) -> Self {
        Self::RoleDelete { name: request.role }
    }
}

impl From<pb::AuthRoleGrantPermissionRequest> for Command {
    fn from(request: pb::AuthRoleGrantPermissionRequest) -> Self {
        Self::RoleGrantPermission { role: request.name, permission: request.perm }
    }
}

impl From<pb::AuthRoleRevokePermissionRequest> for Command {
    fn from(request: pb::AuthRoleRevokePermissionRequest) -> Self {
        Self::RoleRevokePermission { role: request.role, key: request.key, range_end: request.range_end }
    }
}
