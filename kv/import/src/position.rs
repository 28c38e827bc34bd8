//! Where an import is, in the counts of both sides.
//!
//! Must hold: a revision of one side is never compared with one of the other; the compiler says so.

use std::fmt;

/// A revision of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRevision(i64);

impl SourceRevision {
    /// The revision that the source calls by this number.
    pub const fn new(raw: i64) -> Self {
        Self(raw)
    }

    /// The number, as it goes into a request.
    pub const fn get(self) -> i64 {
        self.0
    }

    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for SourceRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// A revision of the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetRevision(i64);

impl TargetRevision {
    /// The revision that the target calls by this number.
    pub const fn new(raw: i64) -> Self {
        Self(raw)
    }

    /// The number, as it goes into a request.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for TargetRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

/// A lease, which has the same id on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(i64);

impl LeaseId {
    /// The lease of this id; nothing for zero, which etcd uses for "no lease".
    pub const fn new(raw: i64) -> Option<Self> {
        if raw == 0 { None } else { Some(Self(raw)) }
    }

    /// The number, as it goes into a request.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As etcdctl prints it.
        write!(f, "{:016x}", self.0)
    }
}

/// Everything up to a revision of the source is on the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The last revision of the source that is applied.
    pub source: SourceRevision,
    /// The revision of the target that holds it.
    pub target: TargetRevision,
}
