//! Whether one order of all writes explains every linearizable answer, at the moment when it was given.
//!
//! This is the search of Wing & Gong with Lowe's memoisation, made narrow by what every answer of this API carries: the
//! revision at which it was true. An answered write owns its revision and an answered read belongs behind the write of its
//! revision, so the place of every answered operation is fixed before the search begins; only which operation of unknown
//! outcome took a revision that nobody owns is left to be searched. Real time then becomes a comparison of minima instead
//! of a choice. The memory of the search holds (revision, the set of unknown operations used, the state's fingerprint).
//! The whole keyspace is one object, not one per key, so that a revision given twice or never is found.
//!
//! The `LinearizabilityTester` of the crate `stateright` was not used: it recurses once per operation, copies all that
//! remains of the history at each step, remembers no state that it has refuted, and knows nothing of revisions, which is
//! right for the handful of operations of a model checker and hopeless for thousands.
//!
//! Must hold: a history is refused only if no order explains it; giving up is an answer of its own. Work and memory are
//! bounded by [`SEARCH_STATES_MAX`].
//!
//! Left to others: local reads (`serial`) and watches (`watch`), which are compared with the order found here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use crate::evidence::Evidence;
use crate::history::{Answer, Freshness, Operation, Outcome, Request, Revision};
use crate::model::{Event, State};
use crate::places::Places;
use crate::watch::WatchRecord;

/// How many states a search may visit: a million of some hundred bytes, which takes seconds.
pub const SEARCH_STATES_MAX: usize = 1_000_000;

/// How many states a search may visit for an order that explains what watches and local reads saw, too. It hardly ever goes
/// back, unless somebody lies: then it would try everything.
const TRUSTING_STATES_MAX: usize = 50_000;

/// One write in the order that explains the history.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its revision.
    pub revision: Revision,
    /// The operation, by its index in the history.
    pub by: usize,
    /// What it did, one event for each key.
    pub events: Vec<Event>,
}

/// The order that explains a history, without a gap from revision 2 on.
#[derive(Clone, Debug, Default)]
pub struct Linearization {
    /// All writes.
    pub commits: Vec<Commit>,
    /// Why no order was found that explains what watches and local reads saw, too. One of them lied, or the search gave up.
    pub unexplained: Option<Refusal>,
}

impl Linearization {
    /// The revision of the last write.
    pub fn revision(&self) -> Revision {
        self.commits.last().map_or(Revision::EMPTY, |commit| commit.revision)
    }
}

/// Why a history is not linearizable, or was not decided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Two writes were told the same revision.
    #[error("split revision {revision}: it was given to both ({first}) and ({second})")]
    Split {
        /// The revision.
        revision: Revision,
        /// One write.
        first: String,
        /// The other.
        second: String,
    },
    /// An operation came later and was answered from an earlier revision.
    #[error("stale: ({later}) was asked after the answer to ({earlier}), and answered from before it")]
    Stale {
        /// The one that ended first.
        earlier: String,
        /// The one that does not know of it.
        later: String,
    },
    /// No other answer of the history allows this one.
    #[error("wrong answer: ({operation}) should have been answered {expected}")]
    Wrong {
        /// The operation.
        operation: String,
        /// What the model answers at that revision.
        expected: String,
    },
    /// A revision was passed that no operation can have written.
    #[error("unexplained revision {revision}: {why}; the next answer behind it is ({witness})")]
    Unexplained {
        /// The revision.
        revision: Revision,
        /// What was tried.
        why: String,
        /// An operation that was answered from this revision or a later one.
        witness: String,
    },
    /// A key was attached to a lease that was gone.
    #[error("dead lease: ({put}) was asked after the answer to ({revoked})")]
    DeadLease {
        /// The write.
        put: String,
        /// The revocation.
        revoked: String,
    },
    /// Neither accepted nor refused.
    #[error("gave up at {revision} after {states} states: too many operations of unknown outcome")]
    GaveUp {
        /// How far the search came.
        revision: Revision,
        /// How many states it saw.
        states: usize,
    },
}

/// Finds the order that explains `history`, which must begin with an empty store, and with it all that `watches` and local
/// reads saw. Where no order is found that does, one that explains the answers is enough: a watcher that lies does not make a
/// history wrong, and the watch's own check says so.
pub fn check(history: &[Operation], watches: &[WatchRecord]) -> Result<Linearization, Refusal> {
    check_within(history, watches, SEARCH_STATES_MAX)
}

/// The same with a limit of one's own.
pub fn check_within(
    history: &[Operation],
    watches: &[WatchRecord],
    states_max: usize,
) -> Result<Linearization, Refusal> {
    let mut seen = Evidence::default();
    watches.iter().for_each(|watch| watch.testify(&mut seen));
    // Keys that nobody watches are told of by local reads alone, where their writers never got an answer.
    history.iter().filter(|op| op.freshness != Freshness::Linearizable).for_each(|op| {
        if let Outcome::Answered { answer, .. } = &op.outcome {
            seen.note_answer(answer);
        }
    });
    leases(history)?;
    let answered = Places::of(history, |op| op.freshness == Freshness::Linearizable)?;
    answered.check_real_time(history)?;
    let search = |places: &Places<'_>, trust, max| Search::new(history, places, &seen, trust, max).run();
    let all = Places::of(history, |_| true);
    all.and_then(|places| search(&places, Trust::All, states_max.min(TRUSTING_STATES_MAX))).or_else(|why| {
        let truth = search(&answered, Trust::Answers, states_max)?;
        Ok(Linearization { unexplained: Some(why), ..truth })
    })
}

/// Whom an order may not contradict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Watchers and local reads, too.
    All,
    /// Only who was answered; what others saw makes an order likelier.
    Answers,
}

/// A revision that nobody owns, and who may still be tried for it.
struct Gap {
    before: State,
    candidates: Vec<usize>,
    used: UsedSet,
    commits: usize,
}

/// The unknown operations that an order uses, one bit each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct UsedSet(Box<[u64]>);

impl UsedSet {
    fn has(&self, open: usize) -> bool {
        self.0[open / 64] & (1 << (open % 64)) != 0
    }

    fn add(&mut self, open: usize) {
        self.0[open / 64] |= 1 << (open % 64);
    }
}

struct Search<'a> {
    history: &'a [Operation],
    places: &'a Places<'a>,
    seen: &'a Evidence,
    trust: Trust,
    states_max: usize,
    goal: Revision,
    visited: HashSet<(Revision, UsedSet, u64)>,
    gaps: Vec<Gap>,
    commits: Vec<Commit>,
    /// The refusal that was met furthest on, which says most about what is wrong.
    deepest: Option<(Revision, Refusal)>,
}

impl<'a> Search<'a> {
    fn new(
        history: &'a [Operation],
        places: &'a Places<'a>,
        seen: &'a Evidence,
        trust: Trust,
        states_max: usize,
    ) -> Self {
        Search {
            history,
            places,
            seen,
            trust,
            states_max,
            goal: places.last(),
            visited: HashSet::new(),
            gaps: Vec::new(),
            commits: Vec::new(),
            deepest: None,
        }
    }

    fn run(mut self) -> Result<Linearization, Refusal> {
        let mut state = State::default();
        let mut used = UsedSet(vec![0; self.places.open.len().div_ceil(64)].into_boxed_slice());
        let mut refused = self.readers(&state, None).err();
        loop {
            if let Some(refusal) = refused.take() {
                if self.deepest.as_ref().is_none_or(|(at, _)| *at < state.revision()) {
                    self.deepest = Some((state.revision(), refusal.clone()));
                }
                let Some((next, with)) = self.backtrack() else {
                    return Err(self.deepest.map_or(refusal, |(_, deepest)| deepest));
                };
                (state, used) = (next, with);
                refused = self.take_candidate(&mut state, &mut used).err();
                continue;
            }
            if state.revision() >= self.goal {
                return Ok(self.finish(state, &used));
            }
            if self.visited.len() >= self.states_max {
                return Err(Refusal::GaveUp { revision: state.revision(), states: self.visited.len() });
            }
            let next = state.revision().next();
            refused = match self.places.writer.get(&next) {
                Some(writer) => self.take_writer(&mut state, *writer).err(),
                None => match self.open_gap(&state, &used) {
                    Ok(()) => self.take_candidate(&mut state, &mut used).err(),
                    Err(refusal) => Some(refusal),
                },
            };
        }
    }

    /// Goes back to the last revision with somebody left to try.
    fn backtrack(&mut self) -> Option<(State, UsedSet)> {
        while let Some(gap) = self.gaps.last() {
            self.commits.truncate(gap.commits);
            if !gap.candidates.is_empty() {
                return Some((gap.before.clone(), gap.used.clone()));
            }
            self.gaps.pop();
        }
        None
    }

    fn take_writer(&mut self, state: &mut State, writer: usize) -> Result<(), Refusal> {
        let (expected, events) = state.apply(&self.history[writer].request);
        if Some(&expected) != self.places.answers.get(&writer).copied() {
            return Err(self.wrong(writer, &expected));
        }
        self.commits.push(Commit { revision: expected.revision, by: writer, events });
        self.readers(state, None)
    }

    /// Lists who may have written the revision after `state`, the likeliest last because they are popped.
    fn open_gap(&mut self, state: &State, used: &UsedSet) -> Result<(), Refusal> {
        let revision = state.revision().next();
        if !self.visited.insert((revision, used.clone(), state.fingerprint())) {
            return Err(self.unexplained(revision, "every way to it was tried before"));
        }
        let mut candidates = self.candidates(state, used, revision);
        if candidates.is_empty() {
            let why = "no write was answered with it, and none of unknown outcome fits what was read of it";
            return Err(self.unexplained(revision, why));
        }
        // What does more than anybody saw is less likely than what does just that.
        candidates.sort_by_key(|(_, unseen)| Reverse(unseen.unwrap_or(usize::MAX)));
        let candidates = candidates.into_iter().map(|(index, _)| index).collect();
        let gap = Gap { before: state.clone(), candidates, used: used.clone(), commits: self.commits.len() };
        self.gaps.push(gap);
        Ok(())
    }

    /// Unknown operations, and revocations answered with this revision, that change `state` as was read later; with each,
    /// how much of what it did nobody saw; `None` if something else was seen, which is left out where all are trusted.
    fn candidates(&self, state: &State, used: &UsedSet, revision: Revision) -> Vec<(usize, Option<usize>)> {
        let first_return = self.places.first_return(revision);
        let open = self.places.open.iter().enumerate().filter(|(bit, _)| !used.has(*bit)).map(|(_, index)| *index);
        let revocations = self.places.readers(revision).iter().copied();
        let revocations = revocations.filter(|index| matches!(self.history[*index].request, Request::Revoke(_)));
        open.chain(revocations)
            .filter(|index| first_return.is_none_or(|(at, _)| self.history[*index].invoked <= at))
            .filter_map(|index| {
                let (_, events) = state.clone().apply(&self.history[index].request);
                if events.is_empty() || !self.places.sure.admits(revision, &events) {
                    return None;
                }
                let unseen = self.seen.unseen(revision, &events);
                (unseen.is_some() || self.trust == Trust::Answers).then_some((index, unseen))
            })
            .collect()
    }

    fn take_candidate(&mut self, state: &mut State, used: &mut UsedSet) -> Result<(), Refusal> {
        let candidate = self.gaps.last_mut().and_then(|gap| gap.candidates.pop());
        let index = candidate.expect("a gap is opened and gone back to only while candidates are left");
        if let Some(bit) = self.places.open.iter().position(|open| *open == index) {
            used.add(bit);
        }
        let (expected, events) = state.apply(&self.history[index].request);
        if self.places.answers.get(&index).is_some_and(|answer| **answer != expected) {
            return Err(self.wrong(index, &expected));
        }
        self.commits.push(Commit { revision: expected.revision, by: index, events });
        self.readers(state, Some(index))
    }

    /// Compares all answers from the state's own revision with the state.
    fn readers(&self, state: &State, writer: Option<usize>) -> Result<(), Refusal> {
        for reader in self.places.readers(state.revision()).iter().filter(|reader| Some(**reader) != writer) {
            let (expected, _) = state.clone().apply(&self.history[*reader].request);
            if Some(&expected) != self.places.answers.get(reader).copied() {
                return Err(self.wrong(*reader, &expected));
            }
        }
        Ok(())
    }

    /// Behind the last answer only watchers know what happened; what they saw is taken as far as it can be explained.
    fn finish(mut self, mut state: State, used: &UsedSet) -> Linearization {
        let mut used = used.clone();
        while self.seen.last().is_some_and(|last| state.revision() < last) {
            let revision = state.revision().next();
            let candidates = self.candidates(&state, &used, revision);
            let likely = candidates.into_iter().filter_map(|(index, unseen)| Some((unseen?, index)));
            let Some((_, index)) = likely.min() else { break };
            if let Some(bit) = self.places.open.iter().position(|open| *open == index) {
                used.add(bit);
            }
            let (_, events) = state.apply(&self.history[index].request);
            self.commits.push(Commit { revision, by: index, events });
        }
        Linearization { commits: self.commits, unexplained: None }
    }

    fn wrong(&self, operation: usize, expected: &Answer) -> Refusal {
        Refusal::Wrong { operation: describe(self.history, operation), expected: expected.to_string() }
    }

    fn unexplained(&self, revision: Revision, why: &str) -> Refusal {
        let witness = self.places.first_return.range(revision..).next().and_then(|(at, _)| {
            self.places.writer.get(at).copied().or_else(|| self.places.readers(*at).first().copied())
        });
        let witness = witness.map_or_else(|| "nobody's".to_owned(), |index| describe(self.history, index));
        Refusal::Unexplained { revision, why: why.to_owned(), witness }
    }
}

/// No key may be attached to a lease after the answer to its revocation.
fn leases(history: &[Operation]) -> Result<(), Refusal> {
    let mut revoked = BTreeMap::new();
    for (index, op) in history.iter().enumerate() {
        if let (Request::Revoke(lease), Outcome::Answered { at, .. }) = (&op.request, &op.outcome) {
            revoked.entry(*lease).or_insert((*at, index));
        }
    }
    for (index, op) in history.iter().enumerate() {
        let Outcome::Answered { .. } = op.outcome else { continue };
        let Some(lease) = op.request.lease_attached() else { continue };
        if let Some((_, by)) = revoked.get(&lease).filter(|(at, _)| *at < op.invoked) {
            return Err(Refusal::DeadLease { put: describe(history, index), revoked: describe(history, *by) });
        }
    }
    Ok(())
}

/// An operation for people, with its index.
pub(crate) fn describe(history: &[Operation], index: usize) -> String {
    format!("#{index} {}", history[index])
}
