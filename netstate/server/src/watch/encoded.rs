//! Parts of frames, encoded once for all streams at the same cursor.

use std::collections::HashMap;

use bytes::Bytes;
use kv_core::Revision;
use netstate_model::{ConnectionId, NetworkId};
use parking_lot::Mutex;

/// Parts remembered. They are small, and streams that wake together ask within moments.
const PARTS: usize = 256;

/// Bytes of one part beyond which it is not remembered.
const PART_BYTES: usize = 256 * 1024;

/// What a part is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    Network(NetworkId),
    Members { connection: ConnectionId, to_side: bool },
}

/// A part: its topic, where it starts (`None`: whole) and where it ends.
pub(super) type Key = (Topic, Option<Revision>, Revision);

/// The parts encoded lately.
#[derive(Default)]
pub(crate) struct Encoded(Mutex<HashMap<Key, Option<Bytes>>>);

impl Encoded {
    /// The part, encoded now or before. `None`: there is nothing to send.
    pub(super) fn get(&self, key: Key, encode: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        if let Some(known) = self.0.lock().get(&key) {
            return known.clone();
        }
        let part = encode();
        if part.as_ref().is_none_or(|bytes| bytes.len() <= PART_BYTES) {
            let mut parts = self.0.lock();
            if parts.len() >= PARTS {
                parts.clear();
            }
            parts.insert(key, part.clone());
        }
        part
    }

    /// Forgets everything: what parts were made of has changed.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }
}
