//! What is written to the log, and its form on disk.
//!
//! ```text
//! batch, from a multiple of 4 KiB on, filled up with zeros to the next:
//!   "NSRL" | format u8 | segment u32 | bytes of the segment's file u64 | number u64 | length u32 | crc32 of the records |
//!   crc32 of all this | records
//! record:
//!   kind u8 | group u16 | index u64 | length u32 | crc32 of this and the content | content
//! ```
//!
//! Numbers are little endian. A batch is what one sync made last. Batches are numbered without gaps through all segments.
//!
//! Must hold: a page that holds something synced is not written again. The first five bytes mean the same in every
//! format.

use bytes::{Buf, BufMut, Bytes};
use kv_core::GroupId;

/// The format written today.
pub(super) const FORMAT: u8 = 1;

/// Batches begin at multiples of this: no write touches what an earlier one made last.
pub(super) const PAGE_BYTES: usize = 4096;

const MAGIC: [u8; 4] = *b"NSRL";

/// Bytes before a batch's records.
pub(super) const BATCH_HEAD_BYTES: usize = 37;

/// Bytes before a record's content.
pub(super) const RECORD_HEAD_BYTES: usize = 19;

/// One file of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment(pub(super) u32);

impl Segment {
    pub(super) fn next(self) -> Self {
        Segment(self.0.checked_add(1).expect("fewer segments than four thousand million"))
    }
}

/// Something written about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// An entry that follows the last one.
    Entry {
        index: u64,
        bytes: Bytes,
    },
    /// An entry that is there, written again so that the segment it was in can go.
    Moved {
        index: u64,
        bytes: Bytes,
    },
    Vote(Bytes),
    /// How far the log was known to be committed.
    Committed(Bytes),
    /// Index and log id up to which entries are gone.
    Purged {
        index: u64,
        log_id: Bytes,
    },
    /// The entries from this one on are gone.
    Truncated {
        from: u64,
    },
    /// Which entries there are: what a segment begins with, so that those before it can go.
    Range {
        first: u64,
        last: u64,
    },
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: Segment,
    /// In the segment's file.
    pub(super) offset: u32,
    /// Of its content.
    pub(super) bytes: u32,
}

/// What precedes a batch's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHead {
    pub(super) format: u8,
    pub(super) segment: Segment,
    /// Of the segment's file when it was begun.
    pub(super) segment_bytes: u64,
    pub(super) number: u64,
    pub(super) length: u32,
    crc: u32,
}

/// What is wrong with a batch or a record.
pub(super) type Flaw = &'static str;

impl BatchHead {
    /// The head that stands here, if one does.
    pub(super) fn read(page: &[u8]) -> Option<Self> {
        let mut head = page.get(..BATCH_HEAD_BYTES)?;
        let crc = u32::from_le_bytes(*head.last_chunk()?);
        if crc32fast::hash(&head[..BATCH_HEAD_BYTES - 4]) != crc || !head.starts_with(&MAGIC) {
            return None;
        }
        head.advance(MAGIC.len());
        let (format, segment, segment_bytes) = (head.get_u8(), Segment(head.get_u32_le()), head.get_u64_le());
        let (number, length, crc) = (head.get_u64_le(), head.get_u32_le(), head.get_u32_le());
        Some(BatchHead { format, segment, segment_bytes, number, length, crc })
    }

    /// The batch's records in the file that it stands in, at `offset`.
    pub(super) fn records(&self, file: &Bytes, offset: usize) -> Result<Bytes, Flaw> {
        let start = offset + BATCH_HEAD_BYTES;
        let end = start.saturating_add(self.length as usize);
        if end > file.len() {
            return Err("it is cut off");
        }
        let records = file.slice(start..end);
        if crc32fast::hash(&records) != self.crc { Err("its checksum is wrong") } else { Ok(records) }
    }

    /// Bytes of the file that the batch takes.
    pub(super) fn extent(&self) -> usize {
        (BATCH_HEAD_BYTES + self.length as usize).next_multiple_of(PAGE_BYTES)
    }
}

/// A batch in the making.
pub(super) struct Batch {
    buffer: Vec<u8>,
    offset: u32,
    placed: Vec<(GroupId, Record, Place)>,
    segment: Segment,
}

impl Batch {
    /// One that will stand at `offset` of a segment. `buffer` is used again.
    pub(super) fn new(segment: Segment, offset: u32, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(BATCH_HEAD_BYTES, 0);
        Batch { buffer, offset, placed: Vec::new(), segment }
    }

    pub(super) fn add(&mut self, group: GroupId, record: Record) {
        let start = self.buffer.len();
        let (kind, index, content): (u8, u64, &[u8]) = match &record {
            Record::Entry { index, bytes } => (1, *index, bytes),
            Record::Moved { index, bytes } => (2, *index, bytes),
            Record::Vote(vote) => (3, 0, vote),
            Record::Committed(committed) => (4, 0, committed),
            Record::Purged { index, log_id } => (5, *index, log_id),
            Record::Truncated { from } => (6, *from, &[]),
            Record::Range { first, last } => (7, *first, &last.to_le_bytes()),
        };
        let bytes = u32::try_from(content.len()).expect("orders are smaller than the log's queue");
        self.buffer.put_u8(kind);
        self.buffer.put_u16_le(group.get());
        self.buffer.put_u64_le(index);
        self.buffer.put_u32_le(bytes);
        let crc = checksum(&self.buffer[start..], content);
        self.buffer.put_u32_le(crc);
        self.buffer.put_slice(content);
        let offset = self.offset + u32::try_from(start).expect("a batch is far smaller");
        self.placed.push((group, record, Place { segment: self.segment, offset, bytes }));
    }

    /// The bytes to be written, and where each record will be.
    pub(super) fn finish(mut self, number: u64, segment_bytes: u64) -> (Vec<u8>, Vec<(GroupId, Record, Place)>) {
        let records = &self.buffer[BATCH_HEAD_BYTES..];
        let (length, crc) = (u32::try_from(records.len()).expect("a batch is far smaller"), crc32fast::hash(records));
        let mut head = Vec::with_capacity(BATCH_HEAD_BYTES);
        head.put_slice(&MAGIC);
        head.put_u8(FORMAT);
        head.put_u32_le(self.segment.0);
        head.put_u64_le(segment_bytes);
        head.put_u64_le(number);
        head.put_u32_le(length);
        head.put_u32_le(crc);
        let crc = crc32fast::hash(&head);
        head.put_u32_le(crc);
        self.buffer[..BATCH_HEAD_BYTES].copy_from_slice(&head);
        let whole = self.buffer.len().next_multiple_of(PAGE_BYTES);
        self.buffer.resize(whole, 0);
        (self.buffer, self.placed)
    }
}

fn checksum(head: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(content);
    hasher.finalize()
}

impl Record {
    /// Bytes that it takes in a batch.
    pub(super) fn size(&self) -> usize {
        RECORD_HEAD_BYTES
            + match self {
                Record::Entry { bytes, .. } | Record::Moved { bytes, .. } => bytes.len(),
                Record::Vote(content) | Record::Committed(content) | Record::Purged { log_id: content, .. } => {
                    content.len()
                }
                Record::Truncated { .. } => 0,
                Record::Range { .. } => 8,
            }
    }

    /// Takes the first record off some.
    pub(super) fn take(records: &mut Bytes) -> Result<(GroupId, Record), Flaw> {
        let Some(head) = records.first_chunk::<RECORD_HEAD_BYTES>() else { return Err("it is cut off") };
        let mut fields = &head[..];
        let (kind, group, index) = (fields.get_u8(), GroupId::new(fields.get_u16_le()), fields.get_u64_le());
        let (length, crc) = (fields.get_u32_le() as usize, fields.get_u32_le());
        if records.len() - RECORD_HEAD_BYTES < length {
            return Err("it is cut off");
        }
        let head = records.split_to(RECORD_HEAD_BYTES);
        let content = records.split_to(length);
        if checksum(&head[..RECORD_HEAD_BYTES - 4], &content) != crc {
            return Err("its checksum is wrong");
        }
        let record = match kind {
            1 => Record::Entry { index, bytes: content },
            2 => Record::Moved { index, bytes: content },
            3 => Record::Vote(content),
            4 => Record::Committed(content),
            5 => Record::Purged { index, log_id: content },
            6 => Record::Truncated { from: index },
            7 => match <[u8; 8]>::try_from(&content[..]) {
                Ok(last) => Record::Range { first: index, last: u64::from_le_bytes(last) },
                Err(_) => return Err("it makes no sense"),
            },
            _ => return Err("it is of no known kind"),
        };
        Ok((group, record))
    }
}

/// Reads bytes as a batch, and, given the checksums that they should have, as records. For the search for inputs that
/// do harm.
#[cfg(test)]
pub(crate) fn fuzz(bytes: &[u8]) {
    let place = Place { segment: Segment(1), offset: 0, bytes: 0 };
    let note = |mut records: Bytes| {
        let mut stored = super::stored::Stored::default();
        while let Ok((_, record)) = Record::take(&mut records) {
            let _ = stored.apply(&record, place);
        }
        stored.missing();
    };
    let file = Bytes::copy_from_slice(bytes);
    if let Some(head) = BatchHead::read(&file) {
        head.extent();
        let _ = head.records(&file, 0).map(note);
    }
    let mut records = bytes.get(BATCH_HEAD_BYTES..).unwrap_or_default().to_vec();
    let mut at = 0;
    while let Some(head) = records.get(at..at + RECORD_HEAD_BYTES) {
        let length = (&head[11..15]).get_u32_le() as usize;
        let end = (at + RECORD_HEAD_BYTES).saturating_add(length);
        let Some(content) = records.get(at + RECORD_HEAD_BYTES..end) else { break };
        let crc = checksum(&head[..RECORD_HEAD_BYTES - 4], content);
        records[at + RECORD_HEAD_BYTES - 4..at + RECORD_HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
    note(records.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Record> {
        vec![
            Record::Entry { index: 7, bytes: "entry".into() },
            Record::Moved { index: 6, bytes: "moved".into() },
            Record::Vote("vote".into()),
            Record::Committed(Bytes::new()),
            Record::Purged { index: 5, log_id: "id".into() },
            Record::Truncated { from: 9 },
            Record::Range { first: 6, last: 8 },
        ]
    }

    fn written() -> Vec<u8> {
        let mut batch = Batch::new(Segment(3), 0, Vec::new());
        all().into_iter().for_each(|record| batch.add(GroupId::new(2), record));
        batch.finish(9, 1 << 20).0
    }

    fn read(file: Vec<u8>) -> Result<Vec<Record>, Flaw> {
        let file = Bytes::from(file);
        let head = BatchHead::read(&file).ok_or("no head")?;
        let mut records = head.records(&file, 0)?;
        let mut found = Vec::new();
        while !records.is_empty() {
            found.push(Record::take(&mut records)?.1);
        }
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read() {
        let file = written();
        assert_eq!(file.len(), PAGE_BYTES);
        assert_eq!(read(file).unwrap(), all());
    }

    #[test]
    fn sizes_are_those_written() {
        let length = BatchHead::read(&written()).unwrap().length as usize;
        assert_eq!(all().iter().map(Record::size).sum::<usize>(), length);
    }

    #[test]
    fn every_flipped_bit_shows() {
        let file = written();
        let used = BATCH_HEAD_BYTES + BatchHead::read(&file).unwrap().length as usize;
        for bit in 0..used * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(damaged).is_err(), "bit {bit}");
        }
        for len in 0..used {
            assert!(read(file[..len].to_vec()).is_err(), "cut to {len}");
        }
    }
}
