//! A keyspace's move from one group to another, as each of the two groups sees it.
//!
//! ```text
//! source:  live ──seal──► sealed ──drop──► gone (to the target)
//!            ▲              │
//!            └───unseal─────┘
//! target:  nothing, gone or absent ──fill──► arriving ──adopt──► live
//!                           ▲                  │
//!                           └─────discard──────┘
//! ```
//!
//! A sealed keyspace is read and watched, and refuses writes. One that arrives is nobody's yet. What is gone leaves a
//! record that says where to.
//!
//! Must hold: at most one of the two takes writes. The target adopts only what the source has sealed, the source unseals
//! only what the target has discarded, and the target's log decides between the two. A step that comes late (its sender
//! has been replaced, its move has ended) is refused: moves of a keyspace have growing ids, and what fills one has an epoch
//! and a number.
//!
//! Left to others: which rows there are (`kv-store`), and taking the steps in their order (`kv-node`).

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{GroupId, Head, Revision, Timestamp};

/// One move. A later one of the same keyspace has a greater id. Zero: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MoveId(u64);

/// One step of a move, in the log of one of the two groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveStep {
    /// In the source: no more writes.
    Seal {
        /// Where it moves to.
        to: GroupId,
    },
    /// In the source: writes again, for the move is given up.
    Unseal,
    /// In the target: rows come, or go again.
    Fill {
        /// Where they come from.
        from: GroupId,
        /// Who fills: whoever comes later has a greater one. It begins with number zero.
        epoch: u64,
        /// The number of this step in its epoch.
        number: u64,
        /// The format of the rows.
        format: u8,
        /// With these rows all that the source had by then is there.
        mark: Option<Mark>,
        /// The rows.
        rows: Vec<Row>,
    },
    /// In the target: it is here now.
    Adopt {
        /// Who has filled it.
        epoch: u64,
        /// The number of the last step that filled it.
        number: u64,
        /// What the source has.
        terms: Terms,
    },
    /// In the source: what is left of it goes.
    Drop,
    /// In the target: what has come of it goes, for the move is given up.
    Discard {
        /// Where it stays.
        from: GroupId,
    },
}

/// A row of a keyspace, as stored. What it says is between the stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The kind of record.
    pub kind: u8,
    /// Its key, without group, kind and keyspace.
    pub key: Bytes,
    /// Its content; `None`: there is none.
    pub value: Option<Bytes>,
}

/// How far the source was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its revision.
    pub revision: Revision,
    /// The time of that revision.
    pub at: Timestamp,
}

/// What a keyspace is beside its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Its head.
    pub head: Head,
    /// What only reads of earlier revisions could see has been compacted.
    pub floor: Revision,
    /// The chain's records before this one may have gone.
    pub forgotten: Revision,
    /// Keys there are.
    pub keys: u64,
    /// Bytes of those keys and their values.
    pub bytes: u64,
}

/// What a group has of a keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It is here.
    #[default]
    Live,
    /// It is here, takes no writes, and moves away.
    Sealed {
        /// Where to.
        to: GroupId,
    },
    /// It comes, and is not here yet.
    Arriving {
        /// Where from.
        from: GroupId,
        /// Who fills it.
        epoch: u64,
        /// The number of the last step that filled it.
        number: u64,
        /// The head of the latest chain record that has come.
        tip: Head,
        /// All that the source had by then has come.
        mark: Option<Mark>,
    },
    /// It was here.
    Gone {
        /// Where it went.
        to: GroupId,
    },
    /// It was to come, and that was given up.
    Absent {
        /// Where it stayed.
        at: GroupId,
    },
}

/// What a group has of a keyspace, and since when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// What it has.
    pub phase: Phase,
    /// The last move that this copy took part in.
    pub last: MoveId,
}

/// What a step comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// It was taken before.
    Before,
    /// It does not fit, and changes nothing.
    Refused,
    /// Nothing but the standing changes.
    Now(Standing),
    /// Rows come; all there were go first, if it begins anew.
    Filled {
        /// The standing after it.
        standing: Standing,
        /// Whether it begins.
        begins: bool,
    },
    /// The keyspace begins to be here.
    Adopted(Standing),
    /// All rows go.
    Emptied(Standing),
}

impl MoveId {
    /// An id from its number.
    pub const fn new(raw: u64) -> Self {
        MoveId(raw)
    }

    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.0)
    }
}

impl Row {
    /// Bytes of key and content.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl MoveStep {
    /// Bytes of its rows.
    pub fn size(&self) -> usize {
        match self {
            MoveStep::Fill { rows, .. } => rows.iter().map(Row::size).sum(),
            _ => 0,
        }
    }

    /// What the step comes to in a group that has this of the keyspace (`None`: nothing, nor ever had), and whose copy
    /// has so many keys and bytes.
    pub fn decide(&self, id: MoveId, now: Option<Standing>, held: (u64, u64)) -> Stepped {
        let ended = |phase| Stepped::Now(Standing { phase, last: id });
        let last = now.map_or(MoveId::default(), |now| now.last);
        let phase = now.map(|now| now.phase);
        if id < last {
            return Stepped::Refused;
        }
        let same = id == last;
        match (self, phase) {
            (MoveStep::Seal { to }, Some(Phase::Live)) if !same => ended(Phase::Sealed { to: *to }),
            (MoveStep::Seal { .. }, Some(Phase::Sealed { .. })) if same => Stepped::Before,
            (MoveStep::Unseal, Some(Phase::Live)) if same => Stepped::Before,
            // Also where it was not sealed yet: a seal that comes later is then too late.
            (MoveStep::Unseal, Some(Phase::Live)) => ended(Phase::Live),
            (MoveStep::Unseal, Some(Phase::Sealed { .. })) if same => ended(Phase::Live),
            (MoveStep::Fill { .. }, _) => self.fill(id, phase, same),
            (MoveStep::Adopt { .. }, Some(Phase::Live)) if same => Stepped::Before,
            (
                MoveStep::Adopt { epoch, number, terms },
                Some(Phase::Arriving { epoch: filling, number: filled, tip, .. }),
            ) if same => {
                let whole = (*epoch, *number) == (filling, filled) && tip == terms.head;
                match whole && held == (terms.keys, terms.bytes) {
                    true => Stepped::Adopted(Standing { phase: Phase::Live, last: id }),
                    false => Stepped::Refused,
                }
            }
            (MoveStep::Drop, Some(Phase::Sealed { to })) if same => {
                Stepped::Emptied(Standing { phase: Phase::Gone { to }, last: id })
            }
            (MoveStep::Drop, Some(Phase::Gone { .. })) if same => Stepped::Before,
            (MoveStep::Discard { .. }, Some(Phase::Absent { .. })) if same => Stepped::Before,
            (MoveStep::Discard { from }, Some(Phase::Arriving { .. })) if same => {
                Stepped::Emptied(Standing { phase: Phase::Absent { at: *from }, last: id })
            }
            // Nothing has come, and what comes now is too late.
            (MoveStep::Discard { from }, None | Some(Phase::Gone { .. } | Phase::Absent { .. })) if !same => {
                ended(Phase::Absent { at: *from })
            }
            _ => Stepped::Refused,
        }
    }

    fn fill(&self, id: MoveId, phase: Option<Phase>, same: bool) -> Stepped {
        let MoveStep::Fill { from, epoch, number, mark, .. } = self else { return Stepped::Refused };
        let (tip, known, begins) = match phase {
            None | Some(Phase::Gone { .. } | Phase::Absent { .. }) if !same && *number == 0 => {
                (Head::default(), None, true)
            }
            Some(Phase::Arriving { epoch: filling, number: filled, tip, mark, .. }) if same => {
                if *epoch == filling && *number <= filled {
                    return Stepped::Before;
                }
                let next = *epoch == filling && *number == filled + 1;
                if !next && (*epoch <= filling || *number != 0) {
                    return Stepped::Refused;
                }
                (tip, mark, false)
            }
            _ => return Stepped::Refused,
        };
        let phase = Phase::Arriving { from: *from, epoch: *epoch, number: *number, tip, mark: mark.or(known) };
        Stepped::Filled { standing: Standing { phase, last: id }, begins }
    }
}

impl Standing {
    /// Whether it can be read here.
    pub fn readable(&self) -> bool {
        matches!(self.phase, Phase::Live | Phase::Sealed { .. })
    }

    /// Which of what two groups have of a keyspace tells more of where it is: the greater.
    pub fn weight(&self) -> (MoveId, u8) {
        let rank = match self.phase {
            Phase::Live => 3,
            Phase::Gone { .. } | Phase::Absent { .. } => 2,
            Phase::Sealed { .. } => 1,
            Phase::Arriving { .. } => 0,
        };
        (self.last, rank)
    }

    /// Where the keyspace is, if a group that stands like this tells most.
    pub fn place(&self, group: GroupId) -> GroupId {
        match self.phase {
            Phase::Live | Phase::Sealed { .. } => group,
            Phase::Gone { to } => to,
            Phase::Absent { at } => at,
            Phase::Arriving { from, .. } => from,
        }
    }

    /// Where whoever wants to write has to go, if that is not here.
    pub fn elsewhere(&self) -> Option<GroupId> {
        match self.phase {
            Phase::Live => None,
            Phase::Sealed { to } | Phase::Gone { to } => Some(to),
            Phase::Arriving { from, .. } => Some(from),
            Phase::Absent { at } => Some(at),
        }
    }
}

#[cfg(test)]
mod tests;
