//! How an import ends other than well, and what its caller may do then.

use std::{fmt, time::Duration};

use bytes::Bytes;
use tonic::{Code, Status};

use crate::{LeaseId, Role, SourceRevision};

/// Why an import, or a comparison, ended.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A side understood a call and refused it, and would refuse it again.
    #[error("the {side} refused to {doing}; {}", advice(*side, source.code()))]
    Refused {
        /// Which side.
        side: Role,
        /// What was asked of it.
        doing: &'static str,
        /// Its answer.
        source: Box<Status>,
    },
    /// A side gave no usable answer for too long. The import goes on where it was when it is started again.
    #[error("the {side} did not {doing} within {} s of trying; see that it runs, then start the import again: it goes on where it was", tried.as_secs())]
    Unreachable {
        /// Which side.
        side: Role,
        /// What was asked of it.
        doing: &'static str,
        /// For how long.
        tried: Duration,
        /// The last failure.
        source: Box<Status>,
    },
    /// A side's answer makes no sense.
    #[error("the {side} was asked to {doing} and answered without {missing}; see that an etcd v3 API is served there")]
    Malformed {
        /// Which side.
        side: Role,
        /// What was asked of it.
        doing: &'static str,
        /// What the answer lacks.
        missing: &'static str,
    },
    /// The source ended the watch and said why.
    #[error("the source ended the watch: {reason}; see that the import's user may read the whole prefix")]
    WatchCanceled {
        /// The source's words.
        reason: String,
    },
    /// The target has keys that no import has put there.
    #[error(
        "the target already has keys under the prefix, {} among them; empty it, or allow the import to overwrite, which deletes what the source lacks",
        Printed(key)
    )]
    NotEmpty {
        /// One such key.
        key: Bytes,
    },
    /// The target holds the position of an import from somewhere else.
    #[error(
        "the target holds the position of an import of another {what}; finish that one, use another position key, or allow the import to overwrite"
    )]
    OtherImport {
        /// What differs.
        what: &'static str,
    },
    /// What is kept under the position key is no position.
    #[error(
        "the value of {} on the target is not an import's position; delete it, or use another position key",
        Printed(key)
    )]
    BadPosition {
        /// The position key.
        key: Bytes,
    },
    /// Another import of the same keys has taken over, or the position was changed by hand.
    #[error("another import has taken over this target; let only one run")]
    Superseded,
    /// Nothing to follow: the copy hasn't been made or finished.
    #[error("the target holds no finished copy; copy first")]
    NotCopied,
    /// The target is elsewhere than the caller believes.
    #[error(
        "the target is at {found} of the source, not at {expected}; another import was here in between, so copy again"
    )]
    Moved {
        /// Where the caller believes it to be.
        expected: SourceRevision,
        /// Where it is.
        found: SourceRevision,
    },
    /// The target has a lease of the same id that is another lease.
    #[error(
        "the target's lease {lease} was granted {found} s and the source's {wanted} s; revoke it on the target, then start the import again"
    )]
    LeaseConflict {
        /// The lease.
        lease: LeaseId,
        /// Granted by the source, seconds.
        wanted: i64,
        /// Granted by the target, seconds.
        found: i64,
    },
    /// More leases than the import may keep alive.
    #[error("the source's keys have more than {limit} leases; raise the limit on leases")]
    TooManyLeases {
        /// [`Options::leases_max`](crate::Options::leases_max).
        limit: usize,
    },
    /// A limit that leaves no room for anything.
    #[error("{option} is {given}; it must be between {least} and {most}")]
    BadOption {
        /// Which option.
        option: &'static str,
        /// What was given.
        given: usize,
        /// The least accepted.
        least: usize,
        /// The most accepted.
        most: usize,
    },
}

/// What the caller of a failed import may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Start it again as it is.
    Again,
    /// Change something first; the message says what.
    Change,
}

impl ImportError {
    /// What to do now.
    pub fn advice(&self) -> Advice {
        match self {
            Self::Unreachable { .. } => Advice::Again,
            Self::Refused { source, .. } if is_compacted(source) => Advice::Again,
            _ => Advice::Change,
        }
    }

    /// Whether the source no longer has the revision that was asked for.
    pub(crate) fn source_compacted(&self) -> bool {
        matches!(self, Self::Refused { side: Role::Source, source, .. } if is_compacted(source))
    }

    /// Whether the answer would have been larger than either side lets pass.
    pub(crate) fn too_large(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if is_too_large(source))
    }

    /// Whether the target doesn't know a lease of the transaction.
    pub(crate) fn lease_missing(&self) -> bool {
        matches!(self, Self::Refused { side: Role::Target, source, .. }
            if source.code() == Code::NotFound && source.message().contains("lease not found"))
    }

    /// Whether the lease to be granted is there already.
    pub(crate) fn lease_exists(&self) -> bool {
        matches!(self, Self::Refused { source, .. }
            if source.code() == Code::FailedPrecondition && source.message().contains("lease already exists"))
    }
}

fn is_compacted(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("has been compacted")
}

fn is_too_large(status: &Status) -> bool {
    // gRPC implementations disagree on the code: etcd's says resource exhausted, ours out of range.
    matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange) && status.message().contains("larger than")
        || status.code() == Code::OutOfRange && status.message().contains("too large")
}

/// Whether the same call may well succeed later.
pub(crate) fn is_transient(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted => true,
        // Lost connections, as the transport reports them. A server that means one of these says so at every attempt, and the patience ends.
        Code::Unknown | Code::Internal | Code::Cancelled => true,
        Code::ResourceExhausted => status.message().contains("too many requests"),
        _ => false,
    }
}

fn advice(side: Role, code: Code) -> &'static str {
    match (side, code) {
        (_, Code::Unauthenticated) => "give the import a valid token for it",
        (Role::Source, Code::PermissionDenied) => {
            "let the import's user read the whole prefix, or import a smaller one"
        }
        (Role::Target, Code::PermissionDenied) => {
            "let the import's user read and write the prefix and the position key"
        }
        (Role::Target, Code::ResourceExhausted) => {
            "make room there, then start the import again: it goes on where it was"
        }
        (Role::Target, Code::InvalidArgument) => "its limits may be lower than the import's: use smaller transactions",
        (_, Code::OutOfRange) => "the revision is compacted: start again",
        _ => "its answer says why",
    }
}

/// A key as people can read it.
struct Printed<'a>(&'a [u8]);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}
