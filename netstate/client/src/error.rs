//! How a call can end other than well, and what its caller may do then.

use std::{error::Error as _, fmt, time::Duration};

use tonic::{Code, Status};

use crate::AddressError;

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A server understood the call and refused it. Its message says why and what to do.
    #[error("{message}")]
    Refused {
        /// Which kind of refusal.
        code: Code,
        /// What was refused, why, and what to do.
        message: String,
    },
    /// No server could be asked, and nothing has happened.
    #[error("no server answered: {}; check the addresses and that one of the servers runs", Listed(tried))]
    Unreachable {
        /// The last failure of each server that was tried, in the order of trying.
        tried: Vec<Tried>,
    },
    /// A change was sent and its outcome was not heard before the deadline: it may have happened or happen yet.
    #[error("outcome unknown: {}; repeat with request id {request_id} to learn it", Listed(tried))]
    Unknown {
        /// Repeating the change with this id within ten minutes returns the first outcome.
        request_id: String,
        /// The last failure of each server that was tried, in the order of trying.
        tried: Vec<Tried>,
    },
    /// A server's address can't be used.
    #[error("server address refused")]
    Address(#[source] AddressError),
}

/// What the caller of a failed call may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing: the same call will fail the same way.
    No,
    /// Call again after this time.
    After(Duration),
    /// Call again, with the same request id only.
    WithSameRequestId,
}

/// One server, and why it was of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// `host:port`.
    pub address: String,
    /// What went wrong there.
    pub reason: String,
}

struct Listed<'a>(&'a [Tried]);

impl ClientError {
    /// What the caller may do.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused { code: Code::ResourceExhausted, .. } | Self::Unreachable { .. } => {
                Retry::After(Duration::from_millis(200))
            }
            Self::Refused { .. } | Self::Address(_) => Retry::No,
            Self::Unknown { .. } => Retry::WithSameRequestId,
        }
    }

    /// The kind of refusal, when a server refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.reason)
    }
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, tried) in self.0.iter().enumerate() {
            write!(f, "{}{tried}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// What a failed attempt says about the change that it carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server answered: asking elsewhere gives the same.
    Refused,
    /// It was not done here; it can be asked of another server.
    NotDone,
    /// It may have been done: the answer was lost or not waited for.
    Unheard,
}

/// Sorts the ways in which tonic reports a failed attempt.
///
/// A status that came over the wire has no source; one made on this side, for a connection that failed or broke, has the
/// transport's error as its source.
pub(crate) fn classify(status: &Status) -> Failure {
    match status.code() {
        // The server says so, or the connection was never made.
        Code::Unavailable if status.source().is_none() || chain(status).any(is_connect_error) => Failure::NotDone,
        Code::DeadlineExceeded | Code::Cancelled | Code::Unavailable => Failure::Unheard,
        _ if status.source().is_some() => Failure::Unheard,
        _ => Failure::Refused,
    }
}

/// The innermost cause: the layers above it only say "transport error".
pub(crate) fn reason(status: &Status) -> String {
    let innermost = chain(status).last().map(ToString::to_string);
    innermost.unwrap_or_else(|| status.message().to_owned())
}

fn chain(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

fn is_connect_error(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<tonic::ConnectError>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_from_the_wire_is_an_answer_unless_it_says_try_elsewhere() {
        let cases = [
            (Code::NotFound, Failure::Refused),
            (Code::Unknown, Failure::Refused),
            (Code::Internal, Failure::Refused),
            (Code::Unavailable, Failure::NotDone),
            (Code::DeadlineExceeded, Failure::Unheard),
        ];
        for (code, expected) in cases {
            assert_eq!(classify(&Status::new(code, "x")), expected, "{code:?}");
        }
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_open() {
        let status = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert_eq!(classify(&status), Failure::Unheard);
        assert_eq!(reason(&status), "connection reset");
    }
}
