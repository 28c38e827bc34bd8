//! The key that simple tokens are signed with.

use std::fmt;

use hmac::{Hmac, Mac as _};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Bytes of the key: those of the hash, more adds nothing.
const SECRET_BYTES: usize = 32;

/// A key that every node of a keyspace has and nobody else. Never in a `Debug` output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secret([u8; SECRET_BYTES]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    pub(crate) fn generate(entropy: &mut dyn CryptoRng) -> Self {
        let mut bytes = [0; SECRET_BYTES];
        entropy.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The signature of a message. `purpose` keeps what is signed for one use from being taken for another.
    pub(crate) fn sign(&self, purpose: &[u8], message: &[u8]) -> Vec<u8> {
        self.mac(purpose, message).finalize().into_bytes().to_vec()
    }

    /// Whether it is the signature; compared in constant time.
    pub(crate) fn verifies(&self, purpose: &[u8], message: &[u8], signature: &[u8]) -> bool {
        self.mac(purpose, message).verify_slice(signature).is_ok()
    }

    fn mac(&self, purpose: &[u8], message: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("keys of any length are allowed");
        mac.update(purpose);
        mac.update(message);
        mac
    }
}
