//! Moving keyspaces between groups.
//!
//! ```text
//! asked for ──► a record in the keyspace of moves ──► the leader of its group carries it out:
//!
//!   copy, in rounds, while it is written ──► seal ──► last round ──► adopt ──► drop what is left
//!             └───────────── given up ─────────┴──► discard, unseal
//! ```
//!
//! Must hold: what to do next follows from the record and from how the keyspace stands in its two groups, and from nothing
//! that is only in memory. Whoever carries it out can be killed anywhere; the next one goes on.
//!
//! Left to others: what the steps do to a group (`kv-store`), and which are allowed when (`kv_core::MoveStep`).

mod book;
mod carry;
mod run;
pub(crate) mod spread;

use kv_core::{GroupId, Keyspace, MoveId};
use serde::{Deserialize, Serialize};

pub(crate) use run::run;

use crate::{
    error::{CommitError, ReadError},
    node::Node,
};

/// How far a move is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveStage {
    /// Others are carried out first.
    Waiting,
    /// It is copied, and goes on being written.
    Copying,
    /// It takes no writes for a moment: what is left is copied.
    Finishing,
    /// It is there. What is left of it where it was goes.
    Dropping,
    /// It is given up: what has been copied goes.
    GivingUp,
    /// Done.
    Done,
    /// It has not moved, for this reason.
    GivenUp(String),
}

/// A move, under way or ended lately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveStatus {
    /// What moves.
    pub keyspace: Keyspace,
    /// Which move.
    pub id: MoveId,
    /// From where.
    pub from: GroupId,
    /// Where to.
    pub to: GroupId,
    /// How far it is.
    pub stage: MoveStage,
    /// Bytes copied, of what was written meanwhile too.
    pub copied_bytes: u64,
    /// Bytes of its keys and values, when the copying began. Its history comes on top.
    pub of_bytes: u64,
}

/// Why a keyspace does not move.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// One of those that the cluster keeps its own affairs in.
    #[error("{keyspace} stays in {group}: the cluster keeps its own affairs there")]
    Stays {
        /// The keyspace.
        keyspace: Keyspace,
        /// Its group.
        group: GroupId,
    },
    /// There is no such group.
    #[error("there is no {group}; groups are g0 to g{}", .groups.saturating_sub(1))]
    NoGroup {
        /// What was asked for.
        group: GroupId,
        /// How many there are.
        groups: u16,
    },
    /// There is no such keyspace.
    #[error("there is no keyspace {keyspace}: nothing was ever written to it")]
    NoKeyspace {
        /// What was asked for.
        keyspace: Keyspace,
    },
    /// It is there.
    #[error("{keyspace} is in {group} already")]
    There {
        /// The keyspace.
        keyspace: Keyspace,
        /// The group.
        group: GroupId,
    },
    /// It moves.
    #[error("{keyspace} is moving to {to} already; wait for that, or stop it")]
    Moving {
        /// The keyspace.
        keyspace: Keyspace,
        /// Where to.
        to: GroupId,
    },
    /// It does not move.
    #[error("{keyspace} is not moving")]
    NotMoving {
        /// The keyspace.
        keyspace: Keyspace,
    },
    /// Too many wait.
    #[error("{limit} keyspaces are moving or waiting to; wait for some of them")]
    TooMany {
        /// How many may.
        limit: usize,
    },
    /// It could not be written down.
    #[error("the move was not written down")]
    Commit(#[from] CommitError),
    /// What is known of moves could not be read.
    #[error("what is known of moves could not be read")]
    Read(#[from] ReadError),
    /// What is known of moves makes no sense.
    #[error("the record {key} of moves was written by another version of netstate; start that one")]
    Unreadable {
        /// Its key.
        key: String,
    },
}

/// Moves under way or waiting at a time.
const MOVES: usize = 1024;

impl Node {
    /// Begins to move a keyspace to another group. The leader of the group of moves carries it out, whoever asked; how far
    /// it is, [`moves`](Node::moves) tell.
    pub async fn move_keyspace(&self, keyspace: &Keyspace, to: GroupId) -> Result<MoveId, MoveError> {
        if keyspace.stays() {
            return Err(MoveError::Stays { keyspace: keyspace.clone(), group: self.group_of(keyspace) });
        }
        if to.get() >= self.groups() {
            return Err(MoveError::NoGroup { group: to, groups: self.groups() });
        }
        loop {
            self.up_to_date(&book::keyspace()).await?;
            let page = self.book()?;
            if let Some(known) = page.records.get(keyspace) {
                return Err(MoveError::Moving { keyspace: keyspace.clone(), to: known.to });
            }
            if page.records.len() >= MOVES {
                return Err(MoveError::TooMany { limit: MOVES });
            }
            self.up_to_date(keyspace).await?;
            let from = self.group_of(keyspace);
            if from == to {
                return Err(MoveError::There { keyspace: keyspace.clone(), group: to });
            }
            if self.0.store.state().standing(from, keyspace).is_none() {
                return Err(MoveError::NoKeyspace { keyspace: keyspace.clone() });
            }
            if let Some(id) = self.open(&page, keyspace, from, to).await? {
                return Ok(id);
            }
        }
    }

    /// Gives up a move. One that has come to its end is not taken back.
    pub async fn stop_move(&self, keyspace: &Keyspace) -> Result<(), MoveError> {
        loop {
            self.up_to_date(&book::keyspace()).await?;
            let page = self.book()?;
            let known = page.records.get(keyspace);
            let Some(record) = known else { return Err(MoveError::NotMoving { keyspace: keyspace.clone() }) };
            let why = "it was stopped".to_string();
            let record = book::Record { given_up: record.given_up.clone().or(Some(why)), ..record.clone() };
            if self.rewrite(&page, keyspace, Some(&record)).await? {
                return Ok(());
            }
        }
    }

    /// The moves that are under way, and how the last one of each other keyspace ended; as the local replica has it.
    pub fn moves(&self) -> Result<Vec<MoveStatus>, MoveError> {
        let mut page = self.book()?;
        for (keyspace, record) in &page.records {
            let told = page.told.get(keyspace).filter(|told| told.id == record.id);
            if told.is_none() {
                let status = record.status(keyspace, MoveStage::Waiting);
                page.told.insert(keyspace.clone(), status);
            }
        }
        Ok(page.told.into_values().collect())
    }
}
