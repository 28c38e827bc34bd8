//! The chain of revisions: each record holds the hash of the one before it.
//!
//! ```text
//! digest   = H("changes", changes)           what the commit wrote
//! hash(r)  = H("record", keyspace, r, at, actor, reason, request, digest, hash(r-1))
//! digest   = H("raise", r)                   of a raise, which writes nothing and leaves out the revisions before r
//! fold     = xor over the keyspaces of H("head", keyspace, revision, hash)
//!            and over their leases and records beside the keys of H("record beside the keys", place, content)
//! ```
//!
//! H is BLAKE3 keyed with the hash of the quoted words (`netstate … v1`); every field is preceded by its length, so that
//! no two different records have the same encoding.
//!
//! Must hold: two replicas with the same fold at the same log index have the same history in every keyspace. Revisions are
//! dense, except where a raise is recorded: what is restored from a backup goes on with a revision that nobody can have
//! seen, and the record of that revision says so and holds the hash of the one that was restored last.

use std::{fmt, sync::LazyLock};

use serde::{Deserialize, Serialize};

use crate::{Change, ClusterId, Commit, Keyspace, RequestId, Revision, Timestamp};

/// Who makes the record of a raise.
const RAISED_BY: &str = "netstate restore";

/// 32 bytes of BLAKE3.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

/// What is kept of one revision for ever, also when its values have been compacted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRecord {
    /// The revision.
    pub revision: Revision,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// The client's id of the transaction.
    pub request: Option<RequestId>,
    /// Of what was written.
    pub digest: Digest,
    /// Hash of the record before; zero for the first.
    pub previous: Digest,
}

/// A keyspace's latest revision and the hash of its record: a fingerprint of the whole history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The revision.
    pub revision: Revision,
    /// The hash of its record.
    pub hash: Digest,
    /// Its time.
    pub at: Timestamp,
}

/// The heads of all keyspaces of a group in one value, in whatever order they were written.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fold([u8; 32]);

/// Where a chain does not hold together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A revision is missing or out of order, and no raise is recorded.
    #[error("{keyspace}: found {found} where {expected} belongs")]
    Gap {
        /// The keyspace.
        keyspace: Keyspace,
        /// What belongs there.
        expected: Revision,
        /// What is there.
        found: Revision,
    },
    /// A record does not name the hash of the record before it.
    #[error("{keyspace}: the record of {revision} does not follow from the one before it")]
    Broken {
        /// The keyspace.
        keyspace: Keyspace,
        /// The revision.
        revision: Revision,
    },
    /// The values stored for a revision are not those that its record was made of.
    #[error("{keyspace}: the changes stored for {revision} do not match its record")]
    Changes {
        /// The keyspace.
        keyspace: Keyspace,
        /// The revision.
        revision: Revision,
    },
}

/// Hashes length-prefixed fields under a context.
struct Hasher(blake3::Hasher);

/// The key of a context: BLAKE3 of its name. Worked out once for all the hashes made under it.
struct Context(LazyLock<[u8; 32]>);

impl Context {
    const fn new(hash: fn() -> [u8; 32]) -> Self {
        Context(LazyLock::new(hash))
    }
}

static CHANGES: Context = Context::new(|| *blake3::hash(b"netstate changes v1").as_bytes());
static RECORD: Context = Context::new(|| *blake3::hash(b"netstate record v1").as_bytes());
static RAISE: Context = Context::new(|| *blake3::hash(b"netstate raise v1").as_bytes());
static HEAD: Context = Context::new(|| *blake3::hash(b"netstate head v1").as_bytes());
static BESIDE: Context = Context::new(|| *blake3::hash(b"netstate record beside the keys v1").as_bytes());

impl Hasher {
    fn new(context: &Context) -> Self {
        Hasher(blake3::Hasher::new_keyed(&context.0))
    }

    fn number(mut self, number: u64) -> Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

impl Digest {
    /// Of nothing: what the first record names as the one before it.
    pub const ZERO: Digest = Digest([0; 32]);

    /// Of a commit's changes, in their order.
    pub fn of(changes: &[Change]) -> Self {
        let hasher = Hasher::new(&CHANGES).number(changes.len() as u64);
        let hasher = changes.iter().fold(hasher, |hasher, change| {
            let hasher = hasher.bytes(&change.key);
            match (&change.value, change.lease) {
                (Some(value), None) => hasher.number(1).bytes(value),
                (Some(value), Some(lease)) => hasher.number(2).bytes(value).number(lease.get().cast_unsigned()),
                (None, _) => hasher.number(0),
            }
        });
        Digest(hasher.finish())
    }

    /// Of no changes, in a record that raises a keyspace to a revision. No commit has it: its context is another.
    fn of_raise(to: Revision) -> Self {
        Digest(Hasher::new(&RAISE).number(to.get()).finish())
    }

    /// A digest from its bytes.
    pub const fn new(raw: [u8; 32]) -> Self {
        Digest(raw)
    }

    /// The bytes.
    pub const fn get(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ChainRecord {
    /// The record that raises a restored keyspace: `restored` is where its history was cut, `head` where it was in the
    /// cluster that the backup was made of.
    ///
    /// # Panics
    /// When `to` does not lie behind `restored`.
    pub fn raise(restored: &Head, head: Revision, to: Revision, at: Timestamp, cluster: ClusterId) -> Self {
        assert!(to > restored.revision, "a raise goes up");
        let from = restored.revision;
        let was = if from == head { String::new() } else { format!(", which was at {head},") };
        ChainRecord {
            revision: to,
            at: at.after(restored.at),
            actor: RAISED_BY.into(),
            reason: format!("restored from {from} of cluster {cluster}{was} and raised to {to}"),
            request: None,
            digest: Digest::of_raise(to),
            previous: restored.hash,
        }
    }

    /// Whether this record raises its keyspace after a restore. It then wrote nothing, and revisions before it may be
    /// missing.
    pub fn is_raise(&self) -> bool {
        self.digest == Digest::of_raise(self.revision)
    }

    /// The record of a commit applied on top of `previous`.
    pub fn follow(previous: &Head, commit: &Commit) -> Self {
        ChainRecord {
            revision: previous.revision.next(),
            at: commit.at,
            actor: commit.actor.clone(),
            reason: commit.reason.clone(),
            request: commit.request,
            digest: Digest::of(&commit.changes),
            previous: previous.hash,
        }
    }

    /// The record's hash.
    pub fn hash(&self, keyspace: &Keyspace) -> Digest {
        let request = self.request.map(RequestId::get);
        let hasher = Hasher::new(&RECORD)
            .bytes(keyspace.as_str().as_bytes())
            .number(self.revision.get())
            .number(self.at.micros().cast_unsigned())
            .bytes(self.actor.as_bytes())
            .bytes(self.reason.as_bytes())
            .bytes(request.as_ref().map_or(&[], |id| &id[..]))
            .bytes(&self.digest.0)
            .bytes(&self.previous.0);
        Digest(hasher.finish())
    }

    /// The head after this record.
    pub fn head(&self, keyspace: &Keyspace) -> Head {
        Head { revision: self.revision, hash: self.hash(keyspace), at: self.at }
    }
}

impl Head {
    /// The head one record further, if the record follows from this one.
    pub fn step(&self, keyspace: &Keyspace, record: &ChainRecord) -> Result<Head, ChainError> {
        let follows = record.revision.since(self.revision) == 1;
        let raised = || record.revision > self.revision && record.is_raise();
        if !follows && !raised() {
            // Of a record from outside: there may be no next revision.
            let expected = Revision::new(self.revision.get().saturating_add(1));
            return Err(ChainError::Gap { keyspace: keyspace.clone(), expected, found: record.revision });
        }
        if record.previous != self.hash {
            return Err(ChainError::Broken { keyspace: keyspace.clone(), revision: record.revision });
        }
        Ok(record.head(keyspace))
    }
}

impl Fold {
    /// Replaces one keyspace's head by another.
    pub fn replace(&mut self, keyspace: &Keyspace, old: &Head, new: &Head) {
        self.toggle(keyspace, old);
        self.toggle(keyspace, new);
    }

    /// Adds a head, or takes it out again. The head of an empty keyspace counts for nothing.
    pub fn toggle(&mut self, keyspace: &Keyspace, head: &Head) {
        if head.revision == Revision::ZERO {
            return;
        }
        let hasher =
            Hasher::new(&HEAD).bytes(keyspace.as_str().as_bytes()).number(head.revision.get()).bytes(&head.hash.0);
        for (byte, with) in self.0.iter_mut().zip(hasher.finish()) {
            *byte ^= with;
        }
    }

    /// Adds something that a keyspace has beside its keys, or takes it out again: its place and its content.
    pub fn toggle_record(&mut self, place: &[u8], content: &[u8]) {
        let hasher = Hasher::new(&BESIDE).bytes(place).bytes(content);
        for (byte, with) in self.0.iter_mut().zip(hasher.finish()) {
            *byte ^= with;
        }
    }

    /// The bytes.
    pub const fn get(&self) -> &[u8; 32] {
        &self.0
    }
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for Fold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(key: &'static str, value: Option<&'static str>) -> Commit {
        Commit {
            keyspace: Keyspace::new("test").unwrap(),
            base: Revision::ZERO,
            at: Timestamp::from_micros(7),
            actor: "ann".into(),
            reason: "because".into(),
            request: None,
            succeeded: true,
            changes: vec![Change { key: key.into(), value: value.map(Into::into), lease: None }],
            effects: Vec::new(),
        }
    }

    fn chain() -> (Keyspace, Vec<ChainRecord>) {
        let keyspace = Keyspace::new("test").unwrap();
        let mut head = Head::default();
        let records = [commit("a", Some("1")), commit("b", Some("2")), commit("a", None)]
            .iter()
            .map(|commit| {
                let record = ChainRecord::follow(&head, commit);
                head = record.head(&keyspace);
                record
            })
            .collect();
        (keyspace, records)
    }

    fn walk(keyspace: &Keyspace, records: &[ChainRecord]) -> Result<Head, ChainError> {
        records.iter().try_fold(Head::default(), |head, record| head.step(keyspace, record))
    }

    /// Whatever field of whatever record is edited, or whichever record is taken out, the chain or its head tells.
    #[test]
    fn every_edit_shows() {
        let (keyspace, records) = chain();
        let sound = walk(&keyspace, &records).unwrap();
        let edits: [fn(&mut ChainRecord); 6] = [
            |r| r.at = Timestamp::from_micros(8),
            |r| r.actor.push('x'),
            |r| r.reason.push('x'),
            |r| r.request = Some(RequestId::new([1; 16])),
            |r| r.digest.0[31] ^= 1,
            |r| r.previous.0[0] ^= 1,
        ];
        for at in 0..records.len() {
            for edit in edits {
                let mut edited = records.clone();
                edit(&mut edited[at]);
                assert_ne!(walk(&keyspace, &edited), Ok(sound), "edit of record {at} went unnoticed");
            }
            let mut shortened = records.clone();
            shortened.remove(at);
            assert_ne!(walk(&keyspace, &shortened), Ok(sound));
        }
    }

    /// A raise is the only gap, and it holds what lies before it fast like any other record.
    #[test]
    fn only_a_recorded_raise_leaves_a_gap() {
        let (keyspace, mut records) = chain();
        let restored = walk(&keyspace, &records).unwrap();
        let cluster = ClusterId::new([7; 16]);
        let to = Revision::new(1_000_003);
        let raise = ChainRecord::raise(&restored, restored.revision, to, Timestamp::from_micros(1), cluster);
        assert!(raise.is_raise() && raise.at > restored.at && !records[2].is_raise());
        let expected = "restored from r3 of cluster 07070707070707070707070707070707 and raised to r1000003";
        assert_eq!(raise.reason, expected);
        let after = ChainRecord::follow(&raise.head(&keyspace), &commit("c", Some("3")));
        assert_eq!(after.revision, to.next());
        records.extend([raise, after]);
        let sound = walk(&keyspace, &records).unwrap();
        for at in 0..records.len() {
            let mut shortened = records.clone();
            shortened.remove(at);
            assert_ne!(walk(&keyspace, &shortened), Ok(sound), "record {at} went unnoticed");
        }
        let edits: [fn(&mut ChainRecord); 4] = [
            |r| r.revision = Revision::new(1_000_002),
            |r| r.digest = Digest::of(&[]),
            |r| r.previous.0[0] ^= 1,
            |r| r.reason.push('x'),
        ];
        for edit in edits {
            let mut edited = records.clone();
            edit(&mut edited[3]);
            assert!(walk(&keyspace, &edited).is_err());
        }
        let mut back = records.clone();
        back[3] = ChainRecord::raise(&Head::default(), to, Revision::new(2), Timestamp::default(), cluster);
        assert!(walk(&keyspace, &back).is_err(), "nothing goes back");
    }

    #[test]
    fn a_fold_depends_on_heads_and_not_on_their_order() {
        let (a, b) = (Keyspace::new("a").unwrap(), Keyspace::new("b").unwrap());
        let head = |n| Head { revision: Revision::new(n), hash: Digest([n as u8; 32]), at: Timestamp::default() };
        let (mut one, mut two) = (Fold::default(), Fold::default());
        one.replace(&a, &Head::default(), &head(1));
        one.replace(&b, &Head::default(), &head(2));
        one.replace(&a, &head(1), &head(3));
        two.toggle(&b, &head(2));
        two.toggle(&a, &head(3));
        assert_eq!(one, two);
        two.replace(&b, &head(2), &head(4));
        assert_ne!(one, two);
    }

    #[test]
    fn a_digest_tells_a_delete_from_an_empty_value() {
        assert_ne!(Digest::of(&commit("a", None).changes), Digest::of(&commit("a", Some("")).changes));
    }
}
