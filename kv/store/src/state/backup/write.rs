//! Making a backup: its bytes, piece by piece, from views of all groups that were pinned together.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use kv_core::{GroupId, Keyspace, Phase};

use super::{
    BACKUP_FORMAT, Header, KeyspaceSummary,
    frame::{self, CHUNK_BYTES},
};
use crate::{
    StoreError,
    state::{GroupSnapshot, State, records::KeyspaceRecord},
};

/// A backup being made. Holds the views until it has ended or is dropped; they cost the disk space of what has been
/// overwritten since.
pub struct Backup {
    /// The groups that are not finished; the first is being read.
    left: VecDeque<(GroupId, GroupSnapshot)>,
    /// Frames to come before anything else is read.
    ready: VecDeque<Vec<u8>>,
    groups: u16,
    hasher: blake3::Hasher,
    ended: bool,
}

impl State {
    /// Pins all groups. `header`: what the backup says of itself; the number of groups is put in here.
    pub fn backup(&self, header: Header) -> Result<Backup, StoreError> {
        let groups = u16::try_from(self.0.groups.len()).expect("a store is opened with at most so many");
        let written = (0..groups).map(GroupId::new).filter(|group| self.applied_index(*group).is_some());
        let left = written.map(|group| Ok((group, self.snapshot(group)?))).collect::<Result<_, StoreError>>()?;
        let lines = format!("{}format {BACKUP_FORMAT}\n", frame::TITLE);
        let header = frame::value_frame(frame::HEADER, &Header { groups, ..header });
        let ready = VecDeque::from([lines.into_bytes(), header]);
        Ok(Backup { left, ready, groups, hasher: blake3::Hasher::new(), ended: false })
    }
}

impl Backup {
    /// A keyspace that was being moved when the groups were pinned, so that it would be in the backup twice, or half.
    pub fn unsettled(&self) -> Result<Option<Keyspace>, StoreError> {
        let mut live = BTreeSet::new();
        for (_, snapshot) in &self.left {
            for (name, known) in snapshot.keyspaces()? {
                let settled = match known.standing.phase {
                    Phase::Live => live.insert(name.clone()),
                    Phase::Gone { .. } | Phase::Absent { .. } => true,
                    Phase::Sealed { .. } | Phase::Arriving { .. } => false,
                };
                if !settled {
                    return Ok(Some(name));
                }
            }
        }
        Ok(None)
    }

    /// The next bytes of the file, some hundred kilobytes at most; `None` after the last. Blocks on disk.
    pub fn next_bytes(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.ready.is_empty() && !self.ended {
            self.read_on()?;
        }
        let Some(bytes) = self.ready.pop_front() else { return Ok(None) };
        self.hasher.update(&bytes);
        Ok(Some(bytes.into()))
    }

    /// Groups that are in it whole already, and all there are.
    pub fn progress(&self) -> (u16, u16) {
        let left = u16::try_from(self.left.len()).unwrap_or(self.groups);
        (self.groups - left, self.groups)
    }

    fn read_on(&mut self) -> Result<(), StoreError> {
        let Some((group, snapshot)) = self.left.front_mut() else {
            self.ended = true;
            let digest = self.hasher.finalize();
            self.ready.push_back(frame::frame(frame::END, digest.as_bytes()));
            return Ok(());
        };
        match snapshot.next_chunk(CHUNK_BYTES)? {
            Some(chunk) => self.ready.push_back(frame::frame(frame::CHUNK, &chunk)),
            None => {
                let summaries = snapshot.keyspaces()?.into_iter().map(|(name, known)| summary(*group, name, &known));
                self.ready.extend(summaries.map(|summary| frame::value_frame(frame::KEYSPACE, &summary)));
                self.left.pop_front();
            }
        }
        Ok(())
    }
}

pub(super) fn summary(group: GroupId, name: Keyspace, known: &KeyspaceRecord) -> KeyspaceSummary {
    KeyspaceSummary {
        group,
        name,
        revision: known.head.revision,
        head: known.head.hash,
        at: known.head.at,
        floor: known.floor,
        keys: known.keys,
        bytes: known.bytes,
    }
}
