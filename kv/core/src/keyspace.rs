//! Names of keyspaces.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{GroupId, limits};

/// The name of a keyspace: slash-separated, lower-case letters, digits, `-`, `_` and `.`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Keyspace(Arc<str>);

/// Keyspaces of the cluster itself.
const STAY: [&str; 2] = ["kv/placement", "kv/moves"];

/// Why a text is no keyspace name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyspaceError {
    /// Nothing, or more than the limit.
    #[error("a keyspace name has 1 to {limit} bytes; this one has {len}", limit = limits::KEYSPACE_NAME_BYTES)]
    Length {
        /// Its length.
        len: usize,
    },
    /// A character that names don't have.
    #[error("a keyspace name has a-z, 0-9, '-', '_', '.' and '/'; this one has {found:?}")]
    Character {
        /// The first such character.
        found: char,
    },
}

impl Keyspace {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, KeyspaceError> {
        if name.is_empty() || name.len() > limits::KEYSPACE_NAME_BYTES {
            return Err(KeyspaceError::Length { len: name.len() });
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_./".contains(c);
        match name.chars().find(|&c| !allowed(c)) {
            Some(found) => Err(KeyspaceError::Character { found }),
            None => Ok(Keyspace(name.into())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this keyspace stays in the first group: who carries something out for the cluster leads that group, and
    /// keeps what it has to do there.
    pub fn stays(&self) -> bool {
        STAY.contains(&self.as_str())
    }

    /// The group that holds this keyspace unless it has moved, of a cluster founded with `groups` groups: crc32 of the
    /// name.
    pub fn group(&self, groups: u16) -> GroupId {
        if self.stays() {
            return GroupId::new(0);
        }
        let hash = crc32(self.0.as_bytes());
        GroupId::new(u16::try_from(hash % u32::from(groups.max(1))).expect("below a u16"))
    }
}

/// IEEE 802.3 CRC-32, bit by bit: names are short, and this crate then needs no other.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

impl fmt::Display for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl TryFrom<String> for Keyspace {
    type Error = KeyspaceError;

    fn try_from(name: String) -> Result<Self, KeyspaceError> {
        Keyspace::new(&name)
    }
}

impl From<Keyspace> for String {
    fn from(keyspace: Keyspace) -> String {
        keyspace.0.as_ref().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_follow_the_standard_crc32() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn names_are_checked() {
        assert!(Keyspace::new("netstate/net/7").is_ok());
        assert_eq!(Keyspace::new(""), Err(KeyspaceError::Length { len: 0 }));
        assert_eq!(Keyspace::new("a\0"), Err(KeyspaceError::Character { found: '\0' }));
        assert_eq!(Keyspace::new(&"x".repeat(1 << 20)), Err(KeyspaceError::Length { len: 1 << 20 }));
    }
}
