//! What reads ask for and return.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{ChainRecord, Change, Revision};

/// A set of keys that lie beside each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRange {
    /// Every key.
    All,
    /// One key.
    Key(Bytes),
    /// The keys that start so.
    Prefix(Bytes),
    /// From the first (inclusive) to the second (exclusive).
    Span(Bytes, Bytes),
}

/// A key's latest or earlier state, without the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyState {
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision that wrote it last.
    pub mod_revision: Revision,
    /// Writes since it was created.
    pub version: u64,
}

/// A key and its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its state.
    pub state: KeyState,
}

/// What a range read found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeResult {
    /// In key order.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut it short.
    pub more: bool,
    /// The revision that it is true of.
    pub revision: Revision,
}

/// One revision as a watch or an audit sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionChanges {
    /// Its record.
    pub record: ChainRecord,
    /// What it wrote; `None` where the values have been compacted.
    pub changes: Option<Vec<Change>>,
}

impl KeyRange {
    /// Whether a key lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::All => true,
            KeyRange::Key(only) => key == only,
            KeyRange::Prefix(prefix) => key.starts_with(prefix),
            KeyRange::Span(start, end) => key >= start.as_ref() && key < end.as_ref(),
        }
    }

    /// The first key that could lie in the range.
    pub fn start(&self) -> &[u8] {
        match self {
            KeyRange::All => &[],
            KeyRange::Key(key) | KeyRange::Prefix(key) | KeyRange::Span(key, _) => key,
        }
    }

    /// Bytes of the range's bounds.
    pub fn size(&self) -> usize {
        match self {
            KeyRange::All => 0,
            KeyRange::Key(key) | KeyRange::Prefix(key) => key.len(),
            KeyRange::Span(start, end) => start.len() + end.len(),
        }
    }
}
