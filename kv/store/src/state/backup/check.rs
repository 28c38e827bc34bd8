//! Checking a backup without a server: every checksum, every record, and every chain from its first record to its head.
//!
//! One pass over the file; memory for each keyspace, none for keys.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use kv_core::{Digest, Fold, GroupId, Head, Keyspace, Revision};

use super::{
    BackupError, Header, KeyspaceSummary,
    read::{BackupReader, Part},
    write::summary,
};
use crate::{
    envelope::{self, Flaw},
    state::{
        apply::lease_content,
        keys::{self, Number},
        records::{Chained, GroupRecord, KeyspaceRecord, LeaseRecord, Remembered, Version, standing_content},
    },
};

/// What a sound backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// What it says of itself.
    pub header: Header,
    /// Its keyspaces, by group and name.
    pub keyspaces: Vec<KeyspaceSummary>,
    /// Chain records in it.
    pub records: u64,
    /// Leases in it.
    pub leases: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// BLAKE3 of all of it but its last few bytes, which hold this.
    pub digest: Digest,
}

/// One keyspace of the group that is being read.
struct Walked {
    name: Keyspace,
    known: KeyspaceRecord,
    /// After the records walked so far.
    head: Head,
    records: u64,
    keys: u64,
    bytes: u64,
}

/// The group that is being read.
#[derive(Default)]
struct Walk {
    group: Option<GroupRecord>,
    keyspaces: HashMap<Number, Walked>,
    fold: Fold,
    last: Vec<u8>,
    records: u64,
    leases: u64,
}

/// Checks a backup. `progress` is told how many bytes have been read. Blocks.
pub fn verify(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Contents, BackupError> {
    let mut reader = BackupReader::open(path)?;
    let (mut walk, mut expected) = (Walk::default(), BTreeMap::new());
    let (mut keyspaces, mut records, mut leases) = (Vec::new(), 0, 0);
    let mut told = 0;
    loop {
        match reader.next()? {
            Part::Record(key, record) => walk.record(&key, &record).map_err(|why| reader.damaged(&why))?,
            Part::GroupEnds(group) => {
                let done = std::mem::take(&mut walk);
                missing(&reader, &expected)?;
                records += done.records;
                leases += done.leases;
                expected = done.end(group).map_err(|why| reader.damaged(&why))?;
            }
            Part::Keyspace(summary) => {
                if expected.remove(&summary.name).as_ref() != Some(&summary) {
                    return Err(reader.damaged(&format!("{} is not as its records are", summary.name)));
                }
                keyspaces.push(summary);
            }
            Part::End(digest) => {
                missing(&reader, &expected)?;
                progress(reader.offset());
                let (header, bytes, digest) = (reader.header().clone(), reader.offset(), Digest::new(digest));
                return Ok(Contents { header, keyspaces, records, leases, bytes, digest });
            }
        }
        if reader.offset() != told {
            told = reader.offset();
            progress(told);
        }
    }
}

fn missing(reader: &BackupReader, expected: &BTreeMap<Keyspace, KeyspaceSummary>) -> Result<(), BackupError> {
    match expected.keys().next() {
        Some(name) => Err(reader.damaged(&format!("{name} is not named behind its group"))),
        None => Ok(()),
    }
}

impl Walk {
    /// Takes the next record. `Err`: what is wrong with it, and which it is.
    fn record(&mut self, key: &[u8], record: &[u8]) -> Result<(), String> {
        if *key <= self.last[..] {
            return Err(format!("{} is not in its place", keys::render(key)));
        }
        self.last = key.to_vec();
        let flawed = |flaw: Flaw| format!("{}: {flaw}", keys::render(key));
        let odd = |why: &str| Err(format!("{}: {why}", keys::render(key)));
        match key.get(2) {
            Some(&keys::GROUP) => self.group = Some(envelope::open_value(key, record).map_err(flawed)?),
            Some(&keys::KEYSPACE) => return self.keyspace(key, record),
            Some(&kind @ (keys::LATEST | keys::EARLIER)) => {
                let version: Version<'_> = envelope::open_value(key, record).map_err(flawed)?;
                let Some(walked) = self.keyspace_of(key) else { return odd("of no keyspace") };
                if version.modified > walked.known.head.revision {
                    return odd("it is from behind its keyspace's head");
                }
                if kind == keys::EARLIER && keys::split_earlier(key).is_none_or(|(_, at)| at != version.modified) {
                    return odd("it stands under another revision");
                }
                if kind == keys::LATEST {
                    let Some(value) = version.value else { return odd("a latest version without a value") };
                    walked.keys += 1;
                    walked.bytes += (key.len() - keys::NUMBERED_BYTES + value.0.len()) as u64;
                }
            }
            Some(&keys::CHAIN) => return self.chain(key, record),
            Some(&keys::REQUEST) => {
                let _: Remembered = envelope::open_value(key, record).map_err(flawed)?;
            }
            Some(&keys::LEASE) => {
                if keys::split_lease(key).is_none() {
                    return odd("that is no lease");
                }
                let lease: LeaseRecord = envelope::open_value(key, record).map_err(flawed)?;
                self.fold.toggle_record(&key[2..], &lease_content(&lease));
                self.leases += 1;
            }
            Some(&keys::BESIDE) => {
                self.fold.toggle_record(&key[2..], envelope::open(key, record).map_err(flawed)?);
            }
            Some(&kind @ (keys::EXPIRY | keys::ATTACHED)) => {
                let whole = match kind {
                    keys::EXPIRY => keys::split_expiry(key).is_some(),
                    _ => key.len() >= keys::ATTACHED_BYTES,
                };
                if !whole {
                    return odd("its key is cut short");
                }
                envelope::open(key, record).map_err(flawed)?;
            }
            _ => return odd("that is nothing that a state has"),
        }
        Ok(())
    }

    fn keyspace(&mut self, key: &[u8], record: &[u8]) -> Result<(), String> {
        let name = std::str::from_utf8(&key[keys::HEAD_BYTES..]).ok().and_then(|name| Keyspace::new(name).ok());
        let name = name.ok_or_else(|| format!("{}: that is no keyspace's name", keys::render(key)))?;
        let known = KeyspaceRecord::open(key, record).map_err(|flaw| format!("{}: {flaw}", keys::render(key)))?;
        self.fold.toggle(&name, &known.head);
        if let Some(content) = standing_content(&known.standing) {
            self.fold.toggle_record(&key[2..], &content);
        }
        let head = Head::default();
        let walked = Walked { name, known, head, records: 0, keys: 0, bytes: 0 };
        match self.keyspaces.insert(known.number, walked) {
            Some(other) => Err(format!("{}: it has the number of {}", keys::render(key), other.name)),
            None => Ok(()),
        }
    }

    fn chain(&mut self, key: &[u8], record: &[u8]) -> Result<(), String> {
        let chained: Chained<'_> =
            envelope::open_value(key, record).map_err(|flaw| format!("{}: {flaw}", keys::render(key)))?;
        let Some(walked) = self.keyspace_of(key) else {
            return Err(format!("{}: of no keyspace", keys::render(key)));
        };
        if key[keys::NUMBERED_BYTES..] != chained.record.revision.get().to_be_bytes() {
            return Err(format!("{}: it stands under another revision", keys::render(key)));
        }
        if chained.record.revision < walked.known.forgotten {
            // It may go, and what comes before it may have gone already.
            return Ok(());
        }
        if walked.records == 0 && walked.known.forgotten > Revision::ZERO {
            let revision = Revision::new(walked.known.forgotten.get() - 1);
            walked.head = Head { revision, hash: chained.record.previous, at: chained.record.at };
        }
        walked.head = walked.head.step(&walked.name, &chained.record).map_err(|error| error.to_string())?;
        walked.records += 1;
        self.records += 1;
        Ok(())
    }

    /// The keyspace that a record belongs to.
    fn keyspace_of(&mut self, key: &[u8]) -> Option<&mut Walked> {
        let number = key.get(keys::HEAD_BYTES..)?.first_chunk::<4>()?;
        self.keyspaces.get_mut(&Number::from_be_bytes(*number))
    }

    /// Checks what can be checked once all has come. Returns what has to be said of the group's keyspaces.
    fn end(self, group: GroupId) -> Result<BTreeMap<Keyspace, KeyspaceSummary>, String> {
        let record = self.group.ok_or_else(|| format!("{group} does not say how far it is"))?;
        for walked in self.keyspaces.values() {
            let (name, known) = (&walked.name, &walked.known);
            if known.number >= record.keyspaces {
                return Err(format!("{name}: its number is one that was not given yet"));
            }
            if walked.head != known.head {
                let (walked, said) = (walked.head.revision, known.head.revision);
                return Err(format!("{name}: the records end at {walked}, the keyspace says {said}"));
            }
            if (walked.keys, walked.bytes) != (known.keys, known.bytes) {
                let (found, said) = (walked.keys, known.keys);
                return Err(format!("{name}: there are {found} keys, the keyspace says {said}, or their sizes differ"));
            }
        }
        if record.fold != self.fold {
            return Err(format!("{group}: its keyspaces' heads do not fold to the stored value"));
        }
        let summaries = self.keyspaces.into_values().map(|walked| (walked.name.clone(), walked));
        Ok(summaries.map(|(name, walked)| (name, summary(group, walked.name, &walked.known))).collect())
    }
}
