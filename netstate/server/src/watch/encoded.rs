//! Parts of frames, encoded once for all streams at the same cursor.

use std::collections::HashMap;

use bytes::Bytes;
use kv_core::Revision;
use netstate_model::{ConnectionId, NetworkId};
use parking_lot::Mutex;

/// Bytes of parts remembered: all networks whole, even if there are ten thousand, since all of them are asked for when all
/// hosts come at once.
const BYTES: usize = 64 * 1024 * 1024;

/// Bytes of one part beyond which it is not remembered: it would be in the way of too many others.
const LARGEST: usize = BYTES / 8;

/// What remembering a part takes beside its bytes, about.
const PART_BYTES: usize = 128;

/// What a part is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    Network(NetworkId),
    Members { connection: ConnectionId, to_side: bool },
}

/// A part: its topic, when a host moved last, where it starts (`None`: whole) and where it ends.
pub(super) type Key = (Topic, Revision, Option<Revision>, Revision);

/// The parts encoded lately.
#[derive(Default)]
pub(crate) struct Encoded(Mutex<Parts>);

/// Two generations: once the young one has its half of the bytes it becomes the old one, and what was old and not asked for
/// is forgotten.
#[derive(Default)]
struct Parts {
    young: HashMap<Key, Option<Bytes>>,
    young_bytes: usize,
    old: HashMap<Key, Option<Bytes>>,
}

impl Parts {
    fn get(&mut self, key: &Key) -> Option<Option<Bytes>> {
        if let Some(known) = self.young.get(key) {
            return Some(known.clone());
        }
        let part = self.old.remove(key)?;
        self.put(*key, part.clone());
        Some(part)
    }

    fn put(&mut self, key: Key, part: Option<Bytes>) {
        let bytes = PART_BYTES + part.as_ref().map_or(0, Bytes::len);
        if self.young_bytes + bytes > BYTES / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(key, part);
    }
}

impl Encoded {
    /// The part, encoded now or before. `None`: there is nothing to send.
    pub(super) fn get(&self, key: Key, encode: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        if let Some(known) = self.0.lock().get(&key) {
            return known;
        }
        let part = encode();
        if part.as_ref().is_none_or(|bytes| bytes.len() <= LARGEST) {
            self.0.lock().put(key, part.clone());
        }
        part
    }

    /// Forgets everything: what parts were made of has changed.
    pub(super) fn forget(&self) {
        *self.0.lock() = Parts::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let encoded = Encoded::default();
        let part = Some(Bytes::from(vec![0; BYTES / 8]));
        let key = |number| (Topic::Network(NetworkId::new(number)), Revision::ZERO, None, Revision::new(1));
        for number in 0..100 {
            encoded.get(key(number), || part.clone());
            // Asked for again and again, it is encoded once.
            encoded.get(key(0), || unreachable!("it was remembered"));
        }
        let parts = encoded.0.lock();
        let bytes = parts.young.values().chain(parts.old.values()).flatten().map(Bytes::len).sum::<usize>();
        assert!((BYTES / 4..=BYTES).contains(&bytes), "{bytes}");
        assert!(!parts.young.contains_key(&key(50)) && !parts.old.contains_key(&key(50)));
    }
}
