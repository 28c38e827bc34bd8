//! Local reads: they may be old, but they must be true of the revision that they name, and a member never goes back.
//!
//! Must hold: what a local read shows was the whole content at its revision, that revision was written before the read
//! ended, and reads of one client from one life of a member do not go back.
//!
//! Left to others: how old a local read may be; the API makes no promise.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Answer, At, Freshness, Operation, Outcome, Revision};
use crate::linear::{Commit, Linearization, describe};
use crate::model::State;

/// Why a local read is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SerialRefusal {
    /// The content was never so at this revision.
    #[error("wrong local read: ({read}) should have been answered {expected}")]
    Wrong {
        /// The read.
        read: String,
        /// What the model answers at that revision.
        expected: String,
    },
    /// The revision was not yet asked for, or never came to be.
    #[error("local read of the future: ({read}), while the last revision that can have existed is {last}")]
    Future {
        /// The read.
        read: String,
        /// The last revision.
        last: Revision,
    },
    /// A member showed an older state than before.
    #[error("local reads went back: ({later}) came after ({earlier})")]
    Backwards {
        /// The read that ended first.
        earlier: String,
        /// The read that is older.
        later: String,
    },
}

/// Compares every local read with the order of writes. The operations of a client stand in the history in its own order.
pub fn check(history: &[Operation], truth: &Linearization) -> Result<(), SerialRefusal> {
    let mut by_revision: BTreeMap<Revision, Vec<usize>> = BTreeMap::new();
    let mut newest: HashMap<_, (Revision, usize)> = HashMap::new();
    for (index, op) in history.iter().enumerate() {
        let Some((answer, _)) = local(op) else { continue };
        by_revision.entry(answer.revision).or_default().push(index);
        let Freshness::Serializable { life: Some(life) } = op.freshness else { continue };
        let before = newest.entry((op.client, life)).or_insert((answer.revision, index));
        if answer.revision < before.0 {
            let (earlier, later) = (describe(history, before.1), describe(history, index));
            return Err(SerialRefusal::Backwards { earlier, later });
        }
        *before = (answer.revision, index);
    }
    let mut state = State::default();
    compare(history, &by_revision, &state, None)?;
    for commit in &truth.commits {
        state.replay(&commit.events);
        compare(history, &by_revision, &state, Some(commit))?;
    }
    match by_revision.range(state.revision().next()..).next().and_then(|(_, reads)| reads.first()) {
        Some(read) => Err(SerialRefusal::Future { read: describe(history, *read), last: state.revision() }),
        None => Ok(()),
    }
}

fn compare(
    history: &[Operation],
    by_revision: &BTreeMap<Revision, Vec<usize>>,
    state: &State,
    commit: Option<&Commit>,
) -> Result<(), SerialRefusal> {
    for read in by_revision.get(&state.revision()).into_iter().flatten() {
        let Some((answer, at)) = local(&history[*read]) else { continue };
        if let Some(commit) = commit.filter(|commit| at < history[commit.by].invoked) {
            let last = Revision::new(commit.revision.get() - 1);
            return Err(SerialRefusal::Future { read: describe(history, *read), last });
        }
        let (expected, _) = state.clone().apply(&history[*read].request);
        if expected != *answer {
            let (read, expected) = (describe(history, *read), expected.to_string());
            return Err(SerialRefusal::Wrong { read, expected });
        }
    }
    Ok(())
}

fn local(op: &Operation) -> Option<(&Answer, At)> {
    match (&op.freshness, &op.outcome) {
        (Freshness::Serializable { .. }, Outcome::Answered { at, answer }) => Some((answer, *at)),
        _ => None,
    }
}
