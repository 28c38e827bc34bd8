//! The promises of a watch, checked one by one over what every watcher recorded.
//!
//! Ordered: revisions do not go back. Unique: no event comes twice. Atomic: the events of a revision come in one response,
//! unless it was asked to be cut into fragments. Reliable: there is no gap between two events. Resumable: a watch from a
//! revision gets everything from it on. Bookmarkable: behind a progress mark comes nothing at or before its revision.
//! Filtered: exactly the events of the watch's range and kind. Faithful: an event tells the key, the value, the revisions,
//! the version, the lease and the previous state as they were.
//!
//! Must hold: each refusal names the promise, the watcher and the event.
//!
//! Left to others: what truly happened, which is the order that `linear` found.

use std::fmt;

use crate::evidence::Evidence;
use crate::history::{At, KeyRange, KeyState, Revision, text};
use crate::linear::Linearization;
use crate::model::Event;

/// Which kinds of events a watch asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// All.
    All,
    /// Only puts.
    Puts,
    /// Only deletes.
    Deletes,
}

impl Kinds {
    fn wants(self, is_put: bool) -> bool {
        match self {
            Kinds::All => true,
            Kinds::Puts => is_put,
            Kinds::Deletes => !is_put,
        }
    }
}

/// What a watcher asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which keys.
    pub range: KeyRange,
    /// The first revision; none: from the next write on.
    pub start: Option<Revision>,
    /// Which events.
    pub kinds: Kinds,
    /// Whether events carry the state before.
    pub prev_kv: bool,
    /// Whether large responses may be cut.
    pub fragment: bool,
    /// Whether the store sends progress marks of its own accord.
    pub progress_notify: bool,
}

impl Wanted {
    /// Whether the watch gets an event about `key`.
    pub fn wants(&self, key: &[u8], is_put: bool) -> bool {
        self.range.contains(key) && self.kinds.wants(is_put)
    }
}

/// One event as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenEvent {
    /// A put; otherwise a delete, whose state has no more than a key and a revision.
    pub is_put: bool,
    /// The state after the event.
    pub state: KeyState,
    /// The state before.
    pub before: Option<KeyState>,
}

impl SeenEvent {
    /// How `event` must be received.
    pub fn of(event: &Event, prev_kv: bool) -> Self {
        let deleted = || KeyState {
            key: event.key.clone(),
            value: bytes::Bytes::new(),
            created: Revision::new(0),
            modified: event.revision,
            version: 0,
            lease: None,
        };
        SeenEvent {
            is_put: event.now.is_some(),
            state: event.now.clone().unwrap_or_else(deleted),
            before: event.before.clone().filter(|_| prev_kv),
        }
    }

    fn is_about(&self, other: &SeenEvent) -> bool {
        (self.is_put, self.state.modified, &self.state.key) == (other.is_put, other.state.modified, &other.state.key)
    }
}

impl fmt::Display for SeenEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_put {
            true => write!(f, "put {}", self.state)?,
            false => write!(f, "delete {}@{}", text(&self.state.key), self.state.modified)?,
        }
        self.before.as_ref().map_or(Ok(()), |before| write!(f, " over {before}"))
    }
}

/// One message of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Events; `more` if the response goes on in the next frame.
    Events {
        /// The events.
        events: Vec<SeenEvent>,
        /// Whether this is a fragment that is not the last.
        more: bool,
    },
    /// A progress mark.
    Progress {
        /// Everything up to here was delivered.
        revision: Revision,
        /// Whether a client asked for it; then it is meant for all watches of the stream.
        asked: bool,
    },
}

/// Everything that one watch received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRecord {
    /// Who: unique in its recording.
    pub name: String,
    /// What it asked for.
    pub wanted: Wanted,
    /// The revision in the store's confirmation; none if it never came.
    pub created: Option<Revision>,
    /// What came, and when.
    pub frames: Vec<(At, Frame)>,
    /// The watch was kept until everything up to here should have come.
    pub until: Option<Revision>,
    /// How it ended.
    pub ended: String,
}

impl WatchRecord {
    /// All events in the order in which they came.
    pub fn events(&self) -> impl Iterator<Item = &SeenEvent> {
        self.frames.iter().flat_map(|(_, frame)| match frame {
            Frame::Events { events, .. } => events.as_slice(),
            Frame::Progress { .. } => &[],
        })
    }

    /// The first revision that it is to be told of.
    fn start(&self) -> Option<Revision> {
        Some(self.wanted.start.unwrap_or(self.created?.next()))
    }

    pub(crate) fn testify(&self, seen: &mut Evidence) {
        // Of the last revision that it was told of, something may have been still to come.
        let complete = self.events().last().map(|event| Revision::new(event.state.modified.get().saturating_sub(1)));
        let upto = self.until.max(complete);
        if let (Some(from), Some(upto), Kinds::All) = (self.start(), upto, self.wanted.kinds) {
            seen.note_whole(self.wanted.range.clone(), from, upto);
        }
        for event in self.events() {
            let value = event.is_put.then(|| event.state.value.clone());
            seen.note(event.state.modified, event.state.key.clone(), value);
            event.before.iter().for_each(|before| seen.note_state(before));
        }
    }
}

/// A promise of the watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the module's header says what each promises")]
pub enum Promise {
    Ordered,
    Unique,
    Atomic,
    Reliable,
    Resumable,
    Bookmarkable,
    Filtered,
    Faithful,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Promise::Ordered => "ordered",
            Promise::Unique => "unique",
            Promise::Atomic => "atomic",
            Promise::Reliable => "reliable",
            Promise::Resumable => "resumable",
            Promise::Bookmarkable => "bookmarkable",
            Promise::Filtered => "filtered",
            Promise::Faithful => "faithful",
        })
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("watch {watcher} is not {promise}: {detail}")]
pub struct Broken {
    /// Which promise.
    pub promise: Promise,
    /// Whose.
    pub watcher: String,
    /// What came, and what should have.
    pub detail: String,
}

/// Which progress marks are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// All.
    All,
    /// Only those that the store sent of its own accord. For etcd before 3.4.25 and 3.5.8, which answers a request for
    /// progress with its own revision at once, whether or not the stream's watches have caught up with it.
    Unasked,
}

/// Compares what a watch received with what truly happened.
pub fn check(record: &WatchRecord, truth: &Linearization, marks: Marks) -> Result<(), Broken> {
    let (Some(_), Some(start)) = (record.created, record.start()) else { return Ok(()) };
    let wanted = &record.wanted;
    let events = truth.commits.iter().filter(|commit| commit.revision >= start).flat_map(|commit| &commit.events);
    let mut expected: Vec<_> = events
        .map(|event| SeenEvent::of(event, wanted.prev_kv))
        .filter(|event| wanted.wants(&event.state.key, event.is_put))
        .collect();
    // Within a revision the order is nobody's promise.
    expected.sort_by(by_place);
    let mut check = Check { record, truth, start, expected, delivered: 0, progress: Revision::new(0) };
    check.atomic()?;
    for response in check.responses() {
        match response {
            Frame::Progress { asked: true, .. } if marks == Marks::Unasked => {}
            Frame::Progress { revision, .. } => check.progress(revision)?,
            Frame::Events { mut events, .. } => {
                check.ordered(&events)?;
                events.sort_by(by_place);
                events.iter().try_for_each(|event| check.event(event))?;
            }
        }
    }
    check.complete()
}

/// The revision, then the key.
fn by_place(left: &SeenEvent, right: &SeenEvent) -> std::cmp::Ordering {
    (left.state.modified, &left.state.key).cmp(&(right.state.modified, &right.state.key))
}

struct Check<'a> {
    record: &'a WatchRecord,
    truth: &'a Linearization,
    start: Revision,
    expected: Vec<SeenEvent>,
    delivered: usize,
    progress: Revision,
}

impl Check<'_> {
    fn broken(&self, promise: Promise, detail: String) -> Broken {
        Broken { promise, watcher: self.record.name.clone(), detail }
    }

    /// The responses, put together from their fragments.
    fn responses(&self) -> Vec<Frame> {
        let mut whole: Vec<Frame> = Vec::new();
        for (_, frame) in &self.record.frames {
            match (whole.last_mut(), frame) {
                (Some(Frame::Events { events, more: more @ true }), Frame::Events { events: rest, more: goes_on }) => {
                    events.extend(rest.iter().cloned());
                    *more = *goes_on;
                }
                _ => whole.push(frame.clone()),
            }
        }
        whole
    }

    /// A revision must not go on in the response behind the one in which it began.
    fn atomic(&self) -> Result<(), Broken> {
        let mut before: Option<SeenEvent> = None;
        for response in self.responses() {
            let Frame::Events { events, .. } = response else { continue };
            let Some(first) = events.first() else { continue };
            let again = |last: &SeenEvent| events.iter().any(|event| event.is_about(last));
            match &before {
                Some(last) if last.state.modified == first.state.modified && !again(last) => {
                    let detail = format!("({last}) and ({first}) came in different responses");
                    return Err(self.broken(Promise::Atomic, detail));
                }
                _ => before = events.last().cloned(),
            }
        }
        Ok(())
    }

    fn ordered(&self, events: &[SeenEvent]) -> Result<(), Broken> {
        let last = self.delivered.checked_sub(1).and_then(|index| self.expected.get(index));
        for (left, right) in last.into_iter().chain(events).zip(events.iter().skip(usize::from(last.is_none()))) {
            if right.state.modified <= left.state.modified {
                self.unique(right)?;
            }
            if right.state.modified < left.state.modified {
                return Err(self.broken(Promise::Ordered, format!("({right}) came behind ({left})")));
            }
        }
        Ok(())
    }

    fn unique(&self, event: &SeenEvent) -> Result<(), Broken> {
        match self.expected[..self.delivered].iter().any(|delivered| delivered.is_about(event)) {
            true => Err(self.broken(Promise::Unique, format!("({event}) came twice"))),
            false => Ok(()),
        }
    }

    fn event(&mut self, event: &SeenEvent) -> Result<(), Broken> {
        match self.expected.get(self.delivered) {
            Some(expected) if expected == event => {
                if event.state.modified <= self.progress {
                    let detail = format!("({event}) came behind the progress mark {}", self.progress);
                    return Err(self.broken(Promise::Bookmarkable, detail));
                }
                self.delivered += 1;
                Ok(())
            }
            next => Err(self.unexpected(event, next)),
        }
    }

    fn unexpected(&self, event: &SeenEvent, next: Option<&SeenEvent>) -> Broken {
        if let Err(twice) = self.unique(event) {
            return twice;
        }
        if !self.record.wanted.wants(&event.state.key, event.is_put) {
            return self.broken(Promise::Filtered, format!("({event}) is not what was asked for"));
        }
        if event.state.modified < self.start {
            let detail = format!("({event}) is from before the first revision {}", self.start);
            return self.broken(Promise::Filtered, detail);
        }
        if let Some(expected) = self.expected.iter().find(|expected| expected.is_about(event)) {
            let Some(missing) = next.filter(|next| !next.is_about(event)) else {
                return self.broken(Promise::Faithful, format!("({event}) should have been ({expected})"));
            };
            return self.missing(missing, &format!("before ({event})"));
        }
        let last = self.truth.revision();
        let detail = format!("({event}) was never written, at least not at this revision (the last is {last})");
        self.broken(Promise::Faithful, detail)
    }

    /// What does not come at all breaks another promise than what is left out in between.
    fn missing(&self, event: &SeenEvent, when: &str) -> Broken {
        let promise = if self.delivered == 0 { Promise::Resumable } else { Promise::Reliable };
        self.broken(promise, format!("({event}) did not come {when}; the watch is from {}", self.start))
    }

    fn progress(&mut self, mark: Revision) -> Result<(), Broken> {
        if mark < self.progress {
            let detail = format!("the progress mark {mark} came behind the mark {}", self.progress);
            return Err(self.broken(Promise::Ordered, detail));
        }
        let last = self.delivered.checked_sub(1).and_then(|index| self.expected.get(index));
        if let Some(last) = last.filter(|last| mark < last.state.modified) {
            return Err(self.broken(Promise::Ordered, format!("the progress mark {mark} came behind ({last})")));
        }
        self.progress = mark;
        match self.expected.get(self.delivered) {
            Some(next) if next.state.modified <= mark => {
                let detail = format!("({next}) had not come when the progress mark {mark} came");
                Err(self.broken(Promise::Bookmarkable, detail))
            }
            _ => Ok(()),
        }
    }

    fn complete(&self) -> Result<(), Broken> {
        match (self.record.until, self.expected.get(self.delivered)) {
            (Some(until), Some(next)) if next.state.modified <= until => {
                Err(self.missing(next, &format!("though the watch was kept until {until}")))
            }
            _ => Ok(()),
        }
    }
}
