//! Keys and records of the log database.
//!
//! ```text
//! group u16 | 0 | 'v'        the vote
//! group u16 | 0 | 'c'        how far the log was known to be committed
//! group u16 | 0 | 'p'        index (u64) and log id up to which entries were purged
//! group u16 | 1 | index u64  an entry
//! ```
//!
//! Numbers are big endian, so that keys sort as what they stand for.

use bytes::Bytes;
use kv_core::GroupId;

use crate::{
    StoreError,
    database::{Cursor, Database, group_of},
};

const SINGLE: u8 = 0;
const ENTRY: u8 = 1;

/// One of a group's single records.
#[derive(Clone, Copy)]
pub(super) enum Single {
    Vote = b'v' as isize,
    Committed = b'c' as isize,
    Purged = b'p' as isize,
}

pub(super) fn single_key(group: GroupId, which: Single) -> Vec<u8> {
    let [high, low] = group.get().to_be_bytes();
    vec![high, low, SINGLE, which as u8]
}

pub(super) fn entry_key(group: GroupId, index: u64) -> Vec<u8> {
    let [high, low] = group.get().to_be_bytes();
    let mut key = vec![high, low, ENTRY];
    key.extend(index.to_be_bytes());
    key
}

/// Behind a group's last entry.
pub(super) fn entries_end(group: GroupId) -> Vec<u8> {
    let [high, low] = group.get().to_be_bytes();
    vec![high, low, ENTRY + 1]
}

/// A key, for people.
pub(crate) fn render(key: &[u8]) -> String {
    let group = group_of(key);
    match key.get(2..) {
        Some([SINGLE, b'v']) => format!("the vote of {group}"),
        Some([SINGLE, b'c']) => format!("the committed position of {group}"),
        Some([SINGLE, b'p']) => format!("the purged position of {group}"),
        Some([ENTRY, index @ ..]) => match <[u8; 8]>::try_from(index) {
            Ok(index) => format!("log entry {} of {group}", u64::from_be_bytes(index)),
            Err(_) => format!("a malformed entry key {key:02x?}"),
        },
        _ => format!("an unknown key {key:02x?}"),
    }
}

pub(super) fn purged_payload(index: u64, log_id: &[u8]) -> Vec<u8> {
    [&index.to_be_bytes()[..], log_id].concat()
}

pub(super) fn read_single(database: &Database, group: GroupId, which: Single) -> Result<Option<Bytes>, StoreError> {
    let key = single_key(group, which);
    let Some(record) = database.get(&key)? else { return Ok(None) };
    database.open_bytes(&key, &record).map(|payload| Some(Bytes::copy_from_slice(payload)))
}

pub(super) fn read_purged(database: &Database, group: GroupId) -> Result<Option<(u64, Bytes)>, StoreError> {
    let Some(payload) = read_single(database, group, Single::Purged)? else { return Ok(None) };
    let Some(index) = payload.first_chunk::<8>() else {
        return Err(database.damaged(&single_key(group, Single::Purged), "it is too short"));
    };
    Ok(Some((u64::from_be_bytes(*index), payload.slice(8..))))
}

fn index_at(database: &Database, cursor: &Cursor<'_>) -> Result<Option<u64>, StoreError> {
    let Some(key) = cursor.key() else { return database.ended(cursor).map(|()| None) };
    match key.last_chunk::<8>() {
        Some(index) if key.len() == 11 => Ok(Some(u64::from_be_bytes(*index))),
        _ => Err(database.damaged(key, "entry keys have 11 bytes")),
    }
}

/// The indexes of the first and last entries.
pub(super) fn read_range(database: &Database, group: GroupId) -> Result<Option<(u64, u64)>, StoreError> {
    let mut cursor = database.cursor(None, &entry_key(group, 0), entries_end(group));
    let Some(first) = index_at(database, &cursor)? else { return Ok(None) };
    cursor.seek_to_last();
    let last = index_at(database, &cursor)?;
    Ok(last.map(|last| (first, last)))
}

/// Entries that lie one behind the other from `from` on; as many as there are before `to` and fit in `max_bytes`, but
/// one at least if it is there.
pub(super) fn read_entries(
    database: &Database,
    group: GroupId,
    from: u64,
    to: u64,
    max_bytes: usize,
) -> Result<Vec<(u64, Bytes)>, StoreError> {
    let mut cursor = database.cursor(None, &entry_key(group, from), entry_key(group, to));
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(index) = index_at(database, &cursor)? {
        if index != from + entries.len() as u64 {
            break;
        }
        let (key, record) = cursor.item().expect("it has a key, so it stands somewhere");
        let payload = database.open_bytes(key, record)?;
        bytes += payload.len();
        if bytes > max_bytes && !entries.is_empty() {
            break;
        }
        entries.push((index, Bytes::copy_from_slice(payload)));
        cursor.next();
    }
    Ok(entries)
}
