//! What clients record: who asked for what, when, and what came back.
//!
//! Must hold: an operation is recorded with the time before it was sent and the time after its answer was read, both of one
//! monotonic clock. An operation whose outcome is unknown has no end: it may take effect at any later time, or never.
//!
//! Left to others: sending (see `load`) and judging (see `linear`, `serial`).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Position in the store's total order of writes; an empty store is at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// The revision of an empty store.
    pub const EMPTY: Revision = Revision(1);

    /// A revision as it stands in a message.
    pub const fn new(raw: u64) -> Self {
        Revision(raw)
    }

    /// The number that stands in messages.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision of the next write.
    #[must_use]
    pub fn next(self) -> Self {
        Revision(self.0.checked_add(1).expect("a history has fewer than 2^64 writes"))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// One sequential client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// A lease, by the number that the store gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "l{:x}", self.0)
    }
}

/// One life of one member: a process between its start and its death.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// The member's place in the cluster.
    pub member: usize,
    /// Changes whenever the member is killed or started.
    pub count: u64,
}

/// A time on the recording's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At(pub Duration);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}ms", self.0.as_secs_f64() * 1000.0)
    }
}

/// A key with everything that the store tells about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyState {
    /// The key.
    pub key: Bytes,
    /// What the last put wrote.
    pub value: Bytes,
    /// The revision at which the key came into being.
    pub created: Revision,
    /// The revision of the last put.
    pub modified: Revision,
    /// How many puts since it came into being.
    pub version: u64,
    /// The lease with which it dies.
    pub lease: Option<LeaseId>,
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, value) = (text(&self.key), text(&self.value));
        write!(f, "{key}={value}@{} (created {}, version {}", self.modified, self.created, self.version)?;
        self.lease.map_or(Ok(()), |lease| write!(f, ", {lease}"))?;
        f.write_str(")")
    }
}

/// One key, or all keys from `start` up to but without `end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// The key that ends the range; none for the one key `start`.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// The range of one key.
    pub fn one(key: impl Into<Bytes>) -> Self {
        KeyRange { start: key.into(), end: None }
    }

    /// The range from `start` up to but without `end`.
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        KeyRange { start: start.into(), end: Some(end.into()) }
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            None => *key == *self.start,
            Some(end) => *self.start <= *key && *key < **end,
        }
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(&self.start))?;
        self.end.as_ref().map_or(Ok(()), |end| write!(f, "..{}", text(end)))
    }
}

/// One step of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read keys.
    Range(KeyRange),
    /// Write a key.
    Put {
        /// The key.
        key: Bytes,
        /// Unique in its history, so that each read names its write.
        value: Bytes,
        /// The lease to attach the key to.
        lease: Option<LeaseId>,
        /// Whether to answer with what was there before.
        prev_kv: bool,
    },
    /// Delete keys.
    Delete {
        /// Which.
        range: KeyRange,
        /// Whether to answer with what was there before.
        prev_kv: bool,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Range(range) => write!(f, "get {range}"),
            Action::Put { key, value, lease: None, .. } => write!(f, "put {}={}", text(key), text(value)),
            Action::Put { key, value, lease: Some(lease), .. } => {
                write!(f, "put {}={} with {lease}", text(key), text(value))
            }
            Action::Delete { range, .. } => write!(f, "delete {range}"),
        }
    }
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key was last written at this revision; none: there is no such key.
    Modified {
        /// The key.
        key: Bytes,
        /// The expected revision of its last put.
        at: Option<Revision>,
    },
    /// The key exists and has this value.
    Value {
        /// The key.
        key: Bytes,
        /// The expected value.
        value: Bytes,
    },
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Guard::Modified { key, at: Some(at) } => write!(f, "{} is at {at}", text(key)),
            Guard::Modified { key, at: None } => write!(f, "no {}", text(key)),
            Guard::Value { key, value } => write!(f, "{} is {}", text(key), text(value)),
        }
    }
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// One step.
    One(Action),
    /// Steps that depend on conditions, as one.
    Txn {
        /// All must hold for `then`.
        guards: Vec<Guard>,
        /// What is done if they do.
        then: Vec<Action>,
        /// What is done if not.
        otherwise: Vec<Action>,
    },
    /// The end of a lease, and of the keys attached to it.
    Revoke(LeaseId),
}

impl Request {
    /// Whether it could change anything, in some state.
    pub fn may_write(&self) -> bool {
        let writes = |action: &Action| !matches!(action, Action::Range(_));
        match self {
            Request::One(action) => writes(action),
            Request::Txn { then, otherwise, .. } => then.iter().chain(otherwise).any(writes),
            Request::Revoke(_) => true,
        }
    }

    /// The lease that a plain put of this request attaches a key to.
    pub(crate) fn lease_attached(&self) -> Option<LeaseId> {
        match self {
            Request::One(Action::Put { lease, .. }) => *lease,
            _ => None,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::One(action) => action.fmt(f),
            Request::Txn { guards, then, otherwise } => {
                write!(f, "if [{}] then [{}] else [{}]", list(guards), list(then), list(otherwise))
            }
            Request::Revoke(lease) => write!(f, "revoke {lease}"),
        }
    }
}

/// What one step found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The keys that were read, in order.
    Range(Vec<KeyState>),
    /// What a put replaced, if it was asked.
    Put(Option<KeyState>),
    /// What a delete removed.
    Deleted {
        /// How many keys.
        count: u64,
        /// The keys, if it was asked.
        previous: Vec<KeyState>,
    },
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Range(keys) => write!(f, "read [{}]", list(keys)),
            Found::Put(None) => f.write_str("put"),
            Found::Put(Some(previous)) => write!(f, "put over {previous}"),
            Found::Deleted { count, previous } => write!(f, "deleted {count} [{}]", list(previous)),
        }
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The store's revision at the moment of the operation; that of the operation itself if it wrote.
    pub revision: Revision,
    /// Whether the conditions held; true where there are none.
    pub succeeded: bool,
    /// What each step found.
    pub found: Vec<Found>,
}

impl Answer {
    /// Whether the answer says that something was written. A revocation's answer cannot tell.
    pub fn wrote(&self) -> bool {
        self.found.iter().any(|found| match found {
            Found::Range(_) => false,
            Found::Put(_) => true,
            Found::Deleted { count, .. } => *count > 0,
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = if self.succeeded { "" } else { "else: " };
        write!(f, "{} {refused}{}", self.revision, list(&self.found))
    }
}

/// How an operation ended, as far as its client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect between its invocation and `at`.
    Answered {
        /// When the answer was read.
        at: At,
        /// The answer.
        answer: Answer,
    },
    /// It took no effect, and the store said so.
    Refused {
        /// When the refusal was read.
        at: At,
        /// The store's words.
        why: String,
    },
    /// It may have taken effect at any time after its invocation, may do so yet, or never.
    Unknown,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Writes, and reads that see every write that was answered before they were asked for.
    Linearizable,
    /// Reads of one member's own state, however old; `life` is the member as it was throughout the read, if it was one.
    Serializable {
        /// The member.
        life: Option<Life>,
    },
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who.
    pub client: ClientId,
    /// Just before it was sent.
    pub invoked: At,
    /// What was asked.
    pub request: Request,
    /// How fresh the answer must be.
    pub freshness: Freshness,
    /// What came of it.
    pub outcome: Outcome,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = if self.freshness == Freshness::Linearizable { "" } else { "locally " };
        write!(f, "{} {local}{} ", self.client, self.request)?;
        match &self.outcome {
            Outcome::Answered { at, answer } => write!(f, "-> {answer} [{}..{at}]", self.invoked),
            Outcome::Refused { at, why } => write!(f, "-> refused: {why} [{}..{at}]", self.invoked),
            Outcome::Unknown => write!(f, "-> unknown [{}..", self.invoked),
        }
    }
}

/// The recording of all clients.
pub type History = Vec<Operation>;

/// The clock and the paper that all clients share.
#[derive(Clone, Debug)]
pub struct Recorder {
    start: Instant,
    written: Arc<Mutex<History>>,
}

impl Recorder {
    /// An empty recording that starts now.
    pub fn start() -> Self {
        Recorder { start: Instant::now(), written: Arc::default() }
    }

    /// The time on the recording's clock.
    pub fn now(&self) -> At {
        At(self.start.elapsed())
    }

    /// Writes one operation down, after its end.
    pub fn record(&self, operation: Operation) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    /// How many operations were recorded so far.
    pub fn recorded(&self) -> usize {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Everything that was recorded.
    pub fn finish(&self) -> History {
        std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Bytes for people.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Items for people, separated by commas.
pub(crate) fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
