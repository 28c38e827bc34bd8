//! Keys of the state database.
//!
//! ```text
//! group u16 | 0                                     the group: what is applied, the fold, the clock
//! group u16 | 1 | name                              a keyspace: its number and head
//! group u16 | 2 | keyspace u32 | key                a key's latest version
//! group u16 | 3 | keyspace u32 | escaped | !rev u64 an earlier version, or a removal; the latest of a key comes first
//! group u16 | 4 | keyspace u32 | rev u64            a chain record and the keys that its revision changed
//! group u16 | 5 | keyspace u32 | request id         the outcome remembered for a request id
//! group u16 | 6 | time i64 | keyspace u32 | request id   when that may go
//! group u16 | 7 | keyspace u32 | lease i64          a lease
//! group u16 | 8 | keyspace u32 | lease i64 | key    a key attached to it
//! group u16 | 9 | keyspace u32 | key                a record beside the keys
//! ```
//!
//! Numbers are big endian, so that keys sort as what they stand for. A key of an earlier version is escaped (a zero byte
//! as 00 ff, its end as 00 00), so that it sorts as the key itself does although something comes after it.
//!
//! Latest versions lie apart from earlier ones. A read of the latest state, and the look at the previous version that
//! every write takes, is then a point read that a filter answers when there is no such key, and a range read passes over
//! nothing that has gone, however often its keys have been overwritten.

use kv_core::{GroupId, Keyspace, LeaseId, RequestId, Revision, Timestamp};

use crate::database::group_of;

/// A keyspace's number within its group: a short form of its name.
pub(super) type Number = u32;

pub(super) const GROUP: u8 = 0;
pub(super) const KEYSPACE: u8 = 1;
pub(super) const LATEST: u8 = 2;
pub(super) const EARLIER: u8 = 3;
pub(super) const CHAIN: u8 = 4;
pub(super) const REQUEST: u8 = 5;
pub(super) const EXPIRY: u8 = 6;
pub(super) const LEASE: u8 = 7;
pub(super) const ATTACHED: u8 = 8;
pub(super) const BESIDE: u8 = 9;

/// Bytes before the part of a key that its kind decides.
pub(super) const HEAD_BYTES: usize = 3;

/// Bytes of group, kind and keyspace.
pub(super) const NUMBERED_BYTES: usize = HEAD_BYTES + 4;

fn head(group: GroupId, kind: u8, room: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(HEAD_BYTES + room);
    key.extend(group.get().to_be_bytes());
    key.push(kind);
    key
}

fn numbered(group: GroupId, kind: u8, number: Number, room: usize) -> Vec<u8> {
    let mut key = head(group, kind, 4 + room);
    key.extend(number.to_be_bytes());
    key
}

/// Before all keys of a group; of the next group number: behind them.
pub(super) fn group_start(group: u16) -> Vec<u8> {
    group.to_be_bytes().to_vec()
}

/// Before all keys of a kind; of the next kind: behind them.
pub(super) fn kind_start(group: GroupId, kind: u8) -> Vec<u8> {
    head(group, kind, 0)
}

/// Before all keys of a kind and keyspace.
pub(super) fn kind_of(group: GroupId, kind: u8, number: Number) -> Vec<u8> {
    numbered(group, kind, number, 0)
}

pub(super) fn group(group: GroupId) -> Vec<u8> {
    head(group, GROUP, 0)
}

pub(super) fn keyspace(group: GroupId, keyspace: &Keyspace) -> Vec<u8> {
    let mut key = head(group, KEYSPACE, keyspace.as_str().len());
    key.extend(keyspace.as_str().as_bytes());
    key
}

pub(super) fn latest(group: GroupId, number: Number, key: &[u8]) -> Vec<u8> {
    let mut latest = numbered(group, LATEST, number, key.len());
    latest.extend_from_slice(key);
    latest
}

/// Before all versions of a key, and of all keys that start with it or come behind it.
pub(super) fn earlier_start(group: GroupId, number: Number, key: &[u8]) -> Vec<u8> {
    let mut earlier = numbered(group, EARLIER, number, key.len() + 16);
    escape(key, &mut earlier);
    earlier
}

/// A version; a seek to it finds the latest version at or before the revision.
pub(super) fn earlier(group: GroupId, number: Number, key: &[u8], revision: Revision) -> Vec<u8> {
    let mut earlier = earlier_start(group, number, key);
    earlier.extend([0, 0]);
    earlier.extend((!revision.get()).to_be_bytes());
    earlier
}

/// Behind all versions of a key, before those of the next.
pub(super) fn earlier_end(group: GroupId, number: Number, key: &[u8]) -> Vec<u8> {
    let mut end = earlier_start(group, number, key);
    end.extend([0, 1]);
    end
}

/// The key and the revision of an earlier version.
pub(super) fn split_earlier(earlier: &[u8]) -> Option<(Vec<u8>, Revision)> {
    let (escaped, revision) = earlier.get(NUMBERED_BYTES..)?.split_last_chunk::<8>()?;
    let revision = Revision::new(!u64::from_be_bytes(*revision));
    Some((unescape(escaped)?, revision))
}

pub(super) fn chain(group: GroupId, number: Number, revision: Revision) -> Vec<u8> {
    let mut key = numbered(group, CHAIN, number, 8);
    key.extend(revision.get().to_be_bytes());
    key
}

pub(super) fn request(group: GroupId, number: Number, request: &RequestId) -> Vec<u8> {
    let mut key = numbered(group, REQUEST, number, 16);
    key.extend(request.get());
    key
}

pub(super) fn expiry(group: GroupId, at: Timestamp, number: Number, request: &RequestId) -> Vec<u8> {
    let mut key = expiry_start(group, at);
    key.extend(number.to_be_bytes());
    key.extend(request.get());
    key
}

/// Before everything that was remembered at a time or later.
pub(super) fn expiry_start(group: GroupId, at: Timestamp) -> Vec<u8> {
    let mut key = head(group, EXPIRY, 28);
    // With the sign turned, the bytes sort as the number does.
    key.extend((at.micros() ^ i64::MIN).to_be_bytes());
    key
}

/// Time, keyspace and request id of an expiry.
pub(super) fn split_expiry(key: &[u8]) -> Option<(Timestamp, Number, RequestId)> {
    let (at, rest) = key.get(HEAD_BYTES..)?.split_first_chunk::<8>()?;
    let (number, id) = rest.split_first_chunk::<4>()?;
    let at = Timestamp::from_micros(i64::from_be_bytes(*at) ^ i64::MIN);
    Some((at, Number::from_be_bytes(*number), RequestId::new(id.try_into().ok()?)))
}

pub(super) fn lease(group: GroupId, number: Number, lease: LeaseId) -> Vec<u8> {
    let mut key = numbered(group, LEASE, number, 8);
    key.extend(lease.get().to_be_bytes());
    key
}

/// The keyspace and the lease of a lease's key.
pub(super) fn split_lease(key: &[u8]) -> Option<(Number, LeaseId)> {
    let (number, lease) = key.get(HEAD_BYTES..)?.split_first_chunk::<4>()?;
    let lease = LeaseId::new(i64::from_be_bytes(lease.try_into().ok()?))?;
    Some((Number::from_be_bytes(*number), lease))
}

/// A key attached to a lease; of the empty key: before all of them.
pub(super) fn attached(group: GroupId, number: Number, lease: LeaseId, key: &[u8]) -> Vec<u8> {
    let mut attached = numbered(group, ATTACHED, number, 8 + key.len());
    attached.extend(lease.get().to_be_bytes());
    attached.extend_from_slice(key);
    attached
}

/// Bytes before the key in that of an attached one.
pub(super) const ATTACHED_BYTES: usize = NUMBERED_BYTES + 8;

pub(super) fn beside(group: GroupId, number: Number, key: &[u8]) -> Vec<u8> {
    let mut beside = numbered(group, BESIDE, number, key.len());
    beside.extend_from_slice(key);
    beside
}

fn escape(key: &[u8], into: &mut Vec<u8>) {
    for &byte in key {
        into.push(byte);
        if byte == 0 {
            into.push(0xff);
        }
    }
}

/// The key of an escaped one with its end.
fn unescape(escaped: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.strip_suffix(&[0, 0])?.iter();
    while let Some(&byte) = bytes.next() {
        if byte == 0 && bytes.next() != Some(&0xff) {
            return None;
        }
        key.push(byte);
    }
    Some(key)
}

/// The first key behind all that start with this prefix, which holds a byte below 0xff.
pub(super) fn behind(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            break;
        }
    }
    prefix
}

/// The first key behind all of a kind and keyspace.
pub(super) fn behind_number(mut kind_of: Vec<u8>) -> Vec<u8> {
    kind_of.truncate(NUMBERED_BYTES);
    behind(kind_of)
}

/// A key, for people.
pub(super) fn render(key: &[u8]) -> String {
    let group = group_of(key);
    let text = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes));
    let number = |rest: &[u8]| rest.first_chunk::<4>().map_or(0, |number| Number::from_be_bytes(*number));
    let rest = key.get(HEAD_BYTES..).unwrap_or_default();
    let tail = rest.get(4..).unwrap_or_default();
    match key.get(2) {
        Some(&GROUP) => format!("the applied position of {group}"),
        Some(&KEYSPACE) => format!("the head of keyspace {} in {group}", text(rest)),
        Some(&LATEST) => format!("key {} of keyspace number {} in {group}", text(tail), number(rest)),
        Some(&EARLIER) => match split_earlier(key) {
            Some((key, revision)) => {
                format!("key {} at {revision} of keyspace number {} in {group}", text(&key), number(rest))
            }
            None => format!("a malformed key {key:02x?}"),
        },
        Some(&CHAIN) => {
            let revision = tail.first_chunk::<8>().map_or(0, |revision| u64::from_be_bytes(*revision));
            format!("the record of r{revision} of keyspace number {} in {group}", number(rest))
        }
        Some(&REQUEST | &EXPIRY) => format!("a remembered request id in {group} ({rest:02x?})"),
        Some(&LEASE) => format!("lease {tail:02x?} of keyspace number {} in {group}", number(rest)),
        Some(&ATTACHED) => format!("a key attached to a lease of keyspace number {} in {group}", number(rest)),
        Some(&BESIDE) => {
            format!("the record {} beside the keys of keyspace number {} in {group}", text(tail), number(rest))
        }
        _ => format!("an unknown key {key:02x?}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUP: GroupId = GroupId::new(3);

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0u8, 1, 7, 0xfe, 0xff]), 0..6)
    }

    proptest! {
        #[test]
        fn earlier_versions_sort_by_key_and_latest_first(a in key(), b in key(), x in 0u64..9, y in 0u64..9) {
            let (x, y) = (Revision::new(x), Revision::new(y));
            let (one, two) = (earlier(GROUP, 5, &a, x), earlier(GROUP, 5, &b, y));
            prop_assert_eq!(one.cmp(&two), a.cmp(&b).then(y.cmp(&x)));
            prop_assert_eq!(split_earlier(&one), Some((a.clone(), x)));
            prop_assert!(earlier_start(GROUP, 5, &a) < one && one < earlier_end(GROUP, 5, &a));
            if a < b {
                prop_assert!(earlier_end(GROUP, 5, &a) < two);
            }
        }

        #[test]
        fn behind_a_prefix_is_behind_all_that_start_so(prefix in key(), tail in key()) {
            let prefix = latest(GROUP, u32::MAX, &prefix);
            let inside = [prefix.clone(), tail].concat();
            let end = behind(prefix.clone());
            prop_assert!(inside < end && !end.starts_with(&prefix));
        }

        #[test]
        fn expiries_sort_by_time(a in any::<i64>(), b in any::<i64>()) {
            let (a, b) = (Timestamp::from_micros(a), Timestamp::from_micros(b));
            let id = RequestId::new([9; 16]);
            prop_assert_eq!(expiry_start(GROUP, a).cmp(&expiry_start(GROUP, b)), a.cmp(&b));
            prop_assert_eq!(split_expiry(&expiry(GROUP, a, 7, &id)), Some((a, 7, id)));
        }
    }
}
