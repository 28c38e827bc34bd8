//! A group's whole state as a stream of chunks.
//!
//! ```text
//! stream  = (key length u32, key without the group, record length u32, record)*     the group's keys, in order
//! chunk   = format u8, kind u8, group u16, sequence u32, body, crc32 u32 of all before
//! body    = a part of the stream (kind 1), or (kind 2) the length u64 and crc32 u32 of all of it
//! ```
//!
//! Numbers are little endian. Chunks cut the stream anywhere, so none is larger than asked for whatever the records are.
//!
//! Must hold: a snapshot is the state at one moment, that of its applied log id, however long it takes to read. Every
//! record in it carries its own checksum, which the receiver checks before it takes any of it.

use std::sync::Arc;

use bytes::Bytes;
use kv_core::{GroupId, Keyspace};

use super::{Applied, State, keys, keyspaces_in, reclaim::Hold, records::KeyspaceRecord, stored_group};
use crate::{
    StoreError,
    database::{Database, Pinned},
    envelope,
};

/// The format of chunks and stream.
const CHUNK_FORMAT: u8 = 1;
const KIND_PART: u8 = 1;
const KIND_END: u8 = 2;

/// Bytes of a chunk before its body, and after.
const CHUNK_HEAD_BYTES: usize = 8;
pub(super) const CHUNK_CRC_BYTES: usize = 4;

/// Longest key and record taken from a file or a peer: above what any commit can make, below what would be felt.
pub(super) const KEY_BYTES_MAX: usize = 64 << 10;
pub(super) const RECORD_BYTES_MAX: usize = 64 << 20;

/// The smallest useful chunk; asking for smaller ones gives these.
const CHUNK_BYTES_MIN: usize = 1024;

/// A group's state at one moment, to be read chunk by chunk. May be held for long; costs the disk space of what has been
/// overwritten since, and no memory to speak of.
pub struct GroupSnapshot {
    // Declared, and so dropped, before the database that it points into.
    pinned: Pinned<'static>,
    database: Arc<Database>,
    _holds: Vec<Hold>,
    group: GroupId,
    applied: Applied,
    /// The first key that is not in `ready` yet; `None`: all are.
    next: Option<Vec<u8>>,
    /// Of the stream, not sent yet.
    ready: Vec<u8>,
    sequence: u32,
    sent_bytes: u64,
    crc: crc32fast::Hasher,
    ended: bool,
}

impl State {
    /// Pins a group's state. Refused if nothing was ever applied.
    pub fn snapshot(&self, group: GroupId) -> Result<GroupSnapshot, StoreError> {
        let _reading = self.reading(group);
        let holds = self.hold_all(group);
        let database = self.0.database.clone();
        let pinned = pin(&database);
        let Some(record) = stored_group(&database, &pinned, group)? else {
            return Err(StoreError::Snapshot { group, why: "there is nothing to make one of".into() });
        };
        Ok(GroupSnapshot {
            pinned,
            database,
            _holds: holds,
            group,
            applied: record.applied(),
            next: Some(keys::group_start(group.get())),
            ready: Vec::new(),
            sequence: 0,
            sent_bytes: 0,
            crc: crc32fast::Hasher::new(),
            ended: false,
        })
    }
}

/// Pins a database for as long as one likes.
#[expect(unsafe_code, reason = "the binding ties a snapshot to a borrow of the database, not to a share of it")]
pub(super) fn pin(database: &Arc<Database>) -> Pinned<'static> {
    // SAFETY: the database lies on the heap, behind an `Arc`, and does not move. `GroupSnapshot` holds a share of that
    // `Arc` and drops it after the snapshot; it never hands out the reference.
    let forever: &'static Database = unsafe { &*Arc::as_ptr(database) };
    forever.pin()
}

impl GroupSnapshot {
    /// How far the state is.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The keyspaces in it, by name.
    pub(super) fn keyspaces(&self) -> Result<Vec<(Keyspace, KeyspaceRecord)>, StoreError> {
        keyspaces_in(&self.database, Some(&self.pinned), self.group)
    }

    /// The next chunk, of `max_bytes` at most (and a kilobyte at least); `None` after the last. Blocks on disk.
    pub fn next_chunk(&mut self, max_bytes: usize) -> Result<Option<Bytes>, StoreError> {
        let body_bytes = max_bytes.max(CHUNK_BYTES_MIN) - CHUNK_HEAD_BYTES - CHUNK_CRC_BYTES;
        self.fill(body_bytes)?;
        if self.ended {
            return Ok(None);
        }
        if self.ready.is_empty() {
            self.ended = true;
            let crc = self.crc.clone().finalize();
            let body = [&self.sent_bytes.to_le_bytes()[..], &crc.to_le_bytes()].concat();
            return Ok(Some(self.chunk(KIND_END, &body)));
        }
        let rest = self.ready.split_off(body_bytes.min(self.ready.len()));
        let body = std::mem::replace(&mut self.ready, rest);
        self.crc.update(&body);
        self.sent_bytes += body.len() as u64;
        Ok(Some(self.chunk(KIND_PART, &body)))
    }

    /// Reads on until there is enough for a chunk.
    fn fill(&mut self, bytes: usize) -> Result<(), StoreError> {
        if self.ready.len() >= bytes {
            return Ok(());
        }
        let Some(from) = self.next.take() else { return Ok(()) };
        let end = keys::group_start(self.group.get() + 1);
        let mut cursor = self.database.cursor(Some(&self.pinned), &from, end);
        while let Some((key, record)) = cursor.item() {
            if self.ready.len() >= bytes {
                self.next = Some(key.to_vec());
                return Ok(());
            }
            // What is damaged here must not get anywhere else.
            let sound = match key.get(2) {
                Some(&keys::KEYSPACE) => KeyspaceRecord::open(key, record).map(drop),
                _ => envelope::open(key, record).map(drop),
            };
            sound.map_err(|flaw| self.database.flaw(key, &flaw))?;
            for part in [&key[2..], record] {
                let length = u32::try_from(part.len()).expect("RocksDB has no larger ones");
                self.ready.extend(length.to_le_bytes());
                self.ready.extend(part);
            }
            cursor.next();
        }
        self.database.ended(&cursor)
    }

    fn chunk(&mut self, kind: u8, body: &[u8]) -> Bytes {
        let mut chunk = Vec::with_capacity(CHUNK_HEAD_BYTES + body.len() + CHUNK_CRC_BYTES);
        chunk.extend([CHUNK_FORMAT, kind]);
        chunk.extend(self.group.get().to_le_bytes());
        chunk.extend(self.sequence.to_le_bytes());
        chunk.extend(body);
        chunk.extend(crc32fast::hash(&chunk).to_le_bytes());
        self.sequence += 1;
        chunk.into()
    }
}

/// Takes the chunks of one group's snapshot apart, in order.
pub(super) struct Chunks {
    pub(super) group: GroupId,
    sequence: u32,
    bytes: u64,
    crc: crc32fast::Hasher,
    complete: bool,
}

impl Chunks {
    pub(super) fn new(group: GroupId) -> Self {
        Chunks { group, sequence: 0, bytes: 0, crc: crc32fast::Hasher::new(), complete: false }
    }

    /// The number of the chunk that comes next.
    pub(super) fn expects(&self) -> u32 {
        self.sequence
    }

    /// The part of the stream that the next chunk holds; nothing in the last one. `Err`: why it cannot be that one.
    pub(super) fn part<'a>(&mut self, chunk: &'a [u8]) -> Result<&'a [u8], String> {
        let Some((content, crc)) = chunk.split_last_chunk::<CHUNK_CRC_BYTES>() else {
            return Err("a chunk is too short".into());
        };
        if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
            return Err("a chunk does not match its checksum".into());
        }
        let Some((head, body)) = content.split_first_chunk::<CHUNK_HEAD_BYTES>() else {
            return Err("a chunk is too short".into());
        };
        let [format, kind, g0, g1, s0, s1, s2, s3] = *head;
        if format != CHUNK_FORMAT {
            return Err(format!("it has format {format}, and this version knows formats up to {CHUNK_FORMAT}"));
        }
        let (of, sequence) = (GroupId::new(u16::from_le_bytes([g0, g1])), u32::from_le_bytes([s0, s1, s2, s3]));
        if of != self.group {
            return Err(format!("a chunk is of {of}"));
        }
        if sequence != self.sequence || self.complete {
            return Err(format!("chunk {sequence} came where {} belongs", self.sequence));
        }
        self.sequence += 1;
        match kind {
            KIND_PART => {
                self.crc.update(body);
                self.bytes += body.len() as u64;
                Ok(body)
            }
            KIND_END => {
                let crc = self.crc.clone().finalize();
                self.complete = body == [&self.bytes.to_le_bytes()[..], &crc.to_le_bytes()].concat();
                if self.complete { Ok(&[]) } else { Err("its parts do not make up the whole".into()) }
            }
            _ => Err(format!("a chunk is of the unknown kind {kind}")),
        }
    }

    /// The checksum of the whole stream, once all of it has come.
    pub(super) fn whole(&self) -> Option<u32> {
        self.complete.then(|| self.crc.clone().finalize())
    }
}
