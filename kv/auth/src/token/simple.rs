//! Simple tokens: `PAYLOAD.SIGNATURE`, both in base64url, signed with the keyspace's secret.

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{Claim, Subject, unix_seconds};
use crate::{AuthRevision, secret::Secret};

/// What the secret signs here. A payload of another form needs another purpose.
const PURPOSE: &[u8] = b"kv-auth simple token 1\0";

#[derive(Serialize, Deserialize)]
struct Payload {
    user: String,
    user_since: AuthRevision,
    /// Seconds since 1970; the first one in which the token is void.
    expires: u64,
}

pub(super) fn issue(subject: &Subject<'_>, secret: &Secret, expires: u64) -> String {
    let payload = Payload { user: subject.name.to_owned(), user_since: subject.user_since, expires };
    let payload = postcard::to_stdvec(&payload).expect("text and numbers always encode");
    let signature = secret.sign(PURPOSE, &payload);
    format!("{}.{}", URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(signature))
}

pub(super) fn read(token: &str, secret: &Secret, now: SystemTime) -> Option<(String, Claim)> {
    let (payload, signature) = token.split_once('.')?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    if !secret.verifies(PURPOSE, &payload, &signature) {
        return None;
    }
    let payload: Payload = postcard::from_bytes(&payload).ok()?;
    (unix_seconds(now) < payload.expires).then_some((payload.user, Claim::UserSince(payload.user_since)))
}
