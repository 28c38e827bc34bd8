//! Passwords and their hashes.
//!
//! Must hold: neither a password nor a hash is ever in a `Debug` output or an error.
//!
//! Argon2id, since it costs an attacker memory as well as time. Hashing takes tens of milliseconds and blocks: callers
//! keep it off the threads that serve others.

use std::fmt;

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::{PasswordHash as Phc, SaltString},
};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};

use crate::{AuthError, limits};

/// Bytes of salt: what RFC 9106 recommends.
const SALT_BYTES: usize = 16;

/// A password as it was typed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Any text, the empty one too, as in etcd.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// What hashing a new password costs. A stored hash carries its own costs, so changing them keeps old passwords valid.
#[derive(Clone, Debug)]
pub struct Hashing {
    params: Params,
}

impl Default for Hashing {
    /// 19 MiB of memory, two passes, one lane.
    ///
    /// The least that OWASP recommends for Argon2id: some 20 ms of one core. More would let few logins at once fill the
    /// memory of a small server; less would be cheap to guess on graphics cards.
    fn default() -> Self {
        Self { params: Params::default() }
    }
}

impl Hashing {
    /// Other costs; `None` if the algorithm can't do with these. At least 8 KiB and one pass.
    pub fn new(memory_kib: u32, passes: u32) -> Option<Self> {
        if memory_kib > limits::HASH_MEMORY_KIB || passes > limits::HASH_PASSES {
            return None;
        }
        Params::new(memory_kib, passes, 1, None).ok().map(|params| Self { params })
    }
}

/// What is kept of a password: the hash in PHC string format, with its salt and costs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PasswordHash(String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

impl PasswordHash {
    /// Hashes. Blocks for as long as `hashing` makes it.
    pub(crate) fn create(
        password: &Password,
        hashing: &Hashing,
        entropy: &mut dyn CryptoRng,
    ) -> Result<Self, AuthError> {
        if password.bytes().len() > limits::PASSWORD_BYTES {
            return Err(AuthError::TooLong { what: "password", limit_bytes: limits::PASSWORD_BYTES });
        }
        let mut salt = [0; SALT_BYTES];
        entropy.fill_bytes(&mut salt);
        let salt = SaltString::encode_b64(&salt).map_err(|_| AuthError::Internal("hashing the password"))?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, hashing.params.clone());
        let hash =
            argon.hash_password(password.bytes(), &salt).map_err(|_| AuthError::Internal("hashing the password"))?;
        Ok(Self(hash.to_string()))
    }

    /// Whether this is the password; compared in constant time. Blocks like hashing.
    pub(crate) fn verifies(&self, password: &Password) -> bool {
        // Nobody has such a long one, see `create`, so nothing is told by answering at once.
        password.bytes().len() <= limits::PASSWORD_BYTES
            && Phc::new(&self.0).is_ok_and(|hash| Argon2::default().verify_password(password.bytes(), &hash).is_ok())
    }

    /// Whether it is one of those made here, with costs that don't bring the server down.
    pub(crate) fn is_sound(&self) -> bool {
        let Ok(hash) = Phc::new(&self.0) else { return false };
        let Ok(params) = Params::try_from(&hash) else { return false };
        hash.algorithm == argon2::ARGON2ID_IDENT
            && hash.hash.is_some()
            && hash.salt.is_some()
            && params.m_cost() <= limits::HASH_MEMORY_KIB
            && params.t_cost() <= limits::HASH_PASSES
    }
}
