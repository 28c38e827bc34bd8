//! Why something was refused, in the words that clients of etcd know.

use tonic::{Code, Status};

/// Why a request was refused.
///
/// Clients compare these texts to decide whether to log in again, so they are etcd's to the letter, and so is each
/// code. The last ones are of limits that etcd doesn't have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Authorisation can't be enabled without an administrator.
    #[error("etcdserver: root user does not exist")]
    RootUserMissing,
    /// Authorisation can't be enabled without an administrator who may do everything.
    #[error("etcdserver: root user does not have root role")]
    RootRoleMissing,
    /// A user of this name is there.
    #[error("etcdserver: user name already exists")]
    UserExists,
    /// A user without a name, or a request from nobody while authorisation is enabled.
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    /// There is no such user.
    #[error("etcdserver: user name not found")]
    UserNotFound,
    /// A role of this name is there.
    #[error("etcdserver: role name already exists")]
    RoleExists,
    /// There is no such role.
    #[error("etcdserver: role name not found")]
    RoleNotFound,
    /// A role without a name.
    #[error("etcdserver: role name is empty")]
    RoleEmpty,
    /// No such user, or not this password; which of the two is not told.
    #[error("etcdserver: authentication failed, invalid user ID or password")]
    AuthenticationFailed,
    /// The user can't log in with a password, only with a certificate.
    #[error("auth: authentication failed, password was given for no password user")]
    NoPasswordUser,
    /// A grant without a permission.
    #[error("etcdserver: permission not given")]
    PermissionNotGiven,
    /// None of the user's roles allows it.
    #[error("etcdserver: permission denied")]
    PermissionDenied,
    /// The user doesn't have the role that was to be taken.
    #[error("etcdserver: role is not granted to the user")]
    RoleNotGranted,
    /// The role doesn't have the permission that was to be taken.
    #[error("etcdserver: permission is not granted to the role")]
    PermissionNotGranted,
    /// Nobody can log in where nobody is asked.
    #[error("etcdserver: authentication is not enabled")]
    NotEnabled,
    /// The token is not ours, has expired, or stands for what no longer is.
    #[error("etcdserver: invalid auth token")]
    InvalidToken,
    /// It would leave nobody in charge, or is a permission for no key.
    #[error("etcdserver: invalid auth management")]
    InvalidManagement,
    /// The token is older than what it stands for: log in again.
    #[error("etcdserver: revision of auth store is old")]
    OldRevision,
    /// Tokens are only verified here; whoever has the private key issues them.
    #[error("auth: token signing attempted with verify-only key")]
    VerifyOnly,
    /// A part of the request is longer than allowed.
    #[error("etcdserver: {what} is too long, at most {limit_bytes} bytes are allowed")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// What is allowed, see [`limits`](crate::limits).
        limit_bytes: usize,
    },
    /// More of something than allowed.
    #[error("etcdserver: too many {what}, at most {limit} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// What is allowed, see [`limits`](crate::limits).
        limit: usize,
    },
    /// A library could not hash or sign with keys and costs that were checked before.
    #[error("etcdserver: {0} failed")]
    Internal(&'static str),
}

impl AuthError {
    /// The code that etcd gives it.
    pub fn code(&self) -> Code {
        match self {
            Self::RootUserMissing
            | Self::RootRoleMissing
            | Self::UserExists
            | Self::UserNotFound
            | Self::RoleExists
            | Self::RoleNotFound
            | Self::RoleNotGranted
            | Self::PermissionNotGranted
            | Self::NotEnabled => Code::FailedPrecondition,
            Self::UserEmpty
            | Self::RoleEmpty
            | Self::AuthenticationFailed
            | Self::PermissionNotGiven
            | Self::InvalidManagement
            | Self::OldRevision
            | Self::TooLong { .. } => Code::InvalidArgument,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::InvalidToken => Code::Unauthenticated,
            Self::TooMany { .. } => Code::ResourceExhausted,
            // Not in etcd's table of codes, so it sends what gRPC sends for an error that it doesn't know.
            Self::NoPasswordUser | Self::VerifyOnly => Code::Unknown,
            Self::Internal(_) => Code::Internal,
        }
    }

    /// What is sent to the client.
    pub fn status(&self) -> Status {
        Status::new(self.code(), self.to_string())
    }
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        error.status()
    }
}

/// Why stored records are not a state. Nothing may be served from such records: what they allowed is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The key is none of a user, of a role, or of the settings.
    #[error("record {key:?} is not one of authorisation; a newer version may have written it")]
    UnknownRecord {
        /// The key, escaped.
        key: String,
    },
    /// The format is a later one.
    #[error("record {key:?} has format {format}, this version reads up to {known}; run the version that wrote it")]
    UnknownFormat {
        /// The key, escaped.
        key: String,
        /// The record's format.
        format: u8,
        /// The last format known here.
        known: u8,
    },
    /// The bytes are not what any version writes.
    #[error("record {key:?} is damaged: {why}; restore it from a backup")]
    Damaged {
        /// The key, escaped.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
}
