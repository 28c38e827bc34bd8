//! Free texts from outside: checked for length and for what would garble a terminal or a log line.

use std::fmt;

use crate::limits;

/// A free text that is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Longer than such a text may be.
    #[error("{what} has {bytes} bytes, {limit} are allowed; shorten it")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// A control character in it.
    #[error("{what} holds the control character U+{:04X} at byte {at}; remove it", *.character as u32)]
    Control {
        /// Which text.
        what: &'static str,
        /// The character.
        character: char,
        /// Where it is, in bytes.
        at: usize,
    },
}

/// Checks a free text: at most `limit` bytes, no control characters.
pub(crate) fn check(what: &'static str, text: &str, limit: usize) -> Result<(), TextError> {
    if text.len() > limit {
        return Err(TextError::TooLong { what, bytes: text.len(), limit });
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, character)) => Err(TextError::Control { what, character, at }),
        None => Ok(()),
    }
}

/// A text from outside as refusals repeat it: quoted, escaped, cut when long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted(Box<str>);

impl Quoted {
    /// Takes what may be shown of the text.
    pub fn new(text: &str) -> Self {
        let end = text.floor_char_boundary(limits::QUOTED_BYTES_MAX);
        let more = if end < text.len() { "…" } else { "" };
        Quoted(format!("{:?}{more}", &text[..end]).into())
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
