//! Tokens: what a password is exchanged for, and what a request shows instead of one.
//!
//! Both kinds say all that is needed to verify them, so every node takes the tokens of every other and none keeps a
//! list. A simple token is signed with the keyspace's own secret; a web token with keys from the configuration, so that
//! others can issue and read it.

mod duration;
mod jwt;
mod option;
mod sec1;
mod simple;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use option::TokenOptionError;

use crate::{AuthError, AuthRevision, limits, secret::Secret};
use jwt::WebTokens;

/// How tokens are issued and verified.
#[derive(Clone)]
pub struct Tokens(Kind);

#[derive(Clone)]
enum Kind {
    Simple { ttl: Duration },
    Web(WebTokens),
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Kind::Simple { ttl } => write!(f, "Tokens::simple({ttl:?})"),
            Kind::Web(_) => f.write_str("Tokens::jwt(..)"),
        }
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self::simple(limits::SIMPLE_TOKEN_TTL)
    }
}

/// Whom a token is issued for.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    /// When this user was added or got this password.
    pub(crate) user_since: AuthRevision,
    /// The revision of everything.
    pub(crate) revision: AuthRevision,
}

/// What a token, found to be genuine and not expired, says of its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The user's own revision.
    UserSince(AuthRevision),
    /// The revision of everything when it was issued.
    Revision(AuthRevision),
}

impl Tokens {
    /// Tokens signed with the keyspace's secret, each living this long.
    pub fn simple(ttl: Duration) -> Self {
        Self(Kind::Simple { ttl })
    }

    pub(crate) fn issue(&self, subject: &Subject<'_>, secret: &Secret, now: SystemTime) -> Result<String, AuthError> {
        match &self.0 {
            Kind::Simple { ttl } => Ok(simple::issue(subject, secret, expiry(now, *ttl))),
            Kind::Web(web) => web.issue(subject, now),
        }
    }

    /// The user's name and what vouches for it; `None` if the token isn't genuine or has expired.
    pub(crate) fn read(&self, token: &str, secret: &Secret, now: SystemTime) -> Option<(String, Claim)> {
        if token.len() > limits::TOKEN_BYTES {
            return None;
        }
        match &self.0 {
            Kind::Simple { .. } => simple::read(token, secret, now),
            Kind::Web(web) => web.read(token, now),
        }
    }
}

/// Seconds since 1970; 0 before that, when every token is yet to be issued.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn expiry(now: SystemTime, ttl: Duration) -> u64 {
    unix_seconds(now).saturating_add(ttl.as_secs())
}
