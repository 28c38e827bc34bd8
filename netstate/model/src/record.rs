//! How changes are kept: each is one key with its value, or one key removed.
//!
//! Must hold: a key's first byte says what it is of, and keys order so that what others rest on comes first; a value
//! begins with the version of its format; whatever the bytes, reading them yields a change or a [`RecordError`].
//!
//! Left to others: checksums, history, and the keyspaces' names (`kv`).

use serde::{Serialize, de::DeserializeOwned};

use crate::Refusal;

/// The format of values that are written. Values of other versions are refused by name.
const VERSION: u8 = 1;

/// A record that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A key of no known kind or form.
    #[error("no record has the key {key}; it was written by a newer release, or by something else")]
    Key {
        /// The key's first bytes, in hexadecimal.
        key: String,
    },
    /// A value of an unknown format.
    #[error("the record of {what} has format {found}, this release reads {VERSION}; use the release that wrote it")]
    Version {
        /// What it is of.
        what: &'static str,
        /// The version found.
        found: u8,
    },
    /// A value that does not read as what its key says.
    #[error("the record of {what} is damaged; restore it from another replica")]
    Value {
        /// What it is of.
        what: &'static str,
        /// Where reading it failed.
        #[source]
        source: Option<postcard::Error>,
    },
    /// A value that reads well and can't be true.
    #[error("the record of {what} contradicts itself; restore it from another replica")]
    Contradiction {
        /// What it is of.
        what: &'static str,
        /// Against which rule.
        #[source]
        source: Option<Box<Refusal>>,
    },
    /// The removal of a record that always is.
    #[error("the record of {what} is never removed; restore it from another replica")]
    NeverRemoved {
        /// What it is of.
        what: &'static str,
    },
}

impl RecordError {
    pub(crate) fn key(key: &[u8]) -> Self {
        let shown: String = key.iter().take(24).map(|byte| format!("{byte:02x}")).collect();
        let more = if key.len() > 24 { "…" } else { "" };
        RecordError::Key { key: format!("{shown}{more}") }
    }
}

/// A value's bytes.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let bytes = vec![VERSION];
    postcard::to_extend(value, bytes).expect("all recorded types can be written to memory")
}

/// What a value's bytes mean.
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, RecordError> {
    let (&version, rest) = bytes.split_first().ok_or(RecordError::Value { what, source: None })?;
    if version != VERSION {
        return Err(RecordError::Version { what, found: version });
    }
    let read = postcard::take_from_bytes(rest).map_err(|source| RecordError::Value { what, source: Some(source) })?;
    match read {
        (value, []) => Ok(value),
        _ => Err(RecordError::Value { what, source: None }),
    }
}

/// A key of one byte and a number, so that keys order as the numbers do.
pub(crate) fn numbered(kind: u8, number: u32) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend(number.to_be_bytes());
    key
}

/// The number in such a key.
pub(crate) fn number(key: &[u8]) -> Result<u32, RecordError> {
    match key {
        [_, digits @ ..] => digits.try_into().map(u32::from_be_bytes).map_err(|_| RecordError::key(key)),
        [] => Err(RecordError::key(key)),
    }
}
