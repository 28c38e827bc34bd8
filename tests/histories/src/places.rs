//! Where the answered operations of a history stand, by the revisions of their answers.
//!
//! Must hold: a history is refused here only for what no choice among unknown operations could mend: a revision with two
//! owners, and an order of revisions against the order of time.
//!
//! Left to others: contents, and the operations of unknown outcome (see `linear`).

use std::collections::BTreeMap;

use crate::evidence::Evidence;
use crate::history::{Answer, At, Operation, Outcome, Revision};
use crate::linear::{Refusal, describe};

/// The place of every answered operation.
pub(crate) struct Places<'a> {
    /// Who owns a revision, by its own answer.
    pub(crate) writer: BTreeMap<Revision, usize>,
    /// Who was answered from a revision without owning it; a revocation may turn out to be its writer.
    readers: BTreeMap<Revision, Vec<usize>>,
    /// From a revision on, which answer came first. An operation at an earlier revision cannot be asked after that.
    pub(crate) first_return: BTreeMap<Revision, (At, usize)>,
    /// What was answered to which operation.
    pub(crate) answers: BTreeMap<usize, &'a Answer>,
    /// Operations that may take a revision without an owner: those of unknown outcome.
    pub(crate) open: Vec<usize>,
    /// What the answers let one know of other operations' writes.
    pub(crate) sure: Evidence,
}

impl<'a> Places<'a> {
    /// The places of those operations of `history` that are `wanted`.
    pub(crate) fn of(history: &'a [Operation], wanted: impl Fn(&Operation) -> bool) -> Result<Self, Refusal> {
        let mut places = Places {
            writer: BTreeMap::new(),
            readers: BTreeMap::new(),
            first_return: BTreeMap::new(),
            answers: BTreeMap::new(),
            open: Vec::new(),
            sure: Evidence::default(),
        };
        for (index, op) in history.iter().enumerate().filter(|(_, op)| wanted(op)) {
            match &op.outcome {
                Outcome::Answered { at, answer } => places.place(history, index, *at, answer)?,
                Outcome::Unknown if op.request.may_write() => places.open.push(index),
                Outcome::Unknown | Outcome::Refused { .. } => {}
            }
        }
        let mut first: Option<(At, usize)> = None;
        for (_, here) in places.first_return.iter_mut().rev() {
            first = Some(first.map_or(*here, |later| later.min(*here)));
            *here = first.unwrap_or(*here);
        }
        Ok(places)
    }

    fn place(&mut self, history: &[Operation], index: usize, at: At, answer: &'a Answer) -> Result<(), Refusal> {
        let revision = answer.revision;
        if revision < Revision::EMPTY || (revision == Revision::EMPTY && answer.wrote()) {
            let why = "an empty store is at r1, and the first write at r2".to_owned();
            return Err(Refusal::Unexplained { revision, why, witness: describe(history, index) });
        }
        self.sure.note_answer(answer);
        self.answers.insert(index, answer);
        let first = self.first_return.entry(revision).or_insert((at, index));
        *first = (*first).min((at, index));
        if !answer.wrote() {
            self.readers.entry(revision).or_default().push(index);
        } else if let Some(other) = self.writer.insert(revision, index) {
            let (first, second) = (describe(history, other), describe(history, index));
            return Err(Refusal::Split { revision, first, second });
        }
        Ok(())
    }

    /// The first answer from `revision` or a later one.
    pub(crate) fn first_return(&self, revision: Revision) -> Option<(At, usize)> {
        self.first_return.range(revision..).next().map(|(_, first)| *first)
    }

    pub(crate) fn last(&self) -> Revision {
        self.first_return.keys().next_back().copied().unwrap_or(Revision::EMPTY)
    }

    pub(crate) fn readers(&self, revision: Revision) -> &[usize] {
        self.readers.get(&revision).map_or(&[], Vec::as_slice)
    }

    /// An operation must have been asked before the first answer of anything that has to come behind it.
    pub(crate) fn check_real_time(&self, history: &[Operation]) -> Result<(), Refusal> {
        let stale = |later: usize, behind: Revision| match self.first_return(behind) {
            Some((at, earlier)) if earlier != later && at < history[later].invoked => {
                Err(Refusal::Stale { earlier: describe(history, earlier), later: describe(history, later) })
            }
            _ => Ok(()),
        };
        for (revision, readers) in &self.readers {
            readers.iter().try_for_each(|reader| stale(*reader, revision.next()))?;
        }
        // A write comes before the readers of its own revision, too.
        self.writer.iter().try_for_each(|(revision, writer)| stale(*writer, *revision))
    }
}
