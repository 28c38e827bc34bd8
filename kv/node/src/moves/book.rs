//! What is written down of moves, in a keyspace of the first group.
//!
//! ```text
//! next             the id of the next move
//! move/KEYSPACE    a move that is to be carried out
//! told/KEYSPACE    how far it is, or how it ended
//! ```
//!
//! Must hold: a keyspace has one move at a time, and ids grow.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_core::{GroupId, KeyRange, Keyspace, MoveId, Operation, Outcome, Revision, Txn};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{MoveError, MoveStage, MoveStatus};
use crate::{
    node::{Node, read_error},
    raft::{decode, encode},
};

const NEXT: &str = "next";
const MOVE: &str = "move/";
const TOLD: &str = "told/";

/// Who writes it.
const ACTOR: &str = "mover";

/// The keyspace of moves.
pub(super) fn keyspace() -> Keyspace {
    Keyspace::new("kv/moves").expect("made of allowed characters")
}

/// A move that is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: MoveId,
    pub(super) from: GroupId,
    pub(super) to: GroupId,
    /// Why it is given up, if it is.
    pub(super) given_up: Option<String>,
}

/// What is stored, by its version.
#[derive(Serialize, Deserialize)]
enum Stored<T> {
    One(T),
}

/// All that is written down, at one revision.
pub(super) struct Page {
    revision: Revision,
    next: u64,
    pub(super) records: BTreeMap<Keyspace, Record>,
    pub(super) told: BTreeMap<Keyspace, MoveStatus>,
}

impl Record {
    pub(super) fn status(&self, keyspace: &Keyspace, stage: MoveStage) -> MoveStatus {
        let (keyspace, Record { id, from, to, .. }) = (keyspace.clone(), self.clone());
        MoveStatus { keyspace, id, from, to, stage, copied_bytes: 0, of_bytes: 0 }
    }
}

fn read<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, MoveError> {
    match decode(value) {
        Ok(Stored::One(value)) => Ok(value),
        Err(_) => Err(MoveError::Unreadable { key: String::from_utf8_lossy(key).into_owned() }),
    }
}

fn value<T: Serialize>(value: T) -> Bytes {
    encode(&Stored::One(value))
}

fn name(key: &[u8], prefix: &str) -> Option<Keyspace> {
    let name = key.strip_prefix(prefix.as_bytes())?;
    Keyspace::new(std::str::from_utf8(name).ok()?).ok()
}

impl Node {
    /// All that is written down, in the local replica.
    pub(super) fn book(&self) -> Result<Page, MoveError> {
        let found = self.here(&keyspace(), |group| {
            let read = self.0.store.state().range(group.id, &keyspace(), &KeyRange::All, None, usize::MAX);
            read.map_err(|error| read_error(&group.leadership, group.id, error))
        })?;
        let mut page = Page { revision: found.revision, next: 1, records: BTreeMap::new(), told: BTreeMap::new() };
        for kv in found.kvs {
            let (key, content) = (&kv.key[..], &kv.state.value[..]);
            if key == NEXT.as_bytes() {
                page.next = read(key, content)?;
            } else if let Some(of) = name(key, MOVE) {
                page.records.insert(of, read(key, content)?);
            } else if let Some(of) = name(key, TOLD) {
                page.told.insert(of, read(key, content)?);
            }
        }
        Ok(page)
    }

    /// Writes a new move down. `None`: somebody else has written something meanwhile.
    pub(super) async fn open(
        &self,
        page: &Page,
        of: &Keyspace,
        from: GroupId,
        to: GroupId,
    ) -> Result<Option<MoveId>, MoveError> {
        let id = MoveId::new(page.next);
        let record = Record { id, from, to, given_up: None };
        let told = record.status(of, MoveStage::Waiting);
        let then = vec![
            Operation::put(NEXT, value(page.next + 1)),
            Operation::put(format!("{MOVE}{of}"), value(record)),
            Operation::put(format!("{TOLD}{of}"), value(told)),
        ];
        Ok(self.write(page, then).await?.then_some(id))
    }

    /// Writes a move anew, or strikes it out. `false`: somebody else has written something meanwhile.
    pub(super) async fn rewrite(&self, page: &Page, of: &Keyspace, record: Option<&Record>) -> Result<bool, MoveError> {
        let key = format!("{MOVE}{of}");
        let operation = match record {
            Some(record) => Operation::put(key, value(record)),
            None => Operation::delete(KeyRange::Key(key.into())),
        };
        self.write(page, vec![operation]).await
    }

    async fn write(&self, page: &Page, then: Vec<Operation>) -> Result<bool, MoveError> {
        let txn = Txn { base: Some(page.revision), then, actor: ACTOR.into(), ..Txn::default() };
        Ok(matches!(self.txn(&keyspace(), txn).await?, Outcome::Applied(_)))
    }

    /// Tells how far a move is. `ended`: strikes it out, too.
    pub(super) async fn tell(&self, status: &MoveStatus, ended: bool) -> Result<(), MoveError> {
        let of = &status.keyspace;
        let mut then = vec![Operation::put(format!("{TOLD}{of}"), value(status))];
        if ended {
            then.push(Operation::delete(KeyRange::Key(format!("{MOVE}{of}").into())));
        }
        self.txn(&keyspace(), Txn { then, actor: ACTOR.into(), ..Txn::default() }).await?;
        Ok(())
    }
}
