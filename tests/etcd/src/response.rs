//! What a system answered, in a form that can be compared.
//!
//! Must hold: every field of the answer is in the text, except for what `normalise` takes out.
//!
//! Left to others: which differences are wanted (see `allowed`).

use std::fmt;

use tonic::Code;

/// One system's answer to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The message that came back.
    Answer {
        /// The revision in its header, 0 without one.
        revision: i64,
        /// All its fields, one to a line.
        text: String,
    },
    /// The status that came back instead.
    Refusal {
        /// Its gRPC code.
        code: Code,
        /// Its text, on which clients match.
        message: String,
    },
}

impl Response {
    /// The revision in the answer's header.
    pub fn revision(&self) -> Option<i64> {
        match self {
            Self::Answer { revision, .. } => Some(*revision),
            Self::Refusal { .. } => None,
        }
    }

    /// Whether the operation was carried out.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Answer { .. })
    }
}

impl From<tonic::Status> for Response {
    fn from(status: tonic::Status) -> Self {
        Self::Refusal { code: status.code(), message: status.message().to_owned() }
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer { text, .. } => f.write_str(text),
            Self::Refusal { code, message } => write!(f, "refused: {code:?} {message:?}"),
        }
    }
}
