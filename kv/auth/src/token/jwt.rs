//! JSON web tokens with etcd's claims: `username`, `revision` and `exp`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::{Claim, Subject, expiry, unix_seconds};
use crate::{AuthError, AuthRevision};

/// Web tokens of one algorithm.
#[derive(Clone)]
pub(super) struct WebTokens(Arc<Keys>);

struct Keys {
    algorithm: Algorithm,
    ttl: Duration,
    /// `None`: tokens are issued elsewhere.
    signing: Option<EncodingKey>,
    verifying: DecodingKey,
}

/// What a token says. The numbers are read as JSON has them: others than we issue tokens too.
#[derive(Serialize, Deserialize)]
struct Claims<Number> {
    username: String,
    revision: Number,
    /// Seconds since 1970. etcd takes tokens without it and keeps them for ever; here it has to be there.
    exp: Number,
    /// The first second in which it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<Number>,
}

impl WebTokens {
    pub(super) fn new(
        algorithm: Algorithm,
        ttl: Duration,
        signing: Option<EncodingKey>,
        verifying: DecodingKey,
    ) -> Self {
        Self(Arc::new(Keys { algorithm, ttl, signing, verifying }))
    }

    /// Whether the keys are of one pair and fit the algorithm; always if tokens are issued elsewhere.
    pub(super) fn is_consistent(&self) -> bool {
        let probe = Subject { name: "", user_since: AuthRevision::FIRST, revision: AuthRevision::FIRST };
        match self.issue(&probe, SystemTime::UNIX_EPOCH) {
            Ok(token) => self.claims(&token).is_some(),
            Err(error) => error == AuthError::VerifyOnly,
        }
    }

    pub(super) fn issue(&self, subject: &Subject<'_>, now: SystemTime) -> Result<String, AuthError> {
        let signing = self.0.signing.as_ref().ok_or(AuthError::VerifyOnly)?;
        let claims = Claims {
            username: subject.name.to_owned(),
            revision: subject.revision.get(),
            exp: expiry(now, self.0.ttl),
            nbf: None,
        };
        jsonwebtoken::encode(&Header::new(self.0.algorithm), &claims, signing)
            .map_err(|_| AuthError::Internal("signing the token"))
    }

    pub(super) fn read(&self, token: &str, now: SystemTime) -> Option<(String, Claim)> {
        let claims = self.claims(token)?;
        let now = unix_seconds(now) as f64;
        if now >= claims.exp || claims.nbf.is_some_and(|from| now < from) {
            return None;
        }
        // A cast stops at the type's bounds, so a negative revision is 0, older than any.
        Some((claims.username, Claim::Revision(AuthRevision::new(claims.revision as u64))))
    }

    /// The claims of a token with the right signature. Times are left to the caller: the library would read the clock.
    fn claims(&self, token: &str) -> Option<Claims<f64>> {
        let mut validation = Validation::new(self.0.algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        // As in etcd, the keys alone say whom a token is meant for.
        validation.validate_aud = false;
        jsonwebtoken::decode::<Claims<f64>>(token, &self.0.verifying, &validation).ok().map(|token| token.claims)
    }
}
