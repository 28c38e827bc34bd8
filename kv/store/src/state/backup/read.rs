//! Reading a backup, from its first byte to its last.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use kv_core::GroupId;
use serde::de::DeserializeOwned;

use super::{
    BACKUP_FORMAT, BackupError, Header, KeyspaceSummary,
    error::unread,
    frame::{self, BODY_BYTES_MAX, CRC_BYTES, FORMAT_LINE_BYTES, HEAD_BYTES, TITLE},
};
use crate::state::{
    keys,
    snapshot::{Chunks, KEY_BYTES_MAX, RECORD_BYTES_MAX},
};

const BUFFER_BYTES: usize = 1 << 20;

/// What a backup holds, in order.
pub(super) enum Part {
    /// A stored record of a group, under its key.
    Record(Vec<u8>, Vec<u8>),
    /// All records of this group have come.
    GroupEnds(GroupId),
    /// A keyspace of that group.
    Keyspace(KeyspaceSummary),
    /// The file is sound to its end: the BLAKE3 of all before its last frame.
    End([u8; 32]),
}

type KeyAndRecord = (Vec<u8>, Vec<u8>);

/// A backup, read part by part.
pub(super) struct BackupReader {
    path: PathBuf,
    file: BufReader<File>,
    hasher: blake3::Hasher,
    /// Where the frame read last begins, and where the next one does.
    at: u64,
    next: u64,
    header: Header,
    /// The group whose chunks come now.
    chunks: Option<Chunks>,
    /// The last group that is whole: its keyspaces come now.
    whole: Option<GroupId>,
    /// Of the group's stream, not taken yet, from `taken` on.
    stream: Vec<u8>,
    taken: usize,
}

impl BackupReader {
    pub(super) fn open(path: &Path) -> Result<Self, BackupError> {
        let file = File::open(path).map_err(|error| unread(path, error))?;
        let mut reader = BackupReader {
            path: path.into(),
            file: BufReader::with_capacity(BUFFER_BYTES, file),
            hasher: blake3::Hasher::new(),
            at: 0,
            next: 0,
            header: Header {
                cluster: kv_core::ClusterId::new([0; 16]),
                node: kv_core::NodeId::default(),
                name: String::new(),
                version: String::new(),
                at: kv_core::Timestamp::default(),
                groups: 0,
            },
            chunks: None,
            whole: None,
            stream: Vec::new(),
            taken: 0,
        };
        reader.lines()?;
        let (kind, body) = reader.frame()?;
        if kind != frame::HEADER {
            return Err(reader.damaged("the header is missing"));
        }
        reader.header = reader.decode(&body)?;
        Ok(reader)
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        self.next
    }

    /// The next part; none is asked for after the end.
    pub(super) fn next(&mut self) -> Result<Part, BackupError> {
        loop {
            if let Some((key, record)) = self.take()? {
                return Ok(Part::Record(key, record));
            }
            if let Some(chunks) = &self.chunks
                && chunks.whole().is_some()
            {
                let group = chunks.group;
                if self.taken < self.stream.len() {
                    return Err(self.damaged(&format!("the state of {group} ends within a record")));
                }
                (self.chunks, self.whole) = (None, Some(group));
                return Ok(Part::GroupEnds(group));
            }
            let (kind, body) = self.frame()?;
            match kind {
                frame::CHUNK => self.chunk(&body)?,
                frame::KEYSPACE if self.chunks.is_none() => {
                    let summary: KeyspaceSummary = self.decode(&body)?;
                    if self.whole != Some(summary.group) {
                        return Err(self.damaged("a keyspace stands behind another group than its own"));
                    }
                    return Ok(Part::Keyspace(summary));
                }
                frame::END if self.chunks.is_none() => return self.end(&body),
                _ => return Err(self.damaged(&format!("a part of kind {kind} does not belong here"))),
            }
        }
    }

    fn chunk(&mut self, body: &[u8]) -> Result<(), BackupError> {
        if self.chunks.is_none() {
            let group = match body.get(2..4) {
                Some(&[low, high]) => GroupId::new(u16::from_le_bytes([low, high])),
                _ => return Err(self.damaged("a chunk is too short")),
            };
            if group.get() >= self.header.groups || self.whole.is_some_and(|last| group <= last) {
                return Err(self.damaged(&format!("the state of {group} does not belong here")));
            }
            self.chunks = Some(Chunks::new(group));
        }
        let mut chunks = self.chunks.take().expect("set above");
        let part = chunks.part(body).map_err(|why| self.damaged(&why))?;
        self.stream.drain(..self.taken);
        self.taken = 0;
        self.stream.extend_from_slice(part);
        self.chunks = Some(chunks);
        Ok(())
    }

    /// The next key and record, if they have come whole.
    fn take(&mut self) -> Result<Option<KeyAndRecord>, BackupError> {
        let Some(group) = self.chunks.as_ref().map(|chunks| chunks.group) else { return Ok(None) };
        let ready = &self.stream[self.taken..];
        let piece = |from: usize, limit: usize| -> Result<Option<&[u8]>, BackupError> {
            let Some(length) = ready.get(from..).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
            let length = u32::from_le_bytes(*length) as usize;
            if length > limit {
                return Err(self.damaged("a length in it is wrong"));
            }
            Ok(ready.get(from + 4..from + 4 + length))
        };
        let Some(key) = piece(0, KEY_BYTES_MAX)? else { return Ok(None) };
        let Some(record) = piece(4 + key.len(), RECORD_BYTES_MAX)? else { return Ok(None) };
        let mut full = keys::group_start(group.get());
        full.extend_from_slice(key);
        let (taken, record) = (8 + key.len() + record.len(), record.to_vec());
        self.taken += taken;
        Ok(Some((full, record)))
    }

    fn end(&mut self, body: &[u8]) -> Result<Part, BackupError> {
        // The last frame is not among what it is a digest of.
        let (digest, end) = (*self.hasher.finalize().as_bytes(), self.next);
        if body != digest {
            return Err(self.damaged("it does not match the checksum of the whole"));
        }
        let mut rest = [0; 1];
        match self.file.read(&mut rest) {
            Ok(0) => Ok(Part::End(digest)),
            Ok(_) => {
                self.at = end;
                Err(self.damaged("something was added behind its end"))
            }
            Err(error) => Err(unread(&self.path, error)),
        }
    }

    /// Reads the two lines at the start.
    fn lines(&mut self) -> Result<(), BackupError> {
        let not_one = || BackupError::NotOne { file: self.path.clone() };
        let mut title = [0; TITLE.len()];
        match self.file.read_exact(&mut title) {
            Ok(()) if title == TITLE.as_bytes() => {}
            Ok(()) => return Err(not_one()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(not_one()),
            Err(error) => return Err(unread(&self.path, error)),
        }
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') && line.len() < FORMAT_LINE_BYTES {
            let mut byte = [0; 1];
            match self.file.read(&mut byte).map_err(|error| unread(&self.path, error))? {
                0 => return Err(not_one()),
                _ => line.push(byte[0]),
            }
        }
        let text = std::str::from_utf8(&line).ok().and_then(|line| line.strip_suffix('\n')?.strip_prefix("format "));
        // As it is written, and in no other way.
        let format = text.and_then(|text| text.parse::<u32>().ok().filter(|format| format.to_string() == text));
        match format {
            Some(BACKUP_FORMAT) => {}
            Some(found) if found > BACKUP_FORMAT => {
                return Err(BackupError::Newer { file: self.path.clone(), found });
            }
            _ => return Err(not_one()),
        }
        self.hasher.update(&title).update(&line);
        self.next = (title.len() + line.len()) as u64;
        Ok(())
    }

    /// The next frame's kind and body, both sound.
    fn frame(&mut self) -> Result<(u8, Vec<u8>), BackupError> {
        self.at = self.next;
        let mut head = [0; HEAD_BYTES];
        self.read(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        if length > BODY_BYTES_MAX {
            return Err(self.damaged("a length in it is wrong"));
        }
        let mut body = vec![0; length + CRC_BYTES];
        self.read(&mut body)?;
        let crc = body.split_off(length);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head);
        hasher.update(&body);
        if hasher.finalize().to_le_bytes() != crc[..] {
            return Err(self.damaged("it does not match its checksum"));
        }
        if kind != frame::END {
            self.hasher.update(&head).update(&body).update(&crc);
        }
        Ok((kind, body))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), BackupError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read(&mut buffer[filled..]) {
                Ok(0) => {
                    let wanted = match &self.chunks {
                        Some(chunks) => format!("in the state of {}", chunks.group),
                        None => "and more belongs there".into(),
                    };
                    let bytes = self.next + filled as u64;
                    return Err(BackupError::Short { file: self.path.clone(), bytes, wanted });
                }
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unread(&self.path, error)),
            }
        }
        self.next += buffer.len() as u64;
        Ok(())
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, BackupError> {
        postcard::from_bytes(body).map_err(|error| self.damaged(&format!("its content makes no sense ({error})")))
    }

    /// The error for something wrong in the frame read last.
    pub(super) fn damaged(&self, why: &str) -> BackupError {
        BackupError::Damaged { file: self.path.clone(), offset: self.at, why: why.into() }
    }
}
